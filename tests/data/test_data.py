"""The data sets, where they are looked for, and what is done to them before a net sees them."""

import fractions
import functools
import gzip
import hashlib
import http.client
import io
import os
import sys
import urllib.error
import urllib.request
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import data
from funcnet.data import _formats
from tests.support.data_files import (
    BATCHES,
    BIN,
    PY,
    binary_batch,
    idx_bytes,
    mat_bytes,
    python2_pickle,
    rows_of,
    tar_bytes,
)

KINDS = ["none", "mean_image", "scaled", "scaled_mean_image", "standardised"]
EPS32 = np.finfo(np.float32).eps


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """No test ever reaches a network, and no default folder is looked in."""

    def refuse(url, **_):
        raise AssertionError(f"a test asked the network for {url}")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.delenv("FUNCNET_DOWNLOAD", raising=False)


def load(name, folder, **options):
    """Loads files that the tests made."""
    options = {"val_size": 2, "download": False, "verify": False} | options
    return data.load(name, folder, **options)


# --- One made CIFAR-10 in every form

TRAIN = [rows_of(4, seed=i) for i in range(5)]
TEST = rows_of(6, seed=5)
TRAIN_ROWS = np.concatenate([rows for rows, _ in TRAIN])
TRAIN_LABELS = np.concatenate([labels for _, labels in TRAIN])


def nhwc(rows):
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def made_cifar10(form, folder):
    batches = dict(zip(BATCHES, [*TRAIN, TEST], strict=True))
    binary = "bin" in form
    inner = BIN if binary else PY
    files = [
        (f"{inner}/{name}.bin", binary_batch(*batch))
        if binary
        else (f"{inner}/{name}", python2_pickle(*batch))
        for name, batch in batches.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    if form in ("py", "bin"):
        (folder / inner).mkdir()
        for name, content in files:
            (folder / name).write_bytes(content)
    else:
        name = f"cifar-10-{'binary' if binary else 'python'}.{form.split('.', 1)[1]}"
        (folder / name).write_bytes(tar_bytes(files, compressed=name.endswith(".gz")))


CIFAR_FORMS = ["py", "bin", "py.tar", "py.tar.gz", "bin.tar", "bin.tar.gz"]


@pytest.mark.parametrize("below", ["", "cifar10", "cifar-10-python", "batches"])
@pytest.mark.parametrize("form", CIFAR_FORMS)
def test_cifar10_is_the_same_from_every_form(form, below, tmp_path):
    if below == "batches":  # data_dir is the batches' own folder
        made_cifar10(form, tmp_path)
        dataset = load("cifar10", tmp_path / {"py": PY, "bin": BIN}.get(form, ""))
    else:
        made_cifar10(form, tmp_path / below)
        dataset = load("cifar10", tmp_path)
    np.testing.assert_array_equal(dataset.train.images, nhwc(TRAIN_ROWS)[:-2])
    np.testing.assert_array_equal(dataset.train.labels, TRAIN_LABELS[:-2])
    np.testing.assert_array_equal(dataset.val.images, nhwc(TRAIN_ROWS)[-2:])
    np.testing.assert_array_equal(dataset.val.labels, TRAIN_LABELS[-2:])
    np.testing.assert_array_equal(dataset.test.images, nhwc(TEST[0]))
    np.testing.assert_array_equal(dataset.test.labels, TEST[1])
    for split in (dataset.train, dataset.val, dataset.test):
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert split.images.flags.c_contiguous
    assert dataset.input_shape == (32, 32, 3)
    assert dataset.num_classes == 10
    assert dataset.classes[3] == "cat"
    assert dataset.name == "cifar10"
    assert dataset.full_scale == 255


@pytest.mark.parametrize("form", ["py", "bin"])
def test_training_batches_of_unequal_sizes_are_refused(form, tmp_path):
    """So that a binary batch cut between two rows, which looks whole, is noticed."""
    made_cifar10(form, tmp_path)
    rows, labels = TRAIN[4]
    short = rows[:-1], labels[:-1]
    path = tmp_path / (f"{BIN}/data_batch_5.bin" if form == "bin" else f"{PY}/data_batch_5")
    path.write_bytes(binary_batch(*short) if form == "bin" else python2_pickle(*short))
    with pytest.raises(data.DataFormatError, match="unequal"):
        load("cifar10", tmp_path)


# --- MNIST, Fashion-MNIST, SVHN

DIGITS = np.random.default_rng(7).integers(0, 256, (12, 28, 28), dtype=np.uint8)
DIGIT_LABELS = np.arange(12) % 10
IDX = {
    "train-images-idx3-ubyte": DIGITS[:8],
    "train-labels-idx1-ubyte": DIGIT_LABELS[:8],
    "t10k-images-idx3-ubyte": DIGITS[8:],
    "t10k-labels-idx1-ubyte": DIGIT_LABELS[8:],
}


def made_idx(folder, zipped=lambda name: True, place=lambda name: name):
    for name, array in IDX.items():
        content, path = idx_bytes(array), folder / place(name)
        if zipped(name):
            path, content = path.with_name(f"{path.name}.gz"), gzip.compress(content, mtime=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("mnist", ""),
        ("mnist", "mnist"),
        ("mnist", "MNIST"),
        ("mnist", "MNIST/raw"),
        ("mnist", "raw"),
        ("fashion_mnist", ""),
        ("fashion_mnist", "fashion_mnist"),
        ("fashion_mnist", "FashionMNIST"),
        ("fashion_mnist", "FashionMNIST/raw"),
    ],
)
@pytest.mark.parametrize("zipped", ["all", "none", "images"])
def test_idx_sets_from_every_folder(name, below, zipped, tmp_path):
    made_idx(tmp_path / below, lambda n: zipped == "all" or (zipped == "images" and "images" in n))
    check_idx(name, tmp_path)


