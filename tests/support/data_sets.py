"""Whole data sets, made small, in every form that is read."""

import gzip
import urllib.request

import numpy as np
import pytest

from funcnet import data
from tests.support.data_files import (
    BATCHES,
    BIN,
    PY,
    binary_batch,
    idx_bytes,
    python2_pickle,
    rows_of,
    tar_bytes,
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
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
