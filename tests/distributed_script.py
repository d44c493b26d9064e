"""Run by `mlx.launch` and alone: trains ten steps and writes what rank 0 ends with."""

import sys

import mlxfunc as mf
import numpy as np
from mlxfunc.training import distributed

kind, target = sys.argv[1:3]
mf.utils.set_random_seed(3)
random = np.random.default_rng(0)
x = random.normal(size=(77, 6)).astype("float32")
y = random.integers(0, 3, 77)

inputs = mf.Input((6,))
hidden = mf.layers.Dense(8, activation="relu", kernel_regularizer="l2")(inputs)
if kind == "dropout":
    hidden = mf.layers.Dropout(0.5)(hidden)
if kind == "statistics":
    hidden = mf.layers.BatchNormalization()(hidden)
model = mf.Model(inputs, mf.layers.Dense(3, activation="softmax")(hidden))
if distributed.rank():
    # Whatever a process starts with, rank 0's weights are those that count.
    model.set_weights([w + 1 for w in model.get_weights()])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
checkpoint = mf.callbacks.ModelCheckpoint(
    f"{target}.{distributed.rank()}.safetensors", save_weights_only=True
)
# 77 rows in batches of 16: five steps an epoch, the last with 13 rows.
history = model.fit(
    x, y, batch_size=16, epochs=2, validation_split=0.0, validation_data=(x, y),
    callbacks=[checkpoint],
)  # fmt: skip
values = {f"weight{i}": w for i, w in enumerate(model.get_weights())}
values |= {f"log/{key}": np.array(v) for key, v in history.history.items()}
values["rank"] = np.array(distributed.rank())
np.savez(f"{target}.{distributed.rank()}.npz", **values)
