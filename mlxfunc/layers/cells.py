"""Cells, one step of recurrence each: SimpleRNNCell, LSTMCell, GRUCell, StackedRNNCells."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .. import activations, constraints, initializers, regularizers
from ..layer import LAYERS, Layer
from ._scan import GRUKernel, Kernel, LSTMKernel, SimpleKernel, loop, scan
from .core import KernelLayer, known_size, positive
from .regularization import Seeded, fraction

Run = tuple[mx.array, mx.array, Any]  # all outputs, time first; the last one; the last states


def dropped(x: mx.array, mask: mx.array | None) -> mx.array:
    return x if mask is None else x * mask.astype(x.dtype)


class Cell(Seeded, KernelLayer):
    """One step of recurrence: its weights, and its formula in `step`.

    x (batch, in), states (batch, units); Wx (gates·units, in), Wh (gates·units, units),
    bias (gates·units). `over_time` takes a whole sequence and projects all of x at once.
    """

    order: tuple[int, ...] = (0,)  # of Keras's gates, in MLX's layout
    kernel: type[Kernel]

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        use_bias: bool = True,
        *,
        recurrent_initializer: Any = "orthogonal",
        recurrent_regularizer: Any = None,
        recurrent_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        for hint in ("implementation", "use_cudnn"):  # there is one way to compute here
            kwargs.pop(hint, None)
        super().__init__(activation=activation, use_bias=use_bias, **kwargs)
        positive(self.name, units=units)
        self.units = units
        self.recurrent_initializer = initializers.get(recurrent_initializer)
        self.recurrent_regularizer = regularizers.get(recurrent_regularizer)
        self.recurrent_constraint = constraints.get(recurrent_constraint)
        self.dropout = fraction(self.name, "dropout", dropout)
        self.recurrent_dropout = fraction(self.name, "recurrent_dropout", recurrent_dropout)

    @property
    def state_size(self) -> Any:
        return self.units

    @property
    def output_size(self) -> int:
        return self.units

    def get_initial_state(self, batch_size: int) -> list[mx.array]:
        return zero_states(self.state_size, batch_size)

    def build(self, input_shape: tuple) -> None:
        size, gates = known_size(self.name, input_shape, -1), len(self.order)
        layout: Any = {"axes": (1, 0), "blocks": self.order}
        self.add_weight(name="Wx", shape=(size, gates * self.units), role="kernel", **layout)
        self.add_weight(
            name="Wh", shape=(self.units, gates * self.units), role="recurrent", **layout
        )
        self.add_gate_bias(gates * self.units)

    def add_gate_bias(self, size: int) -> None:
        if self.use_bias:
            self.add_weight(name="bias", shape=(size,), role="bias", blocks=self.order)

    @property
    def biases(self) -> tuple[mx.array | None, mx.array | None]:
        """What is added to the projections of x and of h."""
        return self.bias if self.use_bias else None, None

    def dropout_mask(self, shape: tuple, rate: float, training: bool) -> mx.array | None:
        """Zeros at `rate`, else 1 / (1 - rate); None when nothing is dropped."""
        if not training or not 0 < rate < 1:
            return None
        return mx.random.bernoulli(1 - rate, shape, self.key()).astype(mx.float32) / (1 - rate)

    def project(self, x: mx.array) -> mx.array:
        bias = self.biases[0]
        return x @ self.Wx.T if bias is None else mx.addmm(bias, x, self.Wx.T)

    def recur(self, h: mx.array) -> mx.array:
        bias = self.biases[1]
        return h @ self.Wh.T if bias is None else mx.addmm(bias, h, self.Wh.T)

    def step(self, x: mx.array, states: Any, keep: mx.array | None) -> tuple[mx.array, list]:
        """The output and the next states, of a projected x; `keep` drops h where it is 0."""
        raise NotImplementedError

    def has_kernel(self) -> bool:
        """Whether `kernel`, with its own derivative, computes this cell."""
        return inherits(self, "kernel", "step", "recur") and self.activation is activations.tanh

    def call(  # type: ignore[override]
        self, inputs: mx.array, states: Any, training: bool = False
    ) -> tuple[mx.array, Any]:
        x = dropped(inputs, self.dropout_mask(inputs.shape, self.dropout, training))
        nested = isinstance(states, list | tuple)
        keep = self.dropout_mask((*inputs.shape[:1], self.units), self.recurrent_dropout, training)
        output, new = self.step(self.project(x), states if nested else [states], keep)
        return output, new if nested else new[0]

    def over_time(self, x: mx.array, states: Any, mask: mx.array | None, training: bool) -> Run:
        """All steps of x (time, batch, in). A sequence has one dropout mask for all its steps."""
        x = self.project(dropped(x, self.dropout_mask(x.shape[1:], self.dropout, training)))
        keep = self.dropout_mask(states[0].shape, self.recurrent_dropout, training)
        if training and self.has_kernel():
            return scan(self.kernel, x, self.Wh, self.biases[1], states, mask, keep)
        return loop(lambda x_t, s: self.step(x_t, s, keep), x, states, mask)


class SimpleRNNCell(Cell):
    """h' = activation(Wx x + Wh h + b), with one gate; states h. See SimpleRNN."""

    kernel = SimpleKernel

    def step(self, x: mx.array, states: Any, keep: mx.array | None) -> tuple[mx.array, list]:
        h = self.activation(x + self.recur(dropped(states[0], keep)))
        return h, [h]


