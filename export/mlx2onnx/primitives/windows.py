"""AsStrided: sliding windows (pooling), and any other fixed view of memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from mlx2onnx.builder import Builder, Value
from mlx2onnx.primitives.registry import primitive
from mlx2onnx.primitives.shaping import transposed
from mlx2onnx.sizes import Int, Size

POOL = {"Max": "MaxPool", "Sum": "AveragePool"}


@primitive("AsStrided", lazy=True)
def as_strided(g: Builder, event: Any) -> Value:
    shape, strides, offset = event.arguments
    if any(isinstance(v, Size) for v in (*shape, *strides, offset)):
        if windows(event) is not None:
            # Made by pooling: its reduction becomes one node and needs no windows.
            return g.op("Identity", event.context.full(event.inputs[0]))
        return _gathered(g, event, shape, strides, offset)
    places = np.full((), offset)
    for size, stride in zip(shape, strides, strict=True):
        places = places[..., None] + np.arange(size) * stride
    flat = event.context.full(event.inputs[0])
    if len(event.inputs[0].shape) != 1:
        flat = g.op("Reshape", flat, [-1])
    return g.op("Gather", flat, places, axis=0)


def _gathered(g: Builder, event: Any, shape: Any, strides: Any, offset: Any) -> Value:
    """The same with sizes that are known at run time."""
    context = event.context
    zero, one = (g.constant(i, np.int64) for i in (0, 1))
    total: Any = (
        context.scalar(offset, np.int64)
        if isinstance(offset, Size)
        else g.constant(offset, np.int64)
    )
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        steps = g.op("Range", zero, context.scalar(size, np.int64), one)
        steps = g.op("Mul", steps, context.scalar(stride, np.int64))
        after = list(range(1, len(shape) - axis))
        total = g.op("Add", total, g.op("Unsqueeze", steps, after) if after else steps)
    return g.op("Gather", context.full(event.inputs[0]), total, axis=0)


def windows(event: Any) -> tuple[Any, list[int], list[int]] | None:
    """(x, kernel, step) when the view is sliding windows over x (batch, space…, channels)."""
    shape, strides, offset = event.arguments
    flatten = event.context.maker(event.inputs[0])
    if flatten is None or flatten.name != "Flatten" or offset != 0:
        return None
    x = flatten.inputs[0]
    rank = len(x.shape) - 2
    if rank < 1 or len(shape) != 2 * rank + 2:
        return None
    kernel = shape[1 + rank : 1 + 2 * rank]
    if not all(isinstance(k, int) for k in kernel):
        return None
    whole = _row_major(x.shape)
    if whole is None or [strides[0], *strides[1 + rank :]] != [whole[0], *whole[1:-1], 1]:
        return None
    steps = [_quotient(s, w) for s, w in zip(strides[1 : 1 + rank], whole[1:-1], strict=True)]
    if any(s is None for s in steps) or (shape[0], shape[-1]) != (x.shape[0], x.shape[-1]):
        return None
    found = [s for s in steps if s is not None]
    return (x, list(kernel), found) if _covers(x.shape, shape, kernel, found) else None


def _row_major(shape: Sequence[Int]) -> list[Int] | None:
    strides: list[Int] = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, _times(strides[0], size))
    return strides


def _times(a: Int, b: Int) -> Int:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    count = len((a if isinstance(a, Size) else b).values)  # type: ignore[union-attr]
    return Size(tuple(x * y for x, y in zip(_all(a, count), _all(b, count), strict=True)), None)


def _all(a: Int, count: int) -> tuple[int, ...]:
    return a.values if isinstance(a, Size) else (a,) * count


def _quotient(a: Int, b: Int) -> int | None:
    if isinstance(a, int) and isinstance(b, int):
        return a // b if a % b == 0 else None
    count = len((a if isinstance(a, Size) else b).values)  # type: ignore[union-attr]
    ratios = {x / y for x, y in zip(_all(a, count), _all(b, count), strict=True)}
    ratio = ratios.pop()
    return int(ratio) if not ratios and ratio.is_integer() else None


def _covers(x: Sequence[Int], view: Sequence[Int], kernel: Sequence[int], steps: Any) -> bool:
    """Whether there are as many windows as fit."""
    for size, found, k, s in zip(x[1:-1], view[1:], kernel, steps, strict=False):
        count = len(size.values) if isinstance(size, Size) else 1
        count = len(found.values) if isinstance(found, Size) else count
        sizes, windows = _all(size, count), _all(found, count)
        if any((n - k) // s + 1 != w for n, w in zip(sizes, windows, strict=True)):
            return False
    return True


def pooled(g: Builder, event: Any, kind: str, axes: Sequence[int]) -> Value | None:
    """A maximum or sum over windows as one pooling node."""
    found = _windows_of(event)
    if found is None or kind not in POOL:
        return None
    x, kernel, steps, spots = found
    if list(axes) != spots or str(x.dtype) not in ("mlx.core.float32", "mlx.core.float16"):
        return None
    rank = len(kernel)
    value, pads = _before_padding(g, event, x, kind)
    value = transposed(g, value, [0, rank + 1, *range(1, rank + 1)])
    made = g.op(
        POOL[kind], value, kernel_shape=kernel, strides=steps, pads=pads,
        count_include_pad=1 if kind == "Sum" and pads else None,
    )  # fmt: skip
    if kind == "Sum":
        made = g.op("Mul", made, float(math.prod(kernel)))
    made = transposed(g, made, [0, *range(2, rank + 2), 1])
    return g.op("Unsqueeze", made, list(axes))


def _windows_of(event: Any) -> tuple[Any, list[int], list[int], list[int]] | None:
    maker = event.context.maker(event.inputs[0])
    if maker is None:
        return None
    if maker.name == "AsStrided":
        found = windows(type(event)(maker, event.context))
        if found is None:
            return None
        rank = len(found[1])
        return (*found, list(range(1 + rank, 1 + 2 * rank)))
    return _blocks(event, maker)


def _blocks(event: Any, maker: Any) -> tuple[Any, list[int], list[int], list[int]] | None:
    """Windows that do not overlap: MLX reshapes (n, w·k, c) to (n, w, k, c)."""
    order = None
    if maker.name == "Transpose":
        order = list(maker.arguments[0])
        maker = event.context.maker(maker.inputs[0])
    if maker is None or maker.name != "Reshape":
        return None
    x, split = maker.inputs[0], maker.outputs[0].shape
    rank = len(x.shape) - 2
    if rank < 1 or len(split) != 2 * rank + 2:
        return None
    expected = [0, *range(1, 2 * rank + 1, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1]
    if (order or list(range(len(split)))) != expected:
        return None
    kernel = list(split[2 : 2 * rank + 1 : 2])
    if not all(isinstance(k, int) for k in kernel) or (split[0], split[-1]) != (
        x.shape[0],
        x.shape[-1],
    ):
        return None
    for size, count, k in zip(x.shape[1:-1], split[1::2], kernel, strict=False):
        if _times(count, k) != size:
            return None
    return x, kernel, kernel, list(range(1 + rank, 1 + 2 * rank))


def _before_padding(g: Builder, event: Any, x: Any, kind: str) -> tuple[Value, list[int] | None]:
    """The unpadded array and the padding, where the pooling node can do it."""
    context = event.context
    pad = context.maker(x)
    if pad is None or pad.name != "Pad":
        return context.full(x), None
    axes, low, high = pad.arguments
    fill = g.constant_value(context.value(pad.inputs[1]))
    rank = len(x.shape) - 2
    sides = dict(zip(axes, zip(low, high, strict=True), strict=True))
    identity = -math.inf if kind == "Max" else 0.0
    if fill is None or float(fill) != identity or any(sides.get(a, (0, 0)) != (0, 0)
                                                       for a in (0, rank + 1)):  # fmt: skip
        return context.full(x), None
    pads = [sides.get(a, (0, 0))[side] for side in (0, 1) for a in range(1, rank + 1)]
    if any(isinstance(p, Size) for p in pads):
        return context.full(x), None
    return context.full(pad.inputs[0]), pads
