"""Splits a source of batches into epochs, and can seek to where a run was interrupted."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any

from .arguments import is_count
from .data import Batch, Source
from .prefetch import prefetch


class EpochIterator:
    """The batches of each epoch in turn, and no batch more.

    Without `steps_per_epoch` an epoch is one pass. With it, epochs follow each other through the
    data, and a new pass begins when the old one is used up. A source that ends early gives what
    it has, with a warning. Batches are read ahead within an epoch only, so that a user's generator
    stands at the next epoch's first batch when an epoch has ended.

    `position()` and `seek` make a later run continue at the very batch where this one is.

    Raises: ValueError for `steps_per_epoch` that is no positive int, or missing where a source has
        no end.
    """

    def __init__(self, source: Source, steps_per_epoch: int | None = None) -> None:
        if steps_per_epoch is None and source.endless:
            raise ValueError(
                "steps: expected a number of batches for data without end, got None. "
                "Give steps_per_epoch to fit, steps to evaluate and predict."
            )
        if steps_per_epoch is not None and not is_count(steps_per_epoch, 1):
            raise ValueError(f"steps: expected a positive int, got {steps_per_epoch!r}.")
        self.source, self.steps_per_epoch = source, steps_per_epoch
        self.passes = self.offset = self.drawn = 0
        self.ended = False
        self._seen = source.steps
        self._pass: Any = None
        self._reading: Any = None
        self._skip = 0

    @property
    def steps(self) -> int | None:
        """Batches in an epoch, once that is known."""
        return self.steps_per_epoch or self._seen

    @property
    def rows(self) -> int | None:
        """Rows in an epoch, where the source knows; fewer where it ends early."""
        rows, size = getattr(self.source, "rows", None), getattr(self.source, "size", None)
        if rows is None or size is None or self.steps_per_epoch is None:
            return rows
        return min(rows, size * self.steps_per_epoch)

    def position(self) -> dict[str, int]:
        seed = getattr(self.source, "seed", 0)
        return {"passes": self.passes, "offset": self.offset, "drawn": self.drawn, "seed": seed}

    def seek(self, position: dict[str, int]) -> None:
        """Continue from a `position()` of an iterator over the same data."""
        self.close()
        self.passes, self.offset = position["passes"], position["offset"]
        self.drawn = position["drawn"]
        self._skip = self.drawn if self.source.once else self.offset
        if hasattr(self.source, "seed"):
            self.source.seed = position["seed"]

    def epoch(self, first_step: int = 0) -> Iterator[tuple[int, Batch]]:
        """(step, batch) of one epoch, from `first_step` on."""
        if self.steps_per_epoch is None and first_step == 0 and self.offset:
            self.rewind()
        step, wanted = first_step, self.steps_per_epoch
        self._reading = self._read(None if wanted is None else wanted - step)
        with contextlib.closing(self._reading):
            for batch in self._reading:
                self.offset += 1
                self.drawn += 1
                yield step, batch
                step += 1
        if wanted is None or step < wanted:
            self._end(step)
        elif self.offset == self.source.steps:
            # A dataset hears that its pass is over when it is asked for one batch more.
            next(self._pass, None)
            self.rewind()

    def _read(self, count: int | None) -> Iterator[Any]:
        """The next `count` batches of this pass (None: all), read ahead if the source wants it."""
        if count == 0:
            return
        if self._pass is None:
            self._pass = self.source.start(self.passes, self._skip)
            self._skip = 0
        batches = islice(self._pass, count)
        if not self.source.ahead:
            yield from batches
            return
        yield from prefetch((batch.computed() for batch in batches), self.source.ahead)

    def _end(self, step: int) -> None:
        """The pass is over at `step` of the epoch: as it should, or too early."""
        self.ended = self.source.once
        wanted = self.steps_per_epoch or (self._seen if self.ended else None)
        if self.steps_per_epoch is None and self._seen is None and step:
            self._seen = step
        if wanted is not None and step < wanted:
            warnings.warn(
                f"data: the source ended {wanted - step} steps short of the {wanted} steps of "
                "this epoch. Training goes on with what there was; give a source that lasts "
                "steps_per_epoch * epochs batches.",
                stacklevel=2,
            )
        if not self.source.once:
            self.rewind()

    def rewind(self) -> None:
        """The next batch is the first of a new pass."""
        if self.source.once:
            return
        self.close()
        if self.offset:
            self.passes, self.offset = self.passes + 1, 0

    def close(self) -> None:
        """End the pass, and what makes its batches."""
        for iterator in (self._reading, self._pass):
            if hasattr(iterator, "close"):
                # A source that hangs in a thread cannot be closed from here.
                with contextlib.suppress(ValueError):
                    iterator.close()
        self._reading = self._pass = None
