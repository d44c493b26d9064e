"""Layouts: what is converted, when, and how often; what is stored differently means the same."""

import mlxfunc as mf
import mlx.core as mx
import numpy as np
import onnx
import pytest
from mlxfunc import layers
from mlx2onnx.builder import Builder
from mlx2onnx.layout import (
    Layout,
    Tensor,
    aligned,
    channels_first,
    concatenate,
    elementwise,
    ordered,
    plain,
    settle,
    time_first,
)
from mlx2onnx.verify import run_onnx

from exporting import export

IMAGE = ("batch", 2, 3, 4)


def image(g: Builder, name: str = "x", layout: Layout | None = None) -> Tensor:
    layout = layout or plain(4)
    value = g.input(name, mx.float32, [IMAGE[axis] for axis in layout.perm])
    return Tensor(g, value, (None, *IMAGE[1:]), layout)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def run(g: Builder, tensor: Tensor, layout: Layout, *arrays: np.ndarray):
    """The model that gives `tensor` in `layout`, and its result."""
    g.output(tensor.to(layout), "y")
    model = g.finish()
    names = [v.name for v in model.graph.input]
    return model, run_onnx(model, dict(zip(names, arrays, strict=True)))[0]


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("perm", [(0, 1, 2, 3), (0, 3, 1, 2), (1, 0, 2, 3), (3, 2, 1, 0)])
def test_a_conversion_is_a_transpose(perm):
    x = random(5, 2, 3, 4)
    g = Builder()
    model, y = run(g, image(g), Layout(perm), x)
    np.testing.assert_array_equal(y, x.transpose(perm))
    assert operators(model) == (["Identity"] if perm == (0, 1, 2, 3) else ["Transpose"])


def test_a_layout_is_made_once():
    g = Builder()
    x = image(g)
    assert x.to(channels_first(4)) is x.to(channels_first(4))


def test_there_and_back_is_nothing():
    g = Builder()
    x = image(g)
    channels = Tensor(g, g.op("Relu", x.to(channels_first(4))), x.shape, channels_first(4))
    model, y = run(g, channels, plain(4), random(2, 2, 3, 4))
    assert operators(model) == ["Transpose", "Relu", "Transpose"]
    np.testing.assert_array_equal(y, np.maximum(random(2, 2, 3, 4), 0))


def test_axes_of_size_one_move_by_reshape():
    g = Builder()
    value = g.input("x", mx.float32, ["batch", 5, 6, 1])
    x = Tensor(g, value, (None, 5, 6, 1))
    model, y = run(g, x, channels_first(4), random(3, 5, 6, 1))
    assert operators(model) == ["Reshape"]
    np.testing.assert_array_equal(y, random(3, 5, 6, 1).transpose(0, 3, 1, 2))


def test_elements_in_another_order():
    indices = np.array([2, 0, 1, 3])
    g = Builder()
    value = g.input("x", mx.float32, ["batch", 4])
    x = Tensor(g, value, (None, 4), Layout((0, 1), ordered(indices)))
    stored = random(3, 4)
    array = np.empty_like(stored)
    array[:, indices] = stored
    model, y = run(g, x, plain(2), stored)
    assert operators(model) == ["Gather"]
    np.testing.assert_array_equal(y, array)


def test_the_identity_is_no_order():
    assert ordered(np.arange(5)) is None


def test_operands_meet_where_the_largest_is():
    g = Builder()
    a, b = image(g, "a", channels_first(4)), image(g, "b")
    y = elementwise([b, a], lambda *v: g.op("Add", *v), a.shape, mx.float32)
    assert y.layout == channels_first(4)
    x = random(2, 2, 3, 4)
    model, found = run(g, y, plain(4), x.transpose(0, 3, 1, 2), x)
    assert operators(model) == ["Transpose", "Add", "Transpose"]
    np.testing.assert_array_equal(found, x + x)


