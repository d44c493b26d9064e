"""Symbolic tensors, the calls that join them, the order they run in. Knows no layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from .conversion import as_dtype as as_dtype
from .conversion import dtype_name as dtype_name
from .registry import snake_case

Dim = int | str | None
Shape = tuple[Dim, ...]

# Sizes that stand for dynamic dimensions while shapes are inferred: two probes differ in each. The
# batch has small ones; the others exceed usual kernels, and in the second round unusual ones too.
# In the third round they have many divisors, for what reshapes a dynamic size into groups.
BATCH_SIZES = (3, 5)
ROUNDS = ((127, 1), (1009, 1), (3, 5040))

Pair = tuple[int, int]

_name_counts: dict[str, Iterator[int]] = {}
_serial = itertools.count()


def unique_name(class_name: str) -> str:
    """`Conv2D` → `conv2d`, then `conv2d_1`, `conv2d_2` …"""
    base = snake_case(class_name).strip("_")
    # One look-up and one `next`: two threads never get one number.
    count = next(_name_counts.setdefault(base, itertools.count()))
    return f"{base}_{count}" if count else base


def clear_session() -> None:
    """Start automatic layer names afresh: the next Dense is `dense` again."""
    _name_counts.clear()


def leaves_as(structure: Any, value: Any) -> list[Any] | None:
    """The parts of `value` that stand where `structure`, a list, tuple or dict, has its leaves.

    Keys that `structure` lacks are left out. None for a value that is built otherwise.
    """
    if isinstance(structure, dict):
        fits = isinstance(value, Mapping) and all(key in value for key in structure)
        pairs = [(structure[key], value[key]) for key in structure] if fits else []
    elif isinstance(structure, list | tuple):
        fits = isinstance(value, list | tuple) and len(value) == len(structure)
        pairs = list(zip(structure, value, strict=True)) if fits else []
    else:
        return [value]
    parts = [leaves_as(*pair) for pair in pairs]
    if not fits or any(part is None for part in parts):
        return None
    return [leaf for part in parts for leaf in part or ()]


def leaves(tree: Any) -> list[Any]:
    """Everything in nested lists, tuples and dicts, left to right."""
    return [pair[1] for pair in tree_flatten(tree, is_leaf=_is_module)]


def pack(values: Iterable[Any], structure: Any) -> Any:
    """The values in the place of the leaves of `structure`, left to right."""
    remaining = iter(values)
    return tree_map(lambda _: next(remaining), structure, is_leaf=_is_module)


def _is_module(value: Any) -> bool:
    # It is a dict of its arrays, but not a structure of values.
    return isinstance(value, nn.Module)


def is_symbolic(value: Any) -> bool:
    return isinstance(value, SymbolicTensor)


def symbols(tree: Any) -> list[SymbolicTensor]:
    """The symbolic tensors in a structure."""
    return [leaf for leaf in leaves(tree) if is_symbolic(leaf)]


class SymbolicTensor:
    """A value of the graph: what a layer will return, before there is data.

    `shape` holds an int, None (any size) or a name (any size, equal wherever the name is);
    `mask` is the symbolic tensor of its mask, (batch, time), or None.
    Arithmetic, comparison and indexing are defined in `ops`.
    """

    __slots__ = ("dtype", "index", "mask", "name", "node", "shape")
    # NumPy then leaves `array + symbolic` to our reflected operator.
    __array_ufunc__ = None

    def __init__(self, shape: Shape, dtype: mx.Dtype, name: str = "tensor") -> None:
        self.shape, self.dtype, self.name = tuple(shape), dtype, name
        self.node: Node | None = None
        self.index = 0
        self.mask: SymbolicTensor | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __repr__(self) -> str:
        return f"<SymbolicTensor {self.name!r} shape={self.shape} dtype={dtype_name(self.dtype)}>"

    def __bool__(self) -> bool:
        raise TypeError(
            f"{self.name}: a symbolic tensor has no truth value while the graph is drawn. "
            "Use ops.where, or put the condition in a Layer's call."
        )

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"{self.name}: a symbolic tensor has no values for NumPy yet. Use the function of "
            "mlxfunc.ops, or a Lambda."
        )

    def __iter__(self) -> Iterable[SymbolicTensor]:
        raise TypeError(f"{self.name}: a symbolic tensor cannot be iterated. Use ops.split.")

    def __len__(self) -> int:
        raise TypeError(f"{self.name}: a symbolic tensor has no length. Use .shape[0].")


def shapes_of(tree: Any) -> Any:
    """The shapes in a structure of arrays or symbolic tensors; names of sizes read None."""

    def shape(value: Any) -> tuple | None:
        if is_symbolic(value) or isinstance(value, mx.array):
            return tuple(d if isinstance(d, int) else None for d in value.shape)
        return None

    return tree_map(shape, tree)


class Node:
    """One call of one layer: what went in, what came out.

    `args` and `kwargs` are the call's arguments with symbolic tensors anywhere inside; `mask`
    is the structure of the first argument's masks, or None; `output` has the returned structure.
    `index` counts the layer's calls, `serial` all calls.
    """

    def __init__(self, layer: Any, args: tuple, kwargs: dict, mask: Any = None) -> None:
        self.layer, self.args, self.kwargs, self.mask = layer, args, kwargs, mask
        self.inputs = symbols((args, kwargs))
        self.output: Any = None
        self.outputs: list[SymbolicTensor] = []
        self.index = 0
        self.serial = next(_serial)

    def produce(self, output: Any, masks: list[SymbolicTensor | None]) -> None:
        """Take the call's symbolic result, and the masks of its leaves, as this node's own."""
        self.output, self.outputs = output, leaves(output)
        for index, (tensor, mask) in enumerate(zip(self.outputs, masks, strict=True)):
            tensor.node, tensor.index, tensor.mask = self, index, mask
            if mask is not None:
                mask.node, mask.index = self, index

    def fill(self, values: dict[int, Any]) -> tuple[tuple, dict, Any]:
        """The call's (args, kwargs, mask) with a value in the place of each symbolic tensor."""

        def value(leaf: Any) -> Any:
            return values[id(leaf)] if is_symbolic(leaf) else leaf

        return tree_map(value, (self.args, self.kwargs, self.mask))

    @property
    def parents(self) -> list[Node]:
        return [tensor.node for tensor in self.inputs if tensor.node is not None]

    def __repr__(self) -> str:
        return f"<Node {self.index} of {self.layer.name!r}>"


