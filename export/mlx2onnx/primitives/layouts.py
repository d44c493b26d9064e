"""Moves Transposes below what does not mind the order of axes, so that neighbours cancel.

MLX convolves with channels last, ONNX with channels first: each convolution is traced with a
Transpose on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mlx2onnx.builder import Builder, Value
from mlx2onnx.primitives.patterns import MAX_FOLDED, constant_operand, made_by


def broadcast_op(
    g: Builder,
    op_type: str,
    *values: Value,
    short: Callable[..., Value | None] | None = None,
    otherwise: Callable[..., Value] | None = None,
) -> Value:
    """An elementwise node, or the shorter form that `short(g, *values)` finds.

    A Transpose that the operands have in common comes after it.
    """

    def build(*operands: Value) -> Value:
        made = short(g, *operands) if short is not None else None
        made = made or with_bias(g, op_type, operands)
        if made is None:
            made = otherwise(g, *operands) if otherwise else g.op(op_type, *operands)
        return made

    perms = {tuple(node.attributes["perm"].as_ints())
             for v in values if (node := made_by(v, "Transpose")) is not None}  # fmt: skip
    if len(perms) != 1:
        return build(*values)
    perm = perms.pop()
    turned = [_turned(g, v, perm) for v in values]
    known = [v for v in turned if v is not None]
    if len(known) < len(turned):
        return build(*values)
    return g.op("Transpose", build(*known), perm=list(perm))


def _turned(g: Builder, value: Value, perm: Sequence[int]) -> Value | None:
    """The operand in the order of axes before the Transpose."""
    node = made_by(value, "Transpose")
    if node is not None:
        return node.inputs[0]
    array = g.constant_value(value)
    if array is None or array.ndim > len(perm):
        return None
    if array.size == 1:
        return value if array.ndim == 0 else g.constant(array.reshape(()))
    rank = len(perm)
    order = np.argsort(perm)
    padded = array.reshape((1,) * (rank - array.ndim) + array.shape)
    shape = tuple(padded.shape[a] for a in order)
    while shape[0] == 1 and len(shape) > 1:
        shape = shape[1:]
    name, key = local_name(g, value, "constant"), ("turned", value, tuple(order))
    return g.initializer(name, lambda: padded.transpose(order).reshape(shape), key)


def shifted_again(g: Builder, a: Value, b: Value) -> Value | None:
    """(x - mean) · scale + bias of constants, which is what a BatchNorm is."""
    for scaled, bias in ((a, b), (b, a)):
        centered, scale = constant_operand(g, scaled, "Mul")
        x, shift = constant_operand(g, centered, "Sub")
        constant = g.constant_value(bias)
        if scale is None or shift is None or constant is None or shift.size == 1:
            continue
        if made_by(centered, "Sub").inputs[0] is x and scale.size < MAX_FOLDED:
            product = g.op("Mul", x, g.constant(scale))
            return broadcast_op(g, "Add", product, g.constant(constant - shift * scale))
    return None


def with_bias(g: Builder, op_type: str, operands: Sequence[Value]) -> Value | None:
    """A convolution takes in the constants that scale its channels and are added to them."""
    if op_type != "Add" or len(operands) != 2:
        return None
    for value, bias in (operands, operands[::-1]):
        scaled = made_by(value, "Mul")
        inner, scale = (scaled.inputs[0], scaled.inputs[1]) if scaled else (value, None)
        node = made_by(inner, "Conv") or made_by(inner, "ConvTranspose")
        if node is None:
            continue
        arrays = [g.constant_value(v) for v in (node.inputs[1], bias, scale) if v is not None]
        if any(a is None for a in arrays) or (scale is not None and node.op_type != "Conv"):
            continue
        known = [a for a in arrays if a is not None]
        if all(_by_channel(node, known[0], a) for a in known[1:]):
            return _convolution(g, node, bias, scale, known)
    return None


def _by_channel(node: Any, weight: np.ndarray, array: np.ndarray) -> bool:
    if node.op_type == "Conv":
        channels = weight.shape[0]
    else:
        groups = node.attributes["group"].as_int() if "group" in node.attributes else 1
        channels = weight.shape[1] * groups
    return array.shape == (channels, *(1,) * (weight.ndim - 2))


def _convolution(
    g: Builder, node: Any, bias: Value, scale: Value | None, arrays: Sequence[np.ndarray]
) -> Value:
    """The node once more, with `bias` added and its channels scaled."""
    x, weight, *old = node.inputs
    total = arrays[1].reshape(-1)
    if scale is not None:
        by = arrays[2].reshape(-1, *(1,) * (arrays[0].ndim - 1))
        key = ("scaled", weight, scale)
        name = local_name(g, weight, "weight")
        weight = g.initializer(f"{name}_scaled", lambda: arrays[0] * by, key)
    if old:
        before = g.constant_value(old[0])
        if before is None:
            return g.op("Add", node.outputs[0], bias)
        total = total + before * (1 if scale is None else arrays[2].reshape(-1))
    name = local_name(g, bias, "bias")
    key = ("bias", bias, scale, *old)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    return g.op(node.op_type, x, weight, g.initializer(name, total, key), **attributes)


def local_name(g: Builder, value: Value, default: str) -> str:
    """A weight's name within the open scope."""
    return (value.name or default).removeprefix(f"{g.path}/")
