"""Masks across whole models against Keras: outputs, the masks they carry, losses, metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx2onnx
import mlxfunc as mf
import keras
import numpy as np
import pytest
from keras.src.backend import get_keras_mask
from mlxfunc.graph import leaves

TIME, SIZE, BATCH = 6, 4, 5
IDS = np.array(
    [
        [3, 1, 2, 0, 0, 0],  # padded on the right
        [0, 0, 4, 5, 8, 1],  # on the left
        [7, 0, 6, 0, 0, 2],  # with holes
        [1, 2, 3, 4, 5, 6],  # all valid
        [5, 0, 0, 0, 0, 0],  # one valid step
    ],
    dtype="int32",
)
STEPS = np.random.default_rng(1).normal(size=(BATCH, TIME, SIZE)).astype("float32")
STEPS *= (IDS != 0)[..., None]
GROUPS = np.stack([STEPS, STEPS[::-1], STEPS[:, ::-1]], axis=1)


def inner(k: Any, *steps: Any) -> Any:
    """A model over steps, which by itself has no mask."""
    x = y = k.layers.Input((TIME, SIZE))
    for step in steps:
        y = step(y)
    return k.models.Model(x, y)


def pair(k: Any) -> Any:
    """A model that adds two sequences, and joins them in time."""
    a, b = k.layers.Input((TIME, SIZE)), k.layers.Input((TIME, SIZE))
    both = [k.layers.Add()([a, b]), k.layers.Concatenate(axis=1)([a, b])]
    return k.models.Model([a, b], both)


def last(L: Any, y: Any) -> Any:
    """Something that depends on the mask of a sequence."""
    return L.LSTM(2)(y)


def attended(k: Any) -> Any:
    x = k.layers.Input((TIME, SIZE))
    return k.models.Model(x, k.layers.MultiHeadAttention(2, 3)(x, x))


# From a masked sequence h and its ids w, to outputs.
FROM_IDS: dict[str, Callable[[Any, Any, Any, Any], Any]] = {
    "kept by Dense": lambda k, L, h, w: L.Dense(3)(h),
    "nested": lambda k, L, h, w: inner(k, L.LSTM(3, return_sequences=True))(h),
    "nested, last step": lambda k, L, h, w: inner(k, L.LSTM(3))(h),
    "twice nested": lambda k, L, h, w: last(
        L,
        inner(
            k,
            L.Dropout(0.1),
            inner(k, L.Bidirectional(L.GRU(SIZE, return_sequences=True))),
        )(h),
    ),
    "nested Sequential": lambda k, L, h, w: L.GlobalAveragePooling1D()(
        k.Sequential([L.Dense(4), L.LSTM(3, return_sequences=True), L.Dense(2)])(h)
    ),
    "shared by masked and unmasked": lambda k, L, h, w: (
        lambda m: L.Add()([m(h), m(L.Embedding(9, SIZE)(w))])
    )(inner(k, L.LSTM(3))),
    "nested, both masked": lambda k, L, h, w: [last(L, y) for y in pair(k)([h, h])],
    "nested, one masked": lambda k, L, h, w: [
        last(L, y) for y in pair(k)([h, L.Embedding(9, SIZE)(w)])
    ],
    "nested attention": lambda k, L, h, w: attended(k)(h),
    "TimeDistributed model": lambda k, L, h, w: last(
        L,
        L.TimeDistributed(k.Sequential([k.layers.Input((SIZE,)), L.Dense(3)]))(h),
    ),
    "Add": lambda k, L, h, w: last(L, L.Add()([L.Dense(SIZE)(h), L.Activation("tanh")(h)])),
    "Add, one masked": lambda k, L, h, w: last(L, L.Add()([h, L.Embedding(9, SIZE)(w)])),
    "Multiply": lambda k, L, h, w: last(L, L.Multiply()([h, L.Dense(1)(h)])),
    "Maximum of two masks": lambda k, L, h, w: last(
        L, L.Maximum()([h, L.Masking(0.0)(L.Rescaling(1.0)(h))])
    ),
    "Concatenate, one masked": lambda k, L, h, w: last(
        L, L.Concatenate()([h, L.Embedding(9, 2)(w)])
    ),
    "Concatenate in time": lambda k, L, h, w: last(
        L, L.Concatenate(axis=1)([h, L.Embedding(9, SIZE)(w)])
    ),
    "Concatenate, masked last": lambda k, L, h, w: last(
        L, L.Concatenate(axis=1)([L.Embedding(9, SIZE)(w), h])
    ),
    "Dot": lambda k, L, h, w: last(L, L.Dot(2)([h, h])),
    "Lambda": lambda k, L, h, w: last(L, L.Lambda(lambda x: x * 2)(h)),
    "operator": lambda k, L, h, w: last(L, h * 2.0),
    "Conv1D": lambda k, L, h, w: last(L, L.Conv1D(3, 3, padding="same")(h)),
    "Reshape": lambda k, L, h, w: last(L, L.Reshape((TIME, SIZE))(h)),
    "RepeatVector": lambda k, L, h, w: last(L, L.RepeatVector(3)(L.LSTM(2)(h))),
    "Cropping1D": lambda k, L, h, w: last(L, L.Cropping1D(1)(h)),
    "Flatten": lambda k, L, h, w: L.Dense(2)(L.Flatten()(h)),
    "BatchNormalization": lambda k, L, h, w: last(
        L, L.LayerNormalization()(L.BatchNormalization()(h))
    ),
    "Bidirectional, not merged": lambda k, L, h, w: [
        last(L, y) for y in L.Bidirectional(L.LSTM(2, return_sequences=True), merge_mode=None)(h)
    ],
    "states": lambda k, L, h, w: [
        last(L, y) if len(y.shape) == 3 else y
        for y in L.LSTM(2, return_sequences=True, return_state=True)(h)
    ],
    "RNN of a cell": lambda k, L, h, w: last(L, L.RNN(L.GRUCell(3), return_sequences=True)(h)),
    "GlobalAveragePooling1D": lambda k, L, h, w: L.GlobalAveragePooling1D()(h),
    "Attention": lambda k, L, h, w: L.GlobalAveragePooling1D()(L.Attention()([h, h])),
    "MultiHeadAttention": lambda k, L, h, w: L.GlobalAveragePooling1D()(
        L.MultiHeadAttention(2, 3)(h, h)
    ),
}


def from_ids(tail: Callable) -> Callable[[Any], Any]:
    def build(k: Any) -> Any:
        w = k.layers.Input((TIME,), dtype="int32")
        h = k.layers.Embedding(9, SIZE, mask_zero=True)(w)
        return k.models.Model(w, tail(k, k.layers, h, w))

    return build


def embedded_inside(k: Any) -> Any:
    i, w = (k.layers.Input((TIME,), dtype="int32") for _ in range(2))
    embed = k.models.Model(i, k.layers.Embedding(9, SIZE, mask_zero=True)(i))
    return k.models.Model(w, last(k.layers, embed(w)))


def sequences_of_sequences(k: Any) -> Any:
    x = k.layers.Input((3, TIME, SIZE))
    each = inner(k, k.layers.Masking(), k.layers.LSTM(3))
    return k.models.Model(x, last(k.layers, k.layers.TimeDistributed(each)(x)))


def masked_twice(k: Any) -> Any:
    x = k.layers.Input((TIME, SIZE))
    return k.models.Model(x, k.layers.Masking()(k.layers.Masking(1.0)(x)))


def given_mask(nested: bool) -> Callable[[Any], Any]:
    def build(k: Any) -> Any:
        x, mask = k.layers.Input((TIME, SIZE)), k.layers.Input((TIME,), dtype="bool")
        layer = inner(k, k.layers.LSTM(3)) if nested else k.layers.LSTM(3)
        return k.models.Model([x, mask], layer(x, mask=mask))

    return build


def merged(name: str, masked: str) -> Callable[[Any], Any]:
    """Sequences merged by the function of that name: each letter of `masked` is one, m or plain."""

    def build(k: Any) -> Any:
        inputs = [k.layers.Input((TIME, SIZE)) for _ in masked]
        given = [
            k.layers.Masking()(x) if letter == "m" else x
            for x, letter in zip(inputs, masked, strict=True)
        ]
        arguments = {"axes": 2} if name == "dot" else {}
        y = getattr(k.layers, name)(given, **arguments)
        return k.models.Model(inputs, [y, last(k.layers, y)])

    return build


SEQUENCES = [STEPS, STEPS[::-1], np.roll(STEPS, 1, axis=0)]  # some steps are masked in all
MERGES = {
    f"{name} {masked}": (merged(name, masked), SEQUENCES[: len(masked)])
    for name in ("add", "average", "multiply", "maximum", "minimum", "concatenate")
    for masked in ("mm", "mp", "pm", "mmm", "mpm")
}
MODELS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    **MERGES,
    **{f"{name} mm": (merged(name, "mm"), SEQUENCES[:2]) for name in ("subtract", "dot")},
    **{name: (from_ids(tail), IDS) for name, tail in FROM_IDS.items()},
    "Embedding in an inner model": (embedded_inside, IDS),
    "TimeDistributed(masked model)": (sequences_of_sequences, GROUPS),
    "Masking twice": (masked_twice, STEPS),
    "mask argument": (given_mask(False), [STEPS, IDS != 0]),
    "mask argument of a model": (given_mask(True), [STEPS, IDS != 0]),
}


def targets(outputs: list[Any]) -> Any:
    """Zeros for what a loss compares with; only the mean over what is valid is of interest."""
    zeros = [np.zeros(y.shape, "float32") for y in outputs]
    return zeros if len(zeros) > 1 else zeros[0]


def losses(model: Any, x: Any, outputs: list[Any]) -> np.ndarray:
    alone = len(outputs) == 1
    model.compile(loss="mse", weighted_metrics=["mae"] if alone else None)
    found = model.evaluate(x, targets(outputs), verbose=0, return_dict=True)
    return np.array([found[key] for key in (("loss", "mae") if alone else ("loss",))])


def keras_results() -> dict[str, np.ndarray]:
    results = {}
    for name, (build, x) in MODELS.items():
        model = build(keras)
        outputs = keras.tree.flatten(model(x))
        for k, weight in enumerate(model.get_weights()):
            results[f"{name}/weight/{k}"] = weight
        for k, output in enumerate(outputs):
            mask = get_keras_mask(output)
            results[f"{name}/output/{k}"] = np.array(output)
            results[f"{name}/mask/{k}"] = np.array([]) if mask is None else np.array(mask)
        results[f"{name}/losses"] = losses(model, x, outputs)
    return results


ORDER = "Keras counts the operations that make a mask in the depth, and so the order, of layers"
ROWS = [
    pytest.param(
        name,
        marks=pytest.mark.xfail(reason=ORDER, strict=True) if name.endswith("masked last") else (),
    )
    for name in MODELS
]


@pytest.mark.filterwarnings("ignore:.*the mask of its input ends here")
@pytest.mark.parametrize("name", ROWS)
def test_outputs_masks_and_losses(name: str, expected: Any) -> None:
    def numbered(what: str) -> list[np.ndarray]:
        return [expected[key] for key in expected if key.startswith(f"{name}/{what}/")]

    build, x = MODELS[name]
    model = build(mf)
    model.set_weights(numbered("weight"))
    outputs, masks = map(leaves, model.run(x))
    for output, wanted in zip(outputs, numbered("output"), strict=True):
        np.testing.assert_allclose(np.array(output), wanted, atol=1e-6)
    for mask, wanted in zip(masks, numbered("mask"), strict=True):
        found = np.array([] if mask is None else mask)
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(losses(model, x, outputs), expected[f"{name}/losses"], rtol=1e-5)


@pytest.mark.parametrize("name", MERGES)
def test_the_file_merges_masked_sequences_too(name: str) -> None:
    build, x = MERGES[name]
    model = build(mf)
    file = mlx2onnx.to_onnx(model, verify=False, verbose=False)
    assert mlx2onnx.verify(model, file, x).ok


# One row of a mask for all of the batch, or one entry for all of a row.
BROADCAST = {
    "rows": np.array([[1, 1, 0, 1, 0, 1]], bool),
    "steps": np.array([[1]] * 4 + [[0]], bool),
}
TAKERS: dict[str, Callable[[Any], Any]] = {
    "GlobalAveragePooling1D": lambda L: L.GlobalAveragePooling1D(),
    "BatchNormalization": lambda L: L.BatchNormalization(momentum=0.5),
    **{
        name: lambda L, name=name: getattr(L, name)(2, return_sequences=True)
        for name in ("SimpleRNN", "GRU", "LSTM")
    },
    "Attention": lambda L: L.Attention(),
}


def masked_call(namespace: Any, name: str, mask: Any) -> tuple[Any, list[np.ndarray]]:
    layer = TAKERS[name](namespace.layers)
    x = [STEPS, STEPS] if name == "Attention" else STEPS
    flags = {"training": True} if name == "BatchNormalization" else {}
    layer(x)
    rng = np.random.default_rng(3)
    layer.set_weights([rng.uniform(0.5, 1, w.shape) for w in layer.get_weights()])
    output = layer(x, mask=[mask, mask] if name == "Attention" else mask, **flags)
    return np.array(output), layer.get_weights()


TAKEN = [(name, kind) for name in TAKERS for kind in BROADCAST]
# Steps of one entry: Keras divides by one step where it averages over all of them.
TAKEN = [(n, k) for n, k in TAKEN if k == "rows" or n == "BatchNormalization"]


@pytest.mark.parametrize("name, kind", TAKEN)
def test_masks_of_size_one_broadcast(name: str, kind: str) -> None:
    results = [masked_call(namespace, name, BROADCAST[kind]) for namespace in (mf, keras)]
    (ours, weights), (theirs, wanted) = results
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    for w, v in zip(weights, wanted, strict=True):
        np.testing.assert_allclose(w, v, rtol=1e-5, atol=1e-6)
