"""Recurrent layers: SimpleRNN, LSTM, GRU, and RNN over any cell."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from ..graph import leaves
from ..layer import InputSpec, Layer
from ._scan import spread, time_major
from .cells import (
    GRUCell,
    LSTMCell,
    Run,
    SimpleRNNCell,
    StackedRNNCells,
    as_cell,
    build_cell,
    initial_state,
    run,
    starts_from_one_array,
)
from .core import broadcasts


class Recurrent(Layer):
    """`self.cell` over a sequence, with all of Keras's ways to start, mask, reverse and return.

    x (batch, time, ...) → the last output, or all of them with `return_sequences`; with
    `return_state` a tuple of that and each last state. Called on a list, what follows x is the
    initial state; otherwise `initial_state` is, or zeros. Where mask (batch, time) is false the
    states are carried and the previous output is repeated, or 0 with `zero_output_for_mask`.
    `go_backwards` reads, and returns, time in reverse. `stateful` starts from where the last
    call ended, for a fixed batch; `reset_state` starts over. `unroll` changes nothing.

    Where we differ from Keras: the mask of x counts beside `initial_state=` too, where Keras
    takes it for a mask of neither.
    """

    supports_masking = True
    cell: Any
    rank: int | None = 3  # of the input; None: 3 or more

    def __init__(
        self,
        *args: Any,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.stateful, self.unroll = go_backwards, stateful, unroll
        self.zero_output_for_mask = zero_output_for_mask
        self.states: list[mx.array] | None = None

    def build(self, sequences_shape: Any) -> None:
        shape = sequences_shape[0] if _is_list_of_shapes(sequences_shape) else sequences_shape
        known = {axis: size for axis, size in enumerate(shape) if axis > 1 and self.rank}
        self._spec = InputSpec(self.rank, min_ndim=3, axes=known)
        self._spec.check(self.name, shape)
        self.build_cell((shape[0], *shape[2:]))
        if self.stateful:
            if shape[0] is None:
                raise ValueError(
                    f"{self.name}: expected a fixed batch for stateful=True, got shape {shape}. "
                    "Give batch_size= in Input."
                )
            self.states = leaves(initial_state(self.cell, shape[0]))
            self._no_grad.always.add("states")
            self._no_grad.add("states")

    def build_cell(self, step_shape: tuple) -> None:
        super().build(step_shape)

    def call(
        self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False
    ) -> Any:
        x, mask = sequences, leaves(mask)[0]
        if isinstance(sequences, list | tuple):
            x, *rest = sequences
            initial_state = rest or initial_state
        self._spec.check(self.name, x.shape)
        if not x.shape[1]:
            raise ValueError(
                f"{self.name}: expected at least one step of time, got shape {x.shape}. "
                "Leave empty sequences out."
            )
        states = self._start(x, initial_state)
        x = time_major(x)
        if mask is not None:
            mask = time_major(self._checked_mask(x, mask))
        if self.go_backwards:
            x, mask = x[::-1], mask if mask is None else mask[::-1]
        outputs, last, states = self.run_cell(x, states, mask, training)
        if mask is not None and self.zero_output_for_mask:
            outputs = mx.where(spread(mask, outputs.ndim), outputs, 0)
            last = outputs[-1]
        if self.stateful and self.states is not None:
            self.states[:] = [mx.stop_gradient(state) for state in leaves(states)]
        output = time_major(outputs) if self.return_sequences else last
        return (output, *self.cell_states(states)) if self.return_state else output

    def run_cell(self, x: mx.array, states: Any, mask: mx.array | None, training: bool) -> Run:
        return run(self.cell, x, states, mask, training)

    def cell_states(self, states: list) -> list:
        """Of stacked cells the states of each, structured as what the cell starts from."""
        if not isinstance(self.cell, StackedRNNCells):
            return states
        return [
            state[0] if starts_from_one_array(cell) else state
            for cell, state in zip(self.cell.cells, states, strict=True)
        ]

    def _start(self, x: mx.array, given: Any) -> Any:
        """The states to start from: those given, those kept, or zeros."""
        zeros = initial_state(self.cell, x.shape[0])
        wanted = [state.shape for state in leaves(zeros)]
        given = self.states if given is None else given
        values = leaves(zeros if given is None else given)
        shapes = [value.shape for value in values]
        if shapes != wanted:
            raise ValueError(
                f"{self.name}: expected initial states of shapes {wanted}, got {shapes}. "
                "A stateful layer keeps the batch it was built for."
            )
        kind = x.dtype if mx.issubdtype(x.dtype, mx.floating) else mx.float32
        found = iter(values)
        return tree_map(lambda _: next(found).astype(kind), zeros)

    def _checked_mask(self, x: mx.array, mask: mx.array) -> mx.array:
        wanted = (x.shape[1], x.shape[0])
        shape = (*wanted, *(1,) * (mask.ndim - 2))
        if not broadcasts(mask.shape, shape):
            raise ValueError(
                f"{self.name}: expected a mask of shape (batch, time) = {wanted}, "
                f"got {mask.shape}. Give one true or false a step."
            )
        return mx.broadcast_to(mask, shape).reshape(wanted).astype(mx.bool_)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return leaves(mask)[0] if self.return_sequences else None

    def reset_state(self) -> None:
        """Let a stateful layer start from zeros again."""
        if not self.stateful:
            raise AttributeError(f"{self.name}: expected stateful=True to reset the state.")
        if self.states is not None:
            self.states[:] = [mx.zeros_like(state) for state in self.states]
            mx.eval(self.states)

    reset_states = reset_state


def _is_list_of_shapes(shape: Any) -> bool:
    return bool(shape) and isinstance(shape[0], list | tuple)


class OwnCell(Recurrent):
    """A recurrent layer that is its own cell: the weights are its own."""

    @property
    def cell(self) -> Any:
        return self

    def run_cell(self, x: mx.array, states: Any, mask: mx.array | None, training: bool) -> Run:
        return self.over_time(x, states, mask, training)


class SimpleRNN(OwnCell, SimpleRNNCell):  # type: ignore[misc]
    """h_t = activation(Wx x_t + Wh h_{t-1} + b)

    x (batch, time, in) → (batch, units), or (batch, time, units) with `return_sequences`.
    Wx (units, in), Wh (units, units), bias (units). Starts, masks and states as in `Recurrent`.

    Source: https://keras.io/api/layers/recurrent_layers/simple_rnn/
    """


class LSTM(OwnCell, LSTMCell):  # type: ignore[misc]
    """i, f, o = σ(Wx x_t + Wh h_{t-1} + b), g = tanh(…); c_t = f c_{t-1} + i g; h_t = o tanh(c_t)

    x (batch, time, in) → (batch, units), or (batch, time, units) with `return_sequences`; with
    `return_state` also the last h and c. Wx (4·units, in), Wh (4·units, units), bias (4·units)
    with gates i, f, g, o. Starts, masks and states as in `Recurrent`. All gates of a sequence
    share one `recurrent_dropout` mask, where Keras draws one a gate.

    Source: https://keras.io/api/layers/recurrent_layers/lstm/
    """


class GRU(OwnCell, GRUCell):  # type: ignore[misc]
    """r, z = σ(Wx x_t + Wh h_{t-1} + b), n = tanh(Wx x_t + r (Wh h_{t-1} + b)); h_t = (1-z) n + z h

    x (batch, time, in) → (batch, units), or (batch, time, units) with `return_sequences`.
    Wx (3·units, in), Wh (3·units, units), bias (2, 3·units) for x and for h, or (3·units)
    without `reset_after`, with gates r, z, n. Starts, masks and states as in `Recurrent`.

    Source: https://keras.io/api/layers/recurrent_layers/gru/
    """


class RNN(Recurrent):
    """Any cell over a sequence.

    A cell has `call(inputs, states) -> (output, new_states)` and `state_size`, a size or a list
    of sizes; perhaps `output_size` and `get_initial_state(batch_size)`. A list of cells is
    stacked. Starts, masks and states as in `Recurrent`.

    Source: https://keras.io/api/layers/recurrent_layers/rnn/
    """

    rank = None

    def __init__(self, cell: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cell = as_cell(self.name, cell)

    def build_cell(self, step_shape: tuple) -> None:
        build_cell(self.cell, step_shape)
