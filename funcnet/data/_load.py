"""Finding a data set's files, fetching what is missing, and loading them as arrays."""

from __future__ import annotations

import http.client
import importlib.util
import logging
import os
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from funcnet import _validate
from funcnet._files import replacing
from funcnet.data import _formats
from funcnet.data._dataset import Dataset, Split
from funcnet.data._sources import SETS, Source

_log = logging.getLogger("funcnet.data")
_CONNECT_SECONDS = 5
NAMES = tuple(SETS)
"""The names that `load` knows."""


class DataNotFoundError(FileNotFoundError):
    """No complete copy of a data set: the message names the files, the folders and the source."""


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


def _source(name: str) -> Source:
    if name not in SETS:
        raise ValueError(f"data: there is no data set {name!r}, expected one of {', '.join(SETS)}.")
    return SETS[name]


def find(name: str, data_dir: str | os.PathLike[str] | None = None) -> Location:
    """Says where a data set lies, without reading it.

    Args:
        name: one of `SETS`.
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
    source = _source(name)
    if not source.forms:
        there = not source.module or importlib.util.find_spec(source.module) is not None
        return Location(name, there, (), (), source.needs)
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
    source = SETS[name]
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
            with _formats.open_verified(Path(partial.name), source.checksums[file]):
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
    rows, SVHN is split as in row 3-1. The digits come with funcnet: they are the test set of
    Alpaydin and Kaynak's Optical Recognition of Handwritten Digits (UCI, 1998, CC BY 4.0), as
    scikit-learn has it too. Images are channels last: the courses' (n, 3, h, w) is
    `images.transpose(0, 3, 1, 2)`.

    Args:
        name: one of `SETS`.
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
        options: those of `synthetic`, and of other sets that are made.

    Returns:
        The three splits and the classes' names.

    Raises:
        DataNotFoundError: there is no complete copy, and none could be downloaded.
        DataFormatError: a file is damaged, or is not the official one.
        ImportError: scipy is not installed (svhn).
        ValueError: there is no such data set, or it has fewer rows than asked for.

    >>> dataset = load("digits")
    >>> dataset.input_shape, dataset.num_classes
    ((8, 8, 1), 10)
    >>> [len(split.labels) for split in (dataset.train, dataset.val, dataset.test)]
    [1297, 200, 300]
    """
    source = _source(name)
    if source.make is not None:
        if val_size is not None or test_size is not None:
            raise ValueError(f"load: {name} takes sizes=(train, val, test) instead of val_size.")
        return source.make(**options)
    if options:
        raise TypeError(f"load: {name} has no option {', '.join(options)}; synthetic has.")
    assert source.read is not None
    paths = _located(name, data_dir, download).paths if source.forms else ()
    train, test = source.read(paths, source.checksums if verify else {})
    last = len(train.labels) - _size(
        "val_size", val_size, source.val_size, 0, len(train.labels) - 1
    )
    stop = _size("test_size", test_size, len(test.labels), 1, len(test.labels))
    return Dataset(
        train=Split(train.images[:last], train.labels[:last]),
        val=Split(train.images[last:], train.labels[last:]),
        test=Split(test.images[:stop], test.labels[:stop]),
        classes=source.classes,
        name=name,
        full_scale=source.full_scale,
    )


def _size(argument: str, value: int | None, default: int, low: int, high: int) -> int:
    size = default if value is None else value
    if not hasattr(size, "__index__") or not low <= size <= high:
        raise ValueError(
            f"load: {argument} is {size!r}, expected a number of rows from {low} to {high}: the "
            f"files have no more. Pass {argument} yourself."
        )
    return int(size)
