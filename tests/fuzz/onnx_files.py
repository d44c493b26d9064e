"""Mutated ONNX files: inspected, verified, quantized."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from random import Random

import mlx2onnx

from fuzz import mutations
from fuzz.reading import Kind, Source, read_mutated, row


def trial(seed: int) -> str | None:
    return read_mutated(KINDS, seed)


@functools.lru_cache(16)
def _onnx(row: int) -> Source:
    source = Source(row)
    return source.written("m.onnx", lambda path: mlx2onnx.to_onnx(source.model, path, verify=False))


def onnx_file(rng: Random) -> Source:
    return _onnx(row(rng))


def read_inspect(source: Source, path: Path) -> None:
    str(mlx2onnx.inspect(path))


def read_verify(source: Source, path: Path) -> None:
    with contextlib.suppress(mlx2onnx.VerificationError):
        mlx2onnx.verify(source.model, path, batches=(2,))


def read_quantize(source: Source, path: Path) -> None:
    mlx2onnx.quantize(path, path.with_name("q.onnx"), inputs=source.case.inputs())


KINDS: dict[str, Kind] = {
    "inspect": ("m.onnx", onnx_file, mutations.change_onnx, read_inspect),
    "verify": ("m.onnx", onnx_file, mutations.change_onnx, read_verify),
    "quantize": ("m.onnx", onnx_file, mutations.change_onnx, read_quantize),
}
