"""Quantized weights that stay packed: exact in ONNX Runtime, and as small as in MLX."""

import mlx2onnx
import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlxfunc import layers


def two_layers(group: int, bits: int, mode: str = "affine") -> nn.Module:
    mx.random.seed(bits + group)
    module = nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64, bias=False))
    nn.quantize(module, group, bits, mode=mode)
    return module


def export(source, **options):
    return mlx2onnx.to_onnx(source, quantized="MatMulNBits", verbose=False, **options)


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_are_exact(bits, group):
    module = two_layers(group, bits)
    exported = export(module, inputs=[("batch", 256)], rtol=1e-5, atol=2e-6)
    contents = mlx2onnx.inspect(exported)
    assert contents.operators["MatMulNBits"] == 2
    quantized = sum(
        layer[name].nbytes
        for layer in (module.layers[0], module.layers[2])
        for name in ("weight", "scales", "biases")
    )
    assert contents.weight_bytes <= quantized + 4 * 128 + 256


@pytest.mark.parametrize("bits", [2, 3, 5, 6])
def test_other_widths_are_stored_as_floats(bits):
    exported = export(two_layers(64, bits), inputs=[("batch", 256)])
    assert "MatMulNBits" not in mlx2onnx.inspect(exported).operators
    assert {o.domain for o in exported.opset_import} == {""}


def test_a_mode_without_biases_is_stored_as_floats():
    exported = export(two_layers(32, 4, "mxfp4"), inputs=[("batch", 256)])
    assert "MatMulNBits" not in mlx2onnx.inspect(exported).operators


def test_a_constant_group_is_exact():
    """Its scale is next to nothing: a zero point would be huge."""
    module = nn.Linear(64, 8)
    module.weight = mx.concatenate([mx.full((8, 32), 0.3), mx.random.normal((8, 32))], axis=1)
    export(nn.QuantizedLinear.from_linear(module, 32, 4), inputs=[("batch", 64)])


def test_in_a_model_with_sequences_and_in_half_precision():
    module = nn.QuantizedLinear(64, 32, group_size=32, bits=4)
    x = mf.Input((None, 64), name="x")
    model = mf.Model(x, layers.LSTM(3)(layers.MLXLayer(module)(x)))
    for options in ({}, {"dtype": "float16"}, {"opset": 17}):
        exported = export(model, **options)
        assert mlx2onnx.inspect(exported).operators["MatMulNBits"] == 1


def test_a_packed_weight_is_stored_once():
    module = nn.QuantizedLinear(64, 64, group_size=32, bits=4)
    once = export(module, inputs=[("batch", 64)])
    twice = export(lambda x: module(module(x)), inputs=[("batch", 64)])
    sizes = [mlx2onnx.inspect(m).weight_bytes for m in (once, twice)]
    assert sizes[1] - sizes[0] < 100


def test_a_written_file_is_the_same(tmp_path):
    module, path = two_layers(64, 4), tmp_path / "model.onnx"
    mlx2onnx.to_onnx(
        module, path, inputs=[("batch", 256)], quantized="MatMulNBits", external_data=True,
        verbose=False,
    )  # fmt: skip
    x = np.random.default_rng(0).standard_normal((3, 256)).astype(np.float32)
    assert mlx2onnx.verify(module, path, [x]).ok


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="expected quantized 'MatMulNBits' or None, got 'int4'"):
        mlx2onnx.to_onnx(lambda x: x, inputs=[(2,)], quantized="int4")
