"""The whole state of a training run in one file, and the callback that brings it back."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ..files import replacing
from ..random_state import get_random_state, set_random_state
from ..storage import Archive, File, check, opened, reading
from . import distributed
from .callbacks import Callback, Logs, monitored, say
from .monitors import Monitor
from .step import metric_states

FILE = "training.safetensors"
ARCHIVE = "a whole file of BackupAndRestore or ModelCheckpoint. Remove it to begin anew."
ADVICE = "Take the model, data and callbacks of the run that wrote it, or remove it to begin anew."
# What a run knows beside its arrays.
FACTS = {
    "values": dict, "epoch": int, "step": int, "feed": dict, "labels": list, "random": int,
    "stopped": bool,
}  # fmt: skip


def capture(run: Any, epoch: int, step: int) -> tuple[dict[str, mx.array], dict[str, Any]]:
    """Arrays and facts from which `restore` makes the run go on as if it had not stopped.

    Args:
        epoch, step: the next ones to run.
    """
    model = run.model
    tree: dict[str, Any] = {
        "model": model.parameters(),
        "keys": {f"layer{k}": layer["_key"] for k, layer in _seeded(model)},
        "optimizer": model.optimizer.state,
        "objective": metric_states(model),
        "callbacks": {
            name: {key: _plain(value) for key, value in callback.get_state().items()}
            for name, callback in _named(run.callbacks)
        },
    }
    if model.loss_scale is not None:
        tree["loss_scale"] = model.loss_scale.state
    flat = dict(tree_flatten(tree))
    arrays = {k: mx.array(v) for k, v in flat.items() if isinstance(v, mx.array | np.ndarray)}
    facts = {
        "values": {k: v for k, v in flat.items() if k not in arrays},
        "epoch": epoch,
        "step": step,
        "feed": run.data.position(),
        "labels": model.objective.label_shapes,
        "random": get_random_state(),
        "stopped": model.stop_training,
    }
    return arrays, facts


def _seeded(model: Any) -> list[tuple[int, Any]]:
    """The layers that draw from a random stream of their own, and their places in the model."""
    return [(k, layer) for k, layer in enumerate(model.sublayers()) if "_key" in layer]


def _plain(value: Any) -> Any:
    """Lists of arrays stay lists of arrays; any other list or dict becomes JSON."""
    if isinstance(value, list) and any(isinstance(v, np.ndarray | mx.array) for v in value):
        return value
    return value if isinstance(value, np.ndarray | mx.array) else json.dumps(value)


def save(path: Path, arrays: dict[str, mx.array], facts: dict[str, Any]) -> None:
    """Write both to one archive, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, zipfile.ZipFile(part, "w") as archive:
        archive.writestr(FILE, _to_bytes(arrays, facts))


