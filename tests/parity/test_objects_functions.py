"""Activations, initializers, regularizers and constraints against Keras."""

import inspect

import jax
import keras
import mlx.core as mx
import numpy as np
import pytest
from mlxfunc import activations, constraints, initializers, regularizers

RANDOM = np.random.default_rng(0)
EDGES = np.array([-40, -6, -3, -1, -0.5, 0, 0.5, 1, 3, 6, 40, 0.25], "float32")
X = np.concatenate([RANDOM.normal(size=(4, 12)).astype("float32") * 3, EDGES[None]])

# threshold has arguments without defaults; sparsemax is wrong in Keras 3.15.
WITHOUT = ("threshold", "sparsemax")
ACTIVATIONS = [
    *((name, {}) for name in activations.REGISTRY.names() if name not in WITHOUT),
    ("threshold", {"threshold": 0.3, "default_value": -2.0}),
    ("relu", {"negative_slope": 0.1}),
    ("relu", {"max_value": 2.0}),
    ("relu", {"max_value": 6}),
    ("relu", {"threshold": 0.7}),
    ("relu", {"negative_slope": 0.1, "max_value": 2.0, "threshold": 0.7}),
    ("leaky_relu", {"negative_slope": 0.05}),
    ("elu", {"alpha": 0.5}),
    ("celu", {"alpha": 0.5}),
    ("gelu", {"approximate": True}),
    ("hard_shrink", {"threshold": 1.0}),
    ("soft_shrink", {"threshold": 1.0}),
    ("squareplus", {"b": 1}),
    ("softmax", {"axis": 0}),
    ("log_softmax", {"axis": 0}),
    ("glu", {"axis": 1}),
]


def own_activation(name, arguments):
    return lambda x: getattr(activations, name)(x, **arguments)


def keras_activation(name, arguments):
    return lambda x: getattr(keras.activations, name)(x, **arguments)


def close(own, other, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(np.array(own), np.asarray(other), rtol=rtol, atol=atol)


@pytest.mark.parametrize("name, arguments", ACTIVATIONS)
def test_activation(name, arguments):
    own, other = own_activation(name, arguments), keras_activation(name, arguments)
    close(own(mx.array(X)), jax.jit(other)(X))
    assert own(mx.array(X).astype(mx.bfloat16)).dtype == mx.bfloat16


@pytest.mark.parametrize("name, arguments", ACTIVATIONS)
def test_activation_gradient(name, arguments):
    own, other = own_activation(name, arguments), keras_activation(name, arguments)
    # Kinks have a derivative on either side: both libraries may choose.
    x = X[:4]
    factors = np.arange(x.size, dtype="float32").reshape(x.shape) / x.size
    factors = factors[:, : own(mx.array(x)).shape[1]]
    gradient = mx.grad(lambda x: mx.sum(own(x) * mx.array(factors)))(mx.array(x))
    # XLA's fused tanh leaves 2.1e-6 of the tanh form of gelu where its derivative is 1e-14.
    close(gradient, jax.jit(jax.grad(lambda x: (other(x) * factors).sum()))(x), atol=3e-6)
    edges = mx.grad(lambda x: mx.sum(own(x)))(mx.array(X))
    assert mx.all(mx.isfinite(edges)).item()


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_rank_three(name):
    x = RANDOM.normal(size=(2, 3, 5)).astype("float32")
    close(getattr(activations, name)(mx.array(x)), getattr(keras.activations, name)(x))


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_sparsemax_projects_onto_the_simplex(axis):
    x = RANDOM.normal(size=(2, 3, 5)).astype("float32")
    y = np.array(activations.sparsemax(mx.array(x), axis=axis))
    assert y.min() >= 0
    close(y.sum(axis), np.ones_like(y.sum(axis)))
    # Nearest: x - y is the same wherever y is positive, and nowhere larger.
    cut = np.where(y > 0, x - y, -np.inf).max(axis, keepdims=True)
    close(np.where(y > 0, x - y, cut), np.broadcast_to(cut, x.shape))
    assert np.all(x - y <= cut + 1e-6)


def test_every_activation_of_keras():
    known = set(keras.src.activations.ALL_OBJECTS_DICT)
    assert known <= set(activations.REGISTRY.names())
    assert activations.get(None) is activations.linear


# class, its arguments, the shape
INITIALIZERS = [
    ("Zeros", {}, (3, 4)),
    ("Ones", {}, (3, 4)),
    ("Constant", {"value": 2.5}, (3, 4)),
    ("Identity", {"gain": 2.0}, (3, 4)),
    ("RandomNormal", {}, (200, 100)),
    ("RandomNormal", {"mean": 1.0, "stddev": 2.0}, (200, 100)),
    ("RandomUniform", {}, (200, 100)),
    ("RandomUniform", {"minval": -1.0, "maxval": 3.0}, (200, 100)),
    ("TruncatedNormal", {"mean": 1.0, "stddev": 0.5}, (200, 100)),
    ("VarianceScaling", {}, (200, 100)),
    ("VarianceScaling", {"scale": 3.0, "mode": "fan_out", "distribution": "uniform"}, (200, 100)),
    ("VarianceScaling", {"mode": "fan_avg", "distribution": "untruncated_normal"}, (200, 100)),
    ("GlorotUniform", {}, (3, 3, 30, 60)),
    ("GlorotNormal", {}, (3, 3, 30, 60)),
    ("HeUniform", {}, (5, 40, 80)),
    ("HeNormal", {}, (200, 100)),
    ("LecunUniform", {}, (200, 100)),
    ("LecunNormal", {}, (20000,)),
]


@pytest.mark.parametrize("name, arguments, shape", INITIALIZERS)
def test_initializer(name, arguments, shape):
    own = np.array(getattr(initializers, name)(**arguments)(shape))
    other = np.asarray(getattr(keras.initializers, name)(**arguments)(shape))
    assert own.shape == shape
    if name in ("Zeros", "Ones", "Constant", "Identity"):
        np.testing.assert_array_equal(own, other)
    # 16,000 numbers and more: the spread is known to 1 %, the mean to 3 % of it, and the
    # outermost of a bounded distribution to 1 %.
    assert own.std() == pytest.approx(float(other.std()), rel=0.02)
    assert own.mean() == pytest.approx(float(other.mean()), abs=0.05 * float(other.std()) + 1e-9)
    if "untruncated" not in str(arguments) and name != "RandomNormal":
        assert np.ptp(own) == pytest.approx(float(np.ptp(other)), rel=0.01)


@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (9, 5), (3, 3, 4, 8)])
def test_orthogonal(shape):
    own = np.array(initializers.Orthogonal(gain=2.0)(shape)).reshape(-1, shape[-1])
    own = own.T if own.shape[0] < own.shape[1] else own
    close(own.T @ own, 4 * np.eye(own.shape[1]), atol=1e-5)  # twenty products of size 1


