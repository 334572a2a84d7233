"""A data set: three splits of images and labels, and what labels must be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from funcnet import _notebook
from funcnet._moments import blocks, first
from funcnet.data._preprocessing import Preprocessing, for_device
from funcnet.data._streamed import Streamed, opened

Task = Literal["classification", "regression", "multilabel"]
"""What is to be told of an example: its class, numbers, or which of several labels it has."""


class LabelError(ValueError):
    """Labels that are none of their task: the message names the first and what was expected."""


class Split(NamedTuple):
    """Examples and their labels.

    Attributes:
        images: (n, h, w, c) uint8, channels last; of tables (n, features), or whatever else a net
            takes. An array, or a source of rows that need not fit into memory: see `Streamed`.
        labels: (n,) int32, the index of each example's class; for other tasks as `Dataset` says.
            Labels of several axes may be a source, too.
    """

    images: Any
    labels: Any

    def __repr__(self) -> str:
        return f"Split({', '.join(f'{name} {array}' for name, array in _arrays(self))})"

    def _repr_html_(self) -> str:
        return _notebook.table("Split", _arrays(self))


def _arrays(split: Split) -> list[tuple[str, str]]:
    return [(name, _notebook.array(value)) for name, value in split._asdict().items()]


class Dataset(NamedTuple):
    """Three splits of one data set.

    | task | labels | classes |
    |---|---|---|
    | classification | (n,) integers, or (n, ...), one for each position | label i is classes[i] |
    | regression | (n,) or (n, k) floats | the names of the k targets |
    | multilabel | (n, k) of 0 and 1 | the names of the k labels |

    Attributes:
        train: what the parameters, and the statistics of the preprocessing, are fitted on.
        val: what hyper-parameters and the best epoch are chosen on.
        test: what is measured once.
        classes: the classes' names, for other tasks as above.
        name: the data set's name.
        full_scale: the largest value that an image can hold: 255, or 16 for the digits.
        task: what is to be told of an example.
        reading: how the examples were read from files, as JSON, so that new ones are read alike;
            None where they came as arrays.
    """

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    name: str = ""
    full_scale: float = 255.0
    task: Task = "classification"
    reading: Mapping[str, Any] | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example, without the batch."""
        return self.train.images.shape[1:]

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    def __repr__(self) -> str:
        said = ", ".join(f"{name} {value}" for name, value in _facts(self))
        return f"Dataset({_notebook.short(str(self.name), 100)!r}: {said})"

    def _repr_html_(self) -> str:
        return _notebook.table(f"Dataset {self.name}".rstrip(), _facts(self))


