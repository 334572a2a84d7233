"""The readers of file formats: what they read, and everything that they must refuse."""

import ast
import gzip
import inspect
import io
import pathlib
import pickle
import struct
import sys
import tarfile
import time

import numpy as np
import pytest
import scipy.io

from funcnet.data import _formats
from funcnet.data._formats import DataFormatError
from tests.support.data_files import (
    ARCHIVE,
    DIGITS,
    FORMATS,
    IMAGES,
    LABELS,
    PY,
    ROWS,
    binary_batch,
    idx_bytes,
    mat_bytes,
    python2_pickle,
    read_binary,
    read_images,
    read_labels,
    read_mat,
    read_members,
    read_pickle,
    read_tar,
    refused,
    tar_bytes,
)
from tests.support.hostile_data import (
    HOSTILE_MATS,
    HOSTILE_PICKLES,
    HOSTILE_TARS,
    Reduce,
    gzip_bomb,
    lying_idx,
    mutated,
    sized_header,
)
from tests.support.lanes import by_default

# --- What is read


@pytest.mark.parametrize("protocol", ["python2", 2, 3, 4])
@pytest.mark.parametrize("key_type", [str, bytes])
def test_pickles_of_every_admitted_protocol(protocol, key_type):
    if protocol == "python2":
        data = python2_pickle(ROWS, LABELS)
    else:
        keys = ["data", "labels", "filenames"]
        keys = [k.encode() for k in keys] if key_type is bytes else keys
        values = [ROWS, LABELS.tolist(), ["a.png"] * 3]
        data = pickle.dumps(dict(zip(keys, values, strict=True)), protocol=protocol)
    images, labels = _formats.read_cifar_pickle("batch", data)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32


def test_older_numpy_names_are_read():
    data = pickle.dumps({"data": ROWS, "labels": LABELS.tolist()}, protocol=2)
    assert b"numpy._core.multiarray" in data
    older = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(_formats.read_cifar_pickle("batch", older)[0], IMAGES)


def test_binary_and_idx():
    images, labels = _formats.read_cifar_binary("batch", binary_batch(ROWS, LABELS))
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    assert labels.dtype == np.int32


@pytest.mark.parametrize("name", ["idx", "idx_gz"])
def test_idx_plain_and_gz(name, tmp_path):
    file, content, _, reader = FORMATS[name]
    (tmp_path / file).write_bytes(content)
    np.testing.assert_array_equal(reader(tmp_path / file), DIGITS)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dots", ["", "./"])
@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_tar_of_every_dialect(compressed, dots, tar_format, tmp_path):
    folder = tarfile.TarInfo(f"{dots}{PY}")
    folder.type = tarfile.DIRTYPE
    members = [(folder, b""), (f"{dots}{PY}/readme.html", b"<meta>")]
    for name, content in ARCHIVE:
        info = tarfile.TarInfo(dots + name)
        info.mtime = 1.5  # which PAX writes into a header of its own
        members.append((info, content))
    path = tmp_path / ("a.tar.gz" if compressed else "a.tar")
    path.write_bytes(tar_bytes(members, compressed, format=tar_format))
    assert read_members(path) == {name.split("/")[1]: content for name, content in ARCHIVE}


@pytest.mark.courses("3-1")
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("label_type", [np.uint8, np.float64, np.int32])
def test_svhn_mat(compressed, label_type, tmp_path):
    path = tmp_path / "train_32x32.mat"
    x = IMAGES.transpose(1, 2, 3, 0)
    y = np.array([[10], [1], [9]], label_type)
    scipy.io.savemat(path, {"X": x, "y": y}, do_compression=compressed)
    images, labels = read_mat(path)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, [0, 1, 9])
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32


# --- Truncation and trailing bytes


def cuts(content, header):
    n = len(content)
    return {
        "0": 0,
        "1": 1,
        "header-1": header - 1,
        "header": header,
        "half": n // 2,
        "end-1": n - 1,
    }


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        (name, cut)
        for name, (_, content, header, _) in FORMATS.items()
        for cut in cuts(content, header)
        # Rows of 3073 bytes without a header: one row is a file, see test_data's unequal batches.
        if (name, cut) != ("binary", "header")
    ],
)
def test_truncated_files_are_refused(name, cut, tmp_path):
    file, content, header, reader = FORMATS[name]
    path = tmp_path / file
    path.write_bytes(content[: cuts(content, header)[cut]])
    refused(path, reader)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("extra", [b"\x01", b".", b"a" * 512])
