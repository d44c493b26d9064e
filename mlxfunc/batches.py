"""Datasets that make their batches when asked: sliding windows, folders of images."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .training.dataset import PyDataset

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
MODES = {"grayscale": "L", "rgb": "RGB", "rgba": "RGBA"}


class RowDataset(PyDataset):
    """Batches of rows that a subclass makes from their numbers; shuffled anew each epoch.

    Args:
        rows: how many there are.
        batch_size: rows in a batch; None: single rows, without a batch axis.
    """

    def __init__(self, rows: int, batch_size: int | None, shuffle: bool, seed: int | None) -> None:
        super().__init__()
        self.batch_size, self.shuffle = batch_size, shuffle
        self.random = np.random.default_rng(seed)
        self.order = np.arange(rows)
        self.on_epoch_end()

    def __len__(self) -> int:
        return math.ceil(len(self.order) / (self.batch_size or 1))

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"{type(self).__name__}: expected 0 to {len(self) - 1}, got {index}.")
        size = self.batch_size or 1
        batch = self.rows(self.order[index * size : (index + 1) * size])
        if self.batch_size is not None:
            return batch
        return tuple(part[0] for part in batch) if isinstance(batch, tuple) else batch[0]

    def on_epoch_end(self) -> None:
        if self.shuffle:
            self.random.shuffle(self.order)

    def rows(self, numbers: np.ndarray) -> Any:
        """The batch made of these rows: x, or (x, y)."""
        raise NotImplementedError


class Windows(RowDataset):
    """Windows (batch, sequence_length, ...) of an array, and the target of each."""

    def __init__(
        self, data: Any, targets: Any, starts: np.ndarray, steps: np.ndarray, **options: Any
    ) -> None:
        self.data, self.targets, self.starts, self.steps = data, targets, starts, steps
        super().__init__(len(starts), **options)

    def rows(self, numbers: np.ndarray) -> Any:
        starts = self.starts[numbers]
        x = self.data[starts[:, None] + self.steps]
        return x if self.targets is None else (x, self.targets[starts])


def timeseries_dataset_from_array(
    data: Any,
    targets: Any,
    sequence_length: int,
    sequence_stride: int = 1,
    sampling_rate: int = 1,
    batch_size: int | None = 128,
    shuffle: bool = False,
    seed: int | None = None,
    start_index: int | None = None,
    end_index: int | None = None,
) -> PyDataset:
    """Windows over `data`: window w is data[s], data[s + r], …, with s = w·stride, r = the rate.

    Args:
        data: (steps, ...).
        targets: (steps, ...); targets[s] belongs to the window that starts at s. None: x only.
        sequence_length, sequence_stride, sampling_rate: in steps of `data`.
        batch_size: windows in a batch; None: single windows.
        start_index, end_index: use only data[start_index:end_index].

    Returns: a PyDataset, for `fit` or a loop; it copies nothing before a batch is asked for.
    Source: https://keras.io/api/data_loading/timeseries/
    """
    data = np.asarray(data)
    targets = None if targets is None else np.asarray(targets)
    for name, value in (
        ("sequence_length", sequence_length),
        ("sequence_stride", sequence_stride),
        ("sampling_rate", sampling_rate),
    ):
        if not 0 < value <= len(data):
            raise ValueError(
                f"timeseries_dataset_from_array: expected {name} in [1, {len(data)}], got {value}."
            )
    first, last = start_index or 0, len(data) if end_index is None else end_index
    if not 0 <= first < last <= len(data):
        raise ValueError(
            "timeseries_dataset_from_array: expected 0 <= start_index < end_index <= "
            f"{len(data)}, got {first} and {last}."
        )
    windows = last - first - (sequence_length - 1) * sampling_rate
    if targets is not None:
        windows = min(windows, len(targets[first:last]))
    if windows <= 0:
        raise ValueError(
            f"timeseries_dataset_from_array: expected at least one window in {last - first} steps, "
            f"got none of {sequence_length} steps at rate {sampling_rate}. Shorten the window."
        )
    starts = first + np.arange(0, windows, sequence_stride)
    steps = np.arange(sequence_length) * sampling_rate
    return Windows(data, targets, starts, steps, batch_size=batch_size, shuffle=shuffle, seed=seed)


class Images(RowDataset):
    """Images (batch, height, width, channels) in [0, 255], read when asked for."""

    def __init__(
        self, files: Sequence[Path], labels: np.ndarray | None, load: Any, **options: Any
    ) -> None:
        self.files, self.labels, self.load = files, labels, load
        self.class_names: list[str] = []
        super().__init__(len(files), **options)

    def rows(self, numbers: np.ndarray) -> Any:
        x = np.stack([self.load(self.files[i]) for i in numbers])
        return x if self.labels is None else (x, self.labels[numbers])


def image_dataset_from_directory(
    directory: str | os.PathLike,
    labels: str | Sequence[int] | None = "inferred",
    label_mode: str | None = "int",
    class_names: Sequence[str] | None = None,
    color_mode: str = "rgb",
    batch_size: int | None = 32,
    image_size: tuple[int, int] = (256, 256),
    shuffle: bool = True,
    seed: int | None = None,
    validation_split: float | None = None,
    subset: str | None = None,
    interpolation: str = "bilinear",
    follow_links: bool = False,
    crop_to_aspect_ratio: bool = False,
    pad_to_aspect_ratio: bool = False,
    verbose: bool = True,
) -> Any:
    """Images under `directory`, one folder a class, as batches for `fit`.

    Args:
        labels: "inferred" from the folders, None, or one class a file in the order of their paths.
        label_mode: "int" (batch,), "binary" (batch, 1), "categorical" (batch, classes), or None.
        color_mode: "grayscale", "rgb" or "rgba": 1, 3 or 4 channels.
        image_size: (height, width), in pixels.
        validation_split, subset: the share kept for validation, and "training", "validation" or
            "both" of the parts. With `shuffle`, give a `seed` so that they do not overlap.
        interpolation: "nearest", "bilinear", "bicubic", "area" or "lanczos3". Unlike Keras's,
            it averages when it shrinks an image.

    Returns: a PyDataset (two for "both") that yields float32 images, (batch, height, width,
    channels) in [0, 255], and labels; `class_names` tells the classes.
    Raises: ImportError without Pillow.
    Source: https://keras.io/api/data_loading/image/
    """
    where = "image_dataset_from_directory"
    _choose(where, "label_mode", label_mode, ("int", "binary", "categorical", None))
    _choose(where, "color_mode", color_mode, MODES)
    _check_split(where, validation_split, subset, shuffle and seed is None)
    load = _loader(color_mode, image_size, interpolation, crop_to_aspect_ratio, pad_to_aspect_ratio)
    files, classes, names = _find(Path(directory), labels, class_names, follow_links)
    if verbose:
        print(f"Found {len(files)} files" + (f" of {len(names)} classes." if names else "."))
    encoded = None if classes is None else _encode(where, classes, label_mode, len(names))
    order = np.arange(len(files))
    if shuffle:
        np.random.default_rng(seed).shuffle(order)
    kept = len(files) - int((validation_split or 0) * len(files))
    parts = {"training": order[:kept], "validation": order[kept:], None: order}

    def dataset(part: np.ndarray) -> Images:
        made = Images(
            [files[i] for i in part],
            None if encoded is None else encoded[part],
            load,
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
        )
        made.class_names = names
        return made

    if subset == "both":
        return dataset(parts["training"]), dataset(parts["validation"])
    return dataset(parts[subset])


def _choose(where: str, name: str, value: Any, known: Any) -> None:
    if value not in known:
        raise ValueError(f"{where}: expected {name} in {list(known)}, got {value!r}.")


def _check_split(where: str, share: float | None, subset: str | None, overlap: bool) -> None:
    _choose(where, "subset", subset, ("training", "validation", "both", None))
    if (share is None) != (subset is None):
        raise ValueError(f"{where}: expected validation_split and subset together, got one.")
    if share is not None and not 0 < share < 1:
        raise ValueError(f"{where}: expected validation_split in (0, 1), got {share}.")
    if overlap and subset in ("training", "validation"):
        raise ValueError(
            f"{where}: expected a seed with shuffle and validation_split, got None. "
            "Two calls would draw parts that overlap."
        )


def _find(
    root: Path, labels: Any, class_names: Sequence[str] | None, follow_links: bool
) -> tuple[list[Path], np.ndarray | None, list[str]]:
    """Image files in the order of their paths, their classes, and the classes' names."""
    if not root.is_dir():
        raise ValueError(f"image_dataset_from_directory: expected a folder, got {root}.")
    files = sorted(
        Path(folder) / name
        for folder, _, names in os.walk(root, followlinks=follow_links)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES)
    )
    names: list[str] = []
    classes = None
    if isinstance(labels, str) and labels == "inferred":
        found = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        names = list(class_names or found)
        if set(names) != set(found):
            raise ValueError(
                f"image_dataset_from_directory: expected class_names {found}, got {names}. "
                "They are the names of the folders."
            )
        inside = [f for f in files if f.parent != root]
        files = inside
        classes = np.array([names.index(f.relative_to(root).parts[0]) for f in files], np.int32)
    elif labels is not None:
        classes = np.asarray(labels, np.int32)
        if len(classes) != len(files):
            raise ValueError(
                f"image_dataset_from_directory: expected {len(files)} labels, one a file, "
                f"got {len(classes)}."
            )
        names = [str(k) for k in range(int(classes.max(initial=-1)) + 1)]
    if not files:
        raise ValueError(
            f"image_dataset_from_directory: expected images ({', '.join(IMAGE_SUFFIXES)}) in "
            f"{root}, got none."
        )
    return files, classes, names


