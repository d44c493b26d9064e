"""mlxfunc: Keras's functional API on MLX, and a proven way to ONNX."""

from . import _blas

# isort: split
# The BLAS must be there before MLX is.
from . import (
    activations,
    callbacks,
    constraints,
    datasets,
    initializers,
    layers,
    losses,
    metrics,
    models,
    ops,
    optimizers,
    regularizers,
    saving,
    schedules,
    utils,
)
from .graph import SymbolicTensor, clear_session
from .layer import Input, Layer
from .model import Model, Sequential
