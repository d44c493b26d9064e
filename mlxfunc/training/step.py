"""The compiled step: a function of (state, batch) under `mx.compile`."""

from __future__ import annotations

import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

from ..call_record import recording
from ..conversion import compute
from ..graph import leaves
from ..random_state import get_random_key, set_random_state, state_of_key
from . import distributed
from .data import Batch
from .precision import cast as cast_floats
from .precision import keep_if, lowered

MAX_SIGNATURES = 16
COMPILE_FROM = 1000


class CompiledStep:
    """`function(batch)`, which moves `state` in place, compiled once for each size of batch.

    Sizes beyond `MAX_SIGNATURES` run uncompiled, with one warning. When a step returns, the new
    state and the results are being computed, and any thread may ask for them. A step that fails
    leaves the state as it was before.

    Args:
        state: dicts, lists and modules whose arrays the function reads and replaces.
        compiled: False runs the function as it is.
        lock: while it is held by another thread, the state may hold what is being traced.
    """

    def __init__(
        self, function: Callable[..., Any], state: list[Any], compiled: bool, lock: Any
    ) -> None:
        self.function, self.state, self.compiled = function, state, compiled
        self.lock = lock
        self.signatures: set[Any] = set()
        self._warned = False
        captured = [*state, mx.random.state]
        self._run = (
            mx.compile(function, inputs=captured, outputs=captured) if compiled else function
        )

    def __call__(self, batch: Batch) -> Any:
        arguments = (batch.x, batch.y, batch.w, batch.rows, batch.total)
        with self.lock, _Unharmed(self.state):
            result = self._chosen(batch)(*arguments)
            compute(result, self.state)
        return result

    def _chosen(self, batch: Batch) -> Callable[..., Any]:
        """The compiled function, unless there are too many sizes of batches."""
        arrays = (*batch.x, *batch.y, None, *batch.w)
        signature = tuple(None if a is None else (*a.shape, a.dtype) for a in arrays)
        if len(self.signatures) < MAX_SIGNATURES or signature in self.signatures:
            self.signatures.add(signature)
            return self._run
        self._warn()
        return self.function

    def _warn(self) -> None:
        if self.compiled and not self._warned:
            self._warned = True
            warnings.warn(
                f"data: more than {MAX_SIGNATURES} different batch sizes; further ones run "
                "uncompiled, which is slower. Pad the batches to a few sizes, or bucket them.",
                stacklevel=2,
            )


class StepCache:
    """The compiled steps of a model, which one run after the other uses.

    A step is made anew when the state that it moves is held by other objects than before.
    """

    def __init__(self) -> None:
        self._steps: dict[Any, CompiledStep] = {}
        self._lock = threading.RLock()
        self.single_batches = 0  # Steps of `train_on_batch` and `test_on_batch` so far.

    def get(self, model: Any, kind: str, compiled: bool) -> CompiledStep:
        """The step that calls `train_step`, `test_step` or `predict_step`, by its first word."""
        trained = tuple(dict(tree_flatten(model.trainable_parameters())))
        state = _state_of(model, kind)
        step = self._steps.get((kind, compiled, trained))
        if step is None or [id(part) for part in step.state] != [id(part) for part in state]:
            step = CompiledStep(_function(model, kind), state, compiled, self._lock)
            self._steps[kind, compiled, trained] = step
        return step


def _state_of(model: Any, kind: str) -> list[Any]:
    """What holds the arrays that a step reads and replaces."""
    state: list[Any] = [model]
    if kind != "predict":
        state += metric_states(model)
    if kind == "train":
        state.append(model.optimizer.state)
        state += [model.loss_scale.state] if model.loss_scale is not None else []
    return state


def metric_states(model: Any) -> list[dict[str, mx.array]]:
    """The state of each metric once: compile's, and those that the model itself holds."""
    states = [*model.objective.state, *(metric.state for metric in model.metrics)]
    return list({id(state): state for state in states}.values())


