"""A model in MLX and its file in ONNX Runtime, on the same arrays."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import onnx
from mlx2onnx import metadata
from mlx.utils import tree_flatten, tree_unflatten
from mlx2onnx.builder import to_numpy
from mlx2onnx.endpoints import with_outputs
from mlx2onnx.modes import evaluating, module_of
from mlx2onnx.recording import check_bounds
from mlx2onnx.report import Report
from mlx2onnx.session import NUMPY
from mlxfunc.conversion import to_mlx
from mlxfunc.graph import leaves

# Numbers that an input holds at most when every dynamic dimension is 1.
MAX_INPUT = 2**27
# The reference: a GPU may round products to three digits (TF32), the CPU does not.
REFERENCE = mx.cpu


def own_device() -> Any:
    """The GPU that MLX computes on by default; None when that is the CPU."""
    device = mx.default_device()
    return None if device == REFERENCE else device


class Runner:
    """Gives the same arrays, in MLX's layout, to MLX and to a session.

    Of a file of several endpoints it runs the one whose names begin with `prefix`.
    """

    def __init__(self, source: Any, proto: onnx.ModelProto, session: Any, prefix: str = "") -> None:
        self.proto, self.session, self.prefix = proto, session, prefix
        # The shapes of inputs at which MLX stays inside its arrays; at larger ones it does too. A
        # Model was built at its fixed sizes.
        self._within: list[list[tuple]] = []
        # Of MLX's inputs and outputs, once it has run.
        self.dtypes: set[mx.Dtype] = set()
        keys = (metadata.NCHW_INPUTS, metadata.NCHW_OUTPUTS)
        self.nchw = {name for key in keys for name in metadata.names(proto, key)}
        self.right_padded = bool(metadata.names(proto, metadata.RIGHT_PADDED))
        entries = [*session.get_inputs(), *session.get_overridable_initializers()]
        order = [value.name for value in proto.graph.input]
        self.inputs = sorted(
            (e for e in entries if e.name.startswith(prefix)), key=lambda e: order.index(e.name)
        )
        sizes = [d for entry in self.inputs for d in self.shape(entry)[1:]]
        if isinstance(source, mf.Model) and all(isinstance(d, int) for d in sizes):
            self._within = [[(1, *self.shape(entry)[1:]) for entry in self.inputs if entry.shape]]
        names = [output.name for output in session.get_outputs()]
        self.output_names = [name for name in names if name.startswith(prefix)]
        paths = metadata.names(proto, metadata.EXTRA_OUTPUTS)
        extended = paths and isinstance(source, mf.Model)
        self.source = with_outputs(source, paths) if extended else source
        if isinstance(source, mf.Model) and len(source.inputs) != len(self.inputs):
            raise ValueError(
                f"{source.name}: expected a file with {len(source.inputs)} inputs, got one with "
                f"{len(self.inputs)}. It was exported from another model."
            )

        for index, entry in enumerate(self.inputs):
            is_model = isinstance(source, mf.Model)
            self._check(entry, source.inputs[index].shape if is_model else self.shape(entry))

    def _check(self, entry: Any, wanted: Sequence[Any]) -> None:
        """Refuses an input that the model does not take, before an array of its size is drawn."""
        shape = self.shape(entry)
        fits = (
            len(shape) == len(wanted)
            and entry.type in NUMPY
            and all(
                size == other or not (isinstance(size, int) and isinstance(other, int))
                for size, other in zip(shape, wanted, strict=False)
            )
        )
        if not fits or math.prod(d for d in shape if isinstance(d, int)) > MAX_INPUT:
            raise ValueError(
                f"{entry.name}: expected an input of shape {tuple(wanted)}, got one of shape "
                f"{tuple(shape)} and {entry.type}. The file was exported from another model."
            )

    def shape(self, entry: Any) -> list[Any]:
        """An input's dimensions in MLX's order."""
        dims = list(entry.shape)
        return [dims[0], *dims[2:], dims[1]] if entry.name in self.nchw else dims

    def as_mlx(self, arrays: Sequence[np.ndarray]) -> list[mx.array]:
        """The inputs as the model takes them: a file in float16 may be of one in float32."""
        values = [to_mlx(a.astype(np.float32) if a.dtype == np.float16 else a) for a in arrays]
        if not isinstance(self.source, mf.Model):
            return values
        return [v.astype(t.dtype) for v, t in zip(values, self.source.inputs, strict=True)]

    def feeds(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs as the file takes them."""
        feeds = {}
        for entry, array in zip(self.inputs, arrays, strict=True):
            array = array.astype(NUMPY[entry.type], copy=False)
            feeds[entry.name] = np.moveaxis(array, -1, 1) if entry.name in self.nchw else array
        return feeds

    @contextmanager
    def lazily(self, arrays: Sequence[np.ndarray], device: Any = None) -> Iterator[list[mx.array]]:
        """MLX's outputs, of which only shape and dtype are known before they are evaluated.

        In inference mode, on the CPU or the `device`.

        Raises: ValueError for sizes at which MLX would read past the end of an array.
        """
        values = self.as_mlx(arrays)
        with mx.stream(device or REFERENCE), evaluating(self.source):
            if not self._is_within([array.shape for array in arrays]):
                with self._state_kept():
                    check_bounds(self._outputs, values)
                self._within.append([array.shape for array in arrays])
            with self._state_kept():
                yield self._outputs(*values)

    def _is_within(self, shapes: Sequence[tuple]) -> bool:
        sizes = [size for shape in shapes for size in shape]
        return any(
            all(a <= b for a, b in zip((n for shape in small for n in shape), sizes, strict=True))
            for small in self._within
        )

    def _outputs(self, *values: mx.array) -> list[mx.array]:
        if isinstance(self.source, mf.Model):
            return leaves(self.source.run(list(values))[0])
        names = [entry.name.removeprefix(self.prefix) for entry in self.inputs]
        if _takes_by_name(self.source, names):
            return leaves(self.source(**dict(zip(names, values, strict=True))))
        return leaves(self.source(*values))

    @contextmanager
    def _state_kept(self) -> Iterator[None]:
        """A stateful layer starts each time from where it was when it was exported."""
        module = module_of(self.source)
        state = [] if module is None else tree_flatten(module.parameters())
        try:
            yield
        finally:
            if module is not None and state:
                module.update(tree_unflatten(state))

    def mlx(self, arrays: Sequence[np.ndarray], device: Any = None) -> list[np.ndarray]:
        """The outputs in MLX."""
        with self.lazily(arrays, device) as outputs:
            mx.eval(outputs)
            return [to_numpy(y) for y in outputs]

    def onnx(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs in ONNX Runtime, in MLX's layout."""
        outputs = self.session.run(self.output_names, self.feeds(arrays))
        return [
            np.moveaxis(y, 1, -1) if name in self.nchw else y
            for name, y in zip(self.output_names, outputs, strict=True)
        ]

    def run(
        self, arrays: Sequence[np.ndarray], report: Report
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The outputs in MLX and in ONNX Runtime.

        ONNX Runtime goes first: it checks indices, where MLX reads and writes foreign memory.
        For the same reason MLX computes nothing where shapes differ already, which is enough to
        know.
        """
        start = time.perf_counter()
        found = self.onnx(arrays)
        middle = time.perf_counter()
        with self.lazily(arrays) as outputs:
            if len(outputs) != len(found):
                raise ValueError(
                    f"verify: expected a file with {len(outputs)} outputs, got one with "
                    f"{len(found)}. It was exported from another model."
                )
            self.dtypes = {y.dtype for y in [*self.as_mlx(arrays), *outputs]}
            if all(y.shape == a.shape for y, a in zip(outputs, found, strict=True)):
                mx.eval(outputs)
                expected = [to_numpy(y) for y in outputs]
            else:
                pairs = zip(outputs, found, strict=True)
                expected = [a if a.shape == y.shape else _empty(y.shape) for y, a in pairs]
        report.onnx_seconds += middle - start
        report.mlx_seconds += time.perf_counter() - middle
        report.runs += 1
        return expected, found


def _takes_by_name(function: Any, names: Sequence[str]) -> bool:
    """Whether all names are arguments of a function, which a file may have in another order."""
    target = function.__call__ if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return False
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = {name for name, p in parameters.items() if p.kind in kinds}
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return known.issuperset(names) or (open_ended and not known)


def _empty(shape: Sequence[int]) -> np.ndarray:
    """An array of a shape, without values."""
    return np.broadcast_to(np.float32(0), shape)


def sizes_of(dims: Sequence[Any], shape: Sequence[int]) -> Mapping[str, int]:
    """The sizes of the dynamic dimensions in an array's shape."""
    return {d: size for d, size in zip(dims, shape, strict=True) if isinstance(d, str)}
