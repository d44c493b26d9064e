"""Products: matrix multiplications, convolutions, quantized and gathered weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx2onnx.builder import Builder, DataType, Value
from mlx2onnx.primitives.patterns import made_by
from mlx2onnx.primitives.registry import Unsupported, primitive
from mlx2onnx.primitives.shaping import stored_transpose, transposed
from mlx2onnx.sizes import Int


@primitive("Matmul")
def matmul(g: Builder, event: Any, a: Value, b: Value) -> Value:
    if event.outputs[0].dtype == mx.complex64:
        raise Unsupported("ONNX computes with complex numbers in DFT only")
    return g.op("MatMul", a, stored_transpose(g, b))


@primitive("AddMM", lazy=True)
def addmm(g: Builder, event: Any) -> Value:
    """alpha · a @ b + beta · c."""
    alpha, beta = event.arguments
    a, b = (event.context.full(x) for x in event.inputs[:2])
    c = event.context.value(event.inputs[2])
    if len(event.inputs[0].shape) == len(event.inputs[1].shape) == 2 and is_real(a):
        weight = made_by(b, "Transpose")
        flipped = weight is not None and g.constant_value(weight.inputs[0]) is not None
        return g.op(
            "Gemm", a, weight.inputs[0] if flipped else b, c, transB=1 if flipped else None,
            alpha=None if alpha == 1 else alpha, beta=None if beta == 1 else beta,
        )  # fmt: skip
    product = g.op("MatMul", a, stored_transpose(g, b))
    product = product if alpha == 1 else g.op("Mul", product, alpha)
    return g.op("Add", product, c if beta == 1 else g.op("Mul", c, beta))


def is_real(value: Value) -> bool:
    return value.dtype in (DataType.FLOAT, DataType.FLOAT16)


# convolutions ---------------------------------------------------------------------------------


@primitive("Convolution")
def convolution(g: Builder, event: Any, x: Value, weight: Value) -> Value:
    """MLX: x (batch, space…, in), weight (out, kernel…, in/groups)."""
    strides, low, high, dilation, stretch, groups, flip = event.arguments
    rank = len(strides)
    first, last = [0, rank + 1, *range(1, rank + 1)], [0, *range(2, rank + 2), 1]
    kernel = event.inputs[1].shape[1:-1]
    x = transposed(g, x, first)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(s > 1 for s in stretch):
        begin = [r - p for r, p in zip(reach, low, strict=True)]
        end = [r - p for r, p in zip(reach, high, strict=True)]
        extra = [max(0, -e) for e in end]
        fits = all(e < s for e, s in zip(extra, stretch, strict=True))
        if all(s == 1 for s in strides) and min(begin) >= 0 and fits:
            weight = _transposed_kernel(g, weight, event.inputs[1].shape, groups, flip)
            made = g.op(
                "ConvTranspose", x, weight, strides=list(stretch), dilations=list(dilation),
                group=groups, pads=[*begin, *(max(0, e) for e in end)],
                output_padding=extra if any(extra) else None, kernel_shape=list(kernel),
            )  # fmt: skip
            return transposed(g, made, last)
        x = _stretched(g, event, x, stretch)
    if flip:
        weight = _flipped(g, weight, rank)
    weight = stored_transpose(g, g.op("Transpose", weight, perm=first))
    made = g.op(
        "Conv", x, weight, strides=_unless(strides, 1), dilations=_unless(dilation, 1),
        group=groups if groups != 1 else None, pads=_unless([*low, *high], 0),
        kernel_shape=list(kernel),
    )  # fmt: skip
    return transposed(g, made, last)


def _unless(values: Sequence[int], default: int) -> list[int] | None:
    return None if all(v == default for v in values) else list(values)


def _flipped(g: Builder, weight: Value, rank: int) -> Value:
    array = g.constant_value(weight)
    axes = list(range(1, rank + 1))
    if array is not None:
        key = ("flipped", weight)
        return g.initializer("weight_flipped", lambda: np.flip(array, tuple(axes)), key)
    return g.op("Slice", weight, [-1] * rank, [np.iinfo(np.int64).min + 1] * rank, axes,
                [-1] * rank)  # fmt: skip


def _transposed_kernel(
    g: Builder, weight: Value, shape: Sequence[Int], groups: int, flip: bool
) -> Value:
    """(out, kernel…, in/groups) as ConvTranspose has it: (in, out/groups, kernel…)."""
    rank = len(shape) - 2
    if not flip:  # ConvTranspose flips the kernel itself
        weight = _flipped(g, weight, rank)
    out, *kernel, inner = (d for d in shape if isinstance(d, int))
    split = [groups, out // groups, *kernel, inner]
    perm = [0, rank + 2, 1, *range(2, rank + 2)]
    merged = [groups * inner, out // groups, *kernel]
    array = g.constant_value(weight)
    if array is not None:
        key = ("transposed kernel", weight, groups)
        return g.initializer(
            "weight_transposed",
            lambda: array.reshape(split).transpose(perm).reshape(merged),
            key,
        )
    made = g.op("Transpose", g.op("Reshape", weight, split), perm=perm)
    return g.op("Reshape", made, merged)


def _stretched(g: Builder, event: Any, x: Value, stretch: Sequence[int]) -> Value:
    """Puts stretch - 1 zeros between neighbours of (batch, channels, space…)."""
    rank = len(stretch) + 2
    for axis, gap in enumerate(stretch, start=2):
        if gap == 1:
            continue
        pads = [0] * (2 * rank + 2)
        pads[rank + 1 + axis + 1] = gap - 1
        wide = g.op("Pad", g.op("Unsqueeze", x, [axis + 1]), pads)
        tail = [g.op("Shape", x, start=axis + 1)] if axis + 1 < rank else []
        x = g.op("Reshape", wide, g.op("Concat", g.constant([0] * axis + [-1]), *tail, axis=0))
        x = g.op("Slice", x, [0], [-(gap - 1)], [axis])
    return x


# gathered, masked ------------------------------------------------------------------------------


@primitive("GatherMM")
def gather_mm(g: Builder, event: Any, a: Value, b: Value, left: Value, right: Value) -> Value:
    """a[left] @ b[right], the indices counting over all batch axes."""
    return g.op("MatMul", picked(g, event, 0, a, left), picked(g, event, 1, b, right))


def picked(g: Builder, event: Any, i: int, x: Value, index: Value) -> Value:
    shape = event.inputs[i].shape
    if len(shape) > 3:
        x = g.op("Reshape", x, event.context.vector([-1, *shape[-2:]]))
    elif len(shape) == 2:
        x = g.op("Unsqueeze", x, [0])
    return g.op("Gather", x, index, axis=0)


@primitive("BlockMaskedMM")
def block_masked_mm(g: Builder, event: Any, a: Value, b: Value, *masks: Value) -> Value:
    (block,) = event.arguments
    arrays = event.inputs[2:]
    spread = [
        _spread(g, event, m, block, array.shape) for m, array in zip(masks, arrays, strict=True)
    ]
    sides = spread[-2:] if len(spread) > 1 else []
    if sides:
        a, b = _masked(g, event, 0, a, sides[0]), _masked(g, event, 1, b, sides[1])
    made = g.op("MatMul", a, b)
    if len(spread) % 2:
        made = g.op("Mul", made, _cut(g, event, g.cast(spread[0], made.dtype), event.shape))
    return made


def _masked(g: Builder, event: Any, i: int, x: Value, mask: Value) -> Value:
    return g.op("Mul", x, _cut(g, event, g.cast(mask, x.dtype), event.inputs[i].shape))


def _spread(g: Builder, event: Any, mask: Value, block: int, shape: Sequence[Int]) -> Value:
    """Each element of the last two axes repeated to a block."""
    *lead, rows, columns = shape
    wide = g.op("Unsqueeze", mask, [-1, -3])
    wide = g.op("Expand", wide, event.context.vector([*lead, rows, block, columns, block]))
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise Unsupported("expected masks of fixed sizes")
    return g.op("Reshape", wide, event.context.vector([*lead, rows * block, columns * block]))


def _cut(g: Builder, event: Any, mask: Value, shape: Sequence[Int]) -> Value:
    return g.op("Slice", mask, [0, 0], event.context.vector(shape[-2:]), [-2, -1])


@primitive("Hadamard")
def hadamard(g: Builder, event: Any, x: Value) -> Value:
    size = event.shape[-1]
    if not isinstance(size, int):
        raise Unsupported("expected a last axis of fixed size")
    with mx.stream(mx.cpu):
        matrix = mx.hadamard_transform(mx.eye(size), scale=event.arguments[0])
    return g.op("MatMul", x, g.constant(np.asarray(matrix)))
