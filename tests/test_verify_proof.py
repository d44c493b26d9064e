"""What counts as a proof: runs, numbers in them, digits near 0, a reference that is exact."""

import contextlib
import json
import sys

import mlx2onnx
import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx2onnx import runner
from mlxfunc import layers
from mlx2onnx.primitives.registry import RULES, Rule
from mlx2onnx.report import OutputError, Report, compare

from exporting import export


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """All sizes are tried, however slow the machine is."""
    monkeypatch.setattr(sys.modules["mlx2onnx.verify"], "PATIENCE", 60.0)


def linear():
    x = mf.Input((4,), name="x")
    return mf.Model(x, layers.Dense(3, name="y")(x), name="linear")


# runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [(), [], (0,), (2, -1), ("a",), (2.0,), (True,)])
def test_without_a_run_nothing_is_proven(batches, tmp_path):
    model = linear()
    exported = mlx2onnx.to_onnx(model, verify=False)
    with pytest.raises(ValueError, match="verify: expected batch sizes of 1 or more, got"):
        mlx2onnx.verify(model, exported, batches=batches)
    with pytest.raises(ValueError, match="Without a run nothing is proven"):
        mlx2onnx.to_onnx(model, tmp_path / "model.onnx", verify=batches)
    assert not list(tmp_path.iterdir())


def test_a_report_without_runs_is_not_ok():
    assert not Report(1e-4, 1e-5).ok
    assert not Report(1e-4, 1e-5, {"y": OutputError()}).ok
    assert Report(1e-4, 1e-5, {"y": OutputError()}, runs=1).ok


def test_one_run_is_made_however_little_patience_there_is(monkeypatch):
    monkeypatch.setattr(sys.modules["mlx2onnx.verify"], "PATIENCE", 0.0)
    source = {"a": linear(), "b": linear()}
    report = mlx2onnx.verify(source, mlx2onnx.to_onnx(source, verify=False))
    assert {name for point in report.sizes for name in point} == {"a/batch", "b/batch"}


def test_the_report_says_what_was_tried():
    ids = mf.Input((None,), dtype="int32", name="ids")
    mask = mf.Input((None,), dtype="bool", name="mask")
    y = layers.LSTM(3, name="y")(layers.Embedding(9, 4)(ids), mask=mask)
    model = mf.Model([ids, mask], y)
    report = mlx2onnx.verify(model, mlx2onnx.to_onnx(model, verify=False))
    assert report.samples == {"ids": "0 to below 9", "mask": "true and false"}
    assert report.device == "cpu"
    assert report.runs == 3
    assert "in 3 runs; MLX (cpu)" in str(report)
    assert "values: ids 0 to below 9; mask true and false" in str(report)
    assert json.loads(json.dumps(report.as_dict()))["runs"] == 3


# numbers ----------------------------------------------------------------------------------------


def test_outputs_that_are_always_nan_prove_nothing():
    with pytest.raises(mlx2onnx.VerificationError, match="output: expected numbers to compare"):
        export(lambda x: mx.sqrt(-mx.abs(x) - 1), inputs=[("batch", 3)])
    assert export(mx.log, inputs=[("batch", 3)])  # of half of the samples there is a logarithm


def test_samples_without_rows_prove_nothing():
    model = linear()
    exported = mlx2onnx.to_onnx(model, verify=False)
    with pytest.raises(mlx2onnx.VerificationError, match="or no elements, in all runs"):
        mlx2onnx.verify(model, exported, [np.zeros((0, 4))])
    export(lambda x: x[:, :0], inputs=[("batch", 3)])  # this output never has an element


def test_an_output_that_is_always_the_same_is_said():
    function = lambda x: [mx.maximum(-mx.abs(x), 0), x]  # noqa: E731
    report = mlx2onnx.verify(function, export(function, inputs=[("batch", 3)]))
    assert "output_0: max abs 0.0e+00, max rel 0.0e+00, always 0\n" in str(report)
    assert "always" not in str(report).splitlines()[1]


@pytest.mark.parametrize(
    "a, b, same",
    [
        ([1, 2, 40000], [1, 2, 40001], False),
        ([1, 2, 4], [1, 2, 4], True),
        ([True, False], [True, True], False),
        ([1.0, np.nan, np.inf], [1.0, np.nan, np.inf], True),
        ([1.0, np.inf], [1.0, -np.inf], False),
        ([1.0, np.nan], [1.0, 0.0], False),
        ([1.0, 1e-8], [1.0, 2e-8], True),
        ([0.0] * 200 + [7], [0.0] * 200 + [8], False),
    ],
)
def test_when_two_outputs_are_equal(a, b, same):
    report = Report(1e-4, 5e-5)
    assert compare(report, ["y"], [np.array(a)], [np.array(b)]) is same
    assert report.outputs["y"].ok is same


