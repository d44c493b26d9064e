"""Drawing graphs: symbolic tensors, nodes, order, shapes, sharing, nesting."""

import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlxfunc import layers, ops
from mlx.utils import tree_flatten


def paths(module):
    return [path for path, _ in tree_flatten(module.parameters())]


@pytest.mark.parametrize(
    "shape, batch, expected",
    [
        ((784,), None, (None, 784)),
        ((None, 8), None, (None, None, 8)),
        (("time", 8), None, (None, "time", 8)),
        ((4,), 3, (3, 4)),
        ((), None, (None,)),
    ],
)
def test_input_shapes(shape, batch, expected):
    x = mf.Input(shape, batch_size=batch, name="x")
    assert x.shape == expected
    assert x.dtype == mx.float32
    assert x.name == "x"


def test_float64_input_becomes_float32():
    assert mf.Input((2,), dtype="float64").dtype == mx.float32
    assert layers.Dense(1)(np.zeros((2, 3))).dtype == mx.float32


def test_output_is_the_tensor_that_the_call_returned():
    dense = layers.Dense(3)
    y = dense(mf.Input((2,)))
    assert dense.output is y
    assert dense.get_output_at(0) is y
    assert dense.output_shape == (None, 3)
    assert dense.input_shape == (None, 2)


def test_node_api_of_a_shared_layer():
    shared = layers.Dense(3, name="shared")
    a, b = mf.Input((2,)), mf.Input((2,))
    ya, yb = shared(a), shared(b)
    assert (shared.get_input_at(0), shared.get_input_at(1)) == (a, b)
    assert (shared.get_output_at(0), shared.get_output_at(1)) == (ya, yb)
    assert shared.output_shape == (None, 3)
    with pytest.raises(AttributeError, match=r"shared: .*got 2.*get_output_at\(node_index\)"):
        _ = shared.output
    with pytest.raises(ValueError, match="shared: expected a node index below 2, got 2"):
        shared.get_output_at(2)


def test_unequal_shapes_of_a_shared_layer_are_ambiguous():
    shared = layers.Activation("relu", name="act")
    shared(mf.Input((2,)))
    shared(mf.Input((3,)))
    assert shared.get_output_shape_at(1) == (None, 3)
    with pytest.raises(AttributeError, match=r"act: .*get_output_shape_at"):
        _ = shared.output_shape


def test_a_layer_without_calls_has_no_output():
    with pytest.raises(AttributeError, match="lonely: expected a call on symbolic tensors"):
        _ = layers.Dense(1, name="lonely").output


def test_named_dimensions_travel_and_must_agree():
    a, b = mf.Input(("time", 4)), mf.Input(("time", 4))
    assert layers.Add()([a, b]).shape == (None, "time", 4)
    assert layers.Dense(7)(a).shape == (None, "time", 7)
    assert ops.concatenate([a, a], axis=1).shape == (None, None, 4)
    with pytest.raises(ValueError, match="add"):
        layers.Add(name="add")([a, mf.Input((3, 4))])


def test_each_named_dimension_keeps_its_name():
    """Whatever the layer does with them, however many there are, and whichever sizes it refuses."""
    many = [mf.Input((f"s{i}", 4)) for i in range(12)]
    found = layers.Lambda(lambda arrays: arrays[::-1])(many)
    assert [t.shape[1] for t in found] == [f"s{i}" for i in reversed(range(12))]

    def swap(arrays, smallest):
        if arrays[0].shape[1] < smallest:
            raise ValueError("too small")
        return arrays[::-1]

    for smallest in (500, 2000):
        found = layers.Lambda(lambda arrays, n=smallest: swap(arrays, n))(many[:2])
        assert [t.shape[1] for t in found] == ["s1", "s0"]


def test_a_dimension_and_some_is_not_another_one():
    many = [mf.Input((f"s{i}", 4)) for i in range(8)]
    for pad in range(200):
        found = layers.Lambda(lambda xs, n=pad: [mx.pad(x, [(0, 0), (0, n), (0, 0)]) for x in xs])
        assert all(t.shape[1] is None for t in found(many)) or pad == 0


def test_dimensions_without_a_name_are_told_apart():
    """Unless a layer only takes equal ones."""
    a, b = mf.Input((None, 4)), mf.Input((None, 4))
    longer = layers.Lambda(lambda x: mx.zeros((1, 3 + abs(x[0].shape[1] - x[1].shape[1]))))
    assert longer([a, b]).shape == (1, None)
    assert layers.Add()([a, b]).shape == (None, None, 4)
    named = [mf.Input(("a", 4)), mf.Input(("b", 4))]
    assert layers.Add()(named).shape == (None, None, 4)


