"""Corners of layers and models: composites, flags, freezing, masks inside, names, misuse."""

import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlxfunc import layers, models, ops

from cases import CASES

ONES = np.ones((50, 4), np.float32)


def dropped(y):
    return mx.any(y == 0).item()


class Block(layers.Layer):
    """Layers and plain modules inside, made in `__init__`, in a list; flags are not passed on."""

    def __init__(self, units=4, rate=0.5, **kwargs):
        super().__init__(**kwargs)
        self.units, self.rate = units, rate
        self.parts = [layers.Dense(units), layers.Dropout(rate)]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


class Plain(Block):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [nn.Linear(4, 4), {"drop": nn.Dropout(0.5)}]

    def call(self, x):
        return self.parts[1]["drop"](self.parts[0](x))


@pytest.mark.parametrize("kind", [Block, Plain])
def test_what_a_layer_calls_trains_with_it(kind):
    x = mf.Input((4,))
    model = mf.Model(x, kind()(x))
    assert not dropped(model(ONES))
    assert dropped(model(ONES, training=True))
    assert not dropped(model(ONES))
    model.train()
    assert dropped(model(ONES))
    model.eval()
    model.compile("sgd", "mse")
    model.fit(ONES, ONES, verbose=0)
    assert not dropped(model(ONES))


@pytest.mark.parametrize("training", [True, False])
def test_training_given_where_a_layer_is_called(training):
    x = mf.Input((4,))
    inside = mf.Model(x, layers.Dropout(0.5)(x))
    for layer in (layers.Dropout(0.5), inside, Block()):
        model = mf.Model(x, layer(x, training=training))
        twin = models.clone_model(model)
        for flag in (True, False):
            assert dropped(model(ONES, training=flag)) == training
            assert dropped(twin(ONES, training=flag)) == training


@pytest.mark.parametrize("kind", [Block, Plain])
def test_a_composite_that_is_not_trained_freezes_what_it_builds(kind):
    x = mf.Input((4,))
    drawn, called = kind(trainable=False), kind(trainable=False)
    model = mf.Model(x, drawn(x))
    called(ONES)
    assert (len(model.weights), len(model.trainable_weights)) == (2, 0)
    assert (len(called.weights), len(called.trainable_weights)) == (2, 0)
    drawn.trainable = True
    assert len(model.trainable_weights) == 2


def test_freezing_before_and_after_build_and_after_nesting():
    dense, norm = layers.Dense(3), layers.BatchNormalization()
    dense.trainable = False
    x = mf.Input((4,))
    inner = mf.Model(x, norm(dense(x)))
    assert len(inner.trainable_weights) == 2
    outer = mf.Model(x, inner(x))
    norm.trainable = False
    assert (len(outer.trainable_weights), len(outer.non_trainable_weights)) == (0, 6)
    inner.trainable = True
    assert (len(outer.trainable_weights), len(outer.non_trainable_weights)) == (4, 2)
    outer.unfreeze()
    assert len(outer.trainable_weights) == 4
    late = mf.Sequential([layers.Dense(3), layers.BatchNormalization()])
    late.trainable = False
    late(ONES)
    assert (len(late.weights), len(late.trainable_weights)) == (6, 0)


def test_a_frozen_normalization_keeps_its_statistics_in_training():
    norm = layers.BatchNormalization()
    model = mf.Sequential([mf.Input((4,)), norm])
    x = np.random.default_rng(0).normal(3, 2, size=(50, 4)).astype(np.float32)
    norm.trainable = False
    before = [np.array(w) for w in norm.weights]
    assert mx.array_equal(model(x, training=True), model(x))
    assert all(map(np.array_equal, before, map(np.array, norm.weights)))
    norm.trainable = True
    model(x, training=True)
    assert not np.array_equal(before[2], np.array(norm.weights[2]))


def test_a_partly_frozen_model_comes_back_partly_frozen():
    model = mf.Sequential([mf.Input((4,)), layers.Dense(3), layers.Dense(2)])
    model.trainable = False
    model.layers[-1].trainable = True
    twin = models.clone_model(model)
    assert [layer.trainable for layer in twin.layers] == [False, True]
    assert (twin.trainable, len(twin.trainable_weights)) == (False, 2)


def test_one_set_of_weights_in_time_and_alone():
    dense = layers.Dense(3)
    steps, x = mf.Input((5, 4)), mf.Input((4,))
    model = mf.Model([steps, x], [layers.TimeDistributed(dense)(steps), dense(x)])
    twin = models.clone_model(model)
    assert len(model.weights) == len(twin.weights) == 2
    assert model.count_params() == 15