KAGGLE = {
    "dotted": lambda name: name.replace("-idx", ".idx"),
    "nested": lambda name: f"{name}/{name}",
    "nested and dotted": lambda name: f"{name}/{name.replace('-idx', '.idx')}",
    "dotted folders": lambda name: "/".join(2 * [name.replace("-idx", ".idx")]),
    # As some have it: the archives' own folders for two, dots for the others.
    "mixed": lambda name: f"{name}/{name}" if "labels" in name else name.replace("-idx", ".idx"),
}


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("names", KAGGLE)
def test_idx_sets_under_kaggles_names(names, zipped, name, tmp_path, monkeypatch):
    made_idx(tmp_path, lambda _: zipped, KAGGLE[names])
    check_idx(name, tmp_path)
    # Their checksums are the official files', whatever the name.
    monkeypatch.setattr(_formats, "read_idx", lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(data.DataFormatError, match=r"train-images.* (sha256|md5) is"):
        load(name, tmp_path, verify=True)


def check_idx(name, folder):
    dataset = load(name, folder, val_size=3)
    np.testing.assert_array_equal(dataset.train.images, DIGITS[:5, ..., None])
    np.testing.assert_array_equal(dataset.val.images, DIGITS[5:8, ..., None])
    np.testing.assert_array_equal(dataset.test.images, DIGITS[8:, ..., None])
    np.testing.assert_array_equal(dataset.test.labels, DIGIT_LABELS[8:])
    assert dataset.train.labels.dtype == np.int32
    assert dataset.input_shape == (28, 28, 1)
    assert dataset.classes[9] == ("9" if name == "mnist" else "Ankle boot")


@pytest.mark.parametrize("file", ["train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_counts_of_images_and_labels_must_agree(file, tmp_path):
    made_idx(tmp_path)
    (tmp_path / file).write_bytes(gzip.compress(idx_bytes(np.arange(7))))
    with pytest.raises(data.DataFormatError, match=f"{file}: it has 7 labels for"):
        load("mnist", tmp_path)


@pytest.mark.courses("3-1")
@pytest.mark.parametrize("below", ["", "svhn"])
def test_svhn(below, tmp_path):
    """Label 10 is the digit 0, images are NHWC, and /255 less the mean image as in the course."""
    (tmp_path / below).mkdir(exist_ok=True)
    images, labels = nhwc(TRAIN_ROWS), np.arange(20) % 10
    for name, part in (("train", slice(0, 14)), ("test", slice(14, 20))):
        content = mat_bytes(images[part], labels[part])
        (tmp_path / below / f"{name}_32x32.mat").write_bytes(content)
    dataset = load("svhn", tmp_path, val_size=4)
    np.testing.assert_array_equal(dataset.train.images, images[:10])
    np.testing.assert_array_equal(dataset.val.labels, labels[10:14])
    np.testing.assert_array_equal(dataset.test.images, images[14:])
    np.testing.assert_array_equal(dataset.test.labels, labels[14:])
    assert dataset.num_classes == 10
    assert np.prod(dataset.input_shape) == 3072
    prepared = data.fit_preprocessing(dataset.train.images, "scaled_mean_image")
    scaled = [split.images.astype(np.float64) / 255 for split in dataset[:3]]
    for split, course in zip(dataset[:3], scaled, strict=True):
        course = course - scaled[0].mean(0)
        ours = data.preprocess(prepared, split.images, jnp.float64)
        # Dividing after the subtraction instead of before: two roundings of numbers up to 1.
        np.testing.assert_allclose(ours, course, rtol=0, atol=4 * np.finfo(np.float64).eps)


def test_digits():
    dataset = data.load("digits")
    assert [len(split.labels) for split in dataset[:3]] == [1297, 200, 300]
    assert dataset.train.images.shape == (1297, 8, 8, 1)
    assert dataset.full_scale == 16
    whole = np.concatenate([split.images for split in dataset[:3]])
    assert whole.dtype == np.uint8
    assert whole.min() == 0
    assert whole.max() == 16
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    everyone = np.concatenate([split.labels for split in dataset[:3]])
    ours = sorted(zip(whole.reshape(-1, 64).tolist(), everyone.tolist(), strict=True))
    assert ours == sorted(zip(images.astype(int).tolist(), labels.tolist(), strict=True))
    for split in dataset[:3]:
        assert np.bincount(split.labels, minlength=10).min() >= 12


def test_the_split_of_the_digits_is_constant():
    dataset = data.load("digits")
    digest = hashlib.sha256(b"".join(split.labels.tobytes() for split in dataset[:3])).hexdigest()
    assert digest[:16] == "145cd6a20c97931d"


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install funcnet\[run\]"):
        data.load("digits")


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (5,)])
def test_synthetic_is_seeded_and_learnable(shape):
    options = {"shape": shape, "classes": 4, "sizes": (300, 50, 100), "noise": 0.2}
    dataset = data.load("synthetic", **options, seed=3)
    assert dataset.input_shape == shape
    assert [len(split.labels) for split in dataset[:3]] == [300, 50, 100]
    same, other = (data.load("synthetic", **options, seed=seed) for seed in (3, 4))
    np.testing.assert_array_equal(dataset.train.images, same.train.images)
    assert (dataset.train.images != other.train.images).any()
    train = dataset.train.images.reshape(300, -1).astype(float)
    means = np.stack([train[dataset.train.labels == k].mean(0) for k in range(4)])
    test = dataset.test.images.reshape(100, 1, -1)
    nearest = np.square(test - means).sum(-1).argmin(-1)
    assert (nearest == dataset.test.labels).mean() > (0.5 if shape == (5,) else 0.95)


# --- The real files, where they are at hand


@functools.cache
def real(name, folder, **options):
    return data.load(name, folder, download=False, **options)


@pytest.mark.courses("0-2", "1-2", "2-1", "4-11", "4-25", "4-43")
@pytest.mark.parametrize("row", ["0-2", "1-2", "2-1", "4-11", "4-25", "4-43"])
def test_cifar10_as_the_courses_cut_it(row, data_dir):
    """The courses' splits, preprocessing and layouts, from NHWC in one expression each."""
    dataset = real("cifar10", data_dir, test_size=1000)
    train, val, test = dataset[:3]
    assert [len(split.labels) for split in (train, val, test)] == [49000, 1000, 1000]
    if row in ("0-2", "1-2", "2-1"):
        prepared = data.fit_preprocessing(train.images, "mean_image")
        mean = np.mean(train.images, axis=0)
        for split in (val, test):
            x = data.preprocess(prepared, split.images, jnp.float64).transpose(0, 3, 1, 2)
            assert x.shape == (1000, 3, 32, 32)
            course = split.images.transpose(0, 3, 1, 2) - mean.transpose(2, 0, 1)
            # NumPy's own mean rounds 49,000 sums.
            np.testing.assert_allclose(x, course, rtol=0, atol=1e-10)
    elif row == "4-11":
        columns = train.images.transpose(0, 3, 1, 2).reshape(49000, -1).T
        columns = np.concatenate([columns, np.ones((1, 49000), np.uint8)])
        assert columns.shape == (3073, 49000)
    elif row == "4-25":
        rows = train.images.transpose(0, 3, 1, 2).reshape(49000, -1)
        assert rows.shape == (49000, 3072)
        # The first row of data_batch_1: red values of a frog.
        np.testing.assert_array_equal(rows[0, :5], [59, 43, 50, 68, 98])
    else:  # the course prints (1000, 32, 32, 3), a typo: its test images were never transposed
        assert test.images.transpose(0, 3, 1, 2).shape == (1000, 3, 32, 32)


def test_the_real_cifar10(data_dir):
    dataset = real("cifar10", data_dir)
    assert [split.images.shape for split in dataset[:3]] == [
        (49000, 32, 32, 3),
        (1000, 32, 32, 3),
        (10000, 32, 32, 3),
    ]
    np.testing.assert_array_equal(dataset.train.labels[:10], [6, 9, 9, 4, 1, 1, 2, 7, 8, 3])
    np.testing.assert_array_equal(dataset.test.labels[:10], [3, 8, 8, 0, 6, 6, 1, 6, 3, 1])
    np.testing.assert_array_equal(np.bincount(dataset.test.labels), 1000)
    labels = np.concatenate([dataset.train.labels, dataset.val.labels])
    np.testing.assert_array_equal(np.bincount(labels), 5000)
    # The statistics that everyone who trains on CIFAR-10 quotes, of all 50,000 rows.
    everything = real("cifar10", data_dir, val_size=0)
    mean, scale = data.fit_preprocessing(everything.train.images, "standardised")
    np.testing.assert_allclose(mean.ravel() / 255, [0.4914, 0.4822, 0.4465], atol=5e-5)
    np.testing.assert_allclose(1 / scale.ravel() / 255, [0.2470, 0.2435, 0.2616], atol=5e-5)


def test_the_real_mnist(data_dir):
    dataset = real("mnist", data_dir)
    assert [split.images.shape for split in dataset[:3]] == [
        (55000, 28, 28, 1),
        (5000, 28, 28, 1),
        (10000, 28, 28, 1),
    ]
    np.testing.assert_array_equal(dataset.train.labels[:10], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4])
    np.testing.assert_array_equal(dataset.test.labels[:5], [7, 2, 1, 0, 4])
    everything = real("mnist", data_dir, val_size=0)
    mean, scale = data.fit_preprocessing(everything.train.images, "standardised")
    np.testing.assert_allclose(
        [mean.item() / 255, 1 / scale.item() / 255], [0.1307, 0.3081], atol=5e-5
    )


