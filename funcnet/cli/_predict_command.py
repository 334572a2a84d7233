"""`funcnet predict`: what a trained net says of new examples."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import tyro
from rich.table import Table

from funcnet._files import replacing
from funcnet.cli import _stdout
from funcnet.cli._command import (
    CommandError,
    console,
    option,
    print_whole,
    writable,
    written,
)
from funcnet.cli._jobs import expected_of_data, warnings_said
from funcnet.cli._trained_run import examples, is_run, opened, require_stdout
from funcnet.train import Trained


@dataclasses.dataclass(frozen=True)
class Predict:
    """Predict new examples from files, by the net of a run."""

    paths: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(
            metavar="[RUN] FILE ...", help_behavior_hint="(default of RUN: the latest in runs)"
        ),
    ] = ()
    """The folder of a run, and files of examples: of the kind that the run was trained on, or .npy
    and .npz arrays, and pictures of the very size, where it was trained on a named set."""
    csv: Annotated[str | None, option("a table on stdout")] = None
    """File to write the predictions to as CSV; - for stdout."""
    proba: bool = False
    """Print the probability of every class or label."""
    traceback: bool = False
    """Show where an error came from."""

    EPILOG: ClassVar[str] = """
Examples:

  funcnet predict cat.png dog.png
  funcnet predict runs/mnist-small images.npy --proba
  funcnet predict runs/cells new.csv --csv predictions.csv

A row has the example's name, its class, and the probability of it; of a regression the targets; of
several labels, which of them it has. Rows that lack a value are left out where the run was trained
with --missing drop, and stderr says which. In Python: funcnet.load("runs/cells").predict(examples).
"""

    def run(self) -> int:
        """Reads, predicts, prints or writes."""
        to_stdout = self.csv in (None, "-")
        if to_stdout:
            require_stdout()
        else:
            writable("--csv", self.csv)
        own = self.paths[:1] if self.paths and is_run(self.paths[0]) else ()
        files = self.paths[len(own) :]
        if not files:
            raise CommandError("there are no files, expected one of examples at least.")
        _require_there(files, bool(own))
        folder, trained = opened(own[0] if own else None)
        if not own:
            _stdout.say(f"funcnet predict: by the net of {folder}")
        with expected_of_data(), warnings_said("funcnet predict"):
            names, images = examples(folder, trained, files)
            header, rows = _predicted(trained, names, images, self.proba)
        if self.csv is None:
            print_whole(console(), _table(header, rows))
        elif to_stdout:
            print(_as_csv(header, rows), end="")
        else:
            with written("--csv", self.csv), replacing(self.csv) as file:
                file.write(_as_csv(header, rows).encode())
        lost = _stdout.lost()
        return _stdout.exit_code(lost) if lost else 0


def _require_there(files: Sequence[str], run_named: bool) -> None:
    """Raises CommandError where there is nothing at a path: the first of several may mean a run."""
    for path in files:
        if not Path(path).exists():
            may_be_run = not run_named and len(files) > 1 and path == files[0]
            what, expected = (
                ("folder or file", "that of a run, or an example")
                if may_be_run
                else ("file", "one of examples")
            )
            raise CommandError(f"there is no {what} {path}, expected {expected}.")


def _predicted(
    trained: Trained, names: Sequence[str], images: np.ndarray, proba: bool
) -> tuple[list[str], list[list[Any]]]:
    """The columns' names, and a row for each example."""
    if trained.task == "regression" and proba:
        raise ValueError("--proba: the task is regression, which has no probabilities.")
    outputs = trained.outputs(images)
    found = trained.answers(outputs)
    classes = [str(name) for name in trained.classes]
    if trained.task == "regression":
        return ["name", *classes], _rows(names, found.reshape(len(names), -1))
    probabilities = trained.probabilities(outputs)
    if probabilities.ndim != 2:
        raise ValueError(
            f"the net tells each of {probabilities.shape[1:-1]} places of an example apart, which "
            "is no row of a table; use funcnet.load(...).predict."
        )
    if trained.task == "multilabel":
        values = probabilities if proba else found.astype(int)
        return ["name", *classes], _rows(names, values)
    header = ["name", "prediction", "probability", *(classes if proba else ())]
    columns = [found[:, None], probabilities.max(-1, keepdims=True)]
    return header, _rows(names, *columns, *([probabilities] if proba else ()))


def _rows(names: Sequence[str], *columns: np.ndarray) -> list[list[Any]]:
    parts = (column.tolist() for column in columns)
    return [[name, *chain(*values)] for name, *values in zip(names, *parts, strict=True)]


def _as_csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """As RFC 4180 has it, numbers in full."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    return text.getvalue()


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """The same for people."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    first = rows[0] if rows else header
    for name, value in zip(header, first, strict=True):
        justify: Any = "left" if isinstance(value, str) else "right"
        table.add_column(name, justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row))
    return table
