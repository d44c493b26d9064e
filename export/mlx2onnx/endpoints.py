"""What a file offers: layers inside a model as outputs, several models side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import onnx
from mlx2onnx.convert import is_model
from mlx2onnx.metadata import ENDPOINTS
from mlx2onnx.session import load
from mlxfunc.graph import SymbolicTensor, leaves

# What a dynamic dimension is in the default of an input; larger when the model refuses it.
DEFAULT_SIZES = (1, 11, 44, 176)


def with_outputs(model: mf.Model, paths: Sequence[str]) -> mf.Model:
    """`model` with the outputs of the layers at `paths` after its own.

    A layer in a nested model is `encoder/conv2d`. An output is called as its path is; the further
    ones of a layer with several outputs or calls are `path_1`, `path_2`.

    Raises: ValueError for a path that leads to no layer.
    """
    outputs = dict(zip(model.output_names, model.outputs, strict=True))
    for path in paths:
        for index, tensor in enumerate(_tensors(model, path, path)):
            name = f"{path}_{index}" if index else path
            if outputs.setdefault(name, tensor) is not tensor:
                raise ValueError(
                    f"{model.name}: expected an extra output with a name of its own, got {name!r}, "
                    f"which is an output already. Rename one of the layers."
                )
    return mf.Model(model.input, outputs, name=model.name)


def _tensors(model: mf.Model, path: str, whole: str) -> list[SymbolicTensor]:
    """What the layer at `path` gives, in the graph of `model`."""
    name, _, rest = path.partition("/")
    nodes = [node for node in model.graph.nodes if node.inputs and node.layer.name == name]
    inside = bool(nodes) and is_model(nodes[0].layer)
    if not nodes or (rest and not inside):
        names = dict.fromkeys(node.layer.name for node in model.graph.nodes if node.inputs)
        what = f"model with layers in it for {name!r}" if nodes else "path of a layer"
        raise ValueError(
            f"{model.name}: expected a {what}, got {whole!r}. There is {', '.join(names)}."
        )
    if not rest:
        return [tensor for node in nodes for tensor in node.outputs]
    # The inner model once more, up to that layer: the exporter finds that all of it is there.
    inner: Any = nodes[0].layer
    part = mf.Model(inner.input, _tensors(inner, rest, whole))
    return [t for node in nodes for t in leaves(part(*node.args, **node.kwargs))]


def is_endpoints(source: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether it is several sources by name; a module is a dict too."""
    return isinstance(source, Mapping) and not isinstance(source, nn.Module)


def default_size(source: Any, specs: Sequence[tuple[Sequence[Any], mx.Dtype]]) -> int:
    """The first of `DEFAULT_SIZES` that `source` takes for dynamic dimensions, in a batch of 1."""
    for size in DEFAULT_SIZES:
        arrays = [mx.zeros(_filled(shape, size), dtype) for shape, dtype in specs]
        try:
            # Nothing is computed: shapes are enough to refuse.
            source.run(arrays) if isinstance(source, mf.Model) else source(*arrays)
        except (ValueError, RuntimeError):
            continue
        return size
    return DEFAULT_SIZES[-1]


def _filled(shape: Sequence[Any], size: int) -> list[int]:
    return [d if isinstance(d, int) else size if axis else 1 for axis, d in enumerate(shape)]


def add_defaults(model: onnx.ModelProto, prefix: str, size: int) -> None:
    """Zeros as initial values of the inputs under `prefix`, which may then be left out."""
    for value in model.graph.input:
        if value.name.startswith(prefix):
            kind = value.type.tensor_type
            dims = [d.dim_value if d.HasField("dim_value") else "" for d in kind.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            zeros = onnx.numpy_helper.from_array(np.zeros(_filled(dims, size), dtype), value.name)
            model.graph.initializer.append(zeros)


def endpoint(file: str | os.PathLike | onnx.ModelProto, name: str) -> onnx.ModelProto:
    """One endpoint of a file of several, as a model of its own with plain inputs.

    For runtimes that cannot leave inputs out. Raises: ValueError when there is no such endpoint.
    """
    model = onnx.ModelProto()
    model.CopyFrom(load(file))
    properties = {p.key: p for p in model.metadata_props}
    names = properties[ENDPOINTS].value.split(",") if ENDPOINTS in properties else []
    if name not in names:
        raise ValueError(
            f"endpoint: expected the name of an endpoint, got {name!r}. "
            f"There is {', '.join(names) or 'none'}."
        )
    graph = model.graph
    prefix = f"{name}/"
    for values in (graph.input, graph.output):
        _keep(values, lambda value: value.name.startswith(prefix))
    needed = {value.name for value in graph.output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed |= _reads(node)
    weights = needed - {value.name for value in graph.input}
    _keep(graph.node, lambda node: bool(needed.intersection(node.output)))
    _keep(graph.initializer, lambda tensor: tensor.name in weights)
    model.metadata_props.remove(properties[ENDPOINTS])
    onnx.checker.check_model(model)
    return model


def _reads(node: onnx.NodeProto) -> set[str]:
    """The values that a node uses, those of its bodies among them."""
    names = set(node.input)
    for attribute in node.attribute:
        for body in [attribute.g, *attribute.graphs]:
            for inner in body.node:
                names |= _reads(inner)
    return names


def _keep(entries: Any, wanted: Callable[[Any], bool]) -> None:
    kept = [entry for entry in entries if wanted(entry)]
    del entries[:]
    entries.extend(kept)