# --- Copies of the official files that lost rows


@pytest.mark.parametrize(("form", "short"), [("py", "data_batch_3"), ("bin", "test_batch")])
def test_a_batch_of_cifar10_that_lost_a_row_is_refused(form, short, tmp_path):
    """Cut between two rows it looks whole, and no checksum is asked for."""
    write = binary_batch if form == "bin" else python2_pickle
    rows, labels = np.zeros((10_000, 3072), np.uint8), np.zeros(10_000, np.uint8)
    whole, folder = tmp_path / "whole", tmp_path / (BIN if form == "bin" else PY)
    whole.write_bytes(write(rows, labels))
    folder.mkdir()
    for name in BATCHES:
        path = folder / (f"{name}.bin" if form == "bin" else name)
        if name == short:
            path.write_bytes(write(rows[1:], labels[1:]))
        else:
            os.link(whole, path)
    with pytest.raises(data.DataFormatError, match=rf"{short}.*: it has 9999 rows, expected 10000"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize(("train", "test"), [(59_999, 10_000), (60_000, 9_999), (59_999, 9_999)])
def test_mnist_that_lost_rows_is_refused(train, test, tmp_path):
    for name in IDX:
        shape = (train if "train" in name else test, *((28, 28) if "images" in name else ()))
        (tmp_path / name).write_bytes(idx_bytes(np.zeros(shape, np.uint8)))
    came = r"train-.* 59999 rows, expected 60000" if train == 59_999 else r"t10k-.* 9999 .* 10000"
    with pytest.raises(data.DataFormatError, match=came):
        load("mnist", tmp_path)


def test_the_rows_of_a_set():
    """Somebody's own set may have any size; one that is nearly the official one is a copy of it."""
    for own in ((4, 6), (240_000, 40_000), (30_000, 9_000), (1, 1)):
        _formats.check_rows(zip("ab", own, (60_000, 10_000), strict=True))
    _formats.check_rows(zip("ab", (73_257, 26_032), (73_257, 26_032), strict=True))
    for came in ((73_256, 26_032), (73_257, 26_031), (73_257, 9), (73_000, 26_032)):
        with pytest.raises(data.DataFormatError, match=r"it has \d+ rows, expected (73257|26032)"):
            _formats.check_rows(zip("ab", came, (73_257, 26_032), strict=True))


# --- Sizes and options


def test_val_and_test_sizes(tmp_path):
    made_idx(tmp_path)
    for val_size, test_size in ((0, 1), (7, 4), (3, 2)):
        dataset = load("mnist", tmp_path, val_size=val_size, test_size=test_size)
        sizes = [len(split.labels) for split in dataset[:3]]
        assert sizes == [8 - val_size, val_size, test_size]
        np.testing.assert_array_equal(dataset.test.images[..., 0], DIGITS[8 : 8 + test_size])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_size": 8}, "val_size is 8, expected a number of rows from 0 to 7"),
        ({"val_size": -1}, "val_size is -1"),
        ({"val_size": None}, "val_size is 5000"),
        ({"val_size": 2.0}, r"val_size is 2\.0"),
        ({"test_size": 5}, "test_size is 5, expected a number of rows from 1 to 4"),
        ({"test_size": 0}, "test_size is 0"),
    ],
)
def test_sizes_that_the_files_do_not_have(options, message, tmp_path):
    made_idx(tmp_path)
    with pytest.raises(ValueError, match=message):
        load("mnist", tmp_path, **options)


