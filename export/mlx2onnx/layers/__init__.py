"""Rules that lower layers, one file a family: the mirror of `mlxfunc.layers`."""

from mlx2onnx.layers import (
    activation,
    attention,
    convolution,
    core,
    einsum,
    merging,
    normalization,
    pooling,
    preprocessing,
    recurrent,
    regularization,
    reshaping,
    wrappers,
)
from mlx2onnx.layers.registry import MASK_RULES, RULES, mask_rule, rule

__all__ = ["MASK_RULES", "RULES", "mask_rule", "rule"]
__all__ += ["activation", "attention", "convolution", "core", "einsum", "merging"]
__all__ += ["normalization", "pooling", "preprocessing", "recurrent", "regularization"]
__all__ += ["reshaping", "wrappers"]