def test_trailing_bytes_are_refused(name, extra, tmp_path):
    file, content, _, reader = FORMATS[name]
    path = tmp_path / file
    path.write_bytes(content + extra)
    refused(path, reader)


def test_the_readers_do_not_rely_on_assert():
    """`python -O` removes assert statements: what guards must be an if."""
    tree = ast.parse(inspect.getsource(_formats))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]


# --- Hostile pickles


FLOODS = {"deep_tuples", "deep_key", "deep_lists", "opcode_flood", "memo_flood"}  # seconds each


@pytest.mark.parametrize(
    "name",
    by_default(HOSTILE_PICKLES, {*HOSTILE_PICKLES} - FLOODS, lane=pytest.mark.integration),
)
def test_hostile_pickles_are_refused_and_run_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data_batch_1"
    path.write_bytes(HOSTILE_PICKLES[name])
    modules = set(sys.modules)
    refused(path, read_pickle)
    assert [p.name for p in tmp_path.iterdir()] == ["data_batch_1"]
    assert set(sys.modules) == modules


def test_what_a_pickle_names_is_in_the_message():
    with pytest.raises(DataFormatError, match=r"names 'posix.system', which it may not"):
        _formats.read_cifar_pickle("batch", HOSTILE_PICKLES["os_system_protocol_2"])


def test_there_are_hostile_pickles_of_every_kind():
    assert len(HOSTILE_PICKLES) >= 25


def test_the_canaries_would_sing(tmp_path, monkeypatch):
    """The payloads are live: the call that one of them spells out does leave its mark."""
    monkeypatch.chdir(tmp_path)
    function, arguments = Reduce(__import__("os").mkdir, "canary").__reduce__()
    assert b"canary" in HOSTILE_PICKLES["mkdir"]
    function(*arguments)
    assert (tmp_path / "canary").is_dir()


# --- Hostile archives


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", HOSTILE_TARS)
def test_hostile_archives_are_refused_and_write_nothing(name, compressed, tmp_path):
    path = tmp_path / ("a.tar.gz" if compressed else "a.tar")
    content = HOSTILE_TARS[name]
    path.write_bytes(gzip.compress(content, 1) if compressed else content)
    refused(path, read_tar)
    assert list(tmp_path.iterdir()) == [path]


def test_there_are_hostile_archives_of_every_kind():
    assert len(HOSTILE_TARS) >= 15


# --- Bombs


@pytest.fixture(scope="module")
def gibibyte():
    """1 GiB of zeros as a gzip stream of 4 MiB, with room for a head."""
    whole = gzip_bomb(b"", 64 << 20)
    return whole * 16  # gzip streams may be joined


@pytest.mark.parametrize(
    ("head", "file", "reader"),
    [
        (b"", "train-images-idx3-ubyte.gz", read_images),
        (idx_bytes(DIGITS), "train-images-idx3-ubyte.gz", read_images),
        (bytes((0, 0, 8, 3)) + struct.pack(">3I", 60000, 28, 28), "t10k.gz", read_images),
        (bytes((0, 0, 8, 1)) + struct.pack(">I", 60000), "train-labels.gz", read_labels),
        (b"", "a.tar.gz", read_tar),
        (sized_header(f"{PY}/data_batch_1", 30 << 20), "a.tar.gz", read_tar),
        (tar_bytes(ARCHIVE), "a.tar.gz", read_tar),
    ],
)
def test_gzip_bombs_are_refused_quickly(head, file, reader, gibibyte, tmp_path):
    path = tmp_path / file
    path.write_bytes(gzip.compress(head) + gibibyte)
    start = time.perf_counter()
    with pytest.raises(DataFormatError):
        reader(path)
    assert time.perf_counter() - start < 1.0
    refused(path, reader)


