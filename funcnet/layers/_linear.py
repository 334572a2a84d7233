"""Affine maps and convolutions, each layer with its rule under it."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from funcnet import _validate, kernels
from funcnet.layers._geometry import Padding, Pixels, resolve, resolve_transposed
from funcnet.layers._params import AffineParams, ConvParams


@jax.custom_vjp
def affine(params: AffineParams, x: Float[ArrayLike, "n ..."]) -> Float[Array, "n m"]:
    r"""Affine map of flattened rows.

    Forward: $y = x w + b$ with x reshaped to (n, d).
    Backward: $dx = dy\,w^\top$, $dw = x^\top dy$, $db = \sum_n dy_n$. Keeps w and x, which it has
    been given.

    Args:
      params: `AffineParams(w, b)` of shapes (d, m) and (m,); b may be None.
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
    if params.b is not None:
        return kernels.matmul_bias(rows, params.w, params.b, relu)
    z = kernels.matmul(rows, params.w)
    return positive(z) if relu else z


def positive(z):
    return jnp.maximum(z, jnp.zeros((), z.dtype))


def affine_arguments(function, params, x):
    """Checked parameters, x as rows (n, d), and the dtype of the result."""
    x = _validate.floating(function, "x", x)
    params = _floating(function, params)
    w, b = params
    _validate.rank(function, "params.w", w, (2,), "(d, m), inputs by outputs")
    if x.ndim < 2:
        raise ValueError(
            f"{function}: x has shape {x.shape}, expected a batch of rows (n, ...); a single row "
            "becomes one with x[None]."
        )
    rows = kernels.reshape(x, (x.shape[0], math.prod(x.shape[1:])))
    if rows.shape[1] != w.shape[0]:
        raise ValueError(
            f"{function}: x has shape {x.shape}, which is {rows.shape[1]} features a row, expected "
            f"{w.shape[0]}, because params.w has shape {w.shape}; the parameters were made for "
            "another input."
        )
    if b is not None:
        m = w.shape[1]
        _validate.shape(function, "params.b", b, (m,), f"params.w has {m} outputs")
    return params, rows, jnp.result_type(x, *jax.tree.leaves(params))


def _floating(function, params):
    """Checked parameters; without a bias they stay without."""
    arrays = (
        None if k == "b" and v is None else _validate.floating(function, f"params.{k}", v)
        for k, v in params._asdict().items()
    )
    return type(params)(*arrays)


def _affine_fwd(params, x):
    return _affine(params, x), (params, x)


def _affine_bwd(residuals, dy):
    params, x = residuals  # (d, m) and (m,), (n, ...)
    return affine_cotangents(params, x, dy)


def affine_cotangents(params, x, dy, bias=True):
    params, x, dy = jax.tree.map(jnp.asarray, (params, x, dy))  # they may have been NumPy's
    rows = kernels.reshape(x, (x.shape[0], params.w.shape[0]))
    dx = kernels.matmul_nt(dy, params.w)
    dw = kernels.matmul_tn(rows, dy)
    db = _bias_cotangent(params.b, dy) if bias else jax.tree.map(jnp.zeros_like, params.b)
    dx = kernels.reshape(dx, x.shape)
    return kernels.as_cotangent((AffineParams(dw, db), dx), (params, x))


def _bias_cotangent(b, dy):
    """The sum of dy over all but its last axis, where there is a bias."""
    return None if b is None else kernels.wide(dy).sum(range(dy.ndim - 1))


affine.defvjp(_affine_fwd, _affine_bwd)


@jax.custom_vjp
def flatten(x: Float[ArrayLike, "n ..."]) -> Float[Array, "n d"]:
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
    return kernels.reshape(x, (x.shape[0], math.prod(x.shape[1:])))


def _flatten_fwd(x):
    # Of x the backward pass needs the shape alone, which an array without elements carries.
    return _flatten(x), kernels.emptied(x)


def _flatten_bwd(like_x, dy):
    return (kernels.as_cotangent(kernels.reshape(dy, like_x.shape[1:]), like_x.sum(0)),)


flatten.defvjp(_flatten_fwd, _flatten_bwd)


CONV_OPTIONS = ("stride", "padding", "dilation", "groups")


