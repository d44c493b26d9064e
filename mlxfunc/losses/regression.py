"""Losses between numbers. Each function maps (..., d), (..., d) to (...).

Source: https://keras.io/api/losses/regression_losses/
"""

from __future__ import annotations

import math

import mlx.core as mx

from ..conversion import DTypeLike
from .base import FunctionLoss, same_shape

EPSILON = 1e-7


@same_shape
def mean_squared_error(y_true: mx.array, y_pred: mx.array) -> mx.array:
    """mean (y - p)^2"""
    return mx.mean(mx.square(y_true - y_pred), axis=-1)


@same_shape
def mean_absolute_error(y_true: mx.array, y_pred: mx.array) -> mx.array:
    """mean |y - p|"""
    return mx.mean(mx.abs(y_true - y_pred), axis=-1)


@same_shape
def mean_absolute_percentage_error(y_true: mx.array, y_pred: mx.array) -> mx.array:
    """100 mean |y - p| / max(|y|, 1e-7)"""
    return 100 * mx.mean(mx.abs(y_true - y_pred) / mx.maximum(mx.abs(y_true), EPSILON), axis=-1)


@same_shape
def mean_squared_logarithmic_error(y_true: mx.array, y_pred: mx.array) -> mx.array:
    """mean (log(1 + y) - log(1 + p))^2, both kept above 1e-7"""
    logs = [mx.log(mx.maximum(y, EPSILON) + 1) for y in (y_true, y_pred)]
    return mx.mean(mx.square(logs[1] - logs[0]), axis=-1)


@same_shape
def huber(y_true: mx.array, y_pred: mx.array, delta: float = 1.0) -> mx.array:
    """mean of e^2 / 2 where |e| <= delta, else delta |e| - delta^2 / 2, e = p - y"""
    error = y_pred - y_true
    size = mx.abs(error)
    quadratic, straight = 0.5 * mx.square(error), delta * size - 0.5 * delta**2
    return mx.mean(mx.where(size <= delta, quadratic, straight), axis=-1)


@same_shape
def log_cosh(y_true: mx.array, y_pred: mx.array) -> mx.array:
    """mean log cosh(p - y)"""
    error = y_pred - y_true
    return mx.mean(error + mx.logaddexp(-2 * error, 0) - math.log(2), axis=-1)


@same_shape
def cosine_similarity(y_true: mx.array, y_pred: mx.array, axis: int = -1) -> mx.array:
    """-sum y p / (|y| |p|): -1 for the same direction, 1 for the opposite one"""
    return -mx.sum(normalized(y_true, axis) * normalized(y_pred, axis), axis=axis)


@same_shape
def poisson(y_true: mx.array, y_pred: mx.array) -> mx.array:
    """mean p - y log p"""
    return mx.mean(y_pred - y_true * mx.log(y_pred + EPSILON), axis=-1)


def normalized(x: mx.array, axis: int) -> mx.array:
    """x / |x| along `axis`."""
    return x * mx.rsqrt(mx.maximum(mx.sum(mx.square(x), axis=axis, keepdims=True), 1e-12))


class MeanSquaredError(FunctionLoss):
    """`mean_squared_error`, reduced."""

    function = staticmethod(mean_squared_error)


class MeanAbsoluteError(FunctionLoss):
    """`mean_absolute_error`, reduced."""

    function = staticmethod(mean_absolute_error)


class MeanAbsolutePercentageError(FunctionLoss):
    """`mean_absolute_percentage_error`, reduced."""

    function = staticmethod(mean_absolute_percentage_error)


class MeanSquaredLogarithmicError(FunctionLoss):
    """`mean_squared_logarithmic_error`, reduced."""

    function = staticmethod(mean_squared_logarithmic_error)


class LogCosh(FunctionLoss):
    """`log_cosh`, reduced."""

    function = staticmethod(log_cosh)


class Poisson(FunctionLoss):
    """`poisson`, reduced."""

    function = staticmethod(poisson)


class Huber(FunctionLoss):
    """`huber`, reduced."""

    function = staticmethod(huber)

    def __init__(
        self,
        delta: float = 1.0,
        reduction: str | None = "sum_over_batch_size",
        name: str = "huber_loss",
        dtype: DTypeLike = None,
    ):
        super().__init__(reduction, name, dtype)
        self.delta = delta


class CosineSimilarity(FunctionLoss):
    """`cosine_similarity`, reduced."""

    function = staticmethod(cosine_similarity)

    def __init__(
        self,
        axis: int = -1,
        reduction: str | None = "sum_over_batch_size",
        name: str = "cosine_similarity",
        dtype: DTypeLike = None,
    ):
        super().__init__(reduction, name, dtype)
        self.axis = axis
