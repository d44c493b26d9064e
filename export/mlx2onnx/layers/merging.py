"""Add, Concatenate and their kin: one operator, in the layout their inputs are in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

from mlxfunc import layers
from mlx2onnx.builder import Builder, Value
from mlx2onnx.layers.registry import rule
from mlx2onnx.layout import Tensor, aligned, concatenate, elementwise


@rule(layers.Add)
def add(g: Builder, layer: Any, inputs: list[Tensor], out: Any) -> Tensor:
    return _pairwise(g, "Add", inputs, out)


@rule(layers.Subtract)
def subtract(g: Builder, layer: Any, inputs: list[Tensor], out: Any) -> Tensor:
    return _pairwise(g, "Sub", inputs, out)


@rule(layers.Multiply)
def multiply(g: Builder, layer: Any, inputs: list[Tensor], out: Any, mask: Any) -> Tensor | None:
    return None if mask is not None else _pairwise(g, "Mul", inputs, out)


@rule(layers.Maximum)
def maximum(g: Builder, layer: Any, inputs: list[Tensor], out: Any, mask: Any) -> Tensor | None:
    return None if mask is not None else _variadic(g, "Max", inputs, out)


@rule(layers.Minimum)
def minimum(g: Builder, layer: Any, inputs: list[Tensor], out: Any, mask: Any) -> Tensor | None:
    return None if mask is not None else _variadic(g, "Min", inputs, out)


@rule(layers.Average, integers="trace")
def average(g: Builder, layer: Any, inputs: list[Tensor], out: Any) -> Tensor:
    return _variadic(g, "Mean", inputs, out)


def _pairwise(g: Builder, operator: str, inputs: Sequence[Tensor], out: Any) -> Tensor:
    def apply(*values: Value) -> Value:
        return reduce(lambda a, b: g.op(operator, a, b), values)

    return elementwise(aligned(inputs), apply, out.shape, out.dtype)


def _variadic(g: Builder, operator: str, inputs: Sequence[Tensor], out: Any) -> Tensor:
    def apply(*values: Value) -> Value:
        return g.op(operator, *values)

    return elementwise(aligned(inputs), apply, out.shape, out.dtype)


@rule(layers.Concatenate, integers="keep")
def concat(g: Builder, layer: Any, inputs: list[Tensor], out: Any) -> Tensor:
    return inputs[0] if len(inputs) == 1 else concatenate(inputs, layer.axis, out.shape)


@rule(layers.Dot, integers="trace")
def dot(g: Builder, layer: Any, inputs: list[Tensor], out: Any) -> Tensor | None:
    """MatMul of the operands with the summed axis last and second to last."""
    axes = layer._axes([t.shape for t in inputs])
    if any(t.rank > 3 for t in inputs):
        return None
    values = [t.plain for t in inputs]
    if layer.normalize:
        values = [_unit(g, v, axis) for v, axis in zip(values, axes, strict=True)]
    if all(t.rank == 2 for t in inputs):
        return Tensor(g, g.reduce("ReduceSum", g.op("Mul", *values), [1]), out.shape)
    (a, b), (i, j) = values, axes
    ranks = [t.rank for t in inputs]
    a = g.op("Unsqueeze", a, [1]) if ranks[0] == 2 else _axis_at(g, a, i, 2)
    b = g.op("Unsqueeze", b, [2]) if ranks[1] == 2 else _axis_at(g, b, j, 1)
    y = g.op("MatMul", a, b)
    single = [axis for axis, rank in zip((1, 2), ranks, strict=True) if rank == 2]
    return Tensor(g, g.op("Squeeze", y, single) if single else y, out.shape)


def _axis_at(g: Builder, value: Value, axis: int, place: int) -> Value:
    return value if axis == place else g.op("Transpose", value, perm=[0, 2, 1])


def _unit(g: Builder, value: Value, axis: int) -> Value:
    """x / max(|x|, 1e-6) along an axis."""
    norm = g.reduce("ReduceL2", value, [axis])
    return g.op("Div", value, g.op("Max", norm, 1e-6))
