"""MLX's global random state, read and put back."""

from typing import Any

import mlx.core as mx


def get_random_state() -> int:
    """The state as the 64-bit number that `mx.random.seed` would make it from."""
    state: Any = mx.random.state
    high, low = state[0].tolist()
    return high << 32 | low


def set_random_state(state: int) -> None:
    """Continue from a state that `get_random_state` gave, bit for bit."""
    mx.random.seed(state)
