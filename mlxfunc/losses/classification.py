"""Losses between classes. Probabilities are clipped to [1e-7, 1 - 1e-7].

Source: https://keras.io/api/losses/probabilistic_losses/ and .../hinge_losses/
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ..bounds import as_integer, take_along_axis
from ..conversion import DTypeLike, to_mlx
from .base import FunctionLoss, as_float32, same_shape

EPSILON = 1e-7


@same_shape
def binary_crossentropy(
    y_true: mx.array,
    y_pred: mx.array,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> mx.array:
    """mean -(y log p + (1 - y) log(1 - p)); labels move by label_smoothing towards 1/2."""
    y_true = _smooth(y_true, label_smoothing, 2)
    return mx.mean(_binary(y_true, y_pred, from_logits), axis=axis)


@same_shape
def binary_focal_crossentropy(
    y_true: mx.array,
    y_pred: mx.array,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> mx.array:
    """binary_crossentropy times (1 - p_t)^gamma, p_t the probability of the truth.

    With class balancing, times alpha for class 1 and 1 - alpha for class 0.
    Source: arXiv:1708.02002
    """
    y_true = _smooth(y_true, label_smoothing, 2)
    p = mx.sigmoid(y_pred) if from_logits else y_pred
    p_true = y_true * p + (1 - y_true) * (1 - p)
    loss = mx.power(1 - p_true, gamma) * _binary(y_true, p, False)
    if apply_class_balancing:
        loss = (y_true * alpha + (1 - y_true) * (1 - alpha)) * loss
    return mx.mean(loss, axis=axis)


@same_shape
def categorical_crossentropy(
    y_true: mx.array,
    y_pred: mx.array,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> mx.array:
    """-sum y log p over `axis`, for one-hot labels; p is divided by its sum first."""
    y_true = _smooth(y_true, label_smoothing, y_true.shape[-1])
    if from_logits:
        log_p = y_pred - mx.logsumexp(y_pred, axis=axis, keepdims=True)
    else:
        log_p = mx.log(_probabilities(y_pred, axis))
    return -mx.sum(y_true * log_p, axis=axis)


@same_shape
def categorical_focal_crossentropy(
    y_true: mx.array,
    y_pred: mx.array,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> mx.array:
    """-sum alpha (1 - p)^gamma y log p over `axis`. Source: arXiv:1708.02002"""
    y_true = _smooth(y_true, label_smoothing, y_true.shape[-1])
    p = _probabilities(mx.softmax(y_pred, axis=axis) if from_logits else y_pred, axis)
    return -mx.sum(alpha * mx.power(1 - p, gamma) * y_true * mx.log(p), axis=axis)


def sparse_categorical_crossentropy(
    y_true: Any,
    y_pred: Any,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
) -> mx.array:
    """-log p[y] for integer labels y (...) or (..., 1) and p (..., classes).

    Labels equal to `ignore_class` give 0 (and the class's mean leaves them out).
    Raises: ValueError when the labels are not shaped as the output without `axis`.
    """
    y_pred = as_float32(y_pred)
    labels = _labels(y_true, y_pred, axis)
    kept = None if ignore_class is None else labels != ignore_class
    index = labels if kept is None else mx.where(kept, labels, 0)
    picked = take_along_axis(y_pred, mx.expand_dims(index, axis), axis=axis).squeeze(axis)
    if from_logits:
        loss = mx.logsumexp(y_pred, axis=axis) - picked
    else:
        loss = -mx.log(mx.clip(picked / mx.sum(y_pred, axis=axis), EPSILON, 1 - EPSILON))
    return loss if kept is None else mx.where(kept, loss, 0)


@same_shape
def kl_divergence(y_true: mx.array, y_pred: mx.array) -> mx.array:
    """sum y log(y / p), both within [1e-7, 1]"""
    y_true, y_pred = mx.clip(y_true, EPSILON, 1), mx.clip(y_pred, EPSILON, 1)
    return mx.sum(y_true * mx.log(y_true / y_pred), axis=-1)


@same_shape
def hinge(y_true: mx.array, y_pred: mx.array) -> mx.array:
    """mean max(1 - y p, 0), y in {-1, 1}; labels in {0, 1} are mapped to that."""
    return mx.mean(mx.maximum(1 - _signs(y_true) * y_pred, 0), axis=-1)


@same_shape
def squared_hinge(y_true: mx.array, y_pred: mx.array) -> mx.array:
    """mean max(1 - y p, 0)^2, y as in `hinge`"""
    return mx.mean(mx.square(mx.maximum(1 - _signs(y_true) * y_pred, 0)), axis=-1)


@same_shape
def categorical_hinge(y_true: mx.array, y_pred: mx.array) -> mx.array:
    """max(max over the wrong classes of p - the true class's p + 1, 0), y one-hot"""
    wrong = mx.max((1 - y_true) * y_pred, axis=-1)
    return mx.maximum(wrong - mx.sum(y_true * y_pred, axis=-1) + 1, 0)


def _binary(y_true: mx.array, y_pred: mx.array, from_logits: bool) -> mx.array:
    if from_logits:
        return mx.logaddexp(y_pred, 0) - y_true * y_pred
    p = mx.clip(y_pred, EPSILON, 1 - EPSILON)
    return -(y_true * mx.log(p) + (1 - y_true) * mx.log(1 - p))


def _probabilities(p: mx.array, axis: int) -> mx.array:
    return mx.clip(p / mx.sum(p, axis=axis, keepdims=True), EPSILON, 1 - EPSILON)


def _smooth(y_true: mx.array, amount: float, classes: int) -> mx.array:
    return y_true * (1 - amount) + amount / classes if amount else y_true


def _signs(y_true: mx.array) -> mx.array:
    binary = mx.all((y_true == 0) | (y_true == 1))
    return mx.where(binary, 2 * y_true - 1, y_true)


def _labels(y_true: Any, y_pred: mx.array, axis: int) -> mx.array:
    labels = to_mlx(y_true)
    given = labels.shape
    if labels.ndim == y_pred.ndim and labels.shape[axis] == 1:
        labels = labels.squeeze(axis)
    expected = list(y_pred.shape)
    expected.pop(axis)
    if list(labels.shape) != expected:
        raise ValueError(
            f"sparse_categorical_crossentropy: expected integer labels of shape {tuple(expected)} "
            f"for an output of shape {y_pred.shape}, got {given}. "
            "One-hot labels need categorical_crossentropy."
        )
    return as_integer(labels)


class BinaryCrossentropy(FunctionLoss):
    """`binary_crossentropy`, reduced."""

    function = staticmethod(binary_crossentropy)

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "binary_crossentropy",
        dtype: DTypeLike = None,
    ):
        super().__init__(reduction, name, dtype)
        self.from_logits, self.label_smoothing, self.axis = from_logits, label_smoothing, axis


class CategoricalCrossentropy(BinaryCrossentropy):
    """`categorical_crossentropy`, reduced."""

    function = staticmethod(categorical_crossentropy)

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "categorical_crossentropy",
        dtype: DTypeLike = None,
    ):
        super().__init__(from_logits, label_smoothing, axis, reduction, name, dtype)


