"""How often the prediction is right. The functions give 1 or 0 for each sample or step.

Source: https://keras.io/api/metrics/accuracy_metrics/
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ..bounds import as_integer, take_along_axis
from ..conversion import DTypeLike, to_mlx
from ..losses.base import pair
from .base import FunctionMetric


def accuracy(y_true: Any, y_pred: Any) -> mx.array:
    """y = p"""
    y_true, y_pred = pair("accuracy", y_true, y_pred)
    return (y_true == y_pred).astype(mx.float32)


def binary_accuracy(y_true: Any, y_pred: Any, threshold: float = 0.5) -> mx.array:
    """y = (p > threshold)"""
    y_true, y_pred = pair("binary_accuracy", y_true, y_pred)
    return (y_true == (y_pred > threshold)).astype(mx.float32)


def categorical_accuracy(y_true: Any, y_pred: Any) -> mx.array:
    """argmax y = argmax p over the last axis: one-hot y (..., classes) to (...)"""
    y_true, y_pred = pair("categorical_accuracy", y_true, y_pred)
    return (mx.argmax(y_true, -1) == mx.argmax(y_pred, -1)).astype(mx.float32)


def sparse_categorical_accuracy(y_true: Any, y_pred: Any) -> mx.array:
    """y = argmax p over the last axis: integer y (...), whatever its axes of size 1"""
    labels, y_pred = _labels("sparse_categorical_accuracy", y_true, y_pred)
    return (labels == mx.argmax(y_pred, -1).astype(labels.dtype)).astype(mx.float32)


def top_k_categorical_accuracy(y_true: Any, y_pred: Any, k: int = 5) -> mx.array:
    """Whether fewer than k classes have a larger p than argmax y, y one-hot"""
    y_true, y_pred = pair("top_k_categorical_accuracy", y_true, y_pred)
    return _among_top(mx.argmax(y_true, -1), y_pred, k)


def sparse_top_k_categorical_accuracy(
    y_true: Any, y_pred: Any, k: int = 5, from_sorted_ids: bool = False
) -> mx.array:
    """Whether fewer than k classes have a larger p than class y.

    With `from_sorted_ids`, `y_pred` holds class ids, best first.
    """
    labels, y_pred = _labels("sparse_top_k_categorical_accuracy", y_true, y_pred)
    if from_sorted_ids:
        return mx.any(labels[..., None] == y_pred[..., :k], axis=-1).astype(mx.float32)
    return _among_top(labels, y_pred, k)


def _among_top(labels: mx.array, y_pred: mx.array, k: int) -> mx.array:
    own = take_along_axis(y_pred, labels[..., None], axis=-1)
    return (mx.sum(y_pred > own, axis=-1) < k).astype(mx.float32)


def _labels(name: str, y_true: Any, y_pred: Any) -> tuple[mx.array, mx.array]:
    labels, y_pred = to_mlx(y_true), to_mlx(y_pred)
    wanted = y_pred.shape[:-1]
    if [n for n in labels.shape if n != 1] != [n for n in wanted if n != 1]:
        raise ValueError(
            f"{name}: expected integer labels of shape {wanted} for an output of shape "
            f"{y_pred.shape}, got {labels.shape}. One-hot labels need a categorical metric."
        )
    return as_integer(labels.reshape(wanted)), y_pred


class Accuracy(FunctionMetric):
    """The mean of `accuracy`."""

    function = staticmethod(accuracy)


class BinaryAccuracy(FunctionMetric):
    """The mean of `binary_accuracy`."""

    function = staticmethod(binary_accuracy)

    def __init__(
        self, name: str = "binary_accuracy", dtype: DTypeLike = None, threshold: float = 0.5
    ) -> None:
        super().__init__(name, dtype)
        self.threshold = threshold


class CategoricalAccuracy(FunctionMetric):
    """The mean of `categorical_accuracy`."""

    function = staticmethod(categorical_accuracy)


class SparseCategoricalAccuracy(FunctionMetric):
    """The mean of `sparse_categorical_accuracy`."""

    function = staticmethod(sparse_categorical_accuracy)


class TopKCategoricalAccuracy(FunctionMetric):
    """The mean of `top_k_categorical_accuracy`."""

    function = staticmethod(top_k_categorical_accuracy)

    def __init__(
        self, k: int = 5, name: str = "top_k_categorical_accuracy", dtype: DTypeLike = None
    ) -> None:
        super().__init__(name, dtype)
        self.k = k


class SparseTopKCategoricalAccuracy(FunctionMetric):
    """The mean of `sparse_top_k_categorical_accuracy`."""

    function = staticmethod(sparse_top_k_categorical_accuracy)

    def __init__(
        self,
        k: int = 5,
        name: str = "sparse_top_k_categorical_accuracy",
        dtype: DTypeLike = None,
        from_sorted_ids: bool = False,
    ) -> None:
        super().__init__(name, dtype)
        self.k, self.from_sorted_ids = k, from_sorted_ids
