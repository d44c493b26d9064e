"""Attention: one projection for q, k and v where they come from the same input."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx2onnx import trace
from mlxfunc import layers
from mlx2onnx.builder import Builder, Value, to_numpy
from mlx2onnx.layers.registry import rule
from mlx2onnx.layers.weights import derived, transposed, weight
from mlx2onnx.layout import Tensor
from mlxfunc.layers.attention import both, causal_mask, penalty
from mlxfunc.layers.multi_head import Fold


@rule(layers.MultiHeadAttention)
def multi_head_attention(
    g: Builder,
    layer: Any,
    query: Tensor,
    value: Tensor,
    key: Tensor | None = None,
    query_mask: Tensor | None = None,
    value_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    attention_mask: Tensor | None = None,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
    out: Any = None,
) -> list[Tensor] | None:
    """Heads of (batch, heads, time, size); the scale is in the weights of the query."""
    masks = [attention_mask, query_mask, value_mask, key_mask]
    masked = use_causal_mask or layer.sliding_window or any(m is not None for m in masks)
    scored = return_attention_scores
    if query.rank != 3 or len(layer.out_proj.outer) > 1 or (scored and masked):
        return None
    q, k, v = _heads(g, layer, query, value, value if key is None else key)
    scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
    if masked:
        scores = g.op("Add", scores, _bias(g, layer, query, value, masks, use_causal_mask))
    weights = g.op("Softmax", scores, axis=-1)
    y = g.op("MatMul", weights, v)
    width = layer.num_heads * layer.value_dim
    y = g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1, 3]), [0, 0, width])
    if layer.use_gate:
        y = g.op("Mul", y, g.op("Sigmoid", _project(g, query.plain, [layer.gate_proj])))
    y = _project(g, y, [layer.out_proj])
    return _tensors(g, [y, weights] if scored else [y], out)


def _tensors(g: Builder, values: Sequence[Value], out: Any) -> list[Tensor]:
    specs = out if isinstance(out, (list, tuple)) else [out]
    return [Tensor(g, v, s.shape, dtype=s.dtype) for v, s in zip(values, specs, strict=True)]


def _heads(
    g: Builder, layer: Any, query: Tensor, value: Tensor, key: Tensor
) -> tuple[Value, Value, Value]:
    """q, k and v as (batch, heads, time, size)."""
    inputs = [query, key, value]
    projections = [layer.query_proj, layer.key_proj, layer.value_proj]
    scale = 1 / math.sqrt(layer.key_dim)
    sizes = [layer.key_dim, layer.key_dim, layer.value_dim]
    made: list[Value] = []
    while inputs:
        count = sum(x is inputs[0] and n == sizes[0] for x, n in zip(inputs, sizes, strict=True))
        together = projections[:count] if inputs[:count] == [inputs[0]] * count else projections[:1]
        count = len(together)
        first = len(made) == 0
        y = _project(g, inputs[0].plain, together, scale if first else 1.0)
        y = g.op("Reshape", y, [0, 0, count * layer.num_heads, sizes[0]])
        y = g.op("Transpose", y, perm=[0, 2, 1, 3])
        parts = [layer.num_heads] * count
        made += [y] if count == 1 else list(g.op("Split", y, parts, axis=1, outputs=count))
        inputs, projections, sizes = inputs[count:], projections[count:], sizes[count:]
    q, k, v = made
    return q, k, v


def _project(g: Builder, x: Value, projections: Sequence[Any], scale: float = 1.0) -> Value:
    """x Wᵀ + b of several projections at once; `scale` multiplies the first."""
    ids = (*map(id, projections), scale)
    factors = [scale, *[1.0] * (len(projections) - 1)]
    first = projections[0]

    def packed(name: str) -> np.ndarray:
        rows = [
            to_numpy(p[name]) * np.float32(f) if f != 1 else to_numpy(p[name])
            for p, f in zip(projections, factors, strict=True)
        ]
        joined = np.concatenate(rows)
        return transposed(joined) if joined.ndim == 2 else joined

    prefix = first.name if len(projections) == 1 else "qkv"[-len(projections) :]
    with g.scope(prefix):
        y = g.op("MatMul", x, derived(g, first, "weight", ids, lambda: packed("weight")))
        if first.use_bias:
            y = g.op("Add", y, derived(g, first, "bias", ids, lambda: packed("bias")))
    return y


def _bias(
    g: Builder,
    layer: Any,
    query: Tensor,
    value: Tensor,
    masks: Sequence[Tensor | None],
    causal: bool,
) -> Value:
    """What is added to the scores of keys that are not attended to: traced from the layer."""

    def run(q: mx.array, v: mx.array, *arrays: mx.array) -> mx.array:
        remaining = iter(arrays)
        found = [None if m is None else next(remaining) for m in masks]
        attention, *inner = found
        fold = Fold(layer.name, q, v, (1,), layer.num_heads)
        parts = [
            attention,
            *layer.masks(fold, *inner),
            causal_mask(q.shape[1], v.shape[1]) if causal else None,
        ]
        kept: Any = fold.mask(parts)
        return penalty(kept, q.dtype)

    n, m = _lengths(query, value)
    axes: list[dict[int, Any]] = [{-2: n, -1: m}, {-1: n}, {-1: m}, {-1: m}]
    pairs = [(mask, own) for mask, own in zip(masks, axes, strict=True) if mask is not None]
    return _traced(g, run, [(query, {1: n}), (value, {1: m}), *pairs])


def _lengths(query: Tensor, value: Tensor) -> tuple[Any, Any]:
    """How many queries and keys there are: sizes or names, also of those that have none."""
    return query.shape[1] or "queries", value.shape[1] or "keys"


def _traced(g: Builder, run: Any, tensors: Sequence[tuple[Tensor, dict[int, Any]]]) -> Value:
    """`run` of tensors; each with what its dynamic dimensions are, by axis."""
    specs = []
    for tensor, names in tensors:
        shape = list(tensor.shape)
        for axis, name in names.items():
            shape[axis] = shape[axis] if isinstance(shape[axis], int) else name
        specs.append((tuple(shape), tensor.dtype))
    return trace.lower(g, run, [tensor.plain for tensor, _ in tensors], specs)[0]


@rule(layers.Attention)
def attention(
    g: Builder,
    layer: Any,
    inputs: list[Tensor],
    mask: Any = None,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
    out: Any = None,
) -> list[Tensor] | None:
    """softmax(q kᵀ) v of rank 3, by dot products."""
    query, value, key = (*inputs, inputs[1])[:3]
    if type(layer).scores is not layers.Attention.scores or layer.score_mode != "dot":
        return None
    if query.rank != 3:
        return None
    q = query.plain
    if layer.use_scale:
        q = g.op("Mul", q, weight(g, layer, "scale"))
    scores = g.op("MatMul", q, g.op("Transpose", key.plain, perm=[0, 2, 1]))
    query_mask, value_mask = (*(mask or ()), None, None)[:2]
    if value_mask is not None or use_causal_mask:
        scores = g.op("Add", scores, _penalty(g, query, value, value_mask, use_causal_mask))
    weights = g.op("Softmax", scores, axis=-1)
    y = g.op("MatMul", weights, value.plain)
    if query_mask is not None:
        y = g.op("Where", g.op("Unsqueeze", query_mask.plain, [2]), y, g.constant(0.0))
    return _tensors(g, [y, weights] if return_attention_scores else [y], out)


def _penalty(g: Builder, query: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Value:
    def run(q: mx.array, v: mx.array, *masks: mx.array) -> mx.array:
        kept: Any = both(
            *(m[..., None, :] for m in masks),
            causal_mask(q.shape[-2], v.shape[-2]) if causal else None,
        )
        return penalty(kept, q.dtype)

    n, m = _lengths(query, value)
    tensors = [(query, {1: n}), (value, {1: m}), *([] if mask is None else [(mask, {-1: m})])]
    return _traced(g, run, tensors)
