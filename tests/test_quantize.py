"""Quantization: smaller files that stay as accurate, what the report says, what is refused."""

import mlx2onnx
import mlxfunc as mf
import numpy as np
import onnx
import pytest
from mlxfunc import layers
from mlx2onnx.effect import accuracy

CLASSES = 10


def mlp(x):
    h = layers.Dense(256, activation="relu")(layers.Flatten()(x))
    return layers.Dense(256, activation="relu")(h)


def cnn(x):
    h = layers.Conv2D(16, 3, activation="relu")(layers.Reshape((8, 8, 1))(x))
    h = layers.Conv2D(32, 3, activation="relu")(h)
    return layers.Dense(64, activation="relu")(layers.Flatten()(h))


def lstm(x):
    return layers.LSTM(64)(x)


def classifier(body):
    x = mf.Input((8, 8), name="x")
    return mf.Model(x, layers.Dense(CLASSES, activation="softmax", name="y")(body(x)))


@pytest.fixture(scope="module")
def digits():
    data = pytest.importorskip("sklearn.datasets").load_digits()
    return (data.images / 16).astype(np.float32), data.target.astype(np.int32)


@pytest.fixture(scope="module")
def trained(digits):
    """Float files by body, each trained once."""
    files = {}
    for body in (mlp, cnn, lstm):
        mf.utils.set_random_seed(0)
        model = classifier(body)
        model.compile(mf.optimizers.Adam(5e-3), "sparse_categorical_crossentropy", run_eagerly=True)
        model.fit(digits[0][:1400], digits[1][:1400], epochs=4, batch_size=64, verbose=0)
        files[body] = mlx2onnx.to_onnx(model, verify=False)
    return files


@pytest.fixture(scope="module")
def float_file():
    return mlx2onnx.to_onnx(classifier(mlp), verify=False)


def images(rows=4):
    return np.random.default_rng(0).random((rows, 8, 8)).astype(np.float32)


DYNAMIC = {mlp: "MatMulInteger", cnn: "ConvInteger", lstm: "DynamicQuantizeLSTM"}
STATIC = {mlp: "QuantizeLinear", cnn: "QuantizeLinear", lstm: "DynamicQuantizeLSTM"}


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("body", [mlp, cnn, lstm])
def test_smaller_and_as_accurate(body, static, trained, digits, tmp_path):
    x, y = digits
    path = tmp_path / "int8.onnx"
    report = mlx2onnx.quantize(
        trained[body],
        path,
        data=(x[1400:], y[1400:]),
        calibration=[x[:100], {"x": x[100:200]}] if static else None,
    )
    assert report.bytes_after < 0.4 * report.bytes_before
    assert report.metric_before > 0.7
    assert abs(report.metric_after - report.metric_before) <= 0.03
    assert report.agreement["y"] > 0.9
    assert (STATIC if static else DYNAMIC)[body] in mlx2onnx.inspect(path).operators
    assert [p.name for p in tmp_path.iterdir()] == ["int8.onnx"]


def test_static_recurrent_layers_in_a_row():
    x = mf.Input((8, 8), name="x")
    h = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(x)
    model = mf.Model(x, layers.Dense(3, name="y")(layers.GRU(8)(layers.LSTM(8)(h)[:, None])))
    exported = mlx2onnx.to_onnx(model, verify=False)
    report = mlx2onnx.quantize(exported, inputs=images(), calibration=[images()])
    assert report.max_abs["y"] < 0.1
    operators = mlx2onnx.inspect(report.model).operators
    assert operators["DynamicQuantizeLSTM"] == 2
    assert operators["GRU"] == 1


def test_the_report(float_file):
    def first_error(y, outputs):
        return np.abs(outputs[0] - y).max()

    data = ([images()], np.zeros((4, CLASSES)))
    report = mlx2onnx.quantize(float_file, inputs=images(), data=data, metric=first_error)
    assert set(report.ms_before) == set(report.ms_after) == {1, 32}
    assert report.metric == "first_error"
    assert report.max_abs["y"] < 0.05
    for word in ("size", "batch 1:", "batch 32:", "first_error", "max abs", "same class"):
        assert word in str(report)
    assert report.as_dict()["bytes_after"] == report.bytes_after == report.model.ByteSize()


