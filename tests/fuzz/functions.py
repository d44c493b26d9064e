"""Random functions that look at their sizes: exported, they are right at every size or refused.

A function is a chain of steps over x (batch, time, 4). Steps slice, clamp, divide, branch, pad,
mask, group, walk in chunks, attend, convolve or pool; their numbers are such as people write.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlxfunc import layers
from mlx2onnx.api import to_onnx
from mlx2onnx.convert import UnsupportedLayers
from mlx2onnx.recording import check_bounds, record
from mlx2onnx.report import Report, VerificationError, compare
from mlx2onnx.session import open_session
from mlx2onnx.trace import UnsupportedPrimitives

FEATURES = 4
NUMBERS = (1, 2, 3, 4, 5, 7, 8, 10, 12, 16, 20, 30, 32, 48, 50, 64, 100, 128, 256, 500, 512, 1024)
# Sums of thousands of terms round in other ways.
TOLERANCES = (1e-3, 1e-3)
DENSE, LARGEST, SPARSE = 64, 2000, 24
# How many functions are tried as a layer of a model.
IN_A_MODEL = 0.4

Step = Callable[[mx.array], mx.array]


@dataclass(frozen=True)
class Function:
    """A chain of steps, with the words that made it."""

    names: tuple[str, ...]
    steps: tuple[Step, ...]
    numbers: tuple[int, ...]

    def __call__(self, x: mx.array) -> mx.array:
        for step in self.steps:
            x = step(x)
        return x

    def __str__(self) -> str:
        return " → ".join(self.names)


# Each row makes a step of a number k and a seeded generator.
def _weight(rng: random.Random, *shape: int) -> mx.array:
    values = np.random.default_rng(rng.randrange(10**6)).normal(size=shape, scale=0.3)
    return mx.array(values.astype(np.float32))


def _pad_to_multiple(x: mx.array, k: int) -> mx.array:
    return mx.pad(x, [(0, 0), (0, -x.shape[1] % k), (0, 0)])


def _grouped(x: mx.array, k: int) -> mx.array:
    x = _pad_to_multiple(x, k)
    return x.reshape(x.shape[0], -1, k, FEATURES).mean(2)


def _in_chunks(x: mx.array, k: int, f: Step) -> mx.array:
    return mx.concatenate([f(x[:, i : i + k]) for i in range(0, x.shape[1], k)], axis=1)


def _scan_chunks(x: mx.array, k: int) -> mx.array:
    """A cumulative mean, one chunk after the other."""
    total, parts = mx.zeros((x.shape[0], 1, FEATURES)), []
    for i in range(0, x.shape[1], k):
        part = total + mx.cumsum(x[:, i : i + k], axis=1)
        total = part[:, -1:]
        parts.append(part)
    return mx.concatenate(parts, axis=1) / x.shape[1]


def _attend(x: mx.array, allowed: Callable[[mx.array, mx.array], mx.array]) -> mx.array:
    steps = mx.arange(x.shape[1])
    scores = x @ x.swapaxes(1, 2) / math.sqrt(FEATURES)
    scores = mx.where(allowed(steps[:, None], steps[None]), scores, -1e9)
    return mx.softmax(scores, axis=-1) @ x


def _positions(x: mx.array, table: mx.array) -> mx.array:
    return x + table[: x.shape[1]]


def _window(x: mx.array, k: int) -> mx.array:
    """Attention over the last k steps, which short inputs do without."""
    if x.shape[1] > k:
        return _attend(x, lambda i, j: (j <= i) & (i - j < k))
    return _attend(x, lambda i, j: j <= i)


STEPS: dict[str, Callable[[int, random.Random], Step]] = {
    "x[:, :{k}]": lambda k, _: lambda x: x[:, :k],
    "x[:, -{k}:]": lambda k, _: lambda x: x[:, -k:],
    "x[:, {k}:]": lambda k, _: lambda x: x[:, k:],
    "x[:, :-{k}]": lambda k, _: lambda x: x[:, :-k],
    "x[:, ::{k}]": lambda k, _: lambda x: x[:, ::k],
    "x[:, 1::{k}]": lambda k, _: lambda x: x[:, 1::k],
    "x[:, ::-1]": lambda k, _: lambda x: x[:, ::-1],
    "x[:, {k}:{k}+9]": lambda k, _: lambda x: x[:, k : k + 9],
    "first half": lambda k, _: lambda x: x[:, : x.shape[1] // 2],
    "second half": lambda k, _: lambda x: x[:, x.shape[1] // 2 :],
    "n // {k} steps": lambda k, _: lambda x: x[:, : x.shape[1] // k],
    "whole {k}s": lambda k, _: lambda x: x[:, : x.shape[1] // k * k],
    "/ n": lambda k, _: lambda x: x / x.shape[1],
    "/ min(n, {k})": lambda k, _: lambda x: x / min(x.shape[1], k),
    "/ max(n, {k})": lambda k, _: lambda x: x / max(x.shape[1], k),
    "+ n // {k}": lambda k, _: lambda x: x + x.shape[1] // k / 100,
    "* n % {k}": lambda k, _: lambda x: x * (x.shape[1] % k),
    "/ sqrt(n)": lambda k, _: lambda x: x / math.sqrt(x.shape[1]),
    "if n > {k}": lambda k, _: lambda x: mx.tanh(x) if x.shape[1] > k else x,
    "if n <= {k}": lambda k, _: lambda x: x.mean(1, keepdims=True) if x.shape[1] <= k else x,
    "if n == {k}, small": lambda k, _: lambda x: -x if x.shape[1] == k else x,
    "if n == 1": lambda k, _: lambda x: 2 * x if x.shape[1] == 1 else x,
    "if n % {k}": lambda k, _: lambda x: -x if x.shape[1] % k == 0 else x,
    "if batch > {k}": lambda k, _: lambda x: x[:1] + x if x.shape[0] > k else x,
    "if batch == 1": lambda k, _: lambda x: x + 1 if x.shape[0] == 1 else x,
    "squeezed at 1": lambda k, _: lambda x: x if x.shape[1] > 1 else x[:, 0][:, None],
    "tanh in {k}s": lambda k, _: lambda x: _in_chunks(x, k, mx.tanh),
    "softmax in {k}s": lambda k, _: lambda x: _in_chunks(x, k, lambda c: mx.softmax(c, axis=1)),
    "cumulative mean in {k}s": lambda k, _: lambda x: _scan_chunks(x, k),
    "cumulative sum": lambda k, _: lambda x: mx.cumsum(x, axis=1) / 10,
    "to a multiple of {k}": lambda k, _: lambda x: _pad_to_multiple(x, k),
    "to a multiple of {k} and back": lambda k, _: lambda x: _pad_to_multiple(x, k)[:, : x.shape[1]],
    "groups of {k}": lambda k, _: lambda x: _grouped(x, k),
    "pad {k}": lambda k, _: lambda x: mx.pad(x, [(0, 0), (k, 0), (0, 0)]),
    "pad up to {k}": lambda k, _: (
        lambda x: mx.pad(x, [(0, 0), (0, max(0, k - x.shape[1])), (0, 0)])
    ),
    "arange < {k}": lambda k, _: lambda x: x * (mx.arange(x.shape[1])[:, None] < k),
    "arange < n - {k}": lambda k, _: (
        lambda x: x * (mx.arange(x.shape[1])[:, None] < x.shape[1] - k)
    ),
    "+ arange": lambda k, _: lambda x: x + mx.sin(mx.arange(x.shape[1]) / k)[:, None],
    "+ numpy arange": lambda k, _: lambda x: x + mx.array(np.arange(x.shape[1]) % k)[:, None],
    "linspace": lambda k, _: lambda x: x * mx.linspace(0, 1, x.shape[1])[:, None],
    "causal attention": lambda k, _: lambda x: _attend(x, lambda i, j: j <= i),
    "attention of {k} steps": lambda k, _: lambda x: _attend(x, lambda i, j: abs(i - j) < k),
    "attention, window {k}": lambda k, _: lambda x: _window(x, k),
    "softmax over time": lambda k, _: lambda x: mx.softmax(x, axis=1),
    "minus the mean": lambda k, _: lambda x: x - x.mean(1, keepdims=True),
    "minus the batch's mean": lambda k, _: lambda x: x - x.mean(0, keepdims=True),
    "variance": lambda k, _: lambda x: x / mx.sqrt(x.var(1, keepdims=True, ddof=0) + 1),
    "sort": lambda k, _: lambda x: mx.sort(x, axis=1),
    "top": lambda k, _: lambda x: mx.sort(x, axis=1)[:, -min(k, x.shape[1]) :],
    "repeat": lambda k, _: lambda x: mx.repeat(x, 2, axis=1),
    "twice": lambda k, _: lambda x: mx.concatenate([x, x[:, :k]], axis=1),
    "difference": lambda k, _: lambda x: x[:, 1:] - x[:, :-1],
    "roll {k}": lambda k, _: lambda x: mx.roll(x, k, axis=1),
    "split": lambda k, _: lambda x: mx.split(x, 2, axis=1)[0],
    "flatten": lambda k, _: lambda x: x.reshape(-1, FEATURES).reshape(x.shape),
    "positions of {k}": lambda k, r: (lambda t: lambda x: _positions(x, t))(
        _weight(r, max(k, 64), FEATURES)
    ),
    "convolution {k}": lambda k, r: (lambda w, s, p: lambda x: mx.conv1d(x, w, s, p))(
        _weight(r, FEATURES, min(k, 20), FEATURES), r.choice((1, 2, min(k, 20))), r.choice((0, 2))
    ),
    "causal convolution": lambda k, r: (
        lambda w: lambda x: mx.conv1d(mx.pad(x, [(0, 0), (w.shape[1] - 1, 0), (0, 0)]), w)
    )(_weight(r, FEATURES, min(k, 8), FEATURES)),
    "max pooling {k}": lambda k, r: nn.MaxPool1d(min(k, 16), r.choice((None, 2)) or min(k, 16)),
    "average pooling {k}": lambda k, r: nn.AvgPool1d(min(k, 16), min(k, 16)),
    "dense": lambda k, r: (lambda w: lambda x: mx.tanh(x @ w))(_weight(r, FEATURES, FEATURES)),
}
ENDS: dict[str, Step] = {
    "as it is": lambda x: x,
    "sum": lambda x: x.sum(1),
    "mean": lambda x: x.mean(1),
    "maximum": lambda x: x.max(1),
    "last": lambda x: x[:, -1],
    "first": lambda x: x[:, 0],
    "flat": lambda x: x.reshape(x.shape[0], -1),
    "mean of all": lambda x: x.mean(),
}
# Loops over fewer steps than this are unrolled too long.
SMALLEST_CHUNK = 12


def function(seed: int) -> Function:
    """A random function of (batch, time, 4)."""
    rng = random.Random(seed)
    names, steps, numbers = [], [], []
    for name in rng.choices(list(STEPS), k=rng.choice((1, 1, 2, 2, 3, 4))):
        k = rng.choice(NUMBERS)
        if "in {k}s" in name:
            k = max(k, SMALLEST_CHUNK)
        elif name in ("x[:, ::{k}]", "x[:, 1::{k}]"):
            k = min(k, 5)
        elif "small" in name:
            k = min(k, 3)
        names.append(name.format(k=k))
        steps.append(STEPS[name](k, rng))
        numbers.append(k)
    end = rng.choice(list(ENDS))
    return Function((*names, end), (*steps, ENDS[end]), tuple(numbers))


def points(f: Function, rng: random.Random) -> list[tuple[int, int]]:
    """(batch, time): all small times, those near the function's numbers, and some large ones."""
    near = {k + d for k in f.numbers for d in (-1, 0, 1, 2)} | {2 * k for k in f.numbers}
    times = {*range(1, DENSE + 1), *near, LARGEST, *rng.choices(range(1, LARGEST), k=SPARSE)}
    found = [(rng.choice((1, 2, 3)), n) for n in sorted(times) if 0 < n <= LARGEST]
    return found + [(b, rng.choice((1, 5, 40))) for b in (*range(1, 20), 33, 65, 129, 600)]


