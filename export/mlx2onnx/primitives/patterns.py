"""Several nodes of a trace that are one ONNX operator.

A pattern is looked for when its last node is made; what it no longer needs is removed at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mlx2onnx import sizes
from mlx2onnx.builder import Builder, Value
from mlx2onnx.sizes import Int, Size

# More elements than this are weights, which stay as they are.
MAX_FOLDED = 2**14


def made_by(value: Any, op_type: str) -> Any:
    """The node that made a value, if it is of this operator."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type else None


def scalar(g: Builder, value: Value | None) -> float | None:
    """The content of a constant of one element."""
    array = None if value is None else g.constant_value(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def reduced_axes(g: Builder, node: Any) -> list[int] | None:
    """The axes of a Reduce node."""
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    found = g.constant_value(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if found is None else [int(a) for a in found]


def mean(g: Builder, event: Any) -> Value | None:
    """A sum times 1/count, or divided by count, is a mean; the count may be dynamic."""
    context = event.context
    for total, factor in (event.inputs, event.inputs[::-1]):
        node = made_by(context.values.get(total.name), "ReduceSum")
        maker = context.maker(total)
        while maker is not None and maker.name == "Squeeze":
            maker = context.maker(maker.inputs[0])
        numbers = context.constant_numbers(factor)
        if node is not None and maker is not None and maker.name == "Reduce" and numbers:
            source, axes = maker.inputs[0], maker.arguments[1]
            counts = sizes.products([source.shape[a] for a in axes], len(numbers))
            wanted = sizes.shares(counts) if event.name == "Multiply" else counts
            if len(numbers) == len(wanted) and np.allclose(numbers, wanted, rtol=3e-7, atol=0):
                if any(isinstance(s := source.shape[a], Size) and s.may_be_none for a in axes):
                    return _mean_or_nan(g, event, total, [source.shape[a] for a in axes])
                kept = node.attributes["keepdims"].as_int() == 1
                axes = reduced_axes(g, node) or axes
                return g.reduce("ReduceMean", node.inputs[0], axes, keepdims=kept)
        if event.name == "Divide":
            break
    return None


def _mean_or_nan(g: Builder, event: Any, total: Any, dims: Sequence[Int]) -> Value:
    """The mean of an array that may have no elements: MLX's is NaN, where ONNX Runtime has 0."""
    context = event.context
    value = context.full(total)
    for dim in dims:
        value = g.op("Div", value, g.cast(context.scalar(dim, np.int64), total.dtype))
    return value


def without_factor(g: Builder, a: Value, b: Value) -> Value | None:
    """c · (x / c), which is what an average over windows becomes."""
    for scaled, factor in ((a, b), (b, a)):
        node, number = made_by(scaled, "Mul"), scalar(g, factor)
        other = scalar(g, node.inputs[1]) if node else None
        if number is not None and other is not None and abs(number * other - 1) < 3e-7:
            return node.inputs[0]
    return None


def scaled_again(g: Builder, a: Value, b: Value) -> Value | None:
    """(x · c) · d of constants."""
    for scaled, factor in ((a, b), (b, a)):
        x, first = constant_operand(g, scaled, "Mul")
        second = g.constant_value(factor)
        if first is not None and second is not None and first.size + second.size < MAX_FOLDED:
            return g.op("Mul", x, g.constant(first * second))
    return None


def constant_operand(g: Builder, value: Value, op_type: str) -> tuple[Any, np.ndarray | None]:
    """(x, constant) of a node of two operands."""
    node = made_by(value, op_type)
    if node is not None:
        for x, other in (node.inputs, node.inputs[::-1]):
            array = g.constant_value(other)
            if array is not None and array.dtype.kind == "f":
                return x, array
    return value, None


def divided(g: Builder, a: Value, b: Value) -> Value | None:
    """x · (1 / y)."""
    for x, inverse in ((a, b), (b, a)):
        node = made_by(inverse, "Reciprocal")
        if node is not None:
            return g.op("Div", x, node.inputs[0])
    return None


def only_axis(g: Builder, node: Any) -> int | None:
    """The one axis that a Reduce node reduces and keeps, counted from the front."""
    axes, shape = reduced_axes(g, node), node.inputs[0].shape
    kept = "keepdims" not in node.attributes or node.attributes["keepdims"].as_int() == 1
    if axes is None or len(axes) != 1 or shape is None or not kept:
        return None
    return axes[0] % len(shape)


def softmax(g: Builder, event: Any, top: Value, bottom: Value) -> Value | None:
    """exp(x - max(x)) / sum(exp(x - max(x))) over one axis."""
    exp, total = made_by(top, "Exp"), made_by(bottom, "ReduceSum")
    if exp is None or total is None or total.inputs[0] is not top:
        return None
    difference, axes = made_by(exp.inputs[0], "Sub"), reduced_axes(g, total)
    peak = made_by(difference.inputs[1], "ReduceMax") if difference else None
    if peak is None or axes is None or len(axes) != 1 or reduced_axes(g, peak) != axes:
        return None
    rank = len(top.shape) if top.shape is not None else len(event.shape)
    if peak.inputs[0] is not difference.inputs[0] or len(event.shape) != rank:
        return None
    return g.op("Softmax", peak.inputs[0], axis=axes[0])


def layer_norm(g: Builder, event: Any, made: Value) -> Value | None:
    """(x - mean) / sqrt(mean((x - mean)²) + eps) · weight + bias on the last axis."""
    node: Any = made.producer()
    if node is None or node.op_type not in ("Mul", "Add", "Div"):
        return None
    for norm, other in (node.inputs, reversed(node.inputs)):
        found = made_by(norm, "LayerNormalization")
        if found is not None and norm.uses() and len(norm.uses()) == 1:
            return _with_parameter(g, node.op_type, found, other)
    normal = _standardized(g, *node.inputs) if node.op_type == "Div" else None
    if normal is not None:
        x, epsilon = normal
        size = x.shape[-1] if x.shape is not None else None
        if isinstance(size, int):
            ones = g.constant(np.ones(size, np.float32))
            return g.op("LayerNormalization", x, ones, axis=-1, epsilon=epsilon)
    return None


def _with_parameter(g: Builder, op_type: str, node: Any, other: Value) -> Value | None:
    size = node.inputs[1].shape[0] if node.inputs[1].shape is not None else None
    array = g.constant_value(other)
    attributes = {"axis": -1, "epsilon": node.attributes["epsilon"].as_float()}
    if array is None or array.shape not in ((size,), ()):
        return None
    if array.shape == ():
        other = g.constant(np.full(size, array))
    plain = len(node.inputs) == 2
    if op_type == "Mul" and plain and _is_ones(g, node.inputs[1]):
        return g.op("LayerNormalization", node.inputs[0], other, **attributes)
    if op_type == "Add" and plain:
        if not np.any(array):
            return node.outputs[0]
        return g.op("LayerNormalization", *node.inputs, other, **attributes)
    return None


def _is_ones(g: Builder, value: Value) -> bool:
    array = g.constant_value(value)
    return array is not None and bool(np.all(array == 1))


def _standardized(g: Builder, centered: Value, scale: Value) -> tuple[Value, float] | None:
    difference, root = made_by(centered, "Sub"), made_by(scale, "Sqrt")
    if difference is None or root is None:
        return None
    x = difference.inputs[0]
    shifted = made_by(root.inputs[0], "Add")
    if shifted is None or not _mean_of_last(g, difference.inputs[1], x):
        return None
    variance, epsilon = shifted.inputs[0], scalar(g, shifted.inputs[1])
    mean = made_by(variance, "ReduceMean")
    square = made_by(mean.inputs[0], "Mul") if mean else None
    if square is None or epsilon is None or not _mean_of_last(g, variance, square.outputs[0]):
        return None
    return (x, epsilon) if all(v is centered for v in square.inputs) else None


def _mean_of_last(g: Builder, value: Value, of: Value) -> bool:
    mean = made_by(value, "ReduceMean")
    if mean is None or mean.inputs[0] is not of or of.shape is None:
        return False
    kept = mean.attributes["keepdims"].as_int() == 1 if "keepdims" in mean.attributes else True
    axes = reduced_axes(g, mean)
    return kept and axes is not None and [a % len(of.shape) for a in axes] == [len(of.shape) - 1]