def test_names_and_options_that_are_unknown(tmp_path):
    with pytest.raises(ValueError, match="no data set 'cifar', expected one of digits, cifar10"):
        data.load("cifar")
    with pytest.raises(TypeError, match="mnist has no option seed"):
        load("mnist", tmp_path, seed=1)
    with pytest.raises(TypeError, match="colour"):
        data.load("synthetic", colour=1)
    with pytest.raises(ValueError, match="sizes="):
        data.load("synthetic", val_size=3)
    for options in ({"classes": 0}, {"sizes": (1, 2)}, {"sizes": (1, -1, 2)}):
        with pytest.raises(ValueError, match="at least one class"):
            data.synthetic(**options)


# --- Where data sets are looked for


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


# --- Labels


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_good_labels_of_every_integer_dtype(dtype):
    checked = data.check_labels(np.array([0, 9, 3], dtype), 10)
    assert checked.dtype == np.int32
    np.testing.assert_array_equal(checked, [0, 9, 3])
    np.testing.assert_array_equal(data.check_labels(jnp.array([0, 9]), 10), [0, 9])
    assert data.check_labels([], 10).shape == (0,)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 10], r"train\[2\] is 10, expected a class, 0 to 9"),
        ([0, -1, 10], r"train\[1\] is -1"),
        (np.array([0, 255], np.uint8), r"train\[1\] is 255"),
        (np.array([0, 2**63], np.uint64), r"train\[1\] is 9223372036854775808"),
        ([0.0, 1.0], r"train\[0\] is 0.0 of dtype float64"),
        ([0.0, 1.5], r"train\[1\] is 1.5 of dtype float64"),
        ([0.0, 1.0, np.nan], r"train\[2\] is nan"),
        ([0.0, np.inf], r"train\[1\] is inf"),
        (np.float32([1, 2]), r"train\[0\] is 1.0 of dtype float32"),
        (jnp.bfloat16([1, 2]), r"train\[0\] is 1 of dtype bfloat16"),
        ([True, False], r"train\[0\] is True of dtype bool"),
        (["a", "b"], r"train\[0\] is a of dtype <U1"),
        ([None, 1], r"train\[0\] is None of dtype object"),
        (np.eye(3, dtype=int), r"train has shape \(3, 3\), .*argmax"),
        (3, r"train has shape \(\)"),
        ([[1], [2, 3]], "train: .*one integer for each row"),
    ],
)
def test_bad_labels_are_named(labels, message):
    with pytest.raises(data.LabelError, match=message):
        data.check_labels(labels, 10, "train")
    assert issubclass(data.LabelError, ValueError)


