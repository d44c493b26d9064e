"""What verification saw, and when two results are equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

# Of integers computed from floats, this part may be off by one: a rounding fell the other way.
ROUNDED = 0.01


class VerificationError(AssertionError):
    """A file does not compute what the model does; `report` says where."""

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__(str(report))


@dataclass
class OutputError:
    """The largest differences of one output over all runs.

    `max_abs` is |ONNX - MLX|, `max_rel` that over max(|MLX|, atol); `ok`: within the tolerance.
    `numbers`: how many elements were compared that are not NaN; `constant`: the value that all of
    them had, if it was one.
    """

    max_abs: float = 0.0
    max_rel: float = 0.0
    ok: bool = True
    numbers: int = 0
    constant: float | None = None

    def note(self, reference: np.ndarray, difference: np.ndarray, floor: float) -> None:
        """Adds one run's differences; `floor` is what relative ones are at least measured by."""
        values = reference[~np.isnan(reference)]
        if values.size and (self.constant is not None or not self.numbers):
            first = values.flat[0] if self.constant is None else self.constant
            self.constant = float(first) if (values == first).all() else None
        self.numbers += values.size
        if difference.size:
            scale = np.where(np.isfinite(reference), np.abs(reference), 0.0)
            self.max_abs = max(self.max_abs, float(difference.max()))
            self.max_rel = max(self.max_rel, float((difference / np.maximum(scale, floor)).max()))


@dataclass
class Report:
    """What verification saw: each output's error, what was tried, seconds in both runtimes.

    Args:
        outputs: by name; over all runs.
        runs: how often both runtimes computed the same inputs.
        sizes: the dynamic dimensions of the runs.
        samples: the values that each input had, in words.
        device: where MLX computed the reference.
        near_zero: whether inputs near 0 were tried, whose outputs are compared digit by digit.
        other_device, other_outputs: MLX's own GPU, if it has one, and how far its outputs are
            from the reference: `ok` when its precision explains that.
        problem: why the file cannot be right, where it is not a difference.
        layer: the first layer whose output differs, if any does.
    """

    rtol: float
    atol: float
    outputs: dict[str, OutputError] = field(default_factory=dict)
    runs: int = 0
    sizes: list[dict[str, int]] = field(default_factory=list)
    samples: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    near_zero: bool = False
    other_device: str | None = None
    other_outputs: dict[str, OutputError] = field(default_factory=dict)
    mlx_seconds: float = 0.0
    onnx_seconds: float = 0.0
    problem: str | None = None
    layer: str | None = None

    @property
    def ok(self) -> bool:
        """Whether there were runs, and all outputs of all of them are within the tolerance."""
        proven = self.runs > 0 and self.problem is None
        return proven and all(output.ok for output in self.outputs.values())

    def as_dict(self) -> dict[str, Any]:
        """Everything in it, in a form that JSON can hold."""
        return {**asdict(self), "ok": self.ok}

    def __str__(self) -> str:
        over = f", over tolerance (rtol {self.rtol:g}, atol {self.atol:g})"
        lines = [_line(name, error, over) for name, error in self.outputs.items()]
        other = f" on {self.other_device}, against the CPU", ", more than its precision explains"
        lines += [_line(name + other[0], e, other[1]) for name, e in self.other_outputs.items()]
        points = "; ".join(_point(point) for point in self.sizes)
        count = f"{self.runs} run{'' if self.runs == 1 else 's'}"
        lines.append(
            f"tried {points or 'nothing'} in {count}{', and inputs near 0' * self.near_zero}; "
            f"MLX ({self.device}) {self.mlx_seconds:.3f} s, ONNX {self.onnx_seconds:.3f} s"
        )
        if self.samples:
            values = "; ".join(f"{name} {kind}" for name, kind in self.samples.items())
            lines.append(f"values: {values}")
        if self.problem is not None:
            lines.append(self.problem)
        if self.layer is not None:
            lines.append(f"the first layer that differs is {self.layer}")
        return "\n".join(lines)


def _line(name: str, error: OutputError, over: str) -> str:
    constant = "" if error.constant is None else f", always {error.constant:g}"
    ending = "" if error.ok else over
    return f"{name}: max abs {error.max_abs:.1e}, max rel {error.max_rel:.1e}{constant}{ending}"


def _point(point: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in point.items()) or "fixed sizes"


def compare(
    report: Report,
    names: Sequence[str],
    expected: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    outputs: dict[str, OutputError] | None = None,
) -> bool:
    """Notes the errors of outputs in the report; whether all are within its tolerance.

    `outputs`: where they are noted in place of the report's own.
    """
    same = True
    noted = report.outputs if outputs is None else outputs
    for name, reference, value in zip(names, expected, found, strict=True):
        entry = noted.setdefault(name, OutputError())
        if reference.shape != value.shape:
            entry.max_abs = entry.max_rel = float("inf")
            entry.ok = same = False
            continue
        a, b = value.astype(np.float64), reference.astype(np.float64)
        gap = difference(a, b)
        entry.note(b, gap, report.atol or 1e-12)
        if not _within(report, gap, b, np.issubdtype(reference.dtype, np.inexact)):
            entry.ok = same = False
    return same


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b|; equal infinities, and NaN in both, are no difference."""
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.where(equal, 0.0, np.abs(a - b))
    return np.where(np.isnan(gap), np.inf, gap)


def _within(report: Report, gap: np.ndarray, reference: np.ndarray, is_float: bool) -> bool:
    if not is_float:
        return bool((gap <= 1).all() and np.count_nonzero(gap) <= ROUNDED * gap.size)
    scale = np.where(np.isfinite(reference), np.abs(reference), 0.0)
    largest = max(1.0, float(scale.max(initial=0.0)))
    return bool((gap <= report.atol * largest + report.rtol * scale).all())
