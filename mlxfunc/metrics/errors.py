"""Losses and distances as metrics: means over everything seen.

Source: https://keras.io/api/metrics/regression_metrics/ and .../probabilistic_metrics/
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .. import losses
from ..conversion import DTypeLike, to_mlx
from ..losses.base import align, as_float32, pair, same_shape
from .base import FunctionMetric, Mean


class MeanSquaredError(FunctionMetric):
    """The mean of `losses.mean_squared_error`."""

    function = staticmethod(losses.mean_squared_error)


class RootMeanSquaredError(Mean):
    """sqrt of the mean of (y - p)^2. Weights may be those of single entries."""

    def __init__(self, name: str = "root_mean_squared_error", dtype: DTypeLike = None) -> None:
        super().__init__(name, dtype)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:  # type: ignore[override]
        y_true, y_pred = pair(self.name, y_true, as_float32(y_pred))
        super().update_state(mx.square(y_true - y_pred), sample_weight)

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

    def __init__(self, name: str = "logcosh", dtype: DTypeLike = None) -> None:
        super().__init__(name, dtype)


class CosineSimilarity(FunctionMetric):
    """The mean cosine between labels and output: 1 for the same direction."""

    def __init__(
        self, name: str = "cosine_similarity", dtype: DTypeLike = None, axis: int = -1
    ) -> None:
        super().__init__(name, dtype)
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
        dtype: DTypeLike = None,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(name, dtype)
        self.from_logits, self.label_smoothing = from_logits, label_smoothing


class CategoricalCrossentropy(FunctionMetric):
    """The mean of `losses.categorical_crossentropy`."""

    function = staticmethod(losses.categorical_crossentropy)

    def __init__(
        self,
        name: str = "categorical_crossentropy",
        dtype: DTypeLike = None,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
    ) -> None:
        super().__init__(name, dtype)
        self.from_logits, self.label_smoothing, self.axis = from_logits, label_smoothing, axis


class SparseCategoricalCrossentropy(FunctionMetric):
    """The mean of `losses.sparse_categorical_crossentropy`.

    The loss of labels equal to `ignore_class` is 0. As in Keras they count in the mean, unless
    there are weights.
    """

    function = staticmethod(losses.sparse_categorical_crossentropy)

    def __init__(
        self,
        name: str = "sparse_categorical_crossentropy",
        dtype: DTypeLike = None,
        from_logits: bool = False,
        ignore_class: int | None = None,
        axis: int = -1,
    ) -> None:
        super().__init__(name, dtype)
        self.from_logits, self.ignore_class, self.axis = from_logits, ignore_class, axis

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:  # type: ignore[override]
        loss = losses.SparseCategoricalCrossentropy(ignore_class=self.ignore_class, axis=self.axis)
        kept = loss.compute_mask(to_mlx(y_true), to_mlx(y_pred))
        if kept is not None and sample_weight is not None:
            weights = align(self.name, "sample_weight", to_mlx(sample_weight), kept * 1.0)
            sample_weight = kept * weights
        super().update_state(y_true, y_pred, sample_weight)


@same_shape
def pearson_correlation(y_true: mx.array, y_pred: mx.array, axis: int = -1) -> mx.array:
    """cov(y, p) / (std y std p) along `axis`; NaN where one of them does not vary"""
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
    return x / mx.sqrt(mx.mean(mx.square(x), axis=axis, keepdims=True))


class PearsonCorrelation(FunctionMetric):
    """The mean of `pearson_correlation`."""

    function = staticmethod(pearson_correlation)

    def __init__(
        self, name: str = "pearson_correlation", dtype: DTypeLike = None, axis: int = -1
    ) -> None:
        super().__init__(name, dtype)
        self.axis = axis


class ConcordanceCorrelation(PearsonCorrelation):
    """The mean of `concordance_correlation`."""

    function = staticmethod(concordance_correlation)

    def __init__(
        self, name: str = "concordance_correlation", dtype: DTypeLike = None, axis: int = -1
    ) -> None:
        super().__init__(name, dtype, axis)
