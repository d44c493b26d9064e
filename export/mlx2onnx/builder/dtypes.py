"""Element types: of arrays, of dtypes by any name, of what an operator gives."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir import DataType


def data_type(dtype: Any) -> DataType:
    """The ONNX element type of an mlx, numpy or ONNX dtype, or of its name; bfloat16 is float32."""
    if isinstance(dtype, DataType):
        found = dtype
    elif isinstance(dtype, int):
        found = DataType(dtype)
    elif isinstance(dtype, mx.Dtype):
        found = DataType[_upper(str(dtype).rpartition(".")[2])]
    elif isinstance(dtype, str):
        found = DataType[_upper(dtype)]
    else:
        found = DataType.from_numpy(np.dtype(dtype))
    return DataType.FLOAT if found == DataType.BFLOAT16 else found


def _upper(name: str) -> str:
    return {"FLOAT32": "FLOAT", "FLOAT64": "DOUBLE", "BOOL_": "BOOL"}.get(
        name.upper(), name.upper()
    )


def to_numpy(array: Any) -> np.ndarray:
    """A contiguous numpy view of an array (a copy only for bfloat16 and strided arrays)."""
    if isinstance(array, mx.array):
        array = np.asarray(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)
    array = np.asarray(array)
    return array if array.flags.c_contiguous else array.copy(order="C")


def converted(array: np.ndarray, dtype: DataType) -> np.ndarray:
    """The array as `dtype`; itself when it already is."""
    kind = dtype.numpy()
    if array.dtype == kind:
        return array
    if kind == np.float16:  # large numbers (masks) stay numbers
        limit = np.finfo(kind).max
        array = np.where(np.isfinite(array), np.clip(array, -limit, limit), array)
    return array.astype(kind)


def infer_types(node: ir.Node, opset: int) -> None:
    """Gives a node's outputs their element types, by the operator's type constraints."""
    if node.domain or not onnx.defs.has(node.op_type, max_inclusive_version=opset):
        return
    schema = onnx.defs.get_schema(node.op_type, opset)
    known: dict[str, DataType] = {}
    for i, value in enumerate(node.inputs):
        formal = schema.inputs[min(i, len(schema.inputs) - 1)]
        if value is not None and value.dtype is not None:
            known.setdefault(formal.type_str, value.dtype)
    first = schema.outputs[0].type_str
    if "to" in node.attributes:
        known[first] = DataType(node.attributes["to"].as_int())
    elif first not in known and "value" in node.attributes:
        known[first] = node.attributes["value"].as_tensor().dtype
    elif first not in known and "dtype" in node.attributes:
        known[first] = DataType(node.attributes["dtype"].as_int())
    for constraint in schema.type_constraints:
        if len(constraint.allowed_type_strs) == 1:
            only = constraint.allowed_type_strs[0]
            known.setdefault(constraint.type_param_str, data_type(only[7:-1]))
    for i, value in enumerate(node.outputs):
        name = schema.outputs[min(i, len(schema.outputs) - 1)].type_str
        if name.startswith("tensor("):
            value.dtype = data_type(name[7:-1])
        elif name in known:
            value.dtype = known[name]
