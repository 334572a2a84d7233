"""Losses as means over rows, each with its rule directly under it, and the L2 penalty."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Integer

from funcnet import _validate
from funcnet.kernels import wide

__all__ = ["l2_penalty", "mean_squared_error", "multiclass_hinge", "softmax_cross_entropy"]


@partial(jax.custom_vjp, nondiff_argnames=("label_smoothing",))
def softmax_cross_entropy(
    logits: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    r"""Mean cross-entropy of the softmax of logits against integer labels.

    Forward: with $\ell_i = \log \sum_k e^{z_{ik}}$ the loss is
    $\frac{1}{n} \sum_i \left(\ell_i - \sum_k t_{ik} z_{ik}\right)$, where the target
    $t_{ik} = (1 - s)\,[k = y_i] + s / C$ is the label's row smoothed by s over C classes.
    Backward: $dz_{ik} = \frac{1}{n}\left(e^{z_{ik} - \ell_i} - t_{ik}\right) d\text{loss}$.
    Keeps the logits, which it has been given, and $\ell_i$, one number a row.

    A label outside 0 ... C - 1 makes the loss and its row's gradient NaN: it is never clamped.
    A logit of minus infinity is a class ruled out; ruling out the label's own class, or any class
    while s > 0, makes the loss infinite.

    Args:
      logits: (..., C), a floating dtype.
      labels: (...), integers.
      label_smoothing: a static number s in [0, 1).

    Returns:
      The loss, a scalar in the dtype of the logits.

    Raises:
      TypeError: logits are not of a floating dtype, labels are not integers, or s is no number.
      ValueError: shapes do not fit, the batch is empty, or s is outside [0, 1).

    Source: Szegedy et al. 2015 (smoothing), https://arxiv.org/abs/1512.00567; courses.md rows 1-10,
    3-10 and 4-32 (row 2-20 takes the logarithm of a rounded zero).

    >>> softmax_cross_entropy(jnp.zeros((2, 10)), jnp.array([3, 7]))
    Array(2.30258509, dtype=float64)
    """
    loss, _ = _softmax_cross_entropy(logits, labels, label_smoothing)
    return loss


def _softmax_cross_entropy(logits, labels, label_smoothing):
    logits, labels = _scores_and_labels("softmax_cross_entropy", "logits", logits, labels)
    _validate.number("softmax_cross_entropy", "label_smoothing", label_smoothing, low=0.0, high=1.0)
    z = wide(logits)
    log_sum = jax.nn.logsumexp(z, axis=-1)
    of_label = (1.0 - label_smoothing) * _of_label(z, labels)
    if label_smoothing:
        of_label = of_label + label_smoothing * z.mean(-1)
    loss = jnp.where(_valid(z, labels), log_sum - of_label, jnp.nan)
    return loss.mean().astype(logits.dtype), log_sum


def _softmax_cross_entropy_fwd(logits, labels, label_smoothing):
    loss, log_sum = _softmax_cross_entropy(logits, labels, label_smoothing)
    return loss, (logits, labels, log_sum)


def _softmax_cross_entropy_bwd(label_smoothing, residuals, dloss):
    logits, labels, log_sum = residuals  # (..., C), (...), (...)
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    z = wide(logits)
    share = _share(z, labels, dloss)
    rest = label_smoothing / z.shape[-1]
    dz = (jnp.exp(z - log_sum[..., None]) - rest) * share[..., None]
    of_label = (jnp.exp(_of_label(z, labels) - log_sum) - rest - (1.0 - label_smoothing)) * share
    # One number a row is put right afterwards: XLA compares slowly, for every number of the row.
    dz = _with_entries(dz, labels.astype(jnp.int32), of_label)
    return dz.astype(logits.dtype), None


softmax_cross_entropy.defvjp(_softmax_cross_entropy_fwd, _softmax_cross_entropy_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("margin",))
def multiclass_hinge(
    scores: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    margin: float = 1.0,
) -> Float[Array, ""]:
    r"""Mean multiclass hinge loss, the SVM of Weston and Watkins.

    Forward: $\frac{1}{n} \sum_i \sum_{k \ne y_i} \max(0, m_{ik})$ with
    $m_{ik} = s_{ik} - s_{i y_i} + \text{margin}$.
    Backward: $ds_{ik} = \frac{1}{n} [m_{ik} > 0]\,d\text{loss}$ for $k \ne y_i$, and
    $ds_{i y_i} = -\sum_{k \ne y_i} ds_{ik}$. Keeps what it has been given.

    A label outside 0 ... C - 1 makes the loss and its row's gradient NaN: it is never clamped.

    Args:
      scores: (..., C), a floating dtype.
      labels: (...), integers.
      margin: a static number, 0 or more.

    Returns:
      The loss, a scalar in the dtype of the scores.

    Raises:
      TypeError: scores are not of a floating dtype, labels are not integers, or the margin is no
        number.
      ValueError: shapes do not fit, the batch is empty, or the margin is negative.

    Source: Weston and Watkins 1999,
    https://www.elen.ucl.ac.be/Proceedings/esann/esannpdf/es1999-461.pdf; courses.md rows 1-9 and
    4-32.

    >>> multiclass_hinge(jnp.zeros((2, 10)), jnp.array([3, 7]))
    Array(9., dtype=float64)
    """
    return _multiclass_hinge(scores, labels, margin)


def _multiclass_hinge(scores, labels, margin):
    scores, labels = _scores_and_labels("multiclass_hinge", "scores", scores, labels)
    _validate.number("multiclass_hinge", "margin", margin, low=0.0)
    excess = _excess(wide(scores), labels, margin)
    loss = jnp.where(_valid(excess, labels), jnp.maximum(excess, 0.0).sum(-1), jnp.nan)
    return loss.mean().astype(scores.dtype)


def _excess(s, labels, margin):
    """How far each wrong class comes within the margin of the right one; 0 for the right one.

    It is NaN for a right one that is infinite: a run that has gone wrong is not to look right.
    """
    return s - _of_label(s, labels)[..., None] + jnp.where(_is_label(s, labels), 0.0, margin)


def _multiclass_hinge_fwd(scores, labels, margin):
    return _multiclass_hinge(scores, labels, margin), (scores, labels)


def _multiclass_hinge_bwd(margin, residuals, dloss):
    scores, labels = (jnp.asarray(r) for r in residuals)  # (..., C), (...)
    s = wide(scores)
    wrong = (_excess(s, labels, margin) > 0).astype(s.dtype)
    right = -wrong.sum(-1, keepdims=True)
    ds = jnp.where(_is_label(s, labels), right, wrong) * _share(s, labels, dloss)[..., None]
    return ds.astype(scores.dtype), None


multiclass_hinge.defvjp(_multiclass_hinge_fwd, _multiclass_hinge_bwd)


@jax.custom_vjp
def mean_squared_error(
    prediction: Float[Array, "*shape"], target: Float[Array, "*shape"]
) -> Float[Array, ""]:
    r"""Mean squared error over all entries.

    Forward: $\frac{1}{N} \sum_i (p_i - t_i)^2$ over the N entries: the mean over rows of each row's
    mean. Backward: $dp_i = \frac{2}{N} (p_i - t_i)\,d\text{loss}$, $dt_i = -dp_i$. Keeps what it
    has been given.

    Args:
      prediction: any shape with at least one entry, a floating dtype.
      target: the same shape.

    Returns:
      The loss, a scalar in the common dtype.

    Raises:
      TypeError: an array is not of a floating dtype.
      ValueError: shapes differ, or there are no entries.

    Source: courses.md row 4-4, whose terms are half of it.

    >>> mean_squared_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0]))
    Array(2., dtype=float64)
    """
    return _mean_squared_error(prediction, target)


def _mean_squared_error(prediction, target):
    prediction = _validate.floating("mean_squared_error", "prediction", prediction)
    target = _validate.floating("mean_squared_error", "target", target)
    _validate.shape(
        "mean_squared_error", "target", target, prediction.shape, "prediction has that shape"
    )
    if not prediction.size:
        raise ValueError(
            f"mean_squared_error: prediction has shape {prediction.shape}, expected at least one "
            "entry: nothing has no mean."
        )
    dtype = jnp.result_type(prediction, target)
    return jnp.square(wide(prediction) - wide(target)).mean().astype(dtype)


def _mean_squared_error_fwd(prediction, target):
    return _mean_squared_error(prediction, target), (prediction, target)


def _mean_squared_error_bwd(residuals, dloss):
    prediction, target = (jnp.asarray(r) for r in residuals)  # the same shape
    d = (wide(prediction) - wide(target)) * (wide(dloss) * 2.0 / prediction.size)
    return d.astype(prediction.dtype), (-d).astype(target.dtype)


mean_squared_error.defvjp(_mean_squared_error_fwd, _mean_squared_error_bwd)


@jax.custom_vjp
def l2_penalty(params: Any, reg: float | Float[Array, ""]) -> Float[Array, ""]:
    r"""Half the squared length of all weights, times `reg`; biases and norms are free.

    Forward: $\frac{\rho}{2} \sum_w \lVert w \rVert^2$ with $\rho$ = `reg` over the weights: the
    leaves of two axes or more. Biases, gains and shifts have one axis.
    Backward: $dw = \rho\,w\,d\text{loss}$, 0 for what is free, and
    $d\rho = \frac{1}{2} \sum_w \lVert w \rVert^2\,d\text{loss}$. Keeps what it has been given.

    Args:
      params: a pytree of arrays of floating dtypes.
      reg: the strength, a number or a scalar array; it may be traced.

    Returns:
      The penalty, a scalar in the widest of the weights' dtypes, float32 at least.

    Raises:
      TypeError: a leaf is not of a floating dtype.

    Source: courses.md rows 1-14 (the half, and free biases, are pinned to ten digits) and 2-5 (a
    course that forgot one matrix).

    >>> l2_penalty(AffineParams(jnp.full((2, 2), 3.0), jnp.ones(2)), 0.1).round(6)
    Array(1.8, dtype=float64)
    """
    return _l2_penalty(params, reg)


def _l2_penalty(params, reg):
    squares = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        leaf = _validate.floating("l2_penalty", f"params{jax.tree_util.keystr(path)}", leaf)
        if leaf.ndim >= 2:
            squares.append(jnp.square(wide(leaf)).sum())
    widest = jnp.dtype(max((s.dtype for s in squares), key=lambda d: d.itemsize, default="float32"))
    total = sum((s.astype(widest) for s in squares), start=jnp.zeros((), widest))
    return 0.5 * jnp.asarray(reg).astype(widest) * total


def _l2_penalty_fwd(params, reg):
    return _l2_penalty(params, reg), (params, reg)


def _l2_penalty_bwd(residuals, dloss):
    params, reg = residuals
    reg = jnp.asarray(reg)

    def cotangent(leaf):
        leaf = jnp.asarray(leaf)
        if leaf.ndim < 2:
            return jnp.zeros_like(leaf)
        scale = reg.astype(dloss.dtype) * dloss
        return (scale.astype(wide(leaf).dtype) * wide(leaf)).astype(leaf.dtype)

    dreg = _l2_penalty(params, jnp.ones((), dloss.dtype)) * dloss
    return jax.tree.map(cotangent, params), dreg.astype(reg.dtype)


l2_penalty.defvjp(_l2_penalty_fwd, _l2_penalty_bwd)


def _scores_and_labels(function, name, scores, labels):
    scores = _validate.floating(function, name, scores)
    labels = _validate.integers(function, "labels", labels)
    if scores.ndim < 1 or not scores.shape[-1]:
        raise ValueError(f"{function}: {name} has shape {scores.shape}, expected (..., classes).")
    _validate.shape(
        function,
        "labels",
        labels,
        scores.shape[:-1],
        f"{name} has shape {scores.shape}: one label for each row of classes",
    )
    if not labels.size:
        raise ValueError(
            f"{function}: {name} has shape {scores.shape}, expected at least one row: the mean of "
            "no rows has no value."
        )
    return scores, labels


def _is_label(scores, labels):
    classes = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    classes = classes.reshape((1,) * labels.ndim + (-1,))
    return labels.astype(jnp.int32)[..., None] == classes


def _of_label(scores, labels):
    """The score of each row's label, (...); of some class where the label is out of range."""
    return jnp.take_along_axis(scores, labels[..., None], -1, mode="clip").squeeze(-1)


def _with_entries(rows, indices, values):
    """The rows (..., C) with one entry of each, at its index (...), in place of what was there."""

    def with_entry(row, index, value):
        return row.at[index].set(value, mode="drop")

    return jnp.vectorize(with_entry, signature="(c),(),()->(c)")(rows, indices, values)


def _share(scores, labels, dloss):
    """Each row's share of dloss, (...): NaN where the label is out of range."""
    return jnp.where(_valid(scores, labels), wide(dloss) / labels.size, jnp.nan)


def _valid(scores, labels):
    labels = labels.astype(jnp.int32)
    return (labels >= 0) & (labels < scores.shape[-1])
