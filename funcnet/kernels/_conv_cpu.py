"""The three maps of a convolution on a CPU: native, over patches, group by group, or XLA's.

XLA's CPU convolution is slow in two places: the kernel gradient of images larger than a few pixels,
whose cotangent XLA treats as a kernel of that size (28 to 75 GFLOP/s where a product runs at 150 to
300), and few input channels. There the map is a sum of products over a few images at a time, or
over a band of rows of a large one, so that the patches stay in the second-level cache; where the
kernel is too large for that it is XLA's convolution after all.

For the kernel gradient of groups XLA makes a dense convolution (64 times the products for 64 groups
of one channel) or one of three dimensions. So where no native kernel takes them, groups are taken
one after the other, each by the way that suits it; and where each is a single channel (depthwise)
a map is a sum of products of shifted images, number by number.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from funcnet.kernels import _native
from funcnet.kernels._conv_xla import (
    Pads,
    Pair,
    pads_around,
    spans_of,
    xla_conv,
    xla_input_gradient,
    xla_kernel_gradient,
)
from funcnet.kernels._lowering import wide, wide_dtype
from funcnet.kernels._products import xla_product

CACHE_BYTES = 3 * 2**20  # of what a step of the sum reads and writes
PATCH_BYTES = 8 * CACHE_BYTES  # of the patches that a step of the sum may lay out, at most
FEW_CHANNELS = 4  # of the input: below this a product over patches beats XLA's convolution
FEW_PIXELS = 64  # of the output: up to this XLA's kernel gradient is the fastest, as of one row
MANY_TAPS = 128  # of a kernel: up to this the sum over them is written out, tap by tap


# The maps as products over patches, a few images or a band of one at a time ----------------


def chunked_conv(x: Array, w: Array, *, stride: Pair, pads: Pads, dilation: Pair = (1, 1)) -> Array:
    """`xla_conv` as products of patches with the kernel."""
    kh, kw, cin, cout = w.shape
    n, (oh, ow) = x.shape[0], _outputs(x, w, stride, pads, dilation)
    kernel = w.reshape(kh * kw * cin, cout)
    bands = _conv_bands(x, w, stride, pads, dilation)
    x = _padded(x, (bands.pads(x, pads[0][0]), pads[1]))

    def some(x: Array) -> Array:
        rows = _shifted(x, 2, kw, ow, stride[1], dilation[1])
        patches = jnp.concatenate(_shifts(rows, 1, kh, bands.rows, stride[0], dilation[0]), -1)
        y = xla_product(patches.reshape(-1, kh * kw * cin), kernel, form="nn")
        return y.reshape(x.shape[0], bands.rows, ow, cout)

    y = _of_bands(some, bands, (x, *bands.pixels))
    return y.reshape(n, bands.per_image * bands.rows, ow, cout)[:, :oh]


def chunked_kernel_gradient(
    x: Array, dy: Array, *, size: Pair, stride: Pair, pads: Pads, dilation: Pair = (1, 1)
) -> Array:
    """`xla_kernel_gradient` as a sum of products of shifted images with the cotangent.

    Where the cotangent has as few channels as the images it is shifted instead of them: the smaller
    side is copied, and the product's shorter side comes first.
    """
    kh, kw = size
    (_, h, w, cin), (_, oh, ow, cout) = x.shape, dy.shape
    bands = _gradient_bands(x, dy, size, stride, dilation)
    if _shifts_cotangent(x, dy, stride):
        around = pads_around((oh, ow), (h, w), spans_of(size, dilation), stride, pads)

        def of_cotangents(dy: Array, x: Array) -> Array:
            rows = _shifted(dy, 2, kw, w, 1, dilation[1])
            x = x.reshape(-1, cin)
            shifts = _shifts(rows, 1, kh, bands.rows, 1, dilation[0])
            return jnp.stack([xla_product(x, s.reshape(-1, kw * cout), form="tn") for s in shifts])

        dw = _of_bands(of_cotangents, bands, *_cut(dy, x, bands, around), add=True)
        return dw.reshape(kh, cin, kw, cout).transpose(0, 2, 1, 3)[::-1, ::-1]

    def of_images(x: Array, dy: Array) -> Array:
        rows = _shifted(x, 2, kw, ow, stride[1], dilation[1])
        dy = dy.reshape(-1, cout)
        shifts = _shifts(rows, 1, kh, bands.rows, stride[0], dilation[0])
        return jnp.stack([xla_product(s.reshape(-1, kw * cin), dy, form="tn") for s in shifts])

    dw = _of_bands(of_images, bands, *_cut(x, dy, bands, pads), add=True)
    return dw.reshape(kh, kw, cin, cout)


def _shifts_cotangent(x: Array, dy: Array, stride: Pair) -> bool:
    return stride == (1, 1) and dy.shape[3] <= x.shape[3]


def _outputs(x: Array, w: Array, stride: Pair, pads: Pads, dilation: Pair) -> Pair:
    spans = spans_of(w.shape, dilation)
    oh, ow = ((x.shape[1 + i] + sum(pads[i]) - spans[i]) // stride[i] + 1 for i in (0, 1))
    return oh, ow


def _padded(x: Array, pads: Pads) -> Array:
    config = [(0, 0, 0), (*pads[0], 0), (*pads[1], 0), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _shifts(
    x: Array, axis: int, window: int, outputs: int, stride: int, dilation: int
) -> list[Array]:
    """The j-th cell of every window along an axis, for each j."""
    last = (outputs - 1) * stride + 1
    starts = range(0, window * dilation, dilation)
    return [lax.slice_in_dim(x, j, j + last, stride, axis) for j in starts]


def _shifted(x: Array, axis: int, window: int, outputs: int, stride: int, dilation: int) -> Array:
    """The windows along an axis, their cells beside each other as channels."""
    return jnp.concatenate(_shifts(x, axis, window, outputs, stride, dilation), -1)


class Bands(NamedTuple):
    """Images cut into bands of rows, so that a band's patches stay in the cache.

    Attributes:
      per_image: bands of an image.
      rows: rows of windows in a band; in an image's last some may lie behind its end.
      span: rows of pixels under a row of windows.
      stride: rows of pixels from one row of windows to the next.
      at_once: images that a step of the sum takes, where one is not cut.
      patch_bytes: what the patches of one band take, laid out.
    """

    per_image: int
    rows: int
    span: int
    stride: int
    at_once: int
    patch_bytes: int

    @property
    def pixels(self) -> tuple[int, int]:
        """Rows of pixels from one band to the next, and under one band."""
        return self.rows * self.stride, (self.rows - 1) * self.stride + self.span

    def pads(self, x: Array, above: int) -> tuple[int, int]:
        """Rows to pad so that the bands end where the images do."""
        step, own = self.pixels
        return above, (self.per_image - 1) * step + own - above - x.shape[1]


def _bands(
    images: Array, outputs: int, span: int, stride: int, row_numbers: int, patch_numbers: int
) -> Bands:
    """So many rows, or whole images, that what is read and written of them stays in the cache.

    For a row of windows that is `row_numbers` numbers, and its patches are `patch_numbers`.
    """
    itemsize = images.dtype.itemsize
    most = max(1, min(outputs, CACHE_BYTES // max(1, row_numbers * itemsize)))
    # Bands that divide an image need no copy of what is cut.
    rows = next((r for r in range(most, most // 2, -1) if outputs % r == 0), most)
    at_once = max(1, min(len(images), CACHE_BYTES // max(1, rows * row_numbers * itemsize)))
    return Bands(-(-outputs // rows), rows, span, stride, at_once, rows * patch_numbers * itemsize)


def _conv_bands(x: Array, w: Array, stride: Pair, pads: Pads, dilation: Pair) -> Bands:
    kh, kw, cin, cout = w.shape
    oh, ow = _outputs(x, w, stride, pads, dilation)
    span, taps = spans_of((kh, kw), dilation)[0], kh * kw * cin
    return _bands(x, oh, span, stride[0], (taps + cout) * ow, taps * ow)


def _gradient_bands(x: Array, dy: Array, size: Pair, stride: Pair, dilation: Pair) -> Bands:
    kh, kw = size
    (_, h, w, cin), (_, oh, ow, cout) = x.shape, dy.shape
    span = spans_of(size, dilation)[0]
    if _shifts_cotangent(x, dy, stride):
        return _bands(x, h, span, 1, (kw * cout + cin) * w, kh * kw * cout * w)
    return _bands(x, oh, span, stride[0], (kw * cin + cout) * ow, kh * kw * cin * ow)


Cut = tuple[Array, int, int]  # an array, its rows from one band to the next, and those of a band


def _cut(images: Array, rows: Array, bands: Bands, around: Pads) -> tuple[Cut, Cut]:
    """Images to be cut, padded, and what has one row for each of their rows of windows."""
    images = _padded(images, (bands.pads(images, around[0][0]), around[1]))
    rows = _padded(rows, ((0, bands.per_image * bands.rows - rows.shape[1]), (0, 0)))
    return (images, *bands.pixels), (rows, bands.rows, bands.rows)


def _of_bands(some: Callable[..., Array], bands: Bands, *images: Cut, add: bool = False) -> Array:
    """`some(*images)`, a band at a time, or a few whole images: see `_of_chunks`."""
    if bands.per_image == 1:
        return _of_chunks(some, bands.at_once, *(x for x, _, _ in images), add=add)

    def one(i: Any) -> Array:
        image, band = i // bands.per_image, i % bands.per_image
        return some(
            *(
                lax.dynamic_slice(x, (image, band * step, 0, 0), (1, rows, *x.shape[2:]))
                for x, step, rows in images
            )
        )

    n = images[0][0].shape[0] * bands.per_image
    if add:
        return lax.fori_loop(1, n, lambda i, total: total + one(i), one(0))
    return lax.map(one, jnp.arange(n))


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


# The maps of groups: of single channels number by number, of more one after the other -------


def depthwise_conv(x: Array, w: Array, *, stride: Pair, pads: Pads, dilation: Pair) -> Array:
    """`xla_conv` of as many groups as channels, as a sum of products of shifted images."""
    spread = jnp.repeat(_padded(wide(x), pads), w.shape[3] // x.shape[3], -1)
    outputs = _outputs(x, w, stride, pads, dilation)
    return _multiply_add(spread, wide(w), outputs, stride, dilation)


def depthwise_kernel_gradient(
    x: Array, dy: Array, *, size: Pair, stride: Pair, pads: Pads, dilation: Pair
) -> Array:
    """`xla_kernel_gradient` of as many groups as channels, a sum over all pixels for each tap."""
    cin, (_, oh, ow, cout) = x.shape[3], dy.shape
    span = spans_of(size, dilation)[0]
    bands = _bands(x, oh, span, stride[0], (math.prod(size) + 1) * ow * cout, 0)

    def some(x: Array, dy: Array) -> Array:
        spread, dy = jnp.repeat(wide(x), cout // cin, -1), wide(dy)
        taps = _taps(spread, size, (bands.rows, ow), stride, dilation)
        return jnp.stack([(tap * dy).sum((0, 1, 2)) for tap in taps])

    dw = _of_bands(some, bands, *_cut(x, dy, bands, pads), add=True)
    return dw.reshape(*size, 1, cout)


def depthwise_input_gradient(
    dy: Array, w: Array, *, size: Pair, stride: Pair, pads: Pads, dilation: Pair, groups: int
) -> Array:
    """`xla_input_gradient` of as many groups as channels, as a sum of shifted cotangents."""
    above, left = pads_around(dy.shape[1:], size, spans_of(w.shape, dilation), stride, pads)
    config = [(0, 0, 0), (*above, stride[0] - 1), (*left, stride[1] - 1), (0, 0, 0)]
    dy = lax.pad(wide(dy), jnp.zeros((), wide_dtype(dy.dtype)), config)
    kernel = lax.rev(wide(w), (0, 1))
    each = w.shape[3] // groups  # outputs of a channel
    parts = (
        _multiply_add(dy[..., j::each], kernel[..., j::each], size, (1, 1), dilation)
        for j in range(each)
    )
    return functools.reduce(operator.add, parts)


def _multiply_add(x: Array, w: Array, outputs: Pair, stride: Pair, dilation: Pair) -> Array:
    """Padded images and a kernel, one number a channel and tap."""
    kernel = w.reshape(-1, 1, 1, 1, w.shape[-1])
    # Padded once, not again for every tap that reads it.
    taps = _taps(lax.optimization_barrier(x), w.shape, outputs, stride, dilation)
    return functools.reduce(operator.add, (tap * k for tap, k in zip(taps, kernel, strict=True)))


def _taps(x: Array, size: Any, outputs: Any, stride: Pair, dilation: Pair) -> list[Array]:
    """What each tap of a kernel meets in padded images, in row-major order."""
    return [
        tap
        for rows in _shifts(x, 1, size[0], outputs[0], stride[0], dilation[0])
        for tap in _shifts(rows, 2, size[1], outputs[1], stride[1], dilation[1])
    ]


def _group_by_group(one: Callable[..., Array], groups: int, a: Array, b: Array) -> Array:
    """A map of each group's channels; channels are last in images, kernels and outputs."""

    def split(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups), -2, 0)

    y = jnp.moveaxis(lax.map(lambda parts: one(*parts), (split(a), split(b))), 0, -2)
    return y.reshape(*y.shape[:-2], groups * y.shape[-1])


