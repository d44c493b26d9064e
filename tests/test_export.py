"""Every row of the table, exported and run in ONNX Runtime; options; what is refused."""

from collections import Counter

import mlx2onnx
import mlxfunc as mf
import mlx.core as mx
import numpy as np
import onnx
import pytest
from mlxfunc import layers
from mlx2onnx.verify import run_onnx

from cases import CASES, Case, randomize
from models import MODELS

rows = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# ONNX Runtime and MLX sum in different orders.
RTOL, ATOL = 1e-5, 2e-6


def operators(model) -> Counter:
    return Counter(node.op_type for node in model.graph.node)


def export(model, **options):
    return mlx2onnx.to_onnx(model, verbose=False, **options)


@rows
def test_onnx_runtime_gives_what_mlx_does(case: Case):
    tolerance = max(case.tolerance, ATOL)
    exported = export(case.model(), rtol=RTOL, atol=tolerance, verify=(2, 5))
    if case.onnx is not None:
        assert operators(exported) == case.onnx


# whole models ----------------------------------------------------------------------------------

# The most nodes and Transposes that a model may take.
LIMITS = {
    "mlp": (6, 0),
    "vgg-like": (16, 1),
    "conv1d-stack": (13, 1),
    "autoencoder": (22, 0),
    "inception-block": (14, 2),
    "residual-block": (4, 2),
    "small-resnet": (22, 1),
    "two-digits": (13, 0),
    "headline": (15, 1),
    "siamese-tweets": (9, 2),
    "question-answering": (11, 2),
    "stateful-lstm": (7, 1),
    "encoder-decoder": (15, 3),
    "tagger-gru": (22, 2),
    "transformer-block": (22, 3),
    "masked-sequences": (17, 1),
    "time-distributed-model": (8, 0),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_model_is_no_larger_than_it_need_be(name):
    model = MODELS[name].build()
    exported = export(model, verify=False)
    nodes, transposes = LIMITS[name]
    assert len(exported.graph.node) <= nodes
    assert operators(exported)["Transpose"] <= transposes
    weights = sum(array.nbytes for array in model.get_weights())
    assert exported.ByteSize() <= 1.02 * weights + 4096


@pytest.mark.parametrize("name", ["inception-block", "small-resnet", "vgg-like"])
def test_channels_first_files_have_no_transpose(name):
    model = MODELS[name].build()
    outputs = name == "inception-block"
    exported = export(model, inputs_as_nchw=True, outputs_as_nchw=outputs, verify=(1, 2))
    assert operators(exported)["Transpose"] == 0
    dims = [d.dim_value for d in exported.graph.input[0].type.tensor_type.shape.dim]
    assert dims[1] == 3


def recurrent(kind, time=None, **options):
    x = mf.Input((time, 4), name="x")
    return mf.Model(x, kind(x))


@pytest.mark.parametrize(
    "layer, count",
    [
        (lambda: layers.LSTM(5), 3),
        (lambda: layers.LSTM(5, return_sequences=True), 4),
        (lambda: layers.LSTM(5, return_sequences=True, go_backwards=True), 5),
        (lambda: layers.Bidirectional(layers.GRU(5)), 4),
        (lambda: layers.Bidirectional(layers.GRU(5, return_sequences=True)), 4),
    ],
    ids=["last", "sequences", "backwards", "bidirectional", "bidirectional-sequences"],
)
def test_a_recurrent_layer_is_one_node(layer, count):
    x = mf.Input((None, 4))
    exported = export(mf.Model(x, layer()(x)))
    assert len(exported.graph.node) == count
    found = operators(exported)
    assert found["LSTM"] + found["GRU"] == 1


MASKS = {
    "right": [1, 1, 1, 0, 0, 0],
    "left": [0, 0, 1, 1, 1, 1],
    "holes": [0, 1, 0, 1, 1, 0],
    "all": [1, 1, 1, 1, 1, 1],
    "none": [0, 0, 0, 0, 0, 0],
}


@pytest.mark.parametrize("returns", ["last", "sequences", "states"])
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_any_mask_is_exact(kind, direction, returns):
    """One native node, whatever is masked; each mask alone and all of them in one batch."""
    x, mask = mf.Input((None, 3), name="x"), mf.Input((None,), dtype="bool", name="mask")
    options = {"return_sequences": returns == "sequences", "return_state": returns == "states"}
    layer = kind(4, go_backwards=direction == "backward", **options)
    layer = layers.Bidirectional(layer) if direction == "both" else layer
    model = mf.Model([x, mask], layer(x, mask=mask))
    randomize(model)
    exported = export(model, verify=False)
    assert len(exported.graph.node) <= 35
    assert sum(operators(exported)[name] for name in ("LSTM", "GRU", "RNN")) == 1
    masks = np.array(list(MASKS.values()), bool)
    batches = [masks, *(masks[k : k + 1] for k in range(len(masks)))]
    for batch in batches:
        values = np.random.default_rng(0).standard_normal((*batch.shape, 3)).astype(np.float32)
        report = mlx2onnx.verify(model, exported, [values, batch], rtol=RTOL, atol=ATOL)
        assert report.ok


def test_a_declared_right_padding_is_shorter():
    ids = mf.Input((None,), dtype="int32", name="ids")
    model = mf.Model(ids, layers.LSTM(4)(layers.Embedding(9, 3, mask_zero=True)(ids)))
    exact, short = export(model), export(model, right_padded=True)
    assert len(short.graph.node) < len(exact.graph.node)
    padded = np.array([[3, 4, 5, 0], [1, 0, 0, 0]], np.int32)
    assert mlx2onnx.verify(model, short, [padded]).ok


def test_layers_inside_keep_no_cell_of_their_own():
    """A cell that ONNX has no operator for becomes a Scan of one step."""
    x = mf.Input((None, 3))
    model = mf.Model(x, layers.LSTM(4, activation="gelu", return_sequences=True)(x))
    assert operators(export(model))["Scan"] == 1


# sharing ---------------------------------------------------------------------------------------


def test_a_shared_layer_is_stored_once():
    a, b = mf.Input((3, 4), name="a"), mf.Input((3, 4), name="b")
    dense, lstm = layers.Dense(5), layers.LSTM(6)
    both = layers.concatenate([lstm(dense(a)), lstm(dense(b))])
    model = mf.Model([a, b], layers.Dense(2)(both))
    exported = export(model)
    contents = mlx2onnx.inspect(exported)
    assert contents.weight_bytes < 1.1 * sum(w.nbytes for w in model.get_weights()) + 400
    assert contents.shared["lstm/Wx"] == 2
    assert contents.shared["dense/weight"] == 2


def test_a_dense_of_vectors_and_of_sequences_is_stored_once():
    a, b = mf.Input((4,), name="a"), mf.Input((3, 4), name="b")
    dense = layers.Dense(50)
    exported = export(mf.Model([a, b], [dense(a), dense(b)]))
    assert mlx2onnx.inspect(exported).shared["dense/weight"] == 2


def two_digits():
    return MODELS["two-digits"].build()


def test_a_reused_model_may_be_a_function():
    model = two_digits()
    inlined, called = export(model), export(model, functions=True, verify=(1, 3))
    assert [f.name for f in called.functions] == ["vision"]
    assert operators(called)["vision"] == 2
    # Weights are inputs of the function: ONNX Runtime copies what a body holds at every call.
    assert called.functions[0].ByteSize() < 2000
    sizes = [mlx2onnx.inspect(m).weight_bytes for m in (inlined, called)]
    assert abs(sizes[0] - sizes[1]) < 200


def test_a_model_that_is_called_at_other_sizes_is_another_function():
    """Padding, for one, follows from the sizes of the image."""
    i = mf.Input((None, None, 3))
    y = layers.Conv2D(4, 3, strides=2, padding="same")(i)
    inner = mf.Model(i, layers.GlobalMaxPooling2D()(y), name="inner")
    a, b = mf.Input((8, 8, 3), name="a"), mf.Input((None, 6, 3), name="b")
    model = mf.Model([a, b], layers.add([inner(a), inner(a), inner(b)]))
    exported = export(model, functions=True)
    assert [f.name for f in exported.functions] == ["inner", "inner_1"]
    images = [
        np.random.default_rng(0).random((2, h, w, 3), np.float32) for h, w in ((8, 8), (5, 6))
    ]
    assert mlx2onnx.verify(model, exported, images).ok


def test_a_function_is_written_without_a_word(tmp_path, caplog, capfd, recwarn):
    """In a body too, an output that nobody uses, as an LSTM's sequence, has no name."""
    i = mf.Input((5, 4))
    inner = mf.Model(i, layers.Bidirectional(layers.LSTM(3))(i), name="inner")
    a, b = mf.Input((5, 4), name="a"), mf.Input((5, 4), name="b")
    model = mf.Model([a, b], layers.add([inner(a), inner(b)]))
    exported = export(model, functions=True, path=tmp_path / "model.onnx")
    assert "" in exported.functions[0].node[1].output
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    assert list(recwarn) == []


# names and options -----------------------------------------------------------------------------


def named_model():
    text = mf.Input(("time",), dtype="int32", name="text")
    other = mf.Input((None, 3), name="other")
    x = layers.Embedding(9, 3, name="words")(text)
    inner_in = mf.Input((3,))
    inner = mf.Model(inner_in, layers.Dense(2, name="head")(inner_in), name="inner")
    y = inner(layers.GlobalAveragePooling1D(name="pool")(x))
    return mf.Model([text, other], [y, layers.GRU(2, name="gru")(other)], name="whole")


def dims(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


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
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert path.stat().st_size < 50_000
    assert mlx2onnx.verify(model, path, batches=(2,)).ok


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


# what is refused -------------------------------------------------------------------------------


class Untraceable(layers.Layer):
    def call(self, inputs):
        return inputs * float(mx.sum(inputs))


class Shuffle(layers.Layer):
    def call(self, inputs):
        return inputs + mx.random.normal(inputs.shape)


def test_every_layer_that_cannot_be_exported_is_named(tmp_path):
    x = mf.Input((3,))
    inner_in = mf.Input((3,))
    inner = mf.Model(inner_in, Untraceable(name="item")(inner_in), name="inner")
    model = mf.Model(x, layers.Dense(3)(inner(Shuffle(name="noise")(x))))
    with pytest.raises(NotImplementedError, match="2 layers cannot be exported") as error:
        export(model, path=tmp_path / "model.onnx")
    assert isinstance(error.value, mlx2onnx.UnsupportedLayers)
    text = str(error.value)
    assert "inner/item (Untraceable)" in text
    assert "noise (Shuffle)" in text
    assert "export/mlx2onnx/layers/" in text
    assert list(tmp_path.iterdir()) == []


def test_a_subclass_with_a_call_of_its_own_is_traced():
    class Doubled(layers.Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    class Named(layers.Dense):
        pass

    x = mf.Input((3,))
    assert operators(export(mf.Model(x, Named(2)(x)))) == {"Gemm": 1}
    assert operators(export(mf.Model(x, Doubled(2)(x)))) != {"Gemm": 1}


def test_a_second_rule_for_a_layer_is_refused():
    with pytest.raises(ValueError, match="Dense: expected one rule, got a second"):
        mlx2onnx.layers.rule(layers.Dense)(lambda g, layer, x: x)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"opset": 16}, ValueError, "expected opset 17 to 26, got 16"),
        ({"opset": 27}, ValueError, "expected opset 17 to 26, got 27"),
        ({"dtype": "int8"}, ValueError, "expected dtype 'float32' or 'float16', got 'int8'"),
        ({"unknown": 1}, TypeError, "unexpected keyword argument 'unknown'"),
        ({"input_names": ["a", "b"]}, ValueError, "expected 1 different names in input_names"),
        ({"output_names": []}, ValueError, "expected 1 different names in output_names"),
        ({"inputs_as_nchw": ["x"]}, ValueError, "expected names of rank 3 or more"),
        ({"inputs": [(2, 3)]}, TypeError, "expected no `inputs` for a Model"),
    ],
)
def test_wrong_options(options, error, message):
    x = mf.Input((3,), name="x")
    with pytest.raises(error, match=message):
        export(mf.Model(x, layers.Dense(2)(x)), **options)


