"""The arguments that `fit` and `sweep.run` have in common, checked once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from funcnet import _validate, data
from funcnet._validate import float_dtype
from funcnet.nets import Net
from funcnet.train._batches import (
    SAMPLINGS,
    Rows,
    Sampling,
    batch_maker,
    batch_order,
    steps_per_epoch,
)
from funcnet.train._records import Run
from funcnet.train._step import TrainState
from funcnet.train._tasks import Goal, task_of

EVALUATION_ROWS = 250  # at a time


class Setting(NamedTuple):
    """What a run has of its data and its batches, checked: the same for `fit` and for a sweep.

    `outputs` is the shape of what a net has to tell of an example; `batch_size` counts the rows of
    a step and `steps` the steps of an epoch, whatever the sampling.
    """

    dataset: data.Dataset
    outputs: tuple[int, ...]
    sampling: Sampling
    augment: Callable[[Array, Array], Array] | None
    epochs: int
    batch_size: int
    steps: int
    train_accuracy_rows: int | None
    evaluation_batch_size: int
    max_nonfinite: int
    chunk_steps: int | None

    @property
    def rows(self) -> int:
        """The number of rows to train on."""
        return len(self.dataset.train.labels)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.dataset.train.images.shape[1:])

    @property
    def val(self) -> data.Split | None:
        """The validation split, if it has a row."""
        return self.dataset.val if has_rows(self.dataset.val) else None

    def order(self, key: Array, epoch: Any) -> Array:
        """The rows of an epoch's batches."""
        return batch_order(key, epoch, self.rows, self.batch_size, self.sampling)

    @property
    def streams(self) -> bool:
        """Whether the rows to train on stay in storage, and come in windows of an epoch."""
        return any(isinstance(of, data.Streamed) for of in self.dataset.train)

    def batch_of(self, dtype: Any) -> Callable[..., tuple[Array, Array]]:
        """What makes a step's batch: see `batch_maker`."""
        rows: Rows = "whole" if self.sampling == "full" else "order"
        return batch_maker("windows" if self.streams else rows, self.augment, dtype)

    def in_memory(self) -> Setting:
        """The same with all of its data in memory, which are asked for again and again."""
        splits = (self.dataset.train, self.dataset.val)
        train, val = (data.Split(*map(_whole, split)) if split else split for split in splits)
        return self._replace(dataset=self.dataset._replace(train=train, val=val))

    def accuracy_rows(self, seed: int) -> np.ndarray:
        """The rows of the training split that a run of this seed takes its accuracy of."""
        return np.random.default_rng(seed).permutation(self.rows)[: self.train_accuracy_rows]

    def on_device(self, preprocessing: data.Preprocessing) -> tuple[Any, Any]:
        """Each split's copy on the device with what is left to do to it; the second perhaps None.

        Training comes first, then validation.
        """
        raw = self.augment is not None
        train = data.on_device(self.dataset.train, preprocessing, raw=raw)
        return train, None if self.val is None else data.on_device(self.val, preprocessing)


def checked(
    dataset: Any,
    sampling: Any,
    augment: Any,
    epochs: int,
    batch_size: int,
    train_accuracy_rows: int | None,
    evaluation_batch_size: int,
    max_nonfinite: int,
    chunk_steps: int | None = None,
    *,
    ignore_index: int | None = None,
) -> Setting:
    """The setting of these arguments; an error where `fit` cannot begin with them."""
    count = partial(_validate.count, "fit")
    epochs, batch_size = count("epochs", epochs, low=0), count("batch_size", batch_size)
    evaluation_batch_size = count("evaluation_batch_size", evaluation_batch_size)
    max_nonfinite = count("max_nonfinite", max_nonfinite)
    if train_accuracy_rows is not None:
        train_accuracy_rows = count("train_accuracy_rows", train_accuracy_rows)
    if chunk_steps is not None:
        chunk_steps = count("chunk_steps", chunk_steps)
    if sampling not in SAMPLINGS:
        raise ValueError(f"fit: sampling is {sampling!r}, expected one of {', '.join(SAMPLINGS)}.")
    dataset = _checked_data(dataset, ignore_index)
    labels = dataset.train.labels
    n = len(labels)
    if sampling == "full":
        batch_size = n
        dataset = dataset._replace(train=data.Split(*map(_whole, dataset.train)))
    elif batch_size > n:
        raise ValueError(
            f"fit: batch_size is {batch_size}, but dataset.train has {n} rows; use a batch_size of "
            f'at most {n}, or sampling="full".'
        )
    return Setting(
        dataset,
        (*labels.shape[1:], class_count(dataset)) if is_of_classes(dataset) else labels.shape[1:],
        sampling,
        augment,
        epochs,
        batch_size,
        steps_per_epoch(n, batch_size),
        train_accuracy_rows,
        evaluation_batch_size,
        max_nonfinite,
        chunk_steps,
    )


