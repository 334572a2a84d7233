"""Small files of data sets in every format, and what their readers are called with."""

import gzip
import io
import pickle
import struct
import tarfile
import tracemalloc

import numpy as np
import pytest
import scipy.io

from funcnet.data import _formats
from funcnet.data._formats import DataFormatError

PY, BIN = "cifar-10-batches-py", "cifar-10-batches-bin"
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
MEMORY_BYTES = 64 << 20


# --- Writers


def rows_of(n, seed=0):
    """n rows as the CIFAR files have them: (n, 3072) bytes in the order c, h, w, and labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3072), dtype=np.uint8), rng.integers(0, 10, n)


def short_string(text):
    return b"U" + bytes([len(text)]) + text.encode()


def python2_pickle(rows, labels, shape=None, content=None):
    """A batch opcode for opcode as the official files have it (Python 2's cPickle, protocol 2)."""
    content = rows.tobytes() if content is None else content
    shape = rows.shape if shape is None else shape
    numbers = b"".join(b"K" + bytes([int(k)]) for k in labels)
    return (
        b"\x80\x02}q\x01(" + short_string("batch_label") + b"q\x02" + short_string("made")
        + b"q\x03" + short_string("labels") + b"q\x04]q\x05(" + numbers + b"e"
        + short_string("data") + b"q\x06"
        + b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85"
        + short_string("b") + b"\x87Rq\x09(K\x01"
        + b"".join(b"J" + struct.pack("<i", n) for n in shape) + b"\x86"
        + b"cnumpy\ndtype\nq\x0a" + short_string("u1") + b"K\x00K\x01\x87Rq\x0b(K\x03"
        + short_string("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T" + struct.pack("<i", len(content)) + content + b"tb"
        + short_string("filenames") + b"]q\x0c(" + short_string("a.png") + b"eu."
    )  # fmt: skip


def binary_batch(rows, labels):
    return np.concatenate([labels.astype(np.uint8)[:, None], rows], 1).tobytes()


def tar_bytes(members, compressed=False, **options):
    """An archive of (name, content) pairs or ready TarInfos with their content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            if info.isreg():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), 1) if compressed else buffer.getvalue()


def idx_bytes(array):
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def mat_bytes(images, labels, compressed=True):
    """SVHN's layout: X (32, 32, 3, n) uint8 and y (n, 1), the digit 0 as label 10."""
    buffer = io.BytesIO()
    y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    x = images.transpose(1, 2, 3, 0)
    scipy.io.savemat(buffer, {"X": x, "y": y}, do_compression=compressed)
    return buffer.getvalue()


# --- What the readers are called with


def read_members(path, names=BATCHES, folder=PY):
    with _formats.open_verified(path, None) as stream:
        return dict(_formats.read_members(path, stream, folder, tuple(names)))


def read_tar(path):
    return [_formats.read_cifar_pickle(path, data) for data in read_members(path).values()]


def read_pickle(path):
    return _formats.read_cifar_pickle(path, path.read_bytes())


def read_binary(path):
    return _formats.read_cifar_binary(path, path.read_bytes())


def read_images(path):
    with _formats.open_verified(path, None) as stream:
        return _formats.read_idx(path, stream, (28, 28))


def read_labels(path):
    with _formats.open_verified(path, None) as stream:
        return _formats.read_idx_labels(path, stream)


def read_mat(path):
    with _formats.open_verified(path, None) as stream:
        return _formats.read_svhn(path, stream)


ROWS, LABELS = rows_of(3)[0], np.array([0, 9, 5])
IMAGES = ROWS.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
DIGITS = np.random.default_rng(1).integers(0, 256, (3, 28, 28), dtype=np.uint8)
ARCHIVE = [(f"{PY}/{name}", python2_pickle(ROWS, LABELS)) for name in BATCHES]

# name: (file name, good content, bytes of the header, reader)
FORMATS = {
    "pickle": ("data_batch_1", python2_pickle(ROWS, LABELS), 2, read_pickle),
    "pickle_4": (
        "data_batch_1",
        pickle.dumps({"data": ROWS, "labels": LABELS.tolist()}, protocol=4),
        2,
        read_pickle,
    ),
    "binary": ("data_batch_1.bin", binary_batch(ROWS, LABELS), 3073, read_binary),
    "tar": ("a.tar", tar_bytes(ARCHIVE), 512, read_tar),
    "tar_gz": ("a.tar.gz", tar_bytes(ARCHIVE, compressed=True), 10, read_tar),
    "idx": ("train-images-idx3-ubyte", idx_bytes(DIGITS), 16, read_images),
    "idx_gz": ("train-images-idx3-ubyte.gz", gzip.compress(idx_bytes(DIGITS)), 10, read_images),
    "mat": ("train_32x32.mat", mat_bytes(IMAGES, LABELS, False), 128, read_mat),
    "mat_zlib": ("train_32x32.mat", mat_bytes(IMAGES, LABELS, True), 128, read_mat),
    "idx_labels": ("train-labels-idx1-ubyte", idx_bytes(LABELS), 8, read_labels),
}


def refused(path, reader):
    """Asserts a DataFormatError that names the file, and no great use of memory."""
    tracemalloc.start()
    try:
        with pytest.raises(DataFormatError) as caught:
            reader(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "fetch the official file again" in str(caught.value)
    assert peak_bytes < MEMORY_BYTES
    return str(caught.value)
