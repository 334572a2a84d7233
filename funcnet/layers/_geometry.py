"""Where the windows of convolutions and pools lie."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from jax import lax

from funcnet import _validate
from funcnet.kernels import Pads

Padding = int | Literal["SAME", "VALID"] | tuple[tuple[int, int], tuple[int, int]]


class Axis(NamedTuple):
    """The windows along one axis: sizes in pixels, pads (low, high), and how many there are.

    A window's cells lie `dilation` pixels apart.
    """

    size: int
    window: int
    stride: int
    pads: tuple[int, int]
    outputs: int
    dilation: int = 1


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
    ceil_mode: bool = False,
) -> Geometry:
    """Resolves "SAME", "VALID", a number of pixels or pairs of them for images of size `image`.

    With `ceil_mode` what is left over makes a window, which the axis' pads (not the geometry's)
    make room for, unless it would start in the padding behind the image.
    """
    span = tuple((k - 1) * d + 1 for k, d in zip(window, dilation, strict=True))
    if isinstance(padding, str) and padding in ("SAME", "VALID"):
        pads = lax.padtype_to_pads(image, span, stride, padding)
    elif hasattr(padding, "__index__") and not isinstance(padding, bool):
        if padding < 0:
            raise ValueError(f"{function}: padding is {padding}, expected 0 or more pixels.")
        pads = [(int(padding), int(padding))] * 2
    elif isinstance(padding, (tuple, list)) and len(padding) == 2:
        pads = [_validate.pair(function, "padding", sides, low=0) for sides in padding]
    else:
        raise TypeError(
            f'{function}: padding is {padding!r}, expected "SAME", "VALID", a number of pixels or '
            "((top, bottom), (left, right))."
        )
    axes = []
    for name, size, k, d, extent, s, (low, high) in zip(
        ("height", "width"), image, window, dilation, span, stride, pads, strict=True
    ):
        room = size + low + high - extent
        outputs = (room + (s - 1 if ceil_mode else 0)) // s + 1
        if outputs < 1:
            raise ValueError(
                f"{function}: a window of {extent} does not fit into {name} {size} with padding "
                f'{padding!r}; use a smaller window, or padding "SAME".'
            )
        reach = high
        if ceil_mode:
            outputs -= (outputs - 1) * s >= size + low
            reach = max((outputs - 1) * s + extent - size - low, 0)
        axes.append(Axis(size, k, s, (low, reach), outputs, d))
    rows, columns = axes
    return Geometry((pads[0], pads[1]), (rows, columns))
