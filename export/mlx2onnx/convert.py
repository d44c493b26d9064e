"""Walks a Model's graph: each layer by its rule, else by tracing what it computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlxfunc as mf
import mlx.core as mx
from mlx2onnx import trace
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from mlx2onnx.builder import Builder, Value
from mlx2onnx.layers.registry import Unsupported, find, find_mask
from mlx2onnx.layout import Layout, Tensor, plain, settle
from mlx2onnx.pointwise import is_pointwise
from mlx2onnx.reach import Doubt
from mlxfunc.graph import Node, SymbolicTensor, as_dtype, infer, leaves, pack
from mlxfunc.layers import Layer

RULES_FOLDER = "export/mlx2onnx/layers"
# A chain of values that wait for a layout is made once it is this long.
LONGEST_WAIT = 20

Outputs = list[Tensor]
Masks = list[Tensor | None]


@dataclass
class Step:
    """A call of a layer, and what it became; of a model, with the calls in it."""

    path: str
    layer: Any
    outputs: Outputs = field(default_factory=list)
    inside: list[Step] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.path} ({type(self.layer).__name__})"


@dataclass(frozen=True)
class Problem:
    """A layer that cannot be exported, and why."""

    path: str
    layer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} ({self.layer}): {self.reason}"


@dataclass(frozen=True)
class Uncertain:
    """A layer whose function is not everywhere what was traced."""

    doubt: Doubt
    path: str
    layer: str


class UnsupportedLayers(NotImplementedError):
    """A model holds layers that have no ONNX form here; `problems` lists all of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(dict.fromkeys(problems))
        lines = "\n".join(f"  {p}" for p in self.problems)
        super().__init__(f"{len(self.problems)} layers cannot be exported:\n{lines}")


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def is_model(layer: Layer) -> bool:
    """Whether a layer runs as the graph of its nodes."""
    return (
        isinstance(layer, mf.Model)
        and type(layer).call is mf.Model.call
        and type(layer).run is mf.Model.run
    )


def is_floating(value: Any) -> bool:
    """Whether an array, Tensor or spec has a float dtype."""
    return mx.issubdtype(value.dtype, mx.floating)


def symbolic(tree: Any) -> Any:
    """A structure with the specs of its Tensors in their place."""
    return tree_map(lambda v: SymbolicTensor(v.shape, v.dtype) if is_tensor(v) else v, tree)


