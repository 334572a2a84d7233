"""Affine maps, convolutions and their fusions with ReLU, each layer with its rule under it."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from funcnet import _validate, kernels
from funcnet.layers._geometry import Padding, resolve
from funcnet.layers._params import AffineParams, ConvParams
from funcnet.layers._pools import Window, first_winner, tile_cells, to_tiles


@jax.custom_vjp
def affine(params: AffineParams, x: Float[Array, n * features]) -> Float[Array, "n m"]:
    r"""Affine map of flattened rows.

    Forward: $y = x w + b$ with x reshaped to (n, d).
    Backward: $dx = dy\,w^\top$, $dw = x^\top dy$, $db = \sum_n dy_n$. Keeps w and x, which it has
    been given.

    Args:
      params: `AffineParams(w, b)` of shapes (d, m) and (m,).
      x: (n, ...) with d features in each row; n may be 0.

    Returns:
      y, (n, m), in the common dtype of x, w and b. Sums are taken in float32 at least.

    Raises:
      TypeError: an array is not of a floating dtype.
      ValueError: shapes do not fit.

    Source: courses.md rows 0-3, 1-4, 3-3 and 3-4.

    >>> affine(AffineParams(jnp.ones((4, 1)), jnp.zeros(1)), jnp.ones((2, 2, 2)))
    Array([[4.], [4.]], dtype=float64)
    """
    return _affine(params, x)


def _affine(params, x):
    params, rows, dtype = affine_arguments("affine", params, x)
    return affine_sum(params, rows).astype(dtype)


def affine_sum(params, rows, relu=False):
    return kernels.matmul_bias(rows, params.w, params.b, relu)


def affine_arguments(function, params, x):
    """Checked parameters, x as rows (n, d), and the dtype of the result."""
    x = _validate.floating(function, "x", x)
    w, b = (_validate.floating(function, f"params.{k}", v) for k, v in params._asdict().items())
    _validate.rank(function, "params.w", w, (2,), "(d, m), inputs by outputs")
    if x.ndim < 2:
        raise ValueError(
            f"{function}: x has shape {x.shape}, expected a batch of rows (n, ...); a single row "
            "becomes one with x[None]."
        )
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:]))
    if rows.shape[1] != w.shape[0]:
        raise ValueError(
            f"{function}: x has shape {x.shape}, which is {rows.shape[1]} features a row, expected "
            f"{w.shape[0]}, because params.w has shape {w.shape}; the parameters were made for "
            "another input."
        )
    _validate.shape(function, "params.b", b, (w.shape[1],), f"params.w has {w.shape[1]} outputs")
    return AffineParams(w, b), rows, jnp.result_type(x, w, b)


def _affine_fwd(params, x):
    return _affine(params, x), (params, x)


def _affine_bwd(residuals, dy):
    params, x = residuals  # (d, m) and (m,), (n, ...)
    return affine_cotangents(params, x, dy)


def affine_cotangents(params, x, dy, bias=True):
    rows = x.reshape(x.shape[0], params.w.shape[0])
    dx = kernels.matmul_nt(dy, params.w)
    dw = kernels.matmul_tn(rows, dy)
    db = kernels.wide(dy).sum(0) if bias else jnp.zeros_like(params.b)
    return (
        AffineParams(dw.astype(params.w.dtype), db.astype(params.b.dtype)),
        dx.reshape(x.shape).astype(x.dtype),
    )


affine.defvjp(_affine_fwd, _affine_bwd)


@jax.custom_vjp
def flatten(x: Float[Array, n * features]) -> Float[Array, "n d"]:
    r"""Each example as one row.

    Forward: y is x of shape (n, ...) as (n, d). Backward: dx is dy in x's shape. Keeps nothing.

    Args:
      x: (n, ...), a floating dtype; n may be 0.

    Returns:
      y, (n, d) in x's dtype.

    Raises:
      TypeError: x is not of a floating dtype.
      ValueError: x has no batch axis.

    Source: courses.md row 3-2.

    >>> flatten(jnp.ones((15, 2, 2, 3))).shape
    (15, 12)
    """
    return _flatten(x)


def _flatten(x):
    x = _validate.floating("flatten", "x", x)
    if x.ndim < 1:
        raise ValueError("flatten: x has shape (), expected a batch (n, ...).")
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _flatten_fwd(x):
    # Of x the backward pass needs the shape alone, which an array without elements carries.
    return _flatten(x), jnp.zeros((0, *jnp.shape(x)), jnp.asarray(x).dtype)


def _flatten_bwd(like_x, dy):
    return (dy.reshape(like_x.shape[1:]),)


flatten.defvjp(_flatten_fwd, _flatten_bwd)


@jax.custom_vjp
def affine_relu(params: AffineParams, x: Float[Array, n * features]) -> Float[Array, "n m"]:
    r"""Affine map and ReLU in one.

    Forward: $y = \max(x w + b, 0)$.
    Backward: with $dz = [y > 0]\,dy$: $dx = dz\,w^\top$, $dw = x^\top dz$, $db = \sum_n dz_n$.
    Keeps y, which the next layer keeps as its input, besides w and x.

    Args:
      params: `AffineParams(w, b)` of shapes (d, m) and (m,).
      x: (n, ...) with d features in each row; n may be 0.

    Returns:
      y, (n, m), in the common dtype of x, w and b.

    Raises:
      TypeError: an array is not of a floating dtype.
      ValueError: shapes do not fit.

    Source: courses.md rows 0-7, 1-8 and 4-42.

    >>> affine_relu(AffineParams(jnp.ones((2, 1)), -jnp.ones(1)), jnp.array([[1.0, 1], [0, 0]]))
    Array([[1.], [0.]], dtype=float64)
    """
    return _affine_relu(params, x)


def _affine_relu(params, x):
    params, rows, dtype = affine_arguments("affine_relu", params, x)
    return affine_sum(params, rows, relu=True).astype(dtype)


def _positive(z):
    return jnp.maximum(z, jnp.zeros((), z.dtype))


def _affine_relu_fwd(params, x):
    y = _affine_relu(params, x)
    return y, (params, x, y)


def _affine_relu_bwd(residuals, dy):
    params, x, y = residuals  # (d, m) and (m,), (n, ...), (n, m)
    return affine_cotangents(params, x, jnp.where(y > 0, dy, jnp.zeros_like(dy)))


affine_relu.defvjp(_affine_relu_fwd, _affine_relu_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("stride", "padding"))
def conv2d(
    params: ConvParams,
    x: Float[Array, "n h w cin"],
    stride: Window = 1,
    padding: Padding = "SAME",
) -> Float[Array, "n oh ow cout"]:
    r"""Convolution (cross-correlation) of images.

    Forward: $y_{nijo} = b_o + \sum_{p,q,c} x_{n,\,i s_h + p - t,\,j s_w + q - l,\,c}\, w_{pqco}$
    with t rows padded above and l columns padded on the left.
    Backward: $dw_{pqco} = \sum_{n,i,j} x_{n,\,i s_h + p - t,\,j s_w + q - l,\,c}\, dy_{nijo}$, dx
    the adjoint of the same sum in x, $db_o = \sum_{n,i,j} dy_{nijo}$. Keeps w and x, which it has
    been given.

    Args:
      params: `ConvParams(w, b)` of shapes (kh, kw, cin, cout) and (cout,).
      x: images (n, h, w, cin); n may be 0.
      stride: the step in pixels, an int or (height, width).
      padding: "SAME" (ceil(h / stride) rows of output; the odd pixel of padding goes below and to
        the right), "VALID" (none) or the number of zero pixels on every side.

    Returns:
      y, (n, oh, ow, cout), in the common dtype of x, w and b. Sums are taken in float32 at least.

    Raises:
      TypeError: an array is not of a floating dtype, or an option is not of its type.
      ValueError: shapes do not fit, or the kernel does not fit into the padded image.

    Source: courses.md rows 4-33, 4-35 and 4-38; Dumoulin and Visin 2016,
    https://arxiv.org/abs/1603.07285.

    >>> params = ConvParams(jnp.ones((3, 3, 1, 1)), jnp.zeros(1))
    >>> conv2d(params, jnp.ones((1, 3, 3, 1)))[0, :, :, 0]
    Array([[4., 6., 4.], [6., 9., 6.], [4., 6., 4.]], dtype=float64)
    """
    return _conv2d(params, x, stride, padding)


def _conv2d(params, x, stride, padding):
    params, x, stride, pads, dtype = _conv_arguments("conv2d", params, x, stride, padding)
    return kernels.conv_bias(x, params.w, params.b, stride, pads).astype(dtype)


def _conv_arguments(function, params, x, stride, padding):
    """Checked parameters and images, the stride as a pair, explicit pads, the result's dtype."""
    x = _validate.floating(function, "x", x)
    w, b = (_validate.floating(function, f"params.{k}", v) for k, v in params._asdict().items())
    _validate.rank(function, "x", x, (4,), "images (n, h, w, channels), channels last")
    _validate.rank(function, "params.w", w, (4,), "(kh, kw, cin, cout)")
    if x.shape[3] != w.shape[2]:
        raise ValueError(
            f"{function}: x has shape {x.shape}, which is {x.shape[3]} channels, expected "
            f"{w.shape[2]}, because params.w has shape {w.shape} (kh, kw, cin, cout); channels are "
            "last: images (n, c, h, w) need x.transpose(0, 2, 3, 1)."
        )
    _validate.shape(
        function, "params.b", b, (w.shape[3],), f"params.w has {w.shape[3]} output channels"
    )
    stride = _validate.pair(function, "stride", stride)
    pads = resolve(function, x.shape[1:3], w.shape[:2], stride, padding).pads
    return ConvParams(w, b), x, stride, pads, jnp.result_type(x, w, b)


