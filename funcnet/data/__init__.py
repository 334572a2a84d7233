"""Data sets as arrays in memory, and what is done to them before they reach a net.

```python
dataset = data.load("cifar10")                                     # uint8 NHWC, int32 labels
prepared = data.fit_preprocessing(dataset.train.images, "scaled")  # from the training split only
augment = data.compose(data.random_crop, data.random_flip)         # augment(key, images)
x = data.preprocess(prepared, augment(key, images))                # in the step, on the device
```

Where a file is missing it is downloaded, and a file's checksum is verified before anything parses
it. Nothing is unpickled: the readers build plain containers and uint8 arrays, and nothing else.
"""

from __future__ import annotations

import functools
import http.client
import importlib.util
import logging
import os
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from funcnet import _validate
from funcnet._files import replacing
from funcnet._homes import at_home
from funcnet.augment import (
    Preprocessing,
    compose,
    cutout,
    fit_preprocessing,
    for_device,
    preprocess,
    random_crop,
    random_flip,
)
from funcnet.data import _formats
from funcnet.data._formats import DataFormatError

__all__ = [
    "NAMES",
    "DataFormatError",
    "DataNotFoundError",
    "Dataset",
    "LabelError",
    "Location",
    "Preprocessing",
    "Split",
    "check_labels",
    "compose",
    "cutout",
    "find",
    "fit_preprocessing",
    "load",
    "preprocess",
    "random_crop",
    "random_flip",
    "synthetic",
]

_log = logging.getLogger(__name__)
_CONNECT_SECONDS = 5
_DIGITS = tuple("0123456789")


class DataNotFoundError(FileNotFoundError):
    """No complete copy of a data set: the message names the files, the folders and the source."""


class LabelError(ValueError):
    """Labels that are no classes: the message names the first and says what was expected."""


class Split(NamedTuple):
    """Examples and their labels.

    Attributes:
        images: (n, h, w, c) uint8, channels last; toy data may have any shape (n, ...) of floats.
        labels: (n,) int32, the index of each example's class.
    """

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """Three splits of one data set.

    Attributes:
        train: what the parameters, and the statistics of the preprocessing, are fitted on.
        val: what hyper-parameters and the best epoch are chosen on.
        test: what is measured once.
        classes: the classes' names; label i means classes[i].
        name: the data set's name.
        full_scale: the largest value that an image can hold: 255, or 16 for the digits.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    name: str = ""
    full_scale: float = 255.0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example, without the batch."""
        return self.train.images.shape[1:]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)


def check_labels(
    labels: Any, classes: int, name: str = "labels", ignore_index: int | None = None
) -> Int32[np.ndarray, " n"]:
    """Returns labels as int32 if each is the index of a class, 0 to classes - 1.

    On the device a label out of range would be clamped or wrapped in silence, so that this is
    asked on the host, before training.

    Args:
        labels: (n,) of any integer dtype.
        classes: the number of classes.
        name: what the error calls them.
        ignore_index: a label that may be there too, be it a class or not.

    Returns:
        The labels, (n,) int32.

    Raises:
        LabelError: a label is negative, too large, no integer or not finite, or there is another
            number of axes than one.

    >>> check_labels([2, 0, 1], classes=3)
    array([2, 0, 1], dtype=int32)
    >>> check_labels([2, 0, 3], classes=3)
    Traceback (most recent call last):
    ...
    funcnet.data.LabelError: labels[2] is 3, expected a class, 0 to 2.
    """
    try:
        array = np.asarray(labels)
    except Exception as error:  # whatever a stranger's conversion raises
        raise LabelError(f"{name}: {error}; expected one integer for each row.") from None
    if array.ndim != 1:
        raise LabelError(
            f"{name} has shape {array.shape}, expected (n,): the index of each row's class. "
            f"One-hot rows become indices with {name}.argmax(-1)."
        )
    if array.size == 0:
        return array.astype(np.int32)
    if not np.issubdtype(array.dtype, np.integer):
        index = 0
        if np.issubdtype(array.dtype, np.floating):
            whole = np.isfinite(array) & (array == np.trunc(array))
            index = 0 if whole.all() else int((~whole).argmax())
        mend = f"Whole numbers become indices with {name}.astype(np.int32)"
        if array.dtype.kind in "USO":
            mend = f"Names become indices with np.unique({name}, return_inverse=True)[1]"
        raise LabelError(
            f"{name}[{index}] is {array[index]!s} of dtype {array.dtype}, expected an integer: "
            f"the index of a class. {mend}."
        )
    asked = array if ignore_index is None else np.where(array == ignore_index, 0, array)
    outside = _formats.first_outside(asked, classes)
    if outside is not None:
        raise LabelError(
            f"{name}[{outside}] is {array[outside]}, expected a class, 0 to {classes - 1}."
        )
    return array.astype(np.int32)


