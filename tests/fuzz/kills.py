"""Writers and runs that are killed: what is there is whole, and the next one leaves nothing behind.

A killed save or export leaves the file of one of two models; a run that is killed and begun again,
with frozen layers too, ends with the very weights of one that was not.
"""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import mlx2onnx
import mlxfunc as mf
import numpy as np
from mlxfunc import callbacks, layers
from mlx2onnx.session import run_onnx

X = np.random.default_rng(0).normal(size=(24, 20)).astype("f4")
Y = np.random.default_rng(1).normal(size=(24, 2)).astype("f4")


def trial(seed: int) -> str | None:
    rng = Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if rng.random() < 0.4:
            return _training(rng, folder)
        return _writing(rng.choice(list(WRITERS)), rng, folder)


def _killed(arguments: list[str], seconds: float) -> None:
    """Run this module, and kill it so long after it has said that it begins."""
    process = _begin(arguments)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begins\n", process.stdout.read()
    time.sleep(seconds)
    process.kill()
    process.communicate()


def _begin(arguments: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fuzz.kills", *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)


# Writing: the file of a model, or of the other one.


@functools.cache
def _model(seed: int) -> mf.Model:
    mf.clear_session()
    mf.utils.set_random_seed(seed)
    x = mf.Input((20,), name="x")
    return mf.Model(x, layers.Dense(2)(layers.Dense(9000)(x)))


def _outputs(model: mf.Model) -> np.ndarray:
    return np.array(model(X))


def _with_weights(path: Path) -> np.ndarray:
    _model(2).load_weights(path)
    return _outputs(_model(2))


def _from_onnx(path: Path) -> np.ndarray:
    return run_onnx(path, {"x": X})[0]


def _export(model: mf.Model, path: Path, external: bool = False) -> None:
    mlx2onnx.to_onnx(model, path, external_data=external, verify=False)


# By kind: the file, what writes it, the outputs of what is in it, and how many files it is.
WRITERS: dict[str, tuple[str, Callable[..., Any], Callable[[Path], np.ndarray], int]] = {
    "archive": (
        "m.mlxfunc",
        lambda model, path: model.save(path),
        lambda path: _outputs(mf.saving.load_model(path)),
        1,
    ),
    "weights": ("w.safetensors", lambda m, path: m.save_weights(path), _with_weights, 1),
    "npz": ("w.npz", lambda model, path: model.save_weights(path), _with_weights, 1),
    "export": ("m.onnx", _export, _from_onnx, 1),
    "external": ("m.onnx", functools.partial(_export, external=True), _from_onnx, 2),
}


def _writing(kind: str, rng: Random, folder: Path) -> str | None:
    name, write, read, count = WRITERS[kind]
    path = folder / name
    _killed(["write", kind, str(folder)], rng.uniform(0, 0.4))
    there = read(path)
    if not any(np.allclose(there, _outputs(_model(k)), atol=1e-4) for k in (0, 1)):
        return f"{kind}: the file is of neither model"
    write(_model(0), path)
    if not np.allclose(read(path), _outputs(_model(0)), atol=1e-4):
        return f"{kind}: the next file is not that of its model"
    left = sorted(p.name for p in folder.iterdir())
    return None if len(left) == count else f"{kind}: left {', '.join(left)}"


def write_on(kind: str, folder: str) -> None:
    """Write one model after the other, until killed."""
    name, write, _, _ = WRITERS[kind]
    write(_model(0), Path(folder) / name)
    print("begins", flush=True)
    for k in itertools.count(1):
        write(_model(k % 2), Path(folder) / name)


# Training: the weights at the end.

LAYERS: dict[str, Callable[[Any], Any]] = {
    "dense": lambda x: layers.Dense(33, activation="tanh", trainable=False)(x),
    "recurrent": lambda x: layers.LSTM(9, trainable=False)(layers.Reshape((4, 5))(x)),
    "convolution": lambda x: layers.Flatten()(
        layers.Conv1D(7, 2, trainable=False)(layers.Reshape((5, 4))(x))
    ),
    "none": lambda x: layers.Dropout(0.2)(layers.BatchNormalization()(x)),
}
FREQUENCIES: dict[str, Any] = {"epoch": "epoch", "one": 1, "four": 4}


def train(kind: str, frequency: str, optimizer: str, folder: str | None = None) -> list[np.ndarray]:
    """A run of twelve epochs, backed up in `folder`, and its weights."""
    mf.clear_session()
    mf.utils.set_random_seed(5)
    x = mf.Input((20,))
    model = mf.Model(x, layers.Dense(2)(layers.Dense(8)(LAYERS[kind](x))))
    model.compile(optimizer, "mse", metrics=["mae"], jit_compile=False)
    watchers = [callbacks.EarlyStopping("loss", patience=9, restore_best_weights=True)]
    if folder is not None:
        backup = callbacks.BackupAndRestore(f"{folder}/backup", FREQUENCIES[frequency])
        watchers += [backup, callbacks.ModelCheckpoint(f"{folder}/last.mlxfunc")]
    model.fit(X, Y, batch_size=6, epochs=12, verbose=0, callbacks=watchers)
    return model.get_weights()


@functools.cache
def _trained(kind: str, optimizer: str) -> list[np.ndarray]:
    return train(kind, "epoch", optimizer)


def _training(rng: Random, folder: Path) -> str | None:
    kind, frequency = rng.choice(list(LAYERS)), rng.choice(list(FREQUENCIES))
    optimizer = rng.choice(["adam", "sgd", "adafactor", "rmsprop"])
    expected = _trained(kind, optimizer)
    arguments = ["train", kind, frequency, optimizer, str(folder)]
    for _ in range(rng.choice([1, 2])):
        _killed(arguments, rng.uniform(0, 3))
    last = _begin(arguments)
    last.communicate()
    what = f"{kind}, {optimizer}, backed up each {frequency}"
    if last.returncode:
        return f"{what}: the last run ended with status {last.returncode}"
    with np.load(folder / "weights.npz") as weights:
        if not all(map(np.array_equal, weights.values(), expected)):
            return f"{what}: other weights than without a kill"
    left = sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))
    if left != ["backup", "last.mlxfunc", "weights.npz"]:
        return f"{what}: left {', '.join(left)}"
    return None


def train_on(kind: str, frequency: str, optimizer: str, folder: str) -> None:
    print("begins", flush=True)
    np.savez(f"{folder}/weights.npz", *train(kind, frequency, optimizer, folder))


if __name__ == "__main__":
    {"write": write_on, "train": train_on}[sys.argv[1]](*sys.argv[2:])
