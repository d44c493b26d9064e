"""Inputs that a model can take: arrays of the user, ids that exist, masks with valid steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlxfunc import layers
from mlx2onnx.builder import to_numpy
from mlx2onnx.indices import index_bounds
from mlx2onnx.modes import module_of
from mlx2onnx.runner import Runner, sizes_of
from mlx2onnx.session import NUMPY

# Two sizes for each other dynamic dimension; larger ones when the model refuses these.
OTHER_SIZES = ((11, 18), (44, 66), (176, 264), (704, 1056))
# No dimension is made larger than this for the indices of a given array.
LARGEST = 100_000

Point = dict[str, int]
Given = Sequence[Any] | Mapping[str, Any]
Samples = Given | Callable[[Point], Given]


class Sampler:
    """The inputs of one model's runs.

    Args:
        samples: arrays, a list in the order of the inputs or a dict by name, or a function of
            sizes that returns them. An input that has none, or None, gets random values:

    Floats are normal, with padded steps in front of a Masking layer. Integers that index are
    below the size of the axis that they index, with padded steps at 0; where they are computed
    with first, and where they index nothing, they are 0 and 1 (as masks are), the first one 1;
    uint8 that index nothing are 0 to 255. Booleans are valid or not, the first one valid.
    """

    def __init__(self, runner: Runner, samples: Samples | None = None) -> None:
        self.runner = runner
        self.function = samples if callable(samples) else None
        self.fixed = self._given(None if callable(samples) else samples, {})
        self.bounds = index_bounds(runner.proto)
        # The dynamic dimensions whose sizes are those of given arrays, and the least sizes of those
        # that given arrays index.
        self.bound: Point = {}
        self.least: Point = {}
        for entry, array in zip(runner.inputs, self.fixed, strict=True):
            if array is not None:
                self.bound |= sizes_of(runner.shape(entry), array.shape)
                for bound in self.bounds.get(entry.name, ()):
                    if isinstance(bound.size, str) and array.size:
                        least = min(int(array.max()) + 1, LARGEST)
                        self.least[bound.size] = max(self.least.get(bound.size, 1), least)

    @property
    def draws(self) -> bool:
        """Whether there are random values among the inputs."""
        return self.function is None and any(array is None for array in self.fixed)

    def trials(self, batches: Sequence[int]) -> Iterator[tuple[Point, list[np.ndarray]]]:
        """(sizes, arrays) of every run."""
        for index, point in enumerate(self._points(batches)):
            yield point, self.arrays(point, index)

    def _points(self, batches: Sequence[int]) -> Iterator[Point]:
        shapes = [self.runner.shape(entry) for entry in self.runner.inputs]
        free = {d for dims in shapes for d in dims if isinstance(d, str)} - set(self.bound)
        names = dict.fromkeys(d for dims in shapes for d in dims if d in free)
        batch = next((dims[0] for dims in shapes if dims and dims[0] in free), None)
        others = [name for name in names if name != batch]
        pair = self._accepted(batch, others)
        for index, size in enumerate(batches if batch else batches[:1]):
            sizes = pair[index % 2] | ({batch: size} if batch else {})
            yield self.bound | {d: max(size, self.least.get(d, 1)) for d, size in sizes.items()}

    def _accepted(self, batch: str | None, others: Sequence[str]) -> list[Point]:
        """The first two sizes of each dynamic dimension that the model takes, apart or equal."""
        first = self.bound | ({batch: 1} if batch else {})
        pairs = [
            [
                {name: pair[(k + turn * apart) % 2] for turn, name in enumerate(others)}
                for k in (0, 1)
            ]
            for pair in OTHER_SIZES
            for apart in (True, False)
        ]
        for points in pairs if others else ():
            try:
                for point in points:
                    # Nothing is computed: shapes are enough to refuse.
                    with self.runner.lazily(self.arrays(first | point, 0)):
                        pass
            except (ValueError, RuntimeError):
                continue
            return points
        return pairs[0]

    def arrays(self, point: Point, seed: int) -> list[np.ndarray]:
        """One run's inputs: those given, the others random."""
        rng = np.random.default_rng(seed)
        given = self.fixed
        if self.function is not None:
            given = self._given(self.function(dict(point)), point)
        return [
            self._drawn(rng, index, point) if array is None else array
            for index, array in enumerate(given)
        ]

    def of_shapes(self, shapes: Sequence[Sequence[int]], seed: int = 0) -> list[np.ndarray]:
        """One run's inputs, of these shapes; other numbers for another `seed`."""
        point: Point = {}
        for entry, shape in zip(self.runner.inputs, shapes, strict=True):
            point |= sizes_of(self.runner.shape(entry), shape)
        return self.arrays(point, seed)

    def constant_integers(
        self, arrays: Sequence[np.ndarray], value: int
    ) -> list[np.ndarray] | None:
        """The run with one value for all integers that were drawn; None when none were."""
        pairs = zip(self.fixed, self.runner.inputs, strict=True)
        drawn = [array is None and "int" in entry.type for array, entry in pairs]
        if self.function is not None or not any(drawn):
            return None
        return [
            np.full_like(array, value) if other else array
            for array, other in zip(arrays, drawn, strict=True)
        ]

    def near_zero(self, arrays: Sequence[np.ndarray], scale: float) -> list[np.ndarray]:
        """The run with floats that were drawn so much smaller."""
        return [
            (array * np.float32(scale)).astype(array.dtype)
            if given is None and np.issubdtype(array.dtype, np.floating)
            else array
            for array, given in zip(arrays, self.fixed, strict=True)
        ]

    def values(self) -> dict[str, str]:
        """By input: which values it has, in words."""
        if self.function is not None:
            return {entry.name: "those of samples" for entry in self.runner.inputs}
        return {
            entry.name: self._kind(index) if array is None else "as given"
            for index, (entry, array) in enumerate(zip(self.runner.inputs, self.fixed, strict=True))
        }

    # arrays of the user -----------------------------------------------------------------------

    def _given(self, samples: Given | None, point: Point) -> list[np.ndarray | None]:
        """One array an input, or None; checked, in the file's types."""
        entries = self.runner.inputs
        names = [entry.name.removeprefix(self.runner.prefix) for entry in entries]
        if samples is None:
            return [None] * len(entries)
        if isinstance(samples, Mapping):
            found = {str(name).removeprefix(self.runner.prefix): a for name, a in samples.items()}
            unknown = [name for name in found if name not in names]
            if unknown:
                raise ValueError(
                    f"samples: expected inputs of the file, got {unknown[0]!r}. "
                    f"There is {', '.join(names) or 'none'}."
                )
            arrays = [found.get(name) for name in names]
        elif isinstance(samples, list | tuple):
            arrays = list(samples)
            if len(arrays) != len(names):
                raise ValueError(
                    f"samples: expected {len(names)} arrays, for {', '.join(names)}, got "
                    f"{len(arrays)}. Give one for each, None for random values, or a dict by name."
                )
        else:
            raise TypeError(
                f"samples: expected a list or dict of arrays, or a function of sizes that returns "
                f"one, got {type(samples).__name__}."
            )
        sizes = dict(point)
        return [
            None if array is None else self._checked(array, entry, sizes)
            for array, entry in zip(arrays, entries, strict=True)
        ]

    def _checked(self, value: Any, entry: Any, sizes: Point) -> np.ndarray:
        """One array; `sizes` collects those of the dynamic dimensions."""
        array, dims = to_numpy(value), self.runner.shape(entry)
        wanted = [sizes.get(d, d) if isinstance(d, str) else d for d in dims]
        fits = array.ndim == len(dims) and all(
            size == (sizes.setdefault(d, size) if isinstance(d, str) else d or size)
            for size, d in zip(array.shape, dims, strict=True)
        )
        if not fits:
            raise ValueError(
                f"samples: expected {entry.name} of shape ({', '.join(map(str, wanted))}), got "
                f"{array.shape}. Give it as the model takes it."
            )
        kind = np.dtype(NUMPY[entry.type])
        if not np.can_cast(array.dtype, kind, "same_kind") and not _holds(kind, array):
            raise TypeError(
                f"samples: expected {entry.name} of dtype {kind}, got {array.dtype}. Convert it."
            )
        return array.astype(kind, copy=False)

    # random arrays ----------------------------------------------------------------------------

    def _drawn(self, rng: np.random.Generator, index: int, point: Point) -> np.ndarray:
        entry = self.runner.inputs[index]
        shape = tuple(point.get(d, d) for d in self.runner.shape(entry))
        kind, right_only = NUMPY[entry.type], self.runner.right_padded
        if kind is np.bool_ and right_only:
            return _padded(rng, np.ones(shape, bool), False, right_only)
        if kind is np.bool_:
            return _bits(rng, shape, 0.7).astype(bool)
        if "int" in entry.type:
            limit = self._limit(index, point)
            if limit is not None and limit != 2:
                array = rng.integers(min(1, limit - 1), max(limit, 1), shape)
                array = _padded(rng, array, 0, right_only)
            elif limit is None and kind == np.uint8:
                array = rng.integers(0, 256, shape)
            else:
                array = _bits(rng, shape, 0.5)
            return array.astype(kind)
        array = self._rounded(rng.standard_normal(shape).astype(kind), index)
        for layer in _consumers(self.runner.source, index):
            if isinstance(layer, layers.Masking) and array.ndim > 1:
                array = _padded(rng, array, layer.mask_value, right_only)
        return array

    def _rounded(self, array: np.ndarray, index: int) -> np.ndarray:
        """Numbers that an input of a Model in half precision has."""
        source = self.runner.source
        if not isinstance(source, mf.Model) or source.inputs[index].dtype == mx.float32:
            return array
        return to_numpy(mx.array(array).astype(source.inputs[index].dtype)).astype(array.dtype)

    def _limit(self, index: int, point: Point) -> int | None:
        """What ids of an input stay below; None when nothing is known."""
        bounds = self.bounds.get(self.runner.inputs[index].name)
        if not bounds:
            return None
        sizes = [
            (point.get(b.size) if isinstance(b.size, str) else b.size, b.direct) for b in bounds
        ]
        limit = min(2 if size is None or not direct else size for size, direct in sizes)
        tables = _tables(self.runner.source)
        # A file of another model may have larger tables than this one.
        return min([limit, *tables]) if tables and limit > max(tables) else limit

    def _kind(self, index: int) -> str:
        entry = self.runner.inputs[index]
        if entry.type == "tensor(bool)":
            return "true and false"
        if "int" not in entry.type:
            return "normal"
        bounds = self.bounds.get(entry.name)
        if not bounds:
            return "0 to 255" if entry.type == "tensor(uint8)" else "0 and 1"
        known = [b.size for b in bounds if b.direct and b.size is not None]
        if len(known) < len(bounds):
            return "0 and 1, for indices that are computed"
        return f"0 to below {' and '.join(dict.fromkeys(map(str, known)))}"


