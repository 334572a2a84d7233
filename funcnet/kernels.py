"""The bilinear maps that rules are made of, and how their sums are taken.

Rules say mathematics; this module says how. Each function is bilinear, takes operands of one
dtype, and returns its sum in the dtype it was accumulated in (`wide_dtype`): the caller adds what
else there is to add and rounds once. A faster implementation takes a map's place here and nowhere
else.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

Pads = tuple[tuple[int, int], tuple[int, int]]
Pair = tuple[int, int]


def wide_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype that sums over `dtype` are taken in: float64 for itself, float32 for the rest."""
    return jnp.dtype(jnp.float64) if dtype == jnp.float64 else jnp.dtype(jnp.float32)


def wide(x: Array) -> Array:
    """Returns `x` in the dtype that sums over it are taken in."""
    return x.astype(wide_dtype(x.dtype))


def matmul(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    """The product `a @ b`."""
    return _dot(a, b, 1, 0)


def matmul_tn(a: Float[Array, "k n"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    """The product `a.T @ b`."""
    return _dot(a, b, 0, 0)


def matmul_nt(a: Float[Array, "n k"], b: Float[Array, "m k"]) -> Float[Array, "n m"]:
    """The product `a @ b.T`."""
    return _dot(a, b, 1, 1)


def _dot(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
    a, b = _same_dtype(a, b)
    return lax.dot_general(
        a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=wide_dtype(a.dtype)
    )


def conv(
    x: Float[Array, "n h w cin"], w: Float[Array, "kh kw cin cout"], stride: Pair, pads: Pads
) -> Float[Array, "n oh ow cout"]:
    """Cross-correlation: y[nijo] = sum over p, q, c of x[n, i*sh+p-top, j*sw+q-left, c] w[pqco]."""
    return _correlate(x, w, pads, stride=stride)


def conv_kernel_gradient(
    x: Float[Array, "n h w cin"],
    dy: Float[Array, "n oh ow cout"],
    size: Pair,
    stride: Pair,
    pads: Pads,
) -> Float[Array, "kh kw cin cout"]:
    """The adjoint of `conv` in its kernel: the images correlated with the cotangent."""
    high = tuple(
        (dy.shape[1 + i] - 1) * stride[i] + size[i] - x.shape[1 + i] - pads[i][0] for i in (0, 1)
    )
    # Images become channels: the sum is over them, and the cotangent is the kernel.
    dw = _correlate(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        ((pads[0][0], high[0]), (pads[1][0], high[1])),
        kernel_dilation=stride,
    )
    return dw.transpose(1, 2, 0, 3)


def conv_input_gradient(
    dy: Float[Array, "n oh ow cout"],
    w: Float[Array, "kh kw cin cout"],
    size: Pair,
    stride: Pair,
    pads: Pads,
) -> Float[Array, "n h w cin"]:
    """The adjoint of `conv` in its images of height and width `size`."""
    low = tuple(w.shape[i] - 1 - pads[i][0] for i in (0, 1))
    high = tuple(
        size[i] - (dy.shape[1 + i] - 1) * stride[i] - 2 - low[i] + w.shape[i] for i in (0, 1)
    )
    return _correlate(
        dy,
        lax.rev(w, (0, 1)).transpose(0, 1, 3, 2),
        ((low[0], high[0]), (low[1], high[1])),
        image_dilation=stride,
    )


def _correlate(
    x: Array,
    w: Array,
    pads: Pads,
    *,
    stride: Pair = (1, 1),
    image_dilation: Pair = (1, 1),
    kernel_dilation: Pair = (1, 1),
) -> Array:
    """The one convolution that XLA is asked for: NHWC by HWIO.

    Inside a loop XLA runs other orders up to a hundred times slower on a CPU, while a transposition
    costs little: https://github.com/jax-ml/jax/issues/12868.
    """
    x, w = _same_dtype(x, w)
    return lax.conv_general_dilated(
        x,
        w,
        stride,
        pads,
        image_dilation,
        kernel_dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=wide_dtype(x.dtype),
    )


def _same_dtype(a: Array, b: Array) -> tuple[Array, Array]:
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return a.astype(dtype), b.astype(dtype)
