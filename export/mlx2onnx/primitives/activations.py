"""Activation functions that a trace spells out and ONNX has one operator for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mlx2onnx.builder import Builder, DataType, Value
from mlx2onnx.primitives.patterns import made_by, only_axis, scalar

ROOT_2 = math.sqrt(2)


def _pairs(values: Sequence[Value]) -> Iterator[tuple[Value, Value]]:
    first, second = values
    yield first, second
    yield second, first


def _near(number: float | None, wanted: float) -> bool:
    return number is not None and math.isclose(number, wanted, rel_tol=1e-6, abs_tol=1e-12)


def _terms(g: Builder, value: Value | None, op_type: str) -> Iterator[tuple[Value, float]]:
    """(operand, constant) of a node with one constant operand."""
    node = made_by(value, op_type)
    for a, b in _pairs(node.inputs) if node is not None else ():
        if (number := scalar(g, b)) is not None:
            yield a, number


def _term(g: Builder, value: Value | None, op_type: str, wanted: float) -> Value | None:
    found = (a for a, number in _terms(g, value, op_type) if _near(number, wanted))
    return next(found, None)


def _is_float(value: Value) -> bool:
    return value.dtype in (DataType.FLOAT, DataType.FLOAT16)


def maximum(g: Builder, *values: Value) -> Value | None:
    """max(x, 0) and max(slope · x, x)."""
    for x, other in _pairs(values):
        if _is_float(x) and scalar(g, other) == 0:
            return g.op("Relu", x)
        for scaled, slope in _terms(g, other, "Mul"):
            if scaled is x and 0 < slope < 1:
                return g.op("LeakyRelu", x, alpha=slope)
    return None


def minimum(g: Builder, *values: Value) -> Value | None:
    """min(max(x, low), high)."""
    for inner, high in _pairs(values):
        node = made_by(inner, "Max") or made_by(inner, "Relu")
        if node is None or scalar(g, high) is None or not _is_float(inner):
            continue
        if node.op_type == "Relu":
            return g.op("Clip", node.inputs[0], g.constant(0.0, inner.dtype), _flat(g, high))
        for x, low in _pairs(node.inputs):
            if scalar(g, low) is not None:
                return g.op("Clip", x, _flat(g, low), _flat(g, high))
    return None


def _flat(g: Builder, value: Value) -> Value:
    """A bound as Clip takes it: without axes."""
    array = g.constant_value(value)
    return value if array is None else g.constant(array.reshape(()))


def softplus(g: Builder, *values: Value) -> Value | None:
    """log(exp(x) + exp(0))."""
    for x, other in _pairs(values):
        if scalar(g, other) == 0:
            return g.op("Softplus", x)
    return None


def multiply(g: Builder, *values: Value) -> Value | None:
    """x · tanh(softplus(x)), and the two approximations of x · Φ(x)."""
    for x, other in _pairs(values):
        tanh = made_by(other, "Tanh")
        plus = made_by(tanh.inputs[0], "Softplus") if tanh else None
        if plus is not None and plus.inputs[0] is x and g.opset >= 18:
            return g.op("Mish", x)
        inner = _term(g, x, "Mul", 0.5)
        if inner is not None and g.opset >= 20 and _is_tanh_gelu(g, inner, other):
            return g.op("Gelu", inner, approximate="tanh")
    return None


def _is_tanh_gelu(g: Builder, x: Value, other: Value) -> bool:
    """1 + tanh(√(2/π) · (x + 0.044715 · x³))."""
    tanh = made_by(_term(g, other, "Add", 1.0), "Tanh")
    inner = _term(g, tanh.inputs[0], "Mul", math.sqrt(2 / math.pi)) if tanh else None
    total = made_by(inner, "Add")
    for a, b in _pairs(total.inputs) if total is not None else ():
        cube = made_by(_term(g, b, "Mul", 0.044715), "Pow")
        if a is x and cube is not None and cube.inputs[0] is x and scalar(g, cube.inputs[1]) == 3:
            return True
    return False


def divide(g: Builder, a: Value, b: Value) -> Value | None:
    """x · (1 + erf(x / √2)) / 2, and x · clip(x + 3, 0, 6) / 6."""
    number, product = scalar(g, b), made_by(a, "Mul")
    if number is None or product is None:
        return None
    for x, other in _pairs(product.inputs):
        erf = made_by(_term(g, other, "Add", 1.0), "Erf")
        if number == 2 and erf is not None and g.opset >= 20:
            if _term(g, erf.inputs[0], "Div", ROOT_2) is x:
                return g.op("Gelu", x)
        clip = made_by(other, "Clip")
        if number == 6 and clip is not None and [scalar(g, v) for v in clip.inputs[1:]] == [0, 6]:
            if _term(g, clip.inputs[0], "Add", 3.0) is x:
                return g.op("HardSwish", x)
    return None


def select(g: Builder, condition: Value, a: Value, b: Value) -> Value | None:
    """x where x > 0, else alpha · (exp(x) - 1)."""
    positive = made_by(condition, "Greater")
    if positive is None or positive.inputs[0] is not a or scalar(g, positive.inputs[1]) != 0:
        return None
    for inner, alpha in [*_terms(g, b, "Mul"), (b, 1.0)]:
        difference = made_by(inner, "Sub")
        if difference is None or scalar(g, difference.inputs[1]) != 1:
            continue
        exp = made_by(difference.inputs[0], "Exp")
        if exp is not None and exp.inputs[0] is a:
            return g.op("Elu", a, alpha=alpha)
    return None


def subtract(g: Builder, a: Value, b: Value) -> Value | None:
    """x - log(sum(exp(x))), where x may already be less its maximum."""
    total = made_by(b, "ReduceLogSumExp")
    if total is None or total.inputs[0] is not a:
        return None
    axis = only_axis(g, total)
    shifted = made_by(a, "Sub")
    peak = made_by(shifted.inputs[1], "ReduceMax") if shifted else None
    if axis is None:
        return None
    if peak is not None and peak.inputs[0] is shifted.inputs[0] and only_axis(g, peak) is not None:
        if only_axis(g, peak) == axis:
            a = shifted.inputs[0]
    return g.op("LogSoftmax", a, axis=axis)
