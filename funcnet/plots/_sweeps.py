"""Sweeps: what became of their members."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from funcnet._matplotlib import BLUE, COLOURS, ORANGE, RED
from funcnet.plots._figures import (
    LINES,
    PathLike,
    finish_epochs,
    make_panels,
    saved,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from funcnet.sweep import Result
else:
    Axes = Figure = Result = Any  # annotations that are executed find a name


@style()
def sweep(result: Result, path: PathLike | None = None, title: str = "") -> Figure:
    r"""Draws a sweep: every member's validation accuracy by epoch, and the best by its values.

    The left panel has a line a member, the best one in colour. With one hyper-parameter the right
    panel has a point a member, and the line through the means over the seeds; with two it is the
    plane of both, the mean over the seeds in colour; with more there is a panel each. Columns of
    positive values that span more than a factor of 10 are drawn on logarithmic axes. A cross marks
    members, and in the plane rows of values, that stopped because they were not finite.

    Args:
      result: what `sweep.run` returned, with a validation split.
      path: where to save the figure; None to save nothing.
      title: a line above the panels.

    Returns:
      The figure; with two hyper-parameters its last axes are the colours'.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: there is no validation accuracy.

    Source: courses.md rows 0-19, 1-25 and 2-20.

    >>> from funcnet import data, nets, optimizers, plots, sweep
    >>> dataset = data.synthetic(sizes=(200, 50, 50), classes=3)
    >>> def make(learning_rate):
    ...     return sweep.Trial(nets.softmax_classifier(3), optimizers.sgd(learning_rate))
    >>> rates = {"learning_rate": [1e-3, 1e-1]}
    >>> figure = plots.sweep(sweep.run(make, dataset, rates, epochs=1, how="loop"))
    >>> [axes.get_xlabel() for axes in figure.axes]
    ['epoch', 'learning rate']
    """
    accuracies, best = 100 * result.val_accuracy, 100 * result.best_val_accuracy
    if not np.isfinite(best).any():
        raise ValueError("sweep: no member has a validation accuracy, expected a validation split.")
    columns = {
        name.replace("_", " "): column
        for name, column in result.values.items()
        if len(set(column.tolist())) > 1
    }
    panels = 1 if len(columns) == 2 else len(columns)
    figure, (left, *right) = make_panels(1 + panels, (5.5 * (1 + panels), 4.5), title)
    winner = int(np.nanargmax(best))
    for index in [*(i for i in range(len(best)) if i != winner), winner]:
        own: dict[str, Any] = {"color": "0.5", "alpha": 0.5, "lw": 1.0}
        if index == winner:
            own = {"color": RED, "label": f"the best: {best[winner]:.1f} %"}
        left.plot(np.arange(accuracies.shape[1]), accuracies[index], **own)
    finish_epochs(left, "validation accuracy of each member")
    left.legend()
    if len(columns) == 2:
        _draw_plane(right[0], columns, best, result.stopped_at > 0)
    else:
        for axes, (name, column) in zip(right, columns.items(), strict=True):
            _draw_column(axes, name, column, best, result.stopped_at > 0, line=panels == 1)
    return saved(figure, path)


@style()
def sweeps(results: Mapping[str, Result], path: PathLike | None = None, title: str = "") -> Figure:
    r"""Draws sweeps side by side: the best member of each by epoch, and the best of all members.

    The left panel has the validation accuracy of each sweep's best member; the right one a row a
    sweep, the best accuracy of each member as a point and the best of these as a bar. A cross marks
    members that stopped because they were not finite.

    Args:
      results: name -> what `sweep.run` returned, with a validation split.
      path: where to save the figure; None to save nothing.
      title: a line above the panels.

    Returns:
      The figure, with two axes.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: there is no sweep, or no validation accuracy.

    >>> from funcnet import data, nets, optimizers, plots, sweep
    >>> dataset = data.synthetic(sizes=(200, 50, 50), classes=3)
    >>> def trial(optimizer):
    ...     return lambda: sweep.Trial(nets.softmax_classifier(3), optimizer)
    >>> rules = {"sgd": optimizers.sgd(0.1), "adam": optimizers.adam(0.1)}
    >>> figure = plots.sweeps({name: sweep.run(trial(rule), dataset, epochs=1, how="loop")
    ...                        for name, rule in rules.items()})
    >>> [label.get_text() for label in figure.axes[1].get_yticklabels()]
    ['sgd', 'adam']
    """
    best = {name: 100 * result.best_val_accuracy for name, result in results.items()}
    if not any(np.isfinite(found).any() for found in best.values()):
        raise ValueError(
            "sweeps: no member has a validation accuracy, expected a validation split."
        )
    height = max(4.8, 1.8 + 0.4 * len(results))
    figure, (left, right) = make_panels(2, (12.0, height), title)
    for index, (name, result) in enumerate(results.items()):
        colour = COLOURS[index % len(COLOURS)]
        found, stopped = best[name], result.stopped_at > 0
        if np.isfinite(found).any():
            winner = int(np.nanargmax(found))
            accuracies = 100 * result.val_accuracy[winner]
            line = LINES[index // len(COLOURS) % len(LINES)]
            left.plot(np.arange(len(accuracies)), accuracies, line, color=colour, label=name)
            right.barh(index, found[winner], color=colour, alpha=0.35)
        for which, marker in ((~stopped, "o"), (stopped, "x")):
            heights = np.full(which.sum(), index)
            right.plot(found[which], heights, marker, color=colour, ms=6, ls="none")
    finish_epochs(left, "the best member of each by epoch")
    handles, names = left.get_legend_handles_labels()
    columns = max(1, 120 // (8 + max(map(len, names))))  # as many as there is room for
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), columns))
    right.set_yticks(range(len(results)), list(results))
    right.invert_yaxis()
    shown = np.concatenate([found[np.isfinite(found)] for found in best.values()])
    right.set_xlim(max(0.0, shown.min() - 5), shown.max() + 2)
    right.set_xlabel("best validation accuracy (%)")
    right.set_title("members, and the best of each")
    return saved(figure, path)


# --- Parts of a figure


def _draw_column(
    axes: Axes, name: str, column: np.ndarray, best: np.ndarray, stopped: np.ndarray, line: bool
) -> None:
    """Draws each member's best accuracy over one of its values, with a line through the means."""
    axes.plot(column[~stopped], best[~stopped], "o", color=BLUE, alpha=0.6, ms=6)
    if line:
        values, means = _means(column[:, None], best)
        axes.plot(values[:, 0], means, color=BLUE, label="mean over the seeds")
    if stopped.any():
        axes.plot(
            column[stopped], best[stopped], "x", color=ORANGE, ms=8, mew=2, label="not finite"
        )
    if line or stopped.any():
        axes.legend()
    _scale(axes, "x", name, column)
    axes.set_ylabel("best validation accuracy (%)")
    axes.set_title(f"by {name}")


