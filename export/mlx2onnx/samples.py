"""Random inputs that a model takes: ids that every Embedding has, steps that are padded."""

from __future__ import annotations

from typing import Any

import mlxfunc as mf
import mlx.nn as nn
import numpy as np
from mlxfunc import layers

# For ids whose consumers do not tell how many there are.
FEW_IDS = 4


def sample(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    kind: str,
    source: Any,
    index: int,
    right_padded: bool = False,
) -> np.ndarray:
    """An array for input `index` of `source`; `kind` is ONNX Runtime's name of its type.

    `right_padded`: padding only at the end.
    """
    if kind == "tensor(bool)" and right_padded:
        return _padded(rng, np.ones(shape, bool), False, right_padded)
    if kind == "tensor(bool)":
        valid = rng.random(shape) < 0.7
        valid[..., :1] = True
        return valid
    consumers = _consumers(source, index)
    if "int" in kind:
        limit = _ids(consumers)
        return _padded(rng, rng.integers(min(1, limit - 1), limit, shape), 0, right_padded)
    array = rng.standard_normal(shape).astype(np.float32)
    for layer in consumers:
        if isinstance(layer, layers.Masking) and array.ndim > 1:
            array = _padded(rng, array, layer.mask_value, right_padded)
    return array


def _padded(
    rng: np.random.Generator, array: np.ndarray, value: float, right_only: bool
) -> np.ndarray:
    """Rows in turn whole, padded at the end, at the start, and with a hole."""
    if array.ndim < 2:
        return array
    steps = array.shape[1]
    for row in range(1, len(array)):
        cut = int(rng.integers(0, steps + 1))
        if row % 3 == 1 or right_only:
            array[row, cut:] = value
        elif row % 3 == 2:
            array[row, :cut] = value
        else:
            array[row, steps // 3 : steps // 2 + 1] = value
    return array


def _ids(consumers: list[Any]) -> int:
    rows = [
        module.input_dim if isinstance(module, layers.Embedding) else module.weight.shape[0]
        for layer in consumers
        for module in layer.sublayers()
        if isinstance(module, (layers.Embedding, nn.Embedding))
    ]
    return min(rows, default=FEW_IDS)


def _consumers(source: Any, index: int) -> list[Any]:
    """The layers that use input `index`, also through layers without weights and inner models."""
    if not isinstance(source, mf.Model):
        return [_Module(source)] if isinstance(source, nn.Module) else []
    found: list[Any] = []
    reached = {id(source.inputs[index])}
    for node in source.graph.nodes:
        places = [k for k, tensor in enumerate(node.inputs) if id(tensor) in reached]
        if not places or not node.inputs:
            continue
        if isinstance(node.layer, mf.Model):
            for k in places:
                found += _consumers(node.layer, k)
            continue
        found.append(node.layer)
        if not node.layer.weights:
            reached |= {id(tensor) for tensor in node.outputs}
    return found


class _Module:
    """A bare module, read as a layer is."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def sublayers(self) -> list[nn.Module]:
        return self.module.modules()
