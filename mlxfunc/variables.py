"""Variable: a name for an array in a table that is replaced, as Keras scripts hold on to one."""

from __future__ import annotations

import operator
from collections.abc import Callable, MutableMapping
from typing import Any

import mlx.core as mx
import numpy as np

from .conversion import to_mlx


def _unary(function: Callable) -> Callable[[Any], mx.array]:
    return lambda self: function(self.value)


def _binary(function: Callable) -> Callable[[Any, Any], mx.array]:
    return lambda self, other: function(self.value, _operand(other))


def _reflected(function: Callable) -> Callable[[Any, Any], mx.array]:
    return lambda self, other: function(_operand(other), self.value)


def _operand(value: Any) -> Any:
    """Numbers stay numbers: they take the dtype of the array beside them."""
    return array_of(value) if isinstance(value, Variable | np.ndarray) else value


class Variable:
    """`table[key]`, whichever array that is now: `v + 1` reads it, `v.assign(1)` replaces it.

    Arithmetic, comparison and indexing give arrays. For other functions of MLX take `v.value`.

    Args:
        table: where the array is.
    Source: https://keras.io/api/ops/core/
    """

    __slots__ = ("_key", "_table")
    # NumPy then leaves `array + variable` to our reflected operator.
    __array_ufunc__ = None

    def __init__(self, table: MutableMapping[str, mx.array], key: str) -> None:
        self._table, self._key = table, key

    @property
    def value(self) -> mx.array:
        """The array of this moment."""
        return self._table[self._key]

    @property
    def name(self) -> str:
        return self._key

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def ndim(self) -> int:
        return self.value.ndim

    @property
    def dtype(self) -> mx.Dtype:
        return self.value.dtype

    def numpy(self) -> np.ndarray:
        return np.array(self.value)

    def assign(self, value: Any) -> mx.array:
        """Replace the array by a value that broadcasts to its shape, in its dtype; return it."""
        old = self.value
        new = mx.broadcast_to(array_of(value).astype(old.dtype), old.shape)
        self._table[self._key] = new
        return new

    def assign_add(self, value: Any) -> mx.array:
        """assign(self + value)"""
        return self.assign(self.value + array_of(value))

    def assign_sub(self, value: Any) -> mx.array:
        """assign(self - value)"""
        return self.assign(self.value - array_of(value))

    def __mlx_array__(self) -> mx.array:
        return self.value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.value, dtype)

    def __getitem__(self, key: Any) -> mx.array:
        return self.value[key]

    def __bool__(self) -> bool:
        return bool(self.value)

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    def __repr__(self) -> str:
        return f"<Variable {self.name!r} shape={self.shape} dtype={self.dtype}>"

    __neg__, __abs__, __invert__ = (_unary(f) for f in (operator.neg, abs, operator.invert))
    __add__, __radd__ = _binary(operator.add), _reflected(operator.add)
    __sub__, __rsub__ = _binary(operator.sub), _reflected(operator.sub)
    __mul__, __rmul__ = _binary(operator.mul), _reflected(operator.mul)
    __truediv__, __rtruediv__ = _binary(operator.truediv), _reflected(operator.truediv)
    __floordiv__, __rfloordiv__ = _binary(operator.floordiv), _reflected(operator.floordiv)
    __mod__, __rmod__ = _binary(operator.mod), _reflected(operator.mod)
    __pow__, __rpow__ = _binary(operator.pow), _reflected(operator.pow)
    __matmul__, __rmatmul__ = _binary(operator.matmul), _reflected(operator.matmul)
    __lt__, __le__ = _binary(operator.lt), _binary(operator.le)
    __gt__, __ge__ = _binary(operator.gt), _binary(operator.ge)
    __eq__ = _binary(operator.eq)  # type: ignore[assignment]
    __ne__ = _binary(operator.ne)  # type: ignore[assignment]
    __hash__ = object.__hash__


def array_of(value: Any) -> mx.array:
    """The array of a variable, or of a value."""
    return value.value if isinstance(value, Variable) else to_mlx(value)
