"""Tracing whole functions and modules: coverage of MLX, dynamic sizes, names, errors."""

from __future__ import annotations

import inspect

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx2onnx import trace
from mlx.utils import tree_flatten
from mlx2onnx.builder import Builder

from tracing import compare, export, sample, session

B, T = "batch", "time"
POINTS = ({B: 1, T: 4, "height": 8, "width": 9}, {B: 3, T: 7, "height": 13, "width": 12})


def array(*shape):
    return mx.array(np.random.default_rng(7).normal(size=shape).astype(np.float32))


def quantized(layer):
    return layer.to_quantized(group_size=32, bits=4)


def warmed(layer):
    """A BatchNorm with statistics other than 0 and 1."""
    layer.running_mean, layer.running_var = array(4), mx.abs(array(4)) + 0.5
    return layer


class Masked(nn.Module):
    """A layer that takes a causal mask."""

    def __init__(self, layer, *, memory=False):
        super().__init__()
        self.layer, self.memory = layer, memory

    def __call__(self, x):
        mask = nn.MultiHeadAttention.create_additive_causal_mask(x.shape[1])
        if isinstance(self.layer, nn.MultiHeadAttention):
            return self.layer(x, x, x, mask)
        if isinstance(self.layer, nn.Transformer):
            return self.layer(x, x, mask, mask, None)
        return self.layer(x, x, mask, None) if self.memory else self.layer(x, mask)


ROWS, SEQUENCE, IMAGE = [(B, 4)], [(B, T, 8)], [(B, "height", "width", 4)]
VOLUME = [(B, 8, 9, 7, 4)]

# layer: how to make it, inputs, tolerance
LAYERS = {
    "ALiBi": (lambda: Attended(), [(B, 4, T, T)], 1e-5),
    "AvgPool1d": (lambda: nn.AvgPool1d(3, 2), [(B, T, 4)]),
    "AvgPool2d": (lambda: nn.AvgPool2d(3, 2, 1), IMAGE),
    "AvgPool3d": (lambda: nn.AvgPool3d(2), VOLUME),
    "BatchNorm": (lambda: warmed(nn.BatchNorm(4)), IMAGE),
    "Bilinear": (lambda: nn.Bilinear(4, 5, 3), [(B, 4), (B, 5)], 5e-6),
    "Conv1d": (lambda: nn.Conv1d(8, 5, 3, 2), SEQUENCE, 5e-6),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, 2, 1, groups=2), IMAGE, 5e-6),
    "Conv3d": (lambda: nn.Conv3d(4, 5, 3), VOLUME, 5e-6),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(8, 5, 3, 2), SEQUENCE, 5e-6),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 5, 3, 2), IMAGE, 5e-6),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 3, 2), VOLUME, 5e-6),
    "Dropout": (lambda: nn.Dropout(0.5), ROWS),
    "Dropout2d": (lambda: nn.Dropout2d(0.5), IMAGE),
    "Dropout3d": (lambda: nn.Dropout3d(0.5), VOLUME),
    "Embedding": (lambda: nn.Embedding(10, 4), [((B, T), "int32")]),
    "GRU": (lambda: nn.GRU(8, 5), [(B, 6, 8)]),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), IMAGE, 5e-6),
    "InstanceNorm": (lambda: nn.InstanceNorm(4, affine=True), IMAGE, 5e-6),
    "LSTM": (lambda: nn.LSTM(8, 5), [(B, 6, 8)]),
    "LayerNorm": (lambda: nn.LayerNorm(8), SEQUENCE),
    "Linear": (lambda: nn.Linear(8, 5), SEQUENCE),
    "MaxPool1d": (lambda: nn.MaxPool1d(3, 2), [(B, T, 4)]),
    "MaxPool2d": (lambda: nn.MaxPool2d(3, 2, 1), IMAGE),
    "MaxPool3d": (lambda: nn.MaxPool3d(2), VOLUME),
    "MultiHeadAttention": (lambda: Masked(nn.MultiHeadAttention(8, 2)), SEQUENCE),
    "QuantizedEmbedding": (lambda: quantized(nn.Embedding(10, 32)), [((B, T), "int32")]),
    "QuantizedLinear": (lambda: quantized(nn.Linear(32, 64)), [(B, 32)], 5e-6),
    "RMSNorm": (lambda: nn.RMSNorm(8), SEQUENCE),
    "RNN": (lambda: nn.RNN(8, 5), [(B, 6, 8)]),
    "RoPE": (lambda: nn.RoPE(8), SEQUENCE, 5e-6),
    "Sequential": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), ROWS),
    "SinusoidalPositionalEncoding": (lambda: nn.SinusoidalPositionalEncoding(8), [(B, T)], 5e-6),
    "Transformer": (lambda: Masked(nn.Transformer(8, 2, 1, 1, 16), memory=True), SEQUENCE, 5e-6),
    "TransformerDecoder": (lambda: Masked(nn.TransformerDecoder(1, 8, 2, 16), memory=True),
                           SEQUENCE, 5e-6),
    "TransformerDecoderLayer": (lambda: Masked(nn.TransformerDecoderLayer(8, 2, 16), memory=True),
                                SEQUENCE, 5e-6),
    "TransformerEncoder": (lambda: Masked(nn.TransformerEncoder(2, 8, 2, 16)), SEQUENCE, 5e-6),
    "TransformerEncoderLayer": (lambda: Masked(nn.TransformerEncoderLayer(8, 2, 16)), SEQUENCE,
                                5e-6),
    "Upsample": (lambda: nn.Upsample(2, "linear", align_corners=True), [(B, 5, 6, 4)], 5e-6),
    **{name: (getattr(nn, name), ROWS) for name in (
        "CELU", "ELU", "GELU", "GLU", "HardShrink", "HardTanh", "Hardswish", "Identity",
        "LeakyReLU", "LogSigmoid", "LogSoftmax", "Mish", "PReLU", "ReLU", "ReLU2", "ReLU6", "SELU",
        "SiLU", "Sigmoid", "Softmax", "Softmin", "Softplus", "Softshrink", "Softsign", "Step",
        "Tanh")},
}  # fmt: skip

