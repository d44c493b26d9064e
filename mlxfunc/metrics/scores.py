"""Scores over columns (batch, columns): F-scores of labels, R2 of regressed values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..conversion import DTypeLike, to_mlx
from ..losses.base import align, as_float32, pair
from .base import Metric, divide

_EPSILON = 1e-7


class Columns(Metric):
    """Sums over the rows of (batch, columns), one a column."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true, y_pred = pair(self.name, to_mlx(y_true), as_float32(y_pred))
        if y_pred.ndim != 2:
            raise ValueError(
                f"{self.name}: expected an output (batch, columns), got shape {y_pred.shape}. "
                "Flatten it first."
            )
        self.ensure_built(y_true.shape, y_pred.shape)
        weights = mx.ones((y_pred.shape[0], 1))
        if sample_weight is not None:
            weights = align(self.name, "sample_weight", to_mlx(sample_weight), y_pred)
        self.sum_rows(y_true, y_pred, weights)

    def sum_rows(self, y_true: mx.array, y_pred: mx.array, weights: mx.array) -> None:
        raise NotImplementedError


class FBetaScore(Columns):
    """(1 + beta^2) precision recall / (beta^2 precision + recall), one a class.

    Args:
        average: None, `micro` (all classes together), `macro` (their mean) or `weighted` (by
            the number of true ones).
        threshold: scores above it are positive; None takes each row's largest.
    """

    counts = ("true_positives", "false_positives", "false_negatives")

    def __init__(
        self,
        average: str | None = None,
        beta: float = 1.0,
        threshold: float | None = None,
        name: str | None = "fbeta_score",
        dtype: DTypeLike = None,
    ) -> None:
        super().__init__(dtype, name)
        if average not in (None, "micro", "macro", "weighted"):
            raise ValueError(
                f"{self.name}: expected average in None, 'micro', 'macro', 'weighted', "
                f"got {average!r}."
            )
        if beta <= 0:
            raise ValueError(f"{self.name}: expected beta above 0, got {beta}.")
        if threshold is not None and not 0 < threshold <= 1:
            raise ValueError(f"{self.name}: expected threshold within (0, 1], got {threshold}.")
        self.average, self.beta, self.threshold = average, beta, threshold

    def build(self, y_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        for name in self.counts:
            self.add_variable(() if self.average == "micro" else (out_shape[-1],), name=name)

    def sum_rows(self, y_true: mx.array, y_pred: mx.array, weights: mx.array) -> None:
        if self.threshold is None:
            best = mx.max(y_pred, axis=-1, keepdims=True)
            positive = (y_pred >= best) & (mx.abs(y_pred) > 1e-9)
        else:
            positive = y_pred > self.threshold
        positive = positive.astype(mx.float32)
        axis = None if self.average == "micro" else 0
        self.accumulate(
            true_positives=mx.sum(weights * positive * y_true, axis=axis),
            false_positives=mx.sum(weights * positive * (1 - y_true), axis=axis),
            false_negatives=mx.sum(weights * (1 - positive) * y_true, axis=axis),
        )

    def result(self) -> mx.array:
        tp, fp, fn = (self.state[name] for name in self.counts)
        precision, recall = tp / (tp + fp + _EPSILON), tp / (tp + fn + _EPSILON)
        square = self.beta**2
        score = (1 + square) * precision * recall / (square * precision + recall + _EPSILON)
        if self.average == "weighted":
            return mx.sum(score * (tp + fn)) / (mx.sum(tp + fn) + _EPSILON)
        return score if self.average is None else mx.mean(score)


class F1Score(FBetaScore):
    """FBetaScore with beta 1: the harmonic mean of precision and recall."""

    def __init__(
        self,
        average: str | None = None,
        threshold: float | None = None,
        name: str | None = "f1_score",
        dtype: DTypeLike = None,
    ) -> None:
        super().__init__(average, 1.0, threshold, name, dtype)


class R2Score(Columns):
    """1 - sum (y - p)^2 / sum (y - mean y)^2, one a column.

    Args:
        class_aggregation: `uniform_average`, `variance_weighted_average` or None (each column).
        num_regressors: above 0 gives the adjusted score, where there are enough rows.
    """

    def __init__(
        self,
        class_aggregation: str | None = "uniform_average",
        num_regressors: int = 0,
        name: str | None = "r2_score",
        dtype: DTypeLike = None,
    ) -> None:
        super().__init__(dtype, name)
        if class_aggregation not in (None, "uniform_average", "variance_weighted_average"):
            raise ValueError(
                f"{self.name}: expected class_aggregation None, 'uniform_average' or "
                f"'variance_weighted_average', got {class_aggregation!r}."
            )
        if num_regressors < 0:
            raise ValueError(
                f"{self.name}: expected num_regressors of at least 0, got {num_regressors}."
            )
        self.class_aggregation, self.num_regressors = class_aggregation, num_regressors
        self.add_variable(name="num_samples")

    def build(self, y_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        for name in ("squared_sum", "sum", "residual", "count"):
            self.add_variable((out_shape[-1],), name=name)

    def sum_rows(self, y_true: mx.array, y_pred: mx.array, weights: mx.array) -> None:
        weights = mx.broadcast_to(weights, y_true.shape)
        self.accumulate(
            sum=mx.sum(weights * y_true, axis=0),
            squared_sum=mx.sum(weights * mx.square(y_true), axis=0),
            residual=mx.sum(weights * mx.square(y_true - y_pred), axis=0),
            count=mx.sum(weights, axis=0),
            num_samples=y_true.size,
        )

    def result(self) -> mx.array:
        total = self.state["squared_sum"] - mx.square(self.state["sum"]) / self.state["count"]
        score = 1 - self.state["residual"] / total
        score = mx.where(mx.isinf(score), 0, score)
        if self.class_aggregation == "uniform_average":
            score = mx.mean(score)
        elif self.class_aggregation == "variance_weighted_average":
            score = mx.sum(total * score) / mx.sum(total)
        if not self.num_regressors:
            return score
        rows = self.state["num_samples"]
        left = rows - self.num_regressors - 1
        return mx.where(left > 0, 1 - divide((1 - score) * (rows - 1), left), score)