def _holds(kind: np.dtype, array: np.ndarray) -> bool:
    """Whether integers, or booleans, keep their values in another type."""
    exact = array.dtype.kind in "iub" and kind.kind in "iubf"
    return exact and bool((array.astype(kind) == array).all())


def _bits(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> np.ndarray:
    """0 and 1, such a share of 1; the first of each row is 1."""
    bits = np.asarray(rng.random(shape) < share).astype(np.int64)
    bits[..., :1] = 1
    return bits


def _padded(
    rng: np.random.Generator, array: np.ndarray, value: float, right_only: bool
) -> np.ndarray:
    """Rows in turn whole, padded at the end, at the start, and with a hole."""
    if array.ndim < 2:
        return array
    steps = array.shape[1]
    for row in range(1, len(array)):
        cut = int(rng.integers(0, steps + 1))
        if row % 3 == 1 or right_only:
            array[row, cut:] = value
        elif row % 3 == 2:
            array[row, :cut] = value
        else:
            array[row, steps // 3 : steps // 2 + 1] = value
    return array


def _tables(source: Any) -> list[int]:
    """How many rows each Embedding of a source has."""
    module = module_of(source)
    return [
        each.input_dim if isinstance(each, layers.Embedding) else each.weight.shape[0]
        for each in ([] if module is None else module.modules())
        if isinstance(each, (layers.Embedding, nn.Embedding))
    ]


def _consumers(source: Any, index: int) -> list[Any]:
    """The layers that use input `index`, also through layers without weights and inner models."""
    if not isinstance(source, mf.Model):
        return []
    found: list[Any] = []
    reached = {id(source.inputs[index])}
    for node in source.graph.nodes:
        places = [k for k, tensor in enumerate(node.inputs) if id(tensor) in reached]
        if not places or not node.inputs:
            continue
        if isinstance(node.layer, mf.Model):
            for k in places:
                found += _consumers(node.layer, k)
            continue
        found.append(node.layer)
        if not node.layer.weights:
            reached |= {id(tensor) for tensor in node.outputs}
    return found


def examples(inputs: Any) -> list[Any] | None:
    """The arrays among the `inputs` of a module or function, to verify with.

    An array whose elements are all equal stands for its shape.
    """
    entries = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs or ())
    arrays = [to_numpy(e) if isinstance(e, (mx.array, np.ndarray)) else None for e in entries]
    kept = [a if a is not None and (a.size == 1 or np.ptp(a) != 0) else None for a in arrays]
    return None if all(a is None for a in kept) else kept
