"""Muon: momentum made orthogonal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from .base import EPSILON, A, Optimizer, State, lerp, zeros


class Muon(Optimizer):
    """Steps along an orthogonal matrix for matrices; Adam for everything else.

    m = momentum m + g; x = g + momentum m (`nesterov`) or m, divided by its norm; ns_steps times
    x = a x + (b x x' + c (x x')^2) x; then w = w - r rms_rate sqrt(max(shape)) x.
    Embeddings (`exclude_embeddings`) and parameters in whose name or path a pattern of
    `exclude_layers` is found use Adam, at rate r adam_lr_ratio, and adam_weight_decay.
    Source: https://kellerjordan.github.io/posts/muon/
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        adam_beta_1: float = 0.9,
        adam_beta_2: float = 0.999,
        adam_weight_decay: float | None = 0.004,
        epsilon: float | None = EPSILON,
        weight_decay: float | None = 0.004,
        *,
        exclude_layers: Sequence[str] | None = None,
        exclude_embeddings: bool = True,
        muon_a: float = 3.4445,
        muon_b: float = -4.775,
        muon_c: float = 2.0315,
        adam_lr_ratio: float = 1,
        momentum: float = 0.95,
        ns_steps: int = 5,
        nesterov: bool = True,
        rms_rate: float | None = 0.2,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, weight_decay=weight_decay, **options)
        self.adam_beta_1, self.adam_beta_2 = adam_beta_1, adam_beta_2
        self.adam_weight_decay, self.adam_lr_ratio = adam_weight_decay, adam_lr_ratio
        self.epsilon = EPSILON if epsilon is None else epsilon
        self.exclude_layers = list(exclude_layers or ())
        self.exclude_embeddings = exclude_embeddings
        self.muon_a, self.muon_b, self.muon_c = muon_a, muon_b, muon_c
        self.momentum, self.ns_steps, self.nesterov = momentum, ns_steps, nesterov
        self.rms_rate = rms_rate

    def slots(self, path: str, parameter: A) -> State:
        names = ("momentum", "velocity") if self._uses_adam(path, parameter) else ("momentum",)
        return zeros(parameter, *names)

    def _uses_adam(self, path: str, parameter: A) -> bool:
        name = f"{path} {self.names.get(path, '')}"
        patterns = [*self.exclude_layers, *(["(?i)embedding"] if self.exclude_embeddings else [])]
        return parameter.ndim != 2 or any(re.search(pattern, name) for pattern in patterns)

    def _weight_decay_of(self, state: State) -> float | None:
        return self.adam_weight_decay if "velocity" in state else self.weight_decay

    def update_step(self, gradient: A, parameter: A, state: State, rate: A, step: A) -> A:
        if "velocity" in state:
            return self._adam_step(gradient, parameter, state, rate * self.adam_lr_ratio, step)
        m = state["momentum"] = self.momentum * state["momentum"] + gradient
        x = self._orthogonal(gradient + self.momentum * m if self.nesterov else m)
        scale = 1 if self.rms_rate is None else self.rms_rate * max(parameter.shape) ** 0.5
        return parameter - rate * scale * x

    def _orthogonal(self, x: A) -> A:
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        x = x / (mx.linalg.norm(x) + EPSILON)
        for _ in range(self.ns_steps):
            square = x @ x.T
            x = self.muon_a * x + (self.muon_b * square + self.muon_c * square @ square) @ x
        return x.T if tall else x

    def _adam_step(self, gradient: A, parameter: A, state: State, rate: A, step: A) -> A:
        m = state["momentum"] = lerp(state["momentum"], gradient, self.adam_beta_1)
        v = state["velocity"] = lerp(state["velocity"], mx.square(gradient), self.adam_beta_2)
        alpha = rate * mx.sqrt(1 - self.adam_beta_2**step) / (1 - self.adam_beta_1**step)
        return parameter - alpha * m / (mx.sqrt(v) + self.epsilon)
