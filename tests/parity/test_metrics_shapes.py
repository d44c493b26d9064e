"""Every metric against Keras over ranks of output and shapes of weights, on two equal batches."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from mlxfunc import losses, metrics

CLASSES = 4
SHAPES = ((6,), (6, CLASSES), (6, 1), (3, 5, CLASSES), (3, 5, 1))
WEIGHTS = ("none", "one", "rows", "rows, 1", "steps", "steps, 1", "entries")


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True)).astype("float32")


# Labels and outputs, from a generator and the shape of the output.
DATA = {
    "positive": lambda rng, n: (rng.random(n) + 0.1, rng.random(n) + 0.1),
    "signs": lambda rng, n: (np.sign(rng.normal(size=n)), rng.normal(size=n)),
    "bits": lambda rng, n: (rng.random(n) < 0.5, np.round(rng.random(n), 3) + 4e-4),
    "ids": lambda rng, n: (rng.integers(0, CLASSES, n), rng.integers(0, CLASSES, n)),
    "one-hot": lambda rng, n: (
        np.eye(n[-1])[rng.integers(0, n[-1], n[:-1])],
        softmax(rng.normal(size=n)),
    ),
    "classes": lambda rng, n: (rng.integers(0, n[-1], n[:-1]), softmax(rng.normal(size=n))),
    "classes, 1": lambda rng, n: (
        rng.integers(0, n[-1], (*n[:-1], 1)),
        softmax(rng.normal(size=n)),
    ),
    "squeezed": lambda rng, n: (rng.random(n[:-1]) + 0.1, rng.random(n) + 0.1),
    "expanded": lambda rng, n: (rng.random((*n, 1)) + 0.1, rng.random(n) + 0.1),
}
FLOAT = {"dtype": "float32"}  # of overlaps, which Keras counts in integers
OVERLAP = {"num_classes": CLASSES, **FLOAT}
LEVELS = {"thresholds": [0.2, 0.7]}
# What is drawn, the metrics that take it, and their options.
ROWS: list[tuple[tuple[str, ...], tuple[str, ...], tuple[dict[str, Any], ...]]] = [
    (
        ("positive", "squeezed", "expanded"),
        (
            *("MeanSquaredError", "RootMeanSquaredError", "MeanAbsoluteError", "LogCoshError"),
            *("MeanAbsolutePercentageError", "MeanSquaredLogarithmicError"),
        ),
        ({},),
    ),
    (("positive",), ("Poisson", "KLDivergence"), ({},)),  # of (n,) and (n, 1) Keras makes (n, n)
    (("positive",), ("CosineSimilarity",), ({},)),
    (("positive",), ("PearsonCorrelation", "ConcordanceCorrelation"), ({}, {"axis": 0})),
    (
        ("positive",),
        ("R2Score",),
        (
            {},
            {"class_aggregation": None},
            {"class_aggregation": "variance_weighted_average"},
            {"num_regressors": 1},
        ),
    ),
    (("signs",), ("Hinge", "SquaredHinge"), ({},)),
    (("ids",), ("Accuracy",), ({},)),
    (("bits",), ("BinaryAccuracy",), ({}, {"threshold": 0.3})),
    (("bits",), ("BinaryCrossentropy",), ({}, {"from_logits": True}, {"label_smoothing": 0.1})),
    (("one-hot",), ("CategoricalHinge", "CategoricalAccuracy"), ({},)),
    (("one-hot",), ("TopKCategoricalAccuracy",), ({"k": 2},)),
    (("one-hot",), ("CategoricalCrossentropy",), ({}, {"from_logits": True}, {"axis": -1})),
    (("one-hot",), ("F1Score", "FBetaScore"), ({}, {"average": "macro"}, {"average": "weighted"})),
    (("one-hot",), ("OneHotIoU",), ({"target_class_ids": [0, 2], **OVERLAP},)),
    (("one-hot",), ("OneHotMeanIoU",), (OVERLAP, {"ignore_class": 1, **OVERLAP})),
    (("classes", "classes, 1"), ("SparseCategoricalAccuracy",), ({},)),
    (("classes", "classes, 1"), ("SparseTopKCategoricalAccuracy",), ({"k": 2},)),
    (
        ("classes", "classes, 1"),
        ("SparseCategoricalCrossentropy",),
        ({}, {"from_logits": True}, {"ignore_class": 0}, {"ignore_class": -1}),
    ),
    (
        ("bits",),
        ("TruePositives", "FalsePositives", "TrueNegatives", "FalseNegatives"),
        ({}, LEVELS),
    ),
    (
        ("bits",),
        ("Precision", "Recall"),
        ({}, LEVELS, {"top_k": 2}, {"class_id": 1}, {"top_k": 2, "class_id": 1}),
    ),
    (
        ("bits",),
        ("AUC",),
        ({}, {"curve": "PR"}, {"multi_label": True}, LEVELS, {"from_logits": True}),
    ),
    *(
        (("bits",), (name,), ({what: 0.5}, {what: 0.5, "class_id": 1}))
        for name, what in (
            ("SensitivityAtSpecificity", "specificity"),
            ("SpecificityAtSensitivity", "sensitivity"),
            ("PrecisionAtRecall", "recall"),
            ("RecallAtPrecision", "precision"),
        )
    ),
    (("ids",), ("IoU",), ({"target_class_ids": [0, 2], **OVERLAP},)),
    (("ids",), ("MeanIoU",), (OVERLAP, {"ignore_class": 0, **OVERLAP})),
    (("bits",), ("BinaryIoU",), (FLOAT, {"target_class_ids": [1], "threshold": 0.3, **FLOAT})),
]
CASES = {
    f"{name} {options or ''} {kind}": (name, options, kind)
    for kinds, names, choices in ROWS
    for name, options, kind in itertools.product(names, choices, kinds)
}


def calls(case: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Arguments of `update_state` for every rank and every shape of weights."""
    kind = CASES[case][2]
    for shape, way in itertools.product(SHAPES, WEIGHTS):
        label = f"{case} | {shape} | {way}"
        rng = np.random.default_rng(zlib.crc32(label.encode()))
        sizes = {
            "one": (),
            "rows": shape[:1],
            "rows, 1": (shape[0], 1),
            "steps": shape[:-1],
            "steps, 1": (*shape[:-1], 1),
            "entries": shape,
        }
        if len(shape) == 1 and (kind in ("one-hot", "classes", "classes, 1", "squeezed")):
            continue
        y, p = (np.asarray(a) for a in DATA[kind](rng, shape))
        y = y.astype("int32" if y.dtype.kind == "i" else "float32")
        p = p.astype("int32" if p.dtype.kind == "i" else "float32")
        # Eighths, whose sums are exact: rates are compared with levels.
        weights = None if way == "none" else rng.integers(1, 9, sizes[way]) / np.float32(8)
        yield label, (y, p, weights)


