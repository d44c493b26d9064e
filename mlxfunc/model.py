"""Model and Sequential: a graph of layers that is itself a layer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from . import metrics, optimizers
from .conversion import check_real, dtype_name, to_mlx
from .depth import allow_depth, allow_json
from .given_ids import GivenIds
from .graph import (
    Graph,
    Node,
    Shape,
    SymbolicTensor,
    is_symbolic,
    leaves,
    leaves_as,
    pack,
    shapes_of,
)
from .layer import LAYERS, Input, InputLayer, Layer
from .ops import Operation
from .registry import deserialize, serialize, sharing
from .storage import blaming, reading
from .training.trainer import Trainer


class Model(Trainer):
    """The layers between `inputs` and `outputs`: one tensor, or a list, tuple or dict of them.

    Results have the structure of `outputs`; a list of one tensor is that tensor. A `training=`
    that a layer was called with holds in every run, where Keras's `fit` and `predict` override it.

    A Model is a Layer: it can be called, shared and put inside another model. Layers are
    members under their names, so that a weight's path is `encoder.dense.weight`.

    Raises: ValueError for an output that needs an unlisted input, and for two layers of one name.
    Source: https://keras.io/api/models/model/
    """

    supports_masking = True
    _depth: int = 0  # of models in models

    def __init__(
        self, inputs: Any, outputs: Any, *, name: str | None = None, trainable: bool = True
    ) -> None:
        super().__init__(name=name)
        self._set_graph(Graph(_single(inputs), _single(outputs), self.name))
        if not trainable:
            self.trainable = False

    def _set_graph(self, graph: Graph) -> None:
        self._graph: Graph | None = graph
        repeated = [n for n, k in Counter(la.name for la in graph.layer_order).items() if k > 1]
        if repeated:
            kinds = [type(la).__name__ for la in graph.layer_order if la.name == repeated[0]]
            raise ValueError(
                f"{self.name}: expected unique layer names, got {repeated[0]!r} for "
                f"{' and '.join(kinds)}. Give one of them another name=."
            )
        for layer in graph.layer_order:
            self[layer.name] = layer
        self._starts = tuple(
            InputLayer(t.shape, dtype_name(t.dtype), f"{t.name.replace('/', '_')}_input")
            for t in graph.inputs
            if t.node is None or t.node.inputs
        )
        self.input_names = tuple(_names(graph.input, graph.inputs))
        self.output_names = tuple(_names(graph.output, graph.outputs))
        self.built = True
        inner = (module for layer in graph.layer_order for module in layer.sublayers())
        self._depth = 1 + max((m._depth for m in inner if isinstance(m, Model)), default=0)
        allow_depth(self._depth)

    @property
    def graph(self) -> Graph:
        """The nodes, in the order they run."""
        if self._graph is None:
            raise ValueError(
                f"{self.name}: expected a model that knows its input's shape, got none yet. "
                "Begin with Input(...), give the first layer input_shape=, or call it on data."
            )
        return self._graph

    def __setattr__(self, key: str, value: Any) -> None:
        # A layer may be called as an attribute is, `history` say: both stay, the layer a member.
        if isinstance(self.get(key), Layer) and not isinstance(value, Layer):
            object.__setattr__(self, key, value)
        else:
            super().__setattr__(key, value)

    # Running.

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        return self.run(inputs, training, mask)[0]

    def _compute(self, args: tuple, kwargs: dict, mask: Any, training: bool) -> tuple[Any, Any]:
        flags = self._flags(kwargs, mask, training)
        return self.run(*args, **flags)

    def check_inputs(self, args: tuple) -> None:
        given = zip(self.input_names, self.flatten_inputs(args[0]), self.inputs, strict=True)
        for name, value, tensor in given:
            if is_symbolic(value) and value.ndim == tensor.ndim:
                _check_shape(self.name, name, value.shape, tensor.shape)

    def infer(self, node: Node) -> tuple[Any, list[SymbolicTensor | None]]:
        """As in Layer; on tensors like its own inputs a model returns tensors like its outputs."""
        alike = (
            len(node.args) == 1
            and not node.kwargs
            and [_spec(t) for t in leaves(node.args[0])] == [_spec(t) for t in self.inputs]
            and type(self).call is Model.call
            and type(self).run is Model.run
        )
        if not alike:
            return super().infer(node)
        outputs = [SymbolicTensor(t.shape, t.dtype, self.name) for t in self.outputs]
        masks = [
            None
            if t.mask is None
            else SymbolicTensor(t.mask.shape, t.mask.dtype, f"{self.name}/mask")
            for t in self.outputs
        ]
        return pack(outputs, self.output), masks

    def run(self, inputs: Any, training: bool = False, mask: Any = None) -> tuple[Any, Any]:
        """The outputs and the masks of the outputs, both in the structure of `outputs`."""
        values, masks = self.bind_inputs(inputs, mask)
        return self.graph.for_inputs(masks).forward(values, masks, training)

    def bind_inputs(self, inputs: Any, mask: Any = None) -> tuple[list[mx.array], list[Any]]:
        """A value and a mask (or None) for each input, from any structure that `call` takes."""
        values = [
            _fit(self.name, name, value, tensor)
            for name, value, tensor in zip(
                self.input_names, self.flatten_inputs(inputs), self.inputs, strict=True
            )
        ]
        return values, [None] * len(values) if mask is None else self.flatten_inputs(mask)

    def flatten_inputs(self, inputs: Any) -> list[Any]:
        """One value an input, in order, from a single value, a list, or a dict by name."""
        parts = leaves_as(self.input, inputs)
        if parts is not None and isinstance(self.input, dict | list | tuple):
            return parts
        expected = f"{len(self.inputs)} inputs ({', '.join(self.input_names)})"
        if isinstance(inputs, dict):
            missing = [name for name in self.input_names if name not in inputs]
            if missing:
                raise ValueError(
                    f"{self.name}: expected {expected}, got a dict with {sorted(inputs)}. "
                    f"Add {missing[0]!r}."
                )
            return [inputs[name] for name in self.input_names]
        values = leaves(inputs)
        if len(values) != len(self.inputs):
            raise ValueError(
                f"{self.name}: expected {expected}, got {len(values)}. "
                "Give a list in that order, or a dict by name."
            )
        return values

    @property
    def reads_ids(self) -> bool:  # type: ignore[override]
        return bool(self._graph is not None and self.given_ids.inputs)

    @property
    def given_ids(self) -> GivenIds:
        """The way of the inputs to the layers that look them up."""
        if self._given_ids is None or self._given_ids.graph is not self.graph:
            self._given_ids = GivenIds(self.graph)
        return self._given_ids

    _given_ids: GivenIds | None = None

    def check_ids(self, inputs: Any) -> None:
        self.given_ids.check(self.flatten_inputs(inputs))

    def load_weights(self, file_or_weights: Any, strict: bool = True) -> Any:
        """Weights by the names of their layers, from a `.safetensors` or `.npz` file, or pairs.

        Raises: ValueError for names and shapes that are not the model's, where `strict`.
        """
        try:
            return super().load_weights(file_or_weights, strict)
        except ValueError as error:
            error.add_note(
                "Layers are found by name. Name them, or call mlxfunc.clear_session() before the "
                "model is built again, so that automatic names are the same."
            )
            raise

    # Looking in.

    @property
    def inputs(self) -> list[SymbolicTensor]:
        return self.graph.inputs

    @property
    def outputs(self) -> list[SymbolicTensor]:
        return self.graph.outputs

    @property
    def input(self) -> Any:
        return self.graph.input

    @property
    def output(self) -> Any:
        return self.graph.output

    @property
    def input_shape(self) -> Any:
        return shapes_of(self.graph.input)

    @property
    def output_shape(self) -> Any:
        return shapes_of(self.graph.output)

    @property
    def layers(self) -> list[Layer]:
        """Every layer once, in Keras's order: inputs are layers, functions of `ops` are none.

        A model that begins at a tensor inside another one has an InputLayer there.
        """
        layers = [la for la in self.graph.layer_order if not isinstance(la, Operation)]
        return [*self._starts, *layers]

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """The layer of that name, or at that place in `layers`."""
        if (name is None) == (index is None):
            raise ValueError(f"{self.name}: expected either a name or an index to get_layer.")
        if index is not None:
            if not -len(self.layers) <= index < len(self.layers):
                raise ValueError(
                    f"{self.name}: expected an index below {len(self.layers)}, got {index}. "
                    "It counts `layers`, the inputs included."
                )
            return self.layers[index]
        for layer in [*self.layers, *self.graph.layer_order]:
            if layer.name == name:
                return layer
        known = ", ".join(layer.name for layer in self.layers)
        raise ValueError(
            f"{self.name}: expected the name of a layer, got {name!r}. It has {known}."
        )

    def summary(
        self,
        line_length: int | None = None,
        print_fn: Callable[[str], None] | None = None,
        expand_nested: bool = False,
        show_trainable: bool = False,
    ) -> None:
        """Print the layers, their output shapes, weights and sources."""
        from .summary import summary

        summary(self, line_length, print_fn, expand_nested, show_trainable)

    # Keeping.

    def get_config(self) -> dict[str, Any]:
        from .saving import graph_config

        return {"name": self.name, "trainable": self.trainable, **graph_config(self.graph)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Model:
        from .saving import draw_graph

        inputs, outputs = draw_graph(config)
        model = cls(inputs, outputs, name=config["name"])
        model._trainable = config.get("trainable", True)  # of each layer, its own config tells
        return model

    def to_json(self, **options: Any) -> str:
        """The architecture as JSON, without weights; `mf.models.model_from_json` reads it."""
        return json.dumps(serialize(self), **options)

    def save(self, path: str, members: Mapping[str, bytes] | None = None) -> None:
        """Write architecture, weights and optimizer to one `.mlxfunc` archive.

        Args:
            members: other files to put into the archive, by name.
        """
        from .saving import save_model

        save_model(self, path, members)

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickles and deep copies are archives too: what a file may not name, they may not.
        from .saving import from_bytes, to_bytes

        return from_bytes, (to_bytes(self),)

    def export(self, path: str, format: str = "onnx", **options: Any) -> Any:
        """Write the model to ONNX and prove it in ONNX Runtime; see `mlx2onnx.to_onnx`."""
        if format != "onnx":
            raise ValueError(f"{self.name}: expected format 'onnx', got {format!r}.")
        import mlx2onnx

        return mlx2onnx.to_onnx(self, path, **options)


class Sequential(Model):
    """Layers one after the other.

    The first shape comes from an `Input`, from `input_shape=` on the first layer, or from the
    first data. Raises: ValueError when a layer has several inputs or outputs.
    Source: https://keras.io/api/models/sequential/
    """

    def __init__(
        self,
        layers: Iterable[Any] | None = None,
        *,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        Trainer.__init__(self, name=name)
        self._graph = None
        self._stack: list[Layer] = []
        self._tensors: list[SymbolicTensor] = []
        for layer in layers or ():
            self.add(layer)
        if not trainable:
            self.trainable = False

    def add(self, layer: Any) -> None:
        """Append a layer, or begin with an `Input`."""
        if is_symbolic(layer) and layer.node is not None:
            layer = layer.node.layer
        if not isinstance(layer, Layer):
            raise TypeError(f"{self.name}: expected a Layer, got {layer!r}. Wrap it in MLXLayer.")
        if self.get(layer.name, layer) is not layer:
            raise ValueError(
                f"{self.name}: expected unique layer names, got {layer.name!r} for "
                f"{type(self[layer.name]).__name__} and {type(layer).__name__}. "
                "Give one of them another name=."
            )
        if isinstance(layer, InputLayer):
            if self._stack or self._tensors:
                raise ValueError(f"{self.name}: expected Input first, got it after other layers.")
            self._tensors.append(layer.output)
            return
        if not self._tensors and layer._first_shape is not None:
            first_dtype = "int32" if layer.reads_ids else "float32"
            self._tensors.append(Input(batch_shape=layer._first_shape, dtype=first_dtype))
        elif not self._tensors and isinstance(layer, Model) and layer._graph is not None:
            self._tensors.append(
                Input(batch_shape=layer.inputs[0].shape, dtype=layer.inputs[0].dtype)
            )
        self[layer.name] = layer
        self._stack.append(layer)
        self._extend()

    def _extend(self) -> None:
        """Draw the layers that have no tensor yet, once the first shape is known."""
        if not self._tensors:
            return
        for layer in self._stack[len(self._tensors) - 1 :]:
            output = layer(self._tensors[-1])
            if not is_symbolic(output):
                raise ValueError(
                    f"{self.name}: expected one output of each layer, got several from "
                    f"{layer.name!r}. Use Input and Model for such a graph."
                )
            self._tensors.append(output)
        if self._stack:
            self._set_graph(Graph(self._tensors[0], self._tensors[-1], self.name))

    def pop(self, *key: Any) -> Any:
        """Remove the last layer and return it. (With a key: `dict.pop`, which Module needs.)"""
        if key:
            return dict.pop(self, *key)
        if not self._stack:
            raise ValueError(f"{self.name}: expected a layer to pop, got an empty model.")
        layer = self._stack.pop()
        if not any(other is layer for other in self._stack):
            del self[layer.name]
        if self._graph is not None:
            self._tensors.pop()
            layer._nodes.pop()
            self._graph = None
            self._extend()
        return layer

    def build(self, input_shape: Any) -> None:
        """Draw the layers for a batch shape such as (None, 20)."""
        if self._graph is None:
            self._tensors = [Input(batch_shape=tuple(input_shape))]
            self._extend()

    def build_from(self, x: Any) -> None:
        """Draw the layers for an input like `x`: a symbolic one, or data (batch, ...)."""
        if not self._stack:
            raise ValueError(f"{self.name}: expected layers, got an empty model. Use add().")
        if self._graph is None:
            first = x if isinstance(x, dict) else leaves(x)[0]
            self._tensors = [tree_map(_input_like, first)]
            self._extend()

    def _ensure_built(self, args: tuple, kwargs: dict) -> None:
        self.build_from(args[0] if args else args)

    @property
    def layers(self) -> list[Layer]:
        """The layers that were added; the input is not one of them."""
        return list(self._stack)

    def get_config(self) -> dict[str, Any]:
        # Several inputs are drawn anew for the data: a list of layers cannot hold them.
        first = [t.node.layer for t in self._tensors[:1] if is_symbolic(t) and t.node]
        stack = [*first, *self._stack]
        with sharing():
            return {"name": self.name, "trainable": self.trainable, "layers": serialize(stack)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Sequential:
        model = cls(name=config["name"])
        with sharing():
            for entry in config["layers"]:
                with blaming(entry):
                    model.add(LAYERS.get(entry))
        model._trainable = config.get("trainable", True)
        return model


def _input_like(value: Any) -> SymbolicTensor:
    """An Input for a symbolic tensor, or for data with the batch in front."""
    shape = value.shape if is_symbolic(value) else (None, *value.shape[1:])
    integers = isinstance(value.dtype, mx.Dtype) and mx.issubdtype(value.dtype, mx.integer)
    return Input(batch_shape=shape, dtype=value.dtype if integers else "float32")


def _spec(tensor: SymbolicTensor) -> tuple[Any, ...]:
    """What the shapes and masks of a model's outputs depend on."""
    return tensor.shape, tensor.dtype, None if tensor.mask is None else tensor.mask.shape


