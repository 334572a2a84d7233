"""The three bilinear maps of a convolution: JAX primitives, closed under differentiation.

A convolution is linear in its images and in its kernel, so there are three maps: the convolution,
its adjoint in the kernel and its adjoint in the images; and each of them differentiates into the
other two. As primitives they differentiate as mathematics, at any order, whatever runs underneath:
how a map is computed is decided when it is lowered, by platform and by shape.

Everywhere but on a CPU, and on a CPU where a program is partitioned over devices, that is XLA's own
convolution. XLA's CPU convolution is slow in two places: the kernel gradient of images larger than
a few pixels, whose cotangent XLA treats as a kernel of that size (28 to 75 GFLOP/s where a product
runs at 150 to 300), and few input channels. There the map is a sum of products over a few images
at a time, so that the patches stay in the second-level cache.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from funcnet.kernels import _native
from funcnet.kernels._lowering import make_composite, make_primitive, promoted, wide, wide_dtype
from funcnet.kernels._products import xla_product

Pads = tuple[tuple[int, int], tuple[int, int]]
Pair = tuple[int, int]

CACHE_BYTES = 3 * 2**20  # of what a step of the sum reads and writes
FEW_CHANNELS = 4  # of the input: below this a product over patches beats XLA's convolution
FEW_PIXELS = 64  # of the output: up to this XLA's kernel gradient is the fastest


# The maps by XLA's convolution -------------------------------------------------------------


def xla_conv(x: Array, w: Array, *, stride: Pair, pads: Pads) -> Array:
    """(n, h, w, cin) and (kh, kw, cin, cout) -> (n, oh, ow, cout)."""
    return _correlate(x, w, pads, stride=stride)


def xla_kernel_gradient(x: Array, dy: Array, *, size: Pair, stride: Pair, pads: Pads) -> Array:
    """(n, h, w, cin) and (n, oh, ow, cout) -> (kh, kw, cin, cout)."""
    # Images become channels: the sum is over them, and the cotangent is the kernel.
    dw = _correlate(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        _exactly(x.shape[1:3], dy.shape[1:3], size, stride, pads),
        kernel_dilation=stride,
    )
    return dw.transpose(1, 2, 0, 3)


def xla_input_gradient(dy: Array, w: Array, *, size: Pair, stride: Pair, pads: Pads) -> Array:
    """(n, oh, ow, cout) and (kh, kw, cin, cout) -> (n, h, w, cin)."""
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


def _exactly(image: Any, output: Any, window: Any, stride: Pair, pads: Pads) -> Pads:
    """Pads that begin as `pads` do and end so that an image has just these outputs.

    The end may be negative, which crops: an output may have fewer rows than there is room for.
    """
    above, left = (low for low, _ in pads)
    below, right = ((output[i] - 1) * stride[i] + window[i] - image[i] - pads[i][0] for i in (0, 1))
    return (above, below), (left, right)


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


# The maps as products over patches, a few images at a time ---------------------------------


def chunked_conv(x: Array, w: Array, *, stride: Pair, pads: Pads) -> Array:
    """`xla_conv` as products of patches with the kernel."""
    kh, kw, cin, cout = w.shape
    oh, ow = ((x.shape[1 + i] + sum(pads[i]) - w.shape[i]) // stride[i] + 1 for i in (0, 1))
    kernel = w.reshape(kh * kw * cin, cout)

    def some(x: Array) -> Array:
        rows = _shifted(_padded(x, pads), 2, kw, ow, stride[1])
        patches = jnp.concatenate(_shifts(rows, 1, kh, oh, stride[0]), -1)
        y = xla_product(patches.reshape(-1, kh * kw * cin), kernel, form="nn")
        return y.reshape(x.shape[0], oh, ow, cout)

    few = _images_at_a_time(x, oh * ow * (kh * kw * cin + cout))
    return _of_chunks(some, few, x)


def chunked_kernel_gradient(x: Array, dy: Array, *, size: Pair, stride: Pair, pads: Pads) -> Array:
    """`xla_kernel_gradient` as a sum of products of shifted images with the cotangent.

    Where the cotangent has as few channels as the images it is shifted instead of them: the smaller
    side is copied, and the product's shorter side comes first.
    """
    kh, kw = size
    (_, h, w, cin), (_, oh, ow, cout) = x.shape, dy.shape
    if stride == (1, 1) and cout <= cin:
        low = kh - 1 - pads[0][0], kw - 1 - pads[1][0]
        around = _exactly((oh, ow), (h, w), size, stride, ((low[0], 0), (low[1], 0)))

        def of_cotangents(x: Array, dy: Array) -> Array:
            rows = _shifted(_padded(dy, around), 2, kw, w, 1)
            x = x.reshape(-1, cin)
            shifts = _shifts(rows, 1, kh, h, 1)
            return jnp.stack([xla_product(x, s.reshape(-1, kw * cout), form="tn") for s in shifts])

        few = _images_at_a_time(x, ((h + kh - 1) * kw * cout + h * cin) * w)
        dw = _of_chunks(of_cotangents, few, x, dy, add=True)
        return dw.reshape(kh, cin, kw, cout).transpose(0, 2, 1, 3)[::-1, ::-1]

    around = _exactly((h, w), (oh, ow), size, stride, pads)

    def of_images(x: Array, dy: Array) -> Array:
        rows = _shifted(_padded(x, around), 2, kw, ow, stride[1])
        dy = dy.reshape(-1, cout)
        shifts = _shifts(rows, 1, kh, oh, stride[0])
        return jnp.stack([xla_product(s.reshape(-1, kw * cin), dy, form="tn") for s in shifts])

    few = _images_at_a_time(x, (h * kw * cin + oh * cout) * ow)
    dw = _of_chunks(of_images, few, x, dy, add=True)
    return dw.reshape(kh, kw, cin, cout)


def _padded(x: Array, pads: Pads) -> Array:
    config = [(0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _shifts(x: Array, axis: int, window: int, outputs: int, stride: int) -> list[Array]:
    """The j-th cell of every window along an axis, for each j."""
    last = (outputs - 1) * stride + 1
    return [lax.slice_in_dim(x, j, j + last, stride, axis) for j in range(window)]


def _shifted(x: Array, axis: int, window: int, outputs: int, stride: int) -> Array:
    """The windows along an axis, their cells beside each other as channels."""
    return jnp.concatenate(_shifts(x, axis, window, outputs, stride), -1)


def _images_at_a_time(images: Array, numbers: int) -> int:
    """So many that what is read and written of them, `numbers` an image, stays in the cache."""
    return max(1, min(len(images), CACHE_BYTES // max(1, numbers * images.dtype.itemsize)))


def _of_chunks(some: Callable[..., Array], few: int, *images: Array, add: bool = False) -> Array:
    """`some(*images)`, a few images at a time: what it returns, one after the other or added."""
    n = images[0].shape[0]
    whole = n // few
    if whole <= 1:
        return some(*images)
    parts = [x[: whole * few].reshape(whole, few, *x.shape[1:]) for x in images]
    rest = [x[whole * few :] for x in images]
    if add:
        zero = some(*(part[0] for part in parts))
        total, _ = lax.scan(
            lambda total, part: (total + some(*part), None), zero, [part[1:] for part in parts]
        )
        return total + some(*rest) if n % few else total
    _, y = lax.scan(lambda _, part: (None, some(*part)), None, parts)
    y = y.reshape(whole * few, *y.shape[2:])
    return jnp.concatenate([y, some(*rest)]) if n % few else y


# Which way ---------------------------------------------------------------------------------


def cpu_conv(x: Array, w: Array, *, stride: Pair, pads: Pads) -> Array:
    """The faster way on a CPU: native, else patches where the images have few channels."""
    if native := _native_for_conv(x, w, stride, pads):
        return native.conv(wide(x), wide(w), stride=stride, pads=pads)
    chunked = w.shape[2] <= FEW_CHANNELS and math.prod(w.shape[:2]) > 1 and x.size
    return (chunked_conv if chunked else xla_conv)(x, w, stride=stride, pads=pads)


def cpu_kernel_gradient(x: Array, dy: Array, *, size: Pair, stride: Pair, pads: Pads) -> Array:
    """The faster way on a CPU: native, else patches unless the cotangent has few pixels."""
    kernel = (*size, x.shape[3], dy.shape[3])
    kind = "conv_kernel_gradient"
    if native := _native_for(kind, x.shape, kernel, dy.shape, stride, pads, dtype=x.dtype):
        return native.conv_kernel_gradient(wide(x), wide(dy), size, stride, pads)
    chunked = math.prod(dy.shape[1:3]) > FEW_PIXELS and x.size
    gradient = chunked_kernel_gradient if chunked else xla_kernel_gradient
    return gradient(x, dy, size=size, stride=stride, pads=pads)


def cpu_input_gradient(dy: Array, w: Array, *, size: Pair, stride: Pair, pads: Pads) -> Array:
    """The faster way on a CPU: native, unless the images have few channels."""
    images = (dy.shape[0], *size, w.shape[2])
    kind = "conv_input_gradient"
    native = _native_for(kind, images, w.shape, dy.shape, stride, pads, dtype=dy.dtype)
    if native and w.shape[2] > FEW_CHANNELS:
        return native.conv_input_gradient(wide(dy), wide(w), size, stride, pads)
    return xla_input_gradient(dy, w, size=size, stride=stride, pads=pads)


def _native_for_conv(x: Array, w: Array, stride: Pair, pads: Pads) -> Any:
    y = jax.eval_shape(functools.partial(xla_conv, stride=stride, pads=pads), x, w)
    return _native_for("conv", x.shape, w.shape, y.shape, stride, pads, dtype=x.dtype)


def _native_for(kind: str, *geometry: Any, dtype: Any) -> Any:
    """The native package, where it is in use and has a kernel for this geometry; else None.

    A geometry is the shapes of images, kernel and output, then stride and pads.
    """
    native = _native.package_for(dtype)
    return native if native and native.supports(kind, *geometry) else None


# The primitives ----------------------------------------------------------------------------


conv_p = make_primitive("funcnet_conv", xla_conv, cpu_conv)
kernel_gradient_p = make_primitive(
    "funcnet_conv_kernel_gradient", xla_kernel_gradient, cpu_kernel_gradient
)
input_gradient_p = make_primitive(
    "funcnet_conv_input_gradient", xla_input_gradient, cpu_input_gradient
)


def conv(x: Array, w: Array, *, stride: Pair, pads: Pads) -> Array:
    """See `kernels.conv`."""
    return conv_p.bind(*promoted(x, w), stride=stride, pads=pads)


def kernel_gradient(x: Array, dy: Array, *, size: Pair, stride: Pair, pads: Pads) -> Array:
    """See `kernels.conv_kernel_gradient`."""
    return kernel_gradient_p.bind(*promoted(x, dy), size=size, stride=stride, pads=pads)


def input_gradient(dy: Array, w: Array, *, size: Pair, stride: Pair, pads: Pads) -> Array:
    """See `kernels.conv_input_gradient`."""
    return input_gradient_p.bind(*promoted(dy, w), size=size, stride=stride, pads=pads)


# Each map differentiates into the other two. The operand that is sought is known by its shape
# alone; a cotangent is as wide as the sum, what is returned has the operand's dtype.


def _sought(
    primitive: Primitive, first: Callable[..., Array], second: Callable[..., Array]
) -> None:
    def rule(gradient: Callable[..., Array], sought: Any, *args: Any, **params: Any) -> Array:
        return gradient(*args, **params, like=sought.aval.shape).astype(sought.aval.dtype)

    ad.defbilinear(
        primitive,
        lambda ct, a, b, **params: rule(first, a, ct, b, **params),
        lambda ct, a, b, **params: rule(second, b, ct, a, **params),
    )


_sought(
    conv_p,
    lambda dy, w, like, **p: input_gradient(dy, w, size=like[1:3], **p),
    lambda dy, x, like, **p: kernel_gradient(x, dy, size=like[:2], **p),
)
_sought(
    kernel_gradient_p,
    lambda w, dy, like, size, **p: input_gradient(dy, w, size=like[1:3], **p),
    lambda w, x, like, size, stride, pads: conv(
        x, w, stride=stride, pads=_exactly(x.shape[1:3], like[1:3], size, stride, pads)
    ),
)
_sought(
    input_gradient_p,
    lambda x, w, like, size, stride, pads: conv(
        x, w, stride=stride, pads=_exactly(size, like[1:3], w.shape, stride, pads)
    ),
    lambda x, dy, like, size, **p: kernel_gradient(x, dy, size=like[:2], **p),
)


# Batched images are more images. Whatever else is batched a CPU does one after the other: XLA would
# make groups of it, which a CPU runs slowly and an accelerator does not.


def _batch(
    primitive: Primitive, xla: Callable[..., Array], operands: Any, axes: Any, **params: Any
) -> tuple[Array, int]:
    mapped = tuple(axis is not None for axis in axes)
    a, b = (
        jnp.moveaxis(x, axis, 0) if over else x
        for x, axis, over in zip(operands, axes, mapped, strict=True)
    )
    if mapped == (True, False) and primitive is not kernel_gradient_p:
        y = primitive.bind(a.reshape(a.shape[0] * a.shape[1], *a.shape[2:]), b, **params)
        return y.reshape(*a.shape[:2], *y.shape[1:]), 0

    def in_turn(a: Array, b: Array) -> Array:
        def one(_: Any, parts: Any) -> tuple[None, Array]:
            a_part, b_part = (
                part if over else whole
                for part, whole, over in zip(parts, (a, b), mapped, strict=True)
            )
            return None, primitive.bind(a_part, b_part, **params)

        over = tuple(x if is_over else None for x, is_over in zip((a, b), mapped, strict=True))
        return lax.scan(one, None, over)[1]

    def at_once(a: Array, b: Array) -> Array:
        axes = tuple(0 if over else None for over in mapped)
        return jax.vmap(functools.partial(xla, **params), axes)(a, b)

    return lax.platform_dependent(a, b, cpu=in_turn, default=at_once), 0


for _p, _xla in (
    (conv_p, xla_conv),
    (kernel_gradient_p, xla_kernel_gradient),
    (input_gradient_p, xla_input_gradient),
):
    batching.primitive_batchers[_p] = functools.partial(_batch, _p, _xla)


# A convolution with bias and ReLU in the same pass -----------------------------------------


def biased(x: Array, w: Array, b: Array, *, stride: Pair, pads: Pads, relu: bool) -> Array:
    """`conv` plus a bias, through a ReLU; in the dtype of the sum, which is the bias's."""
    y = conv(x, w, stride=stride, pads=pads) + b[None, None, None]
    return jnp.maximum(y, jnp.zeros((), y.dtype)) if relu else y


def _cpu_biased(x: Array, w: Array, b: Array, *, stride: Pair, pads: Pads, relu: bool) -> Array:
    if native := _native_for_conv(x, w, stride, pads):
        return native.conv(wide(x), wide(w), stride=stride, pads=pads, bias=b, relu=relu)
    return biased(x, w, b, stride=stride, pads=pads, relu=relu)


conv_bias_p = make_composite("funcnet_conv_bias", biased, _cpu_biased)


def conv_bias(x: Array, w: Array, b: Array, *, stride: Pair, pads: Pads, relu: bool) -> Array:
    """See `kernels.conv_bias`."""
    x, w = promoted(x, w)
    b = b.astype(wide_dtype(x.dtype))
    return conv_bias_p.bind(x, w, b, stride=stride, pads=pads, relu=relu)
