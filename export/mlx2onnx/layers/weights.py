"""Weights as initializers: stored once however often, and in whatever form, they are used."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from mlx2onnx.builder import Builder, Value, to_numpy


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
        stored = to_numpy(layer[name])
        return stored if transform is None else transform(stored)

    return g.initializer(name, array, key=(id(layer), name, form))


def derived(
    g: Builder, layer: Any, name: str, form: Hashable, make: Callable[[], np.ndarray]
) -> Value:
    """An initializer made from several weights of `layer`, once for each `form`."""
    return g.initializer(name, make, key=(id(layer), name, form))