@pytest.mark.parametrize("name", ["RandomNormal", "GlorotUniform", "Orthogonal"])
def test_seed(name):
    make = getattr(initializers, name)
    first, second = (np.array(make(seed=3)((4, 5))) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.any(np.array(make()((4, 5))) != np.array(make()((4, 5))))


MATRIX = RANDOM.normal(size=(4, 5)).astype("float32")
KERNEL = RANDOM.normal(size=(3, 3, 2, 4)).astype("float32")
REGULARIZERS = [
    ("L1", {}),
    ("L1", {"l1": 0.3}),
    ("L2", {}),
    ("L1L2", {"l1": 0.1, "l2": 0.2}),
    ("OrthogonalRegularizer", {}),
    ("OrthogonalRegularizer", {"factor": 0.5, "mode": "columns"}),
]
CONSTRAINTS = [
    ("MaxNorm", {"max_value": 1.5}),
    ("NonNeg", {}),
    ("UnitNorm", {}),
    ("UnitNorm", {"axis": 1}),
    ("MinMaxNorm", {"min_value": 1.0, "max_value": 2.0}),
    ("MinMaxNorm", {"min_value": 1.0, "max_value": 2.0, "rate": 0.3}),
]


@pytest.mark.parametrize("name, arguments", REGULARIZERS)
def test_regularizer(name, arguments):
    own = getattr(regularizers, name)(**arguments)
    other = getattr(keras.regularizers, name)(**arguments)
    close(own(mx.array(MATRIX)), other(keras.ops.array(MATRIX)))
    gradient = mx.grad(own)(mx.array(MATRIX))
    close(gradient, jax.jit(jax.grad(lambda w: other(w)))(MATRIX))


@pytest.mark.parametrize("name, arguments", CONSTRAINTS)
def test_constraint(name, arguments):
    own = getattr(constraints, name)(**arguments)
    other = getattr(keras.constraints, name)(**arguments)
    close(own(mx.array(MATRIX)), other(MATRIX))
    close(own(mx.zeros((3, 2))), other(np.zeros((3, 2), "float32")))
    if "axis" in inspect.signature(type(own)).parameters:
        own, other = (type(c)(**{**arguments, "axis": (0, 1, 2)}) for c in (own, other))
        close(own(mx.array(KERNEL)), other(KERNEL))


OBJECTS = [
    *sorted({("initializers", row[0]) for row in INITIALIZERS}),
    ("initializers", "Orthogonal"),
    *sorted({("regularizers", row[0]) for row in REGULARIZERS}),
    *sorted({("constraints", row[0]) for row in CONSTRAINTS}),
]


MODULES = {"initializers": initializers, "regularizers": regularizers, "constraints": constraints}


@pytest.mark.parametrize("kind, name", OBJECTS)
def test_config(kind, name):
    own, other = getattr(MODULES[kind], name)(), getattr(getattr(keras, kind), name)()
    config = own.get_config()
    assert type(own).from_config(config).get_config() == config
    for key, value in other.get_config().items():
        if key != "seed":
            assert config[key] == pytest.approx(value), key


@pytest.mark.parametrize("kind", MODULES)
def test_aliases_of_keras(kind):
    for name in dir(getattr(keras, kind)):
        known = getattr(getattr(keras, kind), name)
        if inspect.isclass(known) and not name.startswith(("STFT", "stft", kind[:-1].title())):
            assert type(MODULES[kind].get(name)).__name__ == known.__name__, name
