"""Twenty steps of every optimizer, with every option, against Keras; schedules over their steps."""

import jax
import keras
import mlx.core as mx
import numpy as np
import pytest
from mlxfunc import optimizers, schedules
from mlxfunc.weights import WeightRecord

STEPS = 20
# path: Keras's shape, and the axes that lead to MLX's layout
PARAMETERS = {
    "dense.weight": ((5, 4), (1, 0)),
    "dense.bias": ((4,), None),
    "conv.weight": ((3, 2, 2, 6), (3, 0, 1, 2)),
}
# class, its own arguments
ALGORITHMS = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("RMSprop", {}),
    ("RMSprop", {"rho": 0.8, "momentum": 0.5, "centered": True, "epsilon": 1e-4}),
    ("Adam", {}),
    ("Adam", {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "amsgrad": True}),
    ("AdamW", {}),
    ("AdamW", {"weight_decay": 0.1, "amsgrad": True}),
    ("Adamax", {}),
    ("Nadam", {}),
    ("Nadam", {"beta_1": 0.8, "beta_2": 0.9}),
    ("Adagrad", {}),
    ("Adagrad", {"initial_accumulator_value": 0.5}),
    ("Adadelta", {"learning_rate": 1.0}),
    ("Adafactor", {}),
    ("Adafactor", {"learning_rate": 0.5, "clip_threshold": 0.5, "relative_step": False}),
    ("Lion", {}),
    ("Lion", {"beta_1": 0.8, "beta_2": 0.9}),
    ("Ftrl", {"learning_rate": 0.1}),
    (
        "Ftrl",
        {
            "learning_rate": 0.1,
            "learning_rate_power": -0.6,
            "l1_regularization_strength": 0.02,
            "l2_regularization_strength": 0.1,
            "l2_shrinkage_regularization_strength": 0.05,
            "beta": 0.3,
        },
    ),
    ("Lamb", {}),
    ("Muon", {}),
    ("Muon", {"nesterov": False, "rms_rate": None, "ns_steps": 3, "adam_lr_ratio": 0.5}),
    ("Muon", {"exclude_layers": ["dense"]}),
]
SCHEDULE = ("ExponentialDecay", (0.02, 5, 0.5))
OPTIONS = [
    {"weight_decay": 0.05},
    {"clipnorm": 0.3},
    {"clipvalue": 0.2},
    {"global_clipnorm": 0.5},
    {"use_ema": True, "ema_momentum": 0.8},
    {
        "gradient_accumulation_steps": 2,
        "weight_decay": 0.05,
        "clipnorm": 0.3,
        "use_ema": True,
        "ema_overwrite_frequency": 3,
    },
    {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 3},
    {"gradient_accumulation_steps": 3},
    {"loss_scale_factor": 8.0},
    {"schedule": True},
]
NAMES = sorted({name for name, _ in ALGORITHMS})
CASES = [*ALGORITHMS, *((name, option) for option in OPTIONS for name in NAMES)]


def draw(seed):
    random = np.random.default_rng(seed)
    return {p: random.normal(size=shape).astype("float32") for p, (shape, _) in PARAMETERS.items()}


def keras_result(name, arguments):
    if arguments.get("schedule"):
        kind, config = SCHEDULE
        arguments = {"learning_rate": getattr(keras.optimizers.schedules, kind)(*config)}
    variables = [keras.Variable(v, name=p.replace(".", "_")) for p, v in draw(0).items()]
    optimizer = getattr(keras.optimizers, name)(**arguments)
    optimizer.build(variables)
    # One compiled step, as in Keras's own fit; operation by operation takes ten times as long.
    step = jax.jit(optimizer.stateless_apply)
    state, values = ([v.value for v in vs] for vs in (optimizer.variables, variables))
    for number in range(STEPS):
        values, state = step(state, list(draw(number + 1).values()), values)
    for variable, value in zip([*optimizer.variables, *variables], [*state, *values], strict=True):
        variable.assign(value)
    results = [np.asarray(value) for value in values]
    if optimizer.use_ema:
        optimizer.finalize_variable_values(variables)
        results += [np.asarray(v.value) for v in variables]
    return results


def to_mlx(arrays):
    axes = {p: axes for p, (_, axes) in PARAMETERS.items()}
    return nested({p: mx.array(v.transpose(axes[p]) if axes[p] else v) for p, v in arrays.items()})