@partial(jax.custom_vjp, nondiff_argnames=CONV_OPTIONS)
def conv2d(
    params: ConvParams,
    x: Float[ArrayLike, "n h w cin"],
    stride: Pixels = 1,
    padding: Padding = "SAME",
    dilation: Pixels = 1,
    groups: int = 1,
) -> Float[Array, "n oh ow cout"]:
    r"""Convolution (cross-correlation) of images.

    Forward: $y_{nijo} = b_o + \sum_{p,q,c} x_{n,\,i s_h + p d_h - t,\,j s_w + q d_w - l,\,c}\,
    w_{pqco}$ with t rows padded above and l columns padded on the left. With groups, channels lie
    in so many groups, and o's sum is over the channels of its own.
    Backward: $dw_{pqco} = \sum_{n,i,j} x_{n,\,i s_h + p d_h - t,\,j s_w + q d_w - l,\,c}\,
    dy_{nijo}$, dx the adjoint of the same sum in x, $db_o = \sum_{n,i,j} dy_{nijo}$. Keeps w and x,
    which it has been given.

    Args:
      params: `ConvParams(w, b)` of shapes (kh, kw, cin // groups, cout) and (cout,); b may be None.
      x: images (n, h, w, cin); n may be 0.
      stride: the step in pixels, an int or (height, width).
      padding: "SAME" (ceil(h / stride) rows of output; the odd pixel of padding goes below and to
        the right), "VALID" (none), the number of zero pixels on every side, as (height, width), or
        as ((top, bottom), (left, right)).
      dilation: the step between the kernel's taps in pixels, an int or (height, width).
      groups: a divisor of cin and cout; cin itself makes the convolution depthwise.

    Returns:
      y, (n, oh, ow, cout), in the common dtype of x, w and b, with oh = (h + top + bottom -
      (kh - 1) * dilation - 1) // stride + 1. Sums are taken in float32 at least.

    Raises:
      TypeError: an array is not of a floating dtype, or an option is not of its type.
      ValueError: shapes do not fit, or the kernel does not fit into the padded image.

    Source: courses.md rows 4-33, 4-35 and 4-38; Dumoulin and Visin 2016,
    https://arxiv.org/abs/1603.07285.

    >>> params = ConvParams(jnp.ones((3, 3, 1, 1)), jnp.zeros(1))
    >>> conv2d(params, jnp.ones((1, 3, 3, 1)))[0, :, :, 0]
    Array([[4., 6., 4.], [6., 9., 6.], [4., 6., 4.]], dtype=float64)
    """
    return _conv2d(params, x, stride, padding, dilation, groups)


def _conv2d(params, x, stride, padding, dilation, groups):
    options = stride, padding, dilation, groups
    params, x, where, dtype = conv_arguments("conv2d", params, x, *options)
    return conv_sum(params, x, where).astype(dtype)


def conv_sum(params, x, where, relu=False):
    if params.b is not None:
        return kernels.conv_bias(x, params.w, params.b, relu=relu, **where)
    z = kernels.conv(x, params.w, **where)
    return positive(z) if relu else z


def conv_arguments(function, params, x, stride, padding, dilation, groups):
    """Checked parameters and images, where the kernel lies on them, and the result's dtype."""
    params, x, dtype = _checked_channels(function, params, x, groups)
    stride = _validate.pair(function, "stride", stride)
    dilation = _validate.pair(function, "dilation", dilation)
    size = params.w.shape[:2]
    pads = resolve(function, x.shape[1:3], size, stride, padding, dilation).pads
    return params, x, _where(stride, pads, dilation, groups), dtype


def _where(stride, pads, dilation, groups):
    return {"stride": stride, "pads": pads, "dilation": dilation, "groups": int(groups)}


_FORMS = {  # by axes of the images: what images and kernels are
    3: ("sequences (n, l, channels)", "(k, cin // groups, cout)", "(n, c, l) need x.mT"),
    4: (
        "images (n, h, w, channels)",
        "(kh, kw, cin // groups, cout)",
        "(n, c, h, w) need x.transpose(0, 2, 3, 1)",
    ),
}


