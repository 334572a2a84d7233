"""Data sets from arrays of one's own, in memory or in NumPy's files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from funcnet.data import _encoding
from funcnet.data._dataset import Dataset, LabelError, Split, Task
from funcnet.data._formats import bad

SPLITS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""What splits are called in files and folders."""
_ACCEPTED = (
    "x_train and y_train, or train_images and train_labels (with val or valid and test for train, "
    "too, where there are such splits), or images and labels, or x and y"
)


def from_arrays(
    images: Any,
    labels: Any,
    *,
    classes: Sequence[Any] | None = None,
    task: Task | None = None,
    val: float | tuple[Any, Any] = 0.1,
    test: float | tuple[Any, Any] = 0.1,
    seed: int = 0,
    name: str = "",
    full_scale: float | None = None,
) -> Dataset:
    """Returns a data set of arrays of any kind, cut into three splits.

    Of the labels follows what is to be told of an example, unless `task` says it:

    | labels | task |
    |---|---|
    | strings, booleans | classification |
    | whole numbers, of at most 20 distinct values; integers with 10 rows each on average | same |
    | floats that are not all whole | regression |
    | (n, k) of 0 and 1 | multilabel |

    What else may be two things, as whole numbers of many values or one-hot rows, is asked for by
    an error. Classes become 0 to K - 1 in the order of their values, strings in alphabetical
    order.

    The splits are drawn at random, and of a classification stratified: each has its share of
    each class, and training at least one row. The same rows and seed give the same splits.

    Args:
        images: (n, h, w, c), channels last, or (n, features), or what else a net takes; (n, h, w)
            of uint8 or uint16 are grey pictures, which get a channel.
        labels: (n,), (n, 1) or (n, k).
        classes: the classes in their order: their values, or if labels are numbers and no class
            is one, the names of the indices 0 to K - 1. Of other tasks the names of the k columns.
        task: as above.
        val: how many rows are for validation: an int, or a fraction of all, below 1; 0 for none.
            Or the split itself, a pair (images, labels).
        test: how many are for the test, likewise.
        seed: of the random splits.
        name: the data set's name.
        full_scale: the largest value that an image can hold: by default 255 of uint8, 65535 of
            uint16, of other dtypes the largest that is there, or 1 if none is above 0.

    Returns:
        The three splits, with images in their own dtype, and labels as `Dataset` says: int32
        classes, float64 targets, int32 zeros and ones.

    Raises:
        LabelError: a label is none of `classes`, is missing or not finite, or the task is not
            plain; the message names the label.
        ValueError: images and labels differ in number, or the splits take more rows than are
            there.

    >>> images = np.zeros((20, 8, 8), np.uint8)
    >>> dataset = from_arrays(images, ["cat", "dog"] * 10)
    >>> dataset.classes, dataset.input_shape, len(dataset.train.labels), dataset.val.labels
    (('cat', 'dog'), (8, 8, 1), 16, array([0, 1], dtype=int32))
    >>> from_arrays(images, ["cat", "dog"] * 10, classes=["cat", "cow"])
    Traceback (most recent call last):
    ...
    funcnet.data.LabelError: labels[1] is 'dog', expected one of the 2 classes cat, cow.
    """
    given = {"val": val, "test": test}
    splits = {name: split for name, split in given.items() if isinstance(split, tuple)}
    sizes: Any = {name: 0 if name in splits else size for name, size in given.items()}
    return assemble(
        {"train": (images, labels)} | splits,
        classes=classes,
        task=task,
        **sizes,
        seed=seed,
        name=name,
        full_scale=full_scale,
    )


def assemble(
    splits: Mapping[str, tuple[Any, Any]],
    *,
    classes: Sequence[Any] | None = None,
    task: Task | None = None,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    name: str = "",
    full_scale: float | None = None,
    reading: Mapping[str, Any] | None = None,
    what: str = "labels",
) -> Dataset:
    """Makes a data set of the splits that are there; the others are cut from training.

    Errors call the labels `what`.
    """
    parts: dict[str, Split] = {}
    for split in ("train", *(s for s in splits if s != "train")):
        called = what if len(splits) == 1 else f"{split} {what}"
        images = as_images(splits[split][0])
        labels, classes, task = _encoding.encode(splits[split][1], classes, task, called)
        if len(images) != len(labels) or not len(labels):
            raise LabelError(
                f"{called}: {len(labels)} for {len(images)} images, expected one for each, and one "
                "at least."
            )
        parts[split] = Split(images, labels)
    shapes = {part.images.shape[1:] for part in parts.values()}
    if len(shapes) > 1:
        raise ValueError(f"data: the splits' images have shapes {shapes}, expected one.")
    train = parts["train"]
    strata = np.zeros(len(train.labels), np.int32)
    if task == "classification" and train.labels.ndim == 1:
        strata = train.labels
    val, test = (0 if split in parts else size for split, size in (("val", val), ("test", test)))
    drawn = zip(("train", "val", "test"), _encoding.divide(strata, val, test, seed), strict=True)
    for split, rows in drawn:
        if split not in parts or (split == "train" and len(rows) < len(train.labels)):
            parts[split] = Split(train.images[rows], train.labels[rows])
    if full_scale is None:
        full_scale = max(_full_scale(part.images) for part in parts.values() if part.images.size)
    return Dataset(
        parts["train"],
        parts["val"],
        parts["test"],
        classes=tuple(classes or ()),
        name=name,
        full_scale=float(full_scale),
        task=task or "classification",
        reading=reading,
    )


