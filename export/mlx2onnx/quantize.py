"""Integer weights, and what they change: size, speed and results, before and after."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from mlx2onnx import files
from mlx2onnx.verify import NUMPY, load, open_session

RUNS = 20


@dataclass(frozen=True)
class Quantized:
    """What quantization changed; the `model` itself is not in `as_dict`.

    Bytes of the files; milliseconds for one batch; for each output the largest difference and the
    share of rows whose largest entry, the predicted class, stayed the same.
    """

    model: onnx.ModelProto
    bytes_before: int
    bytes_after: int
    ms_before: float
    ms_after: float
    max_abs: dict[str, float]
    agreement: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The figures, in a form that JSON can hold."""
        content = asdict(self)
        del content["model"]
        return content

    def __str__(self) -> str:
        lines = [
            f"size {self.bytes_before:,} -> {self.bytes_after:,} bytes",
            f"one batch {self.ms_before:.3f} -> {self.ms_after:.3f} ms",
        ]
        lines += [
            f"{name}: max abs {error:.1e}, same class in {self.agreement[name]:.1%} of rows"
            for name, error in self.max_abs.items()
        ]
        return "\n".join(lines)


def quantize(
    file: str | os.PathLike | onnx.ModelProto,
    path: str | os.PathLike | None = None,
    *,
    inputs: Mapping[str, np.ndarray],
    calibration: Iterable[Mapping[str, np.ndarray]] | None = None,
    per_channel: bool = True,
) -> Quantized:
    """An int8 model, written to `path` when one is given.

    Args:
        file: a float32 ONNX model, as a path or ModelProto.
        inputs: arrays by input name, on which speed and results are compared.
        calibration: batches of inputs by name: activations are quantized too, with ranges found on
            these (static). None: weights only, activations as they come (dynamic).
        per_channel: a scale for each output channel of a weight.

    Raises: ValueError for inputs with other names; what ONNX Runtime raises.
    """
    before = load(file)
    names = {value.name for value in before.graph.input}
    if set(inputs) != names:
        raise ValueError(
            f"quantize: expected inputs {', '.join(sorted(names))}, got "
            f"{', '.join(sorted(inputs))}. Give an array for each."
        )
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        files.save(before, source)
        _run(source, target, calibration, per_channel)
        after = onnx.load(target)
    if path is not None:
        files.save(after, path)
    return _compare(before, after, inputs)


def _run(source: Path, target: Path, calibration: Any, per_channel: bool) -> None:
    from onnxruntime import quantization as ort  # type: ignore[import-untyped]

    prepared = source.with_name("prepared.onnx")
    ort.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    options = {"per_channel": per_channel, "weight_type": ort.QuantType.QInt8}
    if calibration is None:
        ort.quantize_dynamic(prepared, target, **options)
        return
    reader = _Reader(iter(calibration))
    ort.quantize_static(prepared, target, reader, quant_format=ort.QuantFormat.QDQ, **options)


class _Reader:
    """Batches one by one, as ONNX Runtime's calibration asks for them."""

    def __init__(self, batches: Iterator[Mapping[str, np.ndarray]]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else dict(batch)


def _compare(
    before: onnx.ModelProto, after: onnx.ModelProto, inputs: Mapping[str, np.ndarray]
) -> Quantized:
    sessions = [open_session(model) for model in (before, after)]
    feeds = {e.name: np.asarray(inputs[e.name], NUMPY[e.type]) for e in sessions[0].get_inputs()}
    expected, found = (session.run(None, feeds) for session in sessions)
    names = [output.name for output in sessions[0].get_outputs()]
    rows = list(zip(names, expected, found, strict=True))
    first, second = (_milliseconds(session, feeds) for session in sessions)
    return Quantized(
        after,
        before.ByteSize(),
        after.ByteSize(),
        first,
        second,
        {name: float(np.abs(a - b).max(initial=0)) for name, a, b in rows},
        {name: float((a.argmax(-1) == b.argmax(-1)).mean()) for name, a, b in rows},
    )


def _milliseconds(session: Any, feeds: Mapping[str, np.ndarray]) -> float:
    times: Sequence[float] = [_timed(session, feeds) for _ in range(RUNS)]
    return 1000 * statistics.median(times)


def _timed(session: Any, feeds: Mapping[str, np.ndarray]) -> float:
    start = time.perf_counter()
    session.run(None, feeds)
    return time.perf_counter() - start
