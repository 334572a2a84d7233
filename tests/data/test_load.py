"""The data sets, from every form and folder that they are loaded from."""

import functools
import gzip
import hashlib
import os
import sys
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import data
from funcnet.data import _formats
from tests.support import data_sets
from tests.support.data_files import (
    BATCHES,
    BIN,
    PY,
    binary_batch,
    idx_bytes,
    mat_bytes,
    python2_pickle,
)
from tests.support.data_sets import (
    CIFAR_FORMS,
    DIGIT_LABELS,
    DIGITS,
    IDX,
    TEST,
    TRAIN,
    TRAIN_LABELS,
    TRAIN_ROWS,
    load,
    made_cifar10,
    made_idx,
    nhwc,
)
from tests.support.processes import run_python

_no_network = data_sets.no_network


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
    for split in dataset[:3]:
        assert np.bincount(split.labels, minlength=10).min() >= 12


def test_the_digits_are_constant():
    """To the bit and in their order what scikit-learn's copy was when it was read from there."""
    digest = hashlib.sha256()
    for split in data.load("digits")[:3]:
        for array in split:
            digest.update(f"{array.shape} {array.dtype} ".encode() + array.tobytes())
    assert digest.hexdigest() == (
        "da6d6be2c87d862086e77b3fe06bb8fe971682f842e30c310d455a4809c4f4ab"
    )


def test_the_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    order = np.random.RandomState(0).permutation(1797)
    splits = data.load("digits")[:3]
    np.testing.assert_array_equal(
        np.concatenate([split.images for split in splits]).reshape(-1, 64), images[order]
    )
    np.testing.assert_array_equal(np.concatenate([split.labels for split in splits]), labels[order])


@pytest.mark.integration
def test_the_digits_need_nothing_but_funcnet():
    out = run_python(
        "import sys, funcnet.data as data\n"
        "data.load('digits', '/nowhere', download=False)\n"
        "print(data.find('digits').needs, 'sklearn' in sys.modules, 'scipy' in sys.modules)"
    )
    assert out == "nothing False False\n"


def test_a_set_says_what_must_be_installed_to_have_it(monkeypatch):
    source = data.Source(module="no_such_module", needs="no-such-module: pip install it")
    monkeypatch.setitem(data.SETS, "toy", source)
    assert data.find("toy") == ("toy", False, (), (), source.needs)


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


@pytest.mark.integration
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


@pytest.mark.slow
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
