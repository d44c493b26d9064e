"""THE table: one row a layer configuration. Every runner loops over it.

A row is made with our layers or with Keras's: `case.make()`, `case.make(keras.layers)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlxfunc as mf
import numpy as np


def apply(layer: Any, *inputs: Any) -> Any:
    """The usual call: one input alone, several in a list."""
    return layer(inputs[0] if len(inputs) == 1 else list(inputs))


@dataclass(frozen=True)
class Case:
    """One configuration of a layer.

    Args:
        name: unique; `<layer>-<what is special>`.
        build: makes the layer from a namespace of layers, ours or Keras's.
        shapes: of each input without the batch; None is a dynamic size.
        dtypes: of each input: "float32", "int32" (drawn below `high`), "bool" (a mask; the first
            step is always valid). One name stands for all.
        call: how the layer is called on its inputs, arrays and symbolic tensors alike.
        tolerance: largest absolute error against Keras and ONNX Runtime; above 1e-6 needs `reason`.
        onnx: how many of which operators the exported graph holds; None: not fixed.
        trains: whether weights after SGD steps can be compared with Keras's.
        keras: whether Keras has such a layer.
    """

    name: str
    build: Callable[[Any], Any]
    shapes: tuple[tuple[int | None, ...], ...]
    dtypes: str | tuple[str, ...] = "float32"
    call: Callable[..., Any] = apply
    tolerance: float = 1e-6
    reason: str | None = None
    onnx: dict[str, int] | None = None
    trains: bool = True
    keras: bool = True
    high: int = 5

    def make(self, layers: Any = mf.layers) -> Any:
        """A new layer of this configuration."""
        return self.build(layers)

    def kinds(self) -> tuple[str, ...]:
        """The dtype of each input."""
        return (self.dtypes,) * len(self.shapes) if isinstance(self.dtypes, str) else self.dtypes

    def inputs(self, batch: int = 2, dynamic: int = 6, seed: int = 0) -> list[np.ndarray]:
        """Random arrays to call the layer on."""
        rng = np.random.default_rng(seed)
        arrays = []
        for shape, kind in zip(self.shapes, self.kinds(), strict=True):
            size = (batch, *(dynamic if n is None else n for n in shape))
            if kind == "bool":
                array = rng.random(size) < 0.6
                array[..., :1] = True
            elif kind == "int32":
                array = rng.integers(0, self.high, size).astype(kind)
            else:
                array = rng.standard_normal(size).astype(kind)
            arrays.append(array)
        return arrays

    def symbolic(self, make_input: Callable[..., Any] = mf.Input) -> list[Any]:
        """Symbolic inputs: ours, or Keras's with `keras.Input`."""
        return [
            make_input(shape, dtype=kind)
            for shape, kind in zip(self.shapes, self.kinds(), strict=True)
        ]

    def model(self) -> mf.Model:
        """A model of the layer alone, with `randomize`d weights."""
        inputs = self.symbolic()
        model = mf.Model(inputs, self.call(self.make(), *inputs))
        randomize(model)
        return model


def randomize(layer: Any, seed: int = 0) -> None:
    """Move every weight off its initial value, so that zero biases hide nothing."""
    rng = np.random.default_rng(seed)
    layer.set_weights(
        [w + rng.uniform(0.01, 0.2, w.shape).astype(np.float32) for w in layer.get_weights()]
    )


def masked(layer: Any, x: Any, mask: Any) -> Any:
    """layer(x, mask=mask)"""
    return layer(x, mask=mask)


