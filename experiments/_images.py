"""Images in records: as text that holds a PNG."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pack(image: np.ndarray) -> str:
    """An image (h, w, 3) or (h, w), uint8, as a PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def unpack(text: str) -> np.ndarray:
    """The image that `pack` was given.

    >>> image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    >>> bool((unpack(pack(image)) == image).all())
    True
    """
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def pack_weights(w: np.ndarray, image_shape: tuple[int, ...] | None = None) -> str:
    """Weights (h·w·c, units) or filters (h, w, c, channels) as images below one another.

    Each goes from its own minimum (0) to its maximum (255), which is how `plots.weight_grid` shows
    it: 8 bits of each weight.
    """
    w = np.asarray(w, np.float64)
    images = np.moveaxis(w.reshape(*(image_shape or w.shape[:3]), -1), -1, 0)
    low, high = (f(images, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    levels = np.rint(255 * (images - low) / np.where(high > low, high - low, 1.0))
    return pack(levels.astype(np.uint8).reshape(-1, *images.shape[2:]))


def unpack_weights(text: str, count: int) -> np.ndarray:
    """The images of `count` units, as `plots.weight_grid` takes filters: (h, w, c, count)."""
    tall = unpack(text)
    return np.moveaxis(tall.reshape(count, -1, *tall.shape[1:]), 0, -1)


def save(figure: Figure, path: Path, dpi: int = 100, colours: int | None = None) -> None:
    """Saves a figure as a small PNG; with `colours` its palette is cut to so many."""
    file = io.BytesIO()
    figure.savefig(file, dpi=dpi)
    picture = Image.open(file).convert("RGB")
    picture.quantize(colours or 128, dither=Image.Dither.NONE).save(path, optimize=True)
