"""Data sets from tables: CSV, TSV and Parquet, read by Polars, as float64 features."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np

from funcnet.data._arrays import assemble
from funcnet.data._dataset import Dataset, LabelError, Task
from funcnet.data._formats import DataFormatError, bad
from funcnet.data._table_file import Table, check_columns, is_number, listed, read

Missing = Literal["error", "drop", "mean"]
"""What is done about missing values: see `from_table`."""
_TARGETS = ("target", "label", "class", "y")
_INDEX = re.compile(r"|Unnamed: \d+|__index_level_\d+__")  # as pandas writes it
_MOST_CATEGORIES = 50
_PLACES = 5


def from_table(
    path: str | os.PathLike[str],
    *,
    target: str | Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    without: Sequence[str] | None = None,
    missing: Missing = "error",
    task: Task | None = None,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
) -> Dataset:
    r"""Returns a data set of a table's rows: features (n, f) float64, and what is to be told.

    | column | features |
    |---|---|
    | numbers | one |
    | booleans, true or false | one, 0 or 1 |
    | strings of at most 50 distinct values, two rows each on average | one for each, 0 or 1 |
    | other | none: an error, which says how to leave the column out |

    A .csv has commas, or semicolons if its first line has no comma, a .tsv tabs; it is UTF-8, its
    first line has the columns' names, fields are quoted as RFC 4180 says, spaces around them are
    dropped, and blank lines passed over. Where commas do not separate, a column of numbers may have
    decimal commas; where a comma may be another one, as where no column has but numbers like
    1,234, that is an error. Missing is what is empty, NA, N/A, n/a, #N/A, <NA>, NaN, nan, null,
    NULL or "?". Integers past 2^53 are rounded. Features are not scaled:
    `fit_preprocessing(..., "standardised")` does that, from the training rows.

    Columns without a name, or that are called as pandas calls its index (Unnamed: 0,
    __index_level_0__), are no features unless `features` names them. Of another column that counts
    the rows, from 0 or 1, a RuntimeWarning says so.

    Args:
        path: a .csv, .tsv or .parquet file.
        target: the column that is to be told, or several: floats are regression, zeros and ones
            multilabel. By default the one column named target, label, class or y.
        features: the columns to tell it from; by default all others.
        without: columns to leave out of all others, where `features` is not given.
        missing: "error"; "drop" leaves out rows where a value is missing; "mean" puts the mean of
            the training rows for a missing number, and no category for a missing string. The
            target must be there: "drop" alone leaves such rows out.
        task: by default it follows from the target as in `from_arrays`.
        val: how many rows are for validation, as an int or a fraction.
        test: how many are for the test, likewise.
        seed: of the splits, as in `from_arrays`.

    Returns:
        The data set, its classes the target's values, or the targets' names; the columns, their
        categories and their means are in `reading`.

    Raises:
        DataFormatError: the file is no table, or a column or a value is as none of the above; the
            message names it, and the row, by the file's line for text.
        ImportError: Polars is not installed.
        LabelError: as `from_arrays`, or one of several targets has strings.
        ValueError: as `from_arrays`, or both `features` and `without` are given.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "cells.csv")
    >>> _ = path.write_text("size,colour,class\n" + "1.5,red,a\n2.5,blue,b\n" * 4)
    >>> dataset = from_table(path, val=2, test=0)
    >>> dataset.classes, dataset.train.images.shape
    (('a', 'b'), (6, 3))
    >>> dataset.reading["columns"][1]
    {'name': 'colour', 'kind': 'category', 'values': ['blue', 'red']}
    """
    return from_tables(
        {"train": [read(Path(path))]},
        target=target,
        features=features,
        without=without,
        missing=missing,
        task=task,
        val=val,
        test=test,
        seed=seed,
    )


def from_tables(
    tables: Mapping[str, Sequence[Table]],
    *,
    target: str | Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    without: Sequence[str] | None = None,
    missing: Missing = "error",
    name: str = "",
    task: Task | None = None,
    **options: Any,
) -> Dataset:
    """Makes a data set of the tables of each split; options are `assemble`'s."""
    if missing not in get_args(Missing):
        raise ValueError(
            f"from_table: missing is {missing!r}, expected one of {', '.join(get_args(Missing))}."
        )
    every = [table for split in tables.values() for table in split]
    targets = _targets(every[0], target)
    features = _features_of(every, targets, features, without)
    check_columns(every, [*features, *targets])
    if not features or not targets or set(features) & set(targets):
        raise ValueError(
            f"from_table: features are {features} and target {targets}, expected at least "
            "one column to tell the target from, and the target not among them."
        )
    plan = [_planned(column, every) for column in features]
    policy = _Policy(missing)
    splits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split, parts in tables.items():
        images, labels = [], []
        for table in parts:
            lost = policy.missing_targets(table, targets)
            x, rows = _matrix(plan, table, policy, ~lost)
            images.append(x)
            columns = [table.column(column).gather(rows) for column in targets]
            _require_alike(table, targets, columns)
            columns = [column.to_numpy() for column in columns]
            labels.append(columns[0] if len(columns) == 1 else np.stack(columns, 1))
        splits[split] = np.concatenate(images), np.concatenate(labels)
    reading = {"kind": "table", "columns": plan, "missing": missing, "target": targets}
    path, several = every[0].path, "s" if len(targets) > 1 else ""
    what = f"column{several} {listed(targets)}"
    dataset = assemble(
        splits,
        task=task,
        name=name or path.stem,
        reading=reading,
        what=what if len(splits) > 1 else f"{path}: {what}",
        **options,
    )
    if dataset.task != "classification":
        dataset = dataset._replace(classes=tuple(targets))
    return _filled(dataset, plan) if missing == "mean" else dataset


