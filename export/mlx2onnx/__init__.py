"""mlx2onnx: MLX models to ONNX, proven in ONNX Runtime.

`to_onnx(model, "model.onnx")` takes an mlxfunc Model, an `mlx.nn.Module` or a function of arrays.
"""

from mlx2onnx.api import to_onnx
from mlx2onnx.convert import UnsupportedLayers
from mlx2onnx.endpoints import endpoint, with_outputs
from mlx2onnx.inspect import Contents, inspect
from mlx2onnx.quantize import Quantized, quantize
from mlx2onnx.report import Report, VerificationError
from mlx2onnx.trace import UnsupportedPrimitives
from mlx2onnx.verify import verify

__all__ = [
    "Contents",
    "Quantized",
    "Report",
    "UnsupportedLayers",
    "UnsupportedPrimitives",
    "VerificationError",
    "endpoint",
    "inspect",
    "quantize",
    "to_onnx",
    "verify",
    "with_outputs",
]
