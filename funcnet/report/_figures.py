"""Figures and pictures inside a page: SVG in the page's own colours, PNG as data URIs."""

from __future__ import annotations

import base64
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from funcnet import _matplotlib, plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any

# Written as colours into a figure, and as the page's variables into its SVG.
_INK = "#010203"
_VARIABLES = {
    _INK: "currentColor",
    "#0072b2": "var(--blue)",
    "#d55e00": "var(--red)",
    "#009e73": "var(--green)",
}
_BLUE, _RED, _GREEN = _matplotlib.BLUE, _matplotlib.RED, _matplotlib.GREEN
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters stay letters, of the page
    **{f"{part}.color": _INK for part in ("text", "xtick", "ytick", "grid")},
    **{f"axes.{part}color": _INK for part in ("edge", "label", "title")},
}
_DPI = 120
_POINTS = 2000  # more of them are drawn as a picture
_SIDE = 96  # pixels of a picture at most
_UNITS, _NUMBERS = 64, 300_000  # first weights that are shown, and of how many numbers


def curves(
    history: Sequence[Mapping[str, Any]], losses: np.ndarray | None, best_epoch: int | None = None
) -> list[str]:
    """The loss, and each metric that the history has of a split, as SVG."""
    names = dict.fromkeys(key.removeprefix("val_") for row in history for key in row)
    metrics = [
        name
        for name in names
        if any(row.get(f"{part}_{name}") is not None for row in history for part in _SPLITS)
        and name != "loss"
    ]
    # The style of `plots` leaves the colours of letters and axes as they are.
    with _matplotlib.require("report").rc_context(_STYLE):
        return [
            _svg(plots.curves(history, losses, panels=[name], best_epoch=best_epoch), name)
            for name in ("loss", *metrics)
        ]


_SPLITS = ("train", "val")


def sizes(layers: Sequence[Mapping[str, Any]]) -> str:
    """The root mean squares of activations and gradients, layer by layer, as SVG."""
    with _matplotlib.require("report").rc_context(_STYLE), plots.style():
        figure, axes = _panel(5.5, 1.6 + 0.34 * len(layers))
        places = np.arange(len(layers))
        for key, name, marker, colour in (
            ("output", "output", "o", _BLUE),
            ("output_grad", "its gradient", "^", _RED),
            ("params_grad", "parameters' gradient", "s", _GREEN),
        ):
            values = [(row[key] or {}).get("rms") or math.nan for row in layers]
            axes.plot(values, places, marker, color=colour, label=name, ms=7)
        axes.set_yticks(places, [_literal(row["name"]) for row in layers])
        axes.set_ylim(len(layers) - 0.5, -0.5)
        axes.set(xscale="log", xlabel="root mean square")
        figure.legend(loc="outside lower center", ncols=3, columnspacing=1.0, handletextpad=0.1)
        return _svg(figure, "sizes")


def residuals(labels: np.ndarray, outputs: np.ndarray, name: str) -> list[str]:
    """What is predicted against what is true, and how large the residuals are, as SVG."""
    name = _literal(name)
    with _matplotlib.require("report").rc_context(_STYLE), plots.style():
        figure, axes = _panel(5.5, 4.5)
        both = np.concatenate([labels, outputs])
        ends = [both.min(), both.max()]
        axes.plot(ends, ends, color=_INK, lw=1.0)
        many = len(labels) > _POINTS
        # A picture has no variables: its blue is for light and dark alike.
        colour, size = ("#2a8fd0", 3) if many else (_BLUE, 5)
        axes.plot(labels, outputs, "o", color=colour, ms=size, alpha=0.5, mew=0, rasterized=many)
        axes.locator_params("x", nbins=5)
        axes.set(xlabel=f"{name}, true", ylabel=f"{name}, predicted", title="predicted and true")
        points = _svg(figure, f"points of {name}")
        figure, axes = _panel(5.5, 4.5)
        axes.hist(labels - outputs, bins=min(40, max(8, len(labels) // 10)), color=_BLUE)
        axes.axvline(0.0, color=_INK, lw=1.0)
        axes.locator_params("x", nbins=5)
        axes.set(xlabel=f"{name}, true minus predicted", ylabel="examples", title="residuals")
        return [points, _svg(figure, f"residuals of {name}")]


def _literal(name: Any) -> str:
    """A name as it is: matplotlib reads formulas between dollars."""
    return str(name).replace("$", r"\$")


def _panel(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure, salt: str) -> str:
    """The figure as an element of a page: no prologue, no size of its own, its ink the page's."""
    file = io.StringIO()
    with (
        _matplotlib.require("report").rc_context({"svg.hashsalt": salt}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph")  # which the page's fonts may have
        metadata: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, dpi=_DPI, metadata=metadata)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    # Groups are numbered anew in each figure, and nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r' xmlns(?::\w+)?="[^"]*"| version="[^"]*"', "", text).replace(
        "xlink:href", "href"
    )
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text.replace("<svg", '<svg role="img"', 1)


def picture(image: np.ndarray, full_scale: float) -> str:
    """An example of 1 or 3 channels as a PNG's data URI; every nth pixel of a large one.

    Floats, of which nobody knows the full scale, are drawn from their least to their largest.
    """
    step = math.ceil(max(image.shape[:2]) / _SIDE)
    image = np.nan_to_num(image[::step, ::step])
    low, high = (0, full_scale) if image.dtype.kind in "iu" else (image.min(), image.max())
    return _png((image.astype(np.float64) - low) / (high - low if high > low else 1.0))


def weights(w: np.ndarray, input_shape: tuple[int, ...]) -> tuple[str, int, int]:
    """The first weights as a PNG's data URI, how many there are in it, and its width.

    Every nth pixel of large ones, and no more of them than a page has room for.
    """
    w = w.reshape(*input_shape, -1) if w.ndim == 2 else w
    step = math.ceil(max(w.shape[:2]) / _SIDE)
    w = w[::step, ::step]
    units = min(w.shape[-1], _UNITS, max(1, _NUMBERS // math.prod(w.shape[:3])))
    figure = plots.weight_grid(w[..., :units])
    grid = np.asarray(figure.axes[0].images[0].get_array())
    return _png(grid), units, grid.shape[1]


def table(counts: np.ndarray) -> str:
    """A large confusion matrix as a PNG's data URI, the shares of each row in grey."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return _png(1 - shares)


def _png(image: np.ndarray) -> str:
    """Numbers of 0 to 1, (h, w), (h, w, 1) or (h, w, 3), as a data URI."""
    from matplotlib.image import imsave

    image = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    if image.ndim == 2 or image.shape[-1] == 1:
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, -1)
    file = io.BytesIO()
    imsave(file, image, format="png", metadata={"Software": ""})
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
