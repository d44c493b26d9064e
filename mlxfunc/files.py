"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# How the folder that a writer works in ends; it begins with a dot and the name of the file.
SCRATCH = ".mlxfunc-part"


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A path to write to. The file is moved onto `path` at the end, and removed after an error.

    A symbolic link stays one; a file that was there hands on its permissions.
    """
    target = real(path)
    with beside(target) as folder:
        part = folder / target.name
        yield part
        put(part, target)


def real(path: str | os.PathLike) -> Path:
    """The file that a path leads to. Raises: PermissionError for one that may not be written."""
    target = Path(os.path.realpath(path))
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(
            f"{os.fspath(path)}: expected a file that may be written, got a read-only one. "
            "Change its permissions, or take another name."
        )
    return target


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A folder beside `target`, of this writer alone, which is removed with all that is in it.

    What writers that were killed have left there is removed too.
    """
    sweep(target.parent)
    folder, lock = _scratch(target)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def put(part: Path, target: Path) -> None:
    """Move a finished file onto `target`, with the permissions and the owner of the old one."""
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    with contextlib.suppress(FileNotFoundError):
        old = target.stat()
        for owner in ((-1, old.st_gid), (old.st_uid, -1)):
            with contextlib.suppress(PermissionError):
                os.chown(part, *owner)
        part.chmod(stat.S_IMODE(old.st_mode))
    os.replace(part, target)


def sweep(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder. Who lives holds a lock."""
    for rest in folder.glob(f".*{SCRATCH}"):
        try:
            lock = os.open(rest, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(rest, ignore_errors=True)
        except OSError:
            pass  # a writer at work, or a disk without locks
        finally:
            os.close(lock)


def _scratch(target: Path) -> tuple[Path, int]:
    """A new folder beside `target` and the lock on it; the system drops it when we are killed."""
    while True:
        name = tempfile.mkdtemp(SCRATCH, f".{target.name[:50]}.", target.parent)
        try:
            lock = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # swept before it was locked
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(name):
            return Path(name), lock
        os.close(lock)
