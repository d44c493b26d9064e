"""What users give as data and as dtypes, as MLX's."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

DTypeLike = str | type | np.dtype | mx.Dtype | None


def to_mlx(value: Any) -> mx.array:
    """The value as an MLX array: float64 as float32, integers as they are.

    MLX refuses negative strides, which x[::-1] has: such an array is copied.
    """
    if isinstance(value, mx.array):
        return value
    array = np.asarray(value)
    return mx.array(array.copy() if min(array.strides, default=0) < 0 else array)


def check_real(array: Any, dtype: mx.Dtype, what: str) -> None:
    """Raise ValueError where an array of `dtype` would lose the imaginary part of this one."""
    if "complex" in str(array.dtype) and dtype != mx.complex64:
        raise ValueError(
            f"{what}: expected real numbers, got {str(array.dtype).rpartition('.')[2]}. Give the "
            "real part, or the absolute value; Input(dtype='complex64') takes complex numbers."
        )


def dtype_name(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2]


def as_dtype(dtype: str | type | np.dtype | mx.Dtype) -> mx.Dtype:
    """`"float32"` → `mx.float32`; float64 is float32, the widest that every device has."""
    if isinstance(dtype, type | np.dtype):
        dtype = np.dtype(dtype).name
    if isinstance(dtype, mx.Dtype):
        return mx.float32 if dtype == mx.float64 else dtype
    name = {"float64": "float32", "bool": "bool_", "float": "float32", "int": "int32"}.get(
        str(dtype), str(dtype)
    )
    found = getattr(mx, name, None)
    if not isinstance(found, mx.Dtype):
        raise ValueError(f"dtype: expected the name of an MLX dtype, got {dtype!r}. Use 'float32'.")
    return found


def compute(*values: Any) -> None:
    """Begin to compute all arrays in these structures, so that any thread may ask for them.

    Raises: RuntimeError for what another thread has left to compute.
    """
    try:
        mx.async_eval(*values)
    except RuntimeError as error:
        if "no Stream" in str(error):
            error.add_note(
                "An array of another thread is not computed yet. Call mx.eval on it in that thread."
            )
        raise
