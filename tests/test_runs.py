"""fit, evaluate and predict: what they read, say and stop at."""

import itertools
import threading

import mlxfunc as mf
import mlx.core as mx
import numpy as np
import pytest
from mlxfunc.callbacks import Callback, CallbackList
from mlxfunc.training.outputs import Outputs
from mlxfunc.training.trackers import LossTracker

random = np.random.default_rng(0)
X = random.normal(size=(20, 3)).astype("float32")
Y = random.normal(size=(20, 1)).astype("float32")


def linear(**options):
    x = mf.Input((3,), name="x")
    model = mf.Model(x, mf.layers.Dense(1, name="y", kernel_initializer="ones")(x))
    model.compile(**{"optimizer": mf.optimizers.SGD(0.0), "loss": "mse"} | options)
    return model


class Drawn:
    """A generator without end, whose batch k holds the number k; counts what is read of it."""

    def __init__(self, convert=np.asarray):
        self.count, self.convert = 0, convert

    def __iter__(self):
        return self

    def __next__(self):
        self.count += 1
        k = float(self.count)
        return self.convert(np.full((4, 3), k, "float32")), self.convert(np.zeros((4, 1)))


# How far a generator is read.


def read_by_evaluate(model, data):
    first = model.evaluate(data, steps=2, verbose=0)
    assert first == np.mean([3**2, 6**2])
    assert data.count == 2
    assert model.evaluate(data, steps=2, verbose=0) == np.mean([9**2, 12**2])


def read_by_predict(model, data):
    for start in (3, 9):
        got = model.predict(data, steps=2, verbose=0)[::4, 0]
        assert got.tolist() == [start, start + 3]


def read_by_fit(model, data):
    losses = [model.fit(data, steps_per_epoch=2, verbose=0).history["loss"][0] for _ in range(2)]
    assert losses == [np.mean([3**2, 6**2]), np.mean([9**2, 12**2])]


def read_by_validation(model, data):
    history = model.fit(
        X, Y, epochs=2, validation_data=data, validation_steps=1, verbose=0, batch_size=20
    )
    assert history.history["val_loss"] == [3**2, 6**2]
    assert data.count == 2
    next(data), next(data)


