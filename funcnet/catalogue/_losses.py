"""Rows of the losses and of the penalty."""

from __future__ import annotations

import jax
import numpy as np
from numpy.random import Generator

from funcnet import losses, plain
from funcnet.catalogue._row import (
    INTEGERS,
    Case,
    Refusal,
    Row,
    Sample,
    affine_params,
    conv_params,
    norm_params,
    size,
    type_error,
    value_error,
    wide_bytes,
)
from funcnet.layers import AffineParams


def rows() -> list[Row]:
    """The rows of this family."""

    def labelled(rng: Generator, *shape: int) -> tuple[np.ndarray, np.ndarray]:
        scores = 2.0 * rng.normal(size=shape)
        return scores, rng.integers(shape[-1], size=shape[:-1]).astype(np.int32)

    def far_from_margin(rng: Generator, margin: float) -> Sample:
        while True:
            scores, labels = labelled(rng, 4, 5)
            excess = scores - scores[np.arange(4), labels][:, None] + margin
            excess[np.arange(4), labels] = 1.0
            if np.abs(excess).min() > 0.02:
                return Sample((scores, labels), {"margin": margin})

    def label_refusals(name: str) -> tuple[Refusal, ...]:
        scores, labels = np.ones((2, 3)), np.zeros(2, np.int32)
        return (
            type_error("integer scores", INTEGERS, labels, match=f"{name} has dtype int"),
            type_error("float labels", scores, np.zeros(2), match="labels has dtype float64"),
            type_error("one-hot rows", scores, np.ones((2, 3)), match="argmax"),
            type_error("bools", scores, np.ones(2, bool), match="labels has dtype bool"),
            value_error("too few labels", scores, labels[:1], match="one label for each row"),
            value_error("no rows", scores[:0], labels[:0], match="at least one row"),
            value_error("no classes", scores[:, :0], labels, match="expected .*classes"),
        )

    nan_row = np.array([[np.nan] * 2, [0.25, -0.25]])
    penalised = {"affine1": AffineParams(np.full((2, 1), 3.0), np.full(1, 5.0))}
    return [
        Row(
            losses.softmax_cross_entropy,
            plain.softmax_cross_entropy,
            "reduction",
            lambda rng: [
                Sample(labelled(rng, 4, 5)),
                Sample(labelled(rng, 3, 4), {"label_smoothing": 0.1}),
                Sample(labelled(rng, 2, 3, 4)),
            ],
            lambda sample: size(sample.args[0]),
            lambda sample, itemsize: size(sample.args[1]) * wide_bytes(itemsize),
            empty="is refused",
            conventions=(
                Case(
                    "huge logits",
                    Sample((np.array([[1e4, -1e4], [-3e38, 3e38]]), np.array([0, 1]))),
                    np.zeros(()),
                    (np.zeros((2, 2)), None),
                ),
                Case(
                    "a class ruled out",
                    Sample((np.array([[0.0, -np.inf, 0.0]]), np.array([0]))),
                    np.log(2.0),
                    (np.array([[-0.5, 0.0, 0.5]]), None),
                ),
                Case(
                    "a label out of range",
                    Sample((np.zeros((2, 2)), np.array([2, 1]))),
                    np.nan,
                    (nan_row, None),
                ),
                Case(
                    "a negative label",
                    Sample((np.zeros((2, 2)), np.array([-1, 1]))),
                    np.nan,
                    (nan_row, None),
                ),
            ),
            refusals=(
                *label_refusals("logits"),
                value_error(
                    "smoothing 1",
                    np.ones((2, 3)),
                    np.zeros(2, int),
                    label_smoothing=1.0,
                    match="label_smoothing is 1.0",
                ),
            ),
        ),
        Row(
            losses.multiclass_hinge,
            plain.multiclass_hinge,
            "reduction",
            lambda rng: [far_from_margin(rng, 1.0), far_from_margin(rng, 0.3)],
            lambda sample: size(sample.args[0]),
            empty="is refused",
            conventions=(
                Case(
                    "at the margin the gradient is 0",
                    Sample((np.array([[1.0, 0.0]]), np.array([0]))),
                    np.zeros(()),
                    (np.zeros((1, 2)), None),
                ),
                Case(
                    "a label out of range",
                    Sample((np.array([[0.0, 0.0], [0.0, 9.0]]), np.array([2, 1]))),
                    np.nan,
                    (np.array([[np.nan] * 2, [0.0, 0.0]]), None),
                ),
            ),
            refusals=(
                *label_refusals("scores"),
                value_error(
                    "negative margin",
                    np.ones((2, 3)),
                    np.zeros(2, int),
                    margin=-1.0,
                    match="margin is -1.0",
                ),
            ),
        ),
        Row(
            losses.mean_squared_error,
            plain.mean_squared_error,
            "reduction",
            lambda rng: [
                Sample((rng.normal(size=s), rng.normal(size=s))) for s in ((3, 4), (5,), ())
            ],
            lambda sample: size(sample.args[0]),
            empty="is refused",
            refusals=(
                value_error("shapes", np.ones((2, 1)), np.ones(2), match=r"expected \(2, 1\)"),
                value_error("nothing", np.ones((0, 2)), np.ones((0, 2)), match="at least one"),
                type_error("integers", np.ones(2), np.ones(2, int), match="target has dtype int"),
            ),
        ),
        Row(
            losses.l2_penalty,
            plain.l2_penalty,
            "reduction",
            lambda rng: [
                Sample(
                    (
                        {"a": affine_params(rng, 3, 4), "c": conv_params(rng, 2, 2, 1, 3)},
                        np.array(0.3),
                    )
                ),
                Sample(((affine_params(rng, 2, 2), norm_params(rng, 2)), np.array(2.0))),
            ],
            lambda sample: sum(size(w) for w in jax.tree.leaves(sample.args[0])),
            conventions=(
                Case(
                    "the half, and the free bias",
                    Sample((penalised, np.array(0.5))),
                    np.array(4.5),
                    (
                        {"affine1": AffineParams(np.full((2, 1), 1.5), np.zeros(1))},
                        np.array(9.0),
                    ),
                ),
                Case(
                    "weights of several dtypes",
                    Sample(([np.ones((1, 2), np.float32), np.ones((2, 2))], np.array(0.5))),
                    np.array(1.5),
                    ([np.full((1, 2), 0.5, np.float32), np.full((2, 2), 0.5)], np.array(3.0)),
                ),
            ),
            refusals=(
                type_error(
                    "integers", {"w": np.ones((2, 2), int)}, 0.1, match=r"params\['w'\] has dtype"
                ),
            ),
        ),
    ]
