"""Random graphs: run, saved, exported, trained, and compared with ONNX Runtime and Keras."""

from __future__ import annotations

import tempfile
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import Any

import mlx2onnx
import mlxfunc as mf
import numpy as np
import onnxruntime
from mlx2onnx import UnsupportedLayers

from case import randomize
from fuzz.drawing import REFUSALS, random_graph
from fuzz.recipe import Drawing, GraphRecipe, leaves
from fuzz.samples import Samples, Wrong

# Of masks that end both libraries warn, and NumPy of what is no number.
for _kind in (UserWarning, RuntimeWarning):
    warnings.filterwarnings("ignore", category=_kind)
# Keras takes more time than all the rest: one graph in so many is compared with it.
KERAS = 3


def trial(seed: int) -> str | None:
    """What is wrong with the graph of this seed; None: nothing."""
    recipe = random_graph(seed)
    problem = check(recipe, seed)
    if problem is None:
        return None
    for ref in range(len(recipe.inputs), recipe.count):
        smaller = recipe.up_to(ref)
        if (found := check(smaller, seed)) is not None:
            return f"{found}\n{smaller}"
    return f"{problem}\n{recipe}"


def check(recipe: GraphRecipe, seed: int) -> str | None:
    """What is wrong with a graph, of weights and inputs that the seed chooses."""
    try:
        mf.clear_session()
        mf.utils.set_random_seed(seed)
        drawing = Drawing(mf)
        model = recipe.model(drawing)
        randomize(model, seed)
        samples = Samples(recipe, model, seed)
        if samples.points:
            check_batches(recipe, model, samples)
            check_copies(recipe, model, samples)
            check_onnx(recipe, model, samples)
            if seed % KERAS == 0:
                check_keras(recipe, model, samples, drawing)
            check_training(recipe, model, samples)
    except Wrong as wrong:
        return str(wrong)
    except Exception:
        return traceback.format_exc(limit=-4)
    return None


def check_batches(recipe: GraphRecipe, model: Any, samples: Samples) -> None:
    """`predict` in small batches is the model called at once; a sample does not see the others."""
    for point in samples.points:
        arrays = samples.arrays(5, point)
        if samples.batch is None:
            found = leaves(model.predict(samples.structure(arrays), batch_size=2, verbose=0))
            samples.compare("predict", arrays, found)
            alone = [a[3:4] for a in arrays]
            together = [y[3:4] for y in samples.run(arrays)]
            samples.compare("a sample alone", alone, together)


def check_copies(recipe: GraphRecipe, model: Any, samples: Samples) -> None:
    arrays = samples.arrays(2, samples.points[0])
    x = samples.structure(arrays)
    expected = samples.run(arrays)
    twin = mf.Model.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    for what, copy in (("from_config", twin), ("load_model", _loaded(model))):
        if copy.get_config() != model.get_config():
            raise Wrong(f"{what}: another configuration")
        for y, other in zip(expected, leaves(copy(x)), strict=True):
            if not np.array_equal(y, np.array(other), equal_nan=True):
                raise Wrong(f"{what}: outputs are not equal bit for bit")


def check_onnx(recipe: GraphRecipe, model: Any, samples: Samples) -> None:
    choose = Random(samples.seed)
    options = {"functions": choose.random() < 0.3, "opset": choose.choice((17, 20, 20, 23))}
    try:
        proto = mlx2onnx.to_onnx(model, verbose=False, **options)
    except REFUSALS:
        if samples.ordinary:
            raise
        return
    except mlx2onnx.VerificationError as error:
        untried = not samples.ordinary and "tried nothing" in str(error)
        if not untried and "got only NaN" not in str(error):
            raise
        return
    except UnsupportedLayers as error:
        # A model whose dimensions have to be equal, which nothing says, cannot be traced.
        traced = samples.apart or "cannot be traced" not in str(error)
        if traced and "beside padding='same'" not in str(error):
            raise
        return
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [entry.name for entry in session.get_inputs()]
    for batch, point in ((1, samples.points[0]), (13, samples.points[-1])):
        arrays = samples.arrays(batch, point, seed=1)
        feeds = dict(zip(model.input_names, arrays, strict=True))
        found = session.run(None, {name: feeds[name] for name in names})
        samples.compare("ONNX Runtime", arrays, found)


