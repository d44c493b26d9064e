"""The processes that train together, by `mlx.distributed`, and what passes between them."""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten


@functools.cache
def group() -> Any:
    """The group of all processes; of size 1 when the script was started alone."""
    return mx.distributed.init()


def size() -> int:
    return group().size()


def rank() -> int:
    return group().rank()


def is_main() -> bool:
    """Whether this process prints and writes files."""
    return rank() == 0


def total_of(tree: Any) -> Any:
    """The sum of each array over the ranks, sent as one message for each dtype."""
    if size() == 1:
        return tree
    flat: list[Any] = list(tree_flatten(tree))
    sums: list[Any] = [None] * len(flat)
    for dtype in dict.fromkeys(array.dtype for _, array in flat):
        places = [i for i, (_, array) in enumerate(flat) if array.dtype == dtype]
        message = mx.distributed.all_sum(mx.concatenate([flat[i][1].reshape(-1) for i in places]))
        start = 0
        for i in places:
            array = flat[i][1]
            sums[i] = message[start : start + array.size].reshape(array.shape)
            start += array.size
    return tree_unflatten([(key, sums[i]) for i, (key, _) in enumerate(flat)])


def gathered(x: mx.array, rows: int) -> mx.array:
    """The x of every rank: (...) → (ranks, ...). The losses behind it count by `rows`.

    The derivative is that of sum over r of rows_r · loss_r, seen from one of our rows:
    sum over r of rows_r · cotangent_r[ours] / rows_ours. Averaged over the ranks by their rows it
    gives the gradient of the global batch; MLX's own derivative leaves out the other losses.
    """

    @mx.custom_function
    def gather(x: mx.array) -> Any:
        return mx.distributed.all_gather(x[None])

    @gather.vjp
    def gradient(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        return mx.distributed.all_sum(cotangent * rows)[rank()] / rows

    result: Any = gather(x)
    return result
