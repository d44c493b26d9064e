"""Runs what is in doubt: a function and its ONNX form, at sizes where it is not what was traced."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import onnx
from mlx2onnx import trace
from mlx2onnx.assembly import Assembly
from mlx2onnx.builder import Builder
from mlx2onnx.convert import Problem, UnsupportedLayers
from mlx2onnx.lowering import Missing, UnsupportedPrimitives
from mlx2onnx.reach import FAR, Doubt, Sample
from mlx2onnx.report import Report, compare
from mlx2onnx.runner import Runner
from mlx2onnx.samples import Sampler, Samples
from mlx2onnx.session import open_session
from mlx2onnx.verify import attempt, tolerances

# Elements of all arrays in one run; the smallest of a kind may have more.
LARGEST, LARGEST_OF_A_KIND = 2**27, 2**31
# Once a dimension's runs have taken this many seconds, only the smallest of each kind are run; five
# times as many when some are wrong, to say which.
PATIENCE = 1.0

# Other numbers are drawn where integers are off by one: it is wrong when it is so each time.
DRAWS = 4
# Wrong sizes that tell enough.
MANY = 8
FUNCTION = "the traced function"

Same = Callable[[Mapping[str, int]], bool]


def settle(assembly: Assembly, model: onnx.ModelProto, samples: Any = None) -> None:
    """Runs every function that is in doubt, and its ONNX form, at such sizes.

    `samples`: those of `to_onnx`, of which a function of sizes gives the inputs.

    Raises: UnsupportedPrimitives or UnsupportedLayers with the sizes at which they differ.
    """
    missing = []
    for source, prefix, doubt in assembly.doubts:
        runner = Runner(source, model, open_session(model), prefix)
        own = samples.get(prefix.rstrip("/")) if prefix and samples else samples
        same = _trial(runner, doubt, own if callable(own) else None)
        if (sizes := _wrong_sizes(doubt, same)) is not None:
            missing.append(sizes)
    if missing:
        raise UnsupportedPrimitives(missing)
    problems = []
    for each in assembly.uncertain:
        if (sizes := _wrong_sizes(each.doubt, _layer_trial(each.doubt))) is not None:
            problems.append(Problem(each.path, each.layer, str(sizes)))
    if problems:
        raise UnsupportedLayers(problems)


def _layer_trial(doubt: Doubt) -> Same:
    """For the function of a layer, in a file of its own."""
    g = Builder()
    inputs = [s if a is None else a for s, a in zip(doubt.specs, doubt.given, strict=True)]
    trace.function_to_graph(g, lambda *arrays: doubt.function(*arrays), inputs)
    model = g.finish()
    return _trial(Runner(doubt.function, model, open_session(model)), doubt)


def _trial(runner: Runner, doubt: Doubt, samples: Samples | None = None) -> Same:
    """Whether MLX and ONNX Runtime give the same at a point."""
    sampler = Sampler(runner, list(doubt.given) if samples is None else samples)
    tolerance = Report(*tolerances(runner.proto))

    def same(point: Mapping[str, int]) -> bool:
        try:
            for seed in range(DRAWS):
                arrays = sampler.of_shapes(doubt.shapes(point), seed)
                results = attempt(runner, sampler, arrays, tolerance)
                tolerance.rtol, tolerance.atol = tolerances(runner.proto, runner.dtypes)
                if results is None:
                    return False
                if compare(tolerance, runner.output_names, *results[1:]):
                    return True
                if not _rounded(*results[1:]):
                    return False
        except Exception:
            pass
        return False

    return same


def _rounded(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> bool:
    """Whether integers are off by one at most: a sum that ends beside a whole number can be."""
    return all(
        np.issubdtype(a.dtype, np.integer) and np.abs(a.astype(np.int64) - b).max(initial=0) <= 1
        for a, b in zip(expected, found, strict=True)
    )


def _wrong_sizes(doubt: Doubt, same: Same) -> Missing | None:
    """What differs at which sizes, if anything does."""
    for name in doubt.axes:
        if (found := _wrong_on_axis(doubt, name, same)) is not None:
            return _missing(doubt, *found, [name])
    for each in doubt.joint:
        if each.differs and each.elements <= LARGEST and not same(each.point):
            at = ", ".join(f"{_said(name)} {each.point[name]}" for name in doubt.axes)
            return _missing(doubt, each, f"the file gives other numbers at {at}", list(doubt.axes))
    return None


def _wrong_on_axis(doubt: Doubt, name: str, same: Same) -> tuple[Sample, str] | None:
    """A sample that differs, and which sizes are right."""
    samples = doubt.axes[name]
    right = {s.point[name]: None if s.differs else True for s in samples}
    start = time.perf_counter()
    wrong: list[Sample] = []
    first = _first_of_each_kind(samples)
    others = [s for s in samples if s.differs and s not in first and s.point[name] <= FAR]
    for each in [*first, *sorted(others, key=_elements)]:
        if each in first and each.elements > LARGEST_OF_A_KIND:
            text = f"it differs at {_said(name)} {each.point[name]}, too large to be run here"
            return each, text
        patient = time.perf_counter() - start < PATIENCE * (5 if wrong else 1)
        if each in first or (patient and each.elements <= LARGEST):
            other = doubt.elsewhere(name, each.point[name]) if each in first else None
            right[each.point[name]] = same(each.point) and (other is None or same(other))
            wrong += [] if right[each.point[name]] else [each]
        if len(wrong) == MANY:
            break
    return (wrong[0], _ranges(_said(name), right)) if wrong else None


def _first_of_each_kind(samples: list[Sample]) -> list[Sample]:
    """The smallest sample of each way to differ, and of the first and last range that do.

    Ways that differ in a number alone, as those of more chunks do, are one.
    """
    ranges = [list(group) for _, group in groupby(samples, key=lambda s: s.differs)]
    found = [group[0] for group in ranges if group[0].differs]
    first: dict[Any, Sample] = {}
    for each in (s for s in samples if s.difference is not None):
        assert each.difference is not None
        kind = re.sub(r"\d+", "", each.difference.text)
        first.setdefault((each.difference.primitive, kind), each)
    chosen = {id(s): s for s in (*first.values(), *found[:1], *found[-1:])}
    return sorted(chosen.values(), key=_elements)


def _elements(sample: Sample) -> int:
    return sample.elements


def _missing(doubt: Doubt, each: Sample, where: str, names: Sequence[str]) -> Missing:
    assert each.difference is not None
    fix = ", ".join(f"{name!r}: …" for name in names if not name.startswith("_"))
    fix = f"dimensions={{{fix}}}" if fix else "a number in place of None"
    line = doubt.fork(each.point)
    reason = (
        f"{where}: there {each.difference.text}. Fix the size ({fix}), or compute the same at "
        "every size"
    )
    return Missing(each.difference.primitive, each.difference.arguments, reason, line or FUNCTION)


def _said(name: str) -> str:
    """A dimension as an error calls it: those without a name have one of ours."""
    if not name.startswith("_"):
        return name
    place, _, axis = name.removeprefix("_").rpartition("axis_")
    return f"axis {axis}" + (f" of input {place.rstrip('_')}" if place else "")


def _ranges(name: str, right: Mapping[int, bool | None]) -> str:
    """`time 1 to 32 is right, 33 and more is not`.

    What was not run (None) is not told, or counts as wrong where what is before it is.
    """
    verdicts: list[tuple[int, bool | None]] = []
    for size, verdict in sorted(right.items()):
        wrong_before = bool(verdicts) and verdicts[-1][1] is False
        verdicts.append((size, False if verdict is None and wrong_before else verdict))
    groups = [
        (key, [size for size, _ in group]) for key, group in groupby(verdicts, lambda v: v[1])
    ]
    last = groups[-1][1]
    wrong = [_range(sizes, sizes is last) for key, sizes in groups if key is False]
    good = [_range(sizes, sizes is last) for key, sizes in groups if key]
    return f"{name} {_listed(good)} is right, {_listed(wrong)} is not"


def _range(sizes: Sequence[int], last: bool) -> str:
    if last:
        return f"{sizes[0]} and more"
    return f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else str(sizes[0])


def _listed(ranges: Sequence[str]) -> str:
    return ", ".join([*ranges[:4], *(["…"] if len(ranges) > 4 else [])])
