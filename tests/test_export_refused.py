"""What `to_onnx` refuses, and what it leaves behind then."""

import mlx2onnx
import mlxfunc as mf
import mlx.core as mx
import pytest
from mlxfunc import layers

from exporting import export, operators


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


def test_a_rule_that_writes_what_onnx_refuses_is_told(tmp_path):
    class Turned(layers.Layer):
        def call(self, inputs):
            return -inputs

    @mlx2onnx.layers.rule(Turned)
    def turned(g, layer, x):
        return x.like(g.op("Not", x.plain))

    i = mf.Input((2, 3))
    model = mf.Model(i, layers.ReLU()(Turned(name="turned")(i)))
    with pytest.raises(ValueError, match="that ONNX accepts, .* Correct the rule"):
        mlx2onnx.to_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
