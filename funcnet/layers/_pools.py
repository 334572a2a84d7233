"""Pooling, each layer with its rule directly under it.

Tiles, which are the usual windows, are looked at whole: `tile_cells` are the strided slices that
hold one cell of every tile, `to_tiles` is their adjoint. Other windows are walked one axis at a
time: `_cells` are the slices that hold the j-th cell of every window along an axis, `_spread` is
their adjoint, so that overlapping, uneven and padded windows need no case of their own. Nothing
gathers the batch axis.
"""

from __future__ import annotations

import math
from functools import partial, reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from funcnet import _validate
from funcnet.kernels import as_cotangent, emptied, reshape, whole, wide
from funcnet.layers._geometry import Axis, Geometry, Padding, Pixels, resolve


@partial(jax.custom_vjp, nondiff_argnames=("window", "stride", "padding", "ceil_mode", "dilation"))
def max_pool(
    x: Float[ArrayLike, "n h w c"],
    window: Pixels = 2,
    stride: Pixels | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
    dilation: Pixels = 1,
) -> Float[Array, "n oh ow c"]:
    r"""The maximum of each window of pixels, channel by channel.

    Forward: $y_{nijc} = \max_{p,q} x_{n,\,i s_h + p d_h,\,j s_w + q d_w,\,c}$ with strides $s$ and
    dilations $d$.
    Backward: dx is the sum, over the windows that a cell has won, of their dy. A window is won by
    its first maximum in row-major order; a NaN wins over numbers; a padded cell never wins.
    Keeps x, which it has been given. `max_pool(x, x.shape[1:3])` is the maximum of a whole image,
    `max_pool(x[:, :, None], (k, 1))[:, :, 0]` that of windows of k places of a series (n, l, c).

    Args:
      x: (n, h, w, c), a floating dtype.
      window: the window's size in cells, an int or (height, width).
      stride: the step from window to window in pixels; None means `window`: tiles.
      padding: "VALID" (windows that fit; rows left over are dropped), "SAME" (ceil(h / stride)
        windows), the number of pixels padded on every side, or ((top, bottom), (left, right)).
      ceil_mode: whether rows left over make a window that reaches beyond them, if it starts
        before the padding behind the image.
      dilation: the step from cell to cell within a window in pixels, an int or (height, width).

    Returns:
      y, (n, oh, ow, c) in x's dtype.

    Raises:
      TypeError: x is not of a floating dtype, or an option is not of its type.
      ValueError: x is not of four axes, the window does not fit, or a window is all padding.

    Source: courses.md rows 4-36, 4-37 and 4-39; the tie rule is NumPy's argmax, not a mask's.
    `ceil_mode` and `dilation` are torch's.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0]
    Array([[ 5.,  7.], [13., 15.]], dtype=float64)
    """
    return _max_pool(x, window, stride, padding, ceil_mode, dilation)


def _max_pool(x, window, stride, padding, ceil_mode, dilation):
    x = _images("max_pool", x)
    geometry = _geometry("max_pool", x.shape, window, stride, padding, ceil_mode, dilation)
    rows, columns = geometry.axes
    if are_tiles(rows, columns):
        return reduce(jnp.maximum, tile_cells(x, rows, columns))
    for axis, windows in ((2, columns), (1, rows)):
        x, _ = _max_along(x, axis, windows)
    return x


def _max_pool_fwd(x, window, stride, padding, ceil_mode, dilation):
    return _max_pool(x, window, stride, padding, ceil_mode, dilation), jnp.asarray(x)


def _max_pool_bwd(window, stride, padding, ceil_mode, dilation, x, dy):
    geometry = _geometry("max_pool", x.shape, window, stride, padding, ceil_mode, dilation)
    rows, columns = geometry.axes
    if are_tiles(rows, columns):
        _, winner = first_winner(tile_cells(x, rows, columns))
        dx = to_tiles(dy, winner, (rows.window, columns.window), x.shape[1:3])
        return (as_cotangent(dx, x),)
    across, winner = _max_along(x, 2, columns)
    _, row = _max_along(across, 1, rows)
    dx = _route(dy, row, 1, rows)
    return (as_cotangent(_route(dx, winner, 2, columns), x),)


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