CORE = [
    Case("dense", lambda L: L.Dense(4), ((3,),)),
    Case("dense-relu", lambda L: L.Dense(4, activation="relu"), ((3,),)),
    Case("dense-no-bias", lambda L: L.Dense(4, use_bias=False), ((3,),)),
    Case("dense-sequence", lambda L: L.Dense(4, activation="tanh"), ((5, 3),)),
    Case("dense-dynamic", lambda L: L.Dense(4), ((None, 3),)),
    Case("dense-rank-4", lambda L: L.Dense(2), ((4, 3, 5),)),
    Case("dense-softmax", lambda L: L.Dense(4, activation="softmax"), ((3,),)),
    Case("dense-regularized", lambda L: L.Dense(4, kernel_regularizer="l2"), ((3,),)),
    Case("embedding", lambda L: L.Embedding(5, 3), ((6,),), "int32"),
    Case("embedding-mask", lambda L: L.Embedding(5, 3, mask_zero=True), ((6,),), "int32"),
    Case("embedding-dynamic", lambda L: L.Embedding(5, 3), ((None,),), "int32"),
    Case("identity", lambda L: L.Identity(), ((3, 2),)),
    Case("masking", lambda L: L.Masking(0.5), ((4, 3),)),
    *(
        Case(f"activation-{name}", lambda L, name=name: L.Activation(name), ((4, 5),))
        for name in (
            *("linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "sigmoid"),
            *("hard_sigmoid", "hard_silu", "softmax", "log_softmax", "softplus", "softsign"),
            *("tanh", "exponential", "mish", "celu", "hard_tanh", "log_sigmoid"),
        )
    ),
    Case("activation-glu", lambda L: L.Activation("glu"), ((4, 6),)),
]

MERGING = [
    *(
        Case(f"{name.lower()}{suffix}", lambda L, name=name: getattr(L, name)(), shapes)
        for name in ("Add", "Multiply", "Average", "Maximum", "Minimum", "Subtract")
        for suffix, shapes in (
            ("", ((3, 2), (3, 2))),
            ("-broadcast", ((3, 2), (1, 2))),
            ("-dynamic", ((None, 2), (None, 2))),
        )
    ),
    Case("add-three", lambda L: L.Add(), ((3,), (3,), (3,))),
    Case("add-lower-rank", lambda L: L.Add(), ((4, 3), (3,))),
    Case("average-three", lambda L: L.Average(), ((3,), (3,), (3,))),
    Case("concatenate", lambda L: L.Concatenate(), ((3, 2), (3, 4))),
    Case("concatenate-axis", lambda L: L.Concatenate(axis=1), ((3, 2), (5, 2))),
    Case("concatenate-time", lambda L: L.Concatenate(axis=1), ((None, 2), (5, 2))),
    Case("concatenate-three", lambda L: L.Concatenate(axis=-2), ((3, 2), (1, 2), (4, 2))),
    Case("dot", lambda L: L.Dot(axes=1), ((3,), (3,))),
    Case("dot-normalize", lambda L: L.Dot(axes=-1, normalize=True), ((3,), (3,))),
    Case("dot-rank-3", lambda L: L.Dot(axes=(2, 1)), ((4, 3), (3, 5))),
    Case("dot-same-axis", lambda L: L.Dot(axes=2), ((4, 3), (5, 3))),
]


def started(layer: Any, x: Any, *states: Any) -> Any:
    """layer(x, initial_state=states)"""
    return layer(x, initial_state=list(states))


def recurrent(name: str, build: Callable[[Any], Any], **kwargs: Any) -> list[Case]:
    """A recurrent layer alone, and with any mask."""
    return [
        Case(name, build, ((None, 3),), **kwargs),
        Case(f"{name}-mask", build, ((None, 3), (None,)), ("float32", "bool"), masked, **kwargs),
    ]


RECURRENT = [
    *(
        row
        for name in ("SimpleRNN", "LSTM", "GRU")
        for suffix, options in (
            ("", {}),
            ("-sequences", {"return_sequences": True}),
            ("-states", {"return_state": True, "return_sequences": True}),
            ("-backwards", {"go_backwards": True}),
            ("-backwards-sequences", {"go_backwards": True, "return_sequences": True}),
            ("-zeros", {"zero_output_for_mask": True, "return_sequences": True}),
            ("-no-bias", {"use_bias": False}),
            ("-relu", {"activation": "relu"}),
            ("-gelu", {"activation": "gelu", "return_sequences": True}),
        )
        for row in recurrent(
            f"{name.lower()}{suffix}", lambda L, n=name, o=options: getattr(L, n)(4, **o)
        )
    ),
    Case("lstm-fixed-time", lambda L: L.LSTM(4), ((5, 3),)),
    Case("lstm-started", lambda L: L.LSTM(4), ((None, 3), (4,), (4,)), call=started),
    Case("lstm-hard", lambda L: L.LSTM(4, recurrent_activation="hard_sigmoid"), ((5, 3),)),
    Case("lstm-forget-0", lambda L: L.LSTM(4, unit_forget_bias=False), ((5, 3),)),
    Case("lstm-dropout", lambda L: L.LSTM(4, dropout=0.2, recurrent_dropout=0.2), ((5, 3),)),
    Case("gru-started", lambda L: L.GRU(4, return_state=True), ((5, 3), (4,)), call=started),
    *recurrent("gru-before", lambda L: L.GRU(4, reset_after=False, return_sequences=True)),
    *recurrent("rnn", lambda L: L.RNN(L.LSTMCell(4), return_sequences=True)),
    *recurrent("rnn-gru-cell", lambda L: L.RNN(L.GRUCell(4), go_backwards=True)),
    *recurrent("rnn-simple-cell", lambda L: L.RNN(L.SimpleRNNCell(4), return_state=True)),
    *recurrent("rnn-stacked", lambda L: L.RNN([L.LSTMCell(4), L.GRUCell(3)])),
    *(
        row
        for name in ("SimpleRNN", "LSTM", "GRU")
        for suffix, options, merge in (
            ("", {}, "concat"),
            ("-sequences", {"return_sequences": True}, "concat"),
            ("-states", {"return_sequences": True, "return_state": True}, "sum"),
            ("-none", {"return_sequences": True}, None),
            ("-ave", {}, "ave"),
        )
        for row in recurrent(
            f"bidirectional-{name.lower()}{suffix}",
            lambda L, n=name, o=options, m=merge: L.Bidirectional(
                getattr(L, n)(4, **o), merge_mode=m
            ),
        )
    ),
    Case(
        "bidirectional-uneven",
        lambda L: L.Bidirectional(
            L.LSTM(4), backward_layer=L.LSTM(4, activation="relu", go_backwards=True)
        ),
        ((None, 3),),
    ),
    Case("time-distributed-dense", lambda L: L.TimeDistributed(L.Dense(2)), ((None, 3),)),
    Case("time-distributed-lstm", lambda L: L.TimeDistributed(L.LSTM(2)), ((3, 4, 5),)),
    Case("conv-lstm", lambda L: L.ConvLSTM2D(2, 3), ((3, 5, 6, 2),)),
    Case(
        "conv-lstm-same",
        lambda L: L.ConvLSTM2D(2, (3, 2), strides=2, padding="same", return_sequences=True),
        ((None, 5, 6, 2),),
    ),
    Case(
        "conv-lstm-dilated",
        lambda L: L.ConvLSTM2D(2, 2, dilation_rate=2, return_state=True, go_backwards=True),
        ((3, 5, 6, 2),),
    ),
]

CONVOLUTION = [
    *(
        Case(
            f"{kind.lower()}{suffix}", lambda L, k=kind, o=options: getattr(L, k)(4, **o), (shape,)
        )
        for kind, shape in (
            ("Conv1D", (9, 4)),
            ("Conv2D", (7, 8, 4)),
            ("Conv3D", (5, 6, 5, 4)),
        )
        for suffix, options in (
            ("", dict(kernel_size=3)),
            ("-same", dict(kernel_size=3, padding="same", activation="relu")),
            ("-same-even", dict(kernel_size=2, padding="same", use_bias=False)),
            ("-strides", dict(kernel_size=3, strides=2)),
            ("-strides-same", dict(kernel_size=3, strides=2, padding="same")),
            ("-dilation", dict(kernel_size=2, dilation_rate=2, padding="same")),
            ("-groups", dict(kernel_size=3, groups=2)),
        )
    ),
    Case("conv1d-causal", lambda L: L.Conv1D(4, 3, padding="causal", dilation_rate=2), ((9, 3),)),
    Case("conv1d-causal-strides", lambda L: L.Conv1D(4, 3, 2, padding="causal"), ((9, 3),)),
    Case("conv1d-dynamic", lambda L: L.Conv1D(4, 3, 2, padding="same"), ((None, 3),)),
    Case("conv2d-1x1", lambda L: L.Conv2D(4, 1), ((5, 6, 3),)),
    Case("conv2d-uneven", lambda L: L.Conv2D(4, (3, 2), (2, 1), padding="same"), ((7, 6, 3),)),
    Case("conv2d-small", lambda L: L.Conv2D(2, 3, 2, padding="same"), ((4, 4, 1),)),
    Case("conv2d-dynamic", lambda L: L.Conv2D(4, 3, 2, padding="same"), ((None, None, 3),)),
    Case("conv2d-large-kernel", lambda L: L.Conv2D(2, 5, padding="same"), ((3, 3, 2),)),
    *(
        Case(
            f"{kind.lower()}{suffix}",
            lambda L, k=kind, o=options: getattr(L, k)(3, **o),
            (shape,),
        )
        for kind, shape in (
            ("Conv1DTranspose", (5, 4)),
            ("Conv2DTranspose", (5, 3, 4)),
            ("Conv3DTranspose", (3, 2, 3, 4)),
        )
        for suffix, options in (
            ("", dict(kernel_size=3)),
            ("-strides", dict(kernel_size=3, strides=2)),
            ("-strides-same", dict(kernel_size=3, strides=2, padding="same")),
            ("-stride-over-kernel", dict(kernel_size=2, strides=3)),
            ("-padding-0", dict(kernel_size=3, strides=2, padding="same", output_padding=0)),
            ("-padding-1", dict(kernel_size=3, strides=2, output_padding=1)),
            ("-dilation", dict(kernel_size=2, dilation_rate=2, padding="same")),
        )
    ),
    Case("conv2dtranspose-even", lambda L: L.Conv2DTranspose(3, 4, 2, "same"), ((5, 3, 2),)),
    Case(
        "conv2dtranspose-dynamic",
        lambda L: L.Conv2DTranspose(3, 3, 2, "same", activation="relu"),
        ((None, None, 2),),
    ),
    *(
        Case(f"{kind.lower()}{suffix}", lambda L, k=kind, o=options: getattr(L, k)(**o), (shape,))
        for kind, shape, own in (
            ("DepthwiseConv1D", (9, 3), {}),
            ("DepthwiseConv2D", (7, 6, 3), {}),
            ("SeparableConv1D", (9, 3), dict(filters=4)),
            ("SeparableConv2D", (7, 6, 3), dict(filters=4)),
        )
        for suffix, options in (
            ("", dict(kernel_size=3, **own)),
            ("-multiplier", dict(kernel_size=3, depth_multiplier=2, activation="relu", **own)),
            ("-strides-same", dict(kernel_size=3, strides=2, padding="same", **own)),
            ("-dilation", dict(kernel_size=2, dilation_rate=2, use_bias=False, **own)),
        )
    ),
]

POOLING = [
    *(
        Case(f"{kind.lower()}{suffix}", lambda L, k=kind, o=options: getattr(L, k)(**o), (shape,))
        for kind, shape in (
            ("MaxPooling1D", (9, 3)),
            ("MaxPooling2D", (7, 8, 3)),
            ("MaxPooling3D", (5, 4, 6, 2)),
            ("AveragePooling1D", (9, 3)),
            ("AveragePooling2D", (7, 8, 3)),
            ("AveragePooling3D", (5, 4, 6, 2)),
        )
        for suffix, options in (
            ("", dict(pool_size=2)),
            ("-same", dict(pool_size=2, padding="same")),
            ("-overlap", dict(pool_size=3, strides=2)),
            ("-overlap-same", dict(pool_size=3, strides=2, padding="same")),
            ("-apart", dict(pool_size=2, strides=3)),
        )
    ),
    Case("maxpooling2d-dynamic", lambda L: L.MaxPool2D(3, 2, "same"), ((None, None, 2),)),
    Case("averagepooling2d-dynamic", lambda L: L.AvgPool2D(3, 2, "same"), ((None, None, 2),)),
    Case("maxpooling2d-uneven", lambda L: L.MaxPool2D((2, 3), (1, 2)), ((5, 7, 2),)),
    *(
        Case(
            f"{kind.lower()}{suffix}",
            lambda L, k=kind, keep=keep: getattr(L, k)(keepdims=keep),
            (shape,),
        )
        for kind, shape in (
            ("GlobalMaxPooling1D", (5, 3)),
            ("GlobalMaxPooling2D", (4, 5, 3)),
            ("GlobalMaxPooling3D", (2, 3, 4, 3)),
            ("GlobalAveragePooling1D", (None, 3)),
            ("GlobalAveragePooling2D", (None, None, 3)),
            ("GlobalAveragePooling3D", (2, 3, 4, 3)),
        )
        for suffix, keep in (("", False), ("-keepdims", True))
    ),
    Case(
        "globalaveragepooling1d-mask",
        lambda L: L.GlobalAveragePooling1D(),
        ((5, 3), (5,)),
        ("float32", "bool"),
        masked,
    ),
    Case(
        "globalaveragepooling1d-mask-keepdims",
        lambda L: L.GlobalAveragePooling1D(keepdims=True),
        ((5, 3), (5,)),
        ("float32", "bool"),
        masked,
    ),
]

NORMALIZATION = [
    Case("batchnormalization", lambda L: L.BatchNormalization(), ((5,),)),
    Case("batchnormalization-image", lambda L: L.BatchNormalization(), ((4, 3, 5),)),
    Case("batchnormalization-axis", lambda L: L.BatchNormalization(axis=1), ((4, 3, 5),)),
    Case(
        "batchnormalization-plain",
        lambda L: L.BatchNormalization(center=False, scale=False, momentum=0.5, epsilon=1e-2),
        ((4, 5),),
    ),
    Case("batchnormalization-no-center", lambda L: L.BatchNormalization(center=False), ((4, 5),)),
    Case("batchnormalization-no-scale", lambda L: L.BatchNormalization(scale=False), ((4, 5),)),
    Case("batchnormalization-frozen", lambda L: L.BatchNormalization(trainable=False), ((4, 5),)),
    Case(
        "batchnormalization-mask",
        lambda L: L.BatchNormalization(),
        ((6, 5), (6,)),
        ("float32", "bool"),
        masked,
    ),
    Case("layernormalization", lambda L: L.LayerNormalization(), ((4, 5),)),
    Case("layernormalization-axes", lambda L: L.LayerNormalization(axis=[1, 2]), ((4, 3, 5),)),
    Case("layernormalization-axis-1", lambda L: L.LayerNormalization(axis=1), ((4, 5),)),
    Case("layernormalization-no-scale", lambda L: L.LayerNormalization(scale=False), ((4, 5),)),
    Case(
        "layernormalization-no-center",
        lambda L: L.LayerNormalization(center=False, epsilon=1e-5),
        ((None, 5),),
    ),
    Case("groupnormalization", lambda L: L.GroupNormalization(2), ((4, 3, 6),)),
    Case("groupnormalization-instance", lambda L: L.GroupNormalization(-1), ((4, 3, 6),)),
    Case("groupnormalization-one", lambda L: L.GroupNormalization(1), ((None, None, 6),)),
    Case("groupnormalization-axis", lambda L: L.GroupNormalization(2, axis=1), ((4, 3, 5),)),
    Case("groupnormalization-vector", lambda L: L.GroupNormalization(3, scale=False), ((6,),)),
    Case("rmsnormalization", lambda L: L.RMSNormalization(), ((4, 5),)),
    Case("rmsnormalization-axes", lambda L: L.RMSNormalization([1, 2], 1e-3), ((4, 5),)),
    # Keras does not broadcast its weight along another axis than the last.
    Case("rmsnormalization-axis", lambda L: L.RMSNormalization(axis=1), ((4, 5),), keras=False),
    Case("unitnormalization", lambda L: L.UnitNormalization(), ((4, 5),)),
    Case("unitnormalization-axes", lambda L: L.UnitNormalization(axis=[1, 2]), ((4, 5),)),
]

ACTIVATION = [
    Case("relu", lambda L: L.ReLU(), ((4, 5),)),
    Case("relu-all", lambda L: L.ReLU(1.5, 0.1, 0.2), ((4, 5),)),
    Case("relu-six", lambda L: L.ReLU(max_value=6.0), ((4, 5),)),
    Case("leakyrelu", lambda L: L.LeakyReLU(), ((4, 5),)),
    Case("leakyrelu-slope", lambda L: L.LeakyReLU(0.05), ((4, 5),)),
    Case("elu", lambda L: L.ELU(0.7), ((4, 5),)),
    Case("prelu", lambda L: L.PReLU(), ((4, 5),)),
    Case("prelu-shared", lambda L: L.PReLU(shared_axes=[1, 2]), ((None, None, 5),)),
    Case("softmax", lambda L: L.Softmax(), ((4, 5),)),
    Case("softmax-axis", lambda L: L.Softmax(axis=1), ((4, 5),)),
    Case("softmax-axes", lambda L: L.Softmax(axis=[1, 2]), ((4, 5),)),
    Case("softmax-mask", lambda L: L.Softmax(), ((4, 5), (4, 5)), ("float32", "bool"), masked),
]

REGULARIZATION = [
    Case("dropout", lambda L: L.Dropout(0.5), ((4, 5),)),
    Case("dropout-noise-shape", lambda L: L.Dropout(0.5, noise_shape=(None, 1, 5)), ((4, 5),)),
    Case("dropout-seed", lambda L: L.Dropout(0.3, seed=7), ((4, 5),)),
    Case("spatialdropout1d", lambda L: L.SpatialDropout1D(0.5), ((4, 5),)),
    Case("spatialdropout2d", lambda L: L.SpatialDropout2D(0.5), ((4, 3, 5),)),
    Case("spatialdropout3d", lambda L: L.SpatialDropout3D(0.5), ((2, 4, 3, 5),)),
    Case("gaussiandropout", lambda L: L.GaussianDropout(0.5), ((4, 5),)),
    Case("gaussiannoise", lambda L: L.GaussianNoise(0.5), ((4, 5),)),
    Case("alphadropout", lambda L: L.AlphaDropout(0.5), ((4, 5),)),
    Case("activityregularization", lambda L: L.ActivityRegularization(0.1, 0.2), ((4, 5),)),
]

RESHAPING = [
    Case("flatten", lambda L: L.Flatten(), ((4, 3, 2),)),
    Case("flatten-vector", lambda L: L.Flatten(), ((4,),)),
    Case("flatten-scalars", lambda L: L.Flatten(), ((),)),
    Case("flatten-dynamic", lambda L: L.Flatten(), ((None, 3),)),
    Case("reshape", lambda L: L.Reshape((2, 6)), ((4, 3),)),
    Case("reshape-rest", lambda L: L.Reshape((-1, 2)), ((4, 3),)),
    Case("reshape-dynamic", lambda L: L.Reshape((-1, 3, 1)), ((None, 3),)),
    Case("reshape-flat", lambda L: L.Reshape((-1,)), ((4, 3),)),
    Case("permute", lambda L: L.Permute((2, 1)), ((4, 3),)),
    Case("permute-three", lambda L: L.Permute((3, 1, 2)), ((None, 3, 2),)),
    Case("repeatvector", lambda L: L.RepeatVector(3), ((4,),)),
    Case("upsampling1d", lambda L: L.UpSampling1D(3), ((4, 2),)),
    Case("upsampling2d", lambda L: L.UpSampling2D((2, 3)), ((4, 3, 2),)),
    Case("upsampling2d-dynamic", lambda L: L.UpSampling2D(), ((None, None, 2),)),
    *(
        Case(
            f"upsampling2d-bilinear-{height}x{width}",
            lambda L, size=(height, width): L.UpSampling2D(size, interpolation="bilinear"),
            ((4, 3, 2),),
        )
        for height, width in ((2, 2), (3, 2), (1, 4))
    ),
    Case("upsampling3d", lambda L: L.UpSampling3D((1, 2, 3)), ((2, 3, 2, 2),)),
    Case("zeropadding1d", lambda L: L.ZeroPadding1D((1, 2)), ((4, 2),)),
    Case("zeropadding2d", lambda L: L.ZeroPadding2D(), ((4, 3, 2),)),
    Case("zeropadding2d-sides", lambda L: L.ZeroPadding2D(((1, 0), (2, 3))), ((None, 3, 2),)),
    Case("zeropadding3d", lambda L: L.ZeroPadding3D((1, 0, 2)), ((2, 3, 2, 2),)),
    Case("cropping1d", lambda L: L.Cropping1D((1, 2)), ((6, 2),)),
    Case("cropping2d", lambda L: L.Cropping2D(((1, 0), (0, 2))), ((4, 5, 2),)),
    Case("cropping2d-dynamic", lambda L: L.Cropping2D(1), ((None, None, 2),)),
    Case("cropping3d", lambda L: L.Cropping3D(1), ((4, 3, 5, 2),)),
]


def attend(layer: Any, query: Any, value: Any, *masks: Any, **options: Any) -> Any:
    """layer([query, value], mask=[query_mask, value_mask])"""
    return layer([query, value], **({"mask": list(masks)} if masks else {}), **options)


def causal(layer: Any, query: Any, value: Any, *masks: Any) -> Any:
    return attend(layer, query, value, *masks, use_causal_mask=True)


QUERY_VALUE = ((4, 3), (5, 3))
QUERY_VALUE_MASKS = ((4, 3), (5, 3), (4,), (5,))
TWO_MASKS = ("float32", "float32", "bool", "bool")

ATTENTION = [
    Case("attention", lambda L: L.Attention(), QUERY_VALUE),
    Case("attention-key", lambda L: L.Attention(), ((4, 3), (5, 2), (5, 3))),
    Case("attention-scale", lambda L: L.Attention(use_scale=True), QUERY_VALUE),
    Case("attention-concat", lambda L: L.Attention(True, "concat"), QUERY_VALUE),
    Case("attention-masks", lambda L: L.Attention(), QUERY_VALUE_MASKS, TWO_MASKS, attend),
    Case("attention-causal", lambda L: L.Attention(), QUERY_VALUE, call=causal),
    Case("attention-causal-masks", lambda L: L.Attention(), QUERY_VALUE_MASKS, TWO_MASKS, causal),
    Case(
        "attention-scores",
        lambda L: L.Attention(dropout=0.2),
        QUERY_VALUE,
        call=lambda layer, q, v: layer([q, v], return_attention_scores=True),
        trains=False,
    ),
    Case("additiveattention", lambda L: L.AdditiveAttention(), QUERY_VALUE),
    Case("additiveattention-plain", lambda L: L.AdditiveAttention(False), QUERY_VALUE),
    Case(
        "additiveattention-masks",
        lambda L: L.AdditiveAttention(),
        QUERY_VALUE_MASKS,
        TWO_MASKS,
        causal,
    ),
    # Keras's fused attention wants values as wide as keys; with dropout it takes the other way.
    Case(
        "multiheadattention-value-dim",
        lambda L: L.MultiHeadAttention(2, 3, value_dim=4, dropout=0.1),
        ((4, 6), (5, 6)),
        call=lambda layer, q, v: layer(q, v),
        trains=False,
    ),
    *(
        Case(f"multiheadattention{suffix}", make, shapes, dtypes, call)
        for suffix, make, shapes, dtypes, call in (
            (
                "",
                lambda L: L.MultiHeadAttention(2, 3),
                ((4, 6), (5, 6)),
                "float32",
                lambda layer, q, v: layer(q, v),
            ),
            (
                "-self",
                lambda L: L.MultiHeadAttention(2, 3),
                ((None, 6),),
                "float32",
                lambda layer, x: layer(x, x),
            ),
            (
                "-key",
                lambda L: L.MultiHeadAttention(2, 3, output_shape=5),
                ((4, 6), (5, 2), (5, 3)),
                "float32",
                lambda layer, q, v, k: layer(q, v, k),
            ),
            (
                "-no-bias",
                lambda L: L.MultiHeadAttention(2, 3, use_bias=False),
                ((4, 6), (5, 6)),
                "float32",
                lambda layer, q, v: layer(q, v),
            ),
            (
                "-causal",
                lambda L: L.MultiHeadAttention(2, 3),
                ((4, 6),),
                "float32",
                lambda layer, x: layer(x, x, use_causal_mask=True),
            ),
            (
                "-causal-uneven",
                lambda L: L.MultiHeadAttention(2, 3),
                ((4, 6), (5, 6)),
                "float32",
                lambda layer, q, v: layer(q, v, use_causal_mask=True),
            ),
            (
                "-mask",
                lambda L: L.MultiHeadAttention(2, 3),
                ((4, 6), (5, 6), (4, 5)),
                ("float32", "float32", "bool"),
                lambda layer, q, v, m: layer(q, v, attention_mask=m),
            ),
            (
                "-value-mask",
                lambda L: L.MultiHeadAttention(2, 3),
                ((4, 6), (5, 6), (5,)),
                ("float32", "float32", "bool"),
                lambda layer, q, v, m: layer(q, v, value_mask=m, use_causal_mask=True),
            ),
            (
                "-scores",
                lambda L: L.MultiHeadAttention(2, 3),
                ((4, 6), (4, 4)),
                ("float32", "bool"),
                lambda layer, x, m: layer(
                    x, x, attention_mask=m, use_causal_mask=True, return_attention_scores=True
                ),
            ),
            (
                "-window",
                lambda L: L.MultiHeadAttention(2, 3, sliding_window=2),
                ((6, 4),),
                "float32",
                lambda layer, x: layer(x, x),
            ),
            (
                "-gate",
                lambda L: L.MultiHeadAttention(2, 3, use_gate=True),
                ((4, 6),),
                "float32",
                lambda layer, x: layer(x, x),
            ),
            (
                "-image",
                lambda L: L.MultiHeadAttention(2, 3),
                ((3, 4, 5),),
                "float32",
                lambda layer, x: layer(x, x),
            ),
            (
                "-rows",
                lambda L: L.MultiHeadAttention(2, 3, attention_axes=2),
                ((3, 4, 5), (3, 6, 5)),
                "float32",
                lambda layer, q, v: layer(q, v),
            ),
        )
    ),
]

PREPROCESSING = [
    Case("normalization", lambda L: L.Normalization(), ((4, 3),)),
    Case(
        "normalization-given",
        lambda L: L.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 2.0, 0.5]),
        ((4, 3),),
    ),
    Case("normalization-one", lambda L: L.Normalization(None, 3.0, 2.0), ((4, 3),)),
    Case(
        "normalization-invert",
        lambda L: L.Normalization(mean=3.0, variance=2.0, invert=True),
        ((4, 3),),
    ),
    Case("normalization-axes", lambda L: L.Normalization(axis=(1, 2)), ((4, 3),)),
    Case("rescaling", lambda L: L.Rescaling(1 / 127.5, -1.0), ((4, 3),)),
    Case("rescaling-integers", lambda L: L.Rescaling(0.5), ((4, 3),), "int32"),
    Case("rescaling-channels", lambda L: L.Rescaling([1.0, 2.0], [0.0, 1.0]), ((4, 2),)),
]

