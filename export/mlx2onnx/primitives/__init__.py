"""Rules that lower MLX primitives, one file a family."""

from mlx2onnx.primitives import (
    complex,
    elementwise,
    indexing,
    matmul,
    quantized,
    reduction,
    shaping,
    windows,
)
from mlx2onnx.primitives.registry import RULES, Rule, Unsupported, primitive

__all__ = ["RULES", "Rule", "Unsupported", "primitive"]
