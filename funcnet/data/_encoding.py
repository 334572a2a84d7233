"""Labels of any kind as what a net learns from, and rows cut into splits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from funcnet import _validate
from funcnet._moments import first
from funcnet.data._dataset import LabelError, Task

_TASKS = ("classification", "regression", "multilabel")
_FEW_CLASSES = 20  # so many whole numbers are classes, however few their rows
_ROWS_OF_A_CLASS = 10  # more are, if they are integers with so many rows each on average
_SHOWN = 10
_WHOLE = re.compile(r"[+-]?\d+")


def plain(labels: Any, name: str = "labels") -> np.ndarray:
    """Labels as an array of booleans, integers, finite floats or strings; (n, 1) becomes (n,)."""
    try:
        # As objects first: of ["cat", nan] NumPy would make the string "nan".
        array = np.asarray(labels) if hasattr(labels, "dtype") else np.asarray(labels, object)
        if array.dtype.kind in "OT":
            array = _one_kind(array.astype(object), name)
        elif array.dtype.kind == "S":
            array = np.char.decode(array, "utf-8")
    except LabelError:
        raise
    except Exception as error:  # whatever a stranger's conversion raises
        raise LabelError(f"{name}: {error}; expected an array with a row for each image.") from None
    if array.ndim == 0 or array.dtype.kind not in "biufU":
        raise LabelError(
            f"{name} has shape {array.shape} and dtype {array.dtype}, expected (n, ...) of "
            "strings, booleans or numbers."
        )
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        index = first(~np.isfinite(array))
        raise LabelError(
            f"{name}[{_at(index)}] is {array[index]}, expected a label; drop the rows without one."
        )
    return array


def _one_kind(array: np.ndarray, name: str) -> np.ndarray:
    """Python objects as strings, booleans or numbers, if all are alike."""
    values = array.ravel().tolist()
    kinds: tuple[tuple[type, ...], ...] = (
        (str,),
        (bool, np.bool_),
        (int, float, np.number, np.bool_),
    )
    for kind in kinds:
        if values and all(isinstance(value, kind) for value in values):
            return np.array(values).reshape(array.shape)
    kind = next((kind for kind in kinds if values and isinstance(values[0], kind)), ())
    wrong = next((i for i, value in enumerate(values) if not isinstance(value, kind)), None)
    if wrong is None:
        raise LabelError(f"{name} is empty, expected a label for each image.")
    index = np.unravel_index(wrong, array.shape)
    raise LabelError(
        f"{name}[{_at(index)}] is {values[wrong]!r}, expected strings, booleans or numbers, all of "
        "one kind; drop the rows without a label."
    )


def infer_task(labels: np.ndarray, name: str = "labels") -> Task:
    """What is to be told of an example, by the rules of `from_arrays`."""
    kind = labels.dtype.kind
    whole = kind != "f" or bool((labels == np.trunc(labels)).all())
    ask = "pass task='classification', 'regression' or 'multilabel'"
    if kind == "U":
        return "classification"
    if not whole:
        return "regression"
    if labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all():
            raise LabelError(
                f"{name} has shape {labels.shape} of whole numbers, which may be classes or "
                f"targets: {ask}."
            )
        if (labels.sum(1) == 1).all():
            raise LabelError(
                f"{name} has shape {labels.shape} and one 1 in each row: one-hot rows become "
                "classes with argmax(1), labels of which each example may have several "
                "are task='multilabel'."
            )
        return "multilabel"
    distinct = len(np.unique(labels))
    most = max(_FEW_CLASSES, labels.size // _ROWS_OF_A_CLASS if kind != "f" else 0)
    if distinct > most:
        raise LabelError(
            f"{name} has {distinct} distinct whole numbers in {len(labels)} rows, which may be "
            f"classes or a quantity: {ask}."
        )
    return "classification"


def encode(
    labels: Any,
    classes: Sequence[Any] | None = None,
    task: Task | None = None,
    name: str = "labels",
) -> tuple[np.ndarray, tuple[str, ...], Task]:
    """Returns labels as `Dataset` has them, the classes' names and the task.

    >>> encode(["dog", "cat", "dog"])
    (array([1, 0, 1], dtype=int32), ('cat', 'dog'), 'classification')
    >>> encode([3.0, 10.0, 3.0])
    (array([0, 1, 0], dtype=int32), ('3', '10'), 'classification')
    >>> encode([0.5, 2.0])
    (array([0.5, 2. ]), ('target',), 'regression')
    """
    array = plain(labels, name)
    if task is None:
        task = infer_task(array, name)
    if task not in _TASKS:
        raise ValueError(f"task is {task!r}, expected one of {', '.join(_TASKS)}.")
    if task == "classification":
        return *_as_classes(array, classes, name), task
    ranks = (1, 2) if task == "regression" else (2,)
    if array.ndim not in ranks or array.dtype.kind == "U":
        what = "(n,) or (n, k) numbers" if task == "regression" else "(n, k) of 0 and 1"
        raise LabelError(
            f"{name} has shape {array.shape} and dtype {array.dtype}, expected {what} for "
            f"task={task!r}."
        )
    if task == "multilabel":
        wrong = ~np.isin(array, (0, 1))
        if wrong.any():
            index = first(wrong)
            raise LabelError(f"{name}[{_at(index)}] is {array[index]}, expected 0 or 1.")
    targets = 1 if array.ndim == 1 else array.shape[1]
    word = "target" if task == "regression" else "label"
    names = (word,) if array.ndim == 1 else tuple(f"{word}{i}" for i in range(targets))
    if classes is not None:
        names = _names(classes)
        if len(names) != targets:
            raise ValueError(
                f"classes has {len(names)} names, expected {targets}: one for each column of {name}"
            )
    return array.astype(np.float64 if task == "regression" else np.int32), names, task


def _as_classes(
    labels: np.ndarray, classes: Sequence[Any] | None, name: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as indices of classes, and the classes' names."""
    if labels.dtype.kind == "f":
        wrong = labels != np.trunc(labels)
        if wrong.any():
            index = first(wrong)
            raise LabelError(
                f"{name}[{_at(index)}] is {labels[index]}, expected a class: a string or a whole "
                "number. Quantities are task='regression'."
            )
    values, inverse = np.unique(labels, return_inverse=True)
    inverse = inverse.reshape(labels.shape)
    found = _names(values.tolist())
    if classes is None:
        if len(found) < 2:
            raise LabelError(
                f"{name} has {len(found)} distinct values, expected at least two classes, to be "
                "told from each other."
            )
        return inverse.astype(np.int32), found
    names = _names(classes)
    if len(set(names)) != len(names):
        raise ValueError(f"classes are {', '.join(names)}, expected each once.")
    if labels.dtype.kind in "iuf" and not any(map(_WHOLE.fullmatch, names)):
        table = [int(value) if 0 <= value < len(names) else -1 for value in values.tolist()]
    else:
        index_of = {one: i for i, one in enumerate(names)}
        table = [index_of.get(one, -1) for one in found]
    encoded = np.array(table, np.int32)[inverse]
    outside = encoded < 0
    if outside.any():
        index = first(outside)
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        raise LabelError(
            f"{name}[{_at(index)}] is {labels[index].item()!r}, expected one of the "
            f"{len(names)} classes {shown}."
        )
    return encoded, names


