"""Optimizer: what all have in common, around the update of one parameter."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.optimizers
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_map_with_path

from .. import schedules
from ..registry import Registry, constructor_arguments, serialize, snake_case

REGISTRY = Registry("optimizers")
EPSILON = 1e-7
A = mx.array
_SCALARS = ("step", "learning_rate")
State = dict[str, mx.array]


class Optimizer(mlx.optimizers.Optimizer):
    """Moves parameters against their gradients, in `mlx.optimizers`' interface.

    A subclass writes `slots`, the arrays it keeps for a parameter, and `update_step`. In each
    step, in this order: gradients are divided by `loss_scale_factor`, averaged over
    `gradient_accumulation_steps` steps, clipped; the parameter is decayed by
    `weight_decay * rate * parameter`, updated, and averaged. All of it is float32.

    Args:
        learning_rate: a number or a schedule, a function of the step, from 0. A function without
            arguments gives a number when a step is traced.
        weight_decay: the decoupled kind, for every parameter that is not excluded.
        clipnorm, clipvalue, global_clipnorm: the largest norm of a gradient, value in it, norm
            of all gradients together. At most one of them.
        use_ema: keep a moving average of the parameters, `ema_momentum` of it at each step, from
            the parameters on. It replaces them every `ema_overwrite_frequency` steps, and at the
            end of a training in which there was a step.
        loss_scale_factor: what `scale_loss` multiplies the loss with.
        gradient_accumulation_steps: gradients that are averaged for one update, 2 or more.
        lr: the old name of learning_rate.
        decay: the old inverse-time decay, rate / (1 + decay * step).
    Raises: ValueError for arguments out of range or that exclude each other.
    Source: https://keras.io/api/optimizers/
    """

    needs_keras_layout = False

    def __init__(
        self,
        learning_rate: float | Callable[[mx.array], mx.array] = 0.001,
        *,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        lr: float | None = None,
        decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.name = name or snake_case(type(self).__name__)
        self.weight_decay = weight_decay
        self.clipnorm, self.clipvalue = clipnorm, clipvalue
        self.global_clipnorm = global_clipnorm
        self.use_ema, self.ema_momentum = use_ema, ema_momentum
        self.ema_overwrite_frequency = ema_overwrite_frequency
        self.loss_scale_factor = loss_scale_factor
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.decay = decay
        # What a model may tell about its parameters, by path: how Keras's layout leads to MLX's,
        # and names. Both matter to few optimizers.
        self.layouts: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self._excluded: re.Pattern[str] | None = None
        self._first_step: mx.array | None = None
        self.learning_rate = learning_rate if lr is None else lr
        self._check()

    def _check(self) -> None:
        clips = {n: getattr(self, n) for n in ("clipnorm", "clipvalue", "global_clipnorm")}
        given = {n: value for n, value in clips.items() if value is not None}
        if len(given) > 1:
            text = ", ".join(f"{n}={value}" for n, value in given.items())
            raise ValueError(f"{self.name}: expected at most one way of clipping, got {text}.")
        if self.use_ema and not 0 <= self.ema_momentum <= 1:
            raise ValueError(
                f"{self.name}: expected ema_momentum within [0, 1], got {self.ema_momentum}."
            )
        for argument, least in (("ema_overwrite_frequency", 1), ("gradient_accumulation_steps", 2)):
            value = getattr(self, argument)
            if value is not None and (not isinstance(value, int) or value < least):
                raise ValueError(
                    f"{self.name}: expected {argument} to be an int of at least {least}, "
                    f"got {value!r}."
                )

    def slots(self, path: str, parameter: mx.array) -> State:
        """The arrays to keep for a parameter, as they are before the first step."""
        return {}

    def update_step(
        self,
        gradient: mx.array,
        parameter: mx.array,
        state: State,
        rate: mx.array,
        step: mx.array,
    ) -> mx.array:
        """The parameter after an update, the `step`-th from 1; entries of `state` are replaced."""
        raise NotImplementedError(f"{self.name}: expected an `update_step` method.")

    @property
    def learning_rate(self) -> mx.array:
        """The rate of the next step, before the old `decay`. May be assigned between steps."""
        schedule = self._schedulers.get("learning_rate")
        return self.state["learning_rate"] if schedule is None else schedule(self.step)

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        if callable(value):
            value = value if _takes_step(value) else _Constant(value)
            self._schedulers["learning_rate"] = value
            self._set_rate(value(self.step))
            return
        if "learning_rate" in self._schedulers:
            raise TypeError(
                f"{self.name}: expected to keep its schedule, got the learning rate {value}. "
                "Give the optimizer a number as learning_rate to be able to change it."
            )
        if isinstance(value, str) or np.ndim(value):
            raise TypeError(
                f"{self.name}: expected learning_rate to be a number or a schedule, got {value!r}."
            )
        self._set_rate(value)

    def _set_rate(self, value: Any) -> None:
        self.state["learning_rate"] = rate = mx.array(value).astype(mx.float32)
        mx.eval(rate)

    lr = learning_rate

    @property
    def iterations(self) -> mx.array:
        """The number of updates so far."""
        return self.step // (self.gradient_accumulation_steps or 1)

    def exclude_from_weight_decay(self, var_names: Iterable[str]) -> None:
        """Leave out parameters in whose name or path one of these patterns is found.

        Where we differ from Keras: parameters are told by name only (`["bias"]`).
        """
        self._excluded = re.compile("|".join(f"(?:{pattern})" for pattern in var_names))

    def scale_loss(self, loss: mx.array) -> mx.array:
        """The loss to differentiate."""
        return loss if self.loss_scale_factor is None else loss * self.loss_scale_factor

    def init(self, parameters: dict) -> None:
        """Make the state for these parameters where there is none yet."""
        self._add_state(parameters)
        mx.eval(self.state)

    def _add_state(self, parameters: dict) -> None:
        late = len(tree_flatten(self.state)) > len(_SCALARS)
        super().init(parameters)
        tree_map_with_path(partial(self._init_slots, late), parameters, self.state)

    def begin(self) -> None:
        """Say that training begins: `finalize_variable_values` does nothing before a step."""
        self._first_step = self.step

    def init_single(self, parameter: mx.array, state: State) -> None:
        # `init` fills the state: what is kept may depend on the parameter's path.
        pass

    def _init_slots(self, late: bool, path: str, parameter: mx.array, state: State) -> None:
        if state:
            return
        parameter = self._to_keras(path, parameter)
        state.update(self.slots(path, parameter))
        if self.use_ema:
            state["average"] = parameter.astype(mx.float32)
        if self.gradient_accumulation_steps:
            state["accumulator"] = mx.zeros(parameter.shape)
        if late and state:
            # What was frozen so far begins with a first step of its own.
            state["start"] = self.iterations

    def apply_gradients(self, gradients: dict, parameters: dict) -> dict:
        """The parameters after a step: a tree like `gradients`, of which they may be a superset."""
        if not self._initialized:
            self._add_state(tree_map(lambda _, parameter: parameter, gradients, parameters))
        schedule = self._schedulers.get("learning_rate")
        if schedule is not None:
            self.state["learning_rate"] = mx.array(schedule(self.step)).astype(mx.float32)
        rate = self.state["learning_rate"]
        if self.decay:
            rate = rate / (1 + self.decay * self.step.astype(mx.float32))
        gradients = tree_map_with_path(self._prepare, gradients)
        due, every = None, self.gradient_accumulation_steps
        if every:
            due = (self.step + 1) % every == 0
            gradients = tree_map(partial(_accumulate, due, every), gradients, self.state)
        gradients = self._clip(gradients)
        apply = partial(self._apply, rate, self.iterations, due)
        updated = tree_map_with_path(apply, gradients, parameters, self.state)
        self.state["step"] = self.step + 1
        return updated

    def _prepare(self, path: str, gradient: mx.array) -> mx.array:
        gradient = self._to_keras(path, gradient).astype(mx.float32)
        return gradient if self.loss_scale_factor is None else gradient / self.loss_scale_factor

    def _clip(self, gradients: dict) -> dict:
        if limit := self.clipvalue:
            return tree_map(lambda g, c=limit: mx.clip(g, -c, c), gradients)
        if limit := self.clipnorm:
            return tree_map(lambda g, c=limit: g * _shrink(mx.sum(mx.square(g)), c), gradients)
        if limit := self.global_clipnorm:
            squares = [mx.sum(mx.square(g)) for g in dict(tree_flatten(gradients)).values()]
            factor = _shrink(sum(squares, start=mx.array(0.0)), limit)
            return tree_map(lambda g: g * factor, gradients)
        return gradients

    def _apply(
        self,
        rate: mx.array,
        iterations: mx.array,
        due: mx.array | None,
        path: str,
        gradient: mx.array,
        parameter: mx.array,
        state: State,
    ) -> mx.array:
        if "start" in state:
            iterations = iterations - state["start"]
        before = {key: state[key] for key in state if key not in ("accumulator", "average")}
        start = new = self._to_keras(path, parameter).astype(mx.float32)
        decay = self._weight_decay_of(state)
        if decay is not None and not self._is_excluded(path):
            new = new - new * decay * rate
        new = self.update_step(gradient, new, state, rate, iterations.astype(mx.float32) + 1)
        if due is not None:
            new = mx.where(due, new, start)
            state.update({key: mx.where(due, state[key], old) for key, old in before.items()})
        if self.use_ema:
            momentum = self.ema_momentum * (iterations != 0)
            state["average"] = momentum * state["average"] + (1 - momentum) * new
            if self.ema_overwrite_frequency:
                overwrite = (iterations + 1) % self.ema_overwrite_frequency == 0
                new = mx.where(overwrite, state["average"], new)
        return self._from_keras(path, new).astype(parameter.dtype)

    def _weight_decay_of(self, state: State) -> float | None:
        return self.weight_decay

    def _is_excluded(self, path: str) -> bool:
        name = f"{path} {self.names.get(path, '')}"
        return self._excluded is not None and self._excluded.search(name) is not None

    def averages(self, parameters: dict) -> dict:
        """The moving averages of these parameters, in their layout and dtype (with `use_ema`).

        A parameter that was never trained is its own average.
        """
        known = dict(tree_flatten(self.state))

        def average(path: str, parameter: mx.array) -> mx.array:
            found = known.get(f"{path}.average")
            return parameter if found is None else self._from_keras(path, found)

        averages = tree_map_with_path(average, parameters)
        averages = tree_map(lambda a, p: a.astype(p.dtype), averages, parameters)
        mx.eval(averages)
        return averages

    def finalize_variable_values(self, model: mlx.nn.Module) -> None:
        """At the end of training: put the moving averages into the model (with `use_ema`)."""
        moved = self._first_step is None or self.step.item() != self._first_step.item()
        if self.use_ema and self._initialized and moved:
            model.update(self.averages(model.trainable_parameters()))

    def _to_keras(self, path: str, array: mx.array) -> mx.array:
        if not self.needs_keras_layout or path not in self.layouts:
            return array
        return self.layouts[path].to_keras(array)

    def _from_keras(self, path: str, array: mx.array) -> mx.array:
        if not self.needs_keras_layout or path not in self.layouts:
            return array
        return self.layouts[path].from_keras(array)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON can hold them."""
        names = [n for n in constructor_arguments(type(self)) if n not in ("lr", "learning_rate")]
        schedule = self._schedulers.get("learning_rate")
        # The shortest decimal of the float32: .01, not .009999999776.
        number = float(str(np.float32(self.state["learning_rate"].item())))
        written = schedule is not None and not isinstance(schedule, _Constant)
        rate = serialize(schedule) if written else number
        return {"learning_rate": rate, **{n: serialize(getattr(self, n)) for n in names}}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Optimizer:
        """The optimizer that `get_config` described; a schedule may be given by its config."""
        rate = config.get("learning_rate")
        if isinstance(rate, (dict, str)):
            config = {**config, "learning_rate": schedules.get(rate)}
        return cls(**config)


def _takes_step(schedule: Callable[..., Any]) -> bool:
    """Whether a schedule is called with the step, as ours are, or with nothing, as Keras's."""
    try:
        return bool(inspect.signature(schedule).parameters)
    except ValueError:
        return True


class _Constant:
    """A function without arguments as a schedule: called when a step is traced."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    def __call__(self, step: mx.array) -> Any:
        return self.function()


def _accumulate(due: A, every: int, gradient: A, state: State) -> A:
    """The mean gradient since the last update; the sum starts anew when an update is due."""
    total = state["accumulator"] + gradient
    state["accumulator"] = mx.where(due, 0, total)
    return total / every


def _shrink(square: mx.array, limit: float) -> mx.array:
    """What to multiply by, so that a norm given by its square is at most `limit`; NaN stays."""
    return limit / mx.maximum(mx.sqrt(square), limit)


def zeros(parameter: A, *names: str) -> State:
    """A float32 array of zeros, shaped as the parameter, for each name."""
    return {name: mx.zeros(parameter.shape) for name in names}


def lerp(average: A, value: A, keep: float) -> A:
    """keep average + (1 - keep) value"""
    return average + (1 - keep) * (value - average)
