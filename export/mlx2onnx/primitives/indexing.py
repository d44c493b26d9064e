"""Primitives that read or write at computed places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx2onnx.builder import Builder, Value
from mlx2onnx.primitives.registry import Unsupported, primitive
from mlx2onnx.primitives.shaping import reshaped, sliced, transposed
from mlx2onnx.sizes import Int, Size

SCATTER = ("max", "min", "add", "mul", "none")
COMBINE = {"max": "Max", "min": "Min", "add": "Add", "mul": "Mul"}
PLAIN = ("Broadcast", "Reshape", "ExpandDims", "AsType", "Flatten", "Unflatten", "Squeeze")


@primitive("GatherAxis")
def gather_axis(g: Builder, event: Any, x: Value, index: Value) -> Value:
    return g.op("GatherElements", x, index, axis=event.arguments[0])


@primitive("ScatterAxis")
def scatter_axis(g: Builder, event: Any, x: Value, index: Value, updates: Value) -> Value:
    kind, axis = event.arguments
    reduction = {0: "add", 1: None}[kind]
    return g.op("ScatterElements", x, index, updates, axis=axis, reduction=reduction)


@primitive("Gather", lazy=True)
def gather(g: Builder, event: Any) -> Value:
    """Out: the indices' axes, then all axes of x (those indexed have size 1)."""
    axes, window = event.arguments
    context, array = event.context, event.inputs[0]
    x = context.full(array)
    x, shape = _cut_to_window(g, event, x, array.shape, axes, window)
    if not axes:
        return x
    if (made := _axis_by_axis(g, event, x, axes)) is not None:
        return _with_ones(g, event, made)
    indices = [context.full(a) for a in event.inputs[1:]]
    if len(axes) == 1:
        axis, rank = axes[0], len(event.inputs[1].shape)
        made = g.op("Gather", x, indices[0], axis=axis)
        made = g.op("Unsqueeze", made, [axis + rank])
        moved = [*range(axis, axis + rank), *range(axis), *range(axis + rank, rank + len(shape))]
        return transposed(g, made, moved)
    others = [a for a in range(len(shape)) if a not in axes]
    x = transposed(g, x, [*axes, *others])
    return _with_ones(g, event, g.op("GatherND", x, _stacked(g, indices)))


def _cut_to_window(
    g: Builder, event: Any, x: Value, shape: Sequence[Int], axes: Sequence[int], window: Any
) -> tuple[Value, list[Int]]:
    """Axes that are not indexed, cut to the window's size."""
    if any(window[a] != 1 for a in axes):
        raise Unsupported("expected windows of size 1 on the indexed axes")
    ends = [d if a in axes else window[a] for a, d in enumerate(shape)]
    return sliced(g, event, x, shape, [0] * len(shape), ends, [1] * len(shape)), ends


def _with_ones(g: Builder, event: Any, made: Value) -> Value:
    """Puts the indexed axes back, as axes of size 1."""
    axes = event.arguments[0]
    rank = len(event.inputs[1].shape)
    return g.op("Unsqueeze", made, [rank + a for a in axes])


def _stacked(g: Builder, indices: Sequence[Value]) -> Value:
    columns = [g.op("Unsqueeze", g.cast(i, mx.int64), [-1]) for i in indices]
    return columns[0] if len(columns) == 1 else g.op("Concat", *columns, axis=-1)


def _axis_by_axis(g: Builder, event: Any, x: Value, axes: Sequence[int]) -> Value | None:
    """x[:, i, j[:, None]] …: indices that move along axes of their own are Gathers in a row.

    MLX writes the position itself (an arange) as the index of an axis that is taken whole.
    """
    if len(axes) < 2 or list(axes) != list(range(len(axes))):
        return None
    context, rank = event.context, len(event.inputs[1].shape)
    moving = [_own_axes(context, array, rank) for array in event.inputs[1:]]
    if [a for _, _, own in moving for a in own] != list(range(rank)):
        return None
    at = 0
    for axis, (array, shape, own) in zip(axes, moving, strict=True):
        if not _is_position(context, array, event.inputs[0].shape[axis]):
            index = reshaped(g, event, context.full(array), array.shape, shape)
            x = g.op("Gather", x, index, axis=at)
        at += len(own)
    return x


def _own_axes(context: Any, array: Any, rank: int) -> tuple[Any, list[Int], list[int]]:
    """(index before it was broadcast, its sizes that are not 1, the axes it moves along)."""
    shape = (1,) * (rank - len(array.shape)) + tuple(array.shape)
    while (maker := context.maker(array)) is not None and maker.name in PLAIN:
        source = maker.inputs[0]
        if not mx.issubdtype(source.dtype, mx.integer):
            break
        if maker.name == "Broadcast":
            shape = (1,) * (rank - len(source.shape)) + tuple(source.shape)
        array = source
        if maker.name != "Broadcast" and maker.name != "AsType":
            if [d for d in source.shape if d != 1] != [d for d in shape if d != 1]:
                return maker.outputs[0], *_moving(shape)
    return array, *_moving(shape)


