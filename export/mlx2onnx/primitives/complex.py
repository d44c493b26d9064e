"""Complex numbers: a complex array is a real one with a last axis of size 2."""

from __future__ import annotations

from typing import Any

import numpy as np
from mlx2onnx.builder import Builder, Value
from mlx2onnx.primitives.registry import Unsupported, primitive


def complex_of(g: Builder, real: Value, imaginary: Value | None = None) -> Value:
    if imaginary is None:
        imaginary = g.op("Sub", real, real)
    return g.op(
        "Concat", g.op("Unsqueeze", real, [-1]), g.op("Unsqueeze", imaginary, [-1]), axis=-1
    )


def part(g: Builder, x: Value, index: int) -> Value:
    return g.op("Gather", x, g.constant(index, np.int64), axis=-1)


def real_part(g: Builder, x: Value) -> Value:
    return part(g, x, 0)


def complex_product(g: Builder, a: Value, b: Value) -> Value:
    (ar, ai), (br, bi) = ((part(g, v, 0), part(g, v, 1)) for v in (a, b))
    real = g.op("Sub", g.op("Mul", ar, br), g.op("Mul", ai, bi))
    return complex_of(g, real, g.op("Add", g.op("Mul", ar, bi), g.op("Mul", ai, br)))


@primitive("Real", "Imag")
def real_or_imag(g: Builder, event: Any, x: Value) -> Value:
    return part(g, x, 0 if event.name == "Real" else 1)


@primitive("Conjugate", elementwise=True)
def conjugate(g: Builder, event: Any, x: Value) -> Value:
    return g.op("Mul", x, np.asarray([1.0, -1.0], np.float32))


@primitive("FFT")
def fft(g: Builder, event: Any, x: Value) -> Value:
    """One DFT node an axis; the real transform halves (or restores) the last one."""
    axes, inverse, real, _ = event.arguments
    last = axes[-1]
    rest = axes[:-1] if real else axes
    if real and not inverse:
        x = _dft(g, event, g.op("Unsqueeze", x, [-1]), last, onesided=1)
    for axis in rest:
        x = _dft(g, event, x, axis, inverse=int(inverse))
    return _inverse_real(g, event, x, last) if real and inverse else x


def _dft(g: Builder, event: Any, x: Value, axis: int, **attributes: Any) -> Value:
    if g.opset >= 20:
        return g.op("DFT", x, None, np.asarray(axis), **attributes)
    return g.op("DFT", x, axis=axis, **attributes)


def _inverse_real(g: Builder, event: Any, x: Value, axis: int) -> Value:
    """Restores the half that a real signal's spectrum repeats, mirrored and conjugated."""
    size = event.shape[axis]
    if not isinstance(size, int):
        raise Unsupported("expected a transform of fixed size")
    x = g.op("Slice", x, [0], [size // 2 + 1], [axis])
    mirrored = np.arange((size - 1) // 2, 0, -1)
    tail = conjugate(g, event, g.op("Gather", x, mirrored, axis=axis))
    whole = _dft(g, event, g.op("Concat", x, tail, axis=axis), axis, inverse=1)
    return real_part(g, whole)