def on_device(
    split: Split, preprocessing: Preprocessing, *, raw: bool = False
) -> tuple[Any, Preprocessing]:
    """Returns a copy of a split on the device, and what `preprocess` is left to do to it there.

    Images that float32 could not tell apart are preprocessed before, or with `raw` refused: see
    `augment.for_device`.

    >>> split = Split(np.array([[1e8], [1e8 + 2]]), np.array([0, 1]))
    >>> held, left = on_device(split, fit_preprocessing(split.images))
    >>> held.images.ravel(), left.mean
    (Array([-1.,  1.], dtype=float64), array([0.]))
    """
    images, left = for_device(preprocessing, split.images, raw=raw)
    # Copies, because on a CPU JAX may read the caller's own arrays as long as they live.
    labels = jnp.array(np.asarray(split.labels), jnp.int32, copy=True)
    return Split(jnp.array(images, copy=True), labels), left  # type: ignore[arg-type]


# --- The files of each data set


class _Source(NamedTuple):
    """Where a data set's files lie, what they must be, and how they become arrays.

    A set lies complete in one of the `folders` below data_dir, in one of the `forms`: each form
    lists its files, and each file the names under which it may be there. `files` at `url` are what
    is downloaded. `read(paths, checksums)` returns the training and the test rows, and verifies
    each file that `checksums` knows by name before it parses it.
    """

    read: Callable[[tuple[Path, ...], dict[str, str]], tuple[Split, Split]]
    classes: tuple[str, ...]
    val_size: int
    folders: tuple[str, ...]
    forms: tuple[tuple[tuple[str, ...], ...], ...]
    url: str
    files: tuple[str, ...]


