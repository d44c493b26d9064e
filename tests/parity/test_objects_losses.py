"""Every loss against Keras: values, weights, masks, reductions and gradients."""

import inspect

import jax
import keras
import mlx.core as mx
import numpy as np
import pytest
from mlxfunc import losses

RANDOM = np.random.default_rng(0)
ROWS, CLASSES = 6, 4


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


REAL = RANDOM.normal(size=(2, ROWS, CLASSES)).astype("float32")
POSITIVE = np.abs(REAL) + 0.1
UNIT = RANDOM.uniform(0.05, 0.95, size=(2, ROWS, CLASSES)).astype("float32")
INDEX = RANDOM.integers(0, CLASSES, size=ROWS).astype("int32")
ONE_HOT = np.eye(CLASSES, dtype="float32")[INDEX]
BITS = RANDOM.integers(0, 2, size=(ROWS, CLASSES)).astype("float32")
PROBABILITIES = softmax(REAL[1])
STEPS = RANDOM.integers(0, CLASSES, size=(ROWS, 3)).astype("int32")
STEP_LOGITS = RANDOM.normal(size=(ROWS, 3, CLASSES)).astype("float32")
LABELS = np.array([[1, 2, 0], [1, 1, 2], [3, 0, 0], [2, 3, 2], [0, 0, 0], [3, 3, 3]], "int32")
FRAMES = RANDOM.normal(size=(ROWS, 8, CLASSES)).astype("float32")

# class, its arguments, labels, outputs
CASES = [
    ("MeanSquaredError", {}, *REAL),
    ("MeanAbsoluteError", {}, *REAL),
    ("MeanAbsolutePercentageError", {}, *REAL),
    ("MeanSquaredLogarithmicError", {}, *POSITIVE),
    ("Huber", {}, *REAL),
    ("Huber", {"delta": 0.3}, *REAL),
    ("LogCosh", {}, *REAL),
    ("CosineSimilarity", {}, *REAL),
    ("CosineSimilarity", {"axis": 0}, REAL[0].T, REAL[1].T),
    ("Poisson", {}, *POSITIVE),
    ("KLDivergence", {}, ONE_HOT, PROBABILITIES),
    ("Hinge", {}, 2 * BITS - 1, REAL[1]),
    ("Hinge", {}, BITS, REAL[1]),
    ("SquaredHinge", {}, BITS, REAL[1]),
    ("CategoricalHinge", {}, ONE_HOT, REAL[1]),
    ("BinaryCrossentropy", {}, BITS, UNIT[0]),
    ("BinaryCrossentropy", {"from_logits": True}, BITS, REAL[1] * 5),
    ("BinaryCrossentropy", {"label_smoothing": 0.2}, BITS, UNIT[0]),
    ("BinaryCrossentropy", {}, BITS[:, :1], UNIT[0, :, :1]),
    ("BinaryCrossentropy", {}, BITS[:, 0], UNIT[0, :, :1]),
    ("BinaryCrossentropy", {}, BITS, BITS),
    ("BinaryFocalCrossentropy", {}, BITS, UNIT[0]),
    ("BinaryFocalCrossentropy", {"from_logits": True, "gamma": 3.0}, BITS, REAL[1]),
    (
        "BinaryFocalCrossentropy",
        {"apply_class_balancing": True, "alpha": 0.4, "label_smoothing": 0.1},
        BITS,
        UNIT[0],
    ),
    ("CategoricalCrossentropy", {}, ONE_HOT, PROBABILITIES),
    ("CategoricalCrossentropy", {}, ONE_HOT, UNIT[0]),
    ("CategoricalCrossentropy", {"from_logits": True}, ONE_HOT, REAL[1]),
    ("CategoricalCrossentropy", {"label_smoothing": 0.1}, ONE_HOT, PROBABILITIES),
    ("CategoricalCrossentropy", {}, ONE_HOT, ONE_HOT),
    ("CategoricalCrossentropy", {}, np.eye(CLASSES)[STEPS], softmax(STEP_LOGITS)),
    ("CategoricalFocalCrossentropy", {}, ONE_HOT, PROBABILITIES),
    (
        "CategoricalFocalCrossentropy",
        {"alpha": 0.5, "gamma": 1.5, "from_logits": True, "label_smoothing": 0.1},
        ONE_HOT,
        REAL[1],
    ),
    ("SparseCategoricalCrossentropy", {}, INDEX, PROBABILITIES),
    ("SparseCategoricalCrossentropy", {}, INDEX[:, None], UNIT[0]),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, STEPS, STEP_LOGITS),
    ("SparseCategoricalCrossentropy", {"ignore_class": 0}, STEPS, softmax(STEP_LOGITS)),
    ("SparseCategoricalCrossentropy", {"ignore_class": -1}, STEPS - 1, softmax(STEP_LOGITS)),
    (
        "SparseCategoricalCrossentropy",
        {"ignore_class": 1, "from_logits": True, "reduction": "mean_with_sample_weight"},
        STEPS,
        STEP_LOGITS,
    ),
    ("Dice", {}, BITS, UNIT[0]),
    ("Dice", {"axis": -1}, BITS, UNIT[0]),
    ("Tversky", {"alpha": 0.3, "beta": 0.8}, BITS, UNIT[0]),
    ("Tversky", {"axis": (1,)}, BITS, UNIT[0]),
    ("CTC", {}, LABELS, FRAMES),
]
WEIGHTS = RANDOM.uniform(0, 2, size=ROWS).astype("float32")
MASK = np.array([True, False, True, True, False, True])
REDUCTIONS = ("sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none")