def _conv2d_fwd(params, x, stride, padding):
    return _conv2d(params, x, stride, padding), (params, x)


def _conv2d_bwd(stride, padding, residuals, dy):
    params, x = residuals  # (kh, kw, cin, cout) and (cout,), (n, h, w, cin)
    return _conv_cotangents(params, x, dy, stride, padding)


def _conv_cotangents(params, x, dy, stride, padding, dy_sum=None):
    """`dy_sum` is what db is the sum of, where that is less than dy."""
    params, x, stride, pads, _ = _conv_arguments("conv2d", params, x, stride, padding)
    dw = kernels.conv_kernel_gradient(x, dy, params.w.shape[:2], stride, pads)
    dx = kernels.conv_input_gradient(dy, params.w, x.shape[1:3], stride, pads)
    db = kernels.wide(dy if dy_sum is None else dy_sum).sum((0, 1, 2))
    return (
        ConvParams(dw.astype(params.w.dtype), db.astype(params.b.dtype)),
        dx.astype(x.dtype),
    )


conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("stride", "padding"))
def conv_relu(
    params: ConvParams,
    x: Float[Array, "n h w cin"],
    stride: Window = 1,
    padding: Padding = "SAME",
) -> Float[Array, "n oh ow cout"]:
    r"""Convolution and ReLU in one.

    Forward: $y = \max(z, 0)$ with z the output of `conv2d`.
    Backward: `conv2d`'s with $dz = [y > 0]\,dy$ for its cotangent. Keeps y, which the next layer
    keeps as its input, besides w and x.

    Args:
      params: `ConvParams(w, b)` of shapes (kh, kw, cin, cout) and (cout,).
      x: images (n, h, w, cin); n may be 0.
      stride: the step in pixels, an int or (height, width).
      padding: "SAME", "VALID" or the number of zero pixels on every side, as in `conv2d`.

    Returns:
      y, (n, oh, ow, cout), in the common dtype of x, w and b.

    Raises:
      TypeError: an array is not of a floating dtype, or an option is not of its type.
      ValueError: shapes do not fit, or the kernel does not fit into the padded image.

    Source: courses.md row 4-41.

    >>> params = ConvParams(jnp.ones((1, 1, 1, 1)), -jnp.ones(1))
    >>> conv_relu(params, jnp.array([0.0, 3.0]).reshape(1, 1, 2, 1)).ravel()
    Array([0., 2.], dtype=float64)
    """
    return _conv_relu(params, x, stride, padding)


