"""Optimizers by name and class: `"adam"`, `Adam()`."""

from __future__ import annotations

from typing import Any

import mlx.optimizers

from .. import schedules
from .adaptive import Adadelta, Adafactor, Adagrad, Ftrl
from .base import REGISTRY, Optimizer
from .momentum import SGD, Adam, Adamax, AdamW, Lamb, Lion, Nadam, RMSprop
from .muon import Muon

serialize, deserialize = REGISTRY.serialize, REGISTRY.deserialize

for _class in (
    *(SGD, RMSprop, Adam, AdamW, Adamax, Nadam, Adagrad, Adadelta, Adafactor, Lion, Ftrl, Lamb),
    Muon,
):
    REGISTRY.register(_class, _class.__name__.lower())


def get(identifier: Any) -> Any:
    """The optimizer of that name (in any case), config or class; an `mlx.optimizers` one as is."""
    if isinstance(identifier, mlx.optimizers.Optimizer):
        return identifier
    return REGISTRY.get(identifier.lower() if isinstance(identifier, str) else identifier)
