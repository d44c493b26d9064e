"""ONNX Runtime against MLX on the same inputs, and the first layer that differs."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import onnx
from mlx2onnx import files
from mlx.utils import tree_flatten, tree_unflatten
from mlx2onnx.endpoints import EXTRA_OUTPUTS, is_endpoints, with_outputs
from mlx2onnx.recording import check_bounds
from mlx2onnx.samples import sample
from mlxfunc.conversion import to_mlx
from mlxfunc.graph import leaves

BATCHES = (1, 2, 7)
# Once runs have taken this many seconds, no further size is tried; the report says which were.
PATIENCE = 20.0
# Two sizes for each other dynamic dimension; larger ones when the model refuses these.
OTHER_SIZES = ((11, 18), (44, 66), (176, 264))
TOLERANCES = {"float16": (1e-2, 1e-2), "float32": (1e-4, 5e-5)}
NCHW_INPUTS, NCHW_OUTPUTS = "mlx2onnx.inputs_as_nchw", "mlx2onnx.outputs_as_nchw"
RIGHT_PADDED = "mlx2onnx.right_padded"


class VerificationError(AssertionError):
    """A file does not compute what the model does; `report` says where."""

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__(str(report))


@dataclass
class OutputError:
    """The largest differences of one output over all sizes tried.

    `max_abs` is |ONNX - MLX|, `max_rel` that over max(|MLX|, atol); `ok`: within the tolerance.
    """

    max_abs: float = 0.0
    max_rel: float = 0.0
    ok: bool = True


@dataclass
class Report:
    """What verification saw: each output's error, the sizes tried, seconds in both runtimes.

    `layer` is the first layer whose output differs, if any does.
    """

    rtol: float
    atol: float
    outputs: dict[str, OutputError] = field(default_factory=dict)
    sizes: list[dict[str, int]] = field(default_factory=list)
    mlx_seconds: float = 0.0
    onnx_seconds: float = 0.0
    layer: str | None = None

    @property
    def ok(self) -> bool:
        return all(output.ok for output in self.outputs.values())

    def as_dict(self) -> dict[str, Any]:
        """Everything in it, in a form that JSON can hold."""
        return {**asdict(self), "ok": self.ok}

    def __str__(self) -> str:
        tried = "; ".join(
            ", ".join(f"{name} {size}" for name, size in point.items()) or "fixed sizes"
            for point in self.sizes
        )
        lines = [
            f"{name}: max abs {e.max_abs:.1e}, max rel {e.max_rel:.1e}"
            + ("" if e.ok else f", over tolerance (rtol {self.rtol:g}, atol {self.atol:g})")
            for name, e in self.outputs.items()
        ]
        lines.append(f"tried {tried}; MLX {self.mlx_seconds:.3f} s, ONNX {self.onnx_seconds:.3f} s")
        if self.layer is not None:
            lines.append(f"the first layer that differs is {self.layer}")
        return "\n".join(lines)


def verify(
    source: mf.Model | nn.Module | Callable[..., Any] | Mapping[str, Any],
    file: str | os.PathLike | onnx.ModelProto,
    inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    *,
    batches: Sequence[int] = BATCHES,
) -> Report:
    """Runs `file` in ONNX Runtime and `source` in MLX, and compares.

    Args:
        source: what was exported; a dict of the endpoints when there are several.
        file: a path, or the ModelProto.
        inputs: arrays, a list or a dict by name, to run on; None: random ones, with ids that every
            Embedding takes and with padded steps, at these `batches` and at two sizes of each
            other dynamic dimension. For endpoints: a dict of these by endpoint.
        rtol, atol: |ONNX - MLX| <= atol · max(1, largest |MLX|) + rtol · |MLX|, so that an error
            is measured by the output it is in; None: what the file's dtype allows.

    Raises: VerificationError, with the report, when an output is over tolerance; ValueError for a
        file that is not ONNX or has other inputs than `source`.
    """
    proto = load(file)
    session = open_session(file)
    default = TOLERANCES["float16" if is_half(proto) else "float32"]
    report = Report(default[0] if rtol is None else rtol, default[1] if atol is None else atol)
    if is_endpoints(source):
        given = dict(inputs or {})
        for name, part in source.items():
            runner = Runner(part, proto, session, f"{name}/")
            _try(runner, given.get(name), batches, report)
    else:
        _try(Runner(source, proto, session), inputs, batches, report)
    if not report.ok:
        raise VerificationError(report)
    return report


def _try(runner: Runner, inputs: Any, batches: Sequence[int], report: Report) -> None:
    """Adds to the report what the runs of one model show."""
    failing = None
    for point, arrays in runner.trials(inputs, batches):
        expected, found = runner.run(arrays, report)
        if point not in report.sizes:
            report.sizes.append(point)
        if not compare(report, runner.output_names, expected, found) and failing is None:
            failing = arrays
        if report.mlx_seconds + report.onnx_seconds > PATIENCE:
            break
    if failing is not None and isinstance(runner.source, mf.Model) and report.layer is None:
        from mlx2onnx.difference import first_difference

        report.layer = first_difference(runner, failing, report)


def load(file: str | os.PathLike | onnx.ModelProto) -> onnx.ModelProto:
    """The model of a path. Raises: ValueError for a file that is not ONNX."""
    if isinstance(file, onnx.ModelProto):
        return file
    if not Path(file).is_file():
        raise FileNotFoundError(f"expected an ONNX file, got {os.fspath(file)!r}: there is none.")
    try:
        proto = onnx.load(os.fspath(file))
        onnx.checker.check_model(proto if _small(proto) else os.fspath(file))
    except Exception as error:
        raise ValueError(
            f"{os.fspath(file)}: expected an ONNX model, got a file that cannot be read as one. "
            f"Export it again. ({str(error).splitlines()[0] if str(error) else error!r})"
        ) from error
    return proto


def _small(proto: onnx.ModelProto) -> bool:
    return sum(len(t.raw_data) for t in proto.graph.initializer) < files.MAX_INLINE_BYTES


def open_session(file: str | os.PathLike | onnx.ModelProto) -> Any:
    """ONNX Runtime's session, on the CPU, of a path or a model."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    if not isinstance(file, onnx.ModelProto):
        return onnxruntime.InferenceSession(os.fspath(file), options, providers=providers)
    if _small(file):
        data = file.SerializeToString()
        return onnxruntime.InferenceSession(data, options, providers=providers)
    with tempfile.TemporaryDirectory() as folder:
        files.save(file, Path(folder) / "model.onnx", external_data=True)
        path = os.path.join(folder, "model.onnx")
        return onnxruntime.InferenceSession(path, options, providers=providers)


