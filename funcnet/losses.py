"""Losses as means over rows, each with its rule directly under it, and the L2 penalty."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, Integer

from funcnet import _validate
from funcnet.kernels import as_cotangent, entries_of, wide, with_entries

__all__ = ["l2_penalty", "mean_squared_error", "multiclass_hinge", "softmax_cross_entropy"]

Reduction = Literal["mean", "sum", "none"]


@partial(jax.custom_vjp, nondiff_argnames=("label_smoothing", "ignore_index", "reduction"))
def softmax_cross_entropy(
    logits: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"] | Float[Array, "*batch classes"],
    label_smoothing: float = 0.0,
    class_weights: Float[Array, " classes"] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Float[Array, ...]:
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
    logits = _scores(function, "logits", logits)
    _validate.number(function, "label_smoothing", label_smoothing, low=0.0, high=1.0)
    if not _are_probabilities(logits, labels):
        _check_labels(function, "logits", logits, labels)
    _check_options(function, "logits", logits, class_weights, reduction)
    if ignore_index is not None:
        _check_ignore_index(function, ignore_index, _are_probabilities(logits, labels))
    gap, rows, target, weights = _cross_entropy_terms(
        logits, labels, label_smoothing, class_weights, ignore_index
    )
    exp_sum = jnp.exp(-gap).sum(-1)
    if target is None:
        losses = jnp.log(exp_sum) + (1.0 - label_smoothing) * _of_label(gap, rows)
        if label_smoothing:
            losses = losses + label_smoothing * gap.mean(-1)
    else:
        weighted = target if weights is None else weights * target
        losses = weighted.sum(-1) * jnp.log(exp_sum) + _product(weighted, gap).sum(-1)
    loss = _reduced(_counted(losses, rows), _total(rows, gap.dtype, weights), reduction)
    return loss.astype(logits.dtype), exp_sum


def _cross_entropy_terms(logits, labels, label_smoothing, class_weights, ignore_index):
    """What both ways need: how far each logit is below its row's largest, rows, target, weights.

    The distances, not the logits, because only they are exact where logits are large and nearly
    equal. The target is None where it is a label's alone, smoothed or not, and no class has weight.
    """
    z, classes = wide(logits), logits.shape[-1]
    if _are_probabilities(logits, labels):
        rows = Rows(None, jnp.ones_like(z[..., 0], bool), None)
        target = (1.0 - label_smoothing) * labels.astype(z.dtype) + label_smoothing / classes
    else:
        rows, target = rows_of(labels, classes, ignore_index), None
        if class_weights is not None:
            own = jnp.where(_is_label(z, rows), 1.0 - label_smoothing, 0.0)
            target = own + label_smoothing / classes
    if rows.counted is not None:
        z = jnp.where(rows.counted[..., None], z, 0.0)
    largest = z.max(-1, keepdims=True)
    largest = lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0.0))
    weights = None if class_weights is None else _along_rows(class_weights, z)
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
    share = _share(dloss, rows, _total(rows, gap.dtype, weights), reduction)
    if target is None:
        rest = label_smoothing / gap.shape[-1]
        dz = jnp.exp(-gap) * (share / exp_sum)[..., None] - (rest * share)[..., None]
        of_label = jnp.exp(-_of_label(gap, rows)) / exp_sum - rest - (1.0 - label_smoothing)
        dz = with_entries(dz, rows.class_index, of_label * share)
        return as_cotangent(dz, logits), None, None
    weighted = target if weights is None else weights * target
    p = jnp.exp(-gap) / exp_sum[..., None]
    dz = (p * weighted.sum(-1, keepdims=True) - weighted) * share[..., None]
    losses = jnp.log(exp_sum)[..., None] + gap
    dlabels = dweights = None
    if rows.class_index is None:
        dlabels = (1.0 - label_smoothing) * share[..., None] * losses
        if weights is not None:
            dlabels = _product(jnp.broadcast_to(weights, gap.shape), dlabels)
        dlabels = as_cotangent(dlabels, labels)
    if weights is not None:
        by_row = _product(target, losses) * share[..., None]
        if reduction == "mean" and rows.class_index is not None:
            loss = _product(weights, by_row).sum() / _total(rows, gap.dtype, weights)
            loss = _counted(loss, rows)[..., None]
            by_row = by_row - jnp.where(_is_label(gap, rows), loss, 0.0)
        dweights = _over_rows(by_row, class_weights)
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
) -> Float[Array, ...]:
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
    scores = _scores(function, "scores", scores)
    _check_labels(function, "scores", scores, labels)
    _validate.number(function, "margin", margin, low=0.0)
    if power not in (1, 2):
        raise ValueError(f"{function}: power is {power!r}, expected 1 or 2.")
    _check_options(function, "scores", scores, class_weights, reduction)
    rows = rows_of(labels, scores.shape[-1])
    excess = _excess(wide(scores), rows, margin)
    losses = (jnp.maximum(excess, 0.0) ** power).sum(-1)
    if class_weights is not None:
        losses = losses * _weights_of_labels(rows, _along_rows(class_weights, excess))
    return _reduced(_counted(losses, rows), _total(rows, excess.dtype), reduction).astype(
        scores.dtype
    )


def _excess(s, rows, margin):
    """How far each wrong class comes within the margin of the right one; 0 for the right one.

    It is NaN for a right one that is infinite: a run that has gone wrong is not to look right.
    """
    return s - _of_label(s, rows)[..., None] + jnp.where(_is_label(s, rows), 0.0, margin)


def _multiclass_hinge_fwd(scores, labels, margin, power, class_weights, reduction):
    loss = _multiclass_hinge(scores, labels, margin, power, class_weights, reduction)
    return loss, (scores, labels, class_weights)


def _multiclass_hinge_bwd(margin, power, reduction, residuals, dloss):
    *given, class_weights = residuals
    scores, labels = (jnp.asarray(r) for r in given)  # (..., C), (...)
    rows = rows_of(labels, scores.shape[-1])
    excess = _excess(wide(scores), rows, margin)
    share, dweights = _share(dloss, rows, _total(rows, excess.dtype), reduction)[..., None], None
    if class_weights is not None:
        losses = (jnp.maximum(excess, 0.0) ** power).sum(-1, keepdims=True) * share
        dweights = _over_rows(jnp.where(_is_label(excess, rows), losses, 0.0), class_weights)
        share = share * _weights_of_labels(rows, _along_rows(class_weights, excess))[..., None]
    slope = excess > 0 if power == 1 else 2.0 * jnp.maximum(excess, 0.0)
    wrong = slope.astype(excess.dtype)
    right = -wrong.sum(-1, keepdims=True)
    ds = jnp.where(_is_label(excess, rows), right, wrong) * share
    return as_cotangent(ds, scores), None, dweights


multiclass_hinge.defvjp(_multiclass_hinge_fwd, _multiclass_hinge_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("reduction",))
def mean_squared_error(
    prediction: Float[Array, "*shape"],
    target: Float[Array, "*shape"],
    reduction: Reduction = "mean",
) -> Float[Array, ...]:
    r"""Mean squared error over all entries.

    Forward: $\frac{1}{N} \sum_i (p_i - t_i)^2$ over the N entries: the mean over rows of each row's
    mean. Backward: $dp_i = 2 (p_i - t_i)\,g_i$, $dt_i = -dp_i$ with an entry's share
    $g_i = d\text{loss} / N$ (for "sum" $d\text{loss}$, for "none" $d\text{loss}_i$). Keeps what it
    has been given.

    Args:
      prediction: any shape, a floating dtype.
      target: the same shape.
      reduction: "mean", "sum", or "none" for the square of each entry, which weights of rows or
        entries multiply.

    Returns:
      The loss in the common dtype, a scalar unless the reduction is "none".

    Raises:
      TypeError: an array is not of a floating dtype.
      ValueError: shapes differ, a mean is asked of no entries, or there is no such reduction.

    Source: courses.md row 4-4, whose terms are half of it.

    >>> mean_squared_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0]))
    Array(2., dtype=float64)
    """
    return _mean_squared_error(prediction, target, reduction)


def _mean_squared_error(prediction, target, reduction):
    prediction = _validate.floating("mean_squared_error", "prediction", prediction)
    target = _validate.floating("mean_squared_error", "target", target)
    _validate.shape(
        "mean_squared_error", "target", target, prediction.shape, "prediction has that shape"
    )
    _check_reduction("mean_squared_error", "prediction", prediction, reduction)
    dtype = jnp.result_type(prediction, target)
    squares = jnp.square(wide(prediction) - wide(target))
    return _reduced(squares, squares.size, reduction).astype(dtype)


def _mean_squared_error_fwd(prediction, target, reduction):
    return _mean_squared_error(prediction, target, reduction), (prediction, target)


def _mean_squared_error_bwd(reduction, residuals, dloss):
    prediction, target = (jnp.asarray(r) for r in residuals)  # the same shape
    share = wide(dloss) * (2.0 / prediction.size if reduction == "mean" else 2.0)
    d = (wide(prediction) - wide(target)) * share
    return as_cotangent((d, -d), (prediction, target))


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


# --- What is said to wrong input


def _scores(function, name, scores):
    scores = _validate.floating(function, name, scores)
    if scores.ndim < 1 or not scores.shape[-1]:
        raise ValueError(f"{function}: {name} has shape {scores.shape}, expected (..., classes).")
    return scores


def _are_probabilities(scores, labels):
    return (
        jnp.issubdtype(jnp.result_type(labels), jnp.floating) and jnp.shape(labels) == scores.shape
    )


def _check_labels(function, name, scores, labels):
    labels = _validate.integers(function, "labels", labels)
    _validate.shape(
        function,
        "labels",
        labels,
        scores.shape[:-1],
        f"{name} has shape {scores.shape}: one label for each row of classes",
    )


def _check_options(function, name, scores, class_weights, reduction):
    if class_weights is not None:
        _validate.shape(
            function,
            "class_weights",
            _validate.floating(function, "class_weights", class_weights),
            scores.shape[-1:],
            f"{name} has shape {scores.shape}: one weight for each class",
        )
    _check_reduction(function, name, scores, reduction)


def _check_reduction(function, name, array, reduction):
    if reduction not in get_args(Reduction):
        raise ValueError(
            f'{function}: reduction is {reduction!r}, expected "mean", "sum" or "none".'
        )
    if reduction == "mean" and not array.size:
        raise ValueError(
            f"{function}: {name} has shape {array.shape}, expected at least one row: the mean of "
            "no rows has no value."
        )


def _check_ignore_index(function, ignore_index, probabilities):
    if not hasattr(ignore_index, "__index__") or isinstance(ignore_index, bool):
        raise TypeError(
            f"{function}: ignore_index is {ignore_index!r}, expected an int, the label of the rows "
            "that do not count, or None."
        )
    if probabilities:
        raise ValueError(
            f"{function}: ignore_index is {ignore_index}, but labels are probabilities, which name "
            "no class; leave it out, and make the rows that do not count zeros."
        )


# --- Rows, their weights and their shares


class Rows(NamedTuple):
    """What the labels say of each row.

    Attributes:
      class_index: the class, 0 where the label is none; None for probabilities.
      valid: whether the label is a class.
      counted: whether the row counts; None where all do.
    """

    class_index: Array | None
    valid: Array
    counted: Array | None


def rows_of(labels: ArrayLike, classes: int, ignore_index: int | None = None) -> Rows:
    """Reads integer labels of any dtype, none of which is to become another on the way to int32."""
    labels, counted = jnp.asarray(labels), None
    if jnp.iinfo(labels.dtype).bits < 32:
        labels = labels.astype(jnp.int32)  # so that it can be compared with any number of classes
    valid = (labels >= 0) & (labels < classes)
    if ignore_index is not None:
        can_be = jnp.iinfo(labels.dtype).min <= ignore_index <= jnp.iinfo(labels.dtype).max
        counted = labels != ignore_index if can_be else jnp.ones_like(valid)
    return Rows(jnp.where(valid, labels, 0).astype(jnp.int32), valid, counted)


def _is_label(scores, rows):
    classes = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    classes = classes.reshape((1,) * rows.class_index.ndim + (-1,))
    return rows.class_index[..., None] == classes


def _of_label(scores, rows):
    """The score of each row's label, (...); of the first class where the label is none."""
    return entries_of(scores, rows.class_index)


