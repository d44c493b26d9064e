"""Arrays that a user gives for a session's inputs: named, checked, and cut into batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mlx2onnx.session import NUMPY

Feeds = dict[str, np.ndarray]


def named(given: Any, session: Any, what: str) -> Feeds:
    """The arrays by input name, in the dtypes of the file.

    Args:
        given: a mapping by name, a list or tuple in the file's order, or the one input's array.
        what: names the arrays in errors.

    Raises: ValueError for other names, ranks or sizes than the file's, and for no rows.
    """
    entries = session.get_inputs()
    names = [entry.name for entry in entries]
    if not isinstance(given, Mapping):
        arrays = list(given) if isinstance(given, list | tuple) else [given]
        if len(arrays) != len(names):
            raise ValueError(
                f"{what}: expected {len(names)} arrays, for {', '.join(names)}, got {len(arrays)}. "
                "Give an array for each, in this order or by name."
            )
        given = dict(zip(names, arrays, strict=True))
    if set(given) != set(names):
        raise ValueError(
            f"{what}: expected inputs {', '.join(sorted(names))}, got "
            f"{', '.join(sorted(map(str, given))) or 'none'}. Give an array for each."
        )
    sizes: dict[str, int] = {}
    return {entry.name: _checked(given[entry.name], entry, sizes, what) for entry in entries}


def _checked(value: Any, entry: Any, sizes: dict[str, int], what: str) -> np.ndarray:
    """One input's array; `sizes` collects those of the dynamic dimensions."""
    array = np.asarray(value)
    shape = ", ".join(str(sizes.get(d, d)) for d in entry.shape)
    fits = array.ndim == len(entry.shape) and all(
        size == (sizes.setdefault(d, size) if isinstance(d, str) else d or size)
        for size, d in zip(array.shape, entry.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{what}: expected {entry.name} of shape ({shape}), got {array.shape}. "
            "Give it as the file takes it."
        )
    if not array.size:
        raise ValueError(
            f"{what}: expected rows in {entry.name}, got shape {array.shape}. Give at least one."
        )
    return array.astype(NUMPY[entry.type], copy=False)


def batch_dimension(session: Any) -> str | int | None:
    """The first dimension of all inputs and outputs, if it is one: a name, or a fixed size."""
    values = [*session.get_inputs(), *session.get_outputs()]
    firsts = {value.shape[0] if value.shape else None for value in values}
    return firsts.pop() if len(firsts) == 1 else None


def cut(feeds: Feeds, size: int) -> Iterator[Feeds]:
    """Batches of `size` rows, the last one of what is left."""
    rows = len(next(iter(feeds.values())))
    for start in range(0, rows, size):
        yield {name: array[start : start + size] for name, array in feeds.items()}


def resized(feeds: Feeds, rows: int) -> Feeds:
    """One batch of so many rows, which repeat where there are too few."""
    return {name: array[np.arange(rows) % len(array)] for name, array in feeds.items()}


def run(session: Any, feeds: Feeds, size: int) -> Sequence[np.ndarray]:
    """The outputs, in batches of at most `size` where the file has one batch dimension."""
    if not isinstance(batch_dimension(session), str):
        return session.run(None, feeds)
    parts = [session.run(None, batch) for batch in cut(feeds, size)]
    return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
