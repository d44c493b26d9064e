"""The arguments of `compile`, checked and kept as they were given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ..graph import leaves
from .precision import parse


@dataclass(frozen=True)
class CompileConfig:
    """How to train: everything that `compile` takes but the optimizer, which the model holds.

    Raises: ValueError for arguments that nothing can be made of.
    """

    loss: Any = None
    loss_weights: Any = None
    metrics: Any = None
    weighted_metrics: Any = None
    run_eagerly: bool = False
    steps_per_execution: int = 1
    jit_compile: bool | str = "auto"
    auto_scale_loss: bool = True
    dtype: Any = None

    def __post_init__(self) -> None:
        if self.jit_compile not in (True, False, "auto"):
            raise ValueError(
                f"compile: expected jit_compile True, False or 'auto', got {self.jit_compile!r}."
            )
        steps = self.steps_per_execution
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"compile: expected steps_per_execution of 1 or more, got {steps!r}.")
        self.compute_dtype  # noqa: B018  An unknown dtype is refused here.

    @property
    def objective(self) -> dict[str, Any]:
        """The arguments of Objective."""
        names = ("loss", "loss_weights", "metrics", "weighted_metrics")
        return {name: getattr(self, name) for name in names}

    @property
    def compute_dtype(self) -> mx.Dtype | None:
        """What layers compute in; None is float32, as the weights are."""
        return parse(self.dtype)

    @property
    def scales_loss(self) -> bool:
        """Whether small gradients of float16 are kept from vanishing."""
        half = self.compute_dtype is not None and self.compute_dtype == mx.float16
        return half and self.auto_scale_loss

    @property
    def compiles(self) -> bool | str:
        """Whether steps are compiled: True, False or "auto"."""
        return False if self.run_eagerly else self.jit_compile

    def as_arguments(self) -> dict[str, Any]:
        """compile's arguments, the dtype by its name."""
        dtype = None if self.dtype is None else str(self.dtype).rpartition(".")[2]
        return {**vars(self), "dtype": dtype}


def check_legacy(target_tensors: Any, sample_weight_mode: Any) -> None:
    """Raise ValueError for what scripts written for old Keras may ask for in vain."""
    if target_tensors is not None:
        raise ValueError("compile: target_tensors is not supported. Give y to fit.")
    modes = sample_weight_mode if isinstance(sample_weight_mode, list | dict) else None
    for mode in leaves(modes) if modes else [sample_weight_mode]:
        if mode not in (None, "temporal"):
            raise ValueError(f"compile: expected sample_weight_mode 'temporal', got {mode!r}.")
