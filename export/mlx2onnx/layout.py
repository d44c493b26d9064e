"""In which order a value's axes are stored; conversions are lazy and made once.

MLX is channels-last and batch-first, ONNX's operators are channels-first or time-first. A rule
takes its input with `x.to(layout)`, in the layout its operator wants, and says in which layout its
result is. Nothing is converted until an operator needs another layout.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx2onnx.builder import Builder, Value

Dim = int | str | None
Shape = tuple[Dim, ...]


@dataclass(frozen=True)
class Layout:
    """How an array is stored: axis i of the value is axis `perm[i]` of the MLX array.

    `order`: int64 bytes of a permutation of the array's last axis, when that holds flattened
    axes: element i of the value is element order[i] of the array.
    """

    perm: tuple[int, ...]
    order: bytes | None = None

    def axis(self, axis: int) -> int:
        """Where axis `axis` of the array is in the value."""
        return self.perm.index(axis % len(self.perm))

    @property
    def indices(self) -> np.ndarray | None:
        """`order` as an array."""
        return None if self.order is None else np.frombuffer(self.order, np.int64)

    @property
    def features_last(self) -> bool:
        return self.perm[-1] == len(self.perm) - 1

    def unordered(self) -> Layout:
        """The same axes, the last one in the array's own order."""
        return Layout(self.perm)


def plain(rank: int) -> Layout:
    """As MLX has it."""
    return Layout(tuple(range(rank)))


def channels_first(rank: int) -> Layout:
    """(batch, channels, …)"""
    return Layout((0, rank - 1, *range(1, rank - 1)))


def time_first(rank: int) -> Layout:
    """(time, batch, …)"""
    return Layout((1, 0, *range(2, rank)))


def ordered(indices: np.ndarray) -> bytes | None:
    """A permutation as `Layout.order`; None for the identity."""
    indices = np.ascontiguousarray(indices, np.int64).ravel()
    return None if (np.diff(indices) == 1).all() else indices.tobytes()


def placed(array: np.ndarray, layout: Layout) -> np.ndarray:
    """A constant of an array's rank, with 1 for axes that it broadcasts along, as it is stored."""
    if layout.indices is not None and array.shape[-1] != 1:
        array = array[..., layout.indices]
    return array.transpose(layout.perm)


class Tensor:
    """A value of the walk: an MLX array's shape and dtype, and where ONNX has it.

    `value` is in `layout`. When `make` is given instead, the value does not exist yet: the first
    `to(layout)` calls `make(layout)`, which returns None when it cannot serve that layout and must
    then serve the plain one. `waits` counts the values that it waits for in turn.
    """

    def __init__(
        self,
        g: Builder,
        value: Value | None,
        shape: Shape,
        layout: Layout | None = None,
        *,
        dtype: mx.Dtype = mx.float32,
        make: Callable[[Layout], Value | None] | None = None,
        waits: int = 0,
    ) -> None:
        self.g, self.shape, self.dtype, self.waits = g, tuple(shape), dtype, waits
        self.values: dict[Layout, Value] = {}
        self.make = make
        self._resume = g.here()
        # What rules have made of it, to make it once.
        self.cache: dict[Hashable, Any] = {}
        # For the rows of a table: the ids, and how to get the table.
        self.lookup: tuple[Tensor, Callable[[], Value]] | None = None
        # Whether its values are those of the model's inputs, moved and not computed.
        self.given = False
        if value is not None:
            self.values[layout or plain(len(shape))] = value

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def deferred(self) -> bool:
        """Whether the value can still be made in the layout that is asked for first."""
        return not self.values

    @property
    def layout(self) -> Layout:
        """The layout it was made in; the plain one when it is not made yet."""
        return next(iter(self.values), plain(self.rank))

    @property
    def plain(self) -> Value:
        """The value as MLX has it."""
        return self.to(plain(self.rank))

    @property
    def value(self) -> Value:
        """The value in `layout`."""
        return self.to(self.layout)

    def to(self, layout: Layout) -> Value:
        """The value in `layout`; converted at the first request."""
        if layout.order is not None and self.shape[-1] == 1:
            layout = layout.unordered()
        if layout not in self.values and self.deferred and self.make is not None:
            self._materialize(layout)
        if layout not in self.values:
            self.values[layout] = self._convert(layout)
        return self.values[layout]

    def _materialize(self, layout: Layout) -> None:
        assert self.make is not None
        with self._resume():
            made = self.make(layout)
            if made is None:
                layout = plain(self.rank)
                made = self.make(layout)
        assert made is not None
        self.values[layout] = self.annotate(made, layout)

    def annotate(self, value: Value, layout: Layout) -> Value:
        if value.shape is None:
            dims = [self.shape[axis] for axis in layout.perm]
            with self._resume():
                if dims and dims[0] is None and layout.perm[0] == 0:
                    dims[0] = self.g.batch
                self.g.annotate(value, shape=dims)
        return value

    def _convert(self, target: Layout) -> Value:
        source = self.layout
        if source.order != target.order and source.order is not None:
            # Back to the array's own order along the last axis.
            back = source.unordered()
            if back not in self.values:
                inverse = np.argsort(np.frombuffer(source.order, np.int64))
                made = self.g.op("Gather", self.value, inverse, axis=source.axis(-1))
                self.values[back] = self.annotate(made, back)
            source = back
        value = self.values[source]
        if source.perm != target.perm:
            order = [source.perm.index(axis) for axis in target.perm]
            value = self._permute(value, [self.shape[a] for a in source.perm], order)
        if source.order != target.order:
            value = self.g.op("Gather", value, target.indices, axis=target.axis(-1))
        return self.annotate(value, target)

    def _permute(self, value: Value, sizes: list[Dim], order: list[int]) -> Value:
        """Transpose; where only axes of size 1 move, a Reshape, which copies nothing."""
        moved = [axis for axis in order if sizes[axis] != 1]
        dynamic = [axis for axis in order if not isinstance(sizes[axis], int)]
        if moved == sorted(moved) and len(dynamic) <= 1:
            shape = [sizes[axis] if isinstance(sizes[axis], int) else -1 for axis in order]
            return self.g.op("Reshape", value, shape)
        return self.g.op("Transpose", value, perm=order)

    # Tensors like this one.

    def like(self, value: Value) -> Tensor:
        """A result of the same shape, stored as this is."""
        return Tensor(self.g, value, self.shape, self.layout, dtype=self.dtype)

    def map(self, function: Callable[[Value, Layout], Value]) -> Tensor:
        """`function`, an elementwise one, of this; deferred while this is."""
        if not self.deferred:
            return self.like(function(self.value, self.layout))

        def make(layout: Layout) -> Value:
            value = self.to(layout)
            return function(value, layout)

        waits = self.waits + 1
        return Tensor(self.g, None, self.shape, dtype=self.dtype, make=make, waits=waits)

    def expand(self, axes: Sequence[int]) -> Tensor:
        """With new axes of size 1, which are at `axes` of the result."""
        if not axes:
            return self
        rank = self.rank + len(axes)
        kept = [axis for axis in range(rank) if axis not in axes]
        sizes = iter(self.shape)
        shape = tuple(1 if axis in axes else next(sizes) for axis in range(rank))

        def make(layout: Layout) -> Value:
            perm = tuple(kept.index(axis) for axis in layout.perm if axis in kept)
            value = self.to(Layout(perm, layout.order if rank - 1 in kept else None))
            places = [place for place, axis in enumerate(layout.perm) if axis in axes]
            return self.g.op("Unsqueeze", value, places)

        waits = self.waits + 1
        return Tensor(self.g, None, shape, dtype=self.dtype, make=make, waits=waits)


