"""Where data sets are looked for, their checksums, and how they are downloaded."""

import gzip
import hashlib
import http.client
import io
import os
import urllib.error
import urllib.request

import numpy as np
import pytest

from funcnet import data
from funcnet.data import _formats
from tests.support import data_sets
from tests.support.data_files import PY, idx_bytes
from tests.support.data_sets import CIFAR_FORMS, DIGIT_LABELS, IDX, load, made_cifar10, made_idx

_no_network = data_sets.no_network


def test_find_says_what_is_where(tmp_path, monkeypatch):
    nowhere = data.find("mnist", tmp_path)
    assert not nowhere.found
    assert nowhere.paths == ()
    folders = ("mnist", "MNIST/raw", "MNIST", "raw", "")
    assert nowhere.looked == tuple(tmp_path / f for f in folders)
    assert "https://ossci-datasets" in nowhere.needs
    made_idx(tmp_path / "MNIST/raw")
    found = data.find("mnist", str(tmp_path))
    assert found.found
    assert found.paths == tuple(tmp_path / "MNIST/raw" / f"{name}.gz" for name in IDX)
    monkeypatch.setenv("FUNCNET_DATA_DIR", str(tmp_path))
    assert data.find("mnist") == found
    monkeypatch.delenv("FUNCNET_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data.find("mnist").looked[0] == tmp_path / ".cache/funcnet/mnist"
    assert data.find("digits").found
    assert {data.find(name, tmp_path).name for name in data.NAMES} == set(data.NAMES)


def test_an_incomplete_copy_is_not_found(tmp_path):
    made_cifar10("py", tmp_path)
    (tmp_path / PY / "test_batch").unlink()
    (tmp_path / PY / "test_batch").mkdir()  # a folder is no file
    assert not data.find("cifar10", tmp_path).found
    made_cifar10("bin.tar", tmp_path)
    assert [p.name for p in data.find("cifar10", tmp_path).paths] == ["cifar-10-binary.tar"]


@pytest.mark.parametrize("name", ["cifar10", "svhn", "mnist", "fashion_mnist"])
@pytest.mark.parametrize("switch", ["argument", "environment"])
def test_a_missing_set_is_named_with_its_folders_and_source(name, switch, tmp_path, monkeypatch):
    if switch == "environment":
        monkeypatch.setenv("FUNCNET_DOWNLOAD", "0")
    with pytest.raises(data.DataNotFoundError) as caught:
        data.load(name, tmp_path, download=False if switch == "argument" else None)
    message = str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)
    for folder in data.find(name, tmp_path).looked:
        assert str(folder) in message
    assert "http" in message
    assert "FUNCNET_DATA_DIR" in message
    assert list(tmp_path.iterdir()) == []


# --- Checksums


