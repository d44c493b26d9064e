"""`to_onnx`: build the graph, prove it, then put it on disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlxfunc as mf
import mlx.nn as nn
import onnx
from mlx2onnx import files, trace
from mlx2onnx import verify as verification
from mlx2onnx.builder import Builder
from mlx2onnx.convert import UnsupportedLayers, Walk, is_model
from mlx2onnx.layout import Tensor, channels_first, plain


def to_onnx(
    source: mf.Model | nn.Module | Callable[..., Any],
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
    verify: bool | Sequence[int] = True,
    rtol: float | None = None,
    atol: float | None = None,
    verbose: bool = True,
) -> onnx.ModelProto:
    """The ONNX model of `source`, also written to `path` when one is given.

    Args:
        source: a Model, an `mlx.nn.Module`, or a function of arrays.
        inputs: for a module or function, its arrays, or specs: a shape such as ("batch", 32), or
            a pair (("batch", 5), "int32"); a string is a dynamic dimension and its name. A list,
            or a dict by argument name.
        opset: 17 to 26.
        dtype: "float32" or "float16", of weights and computation.
        inputs_as_nchw: names of image inputs that the file takes channels first; True: all of
            rank 3 or more. `outputs_as_nchw` likewise.
        functions: a model called twice or more becomes a local function.
        right_padded: promises that no valid step follows a masked one; recurrent layers with a
            mask are then shorter.
        external_data: weights in `<path>.data` beside the model; None: when they exceed 2 GB.
        input_names, output_names: in place of the model's own, in its order.
        verify: run the file in ONNX Runtime against MLX before it is written. A list: the batch
            sizes to try.
        rtol, atol: see `verify`; None: what the dtype allows.
        verbose: print what verification measured.

    Raises: UnsupportedLayers with every layer that has no ONNX form; VerificationError when the
        results differ; ValueError and TypeError for options. After an error no file is left.
    """
    _check_path(path)
    g = Builder(opset, dtype or "float32")
    if isinstance(source, mf.Model):
        if inputs is not None:
            raise TypeError("to_onnx: expected no `inputs` for a Model, which has its own.")
        walk = Walk(g, _reused(source) if functions else frozenset(), right_padded)
        names = (input_names, output_names)
        properties = _model_graph(walk, source, (inputs_as_nchw, outputs_as_nchw), names)
    else:
        properties = _function_graph(g, source, inputs, input_names, output_names)
    model = g.finish(properties)
    if verify:
        batches = verification.BATCHES if verify is True else tuple(verify)
        report = verification.verify(source, model, rtol=rtol, atol=atol, batches=batches)
        if verbose:
            print(report)
    if path is not None:
        files.save(model, path, external_data)
    return model


def _check_path(path: str | os.PathLike | None) -> None:
    if path is not None and not Path(path).parent.is_dir():
        raise FileNotFoundError(
            f"to_onnx: expected a path in a folder that exists, got {os.fspath(path)!r}. "
            f"Make {os.fspath(Path(path).parent)!r} first."
        )


def _function_graph(
    g: Builder,
    source: Any,
    inputs: Any,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> dict[str, str]:
    if not callable(source):
        raise TypeError(
            f"to_onnx: expected a Model, an mlx.nn.Module or a function, got {source!r}."
        )
    if inputs is None:
        raise TypeError(
            "to_onnx: expected `inputs` for a module or function: arrays or specs, "
            'such as inputs=[("batch", 32)].'
        )
    trace.function_to_graph(g, source, inputs, input_names, output_names)
    return {"source": getattr(source, "__name__", type(source).__name__)}


def _model_graph(walk: Walk, model: mf.Model, nchw: tuple, given_names: tuple) -> dict[str, str]:
    """Fills the builder; `nchw` and `given_names` are the options for inputs and for outputs."""
    g, specs = walk.g, model.inputs
    names = _names("input", given_names[0], model.input_names)
    first_in = _channels_first("inputs_as_nchw", nchw[0], names, specs)
    # An output that is an input, or is called like one, has another name in the file.
    own = [f"{n}_output" if n in names else n for n in model.output_names]
    out_names = _names("output", given_names[1], own)
    first_out = _channels_first("outputs_as_nchw", nchw[1], out_names, model.outputs)
    tensors = []
    for name, spec in zip(names, specs, strict=True):
        rank = len(spec.shape)
        layout = channels_first(rank) if name in first_in else plain(rank)
        dims = ["batch" if d is None and i == 0 else d for i, d in enumerate(spec.shape)]
        dims = [f"{name}_dim_{i}" if d is None else d for i, d in enumerate(dims)]
        value = g.input(name, spec.dtype, [dims[axis] for axis in layout.perm])
        tensors.append(Tensor(g, value, spec.shape, layout, dtype=spec.dtype))
    outputs, _ = walk.model(model, tensors, [None] * len(tensors))
    if walk.problems:
        raise UnsupportedLayers(walk.problems)
    for name, tensor, spec in zip(out_names, outputs, model.outputs, strict=True):
        layout = channels_first(tensor.rank) if name in first_out else plain(tensor.rank)
        # A dtype that rules compute in another one.
        g.output(g.cast(tensor.to(layout), spec.dtype), name)
    properties = {
        "source": f"mlxfunc {type(model).__name__}",
        "model": model.name,
        verification.NCHW_INPUTS: ",".join(first_in),
        verification.NCHW_OUTPUTS: ",".join(first_out),
        verification.RIGHT_PADDED: "yes" if walk.right_padded else "",
    }
    return {key: value for key, value in properties.items() if value}


def _names(side: str, given: Sequence[str] | None, own: Sequence[str]) -> list[str]:
    if given is None:
        return list(own)
    if len(given) != len(own) or len(set(given)) != len(given):
        raise ValueError(
            f"to_onnx: expected {len(own)} different names in {side}_names, got {list(given)}. "
            f"The model's own are {list(own)}."
        )
    return list(given)


def _channels_first(
    option: str, wanted: bool | Collection[str], names: Sequence[str], specs: Sequence[Any]
) -> list[str]:
    images = [name for name, spec in zip(names, specs, strict=True) if len(spec.shape) >= 3]
    if isinstance(wanted, bool):
        return images if wanted else []
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in wanted:
        if name not in images:
            raise ValueError(
                f"to_onnx: expected names of rank 3 or more in {option}, got {name!r}. "
                f"There is {', '.join(images) or 'none'}."
            )
    return wanted


def _reused(model: mf.Model) -> frozenset[int]:
    """The ids of the models that are called twice or more inside `model`."""
    calls: Counter[int] = Counter()
    pending = [model]
    while pending:
        for node in pending.pop().graph.nodes:
            if is_model(node.layer):
                calls[id(node.layer)] += 1
                if calls[id(node.layer)] == 1:
                    pending.append(node.layer)
    return frozenset(key for key, count in calls.items() if count > 1)
