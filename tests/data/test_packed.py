"""Packed data sets: what is written is read again, row by row where it is large."""

import json

import numpy as np
import pytest

from funcnet import data
from funcnet.data import DataFormatError, Streamed, pack
from tests.support.small_runs import DATA

REGRESSION = data.from_arrays(
    np.arange(60.0).reshape(20, 3), np.arange(20) / 7, task="regression", test=0
)


def assert_same(found, expected):
    for split in ("train", "val", "test"):
        for a, b in zip(getattr(found, split), getattr(expected, split), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    for field in ("classes", "name", "full_scale", "task", "reading"):
        assert getattr(found, field) == getattr(expected, field), field


@pytest.mark.parametrize("dataset", [DATA, REGRESSION], ids=["classes", "regression"])
def test_what_is_packed_is_read_again(dataset, tmp_path, monkeypatch):
    pack(dataset, tmp_path / "one")
    assert_same(data.read(tmp_path / "one"), dataset)
    monkeypatch.setattr("funcnet.data._packed.RESIDENT_BYTES", 100)
    large = data.read(tmp_path / "one")
    assert isinstance(large.train.images, Streamed)
    assert_same(large, dataset)
    pack(large, tmp_path / "two")  # block by block
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    plain = np.load(tmp_path / "one" / "train_images.npy")
    np.testing.assert_array_equal(plain, dataset.train.images)


def test_nothing_is_written_over_and_nothing_half(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(FileExistsError, match="is there already"):
        pack(DATA, tmp_path / "there")
    bad = DATA._replace(test=data.Split(DATA.test.images.astype(object), DATA.test.labels))
    with pytest.raises(TypeError, match="test_images has dtype object"):
        pack(bad, tmp_path / "new")
    with pytest.raises(TypeError, match="the classes"):
        pack(DATA._replace(classes=(1j, 2j, 3j)), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def fewer(path):
    np.save(path, np.load(path)[1:])


def other(**facts):
    def change(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | facts))

    return change


DAMAGES = {
    "deleted": (
        "train_images.npy",
        lambda path: path.unlink(),
        r"train_images\.npy: it is missing",
    ),
    "cut": ("val_images.npy", cut, r"val_images\.npy: it cannot be read"),
    "flipped": ("test_labels.npy", flip, r"test_labels\.npy: it is damaged: it has not the SHA"),
    "other rows": ("train_labels.npy", fewer, r"it has \(102,\) int32, expected \(103,\) int32"),
    "no JSON": ("dataset.json", cut, r"dataset\.json: .*is damaged"),
    "a list": ("dataset.json", lambda path: path.write_text("[]"), "holds a list, no object"),
    "format": ("dataset.json", other(format=2), "its format is 2, expected 1"),
    "task": ("dataset.json", other(task="magic"), "its task is 'magic'"),
    "splits": ("dataset.json", other(splits={}), "it has no 'train'"),
    "classes": ("dataset.json", other(classes=None), "not iterable"),
}


@pytest.mark.parametrize(("name", "damage", "said"), DAMAGES.values(), ids=DAMAGES)
def test_damage_is_named(name, damage, said, tmp_path):
    pack(DATA, tmp_path / "packed")
    damage(tmp_path / "packed" / name)
    with pytest.raises(DataFormatError, match=said) as caught:
        data.read(tmp_path / "packed")
    assert "Pack the data set anew." in str(caught.value)


def test_a_large_file_that_is_cut_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("funcnet.data._packed.RESIDENT_BYTES", 100)
    pack(DATA, tmp_path / "packed")
    cut(tmp_path / "packed" / "train_images.npy")
    with pytest.raises(DataFormatError, match=r"train_images\.npy: it cannot be read"):
        data.read(tmp_path / "packed")


def test_no_file_elsewhere_is_read(tmp_path):
    pack(DATA, tmp_path / "packed")
    path = tmp_path / "packed" / "dataset.json"
    path.write_text(path.read_text().replace("train_images.npy", "../train_images.npy"))
    with pytest.raises(DataFormatError, match=r"it names '\.\./train_images\.npy'"):
        data.read(tmp_path / "packed")
