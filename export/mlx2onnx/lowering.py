"""The walk over a recording: each primitive by its rule, onto ONNX values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx2onnx import sizes
from mlx2onnx.builder import Builder, Value, to_numpy
from mlx2onnx.primitives import RULES, Unsupported
from mlx2onnx.recording import Array, Differs, Dim, Primitive, Recording, address
from mlx2onnx.sizes import Int, Size

RULES_FOLDER = "export/mlx2onnx/primitives"
# Integers that ONNX Runtime computes with, for those it does not.
_WIDER = {
    mx.uint8: mx.int32, mx.int8: mx.int32, mx.uint16: mx.int32, mx.int16: mx.int32,
    mx.uint32: mx.int64, mx.uint64: mx.int64, mx.complex64: mx.float32,
}  # fmt: skip
# After these, an integer narrower than the one computed with wraps around.
_WRAPPING = {
    "Add", "Subtract", "Multiply", "Negative", "Power", "Square", "Reduce", "Scan",
    "BitwiseBinary", "AsType", "NumberOfElements",
}  # fmt: skip
_WRAPPED = set(_WIDER) - {mx.complex64}
_LARGE = 1024


@dataclass(frozen=True)
class Missing:
    """One primitive that could not be lowered, and why."""

    primitive: str
    arguments: tuple[Any, ...]
    reason: str
    file: str

    def __str__(self) -> str:
        arguments = ", ".join(_text(a) for a in self.arguments)
        return f"{self.primitive}({arguments}): {self.reason} ({self.file})"


def _text(argument: Any) -> str:
    if isinstance(argument, tuple):
        return f"({', '.join(map(_text, argument))})"
    return sizes.as_text(argument)


class UnsupportedPrimitives(NotImplementedError):
    """A function holds primitives that have no ONNX form here; `missing` lists all of them."""

    def __init__(self, missing: Sequence[Missing]):
        self.missing = list(dict.fromkeys(missing))
        lines = "\n".join(f"  {m}" for m in self.missing)
        super().__init__(f"{len(self.missing)} primitives cannot be exported:\n{lines}")


def storage(dtype: mx.Dtype) -> mx.Dtype:
    """The type that values of an MLX dtype have inside a lowered function."""
    return _WIDER.get(dtype, dtype)


class Lowering:
    """The walk over one recording. Rules reach it as `event.context`."""

    def __init__(
        self,
        g: Builder,
        recording: Recording,
        values: Sequence[Value],
        sources: Mapping[str, tuple[int, int]],
        weights: Mapping[str, mx.array],
    ):
        self.g = g
        self.recording = recording
        self.sources = {name: (values[i], axis) for name, (i, axis) in sources.items()}
        self.makers = {a.name: p for p in recording.primitives for a in p.outputs}
        self.weights = {address(w): name for name, w in weights.items() if w.size}
        self.values: dict[str, Value] = {}
        self.actual: dict[str, tuple[Int, ...]] = {}
        self.expanded: dict[str, Value] = {}
        self.deferred: dict[str, mx.array | Differs] = {}
        self.missing: list[Missing] = []
        for array, value in zip(recording.inputs, values, strict=True):
            self._set(array, g.cast(value, storage(array.dtype)), array.shape)
        for name, constant in recording.constants.items():
            # Asked for by few: packed weights and the count of a mean are never stored themselves.
            self.deferred[name] = constant
            self.actual[name] = () if isinstance(constant, Differs) else constant.shape

    def run(self) -> list[Value]:
        """Lowers every primitive; returns the outputs.

        Raises: UnsupportedPrimitives.
        """
        for primitive in self.recording.primitives:
            if all(a.name in self.actual for a in primitive.inputs):
                self._lower(primitive)
            elif primitive.name not in RULES:
                self._miss(primitive, "no rule", f"{RULES_FOLDER}/")
        outputs = self.recording.outputs
        if any(array.dtype == mx.complex64 for array in outputs):
            reason = "a complex output has no ONNX form that runs. Return its mx.real and mx.imag"
            self.missing.append(Missing("output", (), reason, "the traced function"))
        if self.missing:
            raise UnsupportedPrimitives(self.missing)
        return [self.g.cast(self.full(array), array.dtype) for array in outputs]

    def _lower(self, primitive: Primitive) -> None:
        event = Event(primitive, self)
        rule = RULES.get(primitive.name)
        if rule is None:
            self._miss(primitive, "no rule", f"{RULES_FOLDER}/")
            return
        if primitive.name in ("Broadcast", "Full") and self._still_deferred(primitive):
            return
        take = self.value if rule.elementwise else self.full
        try:
            values = () if rule.lazy else (take(a) for a in primitive.inputs)
            made = rule.lower(self.g, event, *values)
        except Unsupported as e:
            path = f"{RULES_FOLDER}/{rule.file.rpartition('.')[2]}.py"
            self._miss(primitive, str(e), path)
            return
        made = made if isinstance(made, (list, tuple)) else [made]
        for array, value in zip(primitive.outputs, made, strict=True):
            shape = self._broadcast(primitive.inputs) if rule.elementwise else array.shape
            if primitive.name in _WRAPPING and array.dtype in _WRAPPED:
                value = self.g.cast(value, array.dtype)
            self._set(array, self.g.cast(value, storage(array.dtype)), shape)

    def _still_deferred(self, primitive: Primitive) -> bool:
        """Passes a constant that is not computed yet on to where it is used."""
        name = primitive.inputs[0].name
        if name in self.values or not isinstance(self.deferred.get(name), Differs):
            return False
        out = primitive.outputs[0].name
        self.deferred[out], self.actual[out] = self.deferred[name], ()
        return True

    def _miss(self, primitive: Primitive, reason: str, file: str) -> None:
        self.missing.append(Missing(primitive.name, primitive.arguments, reason, file))

    def _broadcast(self, arrays: Sequence[Array]) -> tuple[Int, ...]:
        shapes = [self.actual[a.name] for a in arrays]
        rank = max((len(s) for s in shapes), default=0)
        padded = [(1,) * (rank - len(s)) + s for s in shapes]
        return tuple(next((d for d in dims if d != 1), 1) for dims in zip(*padded, strict=True))

    # values -----------------------------------------------------------------------------------

    def _set(self, array: Array, value: Value, shape: tuple[Int, ...]) -> None:
        if value.shape is None:
            self.g.annotate(value, shape=[self.dim(d) for d in _stored_shape(array, shape)])
        self.values[array.name], self.actual[array.name] = value, shape

    @staticmethod
    def dim(size: Int) -> Dim:
        """A size as ONNX annotates it."""
        if isinstance(size, int):
            return size
        name = size.symbol
        return None if name is None or name.startswith("_") else name

    def constant_numbers(self, array: Array) -> list[float]:
        """A scalar constant's value in each probe, or nothing."""
        while (maker := self.maker(array)) is not None and maker.name in ("Broadcast", "Full"):
            array = maker.inputs[0]
        constant = self.recording.constants.get(array.name)
        if isinstance(constant, Differs):
            scalars = all(v.shape == () for v in constant.values)
            return [float(v) for v in constant.values] if scalars else []
        if constant is None or constant.size != 1:
            return []
        return [float(to_numpy(constant).reshape(()))] * self.recording.probes

    def constant(self, array: Array) -> mx.array | None:
        """An array of the recording that is the same at every size."""
        found = self.recording.constants.get(array.name)
        return None if isinstance(found, Differs) else found

    def stored(self, array: mx.array) -> Value:
        """A constant as an initializer: a weight under its name, or an unnamed one."""
        known = self.weights.get(address(array))
        if known is None and array.size <= _LARGE:
            return self.g.constant(to_numpy(array), storage(array.dtype))
        self.g.keep(array)
        key = ("array", address(array))
        content = array.astype(storage(array.dtype)) if array.dtype in _WIDER else array
        return self.g.initializer(known or "constant", content, key)

    def _computed(self, constant: Differs) -> Value:
        form, dtype = constant.form, constant.values[0].dtype
        if np.issubdtype(dtype, np.integer):
            dtype = np.dtype(np.int32 if dtype.itemsize < 4 or dtype == np.int32 else np.int64)
        try:
            if isinstance(form, Size):
                return self.scalar(form, dtype)
            if isinstance(form, sizes.Scaled):
                product = (((form.symbols, 1)),)
                size = self.scalar(Size(tuple(range(len(constant.values))), product), dtype)
                if form.power < 0:
                    return self.g.op("Div", np.asarray(form.factor, dtype), size)
                return self.g.op("Mul", size, np.asarray(form.factor, dtype))
        except Unsupported:
            pass
        shapes = sorted({v.shape for v in constant.values})
        what = f"of shape {' or '.join(map(str, shapes))}" if shapes != [()] else "scalar"
        dims = ", ".join(self.sources)
        reason = (
            f"a constant ({what}) has other values at other sizes of {dims}. "
            "Compute it from the inputs' shapes with mlx functions, or fix the dimension"
        )
        raise Unsupported(reason)

    def value(self, array: Array) -> Value:
        """The array's value; it may still have to be broadcast to the array's shape."""
        if array.name not in self.values:
            found = self.deferred[array.name]
            made = self._computed(found) if isinstance(found, Differs) else self.stored(found)
            self.values[array.name] = made
        return self.values[array.name]

    def full(self, array: Array) -> Value:
        """The array's value in its full shape."""
        if self.actual[array.name] == array.shape:
            return self.value(array)
        if array.name not in self.expanded:
            shape = _stored_shape(array, array.shape)
            made = self.g.op("Expand", self.value(array), self.vector(shape))
            self.g.annotate(made, shape=[self.dim(d) for d in shape])
            self.expanded[array.name] = made
        return self.expanded[array.name]

    def maker(self, array: Array) -> Primitive | None:
        """The primitive that made an array."""
        return self.makers.get(array.name)

    # sizes ------------------------------------------------------------------------------------

    def vector(self, dims: Sequence[Int]) -> Value:
        """Sizes as an int64 vector, computed at run time where they are dynamic."""
        if all(isinstance(d, int) for d in dims):
            return self.g.constant(np.asarray(dims, np.int64))
        parts: list[Any] = []
        for dim in dims:
            if isinstance(dim, Size):
                parts.append(self.size(dim))
            elif parts and isinstance(parts[-1], list):
                parts[-1].append(dim)
            else:
                parts.append([dim])
        return parts[0] if len(parts) == 1 else self.g.op("Concat", *parts, axis=0)

    def size(self, size: Int) -> Value:
        """One size as an int64 vector of one element."""
        g = self.g
        if isinstance(size, int):
            return g.constant(np.asarray([size], np.int64))
        if size.formula is None:
            return self._size_of_a_value(size)
        total = None
        for names, coefficient in reversed(size.formula):
            term = None
            for name in names:
                value = g.shape_of(*self.sources[name])
                term = value if term is None else g.op("Mul", term, value)
            if term is None:
                term = self.size(coefficient)
            elif coefficient != 1:
                term = g.op("Mul", term, [coefficient])
            total = term if total is None else g.op("Add", total, term)
        assert total is not None
        return total

    def _size_of_a_value(self, size: Size) -> Value:
        """A size without a formula (of a strided convolution, say), read where it occurs."""
        for name, shape in self.actual.items():
            if size in shape:
                return self.g.shape_of(self.values[name], shape.index(size))
        raise Unsupported(f"{sizes.as_text(size)} is no linear form of {', '.join(self.sources)}")

    def scalar(self, size: Int, dtype: Any) -> Value:
        """One size as a scalar."""
        return self.g.cast(self.g.op("Squeeze", self.size(size), [0]), dtype)


class Event:
    """A primitive on its way through a rule."""

    def __init__(self, primitive: Primitive, context: Lowering):
        self.name = primitive.name
        self.arguments = primitive.arguments
        self.inputs = primitive.inputs
        self.outputs = primitive.outputs
        self.context = context

    def values(self) -> list[Value]:
        """The operands of a lazy elementwise rule."""
        return [self.context.value(a) for a in self.inputs]

    @property
    def shape(self) -> tuple[Int, ...]:
        """The shape of the first output."""
        return self.outputs[0].shape


def _stored_shape(array: Array, shape: tuple[Int, ...]) -> tuple[Int, ...]:
    """Complex numbers have a last axis of two real ones."""
    return (*shape, 2) if array.dtype == mx.complex64 else shape
