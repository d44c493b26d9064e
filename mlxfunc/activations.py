"""Activations: elementwise functions and the softmax family, `x -> y` with y shaped as x.

Source: https://keras.io/api/layers/activations/
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import mlx.core as mx

from .conversion import to_mlx
from .registry import Registry

REGISTRY = Registry("activations")
serialize, deserialize = REGISTRY.serialize, REGISTRY.deserialize

Function = TypeVar("Function", bound=Callable[..., mx.array])


def activation(*names: str) -> Callable[[Function], Function]:
    """Registers a function of an array, also under `names`, and gives it what is not one as one."""

    def register(function: Function) -> Function:
        @functools.wraps(function)
        def on_arrays(x: Any, *args: Any, **kwargs: Any) -> mx.array:
            return function(to_mlx(x), *args, **kwargs)

        return REGISTRY.register(on_arrays, *names)

    return register


@activation()
def linear(x: mx.array) -> mx.array:
    """x"""
    return x


@activation()
def relu(
    x: mx.array,
    negative_slope: float = 0.0,
    max_value: float | None = None,
    threshold: float = 0.0,
) -> mx.array:
    """min(x, max_value) above threshold, negative_slope * (x - threshold) below it."""
    if threshold:
        y = mx.where(x > threshold, x, 0.0).astype(x.dtype)
    else:
        y = mx.maximum(x, 0)
    if max_value is not None:
        y = mx.minimum(y, max_value)
    if negative_slope:
        y = y - negative_slope * mx.maximum(threshold - x, 0)
    return y


@activation()
def relu6(x: mx.array) -> mx.array:
    """min(max(x, 0), 6)"""
    return mx.clip(x, 0, 6)


@activation()
def leaky_relu(x: mx.array, negative_slope: float = 0.2) -> mx.array:
    """x above zero, negative_slope * x below it."""
    return mx.where(x >= 0, x, negative_slope * x)


@activation()
def elu(x: mx.array, alpha: float = 1.0) -> mx.array:
    """x above zero, alpha * (exp(x) - 1) below it. Source: arXiv:1511.07289"""
    return mx.where(x > 0, x, alpha * mx.expm1(mx.minimum(x, 0)))


@activation()
def selu(x: mx.array) -> mx.array:
    """scale * elu(x, alpha), scale and alpha of arXiv:1706.02515."""
    return 1.0507009873554805 * elu(x, 1.6732632423543772)


@activation()
def celu(x: mx.array, alpha: float = 1.0) -> mx.array:
    """max(x, 0) + min(0, alpha * (exp(x / alpha) - 1)). Source: arXiv:1704.07483"""
    return mx.maximum(x, 0) + alpha * mx.expm1(mx.minimum(x, 0) / alpha)


@activation()
def gelu(x: mx.array, approximate: bool = False) -> mx.array:
    """x * Phi(x), exact by default, else by tanh. Source: arXiv:1606.08415"""
    if approximate:
        return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + mx.erf(x * math.sqrt(0.5)))


@activation("swish")
def silu(x: mx.array) -> mx.array:
    """x * sigmoid(x), also called swish."""
    return x * mx.sigmoid(x)


@activation()
def sigmoid(x: mx.array) -> mx.array:
    """1 / (1 + exp(-x))"""
    return mx.sigmoid(x)


@activation()
def hard_sigmoid(x: mx.array) -> mx.array:
    """relu6(x + 3) / 6"""
    return mx.clip(x + 3, 0, 6) / 6


@activation("hard_swish")
def hard_silu(x: mx.array) -> mx.array:
    """x * hard_sigmoid(x), also called hard_swish."""
    return x * hard_sigmoid(x)


@activation()
def softmax(x: mx.array, axis: int = -1) -> mx.array:
    """exp(x) / sum of exp(x) over `axis`."""
    return mx.softmax(x, axis=axis)


@activation()
def log_softmax(x: mx.array, axis: int = -1) -> mx.array:
    """x - log of the sum of exp(x) over `axis`."""
    return x - mx.logsumexp(x, axis=axis, keepdims=True)


@activation()
def log_sigmoid(x: mx.array) -> mx.array:
    """-softplus(-x)"""
    return -mx.logaddexp(-x, 0)


@activation()
def softplus(x: mx.array) -> mx.array:
    """log(1 + exp(x))"""
    return mx.logaddexp(x, 0)


@activation()
def softsign(x: mx.array) -> mx.array:
    """x / (1 + |x|)"""
    return x / (1 + mx.abs(x))


@activation()
def tanh(x: mx.array) -> mx.array:
    """tanh(x)"""
    return mx.tanh(x)


@activation()
def tanh_shrink(x: mx.array) -> mx.array:
    """x - tanh(x)"""
    return x - mx.tanh(x)


@activation()
def hard_tanh(x: mx.array) -> mx.array:
    """min(max(x, -1), 1)"""
    return mx.clip(x, -1, 1)


@activation()
def hard_shrink(x: mx.array, threshold: float = 0.5) -> mx.array:
    """x where |x| > threshold, else 0."""
    return mx.where(mx.abs(x) > threshold, x, mx.zeros_like(x))


@activation()
def soft_shrink(x: mx.array, threshold: float = 0.5) -> mx.array:
    """sign(x) * max(|x| - threshold, 0)"""
    return mx.sign(x) * mx.maximum(mx.abs(x) - threshold, 0)


@activation()
def squareplus(x: mx.array, b: float = 4) -> mx.array:
    """(x + sqrt(x^2 + b)) / 2"""
    return 0.5 * (x + mx.sqrt(x * x + b))


@activation()
def exponential(x: mx.array) -> mx.array:
    """exp(x)"""
    return mx.exp(x)


@activation()
def mish(x: mx.array) -> mx.array:
    """x * tanh(softplus(x)). Source: arXiv:1908.08681"""
    return x * mx.tanh(softplus(x))


@activation()
def glu(x: mx.array, axis: int = -1) -> mx.array:
    """a * sigmoid(b), where a and b are the halves of x along `axis`, which must be even."""
    if x.shape[axis] % 2:
        raise ValueError(
            f"glu: expected an even size along axis {axis}, got shape {x.shape}. "
            "Give the layer before it twice as many units as you want."
        )
    a, b = mx.split(x, 2, axis=axis)
    return a * mx.sigmoid(b)


@activation()
def sparse_plus(x: mx.array) -> mx.array:
    """0 up to -1, (x + 1)^2 / 4 between -1 and 1, x from 1 on."""
    return mx.where(x >= 1, x, 0.25 * mx.square(mx.clip(x, -1, 1) + 1))


@activation()
def sparse_sigmoid(x: mx.array) -> mx.array:
    """0 up to -1, (x + 1) / 2 between -1 and 1, 1 from 1 on."""
    return 0.5 * mx.clip(x + 1, 0, 2)


@activation()
def threshold(x: mx.array, threshold: float, default_value: float) -> mx.array:
    """x where x > threshold, else default_value."""
    return mx.where(x > threshold, x, mx.full(x.shape, default_value, x.dtype))


@activation()
def sparsemax(x: mx.array, axis: int = -1) -> mx.array:
    """The point of the probability simplex nearest to x along `axis`.

    Where we differ from Keras: 3.15 sums the wrong numbers, and its results do not add up to 1.
    Source: arXiv:1602.02068
    """
    z = mx.moveaxis(x, axis, -1)
    ordered = -mx.sort(-z, axis=-1)
    sums = mx.cumsum(ordered, axis=-1)
    ranks = mx.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    support = (1 + ranks * ordered > sums).astype(z.dtype)
    size = mx.sum(support, axis=-1, keepdims=True)
    cut = (mx.sum(support * ordered, axis=-1, keepdims=True) - 1) / size
    return mx.moveaxis(mx.maximum(z - cut, 0), -1, axis)


swish, hard_swish = silu, hard_silu


def get(identifier: Any) -> Callable[..., Any]:
    """The activation of that name, or the given callable; None is `linear`."""
    return linear if identifier is None else REGISTRY.get(identifier)
