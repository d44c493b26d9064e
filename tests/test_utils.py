"""`utils` against Keras, where Keras can be asked; by hand where it cannot."""

import mlxfunc as mf
import keras
import mlx.core as mx
import numpy as np
import pytest
from mlxfunc import utils


@pytest.mark.parametrize(
    "labels, classes",
    [([0, 2, 1], None), ([[0], [3]], 5), ([[0, 1], [2, 0]], None), (2, 4), ([], 3)],
)
def test_to_categorical_equals_keras(labels, classes):
    ours, theirs = (m.utils.to_categorical(labels, classes) for m in (mf, keras))
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == np.float32


@pytest.mark.parametrize("labels", [[0, 3], [-1, 0]])
def test_to_categorical_refuses_classes_out_of_range(labels):
    with pytest.raises(ValueError, match=r"to_categorical: expected classes from 0 to 2, got"):
        utils.to_categorical(labels, 3)


@pytest.mark.parametrize("padding", ["pre", "post"])
@pytest.mark.parametrize("truncating", ["pre", "post"])
@pytest.mark.parametrize("maxlen", [None, 2, 5])
def test_pad_sequences_equals_keras(padding, truncating, maxlen):
    for rows in ([[1], [2, 3, 4], [], [5, 6]], [[[1, 2]], [[3, 4], [5, 6]], []]):
        options = dict(maxlen=maxlen, padding=padding, truncating=truncating, value=9)
        ours, theirs = (m.utils.pad_sequences(rows, **options) for m in (mf, keras))
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


@pytest.mark.parametrize(
    "rows, options, message",
    [
        ([[1]], {"padding": "left"}, "expected padding 'pre' or 'post', got 'left'"),
        ([1, 2], {}, "expected a list of sequences, got 1 at 0"),
        ([[[1, 2]], [[3]]], {}, r"expected steps of shape \(2,\), got \(1,\) at 1"),
        ([[1]], {"value": "pad"}, "expected a number for dtype 'int32', got value 'pad'"),
    ],
)
def test_pad_sequences_refuses(rows, options, message):
    with pytest.raises(ValueError, match=message):
        utils.pad_sequences(rows, **options)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("order", [1, 2])
def test_normalize_equals_keras(axis, order):
    x = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0], [1.0, -2.0, 2.0]])
    ours, theirs = (m.utils.normalize(x, axis, order) for m in (mf, keras))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_normalize_of_columns():
    x = np.array([[3.0, 0.0], [4.0, 0.0]])
    np.testing.assert_allclose(utils.normalize(x, axis=0), [[0.6, 0], [0.8, 0]])


def test_seed_repeats_all_three_generators():
    import random

    def draw():
        utils.set_random_seed(7)
        return random.random(), np.random.rand(), mx.random.normal((3,)).tolist()

    assert draw() == draw()


def test_seed_refuses_what_is_no_seed():
    with pytest.raises(ValueError, match=r"set_random_seed: expected an int in \[0, 2\*\*32\)"):
        utils.set_random_seed("seven")


def test_split_dataset_by_share_and_by_count():
    x, y = np.arange(10), np.arange(10) * 2
    (x_left, y_left), (x_right, y_right) = utils.split_dataset((x, y), left_size=0.8)
    assert x_left.tolist() == list(range(8))
    assert y_right.tolist() == [16, 18]
    assert len(y_left) == 8
    assert x_right.tolist() == [8, 9]
    left, right = utils.split_dataset({"a": x}, left_size=2, right_size=3)
    assert left["a"].tolist() == [0, 1]
    assert right["a"].tolist() == [7, 8, 9]


def test_split_dataset_shuffles_rows_together():
    x = np.arange(20)
    (a, b), (c, _) = utils.split_dataset([x, x * 3], right_size=5, shuffle=True, seed=1)
    assert sorted([*a, *c]) == x.tolist()
    assert a.tolist() != sorted(a)
    np.testing.assert_array_equal(a * 3, b)


@pytest.mark.parametrize(
    "data, sizes, message",
    [
        (np.arange(4), {}, "expected left_size or right_size, got neither"),
        (np.arange(4), {"left_size": 1.5}, r"expected left_size in \[0, 1\] for 4 rows, got 1.5"),
        (np.arange(4), {"left_size": 3, "right_size": 2}, "at most 4 rows in both parts"),
        ([np.arange(4), np.arange(3)], {"left_size": 1}, r"same number of rows, got \[3, 4\]"),
    ],
)
def test_split_dataset_refuses(data, sizes, message):
    with pytest.raises(ValueError, match=f"split_dataset: .*{message}"):
        utils.split_dataset(data, **sizes)
