"""Small helpers around training: labels, padding, seeds, splits, files, plots."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

from .batches import image_dataset_from_directory as image_dataset_from_directory
from .batches import timeseries_dataset_from_array as timeseries_dataset_from_array
from .download import get_file as get_file
from .graph import clear_session as clear_session
from .graph import leaves
from .plotting import model_to_dot as model_to_dot
from .plotting import plot_history as plot_history
from .plotting import plot_model as plot_model
from .training.dataset import PyDataset as PyDataset


def to_categorical(x: Any, num_classes: int | None = None) -> np.ndarray:
    """One-hot rows: out[..., k] = 1 where x = k.

    Args:
        x: integer classes, (...) or (..., 1).
        num_classes: the size of the new last axis; max(x) + 1 when missing.

    Returns: float32, (..., num_classes). Keras returns float64.
    Source: https://keras.io/api/utils/python_utils/
    """
    labels = np.asarray(x)
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    labels = labels.astype(np.int64)
    largest = int(labels.max(initial=-1))
    classes = largest + 1 if num_classes is None else num_classes
    if labels.min(initial=0) < 0 or largest >= classes:
        raise ValueError(
            f"to_categorical: expected classes from 0 to {classes - 1}, got "
            f"{labels.min()} to {largest}. Renumber the labels, or raise num_classes."
        )
    out = np.zeros((*labels.shape, classes), np.float32)
    np.put_along_axis(out, labels[..., None], 1, axis=-1)
    return out


def pad_sequences(
    sequences: Sequence[Any],
    maxlen: int | None = None,
    dtype: Any = "int32",
    padding: str = "pre",
    truncating: str = "pre",
    value: Any = 0.0,
) -> np.ndarray:
    """Sequences of any length as one array, (len(sequences), maxlen, ...).

    Args:
        maxlen: in steps; the longest sequence's length when missing.
        padding, truncating: whether `value` is put, and steps are cut, "pre" (in front) or "post".

    Source: https://keras.io/api/data_loading/timeseries/
    """
    for name, side in (("padding", padding), ("truncating", truncating)):
        if side not in ("pre", "post"):
            raise ValueError(f"pad_sequences: expected {name} 'pre' or 'post', got {side!r}.")
    for i, sequence in enumerate(sequences):
        if not hasattr(sequence, "__len__"):
            raise ValueError(
                f"pad_sequences: expected a list of sequences, got {sequence!r} at {i}. "
                "Wrap a single sequence in a list."
            )
    rows = [np.asarray(s) for s in sequences]
    width = max((len(r) for r in rows), default=0) if maxlen is None else maxlen
    step = next((r.shape[1:] for r in rows if len(r)), ())
    if isinstance(value, str) and np.dtype(dtype).kind not in "OU":
        raise ValueError(
            f"pad_sequences: expected a number for dtype {dtype!r}, got value {value!r}. "
            "Use dtype=object for text."
        )
    out = np.full((len(rows), width, *step), value, dtype)
    for i, row in enumerate(rows):
        if len(row) == 0 or width == 0:
            continue
        if row.shape[1:] != step:
            raise ValueError(
                f"pad_sequences: expected steps of shape {step}, got {row.shape[1:]} at {i}. "
                "Give all sequences steps of one shape."
            )
        kept = row[-width:] if truncating == "pre" else row[:width]
        where = slice(width - len(kept), None) if padding == "pre" else slice(len(kept))
        out[i, where] = kept
    return out


def normalize(x: Any, axis: int = -1, order: float = 2) -> np.ndarray:
    """x / ||x||, the norm taken along `axis`; zeros stay zeros.

    For axis=0 Keras divides rows by the norms of columns; this divides columns.
    Source: https://keras.io/api/utils/python_utils/
    """
    x = np.asarray(x)
    norm = np.linalg.norm(x, order, axis, keepdims=True)
    return x / np.where(norm == 0, 1, norm)


def set_random_seed(seed: int) -> None:
    """Seed Python's `random`, NumPy and MLX: initial weights, dropout, shuffling.

    Source: https://keras.io/api/utils/python_utils/
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"set_random_seed: expected an int in [0, 2**32), got {seed!r}.")
    random.seed(seed)
    np.random.seed(seed)
    mx.random.seed(seed)


def split_dataset(
    dataset: Any,
    left_size: float | int | None = None,
    right_size: float | int | None = None,
    shuffle: bool = False,
    seed: int | None = None,
) -> tuple[Any, Any]:
    """The first rows, and the last.

    Args:
        dataset: an array, or a list, tuple or dict of arrays with as many rows.
        left_size, right_size: rows (int) or a share of them (float in [0, 1]); the missing one is
            what the other leaves.

    Returns: two structures like `dataset`.
    Source: https://keras.io/api/utils/python_utils/
    """
    arrays = tree_map(_rows, dataset)
    counts = {len(array) for array in leaves(arrays)}
    if len(counts) != 1:
        raise ValueError(
            f"split_dataset: expected arrays with the same number of rows, got {sorted(counts)}."
        )
    rows = counts.pop()
    left, right = _sizes(rows, left_size, right_size)
    order = np.random.default_rng(seed).permutation(rows) if shuffle else np.arange(rows)
    left_rows, right_rows = order[:left], order[rows - right :]
    return tree_map(lambda a: a[left_rows], arrays), tree_map(lambda a: a[right_rows], arrays)


def _rows(value: Any) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else np.asarray(value)


def _sizes(rows: int, left: float | int | None, right: float | int | None) -> tuple[int, int]:
    def count(size: float | int, name: str) -> int:
        limit = 1 if isinstance(size, float) else rows
        if not 0 <= size <= limit:
            raise ValueError(
                f"split_dataset: expected {name} in [0, {limit}] for {rows} rows, got {size}."
            )
        return round(size * rows) if isinstance(size, float) else size

    if left is None and right is None:
        raise ValueError("split_dataset: expected left_size or right_size, got neither.")
    if left is None:
        last = count(right, "right_size")  # type: ignore[arg-type]
        return rows - last, last
    first = count(left, "left_size")
    last = rows - first if right is None else count(right, "right_size")
    if first + last > rows:
        raise ValueError(
            f"split_dataset: expected at most {rows} rows in both parts, got {first} and {last}."
        )
    return first, last
