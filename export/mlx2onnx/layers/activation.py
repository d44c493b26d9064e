"""Activations as ONNX operators, fused into a layer or as layers of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlx2onnx import trace
from mlxfunc import activations as act
from mlxfunc import layers
from mlx2onnx.builder import Builder, Value
from mlx2onnx.layers.registry import rule
from mlx2onnx.layout import Layout, Tensor

# Elementwise: what one operator computes, its attributes, the opset that brought it.
OPERATORS: dict[Callable, tuple[str, dict[str, Any], int]] = {
    act.relu: ("Relu", {}, 17),
    act.leaky_relu: ("LeakyRelu", {"alpha": 0.2}, 17),
    act.elu: ("Elu", {}, 17),
    act.selu: ("Selu", {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}, 17),
    act.celu: ("Celu", {}, 17),
    act.gelu: ("Gelu", {}, 20),
    act.sigmoid: ("Sigmoid", {}, 17),
    act.hard_sigmoid: ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, 17),
    act.sparse_sigmoid: ("HardSigmoid", {"alpha": 0.5, "beta": 0.5}, 17),
    act.hard_silu: ("HardSwish", {}, 17),
    act.softplus: ("Softplus", {}, 17),
    act.softsign: ("Softsign", {}, 17),
    act.tanh: ("Tanh", {}, 17),
    act.exponential: ("Exp", {}, 17),
    act.mish: ("Mish", {}, 18),
    act.hard_shrink: ("Shrink", {"lambd": 0.5, "bias": 0.0}, 17),
    act.soft_shrink: ("Shrink", {"lambd": 0.5, "bias": 0.5}, 17),
}

# Elementwise, of a few operators.
COMPOSED: dict[Callable, Callable[[Builder, Value], Value]] = {
    act.linear: lambda g, x: x,
    act.silu: lambda g, x: g.op("Mul", x, g.op("Sigmoid", x)),
    act.relu6: lambda g, x: g.op("Clip", x, 0.0, 6.0),
    act.hard_tanh: lambda g, x: g.op("Clip", x, -1.0, 1.0),
    act.log_sigmoid: lambda g, x: g.op("Neg", g.op("Softplus", g.op("Neg", x))),
    act.tanh_shrink: lambda g, x: g.op("Sub", x, g.op("Tanh", x)),
}

# Along the last axis, whatever the order of elements on it.
ALONG_FEATURES: dict[Callable, str] = {act.softmax: "Softmax", act.log_softmax: "LogSoftmax"}

# Elementwise functions that are traced, in the layout that their input is in.
TRACED = {act.squareplus, act.sparse_plus}


def activate(g: Builder, function: Callable[..., Any], x: Tensor) -> Tensor:
    """`function`, an activation or any function of one array, of `x`."""
    known = OPERATORS.get(function)
    if known is not None and g.opset >= known[2]:
        operator, attributes, _ = known
        return x.map(lambda value, layout: g.op(operator, value, **attributes))
    if function in COMPOSED:
        return x.map(lambda value, layout: COMPOSED[function](g, value))
    if function in ALONG_FEATURES:
        operator = ALONG_FEATURES[function]
        return x.map(lambda value, layout: g.op(operator, value, axis=layout.axis(-1)))
    if known is not None or function in TRACED:
        return x.map(lambda value, layout: _trace(g, function, value, x, layout))
    made = _trace(g, function, x.plain, x, Layout(tuple(range(x.rank))))
    shape = tuple(d if isinstance(d, int) else None for d in made.shape or ())
    return Tensor(g, made, shape, dtype=x.dtype)


def _trace(g: Builder, function: Callable, value: Value, x: Tensor, layout: Layout) -> Value:
    shape = tuple(x.shape[axis] for axis in layout.perm)
    return trace.lower(g, function, [value], [(shape, x.dtype)])[0]


@rule(layers.Activation)
def activation(g: Builder, layer: Any, x: Tensor) -> Tensor:
    return activate(g, layer.activation, x)
