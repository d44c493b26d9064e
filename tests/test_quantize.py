"""Quantization: smaller files, results that stay close, and what is refused."""

import mlx2onnx
import mlxfunc as mf
import numpy as np
import pytest
from mlxfunc import layers


def classifier():
    x = mf.Input((20,), name="x")
    h = layers.Dense(128, activation="relu")(layers.Dense(128, activation="relu")(x))
    return mf.Model(x, layers.Dense(5, activation="softmax", name="y")(h))


def images():
    x = mf.Input((16, 16, 3), name="x")
    h = layers.Conv2D(32, 3, activation="relu")(layers.Conv2D(32, 3, activation="relu")(x))
    return mf.Model(x, layers.Dense(5, name="y")(layers.GlobalAveragePooling2D()(h)))


def batches(shape, count):
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((8, *shape)).astype(np.float32)} for _ in range(count)]


def test_dynamic(tmp_path):
    exported = mlx2onnx.to_onnx(classifier(), verbose=False)
    path = tmp_path / "int8.onnx"
    report = mlx2onnx.quantize(exported, path, inputs=batches((20,), 1)[0])
    assert report.bytes_after < 0.4 * report.bytes_before
    assert report.max_abs["y"] < 0.05
    assert report.agreement["y"] > 0.7
    assert "same class" in str(report)
    assert report.as_dict()["bytes_after"] == report.bytes_after
    assert [p.name for p in tmp_path.iterdir()] == ["int8.onnx"]
    assert "MatMulInteger" in mlx2onnx.inspect(path).operators


@pytest.mark.parametrize("make, shape", [(classifier, (20,)), (images, (16, 16, 3))])
def test_static(make, shape):
    exported = mlx2onnx.to_onnx(make(), verbose=False)
    report = mlx2onnx.quantize(exported, inputs=batches(shape, 1)[0], calibration=batches(shape, 4))
    assert report.bytes_after < report.bytes_before
    assert report.max_abs["y"] < 0.1
    assert "QuantizeLinear" in mlx2onnx.inspect(report.model).operators


def test_other_inputs_are_refused():
    exported = mlx2onnx.to_onnx(classifier(), verify=False)
    with pytest.raises(ValueError, match="expected inputs x, got z"):
        mlx2onnx.quantize(exported, inputs={"z": np.ones((1, 20), np.float32)})
