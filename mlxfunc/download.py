"""Files from the network, kept in a cache: `get_file`."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from .files import replacing

TIMEOUT_SECONDS = 30
HASHES = {64: "sha256", 32: "md5"}


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
) -> str:
    """The local path of the file at `origin`, downloaded unless the cache has it.

    Args:
        fname: its name in the cache; the last part of `origin` when missing.
        origin: a URL (http, https, file).
        file_hash: SHA-256 or MD5, in hexadecimal. A cached file that differs is downloaded again.
        extract: unpack a tar or zip archive and return the folder, `<fname>_extracted`.
        cache_dir: in place of `$MLXFUNC_CACHE` or `~/.cache/mlxfunc`.

    Raises:
        ConnectionError: when the download fails; it says where to put the file by hand.
        ValueError: when what came does not have `file_hash`; nothing is kept.

    Source: https://keras.io/api/utils/python_utils/
    """
    if not origin:
        raise ValueError("get_file: expected a URL, got no origin. Give origin='https://…'.")
    if file_hash is not None and len(file_hash) not in HASHES:
        raise ValueError(
            f"get_file: expected a SHA-256 or MD5 of 64 or 32 digits, got {file_hash!r}."
        )
    root = Path(cache_dir) if cache_dir is not None else cache_folder()
    path = root / cache_subdir / (fname or origin.rstrip("/").rpartition("/")[2])
    folder = path.with_name(path.name + "_extracted")
    good = path.is_file() and (file_hash is None or digest(path, file_hash) == file_hash)
    if force_download or not good:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(origin, path, file_hash)
        shutil.rmtree(folder, ignore_errors=True)
    if not extract:
        return str(path)
    if not folder.is_dir():
        _extract(path, folder)
    return str(folder)


def digest(path: Path, like: str) -> str:
    """The file's hash, of the same kind as `like`."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, HASHES[len(like)]).hexdigest()


def _download(origin: str, path: Path, file_hash: str | None) -> None:
    from urllib.error import URLError
    from urllib.request import urlopen

    with replacing(path) as part:
        try:
            with open(part, "wb") as target, urlopen(origin, timeout=TIMEOUT_SECONDS) as source:
                size = int(source.headers.get("Content-Length") or 0)
                with _shown(source, size, path.name) as reader:
                    shutil.copyfileobj(reader, target)
                cut = target.tell() < size
        except (URLError, OSError) as error:
            raise ConnectionError(
                _failure(origin, path, getattr(error, "reason", error))
            ) from error
        if cut:
            raise ConnectionError(_failure(origin, path, "the connection was cut"))
        if file_hash is not None and (got := digest(part, file_hash)) != file_hash:
            raise ValueError(
                f"get_file: expected {origin} with hash {file_hash}, got {got}. "
                "Try again; if it stays so, the file at that address has changed."
            )


def _failure(origin: str, path: Path, reason: Any) -> str:
    return (
        f"get_file: expected to download {origin}, got: {reason}. Connect to the network, or put "
        f"the file at {path} yourself."
    )


def _shown(source: Any, size: int, name: str) -> Any:
    """`source` as a context, with a progress bar while it is read at a terminal."""
    if size == 0 or not sys.stderr.isatty():
        return contextlib.nullcontext(source)
    import rich.progress
    from rich.console import Console

    return rich.progress.wrap_file(source, size, description=name, console=Console(stderr=True))


def _extract(path: Path, folder: Path) -> None:
    import tarfile

    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                archive.extractall(scratch, filter="data")
        else:
            shutil.unpack_archive(path, scratch, "zip")
        os.replace(scratch, folder)
    except (OSError, tarfile.TarError) as error:
        raise ValueError(
            f"get_file: expected a tar or zip archive, got {path} ({error}). Use extract=False."
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