def label(value):
    return value if isinstance(value, str) else ""


def close(own, other):
    np.testing.assert_allclose(np.array(own), np.asarray(other), rtol=1e-5, atol=1e-6)


def both(name, arguments):
    return getattr(losses, name)(**arguments), getattr(keras.losses, name)(**arguments)


@pytest.mark.parametrize("name, arguments, y_true, y_pred", CASES, ids=label)
def test_values_and_weights(name, arguments, y_true, y_pred):
    own, other = both(name, arguments)
    per_sample = own.call(mx.array(y_true), mx.array(y_pred)).ndim <= 1
    weights = WEIGHTS if per_sample else np.broadcast_to(WEIGHTS[:, None], (ROWS, 3))
    plain, weighted = jax.jit(lambda y, p, w: (other(y, p), other(y, p, w)))(
        y_true, y_pred, weights
    )
    close(own(y_true, y_pred), plain)
    close(own(y_true, y_pred, weights), weighted)


@pytest.mark.parametrize("name, arguments, y_true, y_pred", CASES, ids=label)
def test_gradient(name, arguments, y_true, y_pred):
    own, other = both(name, arguments)
    gradient = mx.grad(lambda p: own(mx.array(y_true), p))(mx.array(y_pred, mx.float32))
    expected = jax.jit(jax.grad(lambda p: other(y_true, p)))(np.asarray(y_pred, "float32"))
    # Where probabilities are clipped, so is the gradient: at the very edge both may be right.
    inside = (y_pred > 0) & (y_pred < 1) if y_pred is y_true else np.ones_like(y_pred, bool)
    close(np.array(gradient)[inside], np.asarray(expected)[inside])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", [None, WEIGHTS, WEIGHTS[:, None]], ids=["", "(n)", "(n,1)"])
@pytest.mark.parametrize("mask", [None, MASK, np.zeros(ROWS, bool)], ids=["", "mask", "none"])
def test_reduction(reduction, weights, mask):
    own, other = both("MeanSquaredError", {"reduction": reduction})
    output = jax.numpy.array(REAL[1])
    if mask is not None:
        keras.src.backend.set_keras_mask(output, jax.numpy.array(mask))
    value = own(REAL[0], REAL[1], weights, mask)
    close(value.flatten(), other(REAL[0], output, sample_weight=weights).flatten())


def test_step_weights_and_mask():
    own, other = both("SparseCategoricalCrossentropy", {"from_logits": True, "ignore_class": 2})
    mask = RANDOM.integers(0, 2, size=(ROWS, 3)).astype(bool)
    weights = RANDOM.uniform(size=(ROWS, 3)).astype("float32")
    output = jax.numpy.array(STEP_LOGITS)
    keras.src.backend.set_keras_mask(output, jax.numpy.array(mask))
    close(own(STEPS, STEP_LOGITS, weights, mask), other(STEPS, output, weights))


def test_weighted_mean_divides_by_the_number_of_rows():
    y = np.array([[1.0], [0], [0], [4]])
    assert losses.get("mse")(np.zeros((4, 1)), y, np.array([1, 1, 1, 3])).item() == 12.25


FUNCTIONS = [
    name for name, value in vars(losses).items() if inspect.isfunction(value) and name.islower()
]


@pytest.mark.parametrize("name", sorted({*FUNCTIONS} - {"get", "resolve", "task", "ctc"}))
def test_function(name):
    labels = INDEX if name.startswith("sparse") else ONE_HOT
    value = getattr(losses, name)(labels, PROBABILITIES)
    close(value, getattr(keras.losses, name)(labels, PROBABILITIES))


@pytest.mark.parametrize("name", sorted({name for name, *_ in CASES}))
def test_config(name):
    own, other = both(name, {})
    config = own.get_config()
    known = dict(other.get_config())
    assert {key: config[key] for key in known if key in config} == {
        key: value for key, value in known.items() if key in config
    }
    assert type(own).from_config(config).get_config() == config


def test_aliases_of_keras():
    for name, known in keras.src.losses.ALL_OBJECTS_DICT.items():
        if "irc" not in name and name not in ("Loss", "LossFunctionWrapper"):
            assert type(losses.get(name)).__name__.lower() in (
                known.__name__.lower(),
                known.__name__.replace("_", ""),
            )
