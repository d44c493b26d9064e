"""Callbacks that watch one logged value: stop early, slow down, keep the best."""

from __future__ import annotations

import re
from typing import Any

import mlx.core as mx

from .callbacks import Callback, Logs, learning_rate, monitored, say

_UP = r"acc|auc|precision|recall|f1|fbeta|f_?beta|iou|r2|similarity|top_k|specificity|sensitivity"
_UP += r"|correlation"
_DOWN = r"loss|error|mse|mae|mape|msle|rmse|entropy|hinge|divergence|kld|poisson|log_?cosh|huber"
MODES = ("auto", "min", "max")


class Monitor(Callback):
    """A logged value whose improvement matters.

    Args:
        monitor: its key in History.
        mode: "min", "max", or "auto": by the name (accuracies rise, losses and errors fall).
        min_delta: a change that is no larger is no improvement.
    """

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"{type(self).__name__}: expected mode in {MODES}, got {mode!r}.")
        self.monitor, self.mode, self.min_delta = monitor, mode, abs(min_delta)
        self.best: float | None = None

    @property
    def rises(self) -> bool:
        if self.mode != "auto":
            return self.mode == "max"
        name = self.monitor.removeprefix("val_")
        down, up = (re.search(pattern, name) for pattern in (_DOWN, _UP))
        if (down is None) == (up is None):
            raise ValueError(
                f"{type(self).__name__}: cannot tell whether {self.monitor!r} should rise or "
                "fall. Pass mode='max' or mode='min'."
            )
        return up is not None

    def improves(self, value: float, reference: float | None) -> bool:
        if reference is None:
            return True
        if self.rises:
            return value - self.min_delta > reference
        return value + self.min_delta < reference


class EarlyStopping(Monitor):
    """Stops when the value has not improved for `patience` epochs.

    Args:
        baseline: the wait starts afresh only below (above) this value.
        restore_best_weights: end with the weights of the best epoch.
        start_from_epoch: epochs before it are not looked at.
    Source: https://keras.io/api/callbacks/early_stopping/
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience, self.verbose, self.baseline = patience, verbose, baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = start_from_epoch
        self._reset()

    def _reset(self) -> None:
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best: float | None = None
        self.best_weights: list[mx.array] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._reset()

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        current = monitored(self, logs, self.monitor)
        if current is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self._keep(epoch)
        self.wait += 1
        if self.improves(current, self.best):
            self.best = current
            self._keep(epoch)
            if self.baseline is None or self.improves(current, self.baseline):
                self.wait = 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def _keep(self, epoch: int) -> None:
        self.best_epoch = epoch
        if self.restore_best_weights:
            self.best_weights = self.model.get_weights()

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch > 0 and self.verbose:
            say(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights is not None:
            if self.verbose:
                say(f"Restoring model weights from the end of epoch {self.best_epoch + 1}.")
            self.model.set_weights(self.best_weights)

    def get_state(self) -> dict[str, Any]:
        names = ("wait", "stopped_epoch", "best_epoch", "best", "best_weights")
        return {name: getattr(self, name) for name in names}


class ReduceLROnPlateau(Monitor):
    """Multiplies the learning rate by `factor` after `patience` epochs without improvement.

    Args:
        cooldown: epochs after a reduction that are not counted.
        min_lr: the rate never goes below.
    Source: https://keras.io/api/callbacks/reduce_lr_on_plateau/
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        if factor >= 1.0:
            raise ValueError(f"ReduceLROnPlateau: expected factor < 1, got {factor}.")
        self.factor, self.patience, self.verbose = factor, patience, verbose
        self.cooldown, self.min_lr = cooldown, min_lr
        self.wait = self.cooldown_counter = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.wait = self.cooldown_counter = 0
        self.best = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        rate = learning_rate(self.model)
        if logs is not None:
            logs["learning_rate"] = rate
        current = monitored(self, logs, self.monitor)
        if current is None:
            return
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.improves(current, self.best):
            self.best, self.wait = current, 0
        elif self.cooldown_counter == 0:
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce(epoch, rate)

    def _reduce(self, epoch: int, rate: float) -> None:
        if rate <= self.min_lr:
            return
        new = max(rate * self.factor, self.min_lr)
        self.model.optimizer.learning_rate = new
        if self.verbose:
            say(f"\nEpoch {epoch + 1}: ReduceLROnPlateau reducing learning rate to {new}.")
        self.cooldown_counter, self.wait = self.cooldown, 0

    def get_state(self) -> dict[str, Any]:
        return {n: getattr(self, n) for n in ("wait", "cooldown_counter", "best")}
