"""Rows of the activations and of dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpy.random import Generator

from funcnet import layers, plain
from funcnet.catalogue import _bench as bench
from funcnet.catalogue._bench import BenchCase
from funcnet.catalogue._row import (
    Case,
    Refusal,
    Row,
    Sample,
    away_from_zero,
    no_integers,
    size,
    type_error,
    value_error,
)


def output_bytes(sample: Sample, itemsize: int) -> int:
    return size(sample.args[0]) * itemsize


def activation_samples(**options: Any) -> Callable[[Generator], list[Sample]]:
    def samples(rng: Generator) -> list[Sample]:
        plain_case = Sample((away_from_zero(rng, 3, 5),))
        others = [
            Sample((away_from_zero(rng, 3, 5),), {name: value})
            for name, values in options.items()
            for value in values
        ]
        return [plain_case, Sample((away_from_zero(rng, 2, 1, 3),)), *others]

    return samples


ZERO = Sample((np.zeros(1),))
REFUSALS = (
    no_integers(),
    type_error("a list", [1.0, 2.0], match="is a list, expected an array"),
    type_error("complex numbers", np.ones(2) * 1j, match="has dtype complex128"),
)


def no_number(name: str) -> Refusal:
    match = f"{name} is 'a', expected a Python number"
    return type_error("a word for a number", np.ones(2), match=match, **{name: "a"})


ROWS = (
    Row(
        function=layers.relu,
        plain=plain.relu,
        kind="elementwise",
        samples=activation_samples(),
        residual_bytes=output_bytes,
        batch=(0,),
        conventions=(
            Case("relu'(0) = 0", ZERO, np.zeros(1), (np.zeros(1),)),
            Case("minus zero", Sample((-np.zeros(1),)), np.zeros(1), (np.zeros(1),)),
            Case("inf", Sample((np.array([np.inf, -np.inf]),)), np.array([np.inf, 0.0])),
        ),
        refusals=REFUSALS,
        bench=(bench.array(1000, 1000),),
    ),
    Row(
        function=layers.leaky_relu,
        plain=plain.leaky_relu,
        kind="elementwise",
        samples=activation_samples(negative_slope=[0.3, 0.0, -0.5, 1.0]),
        residual_bytes=lambda sample, itemsize: size(sample.args[0]),
        batch=(0,),
        conventions=(
            Case("leaky_relu'(0) = 1", ZERO, np.zeros(1), (np.ones(1),)),
            Case(
                "slope 0 is relu but at 0",
                Sample((np.array([-1.0, 0.0]),), {"negative_slope": 0.0}),
                np.zeros(2),
                (np.array([0.0, 1.0]),),
            ),
        ),
        refusals=(no_integers(), no_number("negative_slope")),
        bench=(bench.array(1000, 1000),),
    ),
    Row(
        function=layers.elu,
        plain=plain.elu,
        kind="elementwise",
        samples=activation_samples(alpha=[0.5, 0.0, 2.0]),
        residual_bytes=output_bytes,
        batch=(0,),
        conventions=(
            Case(
                "elu'(0) = alpha",
                Sample((np.zeros(1),), {"alpha": 2.0}),
                np.zeros(1),
                (np.full(1, 2.0),),
            ),
            Case(
                "inf",
                Sample((np.array([np.inf, -np.inf, 1e4]),)),
                np.array([np.inf, -1.0, 1e4]),
                (np.array([1.0, 0.0, 1.0]),),
            ),
        ),
        refusals=(
            no_integers(),
            no_number("alpha"),
            value_error("negative alpha", np.ones(2), alpha=-1.0, match="alpha is -1.0"),
        ),
        bench=(bench.array(1000, 1000),),
    ),
    Row(
        function=layers.sigmoid,
        plain=plain.sigmoid,
        kind="elementwise",
        samples=activation_samples(),
        residual_bytes=output_bytes,
        batch=(0,),
        conventions=(
            Case(
                "saturation",
                Sample((np.array([0.0, 800.0, -800.0, np.inf, -np.inf]),)),
                np.array([0.5, 1.0, 0.0, 1.0, 0.0]),
                (np.array([0.25, 0.0, 0.0, 0.0, 0.0]),),
            ),
        ),
        refusals=REFUSALS,
        bench=(bench.array(1000, 1000),),
    ),
    Row(
        function=layers.tanh,
        plain=plain.tanh,
        kind="elementwise",
        samples=activation_samples(),
        residual_bytes=output_bytes,
        batch=(0,),
        conventions=(
            Case(
                "saturation",
                Sample((np.array([0.0, 800.0, -np.inf]),)),
                np.array([0.0, 1.0, -1.0]),
                (np.array([1.0, 0.0, 0.0]),),
            ),
        ),
        refusals=REFUSALS,
        bench=(bench.array(1000, 1000),),
    ),
    Row(
        function=layers.softplus,
        plain=plain.softplus,
        kind="elementwise",
        samples=activation_samples(),
        residual_bytes=lambda sample, itemsize: 0,
        batch=(0,),
        conventions=(
            Case(
                "far from zero",
                Sample((np.array([1000.0, -1000.0, np.inf, -np.inf]),)),
                np.array([1000.0, 0.0, np.inf, 0.0]),
                (np.array([1.0, 0.0, 1.0, 0.0]),),
            ),
        ),
        refusals=REFUSALS,
        bench=(bench.array(1000, 1000),),
    ),
    Row(
        function=layers.silu,
        plain=plain.silu,
        kind="elementwise",
        samples=activation_samples(),
        residual_bytes=lambda sample, itemsize: 0,
        batch=(0,),
        conventions=(
            Case(
                "far from zero",
                Sample((np.array([0.0, 1000.0, -1000.0]),)),
                np.array([0.0, 1000.0, 0.0]),
                (np.array([0.5, 1.0, 0.0]),),
            ),
        ),
        refusals=REFUSALS,
        bench=(bench.array(1000, 1000),),
    ),
    Row(
        function=layers.gelu,
        plain=plain.gelu,
        kind="elementwise",
        samples=activation_samples(approximate=[False]),
        residual_bytes=lambda sample, itemsize: 0,
        batch=(0,),
        conventions=tuple(
            Case(
                "far from zero, where powers overflow",
                Sample((np.array([0.0, 1e200, -1e200]),), {"approximate": approximate}),
                np.array([0.0, 1e200, 0.0]),
                (np.array([0.5, 1.0, 0.0]),),
            )
            for approximate in (True, False)
        ),
        refusals=REFUSALS,
        bench=(
            bench.array(1000, 1000),
            bench.array(1000, 1000)._replace(
                label="1000×1000, exact", static={"approximate": False}
            ),
        ),
    ),
    Row(
        function=layers.dropout,
        plain=plain.dropout,
        kind="elementwise",
        samples=lambda rng: (
            [
                Sample((jax.random.key(int(rng.integers(1000))), away_from_zero(rng, 4, 5)), s)
                for s in ({"rate": 0.5}, {"rate": 0.2}, {"rate": 0.0})
            ]
            + [Sample((None, away_from_zero(rng, 2, 3)), {"rate": 0.5})]
        ),
        residual_bytes=lambda sample, itemsize: (
            0 if sample.args[0] is None or sample.static["rate"] == 0.0 else 8
        ),
        conventions=(
            Case(
                "no key: the identity",
                Sample((None, np.arange(3.0)), {"rate": 0.9}),
                np.arange(3.0),
                (None, np.ones(3)),
            ),
        ),
        refusals=(
            no_integers(lambda x: (None, x, 0.5)),
            value_error("drops all", None, np.ones(2), 1.0, match="probability of dropping"),
            value_error("negative", None, np.ones(2), -0.1, match="rate is -0.1"),
            type_error("no key", np.ones(2), np.ones(2), 0.5, match="key is .* expected a key"),
            type_error("no number", None, np.ones(2), "half", match="expected a Python number"),
        ),
        bench=(
            BenchCase(
                "1000×1000", lambda rng: ("key", bench.normal(rng, 1000, 1000)), {"rate": 0.5}
            ),
            BenchCase(
                "100×500", lambda rng: ("key", bench.normal(rng, *bench.ROWS)), {"rate": 0.5}
            ),
        ),
    ),
)
