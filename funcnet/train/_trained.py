"""A trained net as one value: what it computes, and all that its numbers mean."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax import Array

from funcnet import _notebook, data, losses
from funcnet._machine import versions
from funcnet._validate import float_dtype
from funcnet.kernels import wide
from funcnet.nets import Net
from funcnet.train._arguments import EVALUATION_ROWS, Setting, as_split
from funcnet.train._evaluation import Batches, compiled, evaluate
from funcnet.train._step import TrainState
from funcnet.train._tasks import Goal
from funcnet.train.metrics import Metric


@dataclass(frozen=True, eq=False, repr=False)
class Trained:
    r"""A net that is ready for use: `fit` returns it as `run.trained`, `funcnet.load` reads it.

    It takes examples as the data set had them, pixels of 0 to 255 for example: the preprocessing
    of the run is a part of it.

    Attributes:
      net: the net.
      params: its parameters, those of the best epoch.
      state: its running statistics.
      preprocessing: what becomes of an example before the net sees it.
      classes: the names of the classes, or of the targets or labels of other tasks.
      input_shape: the shape of one example.
      task: what is told of an example: see `data.Dataset`.
      loss: what it was trained by, `loss(output, labels)`; None where nobody knows.
      metrics: what it is measured by, as `fit` takes them; None for the task's own.
      reading: how examples are read from files: see `data.Dataset`.
      versions: of funcnet, Python and JAX, with which it was trained.

    >>> from funcnet import data, nets, optimizers, train
    >>> dataset = data.synthetic(sizes=(200, 50, 50), classes=3)
    >>> net = nets.two_layer_net(20, classes=3)
    >>> run = train.fit(net, dataset, optimizers.adam(1e-2), epochs=3, batch_size=20)
    >>> run.trained.predict(dataset.test.images[:2]).shape
    (2,)
    >>> run.trained.evaluate(dataset.val)["accuracy"] == max(run.history["val_accuracy"])
    True
    """

    net: Net
    params: Any
    state: Any
    preprocessing: data.Preprocessing
    classes: tuple[Any, ...]
    input_shape: tuple[int, ...]
    task: data.Task = "classification"
    loss: Callable[..., Array] | None = losses.softmax_cross_entropy
    metrics: Mapping[str, Metric] | None = None
    reading: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=functools.cache(versions))

    def __repr__(self) -> str:
        count, shape, outputs = self._sizes()
        return f"Trained({self.net!r}: {count} parameters, examples of {shape}, {outputs})"

    def _repr_html_(self) -> str:
        count, shape, outputs = self._sizes()
        names = " ".join(_notebook.short(str(name), 40) for name in self.classes[:10])
        facts = {
            "net": self.net,
            "parameters": count,
            "examples": shape,
            "outputs": f"{outputs}: {names}{' ...' * (len(self.classes) > 10)}",
            "versions": ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        }
        return _notebook.table("Trained", facts.items())

    def _sizes(self) -> tuple[str, str, str]:
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        shape = "×".join(map(str, self.input_shape))
        return f"{count:,}", shape, f"{len(self.classes)} {_OUTPUTS[self.task]}"

    def outputs(self, images: Any, *, batch_size: int = EVALUATION_ROWS) -> np.ndarray:
        r"""What the net gives for each example, in inference mode: logits, or the targets.

        Args:
          images: (n, ...), examples as the data set has them.
          batch_size: rows at a time.

        Returns:
          (n, classes) floats; for labels by position (n, ..., classes).

        Raises:
          TypeError: the images do not become an array of numbers.
          ValueError: they are not of the shape of the examples that the net was trained on.
        """
        images = as_split(data.Split(images, np.zeros(0)), "predict").images
        if images.shape[1:] != self.input_shape:
            hint = " One example is a batch of one, images[None]." * (
                images.shape == self.input_shape
            )
            raise ValueError(
                f"predict: images has shape {images.shape}, expected (n, "
                f"{', '.join(map(str, self.input_shape))}), as the net was trained on.{hint}"
            )
        rows = len(images)
        # A single example need not pay for a whole batch, nor each number of them for a program.
        size = min(batch_size, 1 << max(rows - 1, 0).bit_length())
        split = data.Split(images, np.zeros(rows, np.int32))
        batches = Batches(split, np.arange(rows), self.preprocessing, size)
        forward = compiled(self.net.apply, _outputs)
        found = [
            np.asarray(forward(self.params, self.state, left, x))[: own.sum()]
            for left, x, _, own in batches
        ]
        if found:
            return np.concatenate(found)
        return np.zeros((0, len(self.classes)), float_dtype(self.params))

    def predict_proba(self, images: Any, *, batch_size: int = EVALUATION_ROWS) -> np.ndarray:
        r"""The probability of each class, or for several labels of each label.

        Args:
          images: (n, ...), examples as the data set has them.
          batch_size: rows at a time.

        Returns:
          (n, classes): the softmax of the outputs, of which each row's sum is 1; for several labels
          their sigmoid.

        Raises:
          TypeError: the task is regression, or the images do not become an array of numbers.
          ValueError: they are not of the shape of the examples that the net was trained on.
        """
        self._require_probabilities()
        return self.probabilities(self.outputs(images, batch_size=batch_size))

    def predict(self, images: Any, *, batch_size: int = EVALUATION_ROWS) -> np.ndarray:
        r"""What is told of each example: its class, its targets, or which labels it has.

        Args:
          images: (n, ...), examples as the data set has them.
          batch_size: rows at a time.

        Returns:
          The names of classes, (n,); for regression (n, targets), and (n,) of one; for several
          labels (n, labels) booleans.

        Raises:
          TypeError: the images do not become an array of numbers.
          ValueError: they are not of the shape of the examples that the net was trained on.
        """
        return self.answers(self.outputs(images, batch_size=batch_size))

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        r"""What `predict_proba` makes of `outputs`.

        Args:
          outputs: (n, classes), or for labels by position (n, ..., classes).

        Returns:
          The probabilities, of the same shape, in float64.

        Raises:
          TypeError: the task is regression.
        """
        self._require_probabilities()
        z = outputs.astype(np.float64)
        if self.task == "multilabel":
            return np.exp(-np.logaddexp(0.0, -z))
        z = np.exp(z - z.max(-1, keepdims=True))
        return z / z.sum(-1, keepdims=True)

    def _require_probabilities(self) -> None:
        if self.task == "regression":
            raise TypeError("predict_proba: the task is regression, which has no probabilities.")

    def answers(self, outputs: np.ndarray) -> np.ndarray:
        r"""What `predict` makes of `outputs`.

        Args:
          outputs: (n, classes), or for labels by position (n, ..., classes).

        Returns:
          The classes, targets or labels, as `predict` has them.
        """
        if self.task == "regression":
            return outputs[:, 0] if len(self.classes) == 1 else outputs
        if self.task == "multilabel":
            return outputs > 0
        return np.asarray(self.classes)[outputs.argmax(-1)]

    def evaluate(self, split: data.Split, *, batch_size: int = EVALUATION_ROWS) -> dict[str, float]:
        r"""The loss and the metrics on a split, the very numbers that `fit` logs: see `evaluate`.

        Args:
          split: examples and labels, as the data set has them.
          batch_size: rows at a time.

        Returns:
          The loss, and the accuracy or what stands for it, by name.

        Raises:
          LabelError: labels are none of the task's.
          TypeError: the loss is unknown, or the split does not become arrays.
          ValueError: the split is empty, or has more labels than images.
        """
        if self.loss is None:
            raise TypeError(
                "Trained.evaluate: what it was trained by is unknown, for it was no loss of "
                "funcnet.losses; use train.evaluate(net, trained, split, loss=...)."
            )
        return evaluate(
            self.net, self, split, loss=self.loss, metrics=self.metrics, batch_size=batch_size
        )


_OUTPUTS = {"classification": "classes", "regression": "targets", "multilabel": "labels"}


def trained(
    net: Net,
    best: TrainState,
    preprocessing: data.Preprocessing,
    setting: Setting,
    goal: Goal,
) -> Trained:
    """What a run delivers."""
    dataset = setting.dataset
    classes: Any = dataset.classes  # names, or their number
    names = range(classes) if hasattr(classes, "__index__") else classes
    return Trained(
        net,
        best.params,
        best.state,
        preprocessing,
        tuple(names),
        setting.input_shape,
        goal.task,
        goal.loss,
        goal.metrics,
        dataset.reading,
    )


def _outputs(
    apply: Callable[..., Any],
    params: Any,
    state: Any,
    preprocessing: data.Preprocessing,
    images: Array,
) -> Array:
    x = data.preprocess(preprocessing, images, float_dtype(params))
    return wide(apply(params, state, x, train=False)[0])
