"""What slides a window, or lays strides over an array: every window lies inside."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx


def as_strided(
    a: mx.array,
    shape: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    offset: int = 0,
    *,
    stream: Any = None,
) -> mx.array:
    """`mx.as_strided`. Raises: ValueError for a view that leaves the array."""
    shape = a.shape if shape is None else shape
    if strides is None:
        strides = [math.prod(a.shape[axis + 1 :]) for axis in range(a.ndim)]
    steps = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
    first = offset + sum(min(step, 0) for step in steps)
    last = offset + sum(max(step, 0) for step in steps)
    if min(shape, default=1) < 0 or (all(shape) and not 0 <= first <= last < a.size):
        raise ValueError(
            f"as_strided: expected a view of the {a.size} entries of the array, got shape "
            f"{tuple(shape)}, strides {tuple(strides)} and offset {offset}, which reach from "
            f"entry {first} to {last}."
        )
    return mx.as_strided(a, tuple(shape), tuple(strides), offset, stream=stream)


# Windows. MLX divides (n - k) by the stride, rounding towards zero: it finds one window on an
# axis that is up to stride - 1 entries too short.


def padded_sizes(
    sizes: Sequence[int], low: Sequence[int], high: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """What a convolution slides over: axes with zeros between their entries, and around them.

    Negative padding takes entries away, before zeros come between the rest.
    """
    padded = []
    for n, before, after, d in zip(sizes, low, high, dilation, strict=True):
        n += min(before, 0) + min(after, 0)
        padded.append((n - 1) * d + 1 + max(before, 0) + max(after, 0) if n > 0 else 0)
    return padded


def check_convolution(
    shape: Sequence[int],
    kernel: Sequence[int],
    padding: Any = 0,
    kernel_dilation: Any = 1,
    input_dilation: Any = 1,
    groups: int = 1,
) -> None:
    """Raise ValueError for a convolution that MLX would let read beyond its input.

    Args:
        shape: of the input, (batch, spatial..., in).
        kernel: the spatial sizes of the weight.
        padding: one number for all axes, one for each, or a pair (before, after) of those.
        kernel_dilation, input_dilation: one number for all axes, or one for each.
    """
    rank, sizes = len(kernel), shape[1:-1]

    def each(value: Any) -> Sequence[int]:
        return (value,) * rank if isinstance(value, int) else value

    pair = not isinstance(padding, int) and any(not isinstance(p, int) for p in padding)
    low, high = (each(p) for p in (padding if pair else (padding, padding)))
    rows = (kernel, low, high, each(kernel_dilation), each(input_dilation))
    if groups < 1 or any(len(row) != len(sizes) for row in rows):
        raise ValueError(
            f"convolution: expected groups of at least 1 and a size for each of {len(sizes)} "
            f"spatial axes, got groups {groups} and a kernel of {tuple(kernel)}."
        )
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, rows[3], strict=True)]
    padded = padded_sizes(sizes, low, high, rows[4])
    if min(kernel) < 1 or any(n < k for n, k in zip(padded, extents, strict=True)):
        raise ValueError(
            f"convolution: expected windows of 1 to {tuple(padded)}, the input's padded sizes, "
            f"got {tuple(extents)}. Pad the input, or use a smaller window."
        )


def conv_general(
    input: mx.array,
    weight: mx.array,
    stride: Any = 1,
    padding: Any = 0,
    kernel_dilation: Any = 1,
    input_dilation: Any = 1,
    groups: int = 1,
    flip: bool = False,
    *,
    stream: Any = None,
) -> mx.array:
    """`mx.conv_general`. Raises: ValueError for a window larger than the padded input."""
    kernel = weight.shape[1:-1]
    check_convolution(input.shape, kernel, padding, kernel_dilation, input_dilation, groups)
    return mx.conv_general(
        input,
        weight,
        stride,
        padding,
        kernel_dilation,
        input_dilation,
        groups,
        flip,
        stream=stream,
    )


def _convolution(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    @functools.wraps(function)
    def convolve(
        input: mx.array,
        weight: mx.array,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *,
        stream: Any = None,
    ) -> mx.array:
        check_convolution(input.shape, weight.shape[1:-1], padding, dilation, 1, groups)
        return function(input, weight, stride, padding, dilation, groups, stream=stream)

    return convolve


def check_transposed_convolution(
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    output_padding: Any = 0,
    groups: int = 1,
) -> None:
    """`check_convolution` of the convolution that a transposed one is."""

    def each(value: Any) -> Sequence[int]:
        return (value,) * len(kernel) if isinstance(value, int) else value

    rows = zip(kernel, each(padding), each(dilation), each(output_padding), strict=True)
    pads = [((k - 1) * d - p, (k - 1) * d - p + more) for k, p, d, more in rows]
    low, high = zip(*pads, strict=True)
    check_convolution(shape, kernel, (low, high), dilation, stride, groups)


def _transposed_convolution(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    @functools.wraps(function)
    def convolve(
        input: mx.array, weight: mx.array, *options: Any, stream: Any = None, **more: Any
    ) -> mx.array:
        check_transposed_convolution(input.shape, weight.shape[1:-1], *options, **more)
        return function(input, weight, *options, stream=stream, **more)

    return convolve


conv1d, conv2d, conv3d = map(_convolution, (mx.conv1d, mx.conv2d, mx.conv3d))
conv_transpose1d, conv_transpose2d, conv_transpose3d = map(
    _transposed_convolution, (mx.conv_transpose1d, mx.conv_transpose2d, mx.conv_transpose3d)
)
