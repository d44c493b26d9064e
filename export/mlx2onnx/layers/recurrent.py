"""Recurrent layers: one LSTM, GRU or RNN node for each cell; a Scan for cells that ONNX lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlxfunc import activations as act
from mlxfunc import layers
from mlx2onnx.builder import Builder, Value, to_numpy
from mlx2onnx.layers.registry import mask_rule, rule
from mlx2onnx.layers.scan import scan_layer
from mlx2onnx.layers.steps import Steps, reversed_time
from mlx2onnx.layers.weights import derived
from mlx2onnx.layout import Layout, Tensor, time_first
from mlxfunc.graph import leaves
from mlxfunc.layers.cells import Cell
from mlxfunc.layers.recurrent import Recurrent

# Names, and the alpha and beta, of what ONNX's recurrent operators apply.
ACTIVATIONS: dict[Callable, tuple[str, list[float], list[float]]] = {
    act.tanh: ("Tanh", [], []),
    act.sigmoid: ("Sigmoid", [], []),
    act.relu: ("Relu", [], []),
    act.hard_sigmoid: ("HardSigmoid", [1 / 6], [0.5]),
    act.softsign: ("Softsign", [], []),
    act.softplus: ("Softplus", [], []),
    act.elu: ("Elu", [1.0], []),
    act.leaky_relu: ("LeakyRelu", [0.2], []),
    act.linear: ("Affine", [1.0], [0.0]),
}


@dataclass(frozen=True)
class Native:
    """An ONNX operator that is a cell over time; `blocks` are its gates among MLX's."""

    operator: str
    cell: type
    blocks: tuple[int, ...]
    gates: int  # how many functions come before `activation`
    repeats: int  # how often `activation` follows
    states: int


NATIVE = (
    Native("LSTM", layers.LSTMCell, (0, 3, 1, 2), 1, 2, 2),
    Native("GRU", layers.GRUCell, (1, 0, 2), 1, 1, 1),
    Native("RNN", layers.SimpleRNNCell, (0,), 0, 1, 1),
)


def native(cell: Any) -> Native | None:
    """The operator for a cell whose step is as it was, with functions that ONNX has."""
    for kind in NATIVE:
        same = isinstance(cell, kind.cell) and all(
            getattr(type(cell), name) is getattr(kind.cell, name)
            for name in ("step", "project", "recur", "get_initial_state")
        )
        if same and all(f in ACTIVATIONS for f in _functions(kind, cell)):
            return kind
    return None


def _functions(kind: Native, cell: Any) -> list[Callable]:
    gates = [cell.recurrent_activation] * kind.gates if kind.gates else []
    return gates + [cell.activation] * kind.repeats


@dataclass
class Result:
    """A sequence after a cell: `y` (time, directions, batch, units), and the last states."""

    y: Value
    last: list[Value]  # (directions, batch, units) each


