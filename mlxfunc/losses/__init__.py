"""Losses by name, class and function: `"mse"`, `MeanSquaredError()`, `mean_squared_error`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from .base import REGISTRY, FunctionLoss, Loss, LossFunctionWrapper
from .classification import (
    BinaryCrossentropy,
    BinaryFocalCrossentropy,
    CategoricalCrossentropy,
    CategoricalFocalCrossentropy,
    CategoricalHinge,
    Hinge,
    KLDivergence,
    SparseCategoricalCrossentropy,
    SquaredHinge,
    binary_crossentropy,
    binary_focal_crossentropy,
    categorical_crossentropy,
    categorical_focal_crossentropy,
    categorical_hinge,
    hinge,
    kl_divergence,
    sparse_categorical_crossentropy,
    squared_hinge,
)
from .regression import (
    CosineSimilarity,
    Huber,
    LogCosh,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    Poisson,
    cosine_similarity,
    huber,
    log_cosh,
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    mean_squared_logarithmic_error,
    poisson,
)
from .structured import (
    CTC,
    Dice,
    Tversky,
    ctc,
    dice,
    tversky,
)

_ALIASES: dict[type[FunctionLoss], tuple[str, ...]] = {
    MeanSquaredError: ("mse", "MSE"),
    MeanAbsoluteError: ("mae", "MAE"),
    MeanAbsolutePercentageError: ("mape", "MAPE"),
    MeanSquaredLogarithmicError: ("msle", "MSLE"),
    KLDivergence: ("kl_divergence", "kld", "KLD", "kullback_leibler_divergence"),
    LogCosh: ("logcosh",),
    Huber: ("huber_loss",),
    BinaryCrossentropy: ("bce", "BCE"),
    **dict.fromkeys((CosineSimilarity, Poisson, BinaryFocalCrossentropy), ()),
    **dict.fromkeys((CategoricalCrossentropy, CategoricalFocalCrossentropy), ()),
    **dict.fromkeys((SparseCategoricalCrossentropy, Hinge, SquaredHinge, CategoricalHinge), ()),
    **dict.fromkeys((Dice, Tversky, CTC), ()),
}
for _class, _names in _ALIASES.items():
    REGISTRY.register(_class, *_names)
REGISTRY.register(LossFunctionWrapper)
_BY_FUNCTION = {cls.function: cls for cls in _ALIASES}

serialize, deserialize = REGISTRY.serialize, REGISTRY.deserialize


def get(identifier: Any) -> Loss | None:
    """The Loss of that name, config, class or function `f(y_true, y_pred)`; None stays None."""
    own = _BY_FUNCTION.get(identifier) if inspect.isfunction(identifier) else None
    loss = REGISTRY.get(own or identifier)
    return loss if loss is None or isinstance(loss, Loss) else LossFunctionWrapper(loss)


def resolve(identifier: Any, y_shape: Sequence[int], out_shape: Sequence[int]) -> Loss | None:
    """As `get`; `"crossentropy"` (or `"ce"`) is chosen by the shapes of labels and output."""
    if isinstance(identifier, str) and identifier.lower() in ("crossentropy", "ce"):
        return _CROSSENTROPIES[task(y_shape, out_shape)]()
    return get(identifier)


def task(y_shape: Sequence[int], out_shape: Sequence[int]) -> str:
    """What labels and output of these shapes are for: `binary`, `sparse` or `categorical`."""
    if out_shape[-1] == 1:
        return "binary"
    return "sparse" if len(y_shape) < len(out_shape) or y_shape[-1] == 1 else "categorical"


_CROSSENTROPIES: dict[str, type[Loss]] = {
    "binary": BinaryCrossentropy,
    "sparse": SparseCategoricalCrossentropy,
    "categorical": CategoricalCrossentropy,
}