def result(namespace: Any, case: str, arguments: tuple[Any, ...]) -> np.ndarray:
    name, options, _ = CASES[case]
    metric = getattr(namespace, name)(**options)
    for _ in range(2):
        metric.update_state(*arguments)
    return np.array(metric.result())


def keras_results() -> dict[str, np.ndarray]:
    """Keras's, where it has one: it raises, in words of NumPy, for shapes that do not fit."""
    results = {}
    for case in CASES:
        for label, arguments in calls(case):
            try:
                results[label] = result(keras.metrics, case, arguments)
            except Exception:
                continue
    return results


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("case", CASES)
def test_a_metric_at_every_rank(case: str, expected: Any) -> None:
    known = [(label, arguments) for label, arguments in calls(case) if label in expected]
    assert len(known) > 4
    for label, arguments in known:
        ours, theirs = result(metrics, case, arguments), expected[label]
        assert ours.shape == theirs.shape, label
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6, err_msg=label)


def test_a_function_stands_for_the_metric_of_its_name() -> None:
    for name in ("mean_squared_error", "mean_absolute_error", "poisson", "binary_accuracy"):
        function = getattr(losses, name, None) or getattr(metrics, name)
        metric = metrics.get(function)
        assert type(metric).__name__ == "".join(part.title() for part in name.split("_"))
        assert metric.name == name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_dtype_is_that_of_the_result(dtype: str) -> None:
    kind = "float32" if dtype == "float64" else dtype
    y, p = np.zeros((3, 2)), np.ones((3, 2))
    for name in ("MeanSquaredError", "BinaryAccuracy", "Precision", "AUC", "F1Score", "R2Score"):
        metric = getattr(metrics, name)(dtype=dtype)
        metric.update_state(y, p)
        assert {str(v.dtype) for v in metric.state.values()} == {f"mlx.core.{kind}"}
        assert metric.dtype == kind
        assert type(metric).from_config(metric.get_config()).dtype == kind
    for name in ("MeanSquaredError", "BinaryCrossentropy", "Huber", "Dice"):
        loss = getattr(losses, name)(dtype=dtype)
        assert str(loss(y, p).dtype) == f"mlx.core.{kind}"
        assert type(loss).from_config(loss.get_config()).dtype == kind


def test_labels_may_have_axes_of_size_one_elsewhere() -> None:
    p = softmax(np.random.default_rng(0).normal(size=(1, 2, 3)))
    metric = metrics.SparseCategoricalAccuracy()
    metric.update_state(np.argmax(p, -1).reshape(2, 1), p)
    assert metric.result().item() == 1
    with pytest.raises(ValueError, match=r"expected integer labels of shape \(1, 2\).*got \(3,\)"):
        metric.update_state(np.zeros(3, "int32"), p)


def test_of_equal_scores_the_first_are_the_largest() -> None:
    metric = metrics.Precision(top_k=2)
    metric.update_state([[1, 1, 0, 0]], [[0.5, 0.5, 0.5, 0.5]])
    assert metric.result().item() == 1
