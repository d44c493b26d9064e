"""Overlaps of classes: intersection over union from a confusion matrix.

Source: https://keras.io/api/metrics/segmentation_metrics/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..bounds import as_integer, scatter_add
from ..conversion import DTypeLike, to_mlx
from ..losses.base import align
from .base import Metric

_EPSILON = 1e-7


class IoU(Metric):
    """The mean over `target_class_ids` of tp / (tp + fp + fn), classes never seen left out.

    Where we differ from Keras: weights may be fractions.

    Args:
        ignore_class: a label that does not count.
        sparse_y_true, sparse_y_pred: whether these are class ids; else one-hot, or scores, along
            `axis`.
    """

    def __init__(
        self,
        num_classes: int,
        target_class_ids: Sequence[int],
        name: str | None = None,
        dtype: DTypeLike = None,
        ignore_class: int | None = None,
        sparse_y_true: bool = True,
        sparse_y_pred: bool = True,
        axis: int = -1,
    ) -> None:
        super().__init__(dtype, name)
        if not all(0 <= i < num_classes for i in target_class_ids):
            raise ValueError(
                f"{self.name}: expected target_class_ids within [0, {num_classes}), "
                f"got {list(target_class_ids)}."
            )
        self.num_classes, self.target_class_ids = num_classes, list(target_class_ids)
        self.ignore_class, self.axis = ignore_class, axis
        self.sparse_y_true, self.sparse_y_pred = sparse_y_true, sparse_y_pred
        self.add_variable((num_classes, num_classes), name="total_confusion_matrix")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        truth, guess = to_mlx(y_true), to_mlx(y_pred)
        truth = truth if self.sparse_y_true else mx.argmax(truth, axis=self.axis)
        guess = guess if self.sparse_y_pred else mx.argmax(guess, axis=self.axis)
        if truth.size != guess.size:
            raise ValueError(
                f"{self.name}: expected as many labels as predictions, got shapes {truth.shape} "
                f"and {guess.shape}. See sparse_y_true and sparse_y_pred."
            )
        weights = mx.ones(truth.shape)
        if sample_weight is not None:
            given = align(self.name, "sample_weight", to_mlx(sample_weight), weights)
            weights = mx.broadcast_to(given, truth.shape)
        self._count(truth.flatten(), guess.flatten(), weights.flatten())

    def _count(self, truth: mx.array, guess: mx.array, weights: mx.array) -> None:
        truth, guess = as_integer(truth), as_integer(guess)
        valid = (truth >= 0) & (truth < self.num_classes)
        valid = valid & (guess >= 0) & (guess < self.num_classes)
        if self.ignore_class is not None:
            valid = valid & (truth != self.ignore_class)
        truth, guess = mx.where(valid, truth, 0), mx.where(valid, guess, 0)
        matrix = mx.zeros((self.num_classes, self.num_classes))
        matrix = scatter_add(matrix, (truth, guess), weights * valid)
        self.accumulate(total_confusion_matrix=matrix)

    def result(self) -> mx.array:
        matrix = self.state["total_confusion_matrix"]
        both = mx.diag(matrix)
        either = mx.sum(matrix, axis=0) + mx.sum(matrix, axis=1) - both
        ids = mx.array(self.target_class_ids)
        both, either = both[ids], either[ids]
        seen = either > 1e-9
        overlap = mx.where(seen, both / (either + _EPSILON), 0)
        return mx.sum(overlap) / (mx.sum(seen) + _EPSILON)


class BinaryIoU(IoU):
    """IoU of two classes, for scores: class 1 from `threshold` on."""

    def __init__(
        self,
        target_class_ids: Sequence[int] = (0, 1),
        threshold: float = 0.5,
        name: str | None = None,
        dtype: DTypeLike = None,
    ) -> None:
        super().__init__(2, target_class_ids, name, dtype)
        self.threshold = threshold

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        super().update_state(y_true, to_mlx(y_pred) >= self.threshold, sample_weight)


class MeanIoU(IoU):
    """IoU of all classes."""

    def __init__(
        self,
        num_classes: int,
        name: str | None = None,
        dtype: DTypeLike = None,
        ignore_class: int | None = None,
        sparse_y_true: bool = True,
        sparse_y_pred: bool = True,
        axis: int = -1,
    ) -> None:
        ids = range(num_classes)
        super().__init__(
            num_classes, ids, name, dtype, ignore_class, sparse_y_true, sparse_y_pred, axis
        )


class OneHotIoU(IoU):
    """IoU for one-hot labels, and scores unless `sparse_y_pred`."""

    def __init__(
        self,
        num_classes: int,
        target_class_ids: Sequence[int],
        name: str | None = None,
        dtype: DTypeLike = None,
        ignore_class: int | None = None,
        sparse_y_pred: bool = False,
        axis: int = -1,
    ) -> None:
        super().__init__(
            num_classes, target_class_ids, name, dtype, ignore_class, False, sparse_y_pred, axis
        )


class OneHotMeanIoU(MeanIoU):
    """MeanIoU for one-hot labels, and scores unless `sparse_y_pred`."""

    def __init__(
        self,
        num_classes: int,
        name: str | None = None,
        dtype: DTypeLike = None,
        ignore_class: int | None = None,
        sparse_y_pred: bool = False,
        axis: int = -1,
    ) -> None:
        super().__init__(num_classes, name, dtype, ignore_class, False, sparse_y_pred, axis)
