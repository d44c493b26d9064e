"""A run: one call of fit, evaluate or predict."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import mlx.core as mx
import numpy as np

from . import distributed
from .callback_list import CallbackList
from .callbacks import Callback, History
from .checkpoint import Resume
from .data import Batch
from .epochs import EpochIterator
from .logs import LazyLogs, to_floats
from .outputs import Outputs
from .slots import start_training
from .step import CompiledStep, metric_states, should_compile

# What stops each kind of run when a callback sets it on the model.
STOPS = {"train": "stop_training", "test": "stop_evaluating", "predict": "stop_predicting"}


class Run:
    """One call of fit, evaluate or predict, and everything that belongs to it alone.

    It holds the data, the callbacks, what callbacks have deferred, and where a restored run goes
    on. It is a context: when it is left, also through an exception, threads have ended, callbacks
    have given back the terminal and their files, and nothing of the run is on the model.

    Args:
        data: the batches; with `validation`, those that fit validates on.
        epochs: how many passes to expect, by which is decided whether to compile.
    """

    def __init__(
        self,
        model: Any,
        data: EpochIterator,
        callbacks: CallbackList,
        validation: EpochIterator | None = None,
        epochs: int = 1,
    ) -> None:
        self.model, self.data, self.callbacks = model, data, callbacks
        self.validation = validation
        self.resume: Resume | None = None
        steps = None if data.steps is None else data.steps * epochs
        self.compiled = should_compile(model.jit_compile, steps)
        self._deferred: list[Callable[[], None]] = []
        self._exit = ExitStack()
        self._warned = False

    def __enter__(self) -> Run:
        for data in (self.data, self.validation):
            if data is not None:
                self._exit.callback(data.close)
        for callback in self.callbacks:
            # A callback may run the model itself, with callbacks of the outer run.
            self._exit.callback(self._leave, callback, callback._run)
            callback._run = self
        return self

    def __exit__(self, *error: Any) -> None:
        self._exit.close()
        # The thread may end now, and what it has not computed would never be.
        mx.synchronize()

    def _leave(self, callback: Callback, outer: Run | None) -> None:
        callback._run = outer
        if outer is None:
            callback._release()

    def defer(self, function: Callable[[], None]) -> None:
        """Run `function` once every callback has heard of the batch or epoch that is ending."""
        self._deferred.append(function)

    def _run_deferred(self) -> None:
        functions, self._deferred = self._deferred, []
        for function in functions:
            function()

    # The three kinds.

    def fit(self, first: int, epochs: int, validation_freq: int | Collection[int]) -> History:
        """Train for epochs `first` to `epochs - 1`."""
        model, data, callbacks = self.model, self.data, self.callbacks
        model.stop_training = False
        start_training(model)
        callbacks.on_train_begin({})
        step, logs = 0, {}
        if self.resume is not None:
            first, step = self.resume.epoch, self.resume.step
            model.stop_training = self.resume.stopped
            self.resume.callbacks(callbacks)
        for epoch in range(first, epochs):
            if model.stop_training:
                break
            callbacks.params["steps"] = data.steps
            callbacks.on_epoch_begin(epoch, {})
            drawn = data.drawn
            logs = self._epoch("train", data, step)
            if data.drawn == drawn and data.ended:
                break
            self._warn_unless_finite(epoch, logs)
            if self.validation is not None and _is_due(epoch + 1, validation_freq):
                self.validation.rewind()  # Every validation sees the same steps.
                values = self._evaluate(self.validation)
                logs |= {f"val_{key}": value for key, value in values.items()}
            logs = dict(sorted(logs.items()))
            callbacks.on_epoch_end(epoch, logs)
            self._run_deferred()
            step, self.resume = 0, None
        if hasattr(model.optimizer, "finalize_variable_values"):
            model.optimizer.finalize_variable_values(model)
        callbacks.on_train_end(logs)
        return callbacks.history  # type: ignore[return-value]

    def evaluate(self) -> dict[str, Any]:
        """The logged values, by key in alphabetical order."""
        logs = self._evaluate(self.data)
        if not logs:
            raise ValueError("evaluate: expected at least one batch, got none.")
        return logs

    def _evaluate(self, data: EpochIterator) -> dict[str, Any]:
        self.model.stop_evaluating = False
        self.callbacks.on_test_begin({})
        logs = dict(sorted(self._epoch("test", data).items()))
        self.callbacks.on_test_end(logs)
        return logs

    def predict(self) -> Any:
        """The outputs as NumPy arrays, in the structure that `predict_step` returns."""
        outputs = Outputs(self.data.rows)
        self.model.stop_predicting = False
        self.callbacks.on_predict_begin({})
        for result in self._steps("predict", self.data):
            outputs.add(result)
        self.callbacks.on_predict_end({})
        return outputs.result()

    # Steps.

    def _epoch(self, kind: str, data: EpochIterator, first_step: int = 0) -> dict[str, Any]:
        """Run an epoch's steps without waiting for them; then the logs, as floats."""
        logs: Mapping[str, Any] = {}
        for result in self._steps(kind, data, first_step):
            logs = result
        if not logs and first_step > 0 and self.resume is not None:
            # Every step of this epoch ran before the interruption; only its end did not.
            self.resume.metrics(self.model)
            logs = self.model.get_metrics_result()
        return to_floats(all_logs(self.model, logs)) if logs else {}

    def _steps(self, kind: str, data: EpochIterator, first_step: int = 0) -> Iterator[Any]:
        """What each step returns, not yet computed; batch callbacks are called around it."""
        begin = self.callbacks.hooks(f"on_{kind}_batch_begin")
        end = self.callbacks.hooks(f"on_{kind}_batch_end")
        model, per_call = self.model, self.model.steps_per_execution
        step: CompiledStep | None = None
        unreported: tuple[int, Any] | None = None

        def report(index: int, result: Any) -> None:
            logs = {"outputs": result} if kind == "predict" else LazyLogs(result)
            for hook in end:
                hook(index, logs)
            self._run_deferred()

        for index, batch in data.epoch(first_step):
            if step is None:
                step = self._first_step(kind, batch, going_on=first_step > 0)
            if unreported is None:
                for hook in begin:
                    hook(index, {})
            result = step(batch)
            yield result
            unreported = index, result
            if (index + 1) % per_call == 0 or index + 1 == data.steps:
                unreported = None
                report(index, result)
            if getattr(model, STOPS[kind]):
                break
        if unreported is not None:
            report(*unreported)

    def _first_step(self, kind: str, batch: Batch, going_on: bool) -> CompiledStep:
        """The step for batches like this one, with the means and metrics at zero."""
        model = self.model
        if kind != "predict":
            model.objective.build([None if y is None else tuple(y.shape) for y in batch.y])
            if going_on and self.resume is not None:
                self.resume.metrics(model)
            else:
                model.reset_metrics()
        return model.step_cache.get(model, kind, self.compiled)

    def _warn_unless_finite(self, epoch: int, logs: Mapping[str, Any]) -> None:
        if self._warned or all(math.isfinite(np.sum(value)) for value in logs.values()):
            return
        self._warned = True
        warnings.warn(
            f"fit: the loss or a metric is not finite in epoch {epoch + 1}; training goes on. "
            "Look for NaN in the data, lower the learning rate, or add TerminateOnNaN.",
            stacklevel=4,
        )


