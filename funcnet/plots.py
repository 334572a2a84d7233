"""Figures of runs, sweeps and weights; every number drawn comes from what a run left.

Figures are matplotlib's own objects: no global state, no window, any backend. matplotlib is an
extra: `pip install "funcnet[run]"`.

>>> from funcnet import plots
>>> history = [{"epoch": 0, "train_accuracy": 0.1, "val_accuracy": 0.1},
...            {"epoch": 1, "train_accuracy": 0.8, "val_accuracy": 0.7}]
>>> figure = plots.curves(history, losses=[2.3, 1.4, 0.9, 0.7])
>>> [axes.get_xlabel() for axes in figure.axes]
['step', 'epoch']
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jax.typing import ArrayLike

from funcnet import _matplotlib
from funcnet.train import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from funcnet.sweep import Result
else:
    Axes = Figure = Result = Any  # annotations that are executed find a name

__all__ = ["compare", "curves", "load_run", "style", "sweep", "weight_grid"]

# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
_BLUE, _ORANGE, _GREEN, _RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
_COLOURS = (_BLUE, _ORANGE, _GREEN, _RED, "#CC79A7", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
_STYLE: dict[Any, Any] = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "lines.linewidth": 1.8,
}
_DPI = 120
_LOG_FROM = 50.0  # a loss that falls by more than this factor is drawn on a logarithmic axis

Rows = Sequence[Mapping[str, Any]]
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
    with _matplotlib.require("plots").rc_context(_STYLE):
        yield


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
      ValueError: a row before the last is no JSON object.

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
    return history, np.load(losses, allow_pickle=False) if losses.is_file() else None


@style()
def curves(
    history: Rows | PathLike,
    losses: ArrayLike | Sequence[Any] | None = None,
    path: PathLike | None = None,
    title: str = "",
) -> Figure:
    r"""Draws a run: the loss of each step, and the accuracies after each epoch.

    The left panel has every step's loss lightly and its running mean, a centred mean over $w$
    steps; the right one the training and validation accuracies in percent, the best validation
    accuracy (the first, where several are equal) marked. A loss that falls by more than a factor of
    50 is drawn on a logarithmic axis. The accuracies before training may lie below the panel, whose
    range is that of the epochs. What is not finite leaves a gap.

    Args:
      history: the rows of `Run.history`, or the path of a run's folder or `history.jsonl`.
      losses: `Run.losses` (steps,); without them, the mean losses of the epochs are drawn, or those
        that lie beside `history.jsonl`.
      path: where to save the figure, as .png, .svg or .pdf; None to save nothing.
      title: a line above both panels.

    Returns:
      The figure, with two axes.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: there is no row.

    Source: courses.md rows 0-14, 1-28 and 4-27.

    >>> figure = curves([{"epoch": 0, "train_accuracy": 0.1, "val_accuracy": 0.2}])
    >>> figure.axes[1].get_ylabel()
    'accuracy (%)'
    """
    history, values = _run(history, losses)
    figure, (left, right) = _panels(2, (11.0, 4.5), title)
    _draw_loss(left, history, values, _BLUE, "", raw=0.3)
    left.set_title("loss of each step")

    epochs = _column(history, "epoch")
    for name, key, colour, style in (
        ("training", "train_accuracy", _BLUE, "--"),
        ("validation", "val_accuracy", _RED, "-"),
    ):
        accuracies = 100 * _column(history, key)
        if np.isfinite(accuracies).any():
            right.plot(epochs, accuracies, style, color=colour, marker="o", ms=3.5, label=name)
    accuracies = 100 * _column(history, "val_accuracy")
    if np.isfinite(accuracies).any():
        best = int(np.nanargmax(accuracies))
        label = f"best: {accuracies[best]:.1f} % (epoch {epochs[best]:.0f})"
        right.plot(epochs[best], accuracies[best], "*", color=_RED, ms=15, mec="white", label=label)
    _finish_epochs(right, "accuracy after each epoch")
    for axes in (left, right):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, columnspacing=1.2)
    return _saved(figure, path)


@style()
def compare(
    runs: Mapping[str, tuple[Rows, ArrayLike | Sequence[Any] | None] | PathLike],
    path: PathLike | None = None,
    title: str = "",
) -> Figure:
    """Draws runs over one another: loss per step, training and validation accuracy per epoch.

    The courses' three panels. Losses are running means, as in `curves`, over the steps themselves.

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
    figure, (loss, train, val) = _panels(3, (15.0, 4.6), title)
    for index, (name, run) in enumerate(runs.items()):
        history, values = _run(run, None) if isinstance(run, str | os.PathLike) else _run(*run)
        colour = _COLOURS[index % len(_COLOURS)]
        # Colours come round after seven runs; then the line tells them apart.
        style = _LINES[index // len(_COLOURS) % len(_LINES)]
        _draw_loss(loss, history, values, colour, name, raw=0.12, style=style)
        for axes, key in ((train, "train_accuracy"), (val, "val_accuracy")):
            axes.plot(
                _column(history, "epoch"),
                100 * _column(history, key),
                style,
                color=colour,
                marker="o",
                ms=3.5,
                label=name,
            )
    loss.set_title("training loss")
    _finish_epochs(train, "training accuracy")
    _finish_epochs(val, "validation accuracy")
    handles, names = val.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), 7))
    return _saved(figure, path)


