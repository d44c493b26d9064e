"""Recurrence over time: a loop for any step, and a scan with its own derivative for the fast ones.

Sequences are time-major here, (time, batch, ...). `mlx.nn`'s recurrent layers index their input
at each step, and the derivative of each indexing is an array as large as the whole input:
quadratic in time. `unstack` has the derivative that makes it linear. `scan` adds a backward pass
that takes all that does not depend on the incoming gradient out of its loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import mlx.core as mx
from mlx.utils import tree_map

from ._fast import sigmoid, tanh

# `mx.compile` compares all consumers of an array with each other, and an array with many
# siblings is costly to copy: long sequences are cut, and joined, in two levels. What a backward
# pass prepares for so many steps at once also fits a cache.
CHUNK = 32

Arrays = list[mx.array]


@mx.custom_function
def _cut(x: mx.array) -> Any:
    return mx.split(x, range(CHUNK, len(x), CHUNK))


@_cut.vjp
def _cut_vjp(x: mx.array, cotangents: Arrays, outputs: Arrays) -> mx.array:
    return mx.concatenate(cotangents)


def _split(x: mx.array) -> Arrays:
    # Without a derivative: where none is asked for, it would only cost time to compile.
    return [mx.squeeze(step, 0) for step in mx.split(x, len(x))]


_steps = mx.custom_function(_split)


@_steps.vjp
def _steps_vjp(x: mx.array, cotangents: Arrays, outputs: Arrays) -> mx.array:
    return mx.stack(cotangents)


def cut(x: mx.array) -> Arrays:
    """x (time, ...) in pieces of `CHUNK` steps."""
    return cast(Arrays, _cut(x)) if len(x) > CHUNK else [x]


def join(pieces: Arrays) -> mx.array:
    """The inverse of `cut`."""
    return mx.concatenate(pieces) if len(pieces) > 1 else pieces[0]


def unstack(x: mx.array) -> Arrays:
    """The steps of x (time, ...), whose gradient is one stack of theirs."""
    return [step for piece in cut(x) for step in cast(Arrays, _steps(piece))]


def stack(steps: Arrays) -> mx.array:
    """The inverse of `unstack`."""
    return join([mx.stack(steps[i : i + CHUNK]) for i in range(0, len(steps), CHUNK)])


def time_major(x: mx.array) -> mx.array:
    """(batch, time, ...) to (time, batch, ...), or back."""
    return mx.swapaxes(x, 0, 1)


def spread(mask: mx.array, ndim: int) -> mx.array:
    """A mask with as many trailing axes of size 1 as it takes to select from `ndim` axes."""
    return mx.reshape(mask, mask.shape + (1,) * (ndim - mask.ndim))


def loop(
    step: Callable[[mx.array, Any], tuple[mx.array, Any]],
    x: mx.array,
    states: Any,
    mask: mx.array | None = None,
) -> tuple[mx.array, mx.array, Any]:
    """Run `step(x_t, states) -> (output, states)` over x (time, batch, ...).

    Gives all outputs, the last one, and the last states. Where mask (time, batch) is false the
    states are carried and the previous output, the first state of the (last) cell, is repeated.
    """
    outputs: Arrays = []
    masks: Sequence[Any] = [None] * len(x) if mask is None else unstack(mask)
    for x_t, mask_t in zip(unstack(x), masks, strict=True):
        output, new = step(x_t, states)
        if mask_t is not None:
            output, new = tree_map(
                lambda a, b, m=mask_t: mx.where(spread(m, a.ndim), a, b),
                (output, new),
                (repeated(states), states),
            )
        outputs.append(output)
        states = new
    return stack(outputs), outputs[-1], states


def repeated(states: Any) -> mx.array:
    """The output of a masked step: the first state of the cell, of the last one in a stack."""
    while isinstance(states[0], list | tuple):
        states = states[-1]
    return states[0]


class Kernel:
    """A cell, as `scan` needs it: one step, and its derivative in the parts that can be hoisted.

    The recurrence is `states = step(x, p, states)` with p = h Whᵀ + b, h being the first state.
    An instance, with the constants it uses, serves a piece of a sequence.
    """

    def __init__(self, units: int) -> None:
        self.units = units

    def step(self, x: mx.array, p: mx.array, states: Arrays) -> tuple[Arrays, Arrays]:
        """The next states, and what the derivative needs to know."""
        raise NotImplementedError

    def slopes(self, before: Arrays, saved: Arrays) -> Arrays:
        """What a gradient will be multiplied with, for all steps at once."""
        raise NotImplementedError

    def back(self, grads: Arrays, slopes: Arrays) -> tuple[mx.array, mx.array, list]:
        """The gradient of p, what `inputs` will need, and the gradients of the states before.

        The states also get what comes through p; None stands for no other gradient.
        """
        raise NotImplementedError

    def inputs(self, kept: mx.array, slopes: Arrays) -> tuple[mx.array, mx.array]:
        """The gradients of x and of p, for all steps at once."""
        return kept, kept


def scan(
    kernel: type[Kernel],
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None,
    states: Arrays,
    mask: mx.array | None = None,
    keep: mx.array | None = None,
) -> tuple[mx.array, mx.array, Arrays]:
    """`loop` of a kernel over projected inputs x (time, batch, gates·units), in float32.

    weight (gates·units, units), bias (gates·units); states (batch, units) each; mask
    (time, batch) as in `loop`; `keep` (batch, units) multiplies h before its projection.
    """
    dtype = x.dtype
    x, weight, bias, states, keep = tree_map(
        lambda a: a if a is None else a.astype(mx.float32), (x, weight, bias, list(states), keep)
    )
    outputs = []
    pieces = cut(x)
    masks: Sequence[Any] = [None] * len(pieces) if mask is None else cut(mask)
    for piece, mask_piece in zip(pieces, masks, strict=True):
        cell = kernel(weight.shape[1])
        output, states = _scan_piece(cell, piece, weight, bias, states, mask_piece, keep)
        outputs.append(output)
    finals = [state.astype(dtype) for state in states]
    return join(outputs).astype(dtype), finals[0], finals


def _scan_piece(
    kernel: Kernel,
    x: mx.array,
    weight: mx.array,
    bias: mx.array | None,
    states: Arrays,
    mask: mx.array | None,
    keep: mx.array | None,
) -> tuple[mx.array, Arrays]:
    """`scan` of a few steps: all outputs and the last states, with a derivative by hand."""
    masks: Sequence[Any] = [None] * len(x) if mask is None else _split(mask[..., None])

    @mx.custom_function
    def run(x: mx.array, weight: mx.array, bias: Arrays, states: Arrays) -> Any:
        sequences, saved, projection = [], [], weight.T
        for x_t, mask_t in zip(_split(x), masks, strict=True):
            h = states[0] if keep is None else states[0] * keep
            p = mx.addmm(bias[0], h, projection) if bias else h @ projection
            new, save = kernel.step(x_t, p, states)
            if mask_t is not None:
                new = [mx.where(mask_t, a, b) for a, b in zip(new, states, strict=True)]
            states = new
            sequences.append(new)
            saved.append(save)
        return _stacks(sequences), list(states), _stacks(saved)

    @mx.custom_function
    def gradient(primals: Any, cotangents: Any, outputs: Any) -> Any:
        x, weight, bias, states = primals
        sequences, _, saved = outputs
        before = [mx.concatenate([s[None], q[:-1]]) for s, q in zip(states, sequences, strict=True)]
        slopes = kernel.slopes(before, saved)
        if mask is not None:
            slopes = [mx.where(spread(mask, a.ndim), a, 0) for a in slopes]
        rows = list(zip(*map(_split, slopes), _split(cotangents[0][0]), masks, strict=True))
        grads = list(cotangents[1])
        kept = []
        for *row, dy, mask_t in reversed(rows):
            grads[0] = grads[0] + dy
            dp, keep_t, direct = kernel.back(grads, row)
            if mask_t is not None:
                held = [mx.where(mask_t, 0, a) for a in grads]
                direct = [b if a is None else a + b for a, b in zip(direct, held, strict=True)]
            dh = dp @ weight if keep is None else (dp @ weight) * keep
            grads = [dh if direct[0] is None else dh + direct[0], *direct[1:]]
            kept.append(keep_t)
        dx, dp = kernel.inputs(stack(kept[::-1]), slopes)
        h = before[0] if keep is None else before[0] * keep
        dweight = mx.flatten(dp, 0, 1).T @ mx.flatten(h, 0, 1)
        return dx, dweight, [mx.sum(dp, (0, 1)) for _ in bias], grads

    @gradient.vjp
    def second(primals: Any, cotangents: Any, outputs: Any) -> Any:
        # It would have to follow what `run` saved, too.
        raise NotImplementedError(
            "scan: expected one derivative, got the derivative of a derivative. "
            "Call the recurrent layer with training=False: that way has all of them."
        )

    run.vjp(gradient)
    sequences, finals, _ = cast(Any, run(x, weight, [] if bias is None else [bias], states))
    return sequences[0], finals


def _stacks(rows: Iterable[Arrays]) -> list[mx.array]:
    return [stack(list(column)) for column in zip(*rows, strict=True)]


class SimpleKernel(Kernel):
    """h' = tanh(x + p)"""

    def step(self, x: mx.array, p: mx.array, states: Arrays) -> tuple[Arrays, Arrays]:
        h = tanh(x + p)
        return [h], [h]

    def slopes(self, before: Arrays, saved: Arrays) -> Arrays:
        return [1 - mx.square(saved[0])]

    def back(self, grads: Arrays, slopes: Arrays) -> tuple[mx.array, mx.array, list]:
        dp = grads[0] * slopes[0]
        return dp, dp, [None]


