"""What a run that does not reach its end leaves on the terminal."""

import sys

import mlxfunc as mf
import numpy as np
import pytest

X = np.ones((50, 4), "float32")


class Interrupt(mf.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt

    on_test_batch_end = on_predict_batch_end = on_train_batch_end


@pytest.mark.parametrize("method, data", [("fit", (X, X)), ("evaluate", (X, X)), ("predict", (X,))])
def test_an_interrupted_run_gives_the_terminal_back(monkeypatch, capsys, method, data):
    monkeypatch.setenv("FORCE_COLOR", "1")
    model = mf.Sequential([mf.Input((4,)), mf.layers.Dense(4)])
    model.compile("sgd", "mse")
    stdout = sys.stdout
    with pytest.raises(KeyboardInterrupt):
        getattr(model, method)(*data, verbose=1, callbacks=[Interrupt()])
    assert sys.stdout is stdout
    out = capsys.readouterr().out
    assert "\x1b[?25l" in out  # the cursor, hidden
    assert out.rstrip().endswith("\x1b[?25h")  # and shown
