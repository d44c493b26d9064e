"""A recurrent layer whose cell ONNX has no operator for: a Scan over the traced cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
from mlx2onnx import trace
from mlxfunc import layers
from mlx.utils import tree_flatten, tree_map
from mlx2onnx.builder import Builder, Value
from mlx2onnx.layers.steps import reversed_time
from mlx2onnx.layout import Tensor, time_first
from mlxfunc.graph import leaves
from mlxfunc.layers import cells
from mlxfunc.layers._scan import repeated

Step = Callable[[mx.array, Any], tuple[mx.array, list]]


def step_of(cell: Any) -> Step:
    """One step of a cell, without the derivatives of its own that a whole sequence has."""
    if type(cell) is layers.StackedRNNCells:
        return lambda x, states: _stacked_step(cell, x, states)
    if isinstance(cell, cells.Cell):
        call: Callable = lambda x, states: cells.Cell.call(cell, x, states)  # noqa: E731
    else:
        call = cell if isinstance(cell, layers.Layer) else cell.call

    def step(x: mx.array, states: Any) -> tuple[mx.array, list]:
        output, new = call(x, states)
        return output, list(new) if isinstance(new, list | tuple) else [new]

    return step


def _stacked_step(stack: Any, x: mx.array, states: Any) -> tuple[mx.array, list]:
    new = []
    for cell, state in zip(stack.cells, states, strict=True):
        x, state = step_of(cell)(x, state)
        new.append(state)
    return x, new


def scan_layer(
    g: Builder, layer: Any, x: Tensor, given: Sequence[Any], mask: Tensor | None, shape: tuple
) -> list[Tensor]:
    """The layer's outputs, the first of `shape`; a masked step keeps the states."""
    cell, batch = layer.cell, x.shape[0]
    structure = cells.initial_state(cell, 2)
    shapes = [(batch, *state.shape[1:]) for state in leaves(structure)]
    states = _starts(g, layer, x, given)
    value = x.to(time_first(x.rank))
    steps = [value] if mask is None else [value, mask.to(time_first(2))]
    body = _body(g, layer, x, structure, shapes, mask is not None)
    made = g.op(
        "Scan",
        *states,
        *steps,
        outputs=len(states) + 1,
        body=body,
        num_scan_inputs=len(steps),
        scan_input_directions=[1] * len(steps) if layer.go_backwards else None,
    )
    *last, outputs = made
    if mask is not None and layer.zero_output_for_mask:
        valid = steps[1] if not layer.go_backwards else reversed_time(g, steps[1], 0)
        trailing = list(range(2, len(shape) + (not layer.return_sequences)))
        outputs = g.op("Where", g.op("Unsqueeze", valid, trailing), outputs, g.constant(0.0))
    if layer.return_sequences:
        output = Tensor(g, outputs, shape, time_first(len(shape)))
    else:
        output = Tensor(g, g.op("Gather", outputs, g.constant(-1), axis=0), shape)
    rest = zip(last, shapes, strict=True) if layer.return_state else ()
    return [output, *(Tensor(g, state, shape) for state, shape in rest)]


def _starts(g: Builder, layer: Any, x: Tensor, given: Sequence[Any]) -> list[Value]:
    if given:
        return [s.plain if isinstance(s, Tensor) else g.constant(s) for s in given]
    if layer.states is not None:
        return [g.constant(state) for state in layer.states]

    def zeros(x: mx.array) -> list[mx.array]:
        return leaves(cells.initial_state(layer.cell, x.shape[0]))

    made = trace.lower(g, zeros, [x.plain], [(x.shape, x.dtype)])
    return list(made)


def _body(
    g: Builder, layer: Any, x: Tensor, structure: Any, shapes: Sequence[tuple], masked: bool
) -> Any:
    step, count = step_of(layer.cell), len(shapes)

    def run(*arrays: mx.array) -> list[mx.array]:
        remaining = iter(arrays[:count])
        states = tree_map(lambda _: next(remaining), structure)
        output, new = step(arrays[count], states)
        if masked:
            valid = arrays[count + 1]
            output, new = tree_map(
                lambda a, b: mx.where(valid.reshape(-1, *[1] * (a.ndim - 1)), a, b),
                (output, new),
                (repeated(states), states),
            )
        return [*leaves(new), output]

    specs = [(shape, mx.float32) for shape in shapes]
    specs.append(((x.shape[0], *x.shape[2:]), x.dtype))
    if masked:
        specs.append(((x.shape[0],), mx.bool_))
    cell = layer.cell
    weights = dict(tree_flatten(cell.parameters())) if isinstance(cell, layers.Layer) else {}

    def body(*formals: Value) -> list[Value]:
        return trace.lower(g, run, formals, specs, weights=weights)

    inputs = [
        (dtype, [g.batch if d is None and i == 0 else d for i, d in enumerate(shape)])
        for shape, dtype in specs
    ]
    return g.subgraph(inputs, body)
