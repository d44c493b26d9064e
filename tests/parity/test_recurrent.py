"""Recurrent layers against Keras: outputs, states, masks, gradients, and what they refuse."""

from __future__ import annotations

from typing import Any

import mlxfunc as mf
import jax
import keras
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

BATCH, TIME, SIZE, UNITS = 5, 7, 3, 4
random = np.random.default_rng(3)
X = random.normal(size=(BATCH, TIME, SIZE)).astype("float32")
MASK = np.array(
    [
        [1, 1, 1, 1, 0, 0, 0],  # padded on the right
        [0, 0, 1, 1, 1, 1, 1],  # on the left
        [0, 1, 0, 0, 1, 1, 0],  # with holes
        [1, 1, 1, 1, 1, 1, 1],  # all valid
        [0, 0, 0, 0, 0, 0, 0],  # none
    ],
    dtype=bool,
)
STATES = random.normal(size=(4, BATCH, UNITS)).astype("float32")


class Minimal:
    """A user's cell, the same source for both libraries."""

    def __new__(cls, layers: Any) -> Any:
        class MinimalCell(layers.Layer):
            state_size = UNITS

            def build(self, input_shape):
                self.w = self.add_weight(name="w", shape=(SIZE, UNITS), initializer="uniform")
                self.u = self.add_weight(name="u", shape=(UNITS, UNITS), initializer="uniform")

            def call(self, inputs, states):
                output = inputs @ self.w + states[0] @ self.u
                return output, [output]

        return MinimalCell()


def plain(name: str, **kwargs: Any) -> Any:
    return lambda L, **options: getattr(L, name)(UNITS, **kwargs, **options)


def rnn(make_cell: Any) -> Any:
    return lambda L, **options: L.RNN(make_cell(L), **options)


def both_ways(name: str, mode: str | None = "concat", **kwargs: Any) -> Any:
    return lambda L, **options: L.Bidirectional(
        getattr(L, name)(UNITS, **kwargs, **options), merge_mode=mode
    )


# name: (how to make it, how many states it has)
ROWS: dict[str, tuple[Any, int]] = {
    "simple": (plain("SimpleRNN"), 1),
    "simple-relu": (plain("SimpleRNN", activation="relu"), 1),
    "simple-no-bias": (plain("SimpleRNN", use_bias=False), 1),
    "lstm": (plain("LSTM"), 2),
    "lstm-relu-hard-sigmoid": (
        plain("LSTM", activation="relu", recurrent_activation="hard_sigmoid"),
        2,
    ),
    "lstm-no-bias": (plain("LSTM", use_bias=False), 2),
    "gru": (plain("GRU"), 1),
    "gru-softsign": (plain("GRU", activation="softsign"), 1),
    "gru-no-bias": (plain("GRU", use_bias=False), 1),
    "gru-reset-before": (plain("GRU", reset_after=False), 1),
    "rnn-lstm-cell": (rnn(lambda L: L.LSTMCell(UNITS)), 2),
    "rnn-gru-cell": (rnn(lambda L: L.GRUCell(UNITS)), 1),
    "rnn-simple-cell": (rnn(lambda L: L.SimpleRNNCell(UNITS)), 1),
    "rnn-own-cell": (rnn(Minimal), 1),
    "bidirectional-lstm": (both_ways("LSTM"), 4),
    "bidirectional-gru-sum": (both_ways("GRU", "sum"), 2),
    "bidirectional-simple-mul": (both_ways("SimpleRNN", "mul"), 2),
    "bidirectional-gru-ave": (both_ways("GRU", "ave"), 2),
    "bidirectional-lstm-none": (both_ways("LSTM", None), 4),
}
OPTIONS: dict[str, dict] = {
    "last": {},
    "sequences": {"return_sequences": True},
    "states": {"return_state": True},
    "backwards": {"return_sequences": True, "return_state": True, "go_backwards": True},
    "zeros": {"return_sequences": True, "zero_output_for_mask": True},
    "zero-last": {"zero_output_for_mask": True},
}


def flat(outputs: Any) -> list[np.ndarray]:
    found = jax.tree.leaves(outputs) if not isinstance(outputs, mx.array) else [outputs]
    return [np.array(y) for y in found]


def twins(make: Any, shape: tuple = X.shape, **options: Any) -> tuple[Any, Any]:
    """A Keras layer and ours with its weights, no bias being zero."""
    theirs, ours = make(keras.layers, **options), make(mf.layers, **options)
    theirs.build(shape)
    ours.build(shape)
    theirs.set_weights([w + 0.1 * random.normal(size=w.shape) for w in theirs.get_weights()])
    ours.set_weights(theirs.get_weights())
    return theirs, ours


def assert_close(ours: Any, theirs: Any, atol: float = 2e-6) -> None:
    pairs = zip(flat(ours), flat(theirs), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=atol, rtol=1e-5)


