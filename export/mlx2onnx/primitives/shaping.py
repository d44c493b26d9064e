"""Primitives that only move elements: reshapes, transposes, slices, joins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx2onnx.builder import Builder, DataType, Value
from mlx2onnx.primitives.patterns import made_by, reduced_axes
from mlx2onnx.primitives.registry import primitive
from mlx2onnx.sizes import Int, Size

LAST = np.iinfo(np.int64).max
BEFORE_FIRST = np.iinfo(np.int64).min + 1
PRODUCTS = ("Matmul", "AddMM")
RESHAPES = ("Reshape", "Flatten", "Unflatten", "ExpandDims", "Squeeze")


@primitive(*RESHAPES)
def reshape(g: Builder, event: Any, x: Value) -> Value:
    array, target = event.inputs[0], event.shape
    if array.dtype == mx.complex64:  # the last axis holds both parts of a number
        return reshaped(g, event, x, (*array.shape, 2), (*target, 2))
    if (direct := _reduce_without_keeping(g, event, x)) is not None:
        return direct
    if (product := event.context.maker(array)) is not None and product.name in PRODUCTS:
        made = without_flattening(g, event, product, target)
        if made is not None:
            return made
    # Of a row of reshapes only the last is needed.
    while (maker := event.context.maker(array)) is not None and maker.name in RESHAPES:
        made = event.context.values[array.name].producer()
        if made is not None and made.op_type not in ("Reshape", "Squeeze", "Unsqueeze"):
            break
        array = maker.inputs[0]
    return reshaped(g, event, event.context.full(array), array.shape, target)


def reshaped(
    g: Builder, event: Any, x: Value, source: Sequence[Int], target: Sequence[Int]
) -> Value:
    """`x` of shape `source` in the shape `target`, by the operator that says it shortest."""
    if tuple(source) == tuple(target):
        return x
    if (axes := _inserted(source, target)) is not None:
        return g.op("Unsqueeze", x, axes)
    if (axes := _inserted(target, source)) is not None:
        return g.op("Squeeze", x, axes)
    dims: list[Any] = [
        0 if isinstance(d, Size) and i < len(source) and source[i] == d else d
        for i, d in enumerate(target)
    ]
    open_dims = [i for i, d in enumerate(dims) if isinstance(d, Size)]
    if len(open_dims) == 1 and 0 not in target:
        dims[open_dims[0]] = -1
    elif len(open_dims) > 1:
        unknown = next((i for i in open_dims if dims[i].formula is None), open_dims[-1])
        dims[unknown] = -1
    return g.op("Reshape", x, event.context.vector(dims))


def _inserted(short: Sequence[Int], long: Sequence[Int]) -> list[int] | None:
    """The axes of `long` that are ones inserted into `short`."""
    if len(short) >= len(long):
        return None
    axes, i = [], 0
    for axis, dim in enumerate(long):
        left = len(long) - axis
        if i < len(short) and short[i] == dim and not (dim == 1 and left > len(short) - i):
            i += 1
        elif dim == 1:
            axes.append(axis)
        else:
            return None
    return axes if i == len(short) else None


def _reduce_without_keeping(g: Builder, event: Any, x: Value) -> Value | None:
    """MLX reduces with kept axes and squeezes them; ONNX does both in one node."""
    node: Any = x.producer()
    if event.name != "Squeeze" or node is None:
        return None
    squeezed = sorted(event.arguments[0])
    if node.op_type == "Unsqueeze" and (axes := g.constant_value(node.inputs[1])) is not None:
        return node.inputs[0] if sorted(axes) == squeezed else None
    if "keepdims" not in node.attributes:
        return None
    rank = len(event.inputs[0].shape)
    if node.op_type.startswith("Arg"):
        axis = node.attributes["axis"].as_int()
        if squeezed == [axis % rank]:
            return g.op(node.op_type, node.inputs[0], axis=axis, keepdims=0)
    elif sorted(a % rank for a in reduced_axes(g, node) or []) == squeezed:
        if node.attributes["keepdims"].as_int() == 1:
            source, kept = _before_transpose(node.inputs[0], squeezed)
            return g.reduce(node.op_type, source, kept, keepdims=False)
    return None


def _before_transpose(x: Value, axes: list[int]) -> tuple[Value, list[int]]:
    """The array and axes without a Transpose that a reduction makes needless."""
    node = made_by(x, "Transpose")
    if node is not None:
        perm = node.attributes["perm"].as_ints()
        rest = [p for a, p in enumerate(perm) if a not in axes]
        if rest == sorted(rest):
            return node.inputs[0], sorted(perm[a] for a in axes)
    return x, axes


@primitive("Transpose")
def transpose(g: Builder, event: Any, x: Value) -> Value:
    perm = list(event.arguments[0])
    if event.inputs[0].dtype == mx.complex64:
        perm.append(len(perm))
    return transposed(g, x, perm)


def transposed(g: Builder, x: Value, perm: Sequence[int]) -> Value:
    """`x` with its axes permuted; two transposes in a row are one."""
    before = made_by(x, "Transpose")
    if before is not None:
        first = before.attributes["perm"].as_ints()
        return transposed(g, before.inputs[0], [first[p] for p in perm])
    if list(perm) == sorted(perm):
        return x
    return g.op("Transpose", x, perm=list(perm))


def stored_transpose(g: Builder, x: Value) -> Value:
    """A transposed weight, stored that way; anything else as it is."""
    node = made_by(x, "Transpose")
    array = g.constant_value(node.inputs[0]) if node is not None else None
    if array is None:
        return x
    perm = node.attributes["perm"].as_ints()
    source = node.inputs[0]
    name = f"{(source.name or '').removeprefix(f'{g.path}/')}_transposed"
    return g.initializer(name, lambda: array.transpose(perm), ("transposed", source, tuple(perm)))


def without_flattening(g: Builder, event: Any, product: Any, target: Sequence[Int]) -> Value | None:
    """A product of flattened rows that is unflattened again needs no reshape in ONNX."""
    context = event.context
    rows = context.maker(product.inputs[0])
    if rows is None or rows.name not in ("Flatten", "Reshape"):
        return None
    source = rows.inputs[0]
    if len(rows.outputs[0].shape) != 2 or len(product.inputs[1].shape) != 2:
        return None
    if tuple(target[:-1]) != source.shape[:-1] or source.shape[-1] != rows.outputs[0].shape[-1]:
        return None
    if target[-1] != product.outputs[0].shape[-1]:
        return None
    weight = stored_transpose(g, context.full(product.inputs[1]))
    made = g.op("MatMul", context.full(source), weight)
    if product.name == "Matmul":
        return made
    bias = product.inputs[2]
    if product.arguments != (1.0, 1.0) or len(context.actual[bias.name]) > 1:
        return None
    return g.op("Add", made, context.value(bias))


@primitive("Slice")
def slice_(g: Builder, event: Any, x: Value) -> Value:
    return sliced(g, event, x, event.inputs[0].shape, *event.arguments)


def sliced(
    g: Builder,
    event: Any,
    x: Value,
    shape: Sequence[Int],
    starts: Sequence[Int],
    ends: Sequence[Int],
    steps: Sequence[int],
) -> Value:
    """`x[start:end:step]` on each axis, with MLX's normalized bounds."""
    rows = []
    for axis, (size, start, end, step) in enumerate(zip(shape, starts, ends, steps, strict=True)):
        if start == 0 and end == size and step == 1:
            continue
        if step < 0 and _is_before_first(end, size):
            end = BEFORE_FIRST
        elif end == size:
            end = LAST
        rows.append((_bound(start, size), _bound(end, size), axis, step))
    if not rows:
        return x
    first, last, axes, strides = zip(*rows, strict=True)
    vector = event.context.vector
    plain = all(s == 1 for s in strides)
    bounds = vector(first), vector(last), list(axes)
    return g.op("Slice", x, *bounds) if plain else g.op("Slice", x, *bounds, list(strides))