def test_symbolic_tensors_may_stand_anywhere():
    class Pick(layers.Layer):
        def call(self, x, *, options):
            return x + options["pair"][1]

    a, b = mf.Input((3,)), mf.Input((3,))
    m = mf.Model([a, b], Pick()(a, options={"pair": [1, b]}))
    assert m([np.ones((2, 3)), np.full((2, 3), 4.0)]).tolist() == [[5.0] * 3] * 2


def test_structures_of_inputs_and_outputs():
    a, b = mf.Input((2,), name="a"), mf.Input((2,), name="b")
    m = mf.Model({"first": a, "second": b}, {"sum": a + b, "pair": [a * 2, (b,)]})
    x = {"second": np.ones((1, 2)), "first": np.zeros((1, 2))}
    y = m(x)
    assert m.input_names == ("first", "second")
    assert y["sum"].tolist() == [[1, 1]]
    assert isinstance(y["pair"][1], tuple)
    by_name = mf.Model([a, b], a - b)
    assert by_name({"b": np.ones((1, 2)), "a": np.zeros((1, 2))}).tolist() == [[-1, -1]]


def test_a_list_of_one_is_that_one():
    x = mf.Input((2,))
    model = mf.Model([x], [layers.Dense(3)(x)])
    again = mf.Model(model.inputs, model.outputs)
    assert again(np.ones((4, 2))).shape == again.predict([np.ones((4, 2))], verbose=0).shape
    assert (again.input_shape, again.output_shape) == ((None, 2), (None, 3))
    assert mf.Sequential([model, layers.Dense(1)]).output_shape == (None, 1)