# Bidirectional refuses a layer that already goes backwards, as Keras does.
PAIRS = [
    (name, options)
    for name in ROWS
    for options in OPTIONS
    if not (name.startswith("bidirectional") and options == "backwards")
]


@pytest.mark.parametrize("name, options", PAIRS)
def test_outputs_and_states(name: str, options: str):
    make, count = ROWS[name]
    theirs, ours = twins(make, **OPTIONS[options])
    calls: list[dict] = [{}, {"mask": MASK}]
    if options in ("states", "backwards"):
        calls.append({"mask": MASK, "initial_state": list(STATES[:count])})
    for kwargs in calls:
        with jax.disable_jit():  # compiling each of them takes longer than all the rest
            expected = theirs(X, **kwargs)
        for training in (False, True):
            assert_close(ours(mx.array(X), training=training, **kwargs), expected)


@pytest.mark.parametrize("name", ROWS)
def test_weights_after_three_steps_and_gradients(name: str):
    """Both ways to differentiate: the kernels' (training), and through the loop."""
    make, count = ROWS[name]
    theirs, ours = twins(make, return_sequences=True, return_state=True)
    states = list(STATES[:count])
    inputs = mx.array(X), [mx.array(s) for s in states]
    shapes = [y.shape for y in flat(ours(inputs[0], initial_state=inputs[1]))]
    probes = [random.normal(size=shape).astype("float32") for shape in shapes]
    fixed = [v.value for v in theirs.non_trainable_variables]
    keras_loss = jax.jit(
        jax.grad(
            lambda weights, x, states: sum(
                (y * p).sum()
                for y, p in zip(
                    jax.tree.leaves(
                        theirs.stateless_call(weights, fixed, x, initial_state=states, mask=MASK)[0]
                    ),
                    probes,
                    strict=True,
                )
            ),
            argnums=(0, 1, 2),
        )
    )
    weights = [v.value for v in theirs.trainable_variables]
    for _ in range(3):
        gradients, *expected = keras_loss(weights, X, states)
        weights = [w - 0.05 * g for w, g in zip(weights, gradients, strict=True)]

    start = ours.get_weights()
    for training in (True, False):
        ours.set_weights(start)

        def loss(parameters, x, states, training=training):
            ours.update(parameters)
            outputs = ours(x, initial_state=states, mask=mx.array(MASK), training=training)
            leaves = [y for _, y in tree_flatten(outputs)]
            return sum((y * mx.array(p)).sum() for y, p in zip(leaves, probes, strict=True))

        gradient = mx.grad(loss, argnums=(0, 1, 2))
        for _ in range(3):
            parameters = ours.trainable_parameters()
            gradients, *found = gradient(parameters, *inputs)
            ours.update(parameters)
            ours.update(nn.utils.tree_map(lambda w, g: w - 0.05 * g, parameters, gradients))
        assert_close(found, expected, atol=2e-5)
        assert_close(ours.get_weights(), weights, atol=1e-5)


def test_stacked_cells():
    theirs, ours = twins(
        lambda L: L.RNN(
            [L.LSTMCell(UNITS), L.GRUCell(3), L.SimpleRNNCell(UNITS)], return_state=True
        )
    )
    for kwargs in ({}, {"mask": MASK}):
        assert_close(ours(X, **kwargs), theirs(X, **kwargs))


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"padding": "same", "strides": 2, "return_sequences": True},
        {"dilation_rate": 2, "use_bias": False, "return_state": True},
        {"activation": "relu", "return_sequences": True, "go_backwards": True},
    ],
)
def test_conv_lstm(kwargs: dict):
    x = random.normal(size=(2, 3, 7, 6, 2)).astype("float32")
    theirs, ours = twins(lambda L: L.ConvLSTM2D(3, (3, 2), **kwargs), x.shape)
    for training in (False, True):
        assert_close(ours(x, training=training), theirs(x))


@pytest.mark.parametrize("name", ["simple", "lstm", "gru", "rnn-lstm-cell", "bidirectional-lstm"])
def test_stateful(name: str):
    theirs, ours = twins(ROWS[name][0], stateful=True, return_sequences=True)
    assert len(ours.get_weights()) == len(theirs.get_weights())
    for _ in range(3):
        assert_close(ours(X), theirs(X))
    ours.reset_states(), theirs.reset_states()
    assert_close(ours(X, training=True), theirs(X))


@pytest.mark.parametrize("name", ROWS)
def test_dynamic_time_and_masks_in_a_model(name: str):
    def model(k: Any) -> Any:
        x = k.layers.Input((None, SIZE))
        h = k.layers.Masking()(x)
        h = ROWS[name][0](k.layers, return_sequences=True)(h)
        h = k.layers.Concatenate()(h) if isinstance(h, list | tuple) else h
        return k.Model(x, k.layers.LSTM(2)(h))

    theirs, ours = model(keras), model(mf)
    ours.set_weights(theirs.get_weights())
    for time in (TIME, 3):
        x = X[:, :time] * MASK[:, :time, None]
        with jax.disable_jit():
            expected = theirs(x)
        assert_close(ours(x), expected)