def _is_before_first(end: Int, size: Int) -> bool:
    if isinstance(end, Size):
        sizes = size.values if isinstance(size, Size) else (size,) * len(end.values)
        return all(e < 0 and e + s < 0 for e, s in zip(end.values, sizes, strict=True))
    return end < 0 and (isinstance(size, Size) or end + size < 0)


def _bound(bound: Int, size: Int) -> Int:
    """A bound that moves with the size, counted from the end."""
    if isinstance(bound, Size) and (distance := bound.minus(size)) is not None and distance < 0:
        return distance
    return bound


@primitive("Concatenate")
def concatenate(g: Builder, event: Any, *values: Value) -> Value:
    parts = [v for v, a in zip(values, event.inputs, strict=True) if 0 not in a.shape] or values
    axis = event.arguments[0]
    if len(parts) == 1:
        return parts[0]
    nodes = [made_by(p, "Transpose") for p in parts]
    perms = {n and tuple(n.attributes["perm"].as_ints()) for n in nodes}
    if len(perms) == 1 and (perm := perms.pop()):
        joined = g.op("Concat", *(n.inputs[0] for n in nodes), axis=perm[axis])
        return g.op("Transpose", joined, perm=list(perm))
    return g.op("Concat", *parts, axis=axis)


@primitive("Split")
def split(g: Builder, event: Any, x: Value) -> Any:
    axis = event.arguments[1]
    sizes = [a.shape[axis] for a in event.outputs]
    if len(sizes) == 1:
        return x
    return g.op("Split", x, event.context.vector(sizes), axis=axis, outputs=len(sizes))


@primitive("Pad")
def pad(g: Builder, event: Any, x: Value, value: Value) -> Value:
    axes, low, high = event.arguments
    rows = [(a, lo, hi) for a, lo, hi in zip(axes, low, high, strict=True) if lo or hi]
    if not rows:
        return x
    if x.dtype == DataType.BOOL:
        x, value = g.cast(x, mx.int32), g.cast(value, mx.int32)
    pads: list[Int] = [0] * (2 * len(event.shape))
    for axis, lo, hi in rows:
        pads[axis], pads[axis + len(event.shape)] = lo, hi
    return g.op("Pad", x, event.context.vector(pads), value)


@primitive("Arange")
def arange(g: Builder, event: Any) -> Value:
    """start + step · (0, 1, 2 …); ONNX counts in no float16."""
    start, stop, step = event.arguments
    dtype = _counted(event.outputs[0].dtype)
    if not any(isinstance(a, Size) for a in event.arguments):
        return g.constant(np.asarray(mx.arange(start, stop, step, dtype)))
    count = event.context.scalar(event.shape[0], np.int64)
    made = g.op("Range", g.constant(0, np.int64), count, g.constant(1, np.int64))
    made = g.cast(made, dtype)
    if step != 1:
        made = g.op("Mul", made, _number(g, event, step, dtype))
    return made if start == 0 else g.op("Add", made, _number(g, event, start, dtype))


def _number(g: Builder, event: Any, number: Any, dtype: mx.Dtype) -> Value:
    if isinstance(number, Size):
        return event.context.scalar(number, dtype)
    return g.constant(np.asarray(number), dtype)


def _counted(dtype: mx.Dtype) -> mx.Dtype:
    if not mx.issubdtype(dtype, mx.integer):
        return mx.float32
    return mx.int64 if dtype.size == 8 or dtype == mx.uint32 else mx.int32
