"""Every array function of mlx.core and every loss of mlx.nn, traced."""

from __future__ import annotations

import inspect

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx2onnx import trace

from tracing import POINTS, B, array, compare, export

X, XY, INT, V = [(B, 4)], [(B, 4), (B, 4)], [((B, 4), "int32")], [(4,)]
INTS = INT * 2
UNIT = [mx.array([[-0.9, -0.5, 0.0, 0.2], [0.1, 0.7, 0.9, 0.99]])]
POSITIVE = [mx.array([[0.1, 0.5, 1.0, 3.0], [2.0, 7.0, 9.0, 100.0]])]
SQUARE = [array(4, 4)]
QUANTIZED = mx.quantize(array(32, 64), group_size=32)
IMAGE2, IMAGE1, IMAGE3 = [(B, 6, 7, 4)], [(B, 6, 4)], [(B, 4, 5, 4, 2)]


def same(names, inputs):
    return {name: (getattr(mx, name), inputs) for name in names.split()}


FUNCTIONS = {
    **same("abs arcsinh arctan asinh atan atleast_1d atleast_2d atleast_3d ceil cos cosh "
           "count_nonzero cummax cummin cumprod cumsum cumulative_prod cumulative_sum degrees diff "
           "empty_like erf exp flatten floor isfinite isinf isnan isneginf isposinf "
           "logical_not logsumexp matrix_norm matrix_transpose max mean median min minmax "
           "nan_to_num negative ones_like permute_dims positive prod radians round sigmoid sign "
           "sin sinh softmax sort square std stop_gradient sum tanh transpose tril triu trunc "
           "var zeros_like argmax argmin argsort all any hadamard_transform", X),
    "squeeze": (lambda x: mx.squeeze(x[:, :1], 1), X),
    "unstack": (lambda x: mx.unstack(x, axis=1), X),
    "unique": (lambda x: mx.unique(x, size=4), [mx.array([3, 1, 3, 2])]),
    **same("acos arccos arcsin asin arctanh atanh erfinv tan expm1", UNIT),
    **same("log log10 log1p log2 reciprocal rsqrt sqrt", POSITIVE),
    **same("add allclose arctan2 array_equal atan2 broadcast_arrays divide equal greater "
           "greater_equal inner isclose kron less less_equal logaddexp maximum minimum multiply "
           "not_equal outer subtract vecdot", XY),
    **same("bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor left_shift "
           "right_shift logical_and logical_or logical_xor", INTS),
    **same("arccosh acosh", [POSITIVE[0] + 1]),
    **same("power pow", [POSITIVE[0], UNIT[0]]),
    **same("floor_divide remainder divmod", [UNIT[0], POSITIVE[0]]),
    **same("diag diagonal trace", SQUARE),
    "addmm": (lambda x: mx.addmm(array(5), x, array(4, 5)), X),
    "arange": (lambda x: x + mx.arange(4), X),
    "argpartition": (lambda x: mx.sort(mx.argpartition(x, 2)), X),
    "as_strided": (lambda x: mx.as_strided(x, (2, 2), (1, 4)), SQUARE),
    "asarray": (lambda x: x + mx.asarray([1.0, 2, 3, 4]), X),
    "astype": (lambda x: mx.astype(x, mx.int32), X),
    "bartlett": (lambda x: x * mx.bartlett(4), X),
    "blackman": (lambda x: x * mx.blackman(4), X),
    "block_masked_mm": (lambda x, y: mx.block_masked_mm(
        x, y, 32, mask_lhs=mx.array([[True, False]]), mask_rhs=mx.array([[True], [True]])),
        [array(32, 64), array(64, 32)], 5e-6),
    "broadcast_to": (lambda x: mx.broadcast_to(x, (3, *x.shape)), X),
    "clip": (lambda x: mx.clip(x, -0.5, 0.5), X),
    "concat": (lambda x, y: mx.concat([x, y], axis=1), XY),
    "concatenate": (lambda x, y: mx.concatenate([x, y], axis=1), XY),
    "conj": (lambda x: mx.imag(mx.conj(mx.fft.fft(x))), X, 5e-6),
    "conjugate": (lambda x: mx.imag(mx.conjugate(mx.fft.fft(x))), X, 5e-6),
    "conv1d": (lambda x: mx.conv1d(x, array(5, 3, 4)), IMAGE1, 5e-6),
    "conv2d": (lambda x: mx.conv2d(x, array(5, 3, 3, 4)), IMAGE2, 5e-6),
    "conv3d": (lambda x: mx.conv3d(x, array(5, 2, 2, 2, 2)), IMAGE3, 5e-6),
    "conv_general": (lambda x: mx.conv_general(x, array(5, 3, 4), flip=True), IMAGE1, 5e-6),
    "conv_transpose1d": (lambda x: mx.conv_transpose1d(x, array(5, 3, 4)), IMAGE1, 5e-6),
    "conv_transpose2d": (lambda x: mx.conv_transpose2d(x, array(5, 3, 3, 4)), IMAGE2, 5e-6),
    "conv_transpose3d": (lambda x: mx.conv_transpose3d(x, array(5, 2, 2, 2, 2)), IMAGE3, 5e-6),
    "convolve": (lambda x: mx.convolve(x, array(3)), [(9,)], 5e-6),
    "depends": (lambda x, y: mx.depends(x, y), XY),
    "dequantize": (lambda x: x + mx.dequantize(*QUANTIZED, group_size=32), [(32, 64)]),
    "einsum": (lambda x: mx.einsum("ij,jk->ki", x, array(4, 5)), X),
    "empty": (lambda x: x + 0 * mx.empty((4,)), X),
    "expand_dims": (lambda x: mx.expand_dims(x, 1), X),
    "eye": (lambda x: x @ mx.eye(4), X),
    "flip": (lambda x: mx.flip(x, axis=(0, 1)), X),
    "full": (lambda x: x + mx.full((4,), 2.0), X),
    "full_like": (lambda x: x + mx.full_like(x, 2.0), X),
    "gather_mm": (lambda x: mx.gather_mm(x, array(5, 4, 3), rhs_indices=mx.array([3, 0])),
                  [array(2, 6, 4)], 5e-6),
    "gather_qmm": (lambda x: mx.gather_qmm(
        x, *mx.quantize(array(3, 32, 64), group_size=32), rhs_indices=mx.array([2, 0]),
        group_size=32), [array(2, 1, 64)], 1e-5),
    "hamming": (lambda x: x * mx.hamming(4), X),
    "hanning": (lambda x: x * mx.hanning(4), X),
    "identity": (lambda x: x @ mx.identity(4), X),
    "imag": (lambda x: mx.imag(mx.fft.fft(x)), X, 5e-6),
    "linspace": (lambda x: x + mx.linspace(0, 1, 4), X),
    "matmul": (lambda x: mx.matmul(x, array(4, 5)), X),
    "meshgrid": (lambda x: mx.meshgrid(x, x), V),
    "moveaxis": (lambda x: mx.moveaxis(x, 0, 1), X),
    "ones": (lambda x: x + mx.ones((4,)), X),
    "pad": (lambda x: mx.pad(x, 1), X),
    "partition": (lambda x: mx.sort(mx.partition(x, 2)), X),
    "put_along_axis": (lambda x: mx.put_along_axis(x, mx.array([[0], [1], [2], [3]]), mx.array(1.0),
                                                   axis=1), SQUARE),
    "quantize": (lambda x: x + mx.dequantize(*mx.quantize(array(32, 64), group_size=32),
                                             group_size=32), [(32, 64)]),
    "quantized_matmul": (lambda x: mx.quantized_matmul(x, *QUANTIZED, group_size=32), [(B, 64)],
                         1e-5),
    "real": (lambda x: mx.real(mx.fft.fft(x)), X, 5e-6),
    "repeat": (lambda x: mx.repeat(x, 2, axis=0), X),
    "reshape": (lambda x: mx.reshape(x, (-1, 2)), X),
    "roll": (lambda x: mx.roll(x, 1), X),
    "searchsorted": (lambda x: mx.searchsorted(mx.array([-1.0, 0, 1]), x), X),
    "slice": (lambda x: mx.slice(x, mx.array([1]), axes=(0,), slice_size=(2, 4)), SQUARE),
    "slice_update": (lambda x: mx.slice_update(x, array(2, 4), mx.array([1]), axes=(0,)), SQUARE),
    "split": (lambda x: mx.split(x, 2, axis=1), X),
    "stack": (lambda x, y: mx.stack([x, y]), XY),
    "swapaxes": (lambda x: mx.swapaxes(x, 0, 1), X),
    "take": (lambda x: mx.take(x, mx.array([2, 0]), axis=1), X),
    "take_along_axis": (lambda x, i: mx.take_along_axis(x, i, axis=1), [*X, *INT]),
    "tensordot": (lambda x: mx.tensordot(x, array(4, 5), axes=1), X),
    "tile": (lambda x: mx.tile(x, 2), X),
    "topk": (lambda x: mx.sort(mx.topk(x, 2)), X),
    "tri": (lambda x: x * mx.tri(4, 4), SQUARE),
    "unflatten": (lambda x: mx.unflatten(x, 1, (2, 2)), X),
    "view": (lambda x: mx.view(x, mx.uint32), INT),
    "where": (lambda x: mx.where(x > 0, x, -1.0), X),
    "zeros": (lambda x: x + mx.zeros((4,)), X),
}  # fmt: skip