def _conv_relu(params, x, stride, padding):
    params, x, stride, pads, dtype = _conv_arguments("conv_relu", params, x, stride, padding)
    return kernels.conv_bias(x, params.w, params.b, stride, pads, relu=True).astype(dtype)


def _conv_relu_fwd(params, x, stride, padding):
    y = _conv_relu(params, x, stride, padding)
    return y, (params, x, y)


def _conv_relu_bwd(stride, padding, residuals, dy):
    params, x, y = residuals  # (kh, kw, cin, cout) and (cout,), (n, h, w, cin), (n, oh, ow, cout)
    dz = jnp.where(y > 0, dy, jnp.zeros_like(dy))
    return _conv_cotangents(params, x, dz, stride, padding)


conv_relu.defvjp(_conv_relu_fwd, _conv_relu_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("stride", "padding"))
def conv_relu_pool(
    params: ConvParams,
    x: Float[Array, "n h w cin"],
    stride: Window = 1,
    padding: Padding = "SAME",
) -> Float[Array, "n ph pw cout"]:
    r"""Convolution, ReLU and 2x2 max pooling in one.

    Forward: $y = \max(\max_{p,q \in \{0,1\}} z_{n,\,2i+p,\,2j+q,\,c},\ 0)$ with z the output of
    `conv2d`; a last odd row or column of z is dropped.
    Backward: `conv2d`'s, with dy sent to the first of the window's four cells that has its maximum,
    and nowhere where that maximum is not positive. Keeps one byte a window (which cell, or none)
    besides w and x: neither z nor its ReLU.

    Args:
      params: `ConvParams(w, b)` of shapes (kh, kw, cin, cout) and (cout,).
      x: images (n, h, w, cin); n may be 0.
      stride: the convolution's step in pixels, an int or (height, width).
      padding: the convolution's: "SAME", "VALID" or the number of zero pixels on every side.

    Returns:
      y, (n, oh // 2, ow // 2, cout), in the common dtype of x, w and b.

    Raises:
      TypeError: an array is not of a floating dtype, or an option is not of its type.
      ValueError: shapes do not fit, or there is no room for one window.

    Source: courses.md row 4-40.

    >>> params = ConvParams(jnp.ones((1, 1, 1, 1)), -jnp.ones(1))
    >>> conv_relu_pool(params, jnp.arange(4.0).reshape(1, 2, 2, 1)).ravel()
    Array([2.], dtype=float64)
    """
    y, _ = _conv_relu_pool(params, x, stride, padding)
    return y