def check_keras(recipe: GraphRecipe, model: Any, samples: Samples, drawing: Drawing) -> None:
    """The same text drawn with Keras: weights in the same order, equal outputs and masks.

    It computes in float64. Its NumPy backend loses masks at the door of a model in a model: where
    there are masks, the steps of inner models are drawn as those of the whole.
    """
    recipes = recipe.recipes()
    masked = any(r.options.get("mask_zero") or r.kind.lower() == "masking" for r in recipes)
    inside = any(isinstance(v, GraphRecipe) for r in recipes for v in r.options.values())
    # MultiHeadAttention takes the mask away from its inputs there.
    attention = any(r.kind.lower().startswith("multiheadattention") for r in recipes)
    if masked and (inside or attention or not all(r.keras for r in recipes)):
        return
    import keras  # once its backend is chosen
    from keras.src.backend import get_keras_mask

    keras.config.set_floatx("float64")
    keras.utils.clear_session()
    others = Drawing(keras, inline=masked)
    arrays = samples.arrays(2, samples.points[-1], seed=2)
    try:
        twin = recipe.model(others)
        twin(samples.structure(arrays))
    except REFUSALS:  # Keras's Softmax of a list of axes is a TypeError on NumPy
        return  # Keras knows fewer sizes before there are arrays, and refuses some masks
    if not masked:
        shapes = [[w.shape for w in m.get_weights()] for m in (model, twin)]
        if shapes[0] != shapes[1]:
            raise Wrong(f"Keras: weights of {shapes[1]}, ours of {shapes[0]}")
    for r in recipes:
        if (layer := others.layers.get(id(r))) is not None:
            layer.set_weights(drawing.layers[id(r)].get_weights())
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()  # set_weights forgets to
    outputs = leaves(twin(samples.structure(arrays), training=False))
    # Keras's variance is a difference of squares, which loses digits.
    slack = 5e-3 if any("Normalization" in type(x).__name__ for x in others.layers.values()) else 0
    samples.compare("Keras", arrays, [np.array(y) for y in outputs], slack)
    ours = _masks(model.run(samples.structure(arrays))[1], len(outputs))
    for ref, mask, y in zip(leaves(recipe.outputs), ours, outputs, strict=True):
        wanted = get_keras_mask(y)
        if not _same(mask, wanted):
            raise Wrong(f"Keras: the mask of t{ref} is {wanted}, ours {mask}")


def _same(mask: Any, wanted: Any) -> bool:
    if mask is None or wanted is None:
        return mask is wanted
    return np.array_equal(np.array(mask), np.array(wanted))


def _masks(tree: Any, count: int) -> list[Any]:
    values = list(tree.values()) if isinstance(tree, dict) else tree
    values = list(values) if isinstance(values, list | tuple) else [values]
    return values + [None] * (count - len(values))


def check_training(recipe: GraphRecipe, model: Any, samples: Samples) -> None:
    """A step of training is finite, and on a copy it is the same bit for bit."""
    arrays = samples.arrays(4, samples.points[0], seed=3)
    outputs = samples.run(arrays)
    # The mean over steps that are all masked is no number.
    fine = all(y.dtype == np.float32 and np.isfinite(y).all() for y in outputs)
    if not fine or not model.trainable_weights:
        return
    targets = [np.cos(np.arange(y.size)).reshape(y.shape).astype(np.float32) for y in outputs]
    named = dict(zip(model.output_names, targets, strict=True))
    y = targets[0] if isinstance(recipe.outputs, int) else targets
    y = named if isinstance(recipe.outputs, dict) else y
    results = []
    for trained in (model, _loaded(model)):
        mf.utils.set_random_seed(5)
        trained.compile("adam", "mse")
        loss = trained.train_on_batch(samples.structure(arrays), y)
        results.append((loss, trained.get_weights()))
    (loss, weights), (_, others) = results
    if not all(np.isfinite(value).all() for value in [np.ravel(loss), *weights]):
        raise Wrong(f"a step of training ends in loss {loss}, or weights that are not finite")
    if not all(map(np.array_equal, weights, others)):
        raise Wrong("a step of training of the loaded copy ends in other weights")


def _loaded(model: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.mlxfunc")
        return mf.saving.load_model(Path(folder) / "model.mlxfunc")
