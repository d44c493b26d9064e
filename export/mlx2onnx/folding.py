"""What the operators do to small constants, so that constant branches of a trace leave no nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# A larger result is left to the runtime: the file should not grow.
MAX_ELEMENTS = 2**16
# Vectors of weights (variances, scales) are folded by arithmetic; larger weights stay themselves.
MAX_WEIGHT = 2**13
ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Sqrt", "Reciprocal"}


def _slice(x, starts, ends, axes=None, steps=None):
    axes = range(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), int) if steps is None else steps
    index = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        end = None if step < 0 and end < -x.shape[axis] else end
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


def _reshape(x, shape):
    return x.reshape([x.shape[i] if s == 0 else s for i, s in enumerate(shape)])


def _unsqueeze(x, axes):
    return np.expand_dims(x, tuple(axes))


def _squeeze(x, axes):
    return np.squeeze(x, tuple(axes))


def _expand(x, shape):
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape)))


def _relu(x):
    return np.maximum(x, 0)


def _divide(a, b):
    if np.issubdtype(a.dtype, np.integer):
        return np.trunc(a / b).astype(a.dtype)
    return a / b


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _divide, "Neg": np.negative,
    "Max": np.maximum, "Min": np.minimum, "Abs": np.abs, "Exp": np.exp, "Log": np.log,
    "Sqrt": np.sqrt, "Reciprocal": np.reciprocal, "Sin": np.sin, "Cos": np.cos, "Pow": np.power,
    "Floor": np.floor, "Ceil": np.ceil, "Equal": np.equal, "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal, "Less": np.less, "LessOrEqual": np.less_equal,
    "And": np.logical_and, "Or": np.logical_or, "Not": np.logical_not, "Where": np.where,
    "Slice": _slice, "Reshape": _reshape, "Unsqueeze": _unsqueeze, "Squeeze": _squeeze,
    "Clip": np.clip, "Relu": _relu, "Round": np.rint, "Sign": np.sign, "Expand": _expand,
    "Range": np.arange,
    "BitwiseAnd": np.bitwise_and, "BitwiseOr": np.bitwise_or,
}  # fmt: skip


def fold(
    op_type: str, arrays: Sequence[np.ndarray], attributes: Mapping[str, Any]
) -> np.ndarray | None:
    """The result of an operator on constants, or None when it is not worth or not possible."""
    if sum(a.size for a in arrays) > MAX_ELEMENTS:
        return None
    with np.errstate(all="ignore"):
        if op_type == "Concat":
            result = np.concatenate(arrays, axis=attributes["axis"])
        elif op_type == "Transpose":
            result = np.transpose(arrays[0], attributes["perm"])
        elif op_type in _FUNCTIONS and not attributes:
            result = _FUNCTIONS[op_type](*arrays)
        else:
            return None
    if result.size > MAX_ELEMENTS or (op_type == "Expand" and result.size > 4 * arrays[0].size):
        return None
    compares = result.dtype == np.bool_ or op_type == "Where"
    return result if compares else result.astype(arrays[0].dtype, copy=False)
