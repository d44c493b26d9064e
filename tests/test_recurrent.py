"""Recurrent layers on their own: dropout, dtypes, state, long sequences, what they refuse."""

from __future__ import annotations

import time
from typing import Any

import mlxfunc as mf
import mlx.core as mx
import numpy as np
import pytest
from mlxfunc import layers
from mlx.utils import tree_flatten
from mlxfunc.layers import _fast

RECURRENT = [layers.SimpleRNN, layers.LSTM, layers.GRU]
random = np.random.default_rng(0)


def data(*shape: int) -> mx.array:
    return mx.array(random.normal(size=shape).astype(np.float32))


def gradients(layer: Any, x: mx.array, **kwargs: Any) -> list[mx.array]:
    """Of the sum of squares: of every weight, and of x."""

    def loss(parameters: Any, x: mx.array) -> mx.array:
        layer.update(parameters)
        return mx.sum(mx.square(layer(x, **kwargs)))

    layer(x)
    found = mx.grad(loss, argnums=(0, 1))(layer.trainable_parameters(), x)
    return [g for _, g in tree_flatten(found)]


@pytest.mark.parametrize("cls", RECURRENT)
@pytest.mark.parametrize("masked", [False, True])
def test_the_kernel_and_the_loop_agree_under_dropout(cls: type, masked: bool, monkeypatch):
    layer = cls(4, dropout=0.4, recurrent_dropout=0.4, return_sequences=True)
    x = data(3, 70, 2)  # more than one chunk of steps
    mask = mx.array(random.random((3, 70)) < 0.7) if masked else None
    layer(x)
    found = []
    for has_kernel in (True, False):
        monkeypatch.setattr(cls, "has_kernel", lambda self, has_kernel=has_kernel: has_kernel)
        mx.random.seed(5)
        found.append(gradients(layer, x, training=True, mask=mask))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("cls", RECURRENT)
def test_dropout_is_one_mask_a_sequence_and_only_in_training(cls: type):
    layer = cls(3, dropout=0.5, return_sequences=True)
    x = mx.ones((64, 5, 8))
    assert mx.array_equal(layer(x), layer(x))
    one = layer(x, training=True)
    assert not mx.array_equal(one, layer(x, training=True))


def test_all_steps_of_a_sequence_drop_the_same_inputs():
    layer = layers.SimpleRNN(3, dropout=0.5, return_sequences=True, activation=None)
    layer(mx.ones((64, 5, 8)))
    layer["Wh"] = mx.zeros((3, 3))
    y = layer(mx.ones((64, 5, 8)), training=True)
    assert mx.array_equal(y[:, 0], y[:, 4])
    assert not mx.array_equal(y[0], y[1])


@pytest.mark.parametrize("cls", RECURRENT)
def test_a_seed_gives_the_layer_its_own_stream(cls: type):
    x = mx.ones((4, 5, 8))
    found = []
    for _ in range(2):
        layer = cls(3, dropout=0.5, recurrent_dropout=0.5, seed=7, kernel_initializer="ones")
        layer(x)
        layer["Wh"] = 0.1 * mx.ones_like(layer["Wh"])
        found.append([layer(x, training=True) for _ in range(2)])
    assert mx.array_equal(found[0][0], found[1][0])
    assert not mx.array_equal(found[0][0], found[0][1])


def test_dropout_keeps_the_mean():
    mask = layers.LSTMCell(1).dropout_mask((200, 200), 0.3, training=True)
    assert abs(mask.mean().item() - 1) < 0.02
    np.testing.assert_allclose(np.unique(mask), [0, 1 / 0.7], rtol=1e-6)


@pytest.mark.parametrize("cls", RECURRENT)
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("training", [False, True])
def test_half_precision(cls: type, dtype: mx.Dtype, training: bool):
    layer = cls(4, return_sequences=True)
    x = data(2, 6, 3)
    expected = layer(x)
    layer.set_dtype(dtype)
    found = layer(x.astype(dtype), training=training)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(mx.float32), expected, atol=0.03)
    grads = gradients(layer, x.astype(dtype), training=training)
    assert all(g.dtype == dtype and mx.all(mx.isfinite(g)).item() for g in grads)


