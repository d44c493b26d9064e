"""Where nodes go: the main graph, the body of a function, of a Scan."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir import Value


@dataclass
class Frame:
    """The graph that nodes are appended to; for a function, what it takes from outside."""

    graph: ir.Graph
    parent: Frame | None = None
    function: Frame | None = None
    captured: dict[Value, Value] = field(default_factory=dict)
    memo: dict[Hashable, Value] = field(default_factory=dict)

    def drop_unused(self) -> None:
        """Weights that a body asked for and does not use must not become its inputs."""
        outputs = set(self.graph.outputs)
        for node in reversed(list(self.graph)):
            if not any(value.uses() or value in outputs for value in node.outputs):
                self.graph.remove(node, safe=True)
        for value, formal in list(self.captured.items()):
            if not formal.uses() and formal not in outputs:
                self.graph.inputs.remove(formal)
                del self.captured[value]
