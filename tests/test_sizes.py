"""Sizes are recovered from probes exactly, and constants only when that is certain."""

import mlxfunc  # noqa: F401 - loads a fast BLAS before MLX
import numpy as np
import pytest
from mlx2onnx import sizes
from hypothesis import given
from hypothesis import strategies as st

COEFFICIENT = st.integers(-5, 5)


@given(COEFFICIENT, COEFFICIENT, COEFFICIENT, COEFFICIENT, st.sampled_from(sizes.STARTS))
def test_multilinear_sizes_are_found(a, b, c, d, start):
    """a · n · t + b · n + c · t + d, whatever the coefficients, is told apart."""
    points = sizes.probes(["n", "t"], start)
    values = [a * p["n"] * p["t"] + b * p["n"] + c * p["t"] + d for p in points]
    found = sizes.unify(values, points)
    if isinstance(found, int):
        assert set(values) == {found}
    else:
        at = {"n": 5, "t": 3}
        assert sizes.evaluate(found.formula, at) == a * 15 + b * 5 + c * 3 + d


def test_sizes_that_are_not_linear_are_refused():
    points = sizes.probes(["n"])
    assert sizes.unify([p["n"] // 2 for p in points], points).formula is None
    assert sizes.unify([p["n"] ** 2 for p in points], points).formula is None


def test_sizes_with_the_same_values_are_equal():
    points = sizes.probes(["n"])
    assert sizes.unify([7, 11, 13], points) == sizes.unify([7, 11, 13], points)
    assert sizes.unify([7, 11, 13], points).minus(sizes.unify([6, 10, 12], points)) == 1
    assert sizes.unify([7, 11, 13], points).minus(3) is None


@pytest.mark.parametrize(
    "function, form",
    [
        (lambda n, t: 3 * n, sizes.Scaled(3.0, ("n",), 1)),
        (lambda n, t: 2 / t, sizes.Scaled(2.0, ("t",), -1)),
        (lambda n, t: 1 / (n * t), sizes.Scaled(1.0, ("n", "t"), -1)),
        (lambda n, t: 0.1 * n, None),
        (lambda n, t: np.sqrt(n), None),
        (lambda n, t: 1 / n + 1, None),
    ],
)
def test_constants(function, form):
    points = sizes.probes(["n", "t"])
    values = [np.asarray(function(**p), np.float32) for p in points]
    found = sizes.solve_constant(values, points)
    if form is None and found is not None:
        assert found.factor == pytest.approx(0.1)  # exactly c · n, with a c that is not whole
    else:
        assert found == form


def test_text():
    points = sizes.probes(["n"])
    assert sizes.as_text(sizes.unify([2 * p["n"] + 1 for p in points], points)) == "2·n + 1"
    assert "was 3, 5, 6" in sizes.as_text(sizes.unify([p["n"] // 2 for p in points], points))