# --- Preprocessing


def exact(images, kind, full_scale):
    """(mean, scale) in rational arithmetic, the standard deviation's square instead of it."""
    flat = [[fractions.Fraction(int(v)) for v in row] for row in images.reshape(len(images), -1)]
    channels = images.shape[-1]
    if kind == "standardised":
        values = [[v for row in flat for v in row[c::channels]] for c in range(channels)]
        mean = [sum(v) / len(v) for v in values]
        return mean, [
            sum((x - m) ** 2 for x in v) / len(v) for v, m in zip(values, mean, strict=True)
        ]
    return [sum(column) / len(flat) for column in zip(*flat, strict=True)], 1 / full_scale


INTEGERS = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_statistics_are_the_exact_ones_rounded(dtype, rng):
    """Of all integers there are: those of 32 and 64 bits have squares and sums past int64."""
    limits = np.iinfo(dtype)
    images = rng.integers(limits.min, limits.max, (7, 3, 2, 3), dtype, endpoint=True)
    mean, variance = exact(images, "standardised", 255.0)
    prepared = data.fit_preprocessing(images, "standardised")
    np.testing.assert_array_equal(prepared.mean, np.array(mean, float).reshape(1, 1, 3))
    expected = 1 / np.sqrt(np.array(variance, float)).reshape(1, 1, 3)
    np.testing.assert_array_equal(prepared.scale, expected)
    mean, _ = exact(images, "mean_image", 255.0)
    for kind, scale in (("mean_image", 1.0), ("scaled_mean_image", 1 / 255)):
        prepared = data.fit_preprocessing(images, kind)
        np.testing.assert_array_equal(prepared.mean, np.array(mean, float).reshape(3, 2, 3))
        np.testing.assert_array_equal(prepared.scale, np.full((1, 1, 1), scale))


