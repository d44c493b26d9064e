"""Any thread may build, set, train, ask and export a model; MLX's lazy arrays belong to one."""

import contextvars
import gc
import queue
import subprocess
import sys
import threading

import mlxfunc as mf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlxfunc import layers
from mlxfunc.registry import custom_object_scope, deserialize

random = np.random.default_rng(0)
X = random.normal(size=(24, 6, 4)).astype("float32")
Y = random.normal(size=(24, 2)).astype("float32")


def in_thread(function, *arguments):
    """What `function` returns, or raises, in a thread of its own, which ends."""
    answer = queue.Queue()

    def work():
        try:
            answer.put((function(*arguments), None))
        except BaseException as error:
            answer.put((None, error))

    thread = threading.Thread(target=work)
    thread.start()
    result, error = answer.get(timeout=120)
    thread.join()
    if error is not None:
        raise error
    return result


def here(function, *arguments):
    return function(*arguments)


class Table(layers.Layer):
    """What a user's layer may keep: a weight, a constant, private ones, a module of MLX."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._sines = mx.sin(mx.arange(4) * 1.0)
        self.linear = nn.Linear(4, 4)
        self.rotary = nn.RoPE(4)

    def build(self, input_shape):
        self.w = self.add_weight((4,), lambda shape, dtype: mx.ones(shape, dtype) * 2)
        self._pair = (mx.zeros(4) + 1, [mx.ones(4) * 3])

    def call(self, x):
        return self.rotary(self.linear(x)) * self.w + self._sines * self._pair[0] + self._pair[1][0]


def build(name="model"):
    mf.clear_session()
    x = mf.Input((6, 4), batch_size=6)
    y = layers.BatchNormalization()(Table()(x)) + mx.ones(4) * 0.5
    y = layers.LSTM(5, stateful=True, return_sequences=True)(y)
    y = layers.Dropout(0.1, seed=3)(layers.Conv1D(3, 2)(y))
    y = layers.MultiHeadAttention(2, 4)(y, y)
    y = layers.Dense(2, kernel_constraint="max_norm", kernel_regularizer="l2")(layers.Flatten()(y))
    model = mf.Model(x, y, name=name)
    optimizer = mf.optimizers.Adam(mf.schedules.ExponentialDecay(0.01, 10, 0.9), use_ema=True)
    model.compile(optimizer, "mse", metrics=["mae", "mse"])
    return model


def fit(model):
    model.fit(X, Y, batch_size=6, epochs=2, verbose=0, validation_data=(X, Y))
    return model


def predict(model):
    model.get_layer("lstm").reset_state()
    return model.predict(X, batch_size=6, verbose=0)


def export(model, path):
    i = mf.Input((6, 4))
    plain = mf.Model(i, layers.Dense(2)(layers.LSTM(3)(Table()(i))))
    mf.Model(i, plain(i)).export(str(path / "m.onnx"))
    return model


def save(model, path):
    model.save(path / "m.mlxfunc")
    model.save_weights(path / "m.safetensors")
    return model


def load_weights(model, path):
    model.save_weights(path / "m.safetensors")
    model.load_weights(path / "m.safetensors")
    return model


# What leaves the model as it was, by name: (model, folder) → model.
USES = {
    "call": lambda m, p: (np.array(m(mx.array(X[:6]))), m)[1],
    "predict": lambda m, p: (predict(m), m)[1],
    "predict_on_batch": lambda m, p: (m.predict_on_batch(X[:6]), m)[1],
    "evaluate": lambda m, p: (m.evaluate(X, Y, batch_size=6, verbose=0), m)[1],
    "test_on_batch": lambda m, p: (m.test_on_batch(X[:6], Y[:6]), m)[1],
    "set_weights": lambda m, p: (m.set_weights(m.get_weights()), m)[1],
    "load_weights": load_weights,
    "load pairs": lambda m, p: m.load_weights([("dense.bias", mx.zeros(2) + 1)], strict=False),
    "apply": lambda m, p: m.apply(lambda a: a * 1),
    "reset_states": lambda m, p: (m.get_layer("lstm").reset_state(), m)[1],
    "learning_rate": lambda m, p: (m.compile(mf.optimizers.SGD(1e-3), "mse"), m)[1],
    "compile": lambda m, p: (m.compile("adam", "mse", metrics=["mae", mf.metrics.AUC()]), m)[1],
    "save": save,
    "export": export,
    "fit": lambda m, p: fit(m),
    "train_on_batch": lambda m, p: (m.train_on_batch(X[:6], Y[:6]), m)[1],
}  # fmt: skip


@pytest.mark.parametrize("first", [here, in_thread])
@pytest.mark.parametrize("use", USES)
def test_a_model_moves_between_threads(use, first, tmp_path):
    second = in_thread if first is here else here
    model = first(build)
    model = second(USES[use], model, tmp_path)
    gc.collect()
    for place in (first, second, here):
        assert np.isfinite(place(predict, model)).all()
        assert all(np.isfinite(w).all() for w in place(model.get_weights))
    first(fit, model)
    second(fit, model)
    save(model, tmp_path)


def test_every_use_in_a_thread_of_its_own(tmp_path):
    model = in_thread(build)
    for use in random.permutation([*USES, *USES]):
        model = in_thread(USES[use], model, tmp_path)
    assert np.isfinite(predict(model)).all()


@pytest.mark.parametrize("compiled", [False, True])
def test_where_a_model_is_trained_changes_nothing(compiled):
    def run(place):
        mf.utils.set_random_seed(4)
        weights = build().get_weights()
        model = place(build)
        model.compile("adam", "mse", jit_compile=compiled)
        place(model.set_weights, weights)
        place(lambda: np.random.seed(1))
        place(fit, model)
        return [*model.get_weights(), place(predict, model)]

    for a, b in zip(run(here), run(in_thread), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_loaded_model_moves_between_threads(tmp_path):
    model = fit(build())
    save(model, tmp_path)
    expected = predict(model)
    custom, config = {"Table": Table}, model.get_config()
    loaded = in_thread(mf.saving.load_model, tmp_path / "m.mlxfunc", custom)
    np.testing.assert_allclose(predict(loaded), expected, rtol=1e-6)
    fit(loaded)
    with custom_object_scope(custom):
        again = in_thread(contextvars.copy_context().run, type(model).from_config, config)
    again.load_weights(tmp_path / "m.safetensors")
    np.testing.assert_allclose(in_thread(predict, again), expected, rtol=1e-6)


class Lazy(mf.utils.PyDataset):
    """Batches of arrays that MLX has not computed."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return mx.ones((6, 6, 4)) * float(index), {"y": mx.zeros((6, 2)) * 1.0}["y"]


