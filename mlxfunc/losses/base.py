"""Loss: from two arrays to one number, with weights and masks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from ..conversion import DTypeLike, as_dtype, dtype_name, to_mlx
from ..registry import Configurable, Registry, constructor_arguments

REGISTRY = Registry("losses")
REDUCTIONS = ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none", None)


class Loss(Configurable):
    """The loss of a batch: `call` gives one value a sample (or step), the reduction one in all.

    With weights w and N values l, `sum_over_batch_size` (also `mean`) is sum(w l) / N, `sum` is
    sum(w l), `mean_with_sample_weight` is sum(w l) / sum(w) and `none` is w l. Under a mask N
    counts the valid entries only.

    Where we differ from Keras: weights of lower rank than the values belong to the leading axes,
    so that weights (batch,) weigh whole samples of values (batch, time).

    `dtype` is what the output is cast to and the loss computed in.
    """

    def __init__(
        self,
        name: str | None = None,
        reduction: str | None = "sum_over_batch_size",
        dtype: DTypeLike = None,
    ):
        if reduction not in REDUCTIONS:
            raise ValueError(
                f"{type(self).__name__}: expected reduction in {REDUCTIONS}, got {reduction!r}."
            )
        self.reduction = reduction
        self.name = name or type(self).__name__
        self.dtype = dtype_name(as_dtype(dtype or "float32"))

    def call(self, y_true: mx.array, y_pred: mx.array) -> mx.array:
        """One value for each sample (or step): shaped as `y_pred` without its last axis."""
        raise NotImplementedError(f"{self.name}: expected a `call(y_true, y_pred)` method.")

    def compute_mask(self, y_true: mx.array, y_pred: mx.array) -> mx.array | None:
        """Which values count, where the labels themselves tell; else None."""

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None
    ) -> mx.array:
        """The reduced loss.

        Args:
            sample_weight: broadcasts to the values, from the leading axes on.
            mask: True where a value counts; shaped as the values.
        Raises: ValueError when shapes do not fit.
        """
        loss = divide(*self.parts(y_true, y_pred, sample_weight, mask))
        return loss.astype(as_dtype(self.dtype))

    def parts(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None, mask: Any = None
    ) -> tuple[mx.array, Any]:
        """What the reduction divides, and by what: an array where the data tell, else a number.

        Batches are put together from them: the whole's numerator is the sum of the numerators, and
        so is its denominator. A sum has the denominator None.
        """
        y_pred = to_mlx(y_pred)
        if mx.issubdtype(y_pred.dtype, mx.floating):
            y_pred = y_pred.astype(as_dtype(self.dtype))
        y_true, y_pred = squeeze_or_expand(to_mlx(y_true), y_pred)
        values = self.call(y_true, y_pred)
        own = self.compute_mask(y_true, y_pred)
        if own is not None:
            mask = own if mask is None else own & to_mlx(mask).astype(mx.bool_)
        return reduce(self.name, values, sample_weight, mask, self.reduction)


class FunctionLoss(Loss):
    """The loss of `function`, called with the constructor's other arguments."""

    function: Callable[..., mx.array]

    def __init__(
        self,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: DTypeLike = None,
    ):
        super().__init__(name or self.function.__name__, reduction, dtype)

    def call(self, y_true: mx.array, y_pred: mx.array) -> mx.array:
        names = [
            n for n in constructor_arguments(type(self)) if n not in ("reduction", "name", "dtype")
        ]
        return self.function(y_true, y_pred, **{name: getattr(self, name) for name in names})


class LossFunctionWrapper(Loss):
    """The loss of any function `fn(y_true, y_pred, **kwargs)` of arrays."""

    def __init__(
        self,
        fn: Callable[..., mx.array],
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: DTypeLike = None,
        **kwargs: Any,
    ):
        super().__init__(name or getattr(fn, "__name__", type(fn).__name__), reduction, dtype)
        self.fn, self.kwargs = fn, kwargs

    def call(self, y_true: mx.array, y_pred: mx.array) -> mx.array:
        return self.fn(y_true, y_pred, **self.kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.kwargs}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LossFunctionWrapper:
        return cls(**{**config, "fn": REGISTRY.get(config["fn"])})