def test_statistics_do_not_drift_with_the_number_of_images():
    """70,000 images of one value, by stride and not in memory: sums past float32 and int32."""
    images = np.broadcast_to(np.array([[[255, 1]]], np.uint8), (70_000, 8, 8, 2))
    prepared = data.fit_preprocessing(images, "standardised")
    np.testing.assert_array_equal(prepared.mean, [[[255, 1]]])
    np.testing.assert_array_equal(prepared.scale, [[[1, 1]]])  # a constant channel is safe


def test_float_images_are_standardised_without_cancellation():
    images = 1e6 + np.arange(3.0).repeat(2000)[:, None].repeat(2, 1)
    mean, scale = data.fit_preprocessing(images.astype(np.float32), "standardised")
    np.testing.assert_allclose(mean, [1e6 + 1] * 2, rtol=4 * np.finfo(float).eps)
    # The rounding of the mean, eps * 1e6, moves deviations of about 1.
    np.testing.assert_allclose(scale, [1 / np.sqrt(2 / 3)] * 2, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("full_scale", [255.0, 16.0])
def test_preprocess_does_what_the_table_says(kind, full_scale, rng):
    train, other = rng.integers(0, 17, (2, 20, 4, 4, 3), dtype=np.uint8)
    prepared = data.fit_preprocessing(train, kind, full_scale)
    t, x = train.astype(float), other.astype(float)
    expected = {
        "none": x,
        "mean_image": x - t.mean(0),
        "scaled": x / full_scale,
        "scaled_mean_image": (x - t.mean(0)) / full_scale,
        "standardised": (x - t.mean((0, 1, 2))) / t.std((0, 1, 2)),
    }[kind]
    # Subtraction of numbers up to 17 and one product.
    bound = {
        jnp.float64: 2.0**-52,
        jnp.float32: EPS32,
        jnp.bfloat16: 2.0**-8,
        jnp.float16: 2.0**-11,
    }
    for dtype, eps in bound.items():
        ours = data.preprocess(prepared, other, dtype)
        assert ours.dtype == dtype
        error = np.abs(np.asarray(ours, float) - expected)
        assert (error <= eps * np.abs(expected) + 40 * max(2.0**-52, min(eps, EPS32))).all()
    eager = data.preprocess(prepared, other)
    assert eager.dtype == jnp.float32
    jitted = jax.jit(data.preprocess)(prepared, jnp.asarray(other))
    np.testing.assert_allclose(jitted, eager, rtol=2 * EPS32, atol=40 * EPS32)


def test_only_what_was_given_is_measured(rng):
    """A validation or test row that leaks would move the statistics: they are not even passed."""
    dataset = data.synthetic(sizes=(50, 50, 50))
    before = data.fit_preprocessing(dataset.train.images, "standardised")
    dataset.val.images[:] = 255
    dataset.test.images[:] = 0
    after = data.fit_preprocessing(dataset.train.images, "standardised")
    np.testing.assert_array_equal(before.mean, after.mean)
    np.testing.assert_array_equal(before.scale, after.scale)
    standardised = np.asarray(data.preprocess(before, dataset.train.images, jnp.float64))
    np.testing.assert_allclose(standardised.mean(), 0, atol=1e-12)
    np.testing.assert_allclose(standardised.std(), 1, rtol=1e-12)
    assert abs(np.asarray(data.preprocess(before, dataset.val.images)).mean()) > 1


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((0, 4, 4, 3), np.uint8), {}, "at least one image"),
        (np.zeros(3, np.uint8), {}, r"shape \(3,\)"),
        (np.array([[1.0], [np.nan], [2.0]]), {"kind": "mean_image"}, r"images\[1\] .*not finite"),
        (np.array([[1.0], [2.0], [np.inf]]), {"kind": "standardised"}, r"images\[2\]"),
        (np.float16([[1, 2], [-np.inf, 0]]), {}, r"images\[1\] has -inf at \[0\], which is not"),
        (np.ones((2, 3), complex), {}, "dtype complex128, expected real numbers"),
        (np.array([["a"], ["b"]]), {}, "dtype <U1, expected real numbers"),
        (np.array([[2], [None]]), {"kind": "none"}, "dtype object, expected real numbers"),
        (np.ones((2, 3)), {"full_scale": float("inf")}, "full_scale is inf"),
        (np.ones((2, 3)), {"kind": "whitened"}, "kind is 'whitened', expected none, mean_image"),
        (np.ones((2, 3)), {"full_scale": 0}, "full_scale is 0"),
        (np.ones((2, 3)), {"full_scale": float("nan")}, "full_scale is nan"),
    ],
)
def test_what_cannot_be_fitted(images, options, message):
    with pytest.raises(ValueError, match=message):
        data.fit_preprocessing(images, **options)