def _to_bytes(arrays: dict[str, mx.array], facts: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    mx.save_safetensors(buffer, arrays, {"facts": json.dumps(facts)})
    return buffer.getvalue()


def load(file: File) -> tuple[dict[str, mx.array], dict[str, Any]]:
    """The arrays and facts in an archive of `save` or ModelCheckpoint.

    Raises: ValueError for another file, or a damaged one; OSError.
    """
    with opened(file, ARCHIVE) as content:
        arrays, metadata = Archive(content).arrays(FILE)
        facts = json.loads(metadata["facts"])
        for name, kind in FACTS.items():
            if type(facts[name]) is not kind:
                raise ValueError(f"{FILE} has {name} {facts[name]!r:.50}")
        if not all(type(place) is int and place >= 0 for place in facts["feed"].values()):
            raise ValueError(f"{FILE} has the place {facts['feed']} in the data")
        for shape in facts["labels"]:
            if shape is not None and not all(type(size) is int for size in shape):
                raise ValueError(f"{FILE} has labels of shape {shape}")
    return arrays, facts


def restore(run: Any, file: File) -> None:
    """Put a captured state back. What fit itself resets is left in `run.resume` for it.

    Raises: ValueError for a state of another run; then the model is as it was.
    """
    model = run.model
    arrays, facts = load(file)
    with reading(file, FILE, ADVICE):
        weights, keys = _part(arrays, "model"), _part(arrays, "keys")
        if weights:
            check(weights, dict(tree_flatten(model.parameters())))
        check(keys, {f"layer{k}": layer["_key"] for k, layer in _seeded(model)})
        if model.loss_scale is not None:
            check(_part(arrays, "loss_scale"), model.loss_scale.state)
        resume = Resume(file, arrays, facts)
        if weights:
            model.set_optimizer_state(_part(arrays, "optimizer"))
            model.load_weights([*weights.items()])
        for k, layer in _seeded(model):
            layer["_key"] = keys[f"layer{k}"]
        # What holds no arrays is not in the file.
        model.optimizer.init(model.trainable_parameters())
        if model.loss_scale is not None:
            model.loss_scale.state.update(_part(arrays, "loss_scale"))
        set_random_state(facts["random"])
        run.data.seek(facts["feed"])
    run.resume = resume


def _part(arrays: Mapping[str, mx.array], name: str) -> dict[str, mx.array]:
    """The arrays under a name, by the rest of their paths."""
    prefix = f"{name}."
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


class Resume:
    """Where a restored run goes on, and the state that is put back once fit has begun."""

    def __init__(self, file: File, arrays: Mapping[str, mx.array], facts: dict[str, Any]) -> None:
        self.epoch, self.step, self.stopped = facts["epoch"], facts["step"], facts["stopped"]
        self._file, self._labels = file, facts["labels"]
        self._objective = _part(arrays, "objective")
        state = {
            **{k: json.loads(v) for k, v in facts["values"].items() if k.startswith("callbacks.")},
            **{f"callbacks.{k}": v for k, v in _part(arrays, "callbacks").items()},
        }
        _check_lists(state)
        self._callbacks = tree_unflatten([*state.items()]).get("callbacks", {}) if state else {}

    def callbacks(self, callbacks: Any) -> None:
        """Give every callback its state back."""
        with reading(self._file, FILE, ADVICE):
            for name, callback in _named(callbacks):
                state = self._callbacks.get(name, {})
                own = callback.get_state() if state else {}
                for key, value in state.items():
                    if key not in own or not _alike(value, own[key]):
                        raise ValueError(f"expected no {key} of {name} like {value!r:.50}")
                if state:
                    callback.set_state(state)

    def metrics(self, model: Any) -> None:
        """The running means and metrics of the epoch that was cut."""
        # A run that ended before its first batch has seen no labels.
        if self._labels or not model.objective.labelled:
            model.objective.build(self._labels)
        states = metric_states(model)
        with reading(self._file, FILE, ADVICE):
            if self._objective:
                check(self._objective, dict(tree_flatten(states)))
            for k, state in enumerate(states if self._objective else ()):
                state.update(_part(self._objective, str(k)))


def _alike(value: Any, other: Any) -> bool:
    """Whether one may stand for the other in a callback's state: None is what is not known yet."""
    numbers = isinstance(value, int | float) and isinstance(other, int | float)
    return value is None or other is None or numbers or type(value) is type(other)


def _check_lists(paths: Iterable[str]) -> None:
    """Refuse the number 10**9 in a path: a list of as many entries would be made for it."""
    paths = list(paths)
    for path in paths:
        if any(part.isdecimal() and int(part) >= len(paths) for part in path.split(".")):
            raise ValueError(f"expected {path} to be in a list of as many, got {len(paths)}")


def _named(callbacks: Any) -> list[tuple[str, Any]]:
    """Callbacks by class and number: another one may stand between them in the next run."""
    seen: Counter[str] = Counter()
    named = []
    for callback in callbacks:
        name = type(callback).__name__
        named.append((f"{name}{seen[name]}", callback))
        seen[name] += 1
    return named


class BackupAndRestore(Callback):
    """Makes a training script survive being killed: run it again and fit goes on where it was.

    The file in `backup_dir` holds weights, optimizer, epoch, step, random state, the order of
    the data, and what other callbacks remember. The run ends with the very weights of one that
    was never stopped, for data in arrays, for a PyDataset whose items do not change, and for
    iterables that yield the same again (their first batches are drawn and dropped).

    Args:
        save_freq: "epoch", or a number of batches between two backups.
        double_checkpoint: with a number of batches, also at the end of each epoch.
        delete_checkpoint: remove the backup when training ends.
    Source: https://keras.io/api/callbacks/backup_and_restore/
    """

    def __init__(
        self,
        backup_dir: Any,
        save_freq: str | int = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ) -> None:
        super().__init__()
        if not str(backup_dir):
            raise ValueError("BackupAndRestore: expected a folder, got an empty backup_dir.")
        if save_freq != "epoch" and not (isinstance(save_freq, int) and save_freq > 0):
            raise ValueError(
                "BackupAndRestore: expected save_freq 'epoch' or a positive int, "
                f"got {save_freq!r}."
            )
        self.path = Path(backup_dir) / "training.zip"
        self.save_freq, self.delete_checkpoint = save_freq, delete_checkpoint
        self.double_checkpoint = double_checkpoint
        self.epoch = self.batches = 0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if self.path.exists():
            restore(self._run, self.path)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.batches += 1
        if isinstance(self.save_freq, int) and self.batches % self.save_freq == 0:
            self._defer(lambda: self._save(self.epoch, batch + 1))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch" or self.double_checkpoint:
            self._defer(lambda: self._save(epoch + 1, 0))

    def _save(self, epoch: int, step: int) -> None:
        arrays, facts = capture(self._run, epoch, step)
        if distributed.is_main():
            save(self.path, arrays, facts)

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.delete_checkpoint and distributed.is_main():
            self.path.unlink(missing_ok=True)

    def get_state(self) -> dict[str, Any]:
        return {"batches": self.batches}


class ModelCheckpoint(Monitor):
    """Saves the model, or its weights, after each epoch or every `save_freq` batches.

    `filepath` may hold `{epoch:02d}`, `{batch}` and logged values such as `{val_loss:.2f}`.
    Files are written beside their place and moved onto it, so one is never half written.

    Args:
        save_best_only: only when the monitored value has improved.
        save_weights_only: weights alone, to a path that ends in `.safetensors`; otherwise the
            whole model with its optimizer and the state of the run, to a path that ends in
            `.mlxfunc`: `ResumeFrom` goes on from there.
        initial_value_threshold: the value to beat first.
    Source: https://keras.io/api/callbacks/model_checkpoint/
    """

    def __init__(
        self,
        filepath: Any,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: str | int = "epoch",
        initial_value_threshold: float | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        self.filepath, self.verbose = str(filepath), verbose
        self.save_best_only, self.save_weights_only = save_best_only, save_weights_only
        self.save_freq, self.best = save_freq, initial_value_threshold
        if save_freq != "epoch" and not (isinstance(save_freq, int) and save_freq > 0):
            raise ValueError(
                f"ModelCheckpoint: expected save_freq 'epoch' or a positive int, got {save_freq!r}."
            )
        ending = ".safetensors" if save_weights_only else ".mlxfunc"
        if not self.filepath.endswith(ending):
            raise ValueError(
                f"ModelCheckpoint: expected a path that ends in {ending!r}, got {self.filepath!r}."
            )
        self.batches = self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self.batches += 1
        if isinstance(self.save_freq, int) and self.batches % self.save_freq == 0:
            epoch, told = self.epoch, logs or {}
            self._defer(lambda: self._save(epoch, told, epoch, batch + 1, batch=batch + 1))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_freq == "epoch":
            told = logs or {}
            self._defer(lambda: self._save(epoch, told, epoch + 1, 0))

    def _save(self, epoch: int, logs: Logs, next_epoch: int, step: int, **extra: int) -> None:
        try:
            path = Path(self.filepath.format(epoch=epoch + 1, **extra, **logs))
        except KeyError as error:
            raise KeyError(
                f"ModelCheckpoint: {self.filepath!r} needs {error}, which is not logged. "
                f"Available: epoch, {', '.join(logs)}."
            ) from error
        if not self._is_wanted(epoch, logs, path) or not distributed.is_main():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.save_weights_only:
            self.model.save_weights(path)
        else:
            arrays, facts = capture(self._run, next_epoch, step)
            own = {k: v for k, v in arrays.items() if not k.startswith(("model.", "optimizer."))}
            self.model.save(path, members={FILE: _to_bytes(own, facts)})

    def _is_wanted(self, epoch: int, logs: Logs, path: Path) -> bool:
        told = f"\nEpoch {epoch + 1}: "
        if self.save_best_only:
            current = monitored(self, logs, self.monitor)
            if current is not None:
                if not self.improves(current, self.best):
                    if self.verbose:
                        say(f"{told}{self.monitor} did not improve from {self.best:.5f}")
                    return False
                was = "None" if self.best is None else f"{self.best:.5f}"
                told += f"{self.monitor} improved from {was} to {current:.5f}, "
                self.best = current
        if self.verbose:
            say(f"{told}saving model to {path}")
        return True

    def get_state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("best", "batches", "epoch")}


class ResumeFrom(Callback):
    """fit goes on from a file of ModelCheckpoint as if it had not stopped, bit for bit.

    Load the model from that file and give `fit` the arguments and callbacks of the first run.
    """

    def __init__(self, filepath: Any) -> None:
        super().__init__()
        self.filepath = str(filepath)

    def on_train_begin(self, logs: Logs | None = None) -> None:
        restore(self._run, self.filepath)
