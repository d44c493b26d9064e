"""Rows of layers over spatial axes, and of normalization."""

from __future__ import annotations

from case import Case, masked

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
    # Keras has it on TensorFlow only.
    Case(
        "batchnormalization-synchronized",
        lambda L: L.BatchNormalization(synchronized=True),
        ((4, 5),),
        keras=False,
    ),
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
