"""Counts of true and false positives and negatives at thresholds, and what follows from them.

A score above a threshold is positive. Source: https://keras.io/api/metrics/classification_metrics/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ..bounds import scatter_add
from ..conversion import DTypeLike, to_mlx
from ..losses.base import align, pair
from .base import Metric, divide

Thresholds = float | Sequence[float] | None
_LEAST = -1e10


class Counts(Metric):
    """The base of all here: `kept` names the counts in `state`, one of each a threshold.

    Args:
        levels: the thresholds, ascending.
        top_k: only the k largest scores of a row can be positive.
        class_id: look at this class only.
    """

    kept: tuple[str, ...] = (
        "true_positives",
        "false_positives",
        "true_negatives",
        "false_negatives",
    )

    def __init__(
        self,
        name: str | None,
        dtype: DTypeLike,
        levels: Sequence[float],
        top_k: int | None = None,
        class_id: int | None = None,
    ) -> None:
        super().__init__(dtype, name)
        self.levels = np.asarray(levels, np.float32)
        self.top_k, self.class_id = top_k, class_id
        even = np.linspace(0, 1, len(levels), dtype=np.float32)
        self._even = len(levels) > 2 and bool(np.allclose(self.levels, even, atol=2e-7))
        self.make_counts()

    def make_counts(self, labels: int = 0) -> None:
        """Make the counts: (thresholds,), or (thresholds, labels) to count labels apart."""
        for name in self.kept:
            shape = (len(self.levels), labels) if labels else (len(self.levels),)
            self.add_variable(shape, name=name)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true, y_pred = pair(self.name, y_true, to_mlx(y_pred).astype(mx.float32))
        weights = mx.ones(y_pred.shape)
        if sample_weight is not None:
            given = align(self.name, "sample_weight", to_mlx(sample_weight), y_pred)
            weights = mx.broadcast_to(given, y_pred.shape)
        if self.top_k is not None:
            place = mx.argsort(mx.argsort(-y_pred, axis=-1), axis=-1)
            y_pred = mx.where(place < self.top_k, y_pred, _LEAST)
        if self.class_id is not None:
            y_true, y_pred, weights = (x[..., self.class_id] for x in (y_true, y_pred, weights))
        self.count(y_true != 0, y_pred, weights)

    def count(self, truth: mx.array, scores: mx.array, weights: mx.array) -> None:
        """Add to the counts; the arrays have one shape, whose last axis may be labels."""
        shape = self.state[self.kept[0]].shape
        width = shape[1] if len(shape) > 1 else 1
        truth, scores, weights = (x.reshape(-1, width) for x in (truth, scores, weights))
        positive, negative = weights * truth, weights * ~truth
        split = self._split_even if self._even else self._split
        found, missed = split(scores, positive)
        wrong, spared = split(scores, negative)
        counts = {
            "true_positives": found,
            "false_positives": wrong,
            "true_negatives": spared,
            "false_negatives": missed,
        }
        self.accumulate(**{name: counts[name].reshape(shape) for name in self.kept})

    def _split(self, scores: mx.array, weights: mx.array) -> tuple[mx.array, mx.array]:
        """The weight of scores above each threshold, and of the rest: (thresholds, labels)."""
        above = scores[None] > mx.array(self.levels)[:, None, None]
        return mx.sum(above * weights, axis=1), mx.sum(~above * weights, axis=1)

    def _split_even(self, scores: mx.array, weights: mx.array) -> tuple[mx.array, mx.array]:
        """The same for evenly spaced thresholds, in memory that does not grow with them."""
        size = len(self.levels)
        # The number of thresholds below a score: none below NaN, which is no integer either. One
        # below 0 lies below a score of 0, too.
        below = mx.ceil(mx.where(scores > 0, mx.minimum(scores, 1), 0) * (size - 1))
        below = mx.maximum(below, scores == scores) if self.levels[0] < 0 else below
        below = below.astype(mx.int32)
        columns = mx.broadcast_to(mx.arange(weights.shape[1]), weights.shape)
        sums = scatter_add(mx.zeros((size + 1, weights.shape[1])), (below, columns), weights)
        return mx.cumsum(sums, axis=0, reverse=True)[1:], mx.cumsum(sums, axis=0)[:-1]


class ConditionCount(Counts):
    """One of the four counts, at each threshold."""

    def __init__(
        self, thresholds: Thresholds = None, name: str | None = None, dtype: DTypeLike = None
    ) -> None:
        super().__init__(name, dtype, _levels(type(self).__name__, thresholds))
        self.thresholds = thresholds

    def result(self) -> mx.array:
        return _single(self.state[self.kept[0]])


class TruePositives(ConditionCount):
    """The weight of positives found."""

    kept = ("true_positives",)


class FalsePositives(ConditionCount):
    """The weight of negatives taken for positives."""

    kept = ("false_positives",)


class TrueNegatives(ConditionCount):
    """The weight of negatives found."""

    kept = ("true_negatives",)


class FalseNegatives(ConditionCount):
    """The weight of positives taken for negatives."""

    kept = ("false_negatives",)


class Precision(Counts):
    """tp / (tp + fp): how much of what is called positive is so."""

    kept = ("true_positives", "false_positives")

    def __init__(
        self,
        thresholds: Thresholds = None,
        top_k: int | None = None,
        class_id: int | None = None,
        name: str | None = None,
        dtype: DTypeLike = None,
    ) -> None:
        default = 0.5 if top_k is None else _LEAST
        super().__init__(
            name, dtype, _levels(type(self).__name__, thresholds, default), top_k, class_id
        )
        self.thresholds = thresholds

    def result(self) -> mx.array:
        found, other = (self.state[name] for name in self.kept)
        return _single(divide(found, found + other))


class Recall(Precision):
    """tp / (tp + fn): how much of what is positive is called so."""

    kept = ("true_positives", "false_negatives")


class Operating(Counts):
    """The best of one rate over all thresholds where another one is at least `value`."""

    def __init__(
        self,
        what: str,
        value: float,
        num_thresholds: int,
        class_id: int | None,
        name: str | None,
        dtype: DTypeLike,
    ) -> None:
        if not 0 <= value <= 1:
            raise ValueError(f"{type(self).__name__}: expected {what} within [0, 1], got {value}.")
        if num_thresholds <= 0:
            raise ValueError(
                f"{type(self).__name__}: expected num_thresholds above 0, got {num_thresholds}."
            )
        levels = [0.5] if num_thresholds == 1 else list(np.linspace(0, 1, num_thresholds))
        super().__init__(name, dtype, levels, class_id=class_id)
        self.num_thresholds, self.value = num_thresholds, value

    def best(self, wanted: mx.array, given: mx.array) -> mx.array:
        """The largest `wanted` where `given` is at least the value; 0 if nowhere."""
        return mx.max(mx.where(given >= self.value, wanted, 0))

    def rate(self, what: str, against: str) -> mx.array:
        return divide(self.state[what], self.state[what] + self.state[against])

    @property
    def recalls(self) -> mx.array:
        return self.rate("true_positives", "false_negatives")

    @property
    def precisions(self) -> mx.array:
        return self.rate("true_positives", "false_positives")

    @property
    def specificities(self) -> mx.array:
        return self.rate("true_negatives", "false_positives")


class SensitivityAtSpecificity(Operating):
    """The best tp / (tp + fn) where tn / (tn + fp) is at least `specificity`."""

    def __init__(
        self,
        specificity: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: DTypeLike = None,
    ) -> None:
        super().__init__("specificity", specificity, num_thresholds, class_id, name, dtype)
        self.specificity = specificity

    def result(self) -> mx.array:
        return self.best(self.recalls, self.specificities)


class SpecificityAtSensitivity(Operating):
    """The best tn / (tn + fp) where tp / (tp + fn) is at least `sensitivity`."""

    def __init__(
        self,
        sensitivity: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: DTypeLike = None,
    ) -> None:
        super().__init__("sensitivity", sensitivity, num_thresholds, class_id, name, dtype)
        self.sensitivity = sensitivity

    def result(self) -> mx.array:
        return self.best(self.specificities, self.recalls)


class PrecisionAtRecall(Operating):
    """The best tp / (tp + fp) where tp / (tp + fn) is at least `recall`."""

    def __init__(
        self,
        recall: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: DTypeLike = None,
    ) -> None:
        super().__init__("recall", recall, num_thresholds, class_id, name, dtype)
        self.recall = recall

    def result(self) -> mx.array:
        return self.best(self.precisions, self.recalls)


class RecallAtPrecision(Operating):
    """The best tp / (tp + fn) where tp / (tp + fp) is at least `precision`."""

    def __init__(
        self,
        precision: float,
        num_thresholds: int = 200,
        class_id: int | None = None,
        name: str | None = None,
        dtype: DTypeLike = None,
    ) -> None:
        super().__init__("precision", precision, num_thresholds, class_id, name, dtype)
        self.precision = precision

    def result(self) -> mx.array:
        return self.best(self.recalls, self.precisions)


def _levels(name: str, thresholds: Thresholds, default: float = 0.5) -> list[float]:
    if thresholds is None:
        return [default]
    levels = [thresholds] if isinstance(thresholds, (int, float)) else list(thresholds)
    if any(level is None or not 0 <= level <= 1 for level in levels):
        raise ValueError(f"{name}: expected thresholds within [0, 1], got {levels}.")
    return levels


def _single(values: mx.array) -> mx.array:
    return values[0] if values.size == 1 else values
