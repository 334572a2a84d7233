"""Rows of the pools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.random import Generator

from funcnet import layers, plain
from funcnet.catalogue import _bench as bench
from funcnet.catalogue._row import (
    Case,
    Row,
    Sample,
    distinct,
    no_integers,
    normal,
    size,
    type_error,
    value_error,
)


def pool_samples(
    draw: Callable[..., np.ndarray], *others: tuple[tuple[int, ...], dict[str, Any]]
) -> Callable[[Generator], list[Sample]]:
    def samples(rng: Generator) -> list[Sample]:
        return [
            Sample((draw(rng, 2, 4, 4, 2),)),
            Sample((draw(rng, 1, 5, 7, 3),), {"window": 3, "stride": 2}),
            Sample((draw(rng, 2, 5, 4, 1),), {"window": (3, 2), "stride": 1, "padding": 1}),
            Sample((draw(rng, 2, 5, 5, 2),), {"window": 2, "padding": "SAME"}),
            Sample((draw(rng, 1, 6, 5, 1),), {"window": 2, "stride": (3, 1)}),
            Sample((draw(rng, 1, 4, 3, 1),), {"window": 5, "stride": 2, "padding": 4}),
            *(Sample((draw(rng, *shape),), static) for shape, static in others),
        ]

    return samples


IMAGE = np.ones((1, 4, 4, 1))
REFUSALS = (
    type_error("integers", np.ones((1, 4, 4, 1), int), match="x has dtype int64"),
    value_error("no batch", np.ones((4, 4, 1)), match="expected 4 axes: images"),
    value_error("window too large", IMAGE, window=5, match="a window of 5 does not fit"),
    value_error("window 0", IMAGE, window=0, match="window is 0"),
    value_error("stride 0", IMAGE, stride=0, match="stride is 0"),
    type_error("window 2.5", IMAGE, window=2.5, match="expected an int or a pair"),
    type_error("three numbers", IMAGE, window=(2, 2, 2), match="expected an int or a pair"),
    value_error("a window of padding", IMAGE, padding=2, match="expected less than the window"),
    value_error(
        "padding behind", IMAGE, padding=((0, 0), (0, 2)), match="expected less than the window"
    ),
    value_error("padding -1", IMAGE, padding=((0, -1), (0, 0)), match="padding is .+0, -1"),
    type_error("padding 0.5", IMAGE, padding=0.5, match=r"or \(\(top, bottom\), \(left, right\)\)"),
    value_error(
        "no window even of what is left over",
        np.ones((1, 2, 4, 1)),
        window=5,
        stride=2,
        ceil_mode=True,
        match="a window of 5 does not fit into height 2",
    ),
)

LEFT_OVER = {"ceil_mode": True}
CORNER = {"window": 3, "stride": 2, "padding": 1, **LEFT_OVER}
UNEVEN = {"window": (2, 3), "stride": 1, "padding": ((1, 0), (0, 2))}


def square(rows: Any) -> np.ndarray:
    return np.asarray(rows, float)[None, :, :, None]


TIES = (
    Case(
        "a tie goes to the first in row-major order",
        Sample((square([[1, 1], [1, 1]]),)),
        square([[1]]),
        (square([[1, 0], [0, 0]]),),
    ),
    Case(
        "a tie across a row's end",
        Sample((square([[0, 2], [2, 1]]),)),
        square([[2]]),
        (square([[0, 1], [0, 0]]),),
    ),
    Case(
        "a tie within the second row",
        Sample((square([[0, 1], [2, 2]]),)),
        square([[2]]),
        (square([[0, 0], [1, 0]]),),
    ),
    Case(
        "overlapping windows share a winner",
        Sample((square([[0, 0, 0], [0, 5, 0], [0, 0, 0]]),), {"stride": 1}),
        square([[5, 5], [5, 5]]),
        (square([[0, 0, 0], [0, 4, 0], [0, 0, 0]]),),
    ),
    Case(
        "a tie in overlapping windows",
        Sample((square([[1, 1, 1], [1, 1, 1]]),), {"stride": 1}),
        square([[1, 1]]),
        (square([[1, 1, 0], [0, 0, 0]]),),
    ),
    Case(
        "NaN wins in overlapping windows, the first of several",
        Sample((square([[np.nan, np.nan, 9], [np.nan, 1, 9]]),), {"stride": 1}),
        square([[np.nan, np.nan]]),
        (square([[1, 1, 0], [0, 0, 0]]),),
    ),
    Case(
        "padding never wins, not even against minus infinity",
        Sample((square([[-np.inf]]),), {"window": 2, "stride": 1, "padding": 1}),
        square([[-np.inf, -np.inf], [-np.inf, -np.inf]]),
        (square([[4]]),),
    ),
    Case(
        "padding never wins against negative numbers",
        Sample((square([[-3, -4], [-5, -6]]),), {"window": 3, "stride": 1, "padding": 1}),
        square([[-3, -3], [-3, -3]]),
        (square([[4, 0], [0, 0]]),),
    ),
    Case(
        "rows left over",
        Sample((square([[1, 2, 9], [3, 4, 9], [9, 9, 9]]),)),
        square([[4]]),
        (square([[0, 0, 0], [0, 1, 0], [0, 0, 0]]),),
    ),
    Case(
        "what is left over makes a window",
        Sample((square([[1, 2, 9], [3, 4, 7], [5, 8, 6]]),), LEFT_OVER),
        square([[4, 9], [8, 6]]),
        (square([[0, 0, 1], [0, 1, 0], [0, 1, 1]]),),
    ),
    Case(
        "but not in the padding behind the image",
        Sample((square([[1, 2, 9], [3, 4, 7], [5, 8, 6]]),), {"padding": 1, **LEFT_OVER}),
        square([[1, 9], [5, 8]]),
        (square([[1, 0, 1], [0, 0, 0], [1, 1, 0]]),),
    ),
    Case(
        "a window larger than the image",
        Sample((square([[-np.inf, -2], [-1, np.nan]]),), {"window": 3, **LEFT_OVER}),
        square([[np.nan]]),
        (square([[0, 0], [0, 1]]),),
    ),
    Case(
        "cells of a dilated window, the first of its maxima",
        Sample((square([[1, 9, 7], [9, 9, 9], [7, 9, 7]]),), {"dilation": 2}),
        square([[7]]),
        (square([[0, 0, 1], [0, 0, 0], [0, 0, 0]]),),
    ),
    Case(
        "NaN wins",
        Sample((square([[9, np.nan], [np.nan, 1]]),)),
        square([[np.nan]]),
        (square([[0, 1], [0, 0]]),),
    ),
)

IMAGES = bench.array(*bench.IMAGES)
BENCH = (
    IMAGES._replace(label=f"2×2, {IMAGES.label}"),
    IMAGES._replace(
        label=f"3×3 by 2, {IMAGES.label}", static={"window": 3, "stride": 2, "padding": 1}
    ),
)

ROWS = (
    Row(
        function=layers.max_pool,
        plain=plain.max_pool,
        kind="selection",
        samples=pool_samples(
            distinct,
            ((1, 5, 3, 1), {"window": (3, 2), "stride": 2, **LEFT_OVER}),
            ((1, 6, 7, 1), {**CORNER, "dilation": (2, 1)}),
            ((1, 7, 6, 2), {"window": (2, 3), "stride": 1, "dilation": 2}),
            ((1, 4, 3, 1), UNEVEN),
        ),
        reduction=lambda sample: int(np.prod(np.ravel(sample.static.get("window", 2)))) ** 2,
        batch=(0,),
        conventions=TIES,
        refusals=(
            *REFUSALS,
            value_error("dilation 0", IMAGE, dilation=0, match="dilation is 0"),
            value_error(
                "dilated",
                IMAGE,
                window=3,
                dilation=2,
                match="a window of 3, 5 pixels",
            ),
            value_error(
                "a hole of padding",
                IMAGE[:, :1],
                dilation=2,
                padding=1,
                match="a window of padding alone has no value",
            ),
        ),
        bench=BENCH,
    ),
    Row(
        function=layers.avg_pool,
        plain=plain.avg_pool,
        kind="reduction",
        samples=pool_samples(
            normal,
            ((1, 5, 3, 1), {"window": (3, 2), "stride": 2, **LEFT_OVER}),
            ((1, 6, 7, 1), {**CORNER, "count_include_pad": True}),
            ((1, 4, 3, 1), {**UNEVEN, "count_include_pad": True}),
        ),
        reduction=lambda sample: 25,
        batch=(0,),
        conventions=(
            Case(
                "padding is not averaged",
                Sample((square([[3]]),), {"window": 3, "stride": 1, "padding": 1}),
                square([[3]]),
                (square([[1]]),),
            ),
            Case(
                "or as zeros",
                Sample(
                    (square([[18]]),),
                    {"window": 3, "stride": 1, "padding": 1, "count_include_pad": True},
                ),
                square([[2]]),
                (square([[1 / 9]]),),
            ),
            Case(
                "what lies beyond the padding is not averaged",
                Sample((np.full((1, 4, 4, 1), 36.0),), {**CORNER, "count_include_pad": True}),
                square([[16, 24, 12], [24, 36, 18], [12, 18, 9]]),
            ),
            Case(
                "nor what lies beyond the image without padding",
                Sample((np.ones((1, 3, 3, 1)),), {"count_include_pad": True, **LEFT_OVER}),
                np.ones((1, 2, 2, 1)),
                (square([[0.25, 0.25, 0.5], [0.25, 0.25, 0.5], [0.5, 0.5, 1]]),),
            ),
        ),
        refusals=REFUSALS,
        bench=BENCH,
    ),
    Row(
        function=layers.global_avg_pool,
        plain=plain.global_avg_pool,
        kind="reduction",
        samples=lambda rng: [Sample((rng.normal(size=s),)) for s in ((2, 3, 5, 2), (3, 4, 1))],
        reduction=lambda sample: size(sample.args[0][:1, ..., :1]),
        batch=(0,),
        refusals=(
            no_integers(),
            value_error("rows", np.ones((2, 3)), match="expected .n, ..., c. with at least"),
            value_error("no place", np.ones((2, 0, 3)), match="at least one place"),
        ),
        bench=(bench.array(*bench.IMAGES),),
    ),
)