class Unpicklable(Lazy):
    """The same by a process."""

    def __getitem__(self, index):
        return X[:6], Y[:6]


@pytest.mark.parametrize("workers", [1, 3])
def test_datasets_may_return_lazy_arrays(workers):
    model = build()
    model.fit(Lazy(workers=workers), epochs=2, verbose=0)
    in_thread(lambda: model.fit(Lazy(workers=workers), validation_data=Lazy(), verbose=0))
    assert np.isfinite(predict(model)).all()


def mixed():
    yield X[:6], mx.zeros((6, 2)) + 1  # The first batch is looked at: read in place.
    yield X[:6], Y[:6]


def numpy_first():
    yield X[:6], Y[:6]  # The first batch is looked at: read by a thread.
    yield mx.ones((6, 6, 4)) * 1.0, mx.zeros((6, 2)) + 1


@pytest.mark.parametrize("items", [mixed, numpy_first])
@pytest.mark.parametrize("place", [here, in_thread])
def test_generators_may_yield_lazy_arrays(items, place):
    model = build()
    place(lambda: model.fit(items(), steps_per_epoch=2, verbose=0))
    assert np.isfinite(predict(model)).all()


def test_a_memory_map_beside_lazy_arrays(tmp_path):
    np.save(tmp_path / "x.npy", X)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    model = build()
    model.fit(x, mx.zeros((24, 2)) + 1, batch_size=6, epochs=2, verbose=0)
    assert np.isfinite(predict(model)).all()


def test_lazy_arrays_of_another_thread_are_told_and_do_no_harm():
    model = fit(build())
    before = model.get_weights()
    y = in_thread(lambda: mx.ones((6, 2)) * 2)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no Stream") as caught:
            model.train_on_batch(X[:6], y)
        assert any("mx.eval" in note for note in caught.value.__notes__)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)
    fit(model)
    assert np.isfinite(predict(model)).all()


