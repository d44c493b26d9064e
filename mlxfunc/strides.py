"""NumPy arrays in an order that MLX reads."""

from __future__ import annotations

from typing import Any

import numpy as np


def forward(value: Any) -> np.ndarray:
    """The value as an array without negative strides, which x[::-1] has and MLX refuses."""
    array = np.asarray(value)
    return array.copy() if min(array.strides, default=0) < 0 else array