def _checked_channels(function, params, x, groups, axes=4):
    """Checked parameters and images of so many axes, and the result's dtype."""
    images, kernel, other = _FORMS[axes]
    x = _validate.floating(function, "x", x)
    params = _floating(function, params)
    w, b = params
    _validate.rank(function, "x", x, (axes,), f"{images}, channels last")
    _validate.rank(function, "params.w", w, (axes,), kernel)
    groups = _validate.count(function, "groups", groups)
    cin, cout = w.shape[-2] * groups, w.shape[-1]
    if x.shape[-1] != cin:
        raise ValueError(
            f"{function}: x has shape {x.shape}, which is {x.shape[-1]} channels, expected {cin}, "
            f"because params.w has shape {w.shape} {kernel} and groups is {groups}; channels are "
            f"last: {other}."
        )
    if cout % groups:
        raise ValueError(
            f"{function}: groups is {groups}, expected a divisor of the {cout} output channels of "
            f"params.w, whose shape is {w.shape}."
        )
    if b is not None:
        _validate.shape(function, "params.b", b, (cout,), f"params.w has {cout} output channels")
    return params, x, jnp.result_type(x, *jax.tree.leaves(params))


def _conv2d_fwd(params, x, *options):
    return _conv2d(params, x, *options), (params, x)


def _conv2d_bwd(stride, padding, dilation, groups, residuals, dy):
    params, x = residuals  # (kh, kw, cin // groups, cout) and (cout,) or None, (n, h, w, cin)
    return conv_cotangents(params, x, dy, stride, padding, dilation, groups)


def conv_cotangents(
    params, x, dy, stride, padding, dilation, groups, dy_sum=None, kernel_gradient=None
):
    """By `kernel_gradient`, if given, for dw; db is of `dy_sum`, where that is less than dy."""
    options = stride, padding, dilation, groups
    params, x, where, _ = conv_arguments("conv2d", params, x, *options)
    dy = jnp.asarray(dy)  # it may have been NumPy's
    kernel_gradient = kernel_gradient or partial(kernels.conv_kernel_gradient, dy=dy)
    dw = kernel_gradient(x, size=params.w.shape[:2], **where)
    dx = kernels.conv_input_gradient(dy, params.w, x.shape[1:3], **where)
    db = _bias_cotangent(params.b, dy if dy_sum is None else dy_sum)
    return kernels.as_cotangent((ConvParams(dw, db), dx), (params, x))


conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)


@partial(jax.custom_vjp, nondiff_argnames=CONV_OPTIONS)
def conv1d(
    params: ConvParams,
    x: Float[ArrayLike, "n l cin"],
    stride: int = 1,
    padding: Padding = "SAME",
    dilation: int = 1,
    groups: int = 1,
) -> Float[Array, "n ol cout"]:
    r"""Convolution (cross-correlation) of sequences.

    Forward: $y_{nio} = b_o + \sum_{p,c} x_{n,\,i s + p d - t,\,c}\, w_{pco}$ with t steps padded
    before the first. With groups, o's sum is over the channels of its own group.
    Backward: $dw_{pco} = \sum_{n,i} x_{n,\,i s + p d - t,\,c}\, dy_{nio}$, dx the adjoint of the
    same sum in x, $db_o = \sum_{n,i} dy_{nio}$. Keeps w and x, which it has been given.

    Args:
      params: `ConvParams(w, b)` of shapes (k, cin // groups, cout) and (cout,); b may be None.
      x: sequences (n, l, cin); n may be 0.
      stride: the step, an int.
      padding: "SAME", "VALID", the number of zero steps on both sides, or (before, after);
        ((k - 1) * dilation, 0) is causal.
      dilation: the step between the kernel's taps, an int.
      groups: a divisor of cin and cout; cin itself makes the convolution depthwise.

    Returns:
      y, (n, ol, cout), in the common dtype of x, w and b. Sums are taken in float32 at least.

    Raises:
      TypeError: an array is not of a floating dtype, or an option is not of its type.
      ValueError: shapes do not fit, or the kernel does not fit into the padded sequence.

    Source: Waibel et al. 1989, https://doi.org/10.1109/29.21701.

    >>> params = ConvParams(jnp.ones((2, 1, 1)), jnp.zeros(1))
    >>> conv1d(params, jnp.arange(4.0).reshape(1, 4, 1), padding=(1, 0)).ravel()
    Array([0., 1., 3., 5.], dtype=float64)
    """
    return _conv1d(params, x, stride, padding, dilation, groups)