def _moving(shape: Sequence[Int]) -> tuple[list[Int], list[int]]:
    own = [axis for axis, size in enumerate(shape) if size != 1]
    return [shape[axis] for axis in own], own


def _is_position(context: Any, array: Any, size: Int) -> bool:
    maker = context.maker(array)
    return maker is not None and maker.name == "Arange" and maker.arguments == (0, size, 1)


@primitive("Scatter")
def scatter(g: Builder, event: Any, x: Value, *rest: Value) -> Value:
    """Updates: the indices' axes, then a window of x at each index."""
    kind, axes = event.arguments
    *indices, updates = rest
    shape, reduction = event.inputs[0].shape, SCATTER[kind]
    if reduction in ("max", "min") and g.opset < 18:
        raise Unsupported("scatter with max or min needs opset 18")
    rank = len(event.inputs[1].shape) if indices else 0
    window = event.inputs[-1].shape[rank:]
    partial = [a for a, (w, d) in enumerate(zip(window, shape, strict=True))
               if w != (1 if a in axes else d)]  # fmt: skip
    if partial:
        return _scatter_windows(g, event, x, indices, updates, window, partial)
    others = [a for a in range(len(shape)) if a not in axes]
    turn = [*axes, *others]
    squeezed = [d for a, d in enumerate(window) if a not in axes]
    updates = reshaped(
        g, event, updates, event.inputs[-1].shape, [*event.inputs[-1].shape[:rank], *squeezed]
    )
    made = g.op(
        "ScatterND", transposed(g, x, turn), _stacked(g, indices), updates,
        reduction=None if reduction == "none" else reduction,
    )  # fmt: skip
    return transposed(g, made, [turn.index(a) for a in range(len(shape))])


def _scatter_windows(
    g: Builder, event: Any, x: Value, indices: Sequence[Value], updates: Value, window: Any,
    partial: Sequence[int],
) -> Value:  # fmt: skip
    """Every written position on its own: the index plus the place in the window."""
    kind, axes = event.arguments
    shape = event.inputs[0].shape
    if not all(isinstance(w, int) for w in window):
        raise Unsupported("expected windows of fixed size")
    used = sorted({*axes, *partial})
    rank = len(event.inputs[1].shape) if indices else 0
    grids = []
    for axis in used:
        place = np.arange(window[axis]).reshape([-1 if a == axis else 1 for a in used])
        grid: Any = g.constant(place)
        if axis in axes:
            index = g.cast(indices[list(axes).index(axis)], mx.int64)
            index = g.op("Unsqueeze", index, list(range(rank, rank + len(used))))
            grid = g.op("Add", index, grid)
        lead = event.inputs[1].shape if indices else ()
        full = event.context.vector([*lead, *(window[a] for a in used)])
        grids.append(g.op("Expand", grid, full))
    others = [a for a in range(len(shape)) if a not in used]
    moved = [*range(rank), *(rank + a for a in used), *(rank + a for a in others)]
    turn = [*used, *others]
    made = g.op(
        "ScatterND", transposed(g, x, turn), _stacked(g, grids), transposed(g, updates, moved),
        reduction=None if SCATTER[kind] == "none" else SCATTER[kind],
    )  # fmt: skip
    return transposed(g, made, [turn.index(a) for a in range(len(shape))])


@primitive("SliceUpdate")
def slice_update(g: Builder, event: Any, x: Value, updates: Value) -> Value:
    kind, starts, ends, steps = event.arguments
    shape = event.inputs[0].shape
    if SCATTER[kind] != "none":
        old = sliced(g, event, x, shape, starts, ends, steps)
        updates = g.op(COMBINE[SCATTER[kind]], old, updates)
    if any(s < 0 for s in steps):
        raise Unsupported("expected positive steps")
    rows = [
        (axis, start, end, step)
        for axis, (d, start, end, step) in enumerate(zip(shape, starts, ends, steps, strict=True))
        if (start, step) != (0, 1) or end != d
    ]
    return _replace(g, event, x, list(shape), updates, rows)


def _replace(
    g: Builder, event: Any, x: Value, shape: list[Int], updates: Value, rows: Sequence[Any]
) -> Value:
    """Joins what is before the slice, the updates, and what is after, one axis at a time."""
    if not rows:
        return updates
    (axis, start, end, step), rest = rows[0], rows[1:]
    if step != 1:
        return _replace_every(g, event, x, shape, updates, rows)
    ones = [1] * len(shape)

    def part(first: Int, last: Int) -> Value:
        starts: list[Int] = [0] * len(shape)
        ends = list(shape)
        starts[axis], ends[axis] = first, last
        return sliced(g, event, x, shape, starts, ends, ones)

    middle = updates
    if rest:
        inner = list(shape)
        inner[axis] = _difference(end, start)
        middle = _replace(g, event, part(start, end), inner, updates, rest)
    parts = [part(0, start)] if start != 0 else []
    parts.append(middle)
    if end != shape[axis]:
        parts.append(part(end, shape[axis]))
    return parts[0] if len(parts) == 1 else g.op("Concat", *parts, axis=axis)


