"""Fused layers, each with its rule directly under it: what several families do, in one.

They stand above the families: a fusion knows the rules it is made of, which know nothing of it.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from funcnet.kernels import (
    NO_CELL,
    TILE,
    as_cotangent,
    conv_pool,
    conv_pool_kernel_gradient,
    normalise,
    normalise_gradient,
    of_winners,
)
from funcnet.layers._geometry import Padding, Pixels, resolve
from funcnet.layers._linear import (
    CONV_OPTIONS,
    affine_arguments,
    affine_cotangents,
    affine_sum,
    conv_arguments,
    conv_cotangents,
    conv_sum,
)
from funcnet.layers._norms import (
    AxisName,
    check_batch,
    norm_arguments,
    parameter_cotangents,
    statistics,
)
from funcnet.layers._params import AffineParams, BatchStats, ConvParams, NormParams


@jax.custom_vjp
def affine_relu(params: AffineParams, x: Float[ArrayLike, "n ..."]) -> Float[Array, "n m"]:
    r"""Affine map and ReLU in one.

    Forward: $y = \max(x w + b, 0)$.
    Backward: with $dz = [y > 0]\,dy$: $dx = dz\,w^\top$, $dw = x^\top dz$, $db = \sum_n dz_n$.
    Keeps y, which the next layer keeps as its input, besides w and x.

    Args:
      params: `AffineParams(w, b)` of shapes (d, m) and (m,); b may be None.
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


def _affine_relu_fwd(params, x):
    y = _affine_relu(params, x)
    return y, (params, x, y)


def _affine_relu_bwd(residuals, dy):
    params, x, y = residuals  # (d, m) and (m,), (n, ...), (n, m)
    return affine_cotangents(params, x, jnp.where(y > 0, dy, jnp.zeros_like(dy)))


affine_relu.defvjp(_affine_relu_fwd, _affine_relu_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("eps", "axis_name"))
def affine_batch_norm_relu(
    params: tuple[AffineParams, NormParams],
    x: Float[ArrayLike, "n ..."],
    eps: float = 1e-5,
    axis_name: AxisName = None,
) -> tuple[Float[Array, "n m"], BatchStats]:
    r"""Affine map, batch normalisation and ReLU in one.

    Forward: $z = x w + b$, then $\hat z$ and the statistics of z as in `batch_norm`, and
    $y = \max(\gamma \hat z + \beta, 0)$.
    Backward: dy where $\gamma \hat z + \beta > 0$, `batch_norm`'s rule to dz, `affine`'s to dw and
    dx; $db = 0$ exactly, because batch normalisation takes out what b adds. The statistics carry
    no gradient. Keeps z and three numbers a channel besides w, gamma, beta and x: neither
    $\hat z$ nor what ReLU is given.

    Args:
      params: `(AffineParams(w, b), NormParams(gamma, beta))` of shapes (d, m), (m,), (m,), (m,);
        gamma or beta may be None, as in `batch_norm`.
      x: (n, ...) with d features in each of at least two rows.
      eps: a static number above 0, added to the variance.
      axis_name: as in `batch_norm`.

    Returns:
      y, (n, m), in the common dtype of x and the parameters; and `BatchStats(mean, var)` of z,
      (m,) each, float32 at least.

    Raises:
      TypeError: an array is not of a floating dtype, or eps is not a Python number.
      ValueError: shapes do not fit, there are fewer than two rows, or eps is not above 0.

    Source: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167; courses.md rows 2-17 and 2-19,
    whose biases before batch normalisation have a gradient of exactly zero.

    >>> params = AffineParams(jnp.ones((1, 1)), jnp.zeros(1)), norm_init(1, jnp.float64)
    >>> y, stats = affine_batch_norm_relu(params, jnp.array([[1.0], [3.0]]))
    >>> y.ravel().round(4), stats.mean
    (Array([0., 1.], dtype=float64), Array([2.], dtype=float64))
    """
    y, stats, _ = _affine_batch_norm_relu(params, x, eps, axis_name)
    return y, stats


def _affine_batch_norm_relu(params, x, eps, axis_name):
    affine, norm = params
    affine, rows, dtype = affine_arguments("affine_batch_norm_relu", affine, x)
    z = affine_sum(affine, rows).astype(dtype)
    norm, z, dtype = norm_arguments("affine_batch_norm_relu", norm, z, eps)
    check_batch("affine_batch_norm_relu", z, axis_name)
    y, centre, var, inv_std = normalise(norm, z, "batch", eps, relu=True, axis_name=axis_name)
    return y.astype(dtype), statistics(norm, centre, var), (z, centre, inv_std)


def _affine_batch_norm_relu_fwd(params, x, eps, axis_name):
    y, stats, (z, centre, inv_std) = _affine_batch_norm_relu(params, x, eps, axis_name)
    return (y, stats), (params, x, z, centre, inv_std)


