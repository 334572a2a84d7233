"""Calls of the pools."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import Array

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
IN_IMAGE: Pads = ((0, 0), (0, 0))


def max_pool(
    x: Array, *, outputs: Pair, window: Pair, stride: Pair, before: Pair, dilation: Pair = (1, 1)
) -> Array:
    r"""The maximum of each window, channel by channel; not-a-number is larger than any number.

    Args:
      x: images (n, h, w, c).
      outputs: how many windows there are, (height, width); each has a cell in the image.
      window: cells of a window, (height, width).
      stride: the step from window to window in pixels, (height, width).
      before: pixels padded, (above, left), which are no cells; what is padded behind follows.
      dilation: the step from cell to cell of a window in pixels, (height, width).

    Returns:
      (n, oh, ow, c).
    """
    out = jax.ShapeDtypeStruct((x.shape[0], *outputs, x.shape[3]), x.dtype)
    windows = _windows(window, stride, dilation, before)
    return jax.ffi.ffi_call("funcnet_max_pool", out)(x, **windows)


def max_pool_gradient(
    x: Array,
    dy: Array,
    *,
    outputs: Pair,
    window: Pair,
    stride: Pair,
    before: Pair,
    dilation: Pair = (1, 1),
) -> Array:
    r"""The gradient of $\langle dy, \mathrm{max\_pool}(x) \rangle$ by x.

    Each window's dy goes to the first of its maxima in row-major order; what a cell has of several
    windows is added in their order.

    Args:
      x: images (n, h, w, c).
      dy: the cotangent (n, oh, ow, c).
      outputs: how many windows there are: (oh, ow).
      window: as in `max_pool`, and what follows.
      stride: the same.
      before: the same.
      dilation: the same.

    Returns:
      (n, h, w, c).
    """
    del outputs  # which dy has
    out = jax.ShapeDtypeStruct(x.shape, x.dtype)
    windows = _windows(window, stride, dilation, before)
    return jax.ffi.ffi_call("funcnet_max_pool_gradient", out)(x, dy, **windows)


def avg_pool(
    x: Array,
    *,
    outputs: Pair,
    window: Pair,
    stride: Pair,
    before: Pair,
    dilation: Pair = (1, 1),
    counted: Pads = IN_IMAGE,
) -> Array:
    r"""The mean of each window, channel by channel.

    Args:
      x: images (n, h, w, c).
      outputs: as in `max_pool`, and what follows.
      window: the same.
      stride: the same.
      before: the same.
      dilation: the same.
      counted: so many pixels ((above, below), (left, right)) around the image are cells too, zeros.

    Returns:
      (n, oh, ow, c).
    """
    out = jax.ShapeDtypeStruct((x.shape[0], *outputs, x.shape[3]), x.dtype)
    windows = _windows(window, stride, dilation, before, counted)
    return jax.ffi.ffi_call("funcnet_avg_pool", out)(x, **windows)


def avg_pool_gradient(
    dy: Array,
    *,
    size: Pair,
    outputs: Pair,
    window: Pair,
    stride: Pair,
    before: Pair,
    dilation: Pair = (1, 1),
    counted: Pads = IN_IMAGE,
) -> Array:
    r"""The gradient of $\langle dy, \mathrm{avg\_pool}(x) \rangle$ by x.

    Args:
      dy: the cotangent (n, oh, ow, c).
      size: the images' (height, width).
      outputs: how many windows there are: (oh, ow).
      window: as in `avg_pool`, and what follows.
      stride: the same.
      before: the same.
      dilation: the same.
      counted: the same.

    Returns:
      (n, h, w, c).
    """
    del outputs  # which dy has
    out = jax.ShapeDtypeStruct((dy.shape[0], *size, dy.shape[3]), dy.dtype)
    windows = _windows(window, stride, dilation, before, counted)
    return jax.ffi.ffi_call("funcnet_avg_pool_gradient", out)(dy, **windows)


def _windows(
    window: Pair, stride: Pair, dilation: Pair, before: Pair, counted: Pads = IN_IMAGE
) -> dict[str, Any]:
    """The attributes of windows along both axes, in the order of C++."""
    axes = zip(window, stride, dilation, before, counted, strict=True)
    rows, columns = (np.array((*numbers, *around), np.int64) for *numbers, around in axes)
    return {"rows": rows, "columns": columns}
