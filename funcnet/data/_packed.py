"""A data set as plain arrays in a folder, which is read row by row where it is large.

A packed data set is a folder with a .npy file for the images and one for the labels of each split,
and `dataset.json`: what the data set is, and each file's shape, dtype and SHA-256. NumPy's format
has every row at a place that follows from its number, so that any row is read by itself without an
index, from a map of the file; anybody's program reads it, with no package but NumPy.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.lib import format as npy

from funcnet._files import read_object
from funcnet._moments import blocks
from funcnet.data._dataset import Dataset, Split, Task
from funcnet.data._formats import bad
from funcnet.data._streamed import RESIDENT_BYTES, Streamed, opened

PACKED = "dataset.json"
"""The file in a folder of `pack` that says what the data set is."""
_FORMAT = 1
_SPLITS = ("train", "val", "test")
_AGAIN = "Pack the data set anew."


def pack(dataset: Dataset, folder: str | os.PathLike[str]) -> None:
    """Writes a data set into a new folder as plain arrays, whole or not at all; `read` reads it.

    What is `Streamed` is read and written block by block.

    Args:
        dataset: any data set.
        folder: its folder, which is not there yet, or is empty.

    Raises:
        FileExistsError: there is something in the folder.
        OSError: it cannot be written; nothing is left of it.
        SourceError: a source of the data set cannot be read.
        TypeError: images or labels are no numbers, or a class has a name that JSON does not hold.

    >>> import tempfile
    >>> from funcnet import data
    >>> dataset = data.load("digits")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pack(dataset, folder + "/digits")
    ...     again = data.read(folder + "/digits")
    >>> bool((again.train.images == dataset.train.images).all()), again.name
    (True, 'digits')
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"pack: {folder} is there already, expected a folder to be made.")
    classes = [name.item() if hasattr(name, "item") else name for name in dataset.classes]
    facts: dict[str, Any] = {
        "format": _FORMAT,
        "name": dataset.name,
        "task": dataset.task,
        "classes": classes,
        "full_scale": float(dataset.full_scale),
        "reading": dataset.reading,
    }
    try:
        json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"pack: the classes or how they were read: {error}.") from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    part.mkdir()
    try:
        facts["splits"] = {
            split: {
                name: _written(part / f"{split}_{name}.npy", opened(rows))
                for name, rows in getattr(dataset, split)._asdict().items()
            }
            for split in _SPLITS
        }
        with open(part / PACKED, "x", encoding="utf-8") as file:
            json.dump(facts, file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _written(path: Path, rows: Any) -> dict[str, Any]:
    """Writes rows into a .npy, and says what is in it."""
    rows = rows if isinstance(rows, Streamed) else np.asarray(rows)
    dtype = rows.dtype.newbyteorder("<") if rows.dtype.byteorder == ">" else rows.dtype
    if dtype.kind not in "biuf":
        raise TypeError(f"pack: {path.stem} has dtype {dtype}, expected numbers of NumPy's.")
    digest = hashlib.sha256()

    class Hashed:
        def write(self, content: Any) -> None:
            digest.update(content)
            file.write(content)

    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": rows.shape}
    with open(path, "xb") as file:
        npy.write_array_header_1_0(Hashed(), header)
        for block in blocks(rows) if rows.shape[0] else ():
            Hashed().write(np.ascontiguousarray(rows[block], dtype).data)
        file.flush()
        os.fsync(file.fileno())
    return {
        "file": path.name,
        "shape": list(rows.shape),
        "dtype": dtype.str,
        "sha256": digest.hexdigest(),
    }


def from_packed(path: str | os.PathLike[str]) -> Dataset:
    """Returns the data set that `pack` wrote into a folder.

    A file of more than a quarter of a GiB stays where it is, and its rows are read as they are
    needed (see `Streamed`), the labels where there is more than one for each example; of that the
    size is verified here. A smaller one is read, and its SHA-256 is verified.

    Args:
        path: the folder.

    Raises:
        DataFormatError: a file is missing, damaged, or not what `dataset.json` says.
        FileNotFoundError: there is no such folder.
    """
    folder = Path(path)
    try:
        facts = read_object(folder / PACKED)
    except ValueError as error:
        raise bad(folder / PACKED, str(error).rstrip("."), _AGAIN) from None
    try:
        if facts["format"] != _FORMAT:
            raise ValueError(f"its format is {facts['format']!r}, expected {_FORMAT}")
        if facts["task"] not in get_args(Task):
            raise ValueError(f"its task is {facts['task']!r}")
        files = {split: [facts["splits"][split][n] for n in Split._fields] for split in _SPLITS}
        splits = {split: Split(*(_read(folder, f) for f in files[split])) for split in files}
        for name, (images, labels) in splits.items():
            if len(images) != len(labels):
                raise ValueError(f"{name} has {len(images)} images but {len(labels)} labels")
        return Dataset(
            **splits,
            classes=tuple(facts["classes"]),
            name=str(facts["name"]),
            full_scale=float(facts["full_scale"]),
            task=facts["task"],
            reading=facts["reading"],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if type(error).__module__.startswith("funcnet"):
            raise
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise bad(folder / PACKED, said, _AGAIN) from None


def _read(folder: Path, facts: dict[str, Any]) -> Any:
    """The rows of a file: an array, or where it is large a source."""
    name, shape, dtype = facts["file"], tuple(facts["shape"]), np.dtype(facts["dtype"])
    path = folder / name
    if Path(name).name != name or dtype.kind not in "biuf":
        raise ValueError(f"it names {name!r} of dtype {dtype}, expected a file of numbers beside")
    if not path.is_file():
        raise bad(path, "it is missing", _AGAIN)
    size = int(np.prod(shape)) * dtype.itemsize
    large = size > RESIDENT_BYTES and (len(shape) > 1)
    try:
        rows = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
    except Exception as error:  # NumPy has many
        raise bad(path, f"it cannot be read ({error})", _AGAIN) from None
    if rows.shape != shape or rows.dtype != dtype:
        raise bad(path, f"it has {rows.shape} {rows.dtype}, expected {shape} {dtype}", _AGAIN)
    if large:
        rows = Streamed(rows)
        rows.sha256 = facts["sha256"]
        return rows
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != facts["sha256"]:
            raise bad(path, f"it is damaged: it has not the SHA-256 of {PACKED}", _AGAIN)
    return rows
