"""Reading arrays and archives: every size is checked before anything is allocated."""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import IO, Any

import mlx.core as mx
import numpy as np

from .conversion import to_mlx
from .depth import allow_json
from .files import replacing

File = str | os.PathLike | io.BytesIO
# A configuration is small; one in which users wrote large arrays as constants need not be.
MAX_JSON_BYTES = 2**26
MAX_SIZE = 2**31 - 1  # of an axis in MLX
CHUNK = 2**20
# MLX has no float64 on every device, and files hold none.
DTYPES = {
    "BOOL": mx.bool_, "U8": mx.uint8, "I8": mx.int8, "U16": mx.uint16, "I16": mx.int16,
    "U32": mx.uint32, "I32": mx.int32, "U64": mx.uint64, "I64": mx.int64, "F16": mx.float16,
    "BF16": mx.bfloat16, "F32": mx.float32, "C64": mx.complex64,
}  # fmt: skip
BITS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}


class Window(io.RawIOBase):
    """A part of a file as a file of its own, for reading."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        super().__init__()
        self.file, self.start, self.size, self.at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        self.file.seek(self.start + self.at)
        view = memoryview(buffer).cast("B")[: max(0, self.size - self.at)]
        content = self.file.readinto(view)  # type: ignore[attr-defined]
        self.at += content
        return content


@contextmanager
def opened(file: File, what: str) -> Iterator[IO[bytes]]:
    """The file, open for reading; whatever goes wrong with its content is one ValueError.

    Args:
        what: the file that is expected, and what to do when it is another one.
    Raises: OSError when it cannot be opened.
    """
    with nullcontext(file) if isinstance(file, io.BytesIO) else open(file, "rb") as content:
        try:
            yield content
        except Exception as error:
            wanted, advice = what.split(". ", 1)
            reason = str(error) if isinstance(error, ValueError | zipfile.BadZipFile) else ""
            raise ValueError(
                f"{name_of(file)}: expected {wanted}, got another file or a part of one "
                f"({reason or f'{type(error).__name__}: {error}'}). {advice}"
            ) from error


@contextmanager
def blaming(entry: Any) -> Iterator[None]:
    """An error inside carries `entry`, the innermost part of a configuration that it came from."""
    try:
        yield
    except Exception as error:
        vars(error).setdefault("entry", entry)
        raise


@contextmanager
def reading(file: File, place: str, advice: str, config: Any = None) -> Iterator[None]:
    """Whatever goes wrong with what a file holds is one ValueError, which tells where and why.

    Args:
        place: the part of the file that is read.
        advice: what to do, a sentence.
        config: the content of that part, of which the error's `entry` may be a part.
    """
    try:
        yield
    except Exception as error:
        place = _place(vars(error).get("entry"), config, place)
        text = " ".join(str(error).split())
        if not isinstance(error, ValueError) or not text:
            text = f"expected what can be rebuilt, got {type(error).__name__}: {text[:500]}"
        raise ValueError(f"{name_of(file)}: {text.rstrip('.')}; at {place}. {advice}") from error


def name_of(file: File) -> str:
    """A file in errors."""
    return "the archive" if isinstance(file, io.BytesIO) else os.fspath(file)


def _place(entry: Any, config: Any, place: str) -> str:
    """Where in `config` that very entry is: `config.json: model.config.layers[3]`."""
    rest = [("", config)] if entry is not None else []
    while rest:
        path, value = rest.pop()
        if value is entry:
            return f"{place}: {path.removeprefix('.')}" if path else place
        if isinstance(value, dict):
            rest += [(f"{path}.{key}", item) for key, item in value.items()]
        elif isinstance(value, list):
            rest += [(f"{path}[{k}]", item) for k, item in enumerate(value)]
    return place


class Archive:
    """The members of a zip file that are asked for; they are stored without compression.

    So no member is larger than the file, and arrays are read from their place in it.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._zip = zipfile.ZipFile(file)
        self._left = file.seek(0, os.SEEK_END)

    def __contains__(self, name: str) -> bool:
        return name in self._zip.NameToInfo

    def json(self, name: str) -> Any:
        """A member's JSON."""
        return read_json(self._member(name), name)

    def arrays(self, name: str) -> tuple[dict[str, mx.array], dict[str, str]]:
        """The arrays of a safetensors member, and its metadata."""
        return read_safetensors(self._member(name), name)

    def _member(self, name: str) -> Window:
        """A member, once its checksum holds."""
        if name not in self:
            raise ValueError(f"there is no {name} in it")
        info = self._zip.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ValueError(f"{name} is compressed, and `save` compresses nothing")
        self._left -= info.file_size
        if self._left < 0:
            raise ValueError(f"{name} is said to hold {info.file_size} bytes, more than the file")
        with self._zip.open(info) as whole:
            while whole.read(CHUNK):
                pass
        self._file.seek(info.header_offset + 26)
        lengths = struct.unpack("<HH", self._file.read(4))
        return Window(self._file, info.header_offset + 30 + sum(lengths), info.file_size)


def read_json(content: Window, name: str) -> Any:
    """Raises: ValueError for what is too large, too deep or not JSON."""
    if content.size > MAX_JSON_BYTES:
        raise ValueError(f"{name} holds {content.size} bytes, more than {MAX_JSON_BYTES}")
    try:
        text = content.read()
        allow_json(text)
        return json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON: {error}") from error


