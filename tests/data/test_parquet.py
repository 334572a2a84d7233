"""Pictures in Parquet, as Hugging Face hands them out."""

import io
import json

import numpy as np
import pytest

from funcnet import data

pl = pytest.importorskip("polars", reason="Polars is not installed: the extra data has it")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: the extra data has it")

CLASSES = ["zebra", "ant"]


def png(value, size=(4, 3)):
    stream = io.BytesIO()
    Image.new("L", size, value).save(stream, "PNG")
    return stream.getvalue()


def write(path, values, labels, image="image", label="label", names=CLASSES):
    """A shard: pictures of a grey each, and their labels, described as `datasets` does."""
    pictures = [{"bytes": png(value), "path": f"{value}.png"} for value in map(int, values)]
    features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    frame = pl.DataFrame({image: pictures, label: pl.Series(labels, dtype=pl.Int64)})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
    frame.write_parquet(path, metadata=metadata)


def test_pictures_and_the_names_of_their_classes_are_read(tmp_path):
    values = np.arange(20)
    write(tmp_path / "mine.parquet", values, values % 2)
    dataset = data.read(tmp_path / "mine.parquet")
    assert (dataset.classes, dataset.name) == (("zebra", "ant"), "mine")
    assert dataset.train.images.shape == (16, 3, 4, 1)
    for split in dataset[:3]:
        np.testing.assert_array_equal(split.images[:, 0, 0, 0] % 2, split.labels)


@pytest.mark.parametrize("below", ["", "data"])
def test_shards_are_joined_and_splits_taken(below, tmp_path):
    folder = tmp_path / below
    folder.mkdir(exist_ok=True)
    for i in range(2):
        write(folder / f"train-0000{i}-of-00002.parquet", range(10 * i, 10 * i + 10), [0, 1] * 5)
    write(folder / "test-00000-of-00001.parquet", [100, 101, 103], [0, 1, 1])
    dataset = data.read(tmp_path, val=4)
    assert [len(split.labels) for split in dataset[:3]] == [16, 4, 3]
    assert dataset.test.images[:, 0, 0, 0].tolist() == [100, 101, 103]
    seen = [*dataset.train.images[:, 0, 0, 0], *dataset.val.images[:, 0, 0, 0]]
    assert sorted(seen) == list(range(20))
    write(folder / "more.parquet", [1], [1])
    with pytest.raises(data.DataFormatError, match=r"more\.parquet: other files .* split's name"):
        data.read(tmp_path)


def test_files_without_a_splits_name_are_all_for_training(tmp_path):
    write(tmp_path / "testimony.parquet", range(10), [0, 1] * 5)
    write(tmp_path / "0000.parquet", range(10, 20), [0, 1] * 5)
    assert len(data.read(tmp_path, val=0, test=0).train.labels) == 20


def test_other_columns_and_files_without_metadata_are_read(tmp_path):
    path = tmp_path / "mine.parquet"
    write(path, range(20), [0, 1] * 10, image="img", label="fine_label")
    assert data.from_parquet(path).classes == ("zebra", "ant")
    write(path, range(20), [3, 1] * 10, names=None)
    assert data.from_parquet(path, mode="RGB", size=2).input_shape == (2, 2, 3)
    assert data.from_parquet(path).classes == ("1", "3")
    write(path, range(20), [3, 1] * 10, label="kind", names=None)
    with pytest.raises(data.DataFormatError, match=r"no column label.*Pass target, one of 'image'"):
        data.from_parquet(path)
    assert data.from_parquet(path, target="kind").classes == ("1", "3")


def test_names_that_are_numbers_are_names(tmp_path):
    write(tmp_path / "mine.parquet", range(20), [0, 1] * 10, names=["1", "0"])
    dataset = data.read(tmp_path / "mine.parquet")
    assert dataset.classes == ("1", "0")
    np.testing.assert_array_equal(dataset.train.images[:, 0, 0, 0] % 2, dataset.train.labels)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, None] * 10, data.DataFormatError, "'label' has no label in row 2"),
        ([0, 1, -1, 1] * 5, data.DataFormatError, "'label' has no label in row 3"),
        (
            [0, 1, 2, 1] * 5,
            data.LabelError,
            r"mine\.parquet: label\[2\] is 2, expected a class, 0 to 1",
        ),
    ],
)
def test_missing_and_unknown_labels_are_named(labels, error, message, tmp_path):
    write(tmp_path / "mine.parquet", range(20), labels)
    with pytest.raises(error, match=message):
        data.read(tmp_path / "mine.parquet")


def test_damaged_and_missing_pictures_are_named(tmp_path):
    path = tmp_path / "mine.parquet"
    for content, message in (
        (b"\x89PNG", "row 2: no picture can be read"),
        (None, "no bytes in row 2: the file holds paths .* from_folder"),
    ):
        pictures = [{"bytes": png(1), "path": "a"}, {"bytes": content, "path": "b"}]
        pl.DataFrame({"image": pictures, "label": [0, 1]}).write_parquet(path)
        with pytest.raises(data.DataFormatError, match=message):
            data.read(path)


def test_new_pictures_may_come_in_parquet(tmp_path):
    write(tmp_path / "mine.parquet", range(20), [0, 1] * 10)
    reading = json.loads(json.dumps(data.read(tmp_path / "mine.parquet", size=(2, 3)).reading))
    write(tmp_path / "new.parquet", [7, 9], [-1, -1])
    names, images = data.read_inputs(reading, tmp_path / "new.parquet")
    assert names == ["1", "2"]
    assert images.shape == (2, 2, 3, 1)
    assert images[:, 0, 0, 0].tolist() == [7, 9]
    Image.new("L", (8, 8), 11).save(tmp_path / "new.png")
    names, images = data.read_inputs(reading, [tmp_path / "new.parquet", tmp_path / "new.png"])
    assert names == [
        f"{tmp_path}/new.parquet:1",
        f"{tmp_path}/new.parquet:2",
        f"{tmp_path}/new.png",
    ]
    assert images[:, 0, 0, 0].tolist() == [7, 9, 11]


def test_shards_of_tables_are_tables(tmp_path):
    frame = pl.DataFrame({"a": [1, 2, 3, 4] * 5, "b": ["u", "v"] * 10, "y": ["p", "q"] * 10})
    frame.write_parquet(tmp_path / "train-0.parquet")
    frame.with_columns(a=None).write_parquet(tmp_path / "test-0.parquet")
    dataset = data.read(tmp_path, val=0, missing="mean")
    assert dataset.train.images.shape == (20, 3)
    np.testing.assert_array_equal(dataset.test.images[:, 0], 2.5)
    assert dataset.classes == ("p", "q")
