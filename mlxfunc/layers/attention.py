"""Attention and AdditiveAttention, and what masks mean to every attention."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ..layer import Layer
from .core import broadcasts, known_size
from .regularization import Dropout, fraction


def causal_mask(queries: int, keys: int) -> mx.array:
    """(queries, keys): true where the key does not come after the query."""
    return mx.arange(queries)[:, None] >= mx.arange(keys)


def penalty(mask: mx.array, dtype: mx.Dtype) -> mx.array:
    """What is added to scores: 0 where the mask is true, else so little that softmax gives 0.

    Finite, so that a query without any key gets the mean of all values and no NaN.
    """
    low = -3e4 if dtype == mx.float16 else -1e9
    return mx.where(mask, mx.array(0, dtype), mx.array(low, dtype))


def both(*masks: mx.array | None) -> mx.array | None:
    """The masks' conjunction; None is all true."""
    found: mx.array | None = None
    for mask in masks:
        if mask is not None:
            mask = mask.astype(mx.bool_)
            found = mask if found is None else mx.logical_and(found, mask)
    return found


class Attention(Layer):
    """softmax(scale · q kᵀ) v, on [query, value] or [query, value, key] (key: value by default).

    query (batch, queries, d), value (batch, keys, e), key (batch, keys, d) → (batch, queries, e),
    and, with `return_attention_scores`, the softmax (batch, queries, keys). The mask is
    [query_mask, value_mask]: values whose mask is false are not attended to, and outputs of
    queries whose mask is false are 0. `use_scale` learns the scale; score_mode "concat" scores
    weight · sum tanh(scale · (q + k)).

    Where we differ from Keras: inputs of rank 2 are refused, where Keras mixes the batch's rows.

    Source: https://keras.io/api/layers/attention_layers/attention/
    """

    supports_masking = True

    def __init__(
        self,
        use_scale: bool = False,
        score_mode: str = "dot",
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if score_mode not in ("dot", "concat"):
            raise ValueError(
                f"{self.name}: expected score_mode 'dot' or 'concat', got {score_mode!r}."
            )
        self.use_scale, self.score_mode, self.seed = use_scale, score_mode, seed
        self.dropout = fraction(self.name, "dropout", dropout)
        self.drop = Dropout(dropout, seed=seed, name="drop")

    def build(self, input_shape: list) -> None:
        self.check(input_shape)
        if self.use_scale:
            self.add_weight(name="scale", shape=(), initializer="ones")
        if self.score_mode == "concat":
            self.add_weight(name="concat_score_weight", shape=(), initializer="ones")

    def check(self, shapes: Any) -> None:
        """Refuse what is not a list of two or three inputs."""
        several = isinstance(shapes, list | tuple) and not any(n is None for n in shapes)
        count = len(shapes) if several and isinstance(shapes[0], list | tuple) else 1
        if count not in (2, 3):
            raise ValueError(
                f"{self.name}: expected [query, value] or [query, value, key], got "
                f"{f'{count} inputs' if count > 1 else 'one input'}. Give them in one list."
            )
        if min(len(shape) for shape in shapes) < 3:
            raise ValueError(
                f"{self.name}: expected query (batch, queries, d) and value (batch, keys, e), got "
                f"{' and '.join(map(str, shapes))}. Rows of a batch do not attend to each other: "
                "Reshape to (1, d) for one query."
            )

    def scores(self, query: mx.array, key: mx.array) -> mx.array:
        scale = self.scale if self.use_scale else 1
        if self.score_mode == "dot":
            return (query * scale) @ key.swapaxes(-1, -2)
        together = query[..., :, None, :] + key[..., None, :, :]
        return self.concat_score_weight * mx.sum(mx.tanh(scale * together), axis=-1)

    def call(
        self,
        inputs: list[mx.array],
        mask: list[mx.array | None] | None = None,
        training: bool = False,
        return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:
        query, value, key = (*inputs, inputs[1])[:3]
        query_mask, value_mask = self.masks(inputs, mask)
        kept = both(
            None if value_mask is None else value_mask[..., None, :],
            causal_mask(query.shape[-2], value.shape[-2]) if use_causal_mask else None,
        )
        bias = None if kept is None else penalty(kept, query.dtype)
        dropping = training and self.dropout > 0
        fused = type(self) is Attention and self.score_mode == "dot" and query.ndim == 3
        if fused and not (dropping or return_attention_scores):
            query = query * self.scale if self.use_scale else query
            heads = (a[:, None] for a in (query, key, value))
            bias = bias if bias is None or bias.ndim == 2 else bias[:, None]
            output = mx.fast.scaled_dot_product_attention(*heads, scale=1.0, mask=bias)[:, 0]
        else:
            scores = self.scores(query, key)
            weights = mx.softmax(scores if bias is None else scores + bias, axis=-1)
            if dropping:
                weights = self.drop.disturb(weights)
            output = weights @ value
        if query_mask is not None:
            output = mx.where(query_mask[..., None], output, 0)
        return (output, weights) if return_attention_scores else output

    def masks(self, inputs: list[mx.array], mask: Any) -> tuple:
        """The masks of query and value, once they are known to fit."""
        query_mask, value_mask = (*(mask or ()), None, None)[:2]
        for what, x, m in (("query", inputs[0], query_mask), ("value", inputs[1], value_mask)):
            if m is not None and not broadcasts(m.shape, x.shape[:-1]):
                raise ValueError(
                    f"{self.name}: expected a {what} mask of shape {x.shape[:-1]}, got {m.shape}. "
                    "It has one entry for each position."
                )
        return query_mask, value_mask

    def compute_mask(self, inputs: Any, mask: Any = None) -> mx.array | None:
        return None if mask is None else mask[0]


class AdditiveAttention(Attention):
    """softmax(sum scale · tanh(q + k)) v, on [query, value] or [query, value, key].

    scale (d,), which is learned; the rest is as in Attention. Source: arXiv:1409.0473
    """

    def __init__(self, use_scale: bool = True, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(use_scale=use_scale, dropout=dropout, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {key: value for key, value in super().get_config().items() if key != "score_mode"}

    def build(self, input_shape: list) -> None:
        self.check(input_shape)
        if self.use_scale:
            size = known_size(self.name, input_shape[0], -1)
            self.add_weight(name="scale", shape=(size,), initializer="glorot_uniform")

    def scores(self, query: mx.array, key: mx.array) -> mx.array:
        together = mx.tanh(query[..., :, None, :] + key[..., None, :, :])
        return mx.sum(self.scale * together if self.use_scale else together, axis=-1)
