"""A run that fails leaves nothing on the model: the next one is as if it had not been."""

import contextlib
import gc
import threading
import weakref

import mlxfunc as mf
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map
from mlxfunc.callbacks import Callback

random = np.random.default_rng(0)
X = random.normal(size=(32, 4)).astype("float32")
Y = X[:, :2] * 2 - 1


class Broken(RuntimeError):
    pass


class Breaks(Callback):
    """Raises the `count`-th time that its hook `name` is called."""

    def __init__(self, name, count=1, error=Broken):
        super().__init__()
        self.count, self.error = count, error
        setattr(self, name, self.strike)

    def strike(self, *args):
        self.count -= 1
        if self.count == 0:
            raise self.error("broken")


class BreaksLate:
    """A loss or metric that raises the third time it is computed."""

    def __init__(self):
        self.calls = 0

    def __call__(self, y_true, y_pred):
        self.calls += 1
        if self.calls == 3:
            raise Broken("broken")
        return mx.mean((y_true - y_pred) ** 2, axis=-1)


def model_of(loss="mse", **options):
    x = mf.Input((4,))
    model = mf.Model(x, mf.layers.Dense(2, kernel_initializer="ones", name="out")(x))
    model.compile("adam", loss, **options)
    return model


def batches(broken_after=None, count=99):
    for i in range(count):
        if i == broken_after:
            raise Broken("broken")
        yield X[:8] + i, Y[:8]


def fit(model, x=X, y=Y, **options):
    options = {"batch_size": 8, "epochs": 2, "verbose": 0, "shuffle": False} | options
    return model.fit(x, y, **options)


def with_callback(name, count=1, error=Broken):
    def fail(model):
        fit(model, callbacks=[Breaks(name, count, error)], validation_data=(X, Y))

    return fail


FAILURES = {
    "on_train_begin": with_callback("on_train_begin"),
    "on_epoch_begin": with_callback("on_epoch_begin", 2),
    "on_train_batch_begin": with_callback("on_train_batch_begin", 3),
    "on_train_batch_end": with_callback("on_train_batch_end", 3),
    "on_test_begin": with_callback("on_test_begin"),
    "on_test_batch_end": with_callback("on_test_batch_end", 2),
    "on_epoch_end": with_callback("on_epoch_end"),
    "on_train_end": with_callback("on_train_end"),
    "interrupt": with_callback("on_train_batch_end", 3, KeyboardInterrupt),
    "generator": lambda model: fit(model, batches(2), None),
    "endless generator": lambda model: fit(model, batches(6), None, steps_per_epoch=4),
    "validation generator": lambda model: fit(model, validation_data=batches(1)),
    "bad labels": lambda model: fit(model, [(X, Y), (X, np.ones((32, 5)))], None),
    "evaluate": lambda model: model.evaluate(
        X, Y, 8, verbose=0, callbacks=[Breaks("on_test_batch_end", 2)]
    ),
    "predict": lambda model: model.predict(
        X, 8, verbose=0, callbacks=[Breaks("on_predict_batch_end", 2)]
    ),
}


def what_is_on(model):
    """The attributes of a model that no later run sets anew."""
    later = ("history", "stop_training", "stop_evaluating", "stop_predicting")
    return {key for key in vars(model) if key not in later}


@pytest.mark.parametrize("name", FAILURES)
def test_the_next_run_is_as_if_nothing_had_been(name):
    model, fresh = model_of(metrics=["mae"]), model_of(metrics=["mae"])
    model.evaluate(X, Y, verbose=0)  # What is found out once about a model stays.
    before, threads = what_is_on(model), threading.active_count()
    with pytest.raises((Broken, KeyboardInterrupt, ValueError)):
        FAILURES[name](model)
    assert what_is_on(model) == before
    assert threading.active_count() == threads
    fresh.set_weights(model.get_weights())
    assert model.evaluate(X, Y, 8, verbose=0) == fresh.evaluate(X, Y, 8, verbose=0)
    fresh.optimizer.state = tree_map(mx.array, model.optimizer.state)
    assert fit(model).history == fit(fresh).history
    np.testing.assert_array_equal(model.get_weights()[0], fresh.get_weights()[0])


@pytest.mark.parametrize("where", ["loss", "metric"])
def test_a_step_that_fails_late_moves_nothing(where):
    """The third step fails: weights and optimizer are those after the second."""
    failing = BreaksLate()
    model = model_of(failing) if where == "loss" else model_of(metrics=[failing])
    whole = model_of()
    fit(whole, X[:16], Y[:16], epochs=1)
    with pytest.raises(Broken):
        fit(model)
    assert model.optimizer.step.item() == whole.optimizer.step.item() == 2
    for got, want in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


def test_data_and_callbacks_are_let_go():
    class Data(Callback):
        pass

    for hook in (None, "on_epoch_begin", "on_train_batch_end"):
        listener, x = Data(), X.copy()
        gone = weakref.ref(listener), weakref.ref(x)
        model = model_of()
        with contextlib.suppress(Broken):
            fit(model, x, callbacks=[listener, *([Breaks(hook)] if hook else [])])
        del listener, x
        gc.collect()
        assert [ref() for ref in gone] == [None, None]


def test_a_checkpoint_of_a_failed_run_is_never_written(tmp_path):
    model = model_of()
    keep = mf.callbacks.ModelCheckpoint(tmp_path / "{epoch}.mlxfunc")
    with pytest.raises(Broken):
        fit(model, callbacks=[keep, Breaks("on_epoch_end")])
    model.evaluate(X, Y, verbose=0, callbacks=[keep])
    model.evaluate(X, Y, verbose=0)
    fit(model)
    assert not list(tmp_path.iterdir())


def test_a_run_within_a_run_leaves_the_outer_alone(tmp_path):
    """A callback that evaluates, with the callbacks of the run that it is called from."""
    keep = mf.callbacks.ModelCheckpoint(tmp_path / "{epoch}.mlxfunc")
    log = mf.callbacks.CSVLogger(tmp_path / "log.csv")

    class Evaluates(Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["again"] = self.model.evaluate(X, Y, verbose=0, callbacks=[keep, log])
            assert self.model.predict(X, verbose=0).shape == (32, 2)

    model = model_of()
    logs = fit(model, callbacks=[keep, Evaluates(), log], validation_data=(X, Y)).history
    np.testing.assert_allclose(logs["again"], logs["val_loss"], rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "1.mlxfunc", "2.mlxfunc", "log.csv"
    ]  # fmt: skip
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3


def test_averages_that_are_swapped_in_go_out_when_evaluation_fails():
    model = model_of()
    model.compile(mf.optimizers.SGD(0.1, use_ema=True), "mse")
    swap = mf.callbacks.SwapEMAWeights()
    fit(model, epochs=1, callbacks=[swap])
    before = model.get_weights()[0]
    with pytest.raises(Broken):
        model.evaluate(X, Y, verbose=0, callbacks=[swap, Breaks("on_test_end")])
    np.testing.assert_array_equal(model.get_weights()[0], before)


def test_an_interrupted_run_keeps_the_weights_it_can_go_on_from():
    """Moving averages replace the weights when training ends, not where it breaks off."""
    ends = []
    for use_ema in (False, True):
        model = model_of()
        model.compile(mf.optimizers.SGD(0.1, use_ema=use_ema), "mse")
        with pytest.raises(KeyboardInterrupt):
            with_callback("on_train_batch_end", 5, KeyboardInterrupt)(model)
        ends.append(model.get_weights()[0])
    np.testing.assert_array_equal(*ends)
