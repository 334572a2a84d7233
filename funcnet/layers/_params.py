"""The parameters of layers, as NamedTuples of arrays, and how they start."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from funcnet import _validate

Scale = int | float | Array | Literal["he"]  # an array where a sweep traces it


class AffineParams(NamedTuple):
    """Weights `w` (d, m) and biases `b` (m,) of an affine layer; `b` may be None."""

    w: Float[Array, "d m"]
    b: Float[Array, " m"] | None


class ConvParams(NamedTuple):
    """Kernels `w` and biases `b` (cout,) of a convolution; `b` may be None.

    `w` is (kh, kw, cin // groups, cout), in one dimension (k, cin // groups, cout), transposed
    (kh, kw, cout // groups, cin).
    """

    w: Float[Array, "*size cin cout"]
    b: Float[Array, " cout"] | None


class NormParams(NamedTuple):
    """Gains `gamma` (c,) and shifts `beta` (c,) of a normalisation; None for what it is without."""

    gamma: Float[Array, " c"] | None
    beta: Float[Array, " c"] | None


class BatchStats(NamedTuple):
    """Mean and biased variance per channel, (c,) each, float32 or wider."""

    mean: Float[Array, " c"]
    var: Float[Array, " c"]


def affine_init(
    key: Array,
    d: int,
    m: int,
    scale: Scale = "he",
    dtype: DTypeLike = jnp.float32,
    bias: bool = True,
) -> AffineParams:
    r"""Draws the parameters of an affine layer from d inputs to m outputs.

    $w \sim \sigma\,\mathcal N(0, 1)$ with $\sigma = \sqrt{2/d}$ for `"he"`, else $\sigma$ = `scale`
    (the courses' `weight_scale`); $b = 0$.

    Args:
      key: a key from `jax.random.key`.
      d: the number of inputs, at least 1.
      m: the number of outputs, at least 1.
      scale: `"he"` or a standard deviation, 0 or more.
      dtype: the dtype of the parameters.
      bias: whether there is a bias; else b is None.

    Raises:
      TypeError: a size is not an int, or `scale` is neither `"he"` nor a number.
      ValueError: a size is below 1, or `scale` is negative.

    Source: He et al. 2015, https://arxiv.org/abs/1502.01852; courses.md rows 1-11 and 1-20.

    >>> params = affine_init(jax.random.key(0), 3, 2)
    >>> params.w.shape, params.b
    ((3, 2), Array([0., 0.], dtype=float32))
    """
    d, m = _validate.pair("affine_init", "(d, m)", (d, m))
    w = _draw("affine_init", key, (d, m), d, scale, dtype)
    return AffineParams(w, jnp.zeros((m,), dtype) if bias else None)


def conv_init(
    key: Array,
    size: int | tuple[int, int],
    cin: int,
    cout: int,
    scale: Scale = "he",
    dtype: DTypeLike = jnp.float32,
    groups: int = 1,
    bias: bool = True,
) -> ConvParams:
    r"""Draws the parameters of a convolution from cin to cout channels.

    $w \sim \sigma\,\mathcal N(0, 1)$ with $\sigma = \sqrt{2/(k_h k_w c_{in}/\text{groups})}$ for
    `"he"`, else $\sigma$ = `scale`; $b = 0$.

    Args:
      key: a key from `jax.random.key`.
      size: the kernel's size in pixels, one int or (height, width).
      cin: the number of input channels, at least 1.
      cout: the number of output channels, at least 1.
      scale: `"he"` or a standard deviation, 0 or more.
      dtype: the dtype of the parameters.
      groups: a divisor of cin and cout, as in `conv2d`.
      bias: whether there is a bias; else b is None.

    Raises:
      TypeError: a size is not an int, or `scale` is neither `"he"` nor a number.
      ValueError: a size is below 1, `scale` is negative, or `groups` does not divide the channels.

    Source: He et al. 2015, https://arxiv.org/abs/1502.01852.

    >>> conv_init(jax.random.key(0), 3, 1, 4).w.shape
    (3, 3, 1, 4)
    """
    size = _validate.pair("conv_init", "size", size)
    return _conv_params("conv_init", key, size, cin, cout, scale, dtype, groups, bias)


def conv1d_init(
    key: Array,
    size: int,
    cin: int,
    cout: int,
    scale: Scale = "he",
    dtype: DTypeLike = jnp.float32,
    groups: int = 1,
    bias: bool = True,
) -> ConvParams:
    r"""Draws the parameters of a convolution of sequences from cin to cout channels.

    $w \sim \sigma\,\mathcal N(0, 1)$ with $\sigma = \sqrt{2/(k c_{in}/\text{groups})}$ for `"he"`,
    else $\sigma$ = `scale`; $b = 0$.

    Args:
      key: a key from `jax.random.key`.
      size: the kernel's length k.
      cin: the number of input channels, at least 1.
      cout: the number of output channels, at least 1.
      scale: `"he"` or a standard deviation, 0 or more.
      dtype: the dtype of the parameters.
      groups: a divisor of cin and cout, as in `conv1d`.
      bias: whether there is a bias; else b is None.

    Raises:
      TypeError: a size is not an int, or `scale` is neither `"he"` nor a number.
      ValueError: a size is below 1, `scale` is negative, or `groups` does not divide the channels.

    Source: He et al. 2015, https://arxiv.org/abs/1502.01852.

    >>> conv1d_init(jax.random.key(0), 3, 2, 4).w.shape
    (3, 2, 4)
    """
    size = _validate.count("conv1d_init", "size", size)
    return _conv_params("conv1d_init", key, (size,), cin, cout, scale, dtype, groups, bias)


def conv2d_transpose_init(
    key: Array,
    size: int | tuple[int, int],
    cin: int,
    cout: int,
    scale: Scale = "he",
    dtype: DTypeLike = jnp.float32,
    groups: int = 1,
    bias: bool = True,
) -> ConvParams:
    r"""Draws the parameters of a transposed convolution from cin to cout channels.

    $w \sim \sigma\,\mathcal N(0, 1)$ with $\sigma = \sqrt{2/(k_h k_w c_{in}/\text{groups})}$ for
    `"he"`, else $\sigma$ = `scale`; $b = 0$. With a stride an output meets fewer than
    $k_h k_w$ pixels, about $k_h k_w / (s_h s_w)$: `scale` can say so.

    Args:
      key: a key from `jax.random.key`.
      size: the kernel's size in pixels, one int or (height, width).
      cin: the number of input channels, at least 1.
      cout: the number of output channels, at least 1.
      scale: `"he"` or a standard deviation, 0 or more.
      dtype: the dtype of the parameters.
      groups: a divisor of cin and cout, as in `conv2d_transpose`.
      bias: whether there is a bias; else b is None.

    Raises:
      TypeError: a size is not an int, or `scale` is neither `"he"` nor a number.
      ValueError: a size is below 1, `scale` is negative, or `groups` does not divide the channels.

    Source: He et al. 2015, https://arxiv.org/abs/1502.01852.

    >>> conv2d_transpose_init(jax.random.key(0), 3, 1, 4).w.shape
    (3, 3, 4, 1)
    """
    name = "conv2d_transpose_init"
    size = _validate.pair(name, "size", size)
    params = _conv_params(name, key, size, cin, cout, scale, dtype, groups, bias)
    return params._replace(w=params.w.reshape(*size, cout // groups, cin))


def _conv_params(
    function: str,
    key: Array,
    size: tuple[int, ...],
    cin: int,
    cout: int,
    scale: Scale,
    dtype: DTypeLike,
    groups: int,
    bias: bool,
) -> ConvParams:
    cin, cout = _validate.pair(function, "(cin, cout)", (cin, cout))
    groups = _validate.count(function, "groups", groups)
    if cin % groups or cout % groups:
        raise ValueError(
            f"{function}: groups is {groups}, expected a divisor of cin {cin} and cout {cout}."
        )
    shape = (*size, cin // groups, cout)
    w = _draw(function, key, shape, math.prod(shape[:-1]), scale, dtype)
    return ConvParams(w, jnp.zeros((cout,), dtype) if bias else None)


def norm_init(
    channels: int, dtype: DTypeLike = jnp.float32, *, gain: bool = True, bias: bool = True
) -> NormParams:
    r"""The parameters of a normalisation that leaves its output standardised.

    $\gamma = 1$, $\beta = 0$.

    Args:
      channels: the size of the last axis, at least 1.
      dtype: the dtype of the parameters.
      gain: whether there is a gamma; else None.
      bias: whether there is a beta; else None.

    Raises:
      TypeError: `channels` is not an int.
      ValueError: `channels` is below 1.

    Source: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167.

    >>> norm_init(2)
    NormParams(gamma=Array([1., 1.], dtype=float32), beta=Array([0., 0.], dtype=float32))
    """
    channels = _validate.count("norm_init", "channels", channels)
    return NormParams(
        jnp.ones((channels,), dtype) if gain else None,
        jnp.zeros((channels,), dtype) if bias else None,
    )


def _draw(
    function: str, key: Array, shape: tuple[int, ...], fan_in: int, scale: Scale, dtype: DTypeLike
) -> Array:
    if isinstance(scale, str):
        if scale != "he":
            raise ValueError(f'{function}: scale is {scale!r}, expected "he" or a number.')
        sigma: Any = math.sqrt(2.0 / fan_in)
    elif isinstance(scale, jax.core.Tracer):
        sigma = scale.astype(dtype)  # a sweep batches the scale
    else:
        sigma = float(_validate.number(function, "scale", scale, low=0.0))
    return sigma * jax.random.normal(key, shape, dtype)
