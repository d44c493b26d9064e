"""MLX's random state, read and put back. Each thread has its own."""

from typing import Any

import mlx.core as mx


def get_random_key() -> mx.array:
    """The state as it is, perhaps not yet computed."""
    state: Any = mx.random.state
    return state[0]


def state_of_key(key: mx.array) -> int:
    """The 64-bit number that `mx.random.seed` would make the key from."""
    numbers: Any = key.tolist()
    return numbers[0] << 32 | numbers[1]


def get_random_state() -> int:
    """The state as the 64-bit number that `mx.random.seed` would make it from."""
    return state_of_key(get_random_key())


def set_random_state(state: int) -> None:
    """Continue from a state that `get_random_state` gave, bit for bit."""
    mx.random.seed(state)