def test_images_of_another_shape_are_refused(rng):
    prepared = data.fit_preprocessing(
        rng.integers(0, 9, (3, 4, 4, 3), dtype=np.uint8), "mean_image"
    )
    with pytest.raises(ValueError, match=r"shape \(2, 5, 5, 3\)"):
        data.preprocess(prepared, jnp.zeros((2, 5, 5, 3)))


# --- Augmentation

AUGMENTATIONS = {
    "crop": data.random_crop,
    "reflect": functools.partial(data.random_crop, padding=3, mode="reflect"),
    "flip": data.random_flip,
    "cutout": data.cutout,
    "all": data.compose(data.random_crop, data.random_flip, data.cutout),
}
KEY = jax.random.key(17)


def distinct_images(n=16, shape=(12, 10, 3), dtype=np.float32):
    """No two pixels alike, none of them 0; of uint8 nearly so."""
    values = 1 + np.arange(n * np.prod(shape))
    return jnp.asarray(values.reshape(n, *shape).astype(dtype))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, jnp.bfloat16])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_keep_shape_and_dtype_under_jit_and_by_key(name, dtype):
    augment, images = AUGMENTATIONS[name], distinct_images(dtype=dtype)
    result = augment(KEY, images)
    assert (result.shape, result.dtype) == (images.shape, images.dtype)
    np.testing.assert_array_equal(result, augment(KEY, images))
    np.testing.assert_array_equal(result, jax.jit(augment)(KEY, images))
    np.testing.assert_array_equal(result, augment(KEY, np.asarray(images)))
    assert (result != augment(jax.random.key(18), images)).any()
    assert (result != images).any()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_image_draws_its_own(name):
    one = distinct_images(n=1)
    results = np.asarray(AUGMENTATIONS[name](KEY, jnp.tile(one, (64, 1, 1, 1))))
    assert len(np.unique(results.reshape(64, -1), axis=0)) >= 2
    for before, after in zip(
        distinct_images(), AUGMENTATIONS[name](KEY, distinct_images()), strict=True
    ):
        assert set(np.unique(after)) <= {0.0, *np.unique(before)}  # no pixel of a neighbour


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crops_are_windows_of_the_padded_image_and_all_offsets_occur(mode):
    images = distinct_images(n=400, shape=(4, 5, 1))
    crops = np.asarray(data.random_crop(KEY, images, padding=2, mode=mode))
    offsets = set()
    for image, crop in zip(np.asarray(images), crops, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode=mode)
        matches = [
            (u, v)
            for u in range(5)
            for v in range(5)
            if np.array_equal(padded[u : u + 4, v : v + 5], crop)
        ]
        assert matches
        if len(matches) == 1:
            offsets.add(matches[0])
    assert len(offsets) == 25


def test_crop_fills_and_padding_0_is_the_identity():
    images = distinct_images()
    np.testing.assert_array_equal(data.random_crop(KEY, images, padding=0), images)
    np.testing.assert_array_equal(data.random_crop(KEY, images, 0, "reflect"), images)
    filled = np.asarray(data.random_crop(KEY, images, padding=6, fill=-7.5))
    assert (filled == -7.5).any()
    assert (filled != 0).all()


