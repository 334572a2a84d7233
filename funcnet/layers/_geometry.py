"""Where the windows of convolutions and pools lie."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from jax import lax

from funcnet.kernels import Axis, Pads

Pixels = int | tuple[int, int]  # of both axes, or (height, width)
Padding = int | Literal["SAME", "VALID"] | tuple[int, int] | Pads


class Geometry(NamedTuple):
    """Resolved padding and the windows along height and width."""

    pads: Pads
    axes: tuple[Axis, Axis]


def resolve(
    function: str,
    image: tuple[int, ...],
    window: tuple[int, ...],
    stride: tuple[int, int],
    padding: Any,
    dilation: tuple[int, int] = (1, 1),
    *,
    ceil_mode: bool = False,
    names: tuple[str, str] = ("height", "width"),
) -> Geometry:
    """Resolves padding, "SAME", "VALID" or in pixels, for images of height and width `image`.

    With `ceil_mode` what is left over makes a window, which the axis' pads (not the geometry's)
    make room for, unless it would start in the padding behind the image.
    """
    spans = span(window, dilation)
    if isinstance(padding, str) and padding in ("SAME", "VALID"):
        rows_pads, columns_pads = lax.padtype_to_pads(image, spans, stride, padding)
        pads: Pads = (rows_pads, columns_pads)
    else:
        pads = explicit(function, padding)
    axes = []
    for name, size, k, reach, s, d, (low, high) in zip(
        names, image, window, spans, stride, dilation, pads, strict=True
    ):
        outputs = (size + low + high - reach + (s - 1 if ceil_mode else 0)) // s + 1
        if outputs < 1:
            dilated = f", {reach} pixels by dilation {d}," if d > 1 else ""
            raise ValueError(
                f"{function}: a window of {k}{dilated} does not fit into {name} {size} with "
                f'padding {padding!r}; use a smaller window, or padding "SAME".'
            )
        behind = high
        if ceil_mode:
            outputs -= (outputs - 1) * s >= size + low
            behind = max((outputs - 1) * s + reach - size - low, 0)
        axes.append(Axis(size, k, s, (low, behind), outputs, d))
    rows, columns = axes
    return Geometry((pads[0], pads[1]), (rows, columns))


def resolve_transposed(
    function: str,
    image: tuple[int, ...],
    window: tuple[int, ...],
    stride: tuple[int, int],
    padding: Any,
    dilation: tuple[int, int],
) -> tuple[tuple[int, int], Pads]:
    """The size of the images, and the pads, of the convolution whose output has size `image`."""
    sides = None if padding in ("SAME", "VALID") else explicit(function, padding, crop=True)
    sizes, pads = [], []
    for i, reach in enumerate(span(window, dilation)):
        over = max(reach - stride[i], 0)
        low = over // 2 if padding == "SAME" else 0
        high = reach - stride[i] - (low if padding == "SAME" else over)
        pads.append((low, high) if sides is None else sides[i])
        sizes.append((image[i] - 1) * stride[i] + reach - sum(pads[i]))
        if min(image[i], sizes[i]) < 1:
            raise ValueError(
                f"{function}: {('height', 'width')[i]} {image[i]} with padding {padding!r} gives "
                f"{sizes[i]} pixels, expected at least 1; use less padding."
            )
    return (sizes[0], sizes[1]), (pads[0], pads[1])


def span(window: tuple[int, ...], dilation: tuple[int, int]) -> tuple[int, int]:
    """The pixels from the first of a window's cells to its last, along each axis."""
    return (window[0] - 1) * dilation[0] + 1, (window[1] - 1) * dilation[1] + 1


def explicit(function: str, padding: Any, *, crop: bool = False) -> Pads:
    """Padding in pixels as pairs; `crop` admits ends below 0."""
    sides = (padding, padding) if _is_int(padding) else padding
    if isinstance(sides, (tuple, list)) and len(sides) == 2:
        pairs = [(side, side) if _is_int(side) else side for side in sides]
        if all(
            isinstance(pair, (tuple, list)) and len(pair) == 2 and all(map(_is_int, pair))
            for pair in pairs
        ):
            (top, bottom), (left, right) = ((int(low), int(high)) for low, high in pairs)
            if min(top, left) < 0 or (min(bottom, right) < 0 and not crop):
                raise ValueError(f"{function}: padding is {padding}, expected 0 or more pixels.")
            return (top, bottom), (left, right)
    raise TypeError(
        f'{function}: padding is {padding!r}, expected "SAME", "VALID", a number of pixels, '
        "(height, width) or ((top, bottom), (left, right))."
    )


def _is_int(value: Any) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)