NAMES = sorted({name for name in dir(mf.Sequential()) if not name.startswith("_")} | {
    "optimizer", "history", "loss", "compiled", "stop_training", "name", "dtype", "built", "items",
})  # fmt: skip


def test_a_layer_may_have_any_name(tmp_path):
    x = h = mf.Input((4,))
    for name in NAMES:
        h = layers.Dense(4, name=name)(h)
    model = mf.Model(x, h)
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(ONES, ONES, verbose=0)
    assert len(model.get_weights()) == 2 * len(NAMES)
    model.save(tmp_path / "m.mlxfunc")
    loaded = mf.saving.load_model(tmp_path / "m.mlxfunc")
    assert mx.array_equal(loaded(ONES), model(ONES))
    assert [layer.name for layer in loaded.layers[1:]] == NAMES


class Mixed(layers.Layer):
    """Several arguments with shapes of their own, a dict, an option; several outputs in a dict."""

    def build(self, a_shape, b_shape):
        self.add_weight((a_shape[-1], b_shape[-1]), name="kernel")

    def call(self, a, b, *, table, scale=1.0):
        product = a @ self.kernel * scale
        return {"sum": product + b, "pair": (product, [table["t"][0] - b])}


def test_arguments_and_results_of_any_structure():
    a, b, c = mf.Input((4,), name="a"), mf.Input((3,), name="b"), mf.Input((3,), name="c")
    y = Mixed()(a, b=b, table={"t": [c, None]}, scale=2.0)
    assert y["sum"].shape == y["pair"][1][0].shape == (None, 3)
    model = mf.Model({"a": a, "b": b, "c": c}, y)
    twin = models.clone_model(model)
    twin.set_weights(model.get_weights())
    x = {"c": ONES[:, :3] * 5, "b": ONES[:, :3], "a": ONES}
    for m in (model, twin):
        result = m(x)
        assert isinstance(result["pair"], tuple)
        assert mx.array_equal(result["pair"][1][0], mx.full((50, 3), 4.0))
        assert mx.array_equal(result["sum"], model(x)["sum"])


def test_a_clone_takes_functions_and_classes_as_they_are():
    x = mf.Input((4,))
    scaled = layers.Lambda(lambda v, by, training=False: v * by, arguments={"by": 3})
    model = mf.Model(x, scaled(Block(rate=0.1)(layers.Dense(4, activation=lambda v: v + 1)(x))))
    twin = models.clone_model(model)
    twin.set_weights(model.get_weights())
    assert mx.array_equal(model(ONES), twin(ONES))


def test_masks_reach_into_models_and_their_copies(tmp_path):
    words = mf.Input((6,), dtype="int32")
    inner = mf.Sequential([layers.Dense(4), layers.LSTM(3)], name="inner")
    masked = layers.Embedding(9, 4, mask_zero=True)(words)
    model = mf.Model(words, layers.add([inner(masked), inner(layers.Embedding(9, 4)(words))]))
    padded = np.array([[3, 1, 0, 0, 0, 0], [0, 2, 0, 5, 0, 1]], np.int32)
    embedded = model.layers[1](padded)
    alone = inner(embedded, mask=padded != 0)
    assert not mx.allclose(alone, inner(embedded))
    assert mx.allclose(model.run(padded)[0] - inner(model.layers[2](padded)), alone, atol=1e-6)
    assert len(inner._nodes) == 2
    model.save(tmp_path / "m.mlxfunc")
    assert mx.array_equal(mf.saving.load_model(tmp_path / "m.mlxfunc")(padded), model(padded))
    model.export(tmp_path / "m.onnx")


def test_a_mask_is_a_tensor_like_others():
    words = mf.Input((3,), dtype="int32")
    h = layers.Embedding(9, 4, mask_zero=True)(words)
    model = mf.Model(words, [ops.sum(h.mask, axis=1), h.mask])
    twin = mf.Model.from_config(model.get_config())
    count, mask = twin(np.array([[1, 0, 2]]))
    assert count.tolist() == [2]
    assert mask.tolist() == [[True, False, True]]


def test_more_operators():
    x, flags = mf.Input((4,)), mf.Input((4,), dtype="bool")
    made = [x != 1, flags ^ True, True | flags, False & flags, round(x), x.reshape((-1, 2, 2))]
    values = [mx.array([[1.0, 2.4, 0.6, 1.0]]), mx.array([[True, False, True, False]])]
    got = mf.Model([x, flags], made)(values)
    assert [y.tolist() for y in got] == [
        [[False, True, True, False]], [[False, True, False, True]], [[True] * 4], [[False] * 4],
        [[1, 2, 1, 1]], [[[1, pytest.approx(2.4)], [pytest.approx(0.6), 1]]],
    ]  # fmt: skip


