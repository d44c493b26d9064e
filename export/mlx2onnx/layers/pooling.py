"""Pooling over windows, channels first, and over whole axes, in any layout."""

from __future__ import annotations

import math
from typing import Any

from mlxfunc import layers
from mlx2onnx.builder import Builder, Value
from mlx2onnx.layers.convolution import listed, padded, padding, skips
from mlx2onnx.layers.registry import rule
from mlx2onnx.layout import Tensor, channels_first, plain


def _pool(g: Builder, operator: str, layer: Any, x: Tensor, out: Any) -> Tensor:
    layout = channels_first(x.rank)
    value = g.op(
        operator,
        x.to(layout),
        kernel_shape=list(layer.pool_size),
        **listed("strides", layer.strides),
        **padding(layer.padding, x.shape[1:-1], layer.pool_size, layer.strides),
    )
    return Tensor(g, value, out.shape, layout, dtype=x.dtype)


@rule(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)
def max_pooling(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    if not _skips(layer, x):
        return _pool(g, "MaxPool", layer, x, out)
    layout = channels_first(x.rank)
    value = _padded_pool(g, "MaxPool", layer, x.to(layout), -math.inf)
    return Tensor(g, value, out.shape, layout, dtype=x.dtype)


@rule(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D)
def average_pooling(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    """Where windows are padded by hand, by the share of each that is not padding."""
    if not _skips(layer, x):
        return _pool(g, "AveragePool", layer, x, out)
    layout = channels_first(x.rank)
    value = x.to(layout)
    sizes = [g.shape_of(value, axis) for axis in range(2, x.rank)]
    ones = g.op("Expand", g.constant(1.0, value.dtype), g.op("Concat", [1, 1], *sizes, axis=0))
    parts = [_padded_pool(g, "AveragePool", layer, v, 0.0) for v in (value, ones)]
    return Tensor(g, g.op("Div", *parts), out.shape, layout, dtype=x.dtype)


def _skips(layer: Any, x: Tensor) -> bool:
    return skips(layer.padding, x.shape[1:-1], layer.pool_size, layer.strides)


def _padded_pool(g: Builder, operator: str, layer: Any, value: Value, fill: float) -> Value:
    value = padded(g, value, layer.pool_size, layer.strides, fill)
    kernel, strides = list(layer.pool_size), list(layer.strides)
    return g.op(operator, value, kernel_shape=kernel, strides=strides)


def reduce_spatial(g: Builder, kind: str, x: Tensor, keepdims: bool, out: Any) -> Tensor:
    """Over all axes but the batch and the channels."""
    layout = x.layout.unordered()
    if layout.axis(0) > layout.axis(-1):
        layout = plain(x.rank)
    axes = sorted(layout.axis(axis) for axis in range(1, x.rank - 1))
    value = g.reduce(kind, x.to(layout), axes, keepdims)
    return Tensor(g, value, out.shape, layout if keepdims else plain(2), dtype=x.dtype)


@rule(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D)
def global_max(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    return reduce_spatial(g, "ReduceMax", x, layer.keepdims, out)


@rule(layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D)
def global_average(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    return reduce_spatial(g, "ReduceMean", x, layer.keepdims, out)


@rule(layers.GlobalAveragePooling1D)
def global_average_steps(
    g: Builder, layer: Any, x: Tensor, out: Any, mask: Any = None
) -> Tensor | None:
    return global_average(g, layer, x, out) if mask is None else None
