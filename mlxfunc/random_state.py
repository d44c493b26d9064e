"""MLX's random state, read and put back. Each thread has its own."""

import threading
from typing import Any

import mlx.core as mx


class _LastWords:
    """Gives MLX's streams back when the thread that keeps it ends."""

    def __del__(self) -> None:
        mx.clear_streams()


_of_thread = threading.local()


def end_cleanly() -> None:
    """Let this thread, unless it is the main one, give MLX's streams back when it ends.

    A process aborts at its exit when a thread has ended with a random state of its own.
    """
    if threading.current_thread() is not threading.main_thread() and not vars(_of_thread):
        _of_thread.last_words = _LastWords()


def get_random_key() -> mx.array:
    """The state as it is, perhaps not yet computed."""
    end_cleanly()
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
