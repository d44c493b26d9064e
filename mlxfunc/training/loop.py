"""fit, evaluate, predict."""

from __future__ import annotations

from typing import Any


class Trainer:
    """compile, fit, evaluate, predict. `compiled`, `compile_config` and
    `compile_from_config` are what saving.py uses, with `optimizer.state`.
    """

    compiled = False
    optimizer: Any = None

    def compile_config(self) -> dict[str, Any]:
        """The arguments of `compile`, serializable."""
        raise NotImplementedError

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """`compile` again from `compile_config()`."""
        raise NotImplementedError
