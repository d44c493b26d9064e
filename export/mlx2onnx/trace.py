"""Lowers any MLX function: traced to primitives, each primitive by its rule."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx2onnx import sizes
from mlx.utils import tree_flatten
from mlx2onnx.builder import Builder, Value
from mlx2onnx.layout import channels_first as first
from mlx2onnx.layout import plain
from mlx2onnx.lowering import RULES_FOLDER, Lowering, Missing, UnsupportedPrimitives
from mlx2onnx.modes import evaluating, module_of
from mlx2onnx.primitives.shaping import transposed
from mlx2onnx.reach import Doubt, explore
from mlx2onnx.recording import SizeDependent, Spec, Traced, record_at_all_sizes

__all__ = ["UnsupportedPrimitives", "as_spec", "function_to_graph", "lower"]


def lower(
    g: Builder,
    fn: Callable[..., Any],
    values: Sequence[Value],
    specs: Sequence[Spec],
    weights: Mapping[str, mx.array] | None = None,
    given: Sequence[mx.array | None] | None = None,
    doubt: Callable[[Doubt], None] | None = None,
) -> list[Value]:
    """Lowers `fn(*arrays)` onto ONNX values; returns its outputs in `tree_flatten` order.

    `specs` are (shape, dtype) of the arrays; a string or None in a shape is a dynamic dimension
    (every first axis of None is the same one). `weights` names arrays, so that they are stored
    under those names. `given` arrays are traced with instead of zeros. `doubt` is called when the
    function is not everywhere what was traced: then the file has to be run at such sizes.

    Raises: UnsupportedPrimitives with all that is missing; what `fn` raises.
    """
    given = given or [None] * len(specs)
    mx.eval(list((weights or {}).values()), [a for a in given if a is not None])
    try:
        traced = _record(fn, specs, given)
        if any(p.name == "RandomBits" for p in traced.recording.primitives):
            # Weights that were never evaluated are still the random numbers they start from.
            # Zeros may not suit the function; then it stays as it was recorded.
            with contextlib.suppress(RuntimeError, ValueError):
                mx.eval(fn(*[_zeros(spec, a) for spec, a in zip(specs, given, strict=True)]))
            traced = _record(fn, specs, given)
    except SizeDependent as e:
        raise UnsupportedPrimitives([Missing("trace", (), str(e), RULES_FOLDER)]) from e
    except Exception as e:
        if found := re.search(r"Unable to get state for primitive (\w+)", str(e)):
            reason = "MLX itself does not export this primitive"
            raise UnsupportedPrimitives([Missing(found[1], (), reason, "mlx")]) from e
        raise
    outputs = Lowering(g, traced.recording, values, traced.sources, weights or {}).run()
    if doubt is not None and (differing := explore(fn, traced, given)) is not None:
        doubt(differing)
    return outputs


def _record(fn: Callable[..., Any], *arguments: Any) -> Traced:
    try:
        return record_at_all_sizes(fn, *arguments)
    except ValueError as e:
        if "for primitive Compiled" not in str(e) or not _compiles():
            raise
    # A compiled function of constants alone stays one primitive, which MLX does not export.
    mx.disable_compile()
    try:
        return record_at_all_sizes(fn, *arguments)
    finally:
        mx.enable_compile()


def _compiles() -> bool:
    """Whether mx.compile is enabled: then a function is traced once for two calls."""
    calls = []

    def count(x: mx.array) -> mx.array:
        calls.append(x)
        return x

    compiled = mx.compile(count)
    for _ in range(2):
        compiled(mx.zeros(1))
    return len(calls) == 1


def _zeros(spec: Spec, array: mx.array | None) -> mx.array:
    shape, dtype = spec
    return (
        array
        if array is not None
        else mx.zeros([d if isinstance(d, int) else sizes.STARTS[0] for d in shape], dtype)
    )


# functions ------------------------------------------------------------------------------------


def function_to_graph(
    g: Builder,
    fn: Callable[..., Any],
    inputs: Sequence[Any] | Mapping[str, Any],
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    prefix: str = "",
    doubt: Callable[[Doubt], None] | None = None,
    channels_first: Callable[[str, list[str], list[int]], Collection[str]] = lambda *_: (),
) -> None:
    """Makes `fn`, a function of arrays or an `mlx.nn.Module`, the graph of `g`.

    `inputs` are arrays or specs, a list or a dict by argument name; see `as_spec`. Names of the
    graph begin with `prefix`; `doubt` is that of `lower`. `channels_first` picks, of
    the names and ranks of a side, "inputs" or "outputs", those that the graph has channels first.

    Raises: TypeError and ValueError for a spec; UnsupportedPrimitives.
    """
    keywords = list(inputs) if isinstance(inputs, Mapping) else None
    entries = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
    names = list(input_names or keywords or _argument_names(fn, len(entries)))
    if len(names) != len(entries):
        raise ValueError(f"to_onnx: expected {len(entries)} input names, got {len(names)}.")
    specs = [as_spec(entry) for entry in entries]
    given = [entry if isinstance(entry, mx.array) else None for entry in entries]
    images = channels_first(
        "inputs", [prefix + name for name in names], [len(shape) for shape, _ in specs]
    )
    values = [
        _input(g, prefix + name, spec, prefix + name in images)
        for name, spec in zip(names, specs, strict=True)
    ]
    weights: dict[str, mx.array] = {}
    if (module := module_of(fn)) is not None:
        weights = dict(tree_flatten(module.parameters()))
    call = fn if keywords is None else lambda *a: fn(**dict(zip(keywords, a, strict=True)))
    with evaluating(fn):
        made = lower(g, call, values, specs, weights, given, doubt)
    names = list(output_names or _output_names(len(made), names))
    if len(names) != len(made):
        raise ValueError(f"to_onnx: expected {len(made)} output names, got {len(names)}.")
    ranks = [0 if value.shape is None else len(value.shape) for value in made]
    images = channels_first("outputs", [prefix + name for name in names], ranks)
    for value, name, rank in zip(made, names, ranks, strict=True):
        perm = first(rank).perm if prefix + name in images else range(rank)
        g.output(transposed(g, value, perm), prefix + name)


def _input(g: Builder, name: str, spec: Spec, is_image: bool) -> Value:
    """An input in MLX's layout; an image's is channels first in the graph."""
    shape, dtype = spec
    dims = ["batch" if d is None and a == 0 else d for a, d in enumerate(shape)]
    layout = (first if is_image else plain)(len(shape))
    value = g.input(name, dtype, [dims[axis] for axis in layout.perm])
    return transposed(g, value, [layout.axis(axis) for axis in range(len(shape))])


def as_spec(entry: Any) -> Spec:
    """(shape, dtype) of an array, a shape such as ("batch", 32), or a (shape, dtype) pair.

    Raises: TypeError.
    """
    if isinstance(entry, mx.array):
        return entry.shape, entry.dtype
    if isinstance(entry, np.ndarray):
        return as_spec(mx.array(entry))
    shape, dtype = entry, "float32"
    if isinstance(entry, (tuple, list)) and len(entry) == 2 and isinstance(entry[0], (tuple, list)):
        shape, dtype = entry
    if not isinstance(shape, (tuple, list)) or not all(
        d is None or isinstance(d, (int, str)) for d in shape
    ):
        raise TypeError(
            f"to_onnx: expected a shape such as ('batch', 32), a (shape, dtype) pair or an array, "
            f"got {entry!r}."
        )
    return tuple(shape), dtype if isinstance(dtype, mx.Dtype) else getattr(mx, str(dtype))


def _argument_names(fn: Callable[..., Any], count: int) -> list[str]:
    target = fn.__call__ if isinstance(fn, nn.Module) else fn
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in kinds][:count]
    return names + [f"input_{i}" for i in range(len(names), count)]


def _output_names(count: int, taken: Sequence[str]) -> list[str]:
    names = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    return [f"{name}_" if name in taken else name for name in names]
