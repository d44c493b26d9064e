"""What takes an index: it stays on its axis. `bounds` says how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np


def clip_index(index: mx.array, size: int) -> mx.array:
    """The index with entries above size - 1 at size - 1, and those below -size at -size.

    Args:
        index: of any integer type; other types are made int32 first.
        size: the number of entries of the axis.
    Raises: IndexError when the axis is empty and the index is not.
    """
    if index.dtype == mx.bool_ or not mx.issubdtype(index.dtype, mx.integer):
        index = index.astype(mx.int32)
    if size == 0 and index.size:
        raise IndexError("index: expected an axis with entries, got one of size 0.")
    kind = mx.iinfo(index.dtype)
    # A bound that the type does not hold would wrap around, and nothing of that type is beyond it.
    if size - 1 < kind.max:
        index = mx.minimum(index, mx.array(size - 1, index.dtype))
    if -size > kind.min:
        index = mx.maximum(index, mx.array(-size, index.dtype))
    return index


def as_integer(labels: mx.array) -> mx.array:
    """Labels of any type as signed integers that hold them: int32, or int64 for the wider ones."""
    wide = labels.dtype in (mx.uint32, mx.int64, mx.uint64)
    return labels.astype(mx.int64 if wide else mx.int32)


def _static(index: int, size: int) -> int:
    if not -size <= index < size:
        raise IndexError(
            f"index: expected one in [{-size}, {size}), got {index}. The axis has {size} entries."
        )
    return index


def _as_index(index: Any, size: int) -> Any:
    """An int or an array of ints that stays on an axis of that size."""
    if isinstance(index, int | np.integer) and not isinstance(index, bool):
        return _static(int(index), size)
    if isinstance(index, list | tuple):
        index = np.asarray(index)
        if index.dtype.kind in "iu" and index.size:
            _static(int(index.min()), size), _static(int(index.max()), size)
        index = mx.array(index)
    return clip_index(index, size) if isinstance(index, mx.array) else index


def _axis(axis: int, ndim: int) -> int:
    if not -ndim <= axis < ndim:
        raise IndexError(f"axis: expected one in [{-ndim}, {ndim}), got {axis}.")
    return axis % ndim


def take(a: mx.array, indices: Any, axis: int | None = None, *, stream: Any = None) -> mx.array:
    """`mx.take`: the entries of `axis` (None: of the flattened array) at `indices`."""
    size = a.size if axis is None else a.shape[_axis(axis, a.ndim)]
    return mx.take(a, _as_index(indices, size), axis, stream=stream)


def take_along_axis(
    a: mx.array, indices: mx.array, axis: int | None = -1, *, stream: Any = None
) -> mx.array:
    """`mx.take_along_axis`: one entry of `axis` for each entry of `indices`."""
    size = a.size if axis is None else a.shape[_axis(axis, a.ndim)]
    return mx.take_along_axis(a, _as_index(indices, size), axis, stream=stream)


def put_along_axis(
    a: mx.array, indices: mx.array, values: mx.array, axis: int | None = None, *, stream: Any = None
) -> mx.array:
    """`mx.put_along_axis`: a copy with `values` at `indices` of `axis`."""
    size = a.size if axis is None else a.shape[_axis(axis, a.ndim)]
    return mx.put_along_axis(a, _as_index(indices, size), values, axis, stream=stream)


def scatter_add(a: mx.array, indices: tuple[mx.array, ...], updates: mx.array) -> mx.array:
    """a.at[indices].add(updates), an index for each of the first axes of a."""
    places = tuple(clip_index(i, n) for i, n in zip(indices, a.shape, strict=False))
    return a.at[places].add(updates)


def getitem(x: mx.array, key: Any) -> mx.array:
    """x[key]"""
    keys = key if isinstance(key, tuple) else (key,)
    taken = sum(k is not None and k is not Ellipsis for k in keys)
    if taken > x.ndim:
        raise IndexError(f"index: expected at most {x.ndim} indices, got {taken}.")
    bounded, axis = [], 0
    for k in keys:
        if k is Ellipsis:
            axis += x.ndim - taken
        elif k is not None:
            k = k if isinstance(k, slice) else _as_index(k, x.shape[axis])
            axis += 1
        bounded.append(k)
    return x[tuple(bounded) if isinstance(key, tuple) else bounded[0]]


def _starts(
    shape: Sequence[int], start: mx.array, axes: Sequence[int], sizes: Sequence[int]
) -> mx.array:
    """The starts nearest to `start` from which a part of these sizes stays inside."""
    if len(sizes) != len(shape) or any(not 0 <= k <= n for n, k in zip(shape, sizes, strict=False)):
        raise ValueError(
            f"slice: expected sizes of at most {tuple(shape)}, one for each axis, got "
            f"{tuple(sizes)}. A slice is not longer than its array."
        )
    kind = start.dtype if mx.issubdtype(start.dtype, mx.integer) else mx.int32
    places = [_axis(axis, len(shape)) for axis in axes]
    last = [min(shape[i] - sizes[i], mx.iinfo(kind).max) for i in places]
    return mx.clip(start.astype(kind), mx.array(0, kind), mx.array(last, kind))


def slice_(
    a: mx.array,
    start_indices: mx.array,
    axes: Sequence[int],
    slice_size: Sequence[int],
    *,
    stream: Any = None,
) -> mx.array:
    """`mx.slice`: a part of fixed size. A start from which it would leave the array moves in."""
    start = _starts(a.shape, start_indices, axes, slice_size)
    return mx.slice(a, start, tuple(axes), tuple(slice_size), stream=stream)


def slice_update(
    a: mx.array,
    update: mx.array,
    start_indices: mx.array,
    axes: Sequence[int],
    *,
    stream: Any = None,
) -> mx.array:
    """`mx.slice_update`: a with a part replaced. A start from which it would leave a moves in."""
    start = _starts(a.shape, start_indices, axes, update.shape)
    return mx.slice_update(a, update, start, tuple(axes), stream=stream)


def _batch_index(index: mx.array | None, matrices: mx.array) -> mx.array | None:
    """Which of the matrices (..., rows, columns), counted from 0."""
    if index is None:
        return None
    size = math.prod(matrices.shape[:-2])
    index = clip_index(index, size)
    return mx.where(index < 0, index + size, index)


def gather_mm(
    a: mx.array, b: mx.array, lhs_indices: Any = None, rhs_indices: Any = None, **options: Any
) -> mx.array:
    """`mx.gather_mm`: products of matrices of a and of b at the indices."""
    return mx.gather_mm(a, b, _batch_index(lhs_indices, a), _batch_index(rhs_indices, b), **options)


def gather_qmm(
    x: mx.array,
    w: mx.array,
    scales: mx.array,
    biases: mx.array | None = None,
    lhs_indices: Any = None,
    rhs_indices: Any = None,
    *options: Any,
    **more: Any,
) -> mx.array:
    """`mx.gather_qmm`: products of matrices of x and of quantized ones of w at the indices."""
    _check_parts("gather_qmm", w, scales, biases)
    lhs, rhs = _batch_index(lhs_indices, x), _batch_index(rhs_indices, w)
    return mx.gather_qmm(x, w, scales, biases, lhs, rhs, *options, **more)


def gather_qqmm(
    x: mx.array,
    w: mx.array,
    scales: mx.array | None = None,
    lhs_indices: Any = None,
    rhs_indices: Any = None,
    *options: Any,
    **more: Any,
) -> mx.array:
    """`mx.gather_qqmm`: the same, with x quantized on the way."""
    _check_parts("gather_qqmm", w, scales)
    lhs, rhs = _batch_index(lhs_indices, x), _batch_index(rhs_indices, w)
    return mx.gather_qqmm(x, w, scales, lhs, rhs, *options, **more)


def _check_parts(name: str, w: mx.array, *parts: mx.array | None) -> None:
    for part in parts:
        if part is not None and part.shape[:-2] != w.shape[:-2]:
            raise ValueError(
                f"{name}: expected scales and biases for matrices {w.shape[:-2]}, got shape "
                f"{part.shape}. They describe the same matrices."
            )


def segmented_mm(a: mx.array, b: mx.array, segments: mx.array, *, stream: Any = None) -> mx.array:
    """`mx.segmented_mm`: a[:, i:j] @ b[i:j] for each segment (i, j); j below i is an empty one."""
    size = mx.array(a.shape[-1], segments.dtype)
    first = mx.minimum(segments[..., :1], size)
    last = mx.maximum(mx.minimum(segments[..., 1:], size), first)
    return mx.segmented_mm(a, b, mx.concatenate([first, last], axis=-1), stream=stream)