def _whole(rows: Any) -> Any:
    return np.asarray(rows) if isinstance(rows, data.Streamed) else rows


def as_dataset(dataset: Any) -> Any:
    """The data set of a pair of arrays, or of two such pairs; whatever else it is, as it is."""
    if type(dataset) is not tuple or len(dataset) != 2:
        return dataset
    pairs = {"dataset": dataset}
    if all(type(pair) is tuple and len(pair) == 2 for pair in dataset):
        pairs = {f"dataset[{i}]": pair for i, pair in enumerate(dataset)}
    splits = [tuple(as_split(data.Split(*pair), name)) for name, pair in pairs.items()]
    (x, y), *rest = splits
    val: Any = rest[0] if rest else 0.1
    try:
        return data.from_arrays(x, y, val=val, test=0, seed=0)
    except ValueError as error:
        mend = str(error).replace("pass task=", "make it by data.from_arrays(x, y, task=...) with ")
        raise type(error)(f"fit: {mend}") from None


def _checked_data(dataset: Any, ignore_index: int | None) -> data.Dataset:
    """The data set, its training and validation splits as arrays."""
    dataset = as_dataset(dataset)
    if not all(hasattr(dataset, name) for name in ("train", "val", "classes")):
        raise TypeError(
            f"fit: dataset is a {type(dataset).__name__}, expected a data.Dataset with its splits "
            "train and val, and its classes, or a pair of arrays (x, y)."
        )
    task = task_of(dataset)
    classes = class_count(dataset) or (0 if task == "classification" else None)
    split = check_split(dataset.train, classes, "dataset.train", ignore_index, task)
    val: Any = None
    if dataset.val is not None:
        val = labelled(dataset.val, classes, "dataset.val", ignore_index, task)
    if has_rows(val) and val.images.shape[1:] != split.images.shape[1:]:
        raise ValueError(
            f"fit: examples have shape {split.images.shape[1:]} in dataset.train but "
            f"{val.images.shape[1:]} in dataset.val."
        )
    if has_rows(val) and val.labels.shape[1:] != split.labels.shape[1:]:
        raise data.LabelError(
            f"fit: dataset.train.labels has shape {split.labels.shape} but dataset.val.labels "
            f"{val.labels.shape}, expected the same but for the rows. One-hot rows become indices "
            "with labels.argmax(-1)."
        )
    test: Any = getattr(dataset, "test", None)
    scale = getattr(dataset, "full_scale", 255.0)
    return data.Dataset(
        split,
        val,
        test,
        dataset.classes,
        full_scale=scale,
        task=task,
        reading=getattr(dataset, "reading", None),
    )


def fitted(
    preprocessing: str | data.Preprocessing | None, dataset: data.Dataset
) -> data.Preprocessing:
    """The preprocessing itself: what is a kind is fitted on the training split, None is "none"."""
    if isinstance(preprocessing, data.Preprocessing):
        return preprocessing
    kind: Any = "none" if preprocessing is None else preprocessing
    return data.fit_preprocessing(dataset.train.images, kind, dataset.full_scale)


def check_resumed(resume: Any, state: Any, steps: int, goal: Goal) -> None:
    """Raises TypeError or ValueError where a run is none, or has other epochs or metrics."""
    if not isinstance(resume, Run):
        raise TypeError(f"fit: resume is a {type(resume).__name__}, expected a train.Run.")
    if state is not None:
        raise ValueError("fit: both state and resume are given, expected one of them.")
    for row in resume.history[1:]:
        if row["step"] != row["epoch"] * steps:
            raise ValueError(
                f"fit: in the run to resume, epoch {row['epoch']} ended with step {row['step']}, "
                f"but these data and batches make {steps} steps an epoch; give it the data, "
                "batch_size and sampling that it began with."
            )
    lacking = [name for name in goal.metrics if f"val_{name}" not in resume.history[0]]
    if lacking:
        raise ValueError(
            f"fit: the history of the run to resume has no val_{lacking[0]}; give it the metrics "
            "and best that it began with."
        )


def input_dtype(preprocessing: data.Preprocessing | None, params: Any) -> Any:
    """The dtype of what a net of these parameters is given."""
    whole = preprocessing is not None and data.keeps_integers(preprocessing)
    return jnp.int32 if whole else float_dtype(params)