_CIFAR_FORMS = {
    "cifar-10-batches-py": (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"),
    "cifar-10-batches-bin": (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"),
}
_IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def _read_cifar10(paths: tuple[Path, ...], checksums: dict[str, str]) -> tuple[Split, Split]:
    binary = paths[0].suffix == ".bin" or "binary" in paths[0].name
    decode = _formats.read_cifar_binary if binary else _formats.read_cifar_pickle
    batches: dict[str, Split] = {}
    came = []
    for path, content in _cifar_members(paths, checksums, binary):
        _formats.verify(path, content, checksums.get(path.name))
        batch = Split(*decode(path, content))
        batches[path.name.removesuffix(".bin")] = batch
        came.append((path, len(batch.labels)))
    *train, test = (batches[name] for name in _CIFAR_FORMS["cifar-10-batches-py"])
    _formats.check_rows((path, rows, 10_000) for path, rows in came)
    sizes = [len(batch.labels) for batch in train]
    if len(set(sizes)) > 1:
        raise _formats.bad(paths[0], f"the training batches have unequal sizes, {sizes} rows")
    return _concatenate(train), _concatenate([test])


def _cifar_members(
    paths: tuple[Path, ...], checksums: dict[str, str], binary: bool
) -> Iterator[tuple[Path, bytes]]:
    """Yields the six batches, from a folder's files or out of the one archive."""
    if len(paths) == 1:
        archive = paths[0]
        folder = "cifar-10-batches-bin" if binary else "cifar-10-batches-py"
        with _formats.open_verified(archive, checksums.get(archive.name)) as stream:
            members = _formats.read_members(archive, stream, folder, _CIFAR_FORMS[folder])
            yield from ((archive / name, content) for name, content in members)
    else:
        for path in paths:
            with _formats.open_verified(path, None) as stream:
                yield path, stream.read()


def _read_idx(paths: tuple[Path, ...], checksums: dict[str, str]) -> tuple[Split, Split]:
    arrays = []
    for name, path in zip(_IDX_FILES, paths, strict=True):
        official = f"{name}.gz" if path.suffix == ".gz" else name
        with _formats.open_verified(path, checksums.get(official)) as stream:
            if "labels" in name:
                arrays.append(_formats.read_idx_labels(path, stream))
            else:
                arrays.append(_formats.read_idx(path, stream, (28, 28))[..., None])
    train, test = Split(*arrays[:2]), Split(*arrays[2:])
    for split, path in ((train, paths[1]), (test, paths[3])):
        if len(split.images) != len(split.labels):
            fault = f"it has {len(split.labels)} labels for {len(split.images)} images"
            raise _formats.bad(path, fault)
    rows = len(train.labels), len(test.labels)
    _formats.check_rows(zip(paths[::2], rows, (60_000, 10_000), strict=True))
    return train, test


def _read_svhn(paths: tuple[Path, ...], checksums: dict[str, str]) -> tuple[Split, Split]:
    splits = []
    for path in paths:
        with _formats.open_verified(path, checksums.get(path.name)) as stream:
            splits.append(_concatenate([Split(*_formats.read_svhn(path, stream))]))
    rows = [len(split.labels) for split in splits]
    _formats.check_rows(zip(paths, rows, (73_257, 26_032), strict=True))
    return splits[0], splits[1]


def _concatenate(splits: list[Split]) -> Split:
    """Joins splits, whose images may be transposed views, into row-major arrays."""
    rows = sum(len(split.labels) for split in splits)
    images = np.empty((rows, *splits[0].images.shape[1:]), np.uint8)
    np.concatenate([split.images for split in splits], out=images)
    return Split(images, np.concatenate([split.labels for split in splits]))


def _read_digits() -> tuple[Split, Split]:
    """The 1,797 digits in one fixed random order, of which the last 300 are the test rows."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits needs scikit-learn: pip install funcnet[run]") from error
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype(np.uint8)
    # RandomState and not default_rng: NumPy froze its stream, so that the split stays what it is.
    order = np.random.RandomState(0).permutation(len(labels))
    images, labels = images[order], labels[order].astype(np.int32)
    return Split(images[:-300], labels[:-300]), Split(images[-300:], labels[-300:])


# The checksums of the official files, as `sha256sum` writes them. CIFAR-10's batches and MNIST were
# hashed at hand; so were the binary batches, the same rows in another layout. The archives, SVHN
# and Fashion-MNIST's .gz were not: theirs are what several projects state beside the MD5 of the
# authors or of torchvision. Of plain Fashion-MNIST only an MD5 is stated.
_CHECKSUMS = {
    "cifar10": """
6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce cifar-10-python.tar.gz
54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd data_batch_1
766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8 data_batch_2
0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9 data_batch_3
3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b data_batch_4
d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154 data_batch_5
f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831 test_batch
c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd cifar-10-binary.tar.gz
cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5 data_batch_1.bin
a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed data_batch_2.bin
bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67 data_batch_3.bin
014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48 data_batch_4.bin
755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add data_batch_5.bin
8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b test_batch.bin
""",
    "svhn": """
435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8 train_32x32.mat
cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b test_32x32.mat
""",
    "mnist": """
440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609 train-images-idx3-ubyte.gz
3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c train-labels-idx1-ubyte.gz
8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6 t10k-images-idx3-ubyte.gz
f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6 t10k-labels-idx1-ubyte.gz
ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db train-images-idx3-ubyte
65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5 train-labels-idx1-ubyte
0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7 t10k-images-idx3-ubyte
ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2 t10k-labels-idx1-ubyte
""",
    "fashion_mnist": """
3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84 train-images-idx3-ubyte.gz
a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845 train-labels-idx1-ubyte.gz
346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073 t10k-images-idx3-ubyte.gz
67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5 t10k-labels-idx1-ubyte.gz
f4a8712d7a061bf5bd6d2ca38dc4d50a train-images-idx3-ubyte
9018921c3c673c538a1fc5bad174d6f9 train-labels-idx1-ubyte
8181f5470baa50b63fa0f6fddb340f0a t10k-images-idx3-ubyte
15d484375f8d13e6eb1aabb0c3f46965 t10k-labels-idx1-ubyte
""",
}


def _idx_names(name: str) -> tuple[str, ...]:
    """A file's official names first, then Kaggle's: a dot for a dash, or a folder of its own."""
    dotted = name.replace("-idx", ".idx")
    plain = name, dotted, f"{name}/{name}", f"{name}/{dotted}", f"{dotted}/{dotted}"
    return tuple(file + end for end in (".gz", "") for file in plain)


_idx_source = functools.partial(
    _Source,
    read=_read_idx,
    val_size=5000,
    forms=(tuple(_idx_names(name) for name in _IDX_FILES),),
    files=tuple(f"{name}.gz" for name in _IDX_FILES),
)
_SOURCES = {
    "cifar10": _Source(
        read=_read_cifar10,
        classes=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
        val_size=1000,
        folders=("cifar10", "", "cifar-10-python", "cifar-10-binary"),
        forms=(
            # The second name of each is for a data_dir that is the batches' own folder.
            *(tuple((f"{folder}/{f}", f) for f in files) for folder, files in _CIFAR_FORMS.items()),
            (("cifar-10-python.tar.gz", "cifar-10-python.tar"),),
            (("cifar-10-binary.tar.gz", "cifar-10-binary.tar"),),
        ),
        url="https://www.cs.toronto.edu/~kriz/",
        files=("cifar-10-python.tar.gz",),
    ),
    "svhn": _Source(
        read=_read_svhn,
        classes=_DIGITS,
        val_size=3257,
        folders=("svhn", "SVHN", ""),
        forms=((("train_32x32.mat",), ("test_32x32.mat",)),),
        url="http://ufldl.stanford.edu/housenumbers/",
        files=("train_32x32.mat", "test_32x32.mat"),
    ),
    "mnist": _idx_source(
        classes=_DIGITS,
        folders=("mnist", "MNIST/raw", "MNIST", "raw", ""),
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    "fashion_mnist": _idx_source(
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        folders=("fashion_mnist", "FashionMNIST/raw", "FashionMNIST", "raw", ""),
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
}
NAMES = ("digits", *_SOURCES, "synthetic")


def _checksums(name: str) -> dict[str, str]:
    lines = (line.split() for line in _CHECKSUMS[name].strip().splitlines())
    return {file: checksum for checksum, file in lines}


# --- Finding and fetching


class Location(NamedTuple):
    """Where a data set was looked for, and what was found.

    Attributes:
        name: the data set's name.
        found: whether `load` needs no network for it.
        paths: its files, none where it was not found or needs no file.
        looked: the folders that were looked in.
        needs: what has to be there, and where to get it.
    """

    name: str
    found: bool
    paths: tuple[Path, ...]
    looked: tuple[Path, ...]
    needs: str


def find(name: str, data_dir: str | os.PathLike[str] | None = None) -> Location:
    """Says where a data set lies, without reading it.

    Args:
        name: one of `NAMES`.
        data_dir: the folder of the data sets; $FUNCNET_DATA_DIR by default, else ~/.cache/funcnet.

    Returns:
        What was found, and every folder that was looked in.

    Raises:
        ValueError: there is no data set of this name.

    >>> find("synthetic").found
    True
    >>> find("svhn", "/nowhere").looked
    (PosixPath('/nowhere/svhn'), PosixPath('/nowhere/SVHN'), PosixPath('/nowhere'))
    """
    if name not in NAMES:
        raise ValueError(
            f"data: there is no data set {name!r}, expected one of {', '.join(NAMES)}."
        )
    if name == "synthetic":
        return Location(name, True, (), (), "nothing")
    if name == "digits":
        there = importlib.util.find_spec("sklearn") is not None
        return Location(name, there, (), (), "scikit-learn: pip install funcnet[run]")
    source = _SOURCES[name]
    root = data_dir or os.environ.get("FUNCNET_DATA_DIR") or "~/.cache/funcnet"
    looked = tuple(Path(root).expanduser() / folder for folder in source.folders)
    needs = f"{' and '.join(source.files)} from {source.url}"
    for folder in looked:
        for form in source.forms:
            there_as = [[folder / n for n in names if (folder / n).is_file()] for names in form]
            if all(there_as):
                paths = tuple(files[0] for files in there_as)
                return Location(name, True, paths, looked, needs)
    return Location(name, False, (), looked, needs)


def _download(name: str, folder: Path) -> None:
    """Fetches a data set's official files into `folder`, each complete and verified or not at all.

    Raises OSError or http.client.HTTPException where the network or the disk fails.
    """
    source = _SOURCES[name]
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.files:
        if (folder / file).exists():
            continue
        url = source.url + file
        _log.info("%s: downloading %s to %s", name, url, folder)
        with (
            replacing(folder / file) as partial,
            urllib.request.urlopen(url, timeout=_CONNECT_SECONDS) as response,
        ):
            _formats.copy(url, response, partial)
            partial.flush()
            with _formats.open_verified(Path(partial.name), _checksums(name)[file]):
                pass


def _located(name: str, data_dir: str | os.PathLike[str] | None, download: bool | None) -> Location:
    """Finds a data set, after a download where it is missing and that is wanted, or raises."""
    location = find(name, data_dir)
    if location.found:
        return location
    if download is None:
        download = _validate.enabled("FUNCNET_DOWNLOAD")
    why = "Downloading is off (download=False or FUNCNET_DOWNLOAD=0)."
    if download:
        try:
            _download(name, location.looked[0])
            return find(name, data_dir)
        except (OSError, http.client.HTTPException) as error:
            why = f"Downloading failed: {error}."
    folders = ", ".join(str(folder) for folder in location.looked)
    raise DataNotFoundError(
        f"{name}: found no complete copy in {folders}. {why} Put {location.needs} into "
        f"{location.looked[0]}, or name the folder that has it by data_dir or FUNCNET_DATA_DIR."
    )


# --- Loading


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    val_size: int | None = None,
    test_size: int | None = None,
    download: bool | None = None,
    verify: bool = True,
    **options: Any,
) -> Dataset:
    """Returns a data set as arrays: images (n, h, w, c) uint8, labels (n,) int32.

    | name | train / val / test | one image | values |
    |---|---|---|---|
    | digits | 1297 / 200 / 300 | 8, 8, 1 | 0 to 16 |
    | cifar10 | 49000 / 1000 / 10000 | 32, 32, 3 | 0 to 255 |
    | svhn | 70000 / 3257 / 26032 | 32, 32, 3 | 0 to 255 |
    | mnist, fashion_mnist | 55000 / 5000 / 10000 | 28, 28, 1 | 0 to 255 |
    | synthetic | see `synthetic` | | 0 to 255 |

    The validation rows are the last of the official training rows, the test rows the first of the
    official test rows. The digits have no official split: one fixed permutation comes first. The
    courses on CIFAR-10 (courses.md rows 0-2, 1-2, 2-1, 4-11, 4-25, 4-43) test on `test_size=1000`
    rows, SVHN is split as in row 3-1. Images are channels last: the courses' (n, 3, h, w) is
    `images.transpose(0, 3, 1, 2)`.

    Args:
        name: one of `NAMES`.
        data_dir: the folder of the data sets; $FUNCNET_DATA_DIR by default, else ~/.cache/funcnet.
            CIFAR-10 is read from the folder or archive of its Python or binary version, MNIST and
            Fashion-MNIST from plain or .gz files, below data_dir as their authors, torchvision or
            Kaggle lay them out; `find` says where each is looked for.
        val_size: the number of validation rows; by default as above.
        test_size: the number of test rows, all by default.
        download: whether to fetch what is missing into data_dir; by default it is fetched, unless
            FUNCNET_DOWNLOAD=0 is set.
        verify: whether files must have the official checksums. Without, the readers' own checks
            of every size and label remain: files of your own making may hold any number of rows,
            an official copy that lost some is refused.
        options: those of `synthetic`, for that name only.

    Returns:
        The three splits and the classes' names.

    Raises:
        DataNotFoundError: there is no complete copy, and none could be downloaded.
        DataFormatError: a file is damaged, or is not the official one.
        ImportError: scikit-learn (digits) or scipy (svhn) is not installed.
        ValueError: there is no such data set, or it has fewer rows than asked for.

    >>> dataset = load("digits")
    >>> dataset.input_shape, dataset.num_classes
    ((8, 8, 1), 10)
    >>> [len(split.labels) for split in (dataset.train, dataset.val, dataset.test)]
    [1297, 200, 300]
    """
    if name == "synthetic":
        if val_size is not None or test_size is not None:
            raise ValueError("load: synthetic takes sizes=(train, val, test) instead of val_size.")
        return synthetic(**options)
    if options:
        raise TypeError(f"load: {name} has no option {', '.join(options)}; synthetic has.")
    if name == "digits":
        train, test = _read_digits()
        classes, default_val_size, full_scale = _DIGITS, 200, 16.0
    else:
        location = _located(name, data_dir, download)
        source = _SOURCES[name]
        train, test = source.read(location.paths, _checksums(name) if verify else {})
        classes, default_val_size, full_scale = source.classes, source.val_size, 255.0
    last = len(train.labels) - _size(
        "val_size", val_size, default_val_size, 0, len(train.labels) - 1
    )
    stop = _size("test_size", test_size, len(test.labels), 1, len(test.labels))
    return Dataset(
        train=Split(train.images[:last], train.labels[:last]),
        val=Split(train.images[last:], train.labels[last:]),
        test=Split(test.images[:stop], test.labels[:stop]),
        classes=classes,
        name=name,
        full_scale=full_scale,
    )


def _size(argument: str, value: int | None, default: int, low: int, high: int) -> int:
    size = default if value is None else value
    if not hasattr(size, "__index__") or not low <= size <= high:
        raise ValueError(
            f"load: {argument} is {size!r}, expected a number of rows from {low} to {high}: the "
            f"files have no more. Pass {argument} yourself."
        )
    return int(size)


def synthetic(
    shape: tuple[int, ...] = (8, 8, 1),
    classes: int = 10,
    sizes: tuple[int, int, int] = (1000, 200, 200),
    seed: int = 0,
    noise: int | float = 0.25,
) -> Dataset:
    r"""Returns a made data set that a net can learn: one template a class, plus noise.

    With templates $t_k \sim N(0, 0.2^2)$ and noise $\epsilon \sim N(0, 	ext{noise}^2)$, entry by
    entry, the image of a uniformly drawn label $k$ is

    $$x = \operatorname{clip}(\operatorname{round}(255\,(0.5 + t_k + \epsilon)), 0, 255)$$

    Args:
        shape: one example's shape.
        classes: the number of classes.
        sizes: the numbers of training, validation and test rows.
        seed: of NumPy's `default_rng`, 0 to 2^32 - 1; equal arguments give equal data sets.
        noise: the noise's standard deviation in units of the full scale.

    Returns:
        A data set of uint8 images named "synthetic".

    Raises:
        TypeError: the seed is no int.
        ValueError: a size is negative, there is no class, or the seed is out of range.

    >>> synthetic(shape=(4, 4, 3), classes=2, sizes=(6, 2, 2)).train.images.shape
    (6, 4, 4, 3)
    """
    if classes < 1 or min(sizes, default=-1) < 0 or len(sizes) != 3:
        raise ValueError(
            f"synthetic: classes is {classes} and sizes is {sizes}, expected at least one class "
            "and three numbers of rows, (train, val, test)."
        )
    rng = np.random.default_rng(_validate.seed("synthetic", "seed", seed))
    templates = rng.normal(0.5, 0.2, (classes, *shape)).astype(np.float32)

    def split(size: int) -> Split:
        labels = rng.integers(0, classes, size, dtype=np.int32)
        images = rng.standard_normal((size, *shape), dtype=np.float32)
        images *= np.float32(noise)
        images += templates[labels]
        images *= np.float32(255)
        return Split(images.round().clip(0, 255).astype(np.uint8), labels)

    train, val, test = (split(size) for size in sizes)
    return Dataset(train, val, test, tuple(str(k) for k in range(classes)), name="synthetic")


at_home(globals())
