"""One row a primitive and argument: traced, exported, and run in ONNX Runtime against MLX."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx2onnx.trace import UnsupportedPrimitives

from tracing import compare, export

B = "batch"
SIZES = ({B: 1, "time": 3}, {B: 2, "time": 1}, {B: 5, "time": 9})


def f(*shape):
    """The same numbers at every call: a traced function is called several times."""
    return mx.array(np.random.default_rng(7).normal(size=shape).astype(np.float32))


def ints(*values):
    return mx.array(values)


def setitem(key, value):
    def fn(x, *rest):
        x = x + 0
        x[key] = value if not callable(value) else value(x, *rest)
        return x

    return fn


X, Y = (B, 4), (B, 4)
INT = ((B, 4), "int32")
BOOL = ((B, 4), "bool_")
UNIT = mx.array([[-0.9, -0.5, 0.0], [0.1, 0.7, 0.99]])
POSITIVE = mx.array([[0.1, 0.5, 1.0], [2.0, 7.0, 100.0]])
SIGNED = mx.array([-7, 7, -7, 7, 6, -6, 5, -5])
DIVISOR = mx.array([2, -2, -2, 2, 3, 3, -4, -4])
SPECIAL = mx.array([float("nan"), float("inf"), -float("inf"), 0.0, -1.5, 2.5])
W3 = f(6, 3, 4)
QUANTIZED = {(bits, group): mx.quantize(f(32, 64), group_size=group, bits=bits)
             for bits in (2, 4, 8) for group in (32, 64)}  # fmt: skip
SQUARE = mx.quantize(f(64, 64), group_size=32)
STACK = mx.quantize(f(3, 32, 64), group_size=32)

# name, function, inputs, tolerance (1e-6 unless a reason is given)
ROWS = [
    # unary
    *((n, getattr(mx, n), [X]) for n in (
        "abs", "ceil", "cos", "cosh", "erf", "exp", "floor", "negative", "sigmoid", "sign", "sin",
        "sinh", "square", "tanh", "arctan", "arcsinh", "isfinite", "isnan", "isinf", "isneginf",
        "isposinf", "nan_to_num", "logical_not", "degrees", "radians", "stop_gradient", "trunc",
        "round", "zeros_like", "ones_like", "softmax", "logsumexp", "positive",
    ) if hasattr(mx, n)),
    *((n, getattr(mx, n), [UNIT]) for n in ("arccos", "arcsin", "arctanh", "erfinv", "tan")),
    *((n, getattr(mx, n), [POSITIVE]) for n in (
        "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal")),
    ("arccosh", mx.arccosh, [POSITIVE + 1]),
    ("expm1", mx.expm1, [UNIT]),
    ("erfinv at the ends", mx.erfinv, [mx.array([-1.0, 1.0, 0.999999])], 2e-5),  # steep there
    ("round half to even", mx.round, [mx.array([0.5, 1.5, 2.5, -0.5, -1.5])]),
    ("round decimals", lambda x: mx.round(x, 2), [X]),
    ("square int", mx.square, [INT]),
    ("abs int", mx.abs, [INT]),
    ("sign int", mx.sign, [SIGNED]),
    ("floor int", mx.floor, [SIGNED]),
    ("not int", mx.logical_not, [INT]),
    ("special values", lambda x: [mx.isnan(x), mx.isinf(x), mx.isfinite(x), mx.nan_to_num(x)],
     [SPECIAL]),
    # binary
    *((n, getattr(mx, n), [X, Y]) for n in (
        "add", "subtract", "multiply", "divide", "maximum", "minimum", "greater", "greater_equal",
        "less", "less_equal", "equal", "not_equal", "arctan2", "logaddexp", "isclose",
        "array_equal", "allclose", "outer", "inner", "vecdot")),
    *((f"{n} int", getattr(mx, n), [INT, INT]) for n in (
        "add", "subtract", "multiply", "divide", "maximum", "minimum", "greater", "greater_equal",
        "less", "less_equal", "equal", "not_equal", "power", "bitwise_and", "bitwise_or",
        "bitwise_xor", "left_shift", "right_shift", "logical_and", "logical_or", "logical_xor")),
    *((f"{n} bool", getattr(mx, n), [BOOL, BOOL]) for n in (
        "add", "multiply", "maximum", "minimum", "equal", "not_equal", "greater", "less",
        "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor")
      if hasattr(mx, n)),
    *((f"{n} signs", getattr(mx, n), [SIGNED, DIVISOR]) for n in (
        "floor_divide", "remainder", "divmod", "divide")),
    *((f"{n} signs float", getattr(mx, n),
       [SIGNED.astype(mx.float32) * 1.1, DIVISOR.astype(mx.float32)])
      for n in ("floor_divide", "remainder", "divmod")),
    ("power", mx.power, [POSITIVE, UNIT]),
    ("right shift negative", mx.right_shift, [SIGNED, mx.abs(DIVISOR)]),
    ("logaddexp infinite", mx.logaddexp, [SPECIAL[1:5], mx.array([1.0, -float("inf"), 0, 0])]),
    ("arctan2 quadrants", mx.arctan2,
     [mx.array([1.0, -1, 1, -1, 0, 0, 1, -1]), mx.array([1.0, 1, -1, -1, 0, -1, 0, 0])]),
    ("equal nan", lambda x: mx.array_equal(x, x, equal_nan=True), [SPECIAL]),
    ("uint8 wraps", lambda x: (x * x + 250).astype(mx.uint8), [(X, "uint8")]),
    ("uint32 arithmetic", lambda x: x - mx.array(1, mx.uint32), [mx.array([0, 1], mx.uint32)]),
    ("clip", lambda x: mx.clip(x, -0.5, 0.5), [X]),
    ("where", lambda x: mx.where(x > 0, x, 0.1), [X]),
    ("where bool", lambda x: mx.where(x > 0, x > 1, x < -1), [X]),
    ("where int", lambda x: mx.where(x > 1, x, -x), [INT]),
    ("astype", lambda x: [x.astype(t) for t in (mx.int32, mx.int64, mx.bool_, mx.float16)], [X]),
    ("astype narrow", lambda x: (x * 100).astype(mx.uint8), [INT]),
    ("view same width", lambda x: x.view(mx.uint32), [SIGNED]),
    ("scalars", lambda x: (x + 1) * 2 / 3 - 4, [X]),
    ("broadcast", lambda x: x + mx.arange(4.0) * mx.ones((1, 1)), [X]),
    ("depends", lambda x, y: mx.depends(x, y), [X, Y]),
    # reductions
    *((f"{n} {axis} {'kept' if keep else ''}",
       lambda x, n=n, a=axis, k=keep: getattr(mx, n)(x, axis=a, keepdims=k), [(B, 3, 4)])
      for n in ("sum", "prod", "max", "min", "mean", "logsumexp")
      for axis in (0, -1, (1, 2), None) for keep in (False, True)),
    *((f"{n} {axis}", lambda x, n=n, a=axis: getattr(mx, n)(x, axis=a), [(B, 3, 4)])
      for n in ("var", "std", "softmax", "minmax") for axis in (1, -1, None)),
    ("std ddof", lambda x: mx.std(x, axis=1, ddof=1), [(B, 3, 4)]),
    ("var batch", lambda x: mx.var(x, axis=0), [X]),
    *((f"{n} int {axis}", lambda x, n=n, a=axis: getattr(mx, n)(x, axis=a), [INT])
      for n in ("sum", "prod", "max", "min", "all", "any", "mean") for axis in (0, None)),
    *((f"{n} bool", lambda x, n=n: getattr(mx, n)(x, axis=1), [BOOL])
      for n in ("sum", "max", "min", "all", "any", "mean")),
    *((f"{n} {axis}", lambda x, n=n, a=axis: getattr(mx, n)(x, axis=a), [(B, 3, 4)])
      for n in ("argmax", "argmin") for axis in (0, -1, None)),
    ("argmax kept", lambda x: mx.argmax(x, axis=1, keepdims=True), [X]),
    ("argmax int", lambda x: mx.argmax(x, axis=1), [INT]),
    ("median", lambda x: mx.median(x, axis=1), [X]),
    ("count_nonzero", mx.count_nonzero, [INT]),
    # order
    *((f"{n} {axis}", lambda x, n=n, a=axis: getattr(mx, n)(x, axis=a), [(B, 3, 4)])
      for n in ("sort", "argsort") for axis in (0, 1, -1)),
    ("sort int", mx.sort, [INT]),
    ("sort flat", lambda x: mx.sort(x, axis=None), [X]),
    ("argsort stable", mx.argsort, [INT]),
    ("partition", lambda x: mx.sort(mx.partition(x, 2)[..., :2]), [X]),
    ("argpartition", lambda x: mx.sort(mx.take_along_axis(x, mx.argpartition(x, 2), -1)[..., :2]),
     [X]),
    ("topk", lambda x: mx.sort(mx.topk(x, 2)), [X]),
    ("searchsorted", lambda x: [mx.searchsorted(mx.arange(-2.0, 3.0), x, side=s)
                                for s in ("left", "right")], [X]),
    *((f"{n} {axis} {reverse} {inclusive}",
       lambda x, n=n, a=axis, r=reverse, i=inclusive: getattr(mx, n)(
           x, axis=a, reverse=r, inclusive=i), [(B, 3, 4)])
      for n in ("cumsum", "cumprod", "cummax", "cummin")
      for axis, reverse, inclusive in ((0, False, True), (1, True, True), (2, False, False),
                                       (2, True, False))),
    ("cumsum int", mx.cumsum, [INT]),
    ("cumsum bool", lambda x: mx.cumsum(x, axis=1), [BOOL]),
    ("cummax int", lambda x: mx.cummax(x, axis=1), [INT]),
    # shapes
    ("reshape", lambda x: x.reshape(-1, 2), [X]),
    ("reshape two dims", lambda x: x.reshape(x.shape[0] * x.shape[1], 3), [(B, "time", 3)]),
    ("reshape back", lambda x: (x.reshape(-1, 3) * 2).reshape(x.shape), [(B, "time", 3)]),
    ("flatten", lambda x: mx.flatten(x, 1), [(B, 3, 4)]),
    ("flatten all", mx.flatten, [(B, "time", 4)]),
    ("unflatten", lambda x: mx.unflatten(x, 1, (2, 2)), [X]),
    ("expand", lambda x: mx.expand_dims(x, (0, 2)), [X]),
    ("squeeze", lambda x: mx.squeeze(x[:, :1] * 2, 1), [X]),
    ("transpose", lambda x: mx.transpose(x, (2, 0, 1)), [(B, 3, 4)]),
    ("two transposes", lambda x: x.transpose(1, 0, 2).transpose(1, 2, 0), [(B, 3, 4)]),
    ("swapaxes", lambda x: mx.swapaxes(x, 0, 1), [(B, 3, 4)]),
    ("moveaxis", lambda x: mx.moveaxis(x, 0, -1), [(B, 3, 4)]),
    ("tile", lambda x: mx.tile(x, (2, 3)), [X]),
    ("repeat", lambda x: mx.repeat(x, 3, axis=1), [(B, "time", 2)]),
    ("repeat flat", lambda x: mx.repeat(x, 2), [X]),
    ("roll", lambda x: mx.roll(x, 1, axis=1), [X]),
    ("roll flat", lambda x: mx.roll(x, 3), [X]),
    ("concatenate", lambda x, y: mx.concatenate([x, y], axis=1), [X, (B, 2)]),
    ("concatenate dynamic", lambda x, y: mx.concatenate([x, y], axis=0), [X, ("time", 4)]),
    ("stack", lambda x, y: mx.stack([x, y], axis=1), [X, Y]),
    ("split", lambda x: mx.split(x, [1, 3], axis=1), [X]),
    ("split even", lambda x: mx.split(x, 2, axis=1), [X]),
    ("unstack", lambda x: mx.unstack(x, axis=1), [X]),
    ("pad", lambda x: mx.pad(x, ((0, 0), (1, 2)), constant_values=3.0), [X]),
    ("pad edge", lambda x: mx.pad(x, ((0, 0), (1, 2), (2, 0)), mode="edge"), [(B, 3, 4)]),
    ("pad batch", lambda x: mx.pad(x, ((1, 0), (0, 0))), [X]),
    ("atleast", lambda x: [mx.atleast_1d(x), mx.atleast_3d(x)], [X]),
    ("meshgrid", lambda x, y: mx.meshgrid(x, y), [(B,), ("time",)]),
    ("broadcast_to", lambda x: mx.broadcast_to(x[:, None], (x.shape[0], 3, 4)), [X]),
    ("broadcast output", lambda x: mx.broadcast_to(mx.array(2.0), x.shape), [X]),
    ("arange dynamic", lambda x: mx.arange(x.shape[0]) * 2, [X]),
    ("linspace dynamic", lambda x: mx.linspace(0, 1, x.shape[0]) + x[:, 0], [X],
     ({B: 2}, {B: 9})),
    ("eye", lambda x: x @ mx.eye(4), [X]),
    ("tril", lambda x: mx.tril(x @ x.T), [X]),
    ("triu", lambda x: mx.triu(x, 1), [X]),
    ("diag", lambda x: mx.diag(x[0]), [X]),
    ("diagonal", lambda x: mx.diagonal(x @ x.T), [X]),
    ("trace", lambda x: mx.trace(x @ x.T), [X]),
    ("kron", mx.kron, [X, f(2, 2)]),
    ("identity", lambda x: x, [X]),
    ("constant output", lambda x: [x * 2, mx.array([1.0, 2.0])], [X]),
    # slices
    ("slice", lambda x: x[:, 1:3], [X]),
    ("slice steps", lambda x: x[:, ::2], [X]),
    ("slice back", lambda x: x[:, ::-1], [X]),
    ("slice back from", lambda x: x[:, 2:0:-1], [X]),
    ("slice last", lambda x: x[-1], [X]),
    ("slice all but last", lambda x: x[:-1], [("time", 4)], ({"time": 2}, {"time": 9})),
    ("flip dynamic", lambda x: mx.flip(x, axis=0), [X]),
    ("new axis", lambda x: x[None, ..., 1:3], [X]),
    ("diff", mx.diff, [X]),
    ("slice update", setitem((slice(None), slice(1, 3)), 5.0), [X]),
    ("slice update middle", setitem(
        (slice(None), slice(1, 2), slice(0, 2)), lambda x: x[:, 2:, 2:]), [(B, 3, 4)]),
    ("slice update steps", setitem((slice(None), slice(0, 4, 2)), 5.0), [X]),
    *((f"slice at {n}", lambda x, y, n=n: getattr(x.at[:, 1:3], n)(y), [X, (B, 2)])
      for n in ("add", "subtract", "multiply", "divide", "maximum", "minimum")),
    ("dynamic slice", lambda x, s: mx.slice(x, s, axes=(1,), slice_size=(x.shape[0], 2)),
     [X, mx.array([1])]),
    ("dynamic slice update", lambda x, u, s: mx.slice_update(x, u, s, axes=(1,)),
     [X, (B, 2), mx.array([1])]),
    ("dynamic slice update 2", lambda x, u, s: mx.slice_update(x, u, s, axes=(0, 1)),
     [f(4, 5), f(2, 3), mx.array([1, 2])]),
    # gathers
    ("take", lambda x, i: mx.take(x, i, axis=0), [f(4, 3), INT]),
    ("take axis 1", lambda x, i: mx.take(x, i, axis=1), [X, ints(2, 0, -1)]),
    ("take flat", lambda x, i: mx.take(x, i), [X, ints(2, 0)]),
    ("take one", lambda x: mx.take(x, 1, axis=1), [X]),
    ("index", lambda x: x[mx.array([[0, 1], [2, -1]])], [f(4, 3)]),
    ("index uint32", lambda x, i: x[i], [f(4, 3), (("time",), "uint32")]),
    ("index columns", lambda x, i: x[:, i], [(B, 5), ints(0, 4, 2)]),
    ("index last of three", lambda x, i: x[:, :, i], [(B, 2, 5), ints(0, 4, 2)]),
    ("index pairs", lambda x, i, j: x[i, j], [f(3, 4), ints(0, 2), ints(1, -1)]),
    ("index apart", lambda x, i, j: x[i, :, j], [f(3, 4, 5), ints(0, 2), ints(1, -1)]),
    ("index mixed", lambda x, i: x[1:, i], [f(3, 4), ints(0, 2)]),
    ("index each row", lambda x, i: x[mx.arange(x.shape[0]), i], [(B, 4), ((B,), "int32")]),
    ("take_along_axis", lambda x, i: mx.take_along_axis(x, i, axis=1), [X, INT]),
    ("put_along_axis", lambda x, i, y: mx.put_along_axis(x, i, y, axis=1), [f(3, 4),
     mx.array([[0, 1], [1, 2], [3, 0]]), f(3, 2)]),
    # scatters
    ("set rows", setitem(mx.array([0, 2]), 1.0), [f(3, 4)]),
    ("set columns", setitem((slice(None), mx.array([0, 2])), 1.0), [f(3, 4)]),
    ("set pairs", setitem((mx.array([0, 2]), mx.array([1, 3])), 1.0), [f(3, 4)]),
    ("set part of rows", setitem((mx.array([0, 2]), slice(1, 3)), 1.0), [f(3, 4)]),
    ("set masked", lambda x: setitem(x > 0, 5.0)(x), [X]),
    ("set masked values", lambda x: setitem(x > 0, mx.arange(12.0))(x), [f(3, 4)]),
    *((f"rows at {n}", lambda x, i, y, n=n: getattr(x.at[i], n)(y),
       [f(3, 4), ints(0, 1, 0), f(3, 4)])
      for n in ("add", "subtract", "multiply", "divide", "maximum", "minimum")),
    *((f"columns at {n}", lambda x, i, y, n=n: getattr(x.at[:, i], n)(y),
       [f(3, 4), ints(0, 1, 0), f(3, 3)]) for n in ("add", "maximum")),
    # products
    ("matmul", mx.matmul, [X, f(4, 5)]),
    ("matmul batches", mx.matmul, [(B, 3, 4), (B, 4, 2)]),
    ("matmul vector", mx.matmul, [X, f(4)]),
    ("matmul broadcast", mx.matmul, [(B, 2, 3, 4), f(4, 5)]),
    ("addmm", lambda x: mx.addmm(f(5), x, f(4, 5), alpha=0.5, beta=2.0), [X]),
    ("addmm batches", lambda x, y: mx.addmm(mx.ones((3, 2)), x, y), [(B, 3, 4), (B, 4, 2)]),
    ("einsum", lambda x, y: mx.einsum("bij,jk->bik", x, y), [(B, 3, 4), f(4, 5)]),
    ("tensordot", lambda x, y: mx.tensordot(x, y, axes=[[1], [1]]), [X, f(3, 4)]),
    ("gather_mm", lambda x, i: mx.gather_mm(x, W3.transpose(0, 2, 1)[:, :3, :], rhs_indices=i),
     [f(2, 5, 3), ints(4, 1)]),
    ("block masked", lambda x, y: mx.block_masked_mm(
        x, y, 32, mask_out=mx.array([[True, False]]), mask_lhs=mx.array([[True, False]]),
        mask_rhs=mx.array([[True, True], [False, True]])), [f(32, 64), f(64, 64)], 1e-5),
    ("hadamard", mx.hadamard_transform, [(B, 8)]),
    *((f"quantized {bits} {group}", lambda x, q=q, b=bits, g=group: mx.quantized_matmul(
        x, *q, group_size=g, bits=b), [(B, 64)], 1e-5) for (bits, group), q in QUANTIZED.items()),
    ("quantized turned", lambda x: mx.quantized_matmul(
        x, *SQUARE, group_size=32, transpose=False), [(B, 64)], 1e-5),
    ("dequantize", lambda x: mx.dequantize(*SQUARE, group_size=32) + x, [(64, 64)]),
    ("gather_qmm", lambda x, i: mx.gather_qmm(x, *STACK, rhs_indices=i, group_size=32),
     [f(2, 1, 64), mx.array([0, 2], mx.uint32)], 1e-5),
    # convolutions
    *((f"conv1d {k}", lambda x, k=k: mx.conv1d(x, f(6, 3, 4 // k.get("groups", 1)), **k),
       [(B, 12, 4)], 5e-6)
      for k in ({}, {"stride": 2}, {"padding": 1}, {"dilation": 2}, {"groups": 2})),
    ("conv2d", lambda x: mx.conv2d(x, f(6, 3, 2, 4), stride=(2, 1), padding=(1, 0)), [(B, 9, 8, 4)],
     5e-6),
    ("conv2d weight", lambda x, w: mx.conv2d(x, w, padding=1), [(B, 6, 6, 2), f(3, 3, 3, 2)], 5e-6),
    ("conv2d dynamic", lambda x: mx.conv2d(x, f(6, 3, 3, 4), stride=2), [(B, "height", "width", 4)],
     5e-6, ({B: 1, "height": 8, "width": 5}, {B: 2, "height": 17, "width": 12})),
    ("conv3d", lambda x: mx.conv3d(x, f(5, 2, 3, 2, 2), padding=1), [(B, 4, 5, 4, 2)], 5e-6),
    *((f"conv_general {i}", lambda x, k=k: mx.conv_general(
        x, f(6, 3, 2, 4), **k), [(B, 9, 8, 4)], 5e-6)
      for i, k in enumerate((
          {"padding": ([1, 0], [2, 1])}, {"flip": True}, {"kernel_dilation": (2, 1)},
          {"input_dilation": 2}, {"input_dilation": (2, 1), "flip": True},
          {"input_dilation": 2, "stride": 2, "padding": 1},
          {"input_dilation": (3, 2), "padding": ([1, 0], [2, 3]), "kernel_dilation": 2}))),
    ("conv_transpose1d", lambda x: mx.conv_transpose1d(x, f(6, 3, 4), stride=2), [(B, 7, 4)], 5e-6),
    *((f"conv_transpose2d {k}", lambda x, k=k: mx.conv_transpose2d(
        x, f(6, 3, 3, 4 // k.get("groups", 1)), **k), [(B, 5, 6, 4)], 5e-6)
      for k in ({}, {"stride": 2}, {"stride": 2, "padding": 1, "output_padding": 1},
                {"dilation": 2, "stride": 2}, {"groups": 2, "stride": 2})),
    ("conv_transpose3d", lambda x: mx.conv_transpose3d(x, f(3, 2, 2, 2, 2), stride=2),
     [(B, 3, 4, 3, 2)], 5e-6),
    ("convolve", lambda x: mx.convolve(x, f(3), mode="same"), [(9,)], 5e-6),
    # windows
    ("as_strided", lambda x: mx.as_strided(x, (2, 2), (1, 4), 1), [f(3, 4)]),
    ("as_strided dynamic", lambda x: mx.as_strided(x, (x.shape[0] - 1, 2), (1, 1)), [("time",)],
     ({"time": 3}, {"time": 9})),
    # fused
    ("layer_norm", lambda x: mx.fast.layer_norm(x, f(4), f(4), 1e-5), [X]),
    ("layer_norm plain", lambda x: mx.fast.layer_norm(x, None, None, 1e-5), [(B, "time", 4)]),
    ("rms_norm", lambda x: mx.fast.rms_norm(x, f(4), 1e-5), [X]),
    *((f"rope {traditional} {offset}", lambda x, t=traditional, o=offset: mx.fast.rope(
        x, 8, traditional=t, base=10000.0, scale=1.0, offset=o), [(B, 2, "time", 8)])
      for traditional in (False, True) for offset in (0, 5)),
    *((f"attention {mask}", lambda q, k, v, m=mask: mx.fast.scaled_dot_product_attention(
        q, k, v, scale=0.5, mask=m), [(B, 2, "time", 8)] * 3) for mask in (None, "causal")),
    ("attention grouped", lambda q, k, v: mx.fast.scaled_dot_product_attention(
        q, k, v, scale=0.5), [(B, 4, "time", 8), (B, 2, "time", 8), (B, 2, "time", 8)]),
    ("attention mask", lambda q, m: mx.fast.scaled_dot_product_attention(
        q, q, q, scale=0.5, mask=m), [(B, 2, 3, 8), f(3, 3)]),
    # complex
    ("fft", lambda x: [mx.real(mx.fft.fft(x)), mx.imag(mx.fft.fft(x))], [(B, 8)], 1e-5),
    ("rfft", lambda x: mx.abs(mx.fft.rfft(x)), [(B, 7)], 1e-5),
    ("irfft", lambda x: mx.fft.irfft(mx.fft.rfft(x)), [(B, 8)], 1e-5),
    ("fft2 and back", lambda x: mx.real(mx.fft.ifft2(mx.conj(mx.fft.fft2(x)))), [(B, 4, 6)], 1e-5),
    ("stft", lambda x: mx.abs(mx.fft.stft(x, n_fft=8)), [f(64)], 1e-5),
    ("complex product", lambda x: mx.real(mx.fft.fft(x) * mx.fft.fft(x)), [(B, 8)], 2e-5),
]  # fmt: skip


def arguments(row):
    name, fn, inputs, *rest = row
    tolerance = next((r for r in rest if isinstance(r, float)), 1e-6)
    sizes = next((r for r in rest if isinstance(r, tuple)), SIZES)
    return pytest.param(fn, inputs, tolerance, sizes, id=name)


@pytest.mark.parametrize("fn, inputs, tolerance, sizes", [arguments(row) for row in ROWS])
def test_primitive(fn, inputs, tolerance, sizes):
    """The exported function gives MLX's numbers at sizes it was not traced at."""
    compare(fn, inputs, sizes, tolerance)


NEEDS_OPSET_18 = {
    "bitwise_and int", "bitwise_or int", "bitwise_xor int", "rows at maximum", "rows at minimum",
    "columns at maximum",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("opset", [17, 18, 21, 26])
def test_opsets(opset):
    """Every row, at opsets where operators changed; what is too old for one says so."""
    for row in map(arguments, ROWS):
        fn, inputs, tolerance, sizes = row.values
        if opset < 18 and row.id in NEEDS_OPSET_18:
            with pytest.raises(UnsupportedPrimitives, match="opset 18"):
                export(fn, inputs, opset)
        else:
            compare(fn, inputs, sizes, tolerance, opset)
