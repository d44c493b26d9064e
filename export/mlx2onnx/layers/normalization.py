"""Normalizations: ONNX's operators where the layout and axes are theirs, else their formula."""

from __future__ import annotations

from typing import Any

import numpy as np
from mlxfunc import layers
from mlx2onnx.builder import Builder, Value, to_numpy
from mlx2onnx.layers.registry import rule
from mlx2onnx.layers.weights import derived, weight
from mlx2onnx.layout import Layout, Tensor, channels_first, placed, plain


def _axes(axis: Any, rank: int) -> list[int]:
    """`axis`, one or several, counted from the front, in order."""
    return sorted(a % rank for a in ((axis,) if isinstance(axis, int) else axis))


def _or(g: Builder, layer: Any, name: str, kind: Any, order: Any, value: float, size: int) -> Value:
    """A weight in the order of the stored elements; `value` everywhere for one it has not."""
    if name in layer:
        return weight(g, layer, name, order, None if kind is None else lambda a: a[kind])
    return derived(g, layer, name, size, lambda: np.full(size, value, np.float32))


@rule(layers.BatchNormalization)
def batch_normalization(g: Builder, layer: Any, x: Tensor) -> Tensor:
    """BatchNormalization where channels are axis 1, else Mul and Add."""
    (axis,) = _axes(layer.axis, x.rank)
    size = x.shape[axis]
    assert isinstance(size, int)

    def apply(value: Value, layout: Layout) -> Value:
        if layout.axis(axis) != 1 or layout.axis(0) != 0:
            return _scaled(g, layer, value, layout, axis)
        order = layout.order if axis == x.rank - 1 else None
        indices = layout.indices if order else None
        defaults = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        weights = [_or(g, layer, n, indices, order, v, size) for n, v in defaults.items()]
        return g.op("BatchNormalization", value, *weights, epsilon=layer.epsilon)

    return x.map(apply)


def _scaled(g: Builder, layer: Any, value: Value, layout: Layout, axis: int) -> Value:
    """x · factor + shift"""

    def factor() -> np.ndarray:
        made = 1 / np.sqrt(to_numpy(layer.running_var).astype(np.float64) + layer.epsilon)
        return made * to_numpy(layer.weight) if layer.scale else made

    def shift() -> np.ndarray:
        made = -to_numpy(layer.running_mean) * factor()
        return made + to_numpy(layer.bias) if layer.center else made

    shape = [-1 if a == axis else 1 for a in range(len(layout.perm))]

    def stored(array: np.ndarray) -> np.ndarray:
        return placed(array.astype(np.float32).reshape(shape), layout)

    form = (axis, layout)
    value = g.op("Mul", value, derived(g, layer, "factor", form, lambda: stored(factor())))
    return g.op("Add", value, derived(g, layer, "shift", form, lambda: stored(shift())))


@rule(layers.LayerNormalization)
def layer_normalization(g: Builder, layer: Any, x: Tensor) -> Tensor | None:
    axes = _axes(layer.axis, x.rank)
    if axes != list(range(axes[0], x.rank)):
        return None
    layout = x.layout.unordered()
    if not (layout.features_last and len(axes) == 1):
        layout = plain(x.rank)
    shape: Any = tuple(x.shape[axis] for axis in axes)
    scale = (
        weight(g, layer, "weight")
        if layer.scale
        else derived(g, layer, "weight", shape, lambda: np.ones(shape, np.float32))
    )
    bias = weight(g, layer, "bias") if layer.center else None
    value = g.op(
        "LayerNormalization", x.to(layout), scale, bias, axis=-len(axes), epsilon=layer.epsilon
    )
    return Tensor(g, value, x.shape, layout, dtype=x.dtype)


@rule(layers.GroupNormalization)
def group_normalization(g: Builder, layer: Any, x: Tensor) -> Tensor | None:
    """InstanceNormalization of groups, each a row; the scale is per channel."""
    if _axes(layer.axis, x.rank) != [x.rank - 1] or x.rank < 3:
        return None
    layout, size = channels_first(x.rank), x.shape[-1]
    groups: Any = size if layer.groups == -1 else layer.groups
    value = x.to(layout)
    ones = derived(g, layer, "ones", groups, lambda: np.ones(groups, np.float32))
    zeros = derived(g, layer, "zeros", groups, lambda: np.zeros(groups, np.float32))
    y = g.op("Reshape", value, [0, groups, -1])
    y = g.op("InstanceNormalization", y, ones, zeros, epsilon=layer.epsilon)
    sizes = [x.shape[axis] for axis in layout.perm[1:]]
    fixed = all(isinstance(d, int) for d in sizes)
    y = g.op("Reshape", y, [0, *sizes] if fixed else g.op("Shape", value))
    trailing = (1,) * (x.rank - 2)

    def column(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, *trailing)

    if layer.scale:
        y = g.op("Mul", y, weight(g, layer, "weight", trailing, column))
    if layer.center:
        y = g.op("Add", y, weight(g, layer, "bias", trailing, column))
    return Tensor(g, y, x.shape, layout, dtype=x.dtype)


@rule(layers.RMSNormalization)
def rms_normalization(g: Builder, layer: Any, x: Tensor) -> Tensor | None:
    """x / sqrt(sum of x² + n · epsilon) · (sqrt(n) · weight), n features."""
    if _axes(layer.axis, x.rank) != [x.rank - 1]:
        return None
    layout = x.layout if x.layout.features_last else plain(x.rank)
    layout = layout.unordered()
    value, size = x.to(layout), x.shape[-1]
    assert isinstance(size, int)
    if g.opset >= 23:
        y = g.op("RMSNormalization", value, weight(g, layer, "weight"), epsilon=layer.epsilon)
        return Tensor(g, y, x.shape, layout, dtype=x.dtype)
    squares = g.reduce("ReduceSumSquare", value, [x.rank - 1])
    norm = g.op("Sqrt", g.op("Add", squares, size * layer.epsilon))
    scale = weight(g, layer, "weight", "rms", lambda a: (a * np.sqrt(size)).astype(np.float32))
    y = g.op("Mul", g.op("Div", value, norm), scale)
    return Tensor(g, y, x.shape, layout, dtype=x.dtype)


@rule(layers.UnitNormalization, integers="trace")
def unit_normalization(g: Builder, layer: Any, x: Tensor) -> Tensor:
    layout = x.layout.unordered()
    axes = sorted(layout.axis(axis) for axis in _axes(layer.axis, x.rank))
    value = x.to(layout)
    norm = g.op("Max", g.reduce("ReduceL2", value, axes), 1e-12)
    return Tensor(g, g.op("Div", value, norm), x.shape, layout, dtype=x.dtype)
