"""A run's trained net, opened again, and the examples that it is given."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from funcnet import checkpoint, data
from funcnet.cli import _train_folder as files
from funcnet.cli._command import CommandError, expected_errors
from funcnet.train import Trained

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
Run = Annotated[
    tyro.conf.Positional[str | None],
    tyro.conf.arg(metavar="[RUN]", help_behavior_hint="(default: the latest in runs)"),
]
"""The folder of a run, as an option."""


def is_run(path: str) -> bool:
    """Whether a path is a folder that a run or a sweep was begun in, or that holds a net."""
    folder = Path(path)
    named = (folder / name for name in (files.CONFIG, "model.json"))
    return any(file.is_file() for file in named) or files.is_sweep(folder)


def opened(run: str | None) -> tuple[Path, Trained]:
    """A run's folder and its net, of the latest run in runs where none is named."""
    folder = files.latest("", "; name the folder of one") if run is None else Path(run)
    if not folder.is_dir():
        raise CommandError(f"there is no folder {folder}, expected that of a run.")
    files.require_no_sweep(folder)
    with expected_errors():
        return folder, checkpoint.load_trained(folder)


def config_of(folder: Path) -> dict[str, Any] | None:
    """What a run was begun with; None where `funcnet.save` wrote the folder."""
    return files.configured(folder) if (folder / files.CONFIG).is_file() else None


def require_stdout() -> None:
    """Raises CommandError where a shell has closed stdout, which all that is done goes to."""
    if sys.__stdout__ is None:
        raise CommandError("stdout is closed, and nobody would see what comes of it.")


def examples(folder: Path, trained: Trained, paths: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Names and examples out of files, read as the run's own were; raises what `data` raises.

    A run on one of the named sets has no way of reading: its examples are arrays, or pictures of
    their very size.
    """
    if trained.reading is not None:
        return data.read_inputs(trained.reading, paths)
    names: list[str] = []
    parts: list[np.ndarray] = []
    for path in paths:
        if Path(path).suffix.lower() in PICTURES:
            _require_pixels(folder, path)
            part = _picture(Path(path), trained.input_shape)
        else:
            part = _array(Path(path), trained.input_shape)
        one = len(part) == 1
        names += [path] if one else [f"{path}:{row}" for row in range(1, len(part) + 1)]
        parts.append(part)
    return names, np.concatenate(parts)


def _array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Examples from a file of NumPy's; one alone is a batch of one."""
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz"):
        raise ValueError(
            f"{path} is neither a .npy or .npz file of arrays nor a picture ({', '.join(PICTURES)})"
            ", and the run does not say how else its examples are read."
        )
    with open(path, "rb") as file:
        try:
            found: Any = np.load(file, allow_pickle=False)
            arrays = {"its array": found} if isinstance(found, np.ndarray) else dict(found)
        except Exception as error:  # NumPy, zipfile and zlib have many
            raise ValueError(
                f"{path}: no arrays of numbers can be read from it: {error}."
            ) from None
    if len(arrays) != 1:
        raise ValueError(f"{path} has the arrays {', '.join(arrays)}, expected one alone.")
    ((name, array),) = arrays.items()
    for form in (array, array[None], array[..., None], array[None, ..., None]):
        if form.shape[1:] == shape and form.dtype.kind in "biuf" and len(form):
            return form
    sizes = ", ".join(map(str, shape))
    raise ValueError(
        f"{path}: {name} has shape {array.shape} and dtype {array.dtype}, expected numbers of shape"
        f" (n, {sizes}), or ({sizes}) for one example."
    )


def _require_pixels(folder: Path, path: str) -> None:
    """Raises ValueError where the run's own images do not hold 0 to 255, as a picture does."""
    config = config_of(folder)
    if config is None:
        return
    name = config["options"]["data"]["name"]
    if name in data.SETS and data.SETS[name].full_scale != 255:
        raise ValueError(
            f"{path} is a picture, with pixels of 0 to 255, expected an array: images of {name} "
            f"hold 0 to {data.SETS[name].full_scale:g}."
        )


def _picture(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A picture of the very size, in grey or RGB as the shape says."""
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(f"{path} is a picture, expected an array: an example has shape {shape}.")
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(f'{path}: pictures need Pillow: pip install "funcnet[data]"') from error
    with open(path, "rb") as file:
        try:
            # No other format is tried: some of Pillow's readers start other programs.
            picture = Image.open(file, formats=("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"))
            if picture.size == (shape[1], shape[0]):
                pixels = np.asarray(picture.convert("L" if shape[2] == 1 else "RGB"))
                return pixels.reshape(1, *shape)
        except Exception as error:  # Pillow has many
            raise ValueError(f"{path}: no picture can be read from it: {error}.") from None
    wide, high = picture.size
    raise ValueError(
        f"{path} is a picture of {wide}×{high} pixels, expected {shape[1]}×{shape[0]} as the run's."
    )
