"""Where the windows of convolutions and pools lie."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from jax import lax

from funcnet.kernels import Pads

Padding = int | Literal["SAME", "VALID"]


class Axis(NamedTuple):
    """The windows along one axis: sizes in pixels, pads (low, high), and how many there are."""

    size: int
    window: int
    stride: int
    pads: tuple[int, int]
    outputs: int


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
) -> Geometry:
    """Resolves "SAME", "VALID" or a number of pixels for images of height and width `image`."""
    if isinstance(padding, str) and padding in ("SAME", "VALID"):
        pads = lax.padtype_to_pads(image, window, stride, padding)
    elif hasattr(padding, "__index__") and not isinstance(padding, bool):
        if padding < 0:
            raise ValueError(f"{function}: padding is {padding}, expected 0 or more pixels.")
        pads = [(int(padding), int(padding))] * 2
    else:
        raise TypeError(
            f'{function}: padding is {padding!r}, expected "SAME", "VALID" or a number of pixels.'
        )
    axes = []
    for name, size, k, s, (low, high) in zip(
        ("height", "width"), image, window, stride, pads, strict=True
    ):
        outputs = (size + low + high - k) // s + 1
        if outputs < 1:
            raise ValueError(
                f"{function}: a window of {k} does not fit into {name} {size} with padding "
                f'{padding!r}; use a smaller window, or padding "SAME".'
            )
        axes.append(Axis(size, k, s, (low, high), outputs))
    rows, columns = axes
    return Geometry((rows.pads, columns.pads), (rows, columns))
