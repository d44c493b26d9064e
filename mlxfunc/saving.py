"""One archive a model: `config.json`, `weights.safetensors`, and the optimizer's state.

A zip file without compression. Nothing in it is code, and nothing is imported by name: classes
and functions are those of this package, registered ones, and `custom_objects`.
"""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from . import storage
from .files import replacing
from .graph import Graph, Node, SymbolicTensor, as_dtype, dtype_name, is_symbolic
from .layer import LAYERS, Input
from .model import Model
from .registry import by_reference, deserialize, serialize, sharing
from .registry import custom_object_scope as custom_object_scope
from .registry import register_serializable as register_serializable
from .storage import Archive, File, blaming, opened, reading
from .weights import weights_to_come

FORMAT = {"format": "mlxfunc", "version": 1}
ENDING = ".mlxfunc"
CONFIG, WEIGHTS, STATE = "config.json", "weights.safetensors", "optimizer.safetensors"
ARCHIVE = "an archive that `save` wrote. Save the model again."
ADVICE = "Save the model again with the code that loads it."


def save_model(
    model: Model, path: str | os.PathLike, members: Mapping[str, bytes] | None = None
) -> None:
    """Write architecture, weights, and, of a compiled model, the training setup and state.

    `members` are other files to put into the archive, by name.

    Raises: ValueError when the path does not end in `.mlxfunc`, or a function has no name.
    """
    if not str(path).endswith(ENDING):
        raise ValueError(f"save: expected a path that ends in {ENDING!r}, got {str(path)!r}.")
    with replacing(path) as part:
        _write(part, model, members or {})


def to_bytes(model: Model) -> bytes:
    """The archive itself; `load_model(io.BytesIO(...))` reads it. What pickle keeps of a model."""
    buffer = io.BytesIO()
    _write(buffer, model, {})
    return buffer.getvalue()


def from_bytes(archive: bytes) -> Model:
    """The model of `to_bytes`, by the rules of `load_model`: nothing but data is read."""
    return load_model(io.BytesIO(archive))


def load_model(
    path: File, custom_objects: dict[str, Any] | None = None, compile: bool = True
) -> Model:
    """The model that `save` wrote; when it was compiled, ready to go on training.

    No more is read and allocated than the file holds, and nothing in it is run.

    Raises: ValueError for a file that is no such archive, is cut short or cannot be rebuilt, and
    for a class or function that is neither of this package, registered, nor in `custom_objects`;
    it tells the place in the file, and what was raised there is its cause. OSError for a file that
    cannot be opened.
    """
    with opened(path, ARCHIVE) as file:
        config = Archive(file).json(CONFIG)
    _check_format(path, config)
    compile = compile and "compile" in config
    with opened(path, ARCHIVE) as file:
        archive = Archive(file)
        weights = archive.arrays(WEIGHTS)[0]
        state = archive.arrays(STATE)[0] if compile else {}
    with custom_object_scope(custom_objects or {}):
        with reading(path, CONFIG, ADVICE, config):
            with weights_to_come(sum(array.size for array in weights.values())):
                model = _model(config["model"])
            if compile:
                with blaming(config["compile"]):
                    model.compile_from_config(config["compile"])
        with reading(path, WEIGHTS, ADVICE):
            storage.check(weights, dict(tree_flatten(model.parameters())))
            model.load_weights(list(weights.items()))
        if compile:
            with reading(path, STATE, ADVICE):
                model.set_optimizer_state(state)
    return model


def _model(config: Any) -> Model:
    model = deserialize("layers", config)
    if not isinstance(model, Model):
        raise ValueError(f"expected the configuration of a model, got {config!r:.100}")
    return model


def _write(file: Any, model: Model, members: Mapping[str, bytes]) -> None:
    config: dict[str, Any] = {**FORMAT, "model": serialize(model)}
    arrays = {WEIGHTS: tree_flatten(model.parameters())}
    if model.compiled and not hasattr(model.optimizer, "get_config"):
        warnings.warn(
            f"save: {type(model.optimizer).__name__} is an optimizer of MLX, which cannot be "
            "written down. The file holds the model alone; compile it again after loading.",
            stacklevel=4,
        )
    elif model.compiled:
        config["compile"] = serialize(model.compile_config())
        arrays[STATE] = tree_flatten(model.optimizer.state)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(CONFIG, _to_json(config))
        for name, tree in arrays.items():
            archive.writestr(name, _to_bytes(dict(tree)))
        for name, content in members.items():
            archive.writestr(name, content)


def _to_json(config: dict[str, Any]) -> bytes:
    text = json.dumps(config).encode()
    if len(text) > storage.MAX_JSON_BYTES:
        raise ValueError(
            f"save: expected a configuration below {storage.MAX_JSON_BYTES} bytes, got "
            f"{len(text)}. Large arrays in it are constants of operations: make them weights."
        )
    return text


def _to_bytes(arrays: dict[str, mx.array]) -> bytes:
    buffer = io.BytesIO()
    mx.save_safetensors(buffer, arrays)
    return buffer.getvalue()


