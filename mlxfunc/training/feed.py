"""Cuts a source of batches into epochs, and knows where in the data a run is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from .data import Batch, Source


class Feed:
    """The batches of each epoch in turn.

    Without `steps_per_epoch` an epoch is one pass. With it, epochs follow each other through the
    data, and a new pass begins when the old one is used up. A source that ends early gives what
    it has, with a warning.

    `position()` and `seek` make a later run continue at the very batch where this one is.
    """

    def __init__(self, source: Source, steps_per_epoch: int | None = None) -> None:
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise ValueError(f"steps: expected a positive int, got {steps_per_epoch}.")
        self.source, self.steps_per_epoch = source, steps_per_epoch
        self.passes = self.offset = self.drawn = 0
        self.ended = False
        self._seen = source.steps
        self._iterator: Iterator[Batch] | None = None
        self._skip = 0

    @property
    def steps(self) -> int | None:
        """Batches in an epoch, once that is known."""
        return self.steps_per_epoch or self._seen

    def position(self) -> dict[str, int]:
        seed = getattr(self.source, "seed", 0)
        return {"passes": self.passes, "offset": self.offset, "drawn": self.drawn, "seed": seed}

    def seek(self, position: dict[str, int]) -> None:
        """Continue from a `position()` of a feed over the same data."""
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
        step = first_step
        while self.steps_per_epoch is None or step < self.steps_per_epoch:
            batch = self._next()
            if batch is None:
                self._end(step)
                break
            self.offset += 1
            self.drawn += 1
            yield step, batch
            step += 1
        if self.steps_per_epoch is None or self.offset == self.source.steps:
            self.rewind()

    def _next(self) -> Batch | None:
        if self._iterator is None:
            self._iterator = self.source.start(self.passes, self._skip)
            self._skip = 0
        return next(self._iterator, None)

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
        """Stop what makes batches ahead."""
        iterator: Any = self._iterator
        if iterator is not None and hasattr(iterator, "close"):
            iterator.close()
        self._iterator = None
