"""What all figures share: their style, their panels, and how they are saved."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from funcnet import _matplotlib
from funcnet.train.engine import SHARES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:
    Axes = Figure = Any  # annotations that are executed find a name

LINES = ("-", "--", "-.", ":")  # colours come round after seven; then the line tells them apart
_DPI = 120

PathLike = str | os.PathLike[str]


@contextmanager
def style() -> Iterator[None]:
    """Draws in this module's style; matplotlib's own settings come back in the end.

    A context manager, and a decorator of functions that draw.

    Raises:
      ImportError: matplotlib is not installed.

    >>> import matplotlib
    >>> with style():
    ...     matplotlib.rcParams["axes.spines.top"]
    False
    """
    with _matplotlib.require("plots").rc_context(_matplotlib.STYLE):
        yield


def words(metric: str) -> str:
    """A metric's name as it is written."""
    return metric.replace("_", " ")


def make_panels(count: int, size: tuple[float, float], title: str) -> tuple[Figure, list[Axes]]:
    """A figure, and its axes from left to right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    if title:
        figure.suptitle(title)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def finish_epochs(axes: Axes, title: str, metric: str = "accuracy") -> None:
    """Labels a metric's panel, and leaves its room to what was reached by training."""
    from matplotlib.ticker import MaxNLocator

    drawn: list[Any] = [line.get_ydata() for line in axes.lines]
    # Of a single epoch the accuracies before training are half of what there is.
    first = 1 if max(map(len, drawn)) > 2 else 0
    reached = np.concatenate([values[first:] for values in drawn])
    reached = reached[np.isfinite(reached)]
    if reached.size > 1 and reached.max() > reached.min():
        margin = 0.08 * (reached.max() - reached.min())
        low, high = reached.min() - margin, reached.max() + margin
        axes.set_ylim(low, high)
        for line in axes.lines:  # no stroke from a point that is out of sight
            values = np.array(line.get_ydata(), np.float64)
            if first and not low <= values[0] <= high and values.size > 1:
                values[0] = np.nan
                line.set_ydata(values)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel(words(metric) + " (%)" * (metric in SHARES))
    axes.set_title(title)


def saved(figure: Figure, path: PathLike | None) -> Figure:
    """The figure, once it lies in its file."""
    figure.draw_without_rendering()  # the layout settles with the second drawing
    if path is not None:
        _matplotlib.save(figure, path, _DPI)
    return figure
