"""Pooling: windows or whole spatial axes, by maximum or mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from ..layer import InputSpec, Layer
from .core import broadcasts
from .windows import Pair, fits, padding_kind, reduce_windows, same_pads, sizes


class Pool(Layer):
    """One value of each window of `pool_size`, which moves by `strides` (None: by its own size).

    x (batch, spatial..., channels) → (batch, spatial'..., channels). "same" pads so that the last
    windows fit, more after than before; a mean does not count what was padded.

    Source: https://keras.io/api/layers/pooling_layers/
    """

    rank: int
    combine: Callable[..., mx.array]
    whole: Callable[..., mx.array]
    identity: float

    def __init__(
        self,
        pool_size: int | tuple[int, ...] = 2,
        strides: int | tuple[int, ...] | None = None,
        padding: str = "valid",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pool_size = sizes(self.name, self.rank, "pool_size", pool_size)
        strides = self.pool_size if strides is None else strides
        self.strides = sizes(self.name, self.rank, "strides", strides)
        self.padding = padding_kind(self.name, padding)
        self.input_spec = InputSpec(ndim=self.rank + 2)

    def pads(self, shape: tuple[int, ...]) -> list[Pair]:
        """What is added before and after each spatial axis of an array of this shape."""
        if self.padding == "same":
            rows = zip(shape[1:-1], self.pool_size, self.strides, strict=True)
            return [same_pads(*row) for row in rows]
        fits(self.name, shape, self.pool_size)
        return [(0, 0)] * self.rank

    def reduce(self, x: mx.array) -> tuple[mx.array, list[Pair]]:
        """The reduced windows, and the padding there was."""
        pads = self.pads(x.shape)
        if any(map(any, pads)):
            x = mx.pad(x, [(0, 0), *pads, (0, 0)], constant_values=self.identity)
        kind = type(self)
        return reduce_windows(x, self.pool_size, self.strides, kind.combine, kind.whole), pads


class MaxPooling(Pool):
    """The largest value of each window."""

    combine, whole, identity = mx.maximum, mx.max, -math.inf

    def call(self, inputs: mx.array) -> mx.array:
        return self.reduce(inputs)[0]


class AveragePooling(Pool):
    """The mean of each window."""

    combine, whole, identity = mx.add, mx.sum, 0.0

    def call(self, inputs: mx.array) -> mx.array:
        y, pads = self.reduce(inputs)
        if not any(map(any, pads)):
            return y / math.prod(self.pool_size)
        for axis, (before, _) in enumerate(pads):
            k, n = self.pool_size[axis], inputs.shape[axis + 1]
            starts = np.arange(y.shape[axis + 1]) * self.strides[axis] - before
            counts = np.minimum(starts + k, n) - np.maximum(starts, 0)
            # Trailing axes of size 1, so that counts meet their own axis.
            column = counts.reshape(-1, *(1,) * (self.rank - axis))
            y = y / mx.array(column).astype(y.dtype)
        return y


class MaxPooling1D(MaxPooling):
    rank = 1


class MaxPooling2D(MaxPooling):
    rank = 2


class MaxPooling3D(MaxPooling):
    rank = 3


class AveragePooling1D(AveragePooling):
    rank = 1


class AveragePooling2D(AveragePooling):
    rank = 2


class AveragePooling3D(AveragePooling):
    rank = 3


class GlobalPool(Layer):
    """One value of all spatial positions, channel by channel.

    x (batch, spatial..., channels) → (batch, channels), or (batch, 1..., channels) with
    `keepdims`.

    Source: https://keras.io/api/layers/pooling_layers/
    """

    rank: int
    whole: Callable[..., mx.array]

    def __init__(self, keepdims: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keepdims = keepdims
        self.input_spec = InputSpec(ndim=self.rank + 2)

    def call(self, inputs: mx.array) -> mx.array:
        axes = tuple(range(1, self.rank + 1))
        return type(self).whole(inputs, axis=axes, keepdims=self.keepdims)


class GlobalMaxPooling1D(GlobalPool):
    rank, whole = 1, mx.max


class GlobalMaxPooling2D(GlobalPool):
    rank, whole = 2, mx.max


class GlobalMaxPooling3D(GlobalPool):
    rank, whole = 3, mx.max


class GlobalAveragePooling1D(GlobalPool):
    """The mean over the steps; with a mask (batch, steps), over the valid ones."""

    rank, whole = 1, mx.mean
    supports_masking = True

    def call(self, inputs: mx.array, mask: mx.array | None = None) -> mx.array:
        if mask is None:
            return super().call(inputs)
        valid = step_mask(self.name, mask, inputs)[..., None].astype(inputs.dtype)
        total = mx.sum(mx.where(valid > 0, inputs, 0), axis=1, keepdims=self.keepdims)
        return total / mx.sum(valid, axis=1, keepdims=self.keepdims)

    def compute_mask(self, inputs: mx.array, mask: Any = None) -> None:
        return None


class GlobalAveragePooling2D(GlobalPool):
    rank, whole = 2, mx.mean


class GlobalAveragePooling3D(GlobalPool):
    rank, whole = 3, mx.mean


def step_mask(name: str, mask: mx.array, x: mx.array) -> mx.array:
    """The mask with one entry for each step of x (batch, steps...); axes of size 1 broadcast.

    A mask of fewer axes, (batch, time) say, counts for all positions of its steps.
    """
    mask = mask.reshape(*mask.shape, *(1,) * (x.ndim - 1 - mask.ndim))
    if not broadcasts(mask.shape, x.shape[:-1]):
        raise ValueError(
            f"{name}: expected a mask of shape {x.shape[:-1]}, got {mask.shape}. "
            "It has one entry for each position, channels aside."
        )
    return mx.broadcast_to(mask, x.shape[:-1])


MaxPool1D, MaxPool2D, MaxPool3D = MaxPooling1D, MaxPooling2D, MaxPooling3D
AvgPool1D, AvgPool2D, AvgPool3D = AveragePooling1D, AveragePooling2D, AveragePooling3D
GlobalMaxPool1D, GlobalMaxPool2D, GlobalMaxPool3D = (
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    GlobalMaxPooling3D,
)
GlobalAvgPool1D, GlobalAvgPool2D, GlobalAvgPool3D = (
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalAveragePooling3D,
)
