"""Files from the network, kept in a cache: `get_file`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .files import beside, replacing

SILENCE_SECONDS = 30  # without a byte, and for a connection
HASHES = {64: "sha256", 32: "md5"}
SCHEMES = ("http:", "https:", "file:", "ftp:")
CHUNK = 2**18


def cache_folder() -> Path:
    """`$MLXFUNC_CACHE`, else `~/.cache/mlxfunc`."""
    return Path(os.environ.get("MLXFUNC_CACHE") or Path.home() / ".cache" / "mlxfunc")


def get_file(
    fname: str | None = None,
    origin: str | None = None,
    file_hash: str | None = None,
    cache_subdir: str = "datasets",
    extract: bool = False,
    cache_dir: str | os.PathLike | None = None,
    force_download: bool = False,
    timeout: float = 3600.0,
) -> str:
    """The local path of the file at `origin`, downloaded unless the cache has it.

    Args:
        fname: its name in the cache; the last part of `origin` when missing.
        origin: a URL (http, https, ftp, file).
        file_hash: SHA-256 or MD5, in hexadecimal. A cached file that differs is downloaded again.
        cache_subdir: the folder in the cache.
        extract: unpack a tar or zip archive and return the folder, `<fname>_extracted`.
        cache_dir: in place of `$MLXFUNC_CACHE` or `~/.cache/mlxfunc`.
        force_download: also when the cache has it.
        timeout: seconds that a download may take in all.

    Raises:
        ConnectionError: when the download fails; it says where to put the file by hand.
        ValueError: when what came does not have `file_hash`, or is no archive to extract, and for
            a name that leads out of the cache; nothing is kept.
        OSError: when the cache cannot be written.

    Source: https://keras.io/api/utils/python_utils/
    """
    if not origin or not origin.lower().startswith(SCHEMES):
        raise ValueError(f"get_file: expected a URL, got origin {origin!r}. Give 'https://…'.")
    if file_hash is not None:
        file_hash = file_hash.lower()
        if len(file_hash) not in HASHES or set(file_hash) - set("0123456789abcdef"):
            raise ValueError(
                f"get_file: expected a SHA-256 or MD5 of 64 or 32 digits, got {file_hash!r}."
            )
    root = Path(cache_dir) if cache_dir is not None else cache_folder()
    path = _inside(root, cache_subdir, fname or _last_part(origin))
    folder = path.with_name(path.name + "_extracted")
    good = path.is_file() and (file_hash is None or digest(path, file_hash) == file_hash)
    if force_download or not good:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(origin, path, file_hash, timeout)
    if not extract:
        return str(path)
    if not folder.is_dir():
        _extract(path, folder)
    return str(folder)


def _last_part(origin: str) -> str:
    from urllib.parse import unquote, urlsplit

    return unquote(urlsplit(origin).path).rstrip("/").rpartition("/")[2]


def _inside(root: Path, subdir: str, name: str) -> Path:
    """The file of that name in the cache. Raises: ValueError for one that is elsewhere."""
    folder = Path(os.path.abspath(root / subdir))
    path = Path(os.path.abspath(folder / name))
    leaves = not folder.is_relative_to(os.path.abspath(root))
    if leaves or folder not in path.parents or "\0" in name:
        raise ValueError(
            f"get_file: expected a name in the cache {root}, got {subdir!r} and {name!r}. "
            "Give fname= without '..', and cache_dir= for another folder."
        )
    return path


def digest(path: Path, like: str) -> str:
    """The file's hash, of the same kind as `like`."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, HASHES[len(like)]).hexdigest()


def _download(origin: str, path: Path, file_hash: str | None, timeout: float) -> None:
    with replacing(path) as part:
        with open(part, "wb") as target:
            for chunk in _chunks(origin, path, timeout):
                target.write(chunk)
        if file_hash is not None and (got := digest(part, file_hash)) != file_hash:
            raise ValueError(
                f"get_file: expected {origin} with hash {file_hash}, got {got}. "
                "Try again; if it stays so, the file at that address has changed."
            )
        # What was unpacked of the old file is not of the new one.
        shutil.rmtree(path.with_name(path.name + "_extracted"), ignore_errors=True)


def _chunks(origin: str, path: Path, timeout: float) -> Iterator[bytes]:
    """What comes from `origin`. Raises: ConnectionError, whatever the network or its peer does."""
    from http.client import HTTPException
    from urllib.request import urlopen

    end = time.monotonic() + timeout
    count = 0
    try:
        with urlopen(origin, timeout=min(SILENCE_SECONDS, timeout)) as source:
            length = source.headers.get("Content-Length") or ""
            size = int(length) if length.isdecimal() else 0
            with _shown(size, path.name) as advance:
                while chunk := source.read1(CHUNK):
                    count += len(chunk)
                    if time.monotonic() > end:
                        raise TimeoutError(f"{count} bytes in {timeout:g} seconds")
                    advance(len(chunk))
                    yield chunk
        if count < size:
            raise ConnectionError(f"the connection was cut after {count} of {size} bytes")
    except (OSError, HTTPException, ValueError) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise ConnectionError(
            f"get_file: expected to download {origin}, got: {reason}. Connect to the network, or "
            f"put the file at {path} yourself."
        ) from error


@contextlib.contextmanager
def _shown(size: int, name: str) -> Iterator[Callable[[int], None]]:
    """A function to call with each number of bytes: it moves a bar, at a terminal."""
    if size == 0 or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=size)
        yield lambda count: progress.advance(task, count)


def _extract(path: Path, folder: Path) -> None:
    import tarfile

    with beside(folder) as scratch:
        content = scratch / folder.name
        content.mkdir()
        try:
            if tarfile.is_tarfile(path):
                with tarfile.open(path) as archive:
                    archive.extractall(content, filter="data")
            else:
                shutil.unpack_archive(path, content, "zip")
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's
            raise ValueError(
                f"get_file: expected a tar or zip archive, got {path} "
                f"({error or type(error).__name__}). Use extract=False."
            ) from error
        os.replace(content, folder)
