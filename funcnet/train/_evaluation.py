"""Loss and accuracy of a net on a split, each example counted once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from funcnet import data, losses
from funcnet._validate import float_dtype
from funcnet.kernels import wide
from funcnet.nets import Net
from funcnet.train._step import TrainState, answers, ignored_label
from funcnet.train.engine import EVALUATION_ROWS, Run, as_split, check_split


def evaluate(
    net: Net,
    trained: Any,
    split: data.Split,
    preprocessing: data.Preprocessing | Literal["own"] | None = "own",
    *,
    loss: Callable[..., Array] = losses.softmax_cross_entropy,
    batch_size: int = EVALUATION_ROWS,
) -> dict[str, float]:
    r"""Loss and accuracy of a net on a split, in inference mode, each example counted once.

    The net runs batch by batch, the last one filled up and the filling left out; the loss is taken
    of all its outputs at once, so that what weighs or ignores rows does so over the whole split. A
    row with a NaN in its output is wrong. `fit` logs the numbers of this function: of a `Run` it
    measures the best state, with the run's preprocessing, and gives the best accuracy logged,
    exactly.

    What is compiled for a net or a loss is kept for the next evaluation, and freed with it.

    Args:
      net: the net.
      trained: a `Run`, of which the best state is taken; what `checkpoint.load_params` returns; a
        `TrainState`; or a pair (params, state).
      split: images (n, ...) and integer labels (n,), raw, as `fit` had them.
      preprocessing: the run's, from `data.fit_preprocessing`; None for none; "own" for what
        `trained` brings along. A pair (params, state) brings nothing, and images of floats stay as
        they are.
      loss: `loss(output, labels)` of the whole split, (n, classes) and (n,); no penalty is added.
        Options come by `functools.partial`: an `ignore_index` given so may be among the labels, and
        the accuracy does not count its rows.
      batch_size: rows at a time; another number may round differently.

    Returns:
      "loss" and "accuracy", floats; the accuracy is a fraction of 1, NaN where no row counts.

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
    split = check_split(split, classes, "split", ignored_label(loss))
    preprocessing = _preprocessing_of(trained, split, preprocessing)
    rows = np.arange(len(split.labels))
    return evaluate_rows(
        net,
        (params, state),
        split,
        rows,
        preprocessing=preprocessing,
        loss=loss,
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
    accuracy_only: bool = False,
) -> dict[str, float]:
    """What `evaluate` returns, of these rows of a checked split; the loss only if asked for."""
    forward = _compiled(net.apply, _forward, ignored_label(loss))
    outputs, sums = [], []
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        own = np.arange(batch_size) < len(batch)
        batch = np.pad(batch, (0, batch_size - len(batch)), mode="edge")
        images, labels = (a[batch] for a in split)
        images, left = data.for_device(preprocessing, images)
        output, *found = forward(*trained[:2], left, images, labels, own)
        sums.append(found)
        if not accuracy_only:
            outputs.append(output)
    right, counted = np.array(jax.device_get(sums)).sum(0)
    measured = {"accuracy": float(right / counted) if counted else float("nan")}
    if not accuracy_only:
        measured["loss"] = float(_compiled(loss, _measure)(outputs, split.labels[rows]))
    return measured


def _forward(
    apply: Callable[..., Any],
    ignore_index: int | None,
    params: Any,
    state: Any,
    preprocessing: data.Preprocessing,
    images: Array,
    labels: Array,
    own: Array,
) -> tuple[Array, Array, Array]:
    """The net's output, and how many rows of the batch's own are right and how many count."""
    x = data.preprocess(preprocessing, images, float_dtype(params))
    output = wide(apply(params, state, x, train=False)[0])
    right, counted = answers(output, labels, ignore_index)
    return output, (own & right).sum(), (own & counted).sum()


def _measure(loss: Callable[..., Array], outputs: list[Array], labels: Array) -> Array:
    """The loss of all rows at once, which only the loss itself knows how to make of its rows."""
    return loss(jnp.concatenate(outputs)[: len(labels)], labels)


_PROGRAMS: dict[Any, Callable[..., Any]] = {}


def _compiled(owner: Any, body: Callable[..., Any], *static: Any) -> Callable[..., Any]:
    """`body(owner, *static, ...)` compiled, once while its owner lives, and freed with it."""
    key = id(owner), body, static
    if key not in _PROGRAMS:
        alive = weakref.ref(owner, lambda _: _PROGRAMS.pop(key, None))
        # No program holds its owner: it would keep alive what it is to be freed with.
        _PROGRAMS[key] = jax.jit(lambda *arguments: body(alive(), *static, *arguments))
    return _PROGRAMS[key]
