"""Mutated files of every kind that is read: they are read, or refused with a documented error.

Beside that, a file of so many bytes takes no more than 1.2 times that and 100 MB of memory, and no
more than five seconds of the processor.
"""

from __future__ import annotations

import functools
import re
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import mlxfunc as mf
import numpy as np
from mlxfunc import layers

from cases import CASES
from fuzz import mutations

MEMORY = (1.2, 100e6)  # bytes per byte of the file, and beside it
SECONDS = 5.0
CEILING = 3 * 2**30  # of what a trial may ask the system for


def trial(seed: int) -> str | None:
    rng = Random(seed)
    kind = rng.choice(list(KINDS))
    name, make, change, read = KINDS[kind]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / name
        source = make(rng)
        path.write_bytes(change(rng, source.content))
        problem = _problem(lambda: read(source, path), path)
    return problem and f"{kind} of {source.name}: {problem}"


def _problem(read: Callable[[], Any], path: Path) -> str | None:
    """What is wrong with the way a file is read."""
    size = path.stat().st_size
    start, before = time.process_time(), _memory("VmRSS", reset=True)
    try:
        with _ceiling():
            read()
    except (ValueError, OSError) as error:
        if path.name not in str(error):
            return f"{type(error).__name__} does not name the file: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:500]
    seconds, grown = time.process_time() - start, _memory("VmHWM") - before
    if seconds > SECONDS:
        return f"took {seconds:.1f} s of the processor"
    if grown > MEMORY[0] * size + MEMORY[1]:
        return f"took {grown / 1e6:.0f} MB for a file of {size / 1e6:.1f} MB"
    return None


@contextmanager
def _ceiling() -> Iterator[None]:
    """Within the block the process cannot take the machine's memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if status := Path("/proc/self/status"):
        now = int(re.search(r"VmSize:\s+(\d+)", status.read_text())[1]) * 1024  # type: ignore[index]
    resource.setrlimit(resource.RLIMIT_AS, (now + CEILING, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _memory(field: str, reset: bool = False) -> int:
    """Bytes, now or at the peak since the last reset, as Linux counts them."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", text)[1]) * 1024  # type: ignore[index]


class Source:
    """A model of one row of the table, and files of it."""

    def __init__(self, row: int) -> None:
        self.name, self.case = CASES[row].name, CASES[row]
        mf.clear_session()
        self.model = self.case.model()
        self.content = b""

    def written(self, name: str, write: Callable[[str], Any]) -> Source:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write(str(path))
            self.content = path.read_bytes()
        return self


def _row(rng: Random) -> int:
    # Few rows in many trials: making the models takes longer than reading them.
    return rng.choice(range(rng.randrange(8), len(CASES), 8))


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
    return _archive(_row(rng), rng.random() < 0.5)


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


# By kind: the name of the file, what makes it, what changes it, what reads it.
KINDS: dict[str, tuple[str, Callable[[Random], Source], Callable[..., bytes], Any]] = {
    "archive": ("m.mlxfunc", archive, mutations.change_archive, read_archive),
    "weights": (
        "w.safetensors",
        lambda rng: _weights(_row(rng), "w.safetensors"),
        mutations.change_safetensors,
        read_weights,
    ),
    "npz": (
        "w.npz", lambda rng: _weights(_row(rng), "w.npz"), mutations.change_npz, read_weights,
    ),
    "backup": (
        "training.zip", lambda rng: _backup(), mutations.change_archive, read_backup,
    ),
    "checkpoint": (
        "m.mlxfunc", lambda rng: _checkpoint(), mutations.change_archive, read_checkpoint,
    ),
}  # fmt: skip
