"""Where MLX would read past the end of an array: it takes sizes that leave a window no room."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


class TooSmall(ValueError):
    """An input leaves a window no room, or a view reaches past its array."""


def check(primitives: Iterable[Any]) -> None:
    """Raises: TooSmall."""
    for primitive in primitives:
        if primitive.name == "Convolution":
            _check_convolution(primitive)
        elif primitive.name == "AsStrided":
            _check_view(primitive)


def _check_convolution(primitive: Any) -> None:
    x, weight = (a.shape[1:-1] for a in primitive.inputs)
    _, before, after, dilations, input_dilations, *_ = primitive.arguments
    per_axis = zip(x, weight, before, after, dilations, input_dilations, strict=True)
    for size, kernel, low, high, dilation, input_dilation in per_axis:
        padded = (size - 1) * input_dilation + 1 + low + high
        window = (kernel - 1) * dilation + 1
        if window > padded:
            raise TooSmall(
                f"expected an input that a convolution's window fits in, got {padded} padded "
                f"steps for a window of {window}. Use larger inputs, or padding."
            )


def _check_view(primitive: Any) -> None:
    shape, strides, offset = primitive.arguments
    if not math.prod(shape):
        raise TooSmall(
            f"expected an input that a window fits in, got a view of shape {shape}. "
            "Use larger inputs, or padding."
        )
    moves = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
    first, last = (offset + sum(m for m in moves if (m > 0) == up) for up in (False, True))
    total = math.prod(primitive.inputs[0].shape)
    if first < 0 or last >= total:
        raise TooSmall(
            f"expected a view within its array, got elements {first} to {last} of {total}. "
            "Give as_strided a shape and strides that stay inside."
        )
