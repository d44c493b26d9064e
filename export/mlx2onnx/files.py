"""Puts a finished model on disk, whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

import onnx
from mlx2onnx import builder
from mlxfunc.files import beside, put, real

# A protobuf message ends at 2 GiB; the rest of the model needs room beside the weights.
MAX_INLINE_BYTES = 2**31 - 2**26


def save(
    model: builder.Model | onnx.ModelProto,
    path: str | os.PathLike,
    external_data: bool | None = None,
) -> None:
    """Writes the model; weights go to `<path>.<hash>.data` when asked, or beyond 2 GB.

    A model names its data file, and data files of other weights have other names: whenever the
    writer stops, the old model with its old data is there, or the new one with the new.

    Raises: ValueError for external data through a link into another folder, where no runtime
        would find them; OSError. Then the old files, or none, are there.
    """
    if external_data is None:
        external_data = builder.weight_bytes(model) > MAX_INLINE_BYTES
    target = real(path)
    if external_data and target.parent != Path(os.path.realpath(Path(path).parent)):
        raise ValueError(
            f"{os.fspath(path)}: expected a file of this folder for a model with external data, "
            f"got a link to {target}. Runtimes look for the data beside the link: write to the "
            "file itself."
        )
    with beside(target) as folder:
        started = folder.stat().st_mtime_ns
        data = builder.write(model, folder / target.name, external_data)
        if data is not None:
            put(data, target.with_name(data.name))
        put(folder / target.name, target)
    for old in _data_files(target):
        # One that came while we wrote is another writer's, whose model is still to come.
        if (data is None or old.name != data.name) and old.stat().st_mtime_ns <= started:
            old.unlink(missing_ok=True)


def _data_files(model: Path) -> list[Path]:
    name = re.compile(re.escape(model.name) + r"\.[0-9a-f]{16}\.data")
    return [path for path in model.parent.iterdir() if name.fullmatch(path.name)]