class LSTMKernel(Kernel):
    """i, f, o = σ(x + p), g = tanh(x + p); c' = f c + i g; h' = o tanh(c')

    σ(x) = tanh(x / 2) / 2 + 1/2, so one tanh makes all gates.
    """

    def __init__(self, units: int) -> None:
        super().__init__(units)
        self.scale, self.shift = (
            mx.repeat(mx.array(row), units) for row in ([0.5, 0.5, 1.0, 0.5], [0.5, 0.5, 0.0, 0.5])
        )
        self.is_output = mx.array([[False], [False], [False], [True]])

    def step(self, x: mx.array, p: mx.array, states: Arrays) -> tuple[Arrays, Arrays]:
        gates = tanh((x + p) * self.scale) * self.scale + self.shift
        i, f, g, o = mx.split(gates, 4, axis=-1)
        c = f * states[1] + i * g
        a = tanh(c)
        return [o * a, c], [gates, a]

    def slopes(self, before: Arrays, saved: Arrays) -> Arrays:
        gates, a = saved
        i, f, g, o = mx.split(gates, 4, axis=-1)
        inner = mx.square(self.scale) - mx.square(gates - self.shift)
        outer = mx.stack([g, before[1], i, a], axis=-2)
        return [mx.unflatten(inner, -1, (4, self.units)) * outer, o * (1 - mx.square(a)), f]

    def back(self, grads: Arrays, slopes: Arrays) -> tuple[mx.array, mx.array, list]:
        gates, through, f = slopes
        dh, dc = grads
        dc = dc + dh * through
        dp = mx.flatten(gates * mx.where(self.is_output, dh[:, None], dc[:, None]), 1)
        return dp, dp, [None, dc * f]


