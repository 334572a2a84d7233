"""Losses of rows that have one class each, every one with its rule directly under it."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Integer

from funcnet import _validate
from funcnet.kernels import as_cotangent, wide, with_entries
from funcnet.losses._check import check_ignore_index, check_labels, check_options, check_scores
from funcnet.losses._rows import (
    Reduction,
    Rows,
    along_rows,
    are_probabilities,
    counted,
    is_label,
    of_label,
    over_rows,
    product,
    reduced,
    rows_of,
    share_of,
    total,
    weights_of_labels,
)


@partial(jax.custom_vjp, nondiff_argnames=("label_smoothing", "ignore_index", "reduction"))
def softmax_cross_entropy(
    logits: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"] | Float[Array, "*batch classes"],
    label_smoothing: float = 0.0,
    class_weights: Float[Array, " classes"] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Float[Array, "*_"]:
    r"""Mean cross-entropy of the softmax of logits against labels, or against probabilities.

    Forward: with $\ell_{ik} = \log \sum_j e^{z_{ij}} - z_{ik}$ a row's loss is
    $L_i = \sum_k w_k t_{ik} \ell_{ik}$, and the mean is $\sum_i L_i / \sum_i r_i$. The target
    $t_{ik} = (1 - s)\,q_{ik} + s / C$ is the row's probabilities q, which a label makes
    $q_{ik} = [k = y_i]$, smoothed by s over C classes. A row weighs $r_i = w_{y_i}$ where labels
    meet class weights w, and 1 otherwise.
    Backward: with $p_{ik} = e^{-\ell_{ik}}$ and a row's share $g_i = d\text{loss} / \sum_j r_j$
    (for "sum" $d\text{loss}$, for "none" $d\text{loss}_i$):
    $dz_{ik} = \left(p_{ik} \sum_j w_j t_{ij} - w_k t_{ik}\right) g_i$,
    $dq_{ik} = (1 - s)\,w_k \ell_{ik}\,g_i$ and $dw_k = \sum_i t_{ik} \ell_{ik}\,g_i$, from which,
    where the mean divides by weights, $\text{loss} \sum_i [k = y_i]\,g_i$ is taken.
    Keeps what it has been given, and $\sum_k e^{z_{ik} - \max_j z_{ij}}$, one number a row.

    A label outside 0 ... C - 1 makes the loss and its row's gradient NaN (with class weights every
    row's, since its weight is in each): it is never clamped. Without x64, JAX itself makes int32 of
    64-bit labels before a function sees them. A row that is ignored counts nowhere, whatever its
    logits; a mean of no rows is NaN, with a gradient of 0. A logit of minus infinity is a class
    ruled out, which counts nothing where its target or its weight is 0; anywhere else, and so under
    smoothing, it makes the loss infinite.

    Args:
      logits: (..., C), a floating dtype.
      labels: (...), integers; or probabilities, (..., C) of a floating dtype.
      label_smoothing: a static number s in [0, 1).
      class_weights: (C,), a floating dtype; None for ones.
      ignore_index: a static int: rows with this label, a class or not, are ignored.
      reduction: "mean", "sum", or "none" for the loss of each row, (...).

    Returns:
      The loss in the dtype of the logits, a scalar unless the reduction is "none".

    Raises:
      TypeError: logits or class weights are not of a floating dtype, labels are neither integers
        nor probabilities, s is no number, or ignore_index no int.
      ValueError: shapes do not fit, a mean is asked of no rows, s is outside [0, 1), there is no
        such reduction, or ignore_index is given with probabilities.

    Source: Szegedy et al. 2015 (smoothing), https://arxiv.org/abs/1512.00567; the options are those
    of torch.nn.functional.cross_entropy; courses.md rows 1-10, 3-10 and 4-32 (row 2-20 takes the
    logarithm of a rounded zero).

    >>> softmax_cross_entropy(jnp.zeros((2, 10)), jnp.array([3, 7]))
    Array(2.30258509, dtype=float64)
    >>> softmax_cross_entropy(jnp.zeros((2, 2)), jnp.array([1, -100]), ignore_index=-100)
    Array(0.69314718, dtype=float64)
    """
    loss, _ = _softmax_cross_entropy(
        logits, labels, label_smoothing, class_weights, ignore_index, reduction
    )
    return loss


def _softmax_cross_entropy(logits, labels, label_smoothing, class_weights, ignore_index, reduction):
    function = "softmax_cross_entropy"
    logits = check_scores(function, "logits", logits)
    _validate.number(function, "label_smoothing", label_smoothing, low=0.0, high=1.0)
    if not are_probabilities(logits, labels):
        check_labels(function, "logits", logits, labels)
    check_options(function, "logits", logits, class_weights, reduction)
    if ignore_index is not None:
        check_ignore_index(function, ignore_index, are_probabilities(logits, labels))
    gap, rows, target, weights = _cross_entropy_terms(
        logits, labels, label_smoothing, class_weights, ignore_index
    )
    exp_sum = jnp.exp(-gap).sum(-1)
    if target is None:
        losses = jnp.log(exp_sum) + (1.0 - label_smoothing) * of_label(gap, rows)
        if label_smoothing:
            losses = losses + label_smoothing * gap.mean(-1)
    else:
        weighted = target if weights is None else weights * target
        losses = weighted.sum(-1) * jnp.log(exp_sum) + product(weighted, gap).sum(-1)
    loss = reduced(counted(losses, rows), total(rows, gap.dtype, weights), reduction)
    return loss.astype(logits.dtype), exp_sum


def _cross_entropy_terms(logits, labels, label_smoothing, class_weights, ignore_index):
    """What both ways need: how far each logit is below its row's largest, rows, target, weights.

    The distances, not the logits, because only they are exact where logits are large and nearly
    equal. The target is None where it is a label's alone, smoothed or not, and no class has weight.
    """
    z, classes = wide(logits), logits.shape[-1]
    if are_probabilities(logits, labels):
        rows = Rows(None, jnp.ones_like(z.max(-1), bool), None)
        target = (1.0 - label_smoothing) * labels.astype(z.dtype) + label_smoothing / classes
    else:
        rows, target = rows_of(labels, classes, ignore_index), None
        if class_weights is not None:
            own = jnp.where(is_label(z, rows), 1.0 - label_smoothing, 0.0)
            target = own + label_smoothing / classes
    if rows.counted is not None:
        z = jnp.where(rows.counted[..., None], z, 0.0)
    largest = z.max(-1, keepdims=True)
    largest = lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))
    weights = None if class_weights is None else along_rows(class_weights, z)
    return largest - z, rows, target, weights


def _softmax_cross_entropy_fwd(
    logits, labels, label_smoothing, class_weights, ignore_index, reduction
):
    loss, exp_sum = _softmax_cross_entropy(
        logits, labels, label_smoothing, class_weights, ignore_index, reduction
    )
    return loss, (logits, labels, class_weights, exp_sum)


def _softmax_cross_entropy_bwd(label_smoothing, ignore_index, reduction, residuals, dloss):
    *given, class_weights, exp_sum = residuals
    logits, labels = (jnp.asarray(r) for r in given)  # (..., C), (...) or (..., C)
    gap, rows, target, weights = _cross_entropy_terms(
        logits, labels, label_smoothing, class_weights, ignore_index
    )
    share = share_of(dloss, rows, total(rows, gap.dtype, weights), reduction)
    if target is None:
        rest = label_smoothing / gap.shape[-1]
        dz = jnp.exp(-gap) * (share / exp_sum)[..., None] - (rest * share)[..., None]
        dz_label = jnp.exp(-of_label(gap, rows)) / exp_sum - rest - (1.0 - label_smoothing)
        dz = with_entries(dz, rows.class_index, dz_label * share)
        return as_cotangent(dz, logits), None, None
    weighted = target if weights is None else weights * target
    p = jnp.exp(-gap) / exp_sum[..., None]
    dz = (p * weighted.sum(-1, keepdims=True) - weighted) * share[..., None]
    losses = jnp.log(exp_sum)[..., None] + gap
    dlabels = dweights = None
    if rows.class_index is None:
        dlabels = (1.0 - label_smoothing) * share[..., None] * losses
        if weights is not None:
            dlabels = product(jnp.broadcast_to(weights, gap.shape), dlabels)
        dlabels = as_cotangent(dlabels, labels)
    if weights is not None:
        by_row = product(target, losses) * share[..., None]
        if reduction == "mean" and rows.class_index is not None:
            loss = product(weights, by_row).sum() / total(rows, gap.dtype, weights)
            loss = counted(loss, rows)[..., None]
            by_row = by_row - jnp.where(is_label(gap, rows), loss, 0.0)
        dweights = over_rows(by_row, class_weights)
    return as_cotangent(dz, logits), dlabels, dweights


softmax_cross_entropy.defvjp(_softmax_cross_entropy_fwd, _softmax_cross_entropy_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("margin", "power", "reduction"))
def multiclass_hinge(
    scores: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    margin: float = 1.0,
    power: int = 1,
    class_weights: Float[Array, " classes"] | None = None,
    reduction: Reduction = "mean",
) -> Float[Array, "*_"]:
    r"""Mean multiclass hinge loss, the SVM of Weston and Watkins.

    Forward: a row's loss is $L_i = w_{y_i} \sum_{k \ne y_i} \max(0, m_{ik})^p$ with
    $m_{ik} = s_{ik} - s_{i y_i} + \text{margin}$ and class weights w, or 1; the mean is
    $\frac{1}{n} \sum_i L_i$, with weights too.
    Backward: with a row's share $g_i = d\text{loss} / n$ (for "sum" $d\text{loss}$, for "none"
    $d\text{loss}_i$) $ds_{ik} = w_{y_i}\,[m_{ik} > 0]\,p\,m_{ik}^{p - 1} g_i$ for $k \ne y_i$,
    $ds_{i y_i} = -\sum_{k \ne y_i} ds_{ik}$, and
    $dw_k = \sum_i [k = y_i]\,g_i \sum_{j \ne y_i} \max(0, m_{ij})^p$. Keeps what it has been given.

    A label outside 0 ... C - 1 makes the loss and its row's gradient NaN: it is never clamped.
    Without x64, JAX itself makes int32 of 64-bit labels before a function sees them.

    Args:
      scores: (..., C), a floating dtype.
      labels: (...), integers.
      margin: a static number, 0 or more.
      power: the static exponent p, 1 or 2.
      class_weights: (C,), a floating dtype; None for ones.
      reduction: "mean", "sum", or "none" for the loss of each row, (...).

    Returns:
      The loss in the dtype of the scores, a scalar unless the reduction is "none".

    Raises:
      TypeError: scores or class weights are not of a floating dtype, labels are not integers, or
        the margin is no number.
      ValueError: shapes do not fit, a mean is asked of no rows, the margin is negative, the power
        not 1 or 2, or there is no such reduction.

    Source: Weston and Watkins 1999,
    https://www.elen.ucl.ac.be/Proceedings/esann/esannpdf/es1999-461.pdf; the options are those of
    torch.nn.functional.multi_margin_loss, which divides by C; courses.md rows 1-9 and 4-32.

    >>> multiclass_hinge(jnp.zeros((2, 10)), jnp.array([3, 7]))
    Array(9., dtype=float64)
    """
    return _multiclass_hinge(scores, labels, margin, power, class_weights, reduction)


def _multiclass_hinge(scores, labels, margin, power, class_weights, reduction):
    function = "multiclass_hinge"
    scores = check_scores(function, "scores", scores)
    check_labels(function, "scores", scores, labels)
    _validate.number(function, "margin", margin, low=0.0)
    if power not in (1, 2):
        raise ValueError(f"{function}: power is {power!r}, expected 1 or 2.")
    check_options(function, "scores", scores, class_weights, reduction)
    rows = rows_of(labels, scores.shape[-1])
    excess = _excess(wide(scores), rows, margin)
    losses = (jnp.maximum(excess, 0.0) ** power).sum(-1)
    if class_weights is not None:
        losses = losses * weights_of_labels(rows, along_rows(class_weights, excess))
    return reduced(counted(losses, rows), total(rows, excess.dtype), reduction).astype(scores.dtype)


def _excess(s, rows, margin):
    """How far each wrong class comes within the margin of the right one; 0 for the right one.

    It is NaN for a right one that is infinite: a run that has gone wrong is not to look right.
    """
    return s - of_label(s, rows)[..., None] + jnp.where(is_label(s, rows), 0.0, margin)


def _multiclass_hinge_fwd(scores, labels, margin, power, class_weights, reduction):
    loss = _multiclass_hinge(scores, labels, margin, power, class_weights, reduction)
    return loss, (scores, labels, class_weights)


def _multiclass_hinge_bwd(margin, power, reduction, residuals, dloss):
    *given, class_weights = residuals
    scores, labels = (jnp.asarray(r) for r in given)  # (..., C), (...)
    rows = rows_of(labels, scores.shape[-1])
    excess = _excess(wide(scores), rows, margin)
    share, dweights = share_of(dloss, rows, total(rows, excess.dtype), reduction)[..., None], None
    if class_weights is not None:
        losses = (jnp.maximum(excess, 0.0) ** power).sum(-1, keepdims=True) * share
        dweights = over_rows(jnp.where(is_label(excess, rows), losses, 0.0), class_weights)
        share = share * weights_of_labels(rows, along_rows(class_weights, excess))[..., None]
    slope = excess > 0 if power == 1 else 2.0 * jnp.maximum(excess, 0.0)
    wrong = slope.astype(excess.dtype)
    right = -wrong.sum(-1, keepdims=True)
    ds = jnp.where(is_label(excess, rows), right, wrong) * share
    return as_cotangent(ds, scores), None, dweights


multiclass_hinge.defvjp(_multiclass_hinge_fwd, _multiclass_hinge_bwd)
