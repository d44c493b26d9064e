"""Names, dtypes, opsets, files: what `to_onnx` can be asked for."""

import mlx2onnx
import mlxfunc as mf
import mlx.core as mx
import numpy as np
import onnx
import pytest
from mlxfunc import layers
from mlx2onnx.verify import run_onnx

from exporting import dims, export
from models import MODELS


def named_model():
    text = mf.Input(("time",), dtype="int32", name="text")
    other = mf.Input((None, 3), name="other")
    x = layers.Embedding(9, 3, name="words")(text)
    inner_in = mf.Input((3,))
    inner = mf.Model(inner_in, layers.Dense(2, name="head")(inner_in), name="inner")
    y = inner(layers.GlobalAveragePooling1D(name="pool")(x))
    return mf.Model([text, other], [y, layers.GRU(2, name="gru")(other)], name="whole")


def test_names_are_those_of_the_model():
    exported = export(named_model())
    assert [v.name for v in exported.graph.input] == ["text", "other"]
    assert [v.name for v in exported.graph.output] == ["inner", "gru"]
    assert [dims(v) for v in exported.graph.input] == [
        ["batch", "time"],
        ["batch", "other_dim_1", 3],
    ]
    assert all(dims(v)[0] == "batch" for v in exported.graph.output)
    nodes = {node.name for node in exported.graph.node}
    assert {"words/Gather", "inner/head/Gemm", "gru/GRU"} <= nodes
    gemm = next(node for node in exported.graph.node if node.op_type == "Gemm")
    assert {p.key: p.value for p in gemm.metadata_props}["layer"] == "Dense"
    assert exported.producer_name == "mlx2onnx"


def test_an_input_may_be_an_output():
    x = mf.Input((4,), name="x")
    y = layers.Dense(2, name="y")(x)
    exported = export(mf.Model(x, [y, x, y]))
    assert [v.name for v in exported.graph.output] == ["y", "x_output", "y_1"]


def test_names_may_be_given():
    exported = export(named_model(), input_names=["a", "b"], output_names=["c", "d"])
    assert [v.name for v in exported.graph.input] == ["a", "b"]
    assert [v.name for v in exported.graph.output] == ["c", "d"]


@pytest.mark.parametrize("opset", range(17, 27))
def test_opsets(opset):
    for name in ("transformer-block", "autoencoder", "masked-sequences"):
        exported = export(MODELS[name].build(), opset=opset, verify=(2,))
        assert exported.opset_import[0].version == opset


@pytest.mark.parametrize("name", ["headline", "small-resnet", "transformer-block", "autoencoder"])
def test_float16(name):
    exported = export(MODELS[name].build(), dtype="float16", verify=(2,))
    kinds = {t.data_type for t in exported.graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
    full = export(MODELS[name].build(), verify=False)
    assert exported.ByteSize() < 0.6 * full.ByteSize()


@pytest.mark.parametrize(
    "build",
    [
        lambda x: layers.Dense(2)(layers.Dense(3, dtype="float16")(x)),
        lambda x: layers.add([layers.Dense(4, dtype="float16")(x), x]),
        lambda x: layers.Dense(2, dtype="float16")(x),
    ],
    ids=["then float32", "merged", "last"],
)
def test_a_layer_in_half_precision(build):
    x = mf.Input((4,))
    exported = export(mf.Model(x, build(x)), rtol=1e-2, atol=1e-2)
    assert onnx.TensorProto.FLOAT16 in {t.data_type for t in exported.graph.initializer}


def test_bfloat16_weights_become_float32():
    x = mf.Input((4,))
    model = mf.Model(x, layers.Dense(3)(x))
    model.update({"dense": {"weight": model.layers[1].weight.astype(mx.bfloat16)}})
    exported = export(model, verify=False)
    assert {t.data_type for t in exported.graph.initializer} == {onnx.TensorProto.FLOAT}


def test_external_data(tmp_path):
    model = MODELS["headline"].build()
    path = tmp_path / "model.onnx"
    export(model, path=path, external_data=True, verify=(1,))
    assert len(list(tmp_path.glob("model.onnx.*.data"))) == 1
    assert path.stat().st_size < 50_000
    assert mlx2onnx.verify(model, path, batches=(2,)).ok


@pytest.mark.slow
def test_more_than_two_gigabytes(tmp_path):
    ids = mf.Input((3,), dtype="int32", name="ids")
    table = layers.Embedding(600_000, 1000, embeddings_initializer="ones")
    model = mf.Model(ids, layers.Dense(2)(layers.GlobalAveragePooling1D()(table(ids))))
    path = tmp_path / "model.onnx"
    export(model, path=path, verify=(2,))
    assert path.stat().st_size < 4096
    assert next(tmp_path.glob("model.onnx.*.data")).stat().st_size > 2**31
    assert mlx2onnx.verify(model, path, batches=(1,)).ok


@pytest.mark.parametrize("name", ["headline", "transformer-block", "tagger-lstm", "two-digits"])
def test_exporting_twice_gives_the_same_bytes(name, tmp_path):
    model = MODELS[name].build()
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path in paths:
        export(model, path=path, verify=False)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_exporting_leaves_the_model_alone():
    model = MODELS["headline"].build()
    model.train()
    before, calls = model.get_weights(), [len(layer._nodes) for layer in model.layers]
    export(model)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert [len(layer._nodes) for layer in model.layers] == calls
    assert model.training


def test_a_function_and_a_module_take_the_same_call(tmp_path):
    exported = mlx2onnx.to_onnx(
        lambda x, y: mx.tanh(x) + y,
        tmp_path / "f.onnx",
        inputs={"x": ("batch", 3), "y": ("batch", 3)},
        verbose=False,
    )
    assert [v.name for v in exported.graph.input] == ["x", "y"]
    x = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(run_onnx(exported, {"x": x, "y": x})[0], np.tanh(x) + x, 1e-6)
