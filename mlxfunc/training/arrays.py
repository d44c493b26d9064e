"""What users give as data, made uniform: a list of arrays by input or output, rows first."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..given_ids import outside
from ..graph import leaves_as


def is_array(value: Any) -> bool:
    """Whether `value` has rows: NumPy, MLX, a memory map, an HDF5 dataset, a tensor."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__getitem__")


def as_rows(value: Any, what: str) -> Any:
    """`value` as something with a shape, a dtype and rows that can be sliced.

    Arrays on disk stay there; PyTorch tensors and data frames become NumPy arrays.
    Raises: TypeError for what holds no numbers.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    elif hasattr(value, "to_numpy"):
        value = value.to_numpy()
    elif not is_array(value):
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biufc":
        raise TypeError(
            f"{what}: expected numbers, got dtype {value.dtype}. Encode text and objects as "
            "numbers, and pad rows to one length."
        )
    if len(value.shape) == 0:
        raise ValueError(f"{what}: expected an array with rows, got a single number.")
    return value


def as_listed(structure: Any, value: Any) -> Any:
    """A list of the arrays, where `value` is built as the model's inputs or outputs are."""
    if not isinstance(structure, dict | list | tuple):
        return value
    parts = leaves_as(structure, value)
    return value if parts is None or len(parts) == 1 else parts


def by_position(value: Any, names: Sequence[str], what: str, *, partial: bool = False) -> list[Any]:
    """One entry for each of `names`, from an array, a list or a dict by name.

    Args:
        partial: entries may be missing or None (outputs without a loss, weights).
    Raises: ValueError that names what is unknown, missing or too many.
    """
    if isinstance(value, Mapping):
        return _by_name(value, names, what, partial)
    if isinstance(value, list | tuple):
        if len(value) == len(names) and (len(names) > 1 or _holds_rows(value[0])):
            return [None if v is None else as_rows(v, what) for v in value]
        if len(names) > 1:
            raise ValueError(
                f"{what}: expected {len(names)} arrays, one for each of {list(names)}, got "
                f"{len(value)}. Give a list in that order, or a dict by name."
            )
    elif len(names) > 1:
        raise ValueError(
            f"{what}: expected {len(names)} arrays, one for each of {list(names)}, got one. "
            "Give a list in that order, or a dict by name."
        )
    return [as_rows(value, what)]


def _holds_rows(value: Any) -> bool:
    return value is None or (hasattr(value, "shape") and len(value.shape) > 0)


def _by_name(value: Mapping, names: Sequence[str], what: str, partial: bool) -> list[Any]:
    unknown = [key for key in value if key not in names]
    if unknown and not partial and all(value.get(name) is not None for name in names):
        warnings.warn(
            f"{what}: {unknown} are no inputs of the model, and are left out. Known: "
            f"{list(names)}.",
            stacklevel=2,
        )
    elif unknown:
        raise ValueError(f"{what}: unknown names {unknown}. Known: {list(names)}.")
    missing = [name for name in names if value.get(name) is None]
    if missing and not partial:
        raise ValueError(f"{what}: nothing given for {missing}. Expected all of {list(names)}.")
    return [None if value.get(n) is None else as_rows(value[n], f"{what}[{n!r}]") for n in names]


def count_rows(groups: Mapping[str, Sequence[Any]]) -> int:
    """The number of rows that all arrays share.

    Args:
        groups: arrays (or None) by what to call them: `{"x": […], "y": […]}`.
    Raises: ValueError when two differ, or when there are none.
    """
    counts = {
        f"{what}[{i}]" if len(arrays) > 1 else what: int(a.shape[0])
        for what, arrays in groups.items()
        for i, a in enumerate(arrays)
        if a is not None
    }
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{what} has {count}" for what, count in counts.items())
        raise ValueError(f"data: expected the same number of rows everywhere, but {told}.")
    rows = next(iter(counts.values()), 0)
    if rows == 0:
        raise ValueError("data: expected at least one row, got empty arrays.")
    return rows


def fit_rank(array: Any, shape: tuple) -> Any:
    """`array` with a last axis of size 1 added or removed, where that makes it fit `shape`."""
    if len(array.shape) == len(shape) - 1 and shape[-1] == 1:
        return array[..., None]
    if len(array.shape) == len(shape) + 1 and array.shape[-1] == 1:
        return array[..., 0]
    return array


def check_inputs(arrays: Sequence[Any], names: Sequence[str], shapes: Sequence[tuple]) -> None:
    """Raise ValueError when an array cannot be the input it is given for."""
    for array, name, shape in zip(arrays, names, shapes, strict=True):
        got, want = tuple(array.shape), tuple(shape)
        wrong = len(got) != len(want) or any(
            isinstance(w, int) and w != g for g, w in zip(got[1:], want[1:], strict=True)
        )
        if wrong:
            told = ", ".join("any" if isinstance(d, type(None)) else str(d) for d in want)
            raise ValueError(
                f"input {name!r}: expected data of shape ({told}), got {got}. "
                "Reshape the data, or change the Input."
            )


def check_range(array: Any, size: int, what: str) -> None:
    """Raise ValueError unless all entries are in [0, size); MLX itself would read elsewhere."""
    if (wrong := outside(array, size)) is not None:
        raise ValueError(
            f"{what}: expected values in [0, {size}), got {wrong}. "
            "Recode the values, or give the layer more entries."
        )


def class_weights(y: Any, table: Mapping[int, float]) -> np.ndarray:
    """The weight of each row, (rows,): that of its class; 1 for a class not in `table`.

    Args:
        y: labels (rows,) or (rows, 1), or one-hot rows (rows, classes).
    """
    y = np.asarray(y)
    if y.ndim > 1:
        y = y[..., 0] if y.shape[-1] == 1 else np.argmax(y, axis=-1)
    classes, place = np.unique(np.round(y).astype(np.int64), return_inverse=True)
    weights = np.array([table.get(int(c), 1.0) for c in classes], dtype=np.float32)
    return weights[place].reshape(y.shape)


def split_rows(arrays: Sequence[Any], share: float) -> tuple[list[Any], list[Any]]:
    """The first rows and the last: those of `validation_split`, before any shuffling."""
    if not 0 < share < 1:
        raise ValueError(f"validation_split: expected a number in (0, 1), got {share}.")
    rows = next(int(a.shape[0]) for a in arrays if a is not None)
    at = math.floor(rows * (1.0 - share))
    if at in (0, rows):
        raise ValueError(
            f"validation_split: {share} of {rows} rows leaves one side empty. "
            "Give more data, another share, or validation_data."
        )

    def cut(part: slice) -> list[Any]:
        return [None if a is None else a[part] for a in arrays]

    return cut(slice(None, at)), cut(slice(at, None))
