"""Where each data set comes from, how its files are read, and `SETS`, the row of each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from funcnet.data import _formats
from funcnet.data._dataset import Dataset, Split
from funcnet.data._synthetic import synthetic

_DIGITS = tuple("0123456789")


class Source(NamedTuple):
    """A data set as `SETS` knows it: read from files, or made.

    A set lies complete in one of the `folders` below data_dir, in one of the `forms`: each form
    lists its files, and each file the names under which it may be there.

    Attributes:
        read: `read(paths, checksums)` returns the training and the test rows, and verifies each
            file that `checksums` knows by name before it parses it.
        classes: the classes' names.
        val_size: how many of the training rows, the last, are for validation unless asked.
        full_scale: the largest value that an image can hold.
        folders: where its files may lie.
        forms: the files of each way in which it is handed out.
        url: where it is downloaded from.
        files: what is downloaded, in the first of the folders.
        checksums: of each official file by name, SHA-256 or MD5.
        module: what must be installed to have it, where it is not read from files.
        needs: how to have it, where it is not read from files.
        make: `make(**options)` returns a data set that is made, and is all that there is.
    """

    read: Callable[[tuple[Path, ...], Mapping[str, str]], tuple[Split, Split]] | None = None
    classes: tuple[str, ...] = ()
    val_size: int = 0
    full_scale: float = 255.0
    folders: tuple[str, ...] = ()
    forms: tuple[tuple[tuple[str, ...], ...], ...] = ()
    url: str = ""
    files: tuple[str, ...] = ()
    checksums: Mapping[str, str] = MappingProxyType({})
    module: str = ""
    needs: str = "nothing"
    make: Callable[..., Dataset] | None = None


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


def _read_cifar10(paths: tuple[Path, ...], checksums: Mapping[str, str]) -> tuple[Split, Split]:
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
    paths: tuple[Path, ...], checksums: Mapping[str, str], binary: bool
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


def _read_idx(paths: tuple[Path, ...], checksums: Mapping[str, str]) -> tuple[Split, Split]:
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


def _read_svhn(paths: tuple[Path, ...], checksums: Mapping[str, str]) -> tuple[Split, Split]:
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


def _read_digits(paths: tuple[Path, ...], checksums: Mapping[str, str]) -> tuple[Split, Split]:
    """The 1,797 digits in one fixed random order, of which the last 300 are the test rows.

    digits.npz holds them as scikit-learn does: the test set of E. Alpaydin and C. Kaynak, Optical
    Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
    https://doi.org/10.24432/C50P49, CC BY 4.0.
    """
    del paths, checksums
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    # RandomState and not default_rng: NumPy froze its stream, so that the split stays what it is.
    order = np.random.RandomState(0).permutation(len(labels))
    images, labels = images[order], labels[order].astype(np.int32)
    return Split(images[:-300], labels[:-300]), Split(images[-300:], labels[-300:])


def _table(lines: str) -> dict[str, str]:
    """The checksums of files, from lines as `sha256sum` writes them."""
    pairs = (line.split() for line in lines.strip().splitlines())
    return {file: checksum for checksum, file in pairs}


def _idx_names(name: str) -> tuple[str, ...]:
    """A file's official names first, then Kaggle's: a dot for a dash, or a folder of its own."""
    dotted = name.replace("-idx", ".idx")
    plain = name, dotted, f"{name}/{name}", f"{name}/{dotted}", f"{dotted}/{dotted}"
    return tuple(file + end for end in (".gz", "") for file in plain)


_idx_source = functools.partial(
    Source,
    read=_read_idx,
    val_size=5000,
    forms=(tuple(_idx_names(name) for name in _IDX_FILES),),
    files=tuple(f"{name}.gz" for name in _IDX_FILES),
)

# Of the official files, CIFAR-10's batches and MNIST were hashed at hand; so were the binary
# batches, the same rows in another layout. The archives, SVHN and Fashion-MNIST's .gz were not:
# theirs are what several projects state beside the MD5 of the authors or of torchvision. Of plain
# Fashion-MNIST only an MD5 is stated.
SETS: dict[str, Source] = {
    "digits": Source(
        read=_read_digits,
        classes=_DIGITS,
        val_size=200,
        full_scale=16.0,
    ),
    "cifar10": Source(
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
        checksums=_table("""
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
"""),
    ),
    "svhn": Source(
        read=_read_svhn,
        classes=_DIGITS,
        val_size=3257,
        folders=("svhn", "SVHN", ""),
        forms=((("train_32x32.mat",), ("test_32x32.mat",)),),
        url="http://ufldl.stanford.edu/housenumbers/",
        files=("train_32x32.mat", "test_32x32.mat"),
        checksums=_table("""
435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8 train_32x32.mat
cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b test_32x32.mat
"""),
    ),
    "mnist": _idx_source(
        classes=_DIGITS,
        folders=("mnist", "MNIST/raw", "MNIST", "raw", ""),
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        checksums=_table("""
440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609 train-images-idx3-ubyte.gz
3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c train-labels-idx1-ubyte.gz
8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6 t10k-images-idx3-ubyte.gz
f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6 t10k-labels-idx1-ubyte.gz
ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db train-images-idx3-ubyte
65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5 train-labels-idx1-ubyte
0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7 t10k-images-idx3-ubyte
ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2 t10k-labels-idx1-ubyte
"""),
    ),
    "fashion_mnist": _idx_source(
        classes=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        folders=("fashion_mnist", "FashionMNIST/raw", "FashionMNIST", "raw", ""),
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        checksums=_table("""
3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84 train-images-idx3-ubyte.gz
a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845 train-labels-idx1-ubyte.gz
346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073 t10k-images-idx3-ubyte.gz
67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5 t10k-labels-idx1-ubyte.gz
f4a8712d7a061bf5bd6d2ca38dc4d50a train-images-idx3-ubyte
9018921c3c673c538a1fc5bad174d6f9 train-labels-idx1-ubyte
8181f5470baa50b63fa0f6fddb340f0a t10k-images-idx3-ubyte
15d484375f8d13e6eb1aabb0c3f46965 t10k-labels-idx1-ubyte
"""),
    ),
    "synthetic": Source(make=synthetic),
}
"""The data sets by name, a row each: where its files are, what they must be, how they are read."""
