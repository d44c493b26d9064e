"""Mutated archives, weights files, backups and checkpoints."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import mlxfunc as mf
import numpy as np
from mlxfunc import layers

from fuzz import mutations
from fuzz.reading import Kind, Source, read_mutated, row


def trial(seed: int) -> str | None:
    return read_mutated(KINDS, seed)


@functools.lru_cache(16)
def _archive(row: int, compiled: bool) -> Source:
    source = Source(row)
    if compiled:
        optimizer = ("adam", "sgd", "adafactor", "muon", "ftrl")[row % 5]
        metrics = ["mae", "accuracy"] if len(source.model.outputs) == 1 else None
        source.model.compile(optimizer, "mse", metrics=metrics)
        source.model.optimizer.init(source.model.trainable_parameters())
    return source.written("m.mlxfunc", source.model.save)


def archive(rng: Random) -> Source:
    return _archive(row(rng), rng.random() < 0.5)


def read_archive(source: Source, path: Path) -> None:
    mf.saving.load_model(path)


@functools.lru_cache(16)
def _weights(row: int, name: str) -> Source:
    source = Source(row)
    return source.written(name, source.model.save_weights)


def read_weights(source: Source, path: Path) -> None:
    before = source.model.get_weights()
    try:
        source.model.load_weights(path, strict=path.stat().st_size % 4 > 0)
    finally:
        after = [w.shape for w in source.model.weights]
        source.model.set_weights(before)
    assert len(after) == len(before)


X, Y = np.ones((8, 3), "f4"), np.ones((8, 2), "f4")


def _trained(*callbacks: Any, epochs: int = 2) -> mf.Model:
    mf.clear_session()
    x = mf.Input((3,))
    model = mf.Model(x, layers.Dense(2)(layers.Dropout(0.1, seed=1)(layers.Dense(3)(x))))
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    model.fit(X, Y, batch_size=4, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


def _callbacks() -> list[Any]:
    stop = mf.callbacks.EarlyStopping("loss", restore_best_weights=True, patience=3)
    return [stop, mf.callbacks.ReduceLROnPlateau("loss")]


class _Training(Source):
    def __init__(self, name: str, write: Callable[[str], Any]) -> None:
        self.name, self.content = "a run", b""
        self.written(name, write)


@functools.cache
def _backup() -> Source:
    def write(path: str) -> None:
        keep = mf.callbacks.BackupAndRestore(
            Path(path).parent, save_freq=1, delete_checkpoint=False
        )
        _trained(*_callbacks(), keep)

    return _Training("training.zip", write)


@functools.cache
def _checkpoint() -> Source:
    def write(path: str) -> None:
        _trained(*_callbacks(), mf.callbacks.ModelCheckpoint(path))

    return _Training("m.mlxfunc", write)


def read_backup(source: Source, path: Path) -> None:
    _trained(*_callbacks(), mf.callbacks.BackupAndRestore(path.parent), epochs=3)


def read_checkpoint(source: Source, path: Path) -> None:
    _trained(*_callbacks(), mf.callbacks.ResumeFrom(path), epochs=3)


KINDS: dict[str, Kind] = {
    "archive": ("m.mlxfunc", archive, mutations.change_archive, read_archive),
    "weights": (
        "w.safetensors",
        lambda rng: _weights(row(rng), "w.safetensors"),
        mutations.change_safetensors,
        read_weights,
    ),
    "npz": (
        "w.npz", lambda rng: _weights(row(rng), "w.npz"), mutations.change_npz, read_weights,
    ),
    "backup": (
        "training.zip", lambda rng: _backup(), mutations.change_archive, read_backup,
    ),
    "checkpoint": (
        "m.mlxfunc", lambda rng: _checkpoint(), mutations.change_archive, read_checkpoint,
    ),
}  # fmt: skip
