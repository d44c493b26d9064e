"""Optimizers that keep moving averages of the gradient: SGD and the family of Adam.

Formulas: w a parameter, g its gradient, r the rate, t the step from 1.

Source: https://keras.io/api/optimizers/
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .base import EPSILON, A, Optimizer, State, lerp, zeros


class SGD(Optimizer):
    """m = momentum m - r g; w = w + m, or with `nesterov` w + momentum m - r g."""

    def __init__(
        self,
        learning_rate: Any = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **options: Any,
    ) -> None:
        if not 0 <= momentum <= 1:
            raise ValueError(f"SGD: expected momentum within [0, 1], got {momentum}.")
        super().__init__(learning_rate, **options)
        self.momentum, self.nesterov = momentum, nesterov

    def slots(self, path: str, parameter: A) -> State:
        return zeros(parameter, "momentum") if self.momentum else {}

    def update_step(self, gradient: A, parameter: A, state: State, rate: A, step: A) -> A:
        if not self.momentum:
            return parameter - rate * gradient
        m = state["momentum"] = self.momentum * state["momentum"] - rate * gradient
        return parameter + (self.momentum * m - rate * gradient if self.nesterov else m)


class RMSprop(Optimizer):
    """v = rho v + (1 - rho) g^2; w = w - r g / sqrt(v + epsilon).

    `centered` subtracts the square of the gradients' moving average from v; with `momentum`,
    m = momentum m + the step above, and w = w - m. Source: Hinton, 2012
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float | None = EPSILON,
        centered: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.rho, self.momentum, self.centered = rho, momentum, centered
        self.epsilon = EPSILON if epsilon is None else epsilon

    def slots(self, path: str, parameter: A) -> State:
        names = ["velocity"]
        names += ["momentum"] if self.momentum else []
        names += ["average_gradient"] if self.centered else []
        return zeros(parameter, *names)

    def update_step(self, gradient: A, parameter: A, state: State, rate: A, step: A) -> A:
        rho = self.rho
        v = state["velocity"] = rho * state["velocity"] + (1 - rho) * mx.square(gradient)
        if self.centered:
            mean = rho * state["average_gradient"] + (1 - rho) * gradient
            state["average_gradient"] = mean
            v = v - mx.square(mean)
        move = rate * gradient * mx.rsqrt(v + self.epsilon)
        if self.momentum:
            move = state["momentum"] = self.momentum * state["momentum"] + move
        return parameter - move


class Moments(Optimizer):
    """What Adam's family keeps: m and v, moving averages of g and g^2 by beta_1 and beta_2."""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float | None = EPSILON,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, **options)
        self.beta_1, self.beta_2 = beta_1, beta_2
        self.epsilon = EPSILON if epsilon is None else epsilon

    def slots(self, path: str, parameter: A) -> State:
        return zeros(parameter, "momentum", "velocity")

    def moments(self, gradient: A, state: State) -> tuple[A, A]:
        m = state["momentum"] = lerp(state["momentum"], gradient, self.beta_1)
        v = state["velocity"] = lerp(state["velocity"], mx.square(gradient), self.beta_2)
        return m, v