def as_images(images: Any) -> np.ndarray:
    """Images as an array of numbers, grey pictures with a channel."""
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise ValueError(
            f"images: {error}; expected one array, (n, ...): images of equal shapes."
        ) from None
    if array.ndim < 2 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"images has shape {array.shape} and dtype {array.dtype}, expected (n, h, w, c) or "
            "(n, features) of numbers."
        )
    return array[..., None] if array.ndim == 3 and array.dtype in (np.uint8, np.uint16) else array


def _full_scale(images: np.ndarray) -> float:
    if images.dtype in (np.uint8, np.uint16):
        return float(np.iinfo(images.dtype).max)
    largest = float(np.nanmax(images)) if not np.isnan(images).all() else 1.0
    return largest if 0 < largest < np.inf else 1.0


def from_npz(
    path: str | os.PathLike[str],
    *,
    classes: Sequence[Any] | None = None,
    task: Task | None = None,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    full_scale: float | None = None,
) -> Dataset:
    """Returns a data set of the arrays in a .npz file, as NumPy, Keras and MedMNIST write it.

    Accepted are arrays x_train, y_train, x_test, y_test (Keras), train_images, train_labels,
    val_images, ... (MedMNIST), images and labels, x and y; in any case of letters. A validation
    or test split that is not there is cut from training. Nothing is unpickled.

    Args:
        path: the file.
        classes: as `from_arrays`, and so the others.
        task: as there.
        val: of the rows for training, where the file has no such split.
        test: likewise.
        seed: of the splits.
        full_scale: the largest value that an image can hold.

    Returns:
        The data set, with the shape and the dtype of an example in `reading`.

    Raises:
        DataFormatError: the file is no .npz, holds objects, or arrays of other names.
        LabelError: as `from_arrays`, and for a label of val or test that training has not.
        ValueError: as `from_arrays`.

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "mine.npz")
    >>> np.savez(path, x=np.zeros((20, 5)), y=[0, 1] * 10)
    >>> dataset = from_npz(path)
    >>> dataset.input_shape, dict(dataset.reading)
    ((5,), {'kind': 'arrays', 'shape': [5], 'dtype': 'float64'})
    """
    arrays = load_arrays(path)
    there = {name.lower(): name for name in arrays}
    splits: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    used: set[str] = set()
    pairs = [("images", "labels", "train"), ("x", "y", "train")]
    for word, split in SPLITS.items():
        pairs += [(f"x_{word}", f"y_{word}", split), (f"{word}_images", f"{word}_labels", split)]
    for x, y, split in pairs:
        if x in there and y in there and split not in splits:
            splits[split] = arrays[there[x]], arrays[there[y]]
            used |= {there[x], there[y]}
    if "train" not in splits or len(used) != len(arrays):
        raise bad(
            path,
            f"it has the arrays {', '.join(arrays) or '(none)'}, expected {_ACCEPTED}",
            "Rename them, or pass them to from_arrays.",
        )
    example = as_images(splits["train"][0])
    return assemble(
        splits,
        classes=classes,
        task=task,
        val=val,
        test=test,
        seed=seed,
        name=Path(path).stem,
        full_scale=full_scale,
        reading={
            "kind": "arrays",
            "shape": list(example.shape[1:]),
            "dtype": str(example.dtype),
        },
    )


def load_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name, or the one of a .npy file as "x"; nothing is unpickled."""
    with open(path, "rb") as stream:
        try:
            loaded = np.load(stream, allow_pickle=False)
            return {"x": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
        except Exception as error:  # NumPy, zipfile and zlib have many
            raise bad(
                path,
                f"no arrays can be read from it ({error})",
                "Write it anew with np.savez, as arrays of numbers or strings: Python objects are "
                "not unpickled.",
            ) from error


def read_arrays(reading: Mapping[str, Any], path: Path) -> np.ndarray:
    """New examples from a .npy or .npz file, checked to be like those of the data set."""
    arrays = load_arrays(path)
    images = [name for name in arrays if name.lower() in ("x", "images", "x_test", "test_images")]
    chosen = list(arrays) if len(arrays) == 1 else images
    if len(chosen) != 1:
        raise bad(
            path,
            f"it has the arrays {', '.join(arrays) or '(none)'}, expected a single one, or one "
            "called x, images, x_test or test_images",
            "Write the examples alone.",
        )
    array, shape = arrays[chosen[0]], tuple(reading["shape"])
    if array.shape == shape:
        array = array[None]
    elif (*array.shape[1:], 1) == shape:
        array = array[..., None]
    kind = np.dtype(reading["dtype"])
    if array.shape[1:] != shape or array.dtype.kind not in _like(kind):
        raise bad(
            path,
            f"{chosen[0]} has shape {array.shape} and dtype {array.dtype}, expected "
            f"{('n', *shape)} of {kind}, as the data set",
            "Bring the examples into the form of the data set's.",
        )
    return array


def _like(dtype: np.dtype) -> str:
    return "iu" if dtype.kind in "iu" else dtype.kind
