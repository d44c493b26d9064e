"""Every layer of mlx.nn, traced, runs in ONNX Runtime as in MLX."""

from __future__ import annotations

import inspect

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from tracing import IMAGE, POINTS, ROWS, SEQUENCE, B, T, array, compare, export, sample, session
from tracing_modules import Attended, Llama, Masked, ResNet

VOLUME = [(B, 8, 9, 7, 4)]


def quantized(layer):
    return layer.to_quantized(group_size=32, bits=4)


def warmed(layer):
    """A BatchNorm with statistics other than 0 and 1."""
    layer.running_mean, layer.running_var = array(4), mx.abs(array(4)) + 0.5
    return layer


# layer: how to make it, inputs, tolerance
LAYERS = {
    "ALiBi": (lambda: Attended(), [(B, 4, T, T)], 1e-5),
    "AvgPool1d": (lambda: nn.AvgPool1d(3, 2), [(B, T, 4)]),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1), IMAGE),
    "AvgPool3d": (lambda: nn.AvgPool3d(2), VOLUME),
    "BatchNorm": (lambda: warmed(nn.BatchNorm(4)), IMAGE),
    "Bilinear": (lambda: nn.Bilinear(4, 5, 3), [(B, 4), (B, 5)], 5e-6),
    "Conv1d": (lambda: nn.Conv1d(8, 5, 3, 2), SEQUENCE, 5e-6),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, 2, 1, groups=2), IMAGE, 5e-6),
    "Conv3d": (lambda: nn.Conv3d(4, 5, 3), VOLUME, 5e-6),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(8, 5, 3, 2), SEQUENCE, 5e-6),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 5, 3, 2), IMAGE, 5e-6),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 3, 2), VOLUME, 5e-6),
    "Dropout": (lambda: nn.Dropout(0.5), ROWS),
    "Dropout2d": (lambda: nn.Dropout2d(0.5), IMAGE),
    "Dropout3d": (lambda: nn.Dropout3d(0.5), VOLUME),
    "Embedding": (lambda: nn.Embedding(10, 4), [((B, T), "int32")]),
    "GRU": (lambda: nn.GRU(8, 5), [(B, 6, 8)]),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), IMAGE, 5e-6),
    "InstanceNorm": (lambda: nn.InstanceNorm(4, affine=True), IMAGE, 5e-6),
    "LSTM": (lambda: nn.LSTM(8, 5), [(B, 6, 8)]),
    "LayerNorm": (lambda: nn.LayerNorm(8), SEQUENCE),
    "Linear": (lambda: nn.Linear(8, 5), SEQUENCE),
    "MaxPool1d": (lambda: nn.MaxPool1d(3, 2), [(B, T, 4)]),
    "MaxPool2d": (lambda: nn.MaxPool2d(3, 2, 1), IMAGE),
    "MaxPool3d": (lambda: nn.MaxPool3d(2), VOLUME),
    "MultiHeadAttention": (lambda: Masked(nn.MultiHeadAttention(8, 2)), SEQUENCE),
    "QuantizedEmbedding": (lambda: quantized(nn.Embedding(10, 32)), [((B, T), "int32")]),
    "QuantizedLinear": (lambda: quantized(nn.Linear(32, 64)), [(B, 32)], 5e-6),
    "RMSNorm": (lambda: nn.RMSNorm(8), SEQUENCE),
    "RNN": (lambda: nn.RNN(8, 5), [(B, 6, 8)]),
    "RoPE": (lambda: nn.RoPE(8), SEQUENCE, 5e-6),
    "Sequential": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), ROWS),
    "SinusoidalPositionalEncoding": (lambda: nn.SinusoidalPositionalEncoding(8), [(B, T)], 5e-6),
    "Transformer": (lambda: Masked(nn.Transformer(8, 2, 1, 1, 16), memory=True), SEQUENCE, 5e-6),
    "TransformerDecoder": (lambda: Masked(nn.TransformerDecoder(1, 8, 2, 16), memory=True),
                           SEQUENCE, 5e-6),
    "TransformerDecoderLayer": (lambda: Masked(nn.TransformerDecoderLayer(8, 2, 16), memory=True),
                                SEQUENCE, 5e-6),
    "TransformerEncoder": (lambda: Masked(nn.TransformerEncoder(2, 8, 2, 16)), SEQUENCE, 5e-6),
    "TransformerEncoderLayer": (lambda: Masked(nn.TransformerEncoderLayer(8, 2, 16)), SEQUENCE,
                                5e-6),
    "Upsample": (lambda: nn.Upsample(2, "linear", align_corners=True), [(B, 5, 6, 4)], 5e-6),
    **{name: (getattr(nn, name), ROWS) for name in (
        "CELU", "ELU", "GELU", "GLU", "HardShrink", "HardTanh", "Hardswish", "Identity",
        "LeakyReLU", "LogSigmoid", "LogSoftmax", "Mish", "PReLU", "ReLU", "ReLU2", "ReLU6", "SELU",
        "SiLU", "Sigmoid", "Softmax", "Softmin", "Softplus", "Softshrink", "Softsign", "Step",
        "Tanh")},
}  # fmt: skip

