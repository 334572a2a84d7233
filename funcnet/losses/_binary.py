"""The loss of labels that are each there or not, with its rule directly under it."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Integer

from funcnet import _validate
from funcnet.kernels import as_cotangent, wide
from funcnet.losses._check import check_binary_labels, check_pos_weight, check_reduction
from funcnet.losses._rows import (
    Reduction,
    Rows,
    along_rows,
    counted,
    over_rows,
    product,
    reduced,
    share_of,
    total,
)


@partial(jax.custom_vjp, nondiff_argnames=("label_smoothing", "reduction"))
def binary_cross_entropy(
    logits: Float[Array, "*batch k"],
    labels: Integer[Array, "*batch k"] | Bool[Array, "*batch k"] | Float[Array, "*batch k"],
    label_smoothing: float = 0.0,
    pos_weight: Float[ArrayLike, " k"] | Float[ArrayLike, ""] | None = None,
    reduction: Reduction = "mean",
) -> Float[Array, "*_"]:
    r"""Mean binary cross-entropy of the sigmoid of logits: of k labels a row, any of them there.

    Forward: with $\ell_{ik} = \log(1 + e^{-z_{ik}})$, what a label of 1 costs, and
    $\bar\ell_{ik} = \log(1 + e^{z_{ik}})$, what one of 0 does, an entry's loss is
    $L_{ik} = w_k t_{ik} \ell_{ik} + (1 - t_{ik})\,\bar\ell_{ik}$ with the weights w of the
    positives, or 1. The target $t_{ik} = (1 - s)\,q_{ik} + s / 2$ is the label, or the probability
    of it, smoothed by s. The mean is $\frac{1}{N} \sum_{ik} L_{ik}$ over the N entries, weighted or
    not: over rows and labels.
    Backward: with $p_{ik} = 1 / (1 + e^{-z_{ik}})$ and an entry's share $g_{ik} = d\text{loss} / N$
    (for "sum" $d\text{loss}$, for "none" $d\text{loss}_{ik}$):
    $dz_{ik} = \left((1 - t_{ik})\,p_{ik} - w_k t_{ik} (1 - p_{ik})\right) g_{ik}$,
    $dq_{ik} = (1 - s) \left(w_k \ell_{ik} - \bar\ell_{ik}\right) g_{ik}$ and
    $dw_k = \sum_i t_{ik} \ell_{ik}\,g_{ik}$. Keeps what it has been given.

    An integer that is neither 0 nor 1 makes the loss and its entry's gradient NaN: it is never
    clamped. Probabilities are taken as they are. An infinite logit counts nothing where the target
    agrees with it, and makes the loss infinite anywhere else, and so under smoothing.

    Args:
      logits: (..., k), any shape, a floating dtype.
      labels: the same shape, integers or booleans; or probabilities of a floating dtype.
      label_smoothing: a static number s in [0, 1).
      pos_weight: (k,), or a scalar for all labels, a floating dtype; None for ones.
      reduction: "mean", "sum", or "none" for the loss of each entry, which weights of rows or
        entries multiply.

    Returns:
      The loss in the dtype of the logits, a scalar unless the reduction is "none".

    Raises:
      TypeError: logits or weights are not of a floating dtype, labels are not of a dtype above, or
        s is no number.
      ValueError: shapes do not fit, a mean is asked of no entries, s is outside [0, 1), or there is
        no such reduction.

    Source: the options are those of torch.nn.functional.binary_cross_entropy_with_logits, the
    smoothing that of keras.losses.BinaryCrossentropy.

    >>> binary_cross_entropy(jnp.zeros((2, 3)), jnp.array([[0, 1, 1], [0, 0, 1]]))
    Array(0.69314718, dtype=float64)
    >>> binary_cross_entropy(jnp.array([3.0, -jnp.inf]), jnp.array([True, False]), reduction="none")
    Array([0.04858735, 0.        ], dtype=float64)
    """
    return _binary_cross_entropy(logits, labels, label_smoothing, pos_weight, reduction)


def _binary_cross_entropy(logits, labels, label_smoothing, pos_weight, reduction):
    function = "binary_cross_entropy"
    logits = _validate.floating(function, "logits", logits)
    _validate.number(function, "label_smoothing", label_smoothing, low=0.0, high=1.0)
    check_binary_labels(function, logits, labels)
    check_pos_weight(function, logits, pos_weight)
    check_reduction(function, "logits", logits, reduction)
    z, rows, target, weight = _binary_terms(logits, labels, label_smoothing, pos_weight)
    of_one, of_zero = _costs(z)
    losses = product(weight * target, of_one) + product(1.0 - target, of_zero)
    return reduced(counted(losses, rows), total(rows, z.dtype), reduction).astype(logits.dtype)


def _binary_terms(logits, labels, label_smoothing, pos_weight):
    """What both ways need: wide logits, the entries, each as a row of its own, targets, weights."""
    z, labels = wide(logits), jnp.asarray(labels)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        valid = (labels == 0) | (labels == 1)
    else:
        valid = jnp.ones_like(z, bool)
    target = (1.0 - label_smoothing) * labels.astype(z.dtype) + label_smoothing / 2
    weight = 1.0 if pos_weight is None else along_rows(pos_weight, z)
    return z, Rows(None, valid, None), target, weight


def _costs(z):
    """What a label of 1 and one of 0 cost, each right to eps of itself, from one exponential."""
    e, below = _small_side(z)
    log = jnp.log1p(e)
    return log + jnp.where(below, -z, 0.0), log + jnp.where(below, 0.0, z)


def _probabilities(z):
    """Those of 1 and of 0, in the same way."""
    e, below = _small_side(z)
    large = 1.0 / (1.0 + e)
    small = e * large
    return jnp.where(below, small, large), jnp.where(below, large, small)


def _small_side(z):
    """The smaller one of e^z and e^-z, and whether it is e^z."""
    return jnp.exp(-jnp.abs(z)), z < 0


def _binary_cross_entropy_fwd(logits, labels, label_smoothing, pos_weight, reduction):
    loss = _binary_cross_entropy(logits, labels, label_smoothing, pos_weight, reduction)
    return loss, (logits, labels, pos_weight)


def _binary_cross_entropy_bwd(label_smoothing, reduction, residuals, dloss):
    *given, pos_weight = residuals
    logits, labels = (jnp.asarray(r) for r in given)  # the same shape
    z, rows, target, weight = _binary_terms(logits, labels, label_smoothing, pos_weight)
    share = share_of(dloss, rows, total(rows, z.dtype), reduction)
    p_one, p_zero = _probabilities(z)
    dz = ((1.0 - target) * p_one - weight * target * p_zero) * share
    of_one, of_zero = _costs(z)
    dlabels = dweight = None
    if jnp.issubdtype(labels.dtype, jnp.floating):
        # The logarithms of both cancel where the weights are ones, and then only to rounding.
        gap = -z if pos_weight is None else product(weight, of_one) - of_zero
        dlabels = as_cotangent((1.0 - label_smoothing) * share * gap, labels)
    if pos_weight is not None:
        dweight = over_rows(product(target, of_one) * share, pos_weight)
    return as_cotangent(dz, logits), dlabels, dweight


binary_cross_entropy.defvjp(_binary_cross_entropy_fwd, _binary_cross_entropy_bwd)
