"""Which layer of a file is not the model's: its values are compared, not those of a new export."""

import json

import mlx2onnx
import mlxfunc as mf
import mlx.core as mx
import numpy as np
import onnx
import pytest
from mlxfunc import layers
from mlxfunc.cli import app
from onnx import numpy_helper
from typer.testing import CliRunner


def change(layer, index=0):
    """Gives a layer another weight, as another state of its training would."""
    weights = layer.get_weights()
    weights[index] = weights[index] + 1
    layer.set_weights(weights)


def spoil(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with other values in one of its weights."""
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    tensor = next(t for t in wrong.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 1, name))
    return wrong


def named(model, file, **options):
    """The layer that the report names."""
    with pytest.raises(mlx2onnx.VerificationError) as error:
        mlx2onnx.verify(model, file, batches=(3,), **options)
    report = error.value.report
    assert f"the first layer that differs is {report.layer}" in str(report)
    return report.layer


def dense_stack():
    x = mf.Input((4,), name="x")
    y = layers.Dense(5, activation="tanh", name="first")(x)
    y = layers.Dropout(0.5)(layers.Dense(5, name="second")(y))
    return mf.Model(x, layers.Dense(2, name="third")(y))


def image():
    x = mf.Input((None, None, 3), name="x")
    y = layers.Conv2D(4, 3, activation="relu", padding="same", name="conv")(x)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.add([y, layers.Conv2D(4, 1, name="side")(x)])
    return mf.Model(x, layers.Conv2D(2, 3, name="last")(y))


def sequence():
    ids = mf.Input((None,), dtype="int32", name="ids")
    y = layers.Embedding(9, 4, mask_zero=True, name="words")(ids)
    y = layers.Bidirectional(layers.GRU(3, return_sequences=True), name="both")(y)
    return mf.Model(ids, layers.Dense(2, name="tags")(layers.LSTM(3, name="lstm")(y)))


def nested():
    """An encoder of two layers, with a model in it, used twice."""
    i = mf.Input((6,))
    deep = mf.Model(i, layers.Dense(6, name="deep")(i), name="core")
    i = mf.Input((6,))
    encoder = mf.Model(i, deep(layers.Dense(6, name="outer")(deep(i))), name="encoder")
    a, b = mf.Input((6,), name="a"), mf.Input((6,), name="b")
    return mf.Model([a, b], layers.Dense(2, name="head")(layers.add([encoder(a), encoder(b)])))


def masked():
    """A mask that goes into a model."""
    i = mf.Input((None, 4))
    inner = mf.Model(i, layers.LSTM(3, name="inside")(i), name="reader")
    ids = mf.Input((None,), dtype="int32", name="ids")
    words = layers.Embedding(9, 4, mask_zero=True)(ids)
    return mf.Model(ids, layers.Dense(2, name="out")(inner(words)))


MODELS = {
    dense_stack: ("first", "second", "third"),
    image: ("conv", "norm", "side", "last"),
    sequence: ("words", "both", "lstm", "tags"),
    nested: ("encoder/core/deep", "encoder/outer", "head"),
    masked: ("reader/inside", "out"),
}


def layer_at(model, path):
    for name in path.split("/"):
        model = model.get_layer(name)
    return model


@pytest.mark.parametrize(
    "build, path", [(build, path) for build, paths in MODELS.items() for path in paths]
)
def test_the_layer_that_has_other_weights(build, path):
    """The file is of an older state of the model: of one layer the weights have changed."""
    model = build()
    exported = mlx2onnx.to_onnx(model, verify=False)
    layer = layer_at(model, path)
    change(layer)
    assert named(model, exported) == f"{path} ({type(layer).__name__})"


@pytest.mark.parametrize("name", ["first/weight", "second/bias", "third/weight"])
def test_a_weight_of_the_file_that_was_tampered_with(name):
    model = dense_stack()
    for layer in model.layers[1:]:  # zeros would be one initializer for all of them
        layer.set_weights([w + 0.1 * k for k, w in enumerate(layer.get_weights(), len(layer.name))])
    exported = mlx2onnx.to_onnx(model, verify=False)
    layer = name.partition("/")[0]
    assert named(model, spoil(exported, name)) == f"{layer} (Dense)"


@pytest.mark.parametrize("path", MODELS[nested])
def test_in_the_body_of_a_function(path):
    model = nested()
    exported = mlx2onnx.to_onnx(model, functions=True, verify=False)
    assert len(exported.functions) == 2
    change(layer_at(model, path))
    assert named(model, exported) == f"{path} (Dense)"


@pytest.mark.parametrize(
    "build, path, options",
    [
        (image, "norm", {"inputs_as_nchw": True, "outputs_as_nchw": True}),
        (image, "last", {"opset": 17, "dimensions": {"batch": 3, "x_dim_1": 12, "x_dim_2": "w"}}),
        (image, "side", {"dtype": "float16"}),
        (sequence, "lstm", {"dtype": "float16", "dimensions": {"ids_dim_1": "time"}}),
        (sequence, "both", {"right_padded": True, "opset": 26}),
        (nested, "encoder/outer", {"input_names": ["p", "q"], "output_names": ["r"]}),
        (dense_stack, "second", {"extra_outputs": ["first", "second"]}),
    ],
)
def test_whatever_the_file_was_exported_with(build, path, options):
    model = build()
    exported = mlx2onnx.to_onnx(model, verify=False, **options)
    layer = layer_at(model, path)
    change(layer)
    assert named(model, exported) == f"{path} ({type(layer).__name__})"


def test_of_an_endpoint():
    encoder, decoder = dense_stack(), dense_stack()
    source = {"encode": encoder, "decode": decoder}
    exported = mlx2onnx.to_onnx(source, verify=False)
    change(decoder.get_layer("second"))
    assert named(source, exported) == "decode/second (Dense)"


def test_a_model_whose_layers_are_called_otherwise():
    """It was built again: automatic names are others, the graph is the same."""

    def build():
        x = mf.Input((4,))
        i = mf.Input((5,))
        inner = mf.Model(i, layers.Dense(5)(layers.Dense(5)(i)))
        y = layers.Dense(5)(x)
        return mf.Model(x, layers.Dense(2)(layers.add([inner(y), inner(inner(y))])))

    one, other = build(), build()
    other.set_weights(one.get_weights())
    for options in ({}, {"functions": True}):
        exported = mlx2onnx.to_onnx(one, verify=False, **options)
        assert mlx2onnx.verify(other, exported).ok
        inner = next(layer for layer in other.layers if isinstance(layer, mf.Model))
        changed = inner.layers[-1]
        before = changed.get_weights()
        change(changed)
        assert named(other, exported) == f"{inner.name}/{changed.name} (Dense)"
        changed.set_weights(before)


def test_of_a_file_of_another_graph_the_outputs_are_compared():
    x = mf.Input((4,), name="x")
    other = mf.Model(x, layers.Activation("relu", name="other")(layers.Dense(2, name="one")(x)))
    assert named(dense_stack(), mlx2onnx.to_onnx(other, verify=False)) == "third (Dense)"


def test_no_layer_where_the_model_has_no_onnx_form():
    class Untraceable(layers.Layer):
        def call(self, inputs):
            return inputs * float(mx.sum(inputs))

    x = mf.Input((4,), name="x")
    model = mf.Model(x, Untraceable()(x))
    with pytest.raises(mlx2onnx.VerificationError, match="over tolerance") as error:
        mlx2onnx.verify(model, mlx2onnx.to_onnx(mf.Model(x, layers.ReLU()(x)), verify=False))
    assert error.value.report.layer is None


def test_the_model_is_left_as_it_was():
    x = mf.Input((3, 2), batch_size=2)
    model = mf.Model(x, layers.Dense(2, name="out")(layers.LSTM(4, stateful=True, name="lstm")(x)))
    exported = mlx2onnx.to_onnx(model, verify=False)
    model(np.ones((2, 3, 2), np.float32))
    exported = mlx2onnx.to_onnx(model, verify=False)
    change(model.get_layer("out"))
    before = [np.array(state) for state in model.get_layer("lstm").states]
    assert named(model, exported) == "out (Dense)"
    for old, new in zip(before, model.get_layer("lstm").states, strict=True):
        np.testing.assert_array_equal(old, np.array(new))


def test_the_command_names_the_layer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = dense_stack()
    mlx2onnx.to_onnx(model, "model.onnx", verify=False)
    change(model.get_layer("second"))
    mf.saving.save_model(model, "model.mlxfunc")
    result = CliRunner().invoke(app, ["verify", "model.mlxfunc", "model.onnx"])
    assert result.exit_code == 1
    assert "the first layer that differs is second (Dense)" in result.stderr
    result = CliRunner().invoke(app, ["verify", "model.mlxfunc", "model.onnx", "--json"])
    assert json.loads(result.stdout)["layer"] == "second (Dense)"
