"""The optimizer's arrays for the weights of a model: made, and put back from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from ..random_state import get_random_state, set_random_state
from ..storage import check
from . import distributed


def start_training(model: Any) -> None:
    """Slots for every trainable weight; on several machines, rank 0's weights for all."""
    _tell_layouts(model)
    if distributed.size() > 1:
        model.update(distributed.from_main(model.parameters()))
        set_random_state((get_random_state() + distributed.rank()) % 2**64)
    model.optimizer.init(model.trainable_parameters())
    if hasattr(model.optimizer, "begin"):
        model.optimizer.begin()


def set_optimizer_state(model: Any, state: Mapping[str, mx.array]) -> None:
    """Take the optimizer's arrays by their paths: of each weight all it has, or none.

    Raises: ValueError for others than it would have of these weights.
    """
    _tell_layouts(model)
    optimizer = model.optimizer
    optimizer.init(model.parameters())
    owners = {path.rpartition(".")[0] for path in state}
    own = dict(tree_flatten(optimizer.state))
    # What began late has its first step beside its arrays.
    own |= {path: optimizer.step for path in state if path.endswith(".start")}
    check(state, {path: own[path] for path in own if path.rpartition(".")[0] in owners})
    optimizer.state = tree_unflatten([*state.items()])


def _tell_layouts(model: Any) -> None:
    """Tell the optimizer how Keras's layout of each weight leads to MLX's, where they differ."""
    if hasattr(model.optimizer, "layouts"):
        model.optimizer.layouts |= {
            f"{path}.{name}" if path else name: replace(record, blocks=None)
            for path, module in model.named_modules()
            for name, record in getattr(module, "_records", {}).items()
            if record.axes or record.stored
        }