@pytest.mark.parametrize(
    ("name", "limit", "size_bytes"),
    [
        ("pickle", "MEMBER_LIMIT_BYTES", len(FORMATS["pickle"][1])),
        ("binary", "MEMBER_LIMIT_BYTES", len(FORMATS["binary"][1])),
        ("tar", "MEMBER_LIMIT_BYTES", len(ARCHIVE[0][1])),
        ("tar", "FILE_LIMIT_BYTES", len(FORMATS["tar"][1])),
        ("idx", "MEMBER_LIMIT_BYTES", DIGITS.size),
        ("idx", "FILE_LIMIT_BYTES", len(FORMATS["idx"][1])),
    ],
)
def test_limits_hold_to_the_byte(name, limit, size_bytes, tmp_path, monkeypatch):
    file, content, _, reader = FORMATS[name]
    path = tmp_path / file
    path.write_bytes(content)
    monkeypatch.setattr(_formats, limit, size_bytes)
    reader(path)
    monkeypatch.setattr(_formats, limit, size_bytes - 1)
    refused(path, reader)


def test_a_stream_beyond_the_limit_is_not_copied(monkeypatch):
    monkeypatch.setattr(_formats, "FILE_LIMIT_BYTES", 10)
    target = io.BytesIO()
    _formats.copy("url", io.BytesIO(b"0123456789"), target)
    assert target.getvalue() == b"0123456789"
    with pytest.raises(DataFormatError, match="url: it has more than 10 bytes"):
        _formats.copy("url", io.BytesIO(b"01234567890"), io.BytesIO())


def test_a_file_beyond_the_limit_is_not_read(tmp_path):
    path = tmp_path / "train_32x32.mat"
    with open(path, "wb") as stream:
        stream.truncate(_formats.FILE_LIMIT_BYTES + 1)  # a hole: it takes no room on the disk
    assert "at most" in refused(path, read_images)


# --- IDX


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", dict(lying_idx()))
def test_lying_idx_headers_are_refused(name, compressed, tmp_path):
    content = dict(lying_idx())[name]
    path = tmp_path / ("images.gz" if compressed else "images")
    path.write_bytes(gzip.compress(content) if compressed else content)
    refused(path, read_images)


@pytest.mark.parametrize("label", [10, 255])
def test_idx_labels_out_of_range_are_named(label, tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(np.array([1, 2, label])))
    assert f"label 2 is {label}" in refused(path, read_labels)


@pytest.mark.parametrize("label", [10, 255])
def test_binary_labels_out_of_range_are_named(label, tmp_path):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(binary_batch(ROWS, np.array([1, label, 2])))
    assert f"label 1 is {label}" in refused(path, read_binary)


# --- MATLAB files


def test_a_variable_larger_than_the_limit_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(mat_bytes(IMAGES, LABELS))
    monkeypatch.setattr(_formats, "_SVHN_ROWS", 3)
    assert len(read_mat(path)[1]) == 3
    monkeypatch.setattr(_formats, "_SVHN_ROWS", 2)
    refused(path, read_mat)


@pytest.mark.parametrize("name", HOSTILE_MATS)
def test_hostile_mat_files_are_refused(name, tmp_path):
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(HOSTILE_MATS[name])
    refused(path, read_mat)


# --- Fuzz


def fuzz(name, count, folder):
    file, content, _, reader = FORMATS[name]
    path = folder / file
    refusals = 0
    for copy in mutated(content, count, seed=count):
        path.write_bytes(copy)
        try:
            result = reader(path)
        except (DataFormatError, OSError):
            refusals += 1
        else:
            for arrays in result if name.startswith("tar") else [result]:
                for array in arrays if isinstance(arrays, tuple) else [arrays]:
                    assert array.dtype in (np.uint8, np.int32)
                    assert array.dtype == np.uint8 or array.max() <= 9
    assert refusals > 0


@pytest.mark.parametrize("name", FORMATS)
def test_200_mutations_are_read_or_refused(name, tmp_path):
    fuzz(name, 200, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_2000_mutations_are_read_or_refused(name, tmp_path):
    fuzz(name, 2000, tmp_path)


# --- Checksums


def test_a_checksum_is_verified_before_the_stream_is_handed_over(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    sha256 = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    md5 = "9a0364b9e99bb480dd25e1f0284c8555"
    for checksum in (None, sha256, md5):
        with _formats.open_verified(path, checksum) as stream:
            assert stream.read() == b"content"
    for checksum in ("0" * 64, "0" * 32):
        with (
            pytest.raises(DataFormatError, match=r"file: its .*verify=False"),
            _formats.open_verified(path, checksum),
        ):
            pytest.fail("the stream was handed over")


def test_the_error_is_a_value_error():
    assert issubclass(DataFormatError, ValueError)
    assert isinstance(_formats.bad(pathlib.Path("x"), "fault"), DataFormatError)
