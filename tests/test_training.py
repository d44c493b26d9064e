"""compile, fit, evaluate, predict: the step, what is logged, precision, repeatability."""

import mlxfunc as mf
import mlx.core as mx
import mlx.nn
import mlx.optimizers
import numpy as np
import pytest
from mlxfunc.training import step as step_module

random = np.random.default_rng(0)
X = random.normal(size=(50, 4)).astype("float32")
Y = X[:, :2] * 2 - 1


def linear(optimizer="sgd", loss="mse", **options):
    x = mf.Input((4,))
    model = mf.Model(x, mf.layers.Dense(2, name="out")(x))
    model.compile(optimizer, loss, **options)
    return model


def two_layers():
    x = mf.Input((4,))
    h = mf.layers.Dense(8, activation="tanh", name="hidden")(x)
    return mf.Model(x, mf.layers.Dense(2, name="out")(h))


def fit(model, **options):
    options = {"batch_size": 16, "epochs": 2, "verbose": 0, "shuffle": False} | options
    return model.fit(X, Y, **options)


class Noise(mf.Layer):
    def call(self, inputs, training=False):
        return inputs + 0.1 * mx.random.normal(inputs.shape) if training else inputs


class CountingModel(mf.Model):
    """Counts how often its step is traced, or run when it is not compiled."""

    def train_step(self, data):
        self.traces = vars(self).get("traces", 0) + 1
        return super().train_step(data)


def counting(**options):
    x = mf.Input((4,))
    model = CountingModel(x, mf.layers.Dense(2)(x))
    model.compile("sgd", "mse", **options)
    return model


# The compiled step.


def test_two_signatures_and_no_new_trace_for_a_new_rate():
    model = counting(jit_compile=True)
    halve = mf.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    history = fit(model, epochs=3, callbacks=[halve])
    assert model.traces == 2, "one for 16 rows, one for the last 2"
    np.testing.assert_allclose(history.history["learning_rate"], [0.005, 0.0025, 0.00125])
    fit(model)
    assert model.traces == 2, "a second fit uses the same step"


