"""The file of a table, CSV, TSV or Parquet: its rows, its columns' types, and where a value is."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from funcnet.data._formats import bad

SUFFIXES = (".csv", ".tsv", ".parquet")
_NO_VALUE = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "null", "NULL", "?")
_SHOWN = 20
_FEW_ROWS = 10
# Numbers as they are written where the decimal point is a comma, and what may be meant otherwise.
_DECIMAL_COMMA = r"^[+-]?(?:\d+,\d*|,\d+)(?:[eE][+-]?\d+)?$"
_THOUSANDS = r"^[+-]?[1-9]\d{0,2}(?:,\d{3})+$"
_BOTH = r"^[+-]?\d{1,3}(?:\.\d{3})+,\d*$"


@dataclass(frozen=True, eq=False)
class Table:
    """A table, the file that it comes from, and the rows' numbers there, from 0.

    A column's type is found once: it is asked for what becomes of the column, and for its values.
    """

    path: Path
    frame: Any
    numbers: np.ndarray
    _columns: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def is_text(self) -> bool:
        """Whether types are for us to find, in a file of text."""
        return self.path.suffix.lower() != ".parquet"

    def place(self, row: int) -> str:
        """Where a row is: its line in a file of text, counted from 1, or else its number."""
        if not self.is_text:
            return f"row {self.numbers[row] + 1}"
        with open(self.path, encoding="utf-8-sig", errors="replace", newline="") as stream:
            lines = csv.reader(stream, delimiter=separator(self.path))
            try:
                while not any(next(lines)):  # blank lines before the names
                    pass
                for _ in range(self.numbers[row]):
                    next(lines)
            except (csv.Error, StopIteration):  # it takes quotes another way than Polars
                return f"row {self.numbers[row] + 1}"
            return f"line {lines.line_num + 1}"

    def column(self, name: str, *, as_text: bool = False, decimal_comma: bool = False) -> Any:
        """A column as integers, floats, booleans or strings; null where a value is missing.

        Args:
            name: the column.
            as_text: of a file of text, strings whatever they are.
            decimal_comma: whether a comma in a number is known to be the decimal one.
        """
        key = name, as_text, decimal_comma
        if key not in self._columns:
            self._columns[key] = self._column(*key)
        return self._columns[key]

    def _column(self, name: str, as_text: bool, decimal_comma: bool) -> Any:
        import polars as pl

        column = self.frame[name]
        if column.dtype in (pl.Categorical, pl.Enum):
            column = column.cast(pl.String)
        if column.dtype == pl.String:
            stripped = column.str.strip_chars()
            missing = stripped.is_in(list(_NO_VALUE))
            column = pl.select(pl.when(missing).then(None).otherwise(stripped)).to_series()
            if not self.is_text or as_text:
                return column
            return _typed(self._with_points(name, column, decimal_comma))
        if as_text and (column.dtype.is_integer() or column.dtype == pl.Boolean):
            return column.cast(pl.String)
        if column.dtype.is_integer() or column.dtype == pl.Boolean:
            return column
        if column.dtype.is_numeric() or column.dtype == pl.Null:
            return column.cast(pl.Float64).fill_nan(None)
        raise bad(
            self.path,
            f"column {name!r} has type {column.dtype}, expected numbers, booleans or strings",
            f"Leave it out by without=[{name!r}], or convert it.",
        )

    def has_decimal_commas(self, name: str) -> bool:
        """Whether a column of numbers has them."""
        return self.is_text and bool(self.frame[name].str.contains(",", literal=True).any())

    def counts_rows(self, name: str) -> bool:
        """Whether a column is 0, 1, 2, ... or 1, 2, 3, ..., in more rows than by chance."""
        import polars as pl

        column, rows = self.frame[name], self.frame.height
        if self.is_text:
            column = column.cast(pl.Int64, strict=False)
        if not column.dtype.is_integer() or rows < _FEW_ROWS or column[0] not in (0, 1):
            return False
        return bool(np.array_equal(column.to_numpy(), column[0] + np.arange(rows)))

    def _with_points(self, name: str, column: Any, told: bool) -> Any:
        """A text's column, with decimal points for decimal commas if all of it are numbers."""
        there = column.drop_nulls()
        commas = there.str.contains("|".join((_DECIMAL_COMMA, _THOUSANDS, _BOTH)))
        numbers, others = there.filter(commas), there.filter(~commas)
        if not numbers.len() or not is_number(others).all():
            return column.str.replace(r"^([^,]*),([^,]*)$", "$1.$2") if told else column
        decimal = numbers.str.contains(_DECIMAL_COMMA).all()
        decimal &= not others.str.contains(".", literal=True).any()
        if decimal and (told or self._writes_decimal_commas()):
            return column.str.replace(",", ".", literal=True)
        row = int((column == numbers[0]).fill_null(False).arg_max())
        raise bad(
            self.path,
            f"column {name!r} has {numbers[0]!r} in {self.place(row)}, which may be a number with "
            "a decimal comma, one with a comma between thousands, or a category",
            "Write numbers with a decimal point and categories without a comma, or leave the "
            f"column out by without=[{name!r}].",
        )

    def _writes_decimal_commas(self) -> bool:
        """Whether the commas of one of a text's columns are decimal beyond doubt."""
        if separator(self.path) == ",":
            return False
        for column in self.frame.get_columns():
            there = column.drop_nulls().str.strip_chars()
            there = there.filter(~there.is_in(list(_NO_VALUE)))
            decimal = there.str.contains(_DECIMAL_COMMA) & ~there.str.contains(_THOUSANDS)
            if decimal.any() and is_number(there).all():
                return True
        return False