_NO_CELL = 4


def _conv_relu_pool(params, x, stride, padding):
    """The output, and which cell of each window has won: 0 to 3, or none."""
    params, x, stride, pads, dtype = _conv_arguments("conv_relu_pool", params, x, stride, padding)
    z = kernels.conv_bias(x, params.w, params.b, stride, pads)
    rows, columns = _pool_axes(z.shape[1:3])
    top, winner = first_winner(tile_cells(z, rows, columns))
    winner = jnp.where(top > 0, winner, jnp.asarray(_NO_CELL, winner.dtype))
    return _positive(top).astype(dtype), winner


def _pool_axes(size):
    return resolve("conv_relu_pool", size, (2, 2), (2, 2), "VALID").axes


def _conv_relu_pool_fwd(params, x, stride, padding):
    y, winner = _conv_relu_pool(params, x, stride, padding)
    return y, (params, x, winner)


def _conv_relu_pool_bwd(stride, padding, residuals, dy):
    params, x, winner = residuals  # (kh, kw, cin, cout) and (cout,), (n, h, w, cin), (n, ph, pw, o)
    _, ph, pw, _ = winner.shape
    dy = jnp.where(winner < _NO_CELL, dy, jnp.zeros_like(dy))
    dz = to_tiles(dy, winner, (2, 2), (2 * ph, 2 * pw))  # a last odd row or column got nothing
    return _conv_cotangents(params, x, dz, stride, padding, dy)


conv_relu_pool.defvjp(_conv_relu_pool_fwd, _conv_relu_pool_bwd)
