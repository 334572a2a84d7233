"""Data of one's own by one word, and new examples that are read as those of a data set were."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from funcnet.data import _table_file, _tables
from funcnet.data._arrays import from_npz, read_arrays
from funcnet.data._dataset import Dataset
from funcnet.data._folder import from_folder, walk
from funcnet.data._formats import bad
from funcnet.data._packed import PACKED, from_packed
from funcnet.data._parquet import from_parquet, image_column, pictures_of
from funcnet.data._pictures import RESIZE, SUFFIXES, Picture, in_file, read_pictures

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
_READERS: dict[str, Callable[..., Dataset]] = {
    ".npz": from_npz,
    ".csv": _tables.from_table,
    ".tsv": _tables.from_table,
    ".parquet": from_parquet,
}
_ACCEPTED = (
    "Accepted are a folder of pictures in folders named as their classes, a .npz file of arrays, a "
    ".csv, .tsv or .parquet table, a folder of .parquet files, and one of funcnet pack."
)


def read(path: str | os.PathLike[str], **options: Any) -> Dataset:
    """Returns a data set of one's own, read by what is there.

    | path | read by |
    |---|---|
    | a folder of pictures, in folders named as their classes | `from_folder` |
    | a folder of .parquet files, or one .parquet | `from_parquet` |
    | a folder with a dataset.json, as `pack` makes it | `from_packed` |
    | .csv, .tsv | `from_table` |
    | .npz | `from_npz` |

    Args:
        path: the folder or file.
        options: of that reader: `val`, `test` and `seed` of each; `size` and `mode` of pictures;
            `target`, `features`, `without`, `missing` and `task` of tables; `classes`, `task` and
            `full_scale` of arrays.

    Returns:
        The data set; its `reading` has what `read_inputs` needs.

    Raises:
        DataFormatError: there is nothing of the above, or as the reader.
        FileNotFoundError: there is no such file or folder.
        TypeError: the reader has no such option.

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "mine.npz")
    >>> np.savez(path, images=np.zeros((20, 8, 8), np.uint8), labels=["a", "b"] * 10)
    >>> read(path, val=4, test=0).val.labels
    array([0, 1, 0, 1], dtype=int32)
    """
    place = Path(path)
    if not place.exists():
        raise FileNotFoundError(f"data: there is no file or folder {path}. {_ACCEPTED}")
    if place.is_dir():
        if (place / PACKED).is_file():
            return from_packed(place, **options)
        parquet = any(place.glob("*.parquet")) or any(place.glob("data/*.parquet"))
        return (from_parquet if parquet else from_folder)(place, **options)
    if place.suffix.lower() not in _READERS:
        raise bad(place, "by its name it is no data", _ACCEPTED)
    return _READERS[place.suffix.lower()](place, **options)


def read_inputs(reading: Mapping[str, Any] | None, paths: Paths) -> tuple[list[str], np.ndarray]:
    """Reads new examples just as those of a data set were read.

    | kind | paths |
    |---|---|
    | images | pictures, folders of pictures, .parquet files of pictures |
    | table | .csv, .tsv or .parquet, with the features' columns; others are passed over |
    | arrays | .npy, or .npz with one array, or one called x, images, x_test or test_images |

    Args:
        reading: `Dataset.reading`, or what JSON made of it.
        paths: one file or folder, or several.

    Returns:
        The names of the examples, n of them: pictures' files, or the rows' numbers, counted from
        1, behind the file's name where there are several; and the examples, (n, ...), before any
        preprocessing. Rows that a table read with missing="drop" leaves out are told by a
        RuntimeWarning.

    Raises:
        DataFormatError: a file is damaged or is not like the data set: an array's shape, a missing
            column, value, or category; or nothing is there, or nothing is left.
        FileNotFoundError: there is no such file.
        ValueError: there is no such kind of reading, as where a data set came as arrays.

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "new.npy")
    >>> np.save(path, np.zeros((2, 5)))
    >>> read_inputs({"kind": "arrays", "shape": [5], "dtype": "float64"}, path)[0]
    ['1', '2']
    """
    several = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    files = [Path(path) for path in several]
    kind = None if reading is None else reading.get("kind")
    if reading is None or kind not in ("images", "table", "arrays"):
        raise ValueError(
            f"read_inputs: reading is {reading!r}, expected the `reading` of a data set that came "
            "from files, of kind images, table or arrays. Other examples are passed as arrays."
        )
    if not files:
        raise ValueError("read_inputs: there are no paths, expected one at least.")
    if kind == "images":
        return _read_pictures(reading, files)
    names, parts = [], []
    for file in files:
        if kind == "table":
            rows, images = _tables.read_rows(reading, file)
        else:
            images = read_arrays(reading, file)
            rows = [str(row) for row in range(1, len(images) + 1)]
        names += [f"{file}:{row}" for row in rows] if len(files) > 1 else rows
        parts.append(images)
    return names, np.concatenate(parts)


def _read_pictures(reading: Mapping[str, Any], paths: list[Path]) -> tuple[list[str], np.ndarray]:
    if reading["resize"] != RESIZE:
        raise ValueError(f"read_inputs: resize is {reading['resize']!r}, expected {RESIZE!r}.")
    names: list[str] = []
    pictures: list[Picture] = []
    for path in paths:
        if path.suffix.lower() == ".parquet" and path.is_file():
            table = _table_file.read(path)
            column = image_column(table)
            if column is None:
                raise bad(path, "it has no column of pictures", "Expected structs with bytes.")
            found = pictures_of(table, column)
            rows = [str(row) for row in range(1, len(found) + 1)]
            names += rows if len(paths) == 1 else [f"{path}:{row}" for row in rows]
        else:
            files = list(walk(path)) if path.is_dir() else [path]
            if not files:
                raise bad(path, f"the folder has no picture ({', '.join(SUFFIXES)})", "Add one.")
            found = [in_file(file) for file in files]
            names += map(str, files)
        pictures += found
    images, *_ = read_pictures(pictures, reading["size"], reading["mode"])
    return names, images