def test_initial_states_from_another_layer():
    """An encoder and a decoder, the states as keyword and in one list with the sequence."""

    def model(k: Any, together: bool = False) -> Any:
        source, target = k.layers.Input((None, SIZE)), k.layers.Input((None, SIZE))
        _, h, c = k.layers.LSTM(UNITS, return_state=True)(source)
        decoder = k.layers.LSTM(UNITS, return_sequences=True)
        y = decoder([target, h, c]) if together else decoder(target, initial_state=[h, c])
        return k.Model([source, target], y)

    theirs = model(keras)
    for together in (False, True):
        ours = model(mf, together)
        ours.set_weights(theirs.get_weights())
        assert_close(ours([X, X[:, :4]]), theirs([X, X[:, :4]]))


TIME_DISTRIBUTED: dict[str, tuple] = {
    "dense": (lambda k: k.layers.Dense(4, activation="relu"), (5, 6, 3)),
    "rank-5": (lambda k: k.layers.Dense(2), (2, 4, 5, 5, 3)),
    "lstm": (lambda k: k.layers.LSTM(4), (2, 3, 4, 3)),
    "model": (
        lambda k: k.Sequential([k.layers.Input((6,)), k.layers.Dense(4), k.layers.Dense(2)]),
        (3, 5, 6),
    ),
}


@pytest.mark.parametrize("name", TIME_DISTRIBUTED)
def test_time_distributed(name: str):
    make, shape = TIME_DISTRIBUTED[name]
    x = random.normal(size=shape).astype("float32")
    theirs = keras.layers.TimeDistributed(make(keras))
    ours = mf.layers.TimeDistributed(make(mf))
    expected = theirs(x)
    ours(x)
    ours.set_weights(theirs.get_weights())
    assert_close(ours(x), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda L: L.LSTM(4),
        lambda L: L.LSTM(4, return_sequences=True),
        lambda L: L.GRU(4, return_sequences=True, return_state=True),
        lambda L: L.Bidirectional(L.GRU(4, return_sequences=True)),
        lambda L: L.Bidirectional(L.GRU(4)),
        lambda L: L.RNN(L.LSTMCell(4), return_sequences=True),
        lambda L: L.TimeDistributed(L.Dense(4)),
    ],
)
def test_computed_masks(make: Any):
    ours, theirs = make(mf.layers), make(keras.layers)
    found = ours.compute_mask(mx.array(X), mx.array(MASK))
    expected = theirs.compute_mask(X, MASK)
    first = expected[0] if isinstance(expected, list | tuple) else expected
    assert (found is None) == (first is None)
    assert found is None or np.array_equal(found, first)


def test_time_distributed_passes_its_mask():
    x = random.normal(size=(2, 3, 4, 3)).astype("float32")
    x[0, 1, 2:], x[1, 2] = 0, 0

    def model(k: Any) -> Any:
        a = k.layers.Input((3, 4, 3))
        return k.Model(a, k.layers.TimeDistributed(k.layers.LSTM(2))(k.layers.Masking()(a)))

    theirs, ours = model(keras), model(mf)
    ours.set_weights(theirs.get_weights())
    assert_close(ours(x), theirs(x))


def own_cell(k: Any, returns: str) -> Any:
    """A cell in the style of Keras's guides, which returns its state in one of the usual ways."""

    class Cell(k.layers.Layer):
        state_size = 4 if returns != "sizes" else [4]

        def call(self, inputs: Any, states: Any) -> Any:
            h = inputs * 0.5 + (states[0] if isinstance(states, list | tuple) else states)
            return h, (h if returns == "bare" else [h])

    return Cell()


@pytest.mark.parametrize("returns", ["bare", "listed", "sizes"])
@pytest.mark.parametrize("sequences", [False, True])
def test_states_of_stacked_cells(returns: str, sequences: bool) -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")

    def results(k: Any) -> list[Any]:
        cells = [own_cell(k, returns) for _ in range(2)]
        layer = k.layers.RNN(cells, return_state=True, return_sequences=sequences)
        return list(layer(x))

    for ours, theirs in zip(results(mf), results(keras), strict=True):
        assert isinstance(ours, list) == isinstance(theirs, list)
        np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=1e-6)


@pytest.mark.parametrize("name", ["SimpleRNNCell", "GRUCell", "LSTMCell"])
def test_states_of_stacked_cells_of_keras(name: str) -> None:
    def structure(k: Any) -> list[int]:
        cells = [getattr(k.layers, name)(3) for _ in range(2)]
        _, *states = k.layers.RNN(cells, return_state=True)(np.zeros((2, 5, 4), "float32"))
        return [len(state) for state in states if isinstance(state, list)]

    assert structure(mf) == structure(keras)
