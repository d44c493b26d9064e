"""`to_onnx`: build the graph, prove it, then put it on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlxfunc as mf
import mlx.nn as nn
import onnx
from mlx2onnx import files
from mlx2onnx import verify as verification
from mlx2onnx.assembly import Assembly, Dimensions, Options
from mlx2onnx.builder import Builder
from mlx2onnx.doubts import settle
from mlx2onnx.endpoints import is_endpoints, with_outputs
from mlx2onnx.samples import examples


def to_onnx(
    source: mf.Model | nn.Module | Callable[..., Any] | Mapping[str, Any],
    path: str | os.PathLike | None = None,
    *,
    inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    opset: int = 20,
    dtype: str | None = None,
    inputs_as_nchw: bool | Collection[str] = (),
    outputs_as_nchw: bool | Collection[str] = (),
    functions: bool = False,
    right_padded: bool = False,
    external_data: bool | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    extra_outputs: Sequence[str] = (),
    dimensions: Mapping[str, int | str] | None = None,
    metadata: Mapping[str, str] | None = None,
    quantized: str | None = None,
    verify: bool | Sequence[int] = True,
    samples: Any = None,
    rtol: float | None = None,
    atol: float | None = None,
    verbose: bool = True,
) -> onnx.ModelProto:
    """The ONNX model of `source`, also written to `path` when one is given.

    Args:
        source: a Model, an `mlx.nn.Module`, or a function of arrays; or a dict of these by name,
            the endpoints of one file: what "encode" takes and gives is called `encode/...`.
        inputs: for a module or function, its arrays, or specs: a shape such as ("batch", 32), or
            a pair (("batch", 5), "int32"); a string is a dynamic dimension and its name. A list,
            or a dict by argument name. For endpoints: a dict of these by endpoint.
        opset: 17 to 26.
        dtype: "float32" or "float16", of weights and computation.
        inputs_as_nchw: names of image inputs that the file takes channels first; True: all of
            rank 3 or more. `outputs_as_nchw` likewise.
        functions: a model called twice or more becomes a local function.
        right_padded: promises that no valid step follows a masked one; recurrent layers with a
            mask are then shorter.
        external_data: weights in `<path>.<hash>.data` beside the model; None: beyond 2 GB.
        input_names, output_names: in place of the model's own, in its order.
        extra_outputs: paths of layers of a Model, such as "encoder/conv2d", whose outputs follow
            its own.
        dimensions: a size, or another name, for dynamic dimensions by name: {"batch": 1}.
        metadata: entries of your own in the file's metadata.
        quantized: "MatMulNBits" keeps quantized weights of 4 and 8 bits packed, for an operator
            that only ONNX Runtime has; None: they are stored as floats.
        verify: run the file in ONNX Runtime against MLX before it is written. A list: the batch
            sizes to try.
        samples: what to verify with, see `verify`; None: the arrays in `inputs`, but for those
            whose elements are all equal, which stand for their shape, and random values.
        rtol, atol: see `verify`; None: what the dtype allows.
        verbose: print what verification measured.

    Raises: UnsupportedLayers with every layer that has no ONNX form; VerificationError when the
        results differ; ValueError and TypeError for options; ValueError when a layer's rule gives
        what ONNX refuses. After an error no file is left.
    """
    _check_path(path)
    g = Builder(opset, dtype or "float32", quantized)
    whole = source
    if extra_outputs:
        if not isinstance(source, mf.Model):
            raise TypeError("to_onnx: expected a Model for extra_outputs, which name its layers.")
        whole = with_outputs(source, extra_outputs)
    options = Options(
        {"inputs_as_nchw": inputs_as_nchw, "outputs_as_nchw": outputs_as_nchw},
        {"input": input_names, "output": output_names},
        functions,
        right_padded,
    )
    assembly = Assembly(g, options, Dimensions(dimensions))
    if is_endpoints(source):
        assembly.add_endpoints(source, inputs)
    else:
        assembly.add(whole, inputs)
    model = assembly.finish(metadata, extra_outputs)
    samples = _examples(source, inputs) if samples is None else samples
    settle(assembly, model, samples)
    if verify is not False:
        batches = verification.BATCHES if verify is True else verify
        report = verification.verify(source, model, samples, rtol, atol, batches=batches)
        if verbose:
            print(report)
    if path is not None:
        files.save(model, path, external_data)
    return model


def _examples(source: Any, inputs: Any) -> Any:
    if not is_endpoints(source):
        return examples(inputs)
    return {name: examples(given) for name, given in (inputs or {}).items()}


def _check_path(path: str | os.PathLike | None) -> None:
    if path is not None and not Path(path).parent.is_dir():
        raise FileNotFoundError(
            f"to_onnx: expected a path in a folder that exists, got {os.fspath(path)!r}. "
            f"Make {os.fspath(Path(path).parent)!r} first."
        )
