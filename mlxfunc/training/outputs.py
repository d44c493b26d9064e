"""What predict returns: the outputs of all batches, each value in memory once."""

from __future__ import annotations

from collections import deque
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from ..graph import leaves

# Batches whose values are not fetched yet: the device works on them meanwhile.
WAITING = 4
GROWTH = 1.25


class Outputs:
    """Joins the outputs of batches along their rows, as they come, in NumPy's memory.

    Args:
        rows: how many rows to expect; None where that is not known.
    """

    def __init__(self, rows: int | None = None) -> None:
        self._expected = rows or 0
        self._structure: Any = None
        self._waiting: deque[list[mx.array]] = deque()
        self._buffers: list[np.ndarray] = []
        self._rows: list[int] = []

    def add(self, outputs: Any) -> None:
        """Take the outputs of the next batch: an array, or a structure of them."""
        self._structure = outputs if self._structure is None else self._structure
        self._waiting.append(leaves(outputs))
        if len(self._waiting) > WAITING:
            self._store(self._waiting.popleft())

    def _store(self, outputs: list[mx.array]) -> None:
        if not self._buffers:
            arrays = [to_numpy(output) for output in outputs]
            self._rows = [0] * len(arrays)
            self._buffers = [
                np.empty((max(self._expected, len(a)), *a.shape[1:]), a.dtype) for a in arrays
            ]
        for k, output in enumerate(outputs):
            array, buffer, start = to_numpy(output), self._buffers[k], self._rows[k]
            if array.shape[1:] != buffer.shape[1:]:
                raise ValueError(
                    f"predict: expected outputs of one shape {buffer.shape[1:]} in all batches, "
                    f"got {array.shape[1:]}. Pad the batches to one size, or predict them one by "
                    "one."
                )
            stop = self._rows[k] = start + len(array)
            if stop > len(buffer):
                rows = max(stop, int(GROWTH * len(buffer)))
                buffer.resize((rows, *buffer.shape[1:]), refcheck=False)
            buffer[start:stop] = array

    def result(self) -> Any:
        """All outputs, in the structure of a batch's.

        Raises: ValueError when there was no batch.
        """
        if self._structure is None:
            raise ValueError("predict: expected at least one batch, got none.")
        while self._waiting:
            self._store(self._waiting.popleft())
        for buffer, rows in zip(self._buffers, self._rows, strict=True):
            buffer.resize((rows, *buffer.shape[1:]), refcheck=False)
        arrays = iter(self._buffers)
        return tree_map(lambda leaf: next(arrays), self._structure)


def to_numpy(array: mx.array) -> np.ndarray:
    """The array for NumPy, which has no bfloat16."""
    return np.array(array.astype(mx.float32) if array.dtype == mx.bfloat16 else array)
