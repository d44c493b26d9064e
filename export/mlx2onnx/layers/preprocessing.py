"""Normalization and Rescaling: a multiplication and an addition."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlxfunc import layers
from mlx2onnx.builder import Builder, Value, to_numpy
from mlx2onnx.layers.registry import rule
from mlx2onnx.layers.weights import derived
from mlx2onnx.layout import Layout, Tensor, placed


@rule(layers.Normalization)
def normalization(g: Builder, layer: Any, x: Tensor) -> Tensor:
    """(x - mean) / deviation, or x · deviation + mean."""
    axes = [axis % x.rank for axis in layer.axis]
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(x.rank)]
    if layer.mean is None:
        mean, variance = (to_numpy(layer[f"adapted_{n}"]) for n in ("mean", "variance"))
    else:
        mean, variance = layer.mean, layer.variance
    deviation = np.maximum(np.sqrt(variance), np.float32(1e-7))

    def apply(value: Value, layout: Layout) -> Value:
        def stored(name: str, array: np.ndarray) -> Value:
            sizes = [shape[axis] for axis in sorted(axes)]
            full: Any = np.broadcast_to(array, sizes).reshape(shape)
            return derived(g, layer, name, layout, lambda: placed(full, layout))

        value = g.cast(value, mx.float32)
        if layer.invert:
            value = g.op("Mul", value, stored("deviation", deviation))
            return g.op("Add", value, stored("mean", mean))
        value = g.op("Sub", value, stored("mean", mean))
        return g.op("Div", value, stored("deviation", deviation))

    return x.map(apply)


@rule(layers.Rescaling)
def rescaling(g: Builder, layer: Any, x: Tensor) -> Tensor:
    """x · scale + offset, of numbers or of vectors along the last axes."""

    def apply(value: Value, layout: Layout) -> Value:
        def stored(numbers: Any) -> np.ndarray:
            array = np.asarray(numbers, np.float32)
            if array.ndim == 0:
                return array
            return placed(array.reshape((1,) * (x.rank - array.ndim) + array.shape), layout)

        value = g.op("Mul", g.cast(value, mx.float32), stored(layer.scale))
        return g.op("Add", value, stored(layer.offset)) if np.any(layer.offset) else value

    return x.map(apply)