def run_native(
    g: Builder,
    kind: Native,
    cells: Sequence[Any],
    x: Value,
    states: Sequence[Value | None],
    lengths: Value | None,
    reverse: bool = False,
    order: bytes | None = None,
) -> Result:
    """One node over x (time, batch, in), for one cell or for a forward and a backward one.

    `states` are (directions, batch, units) or None for zeros; `order` is that of x's features.
    """
    first, ids = cells[0], tuple(map(id, cells))
    blocks = list(kind.blocks)

    def pack(name: str, order: bytes | None = None) -> Value:
        def make() -> np.ndarray:
            packed = np.stack([_blocks(to_numpy(c[name]), blocks) for c in cells])
            return packed if order is None else packed[..., np.frombuffer(order, np.int64)]

        return derived(g, first, name, (kind.operator, ids, order), make)

    bias = None
    if first.use_bias:
        made = [lambda c=c: _bias(c, blocks) for c in cells]
        bias = derived(
            g, first, "bias", (kind.operator, ids), lambda: np.stack([m() for m in made])
        )
    both = len(cells) == 2
    functions = [ACTIVATIONS[f] for c in cells for f in _functions(kind, c)]
    usual = [n for n, _, _ in functions] == ["Sigmoid"] * kind.gates + ["Tanh"] * kind.repeats
    attributes: dict[str, Any] = {
        "hidden_size": first.units,
        "direction": "bidirectional" if both else "reverse" if reverse else None,
        "activations": None if usual and not both else [name for name, _, _ in functions],
        "activation_alpha": [a for _, alpha, _ in functions for a in alpha] or None,
        "activation_beta": [b for _, _, beta in functions for b in beta] or None,
    }
    if kind.operator == "GRU":
        attributes["linear_before_reset"] = int(first.reset_after)
    outputs = g.op(
        kind.operator,
        *(x, pack("Wx", order), pack("Wh"), bias, lengths, *states),
        outputs=1 + kind.states,
        **attributes,
    )
    last = list(outputs[1:])
    if lengths is not None and any(start is not None for start in states):
        # Of a sequence without a valid step ONNX Runtime's last states are 0.
        some = g.op("Unsqueeze", g.op("Cast", lengths, to=mx.bool_), [1])
        last = [
            y if start is None else g.op("Where", some, y, start)
            for y, start in zip(last, states, strict=True)
        ]
    return Result(outputs[0], last)


def _blocks(array: np.ndarray, blocks: list[int]) -> np.ndarray:
    """The gates, along the first axis, in another order."""
    parts = np.split(array, len(blocks))
    return np.concatenate([parts[b] for b in blocks])


def _bias(cell: Any, blocks: list[int]) -> np.ndarray:
    """[bias of x, bias of h]"""
    stored = to_numpy(cell["bias"])
    rows = stored if stored.ndim == 2 else [stored, np.zeros_like(stored)]
    return np.concatenate([_blocks(row, blocks) for row in rows])


def direction(g: Builder, value: Value | None, index: int = 0) -> Value | None:
    """(directions, batch, units) → (batch, units)"""
    if value is None:
        return None
    return g.op("Gather", value, g.constant(index), axis=0)


def stacked(g: Builder, states: Sequence[Value | None]) -> Value | None:
    """(batch, units) of each direction → (directions, batch, units); None is zeros."""
    found = [s for s in states if s is not None]
    if not found:
        return None
    rows = [g.op("Unsqueeze", s, [0]) for s in found]
    return rows[0] if len(rows) == 1 else g.op("Concat", *rows, axis=0)


@rule(Recurrent)
def recurrent(
    g: Builder,
    layer: Any,
    sequences: Any,
    initial_state: Any = None,
    mask: Any = None,
    out: Any = None,
    walk: Any = None,
) -> Any:
    """The cells of a layer one after the other, each over all of time."""
    x, given = arguments(sequences, initial_state)
    mask = leaves(mask)[0]
    cells = layer.cell.cells if type(layer.cell) is layers.StackedRNNCells else [layer.cell]
    if all(native(cell) for cell in cells):
        start = starts(g, layer, cells, given)
        return _native_layer(g, layer, cells, x, start, mask, walk.right_padded)
    return scan_layer(g, layer, x, given, mask, leaves(out)[0].shape)


def arguments(sequences: Any, initial_state: Any) -> tuple[Tensor, list[Tensor]]:
    """The sequence, and the states to start from, of a call."""
    if isinstance(sequences, list | tuple):
        return sequences[0], list(sequences[1:]) or leaves(initial_state)
    return sequences, [s for s in leaves(initial_state) if s is not None]


def starts(
    g: Builder, layer: Any, cells: Sequence[Any], given: Sequence[Any]
) -> list[list[Value | None]]:
    """The states (batch, units) that each native cell starts from, None for zeros."""
    values: list[Any] = [s.plain if isinstance(s, Tensor) else _stored(g, s) for s in given]
    if not values and layer.states is not None:
        values = [_stored(g, s) for s in layer.states]
    kinds = [native(cell) for cell in cells]
    counts = [kind.states if kind else 0 for kind in kinds]
    remaining = iter(values or [None] * sum(counts))
    return [[next(remaining) for _ in range(count)] for count in counts]


