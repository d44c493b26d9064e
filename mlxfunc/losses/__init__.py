"""Losses by name, class and function: `"mse"`, `MeanSquaredError()`, `mean_squared_error`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..registry import serialize as serialize
from .base import REGISTRY as REGISTRY
from .base import Loss as Loss
from .base import LossFunctionWrapper as LossFunctionWrapper
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
)
from .classification import binary_crossentropy as binary_crossentropy
from .classification import binary_focal_crossentropy as binary_focal_crossentropy
from .classification import categorical_crossentropy as categorical_crossentropy
from .classification import categorical_focal_crossentropy as categorical_focal_crossentropy
from .classification import categorical_hinge as categorical_hinge
from .classification import hinge as hinge
from .classification import kl_divergence as kl_divergence
from .classification import sparse_categorical_crossentropy as sparse_categorical_crossentropy
from .classification import squared_hinge as squared_hinge
from .regression import (
    CosineSimilarity,
    Huber,
    LogCosh,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogarithmicError,
    Poisson,
)
from .regression import cosine_similarity as cosine_similarity
from .regression import huber as huber
from .regression import log_cosh as log_cosh
from .regression import mean_absolute_error as mean_absolute_error
from .regression import mean_absolute_percentage_error as mean_absolute_percentage_error
from .regression import mean_squared_error as mean_squared_error
from .regression import mean_squared_logarithmic_error as mean_squared_logarithmic_error
from .regression import poisson as poisson
from .structured import CTC, Dice, Tversky
from .structured import ctc as ctc
from .structured import dice as dice
from .structured import tversky as tversky

_ALIASES: dict[type[Loss], tuple[str, ...]] = {
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


def get(identifier: Any) -> Loss | None:
    """The Loss of that name, config, class or function `f(y_true, y_pred)`; None stays None."""
    loss = REGISTRY.get(identifier)
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