class Walk:
    """Lowers layers onto one builder; what cannot be lowered is collected in `problems`.

    `steps` are the calls in order, to find what a layer became.

    `functions` are the ids of models that become local functions; `right_padded` promises that
    no valid step follows a masked one.
    """

    def __init__(
        self, g: Builder, functions: frozenset[int] = frozenset(), right_padded: bool = False
    ) -> None:
        self.g, self.right_padded = g, right_padded
        self.problems: list[Problem] = []
        self.doubts: list[Uncertain] = []
        self.steps: list[Step] = []
        self._functions = functions
        self._function_names: dict[tuple, str] = {}
        self._function_layouts: dict[str, list[Layout | None]] = {}
        self._function_steps: dict[str, list[Step]] = {}

    # the graph --------------------------------------------------------------------------------

    def model(
        self, model: Any, inputs: Sequence[Tensor], masks: Sequence[Any]
    ) -> tuple[Outputs, Masks]:
        """The outputs of a model, flat, and their masks."""
        # Sizes that are fixed in this call, and the names of others, hold inside too.
        return model.graph.for_inputs(masks, inputs).interpret(inputs, masks, self._node)

    def _node(self, node: Node, args: tuple, kwargs: dict, mask: Any) -> tuple[Outputs, Masks]:
        layer = node.layer
        mask = kwargs.get("mask", mask)
        with self.g.scope(layer.name, layer=type(layer).__name__), self._step(layer) as step:
            if is_model(layer) and not kwargs.get("training"):
                outputs, masks = self._nested(layer, args, mask)
            else:
                outputs = self._lowered(layer, args, kwargs, mask, node.output)
                wanted = [t.mask for t in node.outputs]
                masks = self._masks(layer, args[0] if args else None, mask, wanted)
            step.outputs = outputs
        return outputs, masks

    @contextmanager
    def _step(self, layer: Any) -> Iterator[Step]:
        """Notes a call; what is called meanwhile is inside it."""
        before, step = self.steps, Step(self.g.path, layer)
        before.append(step)
        self.steps = step.inside
        try:
            yield step
        finally:
            self.steps = before

    def call(self, layer: Any, args: tuple, kwargs: dict | None = None, mask: Any = None) -> Any:
        """The result of calling a layer within the rule of another one, in its own structure."""
        kwargs = kwargs or {}
        with self.g.scope(layer.name, layer=type(layer).__name__):
            if is_model(layer):
                return pack(self._nested(layer, args, mask)[0], layer.output)
            node = Node(layer, *symbolic((args, kwargs, mask)))
            out = infer(layer._probe, node)[0]
            return pack(self._lowered(layer, args, kwargs, mask, out), out)

    # layers -----------------------------------------------------------------------------------

    def _lowered(self, layer: Any, args: tuple, kwargs: dict, mask: Any, out: Any) -> Outputs:
        """By rule or trace; a stand-in when neither can."""
        specs = leaves(out)
        try:
            outputs = self._by_rule(layer, args, kwargs, mask, out)
            if outputs is None:
                outputs = self._traced(layer, args, kwargs, mask, specs)
            for tensor in outputs:
                if tensor.waits > LONGEST_WAIT:
                    tensor.to(plain(tensor.rank))
        except (trace.UnsupportedPrimitives, Unsupported) as error:
            self._collect(layer, error)
            outputs = [self._stand_in(spec) for spec in specs]
        sources = [leaf for leaf in leaves((args, kwargs)) if is_tensor(leaf)]
        given = layer.moves_values and all(tensor.given for tensor in sources)
        for tensor, spec in zip(outputs, specs, strict=True):
            tensor.dtype = spec.dtype
            tensor.given = tensor.given or given
        return outputs

    def _by_rule(
        self, layer: Any, args: tuple, kwargs: dict, mask: Any, out: Any
    ) -> Outputs | None:
        rule = find(layer)
        if rule is None or kwargs.get("training"):
            return None
        tensors = [leaf for leaf in leaves(args) if is_tensor(leaf)]
        floats = [is_floating(t) for t in tensors]
        kept = rule.integers == "keep" and not any(floats) and len({t.dtype for t in tensors}) == 1
        if not kept:
            traced = rule.integers == "trace" and not all(floats)
            if traced or not all(map(is_floating, leaves(out))):
                return None
            args = self._admit(layer, args)
        given = {"out": out, "mask": mask, "walk": self}
        extra = {name: value for name, value in given.items() if name in rule.names}
        kwargs = {
            k: v for k, v in kwargs.items() if k not in ("training", "mask") and v is not None
        }
        made = rule.lower(self.g, layer, *args, **kwargs, **extra)
        return None if made is None else leaves(made)

    def _admit(self, layer: Any, args: tuple) -> tuple:
        """Arguments in the type that the layer computes in: its own, or the widest."""
        tensors = [leaf for leaf in leaves(args) if is_tensor(leaf)]
        if layer.dtype is not None:
            kind = as_dtype(layer.dtype)
        else:
            kinds = {t.dtype for t in [*tensors, *layer.weights] if is_floating(t)}
            kind = mx.float16 if kinds == {mx.float16} else mx.float32
        others = [t for t in tensors if t.dtype != kind]
        return tree_map(lambda v: self._cast(v, kind) if any(v is t for t in others) else v, args)

    def _cast(self, value: Tensor, kind: mx.Dtype) -> Tensor:
        made = value.map(lambda v, layout: self.g.cast(v, kind))
        made.dtype = kind
        return made

    def _nested(self, model: Any, args: tuple, mask: Any) -> tuple[Outputs, Masks]:
        inputs = [
            self._fit(value, tensor)
            for value, tensor in zip(model.flatten_inputs(*args), model.inputs, strict=True)
        ]
        for tensor, value in zip(inputs, model.flatten_inputs(*args), strict=True):
            tensor.given = value.given
        masks = [None] * len(inputs) if mask is None else model.flatten_inputs(mask)
        if id(model) in self._functions and all(m is None for m in masks):
            return self._function(model, inputs)
        return self.model(model, inputs, masks)

    def _fit(self, value: Tensor, wanted: SymbolicTensor) -> Tensor:
        """As an inner model takes it: (N, 1) for (N,) and back, and its kind of dtype."""
        if value.rank == wanted.ndim + 1:
            squeezed = self.g.op("Squeeze", value.plain, [-1])
            value = Tensor(self.g, squeezed, value.shape[:-1], dtype=value.dtype)
        elif value.rank == wanted.ndim - 1:
            value = value.expand([value.rank])
        floats = [mx.issubdtype(d, mx.floating) for d in (value.dtype, wanted.dtype)]
        if value.dtype == wanted.dtype or all(floats):
            return value
        return self._cast(value, wanted.dtype)

    def _function(self, model: Any, inputs: Sequence[Tensor]) -> tuple[Outputs, Masks]:
        """A call of the local function that a reused model becomes: its outputs and masks."""
        outer = self.g.dimension

        def size(dim: Any) -> int | None:
            found = outer(dim)
            return found if isinstance(found, int) else None

        # For inputs of other sizes it is another function: a body has sizes in it. For ids that a
        # model computes, too: they are clipped.
        ids = [t.given and mx.issubdtype(t.dtype, mx.integer) for t in inputs]
        kinds = ((*map(size, t.shape), t.dtype, i) for t, i in zip(inputs, ids, strict=True))
        key = (id(model), *kinds, _pattern(inputs))
        taken = self._function_names
        name = model.name if model.name not in taken.values() else f"{model.name}_{len(taken)}"
        name = taken.setdefault(key, name)

        def body(*formals: Value) -> list[Value]:
            with self.g.sized(None, size):
                arguments = [
                    Tensor(self.g, formal, t.shape, dtype=t.dtype)
                    for formal, t in zip(formals, inputs, strict=True)
                ]
                for formal, tensor in zip(arguments, inputs, strict=True):
                    formal.given = tensor.given
                outputs, masks = self.model(model, arguments, [None] * len(arguments))
            results = [*outputs, *masks]
            values = [t.value for t in results if t is not None]
            self._function_layouts[name] = [None if t is None else t.layout for t in results]
            self._function_steps[name] = list(self.steps)
            return values

        made = self.g.call(name, body, *(t.plain for t in inputs))
        values = iter(made if isinstance(made, tuple) else (made,))
        self.steps[:] = self._function_steps[name]
        outputs = model.graph.for_inputs([None] * len(inputs), inputs).outputs
        specs = [*outputs, *(tensor.mask for tensor in outputs)]
        results: Any = [
            layout and Tensor(self.g, next(values), spec.shape, layout, dtype=spec.dtype)
            for layout, spec in zip(self._function_layouts[name], specs, strict=True)
        ]
        return results[: len(outputs)], results[len(outputs) :]

    # tracing ----------------------------------------------------------------------------------

    def _traced(self, layer: Any, args: tuple, kwargs: dict, mask: Any, specs: list) -> Outputs:
        def run(args: tuple, kwargs: dict, mask: Any) -> Any:
            training = bool(kwargs.get("training"))
            return layer.forward(args, kwargs, mask=mask, training=training)[0]

        given = (args, kwargs, mask)
        layout = self._kept_layout(layer, run, given, specs)
        values = self._trace(layer, run, given, layout)
        return [
            Tensor(self.g, value, spec.shape, layout, dtype=spec.dtype)
            for value, spec in zip(values, specs, strict=True)
        ]

    def _kept_layout(self, layer: Any, run: Callable, given: tuple, specs: list) -> Layout | None:
        """The layout of the inputs, if it is another one that the layer's function leaves alone."""
        tensors = [leaf for leaf in leaves(given) if is_tensor(leaf)]
        if not tensors or any(t.shape != tensors[0].shape for t in [*tensors, *specs]):
            return None
        layout = settle(tensors).layout.unordered()
        if layout == plain(tensors[0].rank) or any(t.dtype != mx.float32 for t in tensors):
            return None
        function = self._flat(run, given)
        with self._state_kept(layer):
            kept = is_pointwise(function, tensors[0].shape, len(tensors), layout)
        return layout if kept else None

    def _flat(self, run: Callable[..., Any], given: tuple) -> Callable[..., Any]:
        """`run(*given)` as a function of arrays, one for each Tensor."""

        def flat(*arrays: mx.array) -> Any:
            remaining = iter(arrays)
            return run(*tree_map(lambda v: next(remaining) if is_tensor(v) else v, given))

        return flat

    @contextmanager
    def _state_kept(self, layer: Any) -> Iterator[dict[str, mx.array]]:
        """A layer's arrays, which are put back afterwards."""
        state = tree_flatten(layer.parameters())
        try:
            yield dict(state)
        finally:
            layer.update(tree_unflatten(state))

    def _trace(
        self, layer: Any, run: Callable[..., Any], given: tuple, layout: Layout | None = None
    ) -> list[Value]:
        """`run(*given)` traced, on values in `layout`; None is the plain one."""
        values, specs = [], []
        for tensor in leaves(given):
            if is_tensor(tensor):
                stored = layout or plain(tensor.rank)
                values.append(tensor.to(stored))
                specs.append((tuple(tensor.shape[axis] for axis in stored.perm), tensor.dtype))
        function, path = self._flat(run, given), self.g.path

        def kept(*arrays: mx.array) -> Any:
            with self._state_kept(layer):
                return function(*arrays)

        def doubt(found: Doubt) -> None:
            self.doubts.append(Uncertain(found, path, type(layer).__name__))

        with self._state_kept(layer) as weights:
            try:
                return trace.lower(self.g, kept, values, specs, weights, doubt=doubt)
            except trace.UnsupportedPrimitives:
                raise
            except (ValueError, TypeError, RuntimeError) as error:
                raise Unsupported(f"cannot be traced: {error}") from error

    def _masks(self, layer: Any, inputs: Any, mask: Any, wanted: Sequence[Any]) -> Masks:
        """The masks of the outputs that have one; they are made when something asks for them."""
        if not any(spec is not None for spec in wanted):
            return [None] * len(wanted)
        rule = find_mask(layer)
        if rule is not None:
            return _filled(leaves(rule.lower(self.g, layer, inputs, mask)), len(wanted))
        if type(layer).compute_mask is Layer.compute_mask:
            return _filled([m for m in leaves(mask) if m is not None][:1], len(wanted))
        return [
            None if spec is None else self._traced_mask(layer, (inputs, mask), index, spec)
            for index, spec in enumerate(wanted)
        ]

    def _traced_mask(self, layer: Any, given: tuple, index: int, spec: Any) -> Tensor:
        def run(inputs: Any, mask: Any) -> Any:
            return leaves(layer.compute_mask(inputs, mask))[index]

        def make(layout: Layout) -> Value | None:
            return self._trace(layer, run, given)[0] if layout == plain(len(spec.shape)) else None

        return Tensor(self.g, None, spec.shape, dtype=spec.dtype, make=make)

    # what fails -------------------------------------------------------------------------------

    def _collect(self, layer: Any, error: Exception) -> None:
        family = type(layer).__module__.rpartition(".")[2]
        built_in = type(layer).__module__.startswith("mlxfunc.layers.")
        file = f"{RULES_FOLDER}/{family if built_in else '<family>'}.py"
        reasons = (
            [f"{missing}; or add a rule for {type(layer).__name__} to {file}"
             for missing in error.missing]
            if isinstance(error, trace.UnsupportedPrimitives)
            else [f"{error} ({file})"]
        )  # fmt: skip
        self.problems += [Problem(self.g.path, type(layer).__name__, reason) for reason in reasons]

    def _stand_in(self, spec: Any) -> Tensor:
        """In the place of what could not be lowered, so that the walk finds all that is missing."""
        value = self.g.op("StandIn", domain="mlxfunc")
        self.g.annotate(value, spec.dtype, [d if isinstance(d, int) else None for d in spec.shape])
        return Tensor(self.g, value, spec.shape, dtype=spec.dtype)


def _filled(masks: list, count: int) -> Masks:
    return [*masks, *[None] * (count - len(masks))]


def _pattern(inputs: Sequence[Tensor]) -> tuple[int, ...]:
    """Which dimensions have the same name."""
    names = [dim for tensor in inputs for dim in tensor.shape if isinstance(dim, str)]
    return tuple(map(names.index, names))
