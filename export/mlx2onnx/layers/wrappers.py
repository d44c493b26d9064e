"""Bidirectional is one node for both directions; TimeDistributed folds time into the batch."""

from __future__ import annotations

from typing import Any

from mlxfunc import layers
from mlx.utils import tree_map
from mlx2onnx.builder import Builder, Value
from mlx2onnx.layers.recurrent import (
    Native,
    arguments,
    native,
    run_native,
    sequence,
    stacked,
    starts,
)
from mlx2onnx.layers.registry import find, mask_rule, rule
from mlx2onnx.layers.steps import Steps, reversed_time
from mlx2onnx.layout import Layout, Tensor, concatenate, elementwise, plain, time_first
from mlxfunc.graph import leaves

REDUCTIONS = {"sum": "ReduceSum", "mul": "ReduceProd", "ave": "ReduceMean"}


@rule(layers.Bidirectional)
def bidirectional(
    g: Builder,
    layer: Any,
    sequences: Any,
    initial_state: Any = None,
    mask: Any = None,
    out: Any = None,
    walk: Any = None,
) -> Any:
    """A node with direction="bidirectional" where both sides have the same operator."""
    x, given = arguments(sequences, initial_state)
    mask = leaves(mask)[0]
    sides = [layer.forward_layer, layer.backward_layer]
    kinds = [native(side) for side in sides]
    alike = (
        kinds[0] is not None
        and kinds[0] is kinds[1]
        and not sides[0].go_backwards
        and all(find(side) is find(sides[0]) is not None for side in sides)
        and sides[0].units == sides[1].units
        and sides[0].use_bias == sides[1].use_bias
        and getattr(sides[0], "reset_after", 0) == getattr(sides[1], "reset_after", 0)
    )
    if not alike or kinds[0] is None:
        return _two_layers(g, layer, x, given, mask, out, walk)
    steps = None if mask is None else Steps(g, mask, walk.right_padded)
    return _one_node(g, layer, kinds[0], x, given, steps)


def _one_node(
    g: Builder, layer: Any, kind: Native, x: Tensor, given: list, steps: Steps | None
) -> list[Tensor]:
    sides = [layer.forward_layer, layer.backward_layer]
    half = len(given) // 2
    start = [
        starts(g, s, [s], p)[0] for s, p in zip(sides, (given[:half], given[half:]), strict=True)
    ]
    begin = [stacked(g, _with_zeros(g, pair)) for pair in zip(*start, strict=True)]
    value, lengths, order = sequence(x, steps)
    result = run_native(g, kind, sides, value, begin, lengths, order=order)
    units, batch = sides[0].units, x.shape[0]
    shape = (batch, x.shape[1], units) if layer.return_sequences else (batch, units)
    if layer.return_sequences:
        outputs = _sequences(g, layer.merge_mode, result.y, shape, steps)
    else:
        outputs = _merged_last(g, layer.merge_mode, result.last[0], shape)
    if not layer.return_state:
        return outputs
    states = [
        Tensor(g, g.op("Gather", state, g.constant(side), axis=0), (batch, units))
        for side in (0, 1)
        for state in result.last
    ]
    return [*outputs, *states]


def _with_zeros(g: Builder, pair: tuple[Value | None, ...]) -> list[Value | None]:
    """A start for both directions or for none."""
    if all(s is None for s in pair) or all(s is not None for s in pair):
        return list(pair)
    known = next(s for s in pair if s is not None)
    zeros = g.op("Sub", known, known)
    return [zeros if s is None else s for s in pair]


def _sequences(
    g: Builder, mode: str | None, y: Value, shape: tuple, steps: Steps | None
) -> list[Tensor]:
    """y (time, directions, batch, units), merged."""
    if mode in REDUCTIONS and steps is None:
        return [Tensor(g, g.reduce(REDUCTIONS[mode], y, [1], False), shape, time_first(3))]
    if mode in REDUCTIONS:
        return [_in_place(g, g.reduce(REDUCTIONS[mode], y, [1], False), shape, steps)]
    if mode is None:
        sides = [g.op("Gather", y, g.constant(side), axis=1) for side in (0, 1)]
        return [_in_place(g, side, shape, steps) for side in sides]
    joined = (*shape[:2], 2 * shape[2])
    if steps is not None:
        rows = _join(g, y, [2, 0, 1, 3], joined)
        return [Tensor(g, steps.back_or_zero(rows), joined)]

    def make(layout: Layout) -> Value | None:
        orders = {plain(3): [2, 0, 1, 3], time_first(3): [0, 2, 1, 3]}
        return _join(g, y, orders[layout], joined) if layout in orders else None

    return [Tensor(g, None, joined, make=make)]


def _join(g: Builder, y: Value, perm: list[int], joined: tuple) -> Value:
    return g.op("Reshape", g.op("Transpose", y, perm=perm), [0, 0, joined[2]])


def _in_place(g: Builder, value: Value, shape: tuple, steps: Steps | None) -> Tensor:
    """(time, batch, units), with masked steps where they were, and 0."""
    if steps is None:
        return Tensor(g, value, shape, time_first(3))
    return Tensor(g, steps.back_or_zero(g.op("Transpose", value, perm=[1, 0, 2])), shape)