def read_until_stopped(model, data):
    class Stops(Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    model.fit(data, steps_per_epoch=2, epochs=9, verbose=0, callbacks=[Stops()])


READERS = (read_by_evaluate, read_by_predict, read_by_fit, read_by_validation, read_until_stopped)


@pytest.mark.parametrize("convert", [np.asarray, mx.array], ids=["numpy", "mlx"])
@pytest.mark.parametrize("read", READERS)
def test_a_generator_is_read_no_further_than_the_steps(read, convert):
    data = Drawn(convert)
    read(linear(), data)
    assert data.count == 4
    assert not [t for t in threading.enumerate() if t.name == "mlxfunc-prefetch"]


def test_a_pass_goes_on_over_epochs_and_a_dataset_hears_of_its_end():
    class Data(mf.utils.PyDataset):
        heard = 0

        def __len__(self):
            return 4

        def __getitem__(self, i):
            return np.full((4, 3), i + 1.0), np.zeros((4, 1))

        def on_epoch_end(self):
            self.heard += 1

    for steps, heard in ((2, 2), (4, 4), (None, 4)):
        data = Data()
        linear().fit(data, steps_per_epoch=steps, epochs=4, verbose=0, shuffle=False)
        assert data.heard == heard


# Data.


class Endless(mf.utils.PyDataset):
    @property
    def num_batches(self):
        return None

    def __getitem__(self, i):
        return np.full((4, 3), i + 1.0, "float32"), np.zeros((4, 1), "float32")


@pytest.mark.parametrize("workers", [1, 3])
def test_a_dataset_without_end(workers):
    model, data = linear(), Endless(workers=workers)
    history = model.fit(data, steps_per_epoch=2, epochs=2, verbose=0).history
    assert history["loss"] == [np.mean([3**2, 6**2]), np.mean([9**2, 12**2])]
    assert model.predict(data, steps=1, verbose=0)[0, 0] == 3
    for call in (model.fit, model.evaluate, model.predict):
        with pytest.raises(ValueError, match="expected a number of batches for data without end"):
            call(data, verbose=0)
    assert len(list(itertools.islice(data, 3))) == 3


def test_layers_adapt_to_a_dataset():
    class Data(mf.utils.PyDataset):
        def __len__(self):
            return 5

        def __getitem__(self, i):
            return X[4 * i : 4 * i + 4], Y[4 * i : 4 * i + 4]

    assert len(list(Data())) == 5
    layer = mf.layers.Normalization()
    layer.adapt(Data())
    np.testing.assert_allclose(layer.get_weights()[0], X.mean(0), atol=1e-6)


def test_a_list_of_dicts_is_a_list_of_batches():
    model = linear()
    batches = [{"x": X[i : i + 4], "label": Y[i : i + 4]} for i in range(0, 20, 4)]
    assert model.evaluate(batches, verbose=0) == pytest.approx(model.evaluate(X, Y, verbose=0))
    inputs = [{"x": X[:4]}, {"x": X[4:]}]
    np.testing.assert_array_equal(model.predict(inputs, verbose=0), model.predict(X, verbose=0))


def test_complex_numbers_are_refused_where_their_imaginary_part_would_be_lost():
    model = linear()
    for call in (
        lambda: model.fit(X + 1j, Y, verbose=0),
        lambda: model.predict(mx.array(X + 1j), verbose=0),
        lambda: model(X + 1j),
    ):
        with pytest.raises(ValueError, match="data for 'x': expected real numbers, got complex"):
            call()
    with pytest.raises(ValueError, match="data for 'y': expected real numbers, got complex"):
        model.evaluate(X, Y + 1j, verbose=0)
    i = mf.Input((3,), dtype="complex64")
    same = mf.Model(i, mf.layers.Identity()(i))
    np.testing.assert_array_equal(same.predict(X + 1j, verbose=0), X + 1j)


# Numbers.


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": 1.5}, "expected epochs to be an int of at least 0, got 1.5"),
        ({"epochs": -1}, "expected epochs to be an int of at least 0, got -1"),
        ({"epochs": True}, "expected epochs to be an int of at least 0, got True"),
        ({"initial_epoch": "1"}, "expected initial_epoch to be an int of at least 0, got '1'"),
        ({"steps_per_epoch": 1.5}, "steps: expected a positive int, got 1.5"),
        ({"validation_freq": 0}, "expected validation_freq to be an int of at least 1.*got 0"),
        ({"validation_freq": 0.5}, "expected validation_freq to be an int of at least 1.*got 0.5"),
        ({"batch_size": 2.5}, "batch_size: expected a positive int, got 2.5"),
        ({"batch_size": True}, "batch_size: expected a positive int, got True"),
        ({"validation_data": (X, Y), "validation_steps": 0}, "steps: expected a positive int"),
    ],
)
def test_fit_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        linear().fit(X, Y, verbose=0, **options)


def test_numpy_integers_count():
    model = linear()
    history = model.fit(X, Y, np.int32(5), epochs=np.int64(2), steps_per_epoch=np.int64(2),
                        validation_data=(X, Y), validation_freq=np.int64(2), verbose=0)  # fmt: skip
    assert history.epoch == [0, 1]
    assert len(history.history["val_loss"]) == 1
    assert model.fit(X, Y, epochs=0, verbose=0).history == {}


def test_evaluate_needs_a_batch():
    with pytest.raises(ValueError, match="evaluate: expected at least one batch, got none"):
        linear().evaluate(iter([]), verbose=0)


# Callbacks.


class Recorder(Callback):
    """Every hook's name and logs."""

    def __init__(self):
        super().__init__()
        self.seen = []
        for name in dir(Callback):
            if name.startswith("on_") and name not in ("on_batch_begin", "on_batch_end"):
                setattr(self, name, lambda *args, name=name: self.seen.append((name, args[-1])))


def test_callbacks_get_a_dict_always():
    model, recorder = linear(), Recorder()
    options = {"batch_size": 10, "verbose": 0, "callbacks": [recorder]}
    model.fit(X, Y, validation_data=(X, Y), **options)
    model.evaluate(X, Y, **options)
    model.predict(X, **options)
    assert len({name for name, _ in recorder.seen}) == 14
    for name, logs in recorder.seen:
        if name.endswith("_begin") or name == "on_predict_end":
            assert logs == {}, name
        else:
            assert set(logs) >= ({"outputs"} if "predict" in name else {"loss"}), name


