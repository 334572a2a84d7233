"""The three maps of a convolution by XLA's own, and where the windows lie."""

from __future__ import annotations

from typing import Any

from jax import Array, lax

from funcnet.kernels._lowering import wide_dtype

Pads = tuple[tuple[int, int], tuple[int, int]]
Pair = tuple[int, int]


def xla_conv(
    x: Array, w: Array, *, stride: Pair, pads: Pads, dilation: Pair = (1, 1), groups: int = 1
) -> Array:
    """(n, h, w, cin) and (kh, kw, cin // groups, cout) -> (n, oh, ow, cout)."""
    return _correlate(
        x, w, pads, stride=stride, kernel_dilation=dilation, feature_group_count=groups
    )


def xla_kernel_gradient(
    x: Array,
    dy: Array,
    *,
    size: Pair,
    stride: Pair,
    pads: Pads,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Array:
    """(n, h, w, cin) and (n, oh, ow, cout) -> (kh, kw, cin // groups, cout)."""
    # Images become channels: the sum is over them, and the cotangent is the kernel.
    dw = _correlate(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        pads_exactly(x.shape[1:], dy.shape[1:], spans_of(size, dilation), stride, pads),
        stride=dilation,
        kernel_dilation=stride,
        batch_group_count=groups,
    )
    return dw.transpose(1, 2, 0, 3)


def xla_input_gradient(
    dy: Array,
    w: Array,
    *,
    size: Pair,
    stride: Pair,
    pads: Pads,
    dilation: Pair = (1, 1),
    groups: int = 1,
) -> Array:
    """(n, oh, ow, cout) and (kh, kw, cin // groups, cout) -> (n, h, w, cin)."""
    kh, kw, cin, cout = w.shape  # channels of a group, channels of all
    w = w.reshape(kh * kw, cin, groups, cout // groups).transpose(0, 3, 2, 1)
    return _correlate(
        dy,
        lax.rev(w.reshape(kh, kw, cout // groups, groups * cin), (0, 1)),
        pads_around(dy.shape[1:], size, spans_of((kh, kw), dilation), stride, pads),
        image_dilation=stride,
        kernel_dilation=dilation,
        feature_group_count=groups,
    )


def spans_of(size: Any, dilation: Pair) -> Pair:
    """The pixels from a dilated kernel's first row and column to its last."""
    return (size[0] - 1) * dilation[0] + 1, (size[1] - 1) * dilation[1] + 1


def pads_around(output: Any, image: Any, spans: Pair, stride: Pair, pads: Pads) -> Pads:
    """Pads of a cotangent, dilated by `stride`, from which windows give the image's gradient."""
    low = tuple(spans[i] - 1 - pads[i][0] for i in (0, 1))
    high = tuple(image[i] - (output[i] - 1) * stride[i] - 2 - low[i] + spans[i] for i in (0, 1))
    return (low[0], high[0]), (low[1], high[1])


def pads_exactly(image: Any, output: Any, window: Any, stride: Pair, pads: Pads) -> Pads:
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
    **groups: Any,
) -> Array:
    """The one convolution that XLA is asked for: NHWC by HWIO, of one row in one dimension.

    Inside a loop XLA runs other orders up to a hundred times slower on a CPU, while a transposition
    costs little: https://github.com/jax-ml/jax/issues/12868. An image of one row takes it up to
    half as long again as the row.
    """
    names, first = ("NHWC", "HWIO", "NHWC"), 0
    row = x.shape[1] == w.shape[0] == 1 and pads[0] == (0, 0)
    if row:
        x, w, names, first = x[:, 0], w[0], ("NWC", "WIO", "NWC"), 1
    y = lax.conv_general_dilated(
        x,
        w,
        stride[first:],
        pads[first:],
        image_dilation[first:],
        kernel_dilation[first:],
        dimension_numbers=names,
        preferred_element_type=wide_dtype(x.dtype),
        **groups,
    )
    return y[:, None] if row else y
