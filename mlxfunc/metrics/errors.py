"""Losses and distances as metrics: means over everything seen.

Source: https://keras.io/api/metrics/regression_metrics/ and .../probabilistic_metrics/
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .. import losses
from ..conversion import to_mlx
from ..losses.base import align, same_shape
from .base import FunctionMetric, divide


class MeanSquaredError(FunctionMetric):
    """The mean of `losses.mean_squared_error`."""

    function = staticmethod(losses.mean_squared_error)


class RootMeanSquaredError(MeanSquaredError):
    """sqrt of the mean squared error."""

    def result(self) -> mx.array:
        return mx.sqrt(super().result())


class MeanAbsoluteError(FunctionMetric):
    """The mean of `losses.mean_absolute_error`."""

    function = staticmethod(losses.mean_absolute_error)


class MeanAbsolutePercentageError(FunctionMetric):
    """The mean of `losses.mean_absolute_percentage_error`."""

    function = staticmethod(losses.mean_absolute_percentage_error)


class MeanSquaredLogarithmicError(FunctionMetric):
    """The mean of `losses.mean_squared_logarithmic_error`."""

    function = staticmethod(losses.mean_squared_logarithmic_error)


class LogCoshError(FunctionMetric):
    """The mean of `losses.log_cosh`."""

    function = staticmethod(losses.log_cosh)

    def __init__(self, name: str = "logcosh") -> None:
        super().__init__(name)


class CosineSimilarity(FunctionMetric):
    """The mean cosine between labels and output: 1 for the same direction."""

    def __init__(self, name: str = "cosine_similarity", axis: int = -1) -> None:
        super().__init__(name)
        self.axis = axis

    @staticmethod
    def function(y_true: Any, y_pred: Any, axis: int = -1) -> mx.array:
        return -losses.cosine_similarity(y_true, y_pred, axis)


class KLDivergence(FunctionMetric):
    """The mean of `losses.kl_divergence`."""

    function = staticmethod(losses.kl_divergence)


class Poisson(FunctionMetric):
    """The mean of `losses.poisson`."""

    function = staticmethod(losses.poisson)


class Hinge(FunctionMetric):
    """The mean of `losses.hinge`."""

    function = staticmethod(losses.hinge)


class SquaredHinge(FunctionMetric):
    """The mean of `losses.squared_hinge`."""

    function = staticmethod(losses.squared_hinge)


class CategoricalHinge(FunctionMetric):
    """The mean of `losses.categorical_hinge`."""

    function = staticmethod(losses.categorical_hinge)


class BinaryCrossentropy(FunctionMetric):
    """The mean of `losses.binary_crossentropy`."""

    function = staticmethod(losses.binary_crossentropy)

    def __init__(
        self,
        name: str = "binary_crossentropy",
        from_logits: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(name)
        self.from_logits, self.label_smoothing = from_logits, label_smoothing


class CategoricalCrossentropy(FunctionMetric):
    """The mean of `losses.categorical_crossentropy`."""

    function = staticmethod(losses.categorical_crossentropy)

    def __init__(
        self,
        name: str = "categorical_crossentropy",
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
    ) -> None:
        super().__init__(name)
        self.from_logits, self.label_smoothing, self.axis = from_logits, label_smoothing, axis


class SparseCategoricalCrossentropy(FunctionMetric):
    """The mean of `losses.sparse_categorical_crossentropy`.

    Where we differ from Keras: labels equal to `ignore_class` never count in the mean; in Keras
    they do unless there are weights.
    """

    function = staticmethod(losses.sparse_categorical_crossentropy)

    def __init__(
        self,
        name: str = "sparse_categorical_crossentropy",
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
    ) -> None:
        super().__init__(name)
        self.from_logits, self.ignore_class, self.axis = from_logits, ignore_class, axis

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:  # type: ignore[override]
        loss = losses.SparseCategoricalCrossentropy(ignore_class=self.ignore_class, axis=self.axis)
        kept = loss.compute_mask(to_mlx(y_true), to_mlx(y_pred))
        if kept is not None:
            weights = mx.array(1.0) if sample_weight is None else to_mlx(sample_weight)
            sample_weight = kept * align(self.name, "sample_weight", weights, kept * 1.0)
        super().update_state(y_true, y_pred, sample_weight)


@same_shape
def pearson_correlation(y_true: mx.array, y_pred: mx.array, axis: int = -1) -> mx.array:
    """cov(y, p) / (std y std p) along `axis`"""
    y, p = (_standardized(x, axis) for x in (y_true, y_pred))
    return mx.mean(y * p, axis=axis)


@same_shape
def concordance_correlation(y_true: mx.array, y_pred: mx.array, axis: int = -1) -> mx.array:
    """2 cov(y, p) / (var y + var p + (mean y - mean p)^2) along `axis`. Source: Lin, 1989"""
    means = [mx.mean(x, axis=axis, keepdims=True) for x in (y_true, y_pred)]
    y, p = y_true - means[0], y_pred - means[1]
    spread = mx.mean(y * y, axis=axis) + mx.mean(p * p, axis=axis)
    apart = mx.square(means[0] - means[1]).squeeze(axis)
    return 2 * mx.mean(y * p, axis=axis) / (spread + apart + 1e-7)


def _standardized(x: mx.array, axis: int) -> mx.array:
    x = x - mx.mean(x, axis=axis, keepdims=True)
    return divide(x, mx.sqrt(mx.mean(mx.square(x), axis=axis, keepdims=True)))


class PearsonCorrelation(FunctionMetric):
    """The mean of `pearson_correlation`."""

    function = staticmethod(pearson_correlation)

    def __init__(self, name: str = "pearson_correlation", axis: int = -1) -> None:
        super().__init__(name)
        self.axis = axis


class ConcordanceCorrelation(PearsonCorrelation):
    """The mean of `concordance_correlation`."""

    function = staticmethod(concordance_correlation)

    def __init__(self, name: str = "concordance_correlation", axis: int = -1) -> None:
        super().__init__(name, axis)