# Which way ---------------------------------------------------------------------------------


def cpu_conv(x: Array, w: Array, *, groups: int, **where: Any) -> Array:
    """The faster way on a CPU: native, else patches where the images have few channels."""
    if native := native_for_conv(x, w, groups=groups, **where):
        return native.conv(wide(x), wide(w), **as_native(groups=groups, **where))
    if groups > 1:
        if groups == x.shape[3] and w.size // groups <= MANY_TAPS:
            return depthwise_conv(x, w, **where)
        return _group_by_group(functools.partial(cpu_conv, groups=1, **where), groups, x, w)
    chunked = w.shape[2] <= FEW_CHANNELS and 1 < math.prod(w.shape[:2]) <= MANY_TAPS and x.size
    chunked = chunked and _conv_bands(x, w, **where).patch_bytes <= PATCH_BYTES
    return (chunked_conv if chunked else xla_conv)(x, w, **where)


def cpu_kernel_gradient(x: Array, dy: Array, *, size: Pair, groups: int, **where: Any) -> Array:
    """The faster way on a CPU: native, else patches unless the cotangent is small or one row."""
    if native := native_for_kernel_gradient(x, dy.shape, size, groups=groups, **where):
        options = as_native(groups=groups, **where)
        return native.conv_kernel_gradient(wide(x), wide(dy), size, **options)
    if groups > 1:
        if groups == x.shape[3] and math.prod(size) * dy.shape[3] // groups <= MANY_TAPS:
            return depthwise_kernel_gradient(x, dy, size=size, **where)
        one = functools.partial(cpu_kernel_gradient, size=size, groups=1, **where)
        return _group_by_group(one, groups, x, dy)
    large = dy.shape[1] > 1 and math.prod(dy.shape[1:3]) > FEW_PIXELS
    chunked = large and math.prod(size) <= MANY_TAPS and x.size
    if chunked:
        bands = _gradient_bands(x, dy, size, where["stride"], where["dilation"])
        chunked = bands.patch_bytes <= PATCH_BYTES
    gradient = chunked_kernel_gradient if chunked else xla_kernel_gradient
    return gradient(x, dy, size=size, **where)