def check_output(
    net: Net, now: TrainState, setting: Setting, preprocessing: data.Preprocessing
) -> None:
    """Raises ValueError where the net's output is not what the labels are compared with."""
    dtype = input_dtype(preprocessing, now.params)
    x = jax.ShapeDtypeStruct((2, *setting.input_shape), dtype)
    output = jax.eval_shape(partial(net.apply, train=False), now.params, now.state, x)[0].shape
    require_output("fit", output, setting)


def require_output(function: str, output: tuple[int, ...], setting: Setting) -> None:
    """Raises ValueError where two examples did not become what their labels are compared with."""
    expected, dataset = (2, *setting.outputs), setting.dataset
    if output == expected:
        return
    labels = dataset.train.labels
    if is_of_classes(dataset) and labels.ndim > 1 and len(output) < len(expected):
        raise data.LabelError(
            f"dataset.train.labels has shape {labels.shape}, a class for each of {labels.shape[1]} "
            f"positions, but the net turns 2 examples into {output}; expected {expected}. One-hot "
            "rows become indices with labels.argmax(-1)."
        )
    what = {"regression": "targets", "multilabel": "labels"}.get(dataset.task, "classes")
    raise ValueError(
        f"{function}: the net turns 2 examples of shape {setting.input_shape} into {output}, but "
        f"the data have {expected[-1]} {what}; expected {expected}. End the net with "
        f"nets.affine({expected[-1]})."
    )


def class_count(dataset: Any) -> int:
    """The number of classes, of which a data set gives the names or the number."""
    return dataset.classes if hasattr(dataset.classes, "__index__") else len(dataset.classes)


def is_of_classes(dataset: Any) -> bool:
    """Whether labels are the indices of classes."""
    return task_of(dataset) == "classification"


def has_rows(split: Any) -> bool:
    """Whether there is a split at all."""
    return split is not None and len(split.labels) > 0


def as_split(split: Any, name: str) -> data.Split:
    """The split with its images as an array, of whatever NumPy makes one of, or TypeError.

    A large source becomes `data.Streamed`.
    """
    if not (hasattr(split, "images") and hasattr(split, "labels")):
        kind = type(split).__name__
        raise TypeError(f"{name} is a {kind}, expected a data.Split(images, labels).")
    images = data.opened(split.images)
    if np.ma.is_masked(images):
        raise TypeError(
            f"{name}.images is a masked array without {np.ma.count_masked(images)} of its values; "
            "fill them with images.filled(value), or leave their rows out."
        )
    if not isinstance(images, np.ndarray | Array | data.Streamed):
        try:
            images = np.asarray(images)
        except Exception as error:
            raise TypeError(
                f"{name}.images is a {type(split.images).__name__} that does not become an array "
                f"({error}); expected numbers, (n, ...)."
            ) from None
    if not any(jnp.issubdtype(images.dtype, kind) for kind in (np.integer, np.floating, np.bool_)):
        raise TypeError(
            f"{name}.images has dtype {images.dtype}, expected integers or floats; convert it with "
            "numpy.asarray(images, dtype=numpy.float32)."
        )
    if not images.ndim:
        raise TypeError(f"{name}.images is one number, expected an array (n, ...).")
    return data.Split(images, split.labels)


def labelled(
    split: Any,
    classes: int | None,
    name: str,
    ignore_index: int | None = None,
    task: data.Task = "classification",
) -> data.Split:
    """The split as arrays, with its labels as `data.check_labels` returns them, or an error.

    It may be empty.
    """
    images, labels = as_split(split, name).images, split.labels
    if getattr(labels, "ndim", 1) > 1:  # those of a whole split are small where they are one each
        labels = data.opened(labels)
    labels = data.check_labels(labels, classes, f"{name}.labels", ignore_index, task)
    if isinstance(labels, data.Streamed) and isinstance(images, Array):
        images = np.asarray(images)  # the two are gathered on the host
    if len(images) != len(labels):
        raise ValueError(
            f"{name} has {len(images)} images but {len(labels)} labels; expected one label for "
            "each image."
        )
    return data.Split(images, labels)


def check_split(split: Any, classes: int | None, name: str, *options: Any) -> data.Split:
    """What `labelled` returns, or ValueError where there is not one image."""
    split = labelled(split, classes, name, *options)
    if not has_rows(split):
        raise ValueError(f"{name} is empty, expected at least one image.")
    return split
