"""ONNX Runtime against MLX on the same inputs, and the first layer that differs."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import onnx
from mlx2onnx import runner as runners
from mlx2onnx.difference import first_difference
from mlx2onnx.endpoints import is_endpoints
from mlx2onnx.report import Report, VerificationError, compare, difference
from mlx2onnx.runner import Runner
from mlx2onnx.samples import Sampler
from mlx2onnx.session import is_half, is_refusal, load, of_file, open_session, run_onnx

__all__ = ["BATCHES", "Report", "VerificationError", "run_onnx", "verify"]

BATCHES = (1, 2, 3)
# Once two runs have taken this many seconds, no further size is tried; the report says which were.
PATIENCE = 0.1
TOLERANCES = {"bfloat16": (5e-2, 5e-2), "float16": (1e-2, 1e-2), "float32": (1e-4, 5e-5)}
# What TF32 leaves of a product: three digits, some of which sums lose.
GPU_TOLERANCE = (1e-2, 1e-2)
# Inputs this small show whether digits near 0 are lost: 1 + x has none of them.
NEAR_ZERO = 1e-7
# Outputs of such inputs count as small below this, and as different from this part on.
SMALL, DIFFERENT = 1e-4, 1e-2
# Operators that are not 0 at 0: what goes to 0 through them has to lose no digits on the way.
NOT_ZERO_AT_ZERO = {"Acos", "Cos", "Cosh", "Exp", "Log", "Pow", "Sigmoid", "Softplus", "Sqrt"}
# ONNX Runtime computes these as exp(x) - 1, or with a tanh that is right to 1e-7 in all.
WITHOUT_DIGITS = {"Elu", "RNN", "Selu"}


def verify(
    source: mf.Model | nn.Module | Callable[..., Any] | Mapping[str, Any],
    file: str | os.PathLike | onnx.ModelProto,
    samples: Any = None,
    rtol: float | None = None,
    atol: float | None = None,
    *,
    batches: Sequence[int] = BATCHES,
) -> Report:
    """Runs `file` in ONNX Runtime and `source` in MLX, on its CPU, and compares.

    Args:
        source: what was exported; a dict of the endpoints when there are several. A module runs
            in inference mode.
        file: a path, or the ModelProto.
        samples: arrays to run on, a list or a dict by name, or a function that returns them for
            sizes such as {"batch": 2, "time": 11}. Inputs that it leaves out, and all without
            it, have random values: ids that exist, masks of 0 and 1, padded steps, at these
            `batches` and at two sizes of each other dynamic dimension. For endpoints: a dict of
            these by endpoint.
        rtol, atol: |ONNX - MLX| <= atol · max(1, largest |MLX|) + rtol · |MLX|, so that an error
            is measured by the output it is in; None: what the file's dtype allows. Integers are
            equal, but for one in a hundred that a rounding moves by one. Where inputs near 0 give
            outputs near 0, these agree to two digits at least.

    Returns: the report. An output that was NaN in all runs, or a run that ONNX Runtime refuses,
        proves nothing and is not ok.

    Raises: VerificationError, with the report, when it is not ok; ValueError for a file that is
        not ONNX or has other inputs than `source`, and for samples and batches.
    """
    batches = _checked(batches)
    proto = load(file)
    with of_file(file):
        session = open_session(file)
        report = Report(*_given(tolerances(proto), rtol, atol))
        if is_endpoints(source):
            given = dict(samples or {})
            for name, part in source.items():
                runner = Runner(part, proto, session, f"{name}/")
                _try(runner, Sampler(runner, given.get(name)), batches, report, (rtol, atol))
        else:
            runner = Runner(source, proto, session)
            _try(runner, Sampler(runner, samples), batches, report, (rtol, atol))
        if report.problem is None:
            report.problem = _unproven(report, proto)
    if not report.ok:
        raise VerificationError(report)
    return report


def _checked(batches: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(batches)
    if not sizes or any(type(size) is not int or size < 1 for size in sizes):
        raise ValueError(
            f"verify: expected batch sizes of 1 or more, got {list(sizes)}. Without a run nothing "
            "is proven; leave them out for the usual ones."
        )
    return sizes


def tolerances(proto: onnx.ModelProto, dtypes: Collection[mx.Dtype] = ()) -> tuple[float, float]:
    """(rtol, atol) that the dtype of a file allows, and those of MLX's inputs and outputs."""
    if mx.bfloat16 in dtypes:  # the file has float32 in its place: the digits MLX lacks are its own
        return TOLERANCES["bfloat16"]
    half = mx.float16 in dtypes or _computes_in_half(proto)
    return TOLERANCES["float16" if half else "float32"]


def _computes_in_half(proto: onnx.ModelProto) -> bool:
    values = [*proto.graph.input, *proto.graph.output]
    half = onnx.TensorProto.FLOAT16
    return is_half(proto) or any(v.type.tensor_type.elem_type == half for v in values)


def _unproven(report: Report, proto: onnx.ModelProto) -> str | None:
    """Why the runs say nothing about an output, if they do not."""
    shapes = {value.name: value.type.tensor_type.shape.dim for value in proto.graph.output}
    sizes = {n: [d.dim_value for d in s if d.HasField("dim_value")] for n, s in shapes.items()}
    for name, error in report.outputs.items():
        if error.ok and not error.numbers and 0 not in sizes[name]:
            return (
                f"{name}: expected numbers to compare, got only NaN, or no elements, in all runs. "
                "Give `samples` that the model has results for."
            )
    return None


