"""Sequences with masked steps, for operators that only know how long each sequence is.

Valid steps are moved to the front, in their order; the operator runs over the first `lengths` of
them; results go back to where the steps were, and are carried over masked steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from mlx2onnx.builder import Builder, Value
from mlx2onnx.layout import Tensor, time_first


@dataclass(frozen=True)
class Steps:
    """The valid steps of a mask (batch, time). `right_padded` promises that none follows a masked
    one, so that they are at the front already."""

    g: Builder
    mask: Tensor
    right_padded: bool = False

    def _known(self, name: str, make: object) -> Value:
        cache = self.mask.cache
        if name not in cache:
            cache[name] = make()  # type: ignore[operator]
        return cache[name]

    @property
    def valid(self) -> Value:
        """1 for a valid step, else 0: int32 (batch, time)."""
        return self._known("valid", lambda: self.g.cast(self.mask.plain, mx.int32))

    @property
    def lengths(self) -> Value:
        """Valid steps of each sequence: int32 (batch)."""
        return self._known("lengths", lambda: self.g.reduce("ReduceSum", self.valid, [1], False))

    @property
    def left(self) -> Value:
        """Valid steps from each step on."""
        return self._known("left", lambda: self.g.op("CumSum", self.valid, 1, reverse=1))

    @property
    def order(self) -> Value:
        """The places of the valid steps, first to last, then all others: int64 (batch, time)."""

        def make() -> Value:
            # Among valid steps `left` falls from step to step; masked ones, all 0, come last.
            keys = self.g.op("Mul", self.left, self.valid)
            count = self.g.shape_of(self.mask.plain, 1)
            return self.g.op("TopK", keys, count, axis=1, outputs=2)[1]

        return self._known("order", make)

    def front(self, x: Tensor) -> Value:
        """x with its valid steps in front, (time, batch, ...)."""
        known = x.cache.get(("front", id(self.mask)))
        if known is not None:
            return known
        if self.right_padded:
            return x.to(time_first(x.rank))
        if x.lookup is not None:
            # Ids are smaller than what they stand for.
            ids, table = x.lookup
            moved = self.g.op("GatherElements", ids.plain, self.order, axis=1)
            made = self.g.op("Gather", table(), self.g.op("Transpose", moved, perm=[1, 0]))
        else:
            places = self._known("places", lambda: self.g.op("Unsqueeze", self.order, [2]))
            moved = self.g.op("GatherND", x.plain, places, batch_dims=1)
            perm = [1, 0, *range(2, x.rank)]
            made = self.g.op("Transpose", moved, perm=perm)
        x.cache["front", id(self.mask)] = made
        return made

    def back(self, y: Value, start: Value | None, reverse: bool) -> Value:
        """y (batch, time, n), valid steps in front and then 0, with its steps in place.

        A masked step has the result of the valid step before it (after it, for `reverse`), or
        `start` (batch, n); None is 0.
        """
        g = self.g
        if start is not None:
            y = g.op("Concat", y, g.op("Unsqueeze", start, [1]), axis=1)
        name = f"places {reverse} {start is None}"
        places = self._known(name, lambda: self._back(reverse, start is None))
        return g.op("GatherND", y, places, batch_dims=1)

    def back_or_zero(self, y: Value) -> Value:
        """Like `back`, with 0 for a masked step."""
        places = self._known("places or zero", lambda: self._places(self._rank_of_valid(True)))
        return self.g.op("GatherND", y, places, batch_dims=1)

    def _back(self, reverse: bool, zeros: bool) -> Value:
        """Where each step's result is among the valid steps in front.

        Before the first valid step that is -1: the start, which is last, or else the 0 that stands
        there because a step is masked.
        """
        g = self.g
        if not reverse:
            return self._places(self._rank_of_valid(False))
        place = g.op("Sub", g.op("Unsqueeze", self.lengths, [1]), self.left)
        if not zeros:
            some = g.op("Cast", self.left, to=mx.bool_)
            place = g.op("Where", some, place, g.constant(-1, mx.int32))
        return self._places(place)

    def _rank_of_valid(self, alone: bool) -> Value:
        """How many valid steps come before a step, itself not counted; -1 is none at all.

        `alone`: -1 for every masked step.
        """
        g = self.g
        count = g.op("CumSum", self.valid, 1)
        if alone:
            count = g.op("Mul", count, self.valid)
        return g.op("Sub", count, g.constant(1, mx.int32))

    def _places(self, index: Value) -> Value:
        """int64 (batch, time, 1), as GatherND takes it."""
        return self.g.cast(self.g.op("Unsqueeze", index, [2]), mx.int64)


def reversed_time(g: Builder, value: Value, axis: int) -> Value:
    """The same steps, last to first."""
    lowest = np.iinfo(np.int64).min
    return g.op("Slice", value, [-1], [lowest], [axis], [-1])