def same_shape(fn: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """Give `fn` two arrays of one shape, both in the float dtype of `y_pred`."""

    @functools.wraps(fn)
    def checked(y_true: Any, y_pred: Any, *args: Any, **kwargs: Any) -> mx.array:
        y_true, y_pred = pair(fn.__name__, y_true, y_pred)
        return fn(y_true, y_pred, *args, **kwargs)

    return checked


def pair(name: str, y_true: Any, y_pred: Any) -> tuple[mx.array, mx.array]:
    """Both as arrays of one shape and one float dtype; an axis of size 1 too many is dropped."""
    y_pred = to_mlx(y_pred)
    if not mx.issubdtype(y_pred.dtype, mx.floating):
        y_pred = y_pred.astype(mx.float32)
    y_true, y_pred = squeeze_or_expand(to_mlx(y_true).astype(y_pred.dtype), y_pred)
    if y_true.ndim and y_true.shape != y_pred.shape:
        raise ValueError(
            f"{name}: expected labels shaped as the output {y_pred.shape}, got {y_true.shape}. "
            "Change the last layer's size or the labels; integer class labels need the sparse form."
        )
    return y_true, y_pred


def squeeze_or_expand(a: mx.array, b: mx.array) -> tuple[mx.array, mx.array]:
    """Equal ranks for arrays whose ranks differ by one, where the larger one ends in a 1."""
    if a.ndim == b.ndim + 1 and a.shape[-1] == 1:
        return (a, b[..., None]) if b.ndim == 1 else (a.squeeze(-1), b)
    if b.ndim == a.ndim + 1 and b.shape[-1] == 1:
        return (a[..., None], b) if a.ndim == 1 else (a, b.squeeze(-1))
    return a, b


def reduce(
    name: str, values: mx.array, sample_weight: Any, mask: Any, reduction: str | None
) -> tuple[mx.array, Any]:
    """The weighted values' sum and what it is divided by; for `none` the values, and 1."""
    weights, valid = None, None
    if sample_weight is not None:
        weights = align(name, "sample_weight", to_mlx(sample_weight), values)
    if mask is not None:
        valid = align(name, "mask", to_mlx(mask), values)
        weights = valid if weights is None else weights * valid
    if weights is not None:
        values = values * weights
    if reduction in ("none", None):
        return values, 1
    if reduction == "sum":
        return mx.sum(values), None
    if reduction == "mean_with_sample_weight" and weights is not None:
        return mx.sum(values), mx.sum(weights)
    if valid is not None:
        return mx.sum(values), mx.sum(valid) * (values.size / max(valid.size, 1))
    return mx.sum(values), values.size


def divide(numerator: mx.array, denominator: Any) -> mx.array:
    """One by the other; 0 where there is nothing to divide by."""
    if denominator is None:
        return numerator
    if not isinstance(denominator, mx.array):
        return numerator / max(denominator, 1)
    some = denominator != 0
    return mx.where(some, numerator / mx.where(some, denominator, 1), 0)


def align(name: str, what: str, weights: mx.array, values: mx.array) -> mx.array:
    """`weights` in the dtype of `values` and of a shape that broadcasts with theirs.

    Raises: ValueError when the leading axes disagree.
    """
    shape = weights.shape
    if weights.ndim == values.ndim + 1 and shape[-1] == 1:
        weights = weights.squeeze(-1)
    if weights.ndim < values.ndim:
        weights = weights.reshape(*weights.shape, *[1] * (values.ndim - weights.ndim))
    fits = all(w in (1, v) for w, v in zip(weights.shape, values.shape, strict=False))
    if values.ndim and not (fits and weights.ndim == values.ndim):
        raise ValueError(
            f"{name}: expected {what} to fit the losses of shape {values.shape}, got {shape}. "
            "Give one for each sample, or for each sample and step."
        )
    return weights.astype(values.dtype)


def as_float32(x: Any) -> mx.array:
    """The same in float32 where it was a shorter float: losses are summed in full precision."""
    x = to_mlx(x)
    return x.astype(mx.float32) if x.dtype in (mx.float16, mx.bfloat16) else x