# The rows of the step that is running, and those of all machines together.
_rows: ContextVar[tuple[int, int]] = ContextVar("rows", default=(1, 1))


def _function(model: Any, kind: str) -> Callable[..., Any]:
    """The hook of that kind as a function of a batch's parts."""

    def step(x: list, y: list, w: list, rows: int, total: int) -> Any:
        hook = getattr(model, f"{kind}_step")
        token = _rows.set((rows, total))
        try:
            with recording():
                result = hook(pack(Batch(x, y, w)))
        finally:
            _rows.reset(token)
        if kind != "predict" and not isinstance(result, Mapping):
            raise TypeError(
                f"{model.name}: expected {kind}_step to return a dict of what is logged, got "
                f"{result!r}. Return self.compute_metrics(x, y, y_pred, sample_weight)."
            )
        return result if kind == "predict" else dict(result)

    return step


class _Unharmed:
    """Puts every array of `state` back when the block raises.

    Tracing leaves tracers in it, and what cannot be computed makes all later states worthless.
    """

    def __init__(self, state: list[Any]) -> None:
        self.state = state

    def __enter__(self) -> None:
        self.random = get_random_key()
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
        set_random_state(state_of_key(self.random))


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


def forward(model: Any, x: Any, training: bool) -> Any:
    """The outputs for a batch, in float32; losses and masks go to the step's record."""
    dtype = model.compute_dtype
    with lowered(model, dtype) as cast:
        outputs = model(cast(x), training=training)
    return outputs if dtype is None else cast_floats(outputs, mx.float32)


def train(model: Any, data: Any) -> Mapping[str, mx.array]:
    """Gradients, the optimizer's update, constraints, metrics: the default `train_step`."""
    x, y, w = unpack(data)
    scale = model.loss_scale
    own_scale = hasattr(model.optimizer, "scale_loss")  # MLX's optimizers have none.

    def run(parameters: Any) -> tuple:
        model.update(parameters)
        y_pred = forward(model, x, training=True)
        loss = _loss(model, x, y, y_pred, w, training=True)
        scaled = model.optimizer.scale_loss(loss) if own_scale else loss
        scaled = scaled if scale is None else scaled * scale.state["scale"]
        return scaled, loss, y_pred

    parameters = model.trainable_parameters()
    if tree_flatten(parameters):
        try:
            (_, loss, y_pred), gradients = mx.value_and_grad(run)(parameters)
        finally:
            model.update(parameters)
        apply(model, gradients)
    else:
        _, loss, y_pred = run(parameters)
    return _logs(model, x, y, y_pred, w, loss)


def test(model: Any, data: Any) -> Mapping[str, mx.array]:
    """Losses and metrics without training: the default `test_step`."""
    x, y, w = unpack(data)
    y_pred = forward(model, x, training=False)
    return _logs(model, x, y, y_pred, w, _loss(model, x, y, y_pred, w, training=False))


def predict(model: Any, data: Any) -> Any:
    """The outputs in inference mode: the default `predict_step`."""
    return forward(model, unpack(data)[0], training=False)


def _loss(model: Any, x: Any, y: Any, y_pred: Any, w: Any, training: bool) -> mx.array:
    loss = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=w, training=training)
    if loss is None:
        raise TypeError(
            f"{model.name}: expected compute_loss to return the loss, got None. "
            "Return a scalar array."
        )
    return mx.array(loss) if not isinstance(loss, mx.array) else loss


def _logs(model: Any, x: Any, y: Any, y_pred: Any, w: Any, loss: mx.array) -> Mapping:
    model.objective.loss_tracker.track(loss, leaves(x)[0].shape[0])
    return model.compute_metrics(x, y, y_pred, sample_weight=w)


def apply(model: Any, gradients: Any) -> None:
    """Move the weights by these gradients, averaged over all machines, then constrain them."""
    gradients = distributed.average_gradients(gradients, *_rows.get())
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
