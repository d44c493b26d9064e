"""One row in one runtime: its error against MLX, or what the runtime said."""

from __future__ import annotations

import functools
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from runtimes.engines import RUNTIMES, Feeds
from runtimes.rows import Gap, Row

BATCHES = (1, 3)


@dataclass(frozen=True)
class Outcome:
    """What a runtime made of a row: its largest error, and that or its refusal in words."""

    row: Row
    runtime: str
    error: float
    text: str

    @property
    def gap(self) -> Gap | None:
        return self.row.gaps.get(self.runtime)

    @property
    def problem(self) -> str | None:
        """In what it is not as the table says, if it is not."""
        ok = self.error <= self.row.tolerance
        where = f"{self.row.name} in {self.runtime}"
        if self.gap is None:
            return None if ok else f"{where}: {self.text}"
        if ok:
            return f"{where}: expected a gap, got error {self.error:.1e}. Take it out of rows.py."
        if not re.search(self.gap.match, self.text):
            return f"{where}: expected {self.gap.match!r}, got {self.text}"
        return None


def measure(row: Row, runtime: str) -> Outcome:
    """The largest |runtime - MLX|, of the largest |MLX|, over outputs and batch sizes."""
    file, trials = _exported(row)
    try:
        error = max(
            _difference(found, expected)
            for feeds, outputs in trials
            for found, expected in zip(RUNTIMES[runtime](file, feeds), outputs, strict=True)
        )
    except Exception as refusal:
        return Outcome(row, runtime, float("inf"), f"{type(refusal).__name__}: {refusal}")
    return Outcome(row, runtime, error, f"differs by {error:.1e}")


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())


_folder = tempfile.TemporaryDirectory()


@functools.cache
def _exported(row: Row) -> tuple[Path, list[tuple[Feeds, list[np.ndarray]]]]:
    """The file, and inputs and MLX's outputs in its layout, at each batch size."""
    model = row.model()
    file = Path(_folder.name) / f"{row.name}.onnx"
    proto = model.export(file, verify=False, **row.options)
    trials = []
    for batch in BATCHES:
        arrays = row.inputs(model, batch)
        outputs = model(arrays)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        feeds = {
            entry.name: _moved(array, row.options.get("inputs_as_nchw")).astype(_dtype(entry))
            for entry, array in zip(proto.graph.input, arrays.values(), strict=True)
        }
        first = row.options.get("outputs_as_nchw")
        trials.append((feeds, [_moved(np.array(y), first) for y in outputs]))
    return file, trials


def _moved(array: np.ndarray, channels_first: bool | None) -> np.ndarray:
    return np.moveaxis(array, -1, 1) if channels_first and array.ndim >= 3 else array


def _dtype(entry: onnx.ValueInfoProto) -> np.dtype:
    return onnx.helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
