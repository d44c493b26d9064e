"""Integer weights through ONNX Runtime, which compute where it has integer operators."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from mlx2onnx import feeds, files
from mlx2onnx.effect import Metric, Quantized, accuracy, compare
from mlx2onnx.session import is_refusal, load, of_file, open_session

INTEGER = {
    "DequantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeLinear", "MatMulNBits",
}  # fmt: skip


def quantize(
    file: str | os.PathLike | onnx.ModelProto,
    path: str | os.PathLike | None = None,
    *,
    inputs: Any = None,
    calibration: Iterable[Any] | None = None,
    data: tuple[Any, Any] | None = None,
    metric: Metric = accuracy,
    per_channel: bool = True,
) -> Quantized:
    """An int8 model, written to `path` when one is given.

    Dynamic int8 is for dense and recurrent layers: it makes convolutions slower in ONNX Runtime on
    the CPU (2 to 5 times, measured on a small CNN). Give calibration for those. ONNX Runtime has
    no static LSTM, so LSTM nodes are dynamic either way; GRU and RNN stay floats.

    Args:
        file: a float32 ONNX model, as a path or ModelProto.
        inputs: arrays by input name, on which speed and results are compared, the speed on batches
            of 1 and 32 of their rows. A list in the file's order, or the array of the one input,
            will do. None: those of `data`.
        calibration: batches of inputs: activations are quantized too, with ranges found on
            these (static). None: weights only, activations as they come (dynamic).
        data: (inputs, y), on which the metric is measured before and after.
        metric: a function of y and the list of outputs; by default the accuracy of the first
            output (..., classes), for y of class numbers or one-hot.
        per_channel: a scale for each output channel of a weight.

    Raises: ValueError for arrays with other names or shapes than the file's inputs, or without
        rows; for calibration that is not finite; for a file that is not ONNX, not float32 or
        quantized already; what ONNX Runtime or the metric raise. Then nothing is written.
    """
    before = load(file)
    _check(before)
    with of_file(file):
        session = open_session(before)
    given = None if data is None else _data(data, session)
    if inputs is not None:
        rows = feeds.named(inputs, session, "quantize")
    elif given is not None:
        rows = given[0]
    else:
        raise ValueError("quantize: expected inputs or data, got neither. Give arrays to compare.")
    batches = None if calibration is None else _batches(calibration, session)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        with of_file(file):
            files.save(before, source)
            _run(source, target, batches, per_channel)
            after = onnx.load(target)
    try:
        report = compare(before, after, rows, given, metric)
    except Exception as error:
        if not is_refusal(error):
            raise  # the metric's own
        with of_file(file):
            raise
    if path is not None:
        files.save(after, path)
    return report


def _check(model: onnx.ModelProto) -> None:
    """Refuses what ONNX Runtime would fail on, or leave as it is."""
    found = INTEGER & {node.op_type for node in model.graph.node}
    if found:
        raise ValueError(
            f"quantize: expected a float32 model, got {', '.join(sorted(found))} in it. "
            "It is quantized already: give the file it was made from."
        )
    if any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer):
        raise ValueError(
            "quantize: expected a float32 model, got float16 weights. Export it in float32."
        )
    defaults = {t.name for t in model.graph.initializer}
    if all(value.name in defaults for value in model.graph.input):
        raise ValueError(
            "quantize: expected a model with inputs, got one where each has a default. "
            "Of several endpoints take one, with mlx2onnx.endpoint."
        )


def _data(data: Any, session: Any) -> tuple[feeds.Feeds, Any]:
    if not isinstance(data, list | tuple) or len(data) != 2:
        raise ValueError(
            f"quantize: expected data as a pair (inputs, y), got {type(data).__name__}. "
            "Give the inputs, and what the metric compares with."
        )
    return feeds.named(data[0], session, "quantize, data"), data[1]


def _batches(calibration: Any, session: Any) -> Iterator[feeds.Feeds]:
    """The batches, checked as they come; the first one now."""

    def checked() -> Iterator[feeds.Feeds]:
        for index, batch in enumerate(calibration):
            what = f"quantize, calibration batch {index}"
            arrays = feeds.named(batch, session, what)
            for name, array in arrays.items():
                if not np.isfinite(array).all():
                    raise ValueError(
                        f"{what}: expected finite values in {name}, got some that are not. "
                        "Leave out those rows."
                    )
            yield arrays

    if isinstance(calibration, Mapping):
        calibration = [calibration]
    batches = checked()
    first = next(batches, None)
    if first is None:
        raise ValueError(
            "quantize: expected batches of inputs as calibration, got none. Give at least one, or "
            "None for dynamic quantization."
        )
    return chain([first], batches)


def _run(
    source: Path, target: Path, batches: Iterator[feeds.Feeds] | None, per_channel: bool
) -> None:
    from onnxruntime import quantization as ort  # type: ignore[import-untyped]

    prepared = source.with_name("prepared.onnx")
    ort.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    options = {"per_channel": per_channel, "weight_type": ort.QuantType.QInt8}
    if batches is None:
        ort.quantize_dynamic(prepared, target, **options)
        return
    if any(node.op_type == "LSTM" for node in onnx.load(prepared).graph.node):
        dynamic = source.with_name("dynamic.onnx")
        ort.quantize_dynamic(prepared, dynamic, op_types_to_quantize=["LSTM"], **options)
        prepared = dynamic
    reader = _Reader(batches)
    ort.quantize_static(prepared, target, reader, quant_format=ort.QuantFormat.QDQ, **options)


class _Reader:
    """Batches one by one, as ONNX Runtime's calibration asks for them."""

    def __init__(self, batches: Iterator[feeds.Feeds]) -> None:
        self.batches = batches

    def get_next(self) -> feeds.Feeds | None:
        return next(self.batches, None)
