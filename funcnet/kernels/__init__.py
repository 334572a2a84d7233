"""The bilinear maps that rules are made of, and how their sums are taken.

Rules say mathematics; this module says how. Each function is bilinear, takes operands of one
dtype, and returns its sum in the dtype it was accumulated in (`wide_dtype`): the caller adds what
else there is to add and rounds once. A faster implementation takes a map's place here and nowhere
else.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int32

from funcnet._homes import at_home
from funcnet.kernels import _conv, _entries, _lowering, _native, _products
from funcnet.kernels._conv import Pads, Pair
from funcnet.kernels._flops import flops as flops

__all__ = [
    "conv",
    "conv_bias",
    "conv_input_gradient",
    "conv_kernel_gradient",
    "flops",
    "matmul",
    "matmul_bias",
    "matmul_nt",
    "matmul_tn",
    "native_status",
    "once",
    "use_native",
    "wide",
    "wide_dtype",
    "with_entries",
]


def wide_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype that sums over `dtype` are taken in: float64 for itself, float32 for the rest.

    Args:
      dtype: a floating dtype.

    >>> wide_dtype(jnp.dtype(jnp.bfloat16)), wide_dtype(jnp.dtype(jnp.float64))
    (dtype('float32'), dtype('float64'))
    """
    return _lowering.wide_dtype(dtype)


def wide(x: Array) -> Array:
    """Returns `x` in the dtype that sums over it are taken in.

    Args:
      x: an array of a floating dtype.

    >>> wide(jnp.ones(1, jnp.float16)).dtype
    dtype('float32')
    """
    return _lowering.wide(x)


def once(x: Array) -> Array:
    """Returns `x`, which a CPU is to compute once.

    XLA joins a sum with what reads it, and then takes the sum again for every reader: the mean of a
    row, for each number of the row in the worst case. On other devices it joins what is best
    joined, and this is the identity.

    Args:
      x: an array.

    >>> once(jnp.ones(2).sum())
    Array(2., dtype=float64)
    """
    return _lowering.once_p.bind(x)


def with_entries(
    rows: Float[Array, "*batch c"], index: Int32[Array, "*batch"], values: Float[Array, "*batch"]
) -> Float[Array, "*batch c"]:
    r"""The rows with one entry of each put in the place of what was there.

    Args:
      rows: (..., c).
      index: (...), the place in each row, 0 to c - 1.
      values: (...), what is put there.

    Returns:
      (..., c).

    >>> with_entries(jnp.zeros((2, 2)), jnp.array([1, 0], jnp.int32), jnp.array([3.0, 4.0]))
    Array([[0., 3.],
           [4., 0.]], dtype=float64)
    """
    return _entries.entries_p.bind(rows, index, values)


