"""Checks of the numbers that fit, evaluate and predict are called with."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np


def is_count(value: Any, least: int) -> bool:
    """Whether `value` is an int of at least `least`; True and False are none."""
    is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return bool(is_int and value >= least)


def check_epochs(first: Any, epochs: Any, validation_freq: int | Collection[int]) -> None:
    """Raise ValueError for epochs that cannot be counted."""
    for name, value in (("epochs", epochs), ("initial_epoch", first)):
        if not is_count(value, 0):
            raise ValueError(f"fit: expected {name} to be an int of at least 0, got {value!r}.")
    if isinstance(validation_freq, Collection) and not isinstance(validation_freq, str):
        return
    if not is_count(validation_freq, 1):
        raise ValueError(
            "fit: expected validation_freq to be an int of at least 1, or a list of epochs, got "
            f"{validation_freq!r}."
        )
