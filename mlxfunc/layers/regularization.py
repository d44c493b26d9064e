"""Noise while training: dropout in its forms, Gaussian noise; and a penalty on activations."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx

from .. import regularizers
from ..layer import InputSpec, Layer


def fraction(name: str, what: str, value: float) -> float:
    """Refuse what does not lie between 0 and 1."""
    if isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(
            f"{name}: expected {what} between 0 and 1, got {value!r}. 0 leaves the input as it is."
        )
    return value


class Seeded(Layer):
    """A layer that draws: with a `seed` from a stream of its own, else from MLX's global one."""

    def __init__(self, *, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        if seed is not None:
            # Among the members, so that a compiled step moves it; the underscore: no parameter.
            self["_key"] = mx.random.key(seed)

    def key(self) -> mx.array | None:
        """The next key of the layer's own stream; None stands for the global one."""
        if self.seed is None:
            return None
        self["_key"], key = mx.random.split(self["_key"])
        return key


class Noise(Seeded):
    """x in inference, `disturb(x)` in training."""

    supports_masking = True
    amount = "rate"

    def call(self, inputs: mx.array, training: bool = False) -> mx.array:
        return self.disturb(inputs) if training and getattr(self, self.amount) > 0 else inputs

    def disturb(self, x: mx.array) -> mx.array:
        raise NotImplementedError


class Dropout(Noise):
    """Zero with probability `rate`, else x / (1 - rate); x itself in inference.

    `noise_shape` is the shape of what is drawn: 1 where one draw serves a whole axis, None where
    the axis keeps its size.

    Source: arXiv:1207.0580, https://keras.io/api/layers/regularization_layers/dropout/
    """

    def __init__(
        self,
        rate: float,
        noise_shape: tuple[int | None, ...] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, **kwargs)
        self.rate = fraction(self.name, "rate", rate)
        if noise_shape is not None and not (
            isinstance(noise_shape, list | tuple)
            and all(n is None or (isinstance(n, int) and n > 0) for n in noise_shape)
        ):
            raise ValueError(
                f"{self.name}: expected noise_shape of positive integers or None, got "
                f"{noise_shape!r}. Use 1 where one draw serves a whole axis."
            )
        self.noise_shape = None if noise_shape is None else tuple(noise_shape)

    def kept(self, x: mx.array) -> mx.array:
        """True where a value is kept."""
        shape = x.shape
        if self.noise_shape is not None:
            if len(self.noise_shape) != x.ndim:
                raise ValueError(
                    f"{self.name}: expected an input of rank {len(self.noise_shape)}, that of "
                    f"noise_shape {self.noise_shape}, got shape {shape}. The batch counts too."
                )
            pairs = zip(self.noise_shape, shape, strict=True)
            shape = tuple(size if n is None else n for n, size in pairs)
        return mx.random.bernoulli(1 - self.rate, shape, key=self.key())

    def disturb(self, x: mx.array) -> mx.array:
        if self.rate == 1:
            return mx.zeros_like(x)
        return x * (self.kept(x).astype(x.dtype) / (1 - self.rate))


class SpatialDropout(Dropout):
    """Dropout of whole channels: one draw for a sample and a channel serves all positions.

    Source: arXiv:1411.4280
    """

    rank: int

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(rate, (None, *(1,) * self.rank, None), seed, **kwargs)
        self.input_spec = InputSpec(ndim=self.rank + 2)

    def get_config(self) -> dict[str, Any]:
        return {key: value for key, value in super().get_config().items() if key != "noise_shape"}


class SpatialDropout1D(SpatialDropout):
    rank = 1


class SpatialDropout2D(SpatialDropout):
    rank = 2


class SpatialDropout3D(SpatialDropout):
    rank = 3


class AlphaDropout(Dropout):
    """Dropout that keeps mean and variance of what SELU gives: drops to its lowest value.

    a · (x where kept, else α') + b, α' = -scale · alpha of SELU. Source: arXiv:1706.02515
    """

    def disturb(self, x: mx.array) -> mx.array:
        low = -1.6732632423543772 * 1.0507009873554805
        if self.rate == 1:
            return mx.zeros_like(x)
        a = ((1 - self.rate) * (1 + self.rate * low**2)) ** -0.5
        return a * mx.where(self.kept(x), x, low).astype(x.dtype) - a * low * self.rate


class GaussianDropout(Noise):
    """x · n, n normal with mean 1 and variance rate / (1 - rate); rate is below 1."""

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed=seed, **kwargs)
        self.rate = fraction(self.name, "rate", rate)
        if rate == 1:
            raise ValueError(
                f"{self.name}: expected rate below 1, got {rate!r}. The noise has variance "
                "rate / (1 - rate)."
            )

    def disturb(self, x: mx.array) -> mx.array:
        deviation = math.sqrt(self.rate / (1 - self.rate))
        return x * (1 + deviation * mx.random.normal(x.shape, x.dtype, key=self.key()))


class GaussianNoise(Noise):
    """x + n, n normal with mean 0 and standard deviation `stddev`."""

    amount = "stddev"

    def __init__(self, stddev: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(seed=seed, **kwargs)
        self.stddev = fraction(self.name, "stddev", stddev)

    def disturb(self, x: mx.array) -> mx.array:
        return x + self.stddev * mx.random.normal(x.shape, x.dtype, key=self.key())


class ActivityRegularization(Layer):
    """x, with l1 · sum |x| + l2 · sum x², of the batch's mean sample, added to the loss."""

    supports_masking = True

    def __init__(self, l1: float = 0.0, l2: float = 0.0, **kwargs: Any) -> None:
        super().__init__(activity_regularizer=regularizers.L1L2(l1, l2), **kwargs)
        self.l1, self.l2 = l1, l2

    def call(self, inputs: mx.array) -> mx.array:
        return inputs

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {key: value for key, value in config.items() if key != "activity_regularizer"}
