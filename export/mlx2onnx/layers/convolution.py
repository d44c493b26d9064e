"""Convolutions: Conv and ConvTranspose, channels first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mlxfunc import layers
from mlx2onnx.builder import Builder, Value
from mlx2onnx.layers.activation import activate
from mlx2onnx.layers.registry import rule
from mlx2onnx.layers.weights import weight
from mlx2onnx.layout import Tensor, channels_first
from mlxfunc.layers.windows import Pair, same_pads


def padding(
    kind: str, sizes: Sequence[Any], extents: Sequence[int], strides: Sequence[int]
) -> dict[str, Any]:
    """`pads`, or `auto_pad` where they depend on a size that is dynamic."""
    if kind == "valid":
        return {}
    if kind == "causal":
        return {"pads": [k - 1 for k in extents] + [0] * len(extents)}
    pairs = [_same(*axis) for axis in zip(sizes, extents, strides, strict=True)]
    known = [pair for pair in pairs if pair is not None]
    if len(known) < len(pairs):
        return {"auto_pad": "SAME_UPPER"}
    pads = [before for before, _ in known] + [after for _, after in known]
    return {"pads": pads} if any(pads) else {}


def _same(size: Any, extent: int, stride: int) -> Pair | None:
    """Zeros before and after an axis; None where they depend on a dynamic size."""
    if isinstance(size, int):
        return same_pads(size, extent, stride)
    if stride == 1:
        return (extent - 1) // 2, extent // 2
    # One more at the end may be in no window, so it may always be there.
    return (0, extent - 1) if extent <= 2 and stride >= extent else None


def skips(kind: str, sizes: Sequence, extents: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether strides are larger than windows where ONNX Runtime would have to find the padding.

    Its `auto_pad` fails there, or pads by less than nothing.
    """
    axes = zip(sizes, extents, strides, strict=True)
    return kind == "same" and any(
        stride > extent and _same(size, extent, stride) is None for size, extent, stride in axes
    )


def padded(
    g: Builder, value: Value, extents: Sequence[int], strides: Sequence[int], fill: float = 0.0
) -> Value:
    """Padded, channels first, as padding="same" is, by sizes that are known when the file runs."""
    before: list[Any] = [[0, 0]]
    after: list[Any] = [[0, 0]]
    for axis, (extent, stride) in enumerate(zip(extents, strides, strict=True), 2):
        last = g.op("Mod", g.op("Sub", g.shape_of(value, axis), [1]), [stride])
        total = g.op("Max", g.op("Sub", [extent - 1], last), [0])
        before.append(g.op("Div", total, [2]))
        after.append(g.op("Sub", total, before[-1]))
    return g.op("Pad", value, g.op("Concat", *before, *after, axis=0), fill)


def listed(attribute: str, values: Sequence[int]) -> dict[str, Any]:
    """An attribute, where it is not all ones."""
    return {} if all(v == 1 for v in values) else {attribute: list(values)}


def convolve(
    g: Builder, layer: Any, x: Tensor, kernel: Value, filters: int, groups: int, bias: Any, out: Any
) -> Tensor:
    """One Conv of the layer's sizes."""
    layout = channels_first(x.rank)
    value, sizes = x.to(layout), (x.shape[1:-1], layer.extents, layer.strides)
    pads = padding(layer.padding, *sizes)
    if skips(layer.padding, *sizes):
        value, pads = padded(g, value, layer.extents, layer.strides), {}
    value = g.op(
        "Conv",
        value,
        kernel,
        bias,
        group=groups if groups != 1 else None,
        kernel_shape=list(layer.kernel_size),
        **listed("strides", layer.strides),
        **listed("dilations", layer.dilation_rate),
        **pads,
    )
    shape = (x.shape[0], *out.shape[1:-1], filters)
    return Tensor(g, value, shape, layout, dtype=x.dtype)


def channels_second(array: np.ndarray) -> np.ndarray:
    """weight (out, *kernel, in) → (out, in, *kernel)"""
    return np.moveaxis(array, -1, 1)


def bias_of(g: Builder, layer: Any) -> Value | None:
    return weight(g, layer, "bias") if layer.use_bias else None


@rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def conv(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    kernel = weight(g, layer, "weight", "conv", channels_second)
    y = convolve(g, layer, x, kernel, layer.filters, layer.groups, bias_of(g, layer), out)
    return activate(g, layer.activation, y)


@rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise_conv(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    y = _depthwise(g, layer, x, "weight", bias_of(g, layer), out)
    return activate(g, layer.activation, y)


def _depthwise(g: Builder, layer: Any, x: Tensor, name: str, bias: Any, out: Any) -> Tensor:
    """A Conv with a group for each input channel."""
    groups = x.shape[-1]
    assert isinstance(groups, int)
    kernel = weight(g, layer, name, "conv", channels_second)
    return convolve(g, layer, x, kernel, groups * layer.depth_multiplier, groups, bias, out)


@rule(layers.SeparableConv1D, layers.SeparableConv2D)
def separable_conv(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    inner = _depthwise(g, layer, x, "depthwise_weight", None, out)
    kernel = weight(g, layer, "pointwise_weight", "conv", channels_second)
    layout = channels_first(x.rank)
    value = g.op("Conv", inner.to(layout), kernel, bias_of(g, layer))
    return activate(g, layer.activation, Tensor(g, value, out.shape, layout, dtype=x.dtype))


@rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def conv_transpose(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    """MLX pads the stretched input; ONNX cuts from the full result, or adds zeros at its end."""
    kernel = weight(g, layer, "weight", "transpose", lambda a: np.moveaxis(a, -1, 0))
    before, after = layer.transposed_pads()
    cut = [k - 1 - p for pads in (before, after) for k, p in zip(layer.extents, pads, strict=True)]
    rank = len(layer.kernel_size)
    layout = channels_first(x.rank)
    added = [max(-n, 0) for n in cut[rank:]]
    value = g.op(
        "ConvTranspose",
        x.to(layout),
        kernel,
        bias_of(g, layer),
        kernel_shape=list(layer.kernel_size),
        pads=[max(n, 0) for n in cut] if any(n > 0 for n in cut) else None,
        output_padding=added if any(added) else None,
        **listed("strides", layer.strides),
        **listed("dilations", layer.dilation_rate),
    )
    return activate(g, layer.activation, Tensor(g, value, out.shape, layout, dtype=x.dtype))
