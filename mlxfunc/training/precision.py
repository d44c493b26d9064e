"""Mixed precision: float32 master weights, layers that compute in sixteen bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from ..graph import leaves

GROW_AFTER = 2000
FIRST_SCALE = 2.0**15


def parse(dtype: Any) -> mx.Dtype | None:
    """The dtype that layers compute in; None is float32, as the weights are."""
    if dtype is None or dtype in ("float32", mx.float32):
        return None
    known = {"bfloat16": mx.bfloat16, "float16": mx.float16}
    name = str(dtype).rpartition(".")[2].removeprefix("mixed_")
    if name not in known:
        raise ValueError(
            f"compile: expected dtype 'float32', 'bfloat16' or 'float16', got {dtype!r}."
        )
    return known[name]


def cast(tree: Any, dtype: mx.Dtype) -> Any:
    """Every float array of a structure in `dtype`; the rest as it is."""

    def one(leaf: Any) -> Any:
        floating = isinstance(leaf, mx.array) and mx.issubdtype(leaf.dtype, mx.floating)
        return leaf.astype(dtype) if floating else leaf

    return tree_map(one, tree)


@contextmanager
def lowered(model: Any, dtype: mx.Dtype | None) -> Iterator[Callable[[Any], Any]]:
    """Within the block the trained weights are in `dtype`; yields the cast for inputs."""
    if dtype is None:
        yield lambda tree: tree
        return
    masters = model.trainable_parameters()
    model.update(cast(masters, dtype))
    try:
        yield lambda tree: cast(tree, dtype)
    finally:
        model.update(masters)


class LossScale:
    """Dynamic loss scaling for float16, whose small gradients would vanish.

    The loss is multiplied by `scale`; a step whose gradients are not finite is left out and
    halves it, and `GROW_AFTER` good steps double it. Source: arXiv:1710.03740
    """

    def __init__(self) -> None:
        self.state = {"scale": mx.array(FIRST_SCALE), "good": mx.array(0)}

    def unscale(self, gradients: Any) -> Any:
        return tree_map(lambda g: g / self.state["scale"], gradients)

    def finite(self, gradients: Any) -> mx.array:
        """Whether every gradient is finite."""
        return mx.all(mx.stack([mx.all(mx.isfinite(g)) for g in leaves(gradients)]))

    def advance(self, finite: mx.array) -> None:
        """Move the scale after a step."""
        scale, good = self.state["scale"], self.state["good"] + 1
        grow = good >= GROW_AFTER
        grown = mx.where(grow, scale * 2, scale)
        self.state["scale"] = mx.where(finite, grown, mx.maximum(scale / 2, 1.0))
        self.state["good"] = mx.where(finite & ~grow, good, 0)


def keep_if(flag: mx.array, new: Any, old: Any) -> Any:
    """`new` where the flag holds, else `old`, leaf by leaf."""
    return tree_map(lambda a, b: mx.where(flag, a, b) if isinstance(a, mx.array) else a, new, old)
