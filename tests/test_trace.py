"""Tracing whole functions and modules: dynamic sizes, names, nodes, errors."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx2onnx import bounds, trace
from mlx2onnx.builder import Builder
from mlx2onnx.recording import record
from mlx2onnx.verify import verify

from tracing import IMAGE, POINTS, ROWS, SEQUENCE, B, T, array, compare, export, session
from tracing_modules import Masked, ResNet


def ops(model):
    return [node.op_type for node in model.graph.node]


def dims(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def test_names_and_dimensions():
    """Inputs carry the arguments' names, dimensions theirs, weights their paths."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(4, 3)

        def __call__(self, image, scale):
            return {"a": self.encoder(image) * scale, "b": image}

    model = export(Net(), [(None, 4), (1,)])
    assert [i.name for i in model.graph.input] == ["image", "scale"]
    assert [o.name for o in model.graph.output] == ["output_0", "output_1"]
    assert [dims(v) for v in model.graph.input] == [["batch", 4], [1]]
    assert dims(model.graph.output[0]) == ["batch", 3]
    assert {i.name for i in model.graph.initializer} >= {"encoder.weight", "encoder.bias"}


def test_inputs_by_argument_name():
    g = Builder()
    trace.function_to_graph(
        g, lambda x, y: x - y, {"y": ((B, 2), "int32"), "x": mx.zeros((2,), mx.int32)},
        output_names=["difference"],
    )  # fmt: skip
    model = g.finish()
    assert [i.name for i in model.graph.input] == ["y", "x"]
    assert [o.name for o in model.graph.output] == ["difference"]
    assert ops(model) == ["Sub"]


def test_a_module_goes_back_to_training():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    module.train()
    assert ops(export(module, ROWS)) == ["Gemm"]
    assert module.training
    assert all(child.training for child in module.layers)


def test_a_weight_is_stored_once():
    """The same weight, used twice and by itself and transposed, is one initializer."""
    layer = nn.Linear(4, 4)
    model = export(lambda x: layer(layer(x)), ROWS)
    assert ops(model) == ["Gemm", "Gemm"]
    assert len(model.graph.initializer) == 2


def test_a_local_function_may_be_traced():
    """Its weights become inputs, stored once; its nodes are those of the main graph."""
    layer = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm(4), nn.ReLU())
    layer.eval()
    g = Builder()
    value = g.input("x", mx.float32, (B, 4))
    for _ in range(2):
        value = g.call(
            "block", lambda v: trace.lower(g, layer, [v], [((B, 4), mx.float32)])[0], value
        )
    g.output(value, "y")
    model = g.finish()
    assert ops(model) == ["block", "block"]
    assert {"Gemm", "Relu"} <= {n.op_type for n in model.functions[0].node}
    x = array(3, 4)
    (found,) = session(model).run(None, {"x": np.asarray(x)})
    np.testing.assert_allclose(found, np.asarray(layer(layer(x))), rtol=1e-6, atol=1e-6)


def test_export_is_deterministic():
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    first, second = (export(Masked(layer), SEQUENCE).SerializeToString() for _ in range(2))
    assert first == second


def test_weights_that_were_never_evaluated():
    """A fresh module's weights are random numbers still to be drawn."""
    layer = nn.Linear(4, 3)
    compare(lambda x: layer(x) * 2, ROWS, POINTS)


@pytest.mark.parametrize(
    "make, inputs, expected",
    [
        (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), ROWS,
         ["Gemm", "Relu", "Gemm"]),
        (lambda: nn.Linear(8, 5), SEQUENCE, ["MatMul", "Add"]),
        (lambda: nn.LayerNorm(8), SEQUENCE, ["LayerNormalization"]),
        (nn.GELU, ROWS, ["Gelu"]),
        (ResNet, IMAGE,
         ["Transpose", "Conv", "Relu", "Conv", "LeakyRelu", "Conv", "Add", "Relu", "Conv", "Conv",
          "Sigmoid", "Mul", "Conv", "Add", "Relu", "ReduceMean", "Gemm"]),
        (lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3), nn.BatchNorm(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3)),
         [(B, 14, 14, 4)], ["Transpose", "Conv", "Relu", "MaxPool", "Conv", "Transpose"]),
        (lambda: lambda x: mx.softmax(x, axis=1), [(B, 3, 4)], ["Softmax"]),
        (lambda: lambda x: x.mean(axis=0), ROWS, ["ReduceMean"]),
        (lambda: lambda x: mx.clip(x, -1, 1), ROWS, ["Clip"]),
        (lambda: lambda x, i: x[:, i], [(B, 5), mx.array([0, 3])], ["Gather"]),
        (lambda: lambda x: x.reshape(-1, 2, 2).transpose(0, 2, 1).transpose(0, 2, 1), ROWS,
         ["Reshape"]),
    ],
)  # fmt: skip
def test_nodes(make, inputs, expected):
    """Common modules come out as the operators that a person would write."""
    assert ops(export(make(), inputs)) == expected