def _encode(where: str, classes: np.ndarray, mode: str | None, count: int) -> np.ndarray | None:
    if mode == "binary":
        if count != 2:
            raise ValueError(f"{where}: expected 2 classes for label_mode 'binary', got {count}.")
        return classes[:, None].astype(np.float32)
    if mode == "categorical":
        return np.eye(count, dtype=np.float32)[classes]
    return classes if mode == "int" else None


def _loader(mode: str, size: tuple[int, int], interpolation: str, crop: bool, pad: bool) -> Any:
    """A function from a path to an array (height, width, channels)."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError(
            "image_dataset_from_directory: expected Pillow, got none. pip install pillow."
        ) from error
    filters = {
        "nearest": Image.Resampling.NEAREST,
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
        "area": Image.Resampling.BOX,
        "lanczos3": Image.Resampling.LANCZOS,
    }
    _choose("image_dataset_from_directory", "interpolation", interpolation, filters)
    if crop and pad:
        raise ValueError("image_dataset_from_directory: expected to crop or to pad, got both.")
    resample, (height, width) = filters[interpolation], size

    def load(path: Path) -> np.ndarray:
        with Image.open(path) as file:
            image = file.convert(MODES[mode])
        if crop:
            image = ImageOps.fit(image, (width, height), resample)
        elif pad:
            image = ImageOps.pad(image, (width, height), resample)
        else:
            image = image.resize((width, height), resample)
        return np.asarray(image, np.float32).reshape(height, width, -1)

    return load
