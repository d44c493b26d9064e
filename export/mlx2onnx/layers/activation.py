"""Activations as ONNX operators, fused into a layer or as layers of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlx2onnx import trace
from mlxfunc import activations as act
from mlxfunc import layers
from mlx2onnx.builder import Builder, Value
from mlx2onnx.layers.registry import rule
from mlx2onnx.layers.weights import weight
from mlx2onnx.layout import Layout, Tensor, placed, plain
from mlx2onnx.pointwise import is_pointwise

# Elementwise: what one operator computes, its attributes, the opset that brought it.
OPERATORS: dict[Callable, tuple[str, dict[str, Any], int]] = {
    act.relu: ("Relu", {}, 17),
    act.leaky_relu: ("LeakyRelu", {"alpha": 0.2}, 17),
    act.elu: ("Elu", {}, 17),
    act.selu: ("Selu", {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}, 17),
    act.celu: ("Elu", {}, 17),
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
    if known is not None or is_pointwise(function, x.shape, 1, x.layout):
        return x.map(lambda value, layout: _trace(g, function, value, x, layout))
    made = _trace(g, function, x.plain, x, plain(x.rank))
    shape = tuple(d if isinstance(d, int) else None for d in made.shape or ())
    return Tensor(g, made, shape, dtype=x.dtype)


def _trace(g: Builder, function: Callable, value: Value, x: Tensor, layout: Layout) -> Value:
    shape = tuple(x.shape[axis] for axis in layout.perm)
    return trace.lower(g, function, [value], [(shape, x.dtype)])[0]


@rule(layers.Activation, integers="trace")
def activation(g: Builder, layer: Any, x: Tensor) -> Tensor:
    return activate(g, layer.activation, x)


@rule(layers.ReLU)
def relu(g: Builder, layer: Any, x: Tensor) -> Tensor:
    """max(x, 0) - slope · max(threshold - x, 0), cut at the largest value."""
    slope, most, threshold = layer.negative_slope, layer.max_value, layer.threshold
    if threshold or (slope and most is not None):
        return activate(g, lambda v: act.relu(v, slope, most, threshold), x)
    if slope:
        return x.map(lambda value, layout: g.op("LeakyRelu", value, alpha=slope))
    if most is not None:
        return x.map(lambda value, layout: g.op("Clip", value, 0.0, float(most)))
    return activate(g, act.relu, x)


@rule(layers.LeakyReLU)
def leaky_relu(g: Builder, layer: Any, x: Tensor) -> Tensor:
    return x.map(lambda value, layout: g.op("LeakyRelu", value, alpha=layer.negative_slope))


@rule(layers.ELU)
def elu(g: Builder, layer: Any, x: Tensor) -> Tensor:
    return x.map(lambda value, layout: g.op("Elu", value, alpha=layer.alpha))


@rule(layers.PReLU)
def prelu(g: Builder, layer: Any, x: Tensor) -> Tensor:
    def apply(value: Value, layout: Layout) -> Value:
        slope = weight(g, layer, "weight", layout, lambda a: placed(a[None], layout))
        return g.op("PRelu", value, slope)

    return x.map(apply)


@rule(layers.Softmax)
def softmax(g: Builder, layer: Any, x: Tensor, mask: Any = None) -> Tensor | None:
    axes = (layer.axis,) if isinstance(layer.axis, int) else layer.axis
    if mask is not None or len(axes) > 1:
        return None
    return x.map(lambda value, layout: g.op("Softmax", value, axis=layout.axis(axes[0])))
