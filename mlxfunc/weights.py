"""The weights of a layer: made once, listed once, in MLX's layout and in Keras's."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from . import constraints, initializers, regularizers, storage
from .conversion import to_mlx
from .graph import as_dtype
from .members import Members


@dataclass(frozen=True)
class WeightRecord:
    """How a weight was made, and how MLX's layout follows from Keras's.

    MLX block i of Keras's last axis is Keras block `blocks[i]`; then the axes are permuted,
    then the array is reshaped to `stored`, where MLX has one axis for several or has more.
    """

    shape: tuple[int, ...]
    initializer: Any
    regularizer: Any = None
    constraint: Any = None
    axes: tuple[int, ...] | None = None
    blocks: tuple[int, ...] | None = None
    trainable: bool = True
    stored: tuple[int, ...] | None = None

    def from_keras(self, array: mx.array) -> mx.array:
        if self.blocks:
            array = _reorder(array, self.blocks)
        array = mx.transpose(array, self.axes) if self.axes else array
        # As a file gives it back: a product with a transposed view may round in another way.
        return mx.contiguous(array.reshape(self.stored) if self.stored else array)

    def to_keras(self, array: mx.array) -> mx.array:
        if self.stored:
            axes = self.axes or range(len(self.shape))
            array = array.reshape([self.shape[axis] for axis in axes])
        if self.axes:
            array = mx.transpose(array, np.argsort(self.axes).tolist())
        return _reorder(array, np.argsort(self.blocks).tolist()) if self.blocks else array


def _reorder(array: mx.array, blocks: Any) -> mx.array:
    parts = mx.split(array, len(blocks), axis=-1)
    return mx.concatenate([parts[b] for b in blocks], axis=-1)


# While a model is read from a file: how many numbers its weights may still hold.
_to_come: ContextVar[list[int] | None] = ContextVar("to_come", default=None)


@contextmanager
def weights_to_come(size: int) -> Iterator[None]:
    """Within the block weights are zeros without memory, `size` numbers in all: a file has them."""
    token = _to_come.set([size])
    try:
        yield
    finally:
        _to_come.reset(token)


def _promised(name: str, shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array | None:
    left = _to_come.get()
    if left is None:
        return None
    if math.prod(shape) > left[0]:
        raise ValueError(
            f"{name}: expected weights that the file holds, got a layer with one of shape {shape}"
        )
    left[0] -= math.prod(shape)
    return mx.broadcast_to(mx.array(0, dtype), shape)


class Weights(Members):
    """Members that can also be read in Keras's order and layout."""

    name: str
    dtype: str | None

    def __init__(self) -> None:
        super().__init__()
        self._records: dict[str, WeightRecord] = {}
        self._trainable = True

    def add_weight(
        self,
        shape: tuple[int, ...] | None = None,
        initializer: Any = None,
        dtype: str | mx.Dtype | None = None,
        *,
        trainable: bool = True,
        autocast: bool = True,
        regularizer: Any = None,
        constraint: Any = None,
        aggregation: str | None = "none",
        overwrite_with_gradient: bool = False,
        name: str | None = None,
        role: str | None = None,
        axes: tuple[int, ...] | None = None,
        blocks: tuple[int, ...] | None = None,
        stored: tuple[int, ...] | None = None,
    ) -> mx.array:
        """Make a weight, a member under `name`, and return it.

        `self.w = self.add_weight(...)` makes `self.w` stand for that member, whatever its name
        is; without a name it is called `w`. A name that the layer uses already is numbered.

        Args:
            shape: in Keras's layout, which initializer, regularizer and constraint see too; a
                scalar when missing.
            initializer: "glorot_uniform" when missing, "zeros" for integers and booleans.
            dtype: the layer's when missing.
            trainable: whether the optimizer moves it.
            autocast, aggregation: accepted as in Keras, without effect.
            overwrite_with_gradient: only False.
            role: "kernel" takes initializer, regularizer and constraint from the attributes
                `kernel_initializer`, `kernel_regularizer` and `kernel_constraint`.
            axes: the permutation that leads from Keras's layout to MLX's, as in `mx.transpose`.
            blocks: the order of gates along Keras's last axis, as MLX has them.
            stored: MLX's shape, where the permuted one has its axes merged or ones added.
        Raises: ValueError for a shape that is not all sizes.
        Source: https://keras.io/api/layers/base_layer/
        """
        if overwrite_with_gradient:
            raise ValueError(
                f"{self.name}: expected overwrite_with_gradient=False, got True. The optimizer "
                "moves every trainable weight; set trainable=False and assign it in call."
            )
        if role is not None:
            initializer = getattr(self, f"{role}_initializer")
            regularizer = getattr(self, f"{role}_regularizer", None)
            constraint = getattr(self, f"{role}_constraint", None)
        kind = as_dtype(dtype or self.dtype or "float32")
        if initializer is None:
            initializer = "glorot_uniform" if mx.issubdtype(kind, mx.floating) else "zeros"
        record = WeightRecord(
            _sizes(self.name, shape),
            initializers.get(initializer),
            regularizers.get(regularizer),
            constraints.get(constraint),
            axes,
            blocks,
            trainable,
            stored,
        )
        key = self.free_name(name or "weight")
        self.__dict__.pop(key, None)  # None, until now
        zeros = _promised(self.name, record.shape, kind)
        if zeros is None:
            array = record.from_keras(record.initializer(record.shape, kind))
        else:  # One number for all, which takes no memory when it is computed.
            array = mx.broadcast_to(mx.array(0, kind), record.from_keras(zeros).shape)
        self[key] = array
        mx.eval(array)
        self._records[key] = record
        self._listed.add(key)
        if name is None:
            self._unnamed.add(key)
        if not trainable:
            self._no_grad.always.add(key)
            self._no_grad.add(key)
        return self[key]

    def rename(self, old: str, new: str) -> None:
        super().rename(old, new)
        self._records = {new if k == old else k: record for k, record in self._records.items()}

    def set_role(self, role: str, initializer: Any, regularizer: Any, constraint: Any) -> None:
        """Keep what `add_weight(role=...)` reads: `kernel_initializer` and so on."""
        setattr(self, f"{role}_initializer", initializers.get(initializer))
        setattr(self, f"{role}_regularizer", regularizers.get(regularizer))
        setattr(self, f"{role}_constraint", constraints.get(constraint))

    def _variables(self) -> list[tuple[nn.Module, str, WeightRecord | None]]:
        """(module, key, record) of every weight in Keras's order."""
        rows: list[tuple[nn.Module, str, WeightRecord | None]] = []
        for module in self.sublayers():
            records = getattr(module, "_records", {})
            keys = [key for key, value in module.items() if isinstance(value, mx.array)]
            keys.sort(key=lambda key: key in records and not records[key].trainable)
            rows += [(module, key, records.get(key)) for key in keys if not key.startswith("_")]
        return rows

    @property
    def weights(self) -> list[mx.array]:
        """Every weight, MLX's arrays in Keras's order."""
        return [module[key] for module, key, _ in self._variables()]

    @property
    def trainable_weights(self) -> list[mx.array]:
        return [m[key] for m, key, _ in self._variables() if key not in m._no_grad]

    @property
    def non_trainable_weights(self) -> list[mx.array]:
        return [m[key] for m, key, _ in self._variables() if key in m._no_grad]

    @property
    def trainable(self) -> bool:
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for module in self.sublayers():
            if isinstance(module, Weights):
                module._trainable = bool(value)
        self.unfreeze() if value else self.freeze()

    def get_weights(self) -> list[np.ndarray]:
        """Every weight as NumPy arrays in Keras's order and layout."""
        return [
            np.array(record.to_keras(m[key]) if record else m[key])
            for m, key, record in self._variables()
        ]

    def set_weights(self, weights: list[Any]) -> None:
        """Take the arrays that `get_weights` gives, here or in Keras."""
        rows = self._variables()
        if len(weights) != len(rows):
            hint = "" if self.built else " Build the layer first: call it once."
            raise ValueError(
                f"{self.name}: expected {len(rows)} weights, got {len(weights)}. "
                f"Give the list that get_weights() of the same architecture returns.{hint}"
            )
        arrays = []
        for (module, key, record), array in zip(rows, weights, strict=True):
            old = module[key]
            new = to_mlx(array).astype(old.dtype)
            shape = record.to_keras(old).shape if record else old.shape
            if new.shape != shape:
                owner = getattr(module, "name", type(module).__name__)
                raise ValueError(
                    f"{owner}: expected {key} of shape {shape}, got {new.shape}. "
                    "Weights are in Keras's layout."
                )
            arrays.append(record.from_keras(new) if record else mx.contiguous(new))
        mx.eval(arrays)
        for (module, key, _), array in zip(rows, arrays, strict=True):
            module[key] = array

    def save_weights(self, file: str | os.PathLike) -> None:
        """Write the weights by their paths to a `.safetensors` or `.npz` file, whole or not at all.

        Raises: ValueError for another ending.
        """
        storage.save_arrays(file, dict(tree_flatten(self.parameters())))

    def load_weights(self, file_or_weights: Any, strict: bool = True) -> Any:
        """Weights by their paths, from a `.safetensors` or `.npz` file, or pairs.

        Args:
            strict: whether they must be the layer's, with its shapes; else it takes what it has.
        Raises: ValueError for others, and for a damaged file. Then no weight has changed.
        """
        if not isinstance(file_or_weights, str | os.PathLike):
            pairs = [(name, _settled(array)) for name, array in file_or_weights]
            mx.eval(pairs)
            return super().load_weights(pairs, strict)
        own = dict(tree_flatten(self.parameters()))
        arrays = storage.load_arrays(file_or_weights, sum(array.nbytes for array in own.values()))
        if strict:
            try:
                storage.check(arrays, own)
            except ValueError as error:
                path = os.fspath(file_or_weights)
                raise ValueError(f"{path}: {error}. Load weights of this model.") from error
        known = [(name, array) for name, array in arrays.items() if name in own]
        return super().load_weights(known, strict=False)

    def count_params(self) -> int:
        """The number of scalars in all weights. Raises: ValueError before they are made."""
        if not self.built and not self.weights:
            raise ValueError(
                f"{self.name}: expected a layer with its weights made, got one that was never "
                "called. Call it on an Input or on data first."
            )
        return sum(weight.size for weight in self.weights)

    @property
    def penalties(self) -> list[mx.array]:
        """The penalty of each trainable weight that has a regularizer."""
        return [
            record.regularizer(record.to_keras(m[key]))
            for m, key, record in self._variables()
            if record and record.regularizer is not None and key not in m._no_grad
        ]

    def apply_constraints(self) -> None:
        """Move each trainable weight that has a constraint onto it."""
        for m, key, record in self._variables():
            if record and record.constraint is not None and key not in m._no_grad:
                m[key] = record.from_keras(record.constraint(record.to_keras(m[key])))


def _settled(array: Any) -> Any:
    return mx.contiguous(array) if isinstance(array, mx.array) else array


def _sizes(layer: str, shape: Any) -> tuple[int, ...]:
    """The shape as a tuple of ints, which Keras's `add_weight` takes first."""
    if isinstance(shape, str):
        raise ValueError(
            f"{layer}: expected a shape first, got {shape!r}. "
            f"Write add_weight(shape=..., name={shape!r})."
        )
    try:
        return tuple(operator.index(size) for size in (() if shape is None else shape))
    except TypeError:
        raise ValueError(
            f"{layer}: expected the shape of a weight as a tuple of ints, got {shape!r}. "
            "A weight has no dynamic sizes."
        ) from None
