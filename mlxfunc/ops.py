"""The array functions of `mlx.core`, on arrays as on symbolic tensors: `ops.mean(x, axis=1)`.

Source: https://ml-explore.github.io/mlx/build/html/python/ops.html
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from .bounds import BOUNDED
from .graph import SymbolicTensor, symbols, unique_name
from .layer import LAYERS, Layer, as_array
from .registry import is_by_reference, suggest

# What a saved model may name: functions that compute from the arrays they are given, and stay
# inside them. The names are written down, so that a new one of MLX's is looked at first.
_IN_FILES = """
    abs acos acosh add arccos arccosh arcsin arcsinh arctan arctan2 arctanh asin asinh atan atan2
    atanh ceil conj conjugate cos cosh degrees divide divmod erf erfinv exp expm1 floor floor_divide
    imag log log10 log1p log2 logaddexp maximum minimum multiply nan_to_num negative positive pow
    power radians real reciprocal remainder round rsqrt sigmoid sign sin sinh sqrt square subtract
    tan tanh trunc

    allclose array_equal bitwise_and bitwise_invert bitwise_left_shift bitwise_or
    bitwise_right_shift bitwise_xor equal greater greater_equal isclose isfinite isinf isnan
    isneginf isposinf left_shift less less_equal logical_and logical_not logical_or logical_xor
    not_equal right_shift where

    all any argmax argmin count_nonzero cummax cummin cumprod cumsum cumulative_prod cumulative_sum
    diff logcumsumexp logsumexp matrix_norm max mean median min minmax prod softmax std sum var

    addmm block_masked_mm einsum hadamard_transform inner kron matmul outer quantized_matmul
    tensordot trace vecdot

    conv1d conv2d conv3d conv_general conv_transpose1d conv_transpose2d conv_transpose3d convolve

    argpartition argsort partition searchsorted sort topk

    astype broadcast_arrays broadcast_to clip concat concatenate contiguous diagonal expand_dims
    flatten flip full_like getitem matrix_transpose meshgrid moveaxis ones_like pad permute_dims
    put_along_axis repeat reshape roll slice slice_update split squeeze stack stop_gradient swapaxes
    take take_along_axis tile transpose tril triu unflatten unstack view zeros_like
"""

# The rest of what users may call. Most make arrays of a size that is a plain number.
_NOT_IN_FILES = """
    arange as_strided asarray blackman dequantize diag empty empty_like eye from_dlpack from_fp8
    full gather_mm gather_qmm gather_qqmm hamming identity linspace ones qqmm quantize segmented_mm
    to_fp8 tri zeros
"""
# What only moves values: ids that were given are such ids afterwards.
_MOVES = """
    broadcast_to concat concatenate contiguous diagonal expand_dims flatten flip getitem
    matrix_transpose moveaxis permute_dims repeat reshape roll split squeeze stack stop_gradient
    swapaxes take take_along_axis tile transpose unflatten unstack
"""
MOVES = frozenset(_MOVES.split())
IN_FILES, NOT_IN_FILES = frozenset(_IN_FILES.split()), frozenset(_NOT_IN_FILES.split())


@functools.cache
def functions() -> dict[str, Callable]:
    """Every function here by name: those of `mlx.core`, held inside their arrays by `bounds`.

    None of them reads or writes files.
    """
    return {
        name: BOUNDED.get(name) or getattr(mx, name)
        for name in sorted(IN_FILES | NOT_IN_FILES)
        if name in BOUNDED or hasattr(mx, name)
    }


class Operation(Layer):
    """A node that calls one function of this module, with the node's own arguments.

    Raises: ValueError for an unknown one, and from `get_config` for one that files may not name.
    """

    def __init__(self, function: str, name: str | None = None) -> None:
        if not isinstance(function, str) or function not in functions():
            raise ValueError(
                f"unknown operation {function!r}.{suggest(str(function), functions())}"
            )
        super().__init__(name=name or unique_name(function))
        self.function = function

    @property
    def moves_values(self) -> bool:  # type: ignore[override]
        return self.function in MOVES

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return functions()[self.function](*args, **kwargs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """Masks end at functions without a word, as in Keras: layers pass them on."""

    def get_config(self) -> dict[str, Any]:
        _check_in_files(self.name, self.function)
        return super().get_config()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        _check_in_files(config.get("name") or cls.__name__, config.get("function"))
        return super().from_config(config)


def _check_in_files(layer: str, function: Any) -> None:
    if isinstance(function, str) and function in NOT_IN_FILES and not is_by_reference():
        raise ValueError(
            f"{layer}: expected an operation that a file may name, got {function!r}. "
            "Call it in a Layer of your own."
        )


def _accepting_symbols(name: str) -> Callable:
    function = functions()[name]

    @functools.wraps(function)
    def operation(*args: Any, **kwargs: Any) -> Any:
        if symbols((args, kwargs)):
            return Operation(name)(*args, **kwargs)
        return function(*tree_map(as_array, args), **tree_map(as_array, kwargs))

    return operation


def __getattr__(name: str) -> Callable:
    if name.startswith("_") or name not in functions():
        raise AttributeError(f"unknown operation {name!r}.{suggest(name, functions())}")
    globals()[name] = _accepting_symbols(name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted(functions())


def _method(name: str, reflected: bool = False) -> Callable:
    def method(self: SymbolicTensor, *other: Any) -> Any:
        return _accepting_symbols(name)(*((*other, self) if reflected else (self, *other)))

    return method


for _symbol, _name in {
    **{"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide"},
    **{"floordiv": "floor_divide", "mod": "remainder", "pow": "power", "matmul": "matmul"},
    **{"and": "logical_and", "or": "logical_or", "xor": "logical_xor"},
}.items():
    setattr(SymbolicTensor, f"__{_symbol}__", _method(_name))
    setattr(SymbolicTensor, f"__r{_symbol}__", _method(_name, reflected=True))
for _symbol, _name in {
    **{"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"},
    **{"ne": "not_equal", "neg": "negative", "abs": "abs", "invert": "logical_not"},
    **{"getitem": "getitem", "round": "round"},
}.items():
    setattr(SymbolicTensor, f"__{_symbol}__", _method(_name))
for _name in ("reshape", "squeeze"):
    setattr(SymbolicTensor, _name, _method(_name))

LAYERS.register(Operation)
