"""The structure of an `mlx.nn.Module` as JSON, and back.

What a module is made of: its class, its plain attributes, its arrays and the modules in it.
Classes are those of `mlx.nn` in `CLASSES`, registered ones and `custom_objects`; functions are
activations of `mlx.nn`, and operations that a file may name. Nothing is imported by name and no
constructor runs.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from .graph import as_dtype, dtype_name
from .layer import LAYERS
from .ops import IN_FILES, functions
from .registry import serialize

# Written down, so that a new one of MLX's is looked at first. Those that need several machines
# are not among them.
_CLASSES = """
    ALiBi AvgPool1d AvgPool2d AvgPool3d BatchNorm Bilinear CELU Conv1d Conv2d Conv3d
    ConvTranspose1d ConvTranspose2d ConvTranspose3d Dropout Dropout2d Dropout3d ELU Embedding GELU
    GLU GRU GroupNorm HardShrink HardTanh Hardswish Identity InstanceNorm LSTM LayerNorm LeakyReLU
    Linear LogSigmoid LogSoftmax MaxPool1d MaxPool2d MaxPool3d Mish Module MultiHeadAttention PReLU
    QQLinear QuantizedEmbedding QuantizedLinear RMSNorm RNN ReLU ReLU2 ReLU6 RoPE SELU Sequential
    SiLU Sigmoid SinusoidalPositionalEncoding Softmax Softmin Softplus Softshrink Softsign Step Tanh
    Transformer TransformerDecoder TransformerDecoderLayer TransformerEncoder
    TransformerEncoderLayer Upsample
"""
_ACTIVATIONS = """
    celu elu gelu gelu_approx gelu_fast_approx glu hard_shrink hard_tanh hardswish leaky_relu
    log_sigmoid log_softmax mish prelu relu relu2 relu6 selu sigmoid silu softmax softmin softplus
    softshrink softsign step tanh
"""
CLASSES, ACTIVATIONS = _CLASSES.split(), _ACTIVATIONS.split()


def describe(module: nn.Module) -> dict[str, Any]:
    """The module without the values of its parameters."""
    return {
        "module": type(module).__name__,
        "members": {key: _describe(value, key) for key, value in module.items()},
        "attributes": {key: _describe(value, key) for key, value in vars(module).items()},
    }


def rebuild(description: dict[str, Any]) -> nn.Module:
    """A module of that structure; its parameters are zeros until weights are loaded."""
    name = description["module"]
    cls = _classes().get(name) or LAYERS.lookup(name)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ValueError(f"MLXLayer: expected the name of a module, got {name!r}.")
    module = cls.__new__(cls)
    for key, value in description["attributes"].items():
        object.__setattr__(module, key, _rebuild(value))
    for key, value in description["members"].items():
        module[key] = _rebuild(value)
    return module


def _describe(value: Any, key: str) -> Any:
    if isinstance(value, mx.array):
        # Parameters are saved with the weights; private arrays only here.
        values = {"values": value.tolist()} if key.startswith("_") else {}
        return {"array": list(value.shape), "dtype": dtype_name(value.dtype), **values}
    if isinstance(value, nn.Module):
        return describe(value)
    if isinstance(value, dict):
        return {"dict": {k: _describe(v, str(k)) for k, v in value.items()}}
    if isinstance(value, list):
        return [_describe(item, key) for item in value]
    if isinstance(value, tuple | set):
        kind = "set" if isinstance(value, set) else "tuple"
        return {kind: [_describe(item, key) for item in value]}
    if isinstance(value, mx.Dtype):
        return {"dtype": dtype_name(value)}
    if callable(value):
        known = [name for name, function in _functions().items() if function is value]
        return {"function": known[0]} if known else {"registered": serialize(value)}
    return serialize(value)


def _rebuild(value: Any) -> Any:
    if isinstance(value, list):
        return [_rebuild(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "module" in value:
        return rebuild(value)
    if "array" in value:
        kind = as_dtype(value["dtype"])
        if "values" in value:
            return mx.array(value["values"], dtype=kind).reshape(value["array"])
        return mx.zeros(value["array"], kind)
    if "dtype" in value:
        return as_dtype(value["dtype"])
    if "function" in value:
        return _functions()[value["function"]]
    if "registered" in value:
        return LAYERS.lookup(value["registered"])
    if "dict" in value:
        return {key: _rebuild(item) for key, item in value["dict"].items()}
    (kind_name, items), *_ = value.items()
    return {"tuple": tuple, "set": set}[kind_name](_rebuild(item) for item in items)


def _classes() -> dict[str, type]:
    """The classes of `mlx.nn` that a file may name."""
    return {name: getattr(nn, name) for name in CLASSES if hasattr(nn, name)}


def _functions() -> dict[str, Any]:
    """The functions that a module's attribute may be: they only compute."""
    return {f"nn.{name}": getattr(nn, name) for name in ACTIVATIONS if hasattr(nn, name)} | {
        f"mx.{name}": function for name, function in functions().items() if name in IN_FILES
    }
