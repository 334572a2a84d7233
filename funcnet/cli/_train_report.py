"""What `funcnet train` prints: tables before and after, a live bar or plain lines between."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rich import progress as bars
from rich.console import Console, RenderableType
from rich.table import Table

from funcnet import nets
from funcnet.train import Progress


class _Bar(bars.Progress):
    """A bar, and a line of numbers below it."""

    numbers = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield self.numbers


class Report:
    """The progress of one run on a console; a context manager around `fit`.

    On a terminal it is a live bar, which is gone in the end; elsewhere a line an epoch.
    """

    def __init__(self, console: Console, epochs: int):
        self.console, self.epochs = console, epochs
        self.images, self.seconds = 0, 0.0
        self._val: float | None = None
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
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def step(self, now: Progress, images: int) -> None:
        """Takes in what `fit` says after a chunk, of so many images."""
        self.images += images
        self.seconds += images / now.images_per_second
        numbers = [
            f"loss {now.loss:.4g}",
            f"accuracy {_percent(now.accuracy)}",
            *([] if self._val is None else [f"validation {_percent(self._val)}"]),
            f"{now.images_per_second:,.0f} images/s",
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
        self._val = row["val_accuracy"]
        if self.console.is_terminal:
            return
        parts = [
            f"epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}",
            f"step {row['step']}",
            f"loss {_number(row['loss'])}",
            f"train {_percent(row['train_accuracy'])}",
            f"val {_percent(row['val_accuracy'])}",
            *([f"{row['images_per_second']:,.0f} images/s"] if row["images_per_second"] else []),
            f"{row['seconds']:.1f} s",
            *([f"{row['nonfinite']} steps skipped"] if row.get("nonfinite") else []),
        ]
        self.console.print("  ".join(parts), soft_wrap=True)

    @property
    def images_per_second(self) -> float | None:
        """Images through the steps of the run, evaluations and compiling not counted."""
        return self.images / self.seconds if self.seconds else None


def layers(summary: nets.Summary) -> Table:
    """`nets.summary` as a table."""
    title = "net (FLOPs and residual bytes of one image)"
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


def result_rows(result: dict[str, Any], folder: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """The result of a run, as it is printed."""
    rate = result["images_per_second"]
    rows = [
        ("best epoch", f"{result['best_epoch']} of {result['epochs']}"),
        ("validation accuracy", _percent(result["val_accuracy"])),
        ("test accuracy", _percent(result["test_accuracy"])),
        ("test loss", _number(result["test_loss"])),
        ("steps skipped", str(result["nonfinite"] or "-")),
        ("seconds", f"{result['seconds']:.1f}, compiling and evaluating included"),
        ("images per second", f"{rate:,.0f} in the steps" if rate else "-"),
        ("folder", os.fspath(folder)),
    ]
    return [row for row in rows if row[1] != "-"]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _counts(row: nets.Row | nets.Summary) -> list[str]:
    return [f"{n:,}" for n in (row.parameters, row.flops, row.residual_bytes)]
