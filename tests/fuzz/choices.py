"""Random layers with random arguments, and random calls, for the tensors there are."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from cases import CASES, Case
from fuzz.recipe import LayerRecipe, Step

ACTIVATIONS = (
    *("relu", "tanh", "sigmoid", "softmax", "elu", "selu", "gelu", "silu", "softplus", "softsign"),
    *("hard_sigmoid", "hard_silu", "leaky_relu", "relu6", "mish", "log_softmax", "linear"),
)
MERGES = ("Add", "Multiply", "Average", "Maximum", "Minimum", "Subtract", "Concatenate")
Options = Callable[[Random, Any], dict[str, Any]]


def _activation(c: Random) -> dict[str, Any]:
    return {"activation": c.choice(ACTIVATIONS)} if c.random() < 0.6 else {}


def _bias(c: Random) -> dict[str, Any]:
    return {"use_bias": False} if c.random() < 0.2 else {}


def _maybe(c: Random, **options: Any) -> dict[str, Any]:
    """Each option with a probability of .3."""
    return {key: value for key, value in options.items() if c.random() < 0.3}


def _regular(c: Random) -> dict[str, Any]:
    return _maybe(c, kernel_regularizer="l2", bias_regularizer="l1") if c.random() < 0.2 else {}


def _sizes(c: Random, rank: int, low: int, high: int) -> Any:
    """One size for all axes, or one each."""
    if c.random() < 0.5:
        return c.randint(low, high)
    return tuple(c.randint(low, high) for _ in range(rank))


def _rank(x: Any) -> int:
    return len(x.shape) - 2


def _divides(groups: int, x: Any) -> bool:
    """Whether the channels are as many in each group."""
    return (isinstance(x.shape[-1], int) and x.shape[-1] % groups == 0) or groups == 1


def _windows(c: Random, x: Any, paddings: tuple[str, ...]) -> dict[str, Any]:
    rank, strided = _rank(x), c.random() < 0.5
    key = "strides" if strided else "dilation_rate"
    most = 3 if strided else 2
    return {
        "kernel_size": _sizes(c, rank, 1, 3),
        key: _sizes(c, rank, 1, most),
        "padding": c.choice(paddings),
        **_activation(c),
        **_bias(c),
    }


def _conv(c: Random, x: Any) -> dict[str, Any]:
    paddings = ("valid", "same", "same", *(("causal",) if _rank(x) == 1 else ()))
    groups = c.choice([g for g in (1, 1, 1, 2, 3, 4) if _divides(g, x)])
    return {"filters": groups * c.randint(1, 3), "groups": groups, **_windows(c, x, paddings)}


def _transposed(c: Random, x: Any) -> dict[str, Any]:
    options = {"filters": c.randint(1, 4), **_windows(c, x, ("valid", "same"))}
    return options | _maybe(c, output_padding=c.randint(0, 1))


def _depthwise(c: Random, x: Any) -> dict[str, Any]:
    options = _windows(c, x, ("valid", "same", *(("causal",) if _rank(x) == 1 else ())))
    if "strides" in options:  # one stride for all axes, as Keras wants it
        options["strides"] = c.randint(1, 2)
    return options | _maybe(c, depth_multiplier=2)


def _separable(c: Random, x: Any) -> dict[str, Any]:
    return {"filters": c.randint(1, 4), **_depthwise(c, x)}


def _pool(c: Random, x: Any) -> dict[str, Any]:
    options = {"pool_size": _sizes(c, _rank(x), 1, 3), "padding": c.choice(("valid", "same"))}
    return options | _maybe(c, strides=_sizes(c, _rank(x), 1, 3))


def _axis(c: Random, x: Any) -> int:
    return c.choice([-1, -1, *range(1, len(x.shape)), -c.randint(1, len(x.shape) - 1)])


def _axes(c: Random, x: Any) -> Any:
    if c.random() < 0.7:
        return _axis(c, x)
    ndim = len(x.shape)
    return tuple(sorted(c.sample(range(1, ndim), c.randint(1, ndim - 1))))


def _recurrent(c: Random, x: Any, cell: str | None = None) -> dict[str, Any]:
    options: dict[str, Any] = {"units": c.randint(1, 4), **_bias(c)}
    if cell is None or c.random() < 0.3:
        options |= _maybe(c, activation=c.choice(("relu", "sigmoid", "linear", "softsign")))
        options |= _maybe(c, dropout=0.2, recurrent_dropout=0.2)
    return options


def _rnn(c: Random, kind: str) -> Options:
    def options(c: Random, x: Any) -> dict[str, Any]:
        own = {} if kind == "SimpleRNN" else _maybe(c, recurrent_activation="hard_sigmoid")
        if kind == "LSTM":
            own |= _maybe(c, unit_forget_bias=False)
        if kind == "GRU":
            own |= _maybe(c, reset_after=False)
        return _recurrent(c, x) | own | _flow(c)

    return options


def _flow(c: Random) -> dict[str, Any]:
    options = _maybe(c, return_state=True, go_backwards=True, zero_output_for_mask=True)
    options |= {"return_sequences": c.random() < 0.6}
    # Keras's two loops do not agree on the last output of these.
    apart = "zero_output_for_mask" in options and not options["return_sequences"]
    return options if apart else options | _maybe(c, unroll=True)


def _cells(c: Random, x: Any) -> dict[str, Any]:
    cells = [
        LayerRecipe(c.choice(("LSTMCell", "GRUCell", "SimpleRNNCell")), _recurrent(c, x, "cell"))
        for _ in range(c.choice((1, 1, 2, 3)))
    ]
    return {"cell": cells if len(cells) > 1 else cells[0], **_flow(c)}


def _bidirectional(c: Random, x: Any) -> dict[str, Any]:
    kind = c.choice(("SimpleRNN", "LSTM", "GRU", "RNN"))
    inner = _cells(c, x) if kind == "RNN" else _rnn(c, kind)(c, x)
    inner.pop("go_backwards", None)
    merge = c.choice(("concat", "sum", "mul", "ave", None))
    return {"layer": LayerRecipe(kind, inner), "merge_mode": merge}


class _StepShape:
    """What a layer inside TimeDistributed sees of a tensor."""

    def __init__(self, x: Any) -> None:
        self.shape, self.dtype = (x.shape[0], *x.shape[2:]), x.dtype


def _time_distributed(c: Random, x: Any) -> dict[str, Any]:
    inner = random_layer(c, _StepShape(x), wrapped=True)
    return {"layer": inner}


def _attention(c: Random, x: Any) -> dict[str, Any]:
    options = {"num_heads": c.randint(1, 3), "key_dim": c.randint(1, 4)}
    return options | _maybe(c, value_dim=3, output_shape=4, use_bias=False)


def _crop(c: Random, x: Any) -> Any:
    pairs = tuple((c.randint(0, 2), c.randint(0, 1)) for _ in range(_rank(x)))
    if c.random() < 0.3:
        return 1
    return pairs if len(pairs) > 1 else pairs[0]


def _reshape(c: Random, x: Any) -> dict[str, Any]:
    sizes = list(x.shape[1:])
    fixed = [d for d in sizes if isinstance(d, int)]
    c.shuffle(fixed)
    if len(fixed) > 1 and c.random() < 0.5:
        fixed = [fixed[0] * fixed[1], *fixed[2:]]
    if len(fixed) < len(sizes) or c.random() < 0.4:
        fixed.insert(c.randint(0, len(fixed)), -1)
    elif c.random() < 0.3:
        fixed.insert(c.randint(0, len(fixed)), 1)
    return {"target_shape": tuple(fixed) or (-1,)}


def _permute(c: Random, x: Any) -> dict[str, Any]:
    dims = list(range(1, len(x.shape)))
    c.shuffle(dims)
    return {"dims": tuple(dims)}


def _einsum(c: Random, x: Any) -> dict[str, Any]:
    letters = "abcde"[: len(x.shape)]
    out = (*(d if isinstance(d, int) else None for d in x.shape[1:-1]), c.randint(1, 4))
    return {
        "equation": f"{letters},{letters[-1]}z->{letters[:-1]}z",
        "output_shape": out if len(out) > 1 else out[0],
        **_maybe(c, bias_axes="z", activation="relu"),
    }


def _norm(c: Random, x: Any) -> dict[str, Any]:
    return {"axis": _axis(c, x), **_maybe(c, center=False, scale=False, epsilon=1e-2)}


def _group(c: Random, x: Any) -> dict[str, Any]:
    groups = [g for g in (1, 2, 3, 4, 5, -1) if g == -1 or _divides(g, x)]
    return {"groups": c.choice(groups), **_maybe(c, center=False, scale=False)}


def _nothing(c: Random, x: Any) -> dict[str, Any]:
    return {}


def _constant(c: Random, x: Any) -> dict[str, Any]:
    return {"axis": None, "mean": 0.3, "variance": 2.0, **_maybe(c, invert=True)}


# By rank of the input, the batch included: class name → its arguments.
ANY: dict[str, Options] = {
    "Dense": lambda c, x: {"units": c.randint(1, 5), **_activation(c), **_bias(c), **_regular(c)},
    "Activation": lambda c, x: {"activation": c.choice(ACTIVATIONS)},
    "ReLU": lambda c, x: _maybe(c, max_value=1.5, negative_slope=0.1, threshold=0.2),
    "LeakyReLU": lambda c, x: _maybe(c, negative_slope=0.1),
    "ELU": lambda c, x: _maybe(c, alpha=0.7),
    "PReLU": lambda c, x: _maybe(c, shared_axes=sorted(c.sample(range(1, len(x.shape)), 1))),
    "Softmax": lambda c, x: _maybe(c, axis=_axes(c, x)),
    "Dropout": lambda c, x: {"rate": c.choice((0.0, 0.5))},
    "GaussianNoise": lambda c, x: {"stddev": 0.1},
    "GaussianDropout": lambda c, x: {"rate": 0.2},
    "AlphaDropout": lambda c, x: {"rate": 0.2},
    "ActivityRegularization": lambda c, x: {"l1": 0.01, "l2": 0.02},
    "Identity": _nothing,
    "Flatten": _nothing,
    "Reshape": _reshape,
    "Permute": _permute,
    "Rescaling": lambda c, x: {"scale": 0.5, **_maybe(c, offset=-0.25)},
    "Normalization": lambda c, x: {
        "axis": None,
        "mean": 0.3,
        "variance": 2.0,
        **_maybe(c, invert=True),
    },
    "BatchNormalization": lambda c, x: _norm(c, x) | _maybe(c, momentum=0.5, trainable=False),
    "LayerNormalization": lambda c, x: _norm(c, x) | {"axis": _axes(c, x)},
    "RMSNormalization": _nothing,
    "UnitNormalization": lambda c, x: {"axis": _axes(c, x)},
    "GroupNormalization": _group,
    "EinsumDense": _einsum,
}
VECTORS: dict[str, Options] = {"RepeatVector": lambda c, x: {"n": c.randint(1, 4)}}
SEQUENCES: dict[str, Options] = {
    "Conv1D": _conv,
    "Conv1DTranspose": _transposed,
    "DepthwiseConv1D": _depthwise,
    "SeparableConv1D": _separable,
    "MaxPooling1D": _pool,
    "AveragePooling1D": _pool,
    "GlobalMaxPooling1D": lambda c, x: _maybe(c, keepdims=True),
    "GlobalAveragePooling1D": lambda c, x: _maybe(c, keepdims=True),
    "UpSampling1D": lambda c, x: {"size": c.randint(1, 3)},
    "ZeroPadding1D": lambda c, x: {"padding": _crop(c, x)},
    "Cropping1D": lambda c, x: {"cropping": _crop(c, x)},
    "SpatialDropout1D": lambda c, x: {"rate": 0.3},
    "Masking": lambda c, x: _maybe(c, mask_value=0.5),
    "LSTM": _rnn(Random(), "LSTM"),
    "GRU": _rnn(Random(), "GRU"),
    "SimpleRNN": _rnn(Random(), "SimpleRNN"),
    "RNN": _cells,
    "Bidirectional": _bidirectional,
    "TimeDistributed": _time_distributed,
}
IMAGES: dict[str, Options] = {
    "Conv2D": _conv,
    "Conv2DTranspose": _transposed,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "MaxPooling2D": _pool,
    "AveragePooling2D": _pool,
    "GlobalMaxPooling2D": lambda c, x: _maybe(c, keepdims=True),
    "GlobalAveragePooling2D": lambda c, x: _maybe(c, keepdims=True),
    "UpSampling2D": lambda c, x: {
        "size": _sizes(c, 2, 1, 3),
        **_maybe(c, interpolation="bilinear"),
    },
    "ZeroPadding2D": lambda c, x: {"padding": _crop(c, x)},
    "Cropping2D": lambda c, x: {"cropping": _crop(c, x)},
    "SpatialDropout2D": lambda c, x: {"rate": 0.3},
    "TimeDistributed": _time_distributed,
}
VOLUMES: dict[str, Options] = {
    "Conv3D": _conv,
    "Conv3DTranspose": _transposed,
    "MaxPooling3D": _pool,
    "AveragePooling3D": _pool,
    "GlobalMaxPooling3D": lambda c, x: _maybe(c, keepdims=True),
    "GlobalAveragePooling3D": lambda c, x: _maybe(c, keepdims=True),
    "UpSampling3D": lambda c, x: {"size": _sizes(c, 3, 1, 2)},
    "ZeroPadding3D": lambda c, x: {"padding": _crop(c, x)},
    "Cropping3D": lambda c, x: {"cropping": _crop(c, x)},
    "SpatialDropout3D": lambda c, x: {"rate": 0.3},
    "ConvLSTM2D": lambda c, x: {
        "filters": c.randint(1, 3),
        "kernel_size": _sizes(c, 2, 1, 3),
        "padding": c.choice(("valid", "same")),
        **_flow(c),
    },
    "TimeDistributed": _time_distributed,
}
BY_RANK = {2: VECTORS, 3: SEQUENCES, 4: IMAGES, 5: VOLUMES}
INTEGERS: dict[str, Options] = {
    "Flatten": _nothing, "Reshape": _reshape, "Permute": _permute, "Identity": _nothing,
    "Rescaling": lambda c, x: {"scale": 0.5},
}  # fmt: skip


def is_float(x: Any) -> bool:
    return "float" in str(x.dtype)


def random_layer(c: Random, x: Any, wrapped: bool = False) -> LayerRecipe:
    """A layer for one tensor; inside TimeDistributed one that works on every step alike."""
    if not is_float(x):
        table = INTEGERS
    else:
        own = BY_RANK.get(len(x.shape), {})
        table = own if own and c.random() < 0.55 else ANY
    kind = c.choice([k for k in table if not (wrapped and k in ("TimeDistributed", "Masking"))])
    options = table[kind](c, x)
    if wrapped:
        options.pop("return_state", None)
    return LayerRecipe(kind, options)


ROWS: dict[int, list[Case]] = {}
for _case in CASES:
    # A shape of noise is for one shape of inputs, and looked at when noise is drawn.
    if _case.keras and set(_case.kinds()) == {"float32"} and "noise-shape" not in _case.name:
        ROWS.setdefault(len(_case.shapes), []).append(_case)


def random_row(c: Random, tensors: list[Any]) -> tuple[Case, list[int]] | None:
    """A row of the table whose inputs have the ranks of some tensors."""
    case = c.choice(ROWS[c.choice(list(ROWS))])
    refs = []
    for shape in case.shapes:
        fitting = [
            i for i, t in enumerate(tensors) if is_float(t) and len(t.shape) == len(shape) + 1
        ]
        if not fitting:
            return None
        refs.append(c.choice(fitting))
    return case, refs


# One tensor in, one out; the same text for Keras and mlxfunc.
UNARY: dict[str, Callable[[Any, Any], Any]] = {
    "x * 2 + 1": lambda k, x: x * 2 + 1,
    "1 - x": lambda k, x: 1 - x,
    "-x / 3": lambda k, x: -x / 3,
    "2 / (x ** 2 + 1)": lambda k, x: 2 / (x**2 + 1),
    "abs(x)": lambda k, x: abs(x),
    "ops.tanh(x)": lambda k, x: k.ops.tanh(x),
    "ops.exp(-abs(x))": lambda k, x: k.ops.exp(-abs(x)),
    "ops.log1p(abs(x))": lambda k, x: k.ops.log1p(abs(x)),
    "ops.sqrt(x * x + 0.1)": lambda k, x: k.ops.sqrt(x * x + 0.1),
    "ops.square(x)": lambda k, x: k.ops.square(x),
    "ops.mean(x, axis=-1, keepdims=True)": lambda k, x: k.ops.mean(x, axis=-1, keepdims=True),
    "ops.sum(x, axis=1)": lambda k, x: k.ops.sum(x, axis=1),
    "ops.max(x, axis=-1)": lambda k, x: k.ops.max(x, axis=-1),
    "ops.min(x, axis=1, keepdims=True)": lambda k, x: k.ops.min(x, axis=1, keepdims=True),
    "ops.softmax(x, axis=-1)": lambda k, x: k.ops.softmax(x, axis=-1),
    "ops.expand_dims(x, 1)": lambda k, x: k.ops.expand_dims(x, 1),
    "ops.expand_dims(x, -1)": lambda k, x: k.ops.expand_dims(x, -1),
    "ops.cumsum(x, axis=1)": lambda k, x: k.ops.cumsum(x, axis=1),
    "ops.sort(x, axis=-1)": lambda k, x: k.ops.sort(x, axis=-1),
    "ops.maximum(x, 0.1)": lambda k, x: k.ops.maximum(x, 0.1),
    "ops.where(x > 0, x, 0.5)": lambda k, x: k.ops.where(x > 0, x, 0.5),
    "ops.concatenate([x, x], axis=-1)": lambda k, x: k.ops.concatenate([x, x], axis=-1),
    "ops.stack([x, -x], axis=1)": lambda k, x: k.ops.stack([x, -x], axis=1),
    "x[:, :1]": lambda k, x: x[:, :1],
    "x[:, -1]": lambda k, x: x[:, -1],
    "x[..., 1:]": lambda k, x: x[..., 1:],
    "x[..., ::2]": lambda k, x: x[..., ::2],
    "x[:, None]": lambda k, x: x[:, None],
}
BINARY: dict[str, Callable[[Any, Any, Any], Any]] = {
    "x + y": lambda k, x, y: x + y,
    "x - y": lambda k, x, y: x - y,
    "x * y": lambda k, x, y: x * y,
    "x / (y ** 2 + 1)": lambda k, x, y: x / (y**2 + 1),
    "ops.maximum(x, y)": lambda k, x, y: k.ops.maximum(x, y),
    "ops.minimum(x, y)": lambda k, x, y: k.ops.minimum(x, y),
    "ops.where(x > y, x, y)": lambda k, x, y: k.ops.where(x > y, x, y),
}


def one(k: Any, layer: Any, x: Any) -> Any:
    return layer(x)


def listed(k: Any, layer: Any, *xs: Any) -> Any:
    return layer(list(xs))


def spread(k: Any, layer: Any, *xs: Any) -> Any:
    return layer(*xs)


def step_of(layer: Any, text: str, refs: list[int], call: Callable[..., Any] = one) -> Step:
    return Step(text, refs, call, layer)
