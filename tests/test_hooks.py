"""What a subclass overrides is what fit, evaluate and predict call."""

import mlxfunc as mf
import mlx.core as mx
import mlx.nn
import numpy as np
import pytest

random = np.random.default_rng(0)
X = random.normal(size=(20, 4)).astype("float32")
Y = X[:, :2] * 2 - 1
L = mf.layers
COMPILED = pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])


def model_of(cls, *layers, compiled=False, **options):
    x = mf.Input((4,))
    h = x
    for layer in layers:
        h = layer(h)
    model = cls(x, L.Dense(2, name="out", kernel_initializer="ones")(h))
    model.compile(**{"optimizer": "sgd", "loss": "mse", "jit_compile": compiled} | options)
    return model


def fit(model, **options):
    options = {"batch_size": 8, "verbose": 0, "shuffle": False} | options
    return model.fit(X, Y, **options)


def mse(model):
    return float(np.mean((model.predict(X, verbose=0) - Y) ** 2))


class Penalty(mf.Layer):
    def call(self, inputs):
        self.add_loss(mx.mean(inputs**2))
        return inputs


# compute_loss.


class Doubled(mf.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return 2 * loss + (1000 if training else 0)


@COMPILED
def test_compute_loss_is_what_fit_minimizes_and_evaluate_returns(compiled):
    model, plain = model_of(Doubled, compiled=compiled), model_of(mf.Model, compiled=compiled)
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(2 * mse(model), rel=1e-6)
    plain.optimizer.learning_rate = 0.02
    history = fit(model, epochs=2, validation_data=(X, Y)).history
    expected = fit(plain, epochs=2).history["loss"]
    np.testing.assert_allclose(history["loss"], 2 * np.array(expected) + 1000, rtol=1e-6)
    np.testing.assert_allclose(model.get_weights()[0], plain.get_weights()[0], rtol=1e-5)
    assert history["val_loss"][-1] == pytest.approx(2 * mse(model), rel=1e-5)
    before = 2 * mse(model)
    assert model.train_on_batch(X, Y) == pytest.approx(before + 1000, rel=1e-6)
    assert model.test_on_batch(X, Y) == pytest.approx(2 * mse(model), rel=1e-6)


@COMPILED
def test_a_loss_of_ones_own_needs_none_in_compile(compiled):
    class Own(mf.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            assert sample_weight is not None
            return mx.mean(sample_weight[:, None] * mx.abs(y - y_pred)) + 0 * mx.mean(x)

    model = model_of(Own, loss=None, compiled=compiled)
    weights = np.arange(20.0)
    expected = np.mean(weights[:, None] * np.abs(Y - model.predict(X, verbose=0)))
    value = model.evaluate(X, Y, sample_weight=weights, batch_size=20, verbose=0)
    assert value == pytest.approx(expected, rel=1e-6)
    losses = fit(model, sample_weight=weights, epochs=5).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("in_step", [False, True])
def test_the_default_loss_is_all_that_evaluate_counts(in_step):
    """Regularizers, activity regularizers, add_loss and masks, eagerly and in a step."""

    class Remembers(mf.Model):
        def test_step(self, data):
            x, y = data
            y_pred = self(x)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred, training=False)
            return {"loss": loss, **self.compute_metrics(x, y, y_pred)} | {"loss": loss}

    x = mf.Input((3, 4))
    h = L.Masking()(Penalty()(x))
    h = L.Dense(2, kernel_regularizer="l2", activity_regularizer="l1")(h)
    model = (Remembers if in_step else mf.Model)(x, h)
    model.compile("sgd", "mse")
    data = random.normal(size=(6, 3, 4)).astype("float32")
    data[:3, 1:] = 0
    labels = np.ones((6, 3, 2), "float32")
    y_pred = model(data)
    value = model.compute_loss(x=data, y=mx.array(labels), y_pred=y_pred, training=False)
    parts = [float(part) for part in model.losses]
    assert len(parts) == 3
    assert all(part > 0 for part in parts)
    valid = np.ones((6, 3), bool)
    valid[:3, 1:] = False
    errors = ((np.array(y_pred) - labels) ** 2).mean(-1)[valid]
    assert value.item() == pytest.approx(errors.mean() + sum(parts), rel=1e-5)
    assert model.evaluate(data, labels, verbose=0) == pytest.approx(value.item(), rel=1e-6)


def test_losses_of_several_outputs():
    class Two(mf.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            first, second = y_pred
            return mx.mean(first) + mx.mean(second)

    def make(cls):
        x = mf.Input((4,))
        model = cls(x, [L.Dense(2, name="a")(x), L.Dense(2, name="b")(x)])
        model.compile("sgd", "mse", loss_weights=[1.0, 3.0])
        return model

    logs = make(mf.Model).evaluate(X, [Y, Y], verbose=0, return_dict=True)
    assert list(logs) == ["a_loss", "b_loss", "loss"]
    assert logs["loss"] == pytest.approx(logs["a_loss"] + 3 * logs["b_loss"], rel=1e-6)
    logs = make(Two).evaluate(X, [Y, Y], verbose=0, return_dict=True)
    assert list(logs) == ["loss"], "outputs whose loss nobody computed are not logged"


def test_a_loss_that_is_missing_is_said():
    class Forgets(mf.Model):
        def compute_loss(self, **arguments):
            pass

    with pytest.raises(TypeError, match="expected compute_loss to return the loss, got None"):
        fit(model_of(Forgets))


# compute_metrics.


class Counting(mf.Model):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.largest = mf.metrics.Mean(name="largest")

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logs = super().compute_metrics(x, y, y_pred, sample_weight)
        self.largest.update_state(mx.max(y_pred))
        return {**logs, "largest": self.largest.result(), "twice": 2 * logs["mae"]}


@pytest.mark.parametrize("compiled", [False, True])
def test_compute_metrics_is_what_is_logged(compiled):
    model = model_of(Counting, compiled=compiled, metrics=["mae"])
    expected = model.predict(X, verbose=0)
    for _ in range(2):
        logs = model.evaluate(X, Y, batch_size=10, verbose=0, return_dict=True)
        means = expected.reshape(2, -1).max(axis=1).mean()
        assert logs["largest"] == pytest.approx(means, rel=1e-6), "means begin anew each time"
        assert logs["twice"] == pytest.approx(2 * np.abs(expected - Y).mean(), rel=1e-5)
        assert sorted(logs) == ["largest", "loss", "mae", "twice"]
    history = fit(model, epochs=3, validation_data=(X, Y)).history
    keys = ["largest", "loss", "mae", "twice"]
    assert sorted(history) == sorted(keys + [f"val_{key}" for key in keys])


def test_metrics_are_known_before_fit():
    model = model_of(Counting, metrics=["mae"])
    assert [m.name for m in model.metrics] == ["loss", "compile_metrics", "largest"]
    fit(model)
    assert [m.name for m in model.metrics] == ["loss", "compile_metrics", "largest"]
    assert [m.name for m in model.metrics[1].metrics] == ["mae"]
    assert model.metrics[0].result().item() > 0
    model.reset_metrics()
    assert model.metrics[0].result().item() == 0
    assert set(model.get_metrics_result()) == {"loss", "mae", "largest"}


def test_a_metric_of_a_layer_is_logged_and_begins_anew():
    class Watch(mf.Layer):
        def __init__(self):
            super().__init__()
            self.seen = mf.metrics.Sum(name="rows")

        def call(self, inputs):
            self.seen.update_state(mx.ones(inputs.shape[0]))
            return inputs

    assert fit(model_of(mf.Model, Watch()), epochs=2).history["rows"] == [20, 20]


# Steps.


@COMPILED
def test_a_train_step_of_ones_own(compiled):
    """As guides write it: losses and metrics by hand, over `self.metrics`."""

    class Own(mf.Model):
        def train_step(self, data):
            x, y = data

            def loss_fn(x, y):
                y_pred = self(x, training=True)
                return self.compute_loss(y=y, y_pred=y_pred), y_pred

            (loss, y_pred), gradients = mlx.nn.value_and_grad(self, loss_fn)(x, y)
            self.apply_gradients(gradients)
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
                else:
                    metric.update_state(y, y_pred)
            return {metric.name: metric.result() for metric in self.metrics[:1]} | (
                self.metrics[1].result()
            )

    model = model_of(Own, Penalty(), compiled=compiled, metrics=["mae"])
    plain = model_of(mf.Model, Penalty(), compiled=compiled, metrics=["mae"])
    got, want = (fit(m, batch_size=10, epochs=2).history for m in (model, plain))
    for key in ("loss", "mae"):
        np.testing.assert_allclose(got[key], want[key], rtol=1e-6)


def test_masks_reach_compute_loss_in_a_step_of_ones_own():
    class Own(mf.Model):
        def train_step(self, data):
            x, y = data

            def loss_fn(x, y):
                y_pred = self(x, training=True)
                return self.compute_loss(x, y, y_pred), y_pred

            (loss, y_pred), gradients = mlx.nn.value_and_grad(self, loss_fn)(x, y)
            self.apply_gradients(gradients)
            return {**self.compute_metrics(x, y, y_pred), "loss": loss}

    data = random.normal(size=(6, 3, 4)).astype("float32")
    data[:3, 1:] = 0
    ends = []
    for cls in (Own, mf.Model):
        x = mf.Input((3, 4))
        model = cls(x, L.Dense(2, kernel_initializer="ones")(L.Masking()(x)))
        model.compile("sgd", "mse", metrics=["mae"])
        logs = model.fit(data, np.ones((6, 3, 2)), verbose=0).history
        ends.append((logs["loss"], logs["mae"], model.get_weights()[0]))
    for got, want in zip(*ends, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


@COMPILED
def test_predict_step_gives_what_predict_returns(compiled):
    class Both(mf.Model):
        def predict_step(self, data):
            (x,) = data
            return {"twice": 2 * self(x), "input": x}

    model = model_of(Both, compiled=compiled)
    outputs = model.predict(X, batch_size=8, verbose=0)
    assert list(outputs) == ["twice", "input"]
    np.testing.assert_array_equal(outputs["input"], X)
    np.testing.assert_allclose(outputs["twice"], 2 * np.array(model(X)), rtol=1e-6)
    np.testing.assert_array_equal(model.predict_on_batch(X)["input"], X)


def test_a_step_returns_what_is_logged():
    class Silent(mf.Model):
        def test_step(self, data):
            pass

    with pytest.raises(TypeError, match="expected test_step to return a dict of what is logged"):
        model_of(Silent).evaluate(X, Y, verbose=0)