def matmul(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    r"""The product $a b$.

    Args:
      a: (n, k).
      b: (k, m).

    Returns:
      (n, m), in the dtype that the sum was taken in.

    Raises:
      TypeError: the shapes do not fit, as `jax.lax.dot_general` says it.

    >>> matmul(jnp.ones((1, 2)), jnp.ones((2, 1)))
    Array([[2.]], dtype=float64)
    """
    return _products.product(a, b, "nn")


def matmul_bias(
    a: Float[Array, "n k"], b: Float[Array, "k m"], bias: Float[Array, " m"], relu: bool = False
) -> Float[Array, "n m"]:
    r"""`matmul` plus a bias, through a ReLU if asked for, in one pass where a kernel can.

    Args:
      a: (n, k).
      b: (k, m).
      bias: (m,).
      relu: whether what is below 0 becomes 0; NaN stays NaN.

    Returns:
      (n, m), in the dtype that the sum was taken in.

    Raises:
      TypeError: the shapes do not fit, as `jax.lax.dot_general` says it.

    Source: courses.md rows 0-3 and 1-8.

    >>> matmul_bias(jnp.ones((1, 2)), jnp.ones((2, 1)), -jnp.ones(1))
    Array([[1.]], dtype=float64)
    """
    return _products.product_bias(a, b, bias, relu=relu)


def matmul_tn(a: Float[Array, "k n"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    r"""The product $a^\top b$.

    Args:
      a: (k, n).
      b: (k, m).

    Returns:
      (n, m), in the dtype that the sum was taken in.

    Raises:
      TypeError: the shapes do not fit, as `jax.lax.dot_general` says it.

    >>> matmul_tn(jnp.ones((2, 1)), jnp.ones((2, 1)))
    Array([[2.]], dtype=float64)
    """
    return _products.product(a, b, "tn")


def matmul_nt(a: Float[Array, "n k"], b: Float[Array, "m k"]) -> Float[Array, "n m"]:
    r"""The product $a b^\top$.

    Args:
      a: (n, k).
      b: (m, k).

    Returns:
      (n, m), in the dtype that the sum was taken in.

    Raises:
      TypeError: the shapes do not fit, as `jax.lax.dot_general` says it.

    >>> matmul_nt(jnp.ones((1, 2)), jnp.ones((1, 2)))
    Array([[2.]], dtype=float64)
    """
    return _products.product(a, b, "nt")


def conv(
    x: Float[Array, "n h w cin"],
    w: Float[Array, "kh kw cin//{groups} cout"],
    stride: Pair,
    pads: Pads,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Float[Array, "n oh ow cout"]:
    r"""Cross-correlation of images with a kernel.

    $y_{nijo} = \sum_{p,q,c} x_{n,\,i s_h + p d_h - t,\,j s_w + q d_w - l,\,c}\, w_{pqco}$ with t
    rows padded above and l columns padded on the left. Of groups, each output channel's sum is over
    the channels of its own, and c counts these.

    Args:
      x: images (n, h, w, cin).
      w: a kernel (kh, kw, cin // groups, cout).
      stride: the step in pixels, (height, width).
      pads: pixels padded, ((above, below), (left, right)).
      dilation: the step from tap to tap of the kernel in pixels, (height, width).
      groups: so many convolutions side by side, each of its own channels.

    Returns:
      (n, oh, ow, cout), in the dtype that the sum was taken in.

    Raises:
      ValueError: channels or sizes do not fit, as `jax.lax.conv_general_dilated` says it.

    Source: Dumoulin and Visin 2016, https://arxiv.org/abs/1603.07285.

    >>> x, w = jnp.ones((1, 3, 3, 1)), jnp.ones((2, 2, 1, 1))
    >>> conv(x, w, (1, 1), ((0, 0), (0, 0))).shape
    (1, 2, 2, 1)
    """
    return _conv.conv(x, w, stride=stride, pads=pads, dilation=dilation, groups=groups)


def conv_bias(
    x: Float[Array, "n h w cin"],
    w: Float[Array, "kh kw cin//{groups} cout"],
    b: Float[Array, " cout"],
    stride: Pair,
    pads: Pads,
    relu: bool = False,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Float[Array, "n oh ow cout"]:
    r"""`conv` plus a bias, through a ReLU if asked for, in one pass where a kernel can.

    Args:
      x: images (n, h, w, cin).
      w: a kernel (kh, kw, cin // groups, cout).
      b: a bias (cout,).
      stride: the step in pixels, (height, width).
      pads: pixels padded, ((above, below), (left, right)).
      relu: whether what is below 0 becomes 0; NaN stays NaN.
      dilation: the step from tap to tap of the kernel in pixels, (height, width).
      groups: so many convolutions side by side, each of its own channels.

    Returns:
      (n, oh, ow, cout), in the dtype that the sum was taken in.

    Raises:
      ValueError: channels or sizes do not fit, as `jax.lax.conv_general_dilated` says it.

    Source: courses.md rows 4-33 and 4-41.

    >>> x, w = jnp.ones((1, 1, 2, 1)), jnp.ones((1, 2, 1, 1))
    >>> conv_bias(x, w, -jnp.ones(1), (1, 1), ((0, 0), (0, 0))).ravel()
    Array([1.], dtype=float64)
    """
    where = {"stride": stride, "pads": pads, "dilation": dilation, "groups": groups}
    return _conv.conv_bias(x, w, b, relu=relu, **where)


def conv_kernel_gradient(
    x: Float[Array, "n h w cin"],
    dy: Float[Array, "n oh ow cout"],
    size: Pair,
    stride: Pair,
    pads: Pads,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Float[Array, "kh kw cin//{groups} cout"]:
    r"""The adjoint of `conv` in its kernel: the images correlated with the cotangent.

    $dw_{pqco} = \sum_{n,i,j} x_{n,\,i s_h + p d_h - t,\,j s_w + q d_w - l,\,c}\, dy_{nijo}$.

    Args:
      x: images (n, h, w, cin).
      dy: the cotangent of the output, (n, oh, ow, cout); last rows or columns that are 0 may be
        left out.
      size: the kernel's height and width.
      stride: the step in pixels, (height, width).
      pads: pixels padded, ((above, below), (left, right)).
      dilation: the step from tap to tap of the kernel in pixels, (height, width).
      groups: so many convolutions side by side, each of its own channels.

    Returns:
      (kh, kw, cin // groups, cout), in the dtype that the sum was taken in.

    Raises:
      ValueError: channels or sizes do not fit, as `jax.lax.conv_general_dilated` says it.

    Source: courses.md row 4-35.

    >>> x, dy = jnp.ones((1, 3, 3, 1)), jnp.ones((1, 2, 2, 1))
    >>> conv_kernel_gradient(x, dy, (2, 2), (1, 1), ((0, 0), (0, 0))).ravel()
    Array([4., 4., 4., 4.], dtype=float64)
    """
    where = {"stride": stride, "pads": pads, "dilation": dilation, "groups": groups}
    return _conv.kernel_gradient(x, dy, size=size, **where)


def conv_input_gradient(
    dy: Float[Array, "n oh ow cout"],
    w: Float[Array, "kh kw c cout"],
    size: Pair,
    stride: Pair,
    pads: Pads,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Float[Array, "n h w cin"]:
    r"""The adjoint of `conv` in its images of height and width `size`.

    $dx_{nabc} = \sum dy_{nijo}\, w_{pqco}$ over all i, j, p, q, o with
    $i s_h + p d_h - t = a$ and $j s_w + q d_w - l = b$.

    Args:
      dy: the cotangent of the output, (n, oh, ow, cout); last rows or columns that are 0 may be
        left out.
      w: the kernel (kh, kw, cin // groups, cout).
      size: the images' height and width.
      stride: the step in pixels, (height, width).
      pads: pixels padded, ((above, below), (left, right)).
      dilation: the step from tap to tap of the kernel in pixels, (height, width).
      groups: so many convolutions side by side, each of its own channels.

    Returns:
      (n, h, w, cin), in the dtype that the sum was taken in.

    Raises:
      ValueError: channels or sizes do not fit, as `jax.lax.conv_general_dilated` says it.

    Source: courses.md row 4-35.

    >>> dy, w = jnp.ones((1, 1, 2, 1)), jnp.ones((1, 2, 1, 1))
    >>> conv_input_gradient(dy, w, (1, 3), (1, 1), ((0, 0), (0, 0))).ravel()
    Array([1., 2., 1.], dtype=float64)
    """
    where = {"stride": stride, "pads": pads, "dilation": dilation, "groups": groups}
    return _conv.input_gradient(dy, w, size=size, **where)


def use_native(on: bool) -> str:
    """Switches the kernels of the package `funcnet-native` on or off, for programs yet to be made.

    They are on where the package is installed, unless the environment has FUNCNET_NATIVE=0
    (false, no, off). What JAX has compiled and kept is dropped; a compiled program that somebody
    holds stays as it is.

    Args:
      on: whether native kernels may be used.

    Returns:
      What is in use from now on, and why: as `native_status`.

    >>> use_native(False)
    'XLA: switched off by kernels.use_native(False)'
    >>> _ = use_native(True)
    """
    _native.use(on)
    return native_status()


def native_status() -> str:
    """Says which kernels convolutions and products of float32 run by on a CPU, and why.

    >>> native_status().split(":")[0] in ("native", "XLA")
    True
    """
    package, reason = _native.status()
    return f"{'XLA' if package is None else 'native'}: {reason}"


at_home(globals())