def _product(factor, x):
    """The product, 0 where the factor is 0 and x infinite: what is ruled out and not asked for."""
    return factor * jnp.where((factor == 0.0) & jnp.isinf(x), 0.0, x)


def _along_rows(class_weights, scores):
    return jnp.expand_dims(jnp.asarray(class_weights).astype(scores.dtype), range(scores.ndim - 1))


def _over_rows(by_row, class_weights):
    """The cotangent of class weights, of what there is by row and class: the sum over the rows."""
    return as_cotangent(by_row.sum(range(by_row.ndim - 1)), jnp.asarray(class_weights))


def _weights_of_labels(rows, weights):
    return jnp.where(_is_label(weights, rows), weights, 0.0).sum(-1)


def _total(rows, dtype, weights=None):
    """What a mean divides by: the weights of the rows' labels, or the number of rows that count."""
    if weights is not None and rows.class_index is not None:
        return _counted(_weights_of_labels(rows, weights), rows).sum()
    return rows.valid.size if rows.counted is None else rows.counted.sum(dtype=dtype)


def _counted(x, rows):
    """What each row has, (...): NaN where its label is no class, and 0 where it does not count."""
    if rows.counted is None:
        return jnp.where(rows.valid, x, jnp.nan)
    # No NaN on the way to a row's 0: `jax_debug_nans` would take it for a mistake.
    return jnp.where(rows.counted, jnp.where(rows.valid | ~rows.counted, x, jnp.nan), 0.0)


def _reduced(losses, total, reduction):
    if reduction == "none":
        return losses
    return losses.sum() / total if reduction == "mean" else losses.sum()


def _share(dloss, rows, total, reduction):
    """Each row's share of dloss, (...)."""
    share = wide(dloss)
    return _counted(share / total if reduction == "mean" else share, rows)