def test_of_many_integers_a_rounding_may_move_one_by_one():
    a = np.arange(1000)
    b = a.copy()
    b[7] += 1
    assert compare(Report(0, 0), ["y"], [a], [b])
    b[7] += 1
    assert not compare(Report(0, 0), ["y"], [a], [b])


def test_a_file_of_more_outputs_is_of_another_model():
    exported = export(lambda x: [x, x * 2], inputs=[("batch", 3)])
    with pytest.raises(ValueError, match="expected a file with 1 outputs, got one with 2"):
        mlx2onnx.verify(lambda x: x, exported)


# near 0 -----------------------------------------------------------------------------------------


def without_digits(monkeypatch, name, lower):
    monkeypatch.setitem(RULES, name, Rule(lower, RULES[name].elementwise, False, RULES[name].file))


@pytest.mark.parametrize(
    "function",
    [mx.log1p, lambda x: 3 * mx.log1p(x) @ mx.ones((4, 2)), lambda x: mx.log1p(x) * mx.log1p(x)],
)
def test_a_file_that_loses_the_digits_near_0_does_not_pass(function, monkeypatch):
    without_digits(monkeypatch, "Log1p", lambda g, event, x: g.op("Log", g.op("Add", x, 1.0)))
    with pytest.raises(mlx2onnx.VerificationError, match="near 0 its digits are lost"):
        export(function, inputs=[("batch", 4)])


def test_the_layer_that_loses_digits_is_named(monkeypatch):
    without_digits(monkeypatch, "Log1p", lambda g, event, x: g.op("Log", g.op("Add", x, 1.0)))
    x = mf.Input((4,), name="x")
    model = mf.Model(x, layers.ReLU()(layers.Lambda(mx.log1p, name="small")(x)))
    with pytest.raises(mlx2onnx.VerificationError, match="near 0 its digits are lost"):
        export(model)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: mx.log(1 + x),
        lambda x: mx.exp(x) - 1,
        lambda x: mx.tanh(x + 1) - mx.tanh(mx.array(1.0)),
        lambda x: mx.sigmoid(x) - 0.5,
        lambda x: mx.softmax(x, axis=-1) - 0.25,
        lambda x: mx.logaddexp(x, -x) - mx.logaddexp(mx.array(0.0), mx.array(0.0)),
        lambda x: x - mx.sin(x),
        lambda x: (x + 100) - 100,
        lambda x: mx.var(x + 3, axis=-1),
        lambda x: mx.sum(x, axis=-1) - x[:, 0] - x[:, 1] - x[:, 2] - x[:, 3],
        lambda x: mx.fast.layer_norm(x, None, None, 1e-5),
        lambda x: x * mx.sigmoid(x) * mx.tanh(x),
        lambda x: mx.sqrt(mx.abs(x)) ** 3,
        mx.zeros_like,
        mx.erf,
        nn.gelu,
        nn.elu,
    ],
)
def test_a_right_file_is_not_blamed_for_digits_that_mlx_does_not_have(function):
    export(function, inputs=[("batch", 4)])


# the reference ----------------------------------------------------------------------------------


def test_the_reference_is_mlx_on_its_cpu():
    devices = []

    def function(x):
        devices.append(mx.default_device())
        return x * 2

    exported = mlx2onnx.to_onnx(function, inputs=[("batch", 3)], verify=False)
    devices.clear()
    assert mlx2onnx.verify(function, exported).device == "cpu"
    assert set(map(str, devices)) == {str(mx.Device(mx.cpu))}


@pytest.mark.parametrize("error, within", [(1e-3, True), (0.1, False)])
def test_what_the_gpu_gives_is_reported_beside_it(monkeypatch, error, within):
    """A second stream of the CPU stands for the GPU; what is computed there is less exact."""
    gpu, active = mx.new_stream(mx.cpu), []

    @contextlib.contextmanager
    def stream(device):
        active.append(device)
        with original(device):
            yield
        active.pop()

    original = mx.stream
    monkeypatch.setattr(mx, "stream", stream)
    monkeypatch.setattr(runner, "own_device", lambda: gpu)

    def function(x):
        return x * (1 + error if active and active[-1] is gpu else 1)

    exported = mlx2onnx.to_onnx(function, inputs=[("batch", 3)], verify=False)
    report = mlx2onnx.verify(function, exported)
    assert report.ok
    assert report.other_outputs["output"].ok is within
    assert report.other_outputs["output"].max_abs > report.outputs["output"].max_abs
    assert f"output on {gpu}, against the CPU: max abs" in str(report)
    assert ("more than its precision explains" in str(report)) is not within


def test_without_a_gpu_there_is_no_other_device():
    assert runner.own_device() is None
    model = linear()
    assert mlx2onnx.verify(model, export(model)).other_device is None
