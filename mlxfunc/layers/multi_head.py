"""MultiHeadAttention: its projections, and attention over any axes as attention over one."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx

from .. import initializers
from ..layer import InputSpec, Layer
from .attention import both, causal_mask, penalty
from .core import KernelLayer, broadcasts, known_size, positive
from .regularization import Dropout, fraction


class Projection(KernelLayer):
    """x Wᵀ + b from the axes `inner` to the axes `outer`: weight (∏ outer, ∏ inner).

    Keras's kernel is (*inner, *outer), and its bias (*outer).
    """

    def __init__(self, inner: tuple[int, ...], outer: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner, self.outer = inner, outer
        k, n = len(inner), len(outer)
        self.add_weight(
            name="weight",
            shape=(*inner, *outer),
            initializer=initializers.with_fans(self.kernel_initializer, range(k), range(k, k + n)),
            axes=(*range(k, k + n), *range(k)),
            stored=(math.prod(outer), math.prod(inner)),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        if self.use_bias:
            self.add_weight(name="bias", shape=outer, role="bias", stored=(math.prod(outer),))
        self.built = True

    def call(self, inputs: mx.array) -> mx.array:
        lead = inputs.shape[: inputs.ndim - len(self.inner)]
        y = self.finish(inputs.reshape(*lead, self.weight.shape[1]) @ self.weight.T)
        return y.reshape(*lead, *self.outer)


class MultiHeadAttention(Layer):
    """W_o concat over heads h of softmax(q_h k_hᵀ / sqrt(key_dim)) v_h; q, k, v projected inputs.

    query (batch, queries..., d), value and key (batch, keys..., e) → (batch, queries...,
    `output_shape` or d); with `return_attention_scores` also the softmax (batch, heads,
    queries..., keys...). Weights are those of query_proj, key_proj, value_proj (heads · size, d)
    and out_proj (d, heads · value_dim), as in `mlx.nn.MultiHeadAttention`.

    A key is attended to where all masks are true: `attention_mask` (batch, queries..., keys...),
    the inputs' own masks, the causal one, and the band of `sliding_window` steps to either side. A
    query without any key gets the mean of the values; zeros where scores or dropout are in play.
    `attention_axes` are the axes attended over, all between batch and features by default. Others
    are as further axes of the batch, and stand before the heads in the scores.

    Source: arXiv:1706.03762, https://keras.io/api/layers/attention_layers/multi_head_attention/
    """

    supports_masking = True

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        output_shape: int | tuple[int, ...] | None = None,
        attention_axes: int | tuple[int, ...] | None = None,
        sliding_window: int | None = None,
        flash_attention: bool | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        use_gate: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.set_role("kernel", kernel_initializer, kernel_regularizer, kernel_constraint)
        self.set_role("bias", bias_initializer, bias_regularizer, bias_constraint)
        optional = {"value_dim": value_dim, "sliding_window": sliding_window}
        given = {key: size for key, size in optional.items() if size is not None}
        positive(self.name, num_heads=num_heads, key_dim=key_dim, **given)
        self.num_heads, self.key_dim, self.value_dim = num_heads, key_dim, value_dim or key_dim
        self.dropout = fraction(self.name, "dropout", dropout)
        self.drop = Dropout(dropout, seed=seed, name="drop")
        shape = (output_shape,) if isinstance(output_shape, int) else output_shape
        self._sizes = tuple(shape) if shape else None
        axes = (attention_axes,) if isinstance(attention_axes, int) else attention_axes
        self.attention_axes = tuple(axes) if axes else None
        self.use_bias, self.use_gate, self.seed = use_bias, use_gate, seed
        self.sliding_window = sliding_window
        # MLX itself chooses its fused kernel.
        self.flash_attention = flash_attention

    def _argument(self, name: str) -> Any:
        # The attribute `output_shape` is what the node API says of the layer's calls.
        return self._sizes if name == "output_shape" else super()._argument(name)

    def build(  # type: ignore[override]
        self, query_shape: tuple, value_shape: tuple, key_shape: tuple | None = None
    ) -> None:
        key_shape = key_shape or value_shape
        ranks = {len(shape) for shape in (query_shape, value_shape, key_shape)}
        if len(ranks) > 1 or min(ranks) < 3 or value_shape[1:-1] != key_shape[1:-1]:
            raise ValueError(
                f"{self.name}: expected query (batch, queries, d), and value and key (batch, keys, "
                f"e), got {query_shape}, {value_shape} and {key_shape}. Value and key have equal "
                "sizes but the last."
            )
        axes = self.axes_of(len(query_shape))
        others = [axis for axis in range(1, len(query_shape) - 1) if axis not in axes]
        if any(query_shape[axis] != value_shape[axis] for axis in others):
            raise ValueError(
                f"{self.name}: expected query and value of equal sizes on the axes {others}, which "
                f"are not attended over, got {query_shape} and {value_shape}."
            )
        heads = self.num_heads
        q, k, v = (known_size(self.name, s, -1) for s in (query_shape, key_shape, value_shape))
        out = self._sizes or (q,)
        self.query_proj = self.projection("query_proj", (q,), (heads, self.key_dim))
        self.key_proj = self.projection("key_proj", (k,), (heads, self.key_dim))
        if self.use_gate:
            self.gate_proj = self.projection("gate_proj", (q,), (heads, self.value_dim))
        self.value_proj = self.projection("value_proj", (v,), (heads, self.value_dim))
        self.out_proj = self.projection("out_proj", (heads, self.value_dim), out)
        self.input_spec = InputSpec(ndim=len(query_shape), axes={-1: q})

    def projection(self, name: str, inner: tuple[int, ...], outer: tuple[int, ...]) -> Projection:
        roles = {
            f"{role}_{what}": getattr(self, f"{role}_{what}")
            for role in ("kernel", "bias")
            for what in ("initializer", "regularizer", "constraint")
        }
        return Projection(
            inner, outer, use_bias=self.use_bias, dtype=self.dtype, name=name, **roles
        )

    def call(  # type: ignore[override]
        self,
        query: mx.array,
        value: mx.array,
        key: mx.array | None = None,
        query_mask: mx.array | None = None,
        value_mask: mx.array | None = None,
        key_mask: mx.array | None = None,
        attention_mask: mx.array | None = None,
        return_attention_scores: bool = False,
        training: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        key = value if key is None else key
        fold = Fold(self.name, query, value, self.axes_of(query.ndim), self.num_heads)
        dropping = training and self.dropout > 0
        scored = return_attention_scores or dropping
        masks = [attention_mask, *self.masks(fold, query_mask, value_mask, key_mask)]
        # MLX's own causal mask aligns the last query with the last key.
        plain = fold.square and not scored and all(mask is None for mask in masks)
        if use_causal_mask and not plain:
            masks.append(causal_mask(*self.lengths(fold)))
        kept = fold.mask(masks)
        q, k, v = (
            fold.heads(projection(x))
            for projection, x in (
                (self.query_proj, query),
                (self.key_proj, key),
                (self.value_proj, value),
            )
        )
        scale = 1 / math.sqrt(self.key_dim)
        weights = None
        if scored:
            scores = (q * scale) @ k.swapaxes(-1, -2)
            weights = softmax_of(scores, kept)
            y = (self.drop.disturb(weights) if dropping else weights) @ v
        else:
            mask: Any = None if kept is None else penalty(kept, q.dtype)
            mask = "causal" if use_causal_mask and plain else mask
            y = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
        y = fold.back(y)
        if self.use_gate:
            y = y * mx.sigmoid(self.gate_proj(query))
        y = self.out_proj(y)
        return (y, fold.scores(weights)) if return_attention_scores else y

    def axes_of(self, rank: int) -> tuple[int, ...]:
        """The axes attended over, of an input of this rank, each at least 1."""
        if self.attention_axes is None:
            return tuple(range(1, rank - 1))
        axes = tuple(axis + rank if axis < 0 else axis for axis in self.attention_axes)
        if len(set(axes)) < len(axes) or not all(0 < axis < rank - 1 for axis in axes):
            raise ValueError(
                f"{self.name}: expected attention_axes between the batch and the features of an "
                f"input of rank {rank}, each once, got {self.attention_axes}."
            )
        return axes

    def masks(
        self,
        fold: Fold,
        query_mask: mx.array | None,
        value_mask: mx.array | None,
        key_mask: mx.array | None,
    ) -> list[mx.array | None]:
        """The inputs' masks and the band of the sliding window, as masks of scores."""
        band = None
        if self.sliding_window is not None:
            queries, keys = self.lengths(fold)
            band = mx.abs(mx.arange(queries)[:, None] - mx.arange(keys)) < self.sliding_window
        keys_masks = [fold.of_keys(value_mask), fold.of_keys(key_mask)]
        return [fold.of_queries(query_mask), *keys_masks, band]

    def lengths(self, fold: Fold) -> tuple[int, int]:
        """How many queries and keys there are in the one order that these have."""
        if len(fold.axes) > 1:
            raise ValueError(
                f"{self.name}: expected one attention axis for a causal mask or a sliding window, "
                f"got {fold.axes}. Positions on several axes have no order: give attention_axes."
            )
        return fold.queries[0], fold.keys[0]


