"""Metrics by name, class and function: `"acc"`, `BinaryAccuracy()`, `binary_accuracy`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from .. import losses
from ..losses import (
    binary_crossentropy,
    binary_focal_crossentropy,
    categorical_crossentropy,
    categorical_focal_crossentropy,
    categorical_hinge,
    hinge,
    huber,
    kl_divergence,
    log_cosh,
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    mean_squared_logarithmic_error,
    poisson,
    sparse_categorical_crossentropy,
    squared_hinge,
)
from .accuracy import (
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    TopKCategoricalAccuracy,
    binary_accuracy,
    categorical_accuracy,
    sparse_categorical_accuracy,
    sparse_top_k_categorical_accuracy,
    top_k_categorical_accuracy,
)
from .auc import AUC
from .base import REGISTRY, FunctionMetric, Mean, MeanMetricWrapper, Metric, Sum, result_of
from .confusion import (
    FalseNegatives,
    FalsePositives,
    Precision,
    PrecisionAtRecall,
    Recall,
    RecallAtPrecision,
    SensitivityAtSpecificity,
    SpecificityAtSensitivity,
    TrueNegatives,
    TruePositives,
)
from .errors import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    CategoricalHinge,
    ConcordanceCorrelation,
    CosineSimilarity,
    Hinge,
    KLDivergence,
    LogCoshError,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    PearsonCorrelation,
    Poisson,
    RootMeanSquaredError,
    SparseCategoricalCrossentropy,
    SquaredHinge,
    concordance_correlation,
    pearson_correlation,
)
from .regions import BinaryIoU, IoU, MeanIoU, OneHotIoU, OneHotMeanIoU
from .scores import F1Score, FBetaScore, R2Score

_ALIASES: dict[type[Metric], tuple[str, ...]] = {
    MeanSquaredError: ("mse", "MSE"),
    RootMeanSquaredError: ("rmse", "RMSE"),
    MeanAbsoluteError: ("mae", "MAE"),
    MeanAbsolutePercentageError: ("mape", "MAPE"),
    MeanSquaredLogarithmicError: ("msle", "MSLE"),
    BinaryCrossentropy: ("bce", "BCE"),
    KLDivergence: ("kld", "KLD", "kullback_leibler_divergence"),
    LogCoshError: ("logcosh", "log_cosh"),
    CosineSimilarity: ("cosine_proximity",),
    TopKCategoricalAccuracy: ("top_k_categorical_accuracy",),
    SparseTopKCategoricalAccuracy: ("sparse_top_k_categorical_accuracy",),
    F1Score: ("f1_score",),
    FBetaScore: ("fbeta_score",),
    **dict.fromkeys((AUC, Precision, Recall, TruePositives, FalsePositives), ()),
    **dict.fromkeys((TrueNegatives, FalseNegatives, PrecisionAtRecall, RecallAtPrecision), ()),
    **dict.fromkeys((SensitivityAtSpecificity, SpecificityAtSensitivity, R2Score), ()),
    **dict.fromkeys((IoU, BinaryIoU, MeanIoU, OneHotIoU, OneHotMeanIoU), ()),
    **dict.fromkeys((Mean, Sum, Accuracy, BinaryAccuracy, CategoricalAccuracy), ()),
    **dict.fromkeys((SparseCategoricalAccuracy, CategoricalCrossentropy, Poisson), ()),
    **dict.fromkeys((SparseCategoricalCrossentropy, Hinge, SquaredHinge, CategoricalHinge), ()),
    **dict.fromkeys((PearsonCorrelation, ConcordanceCorrelation), ()),
}
for _class, _names in _ALIASES.items():
    REGISTRY.register(_class, *_names)
REGISTRY.register(MeanMetricWrapper)
_BY_FUNCTION = {cls.function: cls for cls in _ALIASES if issubclass(cls, FunctionMetric)}

_BY_TASK: dict[str, dict[str, type[Metric]]] = {
    "accuracy": {
        "binary": BinaryAccuracy,
        "sparse": SparseCategoricalAccuracy,
        "categorical": CategoricalAccuracy,
    },
    "crossentropy": {
        "binary": BinaryCrossentropy,
        "sparse": SparseCategoricalCrossentropy,
        "categorical": CategoricalCrossentropy,
    },
}
_CHOSEN_BY_SHAPE = {
    "acc": "accuracy",
    "accuracy": "accuracy",
    "ce": "crossentropy",
    "crossentropy": "crossentropy",
}


serialize, deserialize = REGISTRY.serialize, REGISTRY.deserialize


def get(identifier: Any) -> Metric | None:
    """The Metric of that name, config or class; a function or Loss is averaged. None stays None."""
    own = _BY_FUNCTION.get(identifier) if inspect.isfunction(identifier) else None
    metric = REGISTRY.get(identifier) if own is None else own(name=identifier.__name__)
    if metric is None or isinstance(metric, Metric):
        return metric
    return MeanMetricWrapper(metric.call if isinstance(metric, losses.Loss) else metric)


def resolve(identifier: Any, y_shape: Sequence[int], out_shape: Sequence[int]) -> Metric | None:
    """As `get`, and built for labels and output of these shapes, the batch axis included.

    `"acc"`, `"accuracy"`, `"ce"` and `"crossentropy"` are chosen by the shapes: binary for an
    output of last size 1, sparse for labels of a lower rank or of last size 1, else categorical.
    A metric given by name is called as it was typed.
    """
    metric = None
    if isinstance(identifier, str) and identifier.lower() in _CHOSEN_BY_SHAPE:
        family = _BY_TASK[_CHOSEN_BY_SHAPE[identifier.lower()]]
        metric = family[losses.task(y_shape, out_shape)]()
    else:
        metric = get(identifier)
    if isinstance(identifier, str) and metric is not None:
        metric.name = identifier
    if metric is not None:
        metric.ensure_built(y_shape, out_shape)
    return metric
