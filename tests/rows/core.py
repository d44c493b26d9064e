"""Rows of layers without a notion of space or time."""

from __future__ import annotations

from case import Case, masked

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
    *(
        Case(
            f"{name.lower()}-masked",
            lambda L, name=name: getattr(L, name)(),
            ((4, 2), (4, 2), (4,), (4,)),
            ("float32", "float32", "bool", "bool"),
            lambda layer, a, b, m, n: layer([a, b], mask=[m, n]),
            keras=False,  # the masks of tests/parity/test_masks.py come with the values
        )
        for name in ("Add", "Multiply", "Maximum", "Minimum")
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
