"""Every row of the table, exported and run in ONNX Runtime; whole models; masks."""

import mlx2onnx
import mlxfunc as mf
import numpy as np
import pytest
from mlxfunc import layers
from mlxfunc.graph import leaves

from cases import CASES, Case, randomize
from exporting import export, operators
from models import MODELS

rows = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# ONNX Runtime and MLX sum in different orders.
RTOL, ATOL = 1e-5, 2e-6


@rows
def test_onnx_runtime_gives_what_mlx_does(case: Case):
    tolerance = max(case.tolerance, ATOL)
    exported = export(case.model(), rtol=RTOL, atol=tolerance, verify=(2, 5))
    if case.onnx is not None:
        assert operators(exported) == case.onnx


# whole models ----------------------------------------------------------------------------------

# The most nodes and Transposes that a model may take.
LIMITS = {
    "mlp": (6, 0),
    "vgg-like": (16, 1),
    "conv1d-stack": (13, 1),
    "autoencoder": (22, 0),
    "inception-block": (14, 2),
    "residual-block": (4, 2),
    "small-resnet": (22, 1),
    "two-digits": (13, 0),
    "headline": (15, 1),
    "siamese-tweets": (9, 2),
    "question-answering": (11, 2),
    "stateful-lstm": (7, 1),
    "encoder-decoder": (15, 3),
    "tagger-gru": (22, 2),
    "transformer-block": (22, 3),
    "masked-sequences": (17, 1),
    "time-distributed-model": (8, 0),
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_model_is_no_larger_than_it_need_be(name):
    model = MODELS[name].build()
    exported = export(model, verify=False)
    nodes, transposes = LIMITS[name]
    assert len(exported.graph.node) <= nodes
    assert operators(exported)["Transpose"] <= transposes
    weights = sum(array.nbytes for array in model.get_weights())
    assert exported.ByteSize() <= 1.02 * weights + 4096


@pytest.mark.parametrize("name", ["inception-block", "small-resnet", "vgg-like"])
def test_channels_first_files_have_no_transpose(name):
    model = MODELS[name].build()
    outputs = name == "inception-block"
    exported = export(model, inputs_as_nchw=True, outputs_as_nchw=outputs, verify=(1, 2))
    assert operators(exported)["Transpose"] == 0
    dims = [d.dim_value for d in exported.graph.input[0].type.tensor_type.shape.dim]
    assert dims[1] == 3


def recurrent(kind, time=None, **options):
    x = mf.Input((time, 4), name="x")
    return mf.Model(x, kind(x))


@pytest.mark.parametrize(
    "layer, count",
    [
        (lambda: layers.LSTM(5), 3),
        (lambda: layers.LSTM(5, return_sequences=True), 4),
        (lambda: layers.LSTM(5, return_sequences=True, go_backwards=True), 5),
        (lambda: layers.Bidirectional(layers.GRU(5)), 4),
        (lambda: layers.Bidirectional(layers.GRU(5, return_sequences=True)), 4),
    ],
    ids=["last", "sequences", "backwards", "bidirectional", "bidirectional-sequences"],
)
def test_a_recurrent_layer_is_one_node(layer, count):
    x = mf.Input((None, 4))
    exported = export(mf.Model(x, layer()(x)))
    assert len(exported.graph.node) == count
    found = operators(exported)
    assert found["LSTM"] + found["GRU"] == 1


MASKS = {
    "right": [1, 1, 1, 0, 0, 0],
    "left": [0, 0, 1, 1, 1, 1],
    "holes": [0, 1, 0, 1, 1, 0],
    "all": [1, 1, 1, 1, 1, 1],
    "none": [0, 0, 0, 0, 0, 0],
}


@pytest.mark.parametrize("returns", ["last", "sequences", "states"])
@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_any_mask_is_exact(kind, direction, returns):
    """One native node, whatever is masked; each mask alone and all of them in one batch."""
    x, mask = mf.Input((None, 3), name="x"), mf.Input((None,), dtype="bool", name="mask")
    options = {"return_sequences": returns == "sequences", "return_state": returns == "states"}
    layer = kind(4, go_backwards=direction == "backward", **options)
    layer = layers.Bidirectional(layer) if direction == "both" else layer
    model = mf.Model([x, mask], layer(x, mask=mask))
    randomize(model)
    exported = export(model, verify=False)
    assert len(exported.graph.node) <= 35
    assert sum(operators(exported)[name] for name in ("LSTM", "GRU", "RNN")) == 1
    masks = np.array(list(MASKS.values()), bool)
    batches = [masks, *(masks[k : k + 1] for k in range(len(masks)))]
    for batch in batches:
        values = np.random.default_rng(0).standard_normal((*batch.shape, 3)).astype(np.float32)
        report = mlx2onnx.verify(model, exported, [values, batch], rtol=RTOL, atol=ATOL)
        assert report.ok


def test_a_declared_right_padding_is_shorter():
    ids = mf.Input((None,), dtype="int32", name="ids")
    model = mf.Model(ids, layers.LSTM(4)(layers.Embedding(9, 3, mask_zero=True)(ids)))
    exact, short = export(model), export(model, right_padded=True)
    assert len(short.graph.node) < len(exact.graph.node)
    padded = np.array([[3, 4, 5, 0], [1, 0, 0, 0]], np.int32)
    assert mlx2onnx.verify(model, short, [padded]).ok


def test_layers_inside_keep_no_cell_of_their_own():
    """A cell that ONNX has no operator for becomes a Scan of one step."""
    x = mf.Input((None, 3))
    model = mf.Model(x, layers.LSTM(4, activation="gelu", return_sequences=True)(x))
    assert operators(export(model))["Scan"] == 1


ATTENTION = {
    "multi-head, causal": lambda q, v, m: layers.MultiHeadAttention(1, 2)(
        q, v, use_causal_mask=True
    ),
    "multi-head, in a band": lambda q, v, m: layers.MultiHeadAttention(1, 2, sliding_window=3)(
        q, v
    ),
    "multi-head, with a mask": lambda q, v, m: layers.MultiHeadAttention(1, 2)(
        q, v, attention_mask=m
    ),
    "by dot products": lambda q, v, m: layers.Attention()([q, v], use_causal_mask=True),
    "by sums": lambda q, v, m: layers.AdditiveAttention()([q, v], use_causal_mask=True),
}


@pytest.mark.parametrize("attend", ATTENTION.values(), ids=ATTENTION)
def test_masks_are_as_long_as_their_sequences(attend):
    """Dimensions without a name: those of a mask are not those of another sequence."""
    a, b = (mf.Input((None,), dtype="int32", name=name) for name in "ab")
    mask = mf.Input((None, None), dtype="bool", name="mask")
    q, v = (layers.Embedding(7, 3, mask_zero=True)(x) for x in (a, b))
    model = mf.Model([a, b, mask], attend(q, v, mask))
    ids = [np.random.default_rng(n).integers(1, 7, (2, n), np.int32) for n in (4, 9)]
    arrays = [*ids, np.tri(4, 9, dtype=np.bool_)[None].repeat(2, axis=0)]
    assert mlx2onnx.verify(model, export(model, verify=False), arrays).ok


@pytest.mark.parametrize(
    "make",
    [layers.MaxPooling1D, layers.AveragePooling1D, lambda *a: layers.Conv1D(3, *a)],
    ids=["max", "average", "convolution"],
)
@pytest.mark.parametrize("window, stride", [(1, 2), (1, 4), (2, 2), (2, 3), (2, 5), (3, 2)])
def test_same_padding_of_a_dynamic_size_is_right_at_each(make, window, stride):
    """Also where windows leave gaps: there "same" asks for less than nothing at some sizes."""
    i = mf.Input((None, 2))
    model = mf.Model(i, make(window, stride, "same")(i))
    exported = export(model, verify=False)
    for size in range(1, 12):
        x = np.random.default_rng(size).normal(size=(2, size, 2)).astype(np.float32)
        assert mlx2onnx.verify(model, exported, [x]).ok


@pytest.mark.parametrize("kind", ["SimpleRNN", "GRU", "LSTM"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_sequence_without_a_valid_step_ends_where_it_starts(kind, bidirectional):
    x, mask = mf.Input((None, 3), name="x"), mf.Input((None,), dtype="bool", name="mask")
    start = mf.Input((4,), name="start")
    layer = getattr(layers, kind)(4, return_state=True)
    layer = layers.Bidirectional(layer) if bidirectional else layer
    states = [start] * ((2 if kind == "LSTM" else 1) * (1 + bidirectional))
    model = mf.Model([x, mask, start], layer(x, mask=mask, initial_state=states))
    rng = np.random.default_rng(0)
    valid = np.array([[0, 0, 0], [1, 0, 1], [0, 0, 1]], np.bool_)
    arrays = [rng.random((3, 3, 3), np.float32), valid, rng.random((3, 4), np.float32)]
    assert mlx2onnx.verify(model, export(model, verify=False), arrays).ok


STACKS = {
    "from small to large": lambda: [layers.SimpleRNNCell(1), layers.LSTMCell(4)],
    "from large to small": lambda: [layers.LSTMCell(4), layers.GRUCell(2), layers.GRUCell(1)],
    "by steps": lambda: [layers.LSTMCell(3, activation="gelu"), layers.SimpleRNNCell(1)],
}


@pytest.mark.parametrize("wrap", [lambda layer: layer, layers.Bidirectional], ids=["one", "both"])
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("cells", STACKS.values(), ids=STACKS)
def test_each_state_of_stacked_cells_has_the_size_of_its_cell(cells, masked, wrap):
    """Layers after it count on it."""
    x, mask = mf.Input((None, 3), name="x"), mf.Input((None,), dtype="bool", name="mask")
    layer = wrap(layers.RNN(cells(), return_state=True))
    states = leaves(layer(x, mask=mask if masked else None))[1:]
    model = mf.Model([x, mask] if masked else x, [state[:, -1:] * 2 for state in states])
    randomize(model)
    arrays = [np.random.default_rng(0).random((5, 6, 3), np.float32)]
    arrays += [np.array(list(MASKS.values()), np.bool_)] if masked else []
    assert mlx2onnx.verify(model, export(model, verify=False), arrays).ok
