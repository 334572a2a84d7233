"""What losses say to wrong input."""

from __future__ import annotations

from typing import get_args

import jax.numpy as jnp

from funcnet import _validate
from funcnet.losses._rows import Reduction


def check_scores(function, name, scores):
    scores = _validate.floating(function, name, scores)
    if scores.ndim < 1 or not scores.shape[-1]:
        raise ValueError(f"{function}: {name} has shape {scores.shape}, expected (..., classes).")
    return scores


def check_labels(function, name, scores, labels):
    labels = _validate.integers(function, "labels", labels)
    _validate.shape(
        function,
        "labels",
        labels,
        scores.shape[:-1],
        f"{name} has shape {scores.shape}: one label for each row of classes",
    )


def check_binary_labels(function, logits, labels):
    labels = jnp.asarray(labels)
    whole = labels.dtype == bool or jnp.issubdtype(labels.dtype, jnp.integer)
    if not whole and labels.dtype not in _validate.FLOATING:
        raise TypeError(
            f"{function}: labels has dtype {labels.dtype}, expected integers or booleans, or "
            "probabilities of a floating dtype."
        )
    _validate.shape(
        function,
        "labels",
        labels,
        logits.shape,
        "logits has that shape: one label for each logit; softmax_cross_entropy takes one class "
        "for each row",
    )


def check_pos_weight(function, logits, pos_weight):
    if pos_weight is None:
        return
    weight = _validate.floating(function, "pos_weight", pos_weight)
    if weight.ndim:
        _validate.shape(
            function,
            "pos_weight",
            weight,
            logits.shape[-1:],
            f"logits has shape {logits.shape}: one weight for each label, or a scalar for all",
        )


def check_options(function, name, scores, class_weights, reduction):
    if class_weights is not None:
        _validate.shape(
            function,
            "class_weights",
            _validate.floating(function, "class_weights", class_weights),
            scores.shape[-1:],
            f"{name} has shape {scores.shape}: one weight for each class",
        )
    check_reduction(function, name, scores, reduction)


def check_reduction(function, name, array, reduction):
    if reduction not in get_args(Reduction):
        raise ValueError(
            f'{function}: reduction is {reduction!r}, expected "mean", "sum" or "none".'
        )
    if reduction == "mean" and not array.size:
        raise ValueError(
            f"{function}: {name} has shape {array.shape}, expected at least one row: the mean of "
            "no rows has no value."
        )


def check_ignore_index(function, ignore_index, probabilities):
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
