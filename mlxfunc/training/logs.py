"""Logged values: arrays on the device until somebody reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import mlx.core as mx
import numpy as np


def to_floats(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Python floats (arrays for metrics that are vectors); waits for the device once."""
    mx.eval([value for value in logs.values() if isinstance(value, mx.array)])
    return {key: _to_float(value) for key, value in logs.items()}


def _to_float(value: Any) -> Any:
    if isinstance(value, mx.array | np.generic):
        return value.item() if value.size == 1 else np.array(value)
    return value


class LazyLogs(MutableMapping):
    """A batch's logs, for callbacks: reading one waits for the device, not reading does not."""

    def __init__(self, logs: Mapping[str, Any]) -> None:
        self._logs: dict[str, Any] = dict(logs)
        self._read = False

    def _values(self) -> dict[str, Any]:
        if not self._read:
            self._logs, self._read = to_floats(self._logs), True
        return self._logs

    def __getitem__(self, key: str) -> Any:
        return self._values()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._logs[key] = value

    def __delitem__(self, key: str) -> None:
        del self._logs[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._logs)

    def __len__(self) -> int:
        return len(self._logs)

    def __repr__(self) -> str:
        return repr(self._values())
