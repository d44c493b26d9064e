"""Rules that lower layers, one file a family: the mirror of `mlxfunc.layers`."""

from mlx2onnx.layers import (
    activation,
    convolution,
    core,
    merging,
    normalization,
    pooling,
    recurrent,
    regularization,
    reshaping,
    wrappers,
)
from mlx2onnx.layers.registry import MASK_RULES, RULES, mask_rule, rule

__all__ = ["MASK_RULES", "RULES", "mask_rule", "rule"]
__all__ += ["activation", "convolution", "core", "merging", "normalization", "pooling"]
__all__ += ["recurrent", "regularization", "reshaping", "wrappers"]
