"""Reductions, searches, sorts and running reductions along an axis."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx2onnx.builder import Builder, DataType, Value
from mlx2onnx.primitives.elementwise import is_float, logaddexp, number
from mlx2onnx.primitives.registry import Unsupported, primitive
from mlx2onnx.primitives.windows import pooled

REDUCE = ("And", "Or", "Sum", "Prod", "Min", "Max")
SCAN = ("Max", "Min", "Sum", "Prod", "LogAddExp")


@primitive("Reduce")
def reduce(g: Builder, event: Any, x: Value) -> Value:
    kind, axes = REDUCE[event.arguments[0]], list(event.arguments[1])
    if event.inputs[0].dtype == mx.complex64:
        raise Unsupported("ONNX computes with complex numbers in DFT only")
    if (pool := pooled(g, event, kind, axes)) is not None:
        return pool
    if kind in ("And", "Or"):
        x = g.cast(g.cast(x, mx.bool_), mx.int32)
        kind = {"And": "Min", "Or": "Max"}[kind]
        return g.cast(g.reduce(f"Reduce{kind}", x, axes), mx.bool_)
    return g.reduce(f"Reduce{kind}", number(g, x), axes)


@primitive("ArgReduce")
def arg_reduce(g: Builder, event: Any, x: Value) -> Value:
    kind, axis = event.arguments
    return g.op("ArgMax" if kind else "ArgMin", number(g, x), axis=axis, keepdims=1)


@primitive("Softmax")
def softmax(g: Builder, event: Any, x: Value) -> Value:
    return g.op("Softmax", x, axis=-1)


@primitive("LogSumExp")
def logsumexp(g: Builder, event: Any, x: Value) -> Value:
    return g.reduce("ReduceLogSumExp", x, [-1])


@primitive("Sort", "Partition")
def sort(g: Builder, event: Any, x: Value) -> Value:
    """A sorted array is a partitioned one."""
    return _top(g, event, x, event.arguments[-1])[0]


@primitive("ArgSort", "ArgPartition")
def arg_sort(g: Builder, event: Any, x: Value) -> Value:
    return _top(g, event, x, event.arguments[-1])[1]


def _top(g: Builder, event: Any, x: Value, axis: int) -> tuple[Value, Value]:
    count = event.context.size(event.inputs[0].shape[axis])
    return g.op("TopK", number(g, x), count, axis=axis, largest=0, sorted=1, outputs=2)


@primitive("SearchSorted")
def search_sorted(g: Builder, event: Any, edges: Value, x: Value) -> Value:
    """The number of edges that are smaller (or, from the right, not larger)."""
    if len(event.inputs[0].shape) != 1:
        raise Unsupported("expected one row of edges")
    below = "LessOrEqual" if event.arguments[0] else "Less"
    smaller = g.op(below, edges, g.op("Unsqueeze", x, [-1]))
    return g.reduce("ReduceSum", g.cast(smaller, mx.int64), [-1], keepdims=False)


@primitive("Scan")
def scan(g: Builder, event: Any, x: Value) -> Value:
    kind, axis, reverse, inclusive = event.arguments
    kind = SCAN[kind]
    x = number(g, x)
    if kind == "Sum":
        return g.op(
            "CumSum", x, np.asarray(axis), exclusive=int(not inclusive), reverse=int(reverse)
        )

    def step(state: Value, element: Value) -> tuple[Value, Value]:
        if kind == "LogAddExp":
            new = logaddexp(g, event, state, element)
        else:
            new = g.op({"Prod": "Mul"}.get(kind, kind), state, element)
        return new, new if inclusive else state

    shape = [d for a, d in enumerate(event.shape) if a != axis]
    dims = [event.context.dim(d) for d in shape]
    start = g.constant(_identity(kind, x), x.dtype)
    if shape:
        start = g.op("Expand", start, event.context.vector(shape))
    body = g.subgraph([(x.dtype, dims), (x.dtype, dims)], step)
    direction = [int(reverse)]
    _, made = g.op(
        "Scan", start, x, outputs=2, body=body, num_scan_inputs=1,
        scan_input_axes=[axis], scan_output_axes=[axis],
        scan_input_directions=direction, scan_output_directions=direction,
    )  # fmt: skip
    return made


def _identity(kind: str, x: Value) -> np.ndarray:
    if kind == "Prod":
        return np.asarray(1)
    if is_float(x):
        return np.asarray(np.inf if kind == "Min" else -np.inf, np.float32)
    info = np.iinfo(np.int32 if x.dtype == DataType.INT32 else np.int64)
    return np.asarray(info.max if kind == "Min" else info.min)
