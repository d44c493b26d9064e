"""Flatten, Reshape and their kin; what only renames axes writes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from mlxfunc import layers
from mlx2onnx.builder import Builder, Value
from mlx2onnx.layers.registry import rule
from mlx2onnx.layout import Layout, Tensor, channels_first, ordered, plain


@rule(layers.Flatten, integers="keep")
def flatten(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    """Images are flattened as they are stored: the Dense behind it has its rows in that order."""
    if x.rank == 1:
        return x.expand([1])
    if x.rank == 2:
        return x
    layout, sizes = x.layout, x.shape[1:]
    if layout.perm[0] != 0 or layout.order or not all(isinstance(d, int) for d in sizes):
        layout = plain(x.rank)
    order = None
    if layout != plain(x.rank):
        order = _order(sizes, layout)
    value = g.op("Flatten", x.to(layout))
    return Tensor(g, value, out.shape, Layout((0, 1), order), dtype=x.dtype)


def _order(sizes: Any, layout: Layout) -> bytes | None:
    """Which element of the flattened array each element is, when axes are stored in `layout`."""
    places = np.arange(int(np.prod(sizes))).reshape(sizes)
    return ordered(places.transpose([axis - 1 for axis in layout.perm[1:]]))


@rule(layers.Reshape, integers="keep")
def reshape(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    """A vector becomes an image in the order that is asked for, where that costs nothing."""
    sizes = out.shape[1:]
    fixed = all(isinstance(d, int) for d in sizes)

    def make(layout: Layout) -> Value | None:
        if layout == plain(len(out.shape)):
            return g.op("Reshape", x.plain, _target(sizes))
        if layout.perm[0] != 0 or layout.order or not fixed or x.rank != 2:
            return None
        source = Layout((0, 1), _order(sizes, layout))
        if not x.deferred and source not in x.values:
            return None
        stored = [out.shape[axis] for axis in layout.perm[1:]]
        return g.op("Reshape", x.to(source), _target(stored))

    return Tensor(g, None, out.shape, dtype=x.dtype, make=make, waits=x.waits + 1)


def _target(sizes: Any) -> list[int]:
    """The batch as it is, dynamic sizes found: at most one."""
    return [0, *(d if isinstance(d, int) else -1 for d in sizes)]


@rule(layers.Permute, integers="keep")
def permute(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    """The same value: its axes have other names."""
    layout = x.layout.unordered()
    axes = [0, *layer.dims]
    renamed = Layout(tuple(axes.index(axis) for axis in layout.perm))
    return Tensor(g, x.to(layout), out.shape, renamed, dtype=x.dtype)


@rule(layers.RepeatVector, integers="keep")
def repeat_vector(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    def make(layout: Layout) -> Value | None:
        if not layout.features_last or layout.order:
            return None
        axis = layout.axis(1)
        shape = [1, 1, 1]
        shape[axis] = layer.n
        return g.op("Expand", g.op("Unsqueeze", x.plain, [axis]), shape)

    return Tensor(g, None, out.shape, dtype=x.dtype, make=make, waits=x.waits + 1)


@rule(layers.UpSampling1D, layers.UpSampling3D)
def up_sampling(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    return _resize(g, layer, x, x.layout.unordered(), out, **NEAREST)


@rule(layers.UpSampling2D)
def up_sampling_images(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    if layer.interpolation == "nearest":
        return up_sampling(g, layer, x, out)
    return _resize(g, layer, x, channels_first(4), out, mode="linear")


NEAREST = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}


def exact_floats(g: Builder, values: list[int]) -> Value:
    """A vector that is float32 in a float16 model too."""
    if g.dtype == "float32":
        return g.constant(values, "float32")
    return g.op("Constant", value_floats=[float(v) for v in values])


def _resize(
    g: Builder, layer: Any, x: Tensor, layout: Layout, out: Any, **attributes: Any
) -> Tensor:
    factors = (1, *layer.size, 1)
    scales = exact_floats(g, [factors[axis] for axis in layout.perm])
    value = g.op("Resize", x.to(layout), None, scales, **attributes)
    return Tensor(g, value, out.shape, layout, dtype=x.dtype)


@rule(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D, integers="keep")
def zero_padding(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    layout = x.layout.unordered()
    sides = [(0, 0), *layer.padding, (0, 0)]
    pads = [sides[axis][end] for end in (0, 1) for axis in layout.perm]
    return Tensor(g, g.op("Pad", x.to(layout), pads), out.shape, layout, dtype=x.dtype)


@rule(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D, integers="keep")
def cropping(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    layout = x.layout.unordered()
    rows = [
        (layout.axis(axis), low, -high if high else np.iinfo(np.int64).max)
        for axis, (low, high) in enumerate(layer.cropping, 1)
        if low or high
    ]
    if not rows:
        return x
    axes, starts, ends = (list(column) for column in zip(*sorted(rows), strict=True))
    value = g.op("Slice", x.to(layout), starts, ends, axes)
    return Tensor(g, value, out.shape, layout, dtype=x.dtype)
