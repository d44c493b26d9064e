"""What the table cannot say: randomness, moving statistics, adapt, defaults, layouts."""

import math
import warnings

import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

L = mf.layers
X = mx.random.normal((64, 8, 8, 16), key=mx.random.key(0))


def share(condition) -> float:
    return mx.mean(condition.astype(mx.float32)).item()


def test_dropout_scales_what_it_keeps():
    y = L.Dropout(0.25)(mx.ones((100, 1000)), training=True)
    assert share(y == 0) == pytest.approx(0.25, abs=0.01)
    assert mx.all((y == 0) | (mx.abs(y - 1 / 0.75) < 1e-6)).item()


def test_dropout_of_everything():
    for layer in (L.Dropout(1.0), L.AlphaDropout(1.0)):
        assert mx.all(layer(X, training=True) == 0).item()


@pytest.mark.parametrize(
    "layer, axes",
    [
        (L.Dropout(0.5, noise_shape=(None, 1, None, 1)), (1, 3)),
        (L.SpatialDropout2D(0.5), (1, 2)),
    ],
)
def test_one_draw_serves_whole_axes(layer, axes):
    dropped = (layer(mx.ones(X.shape), training=True) == 0).astype(mx.float32)
    assert mx.array_equal(mx.min(dropped, axis=axes), mx.max(dropped, axis=axes))
    assert share(dropped) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: L.Dropout(0.5, seed=seed),
        lambda seed: L.AlphaDropout(0.5, seed=seed),
        lambda seed: L.GaussianDropout(0.5, seed=seed),
        lambda seed: L.GaussianNoise(0.5, seed=seed),
        lambda seed: L.SpatialDropout2D(0.5, seed=seed),
    ],
)
def test_a_seed_is_a_stream_of_its_own(make):
    one, other, another = make(1), make(1), make(2)
    first, second = one(X, training=True), one(X, training=True)
    mx.random.normal((3,))
    assert mx.array_equal(first, other(X, training=True))
    assert mx.array_equal(second, other(X, training=True))
    assert not mx.array_equal(first, second)
    assert not mx.array_equal(first, another(X, training=True))
    assert not one.parameters()


def test_a_seed_moves_in_a_compiled_step():
    model = mf.Sequential([mf.Input((16,)), L.Dropout(0.5, seed=3)])

    def step(x):
        return model(x, training=True)

    step = mx.compile(step, inputs=[model], outputs=[model])
    first, second = step(X[0, 0]), step(X[0, 0])
    assert not mx.array_equal(first, second)


@pytest.mark.parametrize("layer", [L.AlphaDropout(0.3), L.GaussianDropout(0.2)])
def test_noise_keeps_the_mean(layer):
    x = mx.random.normal((200, 1000), key=mx.random.key(1))
    y = layer(x, training=True)
    assert mx.mean(y).item() == pytest.approx(mx.mean(x).item(), abs=0.01)
    if isinstance(layer, L.AlphaDropout):
        assert mx.var(y).item() == pytest.approx(mx.var(x).item(), abs=0.02)
    else:
        assert mx.var(y).item() == pytest.approx(mx.var(x).item() * (1 + 0.25), abs=0.02)


def test_gaussian_noise_has_its_deviation():
    noise = L.GaussianNoise(0.5)(mx.zeros((100, 1000)), training=True)
    assert mx.std(noise).item() == pytest.approx(0.5, abs=0.01)


def test_activity_is_penalized_by_the_sample():
    layer = L.ActivityRegularization(l1=0.5, l2=0.25)
    layer(mx.array([[1.0, -2.0], [3.0, 0.0]]))
    assert sum(layer.losses).item() == pytest.approx((0.5 * 6 + 0.25 * 14) / 2)


def test_batch_statistics_move_by_the_biased_variance():
    layer = L.BatchNormalization(momentum=0.9)
    x = mx.array([[0.0], [2.0]])
    layer(x, training=True)
    assert layer.running_mean.item() == pytest.approx(0.1)
    assert layer.running_var.item() == pytest.approx(0.9 + 0.1 * 1.0)


def test_a_frozen_batch_normalization_infers():
    layer = L.BatchNormalization()
    layer(X)
    layer.trainable = False
    before = layer.get_weights()
    y = layer(X, training=True)
    assert mx.array_equal(y, layer(X))
    assert all(map(np.array_equal, before, layer.get_weights()))


def test_statistics_are_not_trained():
    layer = L.BatchNormalization()
    layer(X)
    assert set(layer.trainable_parameters()) == {"weight", "bias"}
    assert [w.shape for w in layer.get_weights()] == [(16,)] * 4


