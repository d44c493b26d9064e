"""How far a recording holds: the function is recorded again at sizes far from the probes.

Where the recording at a size is what the merged one says, the file is right there. Where it is
not, it may compute the same in another way (in chunks, say): then the file has to be run.

A branch at one size, or at a few, is seen where `LADDER` has them: 1 to 17 and the powers of two up
to 1024 with their neighbours are there, 37 is not. Of a dimension of a function that takes
milliseconds to record, only the first sizes of the ladder are seen. A branch on several dimensions
(`if n == 3 and m == 5`) is seen where all others are at their probe, or all are equal.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import mlx.core as mx
import numpy as np
from mlx2onnx import lines, sizes
from mlx2onnx.builder import to_numpy
from mlx2onnx.recording import (
    Differs,
    Primitive,
    Recording,
    Spec,
    Traced,
    inputs_at,
    record,
    same_array,
)
from mlx2onnx.sizes import Size

# Those that tell most come first: far away, one, all small ones, the powers of two with their
# neighbours, and such as people write.
FAR, DIVISIBLE = 20_011, 384_000  # Most steps divide the second.
LADDER = tuple(
    dict.fromkeys((
        FAR, 1, DIVISIBLE, 2, DIVISIBLE + 1, 1025, 64, 100, *range(3, 17),
        *(2**power + by for power in range(4, 11) for by in (1, 0, -1)),
        DIVISIBLE - 1, 1000, 500, 200, 50, 20, 24, 48, 2049, 30, 40, 60, 80, 90, 96, 150, 300, 384,
        18, 19, 25, 36, 70, 700, 2000, 4097,
    ))
)  # fmt: skip
# Seconds to record in, and the fewest sizes of a dimension, however long one takes.
BUDGET, FEWEST = 0.3, 4
# Where it has so many times the primitives it is a loop: larger sizes only cost more.
GROWTH = 8
# So it is where it takes so many seconds and times more: it may compute with lists or NumPy.
SLOW, SLOWER = 0.5, 20

# Other sizes of the other dimensions, and the most elements in all arrays of a run there.
OTHERS, MOST_ELSEWHERE = 131, 2**24

Point = Mapping[str, int]


@dataclass(frozen=True)
class Difference:
    """A primitive that is not what the recording says, and how."""

    primitive: str
    arguments: tuple[Any, ...]
    text: str


@dataclass(frozen=True)
class Sample:
    """What a function is at a point: how it differs from the recording, and how large it is."""

    point: Point
    difference: Difference | None
    primitives: int
    elements: int

    @property
    def differs(self) -> bool:
        return self.difference is not None


@dataclass
class Doubt:
    """Sizes at which a function is not what was recorded; at those of `base` it is.

    `axes` holds samples by the dimension that alone was another one, in ascending order; `joint`
    those at which all were.
    """

    function: Callable[..., Any]
    specs: Sequence[Spec]
    given: Sequence[mx.array | None]
    base: Point
    axes: dict[str, list[Sample]] = field(default_factory=dict)
    joint: list[Sample] = field(default_factory=list)

    def fork(self, point: Point) -> str | None:
        """The line of the function that decides, if it is a branch."""
        with contextlib.suppress(Exception):
            return lines.fork([partial(self.record, at) for at in (self.base, point)])
        return None

    def record(self, point: Point) -> Recording:
        return record(self.function, inputs_at(self.specs, self.given, point))

    def elsewhere(self, name: str, size: int) -> Point | None:
        """A point with this size, and others than those of `base` in the other dimensions."""
        others = {n: OTHERS + 2 * place for place, n in enumerate(self.base)}
        point = others | {name: size}
        try:
            found = self.record(point)
        except Exception:
            return None
        return point if len(self.base) > 1 and _elements(found) <= MOST_ELSEWHERE else None

    def shapes(self, point: Point) -> list[list[int]]:
        """The inputs' shapes."""
        return [[d if isinstance(d, int) else point[str(d)] for d in s] for s, _ in self.specs]


def explore(
    fn: Callable[..., Any], traced: Traced, given: Sequence[mx.array | None]
) -> Doubt | None:
    """Records `fn` at sizes far away; None when it is everywhere what was recorded."""
    names = list(traced.sources)
    if not names:
        return None

    def sample(point: Point) -> Sample | None:
        try:
            found = doubt.record(point)
        except Exception:
            return None  # The function refuses this size.
        differs = difference(traced.recording, found, point)
        return Sample(point, differs, len(found.primitives), _elements(found))

    base = traced.points[0]
    doubt = Doubt(fn, traced.specs, given, base)
    doubt.joint = list(filter(None, map(sample, _joint(names)))) if len(names) > 1 else []
    primitives = max(len(traced.recording.primitives), 10)
    start = time.thread_time()
    there = sample(base)
    each = time.thread_time() - start
    ladder = LADDER[: max(FEWEST, int(BUDGET / (each * len(names))))]
    for name in names:

        def at(size: int, name: str = name) -> Sample | None:
            return sample({**base, name: size})

        found = {base[name]: there}
        doubt.axes[name] = _climb(at, found, ladder, GROWTH * primitives)
    samples = itertools.chain(doubt.joint, *doubt.axes.values())
    return doubt if any(s.differs for s in samples) else None


def _joint(names: Sequence[str]) -> Iterator[Point]:
    """Points at which all dimensions are equal, and where all are large and apart."""
    for size in (1, 2, 96):
        yield dict.fromkeys(names, size)
    yield {name: 301 + 2 * place for place, name in enumerate(names)}


