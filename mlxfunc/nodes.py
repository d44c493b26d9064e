"""The calls of a layer on symbolic tensors, as Keras lets one ask for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .graph import Node, shapes_of


class Calls:
    """What a layer was given and returned, call by call: `get_output_at(0)`, `output` …"""

    name: str
    _nodes: list[Node]

    def _only(self, what: str, values: list[Any]) -> Any:
        if not values:
            raise AttributeError(
                f"{self.name}: expected a call on symbolic tensors before `{what}`, got none. "
                "Call the layer on an Input first."
            )
        same = all(v is values[0] for v in values) or (
            what.endswith("shape") and all(v == values[0] for v in values)
        )
        if not same:
            raise AttributeError(
                f"{self.name}: expected one node for `{what}`, got {len(values)}. "
                f"Say which with get_{what}_at(node_index)."
            )
        return values[0]

    def _node_at(self, node_index: int) -> Node:
        if not -len(self._nodes) <= node_index < len(self._nodes):
            raise ValueError(
                f"{self.name}: expected a node index below {len(self._nodes)}, got {node_index}. "
                "Each call on symbolic tensors is a node, 0, 1, 2 …"
            )
        return self._nodes[node_index]

    def get_input_at(self, node_index: int) -> Any:
        """What the call number `node_index` was given: a tensor, or a list of them."""
        node = self._node_at(node_index)
        inputs = node.inputs or node.outputs
        return inputs[0] if len(inputs) == 1 else inputs

    def get_output_at(self, node_index: int) -> Any:
        """What the call number `node_index` returned."""
        return self._node_at(node_index).output

    def get_input_shape_at(self, node_index: int) -> Any:
        return shapes_of(self.get_input_at(node_index))

    def get_output_shape_at(self, node_index: int) -> Any:
        return shapes_of(self.get_output_at(node_index))

    def _at_all(self, getter: Callable[[int], Any]) -> list[Any]:
        return [getter(index) for index in range(len(self._nodes))]

    @property
    def input(self) -> Any:
        return self._only("input", self._at_all(self.get_input_at))

    @property
    def output(self) -> Any:
        return self._only("output", self._at_all(self.get_output_at))

    @property
    def input_shape(self) -> Any:
        return self._only("input_shape", self._at_all(self.get_input_shape_at))

    @property
    def output_shape(self) -> Any:
        return self._only("output_shape", self._at_all(self.get_output_shape_at))