def _targets(table: Table, target: str | Sequence[str] | None) -> list[str]:
    if target is not None:
        return [target] if isinstance(target, str) else list(target)
    named = [column for column in table.frame.columns if column.lower() in _TARGETS]
    if len(named) == 1:
        return named
    raise ValueError(
        f"{table.path}: {len(named)} columns are named {', '.join(_TARGETS)}: which is to be told? "
        f"Pass target, one of {listed(table.frame.columns)}. A table's first line has the "
        "columns' names."
    )


def _features_of(
    tables: Sequence[Table],
    targets: Sequence[str],
    features: Sequence[str] | None,
    without: Sequence[str] | None,
) -> list[str]:
    """The columns that the target is told from."""
    if features is not None and without is not None:
        raise ValueError(
            f"from_table: features are {features} and without is {without}, expected one of the "
            "two: the columns to take, or those to leave out."
        )
    if features is not None:
        return [features] if isinstance(features, str) else list(features)
    left_out = [without] if isinstance(without, str) else list(without or ())
    check_columns(tables, left_out)
    chosen = [
        column
        for column in tables[0].frame.columns
        if column not in (*targets, *left_out) and not _INDEX.fullmatch(column)
    ]
    for column in chosen:
        if tables[0].counts_rows(column):
            warnings.warn(
                f"{tables[0].path}: column {column!r} counts the rows; if it says nothing else, "
                f"leave it out by without=[{column!r}]",
                RuntimeWarning,
                stacklevel=4,
            )
    return chosen


def _require_alike(table: Table, targets: Sequence[str], columns: Sequence[Any]) -> None:
    """Raises where one of several targets is no number."""
    import polars as pl

    kinds = {pl.String: "strings", pl.Boolean: "booleans"}
    said = [kinds.get(column.dtype, "numbers") for column in columns]
    if len(targets) > 1 and "strings" in said:
        each = ", ".join(f"{name!r} ({kind})" for name, kind in zip(targets, said, strict=True))
        raise LabelError(
            f"{table.path}: the targets are {each}, expected numbers or booleans where there are "
            "several. Strings are told one column at a time."
        )


def _planned(name: str, tables: Sequence[Table]) -> dict[str, Any]:
    """How a column becomes features, from all of its values."""
    import polars as pl

    columns = [table.column(name) for table in tables]
    kinds = {"text" if column.dtype == pl.String else "number" for column in columns}
    if kinds == {"number"}:
        boolean = all(column.dtype == pl.Boolean for column in columns)
        entry = {"name": name, "kind": "boolean" if boolean else "number"}
        commas = any(table.has_decimal_commas(name) for table in tables)
        return entry | ({"decimal": ","} if commas else {})
    texts = pl.concat([table.column(name, as_text=True).cast(pl.String) for table in tables])
    texts = texts.drop_nulls()
    values = texts.unique().sort().to_list()
    if len(values) <= _MOST_CATEGORIES and 2 * len(values) <= texts.len():
        return {"name": name, "kind": "category", "values": values}
    table, column = next(
        (t, c) for t, c in zip(tables, columns, strict=True) if c.dtype == pl.String
    )
    row = (~is_number(column) & column.is_not_null()).arg_max()
    raise bad(
        table.path,
        f"column {name!r} has strings of {len(values)} distinct values in {texts.len()} rows, the "
        f"first {column[row]!r} in {table.place(row)}, expected numbers or at most "
        f"{_MOST_CATEGORIES} categories, with two rows each on average",
        f"Leave it out by without=[{name!r}].",
    )


class _Policy(NamedTuple):
    """What is done about missing values."""

    missing: str
    is_new: bool = False  # for new rows the policy is the data set's

    def missing_targets(self, table: Table, targets: Sequence[str]) -> np.ndarray:
        """Which rows have no target, if they may."""
        lost = np.zeros(table.frame.height, bool)
        for column in targets:
            nulls = table.column(column).is_null().to_numpy()
            if nulls.any() and self.missing != "drop":
                raise self.error(table, column, nulls, "missing='drop' leaves such rows out")
            lost |= nulls
        return lost

    def cure(self, column: str) -> str:
        """What may be done about a feature's missing values."""
        if self.is_new:
            return "Put one there: the data set was read with missing='error'"
        return (
            "missing='drop' leaves such rows out, missing='mean' puts the mean of the training "
            f"rows, without=[{column!r}] leaves the column out"
        )

    def error(self, table: Table, column: str, nulls: np.ndarray, cure: str) -> DataFormatError:
        """The error about a column's missing values."""
        more = int(nulls.sum()) - 1
        return bad(
            table.path,
            f"column {column!r} has no value in {table.place(int(nulls.argmax()))}"
            + (f", nor in {more} more rows" if more else ""),
            f"{cure}.",
        )