def _conv1d(params, x, stride, padding, dilation, groups):
    options = stride, padding, dilation, groups
    params, x, where, dtype = _conv1d_arguments(params, x, *options)
    return conv_sum(params, x, where)[:, 0].astype(dtype)


def _conv1d_arguments(params, x, stride, padding, dilation, groups):
    """As `conv_arguments`, with sequences as images of one row."""
    params, x, dtype = _checked_channels("conv1d", params, x, groups, axes=3)
    stride, dilation = (
        (1, _validate.count("conv1d", name, value))
        for name, value in (("stride", stride), ("dilation", dilation))
    )
    params, x = params._replace(w=params.w[None]), x[:, None]
    if not isinstance(padding, str):
        padding = (0, padding)
    size = params.w.shape[:2]
    names = "height", "length"
    pads = resolve("conv1d", x.shape[1:3], size, stride, padding, dilation, names=names).pads
    return params, x, _where(stride, pads, dilation, groups), dtype


def _conv1d_fwd(params, x, *options):
    return _conv1d(params, x, *options), (params, x)


def _conv1d_bwd(stride, padding, dilation, groups, residuals, dy):
    given, sequences = residuals  # (k, cin // groups, cout) and (cout,) or None, (n, l, cin)
    options = stride, padding, dilation, groups
    params, x, where, _ = _conv1d_arguments(given, sequences, *options)
    dy = jnp.asarray(dy)[:, None]  # it may have been NumPy's
    dw = kernels.conv_kernel_gradient(x, dy, params.w.shape[:2], **where)
    dx = kernels.conv_input_gradient(dy, params.w, x.shape[1:3], **where)
    dparams = ConvParams(dw[0], _bias_cotangent(params.b, dy))
    return kernels.as_cotangent((dparams, dx[:, 0]), (given, sequences))


conv1d.defvjp(_conv1d_fwd, _conv1d_bwd)


@partial(jax.custom_vjp, nondiff_argnames=CONV_OPTIONS)
def conv2d_transpose(
    params: ConvParams,
    x: Float[ArrayLike, "n h w cin"],
    stride: Pixels = 1,
    padding: Padding = "SAME",
    dilation: Pixels = 1,
    groups: int = 1,
) -> Float[Array, "n oh ow cout"]:
    r"""Transposed convolution of images: the adjoint of `conv2d`, which enlarges by `stride`.

    Forward: $y_{nabo} = b_o + \sum x_{nijc}\, w_{pqoc}$ over all i, j, p, q, c with
    $i s_h + p d_h - t = a$ and $j s_w + q d_w - l = b$: what `conv2d` with the same options and
    kernel has for dx where its dy is x.
    Backward: $dx_{nijc} = \sum_{p,q,o} dy_{n,\,i s_h + p d_h - t,\,j s_w + q d_w - l,\,o}\,
    w_{pqoc}$, a convolution; $dw_{pqoc} = \sum_{n,i,j} dy_{n,\,i s_h + p d_h - t,\,
    j s_w + q d_w - l,\,o}\, x_{nijc}$; $db_o = \sum_{n,a,b} dy_{nabo}$. Keeps w and x, which it has
    been given.

    The kernel is laid out as that of the convolution whose adjoint this is, (kh, kw, out, in), as
    in Keras's `Conv2DTranspose` and in `jax.lax.conv_transpose(..., transpose_kernel=True)`;
    torch's `ConvTranspose2d.weight` becomes it by `.permute(2, 3, 1, 0)`.

    Args:
      params: `ConvParams(w, b)` of shapes (kh, kw, cout // groups, cin) and (cout,); b may be None.
      x: images (n, h, w, cin); n may be 0.
      stride: so many pixels of output for a pixel of input, an int or (height, width).
      padding: what the convolution pads, and this one crops. "SAME" gives h * stride rows, "VALID"
        h * stride + max(reach - stride, 0), with reach = (kh - 1) * dilation + 1, both as
        `jax.lax.conv_transpose`. A number of pixels, (height, width) or ((top, bottom), (left,
        right)) gives (h - 1) * stride + reach - top - bottom; torch's `output_padding` is a bottom
        and right that are less by so much, also below 0: ((p, p - output_padding), ...).
      dilation: the step between the kernel's taps in pixels, an int or (height, width).
      groups: a divisor of cin and cout.

    Returns:
      y, (n, oh, ow, cout), in the common dtype of x, w and b. Sums are taken in float32 at least.

    Raises:
      TypeError: an array is not of a floating dtype, or an option is not of its type.
      ValueError: shapes do not fit, or the padding crops all.

    Source: Zeiler et al. 2010, https://doi.org/10.1109/CVPR.2010.5539957; Dumoulin and Visin 2016,
    https://arxiv.org/abs/1603.07285.

    >>> params = ConvParams(jnp.ones((2, 2, 1, 1)), jnp.zeros(1))
    >>> conv2d_transpose(params, jnp.array([[1.0, 2]]).reshape(1, 1, 2, 1), 2)[0, :, :, 0]
    Array([[1., 1., 2., 2.], [1., 1., 2., 2.]], dtype=float64)
    """
    return _conv2d_transpose(params, x, stride, padding, dilation, groups)


