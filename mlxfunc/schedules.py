"""Learning rate schedules: `schedule(step) -> rate`, step an int or an array counting from 0.

Source: https://keras.io/api/optimizers/learning_rate_schedules/
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import mlx.core as mx

from .registry import Configurable, Registry

REGISTRY = Registry("schedules")
get, serialize, deserialize = REGISTRY.get, REGISTRY.serialize, REGISTRY.deserialize


class LearningRateSchedule(Configurable):
    """The base of all: subclasses implement `__call__(step)` by pure MLX operations."""

    def __call__(self, step: mx.array | int) -> mx.array:
        raise NotImplementedError(f"{type(self).__name__}: expected a `__call__(step)` method.")


class ExponentialDecay(LearningRateSchedule):
    """r decay_rate^p, p = step / decay_steps, rounded down with `staircase`."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "ExponentialDecay",
    ) -> None:
        _positive(name, "decay_steps", decay_steps)
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.decay_rate, self.staircase, self.name = decay_rate, staircase, name

    def progress(self, step: mx.array | int) -> mx.array:
        p = _float(step) / self.decay_steps
        return mx.floor(p) if self.staircase else p

    def __call__(self, step: mx.array | int) -> mx.array:
        return self.initial_learning_rate * mx.power(self.decay_rate, self.progress(step))


class InverseTimeDecay(ExponentialDecay):
    """r / (1 + decay_rate p), p = step / decay_steps, rounded down with `staircase`."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "InverseTimeDecay",
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps, decay_rate, staircase, name)

    def __call__(self, step: mx.array | int) -> mx.array:
        return self.initial_learning_rate / (1 + self.decay_rate * self.progress(step))


class PiecewiseConstantDecay(LearningRateSchedule):
    """values[i], i the number of boundaries below step: a boundary itself has the value before."""

    def __init__(
        self,
        boundaries: Sequence[float],
        values: Sequence[float],
        name: str = "PiecewiseConstant",
    ) -> None:
        if len(boundaries) != len(values) - 1:
            raise ValueError(
                f"{name}: expected one value more than boundaries, got {len(values)} values "
                f"and {len(boundaries)} boundaries."
            )
        self.boundaries, self.values, self.name = list(boundaries), list(values), name

    def __call__(self, step: mx.array | int) -> mx.array:
        passed = mx.sum(_float(step) > mx.array(self.boundaries, mx.float32))
        return mx.array(self.values, mx.float32)[passed]


class PolynomialDecay(LearningRateSchedule):
    """(r - end) (1 - step / decay_steps)^power + end, then end; with `cycle`, over and over.

    A cycle stretches decay_steps to the next multiple of it that is not below step.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str = "PolynomialDecay",
    ) -> None:
        _positive(name, "decay_steps", decay_steps)
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.end_learning_rate, self.power, self.cycle = end_learning_rate, power, cycle
        self.name = name

    def __call__(self, step: mx.array | int) -> mx.array:
        p = _float(step) / self.decay_steps
        p = p / mx.maximum(mx.ceil(p), 1) if self.cycle else mx.minimum(p, 1)
        span = self.initial_learning_rate - self.end_learning_rate
        return span * mx.power(1 - p, self.power) + self.end_learning_rate


class CosineDecay(LearningRateSchedule):
    """r ((1 - alpha) (1 + cos(pi p)) / 2 + alpha), p = min(step / decay_steps, 1).

    With `warmup_target`, first a straight line from r to it over warmup_steps, then the decay
    from it. Source: arXiv:1608.03983
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        name: str = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        _positive(name, "decay_steps", decay_steps)
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.alpha, self.name = alpha, name
        self.warmup_target, self.warmup_steps = warmup_target, warmup_steps

    def __call__(self, step: mx.array | int) -> mx.array:
        step = _float(step)
        if self.warmup_target is None:
            return self._decayed(self.initial_learning_rate, step)
        part = step / max(self.warmup_steps, 1)
        rise = self.initial_learning_rate + part * (self.warmup_target - self.initial_learning_rate)
        fall = self._decayed(self.warmup_target, step - self.warmup_steps)
        return mx.where(step < self.warmup_steps, rise, fall)

    def _decayed(self, rate: float, step: mx.array) -> mx.array:
        p = mx.minimum(step / self.decay_steps, 1)
        return rate * ((1 - self.alpha) * 0.5 * (1 + mx.cos(math.pi * p)) + self.alpha)


class CosineDecayRestarts(LearningRateSchedule):
    """Cosine decays, each t_mul times as long and starting m_mul times as high as the last one.

    Source: arXiv:1608.03983
    """

    def __init__(
        self,
        initial_learning_rate: float,
        first_decay_steps: int,
        t_mul: float = 2.0,
        m_mul: float = 1.0,
        alpha: float = 0.0,
        name: str = "SGDRDecay",
    ) -> None:
        _positive(name, "first_decay_steps", first_decay_steps)
        self.initial_learning_rate, self.first_decay_steps = (
            initial_learning_rate,
            first_decay_steps,
        )
        self.t_mul, self.m_mul, self.alpha, self.name = t_mul, m_mul, alpha, name

    def __call__(self, step: mx.array | int) -> mx.array:
        p = _float(step) / self.first_decay_steps
        if self.t_mul == 1:
            restart = mx.floor(p)
            p = p - restart
        else:
            restart = mx.floor(mx.log(1 - p * (1 - self.t_mul)) / math.log(self.t_mul))
            length = mx.power(self.t_mul, restart)
            p = (p - (1 - length) / (1 - self.t_mul)) / length
        cosine = 0.5 * mx.power(self.m_mul, restart) * (1 + mx.cos(math.pi * p))
        return self.initial_learning_rate * ((1 - self.alpha) * cosine + self.alpha)


def _float(step: mx.array | int) -> mx.array:
    return mx.array(step).astype(mx.float32)


def _positive(name: str, argument: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name}: expected {argument} above 0, got {value}.")


for _class in (
    *(ExponentialDecay, InverseTimeDecay, PiecewiseConstantDecay, PolynomialDecay),
    *(CosineDecay, CosineDecayRestarts),
):
    REGISTRY.register(_class)