def test_masked_steps_leave_batch_statistics_alone():
    layer, plain = L.BatchNormalization(momentum=0.0), L.BatchNormalization(momentum=0.0)
    x = mx.random.normal((4, 5, 3), key=mx.random.key(2))
    mask = mx.arange(5)[None] < mx.array([5, 3, 1, 2])[:, None]
    layer(mx.where(mask[..., None], x, 1e3), mask=mask, training=True)
    valid = mx.array(np.array(x)[np.array(mask)])
    plain(valid, training=True)
    for ours, theirs in zip(layer.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


DATA = np.random.default_rng(0).normal(100, 3, (50, 4, 3)).astype("float32")


def test_a_mask_of_steps_counts_for_all_their_positions():
    x = mx.random.normal((3, 5, 2, 4))
    mask = mx.array([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 1, 1, 1, 1]], dtype=mx.bool_)
    layers = [L.BatchNormalization(momentum=0.5) for _ in range(2)]
    layers[0](x, training=True, mask=mask)
    layers[1](x, training=True, mask=mx.repeat(mask[..., None], 2, axis=2))
    for a, b in zip(layers[0].get_weights(), layers[1].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("axis", [-1, 1, (1, 2), None])
@pytest.mark.parametrize("batches", [1, 7])
def test_normalization_adapts(axis, batches):
    layer = L.Normalization(axis=axis)
    data = DATA if batches == 1 else np.array_split(DATA, batches)
    layer.adapt(data)
    kept = () if axis is None else tuple(np.atleast_1d(axis) % 3)
    rest = tuple(k for k in range(3) if k not in kept)
    expected = (DATA - DATA.mean(rest, keepdims=True)) / DATA.std(rest, keepdims=True)
    np.testing.assert_allclose(np.array(layer(DATA)), expected, atol=2e-4)
    back = L.Normalization(axis=axis, invert=True)
    back.adapt(data)
    np.testing.assert_allclose(np.array(back(layer(DATA))), DATA, rtol=1e-5)


def test_normalization_adapts_again_and_keeps_its_model():
    layer = L.Normalization()
    model = mf.Sequential([mf.Input((2,)), layer])
    layer.adapt(np.array([[0.0, 0.0], [2.0, 4.0]]))
    np.testing.assert_allclose(np.array(model(mx.array([[2.0, 4.0]]))), [[1, 1]], atol=1e-6)
    assert [w.shape for w in layer.get_weights()] == [(2,), (2,), ()]
    assert not model.trainable_weights


def test_weights_have_mlx_layouts():
    for layer, twin in (
        (L.Conv1D(4, 3), nn.Conv1d(16, 4, 3)),
        (L.Conv2D(4, (3, 2), groups=2), nn.Conv2d(16, 4, (3, 2), groups=2)),
        (L.Conv2DTranspose(4, 3), nn.ConvTranspose2d(16, 4, 3)),
        (L.DepthwiseConv2D(3), nn.Conv2d(16, 16, 3, groups=16)),
        (L.BatchNormalization(), nn.BatchNorm(16)),
        (L.LayerNormalization(), nn.LayerNorm(16)),
        (L.RMSNormalization(), nn.RMSNorm(16)),
    ):
        layer(X[:, 0] if isinstance(layer, L.Conv1D) else X)
        ours, theirs = layer.parameters(), twin.parameters()
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    layer = L.MultiHeadAttention(4, 4, use_bias=False)
    layer(X[:, 0], X[:, 0])
    twin = nn.MultiHeadAttention(16, 4)
    layer.update(twin.parameters())
    x = X[:, 0]
    np.testing.assert_allclose(np.array(layer(x, x)), np.array(twin(x, x, x)), atol=1e-6)


def test_projections_count_their_own_fans():
    layer = L.MultiHeadAttention(8, 32)
    layer(mx.zeros((1, 2, 64)), mx.zeros((1, 2, 64)))
    limit = math.sqrt(6 / (64 + 8 * 32))
    for weight in (layer.query_proj.weight, layer.out_proj.weight):
        assert 0.9 * limit < mx.max(mx.abs(weight)).item() <= limit


def test_defaults_are_those_of_keras():
    assert (L.BatchNormalization().momentum, L.BatchNormalization().epsilon) == (0.99, 1e-3)
    assert (L.LayerNormalization().epsilon, L.RMSNormalization().epsilon) == (1e-3, 1e-6)
    assert (L.GroupNormalization().groups, L.GroupNormalization().epsilon) == (32, 1e-3)
    assert (L.LeakyReLU().negative_slope, L.ELU().alpha) == (0.3, 1.0)
    assert L.MaxPooling2D((3, 2)).strides == (3, 2)


def test_same_pads_more_after():
    layer = L.MaxPooling1D(3, 2, "same")
    assert layer.pads((1, 4, 1)) == [(0, 1)]
    assert L.Conv1D(1, 3, 2, "same").pads((1, 4, 1)) == [(0, 1)]


@pytest.mark.parametrize(
    "options, size",
    [
        (dict(padding="same"), 10),
        (dict(padding="same", output_padding=0), 9),
        (dict(), 11),
        (dict(kernel_size=1), 10),
    ],
)
def test_transposed_sizes(options, size):
    layer = L.Conv2DTranspose(1, **({"kernel_size": 3} | options), strides=2)
    assert layer(mf.Input((5, 5, 1))).shape == (None, size, size, 1)


def test_a_dynamic_size_may_be_cut_into_groups():
    layer = L.Reshape((-1, 3, 2))
    assert layer(mf.Input((None, 2))).shape == (None, None, 3, 2)
    assert layer(mx.zeros((2, 9, 2))).shape == (2, 3, 3, 2)


def test_aliases_are_the_classes():
    assert L.MaxPool2D is L.MaxPooling2D
    assert L.AvgPool3D is L.AveragePooling3D
    assert L.GlobalAvgPool1D is L.GlobalAveragePooling1D
    assert L.GlobalMaxPool3D is L.GlobalMaxPooling3D


def test_a_causal_output_sees_no_later_input():
    x = mx.random.normal((1, 6, 4), key=mx.random.key(3))
    later = mx.where(mx.arange(6)[:, None] < 3, x, 9.0)
    for layer, call in (
        (L.Conv1D(2, 3, padding="causal", dilation_rate=2), lambda f, x: f(x)),
        (L.MultiHeadAttention(2, 2), lambda f, x: f(x, x, use_causal_mask=True)),
        (L.Attention(), lambda f, x: f([x, x], use_causal_mask=True)),
    ):
        a, b = call(layer, x), call(layer, later)
        assert mx.allclose(a[:, :3], b[:, :3], atol=1e-6)
        assert not mx.allclose(a[:, 3:], b[:, 3:], atol=1e-3)


def test_a_query_without_keys_gives_no_nan():
    x, nothing = X[:2, 0], mx.zeros((2, 8), dtype=mx.bool_)
    attention, heads = L.Attention(), L.MultiHeadAttention(2, 4)
    for y in (
        attention([x, x], mask=[None, nothing]),
        heads(x, x, value_mask=nothing),
        *heads(x, x, value_mask=nothing, return_attention_scores=True),
    ):
        assert mx.all(mx.isfinite(y)).item()


def test_attention_carries_the_mask_of_its_query():
    ids = mf.Input((6,), dtype="int32")
    x = L.Embedding(5, 4, mask_zero=True)(ids)
    y = L.MultiHeadAttention(2, 2)(x, x)
    assert y.mask is not None
    assert L.Attention()([x, x]).mask is not None
    model = mf.Model(ids, L.GlobalAveragePooling1D()(y))
    a = model(mx.array([[1, 2, 3, 0, 0, 0]]))
    b = model(mx.array([[1, 2, 3, 0, 0, 0], [4, 4, 4, 4, 4, 4]]))[:1]
    assert mx.allclose(a, b, atol=1e-6)


def test_attention_masks_reach_single_heads():
    x = X[:2, 0]
    mask = mx.random.uniform(shape=(2, 4, 8, 8), key=mx.random.key(4)) < 0.7
    mask = mask | mx.eye(8).astype(mx.bool_)
    layer = L.MultiHeadAttention(4, 4)
    _, scores = layer(x, x, attention_mask=mask, return_attention_scores=True)
    assert mx.array_equal(scores > 0, mask)
    np.testing.assert_allclose(
        np.array(layer(x, x, attention_mask=mask)),
        np.array(layer(x, x, attention_mask=mask, return_attention_scores=True)[0]),
        atol=1e-6,
    )


def test_attention_dropout_only_trains():
    x = X[:2, 0]
    for layer, call in (
        (L.MultiHeadAttention(2, 4, dropout=0.5, seed=1), lambda f, **o: f(x, x, **o)),
        (L.Attention(dropout=0.5, seed=1), lambda f, **o: f([x, x], **o)),
    ):
        assert mx.array_equal(call(layer), call(layer))
        assert not mx.allclose(call(layer), call(layer, training=True))


def test_half_precision_stays_half():
    for layer in (L.BatchNormalization(), L.LayerNormalization(), L.GroupNormalization(4)):
        assert layer(X.astype(mx.float16)).dtype == mx.float16
    x = X[:2, 0].astype(mx.float16)
    mask = mx.zeros((2, 8), dtype=mx.bool_)
    layer = L.MultiHeadAttention(2, 4, dtype="float16")
    assert mx.all(mx.isfinite(layer(x, x, value_mask=mask))).item()


def test_embedding_starts_from_weights(tmp_path):
    table = np.arange(10.0, dtype="float32").reshape(5, 2)
    model = mf.Sequential([mf.Input((3,), dtype="int32"), L.Embedding(5, 2, weights=[table])])
    ids = np.array([[0, 4, 2]])
    np.testing.assert_array_equal(model(ids), table[ids])
    model.save(tmp_path / "m.mlxfunc")
    loaded = mf.models.load_model(tmp_path / "m.mlxfunc")
    np.testing.assert_array_equal(loaded(ids), table[ids])
    with pytest.raises(ValueError, match=r"expected weight of shape \(5, 2\), got \(5, 3\)"):
        L.Embedding(5, 2, weights=[np.ones((5, 3))])(ids)


def test_a_mask_that_ends_is_said():
    x = L.Masking()(mf.Input((4, 3)))
    with pytest.warns(UserWarning, match="conv: the mask of its input ends here, as Conv") as said:
        y = L.Conv1D(2, 2, name="conv")(x)
    assert [w.filename for w in said] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        L.Conv1D(2, 2)(y)  # has none to lose
        L.Dense(2)(x)
        assert (x * 2).mask is None


def test_a_mask_that_ends_in_an_inner_model_is_said_when_it_comes():
    i = mf.Input((4, 3))
    inner = mf.Model(i, L.Flatten(name="flat")(i))
    with pytest.warns(UserWarning, match="flat: the mask of its input ends here, as Flatten"):
        inner(L.Masking()(mf.Input((4, 3))))


@pytest.mark.filterwarnings("error")
def test_a_layer_that_knows_masks_says_nothing():
    class Own(L.Layer):
        def call(self, inputs):
            return inputs

        def compute_mask(self, inputs, mask=None):
            return None

    class Flag(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.supports_masking = True

        def call(self, inputs):
            return inputs

    x = L.Masking()(mf.Input((4, 3)))
    assert Own()(x).mask is None
    assert Flag()(x).mask.shape == (None, 4)
    assert L.Lambda(lambda x: x, mask=lambda x, mask: mask)(x).mask is not None


@pytest.mark.parametrize("make", [L.LayerNormalization, L.RMSNormalization, L.Normalization])
def test_axes_from_the_end_are_there_at_every_rank(make):
    layer = make()
    x = mx.random.normal((2, 4, 3), key=mx.random.key(1))
    flat, deep = layer(x), layer(x[:, None])
    np.testing.assert_allclose(np.array(deep[:, 0]), np.array(flat), atol=1e-6)
    with pytest.raises(ValueError, match="expected size 3 on axis -1"):
        layer(mx.zeros((2, 4, 5)))


def test_axes_from_the_front_need_their_rank():
    layer = L.LayerNormalization(axis=2)
    layer(mx.zeros((2, 4, 3)))
    layer(mx.zeros((2, 4, 3, 5)))
    with pytest.raises(ValueError, match="expected an input of rank 3 or more"):
        layer(mx.zeros((2, 3)))


def test_attributes_are_there_without_a_weight():
    for layer in (L.Dense(2, use_bias=False), L.Conv1D(2, 2, use_bias=False)):
        layer(mx.zeros((2, 4, 3)))
        assert layer.bias is None
        assert len(layer.weights) == 1


def test_an_embedding_needs_no_shape_to_be_built():
    layer = L.Embedding(3, 2)
    layer.build()
    assert layer.built
    assert layer.get_weights()[0].shape == (3, 2)


def test_a_first_layer_that_reads_ids_gets_integers():
    class Own(L.Embedding):
        pass

    for layer in (Own(5, 3, input_shape=(4,)), L.TimeDistributed(Own(5, 3), input_shape=(2, 4))):
        assert mf.Sequential([layer]).inputs[0].dtype == mx.int32


def test_a_frozen_layer_freezes_what_its_first_call_builds():
    class Block(L.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = L.Dense(2)

        def call(self, inputs):
            return self.dense(inputs)

    layer = Block(trainable=False)
    layer(mx.zeros((1, 3)))
    assert not layer.trainable_weights
    layer.dense.unfreeze()
    layer(mx.zeros((1, 3)))
    assert len(layer.trainable_weights) == 2
