"""Rows of the losses and of the penalty."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import jax
import numpy as np
from numpy.random import Generator

from funcnet import losses, plain
from funcnet.catalogue import _bench as bench
from funcnet.catalogue._bench import BenchCase
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


def labelled(rng: Generator, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    scores = 2.0 * rng.normal(size=shape)
    return scores, rng.integers(shape[-1], size=shape[:-1]).astype(np.int32)


def weights(rng: Generator, classes: int) -> np.ndarray:
    return rng.uniform(0.5, 2.0, classes)


def probabilities(rng: Generator, *shape: int) -> np.ndarray:
    q = rng.uniform(0.1, 1.0, shape)
    return q / q.sum(-1, keepdims=True)


def far_from_margin(rng: Generator, margin: float, *more: Any, **static: Any) -> Sample:
    while True:
        scores, labels = labelled(rng, 4, 5)
        excess = scores - scores[np.arange(4), labels][:, None] + margin
        excess[np.arange(4), labels] = 1.0
        if np.abs(excess).min() > 0.02:
            more = (margin, *more) if more else ()
            return Sample((scores, labels, *more), static if more else {"margin": margin})


def log_odds(rng: Generator, *shape: int) -> np.ndarray:
    """Logits, one of them 0, where |z| has a corner and the loss has none."""
    z = 2.0 * rng.normal(size=shape)
    z.flat[0] = 0.0
    return z


def by_turns(*shape: int, dtype: Any = np.int32) -> np.ndarray:
    """Labels that are 0 and 1 by turns."""
    return (np.indices(shape).sum(0) % 2).astype(dtype)


def in_pairs(sample: Sample) -> Sample:
    """The rows two by two."""
    scores, labels, *rest = sample.args
    rows = labels.reshape(-1, 2)
    return sample._replace(args=(scores.reshape(*rows.shape, -1), rows, *rest))


def label_refusals(name: str) -> tuple[Refusal, ...]:
    scores, labels = np.ones((2, 3)), np.zeros(2, np.int32)
    return (
        type_error("integer scores", INTEGERS, labels, match=f"{name} has dtype int"),
        type_error("float labels", scores, np.zeros(2), match="labels has dtype float64"),
        type_error("one-hot rows", scores, np.ones((2, 3), bool), match="argmax"),
        type_error("bools", scores, np.ones(2, bool), match="labels has dtype bool"),
        value_error("too few labels", scores, labels[:1], match="one label for each row"),
        value_error("no rows", scores[:0], labels[:0], match="at least one row"),
        value_error("no classes", scores[:, :0], labels, match="expected .*classes"),
        value_error(
            "another reduction",
            scores,
            labels,
            reduction="average",
            match='reduction is \'average\', expected "mean", "sum" or "none"',
        ),
        value_error(
            "weights of other classes",
            scores,
            labels,
            class_weights=np.ones(2),
            match=r"class_weights has shape \(2,\), expected \(3,\)",
        ),
        type_error(
            "integer weights",
            scores,
            labels,
            class_weights=np.ones(3, int),
            match="class_weights has dtype int",
        ),
    )


def scores_and_labels(rng: Generator, n: int, c: int) -> tuple[Any, ...]:
    return bench.normal(rng, n, c), bench.labels(rng, n, c)


NAN_ROW = np.array([[np.nan] * 2, [0.25, -0.25]])
RULED_OUT = np.array([[0.0, -np.inf]])
PENALISED = {"affine1": AffineParams(np.full((2, 1), 3.0), np.full(1, 5.0))}

ROWS = (
    Row(
        function=losses.softmax_cross_entropy,
        plain=plain.softmax_cross_entropy,
        kind="reduction",
        samples=lambda rng: [
            Sample(labelled(rng, 4, 5)),
            Sample(labelled(rng, 3, 4), {"label_smoothing": 0.1}),
            Sample(labelled(rng, 2, 3, 4), {"label_smoothing": 0.2, "reduction": "none"}),
            Sample((*labelled(rng, 2, 3, 5), 0.1, weights(rng, 5)), {"ignore_index": 2}),
            Sample((*labelled(rng, 4, 3), 0.0, weights(rng, 3)), {"reduction": "none"}),
            Sample((*labelled(rng, 3, 4), 0.2, weights(rng, 4)), {"reduction": "sum"}),
            Sample(
                (2.0 * rng.normal(size=(6, 3)), np.array([0, 255, 1, 255, 2, 1], np.int16)),
                {"ignore_index": 255},
            ),
            Sample((2.0 * rng.normal(size=(3, 4)), probabilities(rng, 3, 4))),
            Sample(
                (rng.normal(size=(2, 3, 4)), probabilities(rng, 2, 3, 4), 0.1, weights(rng, 4)),
                {"reduction": "none"},
            ),
        ],
        reduction=lambda sample: size(sample.args[0]),
        residual_bytes=lambda sample, itemsize: size(sample.args[0][..., 0]) * wide_bytes(itemsize),
        empty="is refused",
        conventions=(
            Case(
                "huge logits",
                Sample((np.array([[1e4, -1e4], [-3e38, 3e38]]), np.array([0, 1]))),
                np.zeros(()),
                (np.zeros((2, 2)), None),
            ),
            Case(
                "equal logits, however large",
                Sample((np.array([[1e30] * 3, [-1e30] * 3]), np.array([0, 2]))),
                np.log(3.0),
                (np.array([[-2.0, 1.0, 1.0], [1.0, 1.0, -2.0]]) / 6.0, None),
            ),
            Case(
                "an infinite logit of another class",
                Sample((np.array([[0.0, np.inf]]), np.array([0]))),
                np.inf,
                (np.array([[-1.0, np.nan]]), None),
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
                (NAN_ROW, None),
            ),
            Case(
                "a negative label",
                Sample((np.zeros((2, 2)), np.array([-1, 1]))),
                np.nan,
                (NAN_ROW, None),
            ),
            Case(
                "a label that 32 bits would make another",
                Sample((np.zeros((2, 2)), np.array([2**32 + 1, 1]))),
                np.nan,
                (NAN_ROW, None),
            ),
            Case(
                "a label of unknown weight",
                Sample((np.zeros((2, 2)), np.array([-1, 1]), 0.0, np.ones(2))),
                np.nan,
                (np.full((2, 2), np.nan), None, None, np.full(2, np.nan)),
            ),
            Case(
                "an ignored row, whatever is in it",
                Sample(
                    (np.array([[0.0, 0.0], [np.nan, np.inf]]), np.array([1, -100])),
                    {"ignore_index": -100},
                ),
                np.log(2.0),
                (np.array([[0.5, -0.5], [0.0, 0.0]]), None),
            ),
            Case(
                "a label out of range, where another is ignored",
                Sample((np.zeros((2, 2)), np.array([2, 1])), {"ignore_index": -100}),
                np.nan,
                (NAN_ROW, None),
            ),
            Case(
                "no row that counts",
                Sample((np.zeros((1, 2)), np.array([1])), {"ignore_index": 1}),
                np.nan,
                (np.zeros((1, 2)), None),
            ),
            Case(
                "a class ruled out that has no probability",
                Sample((np.array([[0.0, -np.inf, 0.0]]), np.array([[0.5, 0.0, 0.5]]))),
                np.log(2.0),
                (np.zeros((1, 3)), np.array([[np.log(2.0), np.inf, np.log(2.0)]])),
            ),
            Case(
                "a class ruled out that has no weight",
                Sample((RULED_OUT, np.array([0]), 0.5, np.array([1.0, 0.0]))),
                np.zeros(()),
                (np.zeros((1, 2)), None, None, np.array([0.0, np.inf])),
            ),
            Case(
                "a class ruled out that has neither probability nor weight",
                Sample((RULED_OUT, np.array([[1.0, 0.0]]), 0.0, np.array([1.0, 0.0]))),
                np.zeros(()),
                (np.zeros((1, 2)), np.zeros((1, 2)), None, np.zeros(2)),
            ),
            Case(
                "the least label of its dtype, ignored",
                Sample(
                    (np.zeros((2, 2)), np.array([-(2**31), 1], np.int32)),
                    {"ignore_index": -(2**31)},
                ),
                np.log(2.0),
                (np.array([[0.0, 0.0], [0.5, -0.5]]), None),
            ),
            Case(
                "the largest label of its dtype, where -1 is ignored",
                Sample(
                    (np.zeros((2, 2)), np.array([2**32 - 1, 1], np.uint32)), {"ignore_index": -1}
                ),
                np.nan,
                (NAN_ROW, None),
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
            type_error(
                "a fraction to ignore",
                np.ones((2, 3)),
                np.zeros(2, int),
                ignore_index=1.5,
                match="ignore_index is 1.5, expected an int",
            ),
            value_error(
                "probabilities to ignore",
                np.ones((2, 3)),
                np.ones((2, 3)),
                ignore_index=0,
                match="labels are probabilities, which name no class",
            ),
        ),
        bench=bench.losses(scores_and_labels),
    ),
    Row(
        function=losses.multiclass_hinge,
        plain=plain.multiclass_hinge,
        kind="reduction",
        samples=lambda rng: [
            far_from_margin(rng, 1.0),
            far_from_margin(rng, 0.3),
            far_from_margin(rng, 0.5, 2, weights(rng, 5)),
            in_pairs(far_from_margin(rng, 1.0, 1, weights(rng, 5), reduction="none")),
        ],
        reduction=lambda sample: size(sample.args[0]),
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
            Case(
                "a label that 32 bits would make another",
                Sample((np.array([[0.0, 0.0], [0.0, 9.0]]), np.array([2**32 + 1, 1]))),
                np.nan,
                (np.array([[np.nan] * 2, [0.0, 0.0]]), None),
            ),
            Case(
                "a class ruled out",
                Sample((np.array([[0.0, -np.inf, 0.0]]), np.array([0])), {"power": 2}),
                np.ones(()),
                (np.array([[-2.0, 0.0, 2.0]]), None),
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
            value_error(
                "power 3",
                np.ones((2, 3)),
                np.zeros(2, int),
                power=3,
                match="power is 3, expected 1 or 2",
            ),
        ),
        bench=bench.losses(scores_and_labels),
    ),
    Row(
        function=losses.binary_cross_entropy,
        plain=plain.binary_cross_entropy,
        kind="reduction",
        samples=lambda rng: [
            Sample((log_odds(rng, 3, 4), by_turns(3, 4))),
            Sample((log_odds(rng, 3, 4), rng.uniform(size=(3, 4)))),
            Sample(
                (log_odds(rng, 2, 3, 4), by_turns(2, 3, 4, dtype=np.int8), 0.1, weights(rng, 4))
            ),
            Sample(
                (log_odds(rng, 2, 3), rng.uniform(size=(2, 3)), 0.2, weights(rng, 3)),
                {"reduction": "sum"},
            ),
            Sample(
                (log_odds(rng, 5), by_turns(5, dtype=np.uint16), 0.0, np.array(3.0)),
                {"reduction": "none"},
            ),
        ],
        reduction=lambda sample: size(sample.args[0]),
        empty="is refused",
        conventions=(
            Case(
                "confident logits that are right",
                Sample((np.array([40.0, -40.0]), np.array([1, 0])), {"reduction": "none"}),
                np.full(2, np.exp(-40.0)),
                (np.array([-1.0, 1.0]) * np.exp(-40.0), None),
            ),
            Case(
                "infinite logits that the labels agree with",
                Sample((np.array([[np.inf, -np.inf]]), np.array([[1, 0]]))),
                np.zeros(()),
                (np.zeros((1, 2)), None),
            ),
            Case(
                "infinite logits that they do not agree with",
                Sample((np.array([[np.inf, -np.inf]]), np.array([[0, 1]]))),
                np.inf,
                (np.array([[0.5, -0.5]]), None),
            ),
            Case(
                "infinite logits and probabilities that agree",
                Sample(
                    (np.array([np.inf, -np.inf]), np.array([1.0, 0.0]), 0.0, np.full(2, 3.0)),
                    {"reduction": "sum"},
                ),
                np.zeros(()),
                (np.zeros(2), np.array([-np.inf, np.inf]), None, np.zeros(2)),
            ),
            Case(
                "an infinite logit under smoothing",
                Sample(
                    (np.array([0.0, np.inf]), np.array([1, 1])),
                    {"label_smoothing": 0.5, "reduction": "none"},
                ),
                np.array([np.log(2.0), np.inf]),
                (np.array([-0.25, 0.25]), None),
            ),
            Case(
                "positives that weigh nothing, whatever they cost",
                Sample((np.array([0.0, -np.inf]), np.array([0, 1]), 0.0, np.zeros(()))),
                np.log(2.0) / 2,
                (np.array([0.25, 0.0]), None, None, np.array(np.inf)),
            ),
            Case(
                "probabilities that weigh nothing, whatever they cost",
                Sample((np.array([-np.inf]), np.ones(1), 0.0, np.zeros(1))),
                np.zeros(()),
                (np.zeros(1), np.zeros(1), None, np.full(1, np.inf)),
            ),
            Case(
                "a logit that is NaN",
                Sample((np.array([np.nan, 0.0]), np.array([1, 1]))),
                np.nan,
                (np.array([np.nan, -0.25]), None),
            ),
            *(
                Case(
                    why,
                    Sample((np.zeros((1, 2)), np.array([[label, 1]]), 0.0, np.ones(2))),
                    np.nan,
                    (np.array([[np.nan, -0.25]]), None, None, np.array([np.nan, np.log(2.0) / 2])),
                )
                for why, label in (
                    ("a label out of range", 2),
                    ("a negative label", -1),
                    ("a label that 32 bits would make another", 2**32 + 1),
                )
            ),
        ),
        refusals=(
            type_error("integer logits", INTEGERS, INTEGERS, match="logits has dtype int"),
            type_error(
                "complex labels",
                np.ones(2),
                np.ones(2, complex),
                match="labels has dtype complex128, expected integers or booleans, or prob",
            ),
            value_error(
                "one class a row",
                np.ones((2, 3)),
                np.zeros(2, int),
                match=r"labels has shape \(2,\), expected \(2, 3\).*softmax_cross_entropy",
            ),
            value_error("a column", np.ones(2), np.zeros((2, 1)), match=r"expected \(2,\)"),
            value_error("nothing", np.ones((0, 2)), np.ones((0, 2)), match="at least one"),
            value_error(
                "smoothing 1", np.ones(2), np.ones(2), label_smoothing=1.0, match="smoothing is 1"
            ),
            value_error(
                "weights of other labels",
                np.ones((2, 3)),
                np.ones((2, 3)),
                pos_weight=np.ones(2),
                match=r"pos_weight has shape \(2,\), expected \(3,\)",
            ),
            type_error(
                "integer weights",
                np.ones((2, 3)),
                np.ones((2, 3)),
                pos_weight=np.ones(3, int),
                match="pos_weight has dtype int",
            ),
            value_error(
                "another reduction",
                np.ones(2),
                np.ones(2),
                reduction="batchmean",
                match="reduction is 'batchmean'",
            ),
        ),
        bench=bench.losses(lambda rng, n, c: (bench.normal(rng, n, c), bench.binary(rng, n, c))),
    ),
    Row(
        function=losses.mean_squared_error,
        plain=plain.mean_squared_error,
        kind="reduction",
        samples=lambda rng: [
            Sample((rng.normal(size=shape), rng.normal(size=shape)), static)
            for shape, static in (
                ((3, 4), {}),
                ((5,), {"reduction": "sum"}),
                ((), {}),
                ((2, 3), {"reduction": "none"}),
            )
        ],
        reduction=lambda sample: size(sample.args[0]),
        empty="is refused",
        refusals=(
            value_error("shapes", np.ones((2, 1)), np.ones(2), match=r"expected \(2, 1\)"),
            value_error("nothing", np.ones((0, 2)), np.ones((0, 2)), match="at least one"),
            type_error("integers", np.ones(2), np.ones(2, int), match="target has dtype int"),
            value_error(
                "another reduction",
                np.ones(2),
                np.ones(2),
                reduction="batchmean",
                match="reduction is 'batchmean'",
            ),
        ),
        bench=bench.losses(lambda rng, n, c: (bench.normal(rng, n, c), bench.normal(rng, n, c))),
    ),
    Row(
        function=losses.l2_penalty,
        plain=plain.l2_penalty,
        kind="reduction",
        samples=lambda rng: [
            Sample(
                (
                    {"a": affine_params(rng, 3, 4), "c": conv_params(rng, 2, 2, 1, 3)},
                    np.array(0.3),
                )
            ),
            Sample(((affine_params(rng, 2, 2), norm_params(rng, 2)), np.array(2.0))),
        ],
        reduction=lambda sample: sum(size(w) for w in jax.tree.leaves(sample.args[0])),
        conventions=(
            Case(
                "the half, and the free bias",
                Sample((PENALISED, np.array(0.5))),
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
        bench=(
            BenchCase(
                "3072-500-500-500-10",
                lambda rng: (
                    {
                        f"affine{i}": bench.affine(rng, d, m)
                        for i, (d, m) in enumerate(pairwise((3072, 500, 500, 500, 10)), 1)
                    },
                    np.float32(0.1),
                ),
            ),
        ),
    ),
)