class BinaryFocalCrossentropy(FunctionLoss):
    """`binary_focal_crossentropy`, reduced."""

    function = staticmethod(binary_focal_crossentropy)

    def __init__(
        self,
        apply_class_balancing: bool = False,
        alpha: float = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "binary_focal_crossentropy",
        dtype: DTypeLike = None,
    ):
        super().__init__(reduction, name, dtype)
        self.apply_class_balancing, self.alpha, self.gamma = apply_class_balancing, alpha, gamma
        self.from_logits, self.label_smoothing, self.axis = from_logits, label_smoothing, axis


class CategoricalFocalCrossentropy(FunctionLoss):
    """`categorical_focal_crossentropy`, reduced."""

    function = staticmethod(categorical_focal_crossentropy)

    def __init__(
        self,
        alpha: float = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "categorical_focal_crossentropy",
        dtype: DTypeLike = None,
    ):
        super().__init__(reduction, name, dtype)
        self.alpha, self.gamma, self.from_logits = alpha, gamma, from_logits
        self.label_smoothing, self.axis = label_smoothing, axis


class SparseCategoricalCrossentropy(FunctionLoss):
    """`sparse_categorical_crossentropy`, reduced; ignored labels do not count in the mean."""

    function = staticmethod(sparse_categorical_crossentropy)

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        axis: int = -1,
        name: str = "sparse_categorical_crossentropy",
        dtype: DTypeLike = None,
    ):
        super().__init__(reduction, name, dtype)
        self.from_logits, self.ignore_class, self.axis = from_logits, ignore_class, axis

    def compute_mask(self, y_true: mx.array, y_pred: mx.array) -> mx.array | None:
        if self.ignore_class is None:
            return None
        return _labels(y_true, y_pred, self.axis) != self.ignore_class


class KLDivergence(FunctionLoss):
    """`kl_divergence`, reduced."""

    function = staticmethod(kl_divergence)


class Hinge(FunctionLoss):
    """`hinge`, reduced."""

    function = staticmethod(hinge)


class SquaredHinge(FunctionLoss):
    """`squared_hinge`, reduced."""

    function = staticmethod(squared_hinge)


class CategoricalHinge(FunctionLoss):
    """`categorical_hinge`, reduced."""

    function = staticmethod(categorical_hinge)
