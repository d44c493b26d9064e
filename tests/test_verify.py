"""Verification: what it tries, what it measures, what it says when a file is wrong."""

import sys

import mlx2onnx
import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import onnx
import pytest
from mlxfunc import layers
from mlx2onnx.runner import Runner
from mlx2onnx.samples import Sampler
from mlx2onnx.session import open_session
from mlx2onnx.testing import assert_onnx_matches
from onnx import numpy_helper


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """All sizes are tried, however slow the machine is."""
    monkeypatch.setattr(sys.modules["mlx2onnx.verify"], "PATIENCE", 60.0)


def small_model() -> mf.Model:
    x = mf.Input((4,), name="x")
    h = layers.Dense(3, activation="relu", name="first")(x)
    return mf.Model(x, layers.Dense(2, name="second")(h), name="small")


def nested_model() -> mf.Model:
    x = mf.Input((4,), name="outer")
    return mf.Model(x, layers.Dense(2, name="head")(small_model()(x)))


def spoil(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with another value in the first element of a weight."""
    wrong = onnx.ModelProto()
    wrong.CopyFrom(model)
    tensor = next(t for t in wrong.graph.initializer if t.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] += 1
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return wrong


def test_a_report_says_what_was_tried():
    model = mf.Model(x := mf.Input((None, 4)), layers.Dense(3, name="y")(x))
    report = mlx2onnx.verify(model, mlx2onnx.to_onnx(model, verify=False))
    assert report.ok
    assert [point["batch"] for point in report.sizes] == [1, 2, 3]
    assert len({point["input_layer_dim_1"] for point in report.sizes}) == 2
    assert report.outputs["y"].max_abs < 1e-5
    assert report.outputs["y"].max_rel < 1e-3
    assert report.mlx_seconds > 0
    assert report.onnx_seconds > 0
    assert "max abs" in str(report)
    assert report.as_dict()["ok"] is True


def test_export_prints_what_it_measured(capsys):
    mlx2onnx.to_onnx(small_model())
    assert "second: max abs" in capsys.readouterr().out
    mlx2onnx.to_onnx(small_model(), verbose=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["first", "second"])
def test_the_first_layer_that_differs_is_named(name, monkeypatch):
    """A wrong rule for one layer of a model, seen through all that follows."""
    wrong_rule(monkeypatch, name)
    with pytest.raises(mlx2onnx.VerificationError, match=rf"differs is {name} \(Dense\)") as error:
        mlx2onnx.to_onnx(small_model(), verbose=False)
    assert not error.value.report.ok


def test_the_layer_that_differs_is_found_in_a_model_inside(monkeypatch):
    wrong_rule(monkeypatch, "second")
    with pytest.raises(mlx2onnx.VerificationError, match=r"differs is small/second \(Dense\)"):
        mlx2onnx.to_onnx(nested_model(), verbose=False)


def wrong_rule(monkeypatch, name: str) -> None:
    from mlx2onnx.layers.registry import RULES, Rule

    right = RULES[layers.Dense]

    def lower(g, layer, x):
        y = right.lower(g, layer, x)
        return y.map(lambda v, layout: g.op("Add", v, 0.5)) if layer.name == name else y

    monkeypatch.setitem(RULES, layers.Dense, Rule(lower, right.names, right.file))


def test_a_failure_leaves_no_file_and_keeps_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    wrong_rule(monkeypatch, "first")
    with pytest.raises(mlx2onnx.VerificationError):
        mlx2onnx.to_onnx(small_model(), path, verbose=False)
    assert list(tmp_path.iterdir()) == []
    path.write_text("old")
    with pytest.raises(mlx2onnx.VerificationError):
        mlx2onnx.to_onnx(small_model(), path, verbose=False)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_spoiled_file_does_not_pass(tmp_path):
    model = small_model()
    exported = mlx2onnx.to_onnx(model, verbose=False)
    path = tmp_path / "model.onnx"
    onnx.save(spoil(exported, "second/bias"), path)
    with pytest.raises(mlx2onnx.VerificationError, match="over tolerance"):
        mlx2onnx.verify(model, path)
    onnx.save(exported, path)
    assert mlx2onnx.verify(model, path).ok


def test_inputs_may_be_given():
    model = small_model()
    exported = mlx2onnx.to_onnx(model, verify=False)
    x = np.ones((3, 4), np.float32)
    assert mlx2onnx.verify(model, exported, [x]).ok
    assert mlx2onnx.verify(model, exported, {"x": x[::-1]}).ok


def test_a_file_of_another_model_is_refused():
    a, b = mf.Input((4,)), mf.Input((4,))
    two = mf.Model([a, b], layers.add([a, b]))
    with pytest.raises(ValueError, match="small: expected a file with 1 inputs, got one with 2"):
        mlx2onnx.verify(small_model(), mlx2onnx.to_onnx(two, verify=False))


@pytest.mark.parametrize("read", [lambda f: mlx2onnx.verify(small_model(), f), mlx2onnx.inspect])
def test_what_is_no_onnx_file_is_refused(tmp_path, read):
    path = tmp_path / "model.onnx"
    with pytest.raises(FileNotFoundError, match="there is none"):
        read(path)
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match="expected an ONNX model, got a file that cannot be read"):
        read(path)
    whole = mlx2onnx.to_onnx(small_model(), verify=False).SerializeToString()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="expected an ONNX model"):
        read(path)
    assert path.read_bytes() == whole[: len(whole) // 2]


def test_sizes_that_a_model_refuses_are_not_tried():
    a, b = mf.Input((None, 3)), mf.Input((None, 3))
    model = mf.Model([a, b], layers.add([a, b]))
    report = mlx2onnx.verify(model, mlx2onnx.to_onnx(model, verify=False))
    for point in report.sizes:
        assert point["input_layer_dim_1"] == point["input_layer_1_dim_1"]


def drawn(source, rows, index=0, **options) -> np.ndarray:
    """The values that verification draws for an input, in a batch of so many rows."""
    exported = mlx2onnx.to_onnx(source, verify=False, **options)
    sampler = Sampler(Runner(source, exported, open_session(exported)))
    return next(sampler.trials([rows]))[1][index]


def test_ids_are_those_that_every_embedding_has():
    words = mf.Input((6,), dtype="int32")
    inner = mf.Model(i := mf.Input((6,), dtype="int32"), layers.Embedding(3, 2)(i))
    model = mf.Model(words, [layers.Embedding(9, 2)(words), inner(words)])
    ids = drawn(model, 50)
    assert set(np.unique(ids)) == {0, 1, 2}
    assert (ids[0] != 0).all()
    assert (ids[1:] == 0).any()


def test_ids_of_a_bare_module():
    module = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 2))
    assert drawn(module, 50, inputs=[(("batch", 6), "int64")]).max() == 4


def test_masking_gets_masked_steps():
    x = mf.Input((5, 2))
    array = drawn(mf.Model(x, layers.Masking(0.5)(x)), 20)
    assert (array == 0.5).all(-1).any()


def test_the_state_of_a_stateful_layer_stays():
    x = mf.Input((3, 2), batch_size=2)
    layer = layers.LSTM(4, stateful=True)
    model = mf.Model(x, layer(x))
    model(mx.ones((2, 3, 2)))
    before = [np.array(state) for state in layer.states]
    assert np.abs(before[0]).max() > 0
    mlx2onnx.to_onnx(model, verbose=False)
    for old, new in zip(before, layer.states, strict=True):
        np.testing.assert_array_equal(old, np.array(new))


def test_assert_onnx_matches(tmp_path):
    assert assert_onnx_matches(small_model()).ok
    assert assert_onnx_matches(lambda x: mx.tanh(x) + 1, specs=[("batch", 3)]).ok
    exported = mlx2onnx.to_onnx(small_model(), verbose=False)
    with pytest.raises(AssertionError, match="over tolerance"):
        assert_onnx_matches(small_model(), exported)