def cpu_input_gradient(dy: Array, w: Array, *, size: Pair, groups: int, **where: Any) -> Array:
    """The faster way on a CPU: native, unless the images have few channels."""
    images = (dy.shape[0], *size, groups * w.shape[2])
    kind = "conv_input_gradient"
    native = _native_for(kind, dy, images, w.shape, dy.shape, groups=groups, **where)
    if native and images[3] > FEW_CHANNELS:
        options = as_native(groups=groups, **where)
        return native.conv_input_gradient(wide(dy), wide(w), size, **options)
    if groups > 1:
        if w.shape[2] == 1 and w.size // groups <= MANY_TAPS:
            return depthwise_input_gradient(dy, w, size=size, groups=groups, **where)
        one = functools.partial(cpu_input_gradient, size=size, groups=1, **where)
        return _group_by_group(one, groups, dy, w)
    return xla_input_gradient(dy, w, size=size, **where)


def as_native(**where: Any) -> dict[str, Any]:
    """A geometry, as the native package asks for it."""
    return {**where, "winograd": _native.winograd()}


def native_for_conv(x: Array, w: Array, **where: Any) -> Any:
    y = jax.eval_shape(functools.partial(xla_conv, **where), x, w)
    return _native_for("conv", x, x.shape, w.shape, y.shape, **where)


def native_for_kernel_gradient(x: Array, output: Any, size: Pair, **where: Any) -> Any:
    kernel = (*size, x.shape[3] // where["groups"], output[3])
    return _native_for("conv_kernel_gradient", x, x.shape, kernel, output, **where)


def _native_for(kind: str, operand: Array, *shapes: Any, **where: Any) -> Any:
    """The native package, where it is in use and has a kernel for this geometry; else None.

    The shapes are those of images, kernel and output.
    """
    native = _native.package_for(operand.dtype)
    return native if native and native.supports(kind, *shapes, **where) else None
