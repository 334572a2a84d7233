"""The three bilinear maps of a convolution: JAX primitives, closed under differentiation.

A convolution is linear in its images and in its kernel, so there are three maps: the convolution,
its adjoint in the kernel and its adjoint in the images; and each of them differentiates into the
other two. As primitives they differentiate as mathematics, at any order, whatever runs underneath:
how a map is computed is decided when it is lowered, by platform and by shape. Everywhere but on a
CPU, and on a CPU where a program is partitioned over devices, that is XLA's own convolution
(`_conv_xla`); on a CPU it is what `_conv_cpu` finds the fastest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.interpreters import ad, batching
from jaxtyping import Float

from funcnet.kernels._conv_cpu import (
    as_native,
    cpu_conv,
    cpu_input_gradient,
    cpu_kernel_gradient,
    native_for_conv,
)
from funcnet.kernels._conv_xla import (
    Pads,
    Pair,
    pads_exactly,
    spans_of,
    xla_conv,
    xla_input_gradient,
    xla_kernel_gradient,
)
from funcnet.kernels._lowering import (
    Kernel,
    at_its_precision,
    make_composite,
    make_kernel,
    promoted,
    wide,
    wide_dtype,
)


def _names(names: str) -> Callable[..., str]:
    """Names of axes, in capitals those that are not cut.

    Windows reach over the edges of parts of an image. With groups the channels are not cut either,
    of which a part would have other groups; and a kernel's input channels are not the images'.
    """

    def of_params(groups: int, **_: Any) -> str:
        if groups == 1:
            return names
        return names.replace("P Q c", "P Q G").replace("c", "C").replace("o", "O")

    return of_params


conv_k = make_kernel("funcnet_conv", xla_conv, cpu_conv, _names("n H W c, P Q c o -> n I J o"))
kernel_gradient_k = make_kernel(
    "funcnet_conv_kernel_gradient",
    xla_kernel_gradient,
    cpu_kernel_gradient,
    _names("n H W c, n I J o -> P Q c o"),
)
input_gradient_k = make_kernel(
    "funcnet_conv_input_gradient",
    xla_input_gradient,
    cpu_input_gradient,
    _names("n I J o, P Q c o -> n H W c"),
)


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
    return conv_k(*promoted(x, w), stride=stride, pads=pads, dilation=dilation, groups=groups)


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
    return kernel_gradient_k(
        *promoted(x, dy), size=size, stride=stride, pads=pads, dilation=dilation, groups=groups
    )


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
    return input_gradient_k(
        *promoted(dy, w), size=size, stride=stride, pads=pads, dilation=dilation, groups=groups
    )


# Each map differentiates into the other two. The operand that is sought is known by its shape
# alone; a cotangent is as wide as the sum, what is returned has the operand's dtype.


def _sought(kernel: Kernel, first: Callable[..., Array], second: Callable[..., Array]) -> None:
    @at_its_precision
    def rule(gradient: Callable[..., Array], sought: Any, *args: Any, **params: Any) -> Array:
        return gradient(*args, **params, like=sought.aval.shape).astype(sought.aval.dtype)

    ad.defbilinear(
        kernel.primitive,
        lambda ct, a, b, **params: rule(first, a, ct, b, **params),
        lambda ct, a, b, **params: rule(second, b, ct, a, **params),
    )


def _conv_to(
    x: Array, w: Array, image: Any, output: Any, size: Any, *, pads: Pads, **p: Any
) -> Array:
    """A convolution that has just these outputs."""
    spans = spans_of(size, p["dilation"])
    return conv(x, w, pads=pads_exactly(image, output, spans, p["stride"], pads), **p)


_sought(
    conv_k,
    lambda dy, w, like, **p: conv_input_gradient(dy, w, size=like[1:3], **p),
    lambda dy, x, like, **p: conv_kernel_gradient(x, dy, size=like[:2], **p),
)
_sought(
    kernel_gradient_k,
    lambda w, dy, like, size, **p: conv_input_gradient(dy, w, size=like[1:3], **p),
    lambda w, x, like, size, **p: _conv_to(x, w, x.shape[1:3], like[1:3], size, **p),
)
_sought(
    input_gradient_k,
    lambda x, w, like, size, **p: _conv_to(x, w, size, like[1:3], w.shape, **p),
    lambda x, dy, like, size, **p: conv_kernel_gradient(x, dy, size=like[:2], **p),
)


# Batched images are more images. Whatever else is batched a CPU does one after the other: XLA would
# make groups of it, which a CPU runs slowly and an accelerator does not.


def _batch(
    kernel: Kernel, xla: Callable[..., Array], operands: Any, axes: Any, **params: Any
) -> tuple[Array, int]:
    mapped = tuple(axis is not None for axis in axes)
    a, b = (
        jnp.moveaxis(x, axis, 0) if over else x
        for x, axis, over in zip(operands, axes, mapped, strict=True)
    )
    if mapped == (True, False) and kernel is not kernel_gradient_k:
        y = kernel(a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), b, **params)
        return y.reshape(*a.shape[:2], *y.shape[1:]), 0

    def in_turn(a: Array, b: Array) -> Array:
        def one(_: Any, parts: Any) -> tuple[None, Array]:
            a_part, b_part = (
                part if over else whole
                for part, whole, over in zip(parts, (a, b), mapped, strict=True)
            )
            return None, kernel(a_part, b_part, **params)

        over = tuple(x if is_over else None for x, is_over in zip((a, b), mapped, strict=True))
        return lax.scan(one, None, over)[1]

    def at_once(a: Array, b: Array) -> Array:
        axes = tuple(0 if over else None for over in mapped)
        return jax.vmap(functools.partial(at_its_precision(xla), **params), axes)(a, b)

    return lax.platform_dependent(a, b, cpu=in_turn, default=at_once), 0


for _kernel, _xla in (
    (conv_k, xla_conv),
    (kernel_gradient_k, xla_kernel_gradient),
    (input_gradient_k, xla_input_gradient),
):
    batching.primitive_batchers[_kernel.primitive] = functools.partial(_batch, _kernel, _xla)


# A convolution with bias and ReLU in the same pass -----------------------------------------


def biased(x: Array, w: Array, b: Array, *, relu: bool, total: Any = None, **where: Any) -> Array:
    """`conv` plus a bias, through a ReLU; in the dtype of the sum, which is the bias's.

    `total` adds up the convolutions of parts of x and w.
    """
    y = conv(x, w, **where)
    y = (y if total is None else total(y)) + b[None, None, None]
    return jnp.maximum(y, jnp.zeros((), y.dtype)) if relu else y


def _cpu_biased(x: Array, w: Array, b: Array, *, relu: bool, **where: Any) -> Array:
    if native := native_for_conv(x, w, **where):
        return native.conv(wide(x), wide(w), bias=b, relu=relu, **as_native(**where))
    return biased(x, w, b, relu=relu, **where)


conv_bias_k = make_composite(
    "funcnet_conv_bias", biased, _cpu_biased, _names("n H W c, P Q c o, o -> n I J o")
)


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
    x, w = promoted(x, w)
    b = b.astype(wide_dtype(x.dtype))
    return conv_bias_k(
        x, w, b, relu=relu, stride=stride, pads=pads, dilation=dilation, groups=groups
    )
