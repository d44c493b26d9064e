"""Random graphs against Keras: layers and weights in the same order, the same outputs."""

from __future__ import annotations

import json
from typing import Any

import mlxfunc as mf
import keras
import numpy as np
import pytest
from mlxfunc.graph import leaves

from random_graphs import WIDTH, random_model

SEEDS = range(80)


def names(model: Any) -> list[Any]:
    """The names of all layers in order, nested ones in lists."""
    return [
        [layer.name, names(layer)] if hasattr(layer, "layers") else layer.name
        for layer in model.layers
    ]


def batches(model: Any) -> Any:
    values = [
        np.random.default_rng(k).normal(size=(2, WIDTH)).astype("float32")
        for k in range(len(model.inputs))
    ]
    return values if len(values) > 1 else values[0]


def keras_results() -> dict[str, np.ndarray]:
    results = {}
    for seed in SEEDS:
        model = random_model(keras, seed)
        for k, weight in enumerate(model.get_weights()):
            results[f"{seed}/weight/{k}"] = weight
        for k, output in enumerate(keras.tree.flatten(model(batches(model)))):
            results[f"{seed}/output/{k}"] = np.array(output)
        results[f"{seed}/names"] = np.array(json.dumps(names(model)))
    return results


@pytest.mark.parametrize("seed", SEEDS)
def test_order_of_layers_and_weights(seed: int, expected: Any) -> None:
    model = random_model(mf, seed)
    assert names(model) == json.loads(str(expected[f"{seed}/names"]))
    model.set_weights([expected[key] for key in expected if key.startswith(f"{seed}/weight/")])
    outputs = [expected[key] for key in expected if key.startswith(f"{seed}/output/")]
    for ours, theirs in zip(leaves(model(batches(model))), outputs, strict=True):
        np.testing.assert_allclose(np.array(ours), theirs, atol=1e-6, rtol=1e-6)
