"""The compiled step: a function of (state, batch) under `mx.compile`."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from ..graph import leaves
from ..layer import collect_losses
from ..random_state import get_random_state, set_random_state
from . import distributed
from .data import Batch
from .precision import cast as cast_floats
from .precision import keep_if, lowered

MAX_SIGNATURES = 16
COMPILE_FROM = 1000


class Step:
    """`function(batch)`, which moves `state` in place, compiled once for each size of batch.

    Sizes beyond `MAX_SIGNATURES` run uncompiled, with one warning. When tracing fails the state
    is what it was before.

    Args:
        state: dicts, lists and modules whose arrays the function reads and replaces.
    """

    def __init__(self, function: Callable[..., Any], state: list[Any], compiled: bool) -> None:
        self.function, self.state = function, state
        self.signatures: set[Any] = set()
        self._warned = False
        self.compiled = compiled
        captured = [*state, mx.random.state]
        self._run = (
            mx.compile(function, inputs=captured, outputs=captured) if compiled else function
        )

    def __call__(self, batch: Batch) -> Any:
        arguments = (batch.x, batch.y, batch.w, batch.rows, batch.total)
        signature = tuple(
            None if a is None else (*a.shape, a.dtype) for a in (*batch.x, *batch.y, None, *batch.w)
        )
        if signature in self.signatures:
            return self._run(*arguments)
        if len(self.signatures) >= MAX_SIGNATURES:
            self._warn()
            return self.function(*arguments)
        with _Unharmed(self.state):
            result = self._run(*arguments)
        self.signatures.add(signature)
        return result

    def _warn(self) -> None:
        if self.compiled and not self._warned:
            self._warned = True
            warnings.warn(
                f"data: more than {MAX_SIGNATURES} different batch sizes; further ones run "
                "uncompiled, which is slower. Pad the batches to a few sizes, or bucket them.",
                stacklevel=2,
            )


class _Unharmed:
    """Puts every array of `state` back when the block raises: tracing leaves tracers in it."""

    def __init__(self, state: list[Any]) -> None:
        self.state = state

    def __enter__(self) -> None:
        self.random = get_random_state()
        self.places: list[tuple[Any, Any, mx.array]] = []
        seen: set[int] = set()
        stack = list(self.state)
        while stack:
            holder = stack.pop()
            if id(holder) in seen:
                continue
            seen.add(id(holder))
            for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
                if isinstance(value, mx.array):
                    self.places.append((holder, key, value))
                elif isinstance(value, dict | list):
                    stack.append(value)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            return
        for holder, key, value in self.places:
            holder[key] = value
        set_random_state(self.random)


def should_compile(jit_compile: bool | str, steps: int | None) -> bool:
    """Whether a run of so many steps (None: not known) is worth compiling.

    "auto": always on a GPU, where it takes milliseconds. On the CPU the first compilation runs a
    C++ compiler for seconds: there from `COMPILE_FROM` steps on, if a compiler is installed.
    """
    if jit_compile != "auto":
        return bool(jit_compile)
    if mx.default_device().type == mx.DeviceType.gpu:
        return True
    compiler = "cc" if sys.platform == "darwin" else "g++"
    long = steps is None or steps >= COMPILE_FROM
    return long and shutil.which(compiler) is not None


def unpack(data: Any) -> tuple[Any, Any, Any]:
    """x, y and sample_weight of what `train_step` is given; what is missing is None."""
    x, y, w = (*data, None, None)[:3] if isinstance(data, tuple) else (data, None, None)
    return x, y, w


def pack(batch: Batch) -> tuple:
    """`(x, y, sample_weight)` as users write them: alone when single, without what is missing."""
    parts = [p[0] if len(p) == 1 else p for p in (batch.x, batch.y, batch.w) if p]
    return tuple(parts)


def as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


class Forward:
    """One run of the model on a batch: outputs and masks, flat, and what layers add to the loss."""

    def __init__(self, model: Any, x: Any, training: bool) -> None:
        with lowered(model, model.compute_dtype) as cast, collect_losses() as added:
            outputs, masks = model.run(cast(x), training=training)
        self.structure = outputs
        self.outputs = leaves(outputs)
        if model.compute_dtype is not None:
            self.outputs = leaves(cast_floats(outputs, mx.float32))
        self.masks = leaves(masks)
        self.added = list(added)


def loss_of(model: Any, forward: Forward, y: Any, w: Any) -> tuple[mx.array, list[mx.array]]:
    """The total loss, and the unweighted loss of each output."""
    objective = model.objective
    ys, ws = as_list(y), as_list(w)
    values = objective.loss(ys, forward.outputs, ws, forward.masks)
    total = objective.total(values)
    for added in (*forward.added, model.regularization_loss()):
        total = total + added.astype(mx.float32)
    return total, values


def train(model: Any, data: Any) -> dict[str, mx.array]:
    """Gradients, the optimizer's update, constraints, metrics: the default `train_step`."""
    x, y, w = unpack(data)
    scale = model.loss_scale
    own_scale = hasattr(model.optimizer, "scale_loss")  # MLX's optimizers have none.

    def run(parameters: Any) -> tuple:
        model.update(parameters)
        forward = Forward(model, x, training=True)
        total, values = loss_of(model, forward, y, w)
        scaled = model.optimizer.scale_loss(total) if own_scale else total
        scaled = scaled if scale is None else scaled * scale.state["scale"]
        return scaled, total, values, forward.outputs, forward.masks

    parameters = model.trainable_parameters()
    if tree_flatten(parameters):
        try:
            (_, total, values, outputs, masks), gradients = mx.value_and_grad(run)(parameters)
        finally:
            model.update(parameters)
        apply(model, gradients)
    else:
        _, total, values, outputs, masks = run(parameters)
    objective, rows = model.objective, outputs[0].shape[0]
    objective.track(total, values, rows)
    objective.update(as_list(y), outputs, as_list(w), masks)
    return objective.results()


def apply(model: Any, gradients: Any) -> None:
    """Move the weights by these gradients, averaged over all machines, then constrain them."""
    rows, total = model.batch_rows
    gradients = distributed.average_gradients(gradients, rows, total)
    scale = model.loss_scale
    if scale is None:
        model.optimizer.update(model, gradients)
    else:
        gradients = scale.unscale(gradients)
        finite = scale.finite(gradients)
        weights, state = model.trainable_parameters(), tree_map(lambda a: a, model.optimizer.state)
        model.optimizer.update(model, gradients)
        model.update(keep_if(finite, model.trainable_parameters(), weights))
        kept = keep_if(finite, model.optimizer.state, state)
        model.optimizer.state.update(kept)
        scale.advance(finite)
    model.apply_constraints()
    if distributed.size() > 1:
        distributed.average_statistics(model)


def test(model: Any, data: Any) -> dict[str, mx.array]:
    """Losses and metrics without training: the default `test_step`."""
    x, y, w = unpack(data)
    forward = Forward(model, x, training=False)
    total, values = loss_of(model, forward, y, w)
    model.objective.track(total, values, forward.outputs[0].shape[0])
    model.objective.update(as_list(y), forward.outputs, as_list(w), forward.masks)
    return model.objective.results()


def predict(model: Any, data: Any) -> list[mx.array]:
    """The outputs in inference mode, flat."""
    return Forward(model, unpack(data)[0], training=False).outputs
