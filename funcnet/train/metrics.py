r"""What a net is measured by: `metric(output, labels)`, a scalar of a whole split.

A metric is any such function that JAX can trace. `fit` and `evaluate` compile it, and give it the
outputs of all rows, in float32 at least, with the split's labels as `data.check_labels` returns
them. What has options is made by `functools.partial`.

One whose name ends in loss, error, mae, mse or perplexity is the better the lower; any other the
better the higher. That is what `fit` and `early_stopping` go by, where they are not told.

>>> from funcnet import data, nets, optimizers, train
>>> dataset = data.synthetic(sizes=(200, 50, 50), classes=3)
>>> measures = {"top_2": train.metrics.top_k_accuracy(2), "f1": train.metrics.f1}
>>> net = nets.softmax_classifier(3)
>>> run = train.fit(net, dataset, optimizers.adam(1e-2), epochs=1, metrics=measures)
>>> sorted(name for name in run.history[0] if name.startswith("val"))
['val_f1', 'val_loss', 'val_top_2']
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from funcnet.kernels import wide
from funcnet.train._step import answers

__all__ = [
    "Metric",
    "accuracy",
    "exact_match",
    "f1",
    "lower_is_better",
    "mean_absolute_error",
    "r2",
    "top_k_accuracy",
]

Metric = Callable[[Array, Array], Array]
"""`metric(output, labels)`, a scalar."""

_LOWER = ("loss", "error", "mae", "mse", "perplexity")


def lower_is_better(name: str) -> bool:
    """Whether what has this name is the better the lower: see above.

    >>> lower_is_better("val_loss"), lower_is_better("val_accuracy")
    (True, False)
    """
    return name.endswith(_LOWER)


def accuracy(
    output: Float[Array, "n ..."], labels: ArrayLike, ignore_index: int | None = None
) -> Float[Array, ""]:
    r"""The share of answers that are right.

    Of classes the answer is the largest output, $\frac{1}{n} \sum_i [\arg\max_k o_{ik} = y_i]$; of
    several labels whether each is there, $\frac{1}{nk} \sum_{ij} [(o_{ij} > 0) = y_{ij}]$. What is
    NaN is wrong. `fit` and `evaluate` count it batch by batch, to the last answer, without the rows
    that the loss's own `ignore_index` leaves out.

    Args:
      output: scores (n, ..., classes), or of several labels their logits (n, k).
      labels: classes (n, ...), or 0 and 1 (n, k).
      ignore_index: the label of rows that do not count; only of classes.

    Returns:
      A fraction of 1, NaN where nothing counts.

    >>> accuracy(jnp.array([[0.1, 2.0], [3.0, 1.0]]), jnp.array([1, 1]))
    Array(0.5, dtype=float32)
    """
    right, counted = answers(jnp.asarray(output), labels, ignore_index)
    return right.mean(dtype=jnp.float32, where=counted)


def exact_match(output: Float[Array, "n ..."], labels: ArrayLike) -> Float[Array, ""]:
    r"""The share of rows of which every answer is right.

    Of several labels $\frac{1}{n} \sum_i \prod_j [(o_{ij} > 0) = y_{ij}]$, where `accuracy` is the
    share of the labels. Answers are those of `accuracy`; what is NaN is wrong.

    Args:
      output: of several labels their logits (n, k), or scores (n, ..., classes).
      labels: 0 and 1 (n, k), or classes (n, ...).

    Returns:
      A fraction of 1.

    >>> logits, labels = jnp.array([[1.0, -1.0], [1.0, 1.0]]), jnp.array([[1, 0], [1, 0]])
    >>> exact_match(logits, labels), accuracy(logits, labels)
    (Array(0.5, dtype=float32), Array(0.75, dtype=float32))
    """
    right, _ = answers(jnp.asarray(output), labels, None)
    return right.reshape(len(right), -1).all(-1).mean(dtype=jnp.float32)


def top_k_accuracy(k: int) -> Metric:
    r"""Makes the share of rows whose class is among the k largest outputs.

    Of equal outputs the one with the lower index comes first, so that with k = 1 it is `accuracy`.
    A row with a NaN is wrong.

    Args:
      k: how many outputs a row has for answers.

    Returns:
      The metric of scores (n, ..., classes) and classes (n, ...).

    Raises:
      ValueError: `k` is below 1; or, of the metric, above the number of classes.

    >>> scores = jnp.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    >>> top_k_accuracy(2)(scores, jnp.array([0, 1]))
    Array(0.5, dtype=float32)
    """
    if k < 1:
        raise ValueError(f"top_k_accuracy: k is {k}, expected at least 1.")
    return partial(_top_k_accuracy, k)


def _top_k_accuracy(k: int, output: Array, labels: Array) -> Array:
    if k > output.shape[-1]:
        raise ValueError(
            f"top_k_accuracy: k is {k}, but the output has shape {output.shape}, expected at most "
            f"its {output.shape[-1]} classes."
        )
    _, best = lax.top_k(output, k)
    right = (best == jnp.asarray(labels)[..., None].astype(best.dtype)).any(-1)
    right = right & ~jnp.isnan(output).any(-1)
    return right.mean(dtype=jnp.float32)


def f1(output: Float[Array, "n ..."], labels: ArrayLike) -> Float[Array, ""]:
    r"""The mean over the classes of $F_1 = \frac{2\,TP}{2\,TP + FP + FN}$ ("macro").

    TP counts the answers with the class that are right, FP those that are wrong, and FN the rows of
    the class with another answer; answers are those of `accuracy`. A class that neither labels nor
    answers have is left out of the mean: scikit-learn's
    `f1_score(average="macro", zero_division=nan)`.

    Args:
      output: scores (n, ..., classes), or of several labels their logits (n, k).
      labels: classes (n, ...), or 0 and 1 (n, k).

    Returns:
      A number of 0 to 1.

    >>> scores = jnp.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    >>> f1(scores, jnp.array([0, 1, 1])).round(4)
    Array(0.6667, dtype=float32)
    """
    output, labels = jnp.asarray(output), jnp.asarray(labels)
    classes = output.shape[-1]
    if labels.shape == output.shape:
        found, there = output > 0, labels > 0
    else:
        answer = jnp.where(jnp.isnan(output).any(-1), -1, jnp.argmax(output, -1))
        found, there = (jax.nn.one_hot(a, classes, dtype=bool) for a in (answer, labels))
    found, there = found.reshape(-1, classes), there.reshape(-1, classes)
    both = (found & there).sum(0, dtype=jnp.float32)
    either = found.sum(0, dtype=jnp.float32) + there.sum(0, dtype=jnp.float32)
    return (2 * both / jnp.where(either > 0, either, 1)).mean(where=either > 0)


def r2(output: Float[Array, "n k"], labels: Float[Array, "n k"]) -> Float[Array, ""]:
    r"""The coefficient of determination, the mean over the k targets.

    $$R^2 = \frac{1}{k} \sum_j \left(1 - \frac{\sum_i (y_{ij} - o_{ij})^2}
    {\sum_i (y_{ij} - \bar y_j)^2}\right)$$

    1 is exact, 0 as good as the mean of the labels, and below 0 worse. Of a target that is constant
    it is 1 where each output is exact, and else 0, as in scikit-learn.

    Args:
      output: (n, k).
      labels: (n, k).

    Returns:
      A number of at most 1.

    Raises:
      ValueError: the shapes differ.

    >>> r2(jnp.array([[1.0], [2.0], [4.0]]), jnp.array([[1.0], [2.0], [3.0]]))
    Array(0.5, dtype=float64)
    """
    output, labels = _numbers("r2", output, labels)
    left = jnp.square(labels - output).sum(0)
    whole = jnp.square(labels - labels.mean(0, keepdims=True)).sum(0)
    constant = jnp.where(left == 0, jnp.ones_like(left), jnp.zeros_like(left))
    share = 1 - left / jnp.where(whole == 0, jnp.ones_like(whole), whole)
    return jnp.where((whole == 0) & ~jnp.isnan(left), constant, share).mean()


def mean_absolute_error(
    output: Float[Array, "n k"], labels: Float[Array, "n k"]
) -> Float[Array, ""]:
    r"""The mean distance, $\frac{1}{nk} \sum_{ij} |o_{ij} - y_{ij}|$: the better the lower.

    Args:
      output: (n, k).
      labels: (n, k).

    Returns:
      A number of at least 0, in the labels' unit.

    Raises:
      ValueError: the shapes differ.

    >>> mean_absolute_error(jnp.array([[1.0], [2.0]]), jnp.array([[1.0], [5.0]]))
    Array(1.5, dtype=float64)
    """
    output, labels = _numbers("mean_absolute_error", output, labels)
    return jnp.abs(output - labels).mean()


def _numbers(function: str, output: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    """Both, in the output's dtype, as arrays of one shape."""
    output = wide(jnp.asarray(output))
    labels = jnp.asarray(labels).astype(output.dtype)
    if output.shape != labels.shape:
        raise ValueError(
            f"{function}: output has shape {output.shape} but labels {labels.shape}, expected the "
            "same, (n, k)."
        )
    return output, labels
