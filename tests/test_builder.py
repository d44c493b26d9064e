"""The ONNX writer: names, constants, functions, versions, files."""

import mlxfunc  # noqa: F401 - loads a fast BLAS before MLX
import mlx.core as mx
import numpy as np
import onnx
import onnxruntime
import pytest
from mlx2onnx import files
from mlx2onnx.builder import Builder, data_type


def small(opset=20, **options):
    g = Builder(opset, **options)
    x = g.input("x", mx.float32, ("batch", 4))
    weight = g.initializer("weight", mx.ones((4, 3)), key="w")
    with g.scope("dense", layer="Dense"):
        made = g.op("Relu", g.op("MatMul", x, weight))
    g.output(made, "y")
    return g


def unknown():
    """An operator that ONNX does not have."""
    g = Builder()
    g.output(g.op("Nonsense", g.input("x", mx.float32, (2,))), "y")
    return g


def run(model, **feeds):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)


@pytest.mark.parametrize("opset", range(17, 27))
def test_every_opset_loads_in_the_runtime(opset):
    model = small(opset).finish({"author": "me"})
    assert model.opset_import[0].version == opset
    assert model.ir_version == {20: 9, 26: 13}.get(opset, model.ir_version)
    (y,) = run(model, x=np.ones((2, 4), np.float32))
    np.testing.assert_array_equal(y, np.full((2, 3), 4.0))


def test_names_shapes_and_metadata():
    model = small().finish({"author": "me"})
    assert [n.name for n in model.graph.node] == ["dense/MatMul", "dense/Relu"]
    assert {p.key: p.value for p in model.graph.node[0].metadata_props} == {"layer": "Dense"}
    assert {p.key: p.value for p in model.metadata_props} == {"author": "me"}
    shape = model.graph.output[0].type.tensor_type.shape.dim
    assert (shape[0].dim_param, shape[1].dim_value) == ("batch", 3)
    assert [v.name for v in model.graph.value_info] == ["dense/MatMul"]


def test_equal_content_is_stored_once():
    g = Builder()
    x = g.input("x", mx.float32, (2,))
    a, b = (g.initializer(name, np.ones(2, np.float32)) for name in "ab")
    assert g.initializer("w", lambda: np.zeros(3), key=1) is g.initializer("w", None, key=1)
    assert g.constant(1.0) is g.constant(np.float32(1))
    g.output(g.op("Add", g.op("Add", x, a), g.op("Mul", x, b)), "y")
    assert [i.name for i in g.finish().graph.initializer] == ["a"]


def test_constants_are_folded_and_weights_are_not():
    g = Builder()
    x = g.input("x", mx.float32, (4, 4))
    three = g.op("Add", g.constant(1.0), 2.0)
    assert g.constant_value(three) == 3
    weight = g.initializer("weight", np.ones((4, 4), np.float32))
    g.output(g.op("MatMul", g.op("Mul", x, three), g.op("Transpose", weight, perm=[1, 0])), "y")
    assert [n.op_type for n in g.finish().graph.node] == ["Mul", "Transpose", "MatMul"]


def test_outputs_that_are_inputs_or_the_same_value():
    g = Builder()
    x = g.input("x", mx.float32, (2,))
    y = g.op("Exp", x)
    for value, name in (
        (x, "same"),
        (y, "a"),
        (y, "b"),
        (g.op("Exp", x), "c"),
        (g.constant(1.0), "one"),
    ):
        g.output(value, name)
    found = run(g.finish(), x=np.zeros(2, np.float32))
    assert [f.tolist() for f in found] == [[0, 0], [1, 1], [1, 1], [1, 1], 1]


def test_local_functions_take_weights_as_inputs():
    """Called twice, written once; its weights are stored once in the main graph."""
    g = Builder()
    x = g.input("x", mx.float32, ("batch", 4))

    def body(value):
        g.op("Neg", g.initializer("unused", np.zeros(99, np.float32)))
        weight = g.initializer("weight", np.full((4, 4), 0.5, np.float32), key="w")
        return g.op("Add", g.op("MatMul", value, weight), 1.0)

    g.output(g.call("block", body, g.call("block", body, x)), "y")
    model = g.finish()
    assert [n.op_type for n in model.graph.node] == ["block", "block"]
    assert [f.name for f in model.functions] == ["block"]
    assert len(model.graph.initializer) == 1
    np.testing.assert_array_equal(run(model, x=np.ones((1, 4), np.float32))[0], [[7.0] * 4])


def test_float16_keeps_large_numbers_finite():
    g = Builder(dtype="float16")
    x = g.input("x", mx.float32, (2,))
    g.output(g.op("Add", x, g.constant(-3e38)), "y")
    (y,) = run(g.finish(), x=np.zeros(2, np.float16))
    assert y.dtype == np.float16
    assert np.isfinite(y).all()


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: Builder(16), "expected opset 17 to 26, got 16"),
        (lambda: Builder(27), "expected opset 17 to 26, got 27"),
        (lambda: Builder(dtype="int8"), "expected dtype 'float32' or 'float16', got 'int8'"),
        (lambda: small().input("x", mx.float32, ()), "unique input names, got 'x'"),
        (lambda: small().output(None, "y"), "unique output names, got 'y'"),
        (lambda: small().output(None, "x"), "unique output names, got 'x'"),
        (lambda: unknown().model(), "expected a graph that ONNX accepts.*'type' of"),
    ],
)
def test_mistakes(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_data_types():
    assert data_type(mx.bfloat16) == data_type("float32") == data_type(np.float32)
    assert data_type(mx.bool_) == data_type("bool") == data_type(bool)


@pytest.mark.parametrize("external", [False, True])
def test_save(tmp_path, external):
    g = small()
    g.output(g.op("MatMul", g.input("z", mx.float32, (1, 99)), np.ones((99, 2), np.float32)), "w")
    model = g.model()
    files.save(model, tmp_path / "m.onnx", external_data=external)
    first, *data = sorted(p.name for p in tmp_path.iterdir())
    assert (first, len(data)) == ("m.onnx", external)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    assert [o.name for o in session.get_outputs()] == ["y", "w"]


@pytest.mark.slow
def test_a_model_beyond_two_gigabytes(tmp_path):
    """It gets external data by itself and runs; its weights are not copied."""
    rows = 2**29 + 2**20
    g = Builder()
    table = np.zeros((rows // 1024, 1024), np.float32)
    table[7] = 3
    g.output(g.op("Gather", g.initializer("table", table), g.input("i", mx.int32, (1,))), "y")
    model = g.model()
    assert np.shares_memory(model.graph.initializers["table"].const_value.numpy(), table)
    files.save(model, tmp_path / "big.onnx")
    assert next(tmp_path.glob("big.onnx.*.data")).stat().st_size > 2**31
    assert (tmp_path / "big.onnx").stat().st_size < 2000
    onnx.checker.check_model(str(tmp_path / "big.onnx"))
    (y,) = onnxruntime.InferenceSession(tmp_path / "big.onnx").run(None, {"i": np.array([7], "i4")})
    assert (y == 3).all()
