"""Layers of several inputs, and their functions: Add and `add`, Concatenate and `concatenate` …"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import mlx.core as mx

from ..layer import Layer


class Merge(Layer):
    """One value of a list of arrays, elementwise, with NumPy's broadcasting.

    An input of lower rank is taken to miss axes after the batch, as in Keras: (batch, 8) meets
    (batch, time, 8) as (batch, 1, 8). The mask is true where any input's is; there is none
    when an input has none.
    """

    supports_masking = True
    combine: Callable[..., mx.array]
    least = 1

    def build(self, input_shape: Any) -> None:
        if not isinstance(input_shape, list | tuple) or not all(
            isinstance(shape, list | tuple) for shape in input_shape
        ):
            raise ValueError(
                f"{self.name}: expected a list of inputs, got one of shape {input_shape}. "
                f"Write {type(self).__name__}()([a, b])."
            )
        if len(input_shape) < self.least:
            raise ValueError(
                f"{self.name}: expected {self.least} or more inputs, got {len(input_shape)}. "
                "Give them in one list."
            )
        self.check_shapes([tuple(shape) for shape in input_shape])

    def check_shapes(self, shapes: list[tuple]) -> None:
        rank = max(len(shape) for shape in shapes)
        padded = [(*s[:1], *(1,) * (rank - len(s)), *s[1:]) for s in shapes]
        for sizes in zip(*padded, strict=True):
            if len({size for size in sizes if size not in (1, None)}) > 1:
                raise ValueError(
                    f"{self.name}: expected shapes that broadcast, got "
                    f"{' and '.join(map(str, shapes))}. Sizes must be equal or 1."
                )

    def call(self, inputs: list[mx.array]) -> mx.array:
        return self.merge(self.align(inputs))

    def align(self, inputs: list[mx.array]) -> list[mx.array]:
        """The inputs with one rank: lower ones get axes of size 1 after the batch."""
        rank = max(x.ndim for x in inputs)
        return [x.reshape(*x.shape[:1], *(1,) * (rank - x.ndim), *x.shape[1:]) for x in inputs]

    def merge(self, inputs: list[mx.array]) -> mx.array:
        return reduce(type(self).combine, inputs)

    def compute_mask(self, inputs: list[mx.array], mask: Any = None) -> mx.array | None:
        if mask is None or any(m is None for m in mask):
            return None
        return reduce(mx.logical_or, self.align(mask))


class Add(Merge):
    """a + b + …"""

    combine = mx.add


class Subtract(Merge):
    """a - b, of exactly two inputs."""

    combine = mx.subtract

    def check_shapes(self, shapes: list[tuple]) -> None:
        exactly_two(self.name, shapes)
        super().check_shapes(shapes)


class ValidMerge(Merge):
    """A Merge of the inputs that are valid: a step whose mask is false leaves the others as are.

    Where no input is valid the result is the first one.
    """

    def call(self, inputs: list[mx.array], mask: Any = None) -> mx.array:
        aligned = self.align(inputs)
        if mask is None:
            return self.merge(aligned)
        y, valid = aligned[0], self._entries(aligned[0], inputs[0], mask[0])
        for x, raw, m in zip(aligned[1:], inputs[1:], mask[1:], strict=True):
            also = self._entries(x, raw, m)
            y = mx.where(valid & also, type(self).combine(y, x), mx.where(also, x, y))
            valid = valid | also
        return self.where_valid(y, valid)

    def where_valid(self, y: mx.array, valid: mx.array) -> mx.array:
        """The result, once it is known where any input is valid."""
        return y

    @staticmethod
    def _entries(aligned: mx.array, raw: mx.array, mask: mx.array | None) -> mx.array:
        """The mask of an input with the axes of the aligned input; without one all is valid."""
        if mask is None:
            return mx.array(True)
        extra, rest = aligned.ndim - raw.ndim, raw.ndim - mask.ndim
        return mask.reshape(mask.shape[0], *(1,) * extra, *mask.shape[1:], *(1,) * rest)


class Multiply(ValidMerge):
    """a · b · …, of the inputs that are valid; 0 where none is."""

    combine = mx.multiply

    def where_valid(self, y: mx.array, valid: mx.array) -> mx.array:
        return mx.where(valid, y, 0)


class Maximum(ValidMerge):
    """max(a, b, …), of the inputs that are valid."""

    combine = mx.maximum


class Minimum(ValidMerge):
    """min(a, b, …), of the inputs that are valid."""

    combine = mx.minimum


class Average(Merge):
    """(a + b + …) / n"""

    combine = mx.add

    def merge(self, inputs: list[mx.array]) -> mx.array:
        return super().merge(inputs) / len(inputs)


class Concatenate(Merge):
    """The inputs one after the other along `axis`; all other sizes are equal.

    Masks are concatenated too, where an input without one counts as all true.

    Source: https://keras.io/api/layers/merging_layers/concatenate/
    """

    moves_values = True

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def check_shapes(self, shapes: list[tuple]) -> None:
        ranks = {len(shape) for shape in shapes}
        if len(ranks) > 1 or not -min(ranks) <= self.axis < min(ranks):
            raise ValueError(
                f"{self.name}: expected inputs of one rank that has axis {self.axis}, got "
                f"{' and '.join(map(str, shapes))}. Reshape them first."
            )
        axis = self.axis % ranks.pop()
        for k, sizes in enumerate(zip(*shapes, strict=True)):
            if k != axis and len({size for size in sizes if size is not None}) > 1:
                raise ValueError(
                    f"{self.name}: expected equal sizes but on axis {axis}, got "
                    f"{' and '.join(map(str, shapes))}. Axis {k} differs."
                )

    def call(self, inputs: list[mx.array]) -> mx.array:
        return mx.concatenate(inputs, axis=self.axis)

    def compute_mask(self, inputs: list[mx.array], mask: Any = None) -> mx.array | None:
        if mask is None or all(m is None for m in mask):
            return None
        rank, axis = inputs[0].ndim, self.axis % inputs[0].ndim
        full = [
            mx.ones(x.shape, dtype=mx.bool_)
            if m is None
            else mx.broadcast_to(m.reshape(*m.shape, *(1,) * (rank - m.ndim)), x.shape)
            for x, m in zip(inputs, mask, strict=True)
        ]
        return mx.any(mx.concatenate(full, axis=axis), axis=-1)


class Dot(Merge):
    """The sum of products along one axis of each of two inputs, sample by sample.

    a (batch, …, n, …), b (batch, …, n, …) → (batch, rest of a, rest of b). `axes`: one axis for
    both, or one for each, the batch counted; `normalize`: each is first divided by its L2 norm
    (cosine similarity).

    Source: https://keras.io/api/layers/merging_layers/dot/
    """

    def __init__(self, axes: int | tuple[int, int], normalize: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(axes, int) and (
            len(axes) != 2 or not all(isinstance(axis, int) for axis in axes)
        ):
            raise ValueError(f"{self.name}: expected axes to be one or two integers, got {axes!r}.")
        self.axes = axes if isinstance(axes, int) else tuple(axes)
        self.normalize = normalize

    def _axes(self, shapes: list[tuple]) -> tuple[int, int]:
        pair = (self.axes, self.axes) if isinstance(self.axes, int) else self.axes
        for axis, shape in zip(pair, shapes, strict=True):
            if not -len(shape) <= axis < len(shape) or axis % len(shape) == 0:
                raise ValueError(
                    f"{self.name}: expected an axis of shape {shape} after the batch, got {axis}."
                )
        return pair[0] % len(shapes[0]), pair[1] % len(shapes[1])

    def check_shapes(self, shapes: list[tuple]) -> None:
        exactly_two(self.name, shapes)
        i, j = self._axes(shapes)
        if None not in (shapes[0][i], shapes[1][j]) and shapes[0][i] != shapes[1][j]:
            raise ValueError(
                f"{self.name}: expected equal sizes on axes {i} and {j}, got "
                f"{shapes[0]} and {shapes[1]}. Choose other axes."
            )

    def call(self, inputs: list[mx.array]) -> mx.array:
        a, b = inputs
        i, j = self._axes([a.shape, b.shape])
        if self.normalize:
            a, b = _unit(a, i), _unit(b, j)
        a, b = mx.moveaxis(a, i, -1), mx.moveaxis(b, j, -1)
        flat_a = a.reshape(a.shape[0], -1, a.shape[-1])
        flat_b = b.reshape(b.shape[0], -1, b.shape[-1])
        shape = (a.shape[0], *a.shape[1:-1], *b.shape[1:-1])
        y = flat_a @ flat_b.swapaxes(1, 2)
        return y.reshape(shape if len(shape) > 1 else (*shape, 1))

    def compute_mask(self, inputs: list[mx.array], mask: Any = None) -> None:
        return None


def exactly_two(name: str, shapes: list[tuple]) -> None:
    if len(shapes) != 2:
        raise ValueError(
            f"{name}: expected exactly 2 inputs, got {len(shapes)}. Give them in one list."
        )


def _unit(x: mx.array, axis: int) -> mx.array:
    return x * mx.rsqrt(mx.maximum(mx.sum(x * x, axis=axis, keepdims=True), 1e-12))


def add(inputs: list, **kwargs: Any) -> Any:
    """Add(**kwargs)(inputs)"""
    return Add(**kwargs)(inputs)


def subtract(inputs: list, **kwargs: Any) -> Any:
    """Subtract(**kwargs)(inputs)"""
    return Subtract(**kwargs)(inputs)


def multiply(inputs: list, **kwargs: Any) -> Any:
    """Multiply(**kwargs)(inputs)"""
    return Multiply(**kwargs)(inputs)


def average(inputs: list, **kwargs: Any) -> Any:
    """Average(**kwargs)(inputs)"""
    return Average(**kwargs)(inputs)


def maximum(inputs: list, **kwargs: Any) -> Any:
    """Maximum(**kwargs)(inputs)"""
    return Maximum(**kwargs)(inputs)


def minimum(inputs: list, **kwargs: Any) -> Any:
    """Minimum(**kwargs)(inputs)"""
    return Minimum(**kwargs)(inputs)


def concatenate(inputs: list, axis: int = -1, **kwargs: Any) -> Any:
    """Concatenate(axis, **kwargs)(inputs)"""
    return Concatenate(axis, **kwargs)(inputs)


def dot(inputs: list, axes: int | tuple[int, int] = -1, **kwargs: Any) -> Any:
    """Dot(axes, **kwargs)(inputs)"""
    return Dot(axes, **kwargs)(inputs)
