"""MultiHeadAttention over any axes against Keras: masks, causal, scores; and in the file."""

from __future__ import annotations

from typing import Any

import mlx2onnx
import mlxfunc as mf
import keras
import numpy as np
import pytest
from keras.src.backend import set_keras_mask
from mlxfunc.graph import leaves

# The shapes of query and value.
SHAPES = {
    "sequence": ((2, 4, 6), (2, 5, 6)),
    "image": ((2, 4, 3, 6), (2, 4, 3, 6)),
    "rows": ((2, 4, 3, 6), (2, 4, 5, 6)),
    "columns": ((2, 4, 3, 6), (2, 5, 3, 6)),
    "video": ((2, 3, 4, 2, 6), (2, 3, 5, 2, 6)),
}
# What attends over which axes, in every way to say so.
AXES: dict[str, tuple[Any, ...]] = {
    "sequence": (None, 1, -2, (1,), (-2,)),
    "image": (None, 1, 2, -2, -3, (1, 2), (2, 1), (-3, -2), (-2, 1)),
    "rows": (2, -2),
    "columns": (1, (-3,)),
    "video": (2, (-3,), (1, 2), (2, 3), (1, 2, 3)),
}
WAYS = ("plain", "scores", "dropout", "mask", "mask of heads", "mask of free axes")
WAYS += ("query mask", "value mask", "causal", "window")


class Masked(np.ndarray):
    """An array that can carry Keras's mask."""


class Row:
    """A layer over some axes, called in one way."""

    def __init__(self, kind: str, axes: Any, way: str) -> None:
        rng = np.random.default_rng(7)
        shapes = SHAPES[kind]
        rank = len(shapes[0])
        given = range(1, rank - 1) if axes is None else (axes,) if isinstance(axes, int) else axes
        over = [axis % rank for axis in given]
        queries, keys = ([shape[axis] for axis in over] for shape in shapes)
        free = [shapes[0][axis] for axis in range(1, rank - 1) if axis not in over]
        masks = {
            "mask": ("attention_mask", (2, *queries, *keys)),
            "mask of heads": ("attention_mask", (2, *[1] * len(free), 2, *queries, *keys)),
            "mask of free axes": ("attention_mask", (2, *free, 1, *queries, *keys)),
            "query mask": ("query_mask", (2, *queries)),
            "value mask": ("value_mask", (2, *keys)),
        }
        # Keras orders the positions of axis 1 only, and takes masks of inputs over one axis.
        ordered = over == [1] if way in ("causal", "window") else len(over) == 1
        self.in_keras = ordered or way not in ("causal", "window", "query mask", "value mask")
        self.query, self.value = (rng.normal(size=shape).astype("float32") for shape in shapes)
        self.masks = {}
        if way in masks:
            name, size = masks[way]
            self.masks[name] = rng.random(size) < 0.7
        self.options: dict[str, Any] = {"attention_axes": axes}
        self.options |= {"sliding_window": 2} if way == "window" else {}
        self.options |= {"dropout": 0.4} if way == "dropout" else {}
        self.flags = {
            "return_attention_scores": way not in ("plain", "causal"),
            "use_causal_mask": way in ("causal", "window"),
        }

    def keras_results(self) -> list[np.ndarray]:
        """Keras's weights, output and scores."""
        layer = keras.layers.MultiHeadAttention(2, 3, **self.options)
        # Keras sees a query's mask only where it is attached.
        query, masks = self.query.view(Masked), dict(self.masks)
        if "query_mask" in masks:
            set_keras_mask(query, masks.pop("query_mask"))
        results = layer(query, self.value, **masks, **self.flags)
        return [*layer.get_weights(), *leaves(results)]

    def model(self) -> mf.Model:
        query, value = (mf.Input(x.shape[1:]) for x in (self.query, self.value))
        masks = {name: mf.Input(mask.shape[1:], dtype="bool") for name, mask in self.masks.items()}
        layer = mf.layers.MultiHeadAttention(2, 3, **self.options)
        results = layer(query, value, **masks, **self.flags)
        return mf.Model([query, value, *masks.values()], results)

    def inputs(self) -> list[np.ndarray]:
        return [self.query, self.value, *self.masks.values()]


ROWS = {
    f"{kind} {axes} {way}": row
    for kind, forms in AXES.items()
    for axes in forms
    for way in WAYS
    if (row := Row(kind, axes, way)).in_keras
}


def keras_results() -> dict[str, np.ndarray]:
    return {
        f"{name}/{k}": array
        for name, row in ROWS.items()
        for k, array in enumerate(row.keras_results())
    }


@pytest.mark.parametrize("name", ROWS)
def test_attention_over_any_axes(name: str, expected: Any) -> None:
    row = ROWS[name]
    model = row.model()
    wanted = [expected[key] for key in expected if key.rpartition("/")[0] == name]
    count = len(model.weights)
    model.set_weights(wanted[:count])
    results = leaves(model(row.inputs()))
    for ours, theirs in zip(results, wanted[count:], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind, axes", [("sequence", -2), ("image", -2), ("video", (1, 2))])
def test_the_file_attends_over_the_same_axes(kind: str, axes: Any, way: str) -> None:
    row = Row(kind, axes, way)
    if way in ("causal", "window") and kind == "video":
        with pytest.raises(ValueError, match="expected one attention axis for a causal mask"):
            row.model()
        return
    model = row.model()
    file = mlx2onnx.to_onnx(model, verify=False, verbose=False)
    assert mlx2onnx.verify(model, file, row.inputs()).ok