# More configurations of some of them.
MORE_LAYERS = {
    "AvgPool2d even": (lambda: nn.AvgPool2d(2), [(B, 8, 6, 4)]),
    "MaxPool2d even": (lambda: nn.MaxPool2d(2), [(B, 8, 6, 4)]),
    "MaxPool2d dynamic": (lambda: nn.MaxPool2d(2), IMAGE),
    "BatchNorm rows": (lambda: warmed(nn.BatchNorm(4, affine=False)), ROWS),
    "GELU approx": (lambda: nn.GELU("tanh"), ROWS),
    "GELU fast": (lambda: nn.GELU("fast"), ROWS),
    "GroupNorm pytorch": (lambda: nn.GroupNorm(2, 4, pytorch_compatible=True), IMAGE, 5e-6),
    "LSTM one row": (lambda: nn.LSTM(8, 5, bias=False), [(6, 8)]),
    "LayerNorm plain": (lambda: nn.LayerNorm(8, affine=False), SEQUENCE),
    "LayerNorm no bias": (lambda: nn.LayerNorm(8, bias=False), SEQUENCE),
    "Linear rows": (lambda: nn.Linear(4, 5), ROWS),
    "Linear no bias": (lambda: nn.Linear(8, 5, bias=False), SEQUENCE),
    "QuantizedLinear 3d": (lambda: quantized(nn.Linear(32, 64)), [(B, T, 32)], 5e-6),
    "RoPE traditional": (lambda: nn.RoPE(8, traditional=True), SEQUENCE, 5e-6),
    "Upsample nearest": (lambda: nn.Upsample((2, 3)), [(B, 5, 6, 4)]),
    "Upsample nearest fraction": (lambda: nn.Upsample(1.5), [(B, 4, 6, 4)]),
    "Upsample linear": (lambda: nn.Upsample(2, "linear"), [(B, 5, 6, 4)], 5e-6),
    "Upsample cubic": (lambda: nn.Upsample(2, "cubic"), [(B, 5, 6, 4)], 5e-6),
    "ResNet": (lambda: ResNet(), IMAGE, 1e-5),
    "Llama": (lambda: Llama(), [((B, T), "int32")], 2e-5),
    "Convolutional net": (lambda: nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.BatchNorm(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, 2),
        lambda x: x.mean(axis=(1, 2)), nn.Linear(8, 3)), [(B, "height", "width", 4)], 5e-6,
        ({B: 1, "height": 14, "width": 15}, {B: 2, "height": 21, "width": 18})),
}  # fmt: skip


