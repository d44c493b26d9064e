"""The Builder: inputs, constants, initializers, nodes, bodies and functions, outputs."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import onnx
import onnx_ir as ir
from mlx2onnx import folding
from onnx_ir import DataType, Model, Value

from . import finish
from .dtypes import converted, data_type, infer_types, to_numpy
from .frame import Frame
from .names import Names

FUNCTION_DOMAIN = "mlxfunc"
# Operators that ONNX Runtime adds to the standard.
RUNTIME_DOMAIN = "com.microsoft"
# Above this many elements, a constant in a function becomes one of its inputs:
# ONNX Runtime copies constants of a body at every call.
MAX_BODY_CONSTANT = 64


class Builder(Names):
    """Collects one ONNX model.

    `opset` is 17 to 26. `dtype="float16"` stores and computes every float32 value in float16.
    `quantized` is what rules make of quantized weights: "MatMulNBits", or None for floats.
    Operands of `op` are Values, None for an absent optional input, arrays, lists of ints (int64),
    or Python scalars (of the dtype of the first Value operand).

    Raises: ValueError for another opset, dtype or `quantized`.
    """

    def __init__(
        self, opset: int = 20, dtype: str = "float32", quantized: str | None = None
    ) -> None:
        if opset not in finish.IR_VERSIONS:
            raise ValueError(f"to_onnx: expected opset 17 to 26, got {opset}.")
        if dtype not in ("float32", "float16"):
            raise ValueError(f"to_onnx: expected dtype 'float32' or 'float16', got {dtype!r}.")
        if quantized not in (None, "MatMulNBits"):
            raise ValueError(
                f"to_onnx: expected quantized 'MatMulNBits' or None, got {quantized!r}."
            )
        super().__init__()
        self.opset = opset
        self.dtype = dtype
        self.quantized = quantized
        self._main = Frame(
            ir.Graph([], [], nodes=[], name=finish.PRODUCER, opset_imports={"": opset})
        )
        self._frame = self._main
        self._functions: dict[str, tuple[ir.Function, list[Value]]] = {}
        self._initializers: dict[Hashable, Value] = {}
        self._constants: set[Value] = set()
        self._kept: list[Any] = []
        self._stands_for: dict[Value, Value] = {}
        self._outputs: list[tuple[Value, str]] = []

    def element_type(self, dtype: Any) -> DataType:
        """`data_type`, with float32 read as this model's float type."""
        found = data_type(dtype)
        return DataType.FLOAT16 if (found, self.dtype) == (DataType.FLOAT, "float16") else found

    # values -----------------------------------------------------------------------------------

    def input(self, name: str, dtype: Any, shape: Sequence[int | str | None]) -> Value:
        """A graph input; a string or None in `shape` is a dynamic dimension."""
        if self.is_taken(name):
            raise ValueError(f"to_onnx: expected unique input names, got {name!r} twice. Rename.")
        self.unique(name)
        dims = [f"{name}_dim_{i}" if d is None else self.dimension(d) for i, d in enumerate(shape)]
        value = ir.val(name, self.element_type(dtype), dims)
        self._main.graph.inputs.append(value)
        return value

    def output(self, value: Value, name: str) -> None:
        """Makes `value` the graph output `name`; outputs keep the order of these calls."""
        taken = {i.name for i in self._main.graph.inputs} | {other for _, other in self._outputs}
        if name in taken:
            raise ValueError(f"to_onnx: expected unique output names, got {name!r} twice. Rename.")
        self._outputs.append((value, name))

    def initializer(
        self, name: str, array: Any | Callable[[], Any], key: Hashable | None = None
    ) -> Value:
        """A stored weight. The same `key` gives the same Value, and `array()` is not called again.

        `array` is an array (not copied) or a function that makes one, for packed or transposed
        weights.
        """
        value = self._initializers.get(key) if key is not None else None
        if value is None:
            value = self._store(self.scoped(name), array() if callable(array) else array)
            if key is not None:
                self._initializers[key] = value
        return self._visible(value)

    def stores(self, key: Hashable) -> bool:
        """Whether an initializer of that key is there already."""
        return key in self._initializers

    def _store(self, name: str, array: Any) -> Value:
        array = to_numpy(array)
        array = converted(array, self.element_type(array.dtype))
        tensor = ir.Tensor(array, name=name)
        value = Value(
            name=name,
            shape=tensor.shape,
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self._main.graph.register_initializer(value)
        return value

    def keep(self, array: Any) -> None:
        """Holds an array while the model is built, so that its address stays its own."""
        self._kept.append(array)

    def constant(self, value: Any, dtype: Any = None) -> Value:
        """A small constant, stored once per content. Python ints are int64, floats float32."""
        if dtype is None and isinstance(value, float):
            dtype = np.float32
        array = to_numpy(value)
        if dtype is not None and self.element_type(dtype) != self.element_type(array.dtype):
            array = array.astype(data_type(dtype).numpy())
        array = converted(array, self.element_type(array.dtype))
        key = ("constant", array.dtype.str, array.shape, hashlib.sha256(array.data).digest())
        function = self._frame.function
        if function is not None and array.size <= MAX_BODY_CONSTANT:
            if key not in function.memo:
                with self._inside(function):
                    function.memo[key] = self.op("Constant", value=ir.Tensor(array))
                self._constants.add(function.memo[key])
            return function.memo[key]
        if key not in self._initializers:
            self._initializers[key] = self._store(self.unique("constant"), array)
            self._constants.add(self._initializers[key])
        return self._visible(self._initializers[key])

    def _visible(self, value: Value) -> Value:
        """Within a function, the formal input that stands for a value of the main graph."""
        function = self._frame.function
        if function is None:
            return value
        if value not in function.captured:
            formal = Value(name=value.name, shape=value.shape, type=value.type)
            function.graph.inputs.append(formal)
            function.captured[value] = formal
            self._stands_for[formal] = value
        return function.captured[value]

    def constant_value(self, value: Value) -> np.ndarray | None:
        """The content of an initializer or constant, else None."""
        tensor = self._tensor(value)
        return None if tensor is None else tensor.numpy()

    def _tensor(self, value: Value) -> Any:
        """Sees through the formal input that stands for a weight in a function."""
        value = self._stands_for.get(value, value)
        if value.const_value is None and (node := value.producer()):
            return node.attributes["value"].as_tensor() if node.op_type == "Constant" else None
        return value.const_value

    def annotate(
        self,
        value: Value,
        dtype: Any = None,
        shape: Sequence[int | str | None] | None = None,
    ) -> Value:
        """Records what is known of a value; dimensions of None are unknown."""
        if dtype is not None:
            value.dtype = self.element_type(dtype)
        if shape is not None:
            value.shape = ir.Shape([self.dimension(d) for d in shape])
        return value

    # nodes ------------------------------------------------------------------------------------

    def op(
        self,
        op_type: str,
        *operands: Any,
        name: str | None = None,
        outputs: int = 1,
        domain: str = "",
        **attributes: Any,
    ) -> Any:
        """Adds a node; returns its Value, or a tuple of them when `outputs` is not 1.

        A dtype as an attribute (`to=mx.float32`) becomes its ONNX number; None is left out.
        An Identity is never written: its operand is returned. What depends on nothing but small
        constants (not weights) is computed here and becomes a constant.
        """
        if op_type == "Identity" and not domain:
            return operands[0]
        folded = self._fold(op_type, operands, attributes) if outputs == 1 and not domain else None
        if folded is not None:
            return folded
        return self._node(op_type, operands, name, outputs, domain, attributes)

    def _fold(
        self, op_type: str, operands: Sequence[Any], attributes: Mapping[str, Any]
    ) -> Value | None:
        if not all(self._is_foldable(o, op_type) for o in operands):
            return None
        if op_type == "Cast":
            array = self.constant_value(operands[0])
            return None if array is None else self.constant(array, attributes["to"])
        like = next((o.dtype for o in operands if isinstance(o, Value)), None)
        values = [self._operand(o, like) for o in operands]
        arrays = [self.constant_value(v) for v in values if v is not None]
        known = [a for a in arrays if a is not None]
        if not known or len(known) < len(operands):
            return None
        result = folding.fold(op_type, known, attributes)
        return None if result is None else self.constant(result)

    def _is_foldable(self, operand: Any, op_type: str) -> bool:
        if not isinstance(operand, Value) or operand in self._constants:
            return True
        tensor = self._tensor(operand)
        small = tensor is not None and tensor.size <= folding.MAX_WEIGHT
        return small and op_type in folding.ARITHMETIC

    def _identity(self, value: Value) -> Value:
        return self._node("Identity", [value], None, 1, "", {})

    def _node(
        self,
        op_type: str,
        operands: Sequence[Any],
        name: str | None,
        outputs: int,
        domain: str,
        attributes: Mapping[str, Any],
    ) -> Any:
        like = next((o.dtype for o in operands if isinstance(o, Value) and o.dtype), None)
        inputs = [self._operand(o, like) for o in operands]
        while inputs and inputs[-1] is None:
            inputs.pop()
        label = self.scoped(name or op_type)
        node = ir.Node(
            domain,
            op_type,
            inputs,
            [self._attribute(k, v) for k, v in attributes.items() if v is not None],
            num_outputs=outputs,
            name=label,
            metadata_props=dict(self.metadata),
        )
        for i, value in enumerate(node.outputs):
            value.name = label if i == 0 else self.unique(f"{label}_{i}")
        infer_types(node, self.opset)
        self._frame.graph.append(node)
        return node.outputs[0] if outputs == 1 else tuple(node.outputs)

    def _operand(self, operand: Any, like: DataType | None) -> Value | None:
        if operand is None or isinstance(operand, Value):
            return operand
        if isinstance(operand, (list, tuple)):
            return self.constant(np.asarray(operand, np.int64))
        if isinstance(operand, (bool, int, float)):
            return self.constant(operand, like)
        return self.constant(operand)

    def _attribute(self, name: str, value: Any) -> ir.Attr:
        if isinstance(value, (mx.Dtype, np.dtype, DataType, type)):
            return ir.AttrInt64(name, int(self.element_type(value)))
        if isinstance(value, (list, tuple)) and not value:
            return ir.AttrInt64s(name, [])
        return ir.convenience.convert_attribute(name, value)

    def cast(self, value: Value, dtype: Any) -> Value:
        """`value` as `dtype`; itself when it already is."""
        to = self.element_type(dtype)
        return value if value.dtype == to else self.op("Cast", value, to=to)

    def reduce(self, kind: str, value: Value, axes: Sequence[int], keepdims: bool = True) -> Value:
        """ReduceSum, ReduceMean … over `axes`, which opset 18 made an input."""
        if self.opset >= 18 or kind == "ReduceSum":
            return self.op(kind, value, list(axes), keepdims=int(keepdims))
        return self.op(kind, value, axes=list(axes), keepdims=int(keepdims))

    def shape_of(self, value: Value, axis: int) -> Value:
        """The size of one axis as an int64 tensor of shape (1,); a constant when it is known."""
        if value.shape is not None:
            axis %= len(value.shape)
            if isinstance(value.shape[axis], int):
                return self.constant([value.shape[axis]], np.int64)
        key = ("shape", value, axis)
        if key not in self._frame.memo:
            end = axis + 1 or None
            self._frame.memo[key] = self.op("Shape", value, start=axis, end=end)
        return self._frame.memo[key]

    # bodies -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _inside(self, frame: Frame) -> Iterator[None]:
        before, self._frame = self._frame, frame
        try:
            yield
        finally:
            self._frame = before

    def subgraph(
        self,
        inputs: Sequence[tuple[Any, Sequence[Any] | None]],
        body: Callable[..., Any],
    ) -> ir.Graph:
        """The body of a Scan, Loop or If: `body(*values)` returns its outputs.

        `inputs` are (dtype, shape) of the formal inputs. Values of the outer graph may be used.
        """
        formals = [
            ir.val(self.unique("formal"), self.element_type(dtype), shape)
            for dtype, shape in (
                (d, None if s is None else [self.dimension(n) for n in s]) for d, s in inputs
            )
        ]
        graph = ir.Graph(formals, [], nodes=[], name=self.unique("body"))
        with self._inside(Frame(graph, self._frame, self._frame.function)):
            results = body(*formals)
            results = results if isinstance(results, (list, tuple)) else [results]
            # An output of a body must be made in it.
            graph.outputs.extend(
                r if r.producer() and r.producer().graph is graph else self._identity(r)
                for r in results
            )
        return graph

    def call(self, name: str, body: Callable[..., Any], *arguments: Value) -> Any:
        """Calls the local function `name`; its first call defines it as `body(*formals)`.

        Weights and large constants the body asks for become inputs of the function, so that they
        are stored once in the main graph.
        """
        if name not in self._functions:
            self._functions[name] = self._define(name, body, arguments)
        function, captured = self._functions[name]
        results = self.op(
            name,
            *arguments,
            *(self._visible(value) for value in captured),
            outputs=len(function.outputs),
            domain=FUNCTION_DOMAIN,
        )
        results = results if isinstance(results, tuple) else (results,)
        for result, formal in zip(results, function.outputs, strict=True):
            result.shape, result.type = formal.shape, formal.type
        return results[0] if len(results) == 1 else results

    def _define(
        self, name: str, body: Callable[..., Any], arguments: Sequence[Value]
    ) -> tuple[ir.Function, list[Value]]:
        formals = [
            Value(name=f"{name}_{i}", shape=_known(a.shape), type=a.type)
            for i, a in enumerate(arguments)
        ]
        imports = {"": self.opset, FUNCTION_DOMAIN: 1}
        imports |= {RUNTIME_DOMAIN: 1} if self.quantized else {}
        frame = Frame(ir.Graph(formals, [], nodes=[], name=name, opset_imports=imports))
        frame.function = frame
        with self._inside(frame):
            results = body(*formals)
            results = results if isinstance(results, (list, tuple)) else [results]
            frame.graph.outputs.extend(results)
        frame.drop_unused()
        function = ir.Function(FUNCTION_DOMAIN, name, graph=frame.graph, attributes=[])
        return function, list(frame.captured)

    # the finished model -----------------------------------------------------------------------

    def model(self, properties: Mapping[str, str] | None = None) -> Model:
        """The cleaned, checked model. Weights are still the arrays that were handed in.

        Raises: ValueError for a graph that ONNX's checker or its shape inference refuses.
        """
        graph = self._main.graph
        for value, name in self._outputs:
            graph.outputs.append(self._named(value, name))
        if self._functions:
            graph.opset_imports[FUNCTION_DOMAIN] = 1
        if self.quantized:
            graph.opset_imports[RUNTIME_DOMAIN] = 1
        functions = [function for function, _ in self._functions.values()]
        return finish.finished(graph, functions, properties or {})

    def _named(self, value: Value, name: str) -> Value:
        """`value` under an output's name; through an Identity when its own name must stay."""
        taken = value.is_graph_input() or value.is_initializer() or value.is_graph_output()
        if taken:
            same = self._identity(value)
            same.shape, same.type = value.shape, value.type
            value = same
        value.name = name
        return value

    def finish(self, properties: Mapping[str, str] | None = None) -> onnx.ModelProto:
        """`model` as a protobuf message (this copies the weights once)."""
        return finish.message(self.model(properties))


def _known(shape: ir.Shape | None) -> ir.Shape | None:
    """A shape without the names of dimensions: another call of a function has others."""
    return shape and ir.Shape([dim if isinstance(dim, int) else None for dim in shape])
