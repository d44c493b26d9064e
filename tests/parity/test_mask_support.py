"""Which layers pass a mask on, and which say that it ends, against Keras."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import mlxfunc as mf
import keras
import numpy as np
import pytest
from keras.src.backend import get_keras_mask
from mlxfunc.graph import leaves

from cases import CASES, Case

NO_MASK, ENDS = -1, -2
# A mask of all axes but the last is none that these take; Keras refuses it once there is data.
REFUSED = {"softmax", "softmax-axis", "conv-lstm", "conv-lstm-same"}


def rows() -> dict[str, Case]:
    """Two rows of the table for each class."""
    classes: Counter[str] = Counter()
    chosen = {}
    for case in CASES:
        name = type(case.make()).__name__
        classes[name] += case.keras
        if case.keras and classes[name] <= 2:
            chosen[case.name] = case
    return chosen


ROWS = rows()


def drawn(case: Case, inputs: list[Any], layers: Any, mask_of: Any) -> np.ndarray:
    """The rank of each output's mask, where floats come with one; and what says that it ends."""
    masked = [
        layers.Masking()(x) if kind == "float32" else x
        for x, kind in zip(inputs, case.kinds(), strict=True)
    ]
    layer = case.make(layers)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        masks = [mask_of(y) for y in leaves(case.call(layer, *masked))]
    said = [w for w in caught if "mask" in str(w.message) and layer.name in str(w.message)]
    ranks = [NO_MASK if mask is None else len(mask.shape) for mask in masks]
    return np.array(ranks + [ENDS] * len(said))


def keras_results() -> dict[str, np.ndarray]:
    return {
        name: drawn(case, case.symbolic(keras.Input), keras.layers, get_keras_mask)
        for name, case in ROWS.items()
    }


@pytest.mark.parametrize("name", ROWS)
def test_a_mask_passes_where_keras_passes_it(name: str, expected: Any) -> None:
    case = ROWS[name]

    def ours() -> np.ndarray:
        return drawn(case, case.symbolic(), mf.layers, lambda y: y.mask)

    if name in REFUSED:
        with pytest.raises(ValueError, match="expected a mask"):
            ours()
        return
    np.testing.assert_array_equal(ours(), expected[name])


@pytest.mark.parametrize("name", ROWS)
def test_a_layer_is_built_from_the_start_where_keras_says_so(name: str) -> None:
    """And where it has no `build`, which Keras says of some only."""
    ours, theirs = ROWS[name].make(), ROWS[name].make(keras.layers)
    assert ours.built >= theirs.built
    assert ours.built == (type(ours).build is mf.layers.Layer.build)