def test_a_list_of_callbacks_made_by_hand():
    recorder = Recorder()
    callbacks = CallbackList([recorder], model=linear())
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    callbacks.on_train_batch_end(3, {"loss": 1.0})
    callbacks.on_epoch_end(0, logs={"loss": 2.0})
    assert recorder.seen == [
        ("on_train_begin", {}),
        ("on_epoch_begin", {}),
        ("on_train_batch_end", {"loss": 1.0}),
        ("on_epoch_end", {"loss": 2.0}),
    ]
    model = linear()
    history = model.fit(X, Y, callbacks=callbacks, verbose=0)
    assert history is model.history
    assert list(history.history) == ["loss"]
    assert recorder.model is model
    with pytest.raises(AttributeError, match="on_dinner"):
        callbacks.on_dinner()


@pytest.mark.parametrize("kind", ["training", "evaluating", "predicting"])
def test_callbacks_stop_each_kind_of_run(kind):
    class Stops(Callback):
        def stop(self, batch, logs=None):
            setattr(self.model, f"stop_{kind}", batch == 1)

        on_train_batch_end = on_test_batch_end = on_predict_batch_end = stop

    data, model = Drawn(mx.array), linear()
    for _ in range(2):
        data.count, options = 0, {"steps": 5, "verbose": 0, "callbacks": [Stops()]}
        if kind == "training":
            model.fit(data, steps_per_epoch=5, epochs=2, verbose=0, callbacks=[Stops()])
        elif kind == "evaluating":
            assert model.evaluate(data, **options) == np.mean([3**2, 6**2])
        else:
            assert model.predict(data, **options).shape == (8, 1)
        assert data.count == 2


def test_the_last_steps_of_an_execution_are_reported_where_their_number_is_unknown():
    seen = []
    last = mf.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    batches = ((X[:4], Y[:4]) for _ in range(5))
    linear(steps_per_execution=2).fit(batches, verbose=0, callbacks=[last])
    assert seen == [1, 3, 4]


# Memory and precision.


def test_means_are_right_for_any_number_of_rows():
    """20 million rows, one at a time and in batches: float32 alone stops at 2**24."""
    tracker = LossTracker("loss")
    tracker.state["total"] = tracker.state["count"] = mx.array(2.0**24)
    for _ in range(1000):
        tracker.track(mx.array(3.0), 1)
    assert sum(tracker.state[k].item() for k in ("count", "count_rest")) == 2**24 + 1000
    assert sum(tracker.state[k].item() for k in ("total", "total_rest")) == 2**24 + 3000
    tracker.reset_state()
    for _ in range(20_000):
        tracker.track(mx.array(0.1), 1001)
    expected = float(np.float32(0.1) * np.float32(1001)) / 1001
    assert tracker.result().item() == pytest.approx(expected, rel=2e-7)
    mean = mf.metrics.BinaryAccuracy()
    mean.state["total"] = mean.state["count"] = mx.array(2.0**25)
    for k in range(1001):
        mean.update_state(mx.ones((1, 1)), mx.array([[k % 2]]))
    assert sum(mean.state[k].item() for k in ("count", "count_rest")) == 2**25 + 1001
    assert sum(mean.state[k].item() for k in ("total", "total_rest")) == 2**25 + 500


def test_outputs_are_joined_in_place():
    parts = [random.normal(size=(k, 2)).astype("float32") for k in (5, 1, 7, 3, 3, 3, 3, 2)]
    for rows in (None, 27, 4, 99):
        outputs = Outputs(rows)
        for part in parts:
            outputs.add({"a": mx.array(part), "b": [mx.array(part[:1] > 0)]})
        result = outputs.result()
        np.testing.assert_array_equal(result["a"], np.concatenate(parts))
        assert result["b"][0].shape == (8, 2)
        assert result["b"][0].dtype == bool
    outputs = Outputs()
    outputs.add(mx.zeros((2, 3)))
    outputs.add(mx.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"one shape \(3,\) in all batches, got \(4,\)"):
        outputs.result()


def test_bfloat16_outputs_are_float32():
    x = mf.Input((3,))
    model = mf.Model(x, mf.layers.Dense(2, dtype="bfloat16")(x))
    assert model.predict(X, verbose=0).dtype == np.float32
    assert model.predict_on_batch(X).dtype == np.float32
