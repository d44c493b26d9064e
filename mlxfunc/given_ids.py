"""Ids that reach a table as they were given are looked at before the model runs.

What holds on the device, where no value can be asked for, says `bounds`. Here stands the error in
front of it: an input's ids that layers only move (Reshape, a slice, TimeDistributed ...) on their
way to an Embedding are moved the same way on the host, and compared with the number of its rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from .conversion import to_mlx
from .graph import Graph, Node, is_symbolic, leaves, symbols

# Rows that are looked at together.
ROWS = 8192


class GivenIds:
    """The way of a graph's inputs to the layers that look them up.

    Attributes:
        inputs: the positions of the inputs that are looked up.
    """

    def __init__(self, graph: Graph) -> None:
        # The inputs that the values of a tensor come from, where they are only moved.
        moved = {id(tensor): {i} for i, tensor in enumerate(graph.inputs)}
        nodes = [node for node in graph.nodes if node.inputs]
        for node in nodes:
            if node.layer.moves_values and all(id(t) in moved for t in node.inputs):
                sources = set().union(*(moved[id(t)] for t in node.inputs))
                moved |= {id(tensor): sources for tensor in node.outputs}
        wanted: set[int] = set()
        self._moved = moved
        self._nodes: list[Node] = []
        for node in reversed(nodes):
            read = [t for t in symbols(node.args[:1]) if id(t) in moved]
            looked_up = node.layer.reads_ids and bool(read)
            if looked_up or any(id(t) in moved and id(t) in wanted for t in node.outputs):
                wanted |= {id(t) for t in (read if looked_up else node.inputs)}
                self._nodes.insert(0, node)
        self.inputs = [i for i, t in enumerate(graph.inputs) if id(t) in wanted]
        self.graph = graph

    def check(self, values: Sequence[Any]) -> None:
        """Raise ValueError for ids that a table has no row for.

        Args:
            values: an array for each input of the graph, or None where it is not known.
        """
        env = {id(self.graph.inputs[i]): values[i] for i in self.inputs}

        def value(leaf: Any) -> Any:
            return env.get(id(leaf)) if is_symbolic(leaf) else leaf

        for node in self._nodes:
            args, kwargs = tree_map(value, (node.args, node.kwargs))
            if node.layer.reads_ids:
                self._look_up(node, args[0])
            if node.layer.moves_values and all(env.get(id(t)) is not None for t in node.inputs):
                env |= _moved(node, args, kwargs)

    def _look_up(self, node: Node, ids: Any) -> None:
        try:
            node.layer.check_ids(ids)
        except ValueError as error:
            sources = {i for t in symbols(node.args[:1]) for i in self._moved.get(id(t), ())}
            names = " and ".join(repr(self.graph.inputs[i].name) for i in sorted(sources))
            error.add_note(f"in the data of input {names}")
            raise

    def check_rows(self, arrays: Sequence[Any]) -> None:
        """`check` of arrays of any length, in memory or on disk."""
        if not self.inputs:
            return
        rows = arrays[self.inputs[0]].shape[0]
        for start in range(0, rows, ROWS):
            part = slice(start, start + ROWS)
            self.check([a[part] if i in self.inputs else None for i, a in enumerate(arrays)])


def _moved(node: Node, args: tuple, kwargs: dict) -> dict[int, Any]:
    """What a node makes of known values."""
    kwargs = {key: value for key, value in kwargs.items() if key not in ("training", "mask")}
    args, kwargs = tree_map(lambda v: to_mlx(v) if hasattr(v, "shape") else v, (args, kwargs))
    try:
        output = node.layer.call(*args, **kwargs)
    except (ValueError, IndexError, TypeError):
        return {}  # The model itself will say that, and where.
    return {id(t): value for t, value in zip(node.outputs, leaves(output), strict=True)}


def outside(array: Any, size: int) -> Any:
    """The lowest entry below 0, else the highest from `size` on; None when there is neither."""
    if array.dtype in (np.bool_, mx.bool_) or math.prod(array.shape) == 0:
        return None
    array = array if isinstance(array, mx.array) else np.asarray(array)
    low, high = array.min().item(), array.max().item()
    if low >= 0 and high < size:
        return None
    return low if low < 0 else high


def check_ids(name: str, ids: Any, size: int) -> None:
    """Raise ValueError unless all entries are in [0, size)."""
    if ids is not None and (wrong := outside(ids, size)) is not None:
        raise ValueError(
            f"{name}: expected ids in [0, {size}), got {wrong}. "
            "Recode the ids, or give the layer more rows."
        )


def are_known(values: Any) -> bool:
    """Whether the arrays have values: those of a function that is being traced have none."""
    try:
        mx.eval([value for value in leaves(values) if isinstance(value, mx.array)])
    except (ValueError, RuntimeError):
        return False
    return True
