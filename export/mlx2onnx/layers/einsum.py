"""EinsumDense: MatMul where the equation is a Dense, else Einsum."""

from __future__ import annotations

from typing import Any

from mlxfunc import layers
from mlx2onnx.builder import Builder
from mlx2onnx.layers.activation import activate
from mlx2onnx.layers.registry import rule
from mlx2onnx.layers.weights import weight
from mlx2onnx.layout import Tensor


@rule(layers.EinsumDense)
def einsum_dense(g: Builder, layer: Any, x: Tensor, out: Any) -> Tensor:
    letters, kernel, result = layer.spell(x.rank)
    stored = weight(g, layer, "weight")
    if len(kernel) == 2 and letters[-1] == kernel[0] and result == letters[:-1] + kernel[1]:
        y = g.op("MatMul", x.plain, stored)
    else:
        y = g.op("Einsum", x.plain, stored, equation=f"{letters},{kernel}->{result}")
    if layer.use_bias:
        y = g.op("Add", y, weight(g, layer, "bias"))
    return activate(g, layer.activation, Tensor(g, y, out.shape, dtype=x.dtype))
