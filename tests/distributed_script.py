"""Run by `mlx.launch` and alone: trains ten steps and writes what rank 0 ends with."""

import sys

import mlxfunc as mf
import numpy as np
from mlxfunc.training import distributed

kind, target = sys.argv[1:3]
mf.utils.set_random_seed(3)
random = np.random.default_rng(0)
L = mf.layers


def rows(*more):
    """A classifier of rows; `more` layers come after its first."""
    x = random.normal(size=(77, 6)).astype("float32")
    inputs = mf.Input((6,))
    hidden = L.Dense(8, activation="relu", kernel_regularizer="l2")(inputs)
    for layer in more:
        hidden = layer(hidden)
    model = mf.Model(inputs, L.Dense(3, activation="softmax")(hidden))
    return model, x, random.integers(0, 3, 77)


def images():
    """Statistics of batch, height and width, twice over: each needs the other's derivative."""
    x = (random.normal(size=(77, 4, 4, 2)) * 3 + np.arange(77)[:, None, None, None]) / 9
    inputs = mf.Input((4, 4, 2))
    hidden = L.BatchNormalization(synchronized=True)(inputs)
    hidden = L.Activation("tanh")(L.Conv2D(3, 2)(hidden))
    hidden = L.BatchNormalization(synchronized=True, momentum=0.8)(hidden)
    model = mf.Model(inputs, L.Dense(3, activation="softmax")(L.Flatten()(hidden)))
    return model, x.astype("float32"), random.integers(0, 3, 77)


def steps(*more):
    """A label for each step of sequences, short ones first: ranks have other numbers of steps."""
    tokens = random.integers(1, 20, (77, 9))
    lengths = np.where(np.arange(77) % 16 < 8, random.integers(1, 4, 77), 9)
    tokens[np.arange(9) >= lengths[:, None]] = 0
    inputs = mf.Input((9,), dtype="int32")
    hidden = L.Embedding(20, 4, mask_zero=True)(inputs)
    for layer in more:
        hidden = layer(hidden)
    hidden = L.LSTM(5, return_sequences=True)(hidden)
    model = mf.Model(inputs, L.Dense(3, activation="softmax")(hidden))
    return model, tokens, random.integers(0, 3, (77, 9))


MODELS = {
    "plain": rows,
    "dropout": lambda: rows(L.Dropout(0.5)),
    "statistics": lambda: rows(L.BatchNormalization()),
    "synchronized": images,
    "masked": steps,
    "masked-synchronized": lambda: steps(L.BatchNormalization(synchronized=True)),
    "sum": rows,
    "mean_with_sample_weight": rows,
}
model, x, y = MODELS[kind]()
reduction = kind if kind in ("sum", "mean_with_sample_weight") else "sum_over_batch_size"
weights = random.uniform(0, 2, 77) if reduction != "sum_over_batch_size" else None
if distributed.rank():
    # Whatever a process starts with, rank 0's weights are those that count.
    model.set_weights([w + 1 for w in model.get_weights()])
model.compile(
    # Adam divides by what it has of a gradient: where one is nearly zero, rounding decides.
    "adam" if x.ndim == 2 and kind != "sum" else mf.optimizers.SGD(0.05, momentum=0.9),
    mf.losses.SparseCategoricalCrossentropy(reduction=reduction),
    metrics=["accuracy"],
    jit_compile="compiled" in sys.argv,
)
checkpoint = mf.callbacks.ModelCheckpoint(
    f"{target}.{distributed.rank()}.safetensors", save_weights_only=True
)
# 77 rows in batches of 16: five steps an epoch, the last with 13 rows.
history = model.fit(
    x, y, batch_size=16, epochs=2, validation_split=0.0, validation_data=(x, y),
    callbacks=[checkpoint], sample_weight=weights, shuffle=not kind.startswith("masked"),
)  # fmt: skip
values = {f"weight{i}": w for i, w in enumerate(model.get_weights())}
values |= {f"log/{key}": np.array(v) for key, v in history.history.items()}
values["rank"] = np.array(distributed.rank())
np.savez(f"{target}.{distributed.rank()}.npz", **values)