@pytest.mark.parametrize("form", CIFAR_FORMS)
def test_made_files_with_official_names_are_refused(form, tmp_path, monkeypatch):
    """By name, and before anything parses them."""
    made_cifar10(form, tmp_path)
    for reader in ("read_cifar_pickle", "read_cifar_binary"):
        monkeypatch.setattr(_formats, reader, lambda *_: pytest.fail("it was parsed"))
    if form.endswith("gz"):
        monkeypatch.setattr(_formats, "read_members", lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(
        data.DataFormatError, match=r"(batch_1|python|binary).*sha256.*verify=False"
    ):
        load("cifar10", tmp_path, verify=True)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_made_idx_files_are_refused(name, zipped, tmp_path, monkeypatch):
    made_idx(tmp_path, lambda _: zipped)
    monkeypatch.setattr(_formats, "read_idx", lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(data.DataFormatError, match=r"train-images.* (sha256|md5) is"):
        load(name, tmp_path, verify=True)


def test_a_made_mat_file_is_refused(tmp_path, monkeypatch):
    for name in ("train_32x32.mat", "test_32x32.mat"):
        (tmp_path / name).write_bytes(b"MATLAB 5.0")
    monkeypatch.setattr(_formats, "read_svhn", lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(data.DataFormatError, match=r"train_32x32\.mat: its sha256 is"):
        load("svhn", tmp_path, verify=True)


def test_every_file_that_can_be_loaded_has_a_checksum():
    for source in data.SETS.values():
        sums = source.checksums
        files = {f for form in source.forms for names in form for f in names} | set(source.files)
        # A plain tar is nobody's official file: its members are verified one by one. Kaggle's names
        # are verified as the official ones.
        files = {os.path.basename(f).replace(".idx", "-idx") for f in files if f[-4:] != ".tar"}
        assert files == set(sums)
        assert all(len(checksum) in (32, 64) for checksum in sums.values())
        assert len(set(sums.values())) == len(sums)


# --- Downloading, from a network that the tests play


@pytest.fixture
def network(monkeypatch):
    """Serves the made MNIST as if it were the official one; returns {file: content} to change."""
    files = {f"{n}.gz": gzip.compress(idx_bytes(a), mtime=0) for n, a in IDX.items()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setitem(data.SETS, "mnist", data.SETS["mnist"]._replace(checksums=sums))
    asked = []

    def urlopen(url, timeout):
        assert timeout == 5
        asked.append(url)
        served = files[url.removeprefix("https://ossci-datasets.s3.amazonaws.com/mnist/")]
        if isinstance(served, BaseException):
            raise served
        return served if isinstance(served, io.IOBase) else io.BytesIO(served)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    files["asked"] = asked
    return files


def test_a_missing_set_is_downloaded_once(network, tmp_path):
    folder = tmp_path / "new" / "folder"
    first = data.load("mnist", folder, val_size=2)
    assert len(network["asked"]) == 4
    assert sorted(p.name for p in (folder / "mnist").iterdir()) == sorted(f"{n}.gz" for n in IDX)
    np.testing.assert_array_equal(first.test.labels, DIGIT_LABELS[8:])
    data.load("mnist", folder, val_size=2)
    (folder / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    data.load("mnist", folder, val_size=2)
    assert len(network["asked"]) == 5


class Broken(io.BytesIO):
    """A connection that breaks after its first bytes."""

    def read(self, size=-1):
        content = super().read(8)
        if not content:
            raise http.client.IncompleteRead(b"")
        return content


class Endless(io.BufferedIOBase):
    """A server that never stops sending."""

    def read(self, size=-1):
        return bytes(size)


@pytest.mark.parametrize(
    ("served", "error", "message"),
    [
        (urllib.error.URLError("no route"), data.DataNotFoundError, "failed: .*no route"),
        (TimeoutError("timed out"), data.DataNotFoundError, "failed: timed out"),
        (ConnectionResetError("reset"), data.DataNotFoundError, "failed: reset"),
        (urllib.error.HTTPError("u", 404, "Not Found", {}, None), data.DataNotFoundError, "404"),
        (Broken(b"12345678"), data.DataNotFoundError, "IncompleteRead"),
        (b"", data.DataFormatError, "sha256"),
        (b"<html>Please log in</html>", data.DataFormatError, "sha256"),
        (Endless(), data.DataFormatError, "more than"),
        (KeyboardInterrupt("by hand"), KeyboardInterrupt, "by hand"),
    ],
)
def test_a_failed_download_leaves_nothing_behind(
    served, error, message, network, tmp_path, monkeypatch
):
    monkeypatch.setattr(_formats, "FILE_LIMIT_BYTES", 1 << 20)
    network["train-labels-idx1-ubyte.gz"] = served
    with pytest.raises(error, match=message):
        data.load("mnist", tmp_path, val_size=2)
    assert [p.name for p in (tmp_path / "mnist").iterdir()] == ["train-images-idx3-ubyte.gz"]


def test_a_folder_that_cannot_be_made(network, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(data.DataNotFoundError, match="Downloading failed"):
        data.load("mnist", tmp_path / "file", val_size=2)


def test_no_download_where_it_is_off(network, tmp_path, monkeypatch):
    with pytest.raises(data.DataNotFoundError, match="off"):
        data.load("mnist", tmp_path, download=False)
    for word in ("0", "false", "False", "NO", "off", " 0 "):
        monkeypatch.setenv("FUNCNET_DOWNLOAD", word)
        with pytest.raises(data.DataNotFoundError, match="off"):
            data.load("mnist", tmp_path)
    monkeypatch.setenv("FUNCNET_DOWNLOAD", "maybe")
    with pytest.raises(ValueError, match=r"FUNCNET_DOWNLOAD is 'maybe', expected .*false, no, off"):
        data.load("mnist", tmp_path)
    assert network["asked"] == []
    data.load("mnist", tmp_path, val_size=2, download=True)
    assert len(network["asked"]) == 4


@pytest.mark.parametrize("word", ["", "1", "true", "Yes", "ON"])
def test_download_where_it_is_on(word, network, tmp_path, monkeypatch):
    monkeypatch.setenv("FUNCNET_DOWNLOAD", word)
    data.load("mnist", tmp_path, val_size=2)
    assert len(network["asked"]) == 4