NO_STATE = "MLX itself does not export this primitive"
FUNCTIONS_NOT_EXPORTED = {
    "bitwise_invert": (mx.bitwise_invert, INT, NO_STATE),
    "contiguous": (lambda x: mx.contiguous(x.T), X, NO_STATE),
    "from_fp8": (lambda x: mx.from_fp8(x, mx.float32), [((B, 4), "uint8")], NO_STATE),
    "logcumsumexp": (mx.logcumsumexp, X, NO_STATE),
    "segmented_mm": (
        lambda x: mx.segmented_mm(x, array(4, 3), mx.array([[0, 1], [1, 4]], mx.uint32)),
        [array(3, 4)],
        NO_STATE,
    ),
    "to_fp8": (mx.to_fp8, X, NO_STATE),
}
# MLX runs these on GPUs only.
GPU_FUNCTIONS = {"qqmm", "gather_qqmm"}
# Devices, files, transforms, types: nothing that computes an array from arrays.
NOT_ARRAY_FUNCTIONS = {
    "async_eval", "broadcast_shapes", "can_cast", "checkpoint", "clear_cache", "clear_streams",
    "compile", "default_device", "default_stream", "device_count", "device_info",
    "disable_compile", "einsum_path", "enable_compile", "eval", "export_function",
    "export_to_dot", "exporter", "from_dlpack", "get_active_memory", "get_array_buffer_size",
    "get_cache_memory", "get_memory_limit", "get_peak_memory", "get_printoptions", "grad",
    "import_function", "is_available", "isdtype", "issubdtype", "jvp", "load", "new_stream",
    "new_thread_local_stream", "new_thread_unsafe_stream", "printoptions", "reset_peak_memory",
    "result_type", "save", "save_gguf", "save_safetensors", "savez", "savez_compressed",
    "set_cache_limit", "set_default_device", "set_default_stream", "set_memory_limit",
    "set_printoptions", "set_wired_limit", "stream", "synchronize", "value_and_grad", "vjp",
    "vmap",
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name):
    """Every array function of mlx.core runs in ONNX Runtime as in MLX."""
    fn, inputs, *tolerance = FUNCTIONS[name]
    compare(fn, inputs, POINTS, *(tolerance or [1e-6]))


