"""Inputs that a random graph takes, and how far rounding may move what it gives."""

from __future__ import annotations

import contextlib
from typing import Any

import mlx.core as mx
import numpy as np

from fuzz.drawing import REFUSALS, VOCABULARY
from fuzz.recipe import GraphRecipe, Spec, leaves

# Sizes of dynamic dimensions that a model is tried with, where it takes them. An exporter that
# finds no size for its proof may refuse; not where the model takes two of the first.
SIZES = (11, 18, 44, 66, 7, 24, 40, 5, 61)
ORDINARY = SIZES[:4]
ATOL = 2e-5
ROUNDING, SENSITIVE = 5e-7, 30.0
Arrays = list[np.ndarray]


class Wrong(Exception):
    """What a check has found."""


class Samples:
    """Inputs at the sizes that the model takes, and how far rounding may move its outputs."""

    def __init__(self, recipe: GraphRecipe, model: Any, seed: int) -> None:
        self.recipe, self.model, self.seed = recipe, model, seed
        dynamic = any(not isinstance(d, int) for s in recipe.inputs for d in s.shape)
        self.batch = recipe.inputs[0].batch
        self.points: list[int] = []
        for size in SIZES if dynamic else SIZES[:1]:
            with contextlib.suppress(*REFUSALS):
                mx.eval(leaves(self.model(self.structure(self.arrays(1, size)))))
                self.points.append(size)
            if len(self.points) == 2:
                break
        self.ordinary = all(size in ORDINARY for size in self.points)

    def arrays(self, batch: int, size: int, seed: int = 0) -> Arrays:
        rng = np.random.default_rng([self.seed, seed, batch, size])
        return [_array(rng, spec, spec.batch or batch, size) for spec in self.recipe.inputs]

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
            ATOL * scale + SENSITIVE * float(change.max(initial=0))
            for scale, change in zip(scales, changes, strict=True)
        ]

    def compare(self, what: str, arrays: Arrays, found: list[Any]) -> None:
        """Raises Wrong unless the model gives on these arrays what another one has."""
        expected = self.run(arrays)
        shapes = [[y.shape for y in outputs] for outputs in (map(np.asarray, found), expected)]
        if shapes[0] != shapes[1]:
            raise Wrong(f"{what}: outputs of shape {shapes[0]} for {shapes[1]}")
        errors = [_error(y, np.asarray(other)) for y, other in zip(expected, found, strict=True)]
        if max(errors) <= ATOL:
            return
        for index, (error, most) in enumerate(zip(errors, self.tolerances(arrays), strict=True)):
            if not error <= most:
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


def _array(rng: np.random.Generator, spec: Spec, batch: int, size: int) -> np.ndarray:
    """Normal numbers, or ids; some end, or begin, in zeros, as padded sequences do."""
    shape = (batch, *(d if isinstance(d, int) else size for d in spec.shape))
    if spec.dtype == "int32":
        array = rng.integers(0, VOCABULARY, shape).astype(np.int32)
    else:
        array = rng.normal(size=shape).astype(np.float32)
    if len(shape) > 1 and rng.random() < 0.6:
        lengths = rng.integers(1, shape[1] + 1, (batch, 1))
        valid = np.arange(shape[1]) < lengths
        array = array * valid.reshape(*shape[:2], *(1,) * (len(shape) - 2)).astype(array.dtype)
        array[:, 0] += array[:, 0] == 0  # of no step at all there is no mean
        array = array[:, ::-1] if rng.random() < 0.3 else array
    return np.ascontiguousarray(array)