def test_all_that_is_missing_is_named():
    """Every primitive without a form, with its arguments and the file for a rule."""

    def fn(x):
        noise = mx.random.bernoulli(0.5, x.shape)
        return mx.linalg.inv(x * noise, stream=mx.cpu), x.view(mx.int32)

    with pytest.raises(trace.UnsupportedPrimitives) as caught:
        export(fn, [(4, 4)])
    message = str(caught.value)
    assert "RandomBits" in message
    assert "deterministic" in message
    assert "Inverse(False, True): no rule (export/mlx2onnx/primitives/)" in message
    assert "elementwise.py" in message
    assert {m.primitive for m in caught.value.missing} == {"RandomBits", "Inverse", "View"}


def test_a_constant_that_depends_on_a_size():
    fn = lambda x: x * mx.array(np.sqrt(np.arange(x.shape[0], dtype=np.float32)))[:, None]  # noqa: E731
    with pytest.raises(trace.UnsupportedPrimitives, match="other values at other sizes of batch"):
        export(fn, ROWS)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: sum(mx.exp(x[:, i]) for i in range(x.shape[1])),
        lambda x: mx.exp(x) if x.shape[1] % 4 == 1 else x,
    ],
    ids=["loop", "branch"],
)
def test_a_computation_that_depends_on_a_size(fn):
    match = r"the same computation at every size of time, got \d+ primitives at time 17, \d+ at"
    with pytest.raises(trace.UnsupportedPrimitives, match=match):
        export(fn, SEQUENCE)


def test_sizes_below_a_kernel():
    """Dimensions are probed at larger sizes when the function refuses the small ones."""
    weight = array(3, 41, 2)
    compare(lambda x: mx.conv1d(x, weight), [(B, T, 2)], ({B: 2, T: 41}, {B: 1, T: 50}), 2e-5)


@pytest.mark.parametrize(
    "fn, smallest, tolerance",
    [
        (lambda x: mx.conv1d(x, array(3, 16, 2), stride=16), 16, 1e-5),
        (lambda x: mx.conv1d(x, array(3, 9, 2), stride=4, dilation=3, padding=2), 21, 1e-5),
        (nn.MaxPool1d(24, 12), 24, 0),
        (lambda x: mx.as_strided(x, (x.shape[0], 40), (x.shape[1] * 2, 1)), 20, 0),
    ],
    ids=["convolution", "dilated", "pooling", "view"],
)
def test_sizes_that_leave_a_window_no_room_are_refused(fn, smallest, tolerance):
    """MLX takes some of them, and reads past the end of its array."""
    sizes = [{B: 2, T: smallest}, {B: 1, T: smallest + 5}, {B: 3, T: 95}]
    model = compare(fn, [(B, T, 2)], sizes, tolerance)
    verify(fn, model)
    with pytest.raises(bounds.TooSmall, match="Use larger inputs|Give as_strided"):
        record(fn, [mx.zeros((2, smallest - 1, 2))])


def test_errors_of_the_function_come_through():
    with pytest.raises(ValueError, match="matmul") as caught:
        export(lambda x: x @ mx.zeros((5, 2)), ROWS)
    assert "while tracing" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "inputs, names, match",
    [
        ([3], {}, r"expected a shape such as \('batch', 32\)"),
        (ROWS, {"input_names": ["a", "b"]}, "expected 1 input names, got 2"),
        (ROWS, {"output_names": ["a", "b"]}, "expected 1 output names, got 2"),
        (ROWS, {"input_names": ["a"], "output_names": ["a"]}, "unique output names, got 'a'"),
    ],
)
def test_bad_requests(inputs, names, match):
    with pytest.raises((TypeError, ValueError), match=match):
        trace.function_to_graph(Builder(), mx.exp, inputs, **names)
