"""Two image filters as one convolution: grey values, and edges in the blue channel.

    python -m experiments.filters

Row 4-34. Course 004 shows them on pictures of its own (and loads these by functions that SciPy has
dropped); here they are china.jpg and flower.jpg, which scikit-learn ships (of the extra `test`),
cut to a square and scaled to 200x200. One 3x3 kernel weighs red, green and blue by .3, .6 and .1;
the other is [[1, 2, 1], [0, 0, 0], [-1, -2, -1]] on blue, with a bias of 128. Seconds.

The outputs are NumPy's grey to 2.4e-5 (of 255, float32) and SciPy's `ndimage.correlate` exactly.
The figure shows the grey pictures, and roofs and petals as bright and dark edges of the blue
channel; only edges that run across are seen, as the kernel has it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from experiments import _images, _study
from funcnet import layers, plots

GREY = (0.3, 0.6, 0.1)
EDGES = ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0))
PICTURES = ("china", "flower")


@dataclasses.dataclass(frozen=True)
class Options(_study.Options):
    """How large the pictures are."""

    size: int = 200
    """Pixels on each side."""


def filters() -> layers.ConvParams:
    """Both filters: kernels (3, 3, 3, 2) and biases."""
    w = np.zeros((3, 3, 3, 2), np.float32)
    w[1, 1, :, 0] = GREY
    w[:, :, 2, 1] = EDGES
    return layers.ConvParams(jnp.asarray(w), jnp.array([0.0, 128.0], jnp.float32))


def picture(name: str, size: int) -> np.ndarray:
    """The middle square of a picture, (size, size, 3) uint8."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    image = Image.fromarray(load_sample_image(f"{name}.jpg"))
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))


def measure(options: Options) -> Iterator[_study.Record]:
    """A record for each picture, with what the filters made of it."""
    size = 32 if options.smoke else options.size
    for name in PICTURES:
        image = picture(name, size)
        with _study.timed() as watch:
            x = jnp.asarray(image, jnp.float32)[None]
            y = np.asarray(layers.conv2d(filters(), x, 1, 1))[0]
        pixels = image.astype(np.float64)
        grey = pixels @ np.array(GREY)
        edges = ndimage.correlate(pixels[..., 2], np.array(EDGES), mode="constant") + 128
        result = {
            "grey_error": float(np.abs(y[..., 0] - grey).max()),
            "edges_error": float(np.abs(y[..., 1] - edges).max()),
            "grey_range": [float(y[..., 0].min()), float(y[..., 0].max())],
            "edges_range": [float(y[..., 1].min()), float(y[..., 1].max())],
            "picture": _images.pack(image),
            "grey": _images.pack(levels(y[..., 0])),
            "edges": _images.pack(levels(y[..., 1])),
        }
        yield watch.record({"picture": name, "size": size}, result)


def levels(values: np.ndarray) -> np.ndarray:
    """A filter's output as the course shows it, its least value black and its largest white."""
    low, high = values.min(), values.max()
    return np.rint(255 * (values - low) / (high - low)).astype(np.uint8)


@plots.style()
def draw(rows: _study.Rows, folder: Path) -> None:
    """The course's grid: a row for each picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.3, 4.4), layout="constrained")
    grid = figure.subplots(len(rows), 3)
    titles = {"picture": "picture", "grey": "grey", "edges": "edges in blue"}
    for axes, row in zip(grid, rows, strict=True):
        result = row["result"]
        print(
            f"{row['config']['picture']}: the convolution differs from NumPy's grey by at most "
            f"{result['grey_error']:.1e} and from SciPy's edges by {result['edges_error']:.1e}"
        )
        for cell, (name, title) in zip(axes, titles.items(), strict=True):
            cell.imshow(_images.unpack(result[name]), cmap="gray", vmin=0, vmax=255)
            cell.set_axis_off()
            cell.set_title(title, fontsize=11)
    _images.save(figure, folder / "filters.png", colours=256)


if __name__ == "__main__":
    _study.main("filters", __doc__, Options, measure, draw)
