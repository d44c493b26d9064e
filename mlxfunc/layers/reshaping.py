"""Layers that move, repeat, pad or drop values: Flatten, Reshape, UpSampling2D …"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np

from ..layer import InputSpec, Layer
from .core import positive
from .windows import Pair, sizes


class Flatten(Layer):
    """x (batch, ...) → (batch, product of the rest); (batch,) → (batch, 1).

    Source: https://keras.io/api/layers/reshaping_layers/flatten/
    """

    moves_values = True

    def call(self, inputs: mx.array) -> mx.array:
        return inputs.reshape(inputs.shape[0], math.prod(inputs.shape[1:]))


class Reshape(Layer):
    """x (batch, ...) → (batch, *target_shape); one size may be -1, which follows.

    Source: https://keras.io/api/layers/reshaping_layers/reshape/
    """

    moves_values = True

    def __init__(self, target_shape: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        given = target_shape if isinstance(target_shape, list | tuple) else (target_shape,)
        shape = tuple(int(n) if isinstance(n, np.integer) else n for n in given)
        if shape.count(-1) > 1 or not all(isinstance(n, int) and (n == -1 or n > 0) for n in shape):
            raise ValueError(
                f"{self.name}: expected a target_shape of sizes, at most one of them -1, got "
                f"{target_shape!r}. The batch is not part of it."
            )
        self.target_shape = shape

    def call(self, inputs: mx.array) -> mx.array:
        size, wanted = math.prod(inputs.shape[1:]), abs(math.prod(self.target_shape))
        if size % wanted or (size != wanted and -1 not in self.target_shape):
            raise ValueError(
                f"{self.name}: expected sizes that multiply to those of target_shape "
                f"{self.target_shape}, got shape {inputs.shape}. {size} values a sample cannot "
                "be laid out so."
            )
        known = (size // wanted if n == -1 else n for n in self.target_shape)
        return inputs.reshape(inputs.shape[0], *known)


class Permute(Layer):
    """The axes after the batch in the order `dims`, which counts from 1.

    x (batch, a, b) with dims (2, 1) → (batch, b, a).

    Source: https://keras.io/api/layers/reshaping_layers/permute/
    """

    moves_values = True

    def __init__(self, dims: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dims = tuple(dims)
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ValueError(
                f"{self.name}: expected dims to hold each of 1 to {len(self.dims)} once, got "
                f"{dims!r}. The batch, axis 0, stays in front."
            )
        self.input_spec = InputSpec(ndim=len(self.dims) + 1)

    def call(self, inputs: mx.array) -> mx.array:
        return mx.transpose(inputs, (0, *self.dims))


class RepeatVector(Layer):
    """x (batch, features) → (batch, n, features), n times the same.

    Source: https://keras.io/api/layers/reshaping_layers/repeat_vector/
    """

    moves_values = True

    def __init__(self, n: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        positive(self.name, n=n)
        self.n = n
        self.input_spec = InputSpec(ndim=2)

    def call(self, inputs: mx.array) -> mx.array:
        return mx.repeat(inputs[:, None], self.n, axis=1)


class UpSampling(Layer):
    """Each position repeated `size` times along each spatial axis.

    x (batch, spatial..., channels) → (batch, spatial · size..., channels).

    Source: https://keras.io/api/layers/reshaping_layers/
    """

    rank: int

    def __init__(self, size: int | tuple[int, ...] = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = sizes(self.name, self.rank, "size", size)
        self.input_spec = InputSpec(ndim=self.rank + 2)

    def call(self, inputs: mx.array) -> mx.array:
        for axis, factor in enumerate(self.size, start=1):
            inputs = mx.repeat(inputs, factor, axis=axis)
        return inputs


class UpSampling1D(UpSampling):
    rank = 1


class UpSampling2D(UpSampling):
    """Each position repeated `size` times along height and width, or "bilinear" between them.

    Bilinear: output position i lies at (i + .5) / size - .5 of the input, kept inside it.
    x (batch, height, width, channels) → (batch, height · size, width · size, channels).

    Source: https://keras.io/api/layers/reshaping_layers/up_sampling2d/
    """

    rank = 2

    def __init__(
        self, size: int | Pair = (2, 2), *, interpolation: str = "nearest", **kwargs: Any
    ) -> None:
        super().__init__(size, **kwargs)
        self.interpolation = str(interpolation).lower()
        if self.interpolation not in ("nearest", "bilinear"):
            raise ValueError(
                f"{self.name}: expected interpolation 'nearest' or 'bilinear', got "
                f"{interpolation!r}."
            )

    def call(self, inputs: mx.array) -> mx.array:
        if self.interpolation == "nearest":
            return super().call(inputs)
        for axis, factor in enumerate(self.size, start=1):
            inputs = _between(inputs, axis, factor)
        return inputs


def _between(x: mx.array, axis: int, factor: int) -> mx.array:
    """`factor` values for each along `axis`, linear between neighbours."""
    n = x.shape[axis]
    at = np.clip((np.arange(n * factor) + 0.5) / factor - 0.5, 0, n - 1)
    low = np.floor(at).astype(np.int32)
    high = np.minimum(low + 1, n - 1)
    share = (at - low).reshape(-1, *(1,) * (x.ndim - 1 - axis))
    weight = mx.array(share.astype(np.float32)).astype(x.dtype)
    before, after = mx.take(x, mx.array(low), axis=axis), mx.take(x, mx.array(high), axis=axis)
    return before * (1 - weight) + after * weight


class UpSampling3D(UpSampling):
    rank = 3


def sides(name: str, rank: int, what: str, value: Any) -> tuple[Pair, ...]:
    """(before, after) for each of `rank` axes, from one number, one for each, or pairs."""
    rows = (value,) * rank if isinstance(value, int) else value
    if rank == 1 and isinstance(rows, list | tuple) and len(rows) == 2:
        rows = (rows,)
    if isinstance(rows, list | tuple) and len(rows) == rank:
        pairs = [(row, row) if isinstance(row, int) else row for row in rows]
        if all(
            isinstance(pair, list | tuple)
            and len(pair) == 2
            and all(isinstance(n, int) and n >= 0 for n in pair)
            for pair in pairs
        ):
            return tuple((pair[0], pair[1]) for pair in pairs)
    wanted = "a pair" if rank == 1 else f"{rank} of them, or {rank} pairs"
    raise ValueError(
        f"{name}: expected {what} to be a number of at least 0, or {wanted}, got {value!r}. "
        "A pair is (before, after)."
    )


class ZeroPadding(Layer):
    """Zeros before and after each spatial axis of x (batch, spatial..., channels).

    `padding`: one number, one for each axis, or a pair (before, after) for each.

    Source: https://keras.io/api/layers/reshaping_layers/
    """

    rank: int

    def __init__(self, padding: Any = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding = sides(self.name, self.rank, "padding", padding)
        self.input_spec = InputSpec(ndim=self.rank + 2)

    def call(self, inputs: mx.array) -> mx.array:
        return mx.pad(inputs, [(0, 0), *self.padding, (0, 0)])


class ZeroPadding1D(ZeroPadding):
    rank = 1


class ZeroPadding2D(ZeroPadding):
    rank = 2


class ZeroPadding3D(ZeroPadding):
    rank = 3


class Cropping(Layer):
    """x (batch, spatial..., channels) without the outer positions of each spatial axis.

    `cropping`: one number, one for each axis, or a pair (before, after) for each.

    Source: https://keras.io/api/layers/reshaping_layers/
    """

    moves_values = True

    rank: int

    def __init__(self, cropping: Any = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cropping = sides(self.name, self.rank, "cropping", cropping)
        self.input_spec = InputSpec(ndim=self.rank + 2)

    def call(self, inputs: mx.array) -> mx.array:
        ends = [(a, n - b) for (a, b), n in zip(self.cropping, inputs.shape[1:-1], strict=True)]
        if any(end <= start for start, end in ends):
            raise ValueError(
                f"{self.name}: expected spatial sizes above what is cropped, {self.cropping}, got "
                f"shape {inputs.shape}. Crop less."
            )
        return inputs[(slice(None), *(slice(*pair) for pair in ends))]


class Cropping1D(Cropping):
    rank = 1


class Cropping2D(Cropping):
    """As the others; `cropping` is 0 by default, as in Keras."""

    rank = 2

    def __init__(self, cropping: Any = 0, **kwargs: Any) -> None:
        super().__init__(cropping, **kwargs)


class Cropping3D(Cropping):
    rank = 3
