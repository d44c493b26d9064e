"""Inputs that a random graph takes, and how far rounding may move what it gives."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from fuzz.drawing import REFUSALS, VOCABULARY
from fuzz.recipe import GraphRecipe, leaves

# Sizes of dynamic dimensions that a model is tried with, where it takes them: each its own, or all
# one. An exporter that finds no size for its proof may refuse; not where a pair of ORDINARY fits.
ORDINARY = (11, 18, 44, 66)
SIZES = (*ORDINARY, 7, 24, 40, 5, 61)
Point = dict[Any, int]
ATOL = 2e-5
SUMS = 1e-4  # of the largest output: MLX adds thousands of entries one by one on a CPU
ROUNDING, SENSITIVE = 5e-7, 30.0
Arrays = list[np.ndarray]


class Wrong(Exception):
    """What a check has found."""


class Samples:
    """Inputs at the sizes that the model takes, and how far rounding may move its outputs."""

    def __init__(self, recipe: GraphRecipe, model: Any, seed: int) -> None:
        self.recipe, self.model, self.seed = recipe, model, seed
        self.batch = recipe.inputs[0].batch
        keys = {_key(i, axis, d): None for i, s in enumerate(recipe.inputs) for axis, d in s.dims()}
        apart = [{key: SIZES[(i + k) % 4] for i, key in enumerate(keys)} for k in range(2)]
        equal = [dict.fromkeys(keys, size) for size in SIZES]
        self.apart = all(self._takes(point) for point in apart)
        points = (apart if self.apart else []) + [p for p in equal if self._takes(p)]
        self.points = points[:2] if keys else points[:1]
        sizes = [size for point in self.points for size in point.values()]
        pairs = (set(ORDINARY[:2]), set(ORDINARY[2:]))
        self.ordinary = not keys or set(sizes) in pairs

    def _takes(self, point: Point) -> bool:
        try:
            mx.eval(leaves(self.model(self.structure(self.arrays(1, point)))))
        except REFUSALS:
            return False
        return True

    def arrays(self, batch: int, point: Point, seed: int = 0) -> Arrays:
        """Random inputs; the batch counts where it is not fixed."""
        rng = np.random.default_rng([self.seed, seed, batch, *point.values()])
        shapes = [
            (
                spec.batch or batch,
                *(point.get(_key(i, axis, d), d) for axis, d in enumerate(spec.shape)),
            )
            for i, spec in enumerate(self.recipe.inputs)
        ]
        specs = zip(self.recipe.inputs, shapes, strict=True)
        return [_array(rng, spec.dtype, shape) for spec, shape in specs]

    def structure(self, arrays: Arrays) -> Any:
        return self.recipe.structure(arrays)

    def run(self, arrays: Arrays) -> Arrays:
        return [np.array(y) for y in leaves(self.model(self.structure(arrays)))]

    def tolerances(self, arrays: Arrays) -> list[float]:
        """For each output: what inputs and weights that are rounded otherwise change in it."""
        before, weights = self.run(arrays), self.model.get_weights()
        changes = [np.zeros(y.shape) for y in before]
        for turn in range(2):
            rng = np.random.default_rng(turn)
            nudged = [_nudged(rng, a) for a in arrays]
            self.model.set_weights([_nudged(rng, w) for w in weights])
            for change, y, other in zip(changes, before, self.run(nudged), strict=True):
                np.maximum(change, np.abs(_wide(other) - _wide(y)), out=change)
        self.model.set_weights(weights)
        scales = [max(1.0, float(np.abs(_wide(y)).max(initial=0))) for y in before]
        return [
            SUMS * scale + SENSITIVE * float(change.max(initial=0))
            for scale, change in zip(scales, changes, strict=True)
        ]

    def compare(self, what: str, arrays: Arrays, found: list[Any], slack: float = 0.0) -> None:
        """Raises Wrong unless the model gives on these arrays what another one has."""
        expected = self.run(arrays)
        shapes = [[y.shape for y in outputs] for outputs in (map(np.asarray, found), expected)]
        if shapes[0] != shapes[1]:
            raise Wrong(f"{what}: outputs of shape {shapes[0]} for {shapes[1]}")
        errors = [_error(y, np.asarray(other)) for y, other in zip(expected, found, strict=True)]
        if all(error <= ATOL for error in errors):
            return
        for index, (error, most) in enumerate(zip(errors, self.tolerances(arrays), strict=True)):
            if not error <= most + slack:
                raise Wrong(
                    f"{what}: output {index} differs by {error:.2e}, more than {most:.2e}, "
                    f"on inputs of {[a.shape for a in arrays]}"
                )


def _error(y: np.ndarray, other: np.ndarray) -> float:
    """The largest difference; of NaN and infinity it is 0 to themselves, else NaN."""
    a, b = _wide(y), _wide(other)
    with np.errstate(invalid="ignore"):
        difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
    return float(difference.max(initial=0))


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


def _nudged(rng: np.random.Generator, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f":
        return array
    factor = 1 + rng.choice([-1.0, 1.0], array.shape) * ROUNDING
    return (array * factor).astype(array.dtype)


def _key(index: int, axis: int, dim: Any) -> Any:
    """What tells a dynamic dimension from others: its name, or its place."""
    return dim or (index, axis)


def _array(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers, or ids; some end, or begin, in zeros, as padded sequences do."""
    if dtype == "int32":
        array = rng.integers(0, VOCABULARY, shape).astype(np.int32)
    else:
        array = rng.normal(size=shape).astype(np.float32)
    if len(shape) > 1 and rng.random() < 0.6:
        lengths = rng.integers(1, shape[1] + 1, (shape[0], 1))
        valid = np.arange(shape[1]) < lengths
        array = array * valid.reshape(*shape[:2], *(1,) * (len(shape) - 2)).astype(array.dtype)
        array[:, 0] += array[:, 0] == 0  # of no step at all there is no mean
        array = array[:, ::-1] if rng.random() < 0.3 else array
    return np.ascontiguousarray(array)
