"""Regularizers: `regularizer(weight) -> scalar`, added to the loss. Weights in Keras's layout.

Source: https://keras.io/api/layers/regularizers/
"""

from __future__ import annotations

import mlx.core as mx

from .conversion import to_mlx
from .registry import Configurable, Registry

REGISTRY = Registry("regularizers")
get, serialize, deserialize = REGISTRY.get, REGISTRY.serialize, REGISTRY.deserialize


class Regularizer(Configurable):
    """The base of all: subclasses implement `__call__(weight)`."""

    def __call__(self, weight: mx.array) -> mx.array:
        raise NotImplementedError(f"{type(self).__name__}: expected a `__call__(weight)`.")


class L1(Regularizer):
    """l1 * sum |w|"""

    def __init__(self, l1: float = 0.01) -> None:
        self.l1 = _factor("L1", "l1", l1, 0.01)

    def __call__(self, weight: mx.array) -> mx.array:
        weight = to_mlx(weight)
        return self.l1 * mx.sum(mx.abs(weight))


class L2(Regularizer):
    """l2 * sum w^2"""

    def __init__(self, l2: float = 0.01) -> None:
        self.l2 = _factor("L2", "l2", l2, 0.01)

    def __call__(self, weight: mx.array) -> mx.array:
        weight = to_mlx(weight)
        return self.l2 * mx.sum(mx.square(weight))


class L1L2(Regularizer):
    """l1 * sum |w| + l2 * sum w^2"""

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        self.l1 = _factor("L1L2", "l1", l1, 0.0)
        self.l2 = _factor("L1L2", "l2", l2, 0.0)

    def __call__(self, weight: mx.array) -> mx.array:
        weight = to_mlx(weight)
        return self.l1 * mx.sum(mx.abs(weight)) + self.l2 * mx.sum(mx.square(weight))


class OrthogonalRegularizer(Regularizer):
    """factor times the mean |cosine| between each two rows (or columns) of a matrix.

    Raises: ValueError for a weight that is no matrix.
    """

    def __init__(self, factor: float = 0.01, mode: str = "rows") -> None:
        self.factor = _factor("OrthogonalRegularizer", "factor", factor, 0.01)
        if mode not in ("rows", "columns"):
            raise ValueError(f"OrthogonalRegularizer: expected 'rows' or 'columns', got {mode!r}.")
        self.mode = mode

    def __call__(self, weight: mx.array) -> mx.array:
        weight = to_mlx(weight)
        if weight.ndim != 2:
            raise ValueError(
                f"OrthogonalRegularizer: expected a matrix, got shape {weight.shape}. "
                "Use it on kernels of rank 2."
            )
        w = weight if self.mode == "rows" else weight.T
        w = w * mx.rsqrt(mx.maximum(mx.sum(mx.square(w), axis=1, keepdims=True), 1e-12))
        size = w.shape[0]
        cosines = mx.abs((w @ w.T) * (1 - mx.eye(size, dtype=w.dtype)))
        return self.factor * 0.5 * mx.sum(cosines) / max(size * (size - 1) / 2, 1)


def _factor(owner: str, name: str, value: float | None, default: float) -> float:
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e38:
        raise ValueError(f"{owner}: expected {name} to be a number of at least 0, got {value!r}.")
    return float(value)


l1, l2, l1_l2, orthogonal_regularizer = L1, L2, L1L2, OrthogonalRegularizer

REGISTRY.register(L1)
REGISTRY.register(L2)
REGISTRY.register(L1L2, "l1_l2")
REGISTRY.register(OrthogonalRegularizer, "orthogonal")
