"""Quantized weights: read back to floats when the model is exported, or packed on request."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx2onnx.builder import RUNTIME_DOMAIN, Builder, Value, to_numpy
from mlx2onnx.primitives.matmul import picked
from mlx2onnx.primitives.registry import Unsupported, primitive
from mlx2onnx.primitives.shaping import stored_transpose

# What MatMulNBits is quick with; it has no zero points that are floats for 8 bits.
PACKED_BITS = (4, 8)
MODES = ("affine", "mxfp4", "mxfp8", "nvfp4")


def _constants(event: Any, arrays: Any) -> list[mx.array]:
    """The packed weights, scales and biases."""
    found = [_constant(event, a) for a in arrays]
    if any(f is None for f in found):
        raise Unsupported("expected quantized weights that are constants")
    return [f for f in found if f is not None]


def _constant(event: Any, array: Any) -> mx.array | None:
    maker = event.context.maker(array)
    if maker is None:
        return event.context.constant(array)
    source = event.context.constant(maker.inputs[0]) if maker.name == "Quantize" else None
    if source is None or maker.arguments[3]:
        return None
    group, bits, mode, _ = maker.arguments
    index = [a.name for a in maker.outputs].index(array.name)
    return mx.quantize(source, group, bits, mode=MODES[mode])[index]


def _dequantized(g: Builder, event: Any, arrays: Any, group: int, bits: int, mode: int) -> Value:
    weights = _constants(event, arrays)

    def make() -> Any:
        packed, scales, *biases = weights
        bias = biases[0] if biases else None
        return mx.dequantize(packed, scales, bias, group, bits, MODES[mode]).astype(mx.float32)

    g.keep(weights)
    return g.initializer("weight_dequantized", make, ("dequantized", id(weights[0]), group, bits))


def _weight(g: Builder, event: Any, arrays: Any) -> Value:
    group, bits, mode, turned, *_ = event.arguments
    weight = _dequantized(g, event, arrays, group, bits, mode)
    if turned:
        rank = len(event.inputs[1].shape)
        perm = [*range(rank - 2), rank - 1, rank - 2]
        weight = stored_transpose(g, g.op("Transpose", weight, perm=perm))
    return weight


@primitive("QuantizedMatmul", lazy=True)
def quantized_matmul(g: Builder, event: Any) -> Value:
    x, *arrays = event.inputs
    value = event.context.full(x)
    group, bits, mode, turned = event.arguments
    fits = turned and MODES[mode] == "affine" and bits in PACKED_BITS
    if g.quantized == "MatMulNBits" and fits and len(arrays[0].shape) == 2 and len(x.shape) > 1:
        return _packed_matmul(g, value, _constants(event, arrays), len(x.shape), group, bits)
    return g.op("MatMul", value, g.cast(_weight(g, event, arrays), value.dtype))


def _packed_matmul(
    g: Builder, x: Value, weights: list[mx.array], rank: int, group: int, bits: int
) -> Value:
    """x·wᵀ of w = scale·q + bias, by an operator that knows w = scale·(q - 2^(bits-1)).

    What is missing is the same within a group: the group's sum of x times bias + scale·2^(bits-1).
    Source: com.microsoft.MatMulNBits of ONNX Runtime.
    """
    packed, scales, biases = weights
    out, groups = scales.shape

    def blocks() -> np.ndarray:
        return to_numpy(packed).view(np.uint8).reshape(out, groups, group * bits // 8)

    def rest() -> mx.array:
        return (biases.astype(mx.float32) + scales.astype(mx.float32) * 2 ** (bits - 1)).T

    g.keep(weights)
    key = (id(packed), group, bits)
    product = g.op(
        "MatMulNBits",
        x,
        g.initializer("weight_packed", blocks, ("packed", *key)),
        g.initializer("weight_scales", scales.reshape(-1), ("scales", *key)),
        domain=RUNTIME_DOMAIN,
        K=groups * group,
        N=out,
        bits=bits,
        block_size=group,
    )
    product.dtype = x.dtype
    grouped = g.op("Reshape", x, [0] * (rank - 1) + [groups, group])
    sums = g.reduce("ReduceSum", grouped, [-1], keepdims=False)
    return g.op(
        "Add", product, g.op("MatMul", sums, g.initializer("weight_rest", rest, ("rest", *key)))
    )


@primitive("GatherQMM", lazy=True)
def gather_qmm(g: Builder, event: Any) -> Value:
    x, *arrays, left, right = event.inputs
    a, i, j = (event.context.full(v) for v in (x, left, right))
    weight = g.cast(_weight(g, event, arrays), a.dtype)
    return g.op("MatMul", picked(g, event, 0, a, i), picked(g, event, 1, weight, j))


@primitive("Quantize", lazy=True)
def quantize(g: Builder, event: Any) -> Any:
    group, bits, mode, back = event.arguments
    if back:
        return _dequantized(g, event, event.inputs, group, bits, mode)
    _constants(event, event.outputs)
    parts = (_constant(event, a) for a in event.outputs)
    stored = (event.context.stored(p) for p in parts if p is not None)
    return list(stored)
