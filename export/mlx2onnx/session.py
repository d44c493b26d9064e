"""ONNX files, read and opened in ONNX Runtime."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from mlx2onnx import files
from mlxfunc.storage import reading

NUMPY: dict[str, Any] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
    **{f"tensor({kind})": np.dtype(kind) for kind in (
        "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}  # fmt: skip


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


def of_file(file: str | os.PathLike | onnx.ModelProto) -> AbstractContextManager[None]:
    """Within the block whatever goes wrong with the file of a path is one ValueError naming it."""
    if isinstance(file, onnx.ModelProto):
        return nullcontext()
    return reading(os.fspath(file), "its graph", "Export the model again.")


def is_refusal(error: Exception) -> bool:
    """Whether ONNX Runtime raised it."""
    return type(error).__module__.startswith("onnxruntime")


def _small(proto: onnx.ModelProto) -> bool:
    return sum(len(t.raw_data) for t in proto.graph.initializer) < files.MAX_INLINE_BYTES


def open_session(file: str | os.PathLike | onnx.ModelProto) -> Any:
    """ONNX Runtime's session, on the CPU, of a path or a model."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised too
    # Of a file that it refuses it would print so, and try it again.
    how: dict[str, Any] = {"providers": ["CPUExecutionProvider"], "enable_fallback": 0}
    if not isinstance(file, onnx.ModelProto):
        return onnxruntime.InferenceSession(os.fspath(file), options, **how)
    if _small(file):
        data = file.SerializeToString()
        return onnxruntime.InferenceSession(data, options, **how)
    with tempfile.TemporaryDirectory() as folder:
        files.save(file, Path(folder) / "model.onnx", external_data=True)
        path = os.path.join(folder, "model.onnx")
        return onnxruntime.InferenceSession(path, options, **how)


def run_onnx(
    file: str | os.PathLike | onnx.ModelProto, inputs: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """The outputs of a model in ONNX Runtime. Raises: ValueError for a file that it refuses."""
    load(file)
    with of_file(file):
        return open_session(file).run(None, dict(inputs))


def is_half(proto: onnx.ModelProto) -> bool:
    """Whether a file has weights of half precision."""
    return any(t.data_type == onnx.TensorProto.FLOAT16 for t in proto.graph.initializer)
