"""What quantization changes: size, speed, results and accuracy, before and after."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from mlx2onnx import feeds
from mlx2onnx.session import open_session

RUNS = 20
SPEED_BATCHES = (1, 32)
# Rows of one run when results are compared; bounds the memory that activations need.
BATCH = 256

Metric = Callable[[Any, list[np.ndarray]], float]


@dataclass(frozen=True)
class Quantized:
    """What quantization changed; the `model` itself is not in `as_dict`.

    Bytes of the files; milliseconds of one run, by batch size; for each output the largest
    difference and the share of rows whose largest entry, the predicted class, stayed the same; what
    the metric called `metric` gives, where there was data.
    """

    model: onnx.ModelProto
    bytes_before: int
    bytes_after: int
    ms_before: dict[int, float]
    ms_after: dict[int, float]
    max_abs: dict[str, float]
    agreement: dict[str, float]
    metric: str | None = None
    metric_before: float | None = None
    metric_after: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The figures, in a form that JSON can hold."""
        content = asdict(self)
        del content["model"]
        return content

    def __str__(self) -> str:
        ratio = self.bytes_after / self.bytes_before
        lines = [f"size {self.bytes_before:,} -> {self.bytes_after:,} bytes (× {ratio:.2f})"]
        for batch, before in self.ms_before.items():
            after = self.ms_after[batch]
            ratio = after / before
            lines.append(f"batch {batch}: {before:.3f} -> {after:.3f} ms (× {ratio:.2f})")
        if self.metric is not None:
            lines.append(f"{self.metric} {self.metric_before:.4f} -> {self.metric_after:.4f}")
        lines += [
            f"{name}: max abs {error:.1e}, same class in {self.agreement[name]:.1%} of rows"
            for name, error in self.max_abs.items()
        ]
        return "\n".join(lines)


def accuracy(y_true: Any, outputs: Sequence[np.ndarray]) -> float:
    """The share of rows of the first output whose largest entry is the label's.

    Args:
        y_true: class numbers (...) or (..., 1), or one-hot (..., classes).
        outputs: the first is (..., classes).

    Raises: ValueError for labels of another shape, or with fractions, and for one class.
    """
    y, found = np.asarray(y_true), outputs[0]
    if found.ndim and found.shape[-1] > 1:
        if y.shape == found.shape:
            return float((y.argmax(-1) == found.argmax(-1)).mean())
        if y.shape == (*found.shape[:-1], 1):
            y = y[..., 0]
        if y.shape == found.shape[:-1] and np.array_equal(y, np.floor(y)):
            return float((y == found.argmax(-1)).mean())
    raise ValueError(
        f"quantize: expected class numbers or one-hot labels of a first output {found.shape}, got "
        f"y of shape {y.shape} and dtype {y.dtype}. Give a metric, a function of (y, outputs)."
    )


def compare(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    inputs: feeds.Feeds,
    data: tuple[feeds.Feeds, Any] | None,
    metric: Metric,
) -> Quantized:
    """Runs both, on `inputs` for their differences and on `data` for the metric."""
    sessions = [open_session(model) for model in (before, after)]
    names = [output.name for output in sessions[0].get_outputs()]
    results = [feeds.run(session, inputs, BATCH) for session in sessions]
    rows = list(zip(names, *results, strict=True))
    scores: list[Any] = [None, None]
    if data is not None:
        x, y = data
        tried = results if x is inputs else [feeds.run(s, x, BATCH) for s in sessions]
        scores = [float(metric(y, list(outputs))) for outputs in tried]
    dimension = feeds.batch_dimension(sessions[0])
    rows_given = len(next(iter(inputs.values())))
    sizes = SPEED_BATCHES if isinstance(dimension, str) else (rows_given,)
    times = {size: milliseconds(sessions, feeds.resized(inputs, size)) for size in sizes}
    return Quantized(
        after,
        before.ByteSize(),
        after.ByteSize(),
        {size: first for size, (first, _) in times.items()},
        {size: second for size, (_, second) in times.items()},
        {name: _difference(a, b) for name, a, b in rows},
        {name: _agreement(a, b) for name, a, b in rows},
        None if data is None else getattr(metric, "__name__", type(metric).__name__),
        *scores,
    )


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(np.float64) - b).max(initial=0))


def _agreement(a: np.ndarray, b: np.ndarray) -> float:
    return float((a.argmax(-1) == b.argmax(-1)).mean()) if a.ndim else float(a == b)


def milliseconds(sessions: Sequence[Any], batch: feeds.Feeds) -> list[float]:
    """The median of each session's runs, which take turns so that they share a busy machine."""
    times: list[list[float]] = [[] for _ in sessions]
    for turn in range(RUNS + 1):
        for session, kept in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, batch)
            if turn:  # the first run of a session allocates
                kept.append(time.perf_counter() - start)
    return [1000 * statistics.median(kept) for kept in times]