def _merged_last(g: Builder, mode: str | None, last: Value, shape: tuple) -> list[Tensor]:
    """(directions, batch, units), merged."""
    if mode in REDUCTIONS:
        return [Tensor(g, g.reduce(REDUCTIONS[mode], last, [0], False), shape)]
    if mode is None:
        return [Tensor(g, g.op("Gather", last, g.constant(side), axis=0), shape) for side in (0, 1)]
    joined = (shape[0], 2 * shape[1])
    rows = g.op("Transpose", last, perm=[1, 0, 2])
    return [Tensor(g, g.op("Reshape", rows, [0, joined[1]]), joined)]


def _two_layers(
    g: Builder, layer: Any, x: Tensor, given: list, mask: Any, out: Any, walk: Any
) -> list[Tensor]:
    half = len(given) // 2
    made = []
    for side, states in (
        (layer.forward_layer, given[:half]),
        (layer.backward_layer, given[half:]),
    ):
        keywords = {"initial_state": states} if states else {}
        made.append(leaves(walk.call(side, (x,), keywords, mask)))
    (y, *forward), (reverse, *backward) = made
    if layer.return_sequences:
        reverse = _reversed(g, reverse)
    last = [*forward, *backward] if layer.return_state else []
    return [*_merge(g, layer.merge_mode, y, reverse, leaves(out)[0]), *last]


def _reversed(g: Builder, y: Tensor) -> Tensor:
    return y.like(reversed_time(g, y.value, y.layout.axis(1)))


def _merge(g: Builder, mode: str | None, a: Tensor, b: Tensor, out: Any) -> list[Tensor]:
    if mode is None:
        return [a, b]
    if mode == "concat":
        return [concatenate([a, b], -1, out.shape)]
    operator = {"sum": "Add", "mul": "Mul", "ave": "Mean"}[mode]
    return [elementwise([a, b], lambda *v: g.op(operator, *v), out.shape, out.dtype)]


@mask_rule(layers.Bidirectional)
def bidirectional_mask(g: Builder, layer: Any, inputs: Any, mask: Any) -> Any:
    return layer.compute_mask(None, mask)


# Layers whose rule takes steps as they are: they work on the last axis, or on each value.
POINTWISE = (layers.Dense, layers.Activation, layers.Embedding, layers.Identity)


@rule(layers.TimeDistributed, integers="keep")
def time_distributed(
    g: Builder, layer: Any, inputs: Any, mask: Any = None, walk: Any = None
) -> Any:
    inner = layer.layer
    if isinstance(inner, POINTWISE) and find(inner) is not None:
        return walk.call(inner, (inputs,))
    first = leaves(inputs)[0]
    time_major = not first.deferred and first.layout.perm[:2] == (1, 0)
    with g.sized(None, g.dimension):
        folded = tree_map(lambda x: x if x is None else fold(g, x, time_major), (inputs, mask))
        output = walk.call(inner, folded[:1], {}, folded[1])
    return tree_map(lambda y: unfold(g, y, first, time_major), output)


def fold(g: Builder, x: Tensor, time_major: bool) -> Tensor:
    """(batch, time, ...) → (batch·time, ...)"""
    shape = (None, *x.shape[2:])
    leading = (1, 0) if time_major else (0, 1)

    def make(layout: Layout) -> Value | None:
        if layout.perm[0] != 0:
            return None
        outer = Layout((*leading, *(axis + 1 for axis in layout.perm[1:])), layout.order)
        value = x.to(outer)
        return g.op("Reshape", value, _vector(g, value, [-1, *outer.perm[2:]], x))

    folded = Tensor(g, None, shape, dtype=x.dtype, make=make, waits=x.waits + 1)
    folded.given = x.given
    return folded


def _vector(g: Builder, value: Value, axes: list[int], x: Tensor) -> Any:
    """The shape (-1, sizes of x's axes): a constant, but for dynamic sizes, which are read."""
    dims = [axis if axis == -1 else x.shape[axis] for axis in axes]
    if all(isinstance(d, int) for d in dims):
        return dims
    places = [-1, *range(2, x.rank)]
    return _joined(
        g,
        [
            [d] if isinstance(d, int) else g.shape_of(value, place)
            for d, place in zip(dims, places, strict=True)
        ],
    )


def _joined(g: Builder, parts: list[Any]) -> Value:
    return g.op("Concat", *parts, axis=0)


def unfold(g: Builder, y: Tensor, x: Tensor, time_major: bool) -> Tensor:
    """(batch·time, ...) → (batch, time, ...), with the batch and time of x."""
    shape = (x.shape[0], x.shape[1], *y.shape[1:])
    leading = (1, 0) if time_major else (0, 1)
    inner = y.layout if y.layout.perm[0] == 0 else plain(y.rank)
    value = y.to(inner)
    layout = Layout((*leading, *(axis + 1 for axis in inner.perm[1:])), inner.order)
    dims = [shape[axis] for axis in layout.perm]
    if sum(not isinstance(d, int) for d in dims) <= 1:
        fixed = [d if isinstance(d, int) else -1 for d in dims]
        return Tensor(g, g.op("Reshape", value, fixed), shape, layout, dtype=y.dtype)
    front = [g.shape_of(x.value, x.layout.axis(axis)) for axis in leading]
    rest = [
        [d] if isinstance(d, int) else g.shape_of(value, place + 1)
        for place, d in enumerate(dims[2:])
    ]
    made = g.op("Reshape", value, _joined(g, [*front, *rest]))
    return Tensor(g, made, shape, layout, dtype=y.dtype)
