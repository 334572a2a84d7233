"""A data set in memory: three splits of images and labels, and what labels must be."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int32

from funcnet.data import _formats
from funcnet.data._preprocessing import Preprocessing, for_device


class LabelError(ValueError):
    """Labels that are no classes: the message names the first and says what was expected."""


class Split(NamedTuple):
    """Examples and their labels.

    Attributes:
        images: (n, h, w, c) uint8, channels last; toy data may have any shape (n, ...) of floats.
        labels: (n,) int32, the index of each example's class.
    """

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """Three splits of one data set.

    Attributes:
        train: what the parameters, and the statistics of the preprocessing, are fitted on.
        val: what hyper-parameters and the best epoch are chosen on.
        test: what is measured once.
        classes: the classes' names; label i means classes[i].
        name: the data set's name.
        full_scale: the largest value that an image can hold: 255, or 16 for the digits.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    name: str = ""
    full_scale: float = 255.0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example, without the batch."""
        return self.train.images.shape[1:]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)


def check_labels(
    labels: Any, classes: int, name: str = "labels", ignore_index: int | None = None
) -> Int32[np.ndarray, " n"]:
    """Returns labels as int32 if each is the index of a class, 0 to classes - 1.

    On the device a label out of range would be clamped or wrapped in silence, so that this is
    asked on the host, before training.

    Args:
        labels: (n,) of any integer dtype.
        classes: the number of classes.
        name: what the error calls them.
        ignore_index: a label that may be there too, be it a class or not.

    Returns:
        The labels, (n,) int32.

    Raises:
        LabelError: a label is negative, too large, no integer or not finite, or there is another
            number of axes than one.

    >>> check_labels([2, 0, 1], classes=3)
    array([2, 0, 1], dtype=int32)
    >>> check_labels([2, 0, 3], classes=3)
    Traceback (most recent call last):
    ...
    funcnet.data.LabelError: labels[2] is 3, expected a class, 0 to 2.
    """
    try:
        array = np.asarray(labels)
    except Exception as error:  # whatever a stranger's conversion raises
        raise LabelError(f"{name}: {error}; expected one integer for each row.") from None
    if array.ndim != 1:
        raise LabelError(
            f"{name} has shape {array.shape}, expected (n,): the index of each row's class. "
            f"One-hot rows become indices with {name}.argmax(-1)."
        )
    if array.size == 0:
        return array.astype(np.int32)
    if not np.issubdtype(array.dtype, np.integer):
        index = 0
        if np.issubdtype(array.dtype, np.floating):
            whole = np.isfinite(array) & (array == np.trunc(array))
            index = 0 if whole.all() else int((~whole).argmax())
        mend = f"Whole numbers become indices with {name}.astype(np.int32)"
        if array.dtype.kind in "USO":
            mend = f"Names become indices with np.unique({name}, return_inverse=True)[1]"
        raise LabelError(
            f"{name}[{index}] is {array[index]!s} of dtype {array.dtype}, expected an integer: "
            f"the index of a class. {mend}."
        )
    asked = array if ignore_index is None else np.where(array == ignore_index, 0, array)
    outside = _formats.first_outside(asked, classes)
    if outside is not None:
        raise LabelError(
            f"{name}[{outside}] is {array[outside]}, expected a class, 0 to {classes - 1}."
        )
    return array.astype(np.int32)


def on_device(
    split: Split, preprocessing: Preprocessing, *, raw: bool = False
) -> tuple[Any, Preprocessing]:
    """Returns a copy of a split on the device, and what `preprocess` is left to do to it there.

    Images that float32 could not tell apart are preprocessed before, or with `raw` refused: see
    `for_device`.

    >>> from funcnet.data import fit_preprocessing
    >>> split = Split(np.array([[1e8], [1e8 + 2]]), np.array([0, 1]))
    >>> held, left = on_device(split, fit_preprocessing(split.images))
    >>> held.images.ravel(), left.mean
    (Array([-1.,  1.], dtype=float64), array([0.]))
    """
    images, left = for_device(preprocessing, split.images, raw=raw)
    # Copies, because on a CPU JAX may read the caller's own arrays as long as they live.
    if not isinstance(images, jax.Array):
        images = np.array(images)
    held: Any = jax.device_put((images, np.array(split.labels, np.int32)), may_alias=False)
    return Split(*held), left
