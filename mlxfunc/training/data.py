"""Where batches come from: arrays in memory or on disk, iterables, generators, datasets."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import chain, count, islice
from typing import Any

import mlx.core as mx
import numpy as np

from ..conversion import check_real, compute, to_mlx
from ..graph import leaves
from .arguments import is_count
from .arrays import (
    as_listed,
    by_position,
    check_inputs,
    class_weights,
    count_rows,
    fit_rank,
    is_array,
    split_rows,
)
from .dataset import is_dataset
from .prefetch import fetch

PREFETCH = 4


@dataclass
class Batch:
    """Arrays by input and by output. `rows` are ours, `total` those of all machines together."""

    x: list[Any]
    y: list[Any] = field(default_factory=list)
    w: list[Any] = field(default_factory=list)
    rows: int = 0
    total: int = 0

    def on_device(self) -> Batch:
        """Its arrays as MLX's, being computed: those that are only promised stay in this thread."""

        def move(arrays: list[Any]) -> list[Any]:
            return [None if a is None else to_mlx(a) for a in arrays]

        batch = Batch(move(self.x), move(self.y), move(self.w), self.rows, self.total)
        compute(batch.x, batch.y, batch.w)
        return batch

    def computed(self) -> Batch:
        """Itself, once its arrays are computed: a thread that ends leaves nothing to do."""
        mx.eval(self.x, self.y, self.w)
        return self

    def part(self, rows: slice) -> Batch:
        """Only these rows, as this machine's share."""

        def cut(arrays: list[Any]) -> list[Any]:
            return [None if a is None else a[rows] for a in arrays]

        x = cut(self.x)
        return Batch(x, cut(self.y), cut(self.w), int(x[0].shape[0]), self.total)

    def split(self, share: float) -> tuple[Batch, Batch]:
        """The first rows, and the last as `validation_split` takes them."""
        groups = [split_rows(g, share) if g else ([], []) for g in (self.x, self.y, self.w)]
        parts = [Batch(x, y, w) for x, y, w in zip(*groups, strict=True)]
        for part in parts:
            part.rows = part.total = int(part.x[0].shape[0])
        return parts[0], parts[1]


class Reader:
    """Turns what users give into checked lists, one entry for each input and output.

    Args:
        model: `input_names`, `output_names`, `inputs`.
        check: called with the lists of x and y, once for arrays and once a batch for streams.
        class_weight: row weights by class, for a model with one output.
        share: the rows that this machine takes of a global batch of so many.
        labelled: the places of the outputs that need labels; None: all of them.
    """

    def __init__(
        self,
        model: Any,
        check: Callable[[list[Any], list[Any]], None] | None = None,
        class_weight: Mapping[int, float] | None = None,
        share: Callable[[int], slice] | None = None,
        labelled: Sequence[int] | None = None,
    ) -> None:
        self.input_names, self.output_names = list(model.input_names), list(model.output_names)
        self.shapes = [tuple(t.shape) for t in model.inputs]
        self.input, self.output = model.input, model.output
        self.dtypes = [t.dtype for t in (*model.inputs, *model.outputs)]
        self.check, self.class_weight, self.share = check, class_weight, share
        self.labelled = range(len(self.output_names)) if labelled is None else labelled
        if class_weight is not None and len(self.output_names) > 1:
            raise ValueError(
                f"class_weight: expected a model with one output, got {self.output_names}. "
                "Give sample_weight by output instead."
            )

    def read(self, x: Any, y: Any = None, w: Any = None) -> Batch:
        """Arrays of one length, from any structure the user chose."""
        if self.class_weight is not None and w is not None:
            raise ValueError(
                "fit: expected class_weight or sample_weight, got both. "
                "Multiply them into one sample_weight."
            )
        xs = by_position(as_listed(self.input, x), self.input_names, "x")
        xs = [fit_rank(a, shape) for a, shape in zip(xs, self.shapes, strict=True)]
        ys = [] if y is None else self._labels(y)
        if self.class_weight is not None and ys:
            w = class_weights(ys[0], self.class_weight)
        ws = [] if w is None else self._weights(w)
        rows = count_rows({"x": xs, "y": ys, "sample_weight": ws})
        check_inputs(xs, self.input_names, self.shapes)
        compute(xs, ys, ws)
        names = (*self.input_names, *self.output_names)
        for array, dtype, name in zip((*xs, *ys), self.dtypes, names, strict=False):
            if array is not None:
                check_real(array, dtype, f"data for {name!r}")
        if self.check is not None:
            self.check(xs, ys)
        return Batch(xs, ys, ws, rows, rows)

    def _labels(self, y: Any) -> list[Any]:
        """One entry for each output; labels may be left out of those that need none."""
        y, names = as_listed(self.output, y), self.output_names
        parts = y if isinstance(y, list | tuple) else [y]
        needed = self.labelled
        if not isinstance(y, Mapping) and len(parts) == len(needed) < len(names):
            y = {names[i]: part for i, part in zip(needed, parts, strict=True)}
        return by_position(y, names, "y", partial=True)

    def _weights(self, w: Any) -> list[Any]:
        names = self.output_names
        if len(names) > 1 and not isinstance(w, Mapping | list | tuple):
            return by_position([w] * len(names), names, "sample_weight")
        return by_position(w, names, "sample_weight", partial=True)

    def item(self, item: Any) -> Batch:
        """A batch from what an iterable yields: `(x, y, sample_weight)`, `(x, y)`, x or a dict."""
        batch = self.read(*self._unpack(item))
        return batch.part(self.share(batch.rows)) if self.share else batch

    def _unpack(self, item: Any) -> tuple:
        if isinstance(item, Mapping):
            names = set(self.input) if isinstance(self.input, dict) else set()
            inputs = set(item) <= set(self.input_names) or set(item) == names
            return (item,) if inputs else self._unpack_dict(item)
        if isinstance(item, list | tuple):
            if not 1 <= len(item) <= 3:
                raise ValueError(
                    "data: expected batches (x, y) or (x, y, sample_weight), "
                    f"got {len(item)} parts."
                )
            return tuple(item)
        return (item,)

    def _unpack_dict(self, item: Mapping) -> tuple:
        """One flat dict, as mlx.data yields: inputs, targets and `sample_weight` by name."""
        rest = {k: v for k, v in item.items() if k not in self.input_names}
        weight = rest.pop("sample_weight", None)
        inputs = {k: item[k] for k in self.input_names if k in item}
        if len(rest) == 1 and len(self.output_names) == 1:
            return inputs, next(iter(rest.values())), weight
        return inputs, rest or None, weight


