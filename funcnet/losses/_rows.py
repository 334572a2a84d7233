"""Rows, their weights and their shares of a loss."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from funcnet.kernels import as_cotangent, entries_of, wide

Reduction = Literal["mean", "sum", "none"]


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


def are_probabilities(scores, labels):
    return (
        jnp.issubdtype(jnp.result_type(labels), jnp.floating) and jnp.shape(labels) == scores.shape
    )


def is_label(scores, rows):
    classes = jnp.arange(scores.shape[-1], dtype=jnp.int32)
    classes = classes.reshape((1,) * rows.class_index.ndim + (-1,))
    return rows.class_index[..., None] == classes


def of_label(scores, rows):
    """The score of each row's label, (...); of the first class where the label is none."""
    return entries_of(scores, rows.class_index)


def product(factor, x):
    """The product, 0 where the factor is 0 and x infinite: what is ruled out and not asked for."""
    return factor * jnp.where((factor == 0.0) & jnp.isinf(x), 0.0, x)


def along_rows(weights, scores):
    """Weights of classes, or a scalar for all of them, with an axis for each of the scores'."""
    weights = jnp.asarray(weights).astype(scores.dtype)
    return jnp.expand_dims(weights, range(scores.ndim - weights.ndim))


def over_rows(by_row, weights):
    """The cotangent of such weights, of what there is by row and class: the sum over the rows."""
    weights = jnp.asarray(weights)
    return as_cotangent(by_row.sum(range(by_row.ndim - weights.ndim)), weights)


def weights_of_labels(rows, weights):
    return jnp.where(is_label(weights, rows), weights, 0.0).sum(-1)


def total(rows, dtype, weights=None):
    """What a mean divides by: the weights of the rows' labels, or the number of rows that count."""
    if weights is not None and rows.class_index is not None:
        return counted(weights_of_labels(rows, weights), rows).sum()
    return rows.valid.size if rows.counted is None else rows.counted.sum(dtype=dtype)


def counted(x, rows):
    """What each row has, (...): NaN where its label is no class, and 0 where it does not count."""
    if rows.counted is None:
        return jnp.where(rows.valid, x, jnp.nan)
    # No NaN on the way to a row's 0: `jax_debug_nans` would take it for a mistake.
    return jnp.where(rows.counted, jnp.where(rows.valid | ~rows.counted, x, jnp.nan), 0.0)


def reduced(losses, total, reduction):
    if reduction == "none":
        return losses
    return losses.sum() / total if reduction == "mean" else losses.sum()


def share_of(dloss, rows, total, reduction):
    """Each row's share of dloss, (...)."""
    share = wide(dloss)
    return counted(share / total if reduction == "mean" else share, rows)
