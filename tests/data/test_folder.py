"""Data sets of folders of pictures."""

import json

import numpy as np
import pytest

from funcnet import data

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: the extra data has it")


def fill(root, counts, size=(4, 3)):
    """Pictures in folders; each is of its class's grey: a value for each name in `counts`."""
    for folder, (count, value) in counts.items():
        (root / folder).mkdir(parents=True)
        for i in range(count):
            Image.new("L", size, value).save(root / folder / f"{i}.png")


def test_class_folders_are_cut_into_splits(tmp_path):
    fill(tmp_path / "pets", {"dog": (10, 20), "cat": (10, 10)})
    dataset = data.read(tmp_path / "pets", val=0.2, test=2)
    assert (dataset.classes, dataset.name, dataset.full_scale) == (("cat", "dog"), "pets", 255)
    assert [len(split.labels) for split in dataset[:3]] == [14, 4, 2]
    for split in dataset[:3]:
        np.testing.assert_array_equal(split.images[:, 0, 0, 0], 10 + 10 * split.labels)
    assert dataset.train.images.shape == (14, 3, 4, 1)
    assert np.bincount(dataset.val.labels).tolist() == [2, 2]


@pytest.mark.parametrize("word", ["val", "valid", "validation", "Valid"])
def test_folders_of_splits_are_taken(word, tmp_path):
    fill(
        tmp_path,
        {
            "train/a": (6, 1),
            "train/b": (6, 2),
            f"{word}/a": (1, 1),
            f"{word}/b": (1, 2),
            "test/b": (3, 2),
        },
    )
    dataset = data.from_folder(tmp_path)
    assert [len(split.labels) for split in dataset[:3]] == [12, 2, 3]
    assert dataset.test.labels.tolist() == [1, 1, 1]
    for split in dataset[:3]:
        np.testing.assert_array_equal(split.images[:, 0, 0, 0], 1 + split.labels)


def test_a_split_that_is_not_there_is_cut_from_training(tmp_path):
    fill(tmp_path, {"train/a": (10, 1), "train/b": (10, 2), "test/a": (1, 1), "test/b": (1, 2)})
    assert [len(split.labels) for split in data.from_folder(tmp_path)[:3]] == [18, 2, 2]


def test_numbers_are_in_their_order(tmp_path):
    fill(tmp_path, {str(i): (2, i) for i in range(11)})
    dataset = data.from_folder(tmp_path, val=0, test=0)
    assert dataset.classes == tuple(map(str, range(11)))
    np.testing.assert_array_equal(dataset.train.images[:, 0, 0, 0], dataset.train.labels)


def test_hidden_files_and_other_suffixes_are_passed_over(tmp_path):
    fill(tmp_path, {"a": (2, 1), "b": (2, 2), "a/deeper": (1, 1)})
    for name in (".DS_Store", "notes.txt", "a/._0.png", "a/Thumbs.db", ".git/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no picture")
    Image.new("L", (4, 3), 1).save(tmp_path / "a" / "UPPER.JPG")
    dataset = data.from_folder(tmp_path, val=0, test=0)
    assert dataset.classes == ("a", "b")
    assert np.bincount(dataset.train.labels).tolist() == [4, 2]


def test_train_may_be_a_class(tmp_path):
    fill(tmp_path, {"train": (2, 1), "car": (2, 2)})
    assert data.from_folder(tmp_path, val=0, test=0).classes == ("car", "train")
    fill(tmp_path / "kaggle", {"train": (2, 1), "test": (2, 2)})
    with pytest.raises(data.DataFormatError, match=r"train: it has no folders, .*/train/CLASS"):
        data.from_folder(tmp_path / "kaggle")


def broken(tmp_path, fault):
    fill(tmp_path, {"train/a": (2, 1), "train/b": (2, 2), "test/a": (1, 1)})
    if fault == "empty":
        (tmp_path / "train" / "c").mkdir()
        (tmp_path / "train" / "c" / "notes.txt").write_text("")
    elif fault == "no class":
        Image.new("L", (4, 3)).save(tmp_path / "test" / "1.png")
    elif fault == "unknown":
        fill(tmp_path, {"test/d": (1, 1)})
    elif fault == "other":
        fill(tmp_path, {"dev/a": (1, 1)})
    elif fault == "twice":
        fill(tmp_path, {"val/a": (1, 1), "valid/a": (1, 1)})
    elif fault == "damaged":
        (tmp_path / "train" / "a" / "x.png").write_bytes(b"\x89PNG\r\n")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("empty", "c: the folder has no picture"),
        ("no class", r"1\.png: the picture is in no class's folder\. Move it to .*CLASS"),
        ("unknown", "test: it has the class 'd', which training has not. Expected a, b"),
        ("other", "it has train and dev, which is no split"),
        ("twice", "val, valid, expected one of each split"),
        ("damaged", r"x\.png: no picture can be read .*Mend it"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(fault, message, tmp_path):
    broken(tmp_path, fault)
    with pytest.raises(data.DataFormatError, match=message):
        data.from_folder(tmp_path)


def test_one_class_is_none(tmp_path):
    fill(tmp_path, {"pets/cat": (2, 1), "pets/dog": (2, 1)})
    with pytest.raises(data.DataFormatError, match=r"it has 1 classes \(pets\)"):
        data.from_folder(tmp_path)


def test_new_pictures_are_read_alike(tmp_path):
    fill(tmp_path / "set", {"cat": (5, 10), "dog": (5, 20)}, size=(6, 6))
    dataset = data.from_folder(tmp_path / "set", size=(4, 2), mode="RGB")
    reading = json.loads(json.dumps(dataset.reading))
    assert reading == dataset.reading
    fill(tmp_path / "new", {"deep": (2, 20)}, size=(90, 50))
    names, images = data.read_inputs(reading, tmp_path / "new")
    assert names == [str(tmp_path / "new" / "deep" / f"{i}.png") for i in range(2)]
    np.testing.assert_array_equal(images, np.full((2, 4, 2, 3), 20))
    assert images.dtype == np.uint8
    one = tmp_path / "set" / "cat" / "0.png"
    names, images = data.read_inputs(reading, [str(one), tmp_path / "new"])
    assert names[0] == str(one)
    assert images[:, 0, 0, 0].tolist() == [10, 20, 20]
    (tmp_path / "none").mkdir()
    with pytest.raises(data.DataFormatError, match="no picture"):
        data.read_inputs(reading, tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        data.read_inputs(reading, tmp_path / "none.png")