def _check_format(path: File, config: Any) -> None:
    found = {key: config.get(key) for key in FORMAT} if isinstance(config, dict) else config
    if found != FORMAT:
        raise ValueError(
            f"{storage.name_of(path)}: expected {FORMAT}, got {found!r:.100}; at config.json. "
            "Use the version that wrote it."
        )


# A graph as JSON: its calls in the order they were made, each with its layer and arguments.


def graph_config(graph: Graph) -> dict[str, Any]:
    """Layers, calls, inputs and outputs; a layer shared with another model is written once."""
    nodes = sorted(graph.nodes, key=lambda node: node.serial)
    sources = {id(t): k for k, t in enumerate(graph.inputs)}
    calls = [node for node in nodes if node.inputs]
    places = {id(node): k for k, node in enumerate(calls)}

    def place(tensor: SymbolicTensor) -> dict[str, Any]:
        if id(tensor) in sources:
            return {"input": sources[id(tensor)]}
        node: Node = tensor.node  # type: ignore[assignment]
        if tensor is not node.outputs[tensor.index]:
            if id(node) not in places:
                return {"input_mask": sources[id(node.outputs[tensor.index])]}
            return {"mask": [places[id(node)], tensor.index]}
        return {"call": [places[id(node)], tensor.index]}

    with sharing():
        return {
            "sources": [
                {"name": name, "batch_shape": list(t.shape), "dtype": dtype_name(t.dtype)}
                for name, t in zip(_source_names(graph), graph.inputs, strict=True)
            ],
            "calls": [
                {
                    "layer": serialize(node.layer),
                    "args": _encode(node.args, place),
                    "kwargs": _encode(node.kwargs, place),
                }
                for node in calls
            ],
            "inputs": _encode(graph.input, place),
            "outputs": _encode(graph.output, place),
        }


def _source_names(graph: Graph) -> list[str]:
    """Of the inputs that will be made; one that a layer returned may not take that layer's name."""
    taken = {layer.name for layer in graph.layer_order}
    names = []
    for tensor in graph.inputs:
        name = tensor.name
        if tensor.node is None or tensor.node.inputs:
            name = name.replace("/", "_")
            while name in taken:
                name += "_input"
        taken.add(name)
        names.append(name)
    return names


def draw_graph(config: dict[str, Any]) -> tuple[Any, Any]:
    """Make the layers and repeat the calls; the inputs and outputs of a Model."""
    if missing := {"sources", "calls", "inputs", "outputs"} - set(config):
        raise ValueError(
            f"from_config: expected what get_config() of a model gives, got a dict without "
            f"{', '.join(sorted(missing))}. Use the config of a layer with its own class."
        )
    sources = [Input(**source) for source in config["sources"]]
    made: list[Node] = []

    def tensor(place: dict[str, Any]) -> SymbolicTensor | None:
        (kind, where), *_ = place.items()
        if kind in ("input", "input_mask"):
            return sources[where] if kind == "input" else sources[where].mask
        found = made[where[0]].outputs[where[1]]
        return found if kind == "call" else found.mask

    with sharing():
        for call in config["calls"]:
            with blaming(call):
                layer = LAYERS.get(call["layer"])
                layer(*_decode(call["args"], tensor), **_decode(call["kwargs"], tensor))
                made.append(layer._nodes[-1])
        return _decode(config["inputs"], tensor), _decode(config["outputs"], tensor)


_PLACES = {"input", "input_mask", "mask", "call"}


def _encode(value: Any, place: Any) -> Any:
    """A call's argument as JSON: what JSON lacks becomes a dict with one key that says what."""
    if is_symbolic(value):
        return place(value)
    if isinstance(value, mx.array):
        return {"array": value.tolist(), "dtype": dtype_name(value.dtype)}
    if isinstance(value, mx.Dtype):
        return {"dtype": dtype_name(value)}
    if isinstance(value, slice):
        return {"slice": [_encode(v, place) for v in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, tuple):
        return {"tuple": [_encode(v, place) for v in value]}
    if isinstance(value, list):
        return [_encode(v, place) for v in value]
    if isinstance(value, dict):
        return {"dict": {key: _encode(v, place) for key, v in value.items()}}
    return serialize(value)


def _decode(value: Any, tensor: Any) -> Any:
    if isinstance(value, list):
        return [_decode(v, tensor) for v in value]
    if not isinstance(value, dict):
        return value
    if value.keys() & _PLACES:
        return tensor(value)
    if "array" in value:
        return mx.array(value["array"], dtype=as_dtype(value["dtype"]))
    if "dtype" in value:
        return as_dtype(value["dtype"])
    if "slice" in value:
        return slice(*(_decode(v, tensor) for v in value["slice"]))
    if "ellipsis" in value:
        return Ellipsis
    if "tuple" in value:
        return tuple(_decode(v, tensor) for v in value["tuple"])
    return {key: _decode(v, tensor) for key, v in value["dict"].items()}


def clone(model: Model) -> Model:
    """A model of the same architecture and sharing, with weights of its own."""
    with by_reference():
        return type(model).from_config(model.get_config())
