"""Pooling, each layer with its rule directly under it."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from funcnet import _validate
from funcnet.kernels import (
    as_cotangent,
    cells_held,
    emptied,
    wide,
    window_max,
    window_max_gradient,
    window_mean,
    window_mean_gradient,
)
from funcnet.layers._geometry import Geometry, Padding, Pixels, resolve


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
    return window_max(x, geometry.axes)


def _max_pool_fwd(x, window, stride, padding, ceil_mode, dilation):
    return _max_pool(x, window, stride, padding, ceil_mode, dilation), jnp.asarray(x)


def _max_pool_bwd(window, stride, padding, ceil_mode, dilation, x, dy):
    geometry = _geometry("max_pool", x.shape, window, stride, padding, ceil_mode, dilation)
    return (as_cotangent(window_max_gradient(x, dy, geometry.axes), x),)


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
    counted = geometry.pads if count_include_pad else ((0, 0), (0, 0))
    return window_mean(x, geometry.axes, counted).astype(x.dtype)


def _avg_pool_fwd(x, window, stride, padding, ceil_mode, count_include_pad):
    y = _avg_pool(x, window, stride, padding, ceil_mode, count_include_pad)
    return y, emptied(x)


def _avg_pool_bwd(window, stride, padding, ceil_mode, count_include_pad, like_x, dy):
    geometry = _geometry("avg_pool", like_x.shape[1:], window, stride, padding, ceil_mode)
    counted = geometry.pads if count_include_pad else ((0, 0), (0, 0))
    dx = window_mean_gradient(dy, geometry.axes, counted)
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
    if not all(cells_held(windows).any(0).all() for windows in geometry.axes):
        raise ValueError(
            f"{function}: padding is {padding}, expected less than the window {window}: a window "
            "of padding alone has no value."
        )
    return geometry