@pytest.mark.parametrize("cls", RECURRENT)
def test_compiled_gradients_equal_eager_ones(cls: type):
    layer = cls(3)
    x = data(2, 5, 2)
    expected = gradients(layer, x, training=True)
    layer_state = layer.trainable_parameters()

    def loss(parameters: Any, x: mx.array) -> mx.array:
        layer.update(parameters)
        return mx.sum(mx.square(layer(x, training=True)))

    compiled = mx.compile(mx.grad(loss, argnums=(0, 1)))
    for a, (_, b) in zip(expected, tree_flatten(compiled(layer_state, x)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("cls", RECURRENT)
def test_second_derivatives_are_right_or_refused(cls: type):
    layer, x = cls(3), data(2, 4, 3)
    layer(x)

    def slope(x: mx.array, training: bool) -> mx.array:
        gradient = mx.grad(lambda x: mx.sum(mx.square(layer(x, training=training))))(x)
        return mx.sum(mx.square(gradient))

    direction, step = data(2, 4, 3), 1e-2
    found = mx.sum(mx.grad(slope)(x, False) * direction).item()
    ahead, behind = (slope(x + s * step * direction, False).item() for s in (1, -1))
    np.testing.assert_allclose(found, (ahead - behind) / (2 * step), rtol=0.02, atol=1e-3)
    with pytest.raises(NotImplementedError, match="expected one derivative"):
        mx.grad(slope)(x, True)


@pytest.mark.parametrize("cls", RECURRENT)
def test_memory_of_a_gradient_is_linear_in_time(cls: type):
    layer = cls(8, return_sequences=True)
    peaks = []
    for steps in (200, 800):
        x = data(16, steps, 8)
        mx.eval(gradients(layer, x, training=True))
        mx.reset_peak_memory()
        mx.eval(gradients(layer, x, training=True))
        peaks.append(mx.get_peak_memory())
    assert peaks[1] < 4.5 * peaks[0]


@pytest.mark.slow
@pytest.mark.parametrize("cls", RECURRENT)
@pytest.mark.parametrize("activation", ["tanh", "softsign"])
def test_two_thousand_steps_compile_in_seconds(cls: type, activation: str):
    layer = cls(4, activation=activation)
    x = data(2, 2000, 3)
    layer(x)

    def loss(parameters: Any, x: mx.array) -> mx.array:
        layer.update(parameters)
        return mx.sum(layer(x, training=True))

    start = time.perf_counter()
    mx.eval(mx.compile(mx.grad(loss))(layer.trainable_parameters(), x))
    assert time.perf_counter() - start < 60


def test_state_of_a_stateful_layer_is_no_weight():
    x = mf.Input((4, 3), batch_size=2)
    layer = layers.LSTM(5, stateful=True)
    model = mf.Model(x, layers.Dense(1)(layer(x)))
    assert not any(mx.any(state).item() for state in layer.states), "drawing moves no state"
    assert len(model.get_weights()) == 5
    model.compile("sgd", "mse")
    batch = np.ones((2, 4, 3), np.float32)
    model.train_on_batch(batch, np.ones((2, 1), np.float32))
    kept = [np.array(state) for state in layer.states]
    assert all(state.any() for state in kept)
    model.predict(batch, verbose=0)
    assert not np.array_equal(kept[0], layer.states[0])
    layer.reset_states()
    assert not any(mx.any(state).item() for state in layer.states)


MAKE = {
    "simple": lambda: layers.SimpleRNN(3, activation="relu"),
    "lstm": lambda: layers.LSTM(3, unit_forget_bias=False, return_sequences=True),
    "gru": lambda: layers.GRU(3, reset_after=False, go_backwards=True),
    "rnn": lambda: layers.RNN(layers.LSTMCell(3), return_sequences=True),
    "stacked": lambda: layers.RNN([layers.GRUCell(3), layers.LSTMCell(2)]),
    "bidirectional": lambda: layers.Bidirectional(layers.GRU(3), merge_mode="sum"),
    "uneven": lambda: layers.Bidirectional(
        layers.LSTM(3), backward_layer=layers.GRU(3, go_backwards=True)
    ),
    "time-distributed": lambda: layers.TimeDistributed(layers.Dense(2)),
}


@pytest.mark.parametrize("name", MAKE)
def test_a_saved_layer_is_the_same(name: str, tmp_path):
    x = mf.Input((None, 4))
    model = mf.Model(x, MAKE[name]()(x))
    model.save(tmp_path / "model.mlxfunc")
    loaded = mf.saving.load_model(tmp_path / "model.mlxfunc")
    assert loaded.layers[1].get_config() == model.layers[1].get_config()
    values = data(2, 5, 4)
    assert mx.array_equal(loaded(values), model(values))


class Doubled(layers.LSTMCell):
    """Another step: both ways to run it must take it."""

    def step(self, x: mx.array, states: Any, keep: Any) -> Any:
        return super().step(2 * x, states, keep)


class DoubledCall(layers.GRUCell):
    """Another call, as one would write it for Keras."""

    def call(self, inputs: mx.array, states: Any, training: bool = False) -> Any:
        return super().call(2 * inputs, states, training)


@pytest.mark.parametrize("cls", [Doubled, DoubledCall])
@pytest.mark.parametrize("training", [False, True])
def test_what_a_subclass_overrides_is_what_runs(cls: type, training: bool):
    x = data(2, 4, 3)
    plain, ours = layers.RNN(cls.__mro__[1](5, use_bias=False)), layers.RNN(cls(5, use_bias=False))
    plain(x), ours(x)
    ours.set_weights(plain.get_weights())
    assert mx.allclose(ours(x, training=training), plain(2 * x), atol=1e-6)


def test_first_weights_of_bidirectional():
    first = layers.Bidirectional(layers.GRU(3))
    first(data(2, 4, 3))
    again = layers.Bidirectional(layers.GRU(3), weights=first.get_weights())
    assert mx.array_equal(again(mx.ones((2, 4, 3))), first(mx.ones((2, 4, 3))))


def test_unit_forget_bias():
    layer = layers.LSTM(2)
    layer(data(1, 2, 3))
    assert layer.bias.tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


REFUSED: dict[str, tuple[Any, str]] = {
    "units": (lambda: layers.LSTM(0), "lstm: expected units to be a positive integer, got 0"),
    "dropout": (lambda: layers.GRU(2, dropout=1.5), "gru: expected dropout between 0 and 1"),
    "rank": (
        lambda: layers.LSTM(2)(mx.zeros((2, 3))),
        r"lstm: expected an input of rank 3, got shape \(2, 3\)",
    ),
    "symbolic rank": (lambda: layers.GRU(2)(mf.Input((3,))), "gru: expected an input of rank 3"),
    "unknown size": (
        lambda: layers.GRU(2)(mf.Input((3, None))),
        "gru: expected a known size on axis -1",
    ),
    "mask": (
        lambda: layers.LSTM(2)(mx.zeros((2, 3, 4)), mask=mx.ones((2, 4))),
        r"lstm: expected a mask of shape \(batch, time\) = \(2, 3\), got \(2, 4\)",
    ),
    "states": (
        lambda: layers.LSTM(2)(mx.zeros((2, 3, 4)), initial_state=[mx.zeros((2, 2))]),
        r"lstm: expected initial states of shapes \[\(2, 2\), \(2, 2\)\], got \[\(2, 2\)\]",
    ),
    "no time": (lambda: layers.LSTM(2)(mx.zeros((2, 0, 4))), "expected at least one step"),
    "dynamic batch": (
        lambda: layers.LSTM(2, stateful=True)(mf.Input((3, 4))),
        "lstm: expected a fixed batch for stateful=True, got shape",
    ),
    "reset": (lambda: layers.LSTM(2).reset_state(), "lstm: expected stateful=True"),
    "cell": (lambda: layers.RNN(layers.Dense(3)), "rnn: expected a cell with `call` and"),
    "merge mode": (
        lambda: layers.Bidirectional(layers.LSTM(2), merge_mode="max"),
        "expected merge_mode to be one of concat, sum, mul, ave, None, got 'max'",
    ),
    "not recurrent": (
        lambda: layers.Bidirectional(layers.Dense(2)),
        "expected a recurrent layer, got Dense without `go_backwards`",
    ),
    "same direction": (
        lambda: layers.Bidirectional(layers.LSTM(2), backward_layer=layers.LSTM(2)),
        "expected layers of opposite directions",
    ),
    "uneven options": (
        lambda: layers.Bidirectional(
            layers.LSTM(2, return_sequences=True),
            backward_layer=layers.LSTM(2, go_backwards=True),
        ),
        "expected the same return_sequences for both layers, got True and False",
    ),
    "not a layer": (lambda: layers.TimeDistributed(mx.tanh), "expected a Layer, got"),
    "time axis": (
        lambda: layers.TimeDistributed(layers.Dense(2))(mx.zeros((2, 3))),
        "expected an input of rank 3 or more",
    ),
    "time mask": (
        lambda: layers.TimeDistributed(layers.LSTM(2))(
            mx.zeros((2, 3, 4, 5)), mask=mx.ones((2, 4))
        ),
        r"expected inputs and masks of \(batch, time\) = \(2, 3\), got shape \(2, 4\)",
    ),
    "conv padding": (
        lambda: layers.ConvLSTM2D(2, 3, padding="causal"),
        "padding to be one of valid, same",
    ),
    "conv dilation": (
        lambda: layers.ConvLSTM2D(2, 3, strides=2, dilation_rate=2),
        "expected strides or dilation_rate to be 1",
    ),
    "conv size": (
        lambda: layers.ConvLSTM2D(2, 3)(mf.Input((3, None, 8, 2))),
        "expected a known size on axis 1",
    ),
    "conv kernel": (
        lambda: layers.ConvLSTM2D(2, (3, 3, 3)),
        "kernel_size to be an integer or 2 of them",
    ),
    "channels first": (
        lambda: layers.ConvLSTM2D(2, 3, data_format="channels_first"),
        "MLX is channels-last",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str):
    make, message = REFUSED[name]
    with pytest.raises((ValueError, AttributeError), match=message):
        make()


def test_fast_tanh_and_sigmoid():
    x = np.linspace(-30, 30, 600_001, dtype=np.float32)
    for found, expected in (
        (_fast.tanh(mx.array(x)), np.tanh(x.astype(np.float64))),
        (_fast.sigmoid(mx.array(x)), 1 / (1 + np.exp(-x.astype(np.float64)))),
    ):
        assert np.abs(np.array(found) - expected).max() < 4e-7
        assert np.abs(np.array(found)).max() <= 1
    assert mx.all(mx.isnan(_fast.tanh(mx.array([float("nan")])))).item()
    np.testing.assert_allclose(_fast.tanh(mx.array([-np.inf, 0.0, np.inf])), [-1, 0, 1], 4e-7)
