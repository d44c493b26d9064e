"""Layer: an `mlx.nn.Module` that can also be called on symbolic tensors."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from . import regularizers
from .arguments import InputSpec as InputSpec
from .arguments import as_array, first_input, first_shape, valid_name
from .call_record import CallRecord, current_record, recording
from .given_ids import are_known
from .graph import (
    Node,
    Shape,
    SymbolicTensor,
    as_dtype,
    dtype_name,
    infer,
    is_symbolic,
    leaves,
    shapes_of,
    symbols,
    unique_name,
)
from .nodes import Calls
from .random_state import get_random_state, set_random_state
from .registry import VARIADIC, Registry, constructor_arguments, serialize
from .weights import Weights

LAYERS = Registry("layers")
# Whether the layer that is running trains: layers that its `call` calls do as it does.
_in_training: ContextVar[bool | None] = ContextVar("in_training", default=None)


class Layer(Weights, Calls):
    """A function with weights. On arrays it computes; on symbolic tensors it draws a Node.

    A subclass writes `__init__` (keep each argument as an attribute of its name), `build`
    (make weights, once the input's shape is known) and `call` (the maths). `call` receives
    `training`, `mask` and `<argument>_mask` when its signature names them. A mask passes a layer
    with `supports_masking`, which those that write `compute_mask` have; elsewhere it ends, with a
    warning.

    Args:
        name: unique in a model; made from the class name when missing.
        trainable: whether the optimizer moves the weights.
        dtype: of the weights; float inputs are cast to it. None: float32 weights, inputs as given.
        activity_regularizer: added to the loss, of each output.
        input_shape, batch_input_shape, batch_size, input_dim, input_length: the shape of a first
            layer in a Sequential.

    Source: https://keras.io/api/layers/base_layer/
    """

    supports_masking = False
    # Whether outputs hold values of the inputs and nothing else, as those of Reshape do.
    moves_values = False
    # Whether the first argument holds ids that `check_ids` knows the range of.
    reads_ids = False
    input_spec: InputSpec | None = None
    _added_losses: tuple[mx.array, ...] = ()
    _last_call: CallRecord | None = None

    def __init__(
        self,
        *,
        name: str | None = None,
        trainable: bool = True,
        dtype: str | mx.Dtype | None = None,
        activity_regularizer: Any = None,
        **shape_arguments: Any,
    ) -> None:
        super().__init__()
        self._training = False
        self.name = valid_name(name) if name else unique_name(type(self).__name__)
        self._built = self._called = False
        self._trainable = bool(trainable)
        self.dtype = None if dtype is None else dtype_name(as_dtype(dtype))
        self.activity_regularizer = regularizers.get(activity_regularizer)
        self._first_shape = first_shape(
            self.name, shape_arguments, constructor_arguments(type(self))
        )
        self._nodes: list[Node] = []
        self._build_shape: Any = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "build" in cls.__dict__:
            cls.build = _build_once(cls.__dict__["build"])  # type: ignore[method-assign]
        if "compute_mask" in cls.__dict__ and "supports_masking" not in cls.__dict__:
            cls.supports_masking = True

    @property
    def built(self) -> bool:
        """Whether there is nothing to wait for: `build` ran, or there is none, and no weights."""
        return self._built or (type(self).build is Layer.build and not self)

    @built.setter
    def built(self, value: bool) -> None:
        self._built = value

    # What a subclass writes.

    def build(self, input_shape: Any) -> None:
        """Make the weights for inputs of this shape: a tuple (None: dynamic), or a list of them."""

    def call(self, inputs: Any) -> Any:
        raise NotImplementedError(
            f"{self.name}: expected a `call` method. Define {type(self)}.call."
        )

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """The mask of the output, given the first argument and its mask or masks."""
        masks = leaves(mask)
        return masks[0] if self.supports_masking and len(masks) == 1 else None

    def check_ids(self, inputs: Any) -> None:
        """Raise ValueError for ids that the layer has no entry for.

        Args:
            inputs: the first argument, of NumPy's or MLX's arrays; None where it is not known.
        """

    def add_loss(self, loss: mx.array) -> None:
        """Add a scalar to the training loss; called from `call`.

        Raises: ValueError for anything but an array, such as a symbolic tensor.
        """
        if not isinstance(loss, mx.array):
            raise ValueError(
                f"{self.name}: expected an array in add_loss, got {loss!r}. Call it from a layer's "
                "call, on what it computes."
            )
        record = current_record.get()
        if record is not None:
            record.losses.append((self, loss))

    @property
    def losses(self) -> list[mx.array]:
        """What the last call added to the loss, here and in the layers inside; then penalties."""
        record = current_record.get()
        if record is None:
            added = [loss for m in self.sublayers() for loss in getattr(m, "_added_losses", ())]
        else:
            own = {id(module) for module in self.sublayers()} if record.losses else set()
            added = [loss for layer, loss in record.losses if id(layer) in own]
        return added + self.penalties

    def last_masks(self, count: int) -> list[mx.array | None]:
        """The masks of the outputs of this layer's last call; None where there are no such ones."""
        record = current_record.get() or self._last_call
        masks = None if record is None else record.masks.get(id(self))
        return masks if masks is not None and len(masks) == count else [None] * count

    # Calling.

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        first = _signature(type(self)).first
        if not args and first in kwargs:
            args = (kwargs.pop(first),)
        if first is not None:
            args = first_input(self.name, args)
        args, kwargs = tree_map(as_array, (args, kwargs))
        if symbols((args, kwargs)):
            return self._draw(args, kwargs)
        first_call, self._called = not self._called, True
        self._ensure_built(args, kwargs)
        outermost = current_record.get() is None and _in_training.get() is None
        if outermost and self.reads_ids and are_known(args[:1]):
            with mx.stream(mx.cpu):  # which waits for nothing that a GPU still does
                self.check_ids(args[0])
        training, mask = kwargs.pop("training", None), kwargs.pop("mask", None)
        training = _first_given(training, _in_training.get(), self.training)
        output = self._recorded(args, kwargs, mask=mask, training=training)
        if first_call and not self._trainable:
            self.freeze()  # what `call` has built
        return output

    def _recorded(self, args: tuple, kwargs: dict, **flags: Any) -> Any:
        """`forward`, of which the outermost call leaves its record: in a step's, or on layers."""
        if _in_training.get() is not None:
            return self.forward(args, kwargs, **flags)[0]
        record = current_record.get()
        if record is not None:
            record.forget(self)
            output, record.masks[id(self)] = self.forward(args, kwargs, **flags)
            return output
        with recording() as record:
            output, record.masks[id(self)] = self.forward(args, kwargs, **flags)
        before = () if self._last_call is None else self._last_call.losses
        for layer, _ in (*before, *record.losses):
            layer._added_losses = ()
        for layer, loss in record.losses:
            layer._added_losses += (loss,)
        some = record.losses or any(mask is not None for mask in record.masks[id(self)])
        self._last_call = record if some else None
        return output

    def forward(
        self, args: tuple, kwargs: dict, *, mask: Any = None, training: bool = False
    ) -> tuple[Any, list[mx.array | None]]:
        """Run on arrays: the output, and the mask (or None) of each of its leaves."""
        mask = _first_given(kwargs.get("mask"), mask)
        training = _first_given(kwargs.get("training"), training)
        token = _in_training.set(training)
        try:
            output, masks = self._compute(args, kwargs, mask, training)
        except Exception as error:
            note = f"while running layer {self.name!r} ({type(self).__name__})"
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise
        finally:
            _in_training.reset(token)
        masks = [None] if masks is None else leaves(masks)
        return output, masks + [None] * (len(leaves(output)) - len(masks))

    def _compute(self, args: tuple, kwargs: dict, mask: Any, training: bool) -> tuple[Any, Any]:
        args = self._admit(args)
        for module in self.foreign_modules():
            if module.training != training:
                module.train(training)
        output = self.call(*args, **self._flags(kwargs, mask, training))
        if self.activity_regularizer is not None:
            for leaf in leaves(output):
                self.add_loss(self.activity_regularizer(leaf) / leaf.shape[0])
        return output, self.compute_mask(args[0] if args else None, mask)

    def _flags(self, kwargs: dict, mask: Any, training: bool) -> dict:
        """The call's keyword arguments with `training` and `mask` where `call` takes them."""
        names = _signature(type(self)).names
        flags: dict[str, Any] = {}
        if "training" in names:
            flags["training"] = training
        if "mask" in names and any(m is not None for m in leaves(mask)):
            flags["mask"] = mask
        return flags | {k: v for k, v in kwargs.items() if k not in ("training", "mask")}

    def _admit(self, args: tuple) -> tuple:
        """The arguments, once the first is known to fit `input_spec`, in the layer's dtype."""
        if self.input_spec is not None and args:
            for leaf in leaves(args[0]):
                self.input_spec.check(self.name, leaf.shape)
        if self.dtype is None:
            return args
        kind = as_dtype(self.dtype)
        return tree_map(
            lambda x: (
                x.astype(kind)
                if isinstance(x, mx.array) and mx.issubdtype(x.dtype, mx.floating)
                else x
            ),
            args,
        )

    def _ensure_built(self, args: tuple, kwargs: dict) -> None:
        if self.built:
            return
        shapes = {
            f"{name}_shape": shapes_of(value)
            for name, value in [
                *zip(_signature(type(self)).names, args, strict=False),
                *kwargs.items(),
            ]
        }
        wanted = list(inspect.signature(self.build).parameters)[1:]
        first = shapes_of(args[0]) if args else None
        self.build(first, **{name: shapes[name] for name in wanted if name in shapes})
        self.settle()
        self.built = True

    def _draw(self, args: tuple, kwargs: dict) -> Any:
        node = self.draw(args, kwargs)
        node.index = len(self._nodes)
        self._nodes.append(node)
        return node.output

    def draw(self, args: tuple, kwargs: dict) -> Node:
        """A symbolic call, its shapes found by probing; not yet one of `get_output_at`'s."""
        self._ensure_built(args, kwargs)
        mx.eval([leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, mx.array)])
        mask = kwargs.get("mask")
        if mask is None and args:
            mask = tree_map(lambda x: x.mask if is_symbolic(x) else None, args[0])
            mask = mask if symbols(mask) else None
        names = _signature(type(self)).names
        for name, value in [*zip(names, args, strict=False), *list(kwargs.items())]:
            if f"{name}_mask" in names and is_symbolic(value) and value.mask is not None:
                kwargs.setdefault(f"{name}_mask", value.mask)
        node = Node(self, args, kwargs, mask)
        try:
            self.check_inputs(args)
            node.produce(*self.infer(node))
        except Exception as error:
            shapes = " and ".join(str(tensor.shape) for tensor in node.inputs)
            error.add_note(f"on symbolic tensors of shape {shapes}")
            raise
        if symbols(mask) and not self.supports_masking:
            warnings.warn(
                f"{self.name}: the mask of its input ends here, as {type(self).__name__} does not "
                "support masks. Layers that follow take every step as valid.",
                stacklevel=4,
            )
        if not self._trainable:
            self.freeze()  # what `call` has built
        return node

    def infer(self, node: Node) -> tuple[Any, list[SymbolicTensor | None]]:
        """What the call returns, as symbolic tensors, and the mask of each of them."""
        return infer(self._probe, node)

    def check_inputs(self, args: tuple) -> None:
        """Refuse symbolic arguments that the layer was not built for."""
        if self.input_spec is not None and args:
            for leaf in symbols(args[0]):
                self.input_spec.check(self.name, leaf.shape)

    def _probe(self, node: Node, values: dict[int, mx.array]) -> tuple[Any, list]:
        """Run the node on stand-ins, and leave no trace: no state moved, no randomness drawn."""
        arrays: Any = tree_flatten(self.parameters())
        random_state, token = get_random_state(), current_record.set(None)
        try:
            args, kwargs, mask = node.fill(values)
            kwargs = {k: v for k, v in kwargs.items() if k != "training"}
            return self.forward(args, kwargs, mask=mask)
        finally:
            current_record.reset(token)
            set_random_state(random_state)
            if arrays:
                self.update(tree_unflatten(arrays), strict=False)

    # Configuration.

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, in a form that JSON can hold."""
        config = {
            name: serialize(self._argument(name)) for name in constructor_arguments(type(self))
        }
        if self._first_shape is not None:
            config["batch_input_shape"] = list(self._first_shape)
        return {
            key: value
            for key, value in config.items()
            if not (value is None and key in ("dtype", "activity_regularizer"))
        }

    def _argument(self, name: str) -> Any:
        """The constructor argument of that name, where it is not the attribute of that name."""
        return getattr(self, name)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Layer:
        """A new layer, without weights, from `get_config()`."""
        return cls(**config)


class InputLayer(Layer):
    """The source of a symbolic tensor: gives what it is given."""

    def __init__(self, batch_shape: Shape, dtype: str = "float32", name: str | None = None) -> None:
        super().__init__(name=name, dtype=dtype)
        self.batch_shape = tuple(int(d) if isinstance(d, np.integer) else d for d in batch_shape)
        for dim in self.batch_shape:
            if not (dim is None or isinstance(dim, str) or (isinstance(dim, int) and dim >= 0)):
                raise ValueError(
                    f"{self.name}: expected sizes that are an int, None or a name, got {dim!r} in "
                    f"{self.batch_shape}. None is any size."
                )
        node = Node(self, (), {})
        node.produce(SymbolicTensor(self.batch_shape, as_dtype(dtype), self.name), [None])
        self._nodes.append(node)
        self.built = True

    def call(self, inputs: mx.array) -> mx.array:
        return inputs


def Input(
    shape: tuple | None = None,
    batch_size: int | None = None,
    dtype: str | mx.Dtype = "float32",
    name: str | None = None,
    batch_shape: tuple | None = None,
) -> SymbolicTensor:
    """An input of a model.

    Args:
        shape: sizes without the batch: an int, None (any size), or a name (any size; equal
            wherever the name is used, and the name of the ONNX dimension).
        batch_size: a fixed batch, for stateful layers.
        dtype: of the values; float64 becomes float32.
        name: by which data may be given, and the name in an exported file.
        batch_shape: `shape` with the batch in front, in place of `shape`.

    Source: https://keras.io/api/layers/core_layers/input/
    """
    if (shape is None) == (batch_shape is None):
        raise ValueError(
            "Input: expected either `shape` or `batch_shape`, got "
            f"{'neither' if shape is None else 'both'}. Input(shape=(784,)) is a vector."
        )
    if isinstance(shape, int | str):
        raise ValueError(f"Input: expected a tuple, got shape={shape!r}. Write ({shape!r},).")
    full = (batch_size, *shape) if shape is not None else tuple(batch_shape or ())
    return InputLayer(full, dtype_name(as_dtype(dtype)), name or unique_name("InputLayer")).output


@dataclass(frozen=True)
class _CallSignature:
    names: tuple[str, ...]
    first: str | None  # a parameter that every call must give


@functools.cache
def _signature(cls: type[Layer]) -> _CallSignature:
    parameters = list(inspect.signature(cls.call).parameters.values())[1:]
    required = [p.name for p in parameters[:1] if p.default is p.empty and p.kind not in VARIADIC]
    return _CallSignature(tuple(p.name for p in parameters), required[0] if required else None)


def _first_given(*values: Any) -> Any:
    """The first that is not None."""
    return next((value for value in values if value is not None), None)


def _build_once(build: Callable) -> Callable:
    """`build`, which also notes that it ran, for which shapes, and freezes what is not trained."""

    @functools.wraps(build)
    def wrapper(self: Layer, *args: Any, **kwargs: Any) -> None:
        self._builds += 1
        try:
            build(self, *args, **kwargs)
            self.settle()
        finally:
            self._builds -= 1
        self.built = True
        self._build_shape = (args, kwargs)
        if not self._trainable:
            self.freeze()

    return wrapper