def test_a_fixed_batch_is_timed_as_it_is():
    exported = mlx2onnx.to_onnx(classifier(mlp), verify=False, dimensions={"batch": 3})
    report = mlx2onnx.quantize(exported, inputs={"x": images(3)})
    assert set(report.ms_before) == {3}
    assert report.metric is report.metric_before is None


def test_accuracy():
    found = np.eye(3)[[0, 1, 2, 2]]
    for y in ([0, 1, 2, 0], [[0], [1], [2], [0]], np.eye(3)[[0, 1, 2, 0]], [0.0, 1.0, 2.0, 0.0]):
        assert accuracy(y, [found]) == 0.75
    for y, output in [([0.5] * 4, found), ([0] * 3, found), ([0, 1, 0, 1], np.ones((4, 1)))]:
        with pytest.raises(ValueError, match="expected class numbers or one-hot .* Give a metric"):
            accuracy(y, [output])


def failing(y, outputs):
    raise ArithmeticError("the metric's own")


nan = np.full((2, 8, 8), np.nan, np.float32)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "expected inputs or data, got neither"),
        ({"inputs": {"z": images()}}, "expected inputs x, got z"),
        ({"inputs": {}}, "expected inputs x, got none"),
        ({"inputs": [images(), images()]}, "expected 1 arrays, for x, got 2"),
        ({"inputs": images()[0]}, r"expected x of shape \(batch, 8, 8\), got \(8, 8\)"),
        ({"inputs": images(0)}, r"expected rows in x, got shape \(0, 8, 8\)"),
        ({"data": images()}, "expected data as a pair"),
        ({"data": (images(), [0.5] * 4)}, "expected class numbers"),
        ({"data": (images(), None), "metric": failing}, "the metric's own"),
        ({"calibration": []}, "expected batches of inputs as calibration, got none"),
        ({"calibration": {"z": images()}}, "calibration batch 0: expected inputs x, got z"),
        ({"calibration": [{}]}, "calibration batch 0: expected inputs x, got none"),
        (
            {"calibration": [images(), images()[:, :7]]},
            r"calibration batch 1: expected x of shape \(batch, 8, 8\), got \(4, 7, 8\)",
        ),
        ({"calibration": [nan]}, "calibration batch 0: expected finite values in x"),
    ],
)
def test_refusals_leave_nothing_behind(arguments, message, float_file, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    if "calibration" in arguments:
        arguments = {"inputs": images(), **arguments}
    with pytest.raises((ValueError, ArithmeticError), match=message):
        mlx2onnx.quantize(float_file, tmp_path / "int8.onnx", **arguments)
    assert list(tmp_path.rglob("*")) == [scratch]


def test_sizes_of_one_dimension_agree():
    a, b = (mf.Input((3,), name=name) for name in "ab")
    exported = mlx2onnx.to_onnx(mf.Model([a, b], layers.Dense(2)(a + b)), verify=False)
    with pytest.raises(ValueError, match=r"expected b of shape \(2, 3\), got \(1, 3\)"):
        mlx2onnx.quantize(exported, inputs=[np.ones((2, 3)), np.ones((1, 3))])


def test_files_that_are_refused(float_file, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(onnx.ModelProto.SerializeToString(float_file)[:500])
    with pytest.raises(ValueError, match="expected an ONNX model"):
        mlx2onnx.quantize(broken, inputs=images())
    int8 = mlx2onnx.quantize(float_file, inputs=images()).model
    with pytest.raises(ValueError, match="DynamicQuantizeLinear .* quantized already"):
        mlx2onnx.quantize(int8, inputs=images())
    half = mlx2onnx.to_onnx(classifier(mlp), dtype="float16", verify=False)
    with pytest.raises(ValueError, match="got float16 weights"):
        mlx2onnx.quantize(half, inputs=images())
    both = mlx2onnx.to_onnx({"a": classifier(mlp), "b": classifier(lstm)}, verify=False)
    with pytest.raises(ValueError, match="take one, with mlx2onnx.endpoint"):
        mlx2onnx.quantize(both, inputs=images())
    part = mlx2onnx.endpoint(both, "a")
    assert mlx2onnx.quantize(part, inputs=images()).bytes_after < part.ByteSize()
