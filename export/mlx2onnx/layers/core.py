"""Dense, Embedding, and layers that do nothing when a model is used."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlxfunc import layers
from mlx2onnx.builder import Builder, Value
from mlx2onnx.layers.activation import activate
from mlx2onnx.layers.registry import mask_rule, rule
from mlx2onnx.layers.weights import stored, transposed, weight
from mlx2onnx.layout import Layout, Tensor, plain


@rule(layers.Dense)
def dense(g: Builder, layer: Any, x: Tensor) -> Tensor:
    """Gemm on vectors; MatMul and Add on the last axis of anything else."""
    y = _gemm(g, layer, x) if x.rank == 2 else _matmul(g, layer, x)
    return activate(g, layer.activation, y)


def _gemm(g: Builder, layer: Any, x: Tensor) -> Tensor:
    """Columns of weight (out, in) follow the order of the input, rows the one that is asked for."""

    def make(layout: Layout) -> Value | None:
        if layout.perm != (0, 1):
            return None
        source = Layout((0, 1), x.layout.order)
        rows = layout.indices
        kernel, trans = _kernel(g, layer, source, layout)
        bias = None
        if layer.use_bias:
            reorder = None if rows is None else lambda b: b[rows]
            bias = weight(g, layer, "bias", layout.order, reorder)
        return g.op("Gemm", x.to(source), kernel, bias, transB=trans)

    return Tensor(g, None, (x.shape[0], layer.units), dtype=x.dtype, make=make)


def _kernel(g: Builder, layer: Any, source: Layout, target: Layout) -> tuple[Value, int | None]:
    """The weight, and 1 when it is (out, in): as it is but where a sequence has turned it."""
    if stored(g, layer, "weight", ("T", source.order, target.order)):
        return turned(g, layer, source, target), None
    rows, columns = target.indices, source.indices

    def reorder(array: np.ndarray) -> np.ndarray:
        array = array if columns is None else np.take(array, columns, axis=1)
        return array if rows is None else np.take(array, rows, axis=0)

    form = None if rows is columns is None else (source.order, target.order)
    return weight(g, layer, "weight", form, reorder), 1


def turned(g: Builder, layer: Any, source: Layout, target: Layout) -> Value:
    """The weight as (in, out), its rows in the order of `source`."""
    if source.order is target.order is None and stored(g, layer, "weight"):
        # ONNX Runtime does this once, when it loads the file.
        return g.op("Transpose", weight(g, layer, "weight"), perm=[1, 0])
    rows = source.indices

    def transform(array: np.ndarray) -> np.ndarray:
        return transposed(array if rows is None else np.take(array, rows, axis=1))

    return weight(g, layer, "weight", ("T", source.order, target.order), transform)


def _matmul(g: Builder, layer: Any, x: Tensor) -> Tensor:
    layout = x.layout if x.layout.features_last else plain(x.rank)
    kernel = turned(g, layer, Layout((0, 1), layout.order), plain(2))
    y = g.op("MatMul", x.to(layout), kernel)
    if layer.use_bias:
        y = g.op("Add", y, weight(g, layer, "bias"))
    shape = (*x.shape[:-1], layer.units)
    return Tensor(g, y, shape, layout.unordered(), dtype=x.dtype)


@rule(layers.Embedding, integers="keep")
def embedding(g: Builder, layer: Any, x: Tensor) -> Tensor:
    """Gather. The ids are what is transposed when another order of axes is asked for.

    Gather refuses ids that the table has no row for, as MLX refuses them in data. Ids that the
    model computes mean the nearest end of the table there, so they are clipped here.
    """
    x = x if x.given else _clipped(g, x, layer.input_dim)

    def make(layout: Layout) -> Value | None:
        if not layout.features_last or layout.order is not None:
            return None
        ids = x.to(Layout(layout.perm[:-1]))
        if x.dtype not in (mx.int32, mx.int64):
            ids = g.cast(ids, mx.int32)
        return g.op("Gather", table(), ids)

    resume = g.here()

    def table() -> Value:
        with resume():
            return weight(g, layer, "weight")

    rows = Tensor(g, None, (*x.shape, layer.output_dim), make=make)
    if x.dtype in (mx.int32, mx.int64):
        rows.lookup = (x, table)
    return rows


def _clipped(g: Builder, ids: Tensor, size: int) -> Tensor:
    """Ids in [-size, size), as `mlxfunc.bounds` has them."""
    unsigned = ids.dtype in (mx.uint32, mx.uint64)
    kind = ids.dtype if unsigned or ids.dtype == mx.int64 else mx.int32
    ends = (0 if unsigned else -size, size - 1)
    low, high = (g.constant(np.asarray(end), kind) for end in ends)
    clipped = ids.map(lambda value, layout: g.op("Clip", g.cast(value, kind), low, high))
    clipped.dtype = kind
    return clipped


@mask_rule(layers.Embedding)
def embedding_mask(g: Builder, layer: Any, x: Tensor, mask: Any) -> Tensor:
    def make(layout: Layout) -> Value:
        return g.op("Cast", x.to(layout), to=mx.bool_)

    return Tensor(g, None, x.shape, dtype=mx.bool_, make=make)


@rule(layers.Identity, integers="keep")
def nothing(g: Builder, layer: Any, x: Any) -> Any:
    """The layer does nothing when a model is used."""
    return x


def _differs(g: Builder, layer: Any, x: Tensor) -> Value:
    """0 for the steps whose features all equal the mask value, else more: (batch, time)."""
    key = ("masking", layer.mask_value)
    if key not in x.cache:
        value = x.plain if x.dtype in (mx.float16, mx.float32) else g.cast(x.plain, mx.float32)
        value = g.op("Sub", value, float(layer.mask_value)) if layer.mask_value else value
        x.cache[key] = g.reduce("ReduceL1", value, [x.rank - 1], keepdims=False)
    return x.cache[key]


@rule(layers.Masking)
def masking(g: Builder, layer: Any, x: Tensor) -> Tensor:
    """Steps that are masked for being 0 are 0 already."""
    if not layer.mask_value:
        return x
    valid = g.op("Cast", _differs(g, layer, x), to=mx.bool_)
    valid = g.op("Unsqueeze", g.cast(valid, x.plain.dtype), [x.rank - 1])
    return Tensor(g, g.op("Mul", x.plain, valid), x.shape, dtype=x.dtype)


@mask_rule(layers.Masking)
def masking_mask(g: Builder, layer: Any, x: Tensor, mask: Any) -> Tensor:
    def make(layout: Layout) -> Value | None:
        if layout != plain(x.rank - 1):
            return None
        return g.op("Cast", _differs(g, layer, x), to=mx.bool_)

    return Tensor(g, None, x.shape[:-1], dtype=mx.bool_, make=make)