def run_onnx(
    file: str | os.PathLike | onnx.ModelProto, inputs: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """The outputs of a model in ONNX Runtime."""
    load(file)
    return open_session(file).run(None, dict(inputs))


class Runner:
    """Gives the same arrays, in MLX's layout, to MLX and to a session.

    Of a file of several endpoints it runs the one whose names begin with `prefix`.
    """

    def __init__(self, source: Any, proto: onnx.ModelProto, session: Any, prefix: str = "") -> None:
        self.proto, self.session, self.prefix = proto, session, prefix
        properties = {p.key: p.value for p in proto.metadata_props}
        self.nchw = {
            name
            for key in (NCHW_INPUTS, NCHW_OUTPUTS)
            for name in properties.get(key, "").split(",")
            if name
        }
        self.right_padded = RIGHT_PADDED in properties
        entries = [*session.get_inputs(), *session.get_overridable_initializers()]
        order = [value.name for value in proto.graph.input]
        self.inputs = sorted(
            (e for e in entries if e.name.startswith(prefix)), key=lambda e: order.index(e.name)
        )
        names = [output.name for output in session.get_outputs()]
        self.output_names = [name for name in names if name.startswith(prefix)]
        paths = [path for path in properties.get(EXTRA_OUTPUTS, "").split(",") if path]
        extended = paths and isinstance(source, mf.Model)
        self.source = with_outputs(source, paths) if extended else source
        if isinstance(source, mf.Model) and len(source.inputs) != len(self.inputs):
            raise ValueError(
                f"{source.name}: expected a file with {len(source.inputs)} inputs, got one with "
                f"{len(self.inputs)}. It was exported from another model."
            )

    def shape(self, entry: Any) -> list[Any]:
        """An input's dimensions in MLX's order."""
        dims = list(entry.shape)
        return [dims[0], *dims[2:], dims[1]] if entry.name in self.nchw else dims

    def trials(self, inputs: Any, batches: Sequence[int]) -> Any:
        """(sizes, arrays) of every run."""
        if inputs is not None:
            given = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
            if isinstance(inputs, Mapping) and set(inputs) == {e.name for e in self.inputs}:
                given = [inputs[e.name] for e in self.inputs]
            yield {}, [np.asarray(array) for array in given]
            return
        dims = [d for e in self.inputs for d in self.shape(e) if isinstance(d, str)]
        names = list(dict.fromkeys(dims))
        firsts = [self.shape(e)[0] for e in self.inputs if e.shape]
        batch = next((d for d in firsts if isinstance(d, str)), None)
        others = [name for name in names if name != batch]
        pair = self._accepted(batch, others)
        for index, size in enumerate(batches if batch else batches[:1]):
            point = pair[index % 2] | ({batch: size} if batch else {})
            yield point, self._arrays(point, index)

    def _accepted(self, batch: str | None, others: Sequence[str]) -> list[dict[str, int]]:
        """The first two sizes of each dynamic dimension that the model takes, apart or equal."""
        first = {batch: 1} if batch else {}
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
                    self._mlx(self._arrays(first | point, 0))
            except (ValueError, RuntimeError):
                continue
            return points
        return pairs[0]

    def _arrays(self, point: Mapping[str, int], seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        return [
            sample(
                rng,
                tuple(point.get(d, d) for d in self.shape(entry)),
                entry.type,
                self.source,
                index,
                self.right_padded,
            )
            for index, entry in enumerate(self.inputs)
        ]

    def as_mlx(self, arrays: Sequence[np.ndarray]) -> list[mx.array]:
        """The inputs as the model takes them."""
        return [to_mlx(a.astype(np.float32) if a.dtype == np.float16 else a) for a in arrays]

    def _mlx(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        values = self.as_mlx(arrays)
        with self._state_kept():
            check_bounds(self._outputs, values)
        with self._state_kept():
            found = self._outputs(*values)
            mx.eval(found)
        return [np.array(y.astype(mx.float32) if y.dtype == mx.bfloat16 else y) for y in found]

    def _outputs(self, *values: mx.array) -> list[mx.array]:
        if isinstance(self.source, mf.Model):
            return leaves(self.source.run(list(values))[0])
        return leaves(self.source(*values))

    @contextlib.contextmanager
    def _state_kept(self) -> Iterator[None]:
        """A stateful layer starts each time from where it was when it was exported."""
        state = tree_flatten(self.source.parameters()) if isinstance(self.source, nn.Module) else []
        try:
            yield
        finally:
            if state:
                self.source.update(tree_unflatten(state))

    def feeds(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs as the file takes them."""
        found = {}
        for entry, array in zip(self.inputs, arrays, strict=True):
            array = array.astype(NUMPY[entry.type])
            found[entry.name] = np.moveaxis(array, -1, 1) if entry.name in self.nchw else array
        return found

    def run(
        self, arrays: Sequence[np.ndarray], report: Report
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The outputs in MLX and in ONNX Runtime."""
        start = time.perf_counter()
        expected = self._mlx(arrays)
        middle = time.perf_counter()
        found = self.session.run(self.output_names, self.feeds(arrays))
        report.mlx_seconds += middle - start
        report.onnx_seconds += time.perf_counter() - middle
        return expected, [
            np.moveaxis(y, 1, -1) if name in self.nchw else y
            for name, y in zip(self.output_names, found, strict=True)
        ]


NUMPY: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
    **{f"tensor({kind})": np.dtype(kind) for kind in (
        "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}  # fmt: skip


def compare(
    report: Report, names: Sequence[str], expected: Sequence[Any], found: Sequence[Any]
) -> bool:
    """Notes the errors of outputs in the report; whether all are within its tolerance."""
    same = True
    for name, reference, value in zip(names, expected, found, strict=True):
        entry = report.outputs.setdefault(name, OutputError())
        if reference.shape != value.shape:
            entry.max_abs = entry.max_rel = float("inf")
            entry.ok = same = False
            continue
        a, b = value.astype(np.float64), reference.astype(np.float64)
        # Equal infinities, and NaN in both, are no difference.
        equal = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            difference = np.where(equal, 0.0, np.abs(a - b))
        difference = np.where(np.isnan(difference), np.inf, difference)
        scale = np.where(np.isfinite(b), np.abs(b), 0.0)
        if difference.size:
            entry.max_abs = max(entry.max_abs, float(difference.max()))
            relative = difference / np.maximum(scale, report.atol or 1e-12)
            entry.max_rel = max(entry.max_rel, float(relative.max()))
        largest = max(1.0, float(scale.max(initial=0.0)))
        if not (difference <= report.atol * largest + report.rtol * scale).all():
            entry.ok = same = False
    return same


def is_half(proto: onnx.ModelProto) -> bool:
    """Whether a file has weights of half precision."""
    return any(t.data_type == onnx.TensorProto.FLOAT16 for t in proto.graph.initializer)
