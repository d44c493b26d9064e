"""Models in models, hundreds deep: Python's stack grows with them."""

import subprocess
import sys

import mlxfunc as mf
import numpy as np
import pytest

DEPTH = 400
X = np.ones((2, 3), np.float32)


def nested(depth):
    model = None
    for k in range(depth):
        image = mf.Input((3,))
        inner = image if model is None else model(image)
        model = mf.Model(image, inner if k else mf.layers.Dense(3)(image), name=f"model_{k}")
    return model


def test_models_in_models_are_built_run_and_trained():
    model = nested(DEPTH)
    weight, bias = model.get_weights()
    np.testing.assert_allclose(model.predict(X, verbose=0), X @ weight + bias, atol=1e-6)
    model.compile("sgd", "mse")
    model.fit(X, X, verbose=0)
    assert not np.array_equal(model.get_weights()[0], weight)
    assert len(model.get_weights()) == 2


def test_a_model_called_as_it_was_made_is_not_probed_again():
    inner = mf.Sequential([mf.Input(("time", 3)), mf.layers.LSTM(4, return_sequences=True)])
    outside = mf.Input(("time", 3))
    assert inner(outside).shape == (None, "time", 4)
    masked = mf.layers.Masking()(outside)
    assert inner(masked).mask is not None
    assert inner(mf.Input((7, 3))).shape == (None, 7, 4)


@pytest.mark.slow
def test_models_in_models_are_saved_loaded_and_exported(tmp_path):
    model = nested(DEPTH)
    model.save(tmp_path / "deep.mlxfunc")
    np.save(tmp_path / "y.npy", model.predict(X, verbose=0))
    # Another process: its stack has not grown yet.
    script = (
        "import sys, mlxfunc as mf, numpy as np; folder = sys.argv[1]; "
        "model = mf.models.load_model(folder + '/deep.mlxfunc'); "
        "y = model.predict(np.ones((2, 3), np.float32), verbose=0); "
        "assert np.array_equal(y, np.load(folder + '/y.npy')); "
        "mf.models.clone_model(model); model.summary(print_fn=len); "
        "model.export(folder + '/deep.onnx', verbose=False)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert (tmp_path / "deep.onnx").is_file()


def test_a_text_deeper_than_any_model_is_refused():
    with pytest.raises(ValueError, match="nested 3000 deep"):
        mf.models.model_from_json("[" * 3000 + "]" * 3000)
