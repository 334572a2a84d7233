"""Rows of the normalisations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator

from funcnet import layers, plain
from funcnet.catalogue import _bench as bench
from funcnet.catalogue._row import (
    Case,
    Refusal,
    Row,
    Sample,
    batch_stats,
    no_integers,
    norm_params,
    size,
    type_error,
    value_error,
    wide_bytes,
)
from funcnet.layers import BatchStats, NormParams

NONE = NormParams(None, None)


def rows_and_images(rng: Generator) -> list[Sample]:
    return [
        Sample((norm_params(rng, 3), 2.0 * rng.normal(size=(5, 3)) + 1.0)),
        Sample((norm_params(rng, 2), rng.normal(size=(2, 3, 2, 2))), {"eps": 1e-3}),
        Sample((norm_params(rng, 3)._replace(beta=None), rng.normal(size=(4, 3)))),
        Sample((NONE, rng.normal(size=(4, 3)))),
    ]


def channels(c: int) -> NormParams:
    return NormParams(np.ones(c), np.ones(c))


def norm_refusals(*options: Any, stats: bool = False) -> tuple[Refusal, ...]:
    def args(x: Any, c: int = 3) -> tuple[Any, ...]:
        middle = (BatchStats(np.ones(3), np.ones(3)),) if stats else ()
        return (channels(c), *middle, x, *options)

    return (
        no_integers(args),
        value_error("channels", *args(np.ones((4, 3)), 2), match="params.gamma has shape"),
        value_error(
            "channels of the shift",
            channels(3)._replace(beta=np.ones(2)),
            *args(np.ones((4, 3)))[1:],
            match="params.beta has shape",
        ),
        value_error(
            "eps 0", *args(np.ones((4, 3))), eps=0.0, match=r"eps is 0.0, expected .* \(0.0"
        ),
        type_error("eps a word", *args(np.ones((4, 3))), eps="x", match="a Python number"),
    )


def batch_refusals(args: Callable[[Any], tuple[Any, ...]]) -> tuple[Refusal, ...]:
    return (
        value_error("one row", *args(np.ones((1, 3))), match="of the 3 channels, expected at"),
        value_error("no rows", *args(np.ones((0, 3))), match="0 value"),
    )


def per_row(numbers: int) -> Callable[[Sample, int], int]:
    return lambda sample, itemsize: numbers * size(sample.args[1][..., 0]) * wide_bytes(itemsize)


def layer_reduction(sample: Sample) -> int:
    return max(sample.args[1].shape[-1], size(sample.args[1][..., 0]))


def params_and_x(rng: Generator, shape: tuple[int, ...]) -> tuple[Any, ...]:
    return bench.norm(rng, shape[-1]), bench.normal(rng, *shape)


CONSTANT = Sample((channels(2), np.full((4, 2), 0.1)))
FLAT = Case("equal numbers become beta exactly", CONSTANT, np.ones((4, 2)))

ROWS = (
    Row(
        function=layers.batch_norm,
        plain=plain.batch_norm,
        kind="reduction",
        samples=rows_and_images,
        reduction=lambda sample: size(sample.args[1][..., 0]),
        residual_bytes=lambda sample, itemsize: 3 * sample.args[1].shape[-1] * wide_bytes(itemsize),
        empty="is refused",
        single="is refused",
        statistics=(1,),
        conventions=(
            FLAT._replace(value=(np.ones((4, 2)), BatchStats(np.full(2, 0.1), np.zeros(2)))),
        ),
        refusals=(*norm_refusals(), *batch_refusals(lambda x: (channels(3), x))),
        bench=bench.norms(params_and_x),
    ),
    Row(
        function=layers.batch_norm_inference,
        plain=plain.batch_norm_inference,
        kind="reduction",
        samples=lambda rng: [
            Sample((norm_params(rng, 3), batch_stats(rng, 3), rng.normal(size=(5, 3)))),
            Sample((norm_params(rng, 2), batch_stats(rng, 2), rng.normal(size=(2, 3, 2, 2)))),
            Sample(
                (
                    norm_params(rng, 3)._replace(gamma=None),
                    batch_stats(rng, 3),
                    rng.normal(size=(4, 3)),
                )
            ),
        ],
        reduction=lambda sample: size(sample.args[2][..., 0]),
        batch=(None, None, 0),
        refusals=(
            *norm_refusals(stats=True),
            value_error(
                "statistics",
                channels(3),
                BatchStats(np.ones(2), np.ones(2)),
                np.ones((4, 3)),
                match="stats.mean has shape",
            ),
        ),
        bench=bench.norms(
            lambda rng, shape: (
                bench.norm(rng, shape[-1]),
                bench.stats(rng, shape[-1]),
                bench.normal(rng, *shape),
            )
        ),
    ),
    Row(
        function=layers.layer_norm,
        plain=plain.layer_norm,
        kind="reduction",
        samples=rows_and_images,
        reduction=layer_reduction,
        residual_bytes=per_row(3),
        batch=(None, 0),
        conventions=(FLAT,),
        refusals=norm_refusals(),
        bench=bench.norms(params_and_x),
    ),
    Row(
        function=layers.group_norm,
        plain=plain.group_norm,
        kind="reduction",
        samples=lambda rng: [
            Sample((norm_params(rng, 4), rng.normal(size=(2, 3, 2, 4))), {"groups": 2}),
            Sample((norm_params(rng, 6), rng.normal(size=(3, 6))), {"groups": 3}),
            Sample((norm_params(rng, 3), rng.normal(size=(2, 4, 3))), {"groups": 1}),
            Sample(
                (norm_params(rng, 4)._replace(gamma=None), rng.normal(size=(2, 3, 4))),
                {"groups": 4},
            ),
        ],
        reduction=lambda sample: size(sample.args[1]),
        residual_bytes=lambda sample, itemsize: (
            3 * sample.args[1].shape[0] * sample.static["groups"] * wide_bytes(itemsize)
        ),
        batch=(None, 0),
        conventions=(FLAT._replace(sample=CONSTANT._replace(static={"groups": 1})),),
        refusals=(
            *norm_refusals(3),
            value_error("groups", channels(3), np.ones((2, 3)), 2, match="groups is 2"),
            value_error("no groups", channels(3), np.ones((2, 3)), 0, match="groups is 0"),
            type_error("half", channels(3), np.ones((2, 3)), 1.5, match="groups is 1.5"),
            type_error("two", channels(3), np.ones((2, 3)), (1, 3), match="expected an int"),
            value_error("one row", channels(3), np.ones(3), 1, match=r"expected \(n, ..., c"),
        ),
        bench=bench.norms(params_and_x, groups=4),
    ),
    Row(
        function=layers.rms_norm,
        plain=plain.rms_norm,
        kind="reduction",
        samples=lambda rng: [
            Sample((rng.uniform(0.5, 2, 3), rng.normal(size=(5, 3)))),
            Sample((rng.uniform(0.5, 2, 4), rng.normal(size=(2, 2, 4))), {"eps": 1e-3}),
            Sample((None, rng.normal(size=(3, 4)))),
        ],
        reduction=layer_reduction,
        residual_bytes=per_row(1),
        batch=(None, 0),
        conventions=(Case("zeros", Sample((np.ones(2), np.zeros((1, 2)))), np.zeros((1, 2))),),
        refusals=(
            no_integers(lambda x: (np.ones(3), x)),
            value_error("gains", np.ones(2), np.ones((4, 3)), match="gamma has shape"),
            value_error("eps -1", np.ones(3), np.ones((4, 3)), eps=-1.0, match="eps is -1.0"),
            value_error("no axis", None, np.ones(()), match="with c channels"),
            value_error("no channels", None, np.ones((2, 0)), match="with c channels"),
        ),
        bench=bench.norms(
            lambda rng, shape: (bench.norm(rng, shape[-1]).gamma, bench.normal(rng, *shape))
        ),
    ),
)