def _difference(a: Int, b: Int) -> Int:
    if isinstance(a, Size):
        fixed = a.minus(b)
        if fixed is not None:
            return fixed
        others = b.values if isinstance(b, Size) else (b,) * len(a.values)
        return Size(tuple(x - y for x, y in zip(a.values, others, strict=True)), None)
    if isinstance(b, Size):
        return Size(tuple(a - y for y in b.values), None)
    return a - b


def _replace_every(
    g: Builder, event: Any, x: Value, shape: list[Int], updates: Value, rows: Sequence[Any]
) -> Value:
    """Writes every `step`-th place of one axis."""
    (axis, start, end, step), rest = rows[0], rows[1:]
    if rest or any(isinstance(v, Size) for v in (start, end)):
        raise Unsupported("expected a fixed slice, with a step on one axis only, that axis last")
    places = np.arange(start, end, step).reshape(-1, 1)
    turn = [axis, *(a for a in range(len(shape)) if a != axis)]
    made = g.op("ScatterND", transposed(g, x, turn), places, transposed(g, updates, turn))
    return transposed(g, made, [turn.index(a) for a in range(len(shape))])


@primitive("DynamicSlice")
def dynamic_slice(g: Builder, event: Any, x: Value, start: Value) -> Value:
    axes, window = event.arguments
    start = g.cast(start, mx.int64)
    stop = g.op("Add", start, event.context.vector([window[a] for a in axes]))
    x, _ = _cut_to_window_except(g, event, x, axes, window)
    return g.op("Slice", x, start, stop, list(axes))


def _cut_to_window_except(
    g: Builder, event: Any, x: Value, axes: Sequence[int], window: Any
) -> tuple[Value, list[Int]]:
    shape = event.inputs[0].shape
    ends = [d if a in axes else window[a] for a, d in enumerate(shape)]
    return sliced(g, event, x, shape, [0] * len(shape), ends, [1] * len(shape)), ends


@primitive("DynamicSliceUpdate")
def dynamic_slice_update(g: Builder, event: Any, x: Value, updates: Value, start: Value) -> Value:
    (axes,) = event.arguments
    start = g.cast(start, mx.int64)
    window = event.inputs[1].shape
    bounds = [(a, g.op("Slice", start, [i], [i + 1], [0])) for i, a in enumerate(axes)]
    others = [a for a, d in enumerate(event.inputs[0].shape) if a not in axes and window[a] != d]
    if others:
        raise Unsupported("expected updates of full size on the axes without a start")

    def replace(x: Value, rows: Sequence[Any]) -> Value:
        if not rows:
            return updates
        (axis, first), rest = rows[0], rows[1:]
        last = g.op("Add", first, event.context.vector([window[axis]]))
        end = [np.iinfo(np.int64).max]
        before = g.op("Slice", x, [0], first, [axis])
        after = g.op("Slice", x, last, end, [axis])
        middle = replace(g.op("Slice", x, first, last, [axis]), rest) if rest else updates
        return g.op("Concat", before, middle, after, axis=axis)

    return replace(x, bounds)


@primitive("MaskedScatter", lazy=True)
def masked_scatter(g: Builder, event: Any) -> Value:
    """Where the mask holds, the next of the values (one row of them for each first axis)."""
    context = event.context
    x, mask = (context.full(a) for a in event.inputs[:2])
    values = event.inputs[2]
    scalar = _single(context, values)
    if scalar is not None:
        return g.op("Where", mask, g.op("Reshape", scalar, [1]), x)
    if event.shape[0] != 1:
        raise Unsupported("expected one mask for all rows")
    flat = g.op("Reshape", mask, [-1])
    count = g.op("CumSum", g.cast(flat, mx.int64), np.asarray(0))
    place = g.op("Max", g.op("Sub", count, 1), g.constant(0, np.int64))
    row = g.op("Reshape", context.full(values), [-1])
    picked = g.op("Gather", row, place, axis=0)
    picked = g.op("Reshape", picked, g.op("Shape", x))
    return g.op("Where", mask, picked, x)


def _single(context: Any, array: Any) -> Value | None:
    """The one element that an array repeats."""
    while True:
        if all(d == 1 for d in context.actual[array.name]):
            return context.value(array)
        maker = context.maker(array)
        if maker is None or maker.name not in PLAIN:
            return None
        array = maker.inputs[0]