class Failing(layers.Layer):
    """Counts its calls in training, and fails in the second."""

    fails = False

    def build(self, input_shape):
        self.count = self.add_weight((), "zeros", trainable=False)

    def call(self, x, training=False):
        if training:
            self.count = self.count + 1
            if Failing.fails:
                raise OSError("sensor")
        return x


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("place", [here, in_thread])
def test_a_failed_step_leaves_the_model_as_it_was(place, compiled, monkeypatch):
    x = mf.Input((4,))
    y = layers.Dense(2)(Failing()(layers.BatchNormalization()(layers.Dropout(0.5)(x))))
    model = mf.Model(x, y)
    model.compile("adam", "mse", jit_compile=compiled)
    data = (X[:8, 0], Y[:8])
    model.train_on_batch(*data)
    weights = model.get_weights()
    step = model.optimizer.step.item()
    monkeypatch.setattr(Failing, "fails", True)
    with pytest.raises(OSError, match="sensor"):
        place(lambda: model.train_on_batch(X[:7, 0], Y[:7]))
    monkeypatch.setattr(Failing, "fails", False)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), weights, strict=True))
    assert model.optimizer.step.item() == step
    place(lambda: model.train_on_batch(X[:7, 0], Y[:7]))
    assert model.optimizer.step.item() == step + 1


def test_weights_that_do_not_fit_change_nothing():
    model = build()
    before = model.get_weights()
    wrong = [w + 1 for w in before[:-1]] + [np.ones(7)]
    with pytest.raises(ValueError, match="dense: expected bias of shape"):
        model.set_weights(wrong)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


@pytest.mark.parametrize("compiled", [False, True])
def test_predict_in_a_thread_while_another_trains(compiled):
    x = mf.Input((4,))
    y = layers.Dense(2)(layers.BatchNormalization()(layers.Dense(8, activation="relu")(x)))
    model = mf.Model(x, y)
    model.compile("adam", "mse", jit_compile=compiled)
    data = random.normal(size=(64, 4)).astype("float32")
    predictions, stop = [], threading.Event()

    def ask():
        while not stop.is_set() or not predictions:
            predictions.append(model.predict(data, verbose=0))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        model.fit(data, data[:, :2], epochs=30, batch_size=8, verbose=0)
    finally:
        stop.set()
        asking.join()
    assert all(np.isfinite(p).all() for p in predictions)
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_two_threads_on_two_models():
    def alone(seed):
        mx.random.seed(seed)
        x = mf.Input((6, 4))
        model = mf.Model(x, layers.Dense(2)(layers.Dropout(0.3, seed=seed)(layers.LSTM(4)(x))))
        assert len({layer.name for layer in model.layers}) == 4
        model.set_weights([np.full(w.shape, 0.1 * (seed + 1), "f4") for w in model.get_weights()])
        model.compile("adam", "mse")
        model.fit(X, Y, epochs=3, shuffle=False, verbose=0)
        return model.get_weights()

    expected = [alone(seed) for seed in range(4)]
    results = {}
    threads = [
        threading.Thread(target=lambda k=k: results.__setitem__(k, alone(k))) for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, weights in enumerate(expected):
        for a, b in zip(results[seed], weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_automatic_names_are_unique_across_threads():
    names = []
    start = threading.Barrier(4)

    def work():
        start.wait()
        names.extend([layers.Dense(1).name for _ in range(300)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 1200


def test_custom_objects_are_those_of_the_thread():
    def load(number):
        def own(x):
            return x * number

        with custom_object_scope({"own": own}):
            for _ in range(200):
                if deserialize("activations", "own") is not own:
                    return False
        return True

    results = []
    threads = [threading.Thread(target=lambda k=k: results.append(load(k))) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 4


class Named(mf.utils.PyDataset):
    """Looks a custom object up where batches are made."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return X[:6, 0], Y[:6] * deserialize("activations", "two")(1)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_know_the_custom_objects_of_their_run(workers):
    x = mf.Input((4,))
    model = mf.Model(x, layers.Dense(2)(x))
    model.compile("sgd", "mse")
    with custom_object_scope({"two": lambda x: 2 * x}):
        model.fit(Named(workers=workers), verbose=0)
    with pytest.raises(ValueError, match="unknown activation 'two'"):
        model.fit(Named(workers=workers), verbose=0)


ENDING = """
import threading
import mlxfunc as mf
import mlx.core as mx
import numpy as np

class Random(mf.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return mx.random.normal((8, 4)), np.ones((8, 2), "float32")

x = mf.Input((4,))
model = mf.Model(x, mf.layers.Dense(2)(x))
model.compile("sgd", "mse", jit_compile=False)

def work():
    model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    model.predict(np.ones((8, 4)), verbose=0)
    if turn < 4:
        model.fit(Random(workers=1 + turn % 2), verbose=0)

for turn in range(20):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(int(model.optimizer.step))
"""


def test_a_process_whose_threads_computed_ends_by_itself():
    ended = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "28\n"), ended.stderr
