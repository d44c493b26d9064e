"""What is used twice is stored once, or written once as a local function."""

import mlx2onnx
import mlxfunc as mf
import numpy as np
import pytest
from mlxfunc import layers

from exporting import dims, export, operators
from models import MODELS


def test_a_shared_layer_is_stored_once():
    a, b = mf.Input((3, 4), name="a"), mf.Input((3, 4), name="b")
    dense, lstm = layers.Dense(5), layers.LSTM(6)
    both = layers.concatenate([lstm(dense(a)), lstm(dense(b))])
    model = mf.Model([a, b], layers.Dense(2)(both))
    exported = export(model)
    contents = mlx2onnx.inspect(exported)
    assert contents.weight_bytes < 1.1 * sum(w.nbytes for w in model.get_weights()) + 400
    assert contents.shared["lstm/Wx"] == 2
    assert contents.shared["dense/weight"] == 2


def test_a_dense_of_vectors_and_of_sequences_is_stored_once():
    a, b = mf.Input((4,), name="a"), mf.Input((3, 4), name="b")
    dense = layers.Dense(50)
    exported = export(mf.Model([a, b], [dense(a), dense(b)]))
    assert mlx2onnx.inspect(exported).shared["dense/weight"] == 2


def two_digits():
    return MODELS["two-digits"].build()


def test_a_reused_model_may_be_a_function():
    model = two_digits()
    inlined, called = export(model), export(model, functions=True, verify=(1, 3))
    assert [f.name for f in called.functions] == ["vision"]
    assert operators(called)["vision"] == 2
    # Weights are inputs of the function: ONNX Runtime copies what a body holds at every call.
    assert called.functions[0].ByteSize() < 2000
    sizes = [mlx2onnx.inspect(m).weight_bytes for m in (inlined, called)]
    assert abs(sizes[0] - sizes[1]) < 200


def test_a_model_that_is_called_at_other_sizes_is_another_function():
    """Padding, for one, follows from the sizes of the image."""
    i = mf.Input((None, None, 3))
    y = layers.Conv2D(4, 3, strides=2, padding="same")(i)
    inner = mf.Model(i, layers.GlobalMaxPooling2D()(y), name="inner")
    a, b = mf.Input((8, 8, 3), name="a"), mf.Input((None, 6, 3), name="b")
    model = mf.Model([a, b], layers.add([inner(a), inner(a), inner(b)]))
    exported = export(model, functions=True)
    assert [f.name for f in exported.functions] == ["inner", "inner_1"]
    images = [
        np.random.default_rng(0).random((2, h, w, 3), np.float32) for h, w in ((8, 8), (5, 6))
    ]
    assert mlx2onnx.verify(model, exported, images).ok


def test_a_function_gives_the_masks_that_are_made_in_it():
    i = mf.Input((None,), dtype="int32")
    words = layers.Embedding(9, 4, mask_zero=True)(i)
    inner = mf.Model(i, layers.Dense(4)(words), name="inner")
    a, b = (mf.Input((None,), dtype="int32", name=name) for name in "ab")
    reader = layers.LSTM(3)
    exported = export(mf.Model([a, b], [reader(inner(a)), reader(inner(b))]), functions=True)
    assert [len(f.output) for f in exported.functions] == [2]


@pytest.mark.parametrize("functions", [False, True])
def test_the_names_of_dimensions_in_a_model_are_those_of_the_call(functions):
    """ONNX Runtime takes dimensions of one name for equal, and shares memory between them."""
    i = mf.Input(("steps", 4))
    y = layers.ReLU()(layers.Conv1D(4, 1)(i))
    inner = mf.Model(i, layers.Conv1D(8, 3, padding="same")(layers.Activation("tanh")(y)))
    a, b = mf.Input(("p", 4), name="a"), mf.Input(("q", 4), name="b")
    model = mf.Model([a, b], [inner(a), inner(b)])
    exported = export(model, functions=functions)
    assert [dims(v) for v in exported.graph.output] == [["batch", "p", 8], ["batch", "q", 8]]
    assert len(exported.functions) == functions


def halves(x, y):
    return x / (y * y + 1)


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize(
    "inner_shape, shape, build",
    [
        ((None, None, 2), (7, 7, 2), halves),
        (("rows", "columns", 2), ("n", 5, 2), lambda x, y: x + y[:, :1]),
    ],
    ids=["free", "named"],
)
def test_sizes_that_a_call_fixes_hold_in_the_model(inner_shape, shape, build, functions):
    inner_inputs = [mf.Input(inner_shape) for _ in range(2)]
    inner = mf.Model(inner_inputs, build(*inner_inputs))
    inputs = [mf.Input(shape) for _ in range(2)]
    y = inner(inputs)
    model = mf.Model(inputs, layers.add([y, inner(inputs), layers.Rescaling(0.5)(y)]))
    size = [2, *(6 if d == "n" else d for d in shape)]
    arrays = [np.random.default_rng(k).random(size, np.float32) for k in range(2)]
    exported = export(model, functions=functions)
    assert mlx2onnx.verify(model, exported, arrays).ok


@pytest.mark.parametrize("functions", [False, True])
def test_a_batch_that_is_fixed_is_fixed_after_a_model_too(functions):
    i = mf.Input((6, 4))
    inner = mf.Model(i, layers.Masking()(i))
    a, b = mf.Input((6, 4), batch_size=3), mf.Input((7, 7, 4), batch_size=3)
    y = [layers.Dot(-1)([inner(x), b]) for x in (a, a * 2)]
    exported = export(mf.Model([a, b], y), functions=functions)
    assert dims(exported.graph.output[0]) == [3, 6, 7, 7]


def test_the_steps_of_time_distributed_are_no_batch():
    i = mf.Input((8, 8, 1))
    inner = mf.Model(i, layers.Flatten()(layers.Conv2D(3, 3)(i)))
    a, b = mf.Input((None, 8, 8, 1), name="a"), mf.Input((None, 8, 8, 1), name="b")
    each = layers.TimeDistributed(inner)
    exported = export(mf.Model([a, b], [each(a), layers.LSTM(3)(each(b))]))
    convolved = [v for v in exported.graph.value_info if "Conv" in v.name]
    assert convolved
    assert all(dims(v)[0] != "batch" for v in convolved)


def test_a_function_is_written_without_a_word(tmp_path, caplog, capfd, recwarn):
    """In a body too, an output that nobody uses, as an LSTM's sequence, has no name."""
    i = mf.Input((5, 4))
    inner = mf.Model(i, layers.Bidirectional(layers.LSTM(3))(i), name="inner")
    a, b = mf.Input((5, 4), name="a"), mf.Input((5, 4), name="b")
    model = mf.Model([a, b], layers.add([inner(a), inner(b)]))
    exported = export(model, functions=True, path=tmp_path / "model.onnx")
    assert "" in exported.functions[0].node[1].output
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")
    assert list(recwarn) == []