def softmax_of(scores: mx.array, kept: mx.array | None) -> mx.array:
    """The softmax over the last axis of what is kept; 0 elsewhere."""
    if kept is None:
        return mx.softmax(scores, axis=-1)
    weights = mx.softmax(scores + penalty(kept, scores.dtype), axis=-1)
    return mx.where(kept, weights, mx.array(0, scores.dtype))


class Fold:
    """Attention over some axes as attention over one: the others join the batch.

    x (batch, axes..., heads, size) ↔ (batch · others, heads, positions, size).
    """

    def __init__(
        self, name: str, query: mx.array, value: mx.array, axes: tuple[int, ...], heads: int
    ) -> None:
        self.name, self.axes, self.heads_count = name, axes, heads
        self.others = tuple(a for a in range(1, query.ndim - 1) if a not in axes)
        self.batch = query.shape[0]
        self.free = tuple(query.shape[a] for a in self.others)
        self.queries = tuple(query.shape[a] for a in axes)
        self.keys = tuple(value.shape[a] for a in axes)
        self.square = len(axes) == 1 and self.queries == self.keys
        self.order = (0, *self.others, *axes)

    def heads(self, x: mx.array) -> mx.array:
        x = mx.transpose(x, (*self.order, x.ndim - 2, x.ndim - 1))
        rows = self.batch * math.prod(self.free)
        length = math.prod(x.shape[1 + len(self.free) : -2])
        return x.reshape(rows, length, *x.shape[-2:]).swapaxes(1, 2)

    def back(self, y: mx.array) -> mx.array:
        """(batch · others, heads, positions, size) → (batch, axes..., heads, size)"""
        y = y.swapaxes(1, 2)
        y = y.reshape(self.batch, *self.free, *self.queries, *y.shape[-2:])
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return mx.transpose(y, (*inverse, y.ndim - 2, y.ndim - 1))

    def of_queries(self, mask: mx.array | None) -> mx.array | None:
        """A mask of queries, over all positions or over the attended axes, as one of scores."""
        after = (1,) * len(self.axes)
        return None if mask is None else self._of_positions(mask, self.queries, (), after)

    def of_keys(self, mask: mx.array | None) -> mx.array | None:
        """A mask of keys, likewise."""
        before = (1,) * len(self.axes)
        return None if mask is None else self._of_positions(mask, self.keys, before, ())

    def _of_positions(
        self, mask: mx.array, sizes: tuple[int, ...], before: tuple, after: tuple
    ) -> mx.array:
        given, lead = mask.shape, 1 + len(self.free)
        if self.free and mask.ndim == 1 + len(self.axes):
            mask = mask.reshape(mask.shape[0], *(1,) * len(self.free), *mask.shape[1:])
        elif mask.ndim <= len(self.order):
            mask = mask.reshape(*mask.shape, *(1,) * (len(self.order) - mask.ndim))
            mask = mx.transpose(mask, self.order)
        if not broadcasts(mask.shape, (self.batch, *self.free, *sizes)):
            wanted = (self.batch, *(size for _, size in sorted(zip(self.axes, sizes, strict=True))))
            raise ValueError(
                f"{self.name}: expected a mask of shape {wanted}, got {given}. "
                "It has one entry for each position that is attended over."
            )
        return mask.reshape(*mask.shape[:lead], 1, *before, *mask.shape[lead:], *after)

    def mask(self, masks: list[mx.array | None]) -> mx.array | None:
        """The conjunction of masks (batch, [others...,] [heads,] queries..., keys...), folded."""
        kept = both(*(None if mask is None else self.align(mask) for mask in masks))
        if kept is None:
            return None
        lead, inner = 1 + len(self.free), len(self.queries)
        groups = (
            (kept.shape[:lead], (self.batch, *self.free)),
            (kept.shape[lead : lead + 1], kept.shape[lead : lead + 1]),
            (kept.shape[lead + 1 : lead + 1 + inner], self.queries),
            (kept.shape[lead + 1 + inner :], self.keys),
        )
        # What has size 1 throughout broadcasts by itself.
        full = [sizes if set(sizes) == {1} else wanted for sizes, wanted in groups]
        kept = mx.broadcast_to(kept, [size for sizes in full for size in sizes])
        return kept.reshape([math.prod(sizes) for sizes in full])

    def align(self, mask: mx.array) -> mx.array:
        """The mask with all axes of the scores; missing ones come before the queries'."""
        wanted = (self.batch, *self.free, self.heads_count, *self.queries, *self.keys)
        inner = len(self.queries) + len(self.keys)
        missing = (1,) * (len(wanted) - mask.ndim)
        shape = (*mask.shape[:-inner], *missing, *mask.shape[-inner:])
        if not broadcasts(shape, wanted):
            full = (self.batch, *self.queries, *self.keys)
            raise ValueError(
                f"{self.name}: expected a mask of shape {full}, got {mask.shape}. "
                "Its axes are (batch, queries, keys)."
            )
        return mask.reshape(shape)

    def scores(self, weights: mx.array | None) -> mx.array | None:
        if weights is None:
            return None
        shape = (self.batch, *self.free, weights.shape[1], *self.queries, *self.keys)
        return weights.reshape(shape)
