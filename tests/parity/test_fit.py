"""Whole fits against Keras: the same data, weights and order give the same curves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mlxfunc as mf
import keras
import numpy as np
import pytest

ROWS, EPOCHS = 43, 3
random = np.random.default_rng(7)
VECTORS = random.normal(size=(ROWS, 8)).astype("float32")
LABELS = random.integers(0, 3, ROWS)
TARGETS = random.normal(size=(ROWS, 2)).astype("float32")
SEQUENCES = random.normal(size=(ROWS, 5, 4)).astype("float32")
STEP_TARGETS = random.normal(size=(ROWS, 5, 3)).astype("float32")
LENGTHS = random.integers(1, 6, ROWS)
PADDED = SEQUENCES * (np.arange(5) < LENGTHS[:, None])[..., None]
TOKENS = random.integers(1, 20, (ROWS, 6)) * (np.arange(6) < LENGTHS[:, None])
WEIGHTS = random.random(ROWS).astype("float32")
STEP_WEIGHTS = random.random((ROWS, 5)).astype("float32")
BINARY = random.integers(0, 2, (ROWS, 1)).astype("float32")


def classifier(k: Any) -> Any:
    x = k.layers.Input((8,))
    h = k.layers.Dense(6, activation="tanh")(x)
    return k.models.Model(x, k.layers.Dense(3, activation="softmax")(h))


def two_outputs(k: Any) -> Any:
    x, z = k.layers.Input((8,), name="x"), k.layers.Input((4,), name="z")
    h = k.layers.Dense(6, activation="relu")(k.layers.Concatenate()([x, z]))
    a = k.layers.Dense(3, activation="softmax", name="a")(h)
    b = k.layers.Dense(2, name="b")(h)
    return k.models.Model([x, z], [a, b])


def sequence(k: Any) -> Any:
    x = k.layers.Input((5, 4))
    h = k.layers.Dense(6, activation="tanh")(x)
    return k.models.Model(x, k.layers.Dense(3)(h))


def masked_sequence(k: Any) -> Any:
    x = k.layers.Input((5, 4))
    h = k.layers.Dense(6, activation="tanh")(k.layers.Masking()(x))
    return k.models.Model(x, k.layers.Dense(3)(h))


def masked_lstm(k: Any) -> Any:
    x = k.layers.Input((6,), dtype="int32")
    h = k.layers.LSTM(5)(k.layers.Embedding(20, 4, mask_zero=True)(x))
    return k.models.Model(x, k.layers.Dense(1, activation="sigmoid")(h))


def penalised(k: Any) -> Any:
    x = k.layers.Input((8,))
    h = k.layers.Dense(
        6,
        activation="relu",
        kernel_regularizer=k.regularizers.L2(0.01),
        bias_regularizer="l1",
        activity_regularizer=k.regularizers.L1(0.01),
    )(x)
    h = k.layers.Dense(4, kernel_constraint=k.constraints.MaxNorm(0.7))(h)
    return k.models.Model(x, k.layers.Dense(2)(h))


@dataclass
class Case:
    """One fit: the model, what compile and fit are given, and keys that differ on purpose."""

    build: Callable
    compile: dict
    fit: dict
    x: Any = None
    y: Any = None
    except_for: tuple[str, ...] = field(default=())


BOTH = [VECTORS, SEQUENCES[:, 0]]
CASES = {
    "split": Case(
        classifier,
        {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]},
        {"validation_split": 0.25, "batch_size": 8},
        VECTORS,
        LABELS,
    ),
    "class weights": Case(
        classifier,
        {
            "optimizer": "rmsprop",
            "loss": "crossentropy",
            "metrics": ["acc"],
            "weighted_metrics": ["acc"],
        },
        {"class_weight": {0: 1.0, 1: 3.0}, "validation_data": (VECTORS, LABELS)},
        VECTORS,
        LABELS,
    ),
    "class weights and a split": Case(
        classifier,
        {
            "optimizer": "sgd",
            "loss": "sparse_categorical_crossentropy",
            "weighted_metrics": ["accuracy"],
        },
        {"class_weight": {0: 1.0, 1: 3.0}, "validation_split": 0.3},
        VECTORS,
        LABELS,
    ),
    "outputs by position": Case(
        two_outputs,
        {
            "optimizer": "sgd",
            "loss": ["sparse_categorical_crossentropy", "mse"],
            "loss_weights": [1.0, 0.2],
            "metrics": [["accuracy"], ["mae", "mse"]],
        },
        {"batch_size": 16, "validation_split": 0.2},
        BOTH,
        [LABELS, TARGETS],
    ),
    "outputs by name": Case(
        two_outputs,
        {
            "optimizer": "sgd",
            "loss": {"a": "sparse_categorical_crossentropy", "b": "mae"},
            "loss_weights": {"a": 0.5, "b": 2.0},
            "metrics": {"b": ["mse"]},
            "weighted_metrics": {"a": ["accuracy"], "b": ["mse"]},
        },
        {"batch_size": 10, "sample_weight": [WEIGHTS, WEIGHTS[::-1].copy()]},
        {"x": VECTORS, "z": SEQUENCES[:, 0]},
        [LABELS, TARGETS],
    ),
    "one loss for all": Case(
        two_outputs,
        {"optimizer": "sgd", "loss": "mse"},
        {"sample_weight": WEIGHTS},
        BOTH,
        [np.eye(3, dtype="float32")[LABELS], TARGETS],
    ),
    "sample weights": Case(
        classifier,
        {
            "optimizer": "adam",
            "loss": "sparse_categorical_crossentropy",
            "metrics": ["accuracy"],
            "weighted_metrics": ["accuracy"],
        },
        {
            "sample_weight": WEIGHTS,
            "validation_data": (VECTORS[:20], LABELS[:20], WEIGHTS[:20]),
            "validation_freq": 2,
            "validation_batch_size": 7,
            "validation_steps": 2,
        },
        VECTORS,
        LABELS,
    ),
    "temporal weights": Case(
        sequence,
        {"optimizer": "adam", "loss": "mse", "metrics": ["mae"], "weighted_metrics": ["mae"]},
        {"sample_weight": STEP_WEIGHTS, "batch_size": 9, "validation_split": 0.3},
        SEQUENCES,
        STEP_TARGETS,
    ),
    "temporal weights with a last axis": Case(
        masked_sequence,
        {"optimizer": "adam", "loss": "mse", "weighted_metrics": ["mae"]},
        {"sample_weight": STEP_WEIGHTS[..., None]},
        PADDED,
        STEP_TARGETS,
        ("mae",),
    ),
    "the same validation steps each time": Case(
        classifier,
        {"optimizer": "sgd", "loss": "sparse_categorical_crossentropy"},
        {
            "validation_data": (VECTORS, LABELS),
            "validation_batch_size": 7,
            "validation_steps": 2,
        },
        VECTORS,
        LABELS,
    ),
    # Keras's unweighted metrics of a masked output count the masked entries too.
    "mask": Case(
        masked_sequence,
        {"optimizer": "adam", "loss": "mse", "metrics": ["mae"]},
        {"validation_split": 0.3},
        PADDED,
        STEP_TARGETS,
        ("mean_absolute_error", "mae", "val_mae"),
    ),
    "masked LSTM": Case(
        masked_lstm,
        {"optimizer": "adam", "loss": "binary_crossentropy", "metrics": ["accuracy"]},
        {"batch_size": 16},
        TOKENS,
        BINARY,
    ),
    "penalties": Case(
        penalised,
        {"optimizer": "sgd", "loss": "mse", "metrics": ["mse"]},
        {"validation_data": (VECTORS, TARGETS), "batch_size": 20},
        VECTORS,
        TARGETS,
    ),
    "steps": Case(
        classifier,
        {"optimizer": "nadam", "loss": "sparse_categorical_crossentropy"},
        {"steps_per_epoch": 2, "batch_size": 8, "initial_epoch": 1, "epochs": 3},
        VECTORS,
        LABELS,
    ),
    "steps per execution": Case(
        classifier,
        {
            "optimizer": "sgd",
            "loss": "sparse_categorical_crossentropy",
            "steps_per_execution": 2,
            "jit_compile": False,
        },
        {"batch_size": 8},
        VECTORS,
        LABELS,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_curves(name: str) -> None:
    case = CASES[name]
    reference, model = case.build(keras), case.build(mf)
    model.set_weights(reference.get_weights())
    options = {"epochs": EPOCHS, "shuffle": False, "verbose": 0} | case.fit
    histories = []
    for m in (reference, model):
        m.compile(**case.compile)
        histories.append(m.fit(case.x, case.y, **options))
    expected, got = (h.history for h in histories)
    assert list(got) == list(expected)
    assert histories[1].epoch == histories[0].epoch
    for key in expected:
        if key not in case.except_for:
            np.testing.assert_allclose(got[key], expected[key], rtol=1e-4, atol=1e-5, err_msg=key)
    for ours, theirs in zip(model.get_weights(), reference.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    if "val_loss" not in expected:
        return
    # Keras has compiled its test step already.
    evaluated = [
        m.evaluate(case.x, case.y, verbose=0, return_dict=True) for m in (reference, model)
    ]
    assert list(evaluated[0]) == list(evaluated[1])
    for key in evaluated[0]:
        if f"val_{key}" not in case.except_for:
            np.testing.assert_allclose(evaluated[1][key], evaluated[0][key], 1e-4, 1e-5)
    # Keras lists a metric twice when a weighted one has the same name.
    if not any("weighted" in key for key in evaluated[0]):
        values = [m.evaluate(case.x, case.y, verbose=0) for m in (reference, model)]
        assert np.shape(values[0]) == np.shape(values[1])


def test_batches_one_by_one() -> None:
    reference, model = classifier(keras), classifier(mf)
    model.set_weights(reference.get_weights())
    rows = []
    for m in (reference, model):
        m.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        values = [
            m.train_on_batch(VECTORS, LABELS, sample_weight=WEIGHTS),
            m.train_on_batch(VECTORS, LABELS, class_weight={0: 2.0}),
            m.test_on_batch(VECTORS, LABELS),
        ]
        named = m.train_on_batch(VECTORS[:9], LABELS[:9], return_dict=True)
        rows.append([*np.ravel(values), *(float(named[key]) for key in sorted(named))])
        assert m.predict_on_batch(VECTORS).shape == (ROWS, 3)
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-4)
