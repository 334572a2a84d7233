"""matplotlib for figures in files, which need no window, and the one style of all figures."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from funcnet._files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # annotations that are executed find a name


# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
COLOURS = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9", "#000000")
STYLE: dict[Any, Any] = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "lines.linewidth": 1.8,
}


def require(function: str) -> ModuleType:
    """Imports matplotlib, or raises ImportError with the way to get it.

    Its import fails at an MPLBACKEND that is not installed, as a notebook leaves to its child
    processes; a figure in a file has no use for one.
    """
    try:
        try:
            import matplotlib
        except ValueError:
            backend = os.environ.pop("MPLBACKEND", None)
            if backend is None:
                raise
            try:
                import matplotlib
            finally:
                os.environ["MPLBACKEND"] = backend
    except ImportError as error:
        raise ImportError(f'{function} needs matplotlib: pip install "funcnet[run]"') from error
    return matplotlib


def save(figure: Figure, path: str | os.PathLike[str], dpi: int) -> None:
    """Writes a figure, whole or not at all; a name without a suffix is that of a .png."""
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".png")
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=dpi)