def all_logs(model: Any, logs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The logs of all machines together: their sums added up, results from the totals."""
    if distributed.size() == 1 or not set(logs) <= set(model.get_metrics_result()):
        return logs
    states = metric_states(model)
    own = [dict(state) for state in states]
    for state in states:
        state.update(distributed.total_of(dict(state)))
    logs = to_floats(model.get_metrics_result())
    for state, before in zip(states, own, strict=True):
        state.update(before)
    return logs


def callbacks_of_run(
    callbacks: Any,
    model: Any,
    verbose: int | str,
    steps: int | None,
    epochs: int = 1,
    *,
    add_history: bool = False,
) -> CallbackList:
    """The callbacks of a run: the user's, what shows its progress, and the History of fit."""
    if verbose not in (0, 1, 2, "auto"):
        raise ValueError(f"verbose: expected 0, 1, 2 or 'auto', got {verbose!r}.")
    level = 1 if verbose == "auto" else int(verbose)
    if not isinstance(callbacks, CallbackList):
        callbacks = CallbackList(callbacks, add_progbar=level != 0)
    if add_history and callbacks.history is None:
        callbacks.append(History())
    callbacks.set_params({"verbose": level, "epochs": epochs, "steps": steps})
    callbacks.set_model(model)
    return callbacks


def _is_due(epoch: int, frequency: int | Collection[int]) -> bool:
    """Whether to validate after this epoch, counted from 1."""
    if isinstance(frequency, Collection):
        return epoch in frequency
    return epoch % frequency == 0
