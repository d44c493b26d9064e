"""Every row of the table, without Keras: specs, any batch, finite gradients, configurations."""

import mlxfunc as mf
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from cases import CASES, Case, randomize

rows = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def leaves(tree) -> list:
    return [leaf for _, leaf in tree_flatten(tree)]


def test_names_are_unique():
    assert len({case.name for case in CASES}) == len(CASES)


def test_loose_rows_say_why():
    assert not [case.name for case in CASES if case.tolerance > 1e-6 and not case.reason]


@rows
@pytest.mark.parametrize("batch, dynamic", [(1, 6), (3, 9)])
def test_inferred_spec_is_the_real_one(case: Case, batch: int, dynamic: int):
    inputs = case.symbolic()
    layer = case.make()
    specs = leaves(case.call(layer, *inputs))
    outputs = leaves(case.call(layer, *map(mx.array, case.inputs(batch, dynamic))))
    for spec, output in zip(specs, outputs, strict=True):
        assert spec.dtype == output.dtype
        assert len(spec.shape) == output.ndim
        for known, size in zip(spec.shape, output.shape, strict=True):
            assert known in (None, size)


@rows
def test_the_graph_computes_what_the_layer_does(case: Case):
    model = case.model()
    layer = model.layers[-1]
    arrays = [mx.array(x) for x in case.inputs(5)]
    for a, b in zip(leaves(model(arrays)), leaves(case.call(layer, *arrays)), strict=True):
        assert mx.array_equal(a, b, equal_nan=True)


@rows
def test_a_sample_does_not_depend_on_the_batch(case: Case):
    model = case.model()
    arrays = case.inputs(4)
    together = leaves(model(arrays))
    alone = leaves(model([x[1:2] for x in arrays]))
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(np.array(a[1:2]), np.array(b), atol=1e-5)


@rows
def test_gradients_are_finite(case: Case):
    model = case.model()
    arrays = [mx.array(x) for x in case.inputs()]
    floats = [k for k, x in enumerate(arrays) if x.dtype == mx.float32]
    model.train()

    def loss(parameters, values):
        model.update(parameters)
        given = dict(zip(floats, values, strict=True))
        outputs = leaves(model([given.get(k, x) for k, x in enumerate(arrays)]))
        return sum(mx.mean(mx.square(y.astype(mx.float32))) for y in outputs)

    parameters, values = model.trainable_parameters(), [arrays[k] for k in floats]
    if not leaves((parameters, values)):
        return  # nothing in integers to differentiate
    gradients = mx.grad(loss, argnums=(0, 1))(parameters, values)
    assert [g.shape for g in leaves(gradients)] == [w.shape for w in leaves((parameters, values))]
    assert all(mx.all(mx.isfinite(g)).item() for g in leaves(gradients))


@rows
def test_the_config_makes_the_same_layer(case: Case):
    layer = case.make()
    twin = type(layer).from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    arrays = [mx.array(x) for x in case.inputs()]
    case.call(layer, *arrays), case.call(twin, *arrays)
    randomize(layer)
    twin.set_weights(layer.get_weights())
    pairs = zip(leaves(case.call(layer, *arrays)), leaves(case.call(twin, *arrays)), strict=True)
    assert all(mx.array_equal(a, b, equal_nan=True) for a, b in pairs)


@rows
def test_the_archive_keeps_it(case: Case, tmp_path):
    model = case.model()
    model.save(tmp_path / "row.mlxfunc")
    again = mf.saving.load_model(tmp_path / "row.mlxfunc")
    arrays = [mx.array(x) for x in case.inputs()]
    pairs = zip(leaves(model(arrays)), leaves(again(arrays)), strict=True)
    assert all(mx.array_equal(a, b, equal_nan=True) for a, b in pairs)
