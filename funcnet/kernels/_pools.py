"""The two pools of images and their gradients: primitives of windows that lie in any way.

Tiles, which are the usual windows, are looked at whole: `tile_cells` are the strided slices that
hold one cell of every tile, `to_tiles` is their adjoint. Other windows are walked one axis at a
time: `_cells` are the slices that hold the j-th cell of every window along an axis, `_spread` is
their adjoint, so that overlapping, uneven and padded windows need no case of their own. Nothing
gathers the batch axis.

Pools of tiles are just that: of their slices XLA makes one loop, which native code has not beaten.
Those of other windows are primitives, which differentiate and batch as what they are made of, and
are native on a CPU where they can be: XLA makes many passes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from funcnet.kernels import _native
from funcnet.kernels._conv_xla import Pads
from funcnet.kernels._lowering import Kernel, make_composite, wide
from funcnet.kernels._types import explicit_mesh, reshape, whole


class Axis(NamedTuple):
    """The windows along one axis: sizes in pixels, pads (low, high), and how many there are."""

    size: int
    window: int
    stride: int
    pads: tuple[int, int]
    outputs: int
    dilation: int = 1


Axes = tuple[Axis, Axis]
MANY_CHANNELS = 16  # from here on native pools beat XLA's


def window_max(x: Float[Array, "n h w c"], axes: Axes) -> Float[Array, "n oh ow c"]:
    r"""The maximum of each window, channel by channel.

    $y_{nijc} = \max_{p,q} x_{n,\,i s_h + p d_h - t,\,j s_w + q d_w - l,\,c}$ over the cells in the
    image; a NaN is larger than any number.

    Args:
      x: images (n, h, w, c).
      axes: the windows along height and width; each has a cell in the image.

    Returns:
      (n, oh, ow, c), in x's dtype.

    >>> tiles = Axis(4, 2, 2, (0, 0), 2)
    >>> window_max(jnp.arange(16.0).reshape(1, 4, 4, 1), (tiles, tiles)).ravel()
    Array([ 5.,  7., 13., 15.], dtype=float64)
    """
    return _chosen(max_k, _max, x, geometry=axes)


def window_max_gradient(
    x: Float[Array, "n h w c"], dy: Float[Array, "n oh ow c"], axes: Axes
) -> Float[Array, "n h w c"]:
    r"""The gradient of $\langle dy, y \rangle$ by x, with y as `window_max` gives it.

    Each window's dy goes to its first maximum in row-major order.

    Args:
      x: images (n, h, w, c).
      dy: the cotangent (n, oh, ow, c).
      axes: the windows along height and width, as `window_max` was given them.

    Returns:
      (n, h, w, c), in dy's dtype.

    >>> tiles = Axis(2, 2, 2, (0, 0), 1)
    >>> window_max_gradient(jnp.ones((1, 2, 2, 1)), jnp.ones((1, 1, 1, 1)), (tiles, tiles)).ravel()
    Array([1., 0., 0., 0.], dtype=float64)
    """
    return _chosen(max_gradient_k, _max_gradient, x, dy, geometry=axes)


def window_mean(
    x: Float[Array, "n h w c"], axes: Axes, counted: Pads = ((0, 0), (0, 0))
) -> Float[Array, "n oh ow c"]:
    r"""The mean of each window, channel by channel: its sum by the number of cells that count.

    Args:
      x: images (n, h, w, c).
      axes: the windows along height and width; each has a cell in the image.
      counted: so many pixels around the image count too, as zeros.

    Returns:
      (n, oh, ow, c), in the dtype that the sum was taken in.

    >>> tiles = Axis(2, 2, 2, (0, 0), 1)
    >>> window_mean(jnp.arange(4.0).reshape(1, 2, 2, 1), (tiles, tiles)).ravel()
    Array([1.5], dtype=float64)
    """
    return _chosen(mean_k, _mean, x, geometry=axes, counted=counted)


def window_mean_gradient(
    dy: Float[Array, "n oh ow c"], axes: Axes, counted: Pads = ((0, 0), (0, 0))
) -> Float[Array, "n h w c"]:
    r"""The adjoint of `window_mean`: each cell's sum over its windows of their share of dy.

    Args:
      dy: the cotangent (n, oh, ow, c).
      axes: the windows along height and width, as `window_mean` was given them.
      counted: so many pixels around the image count too.

    Returns:
      (n, h, w, c), in the dtype that the sum was taken in.

    >>> tiles = Axis(2, 2, 2, (0, 0), 1)
    >>> window_mean_gradient(jnp.ones((1, 1, 1, 1)), (tiles, tiles)).ravel()
    Array([0.25, 0.25, 0.25, 0.25], dtype=float64)
    """
    return _chosen(mean_gradient_k, _mean_gradient, dy, geometry=axes, counted=counted)


def _chosen(
    kernel: Kernel, definition: Callable[..., Array], *operands: Array, geometry: Axes, **how: Any
) -> Array:
    """By the definition itself where the primitive would be no more than that.

    Windows reach over the edges of parts of an image, so a mesh gets no native kernel.
    """
    plain = are_tiles(*geometry) or explicit_mesh(*operands) is not None
    return (definition if plain else kernel)(*operands, geometry=geometry, **how)


# The definitions ---------------------------------------------------------------------------


def _max(x: Array, *, geometry: Axes) -> Array:
    rows, columns = geometry
    if are_tiles(rows, columns):
        return reduce(jnp.maximum, tile_cells(x, rows, columns))
    for axis, windows in ((2, columns), (1, rows)):
        x, _ = _max_along(x, axis, windows)
    return x


def _max_gradient(x: Array, dy: Array, *, geometry: Axes) -> Array:
    rows, columns = geometry
    if are_tiles(rows, columns):
        _, winner = first_winner(tile_cells(x, rows, columns))
        return to_tiles(dy, winner, (rows.window, columns.window), x.shape[1:3])
    across, winner = _max_along(x, 2, columns)
    _, row = _max_along(across, 1, rows)
    dx = _route(dy, row, 1, rows)
    return _route(dx, winner, 2, columns)


def _mean(x: Array, *, geometry: Axes, counted: Pads) -> Array:
    rows, columns = geometry
    total = wide(x)
    if are_tiles(rows, columns):
        total = reduce(add, tile_cells(total, rows, columns))
    else:
        for axis, windows in ((2, columns), (1, rows)):
            total = reduce(add, _cells(total, axis, windows))
    return total / _counts(geometry, counted, total.dtype)


def _mean_gradient(dy: Array, *, geometry: Axes, counted: Pads) -> Array:
    rows, columns = geometry
    dx = wide(dy) / _counts(geometry, counted, wide(dy).dtype)
    if are_tiles(rows, columns):
        return to_tiles(dx, None, (rows.window, columns.window), (rows.size, columns.size))
    for axis, windows in ((1, rows), (2, columns)):
        dx = _spread([dx] * windows.window, axis, windows)
    return dx


def are_tiles(rows: Axis, columns: Axis) -> bool:
    """Whether windows lie beside each other, without padding: what pooling nearly always is."""
    return all(
        axis.window == axis.stride and axis.pads == (0, 0) and axis.dilation == 1
        for axis in (rows, columns)
    )


def tile_cells(x: Array, rows: Axis, columns: Axis) -> list[Array]:
    """The cells of all tiles, (n, oh, ow, c) each, in row-major order."""
    x = whole(x)
    height, width = (axis.outputs * axis.window for axis in (rows, columns))
    return [
        x[:, p : height : rows.window, q : width : columns.window]
        for p in range(rows.window)
        for q in range(columns.window)
    ]


def first_winner(cells: list[Array]) -> tuple[Array, Array]:
    """The maximum of the cells, and which is the first to have it; a NaN wins over numbers."""
    dtype = jnp.uint8 if len(cells) < 256 else jnp.int32
    best, winner = cells[0], jnp.zeros(cells[0].shape, dtype)
    for j, cell in enumerate(cells[1:], 1):
        better = (cell > best) | (jnp.isnan(cell) & ~jnp.isnan(best))
        best = jnp.where(better, cell, best)
        winner = jnp.where(better, jnp.asarray(j, dtype), winner)
    return best, winner


def to_tiles(
    dy: Array, winner: Array | None, window: tuple[int, int], size: tuple[int, ...]
) -> Array:
    """Sends each tile's cotangent to the cell that has won it, or to every cell; 0 elsewhere.

    `size` is the images' height and width, which may have rows and columns beyond the tiles.
    """
    (n, oh, ow, c), (kh, kw) = dy.shape, window
    dx = jnp.broadcast_to(dy[:, :, None, :, None], (n, oh, kh, ow, kw, c))
    if winner is not None:
        cell = jnp.arange(kh * kw, dtype=winner.dtype).reshape(1, 1, kh, 1, kw, 1)
        dx = jnp.where(winner[:, :, None, :, None] == cell, dx, jnp.zeros((), dy.dtype))
    config = [(0, 0, 0), (0, size[0] - oh * kh, 0), (0, size[1] - ow * kw, 0), (0, 0, 0)]
    return lax.pad(reshape(dx, (n, oh * kh, ow * kw, c)), jnp.zeros((), dy.dtype), config)


def _cells(x: Array, axis: int, windows: Axis) -> list[Array]:
    """The j-th cells of all windows along an axis, for each j of the window; padding is 0."""
    x, (low, high) = whole(x), windows.pads
    if low or high > 0:
        config = [(0, 0, 0)] * x.ndim
        config[axis] = (low, max(high, 0), 0)
        x = lax.pad(x, jnp.zeros((), x.dtype), config)
    last = (windows.outputs - 1) * windows.stride + 1
    starts = range(0, windows.window * windows.dilation, windows.dilation)
    return [lax.slice_in_dim(x, j, j + last, windows.stride, axis) for j in starts]


def _spread(parts: list[Array], axis: int, windows: Axis) -> Array:
    """The adjoint of `_cells`: adds the parts where their cells lie.

    Cells in the padding are cut off, not padded by less than nothing: XLA cannot do that to parts
    of an image.
    """
    held = cells_held(windows)

    def placed(j: int, part: Array) -> Array:
        first, last = (int(i) for i in np.flatnonzero(held[j])[[0, -1]])
        before = first * windows.stride + j * windows.dilation - windows.pads[0]
        behind = windows.size - 1 - before - (last - first) * windows.stride
        config = [(0, 0, 0)] * part.ndim
        config[axis] = (before, behind, windows.stride - 1)
        part = lax.slice_in_dim(part, first, last + 1, axis=axis)
        return lax.pad(part, jnp.zeros((), part.dtype), config)

    return reduce(add, (placed(j, part) for j, part in enumerate(parts) if held[j].any()))


def _max_along(x: Array, axis: int, windows: Axis) -> tuple[Array, Array]:
    """The maximum of each window along an axis, and the place of the first cell that has it."""
    cells = _cells(x, axis, windows)
    held = cells_held(windows).reshape(-1, *(windows.outputs if a == axis else 1 for a in range(4)))
    best, place, found = cells[0], jnp.zeros(cells[0].shape, jnp.int32), held[0]
    for j, cell in enumerate(cells[1:], 1):
        better = (cell > best) | (jnp.isnan(cell) & ~jnp.isnan(best))
        if not (held[j].all() and found.all()):  # what a padded cell holds is not compared
            better = jnp.asarray(held[j]) & (better | jnp.asarray(~found))
            found = found | held[j]
        best = jnp.where(better, cell, best)
        place = jnp.where(better, jnp.int32(j), place)
    return best, place


def cells_held(windows: Axis, pads: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Which cells (window, outputs) lie in the image, or within so many pixels around it."""
    start = np.arange(windows.outputs) * windows.stride - windows.pads[0]
    cell = start + windows.dilation * np.arange(windows.window)[:, None]
    return (cell >= -pads[0]) & (cell < windows.size + pads[1])