def _stored(g: Builder, state: mx.array) -> Value | None:
    """A state of the layer itself; zeros need none."""
    array = to_numpy(state)
    return g.constant(array) if array.any() else None


def sequence(x: Tensor, steps: Steps | None) -> tuple[Value, Value | None, bytes | None]:
    """x as a node takes it, the lengths of its sequences, and the order of its features."""
    if steps is not None:
        return steps.front(x), steps.lengths, None
    layout = Layout(time_first(3).perm, x.layout.order)
    return x.to(layout), None, layout.order


def _native_layer(
    g: Builder,
    layer: Any,
    cells: Sequence[Any],
    x: Tensor,
    start: list[list[Value | None]],
    mask: Tensor | None,
    right_padded: bool,
) -> list[Tensor]:
    steps = None if mask is None else Steps(g, mask, right_padded)
    value, lengths, order = sequence(x, steps)
    units, batch = cells[-1].units, x.shape[0]
    last: list[Value] = []
    for cell, states in zip(cells, start, strict=True):
        kind = native(cell)
        assert kind is not None
        begin = [stacked(g, [s]) for s in states]
        result = run_native(g, kind, [cell], value, begin, lengths, layer.go_backwards, order)
        value, order = g.op("Squeeze", result.y, [1]), None
        last += result.last
    sizes = [cell.units for cell, states in zip(cells, start, strict=True) for _ in states]
    kept = zip(last, sizes, strict=True) if layer.return_state else ()
    finals = [Tensor(g, g.op("Squeeze", state, [0]), (batch, size)) for state, size in kept]
    if layer.return_sequences:
        output = _sequence(g, layer, value, steps, start[-1][0], (batch, x.shape[1], units))
    else:
        kind = native(cells[-1])
        assert kind is not None
        place = -kind.states
        squeezed = finals[place].plain if finals else g.op("Squeeze", last[place], [0])
        output = Tensor(g, squeezed, (batch, units))
        if steps is not None and layer.zero_output_for_mask:
            output = output.like(_zero_last(g, squeezed, steps, layer.go_backwards))
    return [output, *finals]


def _sequence(
    g: Builder,
    layer: Any,
    value: Value,
    steps: Steps | None,
    start: Value | None,
    shape: tuple,
) -> Tensor:
    """All outputs of one direction, (time, batch, units), as the layer returns them."""
    if steps is None:
        if layer.go_backwards:
            value = reversed_time(g, value, 0)
        return Tensor(g, value, shape, time_first(3))
    rows = g.op("Transpose", value, perm=[1, 0, 2])
    if layer.zero_output_for_mask:
        output = steps.back_or_zero(rows)
    else:
        output = steps.back(rows, start, layer.go_backwards)
    if layer.go_backwards:
        output = reversed_time(g, output, 1)
    tensor = Tensor(g, output, shape)
    if not layer.go_backwards:
        tensor.cache["front", id(steps.mask)] = value
    return tensor


def _zero_last(g: Builder, value: Value, steps: Steps, backwards: bool) -> Value:
    """0 where the last step that was read is masked."""
    step = g.op("Gather", steps.valid, g.constant([0 if backwards else -1]), axis=1)
    return g.op("Mul", value, g.cast(step, value.dtype))


@mask_rule(Recurrent)
def sequence_mask(g: Builder, layer: Any, inputs: Any, mask: Any) -> Any:
    return leaves(mask)[0] if layer.return_sequences else None


@rule(Cell)
def cell(g: Builder, layer: Any, inputs: Tensor, states: Any) -> None:
    """One step alone is traced."""
    return None


@rule(layers.StackedRNNCells)
def stacked_cells(g: Builder, layer: Any, inputs: Any, states: Any, walk: Any) -> Any:
    new = []
    for part, state in zip(layer.cells, states, strict=True):
        inputs, after = walk.call(part, (inputs, state))
        new.append(after)
    return inputs, new
