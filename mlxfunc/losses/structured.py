"""Losses of whole regions and sequences: dice, tversky, ctc.

Source: https://keras.io/api/losses/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from ..bounds import as_integer, take_along_axis
from ..conversion import DTypeLike, to_mlx
from .base import FunctionLoss, as_float32, same_shape

EPSILON = 1e-7
_IMPOSSIBLE = -1e30


@same_shape
def dice(y_true: mx.array, y_pred: mx.array, axis: int | Sequence[int] | None = None) -> mx.array:
    """1 - 2 sum y p / (sum y + sum p + 1e-7), sums over `axis` (None: all)."""
    common = mx.sum(y_true * y_pred, axis=axis)
    return 1 - 2 * common / (mx.sum(y_true, axis=axis) + mx.sum(y_pred, axis=axis) + EPSILON)


@same_shape
def tversky(
    y_true: mx.array,
    y_pred: mx.array,
    alpha: float = 0.5,
    beta: float = 0.5,
    axis: int | Sequence[int] | None = None,
) -> mx.array:
    """1 - c / (c + alpha sum y (1 - p) + beta sum p (1 - y) + 1e-7), c = sum y p over `axis`.

    Source: arXiv:1706.05721, with alpha and beta as Keras has them.
    """
    common = mx.sum(y_true * y_pred, axis=axis)
    missed = mx.sum(y_true * (1 - y_pred), axis=axis)
    wrong = mx.sum(y_pred * (1 - y_true), axis=axis)
    return 1 - common / (common + alpha * missed + beta * wrong + EPSILON)


def ctc(y_true: Any, y_pred: Any) -> mx.array:
    """-log of the probability of a label sequence, over all its alignments with the frames.

    Labels (batch, length), integers, 0 pads and is the blank; logits (batch, time, classes).
    Gives (batch,). Source: Graves et al., 2006
    """
    labels, logits = as_integer(to_mlx(y_true)), as_float32(y_pred)
    if labels.ndim != 2 or logits.ndim != 3:
        raise ValueError(
            "ctc: expected labels (batch, length) and logits (batch, time, classes), got "
            f"{labels.shape} and {logits.shape}."
        )
    batch, length = labels.shape
    # Each label with a blank before it, and one at the end: state 2 i + 1 is label i.
    spaced = mx.stack([mx.zeros_like(labels), labels], axis=-1).reshape(batch, 2 * length)
    states = mx.concatenate([spaced, mx.zeros((batch, 1), dtype=labels.dtype)], axis=1)
    skips = mx.pad(states[:, 2:] != states[:, :-2], [(0, 0), (2, 0)]) & (states != 0)
    log_p = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    index = mx.broadcast_to(states[:, None], (batch, logits.shape[1], 2 * length + 1))
    emitted = take_along_axis(log_p, index, axis=-1)

    start = mx.arange(2 * length + 1) < 2
    alpha = mx.where(start, emitted[:, 0], _IMPOSSIBLE)
    for t in range(1, logits.shape[1]):
        one = mx.pad(alpha[:, :-1], [(0, 0), (1, 0)], constant_values=_IMPOSSIBLE)
        two = mx.pad(alpha[:, :-2], [(0, 0), (2, 0)], constant_values=_IMPOSSIBLE)
        two = mx.where(skips, two, _IMPOSSIBLE)
        alpha = mx.logaddexp(mx.logaddexp(alpha, one), two) + emitted[:, t]
    count = mx.sum(labels != 0, axis=-1, keepdims=True)
    blank = take_along_axis(alpha, 2 * count, axis=1)
    label = take_along_axis(alpha, mx.maximum(2 * count - 1, 0), axis=1)
    label = mx.where(count > 0, label, _IMPOSSIBLE)
    return -mx.logaddexp(blank, label).squeeze(1)


class Dice(FunctionLoss):
    """`dice`, reduced."""

    function = staticmethod(dice)

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str = "dice",
        axis: int | Sequence[int] | None = None,
        dtype: DTypeLike = None,
    ):
        super().__init__(reduction, name, dtype)
        self.axis = axis


class Tversky(FunctionLoss):
    """`tversky`, reduced."""

    function = staticmethod(tversky)

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: str | None = "sum_over_batch_size",
        name: str = "tversky",
        axis: int | Sequence[int] | None = None,
        dtype: DTypeLike = None,
    ):
        super().__init__(reduction, name, dtype)
        self.alpha, self.beta, self.axis = alpha, beta, axis


class CTC(FunctionLoss):
    """`ctc`, reduced."""

    function = staticmethod(ctc)
