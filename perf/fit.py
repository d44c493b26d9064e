"""fit against the hand-written compiled mlx.nn loop, interleaved in one process.

Prints the median time of a few epochs of each, what fit does once included, the ratio of
medians, and that of the fastest, which other work on the machine disturbs least. `--rounds N`.
The data has mean 0: a network half of whose units are dead leaves Adam with denormal numbers, which
x86 multiplies many times slower, on whichever side they turn up.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import mlxfunc as mf
import numpy as np

# isort: split
# mlxfunc first: it loads the BLAS that both sides use.
import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers

BATCH, EPOCHS = 128, 4
Case = tuple[mf.Model, nn.Module, np.ndarray]


def mlp() -> Case:
    x = mf.Input((784,))
    h = mf.layers.Dense(512, activation="relu")(x)
    h = mf.layers.Dense(512, activation="relu")(h)
    model = mf.Model(x, mf.layers.Dense(10)(h))
    twin = nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )
    return model, twin, np.random.randn(40 * BATCH, 784).astype(np.float32)


def cnn() -> Case:
    x = mf.Input((28, 28, 1))
    h = mf.layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    h = mf.layers.MaxPooling2D()(h)
    h = mf.layers.Conv2D(32, 3, padding="same", activation="relu")(h)
    h = mf.layers.Flatten()(mf.layers.MaxPooling2D()(h))
    model = mf.Model(x, mf.layers.Dense(10)(h))
    twin = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(lambda h: h.reshape(h.shape[0], -1), nn.Linear(7 * 7 * 32, 10)),
    )
    return model, twin, np.random.randn(10 * BATCH, 28, 28, 1).astype(np.float32)


class Last(nn.Module):
    """The last step of an LSTM's hidden states."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, units)

    def __call__(self, x: mx.array) -> mx.array:
        return self.lstm(x)[0][:, -1]


def lstm() -> Case:
    x = mf.Input((32, 64))
    model = mf.Model(x, mf.layers.Dense(10)(mf.layers.LSTM(64)(x)))
    twin = nn.Sequential(Last(64, 64), nn.Linear(64, 10))
    return model, twin, np.random.randn(10 * BATCH, 32, 64).astype(np.float32)


def transformer() -> Case:
    x = mf.Input((32, 64))
    h = mf.layers.LayerNormalization(epsilon=1e-5)(x)
    h = mf.layers.Add()([x, mf.layers.MultiHeadAttention(4, 16, use_bias=False)(h, h)])
    f = mf.layers.LayerNormalization(epsilon=1e-5)(h)
    f = mf.layers.Dense(64)(mf.layers.Dense(256, activation="relu")(f))
    h = mf.layers.GlobalAveragePooling1D()(mf.layers.Add()([h, f]))
    model = mf.Model(x, mf.layers.Dense(10)(h))
    block = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, norm_first=True)
    twin = nn.Sequential(lambda h: block(h, None), lambda h: mx.mean(h, axis=1), nn.Linear(64, 10))
    twin.block = block
    return model, twin, np.random.randn(10 * BATCH, 32, 64).astype(np.float32)


CASES: dict[str, Callable[[], Case]] = {
    "MLP 784-512-512-10": mlp,
    "CNN 28x28": cnn,
    "LSTM(64), 32 steps": lstm,
    "Transformer block": transformer,
}


def hand_written(twin: nn.Module, x: mx.array, y: mx.array) -> Callable[[], float]:
    """One epoch of the loop that MLX's documentation shows, with shuffling and accuracy."""
    optimizer = mlx.optimizers.Adam(1e-3, bias_correction=True)
    optimizer.init(twin.trainable_parameters())

    def loss_fn(x: mx.array, y: mx.array) -> tuple[mx.array, mx.array]:
        logits = twin(x)
        correct = mx.sum(mx.argmax(logits, axis=-1) == y)
        return nn.losses.cross_entropy(logits, y, reduction="mean"), correct

    gradient = nn.value_and_grad(twin, loss_fn)
    state = [twin.state, optimizer.state, mx.random.state]

    def step(x: mx.array, y: mx.array, total: mx.array) -> mx.array:
        (loss, correct), gradients = gradient(x, y)
        optimizer.update(twin, gradients)
        return total + mx.stack([loss, correct.astype(mx.float32)])

    compiled = mx.compile(step, inputs=state, outputs=state)

    def epochs() -> float:
        start = time.perf_counter()
        for _ in range(EPOCHS):
            order = mx.random.permutation(x.shape[0])
            total = mx.zeros(2)
            for first in range(0, x.shape[0], BATCH):
                rows = order[first : first + BATCH]
                total = compiled(x[rows], y[rows], total)
                mx.async_eval(total, state)
            total.tolist()
        mx.eval(state)
        return time.perf_counter() - start

    return epochs


def with_fit(model: mf.Model, x: np.ndarray, y: np.ndarray, verbose: int) -> Callable[[], float]:
    model.compile(
        mf.optimizers.Adam(1e-3),
        mf.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=True,
    )

    def epochs() -> float:
        start = time.perf_counter()
        model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=verbose)
        return time.perf_counter() - start

    return epochs


def batches(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    while True:
        for first in range(0, len(x), BATCH):
            yield x[first : first + BATCH], y[first : first + BATCH]


def with_generator(model: mf.Model, x: np.ndarray, y: np.ndarray) -> Callable[[], float]:
    def epochs() -> float:
        start = time.perf_counter()
        model.fit(batches(x, y), steps_per_epoch=len(x) // BATCH, epochs=EPOCHS, verbose=0)
        return time.perf_counter() - start

    return epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    options = parser.parse_args()
    print(f"{'case':<24}{'by hand':>10}{'fit':>10}{'ratio':>8}{'best':>8}", end="")
    print(f"{'generator':>11}{'ratio':>8}{'best':>8}")
    for name, make in CASES.items():
        if options.only not in name:
            continue
        model, twin, x = make()
        y = np.random.randint(0, 10, len(x)).astype(np.int32)
        runs = (
            hand_written(twin, mx.array(x), mx.array(y)),
            with_fit(model, x, y, verbose=1),
            with_generator(model, x, y),
        )
        times: list[list[float]] = [[], [], []]
        for run in runs:
            run()
        for round_number in range(options.rounds):
            # Forwards and backwards in turn: no side is always the first.
            for k in range(len(runs))[:: 1 if round_number % 2 else -1]:
                times[k].append(runs[k]())
        hand, fit, stream = (statistics.median(t) for t in times)
        best = [min(t) for t in times]
        print(f"{name:<24}{hand:>9.3f}s{fit:>9.3f}s{fit / hand:>8.3f}", end="")
        print(f"{best[1] / best[0]:>8.3f}{stream:>10.3f}s{stream / fit:>8.3f}", end="")
        print(f"{best[2] / best[1]:>8.3f}")


if __name__ == "__main__":
    main()
