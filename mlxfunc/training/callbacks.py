"""Callback, the list that calls them, and those that only listen or steer."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from . import distributed

Logs = MutableMapping[str, Any]
PHASES = ("train", "test", "predict")


class Callback:
    """Something to be told of during fit, evaluate and predict; every method may be overridden.

    `self.model` and `self.params` (verbose, epochs, steps) are set before the first call.
    `logs` of a batch are read from the device when looked at, and only then.

    Source: https://keras.io/api/callbacks/base_callback/
    """

    # A subclass may have an `__init__` that does not call this one.
    params: dict[str, Any] = {}
    _model: Any = None
    _run: Any = None

    def __init__(self) -> None:
        self.params = {}

    @property
    def model(self) -> Any:
        return self._model

    def set_model(self, model: Any) -> None:
        self._model = model

    def set_params(self, params: dict[str, Any]) -> None:
        self.params = params

    def get_state(self) -> dict[str, Any]:
        """What a resumed run needs to go on: numbers, lists, arrays."""
        return {}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from `get_state`; called after `on_train_begin`."""
        vars(self).update(state)

    def _defer(self, function: Callable[[], None]) -> None:
        """Run `function` once every callback has heard of the batch or epoch that is ending."""
        if self._run is None:
            function()
        else:
            self._run.defer(function)

    def _release(self) -> None:
        """Give back what is held while a run lasts, however it ended."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before an epoch; epochs count from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After an epoch and its validation; what is put into `logs` enters History."""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before fit's first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After fit's last epoch."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Before evaluate, and before each validation."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """After evaluate, and after each validation."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Before predict."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """After predict."""

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """An old name of `on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """An old name of `on_train_batch_end`."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a training step."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a training step; `logs` are the epoch's running means."""
        self.on_batch_end(batch, logs)

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a step of evaluate."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a step of evaluate."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a step of predict."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a step of predict; `logs["outputs"]` are its outputs."""


class History(Callback):
    """`history.history[key]` is the list of a logged value, epoch by epoch; fit returns it.

    Source: https://keras.io/api/models/model_training_apis/
    """

    def __init__(self) -> None:
        super().__init__()
        self.epoch: list[int] = []
        self.history: dict[str, list[Any]] = {}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.epoch, self.history = [], {}

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for key, value in (logs or {}).items():
            self.history.setdefault(key, []).append(value)

    def get_state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "history": self.history}


class LambdaCallback(Callback):
    """A callback made of functions: `LambdaCallback(on_epoch_end=lambda epoch, logs: ...)`."""

    def __init__(self, **functions: Callable[..., None] | None) -> None:
        super().__init__()
        for name, function in functions.items():
            if not name.startswith("on_") or not hasattr(Callback, name):
                raise ValueError(
                    f"LambdaCallback: expected names of Callback's methods, got {name!r}."
                )
            if function is not None:
                setattr(self, name, function)


class LearningRateScheduler(Callback):
    """At each epoch's start the rate becomes `schedule(epoch, rate)`, or `schedule(epoch)`."""

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        super().__init__()
        self.schedule, self.verbose = schedule, verbose

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        rate = learning_rate(self.model)
        count = len(inspect.signature(self.schedule).parameters)
        rate = self.schedule(epoch, rate) if count > 1 else self.schedule(epoch)
        if isinstance(rate, mx.array):
            rate = rate.item()
        if isinstance(rate, bool) or not isinstance(rate, float | int):
            raise ValueError(
                f"LearningRateScheduler: expected the schedule to return a number, got {rate!r}."
            )
        self.model.optimizer.learning_rate = float(rate)
        if self.verbose:
            say(f"\nEpoch {epoch + 1}: LearningRateScheduler setting learning rate to {rate}.")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = learning_rate(self.model)


class TerminateOnNaN(Callback):
    """Stops training when the loss is NaN or infinite. Reads the loss after every step."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            say(f"Batch {batch}: Invalid loss, terminating training")
            self.model.stop_training = True


class SwapEMAWeights(Callback):
    """Evaluates with the optimizer's moving averages in the place of the weights.

    Args:
        swap_on_epoch: also between the end of an epoch and the start of the next, so that
            callbacks after this one save the averages.
    """

    def __init__(self, swap_on_epoch: bool = False) -> None:
        super().__init__()
        self.swap_on_epoch = swap_on_epoch
        self._raw: Any = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._require_averages()

    def _require_averages(self) -> None:
        if not getattr(self.model.optimizer, "use_ema", False):
            raise ValueError(
                "SwapEMAWeights: expected an optimizer with use_ema=True, got "
                f"{type(self.model.optimizer).__name__} without. Set use_ema=True."
            )

    def _swap_in(self) -> None:
        self._require_averages()
        if self._raw is None:
            self._raw = self.model.trainable_parameters()
            self.model.update(self.model.optimizer.averages(self._raw))

    def _swap_out(self) -> None:
        if self._raw is not None:
            self.model.update(self._raw)
            self._raw = None

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._swap_out()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.swap_on_epoch:
            self._swap_in()

    def on_train_end(self, logs: Logs | None = None) -> None:
        # What is in the model now are the averages, put there for good when training ends.
        self._raw = None

    def on_test_begin(self, logs: Logs | None = None) -> None:
        self._swap_in()

    def on_test_end(self, logs: Logs | None = None) -> None:
        self._swap_out()

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        self._swap_in()

    def on_predict_end(self, logs: Logs | None = None) -> None:
        self._swap_out()

    def get_state(self) -> dict[str, Any]:
        raw = dict(tree_flatten(self._raw or {}))
        return {"names": list(raw), "raw": list(raw.values())}

    def set_state(self, state: Mapping[str, Any]) -> None:
        pairs = zip(state["names"], state.get("raw", []), strict=True)
        self._raw = tree_unflatten(list(pairs)) if state["names"] else None

    def _release(self) -> None:
        self._swap_out()


def learning_rate(model: Any) -> float:
    """The rate of the next step."""
    return float(np.array(model.optimizer.learning_rate))


def say(text: str) -> None:
    """Print a line, on the first of several machines only."""
    if distributed.is_main():
        print(text, flush=True)


def monitored(callback: Callback, logs: Logs | None, name: str) -> Any:
    """`logs[name]`; None, with a warning that names what there is, when it is not logged."""
    logs = logs or {}
    if logs.get(name) is None:
        warnings.warn(
            f"{type(callback).__name__}: {name!r} is not logged. Available: {', '.join(logs)}.",
            stacklevel=3,
        )
    return logs.get(name)
