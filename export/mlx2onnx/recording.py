"""What a function computes, as typed MLX primitives, with sizes as forms of dynamic dimensions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx2onnx import bounds, sizes
from mlx.utils import tree_map
from mlx2onnx.builder import to_numpy
from mlx2onnx.sizes import Int, Size

Dim = int | str | None
Spec = tuple[tuple[Dim, ...], mx.Dtype]


@dataclass(frozen=True)
class Array:
    """One array of a recording."""

    name: str
    shape: tuple[Int, ...]
    dtype: mx.Dtype


@dataclass(frozen=True)
class Primitive:
    """One MLX primitive: its name, positional arguments, and arrays."""

    name: str
    arguments: tuple[Any, ...]
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


@dataclass(frozen=True)
class Differs:
    """A constant that depends on a dynamic dimension; `form` is None when it cannot be computed."""

    form: sizes.Scaled | Size | None
    values: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Recording:
    """A traced function. `structure` is what must not depend on the sizes."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    constants: dict[str, mx.array | Differs]
    primitives: tuple[Primitive, ...]
    probes: int = 1

    @property
    def structure(self) -> list[Any]:
        return [
            (
                p.name,
                [a.name for a in p.inputs],
                [(a.name, a.dtype, len(a.shape)) for a in p.outputs],
            )
            for p in self.primitives
        ] + [list(self.constants), [a.name for a in self.outputs]]


@dataclass(frozen=True)
class Traced:
    """A function recorded at several sizes.

    `specs` have a name for every dynamic dimension; `sources` holds an input and axis that has
    it, and `points` the sizes of each recording.
    """

    recording: Recording
    specs: tuple[Spec, ...]
    sources: dict[str, tuple[int, int]]
    points: list[dict[str, int]]


def leaves(tree: Any) -> list[Any]:
    """The arrays of a structure, in `tree_flatten` order."""
    found: list[Any] = []
    tree_map(found.append, tree)
    return found


class SizeDependent(Exception):
    """The computation itself changes with the size of a dynamic dimension."""


def has_empty_arrays(recording: Recording) -> bool:
    return any(0 in a.shape for p in recording.primitives for a in p.outputs)


class Grows(SizeDependent):
    """The larger a dimension, the more primitives: a loop over it."""


def record(fn: Callable[..., Any], arrays: Sequence[mx.array]) -> Recording:
    """Runs `fn(*arrays)` symbolically and returns what MLX would compute.

    Raises: what `fn` raises; TooSmall where MLX would read past the end of an array.
    """
    events: list[dict[str, Any]] = []

    def flat(*inputs: mx.array) -> list[mx.array]:
        return [v if isinstance(v, mx.array) else mx.array(v) for v in leaves(fn(*inputs))]

    # On the CPU stream LayerNorm, RoPE and attention expand to plain primitives on every machine.
    with mx.stream(mx.cpu):
        mx.export_function(events.append, flat, *arrays)
    by_type = {e["type"]: e for e in events if e["type"] != "primitive"}
    found = Recording(
        _arrays(by_type["inputs"]["inputs"]),
        _arrays(by_type["outputs"]["outputs"]),
        dict(by_type["constants"]["constants"]),
        tuple(_primitive(e) for e in events if e["type"] == "primitive"),
    )
    bounds.check(found.primitives)
    return found


def check_bounds(fn: Callable[..., Any], arrays: Sequence[mx.array]) -> None:
    """Raises: TooSmall if `fn(*arrays)` would read past the end of an array."""
    try:
        record(fn, arrays)
    except bounds.TooSmall:
        raise
    except Exception:
        return  # What cannot be recorded says so when it runs.


def _primitive(event: Mapping[str, Any]) -> Primitive:
    arrays = _arrays(event["inputs"]), _arrays(event["outputs"])
    return Primitive(event["name"], _frozen(event["arguments"]), *arrays)


def _frozen(argument: Any) -> Any:
    return tuple(map(_frozen, argument)) if isinstance(argument, (list, tuple)) else argument


def _arrays(entries: Sequence[tuple[str, tuple[int, ...], mx.Dtype]]) -> tuple[Array, ...]:
    return tuple(Array(name, tuple(shape), dtype) for name, shape, dtype in entries)


def record_at_all_sizes(
    fn: Callable[..., Any], specs: Sequence[Spec], given: Sequence[mx.array | None]
) -> Traced:
    """Records `fn` at the probe sizes and merges the recordings.

    Unnamed dimensions are told apart, unless `fn` only takes them when they are equal; sizes that
    `fn` refuses (smaller than a kernel), or at which it is not yet what it is at larger ones, are
    tried larger; so are those that leave an array without elements.

    Raises: SizeDependent; what `fn` raised first, when it fails at every size.
    """
    error: Exception | None = None
    empty: Traced | None = None
    for named in dict.fromkeys((_name(specs, True), _name(specs, False))):
        sources: dict[str, tuple[int, int]] = {}
        for i, (shape, _) in enumerate(named):
            for axis, dim in enumerate(shape):
                if isinstance(dim, str):
                    sources.setdefault(dim, (i, axis))
        if len(sources) > sizes.MAX_SYMBOLS:
            error = error or ValueError(
                f"expected at most {sizes.MAX_SYMBOLS} dynamic dimensions, got {len(sources)}. "
                "Give equal ones the same name"
            )
            continue
        for start in sizes.STARTS[: 3 if sources else 1]:
            points = sizes.probes(list(sources), start)
            try:
                found = [record(fn, inputs_at(named, given, point)) for point in points]
                traced = Traced(merge(found, points), named, sources, points)
            except Grows:
                raise
            except Exception as e:
                if "Unable to get state" in str(e):
                    raise
                error = error or e
                continue
            if not sources or not any(map(has_empty_arrays, found)):
                return traced
            empty = empty or traced
    if empty is not None:
        return empty
    assert error is not None
    error.add_note(f"while tracing a function for inputs of shapes {[s for s, _ in specs]}")
    raise error


