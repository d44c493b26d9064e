"""What users give as data, as MLX's arrays."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np


def to_mlx(value: Any) -> mx.array:
    """The value as an MLX array: float64 as float32, integers as they are.

    MLX refuses negative strides, which x[::-1] has: such an array is copied.
    """
    if isinstance(value, mx.array):
        return value
    array = np.asarray(value)
    return mx.array(array.copy() if min(array.strides, default=0) < 0 else array)
