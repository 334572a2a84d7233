"""A convolution, a ReLU and the maxima of its tiles in one pass, and its kernel's gradient.

Native on a CPU, where what lies between is never written: the output is pooled while it is in a
core's cache, and the kernel's gradient reads what the winners got where they are. Elsewhere, and on
a mesh, both are their definitions, of whose convolutions each device has a part.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, UInt8

from funcnet.kernels._conv import conv, conv_bias, conv_kernel_gradient
from funcnet.kernels._conv_cpu import as_native, native_for_conv, native_for_kernel_gradient
from funcnet.kernels._conv_xla import Pads, Pair
from funcnet.kernels._lowering import make_composite, promoted, wide, wide_dtype
from funcnet.kernels._pools import Axis, first_winner, tile_cells, to_tiles
from funcnet.kernels._types import explicit_mesh

EDGE = 2
TILE = (EDGE, EDGE)
NO_CELL = 4  # the winner of a tile whose maximum is not above 0


def conv_pool(
    x: Float[Array, "n h w cin"],
    w: Float[Array, "kh kw cin//{groups} cout"],
    b: Float[Array, " cout"] | None,
    stride: Pair,
    pads: Pads,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> tuple[Float[Array, "n ph pw cout"], UInt8[Array, "n ph pw cout"]]:
    r"""`conv` plus a bias, through a ReLU, and of the result the maximum of each 2 by 2 tile.

    Args:
      x: images (n, h, w, cin).
      w: a kernel (kh, kw, cin // groups, cout).
      b: a bias (cout,), or None.
      stride: the step in pixels, (height, width).
      pads: pixels padded, ((above, below), (left, right)).
      dilation: the step from tap to tap of the kernel in pixels, (height, width).
      groups: so many convolutions side by side, each of its own channels.

    Returns:
      The maxima (n, oh // 2, ow // 2, cout), in the dtype that the sum was taken in; and which cell
      of its tile is the first to have it, 0 to 3 in row-major order, or 4 where it is not above 0.
      A NaN wins over numbers, and is not above 0.

    Source: courses.md row 4-40.

    >>> x, w = jnp.arange(4.0).reshape(1, 2, 2, 1), jnp.ones((1, 1, 1, 1))
    >>> [y.item() for y in conv_pool(x, w, None, (1, 1), ((0, 0), (0, 0)))]
    [3.0, 3]
    """
    x, w = promoted(x, w)
    operands = (x, w) if b is None else (x, w, b)
    top, winner = conv_pool_k(*operands, stride=stride, pads=pads, dilation=dilation, groups=groups)
    return top, winner


def conv_pool_kernel_gradient(
    x: Float[Array, "n h w cin"],
    dy: Float[Array, "n ph pw cout"],
    winner: UInt8[Array, "n ph pw cout"],
    size: Pair,
    stride: Pair,
    pads: Pads,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Float[Array, "kh kw cin//{groups} cout"]:
    r"""The gradient of $\langle dy, y \rangle$ by the kernel, of `conv_pool`'s maxima y.

    Args:
      x: images (n, h, w, cin).
      dy: the cotangent of the maxima, (n, ph, pw, cout).
      winner: which cell of its tile dy goes to, of dy's shape; 4 is none.
      size: the kernel's height and width.
      stride: the step in pixels, (height, width).
      pads: pixels padded, ((above, below), (left, right)).
      dilation: the step from tap to tap of the kernel in pixels, (height, width).
      groups: so many convolutions side by side, each of its own channels.

    Returns:
      (kh, kw, cin // groups, cout), in the dtype that the sum was taken in.

    >>> x, dy = jnp.arange(4.0).reshape(1, 2, 2, 1), jnp.ones((1, 1, 1, 1))
    >>> winner = jnp.full(dy.shape, 3, jnp.uint8)
    >>> conv_pool_kernel_gradient(x, dy, winner, (1, 1), (1, 1), ((0, 0), (0, 0))).item()
    3.0
    """
    x, dy = promoted(x, dy)
    plain = explicit_mesh(x, dy, winner) is not None
    return (_kernel_gradient if plain else kernel_gradient_k)(
        x, dy, winner, size=size, stride=stride, pads=pads, dilation=dilation, groups=groups
    )


def of_winners(dy: Array, winner: Array) -> Array:
    """The cotangent of the convolution: each tile's at its winner, and 0 elsewhere."""
    _, ph, pw, _ = winner.shape
    return to_tiles(dy, winner, TILE, (2 * ph, 2 * pw))  # a last odd row or column got nothing


# The definitions ---------------------------------------------------------------------------


def _pooled(x: Array, w: Array, *bias: Array, **where: Any) -> tuple[Array, Array]:
    z = conv_bias(x, w, bias[0], **where) if bias else conv(x, w, **where)
    rows, columns = (Axis(size, EDGE, EDGE, (0, 0), size // EDGE) for size in z.shape[1:3])
    top, winner = first_winner(tile_cells(z, rows, columns))
    winner = jnp.where(top > 0, winner, jnp.asarray(NO_CELL, winner.dtype))
    return jnp.maximum(top, jnp.zeros((), top.dtype)), winner


def _kernel_gradient(x: Array, dy: Array, winner: Array, *, size: Pair, **where: Any) -> Array:
    return conv_kernel_gradient(x, of_winners(dy, winner), size, **where)


# On a CPU ----------------------------------------------------------------------------------


def _cpu_pooled(x: Array, w: Array, *bias: Array, **where: Any) -> tuple[Array, Array]:
    native = native_for_conv(x, w, **where)
    if native is None:
        return _pooled(x, w, *bias, **where)
    b = bias[0].astype(wide_dtype(x.dtype)) if bias else None
    return native.conv_pool(wide(x), wide(w), bias=b, **as_native(**where))


def _cpu_kernel_gradient(x: Array, dy: Array, winner: Array, *, size: Pair, **where: Any) -> Array:
    """Native but for Winograd's filtering, which the images' gradient shares its cotangent with."""
    n, ph, pw, cout = dy.shape
    output, kernel = (n, 2 * ph, 2 * pw, cout), (*size, x.shape[3] // where["groups"], cout)
    native = native_for_kernel_gradient(x, output, size, **where)
    kind, options = "conv_kernel_gradient", as_native(**where)
    if native is None or "winograd" in native.implementation(
        kind, x.shape, kernel, output, **options
    ):
        return _kernel_gradient(x, dy, winner, size=size, **where)
    return native.conv_pool_kernel_gradient(wide(x), wide(dy), winner, size, **options)


conv_pool_k = make_composite(
    "funcnet_conv_pool", _pooled, _cpu_pooled, lambda **_: "...", several=True
)
kernel_gradient_k = make_composite(
    "funcnet_conv_pool_kernel_gradient", _kernel_gradient, _cpu_kernel_gradient, lambda **_: "..."
)
