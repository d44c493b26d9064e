"""Initializers: `initializer(shape, dtype) -> array`. Fans are those of the shape as Keras has it.

For a shape (..., in, out), with r the product of the leading sizes, fan_in = r * in and
fan_out = r * out. Source: https://keras.io/api/layers/initializers/
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from .conversion import DTypeLike, as_dtype, to_mlx
from .registry import Configurable, Registry

REGISTRY = Registry("initializers")
serialize, deserialize = REGISTRY.serialize, REGISTRY.deserialize

# The standard deviation of a unit normal cut at two of them.
_TRUNCATED_STD = 0.87962566103423978


class Initializer(Configurable):
    """The base of all: subclasses implement `__call__(shape, dtype)`, or `values` for MLX's types.

    Args:
        shape: an int or several.
        dtype: a name or MLX's dtype; None: float32.
    """

    def __call__(self, shape: int | Sequence[int], dtype: DTypeLike = None) -> mx.array:
        sizes = (shape,) if isinstance(shape, int) else tuple(int(size) for size in shape)
        return self.values(sizes, as_dtype("float32" if dtype is None else dtype))

    def values(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        raise NotImplementedError(f"{type(self).__name__}: expected a `__call__(shape, dtype)`.")


class Zeros(Initializer):
    """0"""

    def values(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        return mx.zeros(shape, dtype)


class Ones(Initializer):
    """1"""

    def values(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        return mx.ones(shape, dtype)


class Constant(Initializer):
    """`value`, a number or anything that broadcasts to the shape."""

    def __init__(self, value: Any = 0.0) -> None:
        self.value = value

    def values(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        return mx.broadcast_to(to_mlx(self.value).astype(dtype), shape)


class Identity(Initializer):
    """`gain` on the diagonal of a matrix, 0 elsewhere."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def values(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        if len(shape) != 2:
            raise ValueError(f"Identity: expected the shape of a matrix, got {tuple(shape)}.")
        return self.gain * mx.eye(shape[0], shape[1], dtype=dtype)


class RandomInitializer(Initializer):
    """Draws from `mlx.random`; with a `seed`, the same numbers at each call."""

    seed: int | None

    def key(self) -> mx.array | None:
        return None if self.seed is None else mx.random.key(self.seed)


class RandomNormal(RandomInitializer):
    """Normal of the given mean and standard deviation."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        self.mean, self.stddev, self.seed = mean, stddev, seed

    def values(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        return mx.random.normal(shape, dtype, self.mean, self.stddev, key=self.key())


class TruncatedNormal(RandomInitializer):
    """Normal, drawn again beyond two standard deviations from the mean."""

    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: int | None = None) -> None:
        self.mean, self.stddev, self.seed = mean, stddev, seed

    def values(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        return self.mean + self.stddev * _truncated(shape, dtype, self.key())


class RandomUniform(RandomInitializer):
    """Uniform on [minval, maxval)."""

    def __init__(
        self, minval: float = -0.05, maxval: float = 0.05, seed: int | None = None
    ) -> None:
        self.minval, self.maxval, self.seed = minval, maxval, seed

    def values(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        return mx.random.uniform(self.minval, self.maxval, shape, dtype, key=self.key())


class VarianceScaling(RandomInitializer):
    """Zero mean and variance scale / fan, fan one of fan_in, fan_out and fan_avg.

    Args:
        distribution: truncated_normal, untruncated_normal or uniform.
        input_axes, output_axes: given both, the fans are the products of these sizes.
    """

    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: int | None = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
    ) -> None:
        distribution = "truncated_normal" if distribution == "normal" else distribution
        if scale <= 0:
            raise ValueError(f"VarianceScaling: expected a scale above 0, got {scale}.")
        if mode not in _FANS:
            raise ValueError(f"VarianceScaling: expected mode in {sorted(_FANS)}, got {mode!r}.")
        if distribution not in _DISTRIBUTIONS:
            raise ValueError(
                f"VarianceScaling: expected distribution in {_DISTRIBUTIONS}, got {distribution!r}."
            )
        self.scale, self.mode, self.distribution, self.seed = scale, mode, distribution, seed
        self.input_axes, self.output_axes = input_axes, output_axes

    def fans(self, shape: Sequence[int]) -> tuple[float, float]:
        if self.input_axes is None or self.output_axes is None:
            return fans(shape)
        axes = (self.input_axes, self.output_axes)
        fan_in, fan_out = (math.prod(shape[i] for i in group) for group in axes)
        return fan_in, fan_out

    def values(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        std = math.sqrt(self.scale / max(1.0, _FANS[self.mode](*self.fans(shape))))
        if self.distribution == "uniform":
            limit = math.sqrt(3.0) * std
            return mx.random.uniform(-limit, limit, shape, dtype, key=self.key())
        if self.distribution == "untruncated_normal":
            return mx.random.normal(shape, dtype, 0.0, std, key=self.key())
        return std / _TRUNCATED_STD * _truncated(shape, dtype, self.key())


class _Scaled(VarianceScaling):
    """VarianceScaling whose scale, mode and distribution are the class's."""

    arguments: tuple[float, str, str]

    def __init__(
        self,
        seed: int | None = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
    ) -> None:
        super().__init__(*self.arguments, seed, input_axes, output_axes)


