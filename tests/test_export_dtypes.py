"""Layers of integers, booleans and half precision: exported as MLX computes them."""

import mlx2onnx
import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlxfunc import layers as L

from exporting import export, operators

INTEGERS = ["int32", "uint8", "int64", "bool"]
HALF = ["float16", "bfloat16"]


def model(layer, dtype, shape=(None, 4), count=1):
    inputs = [mf.Input(shape, dtype=dtype) for _ in range(count)]
    return mf.Model(inputs, layer(inputs[0] if count == 1 else inputs))


COMPUTING = [
    lambda: L.Dense(3),
    lambda: L.Dense(3, activation="relu"),
    lambda: L.EinsumDense("abc,cd->abd", (None, 3)),
    lambda: L.LayerNormalization(),
    lambda: L.BatchNormalization(),
    lambda: L.GroupNormalization(2),
    lambda: L.RMSNormalization(),
    lambda: L.Activation("softmax"),
    lambda: L.Activation("tanh"),
    lambda: L.Activation("hard_sigmoid"),
    lambda: L.Activation("celu"),
    lambda: L.Softmax(),
    lambda: L.ELU(),
    lambda: L.LeakyReLU(),
    lambda: L.LSTM(3),
    lambda: L.Bidirectional(L.GRU(3)),
    lambda: L.TimeDistributed(L.Dense(2)),
    lambda: L.GlobalAveragePooling1D(),
    lambda: L.Rescaling(1 / 255, offset=-1.0),
    lambda: L.UnitNormalization(),
]
MOVING = [
    lambda: L.Flatten(),
    lambda: L.Reshape((-1, 2)),
    lambda: L.Permute((2, 1)),
    lambda: L.ZeroPadding1D(1),
    lambda: L.Cropping1D(1),
    lambda: L.UpSampling1D(2),
    lambda: L.Dropout(0.5),
    lambda: L.Masking(),
    lambda: L.ReLU(),
    lambda: L.GlobalMaxPooling1D(),
    lambda: L.Activation("relu"),
]
MERGING = [L.Add, L.Multiply, L.Maximum, L.Minimum, L.Average, L.Concatenate]


@pytest.mark.parametrize("make", COMPUTING + MOVING)
@pytest.mark.parametrize("dtype", INTEGERS + HALF)
def test_a_layer_of(dtype, make):
    layer = make()
    if isinstance(layer, L.Flatten | L.Reshape):
        export(model(layer, dtype, (6, 4)))
    else:
        export(model(layer, dtype))


@pytest.mark.parametrize("make", [lambda: L.PReLU(), lambda: L.Conv1D(3, 2)])
@pytest.mark.parametrize("dtype", HALF)
def test_a_layer_that_takes_floats_alone(dtype, make):
    export(model(make(), dtype, (6, 4)))


@pytest.mark.parametrize("make", MERGING)
@pytest.mark.parametrize("dtype", INTEGERS + HALF)
def test_a_merging_layer_of(dtype, make):
    export(model(make(), dtype, (3, 4), 2))


@pytest.mark.parametrize("make", MERGING)
def test_a_merging_layer_of_two_dtypes(make):
    a, b = mf.Input((3, 4), dtype="int32"), mf.Input((3, 4))
    export(mf.Model([a, b], make()([a, b])))
    a, b = mf.Input((3, 4), dtype="int32"), mf.Input((3, 4), dtype="uint8")
    export(mf.Model([a, b], make()([a, b])))


@pytest.mark.parametrize("pool, stride", [(1, 2), (2, 3), (2, 5), (3, 7), (4, 4), (3, 2)])
@pytest.mark.parametrize(
    "make",
    [
        L.MaxPooling1D,
        L.AveragePooling1D,
        lambda *sizes, **k: L.Conv1D(2, *sizes, **k),
        lambda *sizes, **k: L.DepthwiseConv1D(*sizes, **k),
        lambda *sizes, **k: L.SeparableConv1D(2, *sizes, **k),
    ],
)
def test_strides_that_are_larger_than_their_windows(make, pool, stride):
    """At every remainder of a size by the stride."""
    x = mf.Input((None, 3), name="x")
    pooled = mf.Model(x, make(pool, stride, padding="same")(x))
    exported = export(pooled)
    for size in range(1, 2 * stride + 2):
        values = np.random.default_rng(size).normal(size=(2, size, 3)).astype(np.float32)
        assert mlx2onnx.verify(pooled, exported, [values]).ok


def test_pools_of_images_with_larger_strides():
    for shape in ((None, None, 2), (None, 8, 2)):
        x = mf.Input(shape)
        for dtype in ("float32", "float16"):
            for make in (L.MaxPooling2D, L.AveragePooling2D):
                export(mf.Model(x, make((2, 1), (3, 4), padding="same")(x)), dtype=dtype)


def test_integers_into_dense_are_one_cast():
    exported = export(model(L.Dense(3), "int32", (4,)))
    assert operators(exported) == {"Cast": 1, "Gemm": 1}


def test_a_file_in_half_precision_of_integers():
    export(model(L.Dense(3), "int32", (4,)), dtype="float16")
    export(model(L.Activation("celu"), "float32", (4,)), dtype="float16")


@pytest.mark.parametrize("dtype", HALF)
def test_a_module_in_half_precision(dtype):
    module = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4))
    module.set_dtype(getattr(mx, dtype))
    export(module, inputs=[(("batch", 8), dtype)])
    export(module, inputs=[("batch", 8)])


def test_samples_in_half_precision_are_what_both_get():
    """Rounded by one side only, they would be far apart after an exponential."""
    x = mf.Input((4,), dtype="float16")
    grown = mf.Model(x, L.Lambda(lambda x: mx.exp(x.astype(mx.float32) * 8))(x))
    report = mlx2onnx.verify(grown, export(grown), rtol=1e-5, atol=1e-6)
    assert report.outputs[grown.output_names[0]].max_rel < 1e-5
    exported = export(grown)
    given = np.linspace(-1, 1, 8).reshape(2, 4) / 3
    assert mlx2onnx.verify(grown, exported, [given], rtol=1e-5, atol=1e-6).ok
