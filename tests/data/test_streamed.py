"""Sources of rows: what they may be, what is read of them, and how they fail."""

import jax
import numpy as np
import pytest

from funcnet import data
from funcnet.data import SourceError, Streamed, fit_preprocessing

ROWS = np.arange(7 * 6, dtype=np.int16).reshape(7, 2, 3)
ASKED = np.array([5, 0, 5, 3])


def mapped(folder):
    np.save(folder / "rows.npy", ROWS)
    return np.load(folder / "rows.npy", mmap_mode="r")


def hdf5(folder):
    h5py = pytest.importorskip("h5py")
    return h5py.File(folder / "rows.h5", "w").create_dataset("x", data=ROWS)


def zarray(folder):
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(folder / "rows.zarr", shape=ROWS.shape, dtype=ROWS.dtype)
    array[:] = ROWS
    return array


class Records:
    """Random access, one by one: a KeyError is what a frame would raise for a slice."""

    def __init__(self, rows=ROWS):
        self.rows = list(rows)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return {int: lambda: self.rows[i]}[type(i)]()


def records(folder):
    return Records()


def grains(folder):
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(list(ROWS))


SOURCES = [mapped, hdf5, zarray, records, grains]


@pytest.mark.parametrize("make", SOURCES)
def test_rows_are_those_of_the_source(make, tmp_path):
    streamed = Streamed(make(tmp_path))
    assert (streamed.shape, streamed.dtype, len(streamed)) == (ROWS.shape, ROWS.dtype, 7)
    for rows in (ASKED, slice(2, 5), slice(None), slice(6, 0, -2), 3, np.array([], int)):
        np.testing.assert_array_equal(streamed[rows], ROWS[rows])
    np.testing.assert_array_equal(np.asarray(streamed), ROWS)
    np.testing.assert_array_equal(streamed.astype(np.int64)[ASKED], ROWS.astype(np.int64)[ASKED])
    assert (streamed.min(), streamed.max()) == (0, 41)


@pytest.mark.parametrize("make", SOURCES)
def test_a_small_source_is_read_and_a_large_one_stays(make, tmp_path, monkeypatch):
    source = make(tmp_path)
    small = data.opened(source)
    assert type(small) is not Streamed
    np.testing.assert_array_equal(np.asarray(small), ROWS)
    monkeypatch.setattr("funcnet.data._streamed.RESIDENT_BYTES", ROWS.nbytes - 1)
    assert isinstance(data.opened(source), Streamed)
    for other in (ROWS, ROWS.tolist(), "text", None):
        assert data.opened(other) is other


def test_records_of_bytes(tmp_path):
    module = pytest.importorskip("array_record.python.array_record_module")
    sources = pytest.importorskip("array_record.python.array_record_data_source")
    path = str(tmp_path / "rows.array_record")
    writer = module.ArrayRecordWriter(path, "group_size:1")
    for row in ROWS:
        writer.write(row.tobytes())
    writer.close()
    source = sources.ArrayRecordDataSource(path)
    np.testing.assert_array_equal(Streamed(source, shape=(2, 3), dtype="i2")[ASKED], ROWS[ASKED])
    decoded = Streamed(source, decode=lambda record: np.frombuffer(record, "i2")[:3])
    np.testing.assert_array_equal(decoded[ASKED], ROWS[ASKED][:, 0])
    with pytest.raises(TypeError, match=r"become \|S12, expected arrays of numbers; say how"):
        Streamed(source)
    with pytest.raises(SourceError, match="reading row 0: ValueError"):
        Streamed(source, shape=(5,), dtype="i2")


@pytest.mark.parametrize("kind", ["none", "mean_image", "scaled", "standardised"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "i8", "u8", "f4", "f8"])
def test_statistics_are_those_of_the_array(kind, dtype, rng):
    images = (rng.normal(size=(2100, 2, 3)) * 40 + 100).clip(0, 255).astype(dtype)
    for statistic, expected in zip(
        fit_preprocessing(Streamed(images), kind), fit_preprocessing(images, kind), strict=True
    ):
        np.testing.assert_array_equal(statistic, expected)


@pytest.mark.parametrize(
    "images",
    [
        np.array([[2**40], [2**40 + 1], [2**40 + 2]]),
        np.array([[1], [5], [2**33]]),
        np.array([[1], [5], [7]], np.uint64),
        np.array([[1e8], [1e8 + 1], [1e8 + 2]]),
    ],
)
def test_rows_for_the_device_are_those_of_the_array(images):
    prepared = fit_preprocessing(images)
    streamed, left = data.for_device(prepared, Streamed(images))
    expected, expected_left = data.for_device(prepared, images)
    assert streamed.dtype == expected.dtype
    np.testing.assert_array_equal(streamed[np.array([2, 0])], expected[[2, 0]])
    assert [a.tolist() for a in left] == [a.tolist() for a in expected_left]


def test_what_float32_does_not_hold_is_seen_before_training():
    images = np.zeros((1500, 1))
    images[1200] = 1e39
    preprocessing = data.Preprocessing(np.full(1, 1e6), np.full(1, 1.0))
    said = r"images\[1200, 0\] is 1e\+39"
    with jax.enable_x64(False), pytest.raises(ValueError, match=said):
        data.for_device(preprocessing, Streamed(images))


def test_labels_are_checked_block_by_block():
    labels = np.arange(3000).reshape(1500, 2) % 3
    checked = data.check_labels(Streamed(labels), 3)
    assert isinstance(checked, Streamed)
    assert checked.dtype == np.int32
    np.testing.assert_array_equal(checked[ASKED], labels[ASKED])
    labels[1200, 1] = 3
    with pytest.raises(data.LabelError, match=r"labels\[1200, 1\] is 3, expected a class"):
        data.check_labels(Streamed(labels), 3)


def test_a_source_that_changes_or_fails_is_an_error(tmp_path):
    source = Records()
    streamed = Streamed(source)
    source.rows[3] = ROWS[3].astype(np.int32)
    with pytest.raises(SourceError, match=r"Records gave .*int32 for 2 rows \(3 to 4\), expected"):
        streamed[3:5]
    source.rows[3] = ROWS[3, :1]
    with pytest.raises(SourceError, match=r"reading 2 rows \(3 to 4\): ValueError"):
        streamed[3:5]
    source.rows[3] = None
    with pytest.raises(SourceError, match=r"reading row 3: |Records gave \(1,\) object"):
        streamed[3]
    source.rows.pop()
    with pytest.raises(SourceError, match="Records has 6 rows by now, expected 7"):
        streamed[0]

    rows = Streamed(mapped(tmp_path))
    with open(tmp_path / "rows.npy", "r+b") as file:
        file.truncate(150)
    with pytest.raises(SourceError, match=r"rows\.npy has 150 bytes by now, expected .*was cut"):
        rows[ASKED]


@pytest.mark.parametrize(
    ("source", "options", "kind", "said"),
    [
        (5, {}, TypeError, "source is a int, expected one with a length"),
        ([], {}, ValueError, "list is empty"),
        (["a", "b"], {}, TypeError, "records of list become <U1, expected arrays of numbers"),
        ([b"ab"], {"shape": (2,)}, ValueError, "of shape and dtype one is given"),
    ],
)
def test_what_is_no_source_is_refused(source, options, kind, said):
    with pytest.raises(kind, match=said):
        Streamed(source, **options)
