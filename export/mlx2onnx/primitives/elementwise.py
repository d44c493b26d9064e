"""Elementwise primitives: operands broadcast, outputs have the operands' common shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from mlx2onnx.builder import Builder, DataType, Value
from mlx2onnx.primitives import activations
from mlx2onnx.primitives.complex import complex_of, complex_product, real_part
from mlx2onnx.primitives.layouts import broadcast_op, shifted_again
from mlx2onnx.primitives.patterns import (
    divided,
    layer_norm,
    mean,
    scaled_again,
    softmax,
    without_factor,
)
from mlx2onnx.primitives.registry import Unsupported, primitive

SAME_NAME = {
    "ArcCos": "Acos", "ArcCosh": "Acosh", "ArcSin": "Asin", "ArcSinh": "Asinh",
    "ArcTan": "Atan", "ArcTanh": "Atanh", "Ceil": "Ceil", "Cos": "Cos", "Cosh": "Cosh",
    "Erf": "Erf", "Exp": "Exp", "Floor": "Floor", "Greater": "Greater",
    "GreaterEqual": "GreaterOrEqual", "Less": "Less", "LessEqual": "LessOrEqual",
    "Maximum": "Max", "Minimum": "Min", "Negative": "Neg", "Power": "Pow",
    "Round": "Round", "Sigmoid": "Sigmoid", "Sign": "Sign", "Sin": "Sin", "Sinh": "Sinh",
    "Subtract": "Sub", "Add": "Add", "Tan": "Tan", "Tanh": "Tanh",
}  # fmt: skip
ROUNDING = {"Ceil", "Floor", "Round"}
SHORTER: dict[str, Callable[..., Value | None]] = {
    "Maximum": activations.maximum, "Minimum": activations.minimum,
    "Subtract": activations.subtract, "Add": shifted_again,
}  # fmt: skip


def is_float(value: Value) -> bool:
    return value.dtype in (DataType.FLOAT, DataType.FLOAT16)


def number(g: Builder, value: Value) -> Value:
    """A bool as an integer: ONNX arithmetic takes no bools."""
    return g.cast(value, mx.int32) if value.dtype == DataType.BOOL else value


def boolean(g: Builder, value: Value) -> Value:
    return g.cast(value, mx.bool_)


def real(event: Any) -> None:
    if any(a.dtype == mx.complex64 for a in (*event.inputs, *event.outputs)):
        raise Unsupported("no form for complex numbers")


@primitive(*SAME_NAME, elementwise=True)
def same(g: Builder, event: Any, *values: Value) -> Value:
    if event.name not in ("Add", "Subtract", "Negative"):
        real(event)
    values = tuple(number(g, v) for v in values)
    if event.name in ROUNDING and not is_float(values[0]):
        return values[0]
    made = broadcast_op(g, SAME_NAME[event.name], *values, short=SHORTER.get(event.name))
    return (layer_norm(g, event, made) or made) if event.name == "Add" else made


@primitive("Multiply", elementwise=True, lazy=True)
def multiply(g: Builder, event: Any) -> Value:
    if (made := mean(g, event)) is not None:
        return made
    if event.outputs[0].dtype == mx.complex64:
        return complex_product(g, *event.values())
    a, b = (number(g, v) for v in event.values())
    made = broadcast_op(g, "Mul", a, b, short=shorter_product)
    return layer_norm(g, event, made) or made


def shorter_product(g: Builder, a: Value, b: Value) -> Value | None:
    for short in (without_factor, activations.multiply, scaled_again, divided):
        if (made := short(g, a, b)) is not None:
            return made
    return None


@primitive("Divide", elementwise=True, lazy=True)
def divide(g: Builder, event: Any) -> Value:
    if (made := mean(g, event)) is not None:
        return made
    real(event)
    a, b = (number(g, v) for v in event.values())
    return softmax(g, event, a, b) or broadcast_op(g, "Div", a, b, short=activations.divide)


@primitive("Abs", elementwise=True)
def absolute(g: Builder, event: Any, x: Value) -> Value:
    if event.inputs[0].dtype == mx.complex64:
        return complex_of(g, g.reduce("ReduceL2", x, [-1], keepdims=False))
    return g.op("Abs", number(g, x))


@primitive("Square", elementwise=True)
def square(g: Builder, event: Any, x: Value) -> Value:
    real(event)
    x = number(g, x)
    return g.op("Mul", x, x)


@primitive("Sqrt", elementwise=True)
def sqrt(g: Builder, event: Any, x: Value) -> Value:
    real(event)
    root = g.op("Sqrt", x)
    return g.op("Reciprocal", root) if event.arguments[0] else root


@primitive("Log", elementwise=True)
def log(g: Builder, event: Any, x: Value) -> Value:
    real(event)
    base = {0: 2.0, 1: 10.0, 2: math.e}[event.arguments[0]]
    made = g.op("Log", x)
    return made if base == math.e else g.op("Mul", made, 1 / math.log(base))


@primitive("Log1p", elementwise=True)
def log1p(g: Builder, event: Any, x: Value) -> Value:
    """2 · artanh(x / (x + 2)) near 0, where 1 + x has none of the digits of x."""
    real(event)
    half = g.op("Atanh", g.op("Div", x, g.op("Add", x, 2.0)))
    is_near = g.op("Less", g.op("Abs", x), 0.5)
    return g.op("Where", is_near, g.op("Add", half, half), g.op("Log", g.op("Add", x, 1.0)))


@primitive("Expm1", elementwise=True)
def expm1(g: Builder, event: Any, x: Value) -> Value:
    """2 · exp(x / 2) · sinh(x / 2), which has all digits near 0; below -20 it is -1."""
    real(event)
    half = g.op("Mul", g.op("Max", x, -20.0), 0.5)
    product = g.op("Mul", g.op("Exp", half), g.op("Sinh", half))
    return g.op("Add", product, product)


@primitive("ErfInv", elementwise=True)
def erfinv(g: Builder, event: Any, x: Value) -> Value:
    """Source: M. Giles, Approximating the erfinv function (2010), single precision."""
    one = g.op("Mul", g.op("Sub", 1.0, x), g.op("Add", x, 1.0))
    w = g.op("Neg", g.op("Log", one))
    near = [2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
            -0.00125372503, -0.00417768164, 0.246640727, 1.50140941]  # fmt: skip
    far = [-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773,
           -0.0076224613, 0.00943887047, 1.00167406, 2.83297682]  # fmt: skip

    def polynomial(coefficients: list[float], at: Value) -> Any:
        total: Any = coefficients[0]
        for c in coefficients[1:]:
            total = g.op("Add", g.op("Mul", at, total), c)
        return total

    middle = polynomial(near, g.op("Sub", w, 2.5))
    tail = polynomial(far, g.op("Sub", g.op("Sqrt", w), 3.0))
    made = g.op("Mul", x, g.op("Where", g.op("Less", w, 5.0), middle, tail))
    # At the ends the polynomial is inf - inf.
    end = g.op("Equal", g.op("Abs", x), 1.0)
    return g.op("Where", end, g.op("Mul", x, math.inf), made)


@primitive("ArcTan2", elementwise=True)
def arctan2(g: Builder, event: Any, y: Value, x: Value) -> Value:
    zero = g.op("And", g.op("Equal", x, 0.0), g.op("Equal", y, 0.0))
    angle = g.op("Where", zero, y, g.op("Atan", g.op("Div", y, x)))
    turn = g.op("Where", g.op("Less", y, 0.0), _like(g, x, -math.pi), _like(g, x, math.pi))
    return g.op("Where", g.op("Less", x, 0.0), g.op("Add", angle, turn), angle)


def _like(g: Builder, value: Value, number: float) -> Value:
    return g.constant(number, value.dtype)


@primitive("LogAddExp", elementwise=True)
def logaddexp(g: Builder, event: Any, a: Value, b: Value) -> Value:
    real(event)
    return broadcast_op(g, "Add", a, b, short=activations.softplus, otherwise=_logaddexp)


def _logaddexp(g: Builder, a: Value, b: Value) -> Value:
    # Where both are the same infinity, their difference is not a number.
    gap = g.op("Where", g.op("Equal", a, b), _like(g, a, 0.0), g.op("Sub", a, b))
    return g.op("Add", g.op("Max", a, b), g.op("Softplus", g.op("Neg", g.op("Abs", gap))))


@primitive("FloorDivide", elementwise=True)
def floor_divide(g: Builder, event: Any, a: Value, b: Value) -> Value:
    a, b = number(g, a), number(g, b)
    if is_float(a):
        return g.op("Floor", g.op("Div", a, b))
    return g.op("Div", g.op("Sub", a, g.op("Mod", a, b)), b)


@primitive("Remainder", elementwise=True)
def remainder(g: Builder, event: Any, a: Value, b: Value) -> Value:
    a, b = number(g, a), number(g, b)
    if not is_float(a):
        return g.op("Mod", a, b)
    rest = g.op("Mod", a, b, fmod=1)
    opposite = g.op("Less", g.op("Mul", g.op("Sign", rest), g.op("Sign", b)), 0.0)
    return g.op("Where", opposite, g.op("Add", rest, b), rest)


@primitive("DivMod", elementwise=True)
def divmod_(g: Builder, event: Any, a: Value, b: Value) -> tuple[Value, Value]:
    return floor_divide(g, event, a, b), remainder(g, event, a, b)


@primitive("Equal", elementwise=True)
def equal(g: Builder, event: Any, a: Value, b: Value) -> Value:
    real(event)
    made = g.op("Equal", a, b)
    if event.arguments[0] and is_float(a):
        made = g.op("Or", made, g.op("And", g.op("IsNaN", a), g.op("IsNaN", b)))
    return made


@primitive("NotEqual", elementwise=True)
def not_equal(g: Builder, event: Any, a: Value, b: Value) -> Value:
    real(event)
    if a is b and is_float(a):
        return g.op("IsNaN", a)
    return g.op("Not", g.op("Equal", a, b))


@primitive("LogicalNot", elementwise=True)
def logical_not(g: Builder, event: Any, x: Value) -> Value:
    return g.op("Not", boolean(g, x))


@primitive("LogicalAnd", "LogicalOr", elementwise=True)
def logical(g: Builder, event: Any, a: Value, b: Value) -> Value:
    return g.op(event.name.removeprefix("Logical"), boolean(g, a), boolean(g, b))


@primitive("Select", elementwise=True)
def select(g: Builder, event: Any, condition: Value, a: Value, b: Value) -> Value:
    real(event)
    if a.dtype == DataType.BOOL:
        picked = g.op("And", condition, a), g.op("And", g.op("Not", condition), b)
        return g.op("Or", *picked)
    return activations.select(g, condition, a, b) or g.op("Where", condition, a, b)


@primitive("BitwiseBinary", elementwise=True)
def bitwise(g: Builder, event: Any, a: Value, b: Value) -> Value:
    kind = event.arguments[0]
    if kind < 3:
        name = ("And", "Or", "Xor")[kind]
        if a.dtype == DataType.BOOL:
            return g.op(name, a, b)
        if g.opset < 18:
            raise Unsupported("bitwise operators need opset 18")
        return g.op(f"Bitwise{name}", a, b)
    # ONNX shifts unsigned integers only; powers of two shift signed ones as well.
    a, b = number(g, a), number(g, b)
    factor = g.op("Pow", g.op("Add", g.op("Sub", b, b), 2), b)
    if kind == 3:
        return g.op("Mul", a, factor)
    return g.op("Div", g.op("Sub", a, g.op("Mod", a, factor)), factor)


@primitive("BitwiseInvert", elementwise=True)
def bitwise_invert(g: Builder, event: Any, x: Value) -> Value:
    return g.op("Not", x) if x.dtype == DataType.BOOL else g.op("Sub", g.op("Neg", x), 1)


@primitive("AsType", elementwise=True)
def as_type(g: Builder, event: Any, x: Value) -> Value:
    to, source = event.outputs[0].dtype, event.inputs[0].dtype
    if source == mx.complex64 and to != mx.complex64:
        x = real_part(g, x)
    if to == mx.complex64:
        return x if source == to else complex_of(g, g.cast(x, mx.float32))
    if is_float(x) and to in (mx.uint8, mx.uint16, mx.uint32, mx.int8, mx.int16):
        x = g.cast(x, mx.int64)  # a float beyond the range wraps like an integer
    return g.cast(x, to)


@primitive("Full", "Copy", "Contiguous", "StopGradient", "Broadcast", "BroadcastAxes",
           elementwise=True)  # fmt: skip
def unchanged(g: Builder, event: Any, *values: Value) -> Value:
    return values[0]


@primitive("Depends", elementwise=True)
def depends(g: Builder, event: Any, *values: Value) -> list[Value]:
    return list(values[: len(event.outputs)])


@primitive("View", elementwise=True)
def view(g: Builder, event: Any, x: Value) -> Value:
    source, to = event.inputs[0].dtype, event.outputs[0].dtype
    integers = mx.issubdtype(source, mx.integer) and mx.issubdtype(to, mx.integer)
    if source == to:
        return x
    if not integers or source.size != to.size:
        raise Unsupported(f"ONNX does not read the bits of {source} as {to}")
    return g.cast(x, to)


@primitive("RandomBits", lazy=True)
def random_bits(g: Builder, event: Any) -> Value:
    raise Unsupported(
        "an exported model is deterministic; call the layer in inference mode or pass the "
        "random array as an input"
    )


@primitive("NumberOfElements")
def number_of_elements(g: Builder, event: Any, x: Value) -> Value:
    axes, inverted, dtype = event.arguments
    shape = event.inputs[0].shape
    total = None
    for axis in axes:
        size = event.context.scalar(shape[axis], dtype)
        total = size if total is None else g.op("Mul", total, size)
    total = g.constant(np.asarray(1), dtype) if total is None else total
    return g.op("Reciprocal", total) if inverted else total
