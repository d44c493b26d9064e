"""Sequential: where the first shape comes from, adding, popping, use as a layer."""

import mlxfunc as mf
import mlx.core as mx
import numpy as np
import pytest
from mlxfunc import layers

FIRST = [
    lambda: [mf.Input((4,)), layers.Dense(3)],
    lambda: [layers.Input(shape=(4,)), layers.Dense(3)],
    lambda: [layers.Dense(3, input_shape=(4,))],
    lambda: [layers.Dense(3, input_dim=4)],
    lambda: [layers.Dense(3, batch_input_shape=(None, 4))],
]


@pytest.mark.parametrize("stack", FIRST)
def test_first_shape(stack):
    m = mf.Sequential([*stack(), layers.Dense(2, name="last")])
    assert m.input_shape == (None, 4)
    assert m.output_shape == (None, 2)
    assert m.get_layer("last").input_shape == (None, 3)
    assert [type(la).__name__ for la in m.layers] == ["Dense", "Dense"]
    assert m(np.zeros((5, 4))).shape == (5, 2)


def test_embedding_takes_input_length():
    m = mf.Sequential([layers.Embedding(10, 4, input_length=7), layers.Dense(1)])
    assert m.input_shape == (None, 7)
    assert m.inputs[0].dtype == mx.int32
    assert m.output_shape == (None, 7, 1)


def test_a_fixed_batch():
    m = mf.Sequential([layers.Dense(3, batch_size=2, input_shape=(4,))])
    assert m.input_shape == (2, 4)


def test_deferred_until_the_first_data():
    m = mf.Sequential([layers.Dense(3), layers.Dense(2)], name="late")
    with pytest.raises(ValueError, match=r"late: expected a model that knows its input's shape"):
        _ = m.outputs
    assert m(np.zeros((5, 4))).shape == (5, 2)
    assert m.input_shape == (None, 4)
    assert m.count_params() == 15 + 8


def test_add_and_pop():
    m = mf.Sequential([mf.Input((4,))], name="s")
    m.add(layers.Dense(3))
    last = layers.Dense(2)
    m.add(last)
    assert m.output_shape == (None, 2)
    assert m.pop() is last
    assert m.output_shape == (None, 3)
    m.add(layers.Dense(5))
    assert m(np.zeros((1, 4))).shape == (1, 5)
    assert len(m.layers) == 2
    assert m.count_params() == 15 + 20


def test_functional_twin_is_equal():
    stack = [layers.Dense(6, activation="relu"), layers.Dense(3, activation="softmax")]
    sequential = mf.Sequential([mf.Input((4,)), *stack])
    i = mf.Input((4,))
    twin = mf.Model(i, stack[1](stack[0](i)))
    x = np.random.default_rng(0).normal(size=(5, 4))
    assert mx.array_equal(sequential(x), twin(x))


def test_a_sequential_is_a_layer():
    inner = mf.Sequential([layers.Dense(3), layers.Dense(2)], name="inner")
    a, b = mf.Input((4,)), mf.Input((4,))
    m = mf.Model([a, b], layers.subtract([inner(a), inner(b)]))
    assert m.count_params() == 15 + 8
    assert inner.get_output_at(1).shape == (None, 2)
    x = np.ones((1, 4))
    assert m([x, x]).tolist() == [[0, 0]]
    outer = mf.Sequential([inner, layers.Dense(1)])
    assert outer.input_shape == (None, 4)


BAD = [
    (lambda: mf.Sequential().pop(), "expected a layer to pop"),
    (lambda: mf.Sequential([layers.Dense(1), mf.Input((1,))]), "expected Input first"),
    (
        lambda: mf.Sequential([layers.Dense(1, name="d"), layers.Dense(1, name="d")]),
        "unique layer names, got 'd' for Dense and Dense",
    ),
]


@pytest.mark.parametrize("make, message", BAD)
def test_bad_stacks_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