@pytest.mark.parametrize("name", FUNCTIONS_NOT_EXPORTED)
def test_function_that_is_not_exported(name):
    """The reason in the table is the one the error gives."""
    fn, inputs, reason = FUNCTIONS_NOT_EXPORTED[name]
    with pytest.raises(trace.UnsupportedPrimitives, match=reason):
        export(fn, inputs)


def test_every_function_has_a_row():
    """Each callable of mlx.core is exported, listed with the reason, or no array function."""
    public = {
        name for name, value in vars(mx).items()
        if callable(value) and not name.startswith("_") and not inspect.isclass(value)
    }  # fmt: skip
    rows = set(FUNCTIONS) | set(FUNCTIONS_NOT_EXPORTED) | GPU_FUNCTIONS
    assert public == rows | NOT_ARRAY_FUNCTIONS
    share = len(FUNCTIONS) / len(rows)
    print(
        f"\nmlx.core functions exported with parity: {len(FUNCTIONS)} of {len(rows)}, {share:.1%}"
    )
    assert share >= 0.9


LOSSES = {
    "binary_cross_entropy": XY, "cosine_similarity_loss": XY, "hinge_loss": XY, "huber_loss": XY,
    "kl_div_loss": XY, "l1_loss": XY, "log_cosh_loss": XY, "mse_loss": XY, "smooth_l1_loss": XY,
    "cross_entropy": [*X, ((B,), "int32")], "nll_loss": [*X, ((B,), "int32")],
    "gaussian_nll_loss": X * 3, "margin_ranking_loss": X * 3, "triplet_loss": X * 3,
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_loss(name, reduction):
    """Every loss of mlx.nn, its mean over a dynamic batch included."""
    loss = getattr(nn.losses, name)
    compare(lambda *a: loss(*a, reduction=reduction), LOSSES[name], POINTS, 5e-6)


def test_every_loss_has_a_row():
    found = {n for n, value in vars(nn.losses).items()
             if inspect.isfunction(value) and value.__module__ == nn.losses.__name__}  # fmt: skip
    assert {n for n in found if not n.startswith("_")} == set(LOSSES)