@partial(
    jax.custom_vjp,
    nondiff_argnames=("window", "stride", "padding", "ceil_mode", "count_include_pad"),
)
def avg_pool(
    x: Float[ArrayLike, "n h w c"],
    window: Pixels = 2,
    stride: Pixels | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Float[Array, "n oh ow c"]:
    r"""The mean of each window of pixels, channel by channel.

    Forward: $y_{nijc} = \frac{1}{N_{ij}} \sum_{p,q} x_{n,\,i s_h + p,\,j s_w + q,\,c}$ where
    $N_{ij}$ counts the cells of the window that are not padding.
    Backward: each cell of dx is the sum of $dy_{nijc}/N_{ij}$ over its windows. Keeps nothing.

    Args:
      x: (n, h, w, c), a floating dtype.
      window: the window's size in pixels, an int or (height, width).
      stride: the step from window to window in pixels; None means `window`: tiles.
      padding: "VALID", "SAME", a number of pixels or ((top, bottom), (left, right)), as in
        `max_pool`.
      ceil_mode: whether rows left over make a window, as in `max_pool`.
      count_include_pad: whether $N_{ij}$ counts the padding too, as zeros; never what a window of
        `ceil_mode` reaches beyond it.

    Returns:
      y, (n, oh, ow, c) in x's dtype.

    Raises:
      TypeError: x is not of a floating dtype, or an option is not of its type.
      ValueError: x is not of four axes, the window does not fit, or a window is all padding.

    Source: LeCun et al. 1998, http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf. The last two
    options are torch's.

    >>> avg_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0]
    Array([[ 2.5,  4.5], [10.5, 12.5]], dtype=float64)
    """
    return _avg_pool(x, window, stride, padding, ceil_mode, count_include_pad)


def _avg_pool(x, window, stride, padding, ceil_mode, count_include_pad):
    x = _images("avg_pool", x)
    geometry = _geometry("avg_pool", x.shape, window, stride, padding, ceil_mode)
    rows, columns = geometry.axes
    total = wide(x)
    if are_tiles(rows, columns):
        total = reduce(add, tile_cells(total, rows, columns))
    else:
        for axis, windows in ((2, columns), (1, rows)):
            total = reduce(add, _cells(total, axis, windows))
    return (total / _counts(geometry, count_include_pad, total.dtype)).astype(x.dtype)


def _avg_pool_fwd(x, window, stride, padding, ceil_mode, count_include_pad):
    y = _avg_pool(x, window, stride, padding, ceil_mode, count_include_pad)
    return y, emptied(x)


def _avg_pool_bwd(window, stride, padding, ceil_mode, count_include_pad, like_x, dy):
    shape, dtype = like_x.shape[1:], like_x.dtype
    geometry = _geometry("avg_pool", shape, window, stride, padding, ceil_mode)
    rows, columns = geometry.axes
    dx = wide(dy) / _counts(geometry, count_include_pad, wide(dy).dtype)
    if are_tiles(rows, columns):
        dx = to_tiles(dx.astype(dtype), None, (rows.window, columns.window), shape[1:3])
        return (as_cotangent(dx, like_x.sum(0)),)
    for axis, windows in ((1, rows), (2, columns)):
        dx = _spread([dx] * windows.window, axis, windows)
    return (as_cotangent(dx, like_x.sum(0)),)


avg_pool.defvjp(_avg_pool_fwd, _avg_pool_bwd)


@jax.custom_vjp
def global_avg_pool(x: Float[ArrayLike, "n *space c"]) -> Float[Array, "n c"]:
    r"""The mean over all axes but the first and the last.

    Forward: $y_{nc} = \frac{1}{N} \sum_s x_{nsc}$ over the N places s.
    Backward: $dx_{nsc} = dy_{nc}/N$. Keeps nothing.

    Args:
      x: (n, ..., c) with at least one place, such as an image batch (n, h, w, c).

    Returns:
      y, (n, c) in x's dtype.

    Raises:
      TypeError: x is not of a floating dtype.
      ValueError: x has fewer than three axes, or no place to average.

    Source: Lin et al. 2013, https://arxiv.org/abs/1312.4400.

    >>> global_avg_pool(jnp.arange(8.0).reshape(1, 2, 2, 2))
    Array([[3., 4.]], dtype=float64)
    """
    return _global_avg_pool(x)


def _global_avg_pool(x):
    x = _validate.floating("global_avg_pool", "x", x)
    if x.ndim < 3 or 0 in x.shape[1:-1]:
        raise ValueError(
            f"global_avg_pool: x has shape {x.shape}, expected (n, ..., c) with at least one place "
            "between batch and channels, such as images (n, h, w, c)."
        )
    return wide(x).mean(tuple(range(1, x.ndim - 1))).astype(x.dtype)


def _global_avg_pool_fwd(x):
    return _global_avg_pool(x), emptied(x)


def _global_avg_pool_bwd(like_x, dy):
    n, *space, c = like_x.shape[1:]
    share = (wide(dy) / math.prod(space)).astype(like_x.dtype)
    dx = jnp.broadcast_to(share.reshape(n, *(1 for _ in space), c), (n, *space, c))
    return (as_cotangent(dx, like_x.sum(0)),)


global_avg_pool.defvjp(_global_avg_pool_fwd, _global_avg_pool_bwd)


def _images(function: str, x: Any) -> Array:
    x = _validate.floating(function, "x", x)
    _validate.rank(function, "x", x, (4,), "images (n, h, w, c)")
    return x


def _geometry(
    function: str,
    shape: tuple[int, ...],
    window: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    dilation: Any = 1,
) -> Geometry:
    """The windows along the height and width of images of a shape."""
    window = _validate.pair(function, "window", window)
    stride = window if stride is None else _validate.pair(function, "stride", stride)
    dilation = _validate.pair(function, "dilation", dilation)
    geometry = resolve(function, shape[1:3], window, stride, padding, dilation, ceil_mode=ceil_mode)
    if not all(_held(windows).any(0).all() for windows in geometry.axes):
        raise ValueError(
            f"{function}: padding is {padding}, expected less than the window {window}: a window "
            "of padding alone has no value."
        )
    return geometry


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
    held = _held(windows)

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
    held = _held(windows).reshape(-1, *(windows.outputs if a == axis else 1 for a in range(4)))
    best, place, found = cells[0], jnp.zeros(cells[0].shape, jnp.int32), held[0]
    for j, cell in enumerate(cells[1:], 1):
        better = (cell > best) | (jnp.isnan(cell) & ~jnp.isnan(best))
        if not (held[j].all() and found.all()):  # what a padded cell holds is not compared
            better = jnp.asarray(held[j]) & (better | jnp.asarray(~found))
            found = found | held[j]
        best = jnp.where(better, cell, best)
        place = jnp.where(better, jnp.int32(j), place)
    return best, place


def _held(windows: Axis, pads: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Which cells (window, outputs) lie in the image, or within so many pixels around it."""
    start = np.arange(windows.outputs) * windows.stride - windows.pads[0]
    cell = start + windows.dilation * np.arange(windows.window)[:, None]
    return (cell >= -pads[0]) & (cell < windows.size + pads[1])


def _route(dy: Array, place: Array, axis: int, windows: Axis) -> Array:
    """Sends each window's cotangent along an axis to the cell that has won it."""
    zero = jnp.zeros((), dy.dtype)
    parts = [jnp.where(place == j, dy, zero) for j in range(windows.window)]
    return _spread(parts, axis, windows)


def _counts(geometry: Geometry, count_include_pad: bool, dtype: Any) -> Array:
    """How many cells of each window are averaged, (1, oh, ow, 1)."""
    around = geometry.pads if count_include_pad else ((0, 0), (0, 0))
    along = [_held(*pair).sum(0) for pair in zip(geometry.axes, around, strict=True)]
    return jnp.asarray(np.outer(*along)[None, :, :, None], dtype)
