"""Every layer, and `Input`."""

from ..layer import LAYERS, Input, InputLayer, InputSpec, Layer
from .core import Activation, Dense, Embedding, Identity, Lambda, Masking, MLXLayer
from .merging import (
    Add,
    Average,
    Concatenate,
    Dot,
    Maximum,
    Minimum,
    Multiply,
    Subtract,
    add,
    average,
    concatenate,
    dot,
    maximum,
    minimum,
    multiply,
    subtract,
)

__all__ = [
    *("Activation", "Add", "Average", "Concatenate", "Dense", "Dot", "Embedding", "Identity"),
    *("Input", "InputLayer", "InputSpec", "Lambda", "Layer", "MLXLayer", "Masking", "Maximum"),
    *("Minimum", "Multiply", "Subtract", "add", "average", "concatenate", "dot", "maximum"),
    *("minimum", "multiply", "subtract"),
]

for _name in __all__:
    _object = globals()[_name]
    if isinstance(_object, type) and issubclass(_object, Layer) and _object is not Layer:
        LAYERS.register(_object)
