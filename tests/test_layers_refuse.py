"""What layers refuse, as Keras does: the layer's name, what was expected, what came, the fix."""

import mlxfunc as mf
import mlx.core as mx
import numpy as np
import pytest

L = mf.layers


def shaped(*shape):
    return mf.Input(shape)


CONSTRUCTION = [
    (lambda: L.Dense(-1), "dense: expected units to be a positive integer, got -1"),
    (lambda: L.Dense(0), "units to be a positive integer, got 0"),
    (lambda: L.Dense(2.5), "units to be a positive integer, got 2.5"),
    (lambda: L.Dense(3, kernel_size=2), "dense: unknown argument 'kernel_size'"),
    (lambda: L.Dense(3, activation="rleu"), "unknown activation 'rleu'.*Did you mean 'relu'"),
    (lambda: L.Embedding(0, 3), "embedding: expected input_dim to be a positive integer, got 0"),
    (lambda: L.Conv2D(0, 3), "conv2d: expected filters to be a positive integer, got 0"),
    (lambda: L.Conv2D(4, 0), "conv2d: expected kernel_size to be a positive integer, got 0"),
    (lambda: L.Conv2D(4, (3, 3, 3)), "kernel_size to be an integer or 2 of them, got"),
    (lambda: L.Conv2D(4, 3, strides=0), "strides to be a positive integer, got 0"),
    (lambda: L.Conv2D(4, 3, padding="full"), "padding to be one of valid, same, got 'full'"),
    (lambda: L.Conv2D(4, 3, padding="causal"), "padding to be one of valid, same, got 'causal'"),
    (
        lambda: L.Conv2D(4, 3, strides=2, dilation_rate=2),
        r"strides or dilation_rate to be 1, got strides \(2, 2\) and dilation_rate \(2, 2\)",
    ),
    (lambda: L.Conv2D(3, 3, groups=2), "filters to be a multiple of groups, got filters 3"),
    (lambda: L.Conv2D(4, 3, groups=0), "groups to be a positive integer, got 0"),
    (
        lambda: L.Conv2D(4, 3, data_format="channels_first"),
        "conv2d: expected data_format 'channels_last', got 'channels_first'. MLX is channels-last",
    ),
    (lambda: L.MaxPool2D(data_format="channels_first"), "max_pooling2d: expected data_format"),
    (lambda: L.Flatten(data_format="channels_first"), "flatten: expected data_format"),
    (
        lambda: L.Conv2DTranspose(4, 3, 2, output_padding=2),
        r"output_padding below strides \(2, 2\), got 2",
    ),
    (lambda: L.DepthwiseConv2D(3, depth_multiplier=0), "depth_multiplier to be a positive"),
    (lambda: L.SeparableConv2D(-2, 3), "separable_conv2d: expected filters to be a positive"),
    (lambda: L.MaxPooling2D(0), "max_pooling2d: expected pool_size to be a positive"),
    (lambda: L.AveragePooling1D(2, padding="some"), "average_pooling1d: expected padding"),
    (lambda: L.Dropout(1.5), "dropout: expected rate between 0 and 1, got 1.5"),
    (lambda: L.Dropout(-0.1), "dropout: expected rate between 0 and 1, got -0.1"),
    (lambda: L.Dropout(0.5, noise_shape=(0, 2)), "noise_shape of positive integers or None"),
    (lambda: L.GaussianNoise(2.0), "gaussian_noise: expected stddev between 0 and 1, got 2.0"),
    (lambda: L.GaussianDropout(1), "gaussian_dropout: expected rate below 1, got 1"),
    (lambda: L.SpatialDropout2D(3), "spatial_dropout2d: expected rate between 0 and 1, got 3"),
    (lambda: L.Reshape((-1, -1)), r"at most one of them -1, got \(-1, -1\)"),
    (
        lambda: L.Permute((0, 1)),
        r"permute: expected dims to hold each of 1 to 2 once, got \(0, 1\)",
    ),
    (lambda: L.RepeatVector(0), "repeat_vector: expected n to be a positive integer, got 0"),
    (lambda: L.UpSampling2D(interpolation="cubic"), "interpolation 'nearest' or 'bilinear', got"),
    (lambda: L.UpSampling1D(0), "up_sampling1d: expected size to be a positive integer, got 0"),
    (lambda: L.ZeroPadding2D(-1), "zero_padding2d: expected padding to be a number of at least 0"),
    (lambda: L.Cropping2D((1, 2, 3)), "cropping2d: expected cropping to be .* or 2 pairs"),
    (lambda: L.Cropping1D(((1, 1), (1, 1))), "cropping1d: expected cropping to be .* or a pair"),
    (lambda: L.ReLU(max_value=-1), "re_lu: expected max_value of at least 0, got -1"),
    (lambda: L.LeakyReLU(-0.1), "leaky_re_lu: expected negative_slope of at least 0, got -0.1"),
    (lambda: L.GroupNormalization(0), "groups to be a positive integer or -1, got 0"),
    (lambda: L.Attention(score_mode="cosine"), "score_mode 'dot' or 'concat', got 'cosine'"),
    (lambda: L.MultiHeadAttention(0, 4), "num_heads to be a positive integer, got 0"),
    (lambda: L.MultiHeadAttention(2, 4, sliding_window=0), "sliding_window to be a positive"),
    (lambda: L.Normalization(mean=1.0), "normalization: expected mean and variance of one shape"),
    (lambda: L.EinsumDense("ab->c", 3), "einsum_dense: expected an equation such as"),
]

