"""Activations that have parameters, as layers: ReLU, LeakyReLU, ELU, PReLU, Softmax."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .. import activations
from ..layer import InputSpec, Layer
from .core import known_size
from .normalization import axes_of


def at_least_zero(name: str, **values: float | None) -> None:
    for key, value in values.items():
        if value is None or value < 0:
            raise ValueError(f"{name}: expected {key} of at least 0, got {value!r}.")


class ReLU(Layer):
    """min(x, max_value) above threshold, negative_slope · (x - threshold) below it.

    Source: https://keras.io/api/layers/activation_layers/relu/
    """

    supports_masking = True

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        threshold: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        at_least_zero(self.name, negative_slope=negative_slope, threshold=threshold)
        if max_value is not None:
            at_least_zero(self.name, max_value=max_value)
        self.max_value, self.negative_slope = max_value, negative_slope
        self.threshold = threshold

    def call(self, inputs: mx.array) -> mx.array:
        return activations.relu(inputs, self.negative_slope, self.max_value, self.threshold)


class LeakyReLU(Layer):
    """x above zero, negative_slope · x below it.

    Source: https://keras.io/api/layers/activation_layers/leaky_relu/
    """

    supports_masking = True

    def __init__(self, negative_slope: float = 0.3, **kwargs: Any) -> None:
        # Keras 2 called the slope alpha.
        negative_slope = kwargs.pop("alpha", negative_slope)
        super().__init__(**kwargs)
        at_least_zero(self.name, negative_slope=negative_slope)
        self.negative_slope = negative_slope

    def call(self, inputs: mx.array) -> mx.array:
        return activations.leaky_relu(inputs, self.negative_slope)


class ELU(Layer):
    """x above zero, alpha · (exp(x) - 1) below it. Source: arXiv:1511.07289"""

    supports_masking = True

    def __init__(self, alpha: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.alpha = alpha

    def call(self, inputs: mx.array) -> mx.array:
        return activations.elu(inputs, self.alpha)


class PReLU(Layer):
    """x above zero, weight · x below it.

    weight has the shape of one sample, and 1 along `shared_axes` (counted with the batch).

    Source: arXiv:1502.01852, https://keras.io/api/layers/activation_layers/prelu/
    """

    supports_masking = True

    def __init__(
        self,
        alpha_initializer: Any = "zeros",
        alpha_regularizer: Any = None,
        alpha_constraint: Any = None,
        shared_axes: int | list[int] | tuple[int, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.set_role("alpha", alpha_initializer, alpha_regularizer, alpha_constraint)
        axes = (shared_axes,) if isinstance(shared_axes, int) else shared_axes
        self.shared_axes = None if axes is None else tuple(axes)

    def build(self, input_shape: tuple) -> None:
        shared = axes_of(self.name, self.shared_axes or (), len(input_shape))
        if 0 in shared:
            raise ValueError(
                f"{self.name}: expected shared_axes after the batch, got {self.shared_axes}. "
                "Axis 1 is the first of a sample."
            )
        own = {
            axis: known_size(self.name, input_shape, axis)
            for axis in range(1, len(input_shape))
            if axis not in shared
        }
        shape = tuple(own.get(axis, 1) for axis in range(1, len(input_shape)))
        self.add_weight(name="weight", shape=shape, role="alpha")
        self.input_spec = InputSpec(ndim=len(input_shape), axes=own)

    def call(self, inputs: mx.array) -> mx.array:
        return mx.maximum(inputs, 0) - self.weight * mx.maximum(-inputs, 0)


class Softmax(Layer):
    """exp(x) / sum of exp(x) over `axis`, one or several.

    A mask, which broadcasts against x, leaves out where it is false: 0 there.

    Source: https://keras.io/api/layers/activation_layers/softmax/
    """

    supports_masking = True

    def __init__(self, axis: int | list[int] | tuple[int, ...] = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis: Any = axis if isinstance(axis, int) else tuple(axis)

    def call(self, inputs: mx.array, mask: mx.array | None = None) -> mx.array:
        axes = axes_of(self.name, self.axis, inputs.ndim)
        if mask is None:
            return mx.softmax(inputs, axis=axes)
        pairs = zip(mask.shape[::-1], inputs.shape[::-1], strict=False)
        if mask.ndim > inputs.ndim or any(m not in (1, n) for m, n in pairs):
            raise ValueError(
                f"{self.name}: expected a mask that broadcasts to {inputs.shape}, got shape "
                f"{mask.shape}. Each size is 1 or the input's."
            )
        kept = mask if mask.dtype == mx.bool_ else mask > 0.5
        low = -3e4 if inputs.dtype == mx.float16 else -1e9
        y = mx.softmax(mx.where(kept, inputs, mx.array(low, inputs.dtype)), axis=axes)
        return mx.where(kept, y, mx.array(0, y.dtype))