# More configurations of some of them.
MORE_LAYERS = {
    "AvgPool2d even": (lambda: nn.AvgPool2d(2), [(B, 8, 6, 4)]),
    "MaxPool2d even": (lambda: nn.MaxPool2d(2), [(B, 8, 6, 4)]),
    "MaxPool2d dynamic": (lambda: nn.MaxPool2d(2), IMAGE),
    "BatchNorm rows": (lambda: warmed(nn.BatchNorm(4, affine=False)), ROWS),
    "GELU approx": (lambda: nn.GELU("tanh"), ROWS),
    "GELU fast": (lambda: nn.GELU("fast"), ROWS),
    "GroupNorm pytorch": (lambda: nn.GroupNorm(2, 4, pytorch_compatible=True), IMAGE, 5e-6),
    "LSTM one row": (lambda: nn.LSTM(8, 5, bias=False), [(6, 8)]),
    "LayerNorm plain": (lambda: nn.LayerNorm(8, affine=False), SEQUENCE),
    "LayerNorm no bias": (lambda: nn.LayerNorm(8, bias=False), SEQUENCE),
    "Linear rows": (lambda: nn.Linear(4, 5), ROWS),
    "Linear no bias": (lambda: nn.Linear(8, 5, bias=False), SEQUENCE),
    "QuantizedLinear 3d": (lambda: quantized(nn.Linear(32, 64)), [(B, T, 32)], 5e-6),
    "RoPE traditional": (lambda: nn.RoPE(8, traditional=True), SEQUENCE, 5e-6),
    "Upsample nearest": (lambda: nn.Upsample((2, 3)), [(B, 5, 6, 4)]),
    "Upsample nearest fraction": (lambda: nn.Upsample(1.5), [(B, 4, 6, 4)]),
    "Upsample linear": (lambda: nn.Upsample(2, "linear"), [(B, 5, 6, 4)], 5e-6),
    "Upsample cubic": (lambda: nn.Upsample(2, "cubic"), [(B, 5, 6, 4)], 5e-6),
    "ResNet": (lambda: ResNet(), IMAGE, 1e-5),
    "Llama": (lambda: Llama(), [((B, T), "int32")], 2e-5),
    "Convolutional net": (lambda: nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.BatchNorm(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, 2),
        lambda x: x.mean(axis=(1, 2)), nn.Linear(8, 3)), [(B, "height", "width", 4)], 5e-6,
        ({B: 1, "height": 14, "width": 15}, {B: 2, "height": 21, "width": 18})),
}  # fmt: skip

LAYERS_NOT_EXPORTED = {
    "AllToShardedLinear": "needs a group of processes",
    "ShardedToAllLinear": "needs a group of processes",
    "QuantizedAllToShardedLinear": "needs a group of processes",
    "QuantizedShardedToAllLinear": "needs a group of processes",
    "FullyShardedModule": "needs a group of processes",
    "QQLinear": "quantizes activations; MLX runs it on GPUs only",
}


def public_layers():
    found = {
        name for name, value in vars(nn).items()
        if inspect.isclass(value) and issubclass(value, nn.Module)
    }  # fmt: skip
    return found - {"Module"}


def layer_rows():
    for name, (make, inputs, *rest) in {**LAYERS, **MORE_LAYERS}.items():
        tolerance = next((r for r in rest if isinstance(r, float)), 1e-6)
        points = next((r for r in rest if isinstance(r, tuple)), POINTS)
        yield pytest.param(make, inputs, tolerance, points, id=name)


@pytest.mark.parametrize("make, inputs, tolerance, points", list(layer_rows()))
def test_layer(make, inputs, tolerance, points):
    """Every layer of mlx.nn runs in ONNX Runtime as in MLX, at two sizes."""
    mx.random.seed(3)
    compare(make(), inputs, points, tolerance)


def test_every_layer_has_a_row():
    """Each public layer is exported or listed with the reason."""
    assert public_layers() == set(LAYERS) | set(LAYERS_NOT_EXPORTED)
    one_process = public_layers() - {
        n for n, why in LAYERS_NOT_EXPORTED.items() if "processes" in why
    }
    share = len(LAYERS) / len(one_process)
    print(f"\nmlx.nn layers with parity: {len(LAYERS)} of {len(one_process)}, {share:.1%}")
    assert share >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("opset", [17, 18, 21, 26])
def test_opsets(opset):
    """Every layer, at opsets where operators changed."""
    for make, inputs, tolerance, points in (row.values for row in layer_rows()):
        mx.random.seed(3)
        compare(make(), inputs, points, tolerance, opset)


@pytest.mark.slow
def test_float16():
    """Weights and computation in half precision stay near float32."""
    for make, inputs, _, points in (row.values for row in layer_rows()):
        mx.random.seed(3)
        layer = make()
        arrays = [sample(entry, points[0], i) for i, entry in enumerate(inputs)]
        layer.eval() if isinstance(layer, nn.Module) else None
        expected = [np.asarray(v) for _, v in tree_flatten(layer(*arrays))]
        runner = session(export(layer, inputs, dtype="float16"))
        feeds = {i.name: np.asarray(a) for i, a in zip(runner.get_inputs(), arrays, strict=True)}
        halves = {n: a.astype(np.float16) if a.dtype == np.float32 else a for n, a in feeds.items()}
        for found, wanted in zip(runner.run(None, halves), expected, strict=True):
            assert found.dtype == (np.float16 if wanted.dtype == np.float32 else wanted.dtype)
            np.testing.assert_allclose(found.astype(np.float32), wanted, rtol=2e-2, atol=2e-2)
