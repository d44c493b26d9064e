"""Callbacks: when they are called, and what they do."""

import csv
import math

import mlxfunc as mf
import mlx.core as mx
import numpy as np
import pytest
from mlxfunc.callbacks import Callback

random = np.random.default_rng(0)
X = random.normal(size=(40, 4)).astype("float32")
Y = random.normal(size=(40, 2)).astype("float32")


def make(optimizer="sgd", **options):
    x = mf.Input((4,))
    model = mf.Model(x, mf.layers.Dense(2)(mf.layers.Dense(5, activation="tanh")(x)))
    model.compile(optimizer, "mse", **options)
    return model


def fit(model, *callbacks, epochs=3, **options):
    options = {"batch_size": 16, "verbose": 0} | options
    return model.fit(X, Y, epochs=epochs, callbacks=list(callbacks), **options)


def keeping(model, kept):
    """Appends the weights at the end of each epoch."""
    return mf.callbacks.LambdaCallback(on_epoch_end=lambda *_: kept.append(model.get_weights()))


class Stage(Callback):
    """Puts a chosen sequence of values in the place of val_loss."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.values[epoch]


class Calls(Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_begin(self, logs=None):
        self.seen.append("train_begin")

    def on_train_end(self, logs=None):
        self.seen.append("train_end")

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(("epoch_begin", epoch))

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(("epoch_end", epoch, sorted(logs)))

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append(("batch_begin", batch))

    def on_train_batch_end(self, batch, logs=None):
        assert math.isfinite(logs["loss"])
        assert sorted(logs) == ["loss"]
        self.seen.append(("batch_end", batch))

    def on_test_begin(self, logs=None):
        self.seen.append("test_begin")

    def on_test_end(self, logs=None):
        self.seen.append("test_end")


def test_order_of_calls():
    calls = Calls()
    fit(make(), calls, epochs=1, validation_data=(X, Y))
    batches = [(f"batch_{which}", i) for i in range(3) for which in ("begin", "end")]
    assert calls.seen == [
        "train_begin",
        ("epoch_begin", 0),
        *batches,
        "test_begin",
        "test_end",
        ("epoch_end", 0, ["loss", "val_loss"]),
        "train_end",
    ]


def test_batch_callbacks_at_each_execution():
    calls = Calls()
    fit(make(steps_per_execution=2), calls, epochs=1)
    assert [c for c in calls.seen if "batch" in str(c)] == [
        ("batch_begin", 0), ("batch_end", 1), ("batch_begin", 2), ("batch_end", 2)
    ]  # fmt: skip


def test_old_batch_names_and_lambdas():
    seen = []

    class Old(Callback):
        def on_batch_end(self, batch, logs=None):
            seen.append(batch)

    told = mf.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(round(logs["loss"], 1) >= 0),
        on_train_batch_end=lambda batch, logs: seen.append(-batch),
    )
    fit(make(), Old(), told, epochs=1)
    assert seen == [0, 0, 1, -1, 2, -2, True]
    with pytest.raises(ValueError, match="LambdaCallback: expected names of Callback's methods"):
        mf.callbacks.LambdaCallback(on_dinner=print)


def test_callbacks_must_be_callbacks():
    with pytest.raises(TypeError, match="callbacks: expected Callback objects, got 'history'"):
        fit(make(), "history")


def test_callback_stops_in_the_middle():
    class Stop(Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    model = make()
    history = fit(model, Stop())
    assert history.epoch == [0]


@pytest.mark.parametrize(
    "values, options, stops, best",
    [
        ([3, 2, 2, 2, 1], {"patience": 2}, 4, 1),
        ([3, 2, 2, 2, 1], {"patience": 0}, 3, 1),
        ([1, 2, 3, 4, 5], {"patience": 2, "start_from_epoch": 2}, 5, 2),
        ([3, 2.95, 2.9, 1, 1], {"patience": 2, "min_delta": 0.5}, 3, 0),
        ([1, 2, 3, 3, 3], {"patience": 3, "mode": "max"}, 5, 2),
        ([5, 4, 4, 2, 1], {"patience": 2, "baseline": 2.5}, 3, 1),
    ],
)
def test_early_stopping(values, options, stops, best):
    stop = mf.callbacks.EarlyStopping(restore_best_weights=True, **options)
    model, kept = make(), []
    keep = mf.callbacks.LambdaCallback(
        on_epoch_end=lambda e, logs: kept.append(model.get_weights())
    )
    history = fit(model, Stage(values), keep, stop, epochs=5)
    assert len(history.epoch) == stops
    assert stop.best_epoch == best
    for got, want in zip(model.get_weights(), kept[best], strict=True):
        np.testing.assert_array_equal(got, want)


def test_monitor_that_is_not_there():
    with pytest.warns(UserWarning, match=r"'val_loss' is not logged. Available: loss"):
        fit(make(), mf.callbacks.EarlyStopping(), epochs=1)
    with pytest.raises(ValueError, match="cannot tell whether 'val_taste' should rise or fall"):
        _ = mf.callbacks.EarlyStopping("val_taste").rises
    with pytest.raises(ValueError, match="expected mode in"):
        mf.callbacks.EarlyStopping(mode="up")
    assert mf.callbacks.EarlyStopping("val_accuracy").rises
    assert not mf.callbacks.EarlyStopping("out_loss").rises


def test_reduce_on_plateau():
    model = make(mf.optimizers.SGD(0.08))
    reduce = mf.callbacks.ReduceLROnPlateau(factor=0.5, patience=2, cooldown=1, min_lr=0.03)
    history = fit(model, Stage([1.0] * 8), reduce, epochs=8).history
    np.testing.assert_allclose(
        history["learning_rate"], [0.08, 0.08, 0.08, 0.04, 0.04, 0.03, 0.03, 0.03], rtol=1e-6
    )
    with pytest.raises(ValueError, match="expected factor < 1, got 1"):
        mf.callbacks.ReduceLROnPlateau(factor=1)


def test_learning_rate_scheduler():
    model = make()
    seen = []

    def schedule(epoch, rate):
        seen.append(rate)
        return 0.1 / (epoch + 1)

    history = fit(model, mf.callbacks.LearningRateScheduler(schedule)).history
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.05, 0.1 / 3], rtol=1e-6)
    np.testing.assert_allclose(seen, [0.01, 0.1, 0.05], rtol=1e-6)
    with pytest.raises(ValueError, match="expected the schedule to return a number, got None"):
        fit(make(), mf.callbacks.LearningRateScheduler(lambda epoch: None))


def test_terminate_on_nan():
    model, bad = make(), X.copy()
    bad[20] = np.nan
    with pytest.warns(UserWarning, match="not finite in epoch 1"):
        history = model.fit(
            bad, Y, 16, 3, shuffle=False, verbose=0, callbacks=[mf.callbacks.TerminateOnNaN()]
        )
    assert history.epoch == [0]


def test_csv_logger(tmp_path):
    path = tmp_path / "log.csv"
    fit(make(), mf.callbacks.CSVLogger(path, separator=";"), epochs=2, validation_data=(X, Y))
    model = make()
    history = fit(model, mf.callbacks.CSVLogger(path, ";", append=True), epochs=3, initial_epoch=2)
    rows = list(csv.reader(path.open(), delimiter=";"))
    assert rows[0] == ["epoch", "loss", "val_loss"]
    assert [row[0] for row in rows[1:]] == ["0", "1", "2"]
    assert float(rows[3][1]) == history.history["loss"][0]
    assert rows[3][2] == "NA"


def test_checkpoints(tmp_path):
    every = mf.callbacks.ModelCheckpoint(str(tmp_path / "{epoch:02d}-{val_loss:.1f}.mlxfunc"))
    best = mf.callbacks.ModelCheckpoint(
        tmp_path / "best.safetensors", save_best_only=True, save_weights_only=True
    )
    often = mf.callbacks.ModelCheckpoint(tmp_path / "often{batch}.mlxfunc", save_freq=2)
    model, kept = make("adam"), []
    keep = mf.callbacks.LambdaCallback(
        on_epoch_end=lambda e, logs: kept.append(model.get_weights())
    )
    fit(model, Stage([2.0, 1.0, 3.0]), keep, every, best, often)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "01-2.0.mlxfunc", "02-1.0.mlxfunc", "03-3.0.mlxfunc", "best.safetensors",
        "often2.mlxfunc", "often1.mlxfunc", "often3.mlxfunc",
    }  # fmt: skip
    model.load_weights(str(tmp_path / "best.safetensors"))
    np.testing.assert_array_equal(model.get_weights()[0], kept[1][0])
    loaded = mf.saving.load_model(tmp_path / "02-1.0.mlxfunc")
    np.testing.assert_array_equal(loaded.get_weights()[0], kept[1][0])
    assert loaded.optimizer.step.item() == 6


def test_checkpoint_paths_are_checked_first(tmp_path):
    with pytest.raises(ValueError, match="expected a path that ends in '.mlxfunc', got 'a.keras'"):
        mf.callbacks.ModelCheckpoint("a.keras")
    with pytest.raises(ValueError, match="expected save_freq 'epoch' or a positive int, got 0"):
        mf.callbacks.ModelCheckpoint("a.mlxfunc", save_freq=0)
    missing = mf.callbacks.ModelCheckpoint(str(tmp_path / "{val_acc}.mlxfunc"))
    with pytest.raises(KeyError, match="needs 'val_acc', which is not logged"):
        fit(make(), missing)


def test_swap_ema_weights():
    model = make(mf.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))
    seen = []
    look = mf.callbacks.LambdaCallback(
        on_test_begin=lambda logs: seen.append(model.get_weights()[0]),
        on_train_batch_end=lambda batch, logs: seen.append(model.get_weights()[0]),
    )
    fit(model, mf.callbacks.SwapEMAWeights(), look, epochs=1, validation_data=(X, Y))
    average = 0
    for step, weight in enumerate(seen[:3]):
        average = weight if step == 0 else 0.5 * average + 0.5 * weight
    np.testing.assert_allclose(seen[3], average, rtol=1e-5)
    np.testing.assert_allclose(model.get_weights()[0], average, rtol=1e-5)
    with pytest.raises(ValueError, match="expected an optimizer with use_ema=True"):
        fit(make(), mf.callbacks.SwapEMAWeights())


def events(folder):
    """What TensorBoard itself reads: {(kind, tag): [(step, value)]}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    tags = accumulator.Tags()
    scalars = {t: [(e.step, e.value) for e in accumulator.Scalars(t)] for t in tags["scalars"]}
    histograms = {t: [e.step for e in accumulator.Histograms(t)] for t in tags["histograms"]}
    return scalars, histograms


