"""Data sets from Parquet as Hugging Face hands them out: pictures within a table."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from funcnet.data import _table_file, _tables
from funcnet.data._arrays import SPLITS
from funcnet.data._dataset import Dataset, check_labels
from funcnet.data._folder import from_pictures
from funcnet.data._formats import bad
from funcnet.data._pictures import Picture, in_memory

_SPLIT = re.compile(rf"({'|'.join(sorted(SPLITS, key=len, reverse=True))})(?![a-z])", re.IGNORECASE)


def from_parquet(
    path: str | os.PathLike[str],
    *,
    target: str | Sequence[str] | None = None,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    **options: Any,
) -> Dataset:
    """Returns a data set of Parquet: pictures as Hugging Face's sets have them, or a table.

    Pictures are a column of structs with their bytes (as of PNG or JPEG), told is a column of
    class indices, whose names stand in the file's metadata `huggingface`, or of other labels.
    A folder, or the folder data in it, holds several files, whose names may begin with their
    split: train-00000-of-00002.parquet, validation-..., test-...; splits that are not there are cut
    from training. A file without pictures is a table as for `from_table`.

    Args:
        path: a .parquet file, or a folder of them.
        target: the column that is to be told; of pictures by default the one called label, or the
            only one whose classes' names are in the metadata.
        val: how many of the training rows are for validation, as an int or a fraction.
        test: how many are for the test, likewise.
        seed: of the splits, as in `from_arrays`.
        options: `size` and `mode` of `from_folder` for pictures, `features`, `without`, `missing`
            and `task` of `from_table` for a table.

    Returns:
        The data set.

    Raises:
        DataFormatError: a file is damaged, or a picture; there is no such column, or no label.
        ImportError: Polars or Pillow is not installed.
        LabelError: as `from_arrays`.
        ValueError: as `from_arrays`.

    >>> import tempfile
    >>> import polars
    >>> path = os.path.join(tempfile.mkdtemp(), "table.parquet")
    >>> polars.DataFrame({"x": [0.5, 1.5] * 5, "y": [False, True] * 5}).write_parquet(path)
    >>> from_parquet(path, val=1, test=1).classes
    ('False', 'True')
    """
    paths = shards(Path(path))
    name = Path(path).resolve().name.removesuffix(".parquet")
    options |= {"val": val, "test": test, "seed": seed, "name": name}
    tables = {split: [_table_file.read(one) for one in files] for split, files in paths.items()}
    every = [table for split in tables.values() for table in split]
    column = image_column(every[0])
    if column is None:
        return _tables.from_tables(tables, target=target, **options)
    named = _class_names(every[0].path)
    if target is None:
        target = _label_column(every[0], named)
    if not isinstance(target, str):
        raise ValueError(f"from_parquet: target is {target!r}, expected one column, of classes.")
    _table_file.check_columns(every, [column, target])
    pictures = {split: _pictures(parts, column) for split, parts in tables.items()}
    classes = named.get(target)
    labels = {split: _labels(parts, target, classes) for split, parts in tables.items()}
    return from_pictures(pictures, labels, task="classification", classes=classes, **options)


def shards(path: Path) -> dict[str, list[Path]]:
    """The Parquet files of each split."""
    if not path.is_dir():
        return {"train": [path]}
    files = sorted(path.glob("[!.]*.parquet")) or sorted(path.glob("data/[!.]*.parquet"))
    if not files:
        raise bad(path, "the folder has no .parquet files", "Name the folder that has them.")
    found = [_SPLIT.match(file.name) for file in files]
    if not any(found):
        return {"train": files}
    paths: dict[str, list[Path]] = {}
    for file, match in zip(files, found, strict=True):
        if match is None:
            raise bad(
                file,
                "other files of the folder have their split's name, this one has none",
                f"Let it begin with one of {', '.join(SPLITS)}, or move it away.",
            )
        paths.setdefault(SPLITS[match[1].lower()], []).append(file)
    if "train" not in paths:
        raise bad(path, f"it has {', '.join(paths)}, but no train-*.parquet", "Add it.")
    return paths


def image_column(table: _table_file.Table) -> str | None:
    """The name of the one column of pictures, None where there is none."""
    import polars as pl

    found = [
        name
        for name, dtype in table.frame.schema.items()
        if isinstance(dtype, pl.Struct) and any(field.name == "bytes" for field in dtype.fields)
    ]
    if len(found) > 1:
        raise bad(
            table.path, f"it has several columns of pictures, {', '.join(found)}", "Keep one."
        )
    return found[0] if found else None


def pictures_of(table: _table_file.Table, column: str) -> list[Picture]:
    """The pictures of a table, called by the file and the row."""
    contents = table.frame[column].struct.field("bytes")
    nulls = contents.is_null()
    if nulls.any():
        raise bad(
            table.path,
            f"column {column!r} has no bytes in {table.place(int(nulls.arg_max() or 0))}: the file "
            "holds paths there, or nothing, and no picture",
            "Put the pictures into folders named as their classes, for from_folder, write their "
            "bytes into the file, or drop the row.",
        )
    return [in_memory(f"{table.path}, row {i}", one) for i, one in enumerate(contents, 1)]


def _pictures(tables: Sequence[_table_file.Table], column: str) -> list[Picture]:
    return [picture for table in tables for picture in pictures_of(table, column)]


def _class_names(path: Path) -> dict[str, list[str]]:
    """The classes' names of each column, from what Hugging Face says of it in the metadata."""
    import polars as pl

    try:
        info = json.loads(pl.read_parquet_metadata(path).get("huggingface", "{}"))
        features = info["info"]["features"] if info else {}
        return {
            name: list(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fault = f"its metadata `huggingface` is not as expected ({error!r})"
        raise bad(path, fault, "Write it anew.") from error


def _label_column(table: _table_file.Table, named: Mapping[str, Any]) -> str:
    columns = table.frame.columns
    if "label" in columns:
        return "label"
    if len(named) == 1:
        return next(iter(named))
    raise bad(
        table.path,
        "it has no column label",
        f"Pass target, one of {', '.join(map(repr, columns))}.",
    )


def _labels(
    tables: Sequence[_table_file.Table], target: str, classes: Sequence[str] | None
) -> np.ndarray:
    """The labels of a split's tables, as names where the metadata has them."""
    labels = []
    for table in tables:
        column = table.column(target)
        nulls = column.is_null()
        if column.dtype.is_integer():  # Hugging Face's sets have -1 where a label is withheld
            nulls |= column.fill_null(-1) == -1
        if nulls.any():
            raise bad(
                table.path,
                f"column {target!r} has no label in {table.place(int(nulls.arg_max() or 0))}",
                "Drop such rows, or move the file away if it has no labels.",
            )
        found = column.to_numpy()
        if classes is not None:
            # By name, because the names may be numbers that are other than the indices.
            found = np.array(classes)[check_labels(found, len(classes), f"{table.path}: {target}")]
        labels.append(found)
    return np.concatenate(labels)
