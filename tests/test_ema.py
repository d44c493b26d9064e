"""Moving averages of the weights: where they begin, when they take the weights' place."""

import mlxfunc as mf
import mlx.core as mx
import numpy as np
import pytest
from mlxfunc import layers
from mlxfunc.optimizers import SGD, Adam, Nadam

random = np.random.default_rng(0)
X = random.normal(size=(32, 4)).astype("float32")
Y = X.sum(1, keepdims=True)


def make(optimizer=None, **options):
    mf.clear_session()
    mx.random.seed(1)
    x = mf.Input((4,))
    y = layers.Dense(1, name="last")(layers.Dense(3, name="first")(x))
    model = mf.Model(x, y)
    model.compile(optimizer or SGD(0.1, use_ema=True, ema_momentum=0.9, **options), "mse")
    return model


def same(model, weights):
    return all(np.array_equal(a, b) for a, b in zip(model.get_weights(), weights, strict=True))


class Stop(mf.callbacks.Callback):
    """Raises where it is told to."""

    def __init__(self, hook, error):
        super().__init__()

        def fail(*arguments):
            raise error

        setattr(self, hook, fail)


def broken():
    raise OSError("disk")
    yield


def no_step(model):
    model.fit(X, Y, epochs=0, verbose=0)


def interrupted(model):
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, verbose=0, callbacks=Stop("on_epoch_begin", KeyboardInterrupt()))


def interrupted_in_the_first_batch(model):
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, verbose=0, callbacks=Stop("on_train_batch_begin", KeyboardInterrupt()))


def without_data(model):
    with pytest.raises(OSError, match="disk"):
        model.fit(broken(), steps_per_epoch=2, verbose=0)


def with_a_loss_that_fails(model):
    def loss(y, p):
        raise RuntimeError("no loss")

    optimizer = model.optimizer
    model.compile(optimizer, loss)
    with pytest.raises(RuntimeError, match="no loss"):
        model.fit(X, Y, verbose=0)
    model.compile(optimizer, "mse")


ENDS = [no_step, interrupted, interrupted_in_the_first_batch, without_data, with_a_loss_that_fails]


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_a_training_without_a_step_leaves_the_weights(end, trained):
    model = make()
    if trained:
        model.fit(X, Y, verbose=0)
        model.set_weights([w + 1 for w in model.get_weights()])
    weights = model.get_weights()
    end(model)
    assert same(model, weights)


def reference(model, steps, momentum, rate=0.1, overwrite=None):
    """The averages and weights after gradient descent on X and Y, by hand."""
    (a, b, c, d), averages = model.get_weights(), None
    weights = [a, b, c, d]
    for step in range(steps):
        a, b, c, d = weights
        error = (2 / len(X)) * ((X @ a + b) @ c + d - Y)
        gradients = [X.T @ (error @ c.T), (error @ c.T).sum(0), (X @ a + b).T @ error, error.sum(0)]
        weights = [w - rate * g for w, g in zip(weights, gradients, strict=True)]
        if step == 0:
            averages = weights
        pairs = zip(averages, weights, strict=True)
        averages = [momentum * v + (1 - momentum) * w for v, w in pairs]
        if overwrite and (step + 1) % overwrite == 0:
            weights = averages
    return averages


@pytest.mark.parametrize("overwrite", [None, 1, 2, 3])
def test_weights_end_as_their_averages(overwrite):
    model = make(ema_overwrite_frequency=overwrite)
    expected = reference(model, 5, 0.9, overwrite=overwrite)
    model.fit(X, Y, batch_size=32, epochs=5, verbose=0)
    for own, average in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(own, average, rtol=1e-5, atol=1e-6)


def test_a_layer_that_was_frozen_begins_its_average_at_its_weights():
    model = make()
    first = model.get_layer("first")
    first.trainable = False
    before = first.get_weights()[0]
    model.fit(X, Y, batch_size=32, epochs=3, verbose=0)
    assert np.array_equal(first.get_weights()[0], before)
    first.trainable = True
    model.fit(X, Y, batch_size=32, verbose=0)
    after = first.get_weights()[0]
    # One step of gradient descent: the average is the weight that the first step gives.
    assert 0 < np.abs(after - before).max() < 1
    assert np.abs(after).max() > 0.5 * np.abs(before).max()


@pytest.mark.parametrize("optimizer", [Adam(0.01), Nadam(0.01)])
def test_a_layer_that_was_frozen_begins_with_a_first_step(optimizer):
    """Adam's first step is as long as the rate, Nadam's nearly; a later one is three times that."""
    model = make(optimizer)
    first = model.get_layer("first")
    first.trainable = False
    model.fit(X, Y, batch_size=1, epochs=20, verbose=0)
    before = first.get_weights()[0]
    first.trainable = True
    model.train_on_batch(X, Y)
    moved = np.abs(first.get_weights()[0] - before)
    np.testing.assert_allclose(moved, 0.01, rtol=0.1)


def test_an_optimizer_by_itself_begins_the_average_at_the_parameter():
    optimizer = SGD(0.1, use_ema=True, gradient_accumulation_steps=2)
    parameters = optimizer.apply_gradients({"w": mx.ones(2)}, {"w": mx.full(2, 5.0)})
    assert optimizer.averages(parameters)["w"].tolist() == [5, 5]


def test_averages_of_a_model_that_was_never_trained_are_its_weights():
    model = make()
    weights = model.get_weights()
    model.evaluate(X, Y, verbose=0, callbacks=mf.callbacks.SwapEMAWeights())
    assert same(model, weights)
    with pytest.raises(ValueError, match="SwapEMAWeights: expected an optimizer with use_ema=True"):
        make("sgd").evaluate(X, Y, verbose=0, callbacks=mf.callbacks.SwapEMAWeights())


def test_a_swap_that_broke_off_is_forgotten():
    model = make()
    swap = mf.callbacks.SwapEMAWeights(swap_on_epoch=True)
    stop = Stop("on_test_begin", OSError("disk"))
    with pytest.raises(OSError, match="disk"):
        model.fit(X, Y, epochs=2, verbose=0, validation_data=(X, Y), callbacks=[swap, stop])
    model.set_weights([w * 0 + 1 for w in model.get_weights()])
    seen = mf.callbacks.LambdaCallback(
        on_train_batch_begin=lambda step, logs: weights.append(model.get_weights())
    )
    weights = []
    model.fit(X, Y, batch_size=32, verbose=0, callbacks=[swap, seen])
    assert all((w == 1).all() for w in weights[0])


class Cut(mf.callbacks.Callback):
    """Ends the run as a signal does, at the start of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("swap_on_epoch", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_run_with_averages_is_resumed_bit_for_bit(tmp_path, cut, swap_on_epoch):
    def run(*more):
        model = make()
        swap = mf.callbacks.SwapEMAWeights(swap_on_epoch)
        backup = mf.callbacks.BackupAndRestore(tmp_path)
        options = {"epochs": 3, "verbose": 0, "validation_data": (X, Y), "batch_size": 8}
        np.random.seed(3)
        try:
            model.fit(X, Y, callbacks=[swap, backup, *more], **options)
        except KeyboardInterrupt:
            return None
        return model.get_weights()

    whole = run()
    if cut < 3:
        run(Cut(cut))
    else:
        run(Stop("on_train_end", KeyboardInterrupt()))
    again = run()
    assert all(np.array_equal(a, b) for a, b in zip(whole, again, strict=True))
