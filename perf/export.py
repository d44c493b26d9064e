"""Exported graphs beside the smallest known ones, and beside Keras's exports of the same models.

For each model: nodes, Transposes, kilobytes beyond the weights, seconds to export, ONNX Runtime's
milliseconds at batch 1 and 32 on one thread. "best" is the best of Keras on TensorFlow, JAX and
PyTorch and of PyTorch's own exporter, as measured once; "keras" is Keras's PyTorch backend in this
run, where it is installed, and "error" the largest difference of its file from Keras itself, at
batch 32 and other sizes than it was exported with. `--rounds N`, `--only NAME`, `--no-keras`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlxfunc as mf

# isort: split
# mlxfunc first: it loads the BLAS.
import mlx2onnx
import numpy as np
import onnx
import onnxruntime
from rich.console import Console
from rich.table import Table

# Sizes for the dynamic dimensions: time, height, width.
DYNAMIC = 48


@dataclass(frozen=True)
class Row:
    """A model, built by a function of a Keras-like library; the most nodes ours may have."""

    build: Callable[[Any], Any]
    goal: int
    best: int


def mlp(k: Any) -> Any:
    x = k.Input((784,))
    h = k.layers.Dense(512, activation="relu")(x)
    h = k.layers.Dense(512, activation="relu")(h)
    return k.Model(x, k.layers.Dense(10, activation="softmax")(h))


def cnn(k: Any) -> Any:
    x = k.Input((32, 32, 3))
    h = k.layers.MaxPooling2D(2)(k.layers.Conv2D(32, 3, activation="relu")(x))
    h = k.layers.MaxPooling2D(2)(k.layers.Conv2D(64, 3, activation="relu")(h))
    return k.Model(x, k.layers.Dense(10, activation="softmax")(k.layers.Flatten()(h)))


def inception(k: Any) -> Any:
    def conv(x: Any, size: int) -> Any:
        return k.layers.Conv2D(64, size, padding="same", activation="relu")(x)

    x = k.Input((32, 32, 3))
    pooled = k.layers.MaxPooling2D(3, strides=1, padding="same")(x)
    towers = [conv(conv(x, 1), 3), conv(conv(x, 1), 5), conv(pooled, 1)]
    return k.Model(x, k.layers.Concatenate()(towers))


def resnet(k: Any) -> Any:
    def conv(x: Any, filters: int, padding: str = "valid") -> Any:
        return k.layers.Conv2D(filters, 3, activation="relu", padding=padding)(x)

    x = k.Input((32, 32, 3))
    h = k.layers.MaxPooling2D(3)(conv(conv(x, 32), 64))
    for _ in range(2):
        h = k.layers.Add()([conv(conv(h, 64, "same"), 64, "same"), h])
    h = k.layers.GlobalAveragePooling2D()(conv(h, 64))
    h = k.layers.Dropout(0.5)(k.layers.Dense(256, activation="relu")(h))
    return k.Model(x, k.layers.Dense(10)(h))


def siamese(k: Any) -> Any:
    a, b = k.Input((280, 256)), k.Input((280, 256))
    shared = k.layers.LSTM(64)
    joined = k.layers.Concatenate()([shared(a), shared(b)])
    return k.Model([a, b], k.layers.Dense(1, activation="sigmoid")(joined))


def headline(k: Any) -> Any:
    words, extra = k.Input((100,), dtype="int32"), k.Input((5,))
    encoded = k.layers.LSTM(32)(k.layers.Embedding(10000, 512)(words))
    auxiliary = k.layers.Dense(1, activation="sigmoid")(encoded)
    h = k.layers.Concatenate()([encoded, extra])
    for _ in range(3):
        h = k.layers.Dense(64, activation="relu")(h)
    return k.Model([words, extra], [k.layers.Dense(1, activation="sigmoid")(h), auxiliary])


def autoencoder(k: Any) -> Any:
    image, code = k.Input((28, 28, 1)), k.Input((16,))
    h = image
    for filters in (16, 32):
        h = k.layers.Conv2D(filters, 3, activation="relu")(h)
    h = k.layers.MaxPooling2D(3)(h)
    for filters in (32, 16):
        h = k.layers.Conv2D(filters, 3, activation="relu")(h)
    encoder = k.Model(image, k.layers.GlobalMaxPooling2D()(h))
    h = k.layers.Reshape((4, 4, 1))(code)
    for filters in (16, 32):
        h = k.layers.Conv2DTranspose(filters, 3, activation="relu")(h)
    h = k.layers.Conv2DTranspose(16, 3, activation="relu")(k.layers.UpSampling2D(3)(h))
    decoder = k.Model(code, k.layers.Conv2DTranspose(1, 3, activation="relu")(h))
    whole = k.Input((28, 28, 1))
    return k.Model(whole, decoder(encoder(whole)))


def video(k: Any) -> Any:
    frames, image = k.Input((8, 32, 32, 3)), k.Input((32, 32, 3))
    h = k.layers.MaxPooling2D(2)(k.layers.Conv2D(16, 3, activation="relu")(image))
    h = k.layers.MaxPooling2D(2)(k.layers.Conv2D(32, 3, activation="relu")(h))
    vision = k.Model(image, k.layers.Flatten()(h))
    encoded = k.layers.LSTM(64)(k.layers.TimeDistributed(vision)(frames))
    return k.Model(frames, k.layers.Dense(10, activation="softmax")(encoded))


def bidirectional_gru(k: Any) -> Any:
    x = k.Input((20, 16))
    h = k.layers.Bidirectional(k.layers.GRU(32))(x)
    return k.Model(x, k.layers.Dense(5, activation="softmax")(h))


def transformer(k: Any) -> Any:
    x = k.Input((64, 64))
    attended = k.layers.MultiHeadAttention(4, 16)(x, x)
    a = k.layers.LayerNormalization(epsilon=1e-6)(k.layers.Add()([x, attended]))
    hidden = k.layers.Dense(64)(k.layers.Dense(256, activation="relu")(a))
    return k.Model(x, k.layers.LayerNormalization(epsilon=1e-6)(k.layers.Add()([a, hidden])))


def masked_lstm(k: Any) -> Any:
    ids = k.Input((20,), dtype="int32")
    h = k.layers.LSTM(16)(k.layers.Embedding(100, 8, mask_zero=True)(ids))
    return k.Model(ids, k.layers.Dense(1, activation="sigmoid")(h))


def separable(k: Any) -> Any:
    x = k.Input((32, 32, 3))
    h = k.layers.SeparableConv2D(16, 3, use_bias=False)(x)
    h = k.layers.ReLU()(k.layers.BatchNormalization()(h))
    h = k.layers.SeparableConv2D(32, 3, use_bias=False)(h)
    h = k.layers.ReLU()(k.layers.BatchNormalization()(h))
    return k.Model(x, k.layers.Dense(10)(k.layers.GlobalAveragePooling2D()(h)))


def dynamic_lstm(k: Any) -> Any:
    x = k.Input((None, 16))
    return k.Model(x, k.layers.Dense(1)(k.layers.LSTM(32)(x)))


def backwards(k: Any) -> Any:
    x = k.Input((20, 16))
    return k.Model(x, k.layers.LSTM(32, return_sequences=True, go_backwards=True)(x))


def convolutional(k: Any) -> Any:
    x = k.Input((None, None, 3))
    h = k.layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    return k.Model(x, k.layers.Conv2D(1, 3, padding="same", activation="sigmoid")(h))


ROWS = {
    "MLP": Row(mlp, 6, 9),
    "CNN": Row(cnn, 10, 18),
    "Inception block": Row(inception, 14, 14),
    "small ResNet": Row(resnet, 24, 26),
    "siamese LSTM": Row(siamese, 9, 28),
    "headline": Row(headline, 15, 38),
    "autoencoder": Row(autoencoder, 24, 44),
    "TimeDistributed CNN": Row(video, 15, 128),
    "Bidirectional GRU": Row(bidirectional_gru, 6, 103),
    "Transformer block": Row(transformer, 25, 35),
    "masked LSTM": Row(masked_lstm, 35, 57),
    "BatchNorm separable": Row(separable, 12, 11),
    "LSTM, any time": Row(dynamic_lstm, 4, 14),
    "LSTM backwards": Row(backwards, 5, 16),
    "fully convolutional": Row(convolutional, 6, 53),
}


def feeds(proto: onnx.ModelProto, batch: int) -> dict[str, np.ndarray]:
    """Random inputs, dynamic sizes filled in."""
    rng, arrays = np.random.default_rng(0), {}
    for value in proto.graph.input:
        tensor = value.type.tensor_type
        dims = [d.dim_value or DYNAMIC for d in tensor.shape.dim]
        shape = (batch, *dims[1:])
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        whole = np.issubdtype(kind, np.integer)
        array = rng.integers(0, 100, shape) if whole else rng.standard_normal(shape)
        arrays[value.name] = array.astype(kind)
    return arrays


def session_of(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    data = proto.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def milliseconds(protos: list[onnx.ModelProto], batch: int, rounds: int) -> list[float]:
    """The median time of one run of each, on one thread, the models taking turns."""
    times: list[list[float]] = [[] for _ in protos]
    sessions = [(session_of(proto), feeds(proto, batch)) for proto in protos]
    for session, inputs in sessions:
        session.run(None, inputs)
    for _ in range(rounds):
        for (session, inputs), row in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, inputs)
            row.append(time.perf_counter() - start)
    return [1000 * statistics.median(row) for row in times]


def weight_bytes(proto: onnx.ModelProto) -> int:
    return mlx2onnx.inspect(proto).weight_bytes


def seconds(model: Any) -> float:
    """To export once more, verification aside."""
    start = time.perf_counter()
    mlx2onnx.to_onnx(model, verify=False)
    return time.perf_counter() - start


def keras_exporter() -> Callable[[Row], tuple[onnx.ModelProto, float] | None] | None:
    """Exports with Keras on PyTorch, and their error; None where they are not installed."""
    os.environ["KERAS_BACKEND"] = "torch"
    try:
        import keras
        import onnxscript  # noqa: F401
    except ImportError:
        return None

    warnings.simplefilter("ignore")

    def export(row: Row) -> tuple[onnx.ModelProto, float] | None:
        model = row.build(keras)
        model([np.zeros([d or (2 if i == 0 else DYNAMIC) for i, d in enumerate(x.shape)],
                        x.dtype) for x in model.inputs])  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    model.export(path, format="onnx", verbose=False)
            except Exception as error:
                print(f"keras: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
                return None
            proto = onnx.load(path)
        inputs = feeds(proto, 32)
        return proto, difference(session_of(proto).run(None, inputs), model(list(inputs.values())))

    return export


def difference(got: Any, expected: Any) -> float:
    """The largest difference of two lists of outputs; infinite where shapes differ."""
    expected = expected if isinstance(expected, list | tuple) else [expected]
    pairs = [(a, b.detach().numpy()) for a, b in zip(got, expected, strict=True)]
    return max(float(np.abs(a - b).max()) if a.shape == b.shape else float("inf") for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--only", choices=ROWS)
    parser.add_argument("--no-keras", action="store_true")
    arguments = parser.parse_args()
    other = None if arguments.no_keras else keras_exporter()
    table = Table("model", "nodes", "goal", "best", "keras", "Transposes", "kB beyond weights",
                  "export s", "ms at 1", "keras", "ms at 32", "keras", "error")  # fmt: skip
    for name, row in ROWS.items():
        if arguments.only not in (None, name):
            continue
        model = row.build(mf)
        ours = mlx2onnx.to_onnx(model, verbose=False, verify=(2,))
        theirs = other(row) if other else None
        protos = [ours] if theirs is None else [ours, theirs[0]]
        once, many = (milliseconds(protos, batch, arguments.rounds) for batch in (1, 32))
        contents = mlx2onnx.inspect(ours)
        table.add_row(
            name,
            str(contents.nodes),
            str(row.goal),
            str(row.best),
            "-" if theirs is None else str(len(theirs[0].graph.node)),
            str(contents.operators.get("Transpose", 0)),
            f"{(ours.ByteSize() - weight_bytes(ours)) / 1000:.1f}",
            f"{seconds(model):.3f}",
            f"{once[0]:.3f}",
            "-" if theirs is None else f"{once[1]:.3f}",
            f"{many[0]:.2f}",
            "-" if theirs is None else f"{many[1]:.2f}",
            "-" if theirs is None else f"{theirs[1]:.0e}",
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
