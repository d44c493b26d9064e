"""Case: what a row of the table says of a layer, and how runners use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlxfunc as mf
import numpy as np


def apply(layer: Any, *inputs: Any) -> Any:
    """The usual call: one input alone, several in a list."""
    return layer(inputs[0] if len(inputs) == 1 else list(inputs))


@dataclass(frozen=True)
class Case:
    """One configuration of a layer.

    Args:
        name: unique; `<layer>-<what is special>`.
        build: makes the layer from a namespace of layers, ours or Keras's.
        shapes: of each input without the batch; None is a dynamic size.
        dtypes: of each input: "float32", "int32" (drawn below `high`), "bool" (a mask; the first
            step is always valid). One name stands for all.
        call: how the layer is called on its inputs, arrays and symbolic tensors alike.
        tolerance: largest absolute error against Keras and ONNX Runtime; above 1e-6 needs `reason`.
        onnx: how many of which operators the exported graph holds; None: not fixed.
        trains: whether weights after SGD steps can be compared with Keras's.
        keras: whether Keras has such a layer.
    """

    name: str
    build: Callable[[Any], Any]
    shapes: tuple[tuple[int | None, ...], ...]
    dtypes: str | tuple[str, ...] = "float32"
    call: Callable[..., Any] = apply
    tolerance: float = 1e-6
    reason: str | None = None
    onnx: dict[str, int] | None = None
    trains: bool = True
    keras: bool = True
    high: int = 5

    def make(self, layers: Any = mf.layers) -> Any:
        """A new layer of this configuration."""
        return self.build(layers)

    def kinds(self) -> tuple[str, ...]:
        """The dtype of each input."""
        return (self.dtypes,) * len(self.shapes) if isinstance(self.dtypes, str) else self.dtypes

    def inputs(self, batch: int = 2, dynamic: int = 6, seed: int = 0) -> list[np.ndarray]:
        """Random arrays to call the layer on."""
        rng = np.random.default_rng(seed)
        arrays = []
        for shape, kind in zip(self.shapes, self.kinds(), strict=True):
            size = (batch, *(dynamic if n is None else n for n in shape))
            if kind == "bool":
                array = rng.random(size) < 0.6
                array[..., :1] = True
            elif kind == "int32":
                array = rng.integers(0, self.high, size).astype(kind)
            else:
                array = rng.standard_normal(size).astype(kind)
            arrays.append(array)
        return arrays

    def symbolic(self, make_input: Callable[..., Any] = mf.Input) -> list[Any]:
        """Symbolic inputs: ours, or Keras's with `keras.Input`."""
        return [
            make_input(shape, dtype=kind)
            for shape, kind in zip(self.shapes, self.kinds(), strict=True)
        ]

    def model(self) -> mf.Model:
        """A model of the layer alone, with `randomize`d weights."""
        inputs = self.symbolic()
        model = mf.Model(inputs, self.call(self.make(), *inputs))
        randomize(model)
        return model


def randomize(layer: Any, seed: int = 0) -> None:
    """Move every weight off its initial value, so that zero biases hide nothing."""
    rng = np.random.default_rng(seed)
    layer.set_weights(
        [w + rng.uniform(0.01, 0.2, w.shape).astype(np.float32) for w in layer.get_weights()]
    )


def masked(layer: Any, x: Any, mask: Any) -> Any:
    """layer(x, mask=mask)"""
    return layer(x, mask=mask)
