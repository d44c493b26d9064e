"""Primitives keep their digits near 0 and in their tails: relative errors, not absolute ones."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlxfunc import activations

from tracing import export, session

POWERS = np.logspace(-30, 0, 121).astype(np.float32)
SMALL = np.concatenate([-POWERS[::-1], np.zeros(1, np.float32), POWERS])
LARGE = np.logspace(0, 38, 77).astype(np.float32)
TAILS = np.concatenate([-LARGE[::-1], LARGE])
WHOLE = np.concatenate([SMALL, TAILS, [np.inf, -np.inf, np.nan, -1.0]]).astype(np.float32)
INSIDE = SMALL[1:-1]

DIGITS = 4e-7  # some units in the last place
EXP = 2e-6  # exp of a number near 88 multiplies its rounding by 88


def relative_error(function, points):
    """The largest |ONNX - MLX| / |MLX|; NaN and infinities have to be the same."""
    points = np.asarray(points, np.float32)
    runner = session(export(function, [(("n",), "float32")]))
    found = runner.run(None, {runner.get_inputs()[0].name: points})[0].astype(np.float64)
    with mx.stream(mx.cpu):
        expected = np.asarray(function(mx.array(points))).astype(np.float64)
    usual = np.isfinite(expected)
    np.testing.assert_array_equal(found[~usual], expected[~usual])
    # Below this ONNX Runtime and MLX differ in what they do with subnormal numbers.
    usual &= np.abs(expected) > 1e-37
    found, expected = found[usual], expected[usual]
    return float((np.abs(found - expected) / np.abs(expected)).max(initial=0.0))


@pytest.mark.parametrize(
    "function, points, tolerance",
    [
        (mx.log1p, WHOLE, DIGITS),
        (mx.expm1, WHOLE, EXP),
        (lambda x: -mx.expm1(-x), WHOLE, EXP),
        (lambda x: mx.log1p(-mx.abs(x)), INSIDE, DIGITS),
        (lambda x: mx.log1p(mx.expm1(x)), SMALL, 2 * DIGITS),
        (activations.elu, WHOLE, DIGITS),
        (activations.selu, WHOLE, DIGITS),
        (activations.celu, WHOLE, DIGITS),
        (activations.softplus, SMALL, DIGITS),
        (activations.gelu, SMALL, DIGITS),
        (activations.silu, SMALL, DIGITS),
        (activations.mish, SMALL, DIGITS),
        (activations.tanh, WHOLE, DIGITS),
        (nn.log_sigmoid, SMALL, DIGITS),
        (nn.softplus, WHOLE, EXP),
        (mx.sinh, SMALL, DIGITS),
        (mx.arcsinh, WHOLE, DIGITS),
        (mx.arctanh, INSIDE, DIGITS),
        (lambda x: mx.arccosh(1 + mx.abs(x)), SMALL, DIGITS),
        (mx.sin, SMALL, DIGITS),
        (mx.tan, SMALL, DIGITS),
        (mx.arcsin, SMALL, DIGITS),
        (mx.arctan, WHOLE, DIGITS),
        (mx.erfinv, INSIDE, 2e-6),
        (mx.exp, SMALL, DIGITS),
        (lambda x: mx.log2(mx.abs(x)), WHOLE, DIGITS),
        (lambda x: mx.log10(mx.abs(x)), WHOLE, DIGITS),
        (lambda x: mx.log(mx.abs(x)), WHOLE, DIGITS),
        (lambda x: mx.sqrt(mx.abs(x)), WHOLE, DIGITS),
        (lambda x: mx.rsqrt(mx.abs(x)), WHOLE, DIGITS),
        (lambda x: mx.sigmoid(x), SMALL, DIGITS),
        (lambda x: mx.logaddexp(x, mx.array(0.0)), WHOLE, EXP),
        (lambda x: mx.logaddexp(x, 2 * x), WHOLE, DIGITS),
        (lambda x: mx.arctan2(x, mx.array(2.0)), WHOLE, DIGITS),
        (lambda x: mx.logsumexp(mx.stack([x, x + 1], -1), -1), SMALL, DIGITS),
        (lambda x: mx.softmax(mx.stack([x, x * 2], -1), -1), SMALL, DIGITS),
        (lambda x: mx.mean(mx.stack([x, x * 2], -1), -1), SMALL, DIGITS),
        (lambda x: mx.var(mx.stack([x, x * 2], -1), -1), SMALL[np.abs(SMALL) > 1e-15], DIGITS),
        (lambda x: mx.linalg.norm(mx.stack([x, x * 2], -1), axis=-1),
         SMALL[np.abs(SMALL) > 1e-15], DIGITS),
    ],
)  # fmt: skip
def test_digits(function, points, tolerance):
    assert relative_error(function, points) < tolerance


def test_what_neither_keeps():
    """ONNX Runtime's Sigmoid ends at 2e-8, and MLX's erf on the CPU is right to 1e-7 in all."""
    assert relative_error(mx.sigmoid, [-80.0]) == pytest.approx(1, abs=1e-3)
    runner = session(export(mx.erf, [(("n",), "float32")]))
    found = runner.run(None, {runner.get_inputs()[0].name: SMALL})[0]
    exact = np.array([math.erf(float(x)) for x in SMALL])
    np.testing.assert_allclose(found, exact, rtol=DIGITS, atol=1e-37)
