"""Weights as initializers: stored once however often, and in whatever form, they are used."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx2onnx.builder import Builder, Value, to_numpy

BLOCK = 64


def weight(
    g: Builder,
    layer: Any,
    name: str,
    form: Hashable = None,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Value:
    """`layer[name]` as an initializer, through `transform` when given.

    `form` names the transformation: a second use in the same form finds the first.
    """

    def array() -> np.ndarray:
        own = contiguous(layer[name])
        return own if transform is None else transform(own)

    return g.initializer(name, array, key=(id(layer), name, form))


def stored(g: Builder, layer: Any, name: str, form: Hashable = None) -> bool:
    """Whether `weight` has been asked for this form before."""
    return g.stores((id(layer), name, form))


def transposed(array: np.ndarray) -> np.ndarray:
    """(a, b) → (b, a), contiguous; rows by blocks, as memory likes it."""
    made = np.empty(array.shape[::-1], array.dtype)
    for start in range(0, len(array), BLOCK):
        made[:, start : start + BLOCK] = array[start : start + BLOCK].T
    return made


def contiguous(array: Any) -> np.ndarray:
    """A contiguous numpy array; a matrix that is stored turned, as new weights are, by blocks."""
    if array.ndim == 2 and array.dtype != mx.bfloat16:
        view = np.asarray(array)
        if view.flags.f_contiguous and not view.flags.c_contiguous:
            return transposed(view.T)
    return to_numpy(array)


def derived(
    g: Builder, layer: Any, name: str, form: Hashable, make: Callable[[], np.ndarray]
) -> Value:
    """An initializer made from several weights of `layer`, once for each `form`."""
    return g.initializer(name, make, key=(id(layer), name, form))
