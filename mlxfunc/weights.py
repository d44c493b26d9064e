"""The weights of a layer: made once, listed once, in MLX's layout and in Keras's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from . import constraints, initializers, regularizers, storage
from .conversion import to_mlx
from .graph import as_dtype


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
        return array.reshape(self.stored) if self.stored else array

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


class _Frozen(set):
    """Names of arrays without a gradient. `unfreeze` clears it; `always` stays."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        super().__init__(names)
        self.always: set[str] = set()

    def clear(self) -> None:
        super().clear()
        self.update(self.always)


class Weights(nn.Module):
    """A Module whose arrays are each listed once, and can be read in Keras's order and layout."""

    name: str
    built: bool
    dtype: str | None
    _no_grad: _Frozen

    def __init__(self) -> None:
        super().__init__()
        self._no_grad = _Frozen()
        self._records: dict[str, WeightRecord] = {}
        self._trainable = True

    def __setattr__(self, key: str, value: Any) -> None:
        # Members of a Module are its arrays and modules; what is private or a tuple is not one.
        if key.startswith("_") or isinstance(value, tuple):
            object.__setattr__(self, key, value)
        else:
            super().__setattr__(key, value)

    def add_weight(
        self,
        name: str,
        shape: tuple[int, ...],
        initializer: Any = "glorot_uniform",
        *,
        role: str | None = None,
        axes: tuple[int, ...] | None = None,
        blocks: tuple[int, ...] | None = None,
        stored: tuple[int, ...] | None = None,
        regularizer: Any = None,
        constraint: Any = None,
        trainable: bool = True,
        dtype: str | mx.Dtype | None = None,
    ) -> mx.array:
        """Make the weight `self[name]`.

        Args:
            shape: in Keras's layout, which initializer, regularizer and constraint see too.
            role: "kernel" takes initializer, regularizer and constraint from the attributes
                `kernel_initializer`, `kernel_regularizer` and `kernel_constraint`.
            axes: the permutation that leads from Keras's layout to MLX's, as in `mx.transpose`.
            blocks: the order of gates along Keras's last axis, as MLX has them.
            stored: MLX's shape, where the permuted one has its axes merged or ones added.
        """
        if role is not None:
            initializer = getattr(self, f"{role}_initializer")
            regularizer = getattr(self, f"{role}_regularizer", None)
            constraint = getattr(self, f"{role}_constraint", None)
        record = WeightRecord(
            tuple(shape),
            initializers.get(initializer),
            regularizers.get(regularizer),
            constraints.get(constraint),
            axes,
            blocks,
            trainable,
            stored,
        )
        kind = as_dtype(dtype or self.dtype or "float32")
        self[name] = record.from_keras(record.initializer(record.shape, kind))
        self._records[name] = record
        if not trainable:
            self._no_grad.always.add(name)
            self._no_grad.add(name)
        return self[name]

    def set_role(self, role: str, initializer: Any, regularizer: Any, constraint: Any) -> None:
        """Keep what `add_weight(role=...)` reads: `kernel_initializer` and so on."""
        setattr(self, f"{role}_initializer", initializers.get(initializer))
        setattr(self, f"{role}_regularizer", regularizers.get(regularizer))
        setattr(self, f"{role}_constraint", constraints.get(constraint))

    def filter_and_map(
        self,
        filter_fn: Callable,
        map_fn: Callable | None = None,
        is_leaf_fn: Callable | None = None,
    ) -> dict:
        """As in `mlx.nn.Module`, but a module reached twice is listed only the first time."""
        seen = {id(self)}

        def once(module: nn.Module, key: str, value: Any) -> bool:
            if not filter_fn(module, key, value):
                return False
            if isinstance(value, nn.Module):
                if id(value) in seen:
                    return False
                seen.add(id(value))
            return True

        return super().filter_and_map(once, map_fn, is_leaf_fn)

    def sublayers(self) -> list[nn.Module]:
        """This layer and every module in it, each once, in the order they were made."""
        found: dict[int, nn.Module] = {}

        def visit(value: Any) -> None:
            if isinstance(value, nn.Module):
                if id(value) in found:
                    return
                found[id(value)] = value
            for child in value.values() if isinstance(value, dict) else value:
                if isinstance(child, dict | list):
                    visit(child)

        visit(self)
        return list(found.values())

    def foreign_modules(self) -> Iterator[nn.Module]:
        """The modules of this layer, alone or in lists and dicts, that are not layers."""
        rest = list(self.values())
        while rest:
            value = rest.pop()
            if isinstance(value, nn.Module):
                if not isinstance(value, Weights):
                    yield value
            elif isinstance(value, dict | list):
                rest += value.values() if isinstance(value, dict) else value

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
            module[key] = record.from_keras(new) if record else new

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
            return super().load_weights(file_or_weights, strict)
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
    def losses(self) -> list[mx.array]:
        """The penalty of each trainable weight that has a regularizer."""
        return [
            record.regularizer(record.to_keras(m[key]))
            for m, key, record in self._variables()
            if record and record.regularizer is not None and key not in m._no_grad
        ]

    def regularization_loss(self) -> mx.array:
        """The sum of `losses`."""
        return sum(self.losses, start=mx.array(0.0))

    def apply_constraints(self) -> None:
        """Move each trainable weight that has a constraint onto it."""
        for m, key, record in self._variables():
            if record and record.constraint is not None and key not in m._no_grad:
                m[key] = record.from_keras(record.constraint(record.to_keras(m[key])))