def infer(
    call: Callable[[Node, dict[int, mx.array]], tuple[Any, list[mx.array | None]]], node: Node
) -> tuple[Any, list[SymbolicTensor | None]]:
    """What `node` returns, as symbolic tensors, and the mask of each of them.

    MLX is lazy: calling the layer on zeros computes nothing and tells every shape. Two probes
    with other sizes for each dynamic dimension show which sizes of the output are dynamic.
    """
    tensors = list({id(t): t for t in [*node.inputs, *symbols(node.mask)]}.values())
    first: Exception | None = None
    for start, unit in ROUNDS:
        for sizes in _sizes(tensors, start, unit):
            try:
                zeros = [_zeros(tensors, sizes, k) for k in range(2 if sizes else 1)]
                probes = [call(node, values) for values in zeros]
            except Exception as error:
                last = error
                continue
            return _describe(node, probes, _names(tensors, sizes))
        first = first or last
    assert first is not None
    raise first


def _sizes(tensors: list[SymbolicTensor], start: int, unit: int) -> Iterator[dict[Pair, Pair]]:
    """Sizes for the dynamic dimensions, by tensor and axis: for each two of its own.

    A layer may only take equal ones: then unnamed dimensions are equal, then all are. An unnamed
    one on axis 0 is the batch.
    """
    dims = {
        (place, axis): dim
        for place, tensor in enumerate(tensors)
        for axis, dim in enumerate(tensor.shape)
        if not isinstance(dim, int)
    }
    batches = {at for at, dim in dims.items() if dim is None and at[1] == 0}
    tried: list[dict[Pair, Pair]] = []
    for symbols_of in (
        {at: dim or at for at, dim in dims.items()},
        {at: dim or "/any" for at, dim in dims.items()},
        dict.fromkeys(dims, "/any"),
    ):
        others = dict.fromkeys(s for at, s in symbols_of.items() if at not in batches)
        table = dict(zip(others, _pairs(start, unit), strict=False))
        sizes = {at: BATCH_SIZES if at in batches else table[s] for at, s in symbols_of.items()}
        if sizes not in tried:
            tried.append(sizes)
            yield sizes


def _pairs(start: int, unit: int) -> Iterator[Pair]:
    """Primes from `start` on, times `unit`, and no two pairs as far apart.

    So a dimension plus 2, or twice a dimension, is not taken for another one.
    """
    low = start
    for gap in filter(_is_prime, itertools.count(2)):
        low = next(n for n in itertools.count(low) if _is_prime(n) and _is_prime(n + 2 * gap))
        yield low * unit, (low + 2 * gap) * unit
        low += 2 * gap + 1


def _is_prime(number: int) -> bool:
    return all(number % d for d in range(2, math.isqrt(number) + 1))


