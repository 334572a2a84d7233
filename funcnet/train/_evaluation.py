"""Loss and accuracy of a net on a split, each example counted once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from funcnet import data, losses
from funcnet.kernels import wide
from funcnet.nets._blocks import Net, float_dtype
from funcnet.train._fit import Run, as_split, check_split
from funcnet.train._step import TrainState

EVALUATION_ROWS = 250


def evaluate(
    net: Net,
    trained: Any,
    split: data.Split,
    preprocessing: data.Preprocessing | Literal["own"] | None = "own",
    *,
    loss: Callable[..., Array] = losses.softmax_cross_entropy,
    batch_size: int = EVALUATION_ROWS,
) -> dict[str, float]:
    r"""Mean loss and accuracy of a net on a split, in inference mode, each example counted once.

    The last batch is filled up and the filling masked, so that there is one program for splits of
    any size. `fit` logs the numbers of this function: of a `Run` it measures the best state, with
    the run's preprocessing, and gives the best accuracy logged, exactly.

    Args:
      net: the net.
      trained: a `Run`, of which the best state is taken; what `checkpoint.load_params` returns; a
        `TrainState`; or a pair (params, state).
      split: images (n, ...) and integer labels (n,), raw, as `fit` had them.
      preprocessing: the run's, from `data.fit_preprocessing`; None for none; "own" for what
        `trained` brings along. A pair (params, state) brings nothing, and images of floats stay as
        they are.
      loss: `loss(output, labels)`, a mean over rows; no penalty is added.
      batch_size: rows at a time; another number may round differently.

    Returns:
      "loss" and "accuracy", floats; the accuracy is a fraction of 1.

    Raises:
      LabelError: labels are out of range, or not integers.
      TypeError: the split does not become arrays, or nothing says what to preprocess it by.
      ValueError: the split is empty, or has more labels than images.

    Source: courses.md 2.1 and rows 0-20, 1-35, 2-13.

    >>> from funcnet import nets
    >>> net = nets.affine(2)
    >>> params = AffineParams(jnp.eye(2), jnp.zeros(2))
    >>> split = data.Split(np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0]]), np.array([0, 1, 1]))
    >>> round(evaluate(net, (params, ()), split)["accuracy"], 4)
    0.6667
    """
    split = as_split(split, "split")
    best: Any = trained.best if isinstance(trained, Run) else trained
    params, state = (best.params, best.state) if hasattr(best, "params") else best
    shape = (1, *split.images.shape[1:])
    x = jax.ShapeDtypeStruct(shape, float_dtype(params))
    classes = jax.eval_shape(partial(net.apply, train=False), params, state, x)[0].shape[-1]
    split = check_split(split, classes, "split")
    preprocessing = _preprocessing_of(trained, split, preprocessing)
    rows = np.arange(len(split.labels))
    return evaluate_rows(
        net,
        (params, state),
        split,
        rows,
        preprocessing=preprocessing,
        loss=hashable(loss),
        batch_size=batch_size,
    )


def _preprocessing_of(trained: Any, split: data.Split, given: Any) -> data.Preprocessing:
    """What is given, or what `trained` brings along; TypeError where raw images would go in."""
    if isinstance(given, str) and given != "own":
        raise TypeError(
            f"evaluate: preprocessing is {given!r}, expected what the run fitted by that name: "
            "run.preprocessing, or evaluate(net, run, split)."
        )
    if isinstance(given, str):
        given = getattr(trained, "preprocessing", None)
        floats = jnp.issubdtype(split.images.dtype, jnp.floating)
        if given is None and (isinstance(trained, TrainState) or not floats):
            raise TypeError(
                "evaluate: preprocessing is not given, and a net that was trained on preprocessed "
                "images is wrong on raw ones; pass the run itself, evaluate(net, run, split), or "
                "its preprocessing=run.preprocessing, or preprocessing=None where there was none."
            )
    if given is not None:
        return given
    ones = (1,) * (split.images.ndim - 1)
    return data.Preprocessing(np.zeros(ones), np.ones(ones))


def evaluate_rows(
    net: Net,
    trained: Any,
    split: Any,
    rows: np.ndarray,
    *,
    preprocessing: data.Preprocessing,
    loss: Callable[..., Array],
    batch_size: int,
) -> dict[str, float]:
    """What `evaluate` returns, of these rows of a checked split."""
    sums = []
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        counted = np.arange(batch_size) < len(batch)
        batch = np.pad(batch, (0, batch_size - len(batch)), mode="edge")
        images, labels = (a[batch] for a in split)
        images, left = data.for_device(preprocessing, images)
        sums.append(_evaluate_batch(net, loss, *trained[:2], left, images, labels, counted))
    total, right = np.array(jax.device_get(sums), np.float64).sum(0)
    return {"loss": float(total / len(rows)), "accuracy": float(right / len(rows))}


def hashable(loss: Callable[..., Array]) -> Callable[..., Array]:
    """The loss, wrapped where it has no hash, as objects that hold arrays may have none."""
    try:
        hash(loss)
    except TypeError:
        return partial(loss)
    return loss


@partial(jax.jit, static_argnums=(0, 1))
def _evaluate_batch(
    net: Net,
    loss: Callable[..., Array],
    params: Any,
    state: Any,
    preprocessing: data.Preprocessing,
    images: Array,
    labels: Array,
    counted: Array,
) -> tuple[Array, Array]:
    """The sum of the losses, and the number of right answers, of the rows that are counted."""
    x = data.preprocess(preprocessing, images, float_dtype(params))
    output = wide(net.apply(params, state, x, train=False)[0])
    labels = labels.astype(jnp.int32)
    # A loss is a mean over rows: row by row, as means over one, it can be masked.
    values = jax.vmap(lambda z, y: loss(z[None], y[None]))(output, labels)
    right = counted & (jnp.argmax(output, -1).astype(jnp.int32) == labels)
    return jnp.where(counted, values, jnp.zeros_like(values)).sum(), right.sum()
