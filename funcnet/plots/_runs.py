"""Runs: their curves, alone and over one another."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from funcnet._files import read_object
from funcnet._matplotlib import BLUE, COLOURS, RED
from funcnet.plots._figures import (
    LINES,
    PathLike,
    finish_epochs,
    make_panels,
    saved,
    style,
    words,
)
from funcnet.train import History, metrics
from funcnet.train.engine import SHARES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any  # annotations that are executed find a name

_LOG_FROM = 50.0  # a loss that falls by more than this factor is drawn on a logarithmic axis

Rows = Sequence[Mapping[str, Any]]


def load_run(path: PathLike) -> tuple[History, np.ndarray | None]:
    r"""Reads what `funcnet train` left: the rows of its history and the loss of each step.

    Args:
      path: the run's folder, or the `history.jsonl` in it.

    Returns:
      The history, and the losses (steps,), None where `losses.npy` is not there: it is written when
      a run ends. What JSON cannot hold, a loss that is not finite, is None in the history. A last
      row that is not complete, as an ended process may leave it, is left out.

    Raises:
      FileNotFoundError: there is no history.
      ValueError: a row before the last is no JSON object; `losses.npy` is damaged.

    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "history.jsonl").write_text('{"epoch": 0}\n{"epo')
    ...     load_run(folder)
    ([{'epoch': 0}], None)
    """
    path = Path(path)
    file = path / "history.jsonl" if path.is_dir() else path
    *lines, torn = file.read_text(encoding="utf-8").split("\n")
    history = History()
    for number, line in enumerate([*lines, torn] if torn else lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            history.append(row)
        elif number <= len(lines):
            raise ValueError(f"{file}, line {number}: {line[:40]!r} is no row of a history.")
    losses = file.with_name("losses.npy")
    if not losses.is_file():
        return history, None
    try:
        return history, np.load(losses, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{losses} is damaged: {error}.") from None


@style()
def curves(
    history: Rows | PathLike,
    losses: ArrayLike | Sequence[Any] | None = None,
    path: PathLike | None = None,
    title: str = "",
    panels: Sequence[str] | None = None,
    best_epoch: int | None = None,
) -> Figure:
    r"""Draws a run: the loss of each step, and the accuracies or another metric after each epoch.

    The left panel has every step's loss lightly and its running mean, a centred mean over $w$
    steps, and the validation loss after each epoch; the right one the first metric of the training
    and validation rows, an accuracy in percent, the run's best epoch marked. A loss that falls by
    more than a factor of 50 is drawn on a logarithmic axis.
    What was measured before training is left out of the right panel where it lies outside of its
    range, which is that of the epochs. What is not finite leaves a gap.

    Args:
      history: the rows of `Run.history`, or the path of a run's folder or `history.jsonl`.
      losses: `Run.losses` (steps,); without them, the mean losses of the epochs are drawn, or those
        that lie beside `history.jsonl`.
      path: where to save the figure, as .png, .svg or .pdf; None to save nothing.
      title: a line above the panels.
      panels: which of them, from left to right: "loss", and a metric by its name, of which the
        history has columns such as `val_accuracy`; None for the loss and the first metric.
      best_epoch: the epoch to mark, such as `Run.best_epoch`; None for that which the `result.json`
        beside `history.jsonl` names, and where there is none the best of the panel's metric, the
        first where several are equal.

    Returns:
      The figure, with an axes a panel.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: there is no row.

    Source: courses.md rows 0-14, 1-28 and 4-27.

    >>> figure = curves([{"epoch": 0, "train_accuracy": 0.1, "val_accuracy": 0.2}])
    >>> figure.axes[1].get_ylabel()
    'accuracy (%)'
    """
    if best_epoch is None and isinstance(history, str | os.PathLike):
        best_epoch = _best_epoch(Path(history))
    history, values = _run(history, losses)
    panels = ("loss", _metric(history)) if panels is None else panels
    figure, drawn = make_panels(len(panels), (5.5 * len(panels), 4.5), title)
    for axes, panel in zip(drawn, panels, strict=True):
        if panel == "loss":
            _draw_loss(axes, history, values, BLUE, "", raw=0.3)
            validated = _column(history, "val_loss")
            if np.isfinite(validated).any():
                steps = _column(history, "step")
                axes.plot(steps, validated, color=RED, marker="o", ms=3.5, label="validation")
            axes.set_title("loss of each step")
        else:
            _draw_metric(axes, history, panel, best_epoch)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, columnspacing=1.2)
    return saved(figure, path)


@style()
def compare(
    runs: Mapping[str, tuple[Rows, ArrayLike | Sequence[Any] | None] | PathLike],
    path: PathLike | None = None,
    title: str = "",
) -> Figure:
    """Draws runs over one another: loss per step, training and validation accuracy per epoch.

    The courses' three panels; where the first run has another metric than accuracy, that one.
    Losses are running means, as in `curves`, over the steps themselves.

    Args:
      runs: name -> (history, losses), or name -> the path of a run's folder or `history.jsonl`.
      path: where to save the figure; None to save nothing.
      title: a line above the panels.

    Returns:
      The figure, with three axes.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: there is no run, or a run without a row.

    Source: courses.md rows 0-14, 0-18 and 1-28.

    >>> rows = [{"epoch": 0, "train_accuracy": 0.1, "val_accuracy": 0.2}]
    >>> figure = compare({"sgd": (rows, [2.3, 2.2]), "adam": (rows, [2.3, 1.9])})
    >>> [axes.get_title() for axes in figure.axes]
    ['training loss', 'training accuracy', 'validation accuracy']
    """
    if not runs:
        raise ValueError("compare: there is no run, expected name -> (history, losses).")
    figure, (loss, train, val) = make_panels(3, (15.0, 4.6), title)
    metric = ""
    for index, (name, run) in enumerate(runs.items()):
        history, values = _run(run, None) if isinstance(run, str | os.PathLike) else _run(*run)
        metric = metric or _metric(history)
        colour = COLOURS[index % len(COLOURS)]
        style = LINES[index // len(COLOURS) % len(LINES)]
        _draw_loss(loss, history, values, colour, name, raw=0.12, style=style)
        for axes, split in ((train, "train"), (val, "val")):
            axes.plot(
                _column(history, "epoch"),
                _measured(history, split, metric),
                style,
                color=colour,
                marker="o",
                ms=3.5,
                label=name,
            )
    loss.set_title("training loss")
    finish_epochs(train, f"training {words(metric)}", metric)
    finish_epochs(val, f"validation {words(metric)}", metric)
    handles, names = val.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 7))
    return saved(figure, path)


# --- Parts of a figure


def _run(
    history: Rows | PathLike, losses: ArrayLike | Sequence[Any] | None
) -> tuple[Rows, np.ndarray | None]:
    """Returns rows, of which there is at least one, and losses as float64."""
    if isinstance(history, str | os.PathLike):
        history, stored = load_run(history)
        losses = stored if losses is None else losses
    if not history:
        raise ValueError("plots: the history has no row, expected one an epoch.")
    return history, None if losses is None else np.asarray(losses, np.float64)


def _best_epoch(path: Path) -> int | None:
    """What `funcnet train` left of a run that has ended: which of its epochs is the best."""
    file = (path if path.is_dir() else path.parent) / "result.json"
    return read_object(file).get("best_epoch") if file.is_file() else None


def _column(history: Rows, key: str) -> np.ndarray:
    """One column as floats, NaN where there is no number."""
    values = (row.get(key) for row in history)
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _metric(history: Rows) -> str:
    """The name of the first metric that the rows have, accuracy where they have none."""
    names = (name.removeprefix("train_") for name in history[0] if name.startswith("train_"))
    return next(names, "accuracy")


def _measured(history: Rows, split: str, metric: str) -> np.ndarray:
    """A metric's column, a share of right answers in percent."""
    return _column(history, f"{split}_{metric}") * (100 if metric in SHARES else 1)