def _zeros(
    tensors: list[SymbolicTensor], sizes: dict[Pair, Pair], probe: int
) -> dict[int, mx.array]:
    def shape(place: int) -> list[int]:
        return [
            dim if isinstance(dim, int) else sizes[place, axis][probe]
            for axis, dim in enumerate(tensors[place].shape)
        ]

    return {id(t): mx.zeros(shape(place), t.dtype) for place, t in enumerate(tensors)}


def _names(tensors: list[SymbolicTensor], sizes: dict[Pair, Pair]) -> dict[Pair, Dim]:
    """The name of each pair of sizes; none where dimensions of two names were equal."""
    names: dict[Pair, Dim] = {}
    for (place, axis), pair in sizes.items():
        name = tensors[place].shape[axis]
        names[pair] = name if names.get(pair, name) == name else None
    return names


def _describe(
    node: Node, probes: list, names: dict[Pair, Dim]
) -> tuple[Any, list[SymbolicTensor | None]]:
    (output, masks), (other, other_masks) = probes[0], probes[-1]

    def describe(a: Any, b: Any, suffix: str = "") -> SymbolicTensor:
        if not isinstance(a, mx.array):
            raise TypeError(
                f"{node.layer.name}: expected call to return arrays, got {type(a).__name__}. "
                "Return an array, or a list, tuple or dict of arrays."
            )
        if a.ndim != b.ndim:
            raise ValueError(
                f"{node.layer.name}: expected a rank that does not depend on sizes, "
                f"got {a.ndim} and {b.ndim}. Keep the number of axes fixed."
            )
        shape = tuple(
            p if p == q else names.get((p, q)) for p, q in zip(a.shape, b.shape, strict=True)
        )
        return SymbolicTensor(shape, a.dtype, node.layer.name + suffix)

    described = [
        None if m is None else describe(m, n, "/mask")
        for m, n in zip(masks, other_masks, strict=True)
    ]
    return tree_map(describe, output, other), described


Call = Callable[[Node, tuple, dict, Any], tuple[Sequence[Any], Sequence[Any]]]