CALLS = [
    (lambda: L.Dense(3)(mf.Input(())), "dense: expected an input of rank 2 or more"),
    (lambda: L.Dense(3)(shaped(None)), "dense: expected a known size on axis -1"),
    (lambda: L.Conv2D(3, 3)(shaped(8, 8)), "conv2d: expected an input of rank 4, got shape"),
    (lambda: L.Conv2D(3, 3)(shaped(8, 8, None)), "conv2d: expected a known size on axis -1"),
    (
        lambda: L.Conv2D(3, 5)(shaped(4, 8, 1)),
        r"conv2d: expected spatial sizes of \(5, 5\) or more, got shape \(None, 4, 8, 1\)",
    ),
    (lambda: L.Conv2D(4, 3, groups=2)(shaped(8, 8, 3)), "channels that are a multiple of groups 2"),
    (lambda: L.MaxPool2D(3)(shaped(2, 8, 1)), r"max_pooling2d: expected spatial sizes of \(3, 3\)"),
    (lambda: L.GlobalMaxPool2D()(shaped(2, 8)), "expected an input of rank 4"),
    (lambda: L.BatchNormalization(axis=3)(shaped(4)), "expected an axis from -2 to 1, got 3"),
    (lambda: L.LayerNormalization(axis=-4)(shaped(4)), "expected an axis from -2 to 1, got -4"),
    (lambda: L.UnitNormalization(axis=2)(shaped(4)), "expected an axis from -2 to 1, got 2"),
    (lambda: L.BatchNormalization()(shaped(4, None)), "expected a known size on axis 2"),
    (lambda: L.GroupNormalization(4)(shaped(4, 6)), "channels that are a multiple of groups 4"),
    (lambda: L.Softmax(axis=5)(shaped(4)), "softmax: expected an axis from -2 to 1, got 5"),
    (lambda: L.PReLU(shared_axes=[0])(shaped(4)), "shared_axes after the batch"),
    (lambda: L.Reshape((5,))(shaped(2, 3)), r"multiply to those of target_shape \(5,\), got shape"),
    (lambda: L.Permute((2, 1))(shaped(2)), "permute: expected an input of rank 3"),
    (lambda: L.Cropping1D(2)(shaped(4, 1)), r"spatial sizes above what is cropped, \(\(2, 2\),\)"),
    (lambda: L.Add()([shaped(3), shaped(4)]), r"add: expected shapes that broadcast, got .*3.*4"),
    (lambda: L.Add()(shaped(3)), "add: expected a list of inputs"),
    (lambda: L.Subtract()([shaped(3)] * 3), "subtract: expected exactly 2 inputs, got 3"),
    (lambda: L.Concatenate(axis=4)([shaped(3), shaped(4)]), "concatenate: expected inputs of one"),
    (lambda: L.Concatenate(axis=1)([shaped(3, 2), shaped(4, 3)]), "equal sizes but on axis 1"),
    (lambda: L.Dot(axes=1)([shaped(3), shaped(4)]), "dot: expected equal sizes on axes 1 and 1"),
    (lambda: L.Attention()(shaped(3, 2)), r"attention: expected \[query, value\]"),
    (lambda: L.Attention()([shaped(3, 2)] * 4), r"attention: expected \[query, value\].*4 inputs"),
    *(
        (
            lambda kind=kind: getattr(L, kind)()([shaped(6), shaped(6)]),
            r"attention: expected query \(batch, queries, d\).*got \(None, 6\) and \(None, 6\)",
        )
        for kind in ("Attention", "AdditiveAttention")
    ),
    *(
        (
            lambda axes=axes: L.MultiHeadAttention(2, 3, attention_axes=axes)(
                *[shaped(4, 5, 6)] * 2
            ),
            "expected attention_axes between the batch and the features of an input of rank 4",
        )
        for axes in (0, 3, -1, -4, (1, 1), (1, -3))
    ),
    (
        lambda: L.MultiHeadAttention(2, 3, attention_axes=1)(shaped(4, 5, 6), shaped(4, 3, 6)),
        r"expected query and value of equal sizes on the axes \[2\]",
    ),
    (
        lambda: L.MultiHeadAttention(2, 3)(*[shaped(4, 5, 6)] * 2, use_causal_mask=True),
        r"expected one attention axis for a causal mask or a sliding window, got \(1, 2\)",
    ),
    (
        lambda: L.MultiHeadAttention(2, 3)(shaped(4, 5, 6), shaped(4, 6)),
        "multi_head_attention: expected query",
    ),
    (
        lambda: L.MultiHeadAttention(2, 3)(*[shaped(4, 5, 6)] * 2, attention_mask=shaped(3, 3)),
        r"expected a mask of shape \(3, 4, 5, 4, 5\), got \(3, 3, 3\)",
    ),
    (
        lambda: L.MultiHeadAttention(2, 3)(shaped(4, 5, 6), shaped(4, 5, 6), shaped(4, 5)),
        "multi_head_attention: expected query",
    ),
    (
        lambda: L.MultiHeadAttention(2, 3)(shaped(4, 6), shaped(5, 6), shaped(4, 6)),
        "multi_head_attention: expected query .* Value and key have equal sizes but the last",
    ),
    (lambda: L.MultiHeadAttention(2, 3)(shaped(6), shaped(6)), "multi_head_attention: expected qu"),
    (lambda: L.Normalization()(shaped(4, None)), "normalization: expected a known size"),
    (lambda: L.Normalization(7)(shaped(4)), "normalization: expected an axis from -2 to 1, got 7"),
    (
        lambda: L.Normalization(mean=[1.0, 2.0], variance=[1.0, 2.0])(shaped(3)),
        r"mean and variance that broadcast to \(3,\)",
    ),
    (
        lambda: L.EinsumDense("ab,bc->ac", (3, 4))(shaped(2)),
        "einsum_dense: expected output_shape with 1 sizes",
    ),
    (
        lambda: L.EinsumDense("abc,cd->abd", (5, 4))(shaped(6, 3)),
        "einsum_dense: expected size 6 for 'b'",
    ),
    (lambda: L.EinsumDense("ab,bc->ad", 4)(shaped(3)), "einsum_dense: expected a known size for"),
]


