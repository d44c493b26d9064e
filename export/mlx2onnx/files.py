"""Puts a finished model on disk, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import onnx
from mlx2onnx import builder

# A protobuf message ends at 2 GiB; the rest of the model needs room beside the weights.
MAX_INLINE_BYTES = 2**31 - 2**26


def save(
    model: builder.Model | onnx.ModelProto,
    path: str | os.PathLike,
    external_data: bool | None = None,
) -> None:
    """Writes the model; weights go to `<path>.data` when asked, or beyond 2 GB.

    Both files are written beside the target and moved onto it: after an error the old files, or
    none, are there.
    """
    path = Path(path)
    if external_data is None:
        external_data = builder.weight_bytes(model) > MAX_INLINE_BYTES
    data_name = path.name + ".data"
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        builder.write(model, scratch / path.name, data_name if external_data else None)
        _move(scratch, path, data_name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _move(scratch: Path, path: Path, data_name: str) -> None:
    """Moves the data file, then the model; puts the old data file back when the second fails."""
    new, data, old = scratch / data_name, path.with_name(data_name), scratch / "old"
    moved = new.exists() and new.stat().st_size > 0
    if moved:
        if data.exists():
            os.replace(data, old)
        os.replace(new, data)
    try:
        os.replace(scratch / path.name, path)
    except OSError:
        if old.exists():
            os.replace(old, data)
        elif moved:
            data.unlink()
        raise
