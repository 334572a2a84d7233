"""Data sets from folders of pictures, a folder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from funcnet.data._arrays import SPLITS, assemble
from funcnet.data._dataset import Dataset
from funcnet.data._formats import bad
from funcnet.data._pictures import RESIZE, SUFFIXES, Picture, in_file, read_pictures

_KINDS = ", ".join(SUFFIXES)


def from_folder(
    path: str | os.PathLike[str],
    *,
    size: int | Sequence[int] | None = None,
    mode: str | None = None,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
) -> Dataset:
    """Returns a data set of pictures, in folders that are named as their classes.

    ```
    path/cat/1.png, path/dog/2.jpg                                    # cut into three splits
    path/train/cat/1.png, path/val/dog/2.jpg, path/test/cat/3.png     # or valid, validation
    ```

    A class's folder holds PNG, JPEG, BMP, GIF, WebP or TIFF, in folders of its own if need be;
    hidden files and those of other suffixes are passed over. A validation or test split that is
    not there is cut from training. The classes are in alphabetical order, or in that of numbers
    where all are numbers.

    Each picture is turned as its EXIF orientation says, and laid on white where it is
    transparent. One of another size than `size` is scaled, with antialiasing, until it just covers
    it, and its middle kept. Palettes and CMYK become RGB; grey of 16 bits is scaled to 8, unless
    all pictures are that, which are kept as uint16. Of an animation the first frame is read.

    Args:
        path: the folder.
        size: (h, w), or an int for both; by default that of all pictures, or if they differ the
            median height and the median width.
        mode: "L" for grey, "RGB" or "I;16"; by default "I;16" where all pictures are grey of 16
            bits, "L" where all are grey, else "RGB".
        val: how many of the training pictures are for validation, as an int or a fraction.
        test: how many are for the test, likewise.
        seed: of the splits, which are stratified as in `from_arrays`.

    Returns:
        The data set: images (n, h, w, c) uint8; size and mode are in `reading`.

    Raises:
        DataFormatError: a picture is damaged, or has so many pixels that Pillow warns of it; a
            class has no picture, a picture no class, or there are fewer than two classes.
        ImportError: Pillow is not installed.
        ValueError: as `from_arrays`.

    >>> import tempfile
    >>> from PIL import Image
    >>> path = Path(tempfile.mkdtemp())
    >>> for i, name in enumerate(["cat", "dog"] * 5):
    ...     (path / name).mkdir(exist_ok=True)
    ...     Image.new("RGB", (8, 6)).save(path / name / f"{i}.png")
    >>> dataset = from_folder(path, val=2, test=2)
    >>> dataset.classes, dataset.train.images.shape
    (('cat', 'dog'), (6, 6, 8, 3))
    """
    root = Path(path)
    layout = _layout(root)
    classes = sorted(layout["train"])
    if all(name.isdecimal() for name in classes):
        classes.sort(key=int)
    if len(classes) < 2:
        raise bad(
            root,
            f"it has {len(classes)} classes ({', '.join(classes)}), expected two at least: a "
            "folder of pictures for each",
            "Name the folder that holds the classes' folders.",
        )
    for split, folders in layout.items():
        for name in sorted(set(folders) - set(classes)):
            raise bad(
                root / split,
                f"it has the class {name!r}, which training has not",
                f"Expected {', '.join(classes)}.",
            )
    pictures, names = {}, {}
    for split, folders in layout.items():
        rows = [(file, name) for name in classes for file in folders.get(name, ())]
        pictures[split] = [in_file(file) for file, _ in rows]
        names[split] = [name for _, name in rows]
    return from_pictures(
        pictures,
        names,
        classes=classes,
        size=size,
        mode=mode,
        val=val,
        test=test,
        seed=seed,
        name=root.resolve().name,
    )


def from_pictures(
    pictures: Mapping[str, Sequence[Picture]],
    labels: Mapping[str, Any],
    *,
    size: Any = None,
    mode: str | None = None,
    **options: Any,
) -> Dataset:
    """Makes a data set of the pictures and the labels of each split; options are `assemble`'s."""
    every = [picture for split in pictures.values() for picture in split]
    images, size, mode = read_pictures(every, size, mode)
    ends = np.cumsum([len(split) for split in pictures.values()])[:-1]
    splits = zip(pictures, np.split(images, ends), strict=True)
    return assemble(
        {split: (rows, labels[split]) for split, rows in splits},
        **options,
        reading={"kind": "images", "size": list(size), "mode": mode, "resize": RESIZE},
    )


def _layout(root: Path) -> dict[str, dict[str, list[Path]]]:
    """The pictures of each class of each split."""
    folders = {folder.name: folder for folder in _visible(root) if folder.is_dir()}
    splits = {name: SPLITS[name.lower()] for name in folders if name.lower() in SPLITS}
    train = [folders[name] for name, split in splits.items() if split == "train"]
    if not any(entry.is_dir() for folder in train for entry in _visible(folder)):
        if train and len(splits) == len(folders):
            raise bad(
                train[0],
                "it has no folders, one for each class",
                f"Move its pictures to {train[0] / 'CLASS'}, and so on.",
            )
        return {"train": _classes(root)}  # be there one of trains, beside that of cars
    if len(set(splits.values())) < len(splits):
        raise bad(root, f"it has {', '.join(splits)}, expected one of each split", "Join them.")
    for name, folder in folders.items():
        if name not in splits and next(walk(folder), None):
            raise bad(
                root,
                f"it has train and {name}, which is no split",
                f"Expected {', '.join(SPLITS)}; move other folders away.",
            )
    return {split: _classes(folders[name]) for name, split in splits.items()}


def _classes(root: Path) -> dict[str, list[Path]]:
    """The pictures of each class below a folder."""
    classes = {}
    for entry in _visible(root):
        if entry.is_dir():
            classes[entry.name] = list(walk(entry))
            if not classes[entry.name]:
                raise bad(
                    entry,
                    f"the folder has no picture ({_KINDS})",
                    "Put the class's pictures there, or remove the folder.",
                )
        elif entry.suffix.lower() in SUFFIXES:
            raise bad(
                entry,
                "the picture is in no class's folder",
                f"Move it to {root / 'CLASS' / entry.name}.",
            )
    return classes


def walk(folder: Path) -> Iterator[Path]:
    """The pictures below a folder, in the order of their names."""
    for entry in _visible(folder):
        if entry.is_dir():
            yield from walk(entry)
        elif entry.suffix.lower() in SUFFIXES:
            yield entry


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