def _route(dy: Array, place: Array, axis: int, windows: Axis) -> Array:
    """Sends each window's cotangent along an axis to the cell that has won it."""
    zero = jnp.zeros((), dy.dtype)
    parts = [jnp.where(place == j, dy, zero) for j in range(windows.window)]
    return _spread(parts, axis, windows)


def _counts(axes: Axes, counted: Pads, dtype: Any) -> Array:
    """How many cells of each window are averaged, (1, oh, ow, 1)."""
    along = [cells_held(*pair).sum(0) for pair in zip(axes, counted, strict=True)]
    return jnp.asarray(np.outer(*along)[None, :, :, None], dtype)


# On a CPU ----------------------------------------------------------------------------------


def _cpu_max(x: Array, *, geometry: Axes) -> Array:
    native = _native_for(x)
    return native.max_pool(x, **_where(geometry)) if native else _max(x, geometry=geometry)


def _cpu_max_gradient(x: Array, dy: Array, *, geometry: Axes) -> Array:
    native = _native_for(x, dy)
    if native is None:
        return _max_gradient(x, dy, geometry=geometry)
    return native.max_pool_gradient(x, dy, **_where(geometry))


def _cpu_mean(x: Array, *, geometry: Axes, counted: Pads) -> Array:
    native = _native_for(x)
    if native is None:
        return _mean(x, geometry=geometry, counted=counted)
    return native.avg_pool(x, **_where(geometry), counted=counted)