def _names(values: Sequence[Any]) -> tuple[str, ...]:
    """What classes are called: 3.0 is "3"."""
    if isinstance(values, str):
        raise TypeError(f"classes is {values!r}, expected a sequence of names.")
    plain = (value.item() if isinstance(value, np.generic) else value for value in values)
    whole = (int(v) if isinstance(v, float) and v.is_integer() else v for v in plain)
    return tuple(map(str, whole))


def _at(index: Sequence[Any]) -> str:
    return ", ".join(str(int(i)) for i in index)


def divide(
    strata: np.ndarray, val: float, test: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the rows of the training, the validation and the test split, in a random order.

    Each split has its share of each stratum, up to a row. One row of each, chosen first, is for
    training, so that no class is unknown there.

    Args:
        strata: (n,) integers: the classes, or zeros.
        val: how many rows, as an int or as a fraction of all.
        test: likewise.
        seed: of the order.

    >>> train, val, test = divide(np.array([0, 0, 0, 0, 1, 1, 1, 1]), 2, 0.25, seed=0)
    >>> train, val, test
    (array([6, 2, 1, 7]), array([0, 4]), array([3, 5]))
    """
    rows = len(strata)
    seed = _validate.seed("data", "seed", seed)
    counts = [_count(rows, name, size) for name, size in (("test", test), ("val", val))]
    everything = np.arange(rows)
    if not any(counts):
        return everything, everything[:0], everything[:0]
    # RandomState and not default_rng: NumPy froze its stream, so that the split stays what it is.
    order = np.random.RandomState(seed).permutation(rows)
    rest = order[np.argsort(strata[order], kind="stable")]
    rest = np.delete(rest, np.unique(strata[rest], return_index=True)[1])
    if sum(counts) > len(rest):
        raise ValueError(
            f"data: val={val} and test={test} are {sum(counts)} of {rows} rows, expected at most "
            f"{len(rest)}: training keeps one row of each class. Pass less, or more data."
        )
    part = np.zeros(rows, np.int8)
    for number, count in enumerate(counts, 1):
        # Evenly spaced among the rows sorted by stratum: each stratum gets its share.
        chosen = (2 * np.arange(count) + 1) * len(rest) // max(2 * count, 1)
        part[rest[chosen]] = number
        rest = np.delete(rest, chosen)
    train, held_out, chosen_on = (order[part[order] == number] for number in range(3))
    return train, chosen_on, held_out


def _count(rows: int, name: str, size: Any) -> int:
    """A number of rows, from a count or a fraction."""
    if isinstance(size, (float, np.floating)):
        size = _validate.number("data", name, float(size), low=0, high=1)
        return round(size * rows)
    return _validate.count("data", name, size, low=0)
