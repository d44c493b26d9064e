"""Constraints: `constraint(weight) -> weight`, applied after each update. Keras's layout.

Norms are taken over `axis`: 0 for a Dense kernel (in, out) means each unit's inputs,
(0, 1, 2) for a Conv2D kernel (height, width, in, out) each filter.
Source: https://keras.io/api/layers/constraints/
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from .conversion import to_mlx
from .registry import Configurable, Registry

REGISTRY = Registry("constraints")
get, serialize, deserialize = REGISTRY.get, REGISTRY.serialize, REGISTRY.deserialize

_EPSILON = 1e-7


class Constraint(Configurable):
    """The base of all: subclasses implement `__call__(weight)`."""

    def __call__(self, weight: mx.array) -> mx.array:
        raise NotImplementedError(f"{type(self).__name__}: expected a `__call__(weight)`.")


class MaxNorm(Constraint):
    """w * min(|w|, max_value) / |w|"""

    def __init__(self, max_value: float = 2, axis: int | Sequence[int] = 0) -> None:
        self.max_value, self.axis = max_value, axis

    def __call__(self, weight: mx.array) -> mx.array:
        weight = to_mlx(weight)
        norm = _norm(weight, self.axis)
        return weight * (mx.minimum(norm, self.max_value) / (_EPSILON + norm))


class NonNeg(Constraint):
    """max(w, 0)"""

    def __call__(self, weight: mx.array) -> mx.array:
        weight = to_mlx(weight)
        return mx.maximum(weight, 0)


class UnitNorm(Constraint):
    """w / |w|"""

    def __init__(self, axis: int | Sequence[int] = 0) -> None:
        self.axis = axis

    def __call__(self, weight: mx.array) -> mx.array:
        weight = to_mlx(weight)
        return weight / (_EPSILON + _norm(weight, self.axis))


class MinMaxNorm(Constraint):
    """w moved toward a norm within [min_value, max_value]: all the way at rate 1."""

    def __init__(
        self,
        min_value: float = 0.0,
        max_value: float = 1.0,
        rate: float = 1.0,
        axis: int | Sequence[int] = 0,
    ) -> None:
        self.min_value, self.max_value, self.rate, self.axis = min_value, max_value, rate, axis

    def __call__(self, weight: mx.array) -> mx.array:
        weight = to_mlx(weight)
        norm = _norm(weight, self.axis)
        clipped = mx.clip(norm, self.min_value, self.max_value)
        wanted = self.rate * clipped + (1 - self.rate) * norm
        return weight * (wanted / (_EPSILON + norm))


def _norm(weight: mx.array, axis: int | Sequence[int]) -> mx.array:
    axes = axis if isinstance(axis, int) else list(axis)
    return mx.sqrt(mx.sum(mx.square(weight), axis=axes, keepdims=True))


max_norm, non_neg, unit_norm, min_max_norm = MaxNorm, NonNeg, UnitNorm, MinMaxNorm

REGISTRY.register(MaxNorm, "maxnorm")
REGISTRY.register(NonNeg, "nonneg")
REGISTRY.register(UnitNorm, "unitnorm")
REGISTRY.register(MinMaxNorm, "minmaxnorm")
