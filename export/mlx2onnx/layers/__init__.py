"""Rules that lower layers, one file a family: the mirror of `mlxfunc.layers`."""

from mlx2onnx.layers import activation, core, merging, recurrent, wrappers
from mlx2onnx.layers.registry import MASK_RULES, RULES, mask_rule, rule

__all__ = ["MASK_RULES", "RULES", "mask_rule", "rule"]
__all__ += ["activation", "core", "merging", "recurrent", "wrappers"]
