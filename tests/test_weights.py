"""Weights that users add: Keras's arguments, one listing each, names that are taken."""

import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlxfunc import layers
from mlx.utils import tree_flatten


def built(function, **attributes):
    """A layer whose `build` is `function`, after it was built for four features."""

    class Custom(layers.Layer):
        def __init__(self):
            super().__init__(name="custom")
            for key, value in attributes.items():
                setattr(self, key, value)

        def build(self, input_shape):
            function(self)

        def call(self, x):
            return x

    layer = Custom()
    layer.build((None, 4))
    return layer


def paths(layer):
    return [path for path, _ in tree_flatten(layer.parameters())]


SIGNATURES = [
    (lambda s: s.add_weight(), (), "float32", True),
    (lambda s: s.add_weight((3, 2)), (3, 2), "float32", True),
    (lambda s: s.add_weight([3, 2], "ones"), (3, 2), "float32", True),
    (lambda s: s.add_weight((3,), "ones", "float16"), (3,), "float16", True),
    (lambda s: s.add_weight(shape=(np.int64(3),), initializer="zeros"), (3,), "float32", True),
    (lambda s: s.add_weight((3,), dtype="int32", trainable=False), (3,), "int32", False),
    (lambda s: s.add_weight((3,), dtype="bool", trainable=False), (3,), "bool", False),
    (
        lambda s: s.add_weight(
            shape=(2,), initializer=None, dtype=None, trainable=True, autocast=False,
            regularizer="l2", constraint="non_neg", aggregation="mean", name="w",
        ),
        (2,), "float32", True,
    ),
]  # fmt: skip


@pytest.mark.parametrize("add, shape, dtype, trainable", SIGNATURES)
def test_add_weight_takes_the_arguments_of_keras(add, shape, dtype, trainable):
    layer = built(add)
    (weight,) = layer.weights
    assert weight.shape == shape
    assert str(weight.dtype) == f"mlx.core.{dtype}"
    assert len(layer.trainable_weights) == trainable
    mx.eval(weight)


REFUSED = [
    (lambda s: s.add_weight("kernel", (3,)), r"expected a shape first, got 'kernel'. Write add_"),
    (lambda s: s.add_weight((None, 3)), r"custom: expected the shape of a weight as a tuple of i"),
    (lambda s: s.add_weight(3), r"custom: expected the shape of a weight as a tuple"),
    (lambda s: s.add_weight(overwrite_with_gradient=True), r"expected overwrite_with_gradient=Fal"),
    (lambda s: setattr(s, "state", s.add_weight(name="state")), r"an attribute of its own for a w"),
    (lambda s: setattr(s, "call", s.add_weight()), r"an attribute of its own for a weight, got 'c"),
]  # fmt: skip


@pytest.mark.parametrize("add, message", REFUSED)
def test_add_weight_refuses(add, message):
    with pytest.raises(ValueError, match=message):
        built(add)


def several(layer):
    layer.w = layer.add_weight((4,), "ones", name="kernel")
    layer._hidden = layer.add_weight((4,), "ones")
    layer.v = layer.add_weight((4,), "ones")
    layer.pair = [layer.add_weight((4,), "ones", name=f"part{k}") for k in range(2)]
    layer.table = {"a": layer.add_weight((4,), "ones", name="a")}
    layer.single = (layer.add_weight((4,), "ones", name="b"),)
    layer.filled = []
    for _ in range(2):
        layer.filled.append(layer.add_weight((4,), "ones", name="part"))
    layer.again = layer.v


class Several(layers.Layer):
    def build(self, input_shape):
        several(self)

    def call(self, x):
        parts = [*self.pair, self.table["a"], *self.single, *self.filled]
        return x * self.w * self._hidden * self.v * sum(parts)


def test_a_weight_is_listed_once_under_whatever_attributes_it_is_kept():
    names = ["kernel", "hidden", "v", "part0", "part1", "a", "b", "part", "part_1"]
    layer = built(several)
    assert paths(layer) == names
    assert len(layer.get_weights()) == 9
    assert layer.count_params() == 36
    assert layer.again is layer.v
    assert layer.w is layer["kernel"]
    assert layer.filled[1] is layer["part_1"]


