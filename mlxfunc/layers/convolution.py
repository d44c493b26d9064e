"""Convolutions: Conv, its transpose, depthwise and separable, in one to three dimensions."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .. import constraints, initializers, regularizers
from ..layer import InputSpec
from .core import KernelLayer, known_size, positive


def spread(name: str, rank: int, least: int = 1, **values: Any) -> list[tuple[int, ...]]:
    """Each value as `rank` integers: an int stands for all axes."""
    spreads = []
    for key, value in values.items():
        sizes = (value,) * rank if isinstance(value, int) else tuple(value)
        if len(sizes) != rank or not all(isinstance(s, int) and s >= least for s in sizes):
            raise ValueError(
                f"{name}: expected {key} to be one integer or {rank} of them, {least} or more, "
                f"got {value!r}."
            )
        spreads.append(sizes)
    return spreads


def choice(name: str, key: str, value: Any, known: tuple[str, ...]) -> str:
    """`value` in lower case, if it is one of the known ones."""
    lowered = value.lower() if isinstance(value, str) else value
    if lowered not in known:
        raise ValueError(
            f"{name}: expected {key} to be one of {', '.join(map(repr, known))}, got {value!r}."
        )
    return lowered


def same_padding(sizes: Any, kernel: Any, strides: Any) -> tuple[list[int], list[int]]:
    """What to add before and after each axis for ceil(size / stride) outputs: more goes after."""
    totals = [
        max((-(-size // s) - 1) * s + k - size, 0)
        for size, k, s in zip(sizes, kernel, strides, strict=True)
    ]
    return [total // 2 for total in totals], [total - total // 2 for total in totals]


class BaseConv(KernelLayer):
    """What all convolutions share: sizes, strides, dilation, padding."""

    rank: int
    paddings: tuple[str, ...] = ("valid", "same")

    def __init__(
        self,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        *,
        dilation_rate: Any = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kernel_size, self.strides, self.dilation_rate = spread(
            self.name,
            self.rank,
            kernel_size=kernel_size,
            strides=strides,
            dilation_rate=dilation_rate,
        )
        self.padding = choice(self.name, "padding", padding, self.paddings)
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                f"{self.name}: expected strides or dilation_rate to be 1, got strides "
                f"{self.strides} and dilation_rate {self.dilation_rate}. Use one of them."
            )

    def spec(self, channels: int) -> InputSpec:
        return InputSpec(ndim=self.rank + 2, axes={-1: channels})

    def channels(self, input_shape: tuple) -> int:
        InputSpec(ndim=self.rank + 2).check(self.name, input_shape)
        return known_size(self.name, input_shape, -1)

    @property
    def extent(self) -> tuple[int, ...]:
        """How far the dilated kernel reaches along each axis."""
        return tuple(
            (k - 1) * d + 1 for k, d in zip(self.kernel_size, self.dilation_rate, strict=True)
        )

    def pads(self, x: mx.array) -> tuple[list[int], list[int]]:
        """What `padding` adds to x before and after each of its spatial axes."""
        if self.padding == "same":
            return same_padding(x.shape[1:-1], self.extent, self.strides)
        zeros = [0] * self.rank
        return ([k - 1 for k in self.extent], zeros) if self.padding == "causal" else (zeros, zeros)

    def convolve(self, x: mx.array, weight: mx.array, groups: int) -> mx.array:
        return mx.conv_general(
            x,
            weight,
            stride=self.strides,
            padding=self.pads(x),
            kernel_dilation=self.dilation_rate,
            groups=groups,
        )


class Conv(BaseConv):
    """activation(x ∗ W + b): each output channel sums a window of its group's input channels.

    x (batch, *space, in) → (batch, *space', filters); weight (filters, *kernel, in / groups),
    bias (filters,). space' is ceil(space / stride) with padding "same", else
    ceil((space - (kernel - 1) dilation) / stride); "causal" (1D) pads before the first step only.

    Source: https://keras.io/api/layers/convolution_layers/
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        *,
        groups: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(kernel_size, strides, padding, **kwargs)
        positive(self.name, filters=filters, groups=groups)
        self.filters, self.groups = filters, groups
        if filters % groups:
            raise ValueError(
                f"{self.name}: expected filters to be a multiple of groups, got {filters} and "
                f"{groups}."
            )

    def build(self, input_shape: tuple) -> None:
        channels, rank = self.channels(input_shape), self.rank
        if channels % self.groups:
            raise ValueError(
                f"{self.name}: expected input channels to be a multiple of groups, got {channels} "
                f"and {self.groups}."
            )
        shape = (*self.kernel_size, channels // self.groups, self.filters)
        self.add_weight("weight", shape, role="kernel", axes=(rank + 1, *range(rank + 1)))
        self.add_bias((self.filters,))
        self.input_spec = self.spec(channels)

    def call(self, inputs: mx.array) -> mx.array:
        return self.finish(self.convolve(inputs, self.weight, self.groups))


class Conv1D(Conv):
    __doc__ = Conv.__doc__
    rank, paddings = 1, ("valid", "same", "causal")


class Conv2D(Conv):
    __doc__ = Conv.__doc__
    rank = 2


class Conv3D(Conv):
    __doc__ = Conv.__doc__
    rank = 3


class ConvTranspose(BaseConv):
    """The gradient of a convolution as a layer: strides make the output larger.

    x (batch, *space, in) → (batch, *space', filters); weight (filters, *kernel, in). space' is
    space · stride with "same", (space - 1) stride + max(kernel, stride) with "valid". With
    `output_padding` p: (space - 1) stride + kernel % 2 + p, or (space - 1) stride + kernel + p.

    Source: https://keras.io/api/layers/convolution_layers/convolution2d_transpose/
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        output_padding: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(kernel_size, strides, padding, **kwargs)
        positive(self.name, filters=filters)
        self.filters, self.output_padding = filters, None
        if output_padding is not None:
            (self.output_padding,) = spread(self.name, self.rank, 0, output_padding=output_padding)
            if any(p >= s for p, s in zip(self.output_padding, self.strides, strict=True)):
                raise ValueError(
                    f"{self.name}: expected output_padding below strides, got "
                    f"{self.output_padding} and {self.strides}."
                )

    def build(self, input_shape: tuple) -> None:
        channels, rank = self.channels(input_shape), self.rank
        shape = (*self.kernel_size, self.filters, channels)
        self.add_weight("weight", shape, role="kernel", axes=(rank, *range(rank), rank + 1))
        self.add_bias((self.filters,))
        self.input_spec = self.spec(channels)

    def transposed_pads(self) -> tuple[list[int], list[int]]:
        """Zeros to add around the stretched input, before and after each axis."""
        extra = self.output_padding or (None,) * self.rank
        sides = [
            _transposed_pads(k, s, self.padding, p)
            for k, s, p in zip(self.extent, self.strides, extra, strict=True)
        ]
        return [low for low, _ in sides], [high for _, high in sides]

    def call(self, inputs: mx.array) -> mx.array:
        y = mx.conv_general(
            inputs,
            self.weight,
            padding=self.transposed_pads(),
            kernel_dilation=self.dilation_rate,
            input_dilation=self.strides,
            flip=True,
        )
        return self.finish(y)


def _transposed_pads(kernel: int, stride: int, padding: str, extra: int | None) -> tuple[int, int]:
    if padding == "valid":
        return kernel - 1, kernel - 1 + (max(stride - kernel, 0) if extra is None else extra)
    total = stride + kernel - 2 if extra is None else kernel + kernel % 2 - 2 + extra
    low = min((total + 1) // 2, kernel - 1)
    return low, total - low


class Conv1DTranspose(ConvTranspose):
    __doc__ = ConvTranspose.__doc__
    rank = 1


class Conv2DTranspose(ConvTranspose):
    __doc__ = ConvTranspose.__doc__
    rank = 2


class Conv3DTranspose(ConvTranspose):
    __doc__ = ConvTranspose.__doc__
    rank = 3


class Depthwise(BaseConv):
    """What a depthwise convolution needs: each input channel has kernels of its own."""

    def __init__(
        self,
        *args: Any,
        depth_multiplier: int = 1,
        depthwise_initializer: Any = "glorot_uniform",
        depthwise_regularizer: Any = None,
        depthwise_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        positive(self.name, depth_multiplier=depth_multiplier)
        self.depth_multiplier = depth_multiplier
        self.depthwise_initializer = initializers.get(depthwise_initializer)
        self.depthwise_regularizer = regularizers.get(depthwise_regularizer)
        self.depthwise_constraint = constraints.get(depthwise_constraint)

    def add_depthwise(self, name: str, channels: int) -> None:
        """Keras keeps (*kernel, in, multiplier); a grouped convolution (in · multiplier, *kernel, 1)."""
        shape = (*self.kernel_size, channels, self.depth_multiplier)
        rank = self.rank
        self.add_weight(name, shape, role="depthwise", axes=(rank, rank + 1, *range(rank)))

    def depthwise(self, x: mx.array, weight: mx.array) -> mx.array:
        kernel = mx.flatten(weight, 0, 1)[..., None]
        return self.convolve(x, kernel, x.shape[-1])


class DepthwiseConv(Depthwise):
    """activation(x ∗ W + b), each input channel by itself, with `depth_multiplier` kernels each.

    x (batch, *space, in) → (batch, *space', in · multiplier); weight (in, multiplier, *kernel).

    Source: https://keras.io/api/layers/convolution_layers/depthwise_convolution2d/
    """

    def __init__(
        self,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(kernel_size, strides, padding, depth_multiplier=depth_multiplier, **kwargs)

    def build(self, input_shape: tuple) -> None:
        channels = self.channels(input_shape)
        self.add_depthwise("weight", channels)
        self.add_bias((channels * self.depth_multiplier,))
        self.input_spec = self.spec(channels)

    def call(self, inputs: mx.array) -> mx.array:
        return self.finish(self.depthwise(inputs, self.weight))


class DepthwiseConv1D(DepthwiseConv):
    __doc__ = DepthwiseConv.__doc__
    rank = 1


class DepthwiseConv2D(DepthwiseConv):
    __doc__ = DepthwiseConv.__doc__
    rank = 2


class SeparableConv(Depthwise):
    """A depthwise convolution, then a 1x1 convolution that mixes the channels.

    x (batch, *space, in) → (batch, *space', filters); depthwise (in, multiplier, *kernel),
    pointwise (filters, *1, in · multiplier), bias (filters,).

    Source: https://keras.io/api/layers/convolution_layers/separable_convolution2d/
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        *,
        pointwise_initializer: Any = "glorot_uniform",
        pointwise_regularizer: Any = None,
        pointwise_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(kernel_size, strides, padding, **kwargs)
        positive(self.name, filters=filters)
        self.filters = filters
        self.pointwise_initializer = initializers.get(pointwise_initializer)
        self.pointwise_regularizer = regularizers.get(pointwise_regularizer)
        self.pointwise_constraint = constraints.get(pointwise_constraint)

    def build(self, input_shape: tuple) -> None:
        channels, rank = self.channels(input_shape), self.rank
        self.add_depthwise("depthwise_weight", channels)
        shape = (*(1,) * rank, channels * self.depth_multiplier, self.filters)
        axes = (rank + 1, *range(rank + 1))
        self.add_weight("pointwise_weight", shape, role="pointwise", axes=axes)
        self.add_bias((self.filters,))
        self.input_spec = self.spec(channels)

    def call(self, inputs: mx.array) -> mx.array:
        x = self.depthwise(inputs, self.depthwise_weight)
        return self.finish(mx.conv_general(x, self.pointwise_weight))


class SeparableConv1D(SeparableConv):
    __doc__ = SeparableConv.__doc__
    rank, paddings = 1, ("valid", "same", "causal")


class SeparableConv2D(SeparableConv):
    __doc__ = SeparableConv.__doc__
    rank = 2