def test_flipping_twice_is_the_identity_and_half_are_flipped():
    images = distinct_images(n=1000, shape=(3, 4, 1))
    once = data.random_flip(KEY, images)
    np.testing.assert_array_equal(data.random_flip(KEY, once), images)
    flipped = np.asarray((once == images[:, :, ::-1]).all((1, 2, 3)))
    kept = np.asarray((once == images).all((1, 2, 3)))
    assert (flipped ^ kept).all()
    assert abs(flipped.sum() - 500) < 5 * np.sqrt(250)  # five standard deviations


@pytest.mark.parametrize("size", [0, 1, 3, 4, 30])
def test_cutout_covers_one_square_cut_at_the_border(size):
    images = distinct_images(n=500)
    covered = np.asarray(data.cutout(KEY, images, size=size)) == 0
    assert (covered.all(-1) == covered.any(-1)).all()
    rows, columns = covered[..., 0].any(2), covered[..., 0].any(1)
    np.testing.assert_array_equal(covered[..., 0], rows[:, :, None] & columns[:, None, :])
    for mask, length in ((rows, 12), (columns, 10)):
        assert (np.abs(np.diff(mask.astype(int), axis=1)).sum(1) <= 2).all()  # one stretch
        counts = mask.sum(1)
        assert counts.max(initial=0) == min(size, length)
        assert counts.min() >= min(size // 2, length)
    inside = (rows[:, :1] | rows[:, -1:] | columns[:, :1] | columns[:, -1:]).ravel() == 0
    if 0 < size < 10:
        assert inside.any()
    assert (covered[inside].sum((1, 2, 3)) == 3 * size**2).all()
    uncovered = np.where(covered, images, data.cutout(KEY, images, size=size))
    np.testing.assert_array_equal(uncovered, images)


def test_compose_gives_each_function_its_own_key():
    keys = []

    def spy(key, images):
        keys.append(jax.random.key_data(key).tolist())
        return images + 1

    result = data.compose(spy, spy, spy)(KEY, jnp.zeros((2, 3, 3, 1)))
    assert float(result.max()) == 3
    assert len({str(key) for key in [*keys, jax.random.key_data(KEY).tolist()]}) == 4
    images = distinct_images()
    np.testing.assert_array_equal(data.compose()(KEY, images), images)


def test_raw_keys_and_empty_batches():
    images = distinct_images()
    for augment in AUGMENTATIONS.values():
        assert augment(jax.random.PRNGKey(1), images).shape == images.shape
        assert augment(KEY, images[:0]).shape == (0, 12, 10, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: data.random_crop(KEY, x[0]), r"random_crop: images has shape \(12, 10, 3\)"),
        (lambda x: data.random_flip(KEY, x[..., 0]), "random_flip: images has shape"),
        (lambda x: data.cutout(KEY, x.ravel()), "cutout: images has shape"),
        (lambda x: data.random_crop(KEY, x, padding=-1), "padding is -1, expected a number of"),
        (lambda x: data.random_crop(KEY, x, padding=1.5), r"padding is 1\.5"),
        (lambda x: data.random_crop(KEY, x, padding=(1, 2)), r"padding is \(1, 2\)"),
        (lambda x: data.random_crop(KEY, x, 10, "reflect"), "expected less than 10 to reflect"),
        (lambda x: data.random_crop(KEY, x, mode="wrap"), "mode is 'wrap'"),
        (lambda x: data.random_crop(KEY, x.astype(jnp.uint8), fill=-1), "fill is -1"),
        (lambda x: data.random_crop(KEY, x.astype(jnp.uint8), fill=256), "fill is 256"),
        (lambda x: data.cutout(KEY, x.astype(jnp.uint8), fill=0.5), r"fill is 0\.5"),
        (lambda x: data.cutout(KEY, x, size=-1), "size is -1"),
        (lambda x: data.cutout(KEY, x, size=True), "size is True"),
    ],
)
def test_wrong_calls_of_augmentations(call, message):
    with pytest.raises(ValueError, match=message):
        call(distinct_images())


def test_the_deprecated_room_warns_once_and_is_data(monkeypatch):
    monkeypatch.delitem(sys.modules, "funcnet.augment", raising=False)
    with pytest.warns(DeprecationWarning, match=r"from funcnet\.data") as caught:
        from funcnet.augment import compose
    assert compose is data.compose
    assert len(caught) == 1
    with warnings.catch_warnings(action="error"):
        import funcnet.augment as augment
    for name in augment.__all__:
        assert getattr(augment, name) is getattr(data, name)
