"""Reading back what is in an ONNX file."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import onnx
from mlx2onnx.session import load, of_file
from onnx import TensorProto


@dataclass(frozen=True)
class Value:
    """An input or output: its dtype by NumPy's name and dimensions, names for dynamic ones."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True)
class Contents:
    """What an ONNX model holds. `shared`: the weights that several nodes use, and how many do."""

    inputs: list[Value]
    outputs: list[Value]
    operators: dict[str, int]
    functions: dict[str, int]
    weights: int
    weight_bytes: int
    shared: dict[str, int]
    opset: int
    ir_version: int
    producer: str
    metadata: dict[str, str]

    @property
    def nodes(self) -> int:
        """How many nodes the graph has, those of functions not counted."""
        return sum(self.operators.values())

    def as_dict(self) -> dict[str, Any]:
        """Everything in it, in a form that JSON can hold."""
        return {**asdict(self), "nodes": self.nodes}

    def __str__(self) -> str:
        operators = ", ".join(f"{n} {name}" for name, n in self.operators.items())
        lines = [
            f"opset {self.opset}, IR version {self.ir_version}, by {self.producer}",
            *(f"input  {value}" for value in self.inputs),
            *(f"output {value}" for value in self.outputs),
            f"{self.nodes} nodes: {operators}",
            f"{self.weights} weights, {self.weight_bytes:,} bytes",
            *(f"function {name}: {n} nodes" for name, n in self.functions.items()),
            *(f"shared {name}: used by {n} nodes" for name, n in self.shared.items()),
            *(f"{key}: {value}" for key, value in self.metadata.items()),
        ]
        return "\n".join(lines)


def inspect(file: str | os.PathLike | onnx.ModelProto) -> Contents:
    """The inputs, outputs, operators, weights, sharing, opset and metadata of an ONNX model.

    Raises: ValueError for a file that is not ONNX.
    """
    proto = load(file)
    with of_file(file):
        return _contents(proto)


def _contents(proto: onnx.ModelProto) -> Contents:
    graph = proto.graph
    operators = Counter(node.op_type for node in graph.node)
    uses = Counter(name for node in graph.node for name in set(node.input))
    # Constants of rules are not weights of layers, nor are the defaults of inputs.
    inputs = {value.name for value in graph.input}
    stored = [t for t in graph.initializer if t.name not in inputs]
    weights = [t for t in stored if not t.name.startswith("constant")]
    return Contents(
        inputs=[_value(v) for v in graph.input],
        outputs=[_value(v) for v in graph.output],
        operators=dict(operators.most_common()),
        functions={f.name: len(f.node) for f in proto.functions},
        weights=len(weights),
        weight_bytes=sum(_bytes(t) for t in stored),
        shared={t.name: uses[t.name] for t in weights if uses[t.name] > 1},
        opset=next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0),
        ir_version=proto.ir_version,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        metadata={p.key: p.value for p in proto.metadata_props if p.value},
    )


def _value(info: onnx.ValueInfoProto) -> Value:
    tensor = info.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim)
    return Value(info.name, dtype_name(tensor.elem_type), shape)


def dtype_name(kind: int) -> str:
    """NumPy's name of an ONNX element type: FLOAT is float32."""
    name = TensorProto.DataType.Name(kind).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _bytes(tensor: TensorProto) -> int:
    size = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    for dim in tensor.dims:
        size *= dim
    return size