def test_operators_on_symbolic_tensors():
    a = mf.Input((4,))
    x = mx.array([[1.0, 2.0, 3.0, 4.0]])
    rows = [
        (a + 1, x + 1), (1 - a, 1 - x), (a * a, x * x), (2 / a, 2 / x), (a // 2, x // 2),
        (a**2, x**2), (a % 2, x % 2), (-a, -x), (a < 2, x < 2), (a >= 2, x >= 2),
        (a @ np.ones((4, 2), np.float32), x @ mx.ones((4, 2))), (a[:, 1:3], x[:, 1:3]),
        (a[..., -1], x[..., -1]), (ops.mean(a, axis=1), x.mean(axis=1)),
        (ops.where(a > 2, a, 0.0), mx.where(x > 2, x, 0.0)),
        (ops.reshape(a, (-1, 2, 2)), x.reshape(-1, 2, 2)),
        (ops.stack([a, a], 1), mx.stack([x, x], 1)),
    ]  # fmt: skip
    got = mf.Model(a, [symbolic for symbolic, _ in rows])(x)
    for y, (_, expected) in zip(got, rows, strict=True):
        assert mx.array_equal(y, expected)


def test_unknown_operation_is_named_with_the_nearest():
    with pytest.raises(AttributeError, match=r"'maen'\. Did you mean 'mean'"):
        _ = ops.maen
    with pytest.raises(AttributeError, match="save"):
        _ = ops.save


def test_a_symbolic_tensor_refuses_python_control_flow():
    x = mf.Input((2,), name="x")
    with pytest.raises(TypeError, match="x: a symbolic tensor has no truth value"):
        bool(x > 0 if False else x)
    with pytest.raises(TypeError, match="cannot be iterated"):
        iter(x)


def test_parameters_list_each_array_once():
    shared = layers.Dense(4, name="shared")
    i = mf.Input((4,))
    encoder = mf.Model(i, layers.Dense(4, name="own")(shared(i)), name="encoder")
    other = mf.Model(i, shared(i), name="other")
    a, b = mf.Input((4,)), mf.Input((4,))
    m = mf.Model([a, b], layers.add([encoder(a), encoder(b), other(a), shared(b)]))
    names = ["encoder.shared.weight", "encoder.shared.bias", "encoder.own.weight"]
    assert paths(m) == [*names, "encoder.own.bias"]
    assert m.count_params() == 40
    assert len(m.get_weights()) == 4
    assert paths(encoder) == ["shared.weight", "shared.bias", "own.weight", "own.bias"]


def test_gradients_of_shared_weights_add_up():
    shared = layers.Dense(1, use_bias=False)
    a, b = mf.Input((1,)), mf.Input((1,))
    m = mf.Model([a, b], layers.add([shared(a), shared(b)]))
    grads = nn.value_and_grad(m, lambda x, y: m([x, y]).sum())(
        mx.array([[2.0]]), mx.array([[3.0]])
    )[1]
    assert [g.item() for _, g in tree_flatten(grads)] == [5.0]


def test_a_layer_is_an_mlx_module(tmp_path):
    i = mf.Input((3,))
    m = mf.Model(i, layers.Dense(2)(layers.Dense(4)(i)))
    m.freeze()
    assert tree_flatten(m.trainable_parameters()) == []
    m.unfreeze()
    assert len(tree_flatten(m.trainable_parameters())) == 4
    m.save_weights(str(tmp_path / "w.safetensors"))
    x = mx.ones((2, 3))
    y = m(x)
    m.update(m.apply(lambda w: w * 0).parameters())
    m.load_weights(str(tmp_path / "w.safetensors"))
    assert mx.array_equal(m(x), y)


def test_weights_of_other_names_say_what_to_do(tmp_path):
    def build():
        i = mf.Input((3,))
        return mf.Model(i, layers.Dense(2)(i))

    build().save_weights(str(tmp_path / "w.safetensors"))
    other = build()
    with pytest.raises(ValueError, match=r"called dense_1\..*got dense\.") as caught:
        other.load_weights(str(tmp_path / "w.safetensors"))
    assert "call mlxfunc.clear_session()" in caught.value.__notes__[0]
    mf.clear_session()
    build().load_weights(str(tmp_path / "w.safetensors"))


def test_weights_follow_a_functional_submodel():
    i = mf.Input((3,))
    h = layers.Dense(4, name="x")(i)
    m = mf.Model(i, layers.Dense(2)(h))
    part = mf.Model(m.input, m.get_layer("x").output)
    assert part.get_layer("x") is m.get_layer("x")
    assert part(np.zeros((1, 3))).shape == (1, 4)
    tail = mf.Model(h, m.output)
    assert tail(np.zeros((1, 4))).shape == (1, 2)
    assert tail.count_params() == 10


def test_three_thousand_layers_deep():
    x = i = mf.Input((2,))
    for _ in range(3000):
        x = layers.Identity()(x)
    assert mf.Model(i, x)(np.ones((1, 2))).tolist() == [[1, 1]]


def test_order_of_layers_is_by_depth_then_by_first_visit():
    a, b = mf.Input((4,), name="a"), mf.Input((4,), name="b")
    late = layers.Dense(4, name="late")(b)
    deep = layers.Dense(4, name="deep2")(layers.Dense(4, name="deep1")(a))
    m = mf.Model([a, b], layers.Add(name="add")([deep, late]))
    assert [la.name for la in m.layers] == ["a", "deep1", "b", "deep2", "late", "add"]


def test_probing_leaves_random_state_and_weights_alone():
    mx.random.seed(3)
    before = mx.random.uniform(shape=(3,))
    mx.random.seed(3)
    layers.Lambda(lambda x: x + mx.random.normal(x.shape))(mf.Input((2,)))
    mf.layers.Activation("relu")(mf.Input((2,)))
    assert mx.array_equal(mx.random.uniform(shape=(3,)), before)


def test_a_users_layer_needs_only_init_build_and_call():
    class Scale(layers.Layer):
        def __init__(self, start, **kwargs):
            super().__init__(**kwargs)
            self.start = start

        def build(self, input_shape):
            self.scale = mx.full((input_shape[-1],), self.start)

        def call(self, x):
            return x * self.scale

    i = mf.Input((3,))
    layer = Scale(2.0)
    m = mf.Model(i, layer(i))
    assert m(np.ones((1, 3))).tolist() == [[2, 2, 2]]
    assert paths(m) == ["scale.scale"]
    assert layer.get_config() == {"start": 2.0, "name": "scale", "trainable": True}


def test_a_symbolic_loss_is_refused():
    """It would never be added; a layer's call adds arrays."""
    i = mf.Input((3,))
    m = mf.Model(i, layers.Dense(2, name="dense")(i), name="net")
    for layer, loss in ((m, ops.sum(m.output)), (m.layers[1], m.output), (m, 0.5)):
        with pytest.raises(ValueError, match=f"{layer.name}: expected an array in add_loss"):
            layer.add_loss(loss)


def test_losses_are_those_of_the_last_call():
    class Penalty(layers.Layer):
        def call(self, x):
            self.add_loss(mx.sum(x))
            return x

    i = mf.Input((3,))
    layer = Penalty()
    m = mf.Model(i, layer(layers.Dense(3, kernel_regularizer="l2")(layer(i))))
    assert len(m.losses) == 1, "a penalty of weights needs no call"
    dense = m.layers[-1]
    dense.set_weights([np.eye(3), np.zeros(3)])
    for rows in (4, 2):
        m(np.ones((rows, 3)))
        assert [loss.item() for loss in layer.losses] == [3 * rows, 3 * rows]
        assert [round(loss.item(), 4) for loss in m.losses] == [3 * rows, 3 * rows, 0.03]
    mf.Sequential([layer])(np.ones((1, 3)))
    assert [loss.item() for loss in layer.losses] == [3.0]


BAD = [
    (lambda: mf.Input(784), ValueError, r"expected a tuple, got shape=784"),
    (lambda: mf.Input(), ValueError, "either `shape` or `batch_shape`, got neither"),
    (lambda: mf.Input((-1,)), ValueError, "expected sizes that are an int, None or a name, got -1"),
    (lambda: mf.Input((1,), dtype="flot"), ValueError, "name of an MLX dtype, got 'flot'"),
    (lambda: layers.Dense(3, name="a/b"), ValueError, "without '.', '/'"),
    (lambda: layers.Dense(3, unit=2), TypeError, "unknown argument 'unit'. Did you mean 'units'"),
    (lambda: layers.Dense(-1, name="d"), ValueError, "d: expected units to be a positive integer"),
    (lambda: layers.Dense(1, activation="rleu"), ValueError, "'rleu'. Did you mean 'relu'"),
    (lambda: layers.Dense(1, name="d")(mf.Input((None,))), ValueError, "d: expected a known size"),
    (lambda: layers.Dense(1, name="d")(mf.Input(())), ValueError, "d: expected an input of rank 2"),
    (lambda: mf.Model(3, mf.Input((1,))), TypeError, "inputs made of symbolic tensors, got int"),
    (lambda: mf.Sequential([3]), TypeError, "expected a Layer, got 3"),
]  # fmt: skip


@pytest.mark.parametrize("make, kind, message", BAD, ids=[row[2][:30] for row in BAD])
def test_bad_input_is_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_wrong_rank_or_size_names_layer_expected_and_got():
    dense = layers.Dense(2, name="dense_x")
    dense(np.zeros((1, 5)))
    with pytest.raises(ValueError, match=r"dense_x: expected size 5 on axis -1, got shape"):
        dense(np.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"dense_x: expected an input of rank 2 or more"):
        dense(np.zeros((5,)))
    i = mf.Input((5,), name="x")
    m = mf.Model(i, dense(i), name="m")
    with pytest.raises(ValueError, match=r"input 'x' of shape \(None, 5\), got \(2, 4\)"):
        m(np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"m: expected 1 inputs \(x\), got 2"):
        m([np.zeros((2, 5)), np.zeros((2, 5))])


def test_an_error_inside_a_layer_names_it_once():
    i = mf.Input((4,))

    def broken(x):
        return x if x.shape[0] != 2 else x @ mx.zeros((3, 3))

    m = mf.Model(i, layers.Lambda(broken, name="broken")(i), name="m")
    with pytest.raises(ValueError, match="matmul") as caught:
        m(np.zeros((2, 4)))
    assert caught.value.__notes__[0] == "while running layer 'broken' (Lambda)"


def test_disconnected_output_names_the_missing_input():
    a, b = mf.Input((2,), name="a"), mf.Input((2,), name="b")
    with pytest.raises(ValueError, match=r"output 'add' needs input 'b'. Add it to `inputs`"):
        mf.Model(a, layers.Add(name="add")([a, b]))
    m = mf.Model([a, b], layers.Activation("relu")(a))
    assert m([np.ones((1, 2)), np.ones((1, 2))]).shape == (1, 2)


def test_two_layers_of_one_name_are_refused():
    i = mf.Input((2,))
    y = layers.Activation("relu", name="twin")(layers.Dense(2, name="twin")(i))
    with pytest.raises(ValueError, match="'twin' for Dense and Activation"):
        mf.Model(i, y)


def test_get_layer_by_name_and_index():
    i = mf.Input((2,), name="in")
    m = mf.Model(i, layers.Dense(2, name="d")(i), name="m")
    assert m.get_layer("d") is m.get_layer(index=1)
    with pytest.raises(ValueError, match=r"name of a layer, got 'e'\. It has in, d"):
        m.get_layer("e")
    with pytest.raises(ValueError, match="index below 2, got 5"):
        m.get_layer(index=5)


def test_automatic_names_count_and_reset():
    mf.clear_session()
    names = [layers.Dense(1).name, layers.Dense(1).name, layers.Lambda(abs).name]
    assert names == ["dense", "dense_1", "lambda"]
    mf.clear_session()
    assert layers.Dense(1).name == "dense"


def test_set_weights_takes_keras_layout_and_refuses_other_shapes():
    dense = layers.Dense(2, name="d")
    dense.build((None, 3))
    kernel = np.arange(6, dtype=np.float32).reshape(3, 2)
    dense.set_weights([kernel, np.zeros(2)])
    assert dense.weight.shape == (2, 3)
    assert np.array_equal(dense.get_weights()[0], kernel)
    with pytest.raises(ValueError, match=r"d: expected weight of shape \(3, 2\), got \(2, 3\)"):
        dense.set_weights([kernel.T, np.zeros(2)])
    with pytest.raises(ValueError, match="d: expected 2 weights, got 1"):
        dense.set_weights([kernel])