class GatedCell(Cell):
    """A cell with gates in (0, 1), made by `recurrent_activation`."""

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(units, activation, use_bias, **kwargs)
        self.recurrent_activation = activations.get(recurrent_activation)

    def has_kernel(self) -> bool:
        return super().has_kernel() and self.recurrent_activation is activations.sigmoid


class LSTMCell(GatedCell):
    """i, f, o = gate(Wx x + Wh h + b), g = activation(…); c' = f c + i g, h' = o activation(c').

    Gates i, f, g, o; states h, c. With `unit_forget_bias` the bias of f starts at 1. See LSTM.
    """

    order = (0, 1, 2, 3)
    kernel = LSTMKernel

    def __init__(
        self, units: int, *args: Any, unit_forget_bias: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(units, *args, **kwargs)
        self.unit_forget_bias = unit_forget_bias

    @property
    def state_size(self) -> Any:
        return [self.units, self.units]

    def add_gate_bias(self, size: int) -> None:
        def initializer(shape: tuple, dtype: mx.Dtype) -> mx.array:
            bias = self.bias_initializer(shape, dtype)
            if self.unit_forget_bias:
                bias[self.units : 2 * self.units] = 1
            return bias

        if self.use_bias:
            self.add_weight(
                name="bias",
                shape=(size,),
                initializer=initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def step(self, x: mx.array, states: Any, keep: mx.array | None) -> tuple[mx.array, list]:
        h, c = states
        i, f, g, o = mx.split(x + self.recur(dropped(h, keep)), 4, axis=-1)
        gate = self.recurrent_activation
        c = gate(f) * c + gate(i) * self.activation(g)
        h = gate(o) * self.activation(c)
        return h, [h, c]


class GRUCell(GatedCell):
    """r, z = gate(Wx x + Wh h + b), n = activation(Wx x + r (Wh h + b)); h' = (1 - z) n + z h.

    Gates r, z, n; state h. `reset_after=False` takes Wh (r h) in place of r (Wh h + b).
    With `reset_after` bias is (2, gates·units): one row for x, one for h. See GRU.
    """

    order = (1, 0, 2)
    kernel = GRUKernel

    def __init__(self, units: int, *args: Any, reset_after: bool = True, **kwargs: Any) -> None:
        super().__init__(units, *args, **kwargs)
        self.reset_after = reset_after

    def has_kernel(self) -> bool:
        return super().has_kernel() and self.reset_after

    def add_gate_bias(self, size: int) -> None:
        if self.use_bias:
            shape = (2, size) if self.reset_after else (size,)
            self.add_weight(name="bias", shape=shape, role="bias", blocks=self.order)

    @property
    def biases(self) -> tuple[mx.array | None, mx.array | None]:
        if self.use_bias and self.reset_after:
            return self.bias[0], self.bias[1]
        return super().biases

    def step(self, x: mx.array, states: Any, keep: mx.array | None) -> tuple[mx.array, list]:
        h, gate, cut = states[0], self.recurrent_activation, 2 * self.units
        kept = dropped(h, keep)
        x_r, x_z, x_n = mx.split(x, 3, axis=-1)
        if self.reset_after:
            p_r, p_z, p_n = mx.split(self.recur(kept), 3, axis=-1)
            n = self.activation(x_n + gate(x_r + p_r) * p_n)
        else:
            p_r, p_z = mx.split(kept @ self.Wh[:cut].T, 2, axis=-1)
            n = self.activation(x_n + (gate(x_r + p_r) * kept) @ self.Wh[cut:].T)
        h = n + gate(x_z + p_z) * (h - n)
        return h, [h]


class StackedRNNCells(Layer):
    """Cells on top of each other, as one cell: each has the output of the one before as input.

    Source: https://keras.io/api/layers/recurrent_layers/stacked_rnn_cell/
    """

    def __init__(self, cells: list[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cells = [as_cell(self.name, cell) for cell in cells]

    @property
    def state_size(self) -> Any:
        return [cell.state_size for cell in self.cells]

    @property
    def output_size(self) -> Any:
        return output_size(self.cells[-1])

    def build(self, input_shape: tuple) -> None:
        for cell in self.cells:
            build_cell(cell, input_shape)
            input_shape = (input_shape[0], output_size(cell))

    def get_initial_state(self, batch_size: int) -> list:
        return [initial_state(cell, batch_size) for cell in self.cells]

    def call(  # type: ignore[override]
        self, inputs: mx.array, states: Any, training: bool = False
    ) -> tuple[mx.array, list]:
        _, output, new = self.over_time(inputs[None], states, None, training)
        return output, new

    def over_time(self, x: mx.array, states: Any, mask: mx.array | None, training: bool) -> Run:
        """Cell after cell, each over all of time."""
        new = []
        last = x
        for cell, state in zip(self.cells, states, strict=True):
            x, last, state = run(cell, x, state, mask, training)
            new.append(state)
        return x, last, new


def zero_states(state_size: Any, batch: int) -> list[mx.array]:
    """Zeros (batch, size) for a size, or for each of a list of them."""
    sizes = state_size if isinstance(state_size, list | tuple) else [state_size]
    return [mx.zeros((batch, size)) for size in sizes]


def initial_state(cell: Any, batch: int) -> list:
    """What the cell says it starts from, else zeros of its `state_size`."""
    if not hasattr(cell, "get_initial_state"):
        return zero_states(cell.state_size, batch)
    states = cell.get_initial_state(batch_size=batch)
    return list(states) if isinstance(states, list | tuple) else [states]


def starts_from_one_array(cell: Any) -> bool:
    """Whether a cell that does not say what it starts from has one state, and no list of it."""
    return not hasattr(cell, "get_initial_state") and isinstance(cell.state_size, int)


def inherits(cell: Any, shortcut: str, *names: str) -> bool:
    """Whether these methods are still those of the class that `shortcut` was written for."""
    own = next(cls for cls in type(cell).__mro__ if shortcut in vars(cls))
    return all(getattr(type(cell), name) is getattr(own, name) for name in names)


def run(cell: Any, x: mx.array, states: Any, mask: mx.array | None, training: bool) -> Run:
    """The cell over x (time, batch, ...): in its own way if it has one, else step by step."""
    if hasattr(cell, "over_time") and inherits(cell, "over_time", "call"):
        return cell.over_time(x, states, mask, training)
    flags = {"training": training} if isinstance(cell, Layer) else {}
    call = cell if isinstance(cell, Layer) else cell.call

    def step(x_t: mx.array, states: Any) -> tuple[mx.array, Any]:
        output, new = call(x_t, states, **flags)
        return output, list(new) if isinstance(new, list | tuple) else [new]

    return loop(step, x, states, mask)


def as_cell(name: str, cell: Any) -> Any:
    """A cell, or one of its config, or a list of cells stacked. Refuses anything else."""
    if isinstance(cell, list | tuple):
        return StackedRNNCells(list(cell))
    if isinstance(cell, dict) and "class_name" in cell:
        cell = LAYERS.get(cell)
    for needed in ("call", "state_size"):
        if not hasattr(cell, needed):
            raise ValueError(
                f"{name}: expected a cell with `call` and `state_size`, got {cell!r} without "
                f"`{needed}`. Define call(inputs, states) -> (output, new_states)."
            )
    return cell


def build_cell(cell: Any, shape: tuple) -> None:
    if isinstance(cell, Layer) and not cell.built:
        cell.build(shape)


def output_size(cell: Any) -> Any:
    size = getattr(cell, "output_size", None) or cell.state_size
    return size[0] if isinstance(size, list | tuple) else size