def read(path: Path) -> Table:
    """Reads a table; of text every column is strings."""
    try:
        import polars as pl
    except ImportError as error:
        raise ImportError("tables need Polars: pip install funcnet[data]") from error
    if path.suffix.lower() not in SUFFIXES:
        raise bad(path, "no table by its name", f"Expected one of {', '.join(SUFFIXES)}.")
    polars = pl.exceptions
    faults = (polars.PolarsError, polars.PanicException, OSError, UnicodeError)
    with open(path, "rb") as stream:
        try:
            if path.suffix.lower() == ".parquet":
                frame = pl.read_parquet(stream)
            else:
                frame = pl.read_csv(stream, separator=separator(path), infer_schema=False)
            frame = frame.rename({column: column.strip() for column in frame.columns})
        except faults as error:
            raise bad(
                path,
                f"no table can be read from it ({str(error).partition(chr(10))[0]})",
                "Expected UTF-8 text whose first line names the columns, with as many fields in "
                "each line, or Parquet.",
            ) from error
    numbers = np.arange(frame.height)
    if frame.width > 1 and path.suffix.lower() != ".parquet":
        blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
        frame, numbers = frame.filter(~blank), numbers[~blank.to_numpy()]
    if not frame.height:
        raise bad(path, "it has no rows", "Expected a line of names, and then one for each row.")
    return Table(path, frame, numbers)


def separator(path: Path) -> str:
    """What stands between the fields of a text."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    with open(path, "rb") as stream:
        names = stream.readline(1 << 16)
    return ";" if b";" in names and b"," not in names else ","


def is_number(column: Any) -> Any:
    """Which strings are numbers, with a decimal point or a decimal comma."""
    import polars as pl

    return column.cast(pl.Float64, strict=False).is_not_null() | column.str.contains(_DECIMAL_COMMA)


def _typed(column: Any) -> Any:
    """Strings as integers, floats or booleans, if all are; null stays."""
    import polars as pl

    there = column.drop_nulls()
    if not there.len():
        return column.cast(pl.Float64)
    if not there.cast(pl.Int64, strict=False).has_nulls():
        return column.cast(pl.Int64)
    if not there.cast(pl.Float64, strict=False).has_nulls():
        return column.cast(pl.Float64).fill_nan(None)
    lower = column.str.to_lowercase()
    return lower == "true" if lower.drop_nulls().is_in(["true", "false"]).all() else column


def listed(columns: Sequence[str]) -> str:
    """Columns, or what else has names, in words; of many the first."""
    return ", ".join(map(repr, columns[:_SHOWN])) + (", ..." if len(columns) > _SHOWN else "")


def check_columns(tables: Sequence[Table], columns: Sequence[str]) -> None:
    """Raises DataFormatError where a table has not all of the columns."""
    for table in tables:
        for column in columns:
            if column not in table.frame.columns:
                raise bad(
                    table.path,
                    f"there is no column {column!r}",
                    f"Its columns are {listed(table.frame.columns)}.",
                )