def test_a_lower_rank_meets_the_stored_axes():
    g = Builder()
    a = image(g, "a", channels_first(4))
    vector = Tensor(g, g.input("b", mx.float32, ["batch", 4]), (None, 4))
    y = elementwise(aligned([a, vector]), lambda *v: g.op("Mul", *v), a.shape, mx.float32)
    x, b = random(2, 2, 3, 4), random(2, 4)
    model, found = run(g, y, channels_first(4), x.transpose(0, 3, 1, 2), b)
    assert operators(model) == ["Unsqueeze", "Mul"]
    np.testing.assert_array_equal(found, (x * b[:, None, None]).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_concatenation_names_the_stored_axis(axis):
    g = Builder()
    a, b = image(g, "a", channels_first(4)), image(g, "b", channels_first(4))
    x = random(2, 2, 3, 4)
    expected = np.concatenate([x, -x], axis)
    y = concatenate([a, b], axis, (None, *expected.shape[1:]))
    stored = x.transpose(0, 3, 1, 2)
    model, found = run(g, y, plain(4), stored, -stored)
    assert operators(model) == ["Concat", "Transpose"]
    np.testing.assert_array_equal(found, expected)


def test_orders_are_concatenated():
    indices = np.array([1, 0, 2])
    g = Builder()
    a = Tensor(
        g, g.input("a", mx.float32, ["batch", 3]), (None, 3), Layout((0, 1), ordered(indices))
    )
    b = Tensor(g, g.input("b", mx.float32, ["batch", 2]), (None, 2))
    stored, other = random(2, 3), random(2, 2)
    array = np.empty_like(stored)
    array[:, indices] = stored
    model, found = run(g, concatenate([a, b], -1, (None, 5)), plain(2), stored, other)
    assert operators(model) == ["Concat", "Gather"]
    np.testing.assert_array_equal(found, np.concatenate([array, other], -1))


def test_what_waits_is_made_in_the_layout_that_is_asked_for():
    g = Builder()
    ids = g.input("ids", mx.int32, ["batch", "time"])
    asked = []

    def make(layout: Layout):
        asked.append(layout)
        order = list(layout.perm)
        return g.op("Cast", ids if order == [0, 1] else g.op("Transpose", ids, perm=order), to=1)

    x = Tensor(g, None, (None, None), make=make).map(lambda v, layout: g.op("Neg", v))
    assert x.deferred
    x.to(time_first(2))
    x.to(plain(2))
    assert asked == [time_first(2)]
    assert x.layout == time_first(2)


def test_what_cannot_serve_a_layout_is_made_plain():
    g = Builder()
    value = g.input("x", mx.float32, list(IMAGE))
    x = Tensor(g, None, (None, *IMAGE[1:]), make=lambda a: value if a == plain(4) else None)
    model, _ = run(g, x, channels_first(4), random(2, 2, 3, 4))
    assert operators(model) == ["Transpose"]


def test_a_value_that_exists_decides_over_one_that_waits():
    g = Builder()
    waiting = Tensor(g, None, (None, *IMAGE[1:]), make=lambda layout: None)
    made = image(g, "x", channels_first(4))
    assert settle([waiting, made]) is made


def test_a_dense_takes_rows_and_gives_columns_in_any_order():
    x = mf.Input((2, 3, 4))
    h = mf.layers.Permute((3, 1, 2))(x)
    y = mf.layers.Dense(24)(mf.layers.Flatten()(h))
    y = mf.layers.Permute((2, 3, 1))(mf.layers.Reshape((4, 2, 3))(y))
    exported = mf.Model(x, y).export(None, verbose=False)
    assert operators(exported).count("Transpose") <= 2


def test_an_image_in_its_own_order_joins_a_vector_of_any_length():
    image, steps = mf.Input((5, 4, 2)), mf.Input((None, 3))
    flat = layers.Flatten()(layers.Conv2D(3, 2)(image))
    model = mf.Model([image, steps], layers.Concatenate()([layers.Flatten()(steps), flat]))
    export(model)
