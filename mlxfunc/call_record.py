"""What calls of layers leave beside their outputs: losses, and masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import mlx.core as mx


class CallRecord:
    """What calls leave beside their outputs: losses that layers add, and masks by layer."""

    def __init__(self) -> None:
        self.losses: list[tuple[Any, mx.array]] = []
        self.masks: dict[int, list[mx.array | None]] = {}

    def forget(self, layer: Any) -> None:
        """Drop what an earlier call of this layer left."""
        if self.losses:
            own = {id(module) for module in layer.sublayers()}
            self.losses = [(one, loss) for one, loss in self.losses if id(one) not in own]
        self.masks.pop(id(layer), None)


# Open while a step runs; then nothing is left on layers.
current_record: ContextVar[CallRecord | None] = ContextVar("current_record", default=None)


@contextmanager
def recording() -> Iterator[CallRecord]:
    """Within the block, what calls leave beside their outputs is in the record, on no layer."""
    record = CallRecord()
    token = current_record.set(record)
    try:
        yield record
    finally:
        current_record.reset(token)
