"""Weights as images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from funcnet.plots._figures import PathLike, make_panels, saved, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # annotations that are executed find a name


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
    figure, (axes,) = make_panels(1, size, title)
    axes.imshow(grid if grid.shape[-1] == 3 else grid[..., 0], cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    return saved(figure, path)


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