class GlorotUniform(_Scaled):
    """Uniform within ±sqrt(6 / (fan_in + fan_out)). Source: Glorot and Bengio, 2010"""

    arguments = (1.0, "fan_avg", "uniform")


class GlorotNormal(_Scaled):
    """Truncated normal, variance 2 / (fan_in + fan_out). Source: Glorot and Bengio, 2010"""

    arguments = (1.0, "fan_avg", "truncated_normal")


class HeUniform(_Scaled):
    """Uniform within ±sqrt(6 / fan_in). Source: arXiv:1502.01852"""

    arguments = (2.0, "fan_in", "uniform")


class HeNormal(_Scaled):
    """Truncated normal, variance 2 / fan_in. Source: arXiv:1502.01852"""

    arguments = (2.0, "fan_in", "truncated_normal")


class LecunUniform(_Scaled):
    """Uniform within ±sqrt(3 / fan_in)."""

    arguments = (1.0, "fan_in", "uniform")


class LecunNormal(_Scaled):
    """Truncated normal, variance 1 / fan_in."""

    arguments = (1.0, "fan_in", "truncated_normal")


class Orthogonal(RandomInitializer):
    """`gain` times a matrix with orthonormal rows or columns, whichever are fewer.

    A shape of rank above 2 is seen as (product of all but the last, last).
    Source: arXiv:1312.6120
    """

    def __init__(self, gain: float = 1.0, seed: int | None = None) -> None:
        self.gain, self.seed = gain, seed

    def values(self, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
        if len(shape) < 2:
            raise ValueError(f"Orthogonal: expected at least two axes, got shape {tuple(shape)}.")
        rows, columns = math.prod(shape[:-1]), shape[-1]
        drawn = mx.random.normal((max(rows, columns), min(rows, columns)), key=self.key())
        # MLX has QR on the CPU only.
        q, r = mx.linalg.qr(drawn, stream=mx.cpu)
        q = q * mx.sign(mx.diag(r))
        q = q.T if rows < columns else q
        return (self.gain * q).reshape(shape).astype(dtype)


def fans(shape: Sequence[int]) -> tuple[float, float]:
    """(fan_in, fan_out) of a kernel (..., in, out)."""
    if len(shape) < 2:
        size = shape[0] if shape else 1
        return size, size
    field = math.prod(shape[:-2])
    return field * shape[-2], field * shape[-1]


def with_fans(initializer: Any, input_axes: Sequence[int], output_axes: Sequence[int]) -> Any:
    """A copy that counts its fans along these axes, if it counts fans and was not told how."""
    if not isinstance(initializer, VarianceScaling) or initializer.input_axes is not None:
        return initializer
    told = copy.copy(initializer)
    told.input_axes, told.output_axes = input_axes, output_axes
    return told


def _truncated(shape: Sequence[int], dtype: mx.Dtype, key: mx.array | None) -> mx.array:
    return mx.random.truncated_normal(-2.0, 2.0, shape, mx.float32, key=key).astype(dtype)


_FANS = {
    "fan_in": lambda i, o: i,
    "fan_out": lambda i, o: o,
    "fan_avg": lambda i, o: (i + o) / 2,
}
_DISTRIBUTIONS = ("truncated_normal", "untruncated_normal", "uniform")

REGISTRY.register(Zeros, "zero")
REGISTRY.register(Ones, "one")
REGISTRY.register(Identity, "IdentityInitializer")
REGISTRY.register(Orthogonal, "OrthogonalInitializer")
REGISTRY.register(RandomNormal, "normal")
REGISTRY.register(RandomUniform, "uniform")
for _class in (
    *(Constant, TruncatedNormal, VarianceScaling),
    *(GlorotUniform, GlorotNormal, HeUniform, HeNormal, LecunUniform, LecunNormal),
):
    REGISTRY.register(_class)

zeros, ones, constant, identity, orthogonal = Zeros, Ones, Constant, Identity, Orthogonal
random_normal, random_uniform, truncated_normal = RandomNormal, RandomUniform, TruncatedNormal
glorot_uniform, glorot_normal, variance_scaling = GlorotUniform, GlorotNormal, VarianceScaling
he_uniform, he_normal, lecun_uniform, lecun_normal = HeUniform, HeNormal, LecunUniform, LecunNormal


def get(identifier: Any) -> Any:
    """The initializer of that name, config or class, or one that gives the array."""
    is_array = isinstance(identifier, mx.array | np.ndarray)
    return Constant(identifier) if is_array else REGISTRY.get(identifier)
