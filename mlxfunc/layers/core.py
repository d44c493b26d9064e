"""Dense, Embedding and what wraps a function: Activation, Lambda, MLXLayer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .. import activations, bounds, modules
from ..conversion import to_mlx
from ..given_ids import check_ids
from ..layer import InputSpec, Layer


def positive(name: str, **values: Any) -> None:
    """Refuse sizes that are not positive integers."""
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise ValueError(
                f"{name}: expected {key} to be a positive integer, got {value!r}. Use 1 or more."
            )


def known_size(name: str, shape: tuple, axis: int) -> int:
    """The size of one axis, which the layer's weights depend on."""
    if not -len(shape) <= axis < len(shape) or shape[axis] is None:
        raise ValueError(
            f"{name}: expected a known size on axis {axis}, got shape {shape}. "
            "Weights depend on it: give that size in Input."
        )
    return shape[axis]


def broadcasts(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a shape is the wanted one, but for axes of size 1."""
    return len(shape) == len(wanted) and all(
        m in (1, n) for m, n in zip(shape, wanted, strict=True)
    )


class BiasLayer(Layer):
    """A layer with perhaps a bias, and an activation of its result."""

    bias: Any

    def __init__(
        self,
        *,
        activation: Any = None,
        use_bias: bool = True,
        bias_initializer: Any = "zeros",
        bias_regularizer: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.activation, self.use_bias = activations.get(activation), use_bias
        self.set_role("bias", bias_initializer, bias_regularizer, bias_constraint)

    def add_bias(self, shape: tuple[int, ...]) -> None:
        if self.use_bias:
            self.add_weight(name="bias", shape=shape, role="bias")
        else:
            self.bias = None

    def finish(self, y: mx.array) -> mx.array:
        """activation(y + bias)"""
        return self.activation(y + self.bias if self.use_bias else y)


class KernelLayer(BiasLayer):
    """A layer with a kernel, perhaps a bias, and an activation of their result."""

    def __init__(
        self,
        *,
        kernel_initializer: Any = "glorot_uniform",
        kernel_regularizer: Any = None,
        kernel_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.set_role("kernel", kernel_initializer, kernel_regularizer, kernel_constraint)


class Dense(KernelLayer):
    """activation(x Wᵀ + b) on the last axis.

    x (batch, ..., in) → (batch, ..., units); weight (units, in), bias (units,).

    Source: https://keras.io/api/layers/core_layers/dense/
    """

    supports_masking = True

    def __init__(
        self, units: int, activation: Any = None, use_bias: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(activation=activation, use_bias=use_bias, **kwargs)
        positive(self.name, units=units)
        self.units = units

    def build(self, input_shape: tuple) -> None:
        InputSpec(min_ndim=2).check(self.name, input_shape)
        size = known_size(self.name, input_shape, -1)
        self.add_weight(name="weight", shape=(size, self.units), role="kernel", axes=(1, 0))
        self.add_bias((self.units,))
        self.input_spec = InputSpec(min_ndim=2, axes={-1: size})

    def call(self, inputs: mx.array) -> mx.array:
        kernel = self.weight.T
        y = mx.addmm(self.bias, inputs, kernel) if self.use_bias else inputs @ kernel
        return self.activation(y)


class Embedding(Layer):
    """weight[ids].

    ids (...) integers in [0, input_dim) → (..., output_dim); weight (input_dim, output_dim). Other
    ids in data are refused; where the model itself computes one, it is -1 for the last row, as in
    NumPy, and beyond that the nearest end of the table.
    With `mask_zero`, id 0 is padding: the mask is ids != 0. `weights` is a list of one array,
    (input_dim, output_dim), to start from.

    Source: https://keras.io/api/layers/core_layers/embedding/
    """

    reads_ids = True

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: Any = "uniform",
        embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None,
        mask_zero: bool = False,
        weights: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        positive(self.name, input_dim=input_dim, output_dim=output_dim)
        self._start = weights
        self.input_dim, self.output_dim, self.mask_zero = input_dim, output_dim, mask_zero
        self.set_role(
            "embeddings", embeddings_initializer, embeddings_regularizer, embeddings_constraint
        )
        self.supports_masking = mask_zero

    def build(self, input_shape: tuple | None = None) -> None:
        self.add_weight(name="weight", shape=(self.input_dim, self.output_dim), role="embeddings")
        if self._start is not None:
            self.set_weights(self._start)
            self._start = None

    def call(self, inputs: mx.array) -> mx.array:
        return bounds.take(self.weight, inputs, axis=0)

    def check_ids(self, inputs: Any) -> None:
        check_ids(self.name, inputs, self.input_dim)

    def compute_mask(self, inputs: mx.array, mask: Any = None) -> mx.array | None:
        return inputs != 0 if self.mask_zero else None

    def _argument(self, name: str) -> Any:
        # Files keep the weights themselves.
        return None if name == "weights" else super()._argument(name)


class Activation(Layer):
    """activation(x), of the shape of x."""

    supports_masking = True

    def __init__(self, activation: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.activation = activations.get(activation)

    def call(self, inputs: mx.array) -> mx.array:
        return self.activation(inputs)


class Identity(Layer):
    """x"""

    supports_masking = True
    moves_values = True

    def call(self, inputs: Any) -> Any:
        return inputs


class Masking(Layer):
    """Masks the steps whose features all equal `mask_value`, and sets them to 0.

    x (batch, time, ...) → the same; mask (batch, time) is true where any feature differs.

    Source: https://keras.io/api/layers/core_layers/masking/
    """

    supports_masking = True

    def __init__(self, mask_value: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mask_value = mask_value

    def call(self, inputs: mx.array) -> mx.array:
        return inputs * self.compute_mask(inputs)[..., None].astype(inputs.dtype)

    def compute_mask(self, inputs: mx.array, mask: Any = None) -> mx.array:
        return mx.any(to_mlx(inputs) != self.mask_value, axis=-1)


class Lambda(Layer):
    """function(x, **arguments), any function of MLX arrays.

    A saved model names the function: decorate it with `saving.register_serializable()`, or give
    `custom_objects` when loading. `output_shape` is accepted and not needed.

    Source: https://keras.io/api/layers/core_layers/lambda/
    """

    def __init__(
        self,
        function: Callable,
        *,
        mask: Any = None,
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("output_shape", None)
        super().__init__(**kwargs)
        self.function = activations.get(function)
        self.mask, self.arguments = mask, arguments
        self.supports_masking = mask is not None

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        known = _parameters(self.function)
        flags = {"training": training, "mask": mask}
        extra = {key: value for key, value in flags.items() if key in known}
        return self.function(inputs, **(self.arguments or {}), **extra)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return self.mask(inputs, mask) if callable(self.mask) else self.mask


def _parameters(function: Callable) -> Collection[str]:
    try:
        return inspect.signature(function).parameters
    except ValueError:
        # MLX's own functions have no signature that Python can read.
        return ()


class MLXLayer(Layer):
    """Any `mlx.nn.Module` as a layer: its weights train, save and count as a layer's do.

    Positional and keyword arguments are the module's own. `training` reaches it as
    `module.train(...)`. A saved model describes the module's structure; a class that is not of
    `mlx.nn` must be registered, or given as `custom_objects` when loading.
    """

    def __init__(self, module: nn.Module | dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(module, dict) and not isinstance(module, nn.Module):
            module = modules.rebuild(module)
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"{self.name}: expected an mlx.nn.Module, got {type(module).__name__}. "
                "Use Lambda for a function."
            )
        self.module = module

    def call(self, inputs: Any, *args: Any, training: bool = False, **kwargs: Any) -> Any:
        if self.module.training != training:
            self.module.train(training)
        return self.module(inputs, *args, **kwargs)

    def _argument(self, name: str) -> Any:
        return modules.describe(self.module) if name == "module" else super()._argument(name)
