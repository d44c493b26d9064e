"""Well-known data sets: `from mlxfunc.datasets import mnist; mnist.load_data()`.

Each is downloaded once, with a checksum, into the cache of `utils.get_file`. Nothing that a file
holds is run: arrays of lists are read by an unpickler that knows arrays only.
Source: https://keras.io/api/datasets/
"""

from __future__ import annotations

import json
import pickle
import zipfile
from typing import Any

import numpy as np

from .download import get_file

Arrays = tuple[np.ndarray, np.ndarray]
Split = tuple[Arrays, Arrays]

KERAS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
CIFAR = "https://www.cs.toronto.edu/~kriz/"
FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
# SHA-256, or MD5 where its publisher gives no other.
FILES = {
    "mnist.npz": (KERAS, "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"),
    "imdb.npz": (KERAS, "69664113be75683a8fe16e3ed0ab59fda8886cb3cd7ada244f7d9544e4676b9f"),
    "imdb_word_index.json": (KERAS, "bfafd718b763782e994055a2d397834f"),
    "reuters.npz": (KERAS, "d6586e694ee56d7a4e65172e12b3e987c03096cb01eab99753921ef915959916"),
    "reuters_word_index.json": (KERAS, "4d44cc38712099c9e383dc6e5f11a921"),
    "boston_housing.npz": (
        KERAS,
        "f553886a1f8d56431e820c5b82552d9d95cfcb96d1e678153f8839538947dff5",
    ),
    "california_housing.npz": (
        KERAS,
        "1a2e3a52e0398de6463aebe6f4a8da34fb21fbb6b934cf88c3425e766f2a1a6f",
    ),
    "cifar-10-python.tar.gz": (
        CIFAR,
        "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    ),
    "cifar-100-python.tar.gz": (
        CIFAR,
        "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    ),
    "train-images-idx3-ubyte.gz": (
        FASHION,
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    "train-labels-idx1-ubyte.gz": (
        FASHION,
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    "t10k-images-idx3-ubyte.gz": (
        FASHION,
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        FASHION,
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
}


class mnist:
    """Handwritten digits: uint8 images (60000 and 10000, 28, 28), labels 0 to 9."""

    @staticmethod
    def load_data(path: str = "mnist.npz") -> Split:
        """((x_train, y_train), (x_test, y_test)). Source: http://yann.lecun.com/exdb/mnist"""
        file = read_npz(_fetch("mnist.npz", path))
        return (file["x_train"], file["y_train"]), (file["x_test"], file["y_test"])


class fashion_mnist:
    """Clothes: uint8 images (60000 and 10000, 28, 28), labels 0 to 9."""

    @staticmethod
    def load_data() -> Split:
        """((x_train, y_train), (x_test, y_test)). Source: arXiv 1708.07747"""

        def part(kind: str) -> Arrays:
            images = _read_idx(_fetch(f"{kind}-images-idx3-ubyte.gz", subdir="fashion-mnist"), 16)
            labels = _read_idx(_fetch(f"{kind}-labels-idx1-ubyte.gz", subdir="fashion-mnist"), 8)
            return images.reshape(-1, 28, 28), labels

        return part("train"), part("t10k")


class cifar10:
    """Photographs of 10 kinds: uint8 images (50000 and 10000, 32, 32, 3), labels (rows, 1)."""

    @staticmethod
    def load_data() -> Split:
        """((x_train, y_train), (x_test, y_test)). Source: https://www.cs.toronto.edu/~kriz"""
        batches = [f"data_batch_{i}" for i in range(1, 6)]
        return _cifar("cifar-10-python.tar.gz", "cifar-10-batches-py", batches, ["test_batch"])


class cifar100:
    """Photographs of 100 kinds: uint8 images (50000 and 10000, 32, 32, 3), labels (rows, 1)."""

    @staticmethod
    def load_data(label_mode: str = "fine") -> Split:
        """((x_train, y_train), (x_test, y_test)); "coarse" labels are the 20 groups of kinds.

        Source: https://www.cs.toronto.edu/~kriz
        """
        if label_mode not in ("fine", "coarse"):
            raise ValueError(
                f"cifar100: expected label_mode 'fine' or 'coarse', got {label_mode!r}."
            )
        key = f"{label_mode}_labels"
        return _cifar("cifar-100-python.tar.gz", "cifar-100-python", ["train"], ["test"], key)


class imdb:
    """Film reviews as lists of word ranks, 25000 and 25000, labels 0 (bad) and 1 (good)."""

    @staticmethod
    def load_data(
        path: str = "imdb.npz",
        num_words: int | None = None,
        skip_top: int = 0,
        maxlen: int | None = None,
        seed: int = 113,
        start_char: int | None = 1,
        oov_char: int | None = 2,
        index_from: int = 3,
    ) -> Split:
        """((x_train, y_train), (x_test, y_test)); x are arrays of lists, for `pad_sequences`.

        Args:
            num_words, skip_top: keep words of rank skip_top to num_words - 1; others become
                `oov_char`, or vanish where that is None.
            maxlen: drop reviews of so many words or more.
            start_char: put before each review. index_from: added to each rank.
        Source: https://ai.stanford.edu/~amaas/data/sentiment
        """
        file = read_npz(_fetch("imdb.npz", path))
        random = np.random.RandomState(seed)
        sets = []
        for kind in ("train", "test"):
            order = np.arange(len(file[f"x_{kind}"]))
            random.shuffle(order)
            x = _mark(file[f"x_{kind}"][order], start_char, index_from)
            sets.append(_shorten("imdb", x, file[f"y_{kind}"][order], maxlen))
        (x_train, y_train), (x_test, y_test) = sets
        x = _select(x_train + x_test, num_words, skip_top, oov_char)
        cut = len(x_train)
        return (_lists(x[:cut]), y_train), (_lists(x[cut:]), y_test)

    @staticmethod
    def get_word_index(path: str = "imdb_word_index.json") -> dict[str, int]:
        """Word to rank; ranks in the data are higher by `index_from`."""
        return _read_json(_fetch("imdb_word_index.json", path))


class reuters:
    """News as lists of word ranks, 11228 in all, 46 topics."""

    @staticmethod
    def load_data(
        path: str = "reuters.npz",
        num_words: int | None = None,
        skip_top: int = 0,
        maxlen: int | None = None,
        test_split: float = 0.2,
        seed: int = 113,
        start_char: int | None = 1,
        oov_char: int | None = 2,
        index_from: int = 3,
    ) -> Split:
        """((x_train, y_train), (x_test, y_test)); the arguments are those of `imdb`."""
        file = read_npz(_fetch("reuters.npz", path))
        order = np.arange(len(file["x"]))
        np.random.RandomState(seed).shuffle(order)
        x, y = _shorten(
            "reuters", _mark(file["x"][order], start_char, index_from), file["y"][order], maxlen
        )
        x = _select(x, num_words, skip_top, oov_char)
        cut = int(len(x) * (1 - test_split))
        return (_lists(x[:cut]), y[:cut]), (_lists(x[cut:]), y[cut:])

    @staticmethod
    def get_word_index(path: str = "reuters_word_index.json") -> dict[str, int]:
        """Word to rank; ranks in the data are higher by `index_from`."""
        return _read_json(_fetch("reuters_word_index.json", path))


class boston_housing:
    """506 districts of Boston, 13 features, prices in thousands of dollars."""

    @staticmethod
    def load_data(
        path: str = "boston_housing.npz", test_split: float = 0.2, seed: int = 113
    ) -> Split:
        """((x_train, y_train), (x_test, y_test)). Source: http://lib.stat.cmu.edu/datasets/boston"""
        file = read_npz(_fetch("boston_housing.npz", path))
        return _shuffle_split("boston_housing", file["x"], file["y"], test_split, seed)


class california_housing:
    """20640 districts of California, 8 features, prices in dollars."""

    @staticmethod
    def load_data(
        version: str = "large",
        path: str = "california_housing.npz",
        test_split: float = 0.2,
        seed: int = 113,
    ) -> Split:
        """((x_train, y_train), (x_test, y_test)); version "small" has 600 districts."""
        if version not in ("large", "small"):
            raise ValueError(
                f"california_housing: expected version 'large' or 'small', got {version!r}."
            )
        file = read_npz(_fetch("california_housing.npz", path))
        rows = 600 if version == "small" else None
        return _shuffle_split(
            "california_housing", file["x"][:rows], file["y"][:rows], test_split, seed
        )


def _fetch(name: str, path: str | None = None, subdir: str = "") -> str:
    origin, file_hash = FILES[name]
    return get_file(path or name, origin + name, file_hash, f"datasets/{subdir}")


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickled arrays and plain Python values, and nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")
        if (module, name) in {
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.numeric", "_frombuffer"),
            ("_codecs", "encode"),
        }:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"datasets: expected arrays only, got {module}.{name}.")


def read_npz(path: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, arrays of lists among them."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
                shape, _, dtype = read(file)
                holds_lists = dtype.hasobject
            with archive.open(member) as file:
                if holds_lists:
                    np.lib.format.read_magic(file)
                    read(file)
                    array = _ArrayUnpickler(file).load().reshape(shape)
                else:
                    array = np.lib.format.read_array(file, allow_pickle=False)
            arrays[member.removesuffix(".npy")] = array
    return arrays


def _read_idx(path: str, header: int) -> np.ndarray:
    import gzip

    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def _read_json(path: str) -> dict[str, int]:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def _cifar(name: str, folder: str, train: list[str], test: list[str], key: str = "labels") -> Split:
    import tarfile

    with tarfile.open(_fetch(name)) as archive:

        def part(batches: list[str]) -> Arrays:
            images, labels = [], []
            for batch in batches:
                file = archive.extractfile(f"{folder}/{batch}")
                table = _ArrayUnpickler(file, encoding="bytes").load()  # type: ignore[arg-type]
                images.append(table[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
                labels.append(np.array(table[key.encode()], np.uint8)[:, None])
            return np.concatenate(images), np.concatenate(labels)

        return part(train), part(test)


def _mark(x: Any, start: int | None, offset: int) -> list[list[int]]:
    first = [] if start is None else [start]
    return [first + [word + offset for word in row] for row in x]


def _shorten(
    name: str, x: list[list[int]], y: np.ndarray, maxlen: int | None
) -> tuple[list[list[int]], np.ndarray]:
    if not maxlen:
        return x, y
    kept = [i for i, row in enumerate(x) if len(row) < maxlen]
    if not kept:
        raise ValueError(f"{name}: expected rows shorter than maxlen={maxlen}, got none. Raise it.")
    return [x[i] for i in kept], y[kept]


def _select(
    x: list[list[int]], num_words: int | None, skip_top: int, oov: int | None
) -> list[list[int]]:
    limit = num_words or max(max(row) for row in x)
    if oov is None:
        return [[word for word in row if skip_top <= word < limit] for row in x]
    return [[word if skip_top <= word < limit else oov for word in row] for row in x]


def _lists(rows: list[list[int]]) -> np.ndarray:
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def _shuffle_split(name: str, x: np.ndarray, y: np.ndarray, share: float, seed: int) -> Split:
    if not 0 <= share < 1:
        raise ValueError(f"{name}: expected test_split in [0, 1), got {share}.")
    order = np.arange(len(x))
    np.random.RandomState(seed).shuffle(order)
    x, y = x[order], y[order]
    cut = int(len(x) * (1 - share))
    return (x[:cut], y[:cut]), (x[cut:], y[cut:])