EINSUM = [
    Case("einsumdense", lambda L: L.EinsumDense("ab,bc->ac", 4, bias_axes="c"), ((3,),)),
    Case(
        "einsumdense-sequence",
        lambda L: L.EinsumDense("abc,cd->abd", (None, 4), activation="relu", bias_axes="d"),
        ((None, 3),),
    ),
    Case("einsumdense-left", lambda L: L.EinsumDense("...x,xy->...y", 4), ((5, 3),)),
    Case(
        "einsumdense-heads",
        lambda L: L.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"),
        ((5, 4),),
    ),
    Case(
        "einsumdense-back",
        lambda L: L.EinsumDense("abde,dec->abc", (None, 4), bias_axes="c"),
        ((5, 2, 3),),
    ),
    Case("einsumdense-right", lambda L: L.EinsumDense("ab...,bc->ac...", 4), ((3, 5),)),
    Case(
        "einsumdense-time",
        lambda L: L.EinsumDense("abc,bd->adc", (6, 3), bias_axes="d"),
        ((4, 3),),
    ),
]

CASES: list[Case] = [
    *(*CORE, *EINSUM, *MERGING, *CONVOLUTION, *POOLING, *NORMALIZATION, *ACTIVATION),
    *(*REGULARIZATION, *RESHAPING, *ATTENTION, *PREPROCESSING, *RECURRENT),
]
