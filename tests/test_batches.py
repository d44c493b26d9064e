"""Datasets that make their batches when asked."""

import numpy as np
import pytest
from mlxfunc import utils
from PIL import Image

FLAGS = {"batch_size": 4, "image_size": (6, 8), "verbose": False}


def windows(*args, **options):
    return utils.timeseries_dataset_from_array(*args, **options)


def test_windows_start_and_step_as_asked():
    data = np.arange(99)
    (batch,) = windows(data, None, 10, sequence_stride=3, sampling_rate=2)
    assert batch[0].tolist() == list(range(0, 20, 2))
    assert batch[1].tolist() == list(range(3, 23, 2))
    assert batch[-1].tolist() == list(range(78, 98, 2))


def test_windows_carry_the_target_of_their_start():
    data = np.arange(30.0)[:, None]
    batches = list(windows(data[:-5], data[5:], 5, batch_size=8))
    assert [len(x) for x, _ in batches] == [8, 8, 5]
    for x, y in batches:
        np.testing.assert_array_equal(x[:, -1] + 1, y)


def test_windows_stay_between_start_and_end():
    (x,) = windows(np.arange(20), None, 3, start_index=5, end_index=10)
    assert x.tolist() == [[5, 6, 7], [6, 7, 8], [7, 8, 9]]


def test_single_windows_without_batches():
    singles = list(windows(np.arange(6), np.arange(6), 4, batch_size=None))
    assert len(singles) == 3
    assert singles[1][0].tolist() == [1, 2, 3, 4]
    assert singles[1][1] == 1


def test_shuffled_windows_are_all_there_in_another_order_each_epoch():
    dataset = windows(np.arange(40), None, 1, batch_size=40, shuffle=True, seed=3)
    first = dataset[0][:, 0].tolist()
    dataset.on_epoch_end()
    second = dataset[0][:, 0].tolist()
    assert sorted(first) == sorted(second) == list(range(40))
    assert len({tuple(first), tuple(second), tuple(range(40))}) == 3


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sequence_length": 0}, r"expected sequence_length in \[1, 10\], got 0"),
        ({"sequence_length": 4, "sampling_rate": 4}, "expected at least one window in 10 steps"),
        ({"sequence_length": 2, "start_index": 8, "end_index": 4}, "got 8 and 4"),
    ],
)
def test_windows_refuse(options, message):
    with pytest.raises(ValueError, match=f"timeseries_dataset_from_array: .*{message}"):
        windows(np.arange(10), None, **options)


@pytest.fixture
def folder(tmp_path):
    """Three red cats and two blue dogs, larger than asked for."""
    for name, color, count in (("cats", (255, 0, 0), 3), ("dogs", (0, 0, 255), 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (16, 12), color).save(tmp_path / name / f"{i}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_images_and_labels_from_folders(folder):
    dataset = utils.image_dataset_from_directory(folder, shuffle=False, **FLAGS)
    (x, y), (x_last, y_last) = dataset
    assert dataset.class_names == ["cats", "dogs"]
    assert x.shape == (4, 6, 8, 3)
    assert x.dtype == np.float32
    assert y.tolist() + y_last.tolist() == [0, 0, 0, 1, 1]
    assert x[0, 0, 0].tolist() == [255, 0, 0]
    assert x_last[0, 0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize(
    "mode, expected",
    [("binary", [[0], [0], [0], [1]]), ("categorical", [[1, 0], [1, 0], [1, 0], [0, 1]])],
)
def test_label_modes(folder, mode, expected):
    options = {**FLAGS, "label_mode": mode, "shuffle": False}
    x, y = utils.image_dataset_from_directory(folder, **options)[0]
    assert y.tolist() == expected
    assert y.dtype == np.float32


def test_images_alone_in_gray(folder):
    options = {**FLAGS, "labels": None, "color_mode": "grayscale"}
    assert utils.image_dataset_from_directory(folder, **options)[0].shape == (4, 6, 8, 1)


def test_training_and_validation_parts_share_nothing(folder):
    options = {**FLAGS, "validation_split": 0.4, "seed": 5}
    parts = utils.image_dataset_from_directory(folder, subset="both", **options)
    again = [
        utils.image_dataset_from_directory(folder, subset=subset, **options)
        for subset in ("training", "validation")
    ]
    files = [set(part.files) for part in parts]
    assert [len(part) for part in files] == [3, 2]
    assert not files[0] & files[1]
    assert files == [set(part.files) for part in again]


@pytest.mark.parametrize("fit", ["crop_to_aspect_ratio", "pad_to_aspect_ratio"])
def test_aspect_ratio_is_kept(folder, fit):
    options = {**FLAGS, "image_size": (10, 10), "shuffle": False, fit: True}
    x, _ = utils.image_dataset_from_directory(folder, **options)[0]
    top_is_red = x[0, 0, 5].tolist() == [255, 0, 0]
    assert top_is_red == (fit == "crop_to_aspect_ratio")
    assert x[0, 5, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"label_mode": "text"}, "expected label_mode in .*, got 'text'"),
        ({"labels": [0, 1]}, "expected 5 labels, one a file, got 2"),
        ({"class_names": ["cats"]}, r"expected class_names \['cats', 'dogs'\]"),
        ({"validation_split": 0.5}, "expected validation_split and subset together"),
        ({"validation_split": 0.5, "subset": "training"}, "expected a seed"),
        ({"interpolation": "magic"}, "expected interpolation in .*, got 'magic'"),
        ({"crop_to_aspect_ratio": True, "pad_to_aspect_ratio": True}, "to crop or to pad"),
    ],
)
def test_images_refuse(folder, options, message):
    with pytest.raises(ValueError, match=f"image_dataset_from_directory: .*{message}"):
        utils.image_dataset_from_directory(folder, **(FLAGS | options))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected images .* got none"):
        utils.image_dataset_from_directory(tmp_path)
    with pytest.raises(ValueError, match="expected a folder"):
        utils.image_dataset_from_directory(tmp_path / "missing")
