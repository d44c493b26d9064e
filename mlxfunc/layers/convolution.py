"""Convolutions: plain, transposed, depthwise and separable, over one to three spatial axes."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ..bounds import conv_general
from .core import BiasLayer, KernelLayer, positive
from .windows import Windowed, fits


class Conv(Windowed, KernelLayer):
    """activation(x ⋆ W + b), the cross-correlation of x with `filters` kernels.

    x (batch, spatial..., in) → (batch, spatial'..., filters); weight (filters, kernel...,
    in / groups), bias (filters,). "same" pads with zeros, more of them after; "causal" (1D) pads
    only before, so that no output sees a later input.

    Source: https://keras.io/api/layers/convolution_layers/
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = 1,
        padding: str = "valid",
        *,
        groups: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(kernel_size=kernel_size, strides=strides, padding=padding, **kwargs)
        positive(self.name, filters=filters, groups=groups)
        self.refuse_dilated_strides()
        if filters % groups:
            raise ValueError(
                f"{self.name}: expected filters to be a multiple of groups, got filters {filters} "
                f"and groups {groups}. Each group makes filters / groups channels."
            )
        self.filters, self.groups = filters, groups

    def build(self, input_shape: tuple) -> None:
        size = self.channels(input_shape)
        if size % self.groups:
            raise ValueError(
                f"{self.name}: expected channels that are a multiple of groups {self.groups}, got "
                f"shape {input_shape}. Channels are the last axis."
            )
        if self.padding == "valid":
            fits(self.name, input_shape, self.extents)
        shape = (*self.kernel_size, size // self.groups, self.filters)
        axes = (self.rank + 1, *range(self.rank + 1))
        self.add_weight(name="weight", shape=shape, role="kernel", axes=axes)
        self.add_bias((self.filters,))

    def call(self, inputs: mx.array) -> mx.array:
        return self.finish(correlate(self, inputs, self.weight, self.groups))


def correlate(layer: Windowed, x: mx.array, weight: mx.array, groups: int) -> mx.array:
    """x ⋆ weight with the layer's strides, dilation and padding."""
    if groups > 1 and layer.rank == 3:
        # MLX convolves in groups over one or two axes only.
        parts = zip(mx.split(x, groups, axis=-1), mx.split(weight, groups, axis=0), strict=True)
        return mx.concatenate([correlate(layer, a, w, 1) for a, w in parts], axis=-1)
    before, after = zip(*layer.pads(x.shape), strict=True)
    return conv_general(
        x,
        weight,
        stride=layer.strides,
        padding=(before, after),
        kernel_dilation=layer.dilation_rate,
        groups=groups,
    )


class Conv1D(Conv):
    __doc__ = Conv.__doc__
    rank = 1
    paddings = ("valid", "same", "causal")


class Conv2D(Conv):
    __doc__ = Conv.__doc__
    rank = 2


class Conv3D(Conv):
    __doc__ = Conv.__doc__
    rank = 3


class ConvTranspose(Windowed, KernelLayer):
    """activation(y + b), where y is the gradient of a convolution with regard to its input.

    x (batch, spatial..., in) → (batch, spatial'..., filters); weight (filters, kernel..., in),
    bias (filters,). A size i becomes i·s ("same") or (i - 1)·s + max(k, s) ("valid"), for stride s
    and dilated kernel k; with `output_padding` p it is (i - 1)·s + k % 2 + p or (i - 1)·s + k + p.

    Source: https://keras.io/api/layers/convolution_layers/convolution2d_transpose/
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = 1,
        padding: str = "valid",
        *,
        output_padding: int | tuple[int, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(kernel_size=kernel_size, strides=strides, padding=padding, **kwargs)
        positive(self.name, filters=filters)
        self.refuse_dilated_strides()
        extra = (output_padding,) * self.rank if isinstance(output_padding, int) else output_padding
        if extra is not None and (
            len(extra) != self.rank
            or any(not 0 <= p < s for p, s in zip(extra, self.strides, strict=True))
        ):
            raise ValueError(
                f"{self.name}: expected output_padding below strides {self.strides}, got "
                f"{output_padding!r}. Leave it out for the usual size."
            )
        self.filters = filters
        self.output_padding = None if extra is None else tuple(extra)

    def build(self, input_shape: tuple) -> None:
        shape = (*self.kernel_size, self.filters, self.channels(input_shape))
        axes = (self.rank, *range(self.rank), self.rank + 1)
        self.add_weight(name="weight", shape=shape, role="kernel", axes=axes)
        self.add_bias((self.filters,))

    def transposed_pads(self) -> tuple[list[int], list[int]]:
        """Zeros before and after each axis, once strides have put zeros between its entries."""
        before, after = [], []
        extra = self.output_padding or (None,) * self.rank
        for k, s, p in zip(self.extents, self.strides, extra, strict=True):
            if self.padding == "valid":
                before.append(k - 1)
                after.append(k - 1 + (max(k, s) - k if p is None else p))
            else:
                total = s + k - 2 if p is None else k + k % 2 - 2 + p
                before.append(min(-(-total // 2), k - 1))
                after.append(total - before[-1])
        return before, after

    def call(self, inputs: mx.array) -> mx.array:
        fits(self.name, inputs.shape, (1,) * self.rank)
        before, after = self.transposed_pads()
        # Zeros beyond the kernel's reach only make zeros; MLX's gradient does not expect them.
        beyond = [max(a - (k - 1), 0) for a, k in zip(after, self.extents, strict=True)]
        y = conv_general(
            inputs,
            self.weight,
            padding=(before, [a - b for a, b in zip(after, beyond, strict=True)]),
            kernel_dilation=self.dilation_rate,
            input_dilation=self.strides,
            flip=True,
        )
        if any(beyond):
            y = mx.pad(y, [(0, 0), *((0, b) for b in beyond), (0, 0)])
        return self.finish(y)


class Conv1DTranspose(ConvTranspose):
    __doc__ = ConvTranspose.__doc__
    rank = 1


class Conv2DTranspose(ConvTranspose):
    __doc__ = ConvTranspose.__doc__
    rank = 2


class Conv3DTranspose(ConvTranspose):
    __doc__ = ConvTranspose.__doc__
    rank = 3


class Depthwise(Windowed, BiasLayer):
    """A layer that convolves each channel on its own, with `depth_multiplier` kernels."""

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = 1,
        padding: str = "valid",
        depth_multiplier: int = 1,
        *,
        depthwise_initializer: Any = "glorot_uniform",
        depthwise_regularizer: Any = None,
        depthwise_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(kernel_size=kernel_size, strides=strides, padding=padding, **kwargs)
        positive(self.name, depth_multiplier=depth_multiplier)
        self.depth_multiplier = depth_multiplier
        self.set_role(
            "depthwise", depthwise_initializer, depthwise_regularizer, depthwise_constraint
        )

    def add_depthwise(self, name: str, input_shape: tuple) -> int:
        """Make the kernels (in · multiplier, kernel..., 1); the number of channels they give."""
        size = self.channels(input_shape)
        if self.padding == "valid":
            fits(self.name, input_shape, self.extents)
        self.add_weight(
            name=name,
            shape=(*self.kernel_size, size, self.depth_multiplier),
            role="depthwise",
            axes=(self.rank, self.rank + 1, *range(self.rank)),
            stored=(size * self.depth_multiplier, *self.kernel_size, 1),
        )
        return size * self.depth_multiplier


class DepthwiseConv(Depthwise):
    """activation(y + b), channel c·m + j of y being channel c of x ⋆ kernel c·m + j.

    x (batch, spatial..., in) → (batch, spatial'..., in · m), m the `depth_multiplier`;
    weight (in · m, kernel..., 1), bias (in · m,).

    Source: https://keras.io/api/layers/convolution_layers/depthwise_convolution2d/
    """

    def build(self, input_shape: tuple) -> None:
        self.add_bias((self.add_depthwise("weight", input_shape),))

    def call(self, inputs: mx.array) -> mx.array:
        return self.finish(correlate(self, inputs, self.weight, inputs.shape[-1]))


class DepthwiseConv1D(DepthwiseConv):
    __doc__ = DepthwiseConv.__doc__
    rank = 1


class DepthwiseConv2D(DepthwiseConv):
    __doc__ = DepthwiseConv.__doc__
    rank = 2


class SeparableConv(Depthwise):
    """activation(P (x ⋆ D) + b): a depthwise convolution, then a mix of the channels.

    x (batch, spatial..., in) → (batch, spatial'..., filters); depthwise_weight (in · m,
    kernel..., 1), pointwise_weight (filters, 1..., in · m), bias (filters,).

    Source: https://keras.io/api/layers/convolution_layers/separable_convolution2d/
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = 1,
        padding: str = "valid",
        *,
        pointwise_initializer: Any = "glorot_uniform",
        pointwise_regularizer: Any = None,
        pointwise_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(kernel_size=kernel_size, strides=strides, padding=padding, **kwargs)
        positive(self.name, filters=filters)
        self.filters = filters
        self.set_role(
            "pointwise", pointwise_initializer, pointwise_regularizer, pointwise_constraint
        )

    def build(self, input_shape: tuple) -> None:
        channels = self.add_depthwise("depthwise_weight", input_shape)
        shape = (*(1,) * self.rank, channels, self.filters)
        axes = (self.rank + 1, *range(self.rank + 1))
        self.add_weight(name="pointwise_weight", shape=shape, role="pointwise", axes=axes)
        self.add_bias((self.filters,))

    def call(self, inputs: mx.array) -> mx.array:
        y = correlate(self, inputs, self.depthwise_weight, inputs.shape[-1])
        return self.finish(conv_general(y, self.pointwise_weight))


class SeparableConv1D(SeparableConv):
    __doc__ = SeparableConv.__doc__
    rank = 1


class SeparableConv2D(SeparableConv):
    __doc__ = SeparableConv.__doc__
    rank = 2