def _matrix(
    plan: Sequence[Mapping[str, Any]], table: Table, policy: _Policy, keep: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The features of the rows to keep, NaN where a mean is to be put, and the rows' numbers."""
    parts = []
    keep = keep.copy()
    for entry in plan:
        values, nulls = _features(entry, table)
        nulls = nulls & keep
        if nulls.any() and policy.missing == "error":
            raise policy.error(table, entry["name"], nulls, policy.cure(entry["name"]))
        if policy.missing == "drop":
            keep &= ~nulls
        parts.append(values)
    rows = np.flatnonzero(keep)
    return np.concatenate([part[rows] for part in parts], 1), rows


def _features(entry: Mapping[str, Any], table: Table) -> tuple[np.ndarray, np.ndarray]:
    """The features (n, k) that a column becomes, and which rows have no value."""
    import polars as pl

    name, kind = entry["name"], entry["kind"]
    column = table.column(
        name, as_text=kind == "category", decimal_comma=entry.get("decimal") == ","
    )
    nulls = column.is_null().to_numpy()
    if kind == "category":
        column = column.cast(pl.String)
        known = column.is_in(entry["values"]).fill_null(True).to_numpy()
        expected = f"one of {listed(entry['values'])}"
        ones = [(column == value).fill_null(False).to_numpy() for value in entry["values"]]
        values = np.stack(ones, 1).astype(np.float64)
    else:
        if column.dtype == pl.String and kind == "boolean":
            words = {"true": 1.0, "1": 1.0, "false": 0.0, "0": 0.0}
            column = column.str.to_lowercase().replace_strict(
                words, default=None, return_dtype=pl.Float64
            )
        values = column.cast(pl.Float64, strict=False).to_numpy()[:, None]
        known = np.isfinite(values[:, 0]) | nulls
        expected = "a finite number"
        if kind == "boolean":
            known &= np.isin(values[:, 0], (0, 1)) | nulls
            expected = "true or false"
    if not known.all():
        row = int(known.argmin())
        raise bad(
            table.path,
            f"column {name!r} has {table.frame[name][row]!r} in {table.place(row)}, expected "
            f"{expected}",
            "Mend it, or leave it out.",
        )
    return values, nulls


def _filled(dataset: Dataset, plan: Sequence[dict[str, Any]]) -> Dataset:
    """Puts the mean of the training rows where numbers are missing, and into the plan."""
    for entry, place in _places(plan):
        column = dataset.train.images[:, place]
        there = column[~np.isnan(column)]
        if not len(there):
            raise ValueError(
                f"from_table: column {entry['name']!r} has no value in the training rows; leave it "
                f"out by without=[{entry['name']!r}]."
            )
        entry["mean"] = float(there.mean())
    for split in (dataset.train, dataset.val, dataset.test):
        _fill(split.images, plan)
    return dataset


def _fill(images: np.ndarray, plan: Sequence[dict[str, Any]]) -> None:
    """Puts the plan's means where numbers are missing, in place."""
    for entry, place in _places(plan):
        column = images[:, place]
        column[np.isnan(column)] = entry["mean"]


def _places(plan: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], int]]:
    """The columns that are one feature, and which."""
    place = 0
    for entry in plan:
        if entry["kind"] != "category":
            yield entry, place
        place += len(entry["values"]) if entry["kind"] == "category" else 1


def read_rows(reading: Mapping[str, Any], path: Path) -> tuple[list[str], np.ndarray]:
    """The numbers of a table's rows, counted from 1, and their features."""
    plan = cast("list[dict[str, Any]]", reading["columns"])
    table = read(path)
    names = [entry["name"] for entry in plan]
    check_columns([table], names)
    policy = _Policy(reading["missing"], is_new=True)
    images, rows = _matrix(plan, table, policy, np.ones(table.frame.height, bool))
    if len(rows) < table.frame.height:
        _warn_of_dropped(table, rows)
    if policy.missing == "mean":
        _fill(images, plan)
    return [str(row + 1) for row in table.numbers[rows]], images


def _warn_of_dropped(table: Table, rows: np.ndarray) -> None:
    """Says which rows are left out; where none is left, raises."""
    lost = np.delete(np.arange(table.frame.height), rows)
    if not len(rows):
        raise bad(
            table.path, f"each of its {len(lost)} rows lacks a value", "Put one there in one row."
        )
    places = ", ".join(table.place(int(row)) for row in lost[:_PLACES])
    warnings.warn(
        f"{table.path}: {len(lost)} of {table.frame.height} rows lack a value and are left out: "
        f"{places}{', ...' if len(lost) > _PLACES else ''}",
        RuntimeWarning,
        stacklevel=4,
    )