def settle(tensors: Sequence[Tensor]) -> Tensor:
    """The tensor whose layout the operands of one operator best meet in: the largest that exists.

    A layout that more operands already are in wins a tie, then one that is not plain.
    """
    made = [t for t in tensors if not t.deferred] or list(tensors)

    def rank(tensor: Tensor) -> tuple:
        count = sum(tensor.layout in other.values for other in made)
        return (_size(tensor), count, tensor.layout != plain(tensor.rank))

    return max(made, key=rank)


def _size(tensor: Tensor) -> int:
    return int(np.prod([d if isinstance(d, int) else 2 for d in tensor.shape], dtype=np.int64))


def aligned(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Each tensor with the rank of the largest; axes that miss are those after the batch."""
    rank = max(t.rank for t in tensors)
    return [t.expand(range(1, 1 + rank - t.rank)) for t in tensors]


def elementwise(
    tensors: Sequence[Tensor], function: Callable[..., Value], shape: Shape, dtype: mx.Dtype
) -> Tensor:
    """function(*values) of operands of one rank that broadcast, where they best meet."""
    g, layout = tensors[0].g, settle(tensors).layout

    def make(target: Layout) -> Value:
        return function(*(t.to(target) for t in tensors))

    if all(t.deferred for t in tensors):
        waits = 1 + max(t.waits for t in tensors)
        return Tensor(g, None, shape, dtype=dtype, make=make, waits=waits)
    return Tensor(g, make(layout), shape, layout, dtype=dtype)


def concatenate(tensors: Sequence[Tensor], axis: int, shape: Shape) -> Tensor:
    """Along `axis` of the arrays, in the layout they best meet in."""
    g, axis = tensors[0].g, axis % len(shape)
    layout = settle(tensors).layout
    if axis == len(shape) - 1 and any(t.layout.order for t in tensors):
        if all(isinstance(t.shape[-1], int) for t in tensors):
            return _concatenate_ordered(tensors, shape)
        layout = layout.unordered()
    made: Any = g.op("Concat", *(t.to(layout) for t in tensors), axis=layout.axis(axis))
    return Tensor(g, made, shape, layout, dtype=tensors[0].dtype)


def _concatenate_ordered(tensors: Sequence[Tensor], shape: Shape) -> Tensor:
    """Along a last axis that is flattened in another order in some: the orders are concatenated."""
    g, perm = tensors[0].g, plain(len(shape)).perm
    parts, indices, start = [], [], 0
    for tensor in tensors:
        layout = Layout(perm, tensor.layout.order)
        size: Any = tensor.shape[-1]
        own = layout.indices
        parts.append(tensor.to(layout))
        indices.append(start + (np.arange(size) if own is None else own))
        start += size
    layout = Layout(perm, ordered(np.concatenate(indices)))
    made = g.op("Concat", *parts, axis=len(shape) - 1)
    return Tensor(g, made, shape, layout, dtype=tensors[0].dtype)
