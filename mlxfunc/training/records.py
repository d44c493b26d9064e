"""Callbacks that write records: a CSV file, TensorBoard's event files."""

from __future__ import annotations

import csv
import importlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import distributed
from .callbacks import Callback, Logs, learning_rate


class CSVLogger(Callback):
    """One line an epoch: its number, then every logged value, keys sorted; NA: not logged.

    Args:
        append: go on with an existing file.
    Source: https://keras.io/api/callbacks/csv_logger/
    """

    def __init__(self, filename: Any, separator: str = ",", append: bool = False) -> None:
        super().__init__()
        self.filename, self.separator, self.append = str(filename), separator, append
        self._file: Any = None
        self._keys: list[str] | None = None

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if not distributed.is_main():
            return
        path = Path(self.filename)
        going_on = self.append and path.exists() and path.stat().st_size > 0
        if going_on:
            with open(path, newline="") as file:
                self._keys = next(csv.reader(file, delimiter=self.separator))[1:]
        self._file = open(path, "a" if going_on else "w", newline="")  # noqa: SIM115

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self._file is None:
            return
        writer, logs = csv.writer(self._file, delimiter=self.separator), logs or {}
        if self._keys is None:
            self._keys = sorted(logs)
            if not any(key.startswith("val_") for key in logs):
                # A later epoch may be the first that validates.
                self._keys += [f"val_{key}" for key in self._keys]
            writer.writerow(["epoch", *self._keys])
        writer.writerow([epoch, *(_cell(logs.get(key, "NA")) for key in self._keys)])
        self._file.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._release()

    def _release(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = self._keys = None


def _cell(value: Any) -> Any:
    return f"[{', '.join(map(str, value.ravel()))}]" if isinstance(value, np.ndarray) else value


class TensorBoard(Callback):
    """Event files that TensorBoard reads, under `log_dir/train` and `log_dir/validation`.

    Needs `tensorboardX`, or `tensorboard` beside PyTorch. Graphs, images, embeddings and
    profiles are not written.

    Args:
        histogram_freq: histograms of all weights every so many epochs; 0: none.
        update_freq: "epoch", "batch", or a number of batches between two points.
    Source: https://keras.io/api/callbacks/tensorboard/
    """

    def __init__(
        self,
        log_dir: Any = "logs",
        histogram_freq: int = 0,
        write_graph: bool = True,
        write_images: bool = False,
        write_steps_per_second: bool = False,
        update_freq: str | int = "epoch",
        profile_batch: int | tuple = 0,
        embeddings_freq: int = 0,
        embeddings_metadata: Any = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("write_images", write_images),
            ("profile_batch", profile_batch),
            ("embeddings_freq", embeddings_freq),
            ("embeddings_metadata", embeddings_metadata),
        ):
            if value:
                raise ValueError(f"TensorBoard: {name} is not supported, got {value!r}.")
        self.log_dir, self.histogram_freq = str(log_dir), histogram_freq
        self.write_graph, self.write_steps_per_second = write_graph, write_steps_per_second
        self.update_freq = 1 if update_freq == "batch" else update_freq
        self._writers: dict[str, Any] = {}
        self._make: Any = None
        self._batches, self._since = 0, (0, 0.0)

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self._make = _writer_class()

    def _write(self, which: str, tag: str, value: Any, step: int) -> None:
        if not distributed.is_main() or np.ndim(value) > 0:
            return
        self._writer(which).add_scalar(tag, value, step)

    def _writer(self, which: str) -> Any:
        if which not in self._writers:
            make = self._make or _writer_class()
            self._writers[which] = make(os.path.join(self.log_dir, which))
        return self._writers[which]

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._batches = 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._since = (self._batches, time.perf_counter())

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._batches += 1
        if self.update_freq != "epoch" and self._batches % int(self.update_freq) == 0:
            for name, value in (logs or {}).items():
                self._write("train", f"batch_{name}", value, self._batches)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        for name, value in (logs or {}).items():
            which = "validation" if name.startswith("val_") else "train"
            self._write(which, f"epoch_{name.removeprefix('val_')}", value, epoch)
        if "learning_rate" not in (logs or {}):
            self._write("train", "epoch_learning_rate", learning_rate(self.model), epoch)
        if self.write_steps_per_second:
            count, start = self._since
            rate = (self._batches - count) / max(time.perf_counter() - start, 1e-9)
            self._write("train", "epoch_steps_per_second", rate, epoch)
        if self.histogram_freq and epoch % self.histogram_freq == 0 and distributed.is_main():
            self._write_weights(epoch)
        for writer in self._writers.values():
            writer.flush()

    def _write_weights(self, epoch: int) -> None:
        from mlx.utils import tree_flatten

        flat: list[Any] = list(tree_flatten(self.model.parameters()))
        for path, weight in flat:
            tag = path.replace(".", "/") + "/histogram"
            self._writer("train").add_histogram(tag, np.array(weight), epoch)

    def on_train_end(self, logs: Logs | None = None) -> None:
        self._release()

    def _release(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


def _writer_class() -> Any:
    for module in ("tensorboardX", "torch.utils.tensorboard"):
        try:
            return importlib.import_module(module).SummaryWriter
        except ImportError:
            continue
    raise ImportError(
        "TensorBoard: expected a package that writes event files. Install tensorboardX."
    )
