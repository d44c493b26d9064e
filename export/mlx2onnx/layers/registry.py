"""The table of rules: one function a layer class, and one a class whose mask is its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from mlx2onnx.primitives import Unsupported
from mlxfunc.layers import Layer

__all__ = ["MASK_RULES", "RULES", "Rule", "Unsupported", "find", "find_mask", "mask_rule", "rule"]


@dataclass(frozen=True)
class Rule:
    """`lower(g, layer, *args, **kwargs)` takes the call's arguments, Tensors for arrays.

    A rule gets `out` (the specs of the result), `mask` (of the first argument) and `walk` (to
    lower a layer inside) when its signature names them. It returns None for a configuration that
    its function does not cover and that is to be traced; it raises Unsupported for one that ONNX
    cannot express.

    `integers`, and booleans: "keep" them as they are, since it only moves elements; "trace" the
    layer, which computes with them; or, as most do, "cast" them to floats where it returns floats,
    and trace it where it does not.
    """

    lower: Callable[..., Any]
    names: frozenset[str]
    file: str
    integers: Literal["cast", "keep", "trace"] = "cast"


RULES: dict[type, Rule] = {}
MASK_RULES: dict[type, Rule] = {}


def _registrar(
    table: dict[type, Rule], classes: tuple[type, ...], integers: Any = "cast"
) -> Callable[..., Any]:
    def register(lower: Callable[..., Any]) -> Callable[..., Any]:
        names = frozenset(inspect.signature(lower).parameters)
        made = Rule(lower, names, lower.__module__, integers)
        for cls in classes:
            if cls in table:
                raise ValueError(
                    f"{cls.__name__}: expected one rule, got a second, {lower.__name__}."
                )
            table[cls] = made
        return lower

    return register


def rule(*classes: type, integers: Any = "cast") -> Callable[..., Any]:
    """Registers a function as the rule of layer classes; see `Rule`.

    Raises: ValueError when one has a rule already.
    """
    return _registrar(RULES, classes, integers)


def mask_rule(*classes: type) -> Callable[..., Any]:
    """Registers `lower(g, layer, inputs, mask)`, which returns the mask of a layer's output."""
    return _registrar(MASK_RULES, classes)


def _inherited(table: dict[type, Rule], cls: type, method: str) -> Rule | None:
    for parent in cls.__mro__:
        if parent in table and getattr(parent, method) is getattr(cls, method):
            return table[parent]
    return None


def find(layer: Layer) -> Rule | None:
    """The rule of a layer's class, or of a parent whose `call` it has not changed."""
    return _inherited(RULES, type(layer), "call")


def find_mask(layer: Layer) -> Rule | None:
    """The mask rule of a layer's class, or of a parent whose `compute_mask` it has."""
    return _inherited(MASK_RULES, type(layer), "compute_mask")