def test_one_layer_twice_in_a_sequential():
    dense = layers.Dense(4)
    model = mf.Sequential([mf.Input((4,)), dense, dense])
    assert (len(model.layers), len(model.weights)) == (2, 2)
    twin = mf.Sequential.from_config(model.get_config())
    assert twin.layers[0] is twin.layers[1]
    assert model.pop() is dense
    assert mx.array_equal(model(ONES), dense(ONES))


def test_the_batch_of_an_input_binds_stateful_layers_only():
    x = mf.Input((4,), batch_size=7)
    assert mf.Model(x, layers.Dense(1)(x))(ONES).shape == (50, 1)
    steps = mf.Input((3, 4), batch_size=2)
    model = mf.Model(steps, layers.LSTM(2, stateful=True, name="state")(steps))
    with pytest.raises(ValueError, match="state: .* keeps the batch it was built for"):
        model(np.ones((5, 3, 4)))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_config_of_a_model_of_each_row(case):
    model = case.model()
    assert mf.Model.from_config(model.get_config()).get_config() == model.get_config()


def once(make):
    x = mf.Input((4,), name="x")
    return make(x, layers.Dense(2, name="d"))


BAD = [
    (lambda x, d: mf.Model(x, d, name="m"), TypeError, "m: expected outputs .* got Dense"),
    (lambda x, d: mf.Model(x, [d(x), layers.Dense(1)]), TypeError, "symbolic tensors, got Dense"),
    (lambda x, d: mf.Model(x, []), ValueError, "expected outputs, got none"),
    (lambda x, d: mf.Model([], d(x)), ValueError, "expected inputs, got none"),
    (lambda x, d: mf.Model([x, x], d(x)), ValueError, "each input once, got one twice"),
    (lambda x, d: mf.Model(ONES, d(x)), TypeError, "inputs made of symbolic tensors, got ndarray"),
    (lambda x, d: mf.Sequential(name="s")(ONES), ValueError, "s: expected layers, got an empty"),
    (lambda x, d: mf.Sequential([None], name="s"), TypeError, "s: expected a Layer, got None"),
    (lambda x, d: d(d), TypeError, "d: expected arrays or symbolic tensors, got Dense"),
    (lambda x, d: d("x"), TypeError, "d: expected arrays or symbolic tensors, got str"),
    (lambda x, d: d(None), TypeError, "d: expected arrays or symbolic tensors, got NoneType"),
    (lambda x, d: d(), TypeError, "d: expected arrays or symbolic tensors, got nothing"),
    (lambda x, d: d(x, other=1), TypeError, "unexpected keyword argument 'other'"),
    (lambda x, d: (d(x), d(mf.Input((3,)))), ValueError, r"d: expected size 4 .* \(None, 3\)"),
    (lambda x, d: mf.Model(x, d(x), name="m")(mf.Input((3,))), ValueError, r"m: .*\(None, 3\)"),
    (lambda x, d: d.count_params(), ValueError, "d: expected a layer with its weights made"),
    (lambda x, d: d.set_weights([ONES]), ValueError, "Build the layer"),
    (lambda x, d: mf.Model(x, d(x)).set_weights([]), ValueError, "expected 2 weights, got 0"),
    (lambda x, d: np.mean(x), TypeError, "x: a symbolic tensor has no values for NumPy"),
    (lambda x, d: len(x), TypeError, "x: a symbolic tensor has no length"),
    (lambda x, d: mf.Model.from_config({"name": "m"}), ValueError, "from_config: expected what"),
    (lambda x, d: layers.Lambda(lambda v: None, name="l")(x), TypeError, "l: .* got NoneType"),
    (lambda x, d: mf.Model(x, d(x)).get_layer(), ValueError, "either a name or an index"),
    (lambda x, d: layers.Dense(1, name=3), ValueError, "name: expected a name .* got 3"),
]  # fmt: skip


@pytest.mark.parametrize("make, kind, message", BAD, ids=[row[2][:40] for row in BAD])
def test_misuse_is_refused_by_name(make, kind, message):
    with pytest.raises(kind, match=message):
        once(make)


def test_an_error_while_drawing_says_on_what():
    with pytest.raises(ValueError) as caught:
        _ = mf.Input((2,)) + mf.Input((3,))
    assert "on symbolic tensors of shape (None, 2) and (None, 3)" in caught.value.__notes__


def test_training_given_in_the_graph_holds_in_fit():
    x = mf.Input((4,))
    norm = layers.BatchNormalization()
    model = mf.Model(x, layers.Dense(1)(norm(x, training=False)))
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 4)), np.ones((8, 1)), verbose=0)
    assert mx.array_equal(norm.running_mean, mx.zeros(4))
