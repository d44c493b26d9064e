"""Inference mode for an export, and each module's own mode afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.nn as nn


def module_of(source: Any) -> nn.Module | None:
    """The module that a source is, or whose method it is."""
    owner = source if isinstance(source, nn.Module) else getattr(source, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


@contextmanager
def evaluating(source: Any) -> Iterator[None]:
    """Puts a module in inference mode; each of its submodules gets its own mode back."""
    module = module_of(source)
    modes = [] if module is None else [(m, m.training) for m in module.modules()]
    try:
        if module is not None:
            module.eval()
        yield
    finally:
        # A module comes before those in it, whose modes it sets too.
        for each, training in modes:
            each.train(training)
