"""Reading back what a file holds."""

import json

import mlx2onnx
import mlxfunc as mf
import mlx.core as mx
import numpy as np
import onnx
import pytest
from mlxfunc import layers
from mlx2onnx.session import run_onnx


def build(dtype):
    x = mf.Input((3,), dtype=dtype, name="x")
    return mf.Model(x, layers.Lambda(lambda v: v[:, :1], name="y")(x))


@pytest.mark.parametrize("dtype", ["float32", "bool", "int8", "int32", "int64", "uint8", "uint32"])
def test_dtypes_have_numpys_names(dtype):
    contents = mlx2onnx.inspect(mlx2onnx.to_onnx(build(dtype), verbose=False))
    assert str(contents.inputs[0]) == f"x: {dtype} (batch, 3)"
    assert [v.dtype for v in contents.outputs] == [dtype]
    assert np.dtype(contents.inputs[0].dtype).name == dtype
    assert json.loads(json.dumps(contents.as_dict()))["outputs"][0]["dtype"] == dtype


def test_half_precision_is_float16():
    contents = mlx2onnx.inspect(mlx2onnx.to_onnx(build("float32"), dtype="float16", verify=False))
    assert [v.dtype for v in (*contents.inputs, *contents.outputs)] == ["float16", "float16"]


def test_double_precision_of_another_exporter():
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, [2])
    node = onnx.helper.make_node("Neg", ["x"], ["y"])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, [2])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [result]))
    assert [v.dtype for v in mlx2onnx.inspect(model).inputs] == ["float64"]


def test_what_a_file_holds_in_words():
    x = mf.Input((4,), name="x")
    dense = layers.Dense(4, name="dense")
    exported = mlx2onnx.to_onnx(
        mf.Model(x, dense(dense(x))), metadata={"author": "me"}, verbose=False
    )
    lines = str(mlx2onnx.inspect(exported)).splitlines()
    assert lines[0].startswith("opset 20, IR version 9, by mlx2onnx")
    assert "input  x: float32 (batch, 4)" in lines
    assert "2 nodes: 2 Gemm" in lines
    assert "2 weights, 80 bytes" in lines
    assert "shared dense/weight: used by 2 nodes" in lines
    assert "author: me" in lines


def test_nothing_is_said_of_what_a_function_lacks():
    exported = mlx2onnx.to_onnx(lambda x: mx.exp(x), inputs=[("batch", 2)], verbose=False)
    contents = mlx2onnx.inspect(exported)
    assert (contents.weights, contents.weight_bytes, contents.functions) == (0, 0, {})


def exported(tmp_path, change):
    """A file of a small model, changed."""
    x = mf.Input((4,), name="x")
    model = mf.Model(x, mf.layers.Dense(2, name="out")(x))
    proto = mlx2onnx.to_onnx(model, verify=False)
    change(proto)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return model, path


def wide(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 10**9


def two_outputs(proto):
    proto.graph.node[0].output.append("more")


def no_opset(proto):
    proto.opset_import[0].version = 10**6


def of_strings(proto):
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.STRING


DAMAGE = {"wide": wide, "two outputs": two_outputs, "no opset": no_opset, "strings": of_strings}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_one_error_that_names_it(tmp_path, change, capfd):
    model, path = exported(tmp_path, change)
    rows = np.ones((2, 4), np.float32)
    for read in (
        lambda: mlx2onnx.verify(model, path),
        lambda: mlx2onnx.quantize(path, inputs=rows),
        lambda: run_onnx(path, {"x": rows}),
    ):
        with pytest.raises(ValueError, match=r"m\.onnx: |quantize: expected x of shape"):
            read()
    assert capfd.readouterr().out == ""


def test_an_element_type_that_onnx_does_not_have(tmp_path):
    def change(proto):
        proto.graph.output[0].type.tensor_type.elem_type = 99

    _, path = exported(tmp_path, change)
    with pytest.raises(ValueError, match=r"m\.onnx: "):
        mlx2onnx.inspect(path)