def _draw_plane(
    axes: Axes, columns: Mapping[str, np.ndarray], best: np.ndarray, stopped: np.ndarray
) -> None:
    """Draws the mean of the best accuracies over the plane of two values."""
    (x_name, x), (y_name, y) = columns.items()
    points, means = _means(np.stack([x, y], 1), best)
    lost, _ = _means(np.stack([x[stopped], y[stopped]], 1), best[stopped])
    drawn = axes.scatter(points[:, 0], points[:, 1], c=means, s=140, cmap="viridis", zorder=2)
    axes.scatter(
        lost[:, 0], lost[:, 1], marker="x", color=ORANGE, s=60, label="not finite", zorder=3
    )
    if len(lost):
        axes.legend()
    _scale(axes, "x", x_name, x)
    _scale(axes, "y", y_name, y)
    axes.set_title("best validation accuracy")
    axes.figure.colorbar(drawn, ax=axes, label="best validation accuracy (%)")


def _means(points: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each point once, and the mean of what was measured there."""
    each, where = np.unique(points, axis=0, return_inverse=True)
    return each, np.bincount(where, best, len(each)) / np.bincount(where, minlength=len(each))


def _scale(axes: Axes, which: Literal["x", "y"], name: str, column: np.ndarray) -> None:
    """Names an axis; logarithmic where its values are of several magnitudes."""
    axes.set(**{f"{which}label": name})
    if column.min() > 0 and column.max() > 10 * column.min():
        axes.set(**{f"{which}scale": "log"})
