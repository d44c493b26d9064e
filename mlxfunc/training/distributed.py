"""Data-parallel training on `mlx.distributed`: every process runs the same script.

Each global batch is cut by rank, gradients are averaged, running sums are added up, and only
rank 0 prints and writes. Start it with `mlx.launch -n 4 python train.py`.

The result is that of one process with the same global batches, but for three things: dropout
draws other numbers, BatchNormalization normalizes by the rows of each rank (its moving statistics
are averaged), and under masks a rank's mean over valid entries counts by its rows.
"""

from __future__ import annotations

import functools
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map, tree_unflatten


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


def share(rows: int) -> slice:
    """The rows of a global batch that are ours: contiguous, and at least one.

    With fewer rows than processes some rows are taken twice.
    """
    n, r = size(), rank()
    start, stop = rows * r // n, rows * (r + 1) // n
    return slice(start, stop) if stop > start else slice(min(start, rows - 1), start + 1)


def average_gradients(gradients: Any, rows: int, total: int) -> Any:
    """sum of rows_r / total · gradients_r over the ranks: the gradients of the global batch."""
    if size() == 1:
        return gradients
    weight = rows / max(total, size())
    return total_of(tree_map(lambda g: g * weight, gradients))


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


def mean_of(tree: Any) -> Any:
    """The mean of each float array over the ranks; other arrays are rank 0's."""
    if size() == 1:
        return tree
    floats = tree_map(lambda a: a / size() if mx.issubdtype(a.dtype, mx.floating) else a, tree)
    summed = total_of(floats)
    return tree_map(lambda a, b: b if mx.issubdtype(a.dtype, mx.floating) else a, tree, summed)


def from_main(tree: Any) -> Any:
    """Rank 0's arrays, on every rank."""
    if size() == 1:
        return tree
    return total_of(tree_map(lambda a: a if is_main() else mx.zeros_like(a), tree))


def average_statistics(model: Any) -> None:
    """Give every rank the mean of what is moved but not trained: BatchNormalization's statistics.

    Recurrent states belong to the rows of a rank, and stay its own.
    """
    rows = [
        (module, key)
        for module, key, record in model._variables()
        if record is not None and not record.trainable
    ]
    means = mean_of([module[key] for module, key in rows]) if rows else []
    for (module, key), mean in zip(rows, means, strict=True):
        module[key] = mean
