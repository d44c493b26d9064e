"""Indices and windows that cannot leave their array, on any device.

MLX looks at no index that stands in an array: one out of range reads, or writes, other memory.
Everything here and everything that `ops` offers goes through this module instead. The rule:

* An index in an array means what it does in NumPy from -n to n - 1, n the entries of its axis. A
  larger one is the last entry, a smaller one the first.
* An index that is a number or a list, a stride and a window are refused when they leave the
  array, with an IndexError or a ValueError.

What users give as data is looked at before it gets here, where its values are known: fit,
evaluate, predict and a model that is called refuse ids that a table has no row for. So the rule
above decides for ids that are computed inside the model. ONNX's Gather has the same meaning from
-n to n - 1 and refuses the rest: in an exported file ids that are an input, moved but not
changed, go straight into Gather, and computed ones through a Clip to [-n, n - 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from . import indices, windows
from .indices import as_integer as as_integer
from .indices import clip_index as clip_index
from .indices import getitem as getitem
from .indices import scatter_add as scatter_add
from .indices import take as take
from .indices import take_along_axis as take_along_axis
from .modules import keep_inside as keep_inside
from .windows import check_convolution as check_convolution
from .windows import conv_general as conv_general


def empty(shape: Any, dtype: Any = mx.float32, *, stream: Any = None) -> mx.array:
    """Zeros: memory that others have used is not shown."""
    return mx.zeros(shape, dtype, stream=stream)


def empty_like(a: mx.array, dtype: Any = None, *, stream: Any = None) -> mx.array:
    """Zeros: memory that others have used is not shown."""
    return mx.zeros_like(a, dtype, stream=stream)


# The names of `mlx.core` that leave their array, by what stands in their place here.
BOUNDED: dict[str, Callable[..., Any]] = {
    "as_strided": windows.as_strided,
    "conv1d": windows.conv1d,
    "conv2d": windows.conv2d,
    "conv3d": windows.conv3d,
    "conv_general": windows.conv_general,
    "conv_transpose1d": windows.conv_transpose1d,
    "conv_transpose2d": windows.conv_transpose2d,
    "conv_transpose3d": windows.conv_transpose3d,
    "empty": empty,
    "empty_like": empty_like,
    "gather_mm": indices.gather_mm,
    "gather_qmm": indices.gather_qmm,
    "gather_qqmm": indices.gather_qqmm,
    "getitem": indices.getitem,
    "put_along_axis": indices.put_along_axis,
    "segmented_mm": indices.segmented_mm,
    "slice": indices.slice_,
    "slice_update": indices.slice_update,
    "take": indices.take,
    "take_along_axis": indices.take_along_axis,
}
