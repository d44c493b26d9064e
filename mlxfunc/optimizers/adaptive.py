"""Optimizers that scale each parameter's rate by the gradients it has seen.

Formulas: w a parameter, g its gradient, r the rate, t the step from 1.
Source: https://keras.io/api/optimizers/
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .base import EPSILON, A, Optimizer, State, zeros


class Adagrad(Optimizer):
    """a = a + g^2, from initial_accumulator_value; w = w - r g / sqrt(a + epsilon).

    Source: Duchi et al., 2011
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float | None = EPSILON,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.initial_accumulator_value = initial_accumulator_value
        self.epsilon = EPSILON if epsilon is None else epsilon

    def slots(self, path: str, parameter: A) -> State:
        return {"sum_of_squares": mx.full(parameter.shape, float(self.initial_accumulator_value))}

    def update_step(self, gradient: A, parameter: A, state: State, rate: A, step: A) -> A:
        a = state["sum_of_squares"] = state["sum_of_squares"] + mx.square(gradient)
        return parameter - rate * gradient * mx.rsqrt(a + self.epsilon)


class Adadelta(Optimizer):
    """d = -g sqrt(D + epsilon) / sqrt(G + epsilon); w = w + r d.

    G and D are moving averages, by rho, of g^2 and of d^2. Source: arXiv:1212.5701
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.95,
        epsilon: float | None = EPSILON,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.rho = rho
        self.epsilon = EPSILON if epsilon is None else epsilon

    def slots(self, path: str, parameter: A) -> State:
        return zeros(parameter, "squared_gradient", "squared_delta")

    def update_step(self, gradient: A, parameter: A, state: State, rate: A, step: A) -> A:
        rho, deltas = self.rho, state["squared_delta"]
        g = rho * state["squared_gradient"] + (1 - rho) * mx.square(gradient)
        delta = -gradient * mx.sqrt(deltas + self.epsilon) * mx.rsqrt(g + self.epsilon)
        state["squared_gradient"] = g
        state["squared_delta"] = rho * deltas + (1 - rho) * mx.square(delta)
        return parameter + rate * delta


class Adafactor(Optimizer):
    """Adam's second moment from the means of g^2 over rows and columns only.

    With b = 1 - t^beta_2_decay, r_t and c_t are moving averages by b of the means of
    g^2 + epsilon_1 over the last axis and the one before, v = r_t c_t / mean(r_t), u = g / sqrt(v)
    divided by max(1, rms(u) / clip_threshold), and
    w = w - max(epsilon_2, rms(w)) min(r, 1 / sqrt(t)) u. Vectors keep v itself.
    The axes are those of Keras's layout. Source: arXiv:1804.04235
    """

    needs_keras_layout = True

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_2_decay: float = -0.8,
        epsilon_1: float = 1e-30,
        epsilon_2: float = 0.001,
        clip_threshold: float = 1.0,
        relative_step: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.beta_2_decay, self.clip_threshold = beta_2_decay, clip_threshold
        self.epsilon_1, self.epsilon_2 = epsilon_1, epsilon_2
        self.relative_step = relative_step

    def slots(self, path: str, parameter: A) -> State:
        if parameter.ndim < 2:
            return zeros(parameter, "velocity")
        shape = parameter.shape
        return {"rows": mx.zeros(shape[:-1]), "columns": mx.zeros((*shape[:-2], shape[-1]))}

    def update_step(self, gradient: A, parameter: A, state: State, rate: A, step: A) -> A:
        keep = 1 - mx.power(step, self.beta_2_decay)
        square = mx.square(gradient) + self.epsilon_1
        if parameter.ndim < 2:
            v = state["velocity"] = keep * state["velocity"] + (1 - keep) * square
        else:
            r = state["rows"] = keep * state["rows"] + (1 - keep) * mx.mean(square, axis=-1)
            c = state["columns"] = keep * state["columns"] + (1 - keep) * mx.mean(square, axis=-2)
            v = (r / mx.mean(r, axis=-1, keepdims=True))[..., None] * c[..., None, :]
        u = gradient * mx.rsqrt(v)
        u = u / mx.maximum(1, _rms(u) / self.clip_threshold)
        size = mx.maximum(self.epsilon_2, _rms(parameter))
        return parameter - size * mx.minimum(rate, mx.rsqrt(step)) * u


class Ftrl(Optimizer):
    """Follow the regularized leader: sparse weights by l1.

    With p = -learning_rate_power, n' = n + g^2 and s = (n'^p - n^p) / r:
    z = z + g + 2 shrinkage w - s w, w = (clip(z, -l1, l1) - z) / (n'^p / r + 2 l2 + beta / r).
    Source: McMahan et al., 2013
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        learning_rate_power: float = -0.5,
        initial_accumulator_value: float = 0.1,
        l1_regularization_strength: float = 0.0,
        l2_regularization_strength: float = 0.0,
        l2_shrinkage_regularization_strength: float = 0.0,
        beta: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.learning_rate_power = learning_rate_power
        self.initial_accumulator_value = initial_accumulator_value
        self.l1_regularization_strength = l1_regularization_strength
        self.l2_regularization_strength = l2_regularization_strength
        self.l2_shrinkage_regularization_strength = l2_shrinkage_regularization_strength
        self.beta = beta
        if learning_rate_power > 0:
            raise ValueError(
                f"Ftrl: expected learning_rate_power of at most 0, got {learning_rate_power}."
            )
        for name, value in vars(self).items():
            if name.startswith(("initial_accumulator", "l1_", "l2_")) and value < 0:
                raise ValueError(f"Ftrl: expected {name} of at least 0, got {value}.")

    def slots(self, path: str, parameter: A) -> State:
        start = mx.full(parameter.shape, float(self.initial_accumulator_value))
        return {"sum_of_squares": start, **zeros(parameter, "linear")}

    def update_step(self, gradient: A, parameter: A, state: State, rate: A, step: A) -> A:
        old, l1 = state["sum_of_squares"], self.l1_regularization_strength
        new = state["sum_of_squares"] = old + mx.square(gradient)
        powers = [mx.power(n, -self.learning_rate_power) / rate for n in (new, old)]
        pull = gradient + 2 * self.l2_shrinkage_regularization_strength * parameter
        z = state["linear"] = state["linear"] + pull - (powers[0] - powers[1]) * parameter
        scale = powers[0] + 2 * self.l2_regularization_strength + self.beta / rate
        return (mx.clip(z, -l1, l1) - z) / scale


def _rms(x: A) -> A:
    return mx.sqrt(mx.mean(mx.square(x)))