def test_compiled_equals_uncompiled():
    weights = two_layers().get_weights()
    ends = []
    for compiled in (False, True):
        model = two_layers()
        model.set_weights(weights)
        model.compile("sgd", "mse", metrics=["mae"], jit_compile=compiled)
        history = fit(model, epochs=3, validation_split=0.2).history
        ends.append(([history[key][-1] for key in sorted(history)], model.get_weights()))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=1e-5)
    for a, b in zip(ends[0][1], ends[1][1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_sizes_that_vary_are_capped(monkeypatch):
    monkeypatch.setattr(step_module, "MAX_SIGNATURES", 3)
    model = counting(jit_compile=True)
    batches = [(X[:k], Y[:k]) for k in (3, 4, 5, 6, 7, 6)]
    with pytest.warns(UserWarning, match="more than 3 different batch sizes.*Pad the batches"):
        history = model.fit(batches, verbose=0)
    assert model.traces == 3 + 3
    eager = counting(jit_compile=False)
    assert np.isfinite(history.history["loss"][0])
    eager.fit(batches, verbose=0)
    assert eager.traces == 6


def test_a_step_that_fails_leaves_the_model_as_it_was():
    def broken(y_true, y_pred):
        raise RuntimeError("not my shapes")

    for compiled in (True, False):
        model = linear("adam", metrics=[broken], jit_compile=compiled)
        before = model.get_weights()
        with pytest.raises(RuntimeError, match="not my shapes"):
            fit(model)
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        assert model.optimizer.step.item() == 0
        mx.eval(mx.random.normal((2,)))
        assert np.isfinite(model.predict(X, verbose=0)).all()


def test_when_auto_compiles(monkeypatch):
    monkeypatch.setattr(step_module.shutil, "which", lambda name: "/usr/bin/" + name)
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    assert step_module.should_compile("auto", 10) is on_gpu
    assert step_module.should_compile("auto", step_module.COMPILE_FROM)
    assert step_module.should_compile("auto", None)
    assert not step_module.should_compile(False, 10**6)
    assert step_module.should_compile(True, 1)
    monkeypatch.setattr(step_module.shutil, "which", lambda name: None)
    assert step_module.should_compile("auto", 10**6) is on_gpu
    model = linear(run_eagerly=True, jit_compile=True)
    assert model.jit_compile is False


@pytest.mark.parametrize("compiled", [False, True])
def test_a_seed_repeats_a_run_bit_for_bit(compiled):
    runs = []
    for _ in range(2):
        mf.clear_session()
        mf.utils.set_random_seed(11)
        x = mf.Input((4,))
        model = mf.Model(x, mf.layers.Dense(2)(Noise()(x)))
        model.compile("sgd", "mse", jit_compile=compiled)
        history = fit(model, shuffle=True, validation_split=0.1)
        runs.append((model.get_weights(), history.history))
    for a, b in zip(runs[0][0], runs[1][0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert runs[0][1] == runs[1][1]


# What is logged.


def test_weighted_loss_divides_by_rows():
    x = mf.Input((1,))
    model = mf.Model(x, mf.layers.Identity()(x))
    model.compile("sgd", "mse")
    zeros, truth = np.zeros((4, 1)), np.array([[1.0], [0.0], [0.0], [4.0]])
    weights = np.array([1.0, 1.0, 1.0, 3.0])
    assert model.evaluate(zeros, truth, sample_weight=weights, verbose=0) == 12.25


def test_the_last_batch_counts_by_its_rows():
    model = linear(mf.optimizers.SGD(0.0), metrics=["mse"])
    history = fit(model, epochs=1).history
    whole = float(np.mean((model.predict(X, verbose=0) - Y) ** 2))
    np.testing.assert_allclose([history["loss"][0], history["mse"][0]], whole, rtol=1e-5)


def test_not_finite_goes_on_with_one_warning():
    bad = X.copy()
    bad[0] = np.nan
    model = linear()
    with pytest.warns(UserWarning, match="not finite in epoch 1; training goes on") as told:
        history = model.fit(bad, Y, epochs=3, verbose=0)
    assert len(history.epoch) == 3
    assert len([w for w in told if "not finite" in str(w.message)]) == 1


def test_functions_as_loss_and_metric():
    def cube(y_true, y_pred):
        return mx.mean(mx.abs(y_true - y_pred) ** 3, axis=-1)

    model = linear(loss=cube, metrics=[cube])
    history = fit(model).history
    np.testing.assert_allclose(history["loss"], history["cube"], rtol=1e-5)


def test_functions_are_logged_under_keras_names():
    def customMAE(y_true, y_pred):
        return mx.mean(mx.abs(y_true - y_pred), axis=-1)

    model = linear(metrics=[customMAE, lambda y_true, y_pred: mx.mean(y_pred, axis=-1)])
    assert list(fit(model, epochs=1).history) == ["custom_mae", "lambda", "loss"]


def test_the_factor_that_scales_the_loss_moves_no_weight_elsewhere():
    plain, scaled = linear("sgd"), linear(mf.optimizers.SGD(loss_scale_factor=8.0))
    scaled.set_weights(plain.get_weights())
    for model in (plain, scaled):
        fit(model)
    np.testing.assert_allclose(scaled.get_weights()[0], plain.get_weights()[0], rtol=1e-5)


def test_numpy_integers_are_sizes():
    x = mf.Input((np.int64(4),))
    assert x.shape == (None, 4)
    model = mf.Model(x, mf.layers.Reshape((np.int64(2), -1))(x))
    assert model.predict(X, batch_size=np.int64(7), verbose=0).shape == (len(X), 2, 2)


def test_evaluate_forms_and_names():
    model = linear(metrics=["mae", "mse"])
    values = model.evaluate(X, Y, verbose=0)
    named = model.evaluate(X, Y, verbose=0, return_dict=True, batch_size=7)
    assert model.metrics_names == ["loss", "mae", "mse"]
    np.testing.assert_allclose(values, [named[key] for key in model.metrics_names], rtol=1e-5)
    assert model.evaluate(X, Y, verbose=0, steps=1, batch_size=5) != values
    assert isinstance(linear().evaluate(X, Y, verbose=0), float)


def test_predict_keeps_the_structure():
    x = mf.Input((4,))
    a, b = mf.layers.Dense(2, name="a")(x), mf.layers.Dense(3, name="b")(x)
    parts = mf.Model(x, {"a": a, "b": [b, a]}).predict(X, batch_size=8, verbose=0)
    assert parts["a"].shape == parts["b"][1].shape == (50, 2)
    assert parts["b"][0].shape == (50, 3)
    model = mf.Model(x, [a, b])
    np.testing.assert_array_equal(model.predict_on_batch(X)[0], model.predict(X, verbose=0)[0])
    assert model.predict((X[i : i + 10] for i in (0, 10)), verbose=0)[0].shape == (20, 2)


@pytest.mark.parametrize("verbose, lines", [(0, 0), (1, 2), (2, 2), ("auto", 2)])
def test_plain_lines_off_a_terminal(capsys, verbose, lines):
    fit(linear(metrics=["mae"]), verbose=verbose, validation_split=0.2)
    out = capsys.readouterr().out
    assert out.count("\n") == lines
    if lines:
        assert "Epoch 1/2 - 3/3 - " in out
        assert all(part in out for part in ("loss: ", "val_mae: ", "/step"))


def test_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("mlxfunc.training.progress.REFRESH_SECONDS", 0.0)
    fit(linear(metrics=["mae"]), verbose=1)
    out = capsys.readouterr().out
    assert all(part in out for part in ("Epoch 1/2", "4/4", "mae:", "\x1b["))


# What moves the weights.


def test_raw_mlx_optimizers():
    model = linear(mlx.optimizers.Adam(0.1))
    losses = fit(model, epochs=20).history["loss"]
    assert losses[-1] < losses[0] / 4


def test_a_model_with_a_raw_optimizer_is_saved_without_it(tmp_path):
    model = linear(mlx.optimizers.Adam(0.1))
    fit(model)
    with pytest.warns(UserWarning, match="Adam is an optimizer of MLX.*compile it again"):
        model.save(tmp_path / "model.mlxfunc")
    loaded = mf.saving.load_model(tmp_path / "model.mlxfunc")
    assert not loaded.compiled
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])


def test_frozen_layers_stay_and_thawed_ones_move():
    model = two_layers()
    model.get_layer("hidden").trainable = False
    model.compile("adam", "mse")
    start = model.get_weights()
    fit(model)
    middle = model.get_weights()
    np.testing.assert_array_equal(start[0], middle[0])
    assert not np.array_equal(start[2], middle[2])
    model.get_layer("hidden").trainable = True
    fit(model)
    assert not np.array_equal(model.get_weights()[0], middle[0])


def test_a_model_without_weights_is_evaluated_and_fitted():
    x = mf.Input((4,))
    model = mf.Model(x, mf.layers.Identity()(x))
    model.compile("sgd", "mse")
    assert model.fit(X, X, verbose=0).history["loss"] == [0.0]


def test_added_losses_count():
    class Penalty(mf.Layer):
        def call(self, inputs):
            self.add_loss(mx.mean(inputs**2))
            return inputs

    x = mf.Input((4,))
    model = mf.Model(x, Penalty()(mf.layers.Dense(2)(x)))
    model.compile("sgd")
    first = float(np.mean(model.predict(X, verbose=0) ** 2))
    np.testing.assert_allclose(model.evaluate(X, verbose=0, batch_size=50), first, rtol=1e-5)
    assert model.fit(X, epochs=20, verbose=0).history["loss"][-1] < first


def test_own_train_step():
    class Own(mf.Model):
        def train_step(self, data):
            x, y = data

            def loss_fn(x, y):
                return self.compute_loss(x, y, self(x, training=True))

            loss, gradients = mlx.nn.value_and_grad(self, loss_fn)(x, y)
            self.apply_gradients(gradients)
            return {"mine": loss}

    x = mf.Input((4,))
    model = Own(x, mf.layers.Dense(2)(x))
    model.compile("sgd", "mse")
    other = linear()
    other.set_weights(model.get_weights())
    history = fit(model, epochs=1)
    fit(other, epochs=1)
    assert list(history.history) == ["mine"]
    np.testing.assert_allclose(model.get_weights()[0], other.get_weights()[0], rtol=1e-6)


def test_train_on_batch_equals_fit():
    model, other = linear("adam"), linear("adam")
    other.set_weights(model.get_weights())
    history = model.fit(X, Y, batch_size=50, epochs=2, verbose=0, shuffle=False)
    losses = [other.train_on_batch(X, Y) for _ in range(2)]
    np.testing.assert_allclose(losses, history.history["loss"], rtol=1e-6)
    np.testing.assert_array_equal(model.get_weights()[0], other.get_weights()[0])


def test_sequential_is_drawn_for_its_first_data():
    for data in ({"x": X, "y": Y}, {"x": iter([(X, Y)])}, {"x": [(X, Y)]}):
        model = mf.Sequential([mf.layers.Dense(3), mf.layers.Dense(2)])
        model.compile("sgd", "mse", metrics=["mae"])
        history = model.fit(**data, verbose=0)
        assert np.isfinite(history.history["mae"][0])
        assert len(model.get_weights()) == 4


# Precision.


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_keeps_float32_masters(dtype):
    seen = []

    class Look(mf.Layer):
        def call(self, inputs):
            seen.append(inputs.dtype)
            return inputs

    x = mf.Input((4,))
    model = mf.Model(x, mf.layers.Dense(2)(Look()(mf.layers.Dense(16, activation="relu")(x))))
    model.compile(mf.optimizers.Adam(0.05), "mse", dtype=dtype)
    seen.clear()
    losses = fit(model, epochs=30).history["loss"]
    assert set(seen) == {mx.bfloat16 if dtype == "bfloat16" else mx.float16}
    assert losses[-1] < losses[0] / 10
    assert {w.dtype for w in model.weights} == {mx.float32}
    assert model.predict(X, verbose=0).dtype == np.float32


def test_loss_scale_leaves_out_steps_that_overflow():
    model = linear(mf.optimizers.Adam(0.01), dtype="float16")
    before, scale = model.get_weights(), model.loss_scale.state["scale"].item()
    huge = np.full_like(Y, 6e4)
    model.train_on_batch(X, huge)
    np.testing.assert_array_equal(model.get_weights()[0], before[0])
    assert model.loss_scale.state["scale"].item() == scale / 2
    assert model.optimizer.step.item() == 0
    assert linear(dtype="float16", auto_scale_loss=False).loss_scale is None


def test_loss_scale_grows(monkeypatch):
    monkeypatch.setattr("mlxfunc.training.precision.GROW_AFTER", 2)
    model = linear(mf.optimizers.SGD(1e-3), dtype="float16")
    model.loss_scale.state["scale"] = mx.array(8.0)
    for _ in range(4):
        model.train_on_batch(X, Y)
    assert model.loss_scale.state["scale"].item() == 32


# compile's arguments.


def test_compile_config_brings_everything_back():
    from mlxfunc.registry import serialize

    model = linear(
        mf.optimizers.Adam(0.02), {"out": "mae"}, metrics=["mse"], loss_weights=[2.0],
        weighted_metrics=[mf.metrics.MeanAbsoluteError()], jit_compile=False, dtype="bfloat16",
    )  # fmt: skip
    config = serialize(model.compile_config())
    other = linear()
    other.compile_from_config(config)
    assert serialize(other.compile_config()) == config
    np.testing.assert_allclose(other.optimizer.learning_rate.item(), 0.02)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"optimizer": "adm"}, "unknown optimizer 'adm'. Did you mean 'adam'"),
        ({"loss": "msee"}, "unknown loss 'msee'. Did you mean"),
        ({"metrics": ["acuracy"]}, "unknown metric 'acuracy'. Did you mean 'accuracy'"),
        ({"metrics": "mae"}, r"metrics: expected a list or a dict, got 'mae'"),
        ({"loss": {"uot": "mse"}}, r"loss: unknown outputs \['uot'\]. Known: \['out'\]"),
        ({"loss": ["mse", "mse"]}, "loss: expected 1 entries"),
        ({"metrics": {"uot": ["mse"]}}, r"metrics: unknown outputs \['uot'\]"),
        ({"target_tensors": [1]}, "target_tensors is not supported"),
        ({"sample_weight_mode": "spatial"}, "expected sample_weight_mode 'temporal'"),
        ({"jit_compile": "maybe"}, "expected jit_compile True, False or 'auto', got 'maybe'"),
        ({"steps_per_execution": 0}, "expected steps_per_execution of 1 or more, got 0"),
        ({"dtype": "int8"}, "expected dtype 'float32', 'bfloat16' or 'float16', got 'int8'"),
    ],
)
def test_compile_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        linear(**options)


def test_sample_weight_mode_is_accepted():
    assert linear(sample_weight_mode="temporal").compiled
    assert linear(sample_weight_mode={"out": None}).compiled


def test_compile_comes_first():
    x = mf.Input((4,))
    model = mf.Model(x, mf.layers.Dense(2)(x))
    for name in ("fit", "evaluate", "train_on_batch", "test_on_batch"):
        with pytest.raises(RuntimeError, match=rf"expected compile\(...\) before {name}\(...\)"):
            getattr(model, name)(X, Y)
    assert model.predict(X, verbose=0).shape == (50, 2)
