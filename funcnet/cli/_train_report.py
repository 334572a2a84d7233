"""What `funcnet train` prints: tables before and after, a line an epoch and a live bar between."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from typing import Any

from rich import progress as bars
from rich.console import Console, RenderableType
from rich.table import Table

from funcnet import nets
from funcnet.train import Progress
from funcnet.train.engine import called, epoch_line, measured, number, things


class _Bar(bars.Progress):
    """A bar, and a line of numbers below it."""

    numbers = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield self.numbers


_ALL = 20  # of so many epochs each has a line, where there is no terminal
_FIRST, _LINES = 5, 10  # of more the first have one, and so many others
_SILENT_SECONDS = 10.0  # after which an epoch has a line


class Report:
    """The progress of one run on a console; a context manager around `fit`.

    It has a line an epoch, and on a terminal a live bar below them, which is gone in the end. Where
    there is no terminal, many short epochs have fewer lines.
    """

    def __init__(self, console: Console, epochs: int, what: str = "images"):
        self.console, self.epochs, self.what = console, epochs, what
        self.images, self.seconds = 0, 0.0
        self._every = 1
        if not console.is_terminal and epochs > _ALL:
            self._every = math.ceil(epochs / _LINES)
        self._left_out: dict[str, Any] | None = None
        self._printed = time.perf_counter()
        self._val: str | None = None
        self._bar = _Bar(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal or console.quiet,
        )
        self._task = self._bar.add_task("compiling", total=None, left="")

    def __enter__(self) -> Report:
        self._bar.start()
        if not self.console.is_terminal:
            if self._every > 1:
                self.console.print(
                    f"a line each for epochs 0 to {_FIRST}, then every {self._every} epochs or "
                    f"{_SILENT_SECONDS:.0f} seconds; history.jsonl has them all",
                    soft_wrap=True,
                )
            self.console.print("compiling ...")
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()
        if self._left_out is not None:
            self._print(self._left_out)  # the last one

    def step(self, now: Progress, images: int) -> None:
        """Takes in what `fit` says after a chunk, of so many images."""
        self.images += images
        self.seconds += images / now.images_per_second
        numbers = [
            f"loss {now.loss:.4g}",
            *(
                []
                if math.isnan(now.accuracy)
                else [f"accuracy {measured('accuracy', now.accuracy)}"]
            ),
            *([] if self._val is None else [f"validation {self._val}"]),
            f"{now.images_per_second:,.0f} {self.what}/s",
        ]
        self._bar.numbers = "  ".join(numbers)
        self._bar.update(
            self._task,
            description=f"epoch {now.epoch}/{now.epochs}  step {now.step}/{now.steps}",
            completed=now.step,
            total=now.steps,
            left=f"{_clock(now.seconds_left)} left",
        )

    def epoch(self, row: dict[str, Any]) -> None:
        """Takes in a row of the history."""
        metric = next(name for name in row if name.startswith("train_")).removeprefix("train_")
        found = row[f"val_{metric}"]
        self._val = None if found is None else measured(metric, found)
        told = row["epoch"] <= _FIRST or row["epoch"] % self._every == 0
        if told or time.perf_counter() - self._printed > _SILENT_SECONDS:
            self._print(row)
        else:
            self._left_out = row

    def _print(self, row: dict[str, Any]) -> None:
        self.console.print(epoch_line(row, self.epochs, self.what), soft_wrap=True)
        self._left_out, self._printed = None, time.perf_counter()

    @property
    def images_per_second(self) -> float | None:
        """Images through the steps of the run, evaluations and compiling not counted."""
        return self.images / self.seconds if self.seconds else None


def layers(summary: nets.Summary) -> Table:
    """`nets.summary` as a table."""
    one = things(summary.input_shape).removesuffix("s")
    title = f"net (FLOPs and residual bytes of one {one})"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("layer")
    table.add_column("output")
    for column in ("parameters", "FLOPs", "residual bytes"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row("input", _shape(summary.input_shape), style="dim")
    for row in summary.rows:
        table.add_row(row.name, _shape(row.output_shape), *_counts(row))
    table.add_section()
    table.add_row("total", "", *_counts(summary), style="bold")
    return table


def facts(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Names and what belongs to them, in two columns."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.show_header = False
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def result_rows(
    result: dict[str, Any], folder: str | os.PathLike[str], what: str = "images"
) -> list[tuple[str, str]]:
    """The result of a run, as it is printed."""
    rate = result["images_per_second"]
    names = [name.removeprefix("test_") for name in result if name.startswith("test_")]
    metrics = [name for name in names if name != "loss"]
    rows = [
        ("best epoch", f"{result['best_epoch']} of {result['epochs']}"),
        *(
            (f"{split} {called(name, metrics)}", measured(name, result[f"{key}_{name}"]))
            for key, split in (("val", "validation"), ("test", "test"))
            for name in metrics
        ),
        ("test loss", number(result["test_loss"])),
        ("steps skipped", str(result["nonfinite"] or "-")),
        ("seconds", f"{result['seconds']:.1f}, compiling and evaluating included"),
        (f"{what} per second", f"{rate:,.0f} in the steps" if rate else "-"),
        ("folder", os.fspath(folder)),
    ]
    return [row for row in rows if row[1] != "-"]


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _counts(row: nets.Row | nets.Summary) -> list[str]:
    return [f"{n:,}" for n in (row.parameters, row.flops, row.residual_bytes)]