class Llama(nn.Module):
    """A small language model as the MLX ecosystem writes them."""

    def __init__(self, dims=32, heads=4, groups=2, tokens=20):
        super().__init__()
        self.heads, self.groups = heads, groups
        self.embed = nn.Embedding(tokens, dims)
        self.norm, self.after = nn.RMSNorm(dims), nn.RMSNorm(dims)
        self.q = nn.Linear(dims, dims, bias=False)
        self.k, self.v = (nn.Linear(dims, dims // heads * groups, bias=False) for _ in range(2))
        self.o = nn.Linear(dims, dims, bias=False)
        self.gate, self.up = (nn.Linear(dims, 64, bias=False) for _ in range(2))
        self.down = nn.Linear(64, dims, bias=False)
        self.rope = nn.RoPE(dims // heads)

    def attend(self, x):
        rows, time, _ = x.shape
        q, k, v = (
            layer(x).reshape(rows, time, count, -1).transpose(0, 2, 1, 3)
            for layer, count in ((self.q, self.heads), (self.k, self.groups), (self.v, self.groups))
        )
        q, k = self.rope(q), self.rope(k)
        x = mx.fast.scaled_dot_product_attention(q, k, v, scale=8**-0.5, mask="causal")
        return self.o(x.transpose(0, 2, 1, 3).reshape(rows, time, -1))

    def __call__(self, tokens):
        x = self.embed(tokens)
        x = x + self.attend(self.norm(x))
        y = self.after(x)
        x = x + self.down(nn.silu(self.gate(y)) * self.up(y))
        return self.embed.as_linear(x)


class ResNet(nn.Module):
    """Two residual blocks, the second with a stride and a projection."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, padding=1)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.c, self.d = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.side = nn.Conv2d(8, 16, 1, 2)
        self.norms = [nn.BatchNorm(c) for c in (8, 8, 16, 16)]
        self.head = nn.Linear(16, 3)

    def __call__(self, x):
        x = nn.relu(self.stem(x))
        y = self.norms[1](self.b(nn.leaky_relu(self.norms[0](self.a(x)))))
        x = nn.relu(x + y)
        y = self.norms[3](self.d(nn.silu(self.norms[2](self.c(x)))))
        return self.head(nn.relu(self.side(x) + y).mean(axis=(1, 2)))


class Attended(nn.Module):
    """ALiBi adds its slopes to attention scores."""

    def __init__(self):
        super().__init__()
        self.bias = nn.ALiBi()

    def __call__(self, scores):
        return self.bias(scores)


LAYERS_NOT_EXPORTED = {
    "AllToShardedLinear": "needs a group of processes",
    "ShardedToAllLinear": "needs a group of processes",
    "QuantizedAllToShardedLinear": "needs a group of processes",
    "QuantizedShardedToAllLinear": "needs a group of processes",
    "FullyShardedModule": "needs a group of processes",
    "QQLinear": "quantizes activations; MLX runs it on GPUs only",
}


def public_layers():
    found = {
        name for name, value in vars(nn).items()
        if inspect.isclass(value) and issubclass(value, nn.Module)
    }  # fmt: skip
    return found - {"Module"}


def layer_rows():
    for name, (make, inputs, *rest) in {**LAYERS, **MORE_LAYERS}.items():
        tolerance = next((r for r in rest if isinstance(r, float)), 1e-6)
        points = next((r for r in rest if isinstance(r, tuple)), POINTS)
        yield pytest.param(make, inputs, tolerance, points, id=name)


@pytest.mark.parametrize("make, inputs, tolerance, points", list(layer_rows()))
def test_layer(make, inputs, tolerance, points):
    """Every layer of mlx.nn runs in ONNX Runtime as in MLX, at two sizes."""
    mx.random.seed(3)
    compare(make(), inputs, points, tolerance)


def test_every_layer_has_a_row():
    """Each public layer is exported or listed with the reason."""
    assert public_layers() == set(LAYERS) | set(LAYERS_NOT_EXPORTED)
    one_process = public_layers() - {
        n for n, why in LAYERS_NOT_EXPORTED.items() if "processes" in why
    }
    share = len(LAYERS) / len(one_process)
    print(f"\nmlx.nn layers with parity: {len(LAYERS)} of {len(one_process)}, {share:.1%}")
    assert share >= 0.95


# functions ------------------------------------------------------------------------------------

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


# sizes, names, errors ---------------------------------------------------------------------------


def ops(model):
    return [node.op_type for node in model.graph.node]


def dims(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def test_names_and_dimensions():
    """Inputs carry the arguments' names, dimensions theirs, weights their paths."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(4, 3)

        def __call__(self, image, scale):
            return {"a": self.encoder(image) * scale, "b": image}

    model = export(Net(), [(None, 4), (1,)])
    assert [i.name for i in model.graph.input] == ["image", "scale"]
    assert [o.name for o in model.graph.output] == ["output_0", "output_1"]
    assert [dims(v) for v in model.graph.input] == [["batch", 4], [1]]
    assert dims(model.graph.output[0]) == ["batch", 3]
    assert {i.name for i in model.graph.initializer} >= {"encoder.weight", "encoder.bias"}


def test_inputs_by_argument_name():
    g = Builder()
    trace.function_to_graph(
        g, lambda x, y: x - y, {"y": ((B, 2), "int32"), "x": mx.zeros((2,), mx.int32)},
        output_names=["difference"],
    )  # fmt: skip
    model = g.finish()
    assert [i.name for i in model.graph.input] == ["y", "x"]
    assert [o.name for o in model.graph.output] == ["difference"]
    assert ops(model) == ["Sub"]


def test_a_module_goes_back_to_training():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    module.train()
    assert ops(export(module, ROWS)) == ["Gemm"]
    assert module.training
    assert all(child.training for child in module.layers)


def test_a_weight_is_stored_once():
    """The same weight, used twice and by itself and transposed, is one initializer."""
    layer = nn.Linear(4, 4)
    model = export(lambda x: layer(layer(x)), ROWS)
    assert ops(model) == ["Gemm", "Gemm"]
    assert len(model.graph.initializer) == 2


def test_a_local_function_may_be_traced():
    """Its weights become inputs, stored once; its nodes are those of the main graph."""
    layer = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm(4), nn.ReLU())
    layer.eval()
    g = Builder()
    value = g.input("x", mx.float32, (B, 4))
    for _ in range(2):
        value = g.call(
            "block", lambda v: trace.lower(g, layer, [v], [((B, 4), mx.float32)])[0], value
        )
    g.output(value, "y")
    model = g.finish()
    assert ops(model) == ["block", "block"]
    assert {"Gemm", "Relu"} <= {n.op_type for n in model.functions[0].node}
    x = array(3, 4)
    (found,) = session(model).run(None, {"x": np.asarray(x)})
    np.testing.assert_allclose(found, np.asarray(layer(layer(x))), rtol=1e-6, atol=1e-6)


def test_export_is_deterministic():
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    first, second = (export(Masked(layer), SEQUENCE).SerializeToString() for _ in range(2))
    assert first == second


def test_weights_that_were_never_evaluated():
    """A fresh module's weights are random numbers still to be drawn."""
    layer = nn.Linear(4, 3)
    compare(lambda x: layer(x) * 2, ROWS, POINTS)


@pytest.mark.parametrize(
    "make, inputs, expected",
    [
        (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), ROWS,
         ["Gemm", "Relu", "Gemm"]),
        (lambda: nn.Linear(8, 5), SEQUENCE, ["MatMul", "Add"]),
        (lambda: nn.LayerNorm(8), SEQUENCE, ["LayerNormalization"]),
        (nn.GELU, ROWS, ["Gelu"]),
        (ResNet, IMAGE,
         ["Transpose", "Conv", "Relu", "Conv", "LeakyRelu", "Conv", "Add", "Relu", "Conv", "Conv",
          "Sigmoid", "Mul", "Conv", "Add", "Relu", "ReduceMean", "Gemm"]),
        (lambda: nn.Sequential(
            nn.Conv2d(4, 8, 3), nn.BatchNorm(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3)),
         [(B, 14, 14, 4)], ["Transpose", "Conv", "Relu", "MaxPool", "Conv", "Transpose"]),
        (lambda: lambda x: mx.softmax(x, axis=1), [(B, 3, 4)], ["Softmax"]),
        (lambda: lambda x: x.mean(axis=0), ROWS, ["ReduceMean"]),
        (lambda: lambda x: mx.clip(x, -1, 1), ROWS, ["Clip"]),
        (lambda: lambda x, i: x[:, i], [(B, 5), mx.array([0, 3])], ["Gather"]),
        (lambda: lambda x: x.reshape(-1, 2, 2).transpose(0, 2, 1).transpose(0, 2, 1), ROWS,
         ["Reshape"]),
    ],
)  # fmt: skip
def test_nodes(make, inputs, expected):
    """Common modules come out as the operators that a person would write."""
    assert ops(export(make(), inputs)) == expected


def test_all_that_is_missing_is_named():
    """Every primitive without a form, with its arguments and the file for a rule."""

    def fn(x):
        noise = mx.random.bernoulli(0.5, x.shape)
        return mx.linalg.inv(x * noise, stream=mx.cpu), x.view(mx.int32)

    with pytest.raises(trace.UnsupportedPrimitives) as caught:
        export(fn, [(4, 4)])
    message = str(caught.value)
    assert "RandomBits" in message
    assert "deterministic" in message
    assert "Inverse(False, True): no rule (export/mlx2onnx/primitives/)" in message
    assert "elementwise.py" in message
    assert {m.primitive for m in caught.value.missing} == {"RandomBits", "Inverse", "View"}


def test_a_constant_that_depends_on_a_size():
    fn = lambda x: x * mx.array(np.sqrt(np.arange(x.shape[0], dtype=np.float32)))[:, None]  # noqa: E731
    with pytest.raises(trace.UnsupportedPrimitives, match="other values at other sizes of batch"):
        export(fn, ROWS)


def test_a_computation_that_depends_on_a_size():
    fn = lambda x: mx.exp(x) if x.shape[0] > 10 else mx.log(x)  # noqa: E731
    with pytest.raises(trace.UnsupportedPrimitives, match="same computation at every size"):
        export(fn, ROWS)


def test_sizes_below_a_kernel():
    """Dimensions are probed at larger sizes when the function refuses the small ones."""
    weight = array(3, 41, 2)
    compare(lambda x: mx.conv1d(x, weight), [(B, T, 2)], ({B: 2, T: 41}, {B: 1, T: 50}), 2e-5)


def test_errors_of_the_function_come_through():
    with pytest.raises(ValueError, match="matmul") as caught:
        export(lambda x: x @ mx.zeros((5, 2)), ROWS)
    assert "while tracing" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "inputs, names, match",
    [
        ([3], {}, r"expected a shape such as \('batch', 32\)"),
        (ROWS, {"input_names": ["a", "b"]}, "expected 1 input names, got 2"),
        (ROWS, {"output_names": ["a", "b"]}, "expected 1 output names, got 2"),
        (ROWS, {"input_names": ["a"], "output_names": ["a"]}, "unique output names, got 'a'"),
    ],
)
def test_bad_requests(inputs, names, match):
    with pytest.raises((TypeError, ValueError), match=match):
        trace.function_to_graph(Builder(), mx.exp, inputs, **names)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [17, 18, 21, 26])
def test_opsets(opset):
    """Every layer, at opsets where operators changed."""
    for make, inputs, tolerance, points in (row.values for row in layer_rows()):
        mx.random.seed(3)
        compare(make(), inputs, points, tolerance, opset)


@pytest.mark.slow
def test_float16():
    """Weights and computation in half precision stay near float32."""
    for make, inputs, _, points in (row.values for row in layer_rows()):
        mx.random.seed(3)
        layer = make()
        arrays = [sample(entry, points[0], i) for i, entry in enumerate(inputs)]
        layer.eval() if isinstance(layer, nn.Module) else None
        expected = [np.asarray(v) for _, v in tree_flatten(layer(*arrays))]
        runner = session(export(layer, inputs, dtype="float16"))
        feeds = {i.name: np.asarray(a) for i, a in zip(runner.get_inputs(), arrays, strict=True)}
        halves = {n: a.astype(np.float16) if a.dtype == np.float32 else a for n, a in feeds.items()}
        for found, wanted in zip(runner.run(None, halves), expected, strict=True):
            assert found.dtype == (np.float16 if wanted.dtype == np.float32 else wanted.dtype)
            np.testing.assert_allclose(found.astype(np.float32), wanted, rtol=2e-2, atol=2e-2)
