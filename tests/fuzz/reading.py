"""Reading a mutated file: it is read, or refused with a documented error that names it.

Beside that, a file of so many bytes takes no more than 1.2 times that and 100 MB of memory, and no
more than five seconds of the processor.
"""

from __future__ import annotations

import re
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import mlxfunc as mf

from cases import CASES

MEMORY = (1.2, 100e6)  # bytes per byte of the file, and beside it
SECONDS = 5.0
CEILING = 3 * 2**30  # of what a trial may ask the system for


class Source:
    """A model of one row of the table, and files of it."""

    def __init__(self, row: int) -> None:
        self.name, self.case = CASES[row].name, CASES[row]
        mf.clear_session()
        self.model = self.case.model()
        self.content = b""

    def written(self, name: str, write: Callable[[str], Any]) -> Source:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write(str(path))
            self.content = path.read_bytes()
        return self


# The name of the file, what makes it, what changes it, what reads it.
Kind = tuple[
    str,
    Callable[[Random], Source],
    Callable[[Random, bytes], bytes],
    Callable[[Any, Path], None],
]


def row(rng: Random) -> int:
    # Few rows in many trials: making the models takes longer than reading them.
    return rng.choice(range(rng.randrange(8), len(CASES), 8))


def read_mutated(kinds: dict[str, Kind], seed: int) -> str | None:
    """What is wrong with the way a random file of a random kind is read."""
    rng = Random(seed)
    kind = rng.choice(list(kinds))
    name, make, change, read = kinds[kind]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / name
        source = make(rng)
        path.write_bytes(change(rng, source.content))
        problem = _wrong(lambda: read(source, path), path)
    return problem and f"{kind} of {source.name}: {problem}"


def _wrong(read: Callable[[], Any], path: Path) -> str | None:
    """What is wrong with the way a file is read."""
    size = path.stat().st_size
    start, before = time.process_time(), _memory("VmRSS", reset=True)
    try:
        with _ceiling():
            read()
    except (ValueError, OSError) as error:
        if path.name not in str(error) and not str(error).startswith("quantize: "):
            return f"{type(error).__name__} does not name the file: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:500]
    seconds, grown = time.process_time() - start, _memory("VmHWM") - before
    if seconds > SECONDS:
        return f"took {seconds:.1f} s of the processor"
    if grown > MEMORY[0] * size + MEMORY[1]:
        return f"took {grown / 1e6:.0f} MB for a file of {size / 1e6:.1f} MB"
    return None


@contextmanager
def _ceiling() -> Iterator[None]:
    """Within the block the process cannot take the machine's memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + CEILING, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _memory(field: str, reset: bool = False) -> int:
    """Bytes, now or at the peak since the last reset, as Linux counts them."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+)", text)[1]) * 1024  # type: ignore[index]