class Graph:
    """The nodes between some inputs and some outputs, in the order they run.

    Keras's order (by depth from the outputs, then by first visit), so that weights line up
    with a Keras model's; but Keras counts operations that make a mask too, so that masked and
    unmasked inputs of one Concatenate may change places. Raises ValueError when an output needs
    an input that is not listed.
    """

    def __init__(self, input: Any, output: Any, name: str = "model") -> None:
        self.name, self.input, self.output = name, input, output
        self.inputs, self.outputs = leaves(input), leaves(output)
        for side, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            if not tensors:
                raise ValueError(f"{name}: expected {side}, got none. Give one tensor or more.")
            for tensor in tensors:
                if not is_symbolic(tensor):
                    raise TypeError(
                        f"{name}: expected {side} made of symbolic tensors, got "
                        f"{type(tensor).__name__}. Start from Input(...) and call layers on it."
                    )
        if len({id(tensor) for tensor in self.inputs}) < len(self.inputs):
            raise ValueError(f"{name}: expected each input once, got one twice. List it once.")
        self._listed = {id(t) for t in self.inputs} | {id(t.mask) for t in self.inputs}
        self.nodes = self._ordered()
        self._redrawn: dict[tuple, Graph] = {}

    def _ordered(self) -> list[Node]:
        visited, first_seen = self._visit()
        depths: dict[int, int] = {}
        layer_depths: dict[int, int] = {}
        for node in reversed(visited):
            depth = max(depths.get(id(node), 0), layer_depths.get(id(node.layer), 0))
            depths[id(node)] = layer_depths[id(node.layer)] = depth
            for parent in self._parents(node):
                depths[id(parent)] = max(depths.get(id(parent), 0), depth + 1)
        # Inputs that no output needs still belong to the model.
        loose = [
            t.node
            for t in self.inputs
            if t.node is not None and not t.node.inputs and id(t.node) not in depths
        ]
        self.layer_order = [
            layer
            for _, _, layer in sorted(
                [(-layer_depths[key], rank, layer) for key, (rank, layer) in first_seen.items()]
                + [(0, -1, node.layer) for node in loose],
                key=lambda row: row[:2],
            )
        ]
        return loose + sorted(visited, key=lambda node: -depths[id(node)])

    def _parents(self, node: Node) -> list[Node]:
        """The nodes that `node` waits for."""
        return [source for tensor in node.inputs if (source := self._source(tensor))]

    def _source(self, tensor: SymbolicTensor) -> Node | None:
        """The node that makes a tensor; None for one that is given, but for the Input itself."""
        node = tensor.node
        return None if node is not None and node.inputs and id(tensor) in self._listed else node

    def _visit(self) -> tuple[list[Node], dict[int, tuple[int, Any]]]:
        """Nodes after all they need, and each layer's place in the order of first visits."""
        done: set[int] = set()
        order: list[Node] = []
        first_seen: dict[int, tuple[int, Any]] = {}
        for output in self.outputs:
            # An explicit stack: thousands of layers deep is fine.
            source = self._source(output)
            stack = [] if source is None else [(source, False)]
            while stack:
                node, ready = stack.pop()
                if ready:
                    order.append(node)
                    continue
                if id(node) in done:
                    continue
                done.add(id(node))
                first_seen.setdefault(id(node.layer), (len(first_seen), node.layer))
                if not node.inputs:
                    self._check_listed(node, output)
                stack.append((node, True))
                stack.extend((parent, False) for parent in reversed(self._parents(node)))
        return order, first_seen

    def _check_listed(self, node: Node, output: SymbolicTensor) -> None:
        if not any(id(t) in self._listed for t in node.outputs):
            raise ValueError(
                f"{self.name}: expected every input that the outputs need to be listed, but "
                f"output {output.name!r} needs input {node.layer.name!r}. Add it to `inputs`."
            )

    def for_inputs(self, masks: Sequence[Any], specs: Sequence[Any] | None = None) -> Graph:
        """This graph as it is drawn on other inputs.

        Args:
            masks: of each input, or None for one without.
            specs: what has the `shape` and `dtype` of each input; None: those of its own.
        """
        ranks = tuple(
            None if mask is None or tensor.mask is not None else len(mask.shape)
            for tensor, mask in zip(self.inputs, masks, strict=True)
        )
        kinds = None if specs is None else tuple((s.shape, s.dtype) for s in specs)
        if kinds == tuple((t.shape, t.dtype) for t in self.inputs):
            kinds = None
        if kinds is None and not any(ranks):
            return self
        key = (ranks, kinds)
        if key not in self._redrawn:
            self._redrawn[key] = self._draw_again(ranks, specs or self.inputs)
        return self._redrawn[key]

    def _draw_again(self, ranks: tuple[int | None, ...], specs: Sequence[Any]) -> Graph:
        inputs = [
            SymbolicTensor(spec.shape, spec.dtype, tensor.name)
            for spec, tensor in zip(specs, self.inputs, strict=True)
        ]
        for tensor, copy, rank in zip(self.inputs, inputs, ranks, strict=True):
            rank = rank if tensor.mask is None else len(tensor.mask.shape)
            if rank is not None:
                copy.mask = SymbolicTensor(copy.shape[:rank], mx.bool_, f"{tensor.name}/mask")

        def draw(node: Node, args: tuple, kwargs: dict, mask: Any) -> tuple[list, list]:
            outputs = node.layer.draw(args, kwargs).outputs
            return outputs, [tensor.mask for tensor in outputs]

        outputs, _ = self.interpret(inputs, [tensor.mask for tensor in inputs], draw)
        return Graph(pack(inputs, self.input), pack(outputs, self.output), self.name)

    def interpret(
        self, values: Sequence[Any], masks: Sequence[Any], call: Call
    ) -> tuple[list[Any], list[Any]]:
        """Walk the nodes in order: the outputs and their masks, flat, as `call` has them.

        Args:
            values, masks: one for each input; of whatever kind `call` takes.
            call: `call(node, args, kwargs, mask)` is what a node's call means: compute, draw,
                write ONNX. It returns the node's outputs and their masks, flat.
        """
        env: dict[int, Any] = {}
        _bind(env, self.inputs, values, masks)
        for node in self.nodes:
            if node.inputs:
                args, kwargs, mask = node.fill(env)
                _bind(env, node.outputs, *call(node, args, kwargs, mask))
        return (
            [env[id(tensor)] for tensor in self.outputs],
            [None if tensor.mask is None else env[id(tensor.mask)] for tensor in self.outputs],
        )

    def forward(
        self, values: Sequence[Any], masks: Sequence[Any], training: bool
    ) -> tuple[Any, Any]:
        """Outputs and their masks (each in the structure of `output`) for these input values."""

        def compute(node: Node, args: tuple, kwargs: dict, mask: Any) -> tuple[list, list]:
            output, masks = node.layer.forward(args, kwargs, mask=mask, training=training)
            return leaves(output), masks

        outputs, output_masks = self.interpret(values, masks, compute)
        return pack(outputs, self.output), pack(output_masks, self.output)


def _bind(
    env: dict[int, Any],
    tensors: Sequence[SymbolicTensor],
    values: Sequence[Any],
    masks: Sequence[Any],
) -> None:
    for tensor, value, mask in zip(tensors, values, masks, strict=True):
        # An input may be a tensor inside the graph: the value it was given stays.
        env.setdefault(id(tensor), value)
        if tensor.mask is not None:
            env.setdefault(id(tensor.mask), mask)