class Unnamed(str):
    """What the file calls a dimension that has no name: it may have to be equal to another one."""


def _name(specs: Sequence[Spec], apart: bool) -> tuple[Spec, ...]:
    """Names for None: one for all first axes; for others one an input and axis, or one an axis."""

    def name(i: int, axis: int, dim: Any) -> Any:
        if dim is None:
            return f"{f'_{i}' if apart and axis else ''}_axis_{axis}"
        return f"_axis_{axis}" if isinstance(dim, Unnamed) and not apart else dim

    return tuple(
        (tuple(name(i, axis, dim) for axis, dim in enumerate(shape)), dtype)
        for i, (shape, dtype) in enumerate(specs)
    )


def inputs_at(
    specs: Sequence[Spec], given: Sequence[mx.array | None], point: Mapping[str, int]
) -> list[mx.array]:
    """Zeros in the specs' shapes at a point, or the arrays that are given."""
    arrays = []
    for (shape, dtype), array in zip(specs, given, strict=True):
        now = [d if isinstance(d, int) else point[str(d)] for d in shape]
        arrays.append(mx.zeros(now, dtype) if array is None else array)
    return arrays


def merge(found: Sequence[Recording], points: Sequence[Mapping[str, int]]) -> Recording:
    """One recording out of those at the probe sizes."""
    first = found[0]
    if len(found) == 1:
        return first
    if any(r.structure != first.structure for r in found[1:]):
        raise _different(found, points)

    def arrays(groups: Sequence[Sequence[Array]]) -> tuple[Array, ...]:
        return tuple(
            Array(same[0].name, _merge_values([a.shape for a in same], points), same[0].dtype)
            for same in zip(*groups, strict=True)
        )

    return Recording(
        arrays([r.inputs for r in found]),
        arrays([r.outputs for r in found]),
        {
            name: _merge_constant([r.constants[name] for r in found], points)
            for name in first.constants
        },
        tuple(
            Primitive(
                same[0].name,
                _merge_values([p.arguments for p in same], points),
                arrays([p.inputs for p in same]),
                arrays([p.outputs for p in same]),
            )
            for same in zip(*(r.primitives for r in found), strict=True)
        ),
        len(found),
    )


def _different(found: Sequence[Recording], points: Sequence[Mapping[str, int]]) -> SizeDependent:
    """The error of recordings that are not the same computation."""
    counts = [len(r.primitives) for r in found]
    place = next(i for i, r in enumerate(found) if r.structure != found[0].structure)
    names = [n for n, size in points[place].items() if size != points[0][n]]
    sizes = [", ".join(f"{n} {points[i][n]}" for n in names) for i in (0, place)]
    what = f"{counts[0]} primitives at {sizes[0]}, {counts[place]} at {sizes[1]}"
    kind = Grows if counts[0] < counts[-2] < counts[-1] else SizeDependent
    return kind(
        f"expected the same computation at every size of {', '.join(names)}, got {what}. Fix the "
        "size, or compute without a loop or branch over it"
    )


def _merge_values(values: Sequence[Any], points: Sequence[Mapping[str, int]]) -> Any:
    """Arguments of the same primitive: equal, or sizes."""
    first = values[0]
    if isinstance(first, (list, tuple)):
        return tuple(_merge_values(same, points) for same in zip(*values, strict=True))
    if all(v == first for v in values):
        return first
    if all(isinstance(v, (int, float)) and float(v).is_integer() for v in values):
        return sizes.unify([int(v) for v in values], points)
    raise SizeDependent(f"an argument was {', '.join(map(str, values))}")


def _merge_constant(values: Sequence[Any], points: Sequence[Mapping[str, int]]) -> Any:
    first = values[0]
    if all(same_array(first, v) for v in values[1:]):
        return first
    arrays = tuple(to_numpy(v) for v in values)
    return Differs(sizes.solve_constant(arrays, points), arrays)


def same_array(a: mx.array, b: mx.array) -> bool:
    """Whether two arrays have the same type and values."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.size == 1 and a.item() == b.item():
        return True
    if address(a) == address(b):
        return True
    x, y = to_numpy(a), to_numpy(b)
    return np.array_equal(x, y, equal_nan=np.issubdtype(x.dtype, np.inexact))


def address(array: mx.array) -> tuple[Any, ...]:
    """Tells arrays apart by where they are stored; two views of one buffer are the same array."""
    if array.dtype == mx.bfloat16:
        array = array.view(mx.uint16)
    view = np.asarray(array)
    return (view.ctypes.data, view.dtype.str, view.shape, view.strides)
