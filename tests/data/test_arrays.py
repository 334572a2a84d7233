"""Data sets of arrays, in memory and in .npz files."""

import json

import numpy as np
import pytest

from funcnet import data

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 5, 4), dtype=np.uint8)
LABELS = np.arange(40) % 4


def test_images_keep_their_labels():
    dataset = data.from_arrays(np.arange(40)[:, None], LABELS, val=8, test=0.2, name="mine")
    for split, rows in zip((dataset.train, dataset.val, dataset.test), (24, 8, 8), strict=True):
        np.testing.assert_array_equal(split.images[:, 0] % 4, split.labels)
        assert len(split.labels) == rows
    assert (dataset.name, dataset.task, dataset.reading) == ("mine", "classification", None)
    assert dataset.num_classes == 4


def test_splits_that_there_are_stay_as_they_are():
    names = np.array(["ant", "bee", "cow", "doe"])
    dataset = data.from_arrays(GREY, names[LABELS], val=(GREY[:3], names[[3, 2, 1]]), test=8)
    assert [len(split.labels) for split in (dataset.train, dataset.val, dataset.test)] == [32, 3, 8]
    np.testing.assert_array_equal(dataset.val.labels, [3, 2, 1])
    np.testing.assert_array_equal(dataset.val.images[..., 0], GREY[:3])
    with pytest.raises(data.LabelError, match=r"val labels\[0\] is 'elk', expected one of the 4"):
        data.from_arrays(GREY, names[LABELS], val=(GREY[:1], ["elk"]))


@pytest.mark.parametrize(
    ("images", "full_scale", "shape"),
    [
        (GREY, 255, (5, 4, 1)),
        (GREY.astype(np.uint16), 65535, (5, 4, 1)),
        (GREY.astype(np.float32)[..., None] / 200, float(GREY.max() / np.float32(200)), (5, 4, 1)),
        (np.zeros((40, 3, 2)), 1, (3, 2)),
        (-np.ones((40, 3)), 1, (3,)),
        (np.ones((40, 3), bool), 1, (3,)),
    ],
    ids=["uint8", "uint16", "float32", "zeros", "negative", "bool"],
)
def test_the_full_scale_is_that_of_the_images(images, full_scale, shape):
    dataset = data.from_arrays(images, LABELS)
    assert dataset.full_scale == pytest.approx(full_scale)
    assert dataset.input_shape == shape
    assert dataset.train.images.dtype == images.dtype
    assert data.from_arrays(images, LABELS, full_scale=7).full_scale == 7


def test_other_tasks_are_cut_too():
    x = np.arange(40.0)[:, None]
    regression = data.from_arrays(x, x[:, 0] / 3)
    np.testing.assert_allclose(regression.val.images[:, 0] / 3, regression.val.labels)
    assert (regression.task, regression.classes) == ("regression", ("target",))
    several = data.from_arrays(x, np.stack([LABELS > 1, LABELS > 2], 1), classes=["a", "b"])
    assert (several.task, several.classes) == ("multilabel", ("a", "b"))
    places = data.from_arrays(GREY, GREY % 3, val=4)
    assert places.val.labels.shape == (4, 5, 4)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (GREY, LABELS[1:], "labels: 39 for 40 images"),
        ([np.zeros((2, 2)), np.zeros((3, 2))], [0, 1], "images of equal shapes"),
        (np.zeros(40), LABELS, r"images has shape \(40,\)"),
        (np.array([["a"]] * 40), LABELS, "of numbers"),
    ],
)
def test_images_that_are_none_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        data.from_arrays(images, labels)


def keras(images, labels):
    return {
        "x_train": images[:30],
        "y_train": labels[:30],
        "x_test": images[30:],
        "y_test": labels[30:],
    }


def medmnist(images, labels):
    parts = {"train": slice(0, 20), "val": slice(20, 30), "test": slice(30, 40)}
    arrays = {f"{split}_images": images[rows] for split, rows in parts.items()}
    return arrays | {f"{split}_labels": labels[rows, None] for split, rows in parts.items()}


@pytest.mark.parametrize(
    ("arrays", "sizes"),
    [
        (keras(GREY, LABELS), (27, 3, 10)),
        (medmnist(GREY, LABELS), (20, 10, 10)),
        ({"images": GREY, "labels": LABELS}, (32, 4, 4)),
        ({"X": GREY, "y": LABELS.astype(str)}, (32, 4, 4)),
    ],
    ids=["keras", "medmnist", "images", "xy"],
)
def test_npz_files_of_every_layout_are_read(arrays, sizes, tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays)
    dataset = data.read(tmp_path / "mine.npz")
    assert tuple(len(split.labels) for split in dataset[:3]) == sizes
    assert dataset.input_shape == (5, 4, 1)
    assert (dataset.name, dataset.classes) == ("mine", ("0", "1", "2", "3"))
    label_of = {image.tobytes(): label for image, label in zip(GREY, LABELS, strict=True)}
    for split in dataset[:3]:
        assert split.labels.tolist() == [label_of[image.tobytes()] for image in split.images]


def test_a_label_that_training_has_not_is_named(tmp_path):
    arrays = keras(GREY, LABELS)
    arrays["y_test"] = arrays["y_test"] + 1
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(data.LabelError, match=r"test labels\[\d\] is 4, expected one of the 4"):
        data.read(tmp_path / "mine.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": GREY, "labels": LABELS}, "has the arrays pictures, labels, .*x_train"),
        ({"x": GREY, "y": LABELS, "x_dev": GREY}, "has the arrays x, y, x_dev"),
        ({"x_test": GREY, "y_test": LABELS}, "has the arrays x_test, y_test"),
        ({"x": GREY, "y": np.array(["a"] * 40, object)}, "are not unpickled"),
    ],
    ids=["names", "extra", "no train", "objects"],
)
def test_other_npz_files_are_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(data.DataFormatError, match=message):
        data.from_npz(tmp_path / "mine.npz")


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_damaged_npz_is_refused(keep, tmp_path):
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, x=GREY, y=LABELS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(data.DataFormatError, match=r"mine\.npz: no arrays can be read"):
        data.from_npz(path)


def test_new_arrays_are_checked_against_the_data_set(tmp_path):
    np.savez(tmp_path / "mine.npz", **keras(GREY, LABELS))
    reading = json.loads(json.dumps(data.read(tmp_path / "mine.npz").reading))
    np.save(tmp_path / "new.npy", GREY[:3])
    np.savez(tmp_path / "new.npz", x=GREY[3:5], ids=[1, 2])
    np.save(tmp_path / "one.npy", GREY[0, ..., None])
    names, images = data.read_inputs(reading, tmp_path / "new.npy")
    assert names == ["1", "2", "3"]
    np.testing.assert_array_equal(images, GREY[:3, ..., None])
    paths = [tmp_path / "new.npz", tmp_path / "one.npy"]
    names, images = data.read_inputs(reading, paths)
    assert names == [f"{paths[0]}:1", f"{paths[0]}:2", f"{paths[1]}:1"]
    np.testing.assert_array_equal(images[2], GREY[0, ..., None])
    for wrong in (GREY[:, 1:], GREY / 255):  # another shape, and floats for integers
        np.save(tmp_path / "new.npy", wrong)
        with pytest.raises(data.DataFormatError, match=r"expected \('n', 5, 4, 1\) of uint8"):
            data.read_inputs(reading, tmp_path / "new.npy")
    np.savez(tmp_path / "new.npz", a=GREY, b=GREY)
    with pytest.raises(data.DataFormatError, match="has the arrays a, b"):
        data.read_inputs(reading, tmp_path / "new.npz")