def _facts(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """What a person wants to know of a data set."""
    yield "task", _notebook.short(str(dataset.task), 40)
    for name in ("train", "val", "test"):
        split = getattr(dataset, name)
        if isinstance(split, Split):
            images, labels = (_notebook.array(value) for value in split)
            yield name, f"{images} with labels {labels}"
        else:
            yield name, "none" if split is None else _notebook.array(split)
    what = {"regression": "targets", "multilabel": "labels"}.get(dataset.task, "classes")
    classes = dataset.classes
    if hasattr(classes, "__len__"):
        names = " ".join(_notebook.short(str(name), 40) for name in classes[:10])
        more = " ..." * (len(classes) > 10)
        yield what, f"{len(classes)}: {_notebook.short(names, 200)}{more}"
    else:
        yield what, _notebook.short(str(classes), 40)


def check_labels(
    labels: Any,
    classes: int | None,
    name: str = "labels",
    ignore_index: int | None = None,
    task: Task = "classification",
) -> Shaped[np.ndarray, " n *positions"]:
    """Returns labels as a net's output is compared with them, if they are what the task has.

    On the device a label out of range would be clamped or wrapped in silence, so that this is
    asked on the host, before training.

    | task | labels | returns |
    |---|---|---|
    | classification | integers, each the index of a class, 0 to classes - 1 | the same, int32 |
    | regression | (n,) or (n, k) finite numbers | (n, k) floats, k 1 of (n,) |
    | multilabel | (n, k) of 0 and 1 | the same, float32 |

    Indices of classes are (n,), or (n, ...) with one for each position of an example; (n, 1) is
    refused, which as a rule is (n,) written as a column.

    Args:
        labels: as above, of any dtype that has such values.
        classes: the number of classes; for other tasks k, or None for whatever there is.
        name: what the error calls them.
        ignore_index: a label that may be there too, be it a class or not.
        task: what is to be told of an example.

    Returns:
        The labels, as above.

    Raises:
        LabelError: a label is negative, too large, no integer or not finite, or there is another
            number of axes.

    >>> check_labels([2, 0, 1], classes=3)
    array([2, 0, 1], dtype=int32)
    >>> check_labels([2, 0, 3], classes=3)
    Traceback (most recent call last):
    ...
    funcnet.data.LabelError: labels[2] is 3, expected a class, 0 to 2.
    >>> check_labels([2, 0], classes=1, task="regression")
    array([[2.],
           [0.]])
    """
    what = "integer" if task == "classification" else "number"
    if isinstance(labels, Streamed):
        return _streamed(labels, classes, name, ignore_index, task)
    try:
        array = np.asarray(labels)
    except Exception as error:  # whatever a stranger's conversion raises
        raise LabelError(f"{name}: {error}; expected one {what} for each row.") from None
    if task != "classification":
        return _numbers(array, classes, name, task)
    assert classes is not None
    return _indices(array, classes, name, ignore_index)


def _streamed(labels: Streamed, *options: Any) -> Any:
    """Labels that are looked at block by block, and made again of each block that is read."""
    classes, name, ignore_index, task = options

    def checked(rows: np.ndarray, start: int = 0) -> np.ndarray:
        try:
            return check_labels(rows, classes, name, ignore_index, task)
        except LabelError as error:
            said = re.sub(r"\[(\d+)", lambda m: f"[{int(m[1]) + start}", str(error), count=1)
            raise LabelError(said) from None

    found = [checked(labels[block], block.start)[:1] for block in blocks(labels)]
    return labels.map(checked, found[0].dtype, found[0].shape[1:])


def _indices(array: np.ndarray, classes: int, name: str, ignore_index: int | None) -> np.ndarray:
    """The indices of classes, int32."""
    if array.ndim < 1 or array.shape[1:] == (1,):
        raise LabelError(
            f"{name} has shape {array.shape}, expected (n,): the index of each row's class. "
            f"A column becomes that with {name}.ravel(), one-hot rows with {name}.argmax(-1)."
        )
    if array.size == 0:
        return array.astype(np.int32)
    if not np.issubdtype(array.dtype, np.integer):
        wrong = np.zeros(array.shape, bool)
        mend = f"Whole numbers become indices with {name}.astype(np.int32)"
        if jnp.issubdtype(array.dtype, np.floating):
            wrong = ~(np.isfinite(array) & (array == np.trunc(array)))
            mend += '; where the labels are numbers to be told, set task="regression"'
        if array.dtype.kind in "USO":
            mend = f"Names become indices with np.unique({name}, return_inverse=True)[1]"
        where, value = _first(array, wrong)
        raise LabelError(
            f"{name}{where} is {value!s} of dtype {array.dtype}, expected an integer: "
            f"the index of a class. {mend}."
        )
    asked = array if ignore_index is None else np.where(array == ignore_index, 0, array)
    outside = (asked < 0) | (asked >= classes)
    if outside.any():
        where, value = _first(array, outside)
        raise LabelError(f"{name}{where} is {value}, expected a class, 0 to {classes - 1}.")
    return array.astype(np.int32)


def _numbers(array: np.ndarray, k: int | None, name: str, task: Task) -> np.ndarray:
    """The labels of a task whose labels are no classes, as floats (n, k)."""
    kinds = jnp.bool_, jnp.integer, jnp.floating
    if not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
        raise LabelError(f"{name} has dtype {array.dtype}, expected numbers for the task {task}.")
    shape, given = array.shape, array
    if array.ndim == 1 and task == "regression":
        array = array[:, None]
    if array.ndim != 2 or k not in (None, array.shape[1]):
        several = "k" if k is None else k
        or_row = "(n,) or " if task == "regression" and k in (None, 1) else ""
        raise LabelError(
            f"{name} has shape {shape}, expected {or_row}(n, {several}) for the task {task}."
        )
    if task == "multilabel":
        wrong, expected = (array != 0) & (array != 1), "0 or 1: whether the example has the label"
        array = array.astype(np.float32)
    else:
        wide = array.dtype.kind == "f" and array.dtype.itemsize in (4, 8)
        array = array if wide else array.astype(np.float64)
        wrong, expected = ~np.isfinite(array), "a finite number"
    if wrong.any():
        where, value = _first(given, wrong.reshape(shape))
        raise LabelError(f"{name}{where} is {value}, expected {expected}.")
    return array


def _first(array: np.ndarray, wrong: np.ndarray) -> tuple[list[int], Any]:
    """The index of the first entry that is wrong, or of the first at all, and the entry."""
    index = first(wrong, slice(0, None))
    return list(index), array[index]


def on_device(
    split: Split, preprocessing: Preprocessing, *, raw: bool = False
) -> tuple[Any, Preprocessing]:
    """Returns a copy of a split on the device, and what `preprocess` is left to do to it there.

    What is `Streamed` stays in storage, its rows made as the device is to have them when they are
    read. Images that float32 could not tell apart are preprocessed before, or with `raw` refused:
    see `for_device`.

    >>> from funcnet.data import fit_preprocessing
    >>> split = Split(np.array([[1e8], [1e8 + 2]]), np.array([0, 1]))
    >>> held, left = on_device(split, fit_preprocessing(split.images))
    >>> held.images.ravel(), left.mean
    (Array([-1.,  1.], dtype=float64), array([0.]))
    """
    images, left = for_device(preprocessing, opened(split.images), raw=raw)
    if isinstance(images, Streamed) or isinstance(split.labels, Streamed):
        return Split(images, split.labels), left
    # Copies, because on a CPU JAX may read the caller's own arrays as long as they live.
    if not isinstance(images, jax.Array):
        images = np.array(images)
    labels = np.array(split.labels)
    if labels.dtype.kind != "f":  # classes; numbers stay as wide as they are
        labels = labels.astype(np.int32)
    held: Any = jax.device_put((images, labels), may_alias=False)
    return Split(*held), left
