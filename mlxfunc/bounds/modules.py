"""Modules of `mlx.nn` that index or slide windows: twins of theirs that stay inside their arrays.

A twin is a subclass with the same name and the same members. `keep_inside` makes the twins of a
module and of all modules in it, in place.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .indices import clip_index
from .windows import check_convolution, check_transposed_convolution

# Where `Upsample` computes places in float32, rounding moves none beyond the end up to this size.
_LARGEST_UPSAMPLED = 2**22


class Embedding(nn.Embedding):
    def __call__(self, x: mx.array) -> mx.array:
        return super().__call__(clip_index(x, self.weight.shape[0]))


class QuantizedEmbedding(nn.QuantizedEmbedding):
    def __call__(self, x: mx.array) -> mx.array:
        parts = [self[key] for key in ("weight", "scales", "biases") if self.get(key) is not None]
        rows = min(part.shape[0] for part in parts)
        return super().__call__(clip_index(x, rows))


class _Conv(nn.Module):
    def __call__(self, x: mx.array) -> mx.array:
        # A Conv3d of MLX has no groups.
        groups = self.groups if hasattr(self, "groups") else 1
        kernel = self.weight.shape[1:-1]
        check_convolution(x.shape, kernel, self.padding, self.dilation, 1, groups)
        return super().__call__(x)


class Conv1d(_Conv, nn.Conv1d):
    pass


class Conv2d(_Conv, nn.Conv2d):
    pass


class Conv3d(_Conv, nn.Conv3d):
    pass


class _ConvTranspose(nn.Module):
    def __call__(self, x: mx.array) -> mx.array:
        check_transposed_convolution(
            x.shape,
            self.weight.shape[1:-1],
            self.stride,
            self.padding,
            self.dilation,
            self.output_padding,
        )
        return super().__call__(x)


class ConvTranspose1d(_ConvTranspose, nn.ConvTranspose1d):
    pass


class ConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d):
    pass


class ConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d):
    pass


class _Pool(nn.Module):
    def __call__(self, x: mx.array) -> mx.array:
        if min(*self._kernel_size, *self._stride) < 1:
            raise ValueError(
                f"{type(self).__name__}: expected windows and strides of at least 1, got "
                f"{self._kernel_size} and {self._stride}."
            )
        return super().__call__(x)


class MaxPool1d(_Pool, nn.MaxPool1d):
    pass


class MaxPool2d(_Pool, nn.MaxPool2d):
    pass


class MaxPool3d(_Pool, nn.MaxPool3d):
    pass


class AvgPool1d(_Pool, nn.AvgPool1d):
    pass


class AvgPool2d(_Pool, nn.AvgPool2d):
    pass


class AvgPool3d(_Pool, nn.AvgPool3d):
    pass


class Upsample(nn.Upsample):
    def __call__(self, x: mx.array) -> mx.array:
        scales = self.scale_factor if isinstance(self.scale_factor, tuple) else [self.scale_factor]
        largest = max(scales) * max(x.shape[1:-1], default=1)
        if not (min(scales) > 0 and largest <= _LARGEST_UPSAMPLED):
            raise ValueError(
                f"Upsample: expected scales above 0 that give sizes of at most "
                f"{_LARGEST_UPSAMPLED}, got {self.scale_factor} for shape {x.shape}."
            )
        return super().__call__(x)


_EMBEDDINGS = (Embedding, QuantizedEmbedding)
_CONVOLUTIONS = (Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)
_POOLS = (MaxPool1d, MaxPool2d, MaxPool3d, AvgPool1d, AvgPool2d, AvgPool3d)
_TWINS: dict[type, type] = {
    twin.__bases__[-1]: twin for twin in (*_EMBEDDINGS, *_CONVOLUTIONS, *_POOLS, Upsample)
}


def keep_inside(value: Any) -> Any:
    """The module, or the list or dict of modules, with twins in the place of such modules."""
    if isinstance(value, nn.Module):
        for module in value.modules():
            if type(module) in _TWINS:
                object.__setattr__(module, "__class__", _TWINS[type(module)])
    elif isinstance(value, list | dict):
        for entry in value.values() if isinstance(value, dict) else value:
            keep_inside(entry)
    return value