def _climb(
    sample: Callable[[int], Sample | None],
    found: dict[int, Sample | None],
    ladder: Sequence[int],
    most: int,
) -> list[Sample]:
    """Samples at these sizes beside those found, and on both sides of where the function begins to
    differ or to refuse: what is left of a slice may be one step there.
    """
    slow = math.inf
    for size in sorted(ladder):
        start = time.perf_counter()
        found[size] = here = sample(size)
        seconds = time.perf_counter() - start
        if seconds > slow or (here is not None and here.primitives > most):
            break
        slow = min(slow, SLOW + SLOWER * seconds)

    def between(low: int, high: int) -> None:
        if high - low > 1 and _state(found[low]) != _state(found[high]):
            middle = (low + high) // 2
            found[middle] = sample(middle)
            between(low, middle)
            between(middle, high)

    for low, high in itertools.pairwise(sorted(found)):
        between(low, high)
    return [here for _, here in sorted(found.items()) if here is not None]


def _state(sample: Sample | None) -> bool | None:
    return None if sample is None else sample.differs


def _elements(recording: Recording) -> int:
    made = (a for p in recording.primitives for a in p.outputs)
    shapes: Sequence[Any] = [a.shape for a in (*recording.inputs, *made)]
    return sum(map(math.prod, shapes))


def difference(merged: Recording, found: Recording, point: Point) -> Difference | None:
    """How the recording at a point differs from what the merged one says of it."""
    for expected, actual in zip(merged.primitives, found.primitives, strict=False):
        if expected.name != actual.name or len(expected.inputs) != len(actual.inputs):
            text = f"{actual.name} in the place of {expected.name}"
            return Difference(actual.name, actual.arguments, text)
    if merged.structure != found.structure:
        more = len(found.primitives) - len(merged.primitives)
        text = f"{abs(more)} {'more' if more > 0 else 'fewer'} primitives" if more else "other uses"
        return Difference("trace", (), text)
    if (empty := _newly_empty(merged, found)) is not None:
        return Difference(empty.name, empty.arguments, "an array has no elements")
    known: dict[Size, int] = {}

    def same(expected: Any, actual: Any) -> bool:
        if expected == actual:
            return True
        if isinstance(expected, tuple):
            return all(map(same, expected, actual))
        if not isinstance(expected, Size):
            return bool(expected != expected and actual != actual)
        if expected not in known:
            # Sizes without a formula are read from each other.
            formula = expected.formula
            known[expected] = actual if formula is None else sizes.evaluate(formula, point)
        return known[expected] == actual

    for expected, actual in zip(merged.primitives, found.primitives, strict=True):
        if not same(expected.arguments, actual.arguments):
            pairs = list(zip(expected.arguments, actual.arguments, strict=True))
            place = next(place for place, pair in enumerate(pairs) if not same(*pair))
            text = f"argument {place} is {as_text(pairs[place][1])}, not {as_text(pairs[place][0])}"
            return Difference(actual.name, actual.arguments, text)
        for a, b in zip(expected.outputs, actual.outputs, strict=True):
            if not same(a.shape, b.shape):
                text = f"its shape is {as_text(b.shape)}, not {as_text(a.shape)}"
                return Difference(actual.name, actual.arguments, text)
    for name, constant in merged.constants.items():
        now: Any = found.constants[name]
        if isinstance(constant, Differs) and constant.form is None:
            same_constant = _same_count(constant, now, merged, found)
        else:
            same_constant = _same_constant(constant, now, point)
        if not same_constant:
            return Difference("constant", (), "a constant has another value")
    return None


def _newly_empty(merged: Recording, found: Recording) -> Primitive | None:
    """A primitive that gives no elements here: runtimes differ in what they make of none."""
    for expected, actual in zip(merged.primitives, found.primitives, strict=True):
        for a, b in zip(expected.outputs, actual.outputs, strict=True):
            if 0 in b.shape and 0 not in a.shape:
                return actual
    return None


def _same_constant(expected: mx.array | Differs, actual: Any, point: Point) -> bool:
    if not isinstance(expected, Differs):
        return same_array(expected, actual)
    form = expected.form
    assert form is not None
    value = float(to_numpy(actual).reshape(()))
    if isinstance(form, Size):
        return form.formula is not None and sizes.evaluate(form.formula, point) == value
    product = math.prod(point[s] for s in form.symbols)
    return math.isclose(value, form.factor * float(product) ** form.power, rel_tol=1e-6)


def _same_count(expected: Differs, actual: mx.array, merged: Recording, found: Recording) -> bool:
    """Whether a constant is still the count, or one over it, that makes a mean of a sum.

    Nothing else takes a constant that cannot be computed.
    """
    for sum_, now in zip(merged.primitives, found.primitives, strict=True):
        if sum_.name != "Reduce" or any(v.shape != () for v in expected.values):
            continue
        dims, dims_now = ([p.inputs[0].shape[a] for a in p.arguments[1]] for p in (sum_, now))
        counts = sizes.products(dims, len(expected.values))
        (count,) = sizes.products(dims_now, 1)
        for before, after in ((counts, [count]), (sizes.shares(counts), sizes.shares([count]))):
            if np.allclose([float(v) for v in expected.values], before, rtol=3e-7, atol=0):
                return actual.shape == () and bool(np.isclose(actual.item(), after[0], rtol=1e-6))
    return True


def as_text(argument: Any) -> str:
    """An argument as people write it."""
    if isinstance(argument, tuple):
        return f"({', '.join(map(as_text, argument))})"
    return sizes.as_text(argument)
