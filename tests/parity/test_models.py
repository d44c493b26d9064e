"""Every whole model against Keras: one text builds both, one line carries the weights over."""

from __future__ import annotations

import json
import re
from functools import partial
from types import SimpleNamespace
from typing import Any

import mlxfunc as mf
import keras
import numpy as np
import pytest
from mlx.utils import tree_flatten

from models import MODELS
from renamed import for_keras

# Full size is minutes a model in Keras's NumPy backend.
REDUCED = {
    "vgg-like": {"size": 44},
    "visual-question-answering": {"size": 56},
    "video-question-answering": {"frames": 3, "size": 56},
}
# Automatic names: Keras's class is Functional, and its attention holds a Dropout that counts.
RENAMED = {
    "model-as-layer": {"functional": "model"},
    "transformer-block": {"dropout_1": "dropout"},
}


def dense(*args: Any, input_dim: int | None = None, **kwargs: Any) -> Any:
    """Keras's Dense, with the argument that Keras 3 has dropped."""
    first = {} if input_dim is None else {"input_shape": (input_dim,)}
    return keras.layers.Dense(*args, **kwargs, **first)


def unnamed_input(shape: tuple, **kwargs: Any) -> Any:
    """Keras's Input, which does not name sizes."""
    return keras.Input(tuple(None if isinstance(d, str) else d for d in shape), **kwargs)


def keras_builder(name: str) -> Any:
    build = MODELS[name].build
    function, args = (build.func, build.args) if isinstance(build, partial) else (build, ())
    library = SimpleNamespace(Input=unnamed_input, Model=keras.Model, Sequential=keras.Sequential)
    script = for_keras("architectures", Dense=dense, mf=library)
    return partial(getattr(script, function.__name__), *args, **REDUCED.get(name, {}))


def runs(model: Any, x: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of two calls: a stateful model goes on from where it was."""
    values = list(x.values())
    given = values if len(values) > 1 else values[0]
    return [np.array(y) for _ in range(2) for _, y in tree_flatten(model(given))]


def shapes(layer: Any) -> list[list[int | None]]:
    """Of the outputs of the layer's first call."""
    first = layer.get_output_at(0) if isinstance(layer, mf.Layer) else layer.output
    return [[d if isinstance(d, int) else None for d in t.shape] for _, t in tree_flatten(first)]


def description(model: Any) -> dict[str, Any]:
    """What both libraries say about a model."""
    lines: list[str] = []
    model.summary(print_fn=lambda text, **_: lines.append(text))
    totals = re.findall(r"\S+ params: .*", "\n".join(lines))
    return {
        "layers": [layer.name for layer in model.layers],
        "shapes": [shapes(layer) for layer in model.layers],
        "params": [layer.count_params() for layer in model.layers],
        "total": model.count_params(),
        "summary": [line.replace(".00 B)", " B)") for line in totals],
    }


def result(name: str) -> dict[str, np.ndarray]:
    """Keras's model with our weights: what it is, what it computes, its weights."""
    mf.clear_session()
    keras.backend.clear_session()
    random = np.random.default_rng(5)
    ours, theirs = MODELS[name].build(**REDUCED.get(name, {})), keras_builder(name)()
    # No bias is left at zero.
    ours.set_weights(
        [w if w.ndim > 1 else random.normal(size=w.shape, scale=0.1) for w in ours.get_weights()]
    )
    theirs.set_weights(ours.get_weights())
    arrays = {f"{name}/description": np.array(json.dumps(description(theirs)))}
    arrays |= {f"{name}/weight/{k}": w for k, w in enumerate(theirs.get_weights())}
    outputs = runs(theirs, MODELS[name].inputs(ours))
    return arrays | {f"{name}/output/{k}": y for k, y in enumerate(outputs)}


def keras_results() -> dict[str, np.ndarray]:
    small = [name for name, whole in MODELS.items() if not whole.large]
    return {key: array for name in small for key, array in result(name).items()}


def compare(name: str, expected: Any) -> None:
    def numbered(what: str) -> list[np.ndarray]:
        keys = [key for key in expected if key.startswith(f"{name}/{what}/")]
        return [expected[key] for key in keys]

    mf.clear_session()
    whole = MODELS[name]
    ours = whole.build(**REDUCED.get(name, {}))
    theirs = json.loads(str(expected[f"{name}/description"]))
    theirs["layers"] = [RENAMED.get(name, {}).get(layer, layer) for layer in theirs["layers"]]
    assert description(ours) == theirs
    ours.set_weights(numbered("weight"))
    for y, keras_y in zip(runs(ours, whole.inputs(ours)), numbered("output"), strict=True):
        np.testing.assert_allclose(y, keras_y, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name, whole in MODELS.items() if not whole.large])
def test_the_same_script_gives_the_same_model(name: str, expected: Any) -> None:
    compare(name, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, whole in MODELS.items() if whole.large])
def test_the_same_script_gives_the_same_large_model(name: str) -> None:
    compare(name, result(name))