def as_model(f: Function, rng: random.Random) -> mf.Model:
    """The function as a layer between others."""
    x = mf.Input((rng.choice((None, "time")), FEATURES))
    before, after = rng.choice(BEFORE), rng.choice(AFTER)
    y = layers.Lambda(f)(x if before is None else before()(x))
    return mf.Model(x, after()(y) if y.ndim == 3 and after is not None else y)


BEFORE: tuple[Callable[[], Any] | None, ...] = (
    None,
    lambda: layers.Dense(FEATURES),
    lambda: layers.Conv1D(FEATURES, 3, padding="same"),
    lambda: layers.MaxPooling1D(2),
)
AFTER: tuple[Callable[[], Any] | None, ...] = (
    None,
    lambda: layers.Dense(3),
    lambda: layers.Conv1D(3, 3),
    lambda: layers.GlobalAveragePooling1D(),
    lambda: layers.LSTM(3),
    lambda: layers.Reshape((-1, 2)),
    lambda: layers.UpSampling1D(2),
)


def export(source: Any) -> Any:
    """The file, or None where it is refused."""
    inputs = None if isinstance(source, mf.Model) else [("batch", "time", FEATURES)]
    try:
        return to_onnx(source, inputs=inputs, verbose=False)
    except (UnsupportedPrimitives, UnsupportedLayers, VerificationError):
        return None
    except Exception as error:
        if any("while tracing" in note for note in getattr(error, "__notes__", ())):
            return None  # What the function raises at the sizes that it is traced at.
        raise


