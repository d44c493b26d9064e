"""How large the integers of a file's inputs may be: the axes that they index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx

# Operators whose outputs hold the elements of their inputs, maybe within limits.
MOVING = {
    "Cast", "Clip", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements",
    "GatherND", "Identity", "Max", "Min", "Pad", "Reshape", "ReverseSequence", "Slice", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
# Operators that only tell elements apart: what they give is no index, or one that is there.
DECIDING = {
    "And", "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less",
    "LessOrEqual", "NonZero", "Not", "Or", "Shape", "Size",
}  # fmt: skip
INDEXING = {"Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "Slice"}

Dim = int | str | None


@dataclass
class Bound:
    """Integers of an input are indices into an axis of this size, as they are or computed with."""

    size: Dim
    direct: bool


@dataclass
class Bounds:
    """By name: the bounds of each input, and what of each value comes from which inputs."""

    shapes: dict[str, Sequence[Dim]]
    functions: Mapping[str, onnx.FunctionProto]
    found: dict[str, list[Bound]] = field(default_factory=dict)

    def walk(self, nodes: Sequence[onnx.NodeProto], known: dict[str, dict[str, bool]]) -> None:
        """Notes where values of `known` index; adds the values that the nodes give to it.

        `known`: by value, the inputs that it comes from, and whether it holds their elements.
        """
        for node in nodes:
            reads: dict[str, bool] = {}
            for place, name in enumerate(node.input):
                sizes = self._indexed(node, place)
                for source, direct in known.get(name, {}).items():
                    bounds = self.found.setdefault(source, [])
                    bounds += [Bound(size, direct) for size in sizes]
                    if not sizes and (node.op_type, place) != ("Where", 0):
                        moved = direct and node.op_type in MOVING
                        reads[source] = reads.get(source, True) and moved
            body = self.functions.get(node.op_type) if node.domain else None
            if body is not None:
                self._call(node, body, known)
                continue
            if not _decides(node):
                known |= dict.fromkeys(node.output, reads)
            for attribute in node.attribute:
                for graph in [attribute.g, *attribute.graphs]:
                    # What goes into a loop is computed with in it.
                    carried = {v.name: dict.fromkeys(reads, False) for v in graph.input}
                    self.walk(graph.node, {**known, **carried})

    def _call(self, node: Any, body: onnx.FunctionProto, known: dict[str, dict[str, bool]]) -> None:
        pairs = list(zip(body.input, node.input, strict=False))
        self.shapes |= {a: self.shapes[b] for a, b in pairs if b in self.shapes}
        inside = {a: known.get(b, {}) for a, b in pairs}
        self.walk(body.node, inside)
        for formal, actual in zip(body.output, node.output, strict=False):
            known[actual] = inside.get(formal, {})

    def _indexed(self, node: onnx.NodeProto, place: int) -> Sequence[Dim]:
        """The sizes of the axes that an input of a node indexes; none when it does not."""
        if node.op_type not in INDEXING or place != 1:
            return ()
        if node.op_type == "Slice":
            return (1,)  # MLX does not check where a slice starts: only the first place is safe
        shape = self.shapes.get(node.input[0])
        if shape is None:
            return (None,)
        if node.op_type in ("GatherND", "ScatterND"):
            depth = (self.shapes.get(node.input[1]) or [None])[-1]
            return shape[: depth if isinstance(depth, int) else len(shape)]
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        return (shape[axis],)


def _decides(node: onnx.NodeProto) -> bool:
    to = next((a.i for a in node.attribute if a.name == "to"), None)
    return node.op_type in DECIDING or to == onnx.TensorProto.BOOL


def index_bounds(proto: onnx.ModelProto) -> dict[str, list[Bound]]:
    """By name: what the elements of an input index; inputs that index nothing are missing."""
    graph = proto.graph
    shapes: dict[str, Sequence[Dim]] = {
        value.name: [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims]
        for value in [*graph.input, *graph.value_info]
        for dims in [value.type.tensor_type.shape.dim]
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    functions = {function.name: function for function in proto.functions}
    bounds = Bounds(shapes, functions)
    bounds.walk(graph.node, {value.name: {value.name: True} for value in graph.input})
    return bounds.found
