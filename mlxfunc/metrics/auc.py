"""The area under a curve of rates over thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ..conversion import DTypeLike, to_mlx
from .base import divide
from .confusion import Counts

_EPSILON = 1e-7
_CURVES = ("ROC", "PR", "PRGAIN")
_METHODS = ("interpolation", "minoring", "majoring")


class AUC(Counts):
    """The area under the curve `ROC` (recall over 1 - specificity), `PR` or `PRGAIN`.

    Args:
        num_thresholds: that many, evenly spaced from below 0 to above 1.
        summation_method: the height of each piece: the mean, least or largest of its two ends.
            For `PR` the mean is replaced by the interpolation of Davis and Goadrich, 2006.
        thresholds: these in place of evenly spaced ones, and one below 0 and one above 1.
        multi_label: one area a label (last axis), averaged with `label_weights`.
        from_logits: the scores go through a sigmoid first.
    """

    def __init__(
        self,
        num_thresholds: int = 200,
        curve: str = "ROC",
        summation_method: str = "interpolation",
        name: str | None = None,
        dtype: DTypeLike = None,
        thresholds: Sequence[float] | None = None,
        multi_label: bool = False,
        num_labels: int | None = None,
        label_weights: Sequence[float] | None = None,
        from_logits: bool = False,
    ) -> None:
        self._check(num_thresholds, curve, summation_method, thresholds)
        if num_labels and not multi_label:
            raise ValueError("AUC: expected multi_label=True with num_labels, got False.")
        inner = np.linspace(0, 1, num_thresholds)[1:-1] if thresholds is None else thresholds
        levels = [-_EPSILON, *sorted(inner), 1 + _EPSILON]
        self.num_thresholds, self.thresholds = len(levels), thresholds
        self.curve, self.summation_method = curve.upper(), summation_method.lower()
        self.multi_label, self.num_labels = multi_label, num_labels
        self.label_weights, self.from_logits = label_weights, from_logits
        super().__init__(name, dtype, levels)

    @staticmethod
    def _check(number: int, curve: str, method: str, thresholds: Sequence[float] | None) -> None:
        if curve.upper() not in _CURVES:
            raise ValueError(f"AUC: expected curve in {_CURVES}, got {curve!r}.")
        if method.lower() not in _METHODS:
            raise ValueError(f"AUC: expected summation_method in {_METHODS}, got {method!r}.")
        if thresholds is None and number <= 1:
            raise ValueError(f"AUC: expected num_thresholds above 1, got {number}.")
        if thresholds is not None and any(not 0 <= level <= 1 for level in thresholds):
            raise ValueError(f"AUC: expected thresholds within [0, 1], got {thresholds}.")

    def make_counts(self, labels: int = 0) -> None:
        if self.multi_label:
            labels = labels or self.num_labels or 0
        if labels or not self.multi_label:
            super().make_counts(labels)

    def build(self, y_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        if self.multi_label and not self.state:
            self.make_counts(out_shape[-1])

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true, y_pred = to_mlx(y_true), to_mlx(y_pred)
        self.ensure_built(y_true.shape, y_pred.shape)
        super().update_state(
            y_true, mx.sigmoid(y_pred) if self.from_logits else y_pred, sample_weight
        )

    def count(self, truth: mx.array, scores: mx.array, weights: mx.array) -> None:
        if self.label_weights is not None and not self.multi_label:
            weights = weights * mx.array(list(self.label_weights))
        super().count(truth, scores, weights)

    def result(self) -> mx.array:
        tp, fp, tn, fn = (self.state[name] for name in self.kept)
        recall = divide(tp, tp + fn)
        if self.curve == "PR" and self.summation_method == "interpolation":
            return self._average(_interpolated(tp, fp, fn))
        if self.curve == "ROC":
            x, y = divide(fp, fp + tn), recall
        elif self.curve == "PR":
            x, y = recall, divide(tp, tp + fp)
        else:
            odds = divide(tp + fn, fp + tn)
            x = mx.maximum(mx.where(tp == 0, 0, 1 - odds * divide(fn, tp)), 0)
            y = mx.where(tp == 0, 1, 1 - odds * divide(fp, tp))
        low, high = y[:-1], y[1:]
        heights = {
            "interpolation": lambda: (low + high) / 2,
            "minoring": lambda: mx.minimum(low, high),
            "majoring": lambda: mx.maximum(low, high),
        }[self.summation_method]()
        return self._average((x[:-1] - x[1:]) * heights)

    def _average(self, pieces: mx.array) -> mx.array:
        areas = mx.sum(pieces, axis=0)
        if not self.multi_label or self.label_weights is None:
            return mx.mean(areas)
        weights = mx.array(list(self.label_weights))
        return divide(mx.sum(areas * weights), mx.sum(weights))


def _interpolated(tp: mx.array, fp: mx.array, fn: mx.array) -> mx.array:
    """Areas under the precision-recall curve where tp is linear in tp + fp between thresholds."""
    called = tp + fp
    more_tp, more = tp[:-1] - tp[1:], mx.maximum(called[:-1] - called[1:], 0)
    slope = divide(more_tp, more)
    intercept = tp[1:] - slope * called[1:]
    both = (called[:-1] > 0) & (called[1:] > 0)
    ratio = mx.where(both, called[:-1] / mx.where(both, called[1:], 1), 1)
    return divide(slope * (more_tp + intercept * mx.log(ratio)), tp[1:] + fn[1:])