class Source:
    """One or many passes over some batches.

    Attributes:
        steps: batches in a pass, None when not known.
        once: there is one pass only.
        endless: a pass has no end.
        ahead: how many batches a thread may make ahead; 0 for none. Known once a pass has started.
    """

    steps: int | None = None
    once = False
    endless = False
    ahead = 0

    def start(self, index: int, skip: int) -> Iterator[Batch]:
        """Pass number `index`, without its first `skip` batches."""
        raise NotImplementedError


class ArraySource(Source):
    """Rows of arrays, `size` at a time, in a new order each pass when `shuffle`.

    Arrays that fit in `limit` bytes become MLX arrays once, and rows are gathered on the device;
    memory maps and what is larger stay where they are and stream.
    """

    def __init__(
        self,
        batch: Batch,
        size: int | None = None,
        shuffle: bool | str = False,
        seed: int = 0,
        limit: int | None = None,
        share: Callable[[int], slice] | None = None,
    ) -> None:
        size = 32 if size is None else size
        if not is_count(size, 1):
            raise ValueError(f"batch_size: expected a positive int, got {size!r}.")
        size = int(size)
        self.size, self.shuffle, self.seed, self.share = size, shuffle, seed, share
        self.rows, self.steps = batch.rows, math.ceil(batch.rows / size)
        arrays = [a for a in chain(batch.x, batch.y, batch.w) if a is not None]
        limit = memory_size() // 4 if limit is None else limit
        held = all(isinstance(a, np.ndarray | mx.array) for a in arrays)
        size_in_bytes = sum(math.prod(a.shape) * np.dtype("f4").itemsize for a in arrays)
        small = held and size_in_bytes <= limit
        self.streams = not small or any(isinstance(a, np.memmap) for a in arrays)
        self.ahead = PREFETCH if self.streams else 0
        place = (lambda a: a) if self.streams else to_mlx
        self.groups = [
            [None if a is None else place(a) for a in g] for g in (batch.x, batch.y, batch.w)
        ]

    def order(self, index: int) -> np.ndarray | None:
        """The rows of pass `index`: the same for the same seed, whatever ran before."""
        if not self.shuffle:
            return None
        random = np.random.default_rng([self.seed, index])
        if self.shuffle == "batch":
            starts = random.permutation(self.steps or 0) * self.size
            return (starts[:, None] + np.arange(self.size)).ravel()
        return random.permutation(self.rows)

    def start(self, index: int, skip: int) -> Iterator[Batch]:
        order = self.order(index)
        for step in range(skip, self.steps or 0):
            first = step * self.size
            if order is None:
                rows: Any = slice(first, min(first + self.size, self.rows))
                total = rows.stop - first
            else:
                rows = order[first : first + self.size]
                rows = rows[rows < self.rows]
                total = len(rows)
            if self.share:
                part = self.share(total)
                rows = slice(first + part.start, first + part.stop) if order is None else rows[part]
            x, y, w = (
                [None if a is None else _take(a, rows) for a in group] for group in self.groups
            )
            own = len(rows) if order is not None else rows.stop - rows.start
            batch = Batch(x, y, w, own, total)
            yield batch.on_device() if self.streams else batch


