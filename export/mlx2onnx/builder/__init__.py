"""Writes ONNX graphs, from the first input to the finished model; alone in knowing onnx_ir.

A rule calls `g.op("Gemm", x, w, b, transB=1)` and gets a Value.
"""

from onnx_ir import DataType, Model, Value

from .build import FUNCTION_DOMAIN, RUNTIME_DOMAIN, Builder
from .dtypes import data_type, to_numpy
from .finish import weight_bytes, write

__all__ = [
    "FUNCTION_DOMAIN",
    "RUNTIME_DOMAIN",
    "Builder",
    "DataType",
    "Model",
    "Value",
    "data_type",
    "to_numpy",
    "weight_bytes",
    "write",
]