def _given(default: tuple[float, float], *given: float | None) -> tuple[float, float]:
    rtol, atol = (d if g is None else g for d, g in zip(default, given, strict=True))
    return rtol, atol


def _try(
    runner: Runner,
    sampler: Sampler,
    batches: Sequence[int],
    report: Report,
    given: tuple[float | None, float | None],
) -> None:
    """Adds to the report what the runs of one model show."""
    report.samples |= sampler.values()
    failing = first = None
    before = report.mlx_seconds + report.onnx_seconds
    for index, (point, arrays) in enumerate(sampler.trials(batches)):
        results = attempt(runner, sampler, arrays, report)
        if results is None:
            return
        arrays, expected, found = results
        default = tolerances(runner.proto, runner.dtypes)
        report.rtol, report.atol = _given(default, *given)
        first = arrays if first is None else first
        if point not in report.sizes:
            report.sizes.append(point)
        if not compare(report, runner.output_names, expected, found) and failing is None:
            failing = arrays
        if index and report.mlx_seconds + report.onnx_seconds - before > PATIENCE:
            break
    if failing is None and first is not None:
        if _loses_digits(runner, sampler, first, report):
            failing = first
        _try_own_device(runner, first, report)
    if failing is not None and isinstance(runner.source, mf.Model) and report.layer is None:
        report.layer = first_difference(runner, failing, report)


def attempt(
    runner: Runner, sampler: Sampler, arrays: list[np.ndarray], report: Report
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]] | None:
    """The inputs of a run and the outputs of both; None, and a problem, when it cannot be run.

    Where ONNX Runtime refuses random integers, an index out of bounds say, it is asked with all of
    them 0, then 1.
    """
    error: Exception | None = None
    tried = [arrays, *(sampler.constant_integers(arrays, value) for value in (0, 1))]
    for candidate in tried:
        try:
            if candidate is not None:
                return candidate, *runner.run(candidate, report)
        except Exception as e:
            if not is_refusal(e):
                raise
            error = error or e
    report.problem = (
        f"ONNX Runtime does not run the file on these inputs. If the model does not take them, "
        f"give `samples` that it takes. ({str(error).splitlines()[0]})"
    )
    return None


def _loses_digits(
    runner: Runner, sampler: Sampler, arrays: list[np.ndarray], report: Report
) -> bool:
    """Whether outputs that go to 0 with the inputs are no longer MLX's near it.

    Only where they go there as a power of the inputs, in MLX's own numbers at other scales: a
    difference of large numbers has no digits near 0 in MLX either.
    """
    operators = {node.op_type for node in runner.proto.graph.node}
    if not operators & NOT_ZERO_AT_ZERO or operators & WITHOUT_DIGITS:
        return False
    if not sampler.draws or tolerances(runner.proto, runner.dtypes) != TOLERANCES["float32"]:
        return False
    small = sampler.near_zero(arrays, NEAR_ZERO)
    if all(a is b for a, b in zip(arrays, small, strict=True)):
        return False
    try:
        expected, found = runner.run(small, report)
    except Exception as error:
        if not is_refusal(error):
            raise
        return False
    report.near_zero = True
    loses = False
    for index, name in enumerate(runner.output_names):
        y, z = expected[index], found[index]
        largest = float(np.abs(y).max(initial=0.0)) if np.issubdtype(y.dtype, np.floating) else 0.0
        if not 1e-30 < largest < SMALL or y.shape != z.shape:
            continue
        gap = float(difference(z.astype(np.float64), y.astype(np.float64)).max())
        if gap > DIFFERENT * largest and gap > 10 * _noise(runner, sampler, arrays, index):
            entry = report.outputs[name]
            entry.ok, loses = False, True
            entry.max_rel = max(entry.max_rel, gap / largest)
            report.problem = f"{name}: near 0 its digits are lost, {gap / largest:.1%} of them"
    return loses


def _noise(runner: Runner, sampler: Sampler, arrays: list[np.ndarray], index: int) -> float:
    """How far an output near 0 is from a power of the inputs, in MLX: y(s)² = y(s/r) · y(s·r)."""
    gaps = []
    for ratio in (1.7, 0.6):
        low, middle, high = (
            runner.mlx(sampler.near_zero(arrays, NEAR_ZERO * ratio**k))[index].astype(np.float64)
            for k in range(3)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = np.where(high * low == middle**2, 0.0, np.abs(middle**2 / high - low))
        gaps.append(float(np.nan_to_num(gap, nan=np.inf, posinf=np.inf).max(initial=0.0)))
    return max(gaps)


def _try_own_device(runner: Runner, arrays: list[np.ndarray], report: Report) -> None:
    """Notes how far MLX's own GPU is from its CPU, which is the reference."""
    device = runners.own_device()
    if device is None:
        return
    report.other_device = str(device)
    expected, found = runner.mlx(arrays), runner.mlx(arrays, device)
    tolerance = Report(*GPU_TOLERANCE)
    compare(tolerance, runner.output_names, expected, found, report.other_outputs)