def test_what_is_no_model():
    with pytest.raises(TypeError, match="expected a Model, an mlx.nn.Module or a function"):
        export(3, inputs=[(2,)])
    with pytest.raises(TypeError, match="expected `inputs` for a module or function"):
        export(lambda x: x)


def test_a_model_without_a_shape_is_refused():
    with pytest.raises(ValueError, match="expected a model that knows its input's shape"):
        export(mf.Sequential([layers.Dense(2)]))


def test_a_folder_that_is_not_there(tmp_path):
    x = mf.Input((3,))
    with pytest.raises(FileNotFoundError, match="expected a path in a folder that exists"):
        export(mf.Model(x, layers.Dense(2)(x)), path=tmp_path / "no" / "model.onnx")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    path.write_text("old")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlx2onnx.builder.write", full)
    x = mf.Input((3,))
    with pytest.raises(OSError, match="No space left"):
        export(mf.Model(x, layers.Dense(2)(x)), path=path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_more_than_two_gigabytes(tmp_path):
    ids = mf.Input((3,), dtype="int32", name="ids")
    table = layers.Embedding(600_000, 1000, embeddings_initializer="ones")
    model = mf.Model(ids, layers.Dense(2)(layers.GlobalAveragePooling1D()(table(ids))))
    path = tmp_path / "model.onnx"
    export(model, path=path, verify=(2,))
    assert path.stat().st_size < 4096
    assert path.with_name("model.onnx.data").stat().st_size > 2**31
    assert mlx2onnx.verify(model, path, batches=(1,)).ok