class Adam(Moments):
    """w = w - a m / (sqrt(v) + epsilon), a = r sqrt(1 - beta_2^t) / (1 - beta_1^t).

    `amsgrad` takes the largest v so far. Source: arXiv:1412.6980
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float | None = EPSILON,
        amsgrad: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **options)
        self.amsgrad = amsgrad

    def slots(self, path: str, parameter: A) -> State:
        extra = zeros(parameter, "velocity_hat") if self.amsgrad else {}
        return super().slots(path, parameter) | extra

    def update_step(self, gradient: A, parameter: A, state: State, rate: A, step: A) -> A:
        m, v = self.moments(gradient, state)
        if self.amsgrad:
            v = state["velocity_hat"] = mx.maximum(state["velocity_hat"], v)
        alpha = rate * mx.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        return parameter - alpha * m / (mx.sqrt(v) + self.epsilon)


class AdamW(Adam):
    """Adam with decoupled weight decay, .004 by default. Source: arXiv:1711.05101"""

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float | None = EPSILON,
        amsgrad: bool = False,
        **options: Any,
    ) -> None:
        if weight_decay is None:
            raise ValueError("AdamW: expected weight_decay to be a number, got None. Use Adam.")
        options["weight_decay"] = weight_decay
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, **options)


class Adamax(Moments):
    """u = max(beta_2 u, |g|); w = w - r m / ((1 - beta_1^t) (u + epsilon)).

    Source: arXiv:1412.6980
    """

    def slots(self, path: str, parameter: A) -> State:
        return zeros(parameter, "momentum", "norm")

    def update_step(self, gradient: A, parameter: A, state: State, rate: A, step: A) -> A:
        m = state["momentum"] = lerp(state["momentum"], gradient, self.beta_1)
        u = state["norm"] = mx.maximum(self.beta_2 * state["norm"], mx.abs(gradient))
        return parameter - rate * m / ((1 - self.beta_1**step) * (u + self.epsilon))


class Nadam(Moments):
    """Adam with Nesterov momentum: beta_1 becomes u_t = beta_1 (1 - .96^t / 2) in a schedule.

    With P_t the product of u_1 to u_t, m' = u_(t+1) m / (1 - P_(t+1)) + (1 - u_t) g / (1 - P_t),
    v' = v / (1 - beta_2^t), w = w - r m' / (sqrt(v') + epsilon). Source: Dozat, 2015
    """

    def slots(self, path: str, parameter: A) -> State:
        return super().slots(path, parameter) | {"u_product": mx.array(1.0)}

    def update_step(self, gradient: A, parameter: A, state: State, rate: A, step: A) -> A:
        m, v = self.moments(gradient, state)
        now, after = (self.beta_1 * (1 - 0.5 * 0.96**t) for t in (step, step + 1))
        product = state["u_product"] = state["u_product"] * now
        m = after * m / (1 - product * after) + (1 - now) * gradient / (1 - product)
        v = v / (1 - self.beta_2**step)
        return parameter - rate * m / (mx.sqrt(v) + self.epsilon)


class Lamb(Moments):
    """u = m' / (sqrt(v') + epsilon), both without bias; w = w - r |w| / |u| u.

    The ratio of norms is 1 where one of them is 0. Source: arXiv:1904.00962
    """

    def update_step(self, gradient: A, parameter: A, state: State, rate: A, step: A) -> A:
        m, v = self.moments(gradient, state)
        v = v / (1 - self.beta_2**step)
        update = m / (1 - self.beta_1**step) / (mx.sqrt(v) + self.epsilon)
        norms = [mx.sqrt(mx.sum(mx.square(x))) for x in (parameter, update)]
        apart = (norms[0] > 0) & (norms[1] > 0)
        ratio = mx.where(apart, norms[0] / mx.where(apart, norms[1], 1), 1)
        return parameter - ratio * rate * update


class Lion(Optimizer):
    """w = w - r sign(beta_1 m + (1 - beta_1) g); m = beta_2 m + (1 - beta_2) g.

    Source: arXiv:2302.06675
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        **options: Any,
    ) -> None:
        if not 0 < beta_1 <= 1:
            raise ValueError(f"Lion: expected beta_1 within (0, 1], got {beta_1}.")
        super().__init__(learning_rate, **options)
        self.beta_1, self.beta_2 = beta_1, beta_2

    def slots(self, path: str, parameter: A) -> State:
        return zeros(parameter, "momentum")

    def update_step(self, gradient: A, parameter: A, state: State, rate: A, step: A) -> A:
        m = state["momentum"]
        state["momentum"] = m * self.beta_2 + gradient * (1 - self.beta_2)
        return parameter - rate * mx.sign(m * self.beta_1 + gradient * (1 - self.beta_1))
