"""What holds for every model, tried on random ones with sharing and nesting."""

import io

import mlxfunc as mf
import mlx.core as mx
import numpy as np
from mlxfunc import models, saving
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from mlxfunc.graph import leaves

from random_graphs import WIDTH, random_model

# A random model is a seed: what fails is made again by `random_model(mf, seed)`.
seeds = st.integers(0, 10**6)
tried = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def data(model, batch=3):
    return [
        np.random.default_rng(k).normal(size=(batch, WIDTH)).astype(np.float32)
        for k in range(len(model.inputs))
    ]


def equal(first, second, x):
    pairs = zip(leaves(first(x)), leaves(second(x)), strict=True)
    return all(mx.array_equal(a, b).item() for a, b in pairs)


def sharing(model):
    """Which weights are one array, by the paths through layers that lead to them."""
    ids: dict[int, int] = {}

    def visit(layer, path):
        for inner in layer.layers if isinstance(layer, mf.Model) else []:
            yield from visit(inner, (*path, inner.name))
        if not isinstance(layer, mf.Model):
            yield path, [ids.setdefault(id(w), len(ids)) for w in layer.weights]

    return list(visit(model, ()))


@tried
@given(seeds)
def test_parameters_are_listed_once(seed):
    model = random_model(mf, seed)
    arrays = [array for _, array in tree_flatten(model.parameters())]
    assert len({id(a) for a in arrays}) == len(arrays) == len(model.weights)
    assert {id(a) for a in arrays} == {id(w) for w in model.weights}
    assert len(model.get_weights()) == len(arrays)
    assert model.count_params() == sum(a.size for a in arrays)


@tried
@given(seeds)
def test_a_config_makes_the_same_model_with_the_same_sharing(seed):
    model = random_model(mf, seed)
    for twin in (
        mf.Model.from_config(model.get_config()),
        models.clone_model(model),
        models.model_from_json(model.to_json()),
    ):
        assert twin.get_config() == model.get_config()
        assert sharing(twin) == sharing(model)
        twin.set_weights(model.get_weights())
        assert equal(model, twin, data(model))
        assert not {id(w) for w in twin.weights} & {id(w) for w in model.weights}


@settings(tried, max_examples=20)
@given(seeds)
def test_an_archive_gives_an_equal_model(tmp_path, seed):
    model = random_model(mf, seed)
    model.save(tmp_path / "m.mlxfunc")
    loaded = saving.load_model(tmp_path / "m.mlxfunc")
    assert sharing(loaded) == sharing(model)
    assert equal(model, loaded, data(model))


@tried
@given(seeds, st.integers(0, 100))
def test_a_model_cut_at_a_layer(seed, pick):
    """The part before and the part after share the weights, and together are the whole."""
    model = random_model(mf, seed, nesting=0)
    nodes = [node for node in model.graph.nodes if node.inputs]
    cut = nodes[pick % len(nodes)].outputs[0]
    before = mf.Model(model.inputs, cut)
    after = mf.Model([*model.inputs, cut], model.output)
    x = data(model)
    assert equal(model, lambda v: after([*v, before(v)]), x)
    ids = {id(w) for w in model.weights}
    assert {id(w) for w in [*before.weights, *after.weights]} <= ids
    twin = mf.Model.from_config(after.get_config())
    twin.set_weights(after.get_weights())
    assert equal(model, lambda v: twin([*v, before(v)]), x)


@tried
@given(seeds, st.data())
def test_freezing_any_layers(seed, draw):
    model = random_model(mf, seed)
    frozen = [layer for layer in model.layers if draw.draw(st.booleans())]
    for layer in frozen:
        layer.trainable = False
    still = {id(w) for layer in frozen for w in layer.weights}
    moving = {id(w) for w in model.weights} - still
    assert {id(w) for w in model.trainable_weights} == moving
    assert {id(w) for _, w in tree_flatten(model.trainable_parameters())} == moving
    assert len(mf.Model.from_config(model.get_config()).trainable_weights) == len(moving)
    model.trainable = True
    assert len(model.trainable_weights) == len(model.weights)


@settings(tried, max_examples=25)
@given(seeds)
def test_a_model_in_a_model_computes_the_same(seed):
    model = random_model(mf, seed)
    inputs = [mf.Input((WIDTH,)) for _ in model.inputs]
    whole = mf.Model(inputs, model(inputs if len(inputs) > 1 else inputs[0]))
    assert equal(model, whole, data(model))
    assert [id(w) for w in whole.weights] == [id(w) for w in model.weights]
    text = io.StringIO()
    whole.summary(print_fn=lambda line: text.write(line), expand_nested=True)
    assert f"Total params: {model.count_params():,}" in text.getvalue()
