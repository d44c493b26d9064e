"""Functions that treat every element alike: they are the same in whatever layout an array is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
from mlx2onnx.layout import Layout, Shape
from mlx2onnx.primitives import RULES
from mlx2onnx.recording import Recording, record

# Stand for dynamic sizes: odd, and no usual size of a kernel or of channels; then equal ones, at
# which a function that looks at its shape may do something else.
SIZES = ((11, 13, 17, 19, 23, 29, 31, 37), *((n,) for n in (1, 2, 8, 64, 100, 1024, 20_011)))


def is_pointwise(function: Callable[..., Any], shape: Shape, count: int, layout: Layout) -> bool:
    """Whether a function of `count` equally shaped arrays may as well see them in `layout`.

    It may when it is made of elementwise primitives and constants of one element, and does not
    look at the shape: its trace is the same at the stored one.
    """
    shapes = []
    for sizes in SIZES:
        dims = [d if isinstance(d, int) else sizes[i % len(sizes)] for i, d in enumerate(shape)]
        shapes += [tuple(dims), tuple(dims[axis] for axis in layout.perm)]
    first = None
    for now in dict.fromkeys(shapes):
        try:
            outline = _outline(record(function, [mx.zeros(now)] * count), now)
        except Exception:
            return False
        if outline is None or outline != (first := first or outline):
            return False
    return True


def _outline(recording: Recording, shape: tuple[int, ...]) -> list[Any] | None:
    """What a recording computes, its shape left out; None when it is not elementwise."""
    arrays = [a for p in recording.primitives for a in (*p.inputs, *p.outputs)]
    if any(a.shape not in ((), shape) for a in [*arrays, *recording.outputs]):
        return None
    steps: list[Any] = []
    for primitive in recording.primitives:
        rule = RULES.get(primitive.name)
        if rule is None or not rule.elementwise:
            return None
        arguments = () if primitive.name == "Broadcast" else primitive.arguments
        names = _names((*primitive.inputs, *primitive.outputs))
        steps.append((primitive.name, arguments, names))
    constants: Sequence[Any] = sorted(recording.constants.items())
    if any(not isinstance(c, mx.array) or c.shape != () for _, c in constants):
        return None
    return [steps, [(n, c.dtype, c.item()) for n, c in constants], _names(recording.outputs)]


def _names(arrays: Sequence[Any]) -> list[str]:
    return [a.name for a in arrays]