def _cpu_mean_gradient(dy: Array, *, geometry: Axes, counted: Pads) -> Array:
    native = _native_for(dy)
    if native is None:
        return _mean_gradient(dy, geometry=geometry, counted=counted)
    size = tuple(axis.size for axis in geometry)
    return native.avg_pool_gradient(dy, size=size, **_where(geometry), counted=counted)


def _native_for(*images: Array) -> Any:
    """The native package, where it is in use and faster: its vectors hold channels; else None."""
    if not all(a.dtype == jnp.float32 and a.size for a in images):
        return None
    if images[0].shape[3] < MANY_CHANNELS:
        return None
    return _native.package_for(jnp.float32)


def _where(axes: Axes) -> dict[str, Any]:
    """The windows as native kernels are told of them."""
    rows, columns = axes
    return {
        "outputs": (rows.outputs, columns.outputs),
        "window": (rows.window, columns.window),
        "stride": (rows.stride, columns.stride),
        "dilation": (rows.dilation, columns.dilation),
        "before": (rows.pads[0], columns.pads[0]),
    }


def _names(**_: Any) -> str:
    return "..."  # where XLA cuts images, it is to cut the definition


max_k = make_composite("funcnet_max_pool", _max, _cpu_max, _names)
max_gradient_k = make_composite(
    "funcnet_max_pool_gradient", _max_gradient, _cpu_max_gradient, _names
)
mean_k = make_composite("funcnet_avg_pool", _mean, _cpu_mean, _names)
mean_gradient_k = make_composite(
    "funcnet_avg_pool_gradient", _mean_gradient, _cpu_mean_gradient, _names
)