def _conv2d_transpose(params, x, stride, padding, dilation, groups):
    options = stride, padding, dilation, groups
    params, x, size, where, dtype = _transpose_arguments(params, x, *options)
    y = kernels.conv_input_gradient(x, params.w, size, **where)
    if params.b is not None:
        y = y + params.b.astype(y.dtype)[None, None, None]
    return y.astype(dtype)


def _transpose_arguments(params, x, stride, padding, dilation, groups):
    """Checked parameters and images, the outputs' size, where the kernel lies, and the dtype."""
    name = "conv2d_transpose"
    x = _validate.floating(name, "x", x)
    params = _floating(name, params)
    w, b = params
    _validate.rank(name, "x", x, (4,), "images (n, h, w, channels), channels last")
    _validate.rank(name, "params.w", w, (4,), "(kh, kw, cout // groups, cin)")
    groups = _validate.count(name, "groups", groups)
    if x.shape[3] != w.shape[3]:
        raise ValueError(
            f"{name}: x has shape {x.shape}, which is {x.shape[3]} channels, expected "
            f"{w.shape[3]}, because params.w has shape {w.shape} (kh, kw, cout // groups, cin); "
            "channels are last: (n, c, h, w) need x.transpose(0, 2, 3, 1)."
        )
    if w.shape[3] % groups:
        raise ValueError(
            f"{name}: groups is {groups}, expected a divisor of the {w.shape[3]} input channels of "
            f"params.w, whose shape is {w.shape}."
        )
    if b is not None:
        cout = w.shape[2] * groups
        _validate.shape(name, "params.b", b, (cout,), f"params.w has {cout} output channels")
    stride = _validate.pair(name, "stride", stride)
    dilation = _validate.pair(name, "dilation", dilation)
    size, pads = resolve_transposed(name, x.shape[1:3], w.shape[:2], stride, padding, dilation)
    dtype = jnp.result_type(x, *jax.tree.leaves(params))
    return params, x, size, _where(stride, pads, dilation, groups), dtype


def _conv2d_transpose_fwd(params, x, *options):
    return _conv2d_transpose(params, x, *options), (params, x)


def _conv2d_transpose_bwd(stride, padding, dilation, groups, residuals, dy):
    params, x = residuals  # (kh, kw, cout // groups, cin) and (cout,) or None, (n, h, w, cin)
    options = stride, padding, dilation, groups
    params, x, _, where, _ = _transpose_arguments(params, x, *options)
    dy = jnp.asarray(dy)  # it may have been NumPy's
    dw = kernels.conv_kernel_gradient(dy, x, params.w.shape[:2], **where)
    dx = kernels.conv(dy, params.w, **where)
    return kernels.as_cotangent((ConvParams(dw, _bias_cotangent(params.b, dy)), dx), (params, x))


conv2d_transpose.defvjp(_conv2d_transpose_fwd, _conv2d_transpose_bwd)
