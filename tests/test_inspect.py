"""Reading back what a file holds."""

import json

import mlx2onnx
import mlxfunc as mf
import mlx.core as mx
import numpy as np
import onnx
import pytest
from mlxfunc import layers


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