class GRUKernel(Kernel):
    """r, z = σ(x + p); n = tanh(x + r p); h' = (1 - z) n + z h, each with its block of x and p"""

    def step(self, x: mx.array, p: mx.array, states: Arrays) -> tuple[Arrays, Arrays]:
        h, gates_end = states[0], [2 * self.units]
        (x_gates, x_new), (p_gates, p_new) = (mx.split(a, gates_end, axis=-1) for a in (x, p))
        gates = sigmoid(x_gates + p_gates)
        r, z = mx.split(gates, 2, axis=-1)
        n = tanh(x_new + r * p_new)
        return [n + z * (h - n)], [gates, n, p_new]

    def slopes(self, before: Arrays, saved: Arrays) -> Arrays:
        gates, n, p_new = saved
        r, z = mx.split(gates, 2, axis=-1)
        dn = (1 - z) * (1 - mx.square(n))
        dr = dn * p_new * r * (1 - r)
        dz = (before[0] - n) * z * (1 - z)
        return [z, mx.stack([dr, dz, dn * r], axis=-2), mx.stack([dr, dz, dn], axis=-2)]

    def back(self, grads: Arrays, slopes: Arrays) -> tuple[mx.array, mx.array, list]:
        z, recurrent, _ = slopes
        dh = grads[0]
        return mx.flatten(recurrent * dh[:, None], 1), dh, [dh * z]

    def inputs(self, kept: mx.array, slopes: Arrays) -> tuple[mx.array, mx.array]:
        _, recurrent, projected = slopes
        dh = kept[:, :, None]
        return mx.flatten(projected * dh, 2), mx.flatten(recurrent * dh, 2)
