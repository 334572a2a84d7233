"""matplotlib for figures in files, which need no window and so no backend of anybody's windows."""

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
