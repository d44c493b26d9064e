"""Whole models: build, run, take a training step, save, load, export with verification."""

import math

import mlxfunc as mf
import mlx.core as mx
import numpy as np
import pytest

from models import MODELS

NAMES = [
    pytest.param(name, marks=pytest.mark.slow if whole.large else ())
    for name, whole in MODELS.items()
]


def outputs(model, x):
    y = model(x)
    return y if isinstance(y, list) else [y]


@pytest.fixture(autouse=True)
def seeded():
    mf.utils.set_random_seed(0)


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_model_trains_saves_and_loads(name, tmp_path):
    whole = MODELS[name]
    model = (whole.fewer or whole.build)()
    x = whole.inputs(model)
    optimizer = whole.optimizer() if callable(whole.optimizer) else whole.optimizer
    model.compile(optimizer, whole.loss, loss_weights=whole.loss_weights)
    targets = whole.targets(model)
    before = [np.array(w) for w in model.trainable_weights]
    loss = model.train_on_batch(x, targets if len(targets) > 1 else targets[0])
    assert math.isfinite(loss if np.ndim(loss) == 0 else loss[0])
    after = [np.array(w) for w in model.trainable_weights]
    moved = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert all(moved) if name not in SOME_STAY else any(moved)

    model.save(tmp_path / "model.mlxfunc")
    loaded = mf.models.load_model(tmp_path / "model.mlxfunc")
    reset(model), reset(loaded)
    for a, b in zip(outputs(model, x), outputs(loaded, x), strict=True):
        assert mx.array_equal(a, b)


# A dead ReLU, or an Embedding row that no input names, need not move.
SOME_STAY = {"autoencoder", "vgg-like", "visual-question-answering", "video-question-answering"}


def reset(model):
    for layer in model.layers:
        if getattr(layer, "stateful", False):
            layer.reset_states()


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_model_exports_with_proof(name, tmp_path):
    whole = MODELS[name]
    model = whole.build()
    verify = whole.fewer is None and ((1,) if whole.large else True)
    exported = model.export(tmp_path / "model.onnx", verify=verify)
    assert (tmp_path / "model.onnx").exists()
    if whole.fewer is not None:
        whole.fewer().export(tmp_path / "fewer.onnx", verify=(1,))
    inputs = [value.name for value in exported.graph.input]
    assert inputs == list(model.input_names)
    for op, count in (whole.onnx or {}).items():
        assert sum(node.op_type == op for node in exported.graph.node) == count


def test_functional_and_sequential_twins_are_equal():
    functional, sequential = MODELS["mlp"].build(), MODELS["mlp-sequential"].build()
    sequential.set_weights(functional.get_weights())
    x = np.random.default_rng(0).normal(size=(5, 784))
    assert mx.array_equal(functional(x), sequential(x))


def test_node_api_of_the_siamese_lstm():
    model = MODELS["siamese-tweets"].build()
    shared = model.get_layer("shared")
    assert shared.get_input_at(0) is model.inputs[0]
    assert shared.get_input_at(1) is model.inputs[1]
    assert shared.output_shape == (None, 64)
    with pytest.raises(AttributeError, match=r"shared: .*get_output_at\(node_index\)"):
        _ = shared.output