@style()
def weight_grid(
    w: ArrayLike,
    path: PathLike | None = None,
    padding: int = 1,
    columns: int | None = None,
    image_shape: tuple[int, int, int] | None = None,
    title: str = "",
) -> Figure:
    r"""Draws first-layer weights as images, each from its own minimum (0) to its maximum (1).

    Image $k$ is $(w_k - \min w_k) / (\max w_k - \min w_k)$; a constant one is drawn as 0. They lie
    in rows, in order, with white lines between.

    Args:
      w: weights (h·w·c, units) of an affine layer, or filters (h, w, c, channels), with c 1 or 3.
      path: where to save the figure; None to save nothing.
      padding: pixels between two images.
      columns: images in a row; $\lceil \sqrt{n} \rceil$ by default.
      image_shape: (h, w, c) for an affine layer; by default a square image.
      title: a line above the images.

    Returns:
      The figure, whose one axes holds the whole grid.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: the weights are no images of 1 or 3 channels; `padding` or `columns` is too small.

    Source: courses.md rows 4-16, 4-27 and 4-49.

    >>> figure = weight_grid(np.arange(5 * 5 * 3 * 4.0).reshape(5, 5, 3, 4), padding=1)
    >>> figure.axes[0].images[0].get_array().shape
    (11, 11, 3)
    """
    images = _images(np.asarray(w, np.float64), image_shape)
    n, height, width, _ = images.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else columns
    if padding < 0 or columns < 1:
        raise ValueError(
            f"weight_grid: padding is {padding} and columns is {columns}, expected at least 0 "
            "pixels and at least 1 column."
        )
    low, high = (f(images, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    images = (images - low) / np.where(high > low, high - low, 1.0)
    columns, rows = min(columns, n), math.ceil(n / columns)
    grid = np.ones(
        (
            rows * (height + padding) - padding,
            columns * (width + padding) - padding,
            images.shape[-1],
        )
    )
    for index, image in enumerate(images):
        top, left = (
            place * (size + padding)
            for place, size in zip(divmod(index, columns), (height, width), strict=True)
        )
        grid[top : top + height, left : left + width] = image
    inches = 6.0 / max(grid.shape[:2])
    size = grid.shape[1] * inches + 0.3, grid.shape[0] * inches + (0.6 if title else 0.3)
    figure, (axes,) = _panels(1, size, title)
    axes.imshow(grid if grid.shape[-1] == 3 else grid[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    return _saved(figure, path)


def _images(w: np.ndarray, image_shape: tuple[int, int, int] | None) -> np.ndarray:
    """Returns weights as images (n, h, w, c)."""
    if w.ndim == 2:
        if image_shape is None:
            sides = {c: math.isqrt(w.shape[0] // c) for c in (1, 3)}
            shapes = [(s, s, c) for c, s in sides.items() if s * s * c == w.shape[0]]
            if not shapes:
                raise ValueError(
                    f"weight_grid: w has {w.shape[0]} rows, which is no square image of 1 or 3 "
                    "channels; pass image_shape=(h, w, c)."
                )
            image_shape = shapes[-1]
        if math.prod(image_shape) != w.shape[0]:
            raise ValueError(
                f"weight_grid: w has {w.shape[0]} rows, but image_shape is {image_shape}, expected "
                "a row for each of its numbers."
            )
        w = w.reshape(*image_shape, -1)
    if w.ndim != 4 or w.shape[2] not in (1, 3) or not w.size:
        raise ValueError(
            f"weight_grid: w has shape {w.shape}, expected (h*w*c, units) or (h, w, c, channels) "
            "with c 1 or 3: the weights of a net's first layer."
        )
    return np.moveaxis(w, -1, 0)


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
    figure, (left, *right) = _panels(1 + panels, (5.5 * (1 + panels), 4.5), title)
    winner = int(np.nanargmax(best))
    for index in [*(i for i in range(len(best)) if i != winner), winner]:
        own: dict[str, Any] = {"color": "0.5", "alpha": 0.5, "lw": 1.0}
        if index == winner:
            own = {"color": _RED, "label": f"the best: {best[winner]:.1f} %"}
        left.plot(np.arange(accuracies.shape[1]), accuracies[index], **own)
    _finish_epochs(left, "validation accuracy of each member")
    left.legend()
    if len(columns) == 2:
        _draw_plane(right[0], columns, best, result.stopped_at > 0)
    else:
        for axes, (name, column) in zip(right, columns.items(), strict=True):
            _draw_column(axes, name, column, best, result.stopped_at > 0, line=panels == 1)
    return _saved(figure, path)


# --- Parts of a figure


def _draw_column(
    axes: Axes, name: str, column: np.ndarray, best: np.ndarray, stopped: np.ndarray, line: bool
) -> None:
    """Draws each member's best accuracy over one of its values, with a line through the means."""
    axes.plot(column[~stopped], best[~stopped], "o", color=_BLUE, alpha=0.6, ms=6)
    if line:
        values, means = _means(column[:, None], best)
        axes.plot(values[:, 0], means, color=_BLUE, label="mean over the seeds")
    if stopped.any():
        axes.plot(
            column[stopped], best[stopped], "x", color=_ORANGE, ms=8, mew=2, label="not finite"
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
        lost[:, 0], lost[:, 1], marker="x", color=_ORANGE, s=60, label="not finite", zorder=3
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


def _column(history: Rows, key: str) -> np.ndarray:
    """One column as floats, NaN where there is no number."""
    values = (row.get(key) for row in history)
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _panels(count: int, size: tuple[float, float], title: str) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    if title:
        figure.suptitle(title)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


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


def _finish_epochs(axes: Axes, title: str) -> None:
    """Labels an accuracy panel, and leaves its room to what was reached by training."""
    from matplotlib.ticker import MaxNLocator

    reached = np.concatenate([line.get_ydata()[1:] for line in axes.lines])  # type: ignore[index]
    reached = reached[np.isfinite(reached)]
    if reached.size > 1 and reached.max() > reached.min():
        margin = 0.08 * (reached.max() - reached.min())
        axes.set_ylim(reached.min() - margin, reached.max() + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy (%)")
    axes.set_title(title)


def _saved(figure: Figure, path: PathLike | None) -> Figure:
    figure.draw_without_rendering()  # the layout settles with the second drawing
    if path is not None:
        _matplotlib.save(figure, path, _DPI)
    return figure
