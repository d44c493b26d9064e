"""Data-parallel training on `mlx.distributed`: every process runs the same script.

Each global batch is cut by rank, gradients are averaged, running sums are added up, and only
rank 0 prints and writes. Start it with `mlx.launch -n 4 python train.py`.

The result is that of one process with the same global batches, masked means and sums included,
but for two things: dropout draws other numbers, and BatchNormalization normalizes by the rows of
each rank (its moving statistics are averaged) unless it is `synchronized`. What is no sum over
rows is averaged by rows: `add_loss`, Dice and Tversky over a whole batch, losses with a `__call__`
of their own. A global batch of fewer rows than processes counts some rows twice.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from ..ranks import is_main, rank, size, total_of


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