def _affine_batch_norm_relu_bwd(eps, axis_name, residuals, cotangents):
    # (d, m) to (m,), (n, ...), (n, m), 2 of (1, m), (1, m)
    (affine, norm), x, z, centre, inv_std = residuals
    dy, _ = cotangents
    options = {"relu": True, "axis_name": axis_name}
    dnorm, dz = normalise_gradient(norm, z, centre, inv_std, dy, "batch", **options)
    dnorm, dz = as_cotangent((parameter_cotangents(norm, *dnorm), dz), (norm, z))
    daffine, dx = affine_cotangents(affine, x, dz, bias=False)
    return (daffine, dnorm), dx


affine_batch_norm_relu.defvjp(_affine_batch_norm_relu_fwd, _affine_batch_norm_relu_bwd)


@partial(jax.custom_vjp, nondiff_argnames=CONV_OPTIONS)
def conv_relu(
    params: ConvParams,
    x: Float[ArrayLike, "n h w cin"],
    stride: Pixels = 1,
    padding: Padding = "SAME",
    dilation: Pixels = 1,
    groups: int = 1,
) -> Float[Array, "n oh ow cout"]:
    r"""Convolution and ReLU in one.

    Forward: $y = \max(z, 0)$ with z the output of `conv2d`.
    Backward: `conv2d`'s with $dz = [y > 0]\,dy$ for its cotangent. Keeps y, which the next layer
    keeps as its input, besides w and x.

    Args:
      params: `ConvParams(w, b)` of shapes (kh, kw, cin // groups, cout) and (cout,); b may be None.
      x: images (n, h, w, cin); n may be 0.
      stride: the step in pixels, an int or (height, width).
      padding: "SAME", "VALID" or in pixels, as in `conv2d`.
      dilation: the step between the kernel's taps in pixels, an int or (height, width).
      groups: a divisor of cin and cout.

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
    return _conv_relu(params, x, stride, padding, dilation, groups)


def _conv_relu(params, x, stride, padding, dilation, groups):
    options = stride, padding, dilation, groups
    params, x, where, dtype = conv_arguments("conv_relu", params, x, *options)
    return conv_sum(params, x, where, relu=True).astype(dtype)


def _conv_relu_fwd(params, x, *options):
    y = _conv_relu(params, x, *options)
    return y, (params, x, y)


def _conv_relu_bwd(stride, padding, dilation, groups, residuals, dy):
    params, x, y = residuals  # as conv2d's, and (n, oh, ow, cout)
    dz = jnp.where(y > 0, dy, jnp.zeros_like(dy))
    return conv_cotangents(params, x, dz, stride, padding, dilation, groups)


conv_relu.defvjp(_conv_relu_fwd, _conv_relu_bwd)


@partial(jax.custom_vjp, nondiff_argnames=CONV_OPTIONS)
def conv_relu_pool(
    params: ConvParams,
    x: Float[ArrayLike, "n h w cin"],
    stride: Pixels = 1,
    padding: Padding = "SAME",
    dilation: Pixels = 1,
    groups: int = 1,
) -> Float[Array, "n ph pw cout"]:
    r"""Convolution, ReLU and 2x2 max pooling in one.

    Forward: $y = \max(\max_{p,q \in \{0,1\}} z_{n,\,2i+p,\,2j+q,\,c},\ 0)$ with z the output of
    `conv2d`; a last odd row or column of z is dropped.
    Backward: `conv2d`'s, with dy sent to the first of the window's four cells that has its maximum,
    and nowhere where that maximum is not positive. Keeps one byte a window (which cell, or none)
    besides w and x: neither z nor its ReLU.

    Args:
      params: `ConvParams(w, b)` of shapes (kh, kw, cin // groups, cout) and (cout,); b may be None.
      x: images (n, h, w, cin); n may be 0.
      stride: the convolution's step in pixels, an int or (height, width).
      padding: the convolution's: "SAME", "VALID" or in pixels, as in `conv2d`.
      dilation: the step between the kernel's taps in pixels, an int or (height, width).
      groups: a divisor of cin and cout.

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
    y, _ = _conv_relu_pool(params, x, stride, padding, dilation, groups)
    return y


def _conv_relu_pool(params, x, stride, padding, dilation, groups):
    """The output, and which cell of each window has won: 0 to 3, or none."""
    options = stride, padding, dilation, groups
    params, x, where, dtype = conv_arguments("conv_relu_pool", params, x, *options)
    size = jax.eval_shape(partial(conv_sum, where=where), params, x).shape[1:3]
    resolve("conv_relu_pool", size, TILE, TILE, "VALID")  # there is room for one
    y, winner = conv_pool(x, *params, **where)
    return y.astype(dtype), winner


def _conv_relu_pool_fwd(params, x, *options):
    y, winner = _conv_relu_pool(params, x, *options)
    return y, (params, x, winner)


def _conv_relu_pool_bwd(stride, padding, dilation, groups, residuals, dy):
    params, x, winner = residuals  # as conv2d's, and (n, ph, pw, cout)
    dy = jnp.where(winner < NO_CELL, dy, jnp.zeros_like(dy))
    kernel_gradient = partial(conv_pool_kernel_gradient, dy=dy, winner=winner)
    options = stride, padding, dilation, groups
    return conv_cotangents(params, x, of_winners(dy, winner), *options, dy, kernel_gradient)


conv_relu_pool.defvjp(_conv_relu_pool_fwd, _conv_relu_pool_bwd)
