"""Functions that users call take what NumPy takes: arrays of any kind, lists, numbers."""

import inspect

import mlxfunc as mf
import mlx.core as mx
import numpy as np
import pytest

X = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
PROBABILITIES = np.abs(X) / np.abs(X).sum(-1, keepdims=True)
KINDS = {
    "array": lambda a: a,
    "list": lambda a: a.tolist(),
    "float64": lambda a: a.astype("float64"),
    "reversed": lambda a: a[::-1].copy()[::-1],
}
kinds = pytest.mark.parametrize("kind", KINDS)


def functions(module):
    """Its functions of labels and outputs."""
    found = {name: value for name, value in vars(module).items() if inspect.isfunction(value)}
    return [
        function
        for function in found.values()
        if list(inspect.signature(function).parameters)[:2] == ["y_true", "y_pred"]
        and function.__name__ != "ctc"  # tests/parity/test_objects_losses.py
    ]


def close(a, b):
    np.testing.assert_allclose(np.array(a), np.array(b), rtol=1e-6, atol=1e-6)


@kinds
@pytest.mark.parametrize("name", mf.activations.REGISTRY.names())
def test_activations(name, kind):
    options = {"threshold": 0.1, "default_value": 0.0} if name == "threshold" else {}
    function = mf.activations.get(name)
    close(function(KINDS[kind](X), **options), function(mx.array(X), **options))
    if "soft" not in name and name not in ("glu", "sparsemax"):
        close(function(0.3, **options), function(mx.array(0.3), **options))


@kinds
@pytest.mark.parametrize("family", ["constraints", "regularizers"])
def test_constraints_and_regularizers(family, kind):
    registry = getattr(mf, family).REGISTRY
    for name in registry.names():
        function = registry.get(name)
        close(function(KINDS[kind](X)), function(mx.array(X)))


@kinds
@pytest.mark.parametrize("family", ["losses", "metrics"])
def test_losses_and_metrics(family, kind):
    for function in functions(getattr(mf, family)):
        y = np.array([0, 1, 2]) if "sparse" in function.__name__ else np.eye(4)[[0, 1, 2]]
        labels = y.tolist() if kind == "list" else y
        close(function(labels, KINDS[kind](PROBABILITIES)), function(y, mx.array(PROBABILITIES)))


@pytest.mark.parametrize("name", mf.initializers.REGISTRY.names())
def test_initializers(name):
    initializer = mf.initializers.get(name)
    for shape in ((3, 3), [3, 3], np.array([3, 3]), mx.array([3, 3])):
        assert initializer(shape).shape == (3, 3)
    for dtype in ("float32", "float64", np.float32, np.dtype("float32"), mx.float32, None, float):
        assert initializer((3, 3), dtype).dtype == mx.float32
    assert initializer((3, 3), dtype="bfloat16").dtype == mx.bfloat16
    if "identity" not in name.lower() and "orthogonal" not in name.lower():
        assert initializer(3).shape == (3,)


@pytest.mark.parametrize("array", [X, mx.array(X)], ids=["numpy", "mlx"])
def test_an_array_is_an_initializer(array):
    layer = mf.layers.Dense(4, kernel_initializer=array)
    layer.build((None, 3))
    close(layer.get_weights()[0], X)
    again = mf.layers.Dense.from_config(layer.get_config())
    again.build((None, 3))
    close(again.get_weights()[0], X)
    with pytest.raises(ValueError, match="Shapes|broadcast"):
        mf.layers.Dense(5, kernel_initializer=array).build((None, 3))


@kinds
def test_masks_of_arrays(kind):
    x = np.where(X > 0, X, 0)[:, :, None]
    mask = mf.layers.Masking().compute_mask(KINDS[kind](x))
    np.testing.assert_array_equal(np.array(mask), X > 0)
