"""mlxfunc: Keras's functional API on MLX, and a proven way to ONNX."""

from . import _blas  # noqa: F401  (before MLX is loaded)

from . import activations, constraints, initializers, layers, models, ops, regularizers
from .graph import SymbolicTensor, clear_session
from .layer import Input, Layer
from .model import Model, Sequential