def test_tensorboard_reads_what_is_written(tmp_path):
    board = mf.callbacks.TensorBoard(tmp_path, histogram_freq=1, update_freq=2)
    model = make()
    history = fit(model, board, epochs=2, validation_data=(X, Y))
    scalars, histograms = events(tmp_path / "train")
    assert [step for step, _ in scalars["epoch_loss"]] == [0, 1]
    values = [value for _, value in scalars["epoch_loss"]]
    assert np.allclose(values, history.history["loss"], rtol=1e-6)
    assert scalars["batch_loss"][0][0] == 2
    assert len(scalars["epoch_learning_rate"]) == 2
    assert len(histograms) == len(model.weights)
    validation, _ = events(tmp_path / "validation")
    values = [value for _, value in validation["epoch_loss"]]
    assert np.allclose(values, history.history["val_loss"], rtol=1e-6)


def test_tensorboard_refuses_what_it_does_not_write():
    with pytest.raises(ValueError, match="profile_batch is not supported"):
        mf.callbacks.TensorBoard(profile_batch=2)


def test_lazy_logs_read_once():
    logs = mf.training.logs.LazyLogs({"loss": mx.array(2.0), "each": mx.array([1.0, 2.0])})
    assert list(logs) == ["loss", "each"]
    assert logs["loss"] == 2.0
    assert dict(logs)["each"].tolist() == [1.0, 2.0]
    assert "2.0" in repr(logs)
