"""Pictures of any size and mode, read by Pillow as one array."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from funcnet import _validate
from funcnet.data._formats import bad

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
"""The pictures' file names end in these, in any case of letters."""
RESIZE = "cover, bilinear"
"""How sizes are made equal: see `read_pictures`."""
# No other format is tried, whatever a file's name: some of Pillow's readers start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
_MODES = ("L", "RGB", "I;16")
_GREY = ("1", "L", "LA", "La")
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # the orientations that swap height and width


class Picture(NamedTuple):
    """A picture that is still to be read: what errors call it, and how its bytes are opened."""

    name: str
    open: Callable[[], IO[bytes]]


def in_file(path: Path) -> Picture:
    """The picture in a file."""
    return Picture(str(path), lambda: path.open("rb"))


def in_memory(name: str, content: bytes) -> Picture:
    """The picture that some bytes are."""
    return Picture(name, lambda: io.BytesIO(content))


def read_pictures(
    pictures: Sequence[Picture], size: Any = None, mode: str | None = None
) -> tuple[np.ndarray, tuple[int, int], str]:
    """Returns pictures as one array, their size and their mode.

    Each is turned as its EXIF orientation says, laid on white where it is transparent, converted
    to the mode, and if its size is another scaled, by `PIL.ImageOps.fit`, until it just covers
    the size, and its middle kept. Of an animation the first frame is read.

    Args:
        pictures: at least one.
        size: an int or (h, w); None for that of all, or the medians where they differ.
        mode: "L" for grey, "RGB", or "I;16" for grey of 16 bits; None for "I;16" where all are
            that, "L" where all are grey, else "RGB".

    Returns:
        (n, h, w, c) uint8, or uint16 for "I;16"; (h, w); the mode.

    Raises:
        DataFormatError: a picture cannot be read.
    """
    if mode not in (None, *_MODES):
        raise ValueError(f"data: mode is {mode!r}, expected None or one of {', '.join(_MODES)}.")
    if size is not None:
        size = _validate.pair("data", "size", size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a damaged EXIF
        warnings.simplefilter("error", _pillow().DecompressionBombWarning)
        if size is None or mode is None:
            found_size, found_mode = _survey(pictures)
            size, mode = size or found_size, mode or found_mode
        channels = 3 if mode == "RGB" else 1
        dtype = np.uint16 if mode == "I;16" else np.uint8
        images = np.empty((len(pictures), *size, channels), dtype)
        for image, picture in zip(images, pictures, strict=True):
            with _opened(picture) as opened:
                image[...] = _decoded(opened, size, mode).reshape(image.shape)
    return images, size, mode


def _pillow() -> Any:
    try:
        from PIL import Image, ImageOps  # noqa: F401 - ImageOps is an attribute from here on
    except ImportError as error:
        raise ImportError("pictures need Pillow: pip install funcnet[data]") from error
    return Image


@contextmanager
def _opened(picture: Picture) -> Iterator[Any]:
    """The picture as Pillow has it, its errors as ours."""
    pillow = _pillow()
    with picture.open() as stream:
        try:
            with pillow.open(stream, formats=_FORMATS) as image:
                yield image
        except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
            raise bad(
                picture.name,
                f"it has too many pixels ({error})",
                "Make the picture smaller, or take it out of the data.",
            ) from error
        except Exception as error:  # Pillow's readers have many
            raise bad(
                picture.name,
                f"no picture can be read from it ({str(error) or type(error).__name__})",
                "Mend it, or take it out of the data.",
            ) from error


def _survey(pictures: Sequence[Picture]) -> tuple[tuple[int, int], str]:
    """The size and the mode for pictures, from their headers alone."""
    sizes, modes = [], []
    for picture in pictures:
        with _opened(picture) as image:
            sideways = image.getexif().get(_ORIENTATION) in _SIDEWAYS
            sizes.append(image.size if sideways else image.size[::-1])
            modes.append(image.mode)
    height, width = np.median(sizes, 0).astype(int)
    wide = [mode.startswith("I;16") for mode in modes]
    grey = all(w or m in _GREY for w, m in zip(wide, modes, strict=True))
    return (int(height), int(width)), "I;16" if all(wide) else "L" if grey else "RGB"


def _decoded(image: Any, size: tuple[int, int], mode: str) -> np.ndarray:
    """A picture as an array of a size and a mode."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F"):
        raise ValueError(f"its mode is {image.mode}, of 32 bits: pass it to from_arrays")
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float32)
        # Floats of 32 bits hold 16 bits exactly, and Pillow scales them.
        image = Image.fromarray(values if mode == "I;16" else np.rint(values / 257).astype("u1"))
    elif mode == "I;16":
        grey = _opaque(image, "L")
        image = Image.fromarray(np.asarray(grey).astype(np.float32) * 257)
    if mode != "I;16":
        image = _opaque(image, mode)
    if image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
    return np.rint(np.asarray(image)) if mode == "I;16" else np.asarray(image)


def _opaque(image: Any, mode: str) -> Any:
    """A picture in a mode without alpha, on white where it is transparent."""
    from PIL import Image

    if not image.has_transparency_data:
        return image.convert(mode)
    layers = image.convert("LA" if image.mode in _GREY else "RGBA")
    ground = Image.new(mode, layers.size, "white")
    ground.paste(layers.convert(mode), mask=layers.getchannel("A"))
    return ground