def _draw_loss(
    axes: Axes,
    history: Rows,
    losses: np.ndarray | None,
    colour: str,
    name: str,
    raw: float,
    style: str = "-",
) -> None:
    """Draws losses lightly with their running mean, or the means of the epochs."""
    if losses is None:
        steps, means = _column(history, "step"), _column(history, "loss")
        axes.plot(steps, means, style, color=colour, label=name or "mean of each epoch", marker="o")
    else:
        steps = np.arange(1, len(losses) + 1)
        window = max(1, min(100, len(losses) // 40))
        means = np.convolve(losses, np.full(window, 1 / window), "valid") if len(losses) else losses
        axes.plot(steps, losses, color=colour, alpha=raw, lw=0.8, label=None if name else "loss")
        centres = steps[: len(means)] + (window - 1) / 2
        axes.plot(centres, means, style, color=colour, label=name or f"mean of {window} steps")
    means = means[np.isfinite(means)]
    if means.size and means.min() > 0 and means.max() > _LOG_FROM * means.min():
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, mean over the batch")


def _draw_metric(axes: Axes, history: Rows, metric: str, best_epoch: int | None) -> None:
    """Draws a metric after each epoch, the best one marked."""
    epochs = _column(history, "epoch")
    for name, split, colour, line in (
        ("training", "train", BLUE, "--"),
        ("validation", "val", RED, "-"),
    ):
        found = _measured(history, split, metric)
        if np.isfinite(found).any():
            axes.plot(epochs, found, line, color=colour, marker="o", ms=3.5, label=name)
    found = _measured(history, "val", metric)
    if np.isfinite(found).any():
        best = int((np.nanargmin if metrics.lower_is_better(metric) else np.nanargmax)(found))
        if best_epoch in epochs:
            best = int(np.flatnonzero(epochs == best_epoch)[-1])
        value = f"{found[best]:.1f} %" if metric in SHARES else f"{found[best]:.4g}"
        label = f"best: {value} (epoch {epochs[best]:.0f})"
        axes.plot(epochs[best], found[best], "*", color=RED, ms=15, mec="white", label=label)
    finish_epochs(axes, f"{words(metric)} after each epoch", metric)
