"""LSTM and GRU against those of mlx.nn: a compiled training step of each, interleaved.

Batch 128, 100 steps, 64 features and 64 units, then a Linear(10) on the last output, by SGD.
Prints the median step of each, the ratio of medians, the largest difference of a gradient
relative to the largest gradient, and the memory a step takes; then what 2,000 steps cost to
compile, and how memory grows with time. `--rounds N`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import mlxfunc as mf

# isort: split
# mlxfunc first: it loads the BLAS that both sides use.
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers
from mlx.utils import tree_flatten

BATCH, STEPS, UNITS = 128, 100, 64


class Classifier(nn.Module):
    """A recurrent layer and a Linear on its last output."""

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.recurrent, self.out = recurrent, nn.Linear(UNITS, 10)

    def __call__(self, x: mx.array) -> mx.array:
        y = self.recurrent(x)
        y = y[0] if isinstance(y, tuple) else y
        return self.out(y[:, -1])


def loss(module: nn.Module, x: mx.array, y: mx.array) -> mx.array:
    return nn.losses.cross_entropy(module(x), y, reduction="mean")


def lstm() -> tuple[nn.Module, nn.Module]:
    ours, theirs = mf.layers.LSTM(UNITS, return_sequences=True), nn.LSTM(UNITS, UNITS)
    ours(mx.zeros((1, 1, UNITS)))
    ours.update(theirs.parameters())
    return ours, theirs


def gru() -> tuple[nn.Module, nn.Module]:
    ours, theirs = mf.layers.GRU(UNITS, return_sequences=True), nn.GRU(UNITS, UNITS)
    ours(mx.zeros((1, 1, UNITS)))
    recurrent_bias = mx.concatenate([mx.zeros(2 * UNITS), theirs.bhn])
    ours.update({"Wx": theirs.Wx, "Wh": theirs.Wh, "bias": mx.stack([theirs.b, recurrent_bias])})
    return ours, theirs


LAYERS: dict[str, Callable] = {"LSTM": lstm, "GRU": gru}


def data(steps: int = STEPS, batch: int = BATCH) -> tuple[mx.array, mx.array]:
    x, y = mx.random.normal((batch, steps, UNITS)), mx.random.randint(0, 10, (batch,))
    mx.eval(x, y)
    return x, y


def trainer(module: nn.Module) -> Callable[[mx.array, mx.array], float]:
    """A compiled training step, which returns the seconds it took."""
    module.train()
    optimizer = mlx.optimizers.SGD(0.01)
    optimizer.init(module.trainable_parameters())
    gradient = nn.value_and_grad(module, lambda x, y: loss(module, x, y))
    state = [module.state, optimizer.state]

    def step(x: mx.array, y: mx.array) -> mx.array:
        value, gradients = gradient(x, y)
        optimizer.update(module, gradients)
        return value

    compiled = mx.compile(step, inputs=state, outputs=state)

    def run(x: mx.array, y: mx.array) -> float:
        start = time.perf_counter()
        mx.eval(compiled(x, y), state)
        return time.perf_counter() - start

    return run


def difference(ours: Classifier, theirs: Classifier) -> float:
    """The largest difference of gradients that both have, relative to the largest of them."""
    x, y = data()
    theirs.out = ours.out

    def gradients(module: Classifier) -> dict[str, Any]:
        module.train()
        _, found = nn.value_and_grad(module, lambda x, y: loss(module, x, y))(x, y)
        return dict(tree_flatten(found))

    a, b = gradients(ours), gradients(theirs)
    shared = [key for key in a if key in b]
    errors = [(mx.max(mx.abs(a[k] - b[k])) / mx.max(mx.abs(b[k]))).item() for k in shared]
    assert len(shared) >= 4
    return max(errors)


def peak(run: Callable, x: mx.array, y: mx.array) -> float:
    """MiB that a step takes at its peak, beyond what is there before."""
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    run(x, y)
    return (mx.get_peak_memory() - before) / 2**20


def compare(rounds: int) -> None:
    print(f"{'layer':<8}{'mlx.nn':>10}{'mlxfunc':>10}{'ratio':>8}{'difference':>12}", end="")
    print(f"{'mlx.nn':>12}{'mlxfunc':>10}")
    for name, make in LAYERS.items():
        ours, theirs = (Classifier(layer) for layer in make())
        error = difference(ours, theirs)
        x, y = data()
        runs = trainer(theirs), trainer(ours)
        times: list[list[float]] = [[], []]
        for round_number in range(rounds + 2):
            for k, run in enumerate(runs):
                seconds = run(x, y)
                if round_number >= 2:
                    times[k].append(seconds)
        old, new = (statistics.median(t) for t in times)
        print(f"{name:<8}{old * 1e3:>8.1f}ms{new * 1e3:>8.1f}ms{old / new:>8.2f}", end="")
        print(f"{error:>12.1e}{peak(runs[0], x, y):>9.0f}MiB{peak(runs[1], x, y):>7.0f}MiB")


def long_sequences() -> None:
    print("\n2,000 steps, batch 8: the first step (with compiling) and the next, seconds")
    for name, make in LAYERS.items():
        run = trainer(Classifier(make()[0]))
        x, y = data(2000, 8)
        print(f"{name:<8}{run(x, y):>8.2f}{run(x, y):>8.2f}")
    print("\nPeak memory of a step of the LSTM, batch 32")
    for steps in (100, 200, 400, 800):
        run = trainer(Classifier(lstm()[0]))
        x, y = data(steps, 32)
        run(x, y)
        print(f"{steps:>5} steps{peak(run, x, y):>8.0f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    compare(parser.parse_args().rounds)
    long_sequences()
