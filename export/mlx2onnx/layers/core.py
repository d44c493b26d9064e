"""Dense, Embedding, and layers that do nothing when a model is used."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlxfunc import layers
from mlx2onnx.builder import Builder, Value
from mlx2onnx.layers.activation import activate
from mlx2onnx.layers.registry import mask_rule, rule
from mlx2onnx.layers.weights import weight
from mlx2onnx.layout import Layout, Tensor, plain


@rule(layers.Dense)
def dense(g: Builder, layer: Any, x: Tensor) -> Tensor:
    """Gemm on vectors; MatMul and Add on the last axis of anything else."""
    y = _gemm(g, layer, x) if x.rank == 2 else _matmul(g, layer, x)
    return activate(g, layer.activation, y)


def _gemm(g: Builder, layer: Any, x: Tensor) -> Tensor:
    """Rows follow the order of the input's elements; columns the order that is asked for."""

    def make(layout: Layout) -> Value | None:
        if layout.perm != (0, 1):
            return None
        source = Layout((0, 1), x.layout.order)
        columns = layout.indices
        kernel = weight(
            g, layer, "weight", ("T", source.order, layout.order), transpose(source, layout)
        )
        bias = None
        if layer.use_bias:
            bias = weight(
                g, layer, "bias", layout.order, None if columns is None else lambda b: b[columns]
            )
        return g.op("Gemm", x.to(source), kernel, bias)

    return Tensor(g, None, (x.shape[0], layer.units), dtype=x.dtype, make=make)


def transpose(source: Layout, target: Layout) -> Any:
    """weight (out, in) → (in, out), its rows and columns in these orders."""
    rows, columns = source.indices, target.indices

    def transform(array: np.ndarray) -> np.ndarray:
        array = array.T
        array = array if rows is None else array[rows]
        return array if columns is None else array[:, columns]

    return transform


def _matmul(g: Builder, layer: Any, x: Tensor) -> Tensor:
    layout = x.layout if x.layout.features_last else plain(x.rank)
    source = Layout((0, 1), layout.order)
    result = layout.unordered()
    kernel = weight(g, layer, "weight", ("T", source.order, None), transpose(source, plain(2)))
    y = g.op("MatMul", x.to(layout), kernel)
    if layer.use_bias:
        y = g.op("Add", y, weight(g, layer, "bias"))
    return Tensor(g, y, (*x.shape[:-1], layer.units), result, dtype=x.dtype)


@rule(layers.Embedding)
def embedding(g: Builder, layer: Any, x: Tensor) -> Tensor:
    """Gather. The ids are what is transposed when another order of axes is asked for."""

    def make(layout: Layout) -> Value | None:
        if not layout.features_last or layout.order is not None:
            return None
        ids = x.to(Layout(layout.perm[:-1]))
        if x.dtype not in (mx.int32, mx.int64):
            ids = g.cast(ids, mx.int32)
        return g.op("Gather", table(), ids)

    def table() -> Value:
        return weight(g, layer, "weight")

    rows = Tensor(g, None, (*x.shape, layer.output_dim), make=make)
    if x.dtype in (mx.int32, mx.int64):
        rows.lookup = (x, table)
    return rows


@mask_rule(layers.Embedding)
def embedding_mask(g: Builder, layer: Any, x: Tensor, mask: Any) -> Tensor:
    def make(layout: Layout) -> Value:
        return g.op("Cast", x.to(layout), to=mx.bool_)

    return Tensor(g, None, x.shape, dtype=mx.bool_, make=make)


@rule(layers.Identity)
def nothing(g: Builder, layer: Any, x: Any) -> Any:
    """The layer does nothing when a model is used."""
    return x


def _differs(g: Builder, layer: Any, x: Tensor) -> Value:
    """0 for the steps whose features all equal the mask value, else more: (batch, time)."""
    key = ("masking", layer.mask_value)
    if key not in x.cache:
        value = g.op("Sub", x.plain, float(layer.mask_value)) if layer.mask_value else x.plain
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