@pytest.mark.parametrize("make, message", CONSTRUCTION)
def test_wrong_arguments(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize("call, message", CALLS)
def test_wrong_inputs(call, message):
    with pytest.raises(ValueError, match=message):
        call()


X = mx.zeros((2, 4, 6))


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda m: L.GlobalAveragePooling1D()(X, mask=m),
            r"global_average_pooling1d: expected a mask of shape \(2, 4\), got \(2, 3\)",
        ),
        (
            lambda m: L.BatchNormalization()(X, mask=m, training=True),
            r"batch_normalization: expected a mask of shape \(2, 4\), got \(2, 3\)",
        ),
        (
            lambda m: L.Softmax()(X, mask=m),
            r"softmax: expected a mask that broadcasts to \(2, 4, 6\), got shape \(2, 3\)",
        ),
        (
            lambda m: L.Attention()([X, X], mask=[None, m]),
            r"attention: expected a value mask of shape \(2, 4\), got \(2, 3\)",
        ),
        (
            lambda m: L.Attention()([X, X], mask=[m, None]),
            r"attention: expected a query mask of shape \(2, 4\), got \(2, 3\)",
        ),
        (
            lambda m: L.MultiHeadAttention(2, 3)(X, X, value_mask=m),
            r"multi_head_attention: expected a mask of shape \(2, 4\), got \(2, 3\)",
        ),
    ],
)
def test_a_mask_of_the_wrong_shape(call, message):
    with pytest.raises(ValueError, match=message):
        call(mx.ones((2, 3), dtype=mx.bool_))


def test_a_built_layer_keeps_its_sizes():
    for layer, first in ((L.Dense(2), (1, 3)), (L.Conv1D(2, 2), (1, 4, 3))):
        layer(mx.zeros(first))
        with pytest.raises(ValueError, match="expected size 3 on axis -1, got shape"):
            layer(mx.zeros((*first[:-1], 5)))


@pytest.mark.parametrize(
    "layer",
    [
        L.EinsumDense("...x,xy->...y", 4),
        L.EinsumDense("abc,cd->abd", (6, 5), bias_axes="d"),
        L.Normalization(),
        L.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[1.0, 1.0, 1.0, 1.0]),
        L.RMSNormalization(),
        L.BatchNormalization(),
        L.PReLU(shared_axes=[1]),
    ],
    ids=lambda layer: layer.name,
)
def test_weights_do_not_broadcast_along_a_size_of_1(layer):
    layer(mx.zeros((2, 6, 4)))
    with pytest.raises(
        ValueError, match=f"{layer.name}: expected size 4 on axis (2|-1), got shape"
    ):
        layer(mx.zeros((2, 6, 1)))


def test_a_bias_over_steps_has_its_steps():
    layer = L.EinsumDense("abc,cd->abd", (6, 5), bias_axes="bd", name="stepped")
    layer(mx.zeros((2, 6, 4)))
    with pytest.raises(ValueError, match="stepped: expected size 6 on axis 1, got shape"):
        layer(mx.zeros((2, 1, 4)))


def test_normalization_adapts_to_something():
    with pytest.raises(ValueError, match="expected data to adapt to, got none"):
        L.Normalization().adapt([])
    with pytest.raises(ValueError, match="expected no mean and variance beside adapt"):
        L.Normalization(mean=1.0, variance=2.0).adapt(np.zeros((3, 2)))
