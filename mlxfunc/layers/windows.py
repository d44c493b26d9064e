"""Windows that slide over spatial axes: sizes for each axis, padding, and where each window is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import mlx.core as mx

from ..layer import InputSpec, Layer
from .core import known_size, positive

Pair = tuple[int, int]


def sizes(name: str, rank: int, what: str, value: Any) -> tuple[int, ...]:
    """One positive integer for each of `rank` axes, from one for all or one for each."""
    each = (value,) * rank if isinstance(value, int) else value
    if not isinstance(each, list | tuple) or len(each) != rank:
        raise ValueError(
            f"{name}: expected {what} to be an integer or {rank} of them, got {value!r}. "
            "Give one for each spatial axis."
        )
    for size in each:
        positive(name, **{what: size})
    return tuple(each)


def padding_kind(name: str, padding: Any, known: tuple[str, ...] = ("valid", "same")) -> str:
    """`padding` in lower case, one of `known`."""
    kind = padding.lower() if isinstance(padding, str) else padding
    if kind not in known:
        raise ValueError(
            f"{name}: expected padding to be one of {', '.join(known)}, got {padding!r}. "
            "'valid' adds nothing; 'same' keeps the size when strides are 1."
        )
    return kind


def same_pads(size: int, window: int, stride: int) -> Pair:
    """Zeros before and after an axis, so that ceil(size / stride) windows fit; more after."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def extents(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """The length of a window on each axis, the holes of dilation counted."""
    return tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))


class Windowed(Layer):
    """A layer whose windows of `kernel_size` move by `strides` over `rank` spatial axes."""

    rank: int
    paddings: tuple[str, ...] = ("valid", "same")

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = 1,
        padding: str = "valid",
        dilation_rate: int | tuple[int, ...] = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kernel_size = sizes(self.name, self.rank, "kernel_size", kernel_size)
        self.strides = sizes(self.name, self.rank, "strides", strides)
        self.dilation_rate = sizes(self.name, self.rank, "dilation_rate", dilation_rate)
        self.padding = padding_kind(self.name, padding, self.paddings)
        self.input_spec = InputSpec(ndim=self.rank + 2)

    def refuse_dilated_strides(self) -> None:
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                f"{self.name}: expected strides or dilation_rate to be 1, got strides "
                f"{self.strides} and dilation_rate {self.dilation_rate}. Use one of them."
            )

    def channels(self, input_shape: tuple) -> int:
        """The number of channels, which inputs have from now on."""
        InputSpec(ndim=self.rank + 2).check(self.name, input_shape)
        size = known_size(self.name, input_shape, -1)
        self.input_spec = InputSpec(ndim=self.rank + 2, axes={-1: size})
        return size

    @property
    def extents(self) -> tuple[int, ...]:
        """The length of a window on each axis, the holes of dilation counted."""
        return extents(self.kernel_size, self.dilation_rate)

    def pads(self, shape: tuple[int, ...]) -> list[Pair]:
        """Zeros before and after each spatial axis of an array of this shape."""
        if self.padding == "causal":
            fits(self.name, shape, (1,))
            return [(extent - 1, 0) for extent in self.extents]
        if self.padding == "same":
            fits(self.name, shape, (1,) * self.rank)
            return [
                same_pads(*row) for row in zip(shape[1:-1], self.extents, self.strides, strict=True)
            ]
        fits(self.name, shape, self.extents)
        return [(0, 0)] * self.rank


def fits(name: str, shape: tuple, extents: tuple[int, ...]) -> None:
    """Refuse an array on which no window of these extents fits."""
    if any(n is not None and n < k for n, k in zip(shape[1:-1], extents, strict=True)):
        raise ValueError(
            f"{name}: expected spatial sizes of {extents} or more, got shape {shape}. "
            "Use padding='same', or a smaller window."
        )


def reduce_windows(
    x: mx.array,
    window: tuple[int, ...],
    strides: tuple[int, ...],
    combine: Callable[[mx.array, mx.array], mx.array],
    whole: Callable[..., mx.array],
) -> mx.array:
    """Every window of x (batch, spatial..., channels) reduced to one value, axis by axis.

    Windows side by side are an axis of a reshaped array, reduced by `whole` (`mx.max`, `mx.sum`);
    overlapping ones are `combine`d, the earliest of equal values winning.
    """
    for axis in range(len(window), 0, -1):
        k, s = window[axis - 1], strides[axis - 1]
        n = (x.shape[axis] - k) // s + 1
        before = (slice(None),) * axis
        if k == s:
            split = (*x.shape[:axis], n, k, *x.shape[axis + 1 :])
            x = whole(x[(*before, slice(n * k))].reshape(split), axis=axis + 1)
        else:
            shifted = [x[(*before, slice(i, i + (n - 1) * s + 1, s))] for i in range(k)]
            x = reduce(lambda first, later: combine(later, first), shifted)
    return x
