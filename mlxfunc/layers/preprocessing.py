"""Preprocessing that belongs in the graph: Normalization, Rescaling."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np

from ..layer import Layer
from .core import known_size
from .normalization import along, axes_of, sizes_of


class Normalization(Layer):
    """(x - mean) / sqrt(variance), for each index of `axis`; with `invert`, the way back.

    mean and variance are given, or found by `adapt(data)`: then they are weights of the sizes of
    `axis` (None: one number), beside a `count` that only Keras's files need. sqrt(variance) is at
    least 1e-7.

    Raises: ValueError when only one of mean and variance is given.
    Source: https://keras.io/api/layers/preprocessing_layers/numerical/normalization/
    """

    supports_masking = True

    def __init__(
        self,
        axis: int | tuple[int, ...] | None = -1,
        mean: Any = None,
        variance: Any = None,
        invert: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (mean is None) != (variance is None) or np.shape(mean) != np.shape(variance):
            raise ValueError(
                f"{self.name}: expected mean and variance of one shape, got {mean!r} and "
                f"{variance!r}. Give both, or neither and call adapt(data)."
            )
        self.axis = () if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
        self.mean: Any = None if mean is None else np.asarray(mean, np.float32)
        self.variance: Any = None if variance is None else np.asarray(variance, np.float32)
        self.invert = invert

    def build(self, input_shape: tuple) -> None:
        self._axes = axes_of(self.name, self.axis, len(input_shape))
        shape = tuple(known_size(self.name, input_shape, axis) for axis in self._axes)
        self.input_spec = sizes_of(self.axis, input_shape)
        if self.mean is None:
            self.add_weight(name="adapted_mean", shape=shape, initializer="zeros", trainable=False)
            self.add_weight(
                name="adapted_variance", shape=shape, initializer="ones", trainable=False
            )
            self.add_weight(
                name="count", shape=(), initializer="zeros", trainable=False, dtype="int32"
            )
        else:
            try:
                self._given = [np.broadcast_to(a, shape) for a in (self.mean, self.variance)]
            except ValueError:
                raise ValueError(
                    f"{self.name}: expected mean and variance that broadcast to {shape}, the sizes "
                    f"of axis {self.axis}, got shape {self.mean.shape}."
                ) from None

    def adapt(self, data: Any) -> None:
        """Set mean and variance to those of `data`: an array, or an iterable of batches."""
        if self.mean is not None:
            raise ValueError(
                f"{self.name}: expected no mean and variance beside adapt, got both. Leave out "
                "the arguments."
            )
        count, mean, scatter = 0, np.float64(0), np.float64(0)
        for batch in [data] if hasattr(data, "ndim") else data:
            x = np.asarray(batch[0] if isinstance(batch, tuple) else batch)
            if not self.built:
                self.build((None, *x.shape[1:]))
            reduced = tuple(axis for axis in range(x.ndim) if axis not in self._axes)
            rows = math.prod(x.shape[axis] for axis in reduced)
            # Batches are joined in double precision, on the host, whatever their size.
            away = x.mean(axis=reduced, dtype=np.float64) - mean
            scatter = scatter + rows * x.var(axis=reduced, dtype=np.float64)
            scatter = scatter + away**2 * (count * rows / (count + rows))
            count += rows
            mean = mean + away * (rows / count)
        if not count:
            raise ValueError(f"{self.name}: expected data to adapt to, got none.")
        self.adapted_mean = mx.array(np.asarray(mean, np.float32))
        self.adapted_variance = mx.array(np.asarray(scatter / count, np.float32))

    def call(self, inputs: mx.array) -> mx.array:
        x = inputs if mx.issubdtype(inputs.dtype, mx.floating) else inputs.astype(mx.float32)
        if self.mean is None:
            mean, variance = self.adapted_mean, self.adapted_variance
        else:
            mean, variance = map(mx.array, self._given)
        axes = axes_of(self.name, self.axis, x.ndim)
        mean = along(mean, x, axes).astype(x.dtype)
        deviation = along(mx.maximum(mx.sqrt(variance), 1e-7), x, axes).astype(x.dtype)
        return x * deviation + mean if self.invert else (x - mean) / deviation


class Rescaling(Layer):
    """x · scale + offset; integers become floats. Numbers, or arrays that broadcast.

    Source: https://keras.io/api/layers/preprocessing_layers/image_preprocessing/rescaling/
    """

    supports_masking = True

    def __init__(self, scale: Any, offset: Any = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale, self.offset = np.asarray(scale).tolist(), np.asarray(offset).tolist()

    def call(self, inputs: mx.array) -> mx.array:
        x = inputs if mx.issubdtype(inputs.dtype, mx.floating) else inputs.astype(mx.float32)
        scale, offset = mx.array(self.scale, x.dtype), mx.array(self.offset, x.dtype)
        return x * scale + offset
