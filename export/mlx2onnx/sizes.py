"""Sizes that depend on dynamic dimensions, recovered from a few traces at different sizes."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

# Sizes are primes, three a dynamic dimension, so that no size is a product of others; from the
# second start on when a function refuses the first ones (a kernel may be larger).
STARTS = (7, 79, 401)
MAX_SYMBOLS = 12

Term = tuple[tuple[str, ...], int]
Probe = Mapping[str, int]


@dataclass(frozen=True)
class Size:
    """An integer that was different in the probes: `values`, one a probe.

    `formula` is the sum of coefficient · product of dynamic dimensions that gives them, or None
    when there is none. Two sizes are equal when they were equal in every probe.
    """

    values: tuple[int, ...]
    formula: tuple[Term, ...] | None = field(compare=False)

    @property
    def symbol(self) -> str | None:
        """The dynamic dimension that this is, if it is just one."""
        match self.formula:
            case (((name,), 1),):
                return name
        return None

    @property
    def may_be_none(self) -> bool:
        """Whether it is 0 or less where every dimension is 1."""
        return self.formula is not None and sum(c for _, c in self.formula) < 1

    def minus(self, other: int | Size) -> int | None:
        """`self - other` if that is the same in every probe."""
        others = other.values if isinstance(other, Size) else (other,) * len(self.values)
        differences = {a - b for a, b in zip(self.values, others, strict=True)}
        return differences.pop() if len(differences) == 1 else None


Int = int | Size


def probes(symbols: Sequence[str], start: int = STARTS[0]) -> list[dict[str, int]]:
    """All first sizes; then the second sizes of one, two (and three) symbols; all third sizes."""
    if not symbols:
        return [{}]
    primes = (n for n in itertools.count(start) if all(n % d for d in range(2, math.isqrt(n) + 1)))
    sizes = {s: tuple(itertools.islice(primes, 3)) for s in symbols}
    points = [{s: sizes[s][s in raised] for s in symbols} for raised in _subsets(symbols)]
    return [*points, {s: sizes[s][2] for s in symbols}]


def _subsets(symbols: Sequence[str]) -> list[tuple[str, ...]]:
    """The products of dimensions that a size may hold: of few dimensions, up to three."""
    degree = 3 if len(symbols) <= 4 else 2
    return [c for n in range(degree + 1) for c in itertools.combinations(symbols, n)]


def unify(values: Sequence[int], points: Sequence[Probe]) -> Int:
    """The integer that was `values` in the probes, symbolic if it differed."""
    if len(set(values)) == 1:
        return values[0]
    return Size(tuple(values), solve(values, points))


def solve(values: Sequence[int], points: Sequence[Probe]) -> tuple[Term, ...] | None:
    """The multilinear form in the dynamic dimensions with these values, if its terms are whole."""
    return _solve(tuple(values), tuple(tuple(p.items()) for p in points))


@functools.lru_cache(maxsize=4096)  # the same few sizes recur in every primitive
def _solve(
    values: tuple[int, ...], items: tuple[tuple[tuple[str, int], ...], ...]
) -> tuple[Term, ...] | None:
    points = [dict(point) for point in items]
    raised = _subsets(list(points[0]))
    found = dict(zip(raised, values, strict=False))
    terms: dict[tuple[str, ...], Fraction] = {}
    for names in raised:
        expanded = _expanded(names, points[0], _slope(names, found, points))
        for part, factor in expanded.items():
            terms[part] = terms.get(part, Fraction(0)) + factor
    if any(c.denominator != 1 for c in terms.values()):
        return None
    formula = tuple(sorted((names, int(c)) for names, c in terms.items() if c))
    right = all(evaluate(formula, p) == v for p, v in zip(points, values, strict=True))
    return formula if right else None


def _slope(
    names: tuple[str, ...], found: Mapping[tuple[str, ...], int], points: Sequence[Probe]
) -> Fraction:
    """The mixed difference quotient over the symbols `names`."""
    inner = (c for n in range(len(names) + 1) for c in itertools.combinations(names, n))
    total = sum((-1) ** (len(names) - len(c)) * found[c] for c in inner)
    second = {s: next(p[s] for p in points if p[s] != points[0][s]) for s in names}
    return Fraction(total, math.prod(second[s] - points[0][s] for s in names))


def _expanded(
    names: tuple[str, ...], low: Probe, slope: Fraction
) -> dict[tuple[str, ...], Fraction]:
    """slope · product of (symbol - low), multiplied out."""
    return {
        kept: slope * math.prod(-low[s] for s in names if s not in kept)
        for n in range(len(names) + 1)
        for kept in itertools.combinations(names, n)
    }


def evaluate(formula: Sequence[Term], point: Probe) -> int:
    """The formula's value at given sizes."""
    return sum(c * math.prod(point[name] for name in names) for names, c in formula)


@dataclass(frozen=True)
class Scaled:
    """A scalar constant that is `factor · product(symbols) ** power`, power 1 or -1."""

    factor: float
    symbols: tuple[str, ...]
    power: int


def solve_constant(values: Sequence[np.ndarray], points: Sequence[Probe]) -> Scaled | Size | None:
    """How a scalar constant depends on the dynamic dimensions: c·N, c/N, or a whole linear form."""
    if any(v.shape != () for v in values) or not np.issubdtype(values[0].dtype, np.number):
        return None
    numbers = [float(v) for v in values]
    for count in range(1, len(points[0]) + 1):
        for symbols in itertools.combinations(points[0], count):
            products = [math.prod(p[s] for s in symbols) for p in points]
            for power in (1, -1):
                factors = [v / n**power for v, n in zip(numbers, products, strict=True)]
                if np.allclose(factors, factors[0], rtol=3e-7, atol=0):
                    return Scaled(_plain(factors), symbols, power)
    if all(n.is_integer() for n in numbers):
        size = unify([int(n) for n in numbers], points)
        return size if isinstance(size, Size) and size.formula is not None else None
    return None


def shares(counts: Sequence[int]) -> list[float]:
    """One over each count, as MLX has it."""
    return [1 / c if c else math.inf for c in counts]


def _plain(factors: Sequence[float]) -> float:
    """The factor, whole when rounding alone keeps it from that."""
    mean = sum(factors) / len(factors)
    return float(round(mean)) if abs(mean - round(mean)) < 3e-7 * abs(mean) else mean


def products(dims: Sequence[Int], count: int) -> list[int]:
    """The product of sizes in each of `count` probes."""
    columns = [d.values if isinstance(d, Size) else (d,) * count for d in dims]
    return [math.prod(column) for column in zip(*columns, strict=True)] or [1] * count


def as_text(size: Any) -> str:
    """A size as people write it: `2·batch + 1`."""
    if not isinstance(size, Size):
        return str(size)
    if size.formula is None:
        return f"a size that was {', '.join(map(str, size.values))}"
    parts = []
    for names, c in reversed(size.formula):
        parts.append("·".join([*([str(c)] if c != 1 or not names else []), *names]))
    return " + ".join(parts)
