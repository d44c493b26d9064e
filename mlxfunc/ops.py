"""The array functions of `mlx.core`, on arrays as on symbolic tensors: `ops.mean(x, axis=1)`.

Source: https://ml-explore.github.io/mlx/build/html/python/ops.html
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map

from .graph import SymbolicTensor, symbols, unique_name
from .layer import LAYERS, Layer, as_array
from .registry import suggest


def getitem(x: mx.array, key: Any) -> mx.array:
    """x[key]"""
    return x[key]


@functools.cache
def functions() -> dict[str, Callable]:
    """Every function here by name: those of `mlx.core` whose signature returns arrays.

    Nothing that reads or writes files is among them, so a saved model may name any of these.
    """
    found = {name: getattr(mx, name) for name in dir(mx) if not name.startswith("_")}
    returns_arrays = re.compile(r".*-> (array|list\[array\]|tuple\[array.*\])$")
    return {"getitem": getitem} | {
        name: function
        for name, function in found.items()
        if callable(function)
        and returns_arrays.match((function.__doc__ or "").strip().partition("\n")[0])
    }


class Operation(Layer):
    """A node that calls one function of this module, with the node's own arguments."""

    def __init__(self, function: str, name: str | None = None) -> None:
        if function not in functions():
            raise ValueError(f"unknown operation {function!r}.{suggest(function, functions())}")
        super().__init__(name=name or unique_name(function))
        self.function = function

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return functions()[self.function](*args, **kwargs)


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