def nested(flat):
    out = {}
    for path, value in flat.items():
        layer, key = path.split(".")
        out.setdefault(layer, {})[key] = value
    return out


def to_keras(parameters):
    out = []
    for path, (_, axes) in PARAMETERS.items():
        layer, key = path.split(".")
        array = np.array(parameters[layer][key])
        out.append(array.transpose(np.argsort(axes)) if axes else array)
    return out


def make(name, arguments):
    if arguments.get("schedule"):
        kind, config = SCHEDULE
        arguments = {"learning_rate": getattr(schedules, kind)(*config)}
    optimizer = getattr(optimizers, name)(**arguments)
    optimizer.layouts = {
        path: WeightRecord(shape, None, axes=axes)
        for path, (shape, axes) in PARAMETERS.items()
        if axes
    }
    return optimizer


def own_result(name, arguments):
    optimizer = make(name, arguments)
    parameters = to_mlx(draw(0))
    for step in range(STEPS):
        parameters = optimizer.apply_gradients(to_mlx(draw(step + 1)), parameters)
    results = to_keras(parameters)
    if optimizer.use_ema:
        results += to_keras(optimizer.averages(parameters))
    return results


def label(value):
    return value if isinstance(value, str) else "-".join(value) or "plain"


@pytest.mark.parametrize("name, arguments", CASES, ids=label)
def test_twenty_steps(name, arguments):
    own, other = own_result(name, arguments), keras_result(name, arguments)
    for array, expected in zip(own, other, strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)


# class, positional and named arguments
SCHEDULES = [
    ("ExponentialDecay", (0.1, 7, 0.9), {}),
    ("ExponentialDecay", (0.1, 7, 0.9), {"staircase": True}),
    ("InverseTimeDecay", (0.1, 7, 0.5), {}),
    ("InverseTimeDecay", (0.1, 7, 0.5), {"staircase": True}),
    ("PiecewiseConstantDecay", ([3, 10], [1.0, 0.5, 0.1]), {}),
    ("PiecewiseConstantDecay", ([5], [1.0, 0.5]), {}),
    ("PolynomialDecay", (0.1, 10), {}),
    ("PolynomialDecay", (0.1, 10, 0.02, 2.0), {"cycle": True}),
    ("CosineDecay", (0.1, 10), {"alpha": 0.1}),
    ("CosineDecay", (0.01, 10), {"warmup_target": 0.1, "warmup_steps": 4}),
    ("CosineDecayRestarts", (0.1, 6), {}),
    ("CosineDecayRestarts", (0.1, 6), {"t_mul": 1.0, "m_mul": 0.8, "alpha": 0.1}),
    ("CosineDecayRestarts", (0.1, 6), {"t_mul": 1.5, "m_mul": 0.8}),
]


@pytest.mark.parametrize("name, arguments, named", SCHEDULES)
def test_schedule(name, arguments, named):
    own = getattr(schedules, name)(*arguments, **named)
    other = getattr(keras.optimizers.schedules, name)(*arguments, **named)
    again = schedules.deserialize(schedules.serialize(own))
    for step in (0, 3, 4, 6, 10, 17, 24):
        expected = float(other(step))
        assert own(mx.array(step, mx.uint64)).item() == pytest.approx(expected, rel=1e-5, abs=1e-8)
        assert again(step).item() == own(step).item()


@pytest.mark.parametrize("name, arguments", ALGORITHMS, ids=label)
def test_config(name, arguments):
    config = make(name, {**arguments, "clipnorm": 0.5, "learning_rate": 0.25}).get_config()
    assert getattr(optimizers, name).from_config(config).get_config() == config
    known = getattr(keras.optimizers, name)(**arguments).get_config()
    assert set(known) <= set(config)
    assert {key: config[key] for key in arguments if key != "learning_rate"} == {
        key: value for key, value in arguments.items() if key != "learning_rate"
    }


@pytest.mark.parametrize("name", NAMES)
def test_default_arguments(name):
    own, other = getattr(optimizers, name)().get_config(), getattr(keras.optimizers, name)()
    for key, value in other.get_config().items():
        if key != "name":
            assert own[key] == pytest.approx(value), key
