"""`funcnet compare`: runs beside one another, their options and results."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import tyro
from rich.table import Table

from funcnet import checkpoint, plots, train
from funcnet._files import read_object
from funcnet.cli import _stdout
from funcnet.cli import _train_folder as files
from funcnet.cli._command import (
    CommandError,
    console,
    expected_errors,
    need,
    option,
    print_whole,
    writable,
    written,
)
from funcnet.train import engine


class Compared(NamedTuple):
    """A run as it is compared: its name, its options by flag, its result and parameters."""

    name: str
    folder: Path
    options: dict[str, Any]
    result: dict[str, Any]
    parameters: int | None
    data_sha256: str | None


@dataclasses.dataclass(frozen=True)
class CompareCommand:
    """Compare runs: the options in which they differ, and their results, the best first.

    They are ranked by the accuracy on validation, or R² of regressions, or whatever else a run is
    measured by, at the best epoch of each, which is chosen by the --best of that run. A run that
    has not ended comes last.
    """

    runs: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="RUN ...", help_behavior_hint=""),
    ]
    """Folders of runs of funcnet train."""
    out: Annotated[str | None, option("none")] = None
    """File for their curves over one another: .png, .svg or .pdf."""
    traceback: bool = False
    """Show where an error came from."""

    EPILOG: ClassVar[str] = """
Examples:

  funcnet compare runs/*
  funcnet compare runs/adam runs/sgd --out optimizers.png
"""

    def run(self) -> int:
        """Prints the table, and draws the curves."""
        names = _names(self.runs) if self.runs else {}
        if len(names) < 2:
            raise CommandError(f"RUN names {len(names)} run, expected at least two.")
        writable("--out", self.out, (".png", ".svg", ".pdf"))
        if self.out is not None:
            need("matplotlib")
        with expected_errors():
            runs = sorted((_read(*named) for named in names.items()), key=_rank)
        print_whole(console(), _table(runs))
        if len({run.data_sha256 for run in runs}) > 1:
            _stdout.say("funcnet compare: warning: the runs were not all measured on the same data")
        if self.out is not None:
            with expected_errors(), written("--out", self.out):
                plots.compare({run.name: run.folder for run in runs}, self.out)
        return 0


def _names(folders: Sequence[str]) -> dict[str, Path]:
    """The folders by what their paths do not have in common."""
    common = os.path.commonpath([os.path.dirname(os.path.abspath(folder)) for folder in folders])
    return {os.path.relpath(folder, common): Path(folder) for folder in folders}


def _read(name: str, folder: Path) -> Compared:
    config = files.configured(folder)
    result: dict[str, Any] = {}
    if (folder / files.RESULT).is_file():
        result = read_object(folder / files.RESULT)
    parameters = None
    if (folder / "model.json").is_file():
        trained = checkpoint.load_trained(folder)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
    options = {
        key if key != "name" else group: value
        for group, values in config["options"].items()
        for key, value in values.items()
        if key != "data_dir"
    }
    return Compared(name, folder, options, result, parameters, config.get("data_sha256"))


def _rank(run: Compared) -> tuple[float, float]:
    """What runs are sorted by: their first metric of the validation split, then its loss.

    A result holds both as they were at the run's best epoch.
    """
    found = [key for key in _measures([run]) if run.result[key] is not None]
    metric = next((key for key in found if key.startswith("val_") and key != "val_loss"), None)
    loss = run.result.get("val_loss")
    last = float("inf") if loss is None else loss
    if metric is None:
        return float("inf"), last
    sign = 1 if train.metrics.lower_is_better(metric) else -1
    return sign * run.result[metric], last


def _measures(runs: list[Compared]) -> list[str]:
    """What was measured of the splits of any run."""
    found = dict.fromkeys(key for run in runs for key in run.result)
    return [key for key in found if key.startswith(("val_", "test_"))]


def _written(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key.partition("_")[2] in engine.SHARES:
        return f"{100 * value:.2f} %"
    if key == "seconds":
        return f"{value:.1f}"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.5g}"


_OTHERS = ("best_epoch", "seconds", "stopped")


def _table(runs: list[Compared]) -> Table:
    """A row a run, a column for each option that differs, and for each number there is."""
    names = dict.fromkeys(name for run in runs for name in run.options)
    differing = [
        name
        for name in names
        if any(run.options.get(name) != runs[0].options.get(name) for run in runs)
    ]
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for name in differing:
        table.add_column(name.replace("_", " "), style="cyan")
    told = [
        key
        for key in (*_measures(runs), *_OTHERS)
        if any(run.result.get(key) is not None for run in runs)
    ]
    for key in told:
        name = key.replace("val_", "validation ").replace("r2", "R²").replace("_", " ")
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    for run in runs:
        options = [_said(run.options.get(name)) for name in differing]
        shown = [_written(key, run.result.get(key)) for key in told]
        count = "-" if run.parameters is None else f"{run.parameters:,}"
        table.add_row(run.name, *options, *shown, count)
    return table


def _said(value: Any) -> str:
    if value is None:
        return "-"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