def test_attributes_of_weights_follow_training():
    x = mf.Input((4,))
    layer = Several()
    model = mf.Model(x, layer(x))
    model.compile(mf.optimizers.SGD(0.01, momentum=0.5), "mse")
    data = np.ones((8, 4), "float32")
    model.fit(data, data * 9, epochs=2, verbose=0)
    assert all(not np.allclose(w, 1) for w in layer.get_weights())
    for kept in (layer._hidden, layer.w, *layer.pair, layer.table["a"], *layer.single):
        assert any(kept is weight for weight in layer.weights)
    again = mf.models.clone_model(model)
    again.set_weights(model.get_weights())
    np.testing.assert_allclose(again.predict(data, verbose=0), model.predict(data, verbose=0))


def test_an_attribute_of_a_weight_may_be_assigned():
    layer = built(lambda s: setattr(s, "w", s.add_weight((2,), name="kernel")))
    layer.w = mx.array([1.0, 2.0])
    assert layer["kernel"].tolist() == [1, 2]
    assert paths(layer) == ["kernel"]


def test_what_is_kept_of_a_weight_after_it_was_built_is_its_value():
    layer = built(lambda s: s.add_weight((2,), "ones", name="w"))
    layer._before = layer.w
    layer.w = layer.w * 2
    assert layer._before.tolist() == [1, 1]
    assert paths(layer) == ["w"]


def test_weights_of_a_parent_and_of_a_subclass_are_listed_once():
    class Wider(layers.Dense):
        def build(self, input_shape):
            super().build(input_shape)
            self.extra = self.add_weight((self.units,), name="more")

        def call(self, x):
            return super().call(x) + self.extra

    layer = Wider(3)
    assert layer(mx.ones((2, 4))).shape == (2, 3)
    assert paths(layer) == ["weight", "bias", "more"]


def test_weights_made_in_the_constructor_are_listed_once():
    class Early(layers.Layer):
        def __init__(self):
            super().__init__()
            self.parts = []
            for _ in range(2):
                self.parts.append(self.add_weight((4,), "ones"))
            self.w = self.add_weight((4,), "ones", name="kernel")

        def call(self, x):
            return x * self.parts[0] + self.parts[1] * self.w

    layer = Early()
    assert layer(mx.ones((1, 4))).tolist() == [[2] * 4]
    assert paths(layer) == ["weight", "weight_1", "kernel"]


TAKEN = [
    ("inner", "inner_1"),  # a sublayer
    ("units", "units_1"),  # an attribute
    ("build", "build_1"),  # a method
    ("losses", "losses_1"),  # a property
    ("nothing", "nothing"),  # an attribute that is None until the weight is made
    ("a/b.c", "a_b_c"),
    ("_hidden", "hidden"),
    ("0", "weight"),
]


@pytest.mark.parametrize("name, key", TAKEN)
def test_a_name_that_is_taken_is_numbered(name, key):
    inner = layers.Dense(2)
    layer = built(
        lambda s: s.add_weight((3,), "ones", name=name), inner=inner, units=7, nothing=None
    )
    assert paths(layer) == [key]
    assert layer[key].shape == (3,)
    assert layer.inner is inner
    assert layer.units == 7
    assert callable(layer.build)
    assert getattr(layer, key) is layer[key]


def test_two_weights_of_one_name_are_two():
    layer = built(lambda s: [s.add_weight((n,), name="w") for n in (1, 2)])
    assert paths(layer) == ["w", "w_1"]
    assert [w.size for w in layer.weights] == [1, 2]


@pytest.mark.parametrize("value", [layers.Dense(1), nn.Linear(1, 1), None, 3, np.ones(3), [1]])
def test_a_weight_is_not_lost_to_another_attribute(value):
    layer = built(lambda s: s.add_weight((3,), name="w"))
    with pytest.raises(ValueError, match=r"custom: expected an MLX array for the weight 'w', got"):
        layer.w = value
    assert layer.w.shape == (3,)


def test_a_weight_may_be_kept_by_a_property_of_the_user():
    class Own(layers.Layer):
        @property
        def kernel(self):
            return self._kernel * 2

        @kernel.setter
        def kernel(self, value):
            self._kernel = value

        def build(self, input_shape):
            self.kernel = self.add_weight((4,), "ones", name="k")

        def call(self, x):
            return x * self.kernel

    layer = Own()
    assert layer(mx.ones((1, 4))).tolist() == [[2] * 4]
    assert paths(layer) == ["k"]
    assert layer._kernel is layer.k
