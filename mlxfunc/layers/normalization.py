"""Normalization: of the batch, of a sample, of groups of channels; by root mean square, by norm."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .. import initializers, ranks
from ..layer import InputSpec, Layer
from .core import known_size
from .pooling import step_mask


def axes_of(name: str, axis: int | tuple[int, ...] | list[int], rank: int) -> tuple[int, ...]:
    """`axis`, one or several, counted from the front, in order."""
    given = (axis,) if isinstance(axis, int) else tuple(axis)
    for a in given:
        if not -rank <= a < rank:
            raise ValueError(
                f"{name}: expected an axis from {-rank} to {rank - 1}, got {a}. "
                f"The input has rank {rank}."
            )
    return tuple(sorted(a % rank for a in given))


def along(weight: mx.array, x: mx.array, axes: tuple[int, ...]) -> mx.array:
    """The weight with axes of size 1, so that it meets x along `axes`."""
    if axes == tuple(range(x.ndim - weight.ndim, x.ndim)):
        return weight
    return weight.reshape([n if axis in axes else 1 for axis, n in enumerate(x.shape)])


def sizes_of(axis: int | tuple[int, ...], shape: tuple) -> InputSpec:
    """Those axes as they are in a shape; the ones counted from the end are there at every rank."""
    axes = (axis,) if isinstance(axis, int) else axis
    least = max((a + 1 if a >= 0 else -a for a in axes), default=None)
    return InputSpec(min_ndim=least, axes={a: shape[a] for a in axes})


class Scaled(Layer):
    """A layer that ends in x · weight + bias along some axes: γ and β of the papers."""

    supports_masking = True

    def __init__(
        self,
        axis: int | tuple[int, ...] = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        *,
        beta_initializer: Any = "zeros",
        gamma_initializer: Any = "ones",
        beta_regularizer: Any = None,
        gamma_regularizer: Any = None,
        beta_constraint: Any = None,
        gamma_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(axis, int | list | tuple):
            raise TypeError(f"{self.name}: expected axis to be integers, got {axis!r}. Use -1.")
        self.axis: Any = axis if isinstance(axis, int) else tuple(axis)
        self.epsilon, self.center, self.scale = epsilon, center, scale
        self.set_role("gamma", gamma_initializer, gamma_regularizer, gamma_constraint)
        self.set_role("beta", beta_initializer, beta_regularizer, beta_constraint)

    def add_scale(self, input_shape: tuple) -> tuple[int, ...]:
        """Make `weight` and `bias`; their shape."""
        axes = axes_of(self.name, self.axis, len(input_shape))
        shape = tuple(known_size(self.name, input_shape, axis) for axis in axes)
        if self.scale:
            self.add_weight(name="weight", shape=shape, role="gamma")
        if self.center:
            self.add_weight(name="bias", shape=shape, role="beta")
        self.input_spec = InputSpec(ndim=len(input_shape), axes=dict(zip(axes, shape, strict=True)))
        return shape

    def along(self, weight: mx.array, x: mx.array) -> mx.array:
        return along(weight, x, axes_of(self.name, self.axis, x.ndim))

    def finish(self, y: mx.array) -> mx.array:
        y = y * self.along(self.weight, y) if self.scale else y
        return y + self.along(self.bias, y) if self.center else y


class BatchNormalization(Scaled):
    """weight · (x - mean) / sqrt(variance + epsilon) + bias, for each index of `axis`.

    x (batch, ..., channels) → the same; weight, bias, running_mean, running_var (channels,).
    In training, mean and (biased) variance are those of the batch, or of what a mask (the shape
    of x without the last axis) leaves of it, and the running ones move towards them by
    1 - momentum; otherwise, and when `trainable` is False, the running ones are used.
    `synchronized`: the batch is that of all processes that train together, not this one's rows;
    then every process must take part in each training call.

    Source: arXiv:1502.03167, https://keras.io/api/layers/normalization_layers/batch_normalization/
    """

    running_mean: mx.array
    running_var: mx.array

    def __init__(
        self,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        *,
        moving_mean_initializer: Any = "zeros",
        moving_variance_initializer: Any = "ones",
        synchronized: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis, epsilon, center, scale, **kwargs)
        self.momentum, self.synchronized = momentum, synchronized
        self.moving_mean_initializer = initializers.get(moving_mean_initializer)
        self.moving_variance_initializer = initializers.get(moving_variance_initializer)

    def build(self, input_shape: tuple) -> None:
        shape = self.add_scale(input_shape)
        self.add_weight(
            name="running_mean",
            shape=shape,
            initializer=self.moving_mean_initializer,
            trainable=False,
        )
        self.add_weight(
            name="running_var",
            shape=shape,
            initializer=self.moving_variance_initializer,
            trainable=False,
        )

    def call(
        self, inputs: mx.array, training: bool = False, mask: mx.array | None = None
    ) -> mx.array:
        x = inputs.astype(mx.float32)
        if training and self.trainable:
            mean, variance, count = self.moments(x, mask)
            if self.synchronized and ranks.size() > 1:
                mean, variance = of_all_ranks(mean, variance, count, x.shape[0])
            keep = self.momentum
            self.running_mean = keep * self.running_mean + (1 - keep) * mean
            self.running_var = keep * self.running_var + (1 - keep) * variance
        else:
            mean, variance = self.running_mean, self.running_var
        factor = mx.rsqrt(variance + self.epsilon)
        if self.scale:
            factor = factor * self.weight
        shift = self.bias - mean * factor if self.center else -mean * factor
        return (x * self.along(factor, x) + self.along(shift, x)).astype(inputs.dtype)

    def moments(self, x: mx.array, mask: mx.array | None) -> tuple[mx.array, mx.array, Any]:
        """Mean and biased variance over all axes but `axis`, and of how many values each is."""
        kept = axes_of(self.name, self.axis, x.ndim)
        axes = tuple(axis for axis in range(x.ndim) if axis not in kept)
        if mask is None:
            mean = mx.mean(x, axis=axes)
            return mean, mx.var(x, axis=axes), x.size // max(mean.size, 1)
        valid = mx.broadcast_to(step_mask(self.name, mask, x)[..., None], x.shape)
        count = mx.sum(valid.astype(x.dtype), axis=axes, keepdims=True) + 1e-7
        mean = mx.sum(mx.where(valid, x, 0), axis=axes, keepdims=True) / count
        squares = mx.square(mx.where(valid, x - mean, 0))
        variance = mx.sum(squares, axis=axes, keepdims=True) / count
        return mean.reshape(-1), variance.reshape(-1), count.reshape(-1)


def of_all_ranks(mean: mx.array, variance: mx.array, count: Any, rows: int) -> tuple[mx.array, ...]:
    """Mean and variance of all processes' values together, from those of each process.

    Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing
    sample variances, 1979.
    """
    counts = mx.broadcast_to(mx.array(count, mean.dtype), mean.shape)
    each = ranks.gathered(mx.stack([mean, variance, counts]), rows)
    means, variances, counts = each[:, 0], each[:, 1], each[:, 2]
    share = counts / mx.sum(counts, axis=0)
    mean = mx.sum(share * means, axis=0)
    return mean, mx.sum(share * (variances + mx.square(means - mean)), axis=0)


class LayerNormalization(Scaled):
    """weight · (x - mean) / sqrt(variance + epsilon) + bias, over `axis` of each sample.

    x (batch, ..., features) → the same; weight, bias (features,), or as many axes as `axis` names.

    Source: arXiv:1607.06450, https://keras.io/api/layers/normalization_layers/layer_normalization/
    """

    def build(self, input_shape: tuple) -> None:
        self.add_scale(input_shape)
        self.input_spec = sizes_of(self.axis, input_shape)

    def call(self, inputs: mx.array) -> mx.array:
        axes = axes_of(self.name, self.axis, inputs.ndim)
        if axes == (inputs.ndim - 1,):
            weight = self.weight if self.scale else None
            bias = self.bias if self.center else None
            return mx.fast.layer_norm(inputs, weight, bias, self.epsilon).astype(inputs.dtype)
        x = inputs.astype(mx.float32)
        x = x - mx.mean(x, axis=axes, keepdims=True)
        x = x * mx.rsqrt(mx.mean(mx.square(x), axis=axes, keepdims=True) + self.epsilon)
        return self.finish(x).astype(inputs.dtype)


class GroupNormalization(Scaled):
    """Layer normalization over each of `groups` groups of channels, all positions together.

    x (batch, ..., channels) → the same; weight, bias (channels,). groups -1: one for each channel.

    Source: arXiv:1803.08494, https://keras.io/api/layers/normalization_layers/group_normalization/
    """

    def __init__(
        self,
        groups: int = 32,
        axis: int = -1,
        epsilon: float = 1e-3,
        center: bool = True,
        scale: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(axis, epsilon, center, scale, **kwargs)
        if not isinstance(groups, int) or (groups <= 0 and groups != -1):
            raise ValueError(
                f"{self.name}: expected groups to be a positive integer or -1, got {groups!r}. "
                "-1 makes a group of each channel."
            )
        self.groups = groups

    def build(self, input_shape: tuple) -> None:
        (size,) = self.add_scale(input_shape)
        if size % self.groups:
            raise ValueError(
                f"{self.name}: expected channels that are a multiple of groups {self.groups}, got "
                f"{size} of shape {input_shape}. Choose groups that divide them."
            )

    def call(self, inputs: mx.array) -> mx.array:
        (axis,) = axes_of(self.name, self.axis, inputs.ndim)
        shape = inputs.shape
        groups = shape[axis] if self.groups == -1 else self.groups
        x = inputs.astype(mx.float32)
        x = x.reshape(*shape[:axis], groups, shape[axis] // groups, *shape[axis + 1 :])
        axes = tuple(k for k in range(1, x.ndim) if k != axis)
        x = x - mx.mean(x, axis=axes, keepdims=True)
        x = x * mx.rsqrt(mx.mean(mx.square(x), axis=axes, keepdims=True) + self.epsilon)
        return self.finish(x.reshape(shape)).astype(inputs.dtype)


class RMSNormalization(Layer):
    """weight · x / sqrt(mean of x² + epsilon), over `axis`. As in Keras, a mask ends here.

    x (batch, ..., features) → the same; weight (features,), or as many axes as `axis` names.

    Source: arXiv:1910.07467, https://keras.io/api/layers/normalization_layers/rms_normalization/
    """

    def __init__(
        self, axis: int | tuple[int, ...] = -1, epsilon: float = 1e-6, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.axis: Any = axis if isinstance(axis, int) else tuple(axis)
        self.epsilon = epsilon

    def build(self, input_shape: tuple) -> None:
        axes = axes_of(self.name, self.axis, len(input_shape))
        self.add_weight(
            name="weight",
            shape=tuple(known_size(self.name, input_shape, a) for a in axes),
            initializer="ones",
        )
        self.input_spec = sizes_of(self.axis, input_shape)

    def call(self, inputs: mx.array) -> mx.array:
        axes = axes_of(self.name, self.axis, inputs.ndim)
        if axes == (inputs.ndim - 1,):
            return mx.fast.rms_norm(inputs, self.weight, self.epsilon).astype(inputs.dtype)
        mean = mx.mean(mx.square(inputs), axis=axes, keepdims=True)
        return inputs * mx.rsqrt(mean + self.epsilon) * along(self.weight, inputs, axes)


class UnitNormalization(Layer):
    """x / |x|, the L2 norm over `axis`.

    Source: https://keras.io/api/layers/normalization_layers/unit_normalization/
    """

    supports_masking = True

    def __init__(self, axis: int | tuple[int, ...] = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis: Any = axis if isinstance(axis, int) else tuple(axis)

    def call(self, inputs: mx.array) -> mx.array:
        axes = axes_of(self.name, self.axis, inputs.ndim)
        squares = mx.sum(mx.square(inputs), axis=axes, keepdims=True)
        return inputs * mx.rsqrt(mx.maximum(squares, 1e-24))
