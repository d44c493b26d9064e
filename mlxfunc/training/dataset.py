"""Batches by number."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any


class PyDataset:
    """Batches by number: subclass it, and write `__len__` and `__getitem__`.

    `__getitem__(i)` returns `(x, y)` or `(x, y, sample_weight)`. Batches are made ahead by
    `workers` threads, or processes, and at most `max_queue_size` wait.

    Source: https://keras.io/api/utils/python_utils/
    """

    def __init__(
        self, workers: int = 1, use_multiprocessing: bool = False, max_queue_size: int = 10
    ) -> None:
        self.workers = workers
        self.use_multiprocessing = use_multiprocessing
        self.max_queue_size = max_queue_size

    def __len__(self) -> int:
        raise NotImplementedError(
            f"{type(self).__name__}: expected a `__len__`, the number of batches. Define it."
        )

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(
            f"{type(self).__name__}: expected a `__getitem__` that returns a batch. Define it."
        )

    def __iter__(self) -> Iterator[Any]:
        """The batches in order, once."""
        batches = self.num_batches
        return map(self.__getitem__, count() if batches is None else range(batches))

    @property
    def num_batches(self) -> int | None:
        """The number of batches; None for a dataset without end."""
        return len(self)

    def on_epoch_begin(self) -> None:
        """Called before each pass."""

    def on_epoch_end(self) -> None:
        """Called after each pass."""


def is_dataset(x: Any) -> bool:
    return isinstance(x, PyDataset) or all(
        hasattr(x, name) for name in ("__getitem__", "__len__", "on_epoch_end")
    )
