"""How deep models may stand in models: Python and MLX walk trees of modules by recursion."""

from __future__ import annotations

import sys

import numpy as np

FRAMES = 100  # of Python's stack, for a model in a model; measured: fewer than 60
BASE = 1000
BRACKETS = 4  # of JSON, for a model in a model
MOST = 500  # models in models that a file may hold: a stack of 8 MB has room for more


def allow_depth(levels: int) -> None:
    """Let Python's stack hold calls through so many models, one in the other."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), BASE + FRAMES * levels))


def allow_json(content: bytes) -> None:
    """The same for what a file describes. Raises: ValueError when it is deeper than any model."""
    characters = np.frombuffer(content, np.uint8)
    opened = np.isin(characters, list(b"[{")).astype(np.int8)
    closed = np.isin(characters, list(b"]}")).astype(np.int8)
    depth = int(np.cumsum(opened - closed, dtype=np.int32).max(initial=0))
    if depth > BRACKETS * MOST:
        raise ValueError(f"it is nested {depth} deep, more than {BRACKETS * MOST}")
    if depth > BASE // 10:
        allow_depth(depth // BRACKETS)