def trial(seed: int) -> str | None:
    """None when a random function is refused, or right at every size that MLX takes."""
    f, rng = function(seed), random.Random(seed)
    source: Any = f
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            record(f, [mx.zeros((401, 1999, FEATURES))])
            if rng.random() < IN_A_MODEL:
                source = as_model(f, rng)
        except Exception:
            return None  # MLX refuses it at a size that is large enough for all.
        model = export(source)
        problem = None if model is None else _wrong(source, model, points(f, rng))
    how = [layer.name for layer in source.layers] if source is not f else "alone"
    return problem and f"{f} ({how}): {problem}"


def _wrong(source: Any, model: Any, places: Sequence[tuple[int, int]]) -> str | None:
    session, rng, bad = open_session(model), np.random.default_rng(0), []
    (name,) = [output.name for output in session.get_outputs()]
    (given,) = [entry.name for entry in session.get_inputs()]
    for batch, time in places:
        x = rng.normal(size=(batch, time, FEATURES)).astype(np.float32)
        try:
            if time <= DENSE:
                check_bounds(source, [mx.zeros(x.shape)])
            expected = np.array(source(mx.array(x)))
        except Exception:
            continue  # MLX refuses this size.
        report = Report(*TOLERANCES)
        try:
            right = compare(report, [name], [expected], session.run(None, {given: x}))
        except Exception as error:
            right, report.layer = False, str(error).splitlines()[0][:200]
        if not right:
            bad.append(f"batch {batch} time {time} ({report.layer or report.outputs[name]})")
    return f"wrong at {len(bad)} of {len(places)} sizes, first at {bad[0]}" if bad else None