def read_safetensors(content: Window, name: str) -> tuple[dict[str, mx.array], dict[str, str]]:
    """Arrays, evaluated, and metadata, once the header is known to be true.

    MLX's own reader asks for Python's lock in a thread that may still run when Python ends, and
    the process aborts: the bytes are read here, each array's into its place.

    Raises: ValueError for a header that does not describe the rest of the file.
    """
    size = int.from_bytes(content.read(8), "little")
    if not 0 < size <= content.size - 8:
        raise ValueError(f"{name} is said to begin with {size} bytes of names, more than it holds")
    header = read_json(Window(content.file, content.start + 8, size), name)
    if not isinstance(header, dict):
        raise ValueError(f"{name} begins with {type(header).__name__}, not with a dict of arrays")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError(f"{name} has the metadata {metadata!r:.100}, not a dict of strings")
    spans = sorted((_span(f"{key!r} in {name}", row), key) for key, row in header.items())
    end = 0
    for (first, last), key in spans:
        if first < end or last > content.size - 8 - size:
            raise ValueError(f"bytes {first} to {last} of {name} are not those of {key!r} alone")
        end = last
    arrays = {}
    for (first, _), key in spans:
        content.seek(8 + size + first)
        arrays[key] = _array(content, header[key]["shape"], DTYPES[header[key]["dtype"]])
    mx.eval(arrays)
    return arrays, metadata


def _array(content: Window, shape: list[int], dtype: mx.Dtype) -> mx.array:
    """The array whose bytes come next; they are read into MLX's memory, with no copy between."""
    bits = mx.zeros(shape, BITS[dtype.size])
    memory: Any = bits  # a buffer, which MLX's stubs do not tell
    if bits.size and content.readinto(memoryview(memory).cast("B")) != bits.nbytes:
        raise ValueError(f"an array of {bits.nbytes} bytes is cut short")
    return bits.view(dtype)


def _span(key: str, row: Any) -> tuple[int, int]:
    """Where an array begins and ends, once its shape fits the space between."""
    try:
        shape, (first, last) = row["shape"], row["data_offsets"]
        sizes = [*shape, first, last]
        fits = all(type(n) is int and n >= 0 for n in sizes) and max(shape, default=0) <= MAX_SIZE
        fits = fits and last - first == math.prod(shape) * DTYPES[row["dtype"]].size
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"{key} is said to be {row!r:.200}, which is no array of MLX of that size")
    return first, last


def read_npz(file: IO[bytes], limit: int) -> dict[str, mx.array]:
    """The arrays of an `.npz` file, which may be compressed, of `limit` bytes or the file's."""
    left = max(limit, file.seek(0, os.SEEK_END))
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            left -= info.file_size
            if left < 0:
                raise ValueError(f"{info.filename} holds {info.file_size} bytes, too many")
            with archive.open(info) as member:
                arrays[info.filename.removesuffix(".npy")] = _npy(member, info.file_size)
    return arrays


def _npy(member: IO[bytes], size: int) -> mx.array:
    version = np.lib.format.read_magic(member)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0
    }[version]  # fmt: skip
    shape, by_column, dtype = read_header(member)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != size - member.tell():
        raise ValueError(f"{member.name} is not an array of shape {shape} and {dtype}")
    array = np.frombuffer(member.read(), dtype)
    return to_mlx(array.reshape(shape, order="F" if by_column else "C"))


ARRAYS = {
    ".safetensors": "a whole .safetensors file. Write the weights again.",
    ".npz": "a whole .npz file of arrays. Write the weights again.",
}


def load_arrays(path: str | os.PathLike, limit: int = 0) -> dict[str, mx.array]:
    """The arrays of a `.safetensors` or `.npz` file, evaluated.

    Args:
        limit: the bytes that a compressed `.npz` file may hold.
    Raises: ValueError for another file, or a damaged one.
    """
    ending = _ending(path)
    with opened(path, ARRAYS[ending]) as file:
        if ending == ".npz":
            return read_npz(file, limit)
        return read_safetensors(Window(file, 0, file.seek(0, os.SEEK_END)), "the file")[0]


def save_arrays(path: str | os.PathLike, arrays: Mapping[str, mx.array]) -> None:
    """Write arrays to a `.safetensors` or `.npz` file, whole or not at all."""
    ending = _ending(path)
    with replacing(path) as part, open(part, "wb") as file:
        if ending == ".npz":
            mx.savez(file, **arrays)
        else:
            mx.save_safetensors(file, dict(arrays))


def check(arrays: Mapping[str, mx.array], expected: Mapping[str, mx.array]) -> None:
    """Raises: ValueError for arrays of other names, shapes or kinds than the expected ones."""
    missing, unknown = sorted(expected.keys() - arrays), sorted(arrays.keys() - expected)
    if missing or unknown:
        raise ValueError(
            f"expected arrays called {_some(missing or expected)}, "
            f"got {_some(unknown) if unknown else f'all but {len(missing)}'}"
        )
    for name, array in arrays.items():
        wanted = expected[name]
        if array.shape != wanted.shape or _kind(array.dtype) != _kind(wanted.dtype):
            raise ValueError(
                f"{name}: expected shape {wanted.shape} and {wanted.dtype}, got {array.shape} and "
                f"{array.dtype}"
            )


def _some(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:3]) + (f" and {len(first) - 3} others" if len(first) > 3 else "")


def _kind(dtype: mx.Dtype) -> mx.DtypeCategory | mx.Dtype:
    kinds = (mx.floating, mx.integer)
    return next((kind for kind in kinds if mx.issubdtype(dtype, kind)), dtype)


def _ending(path: str | os.PathLike) -> str:
    ending = os.path.splitext(path)[1]
    if ending not in ARRAYS:
        raise ValueError(
            f"weights: expected a path that ends in {' or '.join(map(repr, ARRAYS))}, got "
            f"{os.fspath(path)!r}."
        )
    return ending
