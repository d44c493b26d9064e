"""What layers are made with and called on: names, first shapes, ranks and sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .conversion import to_mlx
from .graph import Shape, leaves
from .registry import suggest


@dataclass(frozen=True)
class InputSpec:
    """What a layer's first argument must look like: its rank, and the sizes of some axes."""

    ndim: int | None = None
    min_ndim: int | None = None
    axes: dict[int, int] = field(default_factory=dict)

    def check(self, name: str, shape: Shape) -> None:
        if self.ndim is not None and len(shape) != self.ndim:
            raise ValueError(
                f"{name}: expected an input of rank {self.ndim}, got shape {shape} "
                f"(rank {len(shape)}). Reshape the input, the batch axis included."
            )
        if self.min_ndim is not None and len(shape) < self.min_ndim:
            raise ValueError(
                f"{name}: expected an input of rank {self.min_ndim} or more, got shape {shape} "
                f"(rank {len(shape)}). Reshape the input, the batch axis included."
            )
        for axis, size in self.axes.items():
            if shape[axis] not in (size, None):
                raise ValueError(
                    f"{name}: expected size {size} on axis {axis}, got shape {shape}. "
                    "The layer was built for that size; give it such an input or make another."
                )


def first_input(name: str, args: tuple) -> tuple:
    """The arguments of a call on data, once the first is known to be data; numbers as an array."""
    kind = type(args[0]).__name__ if args else "nothing"
    if not args or args[0] is None or isinstance(args[0], str | nn.Module):
        raise TypeError(
            f"{name}: expected arrays or symbolic tensors, got {kind}. "
            "Call the layer on an Input, or on data."
        )
    numbers = [isinstance(value, int | float) for value in leaves(args[0])]
    return (mx.array(args[0]), *args[1:]) if numbers and all(numbers) else args


def as_array(value: Any) -> Any:
    """NumPy arrays as MLX's (float64 as float32); anything else as it is."""
    if isinstance(value, np.ndarray):
        return to_mlx(value)
    return value


def valid_name(name: str) -> str:
    """Layer names are path segments of parameters and of ONNX names."""
    if not isinstance(name, str) or not name or set(name) & set("./") or name.startswith("_"):
        raise ValueError(
            f"name: expected a name without '.', '/' or a leading '_', got {name!r}. "
            "Weights and ONNX nodes are found by paths made of layer names."
        )
    return name


_SHAPE_ARGUMENTS = ("input_shape", "batch_input_shape", "batch_size", "input_dim", "input_length")


def first_shape(name: str, given: dict[str, Any], known: list[str]) -> tuple | None:
    """The batch shape that a Sequential's first layer was given, if any."""
    for key in given:
        if key == "data_format" and given[key] in (None, "channels_last"):
            continue
        if key == "data_format":
            raise ValueError(
                f"{name}: expected data_format 'channels_last', got {given[key]!r}. "
                "MLX is channels-last."
            )
        if key not in _SHAPE_ARGUMENTS:
            names = [*known, *_SHAPE_ARGUMENTS]
            raise TypeError(f"{name}: unknown argument {key!r}.{suggest(key, names)}")
    if given.get("batch_input_shape") is not None:
        return tuple(given["batch_input_shape"])
    if given.get("input_shape") is not None:
        return (given.get("batch_size"), *given["input_shape"])
    if given.get("input_dim") is not None:
        length = (given["input_length"],) if "input_length" in given else ()
        return (given.get("batch_size"), *length, given["input_dim"])
    if "input_length" in given:
        return (given.get("batch_size"), given["input_length"])
    return None