def _single(structure: Any) -> Any:
    """The only entry of a list or tuple of one; anything else as it is."""
    is_list = isinstance(structure, list | tuple)
    return structure[0] if is_list and len(structure) == 1 else structure


def _names(structure: Any, tensors: list[SymbolicTensor]) -> list[str]:
    """A dict's keys, else the tensors' names; a repeated one is numbered."""
    if isinstance(structure, dict) and all(is_symbolic(value) for value in structure.values()):
        return list(structure)
    counts: Counter[str] = Counter()
    names = []
    for tensor in tensors:
        counts[tensor.name] += 1
        count = counts[tensor.name] - 1
        names.append(f"{tensor.name}_{count}" if count else tensor.name)
    return names


def _fit(model: str, name: str, value: Any, tensor: SymbolicTensor) -> mx.array:
    """The value as the input wants it: Keras's (N,) for (N, 1) and back, and its kind of dtype."""
    value = to_mlx(value)
    if value.ndim == tensor.ndim + 1 and value.shape[-1] == 1:
        value = value.squeeze(-1)
    elif value.ndim == tensor.ndim - 1 and tensor.shape[-1] == 1:
        value = value[..., None]
    _check_shape(model, name, value.shape, tensor.shape)
    check_real(value, tensor.dtype, f"{model}: data for {name!r}")
    both_float = mx.issubdtype(value.dtype, mx.floating) and mx.issubdtype(
        tensor.dtype, mx.floating
    )
    return value if both_float or value.dtype == tensor.dtype else value.astype(tensor.dtype)