def _take(array: Any, rows: Any) -> mx.array:
    if isinstance(array, mx.array):
        return array[rows] if isinstance(rows, slice) else array[mx.array(rows)]
    if isinstance(array, np.ndarray) or isinstance(rows, slice):
        return to_mlx(array[rows])
    # HDF5 wants its rows in increasing order.
    ordered = np.argsort(rows)
    return to_mlx(np.asarray(array[rows[ordered]])[np.argsort(ordered)])


def memory_size() -> int:
    """Bytes that the default device can hold."""
    size = mx.device_info().get("memory_size")
    return int(size or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


class IterableSource(Source):
    """Batches from any iterable; from a generator they come once.

    A source that yields NumPy arrays is read ahead by a thread. One that yields MLX arrays is
    read in place: MLX runs ahead by itself, and its random numbers belong to the thread.
    """

    def __init__(self, items: Iterable[Any], reader: Reader) -> None:
        self.items, self.reader = items, reader
        self.once = isinstance(items, Iterator) and not hasattr(items, "reset")
        self.steps = len(items) if isinstance(items, Sized) else None
        self._only: Iterator[Batch] | None = None
        self._started = False

    def start(self, index: int, skip: int) -> Iterator[Batch]:
        if self.once:
            if self._only is None:
                self._only = self._read(skip)
            return self._only
        if self._started and hasattr(self.items, "reset"):
            self.items.reset()
        self._started = True
        return self._read(skip)

    def _read(self, skip: int) -> Iterator[Batch]:
        items = islice(iter(self.items), skip, None)
        first = next(items, None)
        if first is None:
            return iter(())
        batches: Iterator[Batch] = map(self.reader.item, chain([first], items))
        self.ahead = 0 if _holds_mlx(first) else PREFETCH
        return (batch.on_device() for batch in batches)


class DatasetSource(Source):
    """A PyDataset, or anything with its methods; the order of batches is shuffled."""

    def __init__(self, dataset: Any, reader: Reader, shuffle: bool, seed: int) -> None:
        self.dataset, self.reader, self.shuffle, self.seed = dataset, reader, shuffle, seed
        self.steps = dataset.num_batches if hasattr(dataset, "num_batches") else len(dataset)
        self.endless = self.steps is None
        self.ahead = getattr(dataset, "max_queue_size", PREFETCH)
        if self.steps == 0:
            raise ValueError("data: expected at least one batch, got a dataset of length 0.")

    def order(self, index: int, skip: int) -> Iterable[int]:
        """The numbers of pass `index`'s batches, without the first `skip`."""
        if self.steps is None:
            return count(skip)
        if not self.shuffle:
            return range(skip, self.steps)
        random = np.random.default_rng([self.seed, index])
        return random.permutation(self.steps).tolist()[skip:]

    def start(self, index: int, skip: int) -> Iterator[Batch]:
        data = self.dataset
        workers = getattr(data, "workers", 1)
        processes = getattr(data, "use_multiprocessing", False)
        if hasattr(data, "on_epoch_begin"):
            data.on_epoch_begin()
        for item in fetch(data, self.order(index, skip), workers, processes, self.ahead):
            yield self.reader.item(item).on_device()
        data.on_epoch_end()


def _holds_mlx(item: Any) -> bool:
    if isinstance(item, Mapping):
        return any(_holds_mlx(v) for v in item.values())
    if isinstance(item, list | tuple):
        return any(_holds_mlx(v) for v in item)
    return isinstance(item, mx.array)


def is_stream(x: Any) -> bool:
    """Whether `x` yields batches, rather than being arrays."""
    if x is None or is_array(x) or hasattr(x, "to_numpy") or isinstance(x, Mapping):
        return False
    if isinstance(x, list) and x and all(isinstance(item, Mapping) for item in x):
        return True
    if isinstance(x, list | tuple):
        # A list of (x, y) pairs, not rows that happen to be tuples of numbers.
        pairs = isinstance(x, list) and all(isinstance(i, tuple) and len(i) in (2, 3) for i in x)
        return bool(x) and pairs and any(is_array(leaf) for leaf in leaves(x[0][0]))
    return isinstance(x, Iterable) or is_dataset(x)


def make_source(
    reader: Reader,
    x: Any,
    y: Any = None,
    sample_weight: Any = None,
    *,
    batch_size: int | None = None,
    shuffle: bool | str = False,
    seed: int = 0,
) -> Source:
    """The source for whatever the user gave.

    Raises: ValueError or TypeError for what does not fit the model, before any step runs.
    """
    if not is_stream(x):
        if x is None:
            raise ValueError("x: expected data, got None.")
        batch = reader.read(x, y, sample_weight)
        return ArraySource(batch, batch_size, shuffle, seed, share=reader.share)
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if value is not None:
            raise ValueError(
                f"{name}: expected None, because x yields batches. Yield (x, y, sample_weight)."
            )
    if is_dataset(x):
        return DatasetSource(x, reader, bool(shuffle), seed)
    return IterableSource(x, reader)
