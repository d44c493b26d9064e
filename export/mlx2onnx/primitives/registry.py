"""The table of rules: one function a primitive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Unsupported(Exception):
    """Raised by a rule for arguments that ONNX has no form for; the text is the reason."""


@dataclass(frozen=True)
class Rule:
    """`lower(g, event, *values)` returns the Value (or Values) of the primitive's outputs.

    An elementwise rule takes operands that broadcast to the output's shape; any other rule gets
    operands of their full shapes. A lazy rule gets none and asks `event.context` for them.
    """

    lower: Callable[..., Any]
    elementwise: bool
    lazy: bool
    file: str


RULES: dict[str, Rule] = {}


def primitive(*names: str, elementwise: bool = False, lazy: bool = False) -> Callable[..., Any]:
    """Registers a function as the rule of MLX primitives.

    Raises: ValueError when one has a rule already.
    """

    def register(lower: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            if name in RULES:
                raise ValueError(f"{name}: expected one rule, got a second, {lower.__name__}.")
            RULES[name] = Rule(lower, elementwise, lazy, lower.__module__)
        return lower

    return register
