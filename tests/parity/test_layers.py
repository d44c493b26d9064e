"""Every row of the table against Keras: outputs, masks, weights both ways, three SGD steps."""

from __future__ import annotations

from typing import Any

import mlxfunc as mf
import jax
import keras
import mlx.core as mx
import numpy as np
import pytest
from keras.src.backend import get_keras_mask
from mlx.utils import tree_flatten, tree_map

from cases import CASES, RECURRENT, Case, randomize

jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of the time

RATE = 0.1
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def leaves(tree: Any) -> list:
    return [leaf for _, leaf in tree_flatten(tree)]


def loss_of(outputs: list, numpy: Any) -> Any:
    """Something that depends on each output in its own way."""
    total = 0.0
    for y in outputs:
        wave = numpy.cos(numpy.arange(y.size)).reshape(y.shape)
        total = total + (y * y + y * wave).mean()
    return total


class Twin:
    """A row's model in Keras, as a function of its weights; compiled once."""

    def __init__(self, case: Case) -> None:
        inputs = case.symbolic(keras.Input)
        self.model = keras.Model(inputs, case.call(case.make(keras.layers), *inputs))
        self.trains = case.trains and bool(self.model.trainable_variables)
        self.run = jax.jit(self._run)

    def _run(self, trained: list, state: list, inputs: list) -> tuple:
        """Outputs and masks in inference; gradients and the state after a step of training."""
        outputs = leaves(self.model.stateless_call(trained, state, inputs, training=False)[0])
        masks = [get_keras_mask(y) for y in outputs]

        def loss(trained: list) -> tuple:
            outputs, after, losses = self.model.stateless_call(
                trained, state, inputs, training=True, return_losses=True
            )
            return loss_of(leaves(outputs), jax.numpy) + sum(losses), after

        gradients, after = jax.grad(loss, has_aux=True)(trained) if self.trains else (None, state)
        return outputs, masks, gradients, after

    def weights(self) -> list[list]:
        groups = self.model.trainable_variables, self.model.non_trainable_variables
        return [[variable.value for variable in group] for group in groups]

    def assign(self, *groups: list) -> None:
        known = self.model.trainable_variables, self.model.non_trainable_variables
        for variables, values in zip(known, groups, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)


def close(ours: Any, theirs: Any, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(np.array(ours), np.asarray(theirs), rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize(
    "case",
    # test_recurrent.py looks at recurrent layers more closely.
    [case for case in CASES if case.keras and case not in RECURRENT],
    ids=lambda case: case.name,
)
def test_a_layer_does_what_keras_does(case: Case):
    ours, twin, inputs = case.model(), Twin(case), case.inputs(3)

    twin.model.set_weights(ours.get_weights())
    for layer in twin.model.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # set_weights forgets to
    randomize(ours, seed=1)
    ours.set_weights(twin.model.get_weights())

    trained, state = twin.weights()
    wanted, wanted_masks, gradients, after = twin.run(trained, state, inputs)
    outputs, masks = ours.run([mx.array(x) for x in inputs])
    for y, expected in zip(leaves(outputs), wanted, strict=True):
        close(y, expected, case.tolerance)
    # Of the first output: scores of attention carry the mask of an inner layer in Keras.
    mask, wanted_mask = (leaves(masks) or [None])[0], wanted_masks[0]
    assert (mask is None) == (wanted_mask is None)
    assert mask is None or np.array_equal(mask, wanted_mask)
    if not twin.trains:
        return

    trained = [w - RATE * g for w, g in zip(trained, gradients, strict=True)]
    for _ in range(2):
        _, _, gradients, after = twin.run(trained, after, inputs)
        trained = [w - RATE * g for w, g in zip(trained, gradients, strict=True)]
    twin.assign(trained, after)
    descend(ours, inputs, steps=3)
    for w, expected in zip(ours.get_weights(), twin.model.get_weights(), strict=True):
        close(w, expected, max(case.tolerance, 2e-6))


def descend(model: mf.Model, inputs: list, steps: int) -> None:
    """Plain gradient descent."""
    arrays = [mx.array(x) for x in inputs]
    model.train()

    def loss(parameters: dict) -> mx.array:
        model.update(parameters)
        return loss_of(leaves(model(arrays)), mx) + sum(model.losses)

    for _ in range(steps):
        parameters = model.trainable_parameters()
        gradients = mx.grad(loss)(parameters)
        model.update(tree_map(lambda w, g: w - RATE * g, parameters, gradients))