def _check_shape(model: str, name: str, shape: Shape, wanted: Shape) -> None:
    """Refuse a shape that differs in a known size; of the batch only stateful layers ask one."""
    sizes = zip(shape[1:], wanted[1:], strict=False)
    known = [(a, b) for a, b in sizes if isinstance(a, int) and isinstance(b, int)]
    if len(shape) != len(wanted) or any(a != b for a, b in known):
        raise ValueError(
            f"{model}: expected input {name!r} of shape {wanted}, got {shape}. "
            "The first axis is the batch; None is any size."
        )


def clone_model(model: Model) -> Model:
    """A model of the same architecture and sharing, with weights of its own; compiled alike."""
    from .saving import clone

    copy = clone(model)
    if model.compiled and hasattr(model.optimizer, "get_config"):
        copy.compile_from_config(tree_map(_anew, model.compile_config()))
    return copy


def _anew(value: Any) -> Any:
    """An optimizer or a metric of the same configuration without its state; else the same."""
    has_state = isinstance(value, optimizers.Optimizer | metrics.Metric)
    return type(value).from_config(value.get_config()) if has_state else value


def model_from_json(text: str, custom_objects: dict[str, Any] | None = None) -> Model:
    """The model that `to_json` described, with new weights.

    Raises: ValueError for another text, which tells what in it cannot be rebuilt.
    """
    with reading("model_from_json", "its JSON", "Use the code that wrote it."):
        allow_json(text.encode())
        config = json.loads(text)
    with reading("model_from_json", "its JSON", "Use the code that wrote it.", config):
        return deserialize("layers", config, custom_objects)


LAYERS.register(Model)
LAYERS.register(Sequential)
__all__ = ["Model", "Sequential", "clone_model", "model_from_json"]
