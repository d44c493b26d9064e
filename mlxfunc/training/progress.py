"""The progress of fit, evaluate and predict: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import distributed
from .callbacks import Callback, Logs

REFRESH_SECONDS = 0.4


class ProgbarLogger(Callback):
    """Shows batch, losses and metrics, rate and time left; `verbose` of fit decides how.

    1: a bar a epoch, redrawn about twice a second, and one line where there is no
    terminal or notebook. 2: one line an epoch. Added to every run with `verbose` other than 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._task: Any = None
        self._title = ""
        self._training = False
        self._start_time = self._last = 0.0
        self._done = 0
        self._next: tuple[int, Mapping[str, Any]] | None = None

    @property
    def _silent(self) -> bool:
        return not self.params.get("verbose", 1) or not distributed.is_main()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._training = True

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._begin(f"Epoch {epoch + 1}/{self.params.get('epochs', 1)}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self._end(logs or {})

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._release()

    def on_test_begin(self, logs: Logs | None = None) -> None:
        if not self._training:
            self._begin("Evaluate")

    def on_test_end(self, logs: Logs | None = None) -> None:
        if not self._training:
            self._end(logs or {})

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        self._begin("Predict")

    def on_predict_end(self, logs: Logs | None = None) -> None:
        self._end({})

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._tick(batch + 1, logs)

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if not self._training:
            self._tick(batch + 1, logs)

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._tick(batch + 1, None)

    def _release(self) -> None:
        # A bar that is left alone keeps the cursor and the output.
        self._training = False
        self._stop()

    def _begin(self, title: str) -> None:
        first = self._done == 0
        self._title, self._done, self._next = title, 0, None
        self._start_time = self._last = time.perf_counter()
        if not self._silent and self.params.get("verbose", 1) != 2:
            from .bars import make_bar

            self._bar = make_bar()
        if self._bar is not None:
            steps = self.params.get("steps")
            self._task = self._bar.add_task(title, total=steps, logs="", rate="")
            if first:
                # A later epoch's is drawn beside its first step, which need not wait for it.
                self._bar.start()

    def _tick(self, done: int, logs: Mapping[str, Any] | None) -> None:
        self._done = done
        if self._bar is None:
            return
        self._bar.start()
        if self._next is not None:
            # Drawn a step late: reading waits for the device, which has the next step to do.
            self._update(*self._next)
            self._bar.refresh()
            self._next, self._last = None, time.perf_counter()
        elif time.perf_counter() - self._last >= REFRESH_SECONDS:
            self._next = done, logs or {}

    def _update(self, done: int, logs: Mapping[str, Any]) -> None:
        text = format_logs(logs)
        rate = step_time((time.perf_counter() - self._start_time) / max(done, 1))
        self._bar.update(self._task, completed=done, logs=text, rate=rate)

    def _end(self, logs: Mapping[str, Any]) -> None:
        if self._silent:
            return
        if self._bar is not None:
            self._bar.update(self._task, total=self._done)
            self._update(self._done, logs)
            self._bar.start()
            self._stop()
            return
        seconds = time.perf_counter() - self._start_time
        steps = self.params.get("steps") or self._done
        parts = [
            self._title,
            f"{self._done}/{steps}",
            f"{seconds:.0f}s",
            step_time(seconds / max(self._done, 1)),
            format_logs(logs),
        ]
        print(" - ".join(part for part in parts if part), flush=True)

    def _stop(self) -> None:
        # A bar is drawn a last time as it stops.
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def format_logs(logs: Mapping[str, Any]) -> str:
    """`loss: 0.4213 - accuracy: 0.8750`; metrics that are vectors by their mean."""
    return " - ".join(f"{key}: {_number(float(np.mean(value)))}" for key, value in logs.items())


def _number(value: float) -> str:
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.4e}"


def step_time(seconds: float) -> str:
    """`31ms/step`"""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}/step"
    return f"{seconds * 1e6:.0f}us/step"
