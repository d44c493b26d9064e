"""Layers as outputs, several endpoints in a file, dimensions and metadata of one's own."""

import mlx2onnx
import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import onnxruntime
import pytest
from mlxfunc import layers

from models import MODELS


def export(source, path=None, **options):
    return mlx2onnx.to_onnx(source, path, verbose=False, **options)


def encoder() -> mf.Model:
    image = mf.Input((8, 8, 3), name="image")
    h = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    code = layers.Dense(5, name="code")(layers.Flatten(name="flat")(h))
    return mf.Model(image, code, name="encoder")


def nested(inner: mf.Model) -> mf.Model:
    x = mf.Input((8, 8, 3), name="x")
    return mf.Model(x, layers.Dense(2, name="head")(inner(x)), name="whole")


def decoder() -> mf.Model:
    code = mf.Input((5,), name="code")
    return mf.Model(code, layers.Dense(7, name="image")(code), name="decoder")


def names(values) -> list[str]:
    return [value.name for value in values]


def dims(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def operators(model) -> dict[str, int]:
    return mlx2onnx.inspect(model).operators


# layers as outputs -----------------------------------------------------------------------------


def test_a_layer_is_an_output_of_a_model_of_it():
    model = MODELS["mlp"].build()
    inner = mf.Model(model.input, [model.layers[1].output, model.output], name="both")
    assert len(export(inner).graph.output) == 2


def test_extra_outputs_follow_the_models_own(tmp_path):
    model = nested(encoder())
    path = tmp_path / "model.onnx"
    paths = ["encoder/conv", "encoder", "encoder/code"]
    exported = export(model, path, extra_outputs=paths)
    assert names(exported.graph.output) == ["head", *paths]
    # What leads to them is there once.
    assert operators(exported)["Conv"] == 1
    assert operators(exported)["Gemm"] == 2
    assert "encoder/conv/Conv" in names(exported.graph.node)
    report = mlx2onnx.verify(model, path)
    assert list(report.outputs) == ["head", *paths]


def test_extra_outputs_of_several_calls_and_outputs_are_numbered():
    a, b = mf.Input((4, 3), name="a"), mf.Input((4, 3), name="b")
    shared = layers.LSTM(2, return_state=True, name="lstm")
    total = layers.Add(name="sum")([shared(a)[0], shared(b)[0]])
    exported = export(mf.Model([a, b], total), extra_outputs=["lstm"])
    expected = ["sum", "lstm", *(f"lstm_{k}" for k in range(1, 6))]
    assert names(exported.graph.output) == expected


def test_extra_outputs_of_a_reused_model_and_of_functions():
    model = MODELS["two-digits"].build()
    inner = next(layer for layer in model.layers if isinstance(layer, mf.Model))
    last = inner.layers[-1].name
    for functions in (False, True):
        exported = export(model, extra_outputs=[f"{inner.name}/{last}"], functions=functions)
        assert len(exported.graph.output) == len(model.outputs) + 2


def test_an_output_may_be_asked_for_again():
    model = nested(encoder())
    assert names(export(model, extra_outputs=["head"]).graph.output) == ["head"]


@pytest.mark.parametrize(
    "path, message",
    [
        ("dense", "whole: expected a path of a layer, got 'dense'. There is encoder, head"),
        ("encoder/x", "encoder: expected a path of a layer, got 'encoder/x'. There is conv"),
        ("head/x", "whole: expected a model with layers in it for 'head', got 'head/x'"),
    ],
)
def test_paths_that_lead_nowhere(path, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(nested(encoder()), tmp_path / "model.onnx", extra_outputs=[path])
    assert list(tmp_path.iterdir()) == []


def test_extra_outputs_need_a_model():
    with pytest.raises(TypeError, match="expected a Model for extra_outputs"):
        export(lambda x: x, inputs=[(2,)], extra_outputs=["dense"])


def test_exporting_extra_outputs_leaves_the_model_alone():
    model = nested(encoder())
    calls = [len(layer._nodes) for layer in model.layers]
    export(model, extra_outputs=["encoder/conv"])
    assert [len(layer._nodes) for layer in model.layers] == calls
    assert names(export(model).graph.output) == ["head"]


# endpoints -------------------------------------------------------------------------------------


def test_endpoints_run_with_their_own_inputs(tmp_path):
    inner = encoder()
    sources = {"classify": nested(inner), "encode": inner, "decode": decoder()}
    path = tmp_path / "model.onnx"
    exported = export(sources, path)
    assert names(exported.graph.input) == ["classify/x", "encode/image", "decode/code"]
    assert names(exported.graph.output) == ["classify/head", "encode/code", "decode/image"]
    session = onnxruntime.InferenceSession(path)
    code = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    (found,) = session.run(["decode/image"], {"decode/code": code})
    np.testing.assert_allclose(found, sources["decode"].predict(code, verbose=0), atol=1e-6)
    only = onnxruntime.RunOptions()
    only.only_execute_path_to_fetches = True
    assert session.run(["decode/image"], {"decode/code": code}, only)[0].shape == (4, 7)
    assert mlx2onnx.verify(sources, path, {"decode": [code]}).ok


def test_endpoints_share_their_weights():
    inner = encoder()
    model = nested(inner)
    alone, both = export(model), export({"classify": model, "encode": inner})
    contents = mlx2onnx.inspect(both)
    assert contents.weights == mlx2onnx.inspect(alone).weights
    assert contents.shared["classify/encoder/conv/weight"] == 2


def test_an_endpoint_is_a_model_of_its_own(tmp_path):
    inner = encoder()
    export({"classify": nested(inner), "encode": inner}, tmp_path / "model.onnx")
    alone = mlx2onnx.endpoint(tmp_path / "model.onnx", "encode")
    assert names(alone.graph.input) == ["encode/image"]
    assert "encode/image" not in names(alone.graph.initializer)
    assert mlx2onnx.inspect(alone).nodes == mlx2onnx.inspect(export(inner)).nodes
    assert mlx2onnx.verify(inner, alone).ok
    with pytest.raises(ValueError, match="expected the name of an endpoint, got 'x'. There is cl"):
        mlx2onnx.endpoint(tmp_path / "model.onnx", "x")
    with pytest.raises(ValueError, match="There is none"):
        mlx2onnx.endpoint(export(inner), "encode")


def test_an_endpoint_may_be_a_module_or_a_function():
    sources = {"project": nn.Linear(3, 2), "scale": lambda x, by: x * by, "decode": decoder()}
    exported = export(
        sources,
        inputs={"project": [("batch", 3)], "scale": {"x": ("n", "m"), "by": ("n", "m")}},
    )
    assert [dims(v) for v in exported.graph.input] == [
        ["project/batch", 3],
        ["scale/n", "scale/m"],
        ["scale/n", "scale/m"],
        ["decode/batch", 5],
    ]


@pytest.mark.parametrize("name", ["masked-sequences", "tagger-gru", "small-resnet"])
def test_whole_models_side_by_side(name):
    sources = {"a": MODELS[name].build(), "b": fully_convolutional()}
    exported = export(sources, inputs_as_nchw=["b/image"])
    for endpoint, source in sources.items():
        assert mlx2onnx.verify(source, mlx2onnx.endpoint(exported, endpoint)).ok


def test_modules_and_functions_have_images_channels_first():
    """Alone and as an endpoint; without a Transpose between convolutions."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3))
    image = [("batch", "height", "width", 3)]
    options = {"inputs_as_nchw": True, "outputs_as_nchw": True}
    exported = mlx2onnx.to_onnx(module, inputs=image, verbose=False, **options)
    assert [node.op_type for node in exported.graph.node] == ["Conv", "Relu", "MaxPool", "Conv"]
    assert dims(exported.graph.input[0]) == ["batch", 3, "height", "width"]
    assert dims(exported.graph.output[0])[:2] == ["batch", 4]

    sources = {"blur": module, "sum": lambda x, by: x.sum(1) * by}
    inputs = {"blur": image, "sum": [("n", 4, 6), (1,)]}
    exported = export(sources, inputs=inputs, inputs_as_nchw=["sum/x"])
    assert [dims(v) for v in exported.graph.input][1:] == [["sum/n", 6, 4], [1]]
    with pytest.raises(ValueError, match=r"in outputs_as_nchw, got 'x'. There is output"):
        mlx2onnx.to_onnx(module, inputs=image, outputs_as_nchw="x")


def fully_convolutional() -> mf.Model:
    """Refuses images of one pixel."""
    image = mf.Input((None, None, 3), name="image")
    return mf.Model(image, layers.Conv2D(4, 5)(layers.Conv2D(4, 5)(image)))


def test_an_endpoint_that_differs_is_named():
    inner, sources = encoder(), {"encode": encoder(), "decode": decoder()}
    exported = export(sources)
    with pytest.raises(mlx2onnx.VerificationError, match="encode/code: .* over tolerance"):
        mlx2onnx.verify(sources | {"encode": inner}, exported)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"input_names": ["a"]}, TypeError, "expected no input_names or output_names"),
        ({"inputs": {"decode": [(1, 2)]}}, ValueError, "of endpoints, got 'decode'. There is enc"),
        ({"inputs": {"encode": [(1, 2)]}}, TypeError, "expected no `inputs` for a Model"),
        ({"extra_outputs": ["conv"]}, TypeError, "expected a Model for extra_outputs"),
        ({"inputs_as_nchw": ["image"]}, ValueError, "got 'image'. There is encode/image"),
    ],
)
def test_wrong_options_of_endpoints(options, error, message):
    with pytest.raises(error, match=message):
        export({"encode": encoder()}, **options)


@pytest.mark.parametrize("name", ["", "a/b", "a,b", 3])
def test_wrong_names_of_endpoints(name):
    with pytest.raises(ValueError, match="expected the name of an endpoint, without / and comma"):
        export({name: decoder()})


def test_no_endpoint():
    with pytest.raises(ValueError, match="expected one endpoint or more, got none"):
        export({})


def test_a_layer_without_a_form_is_named_in_each_endpoint():
    class Random(layers.Layer):
        def call(self, inputs):
            return inputs + mx.random.normal(inputs.shape)

    x = mf.Input((3,))
    model = mf.Model(x, Random(name="noise")(x))
    with pytest.raises(mlx2onnx.UnsupportedLayers, match="2 layers cannot") as error:
        export({"a": model, "b": model})
    assert "a/noise (Random)" in str(error.value)
    assert "b/noise (Random)" in str(error.value)


# dimensions and metadata -----------------------------------------------------------------------


def sequences() -> mf.Model:
    text = mf.Input(("time", 3), name="text")
    other = mf.Input((None, 3), name="other")
    y = layers.LSTM(4, return_sequences=True, name="lstm")(text)
    return mf.Model([text, other], [y, layers.GRU(2, name="gru")(other)])


def test_dimensions_are_fixed_and_named(tmp_path):
    path, model = tmp_path / "model.onnx", sequences()
    exported = export(model, path, dimensions={"batch": 2, "time": 6, "other_dim_1": "steps"})
    assert [dims(v) for v in exported.graph.input] == [[2, 6, 3], [2, "steps", 3]]
    assert [dims(v) for v in exported.graph.output] == [[2, 6, 4], [2, 2]]
    session = onnxruntime.InferenceSession(path)
    feeds = {"text": np.ones((3, 6, 3), np.float32), "other": np.ones((2, 4, 3), np.float32)}
    with pytest.raises(Exception, match="invalid dimensions"):
        session.run(None, feeds)


def test_all_dimensions_fixed_are_fixed_throughout():
    model = MODELS["tagger-gru"].build()
    free = export(model, verify=False)
    open_dims = {d for v in free.graph.input for d in dims(v) if isinstance(d, str)}
    fixed = export(model, dimensions=dict.fromkeys(open_dims, 6))
    values = [*fixed.graph.input, *fixed.graph.value_info, *fixed.graph.output]
    assert all(d not in open_dims for v in values for d in dims(v))


def test_dimensions_of_functions_and_endpoints():
    exported = export(lambda x: x + 1, inputs=[("batch", "n")], dimensions={"n": 4, "batch": "b"})
    assert dims(exported.graph.output[0]) == ["b", 4]
    both = {"a": decoder(), "b": decoder()}
    exported = export(both, dimensions={"batch": 3, "b/batch": "rows"})
    assert [dims(v)[0] for v in exported.graph.input] == [3, "b/rows"]


@pytest.mark.parametrize(
    "given, message",
    [
        ({"n": 2}, "expected dynamic dimensions in `dimensions`, got 'n'. There is batch"),
        ({"batch": 0}, "expected a size of 1 or more, or a name, for the dimension 'batch', got 0"),
        ({"batch": True}, "got True"),
        ({"batch": ""}, "got ''"),
        ({"batch": 1.5}, "got 1.5"),
    ],
)
def test_wrong_dimensions(given, message):
    with pytest.raises(ValueError, match=message):
        export(decoder(), dimensions=given)


def test_metadata():
    exported = export(decoder(), metadata={"author": "somebody", "version": "1.2"})
    found = mlx2onnx.inspect(exported).metadata
    assert found["author"] == "somebody"
    assert found["version"] == "1.2"
    assert found["model"] == "decoder"
    with pytest.raises(TypeError, match="expected metadata of text, got 'version': 1"):
        export(decoder(), metadata={"version": 1})
    with pytest.raises(ValueError, match="expected metadata without 'mlx2onnx.'"):
        export(decoder(), metadata={"mlx2onnx.endpoints": "a"})
