"""Rows of affine maps, convolutions and their fusions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpy.random import Generator

from funcnet import layers, plain
from funcnet.catalogue._row import (
    Refusal,
    Row,
    Sample,
    affine_params,
    clear,
    conv_params,
    no_integers,
    size,
    type_error,
    value_error,
)
from funcnet.layers import AffineParams, ConvParams


def rows() -> list[Row]:
    """The rows of this family."""

    def affine_samples(rng: Generator) -> list[Sample]:
        return [
            Sample((affine_params(rng, 4, 5), rng.normal(size=(3, 4)))),
            Sample((affine_params(rng, 6, 2), rng.normal(size=(2, 3, 2)))),
            Sample((affine_params(rng, 1, 1), rng.normal(size=(5, 1)))),
        ]

    def affine_relu_samples(rng: Generator) -> list[Sample]:
        count = len(affine_samples(rng))
        return [clear(lambda i=i: affine_samples(rng)[i], plain.affine) for i in range(count)]

    def affine_reduction(sample: Sample) -> int:
        params, x = sample.args
        return max(*params.w.shape, x.shape[0])

    def affine_refusals(prefix: Callable[[Any], Any] = lambda p: p) -> tuple[Refusal, ...]:
        params = AffineParams(np.ones((3, 2)), np.ones(2))
        return (
            no_integers(lambda x: (prefix(params), x)),
            value_error("features", prefix(params), np.ones((2, 4)), match="4 features a row.* 3"),
            value_error("no batch", prefix(params), np.ones(3), match=r"x\[None\]"),
            value_error(
                "bias",
                prefix(AffineParams(np.ones((3, 2)), np.ones(3))),
                np.ones((2, 3)),
                match=r"params.b has shape \(3,\), expected \(2,\)",
            ),
            value_error(
                "weights of three axes",
                prefix(AffineParams(np.ones((3, 2, 1)), np.ones(2))),
                np.ones((2, 3)),
                match="expected 2 axes",
            ),
        )

    def conv_samples(rng: Generator) -> list[Sample]:
        def images(n: int, h: int, w: int, c: int) -> np.ndarray:
            return rng.normal(size=(n, h, w, c))

        return [
            Sample((conv_params(rng, 3, 3, 2, 3), images(2, 5, 4, 2))),
            Sample((conv_params(rng, 3, 3, 2, 2), images(2, 6, 5, 2)), {"stride": 2, "padding": 1}),
            Sample((conv_params(rng, 2, 3, 1, 2), images(1, 5, 5, 1)), {"padding": "VALID"}),
            Sample((conv_params(rng, 4, 2, 2, 1), images(2, 6, 7, 2)), {"stride": (3, 2)}),
            Sample((conv_params(rng, 1, 1, 3, 2), images(2, 4, 4, 3)), {"stride": 3, "padding": 2}),
            Sample((conv_params(rng, 5, 5, 1, 1), images(1, 4, 4, 1)), {"padding": 4}),
        ]

    def conv_relu_samples(rng: Generator) -> list[Sample]:
        count = len(conv_samples(rng))
        return [clear(lambda i=i: conv_samples(rng)[i], plain.conv2d) for i in range(count)]

    def conv_relu_pool_samples(rng: Generator) -> list[Sample]:
        def gaps(params: ConvParams, x: np.ndarray, **static: Any) -> np.ndarray:
            z = np.asarray(plain.conv2d(params, x, **static))
            n, h, w, c = z.shape[0], z.shape[1] // 2, z.shape[2] // 2, z.shape[3]
            cells = z[:, : 2 * h, : 2 * w].reshape(n, h, 2, w, 2, c).transpose(0, 1, 3, 5, 2, 4)
            second, first = np.sort(cells.reshape(-1, 4))[:, -2:].T
            return np.concatenate([first, np.where(first > 0, first - second, 1.0)])

        fitting = [i for i, s in enumerate(conv_samples(rng)) if min(conv_output(s).shape[1:3]) > 1]
        return [clear(lambda i=i: conv_samples(rng)[i], gaps) for i in fitting]

    def conv_reduction(sample: Sample) -> int:
        params, x = sample.args
        return max(size(params.w[..., 0]), size(params.w[..., 0, :]), size(x[..., 0]))

    def conv_refusals() -> tuple[Refusal, ...]:
        params = ConvParams(np.ones((3, 3, 2, 4)), np.ones(4))
        x = np.ones((1, 5, 5, 2))
        return (
            type_error(
                "integer images", params, np.ones((1, 5, 5, 2), int), match="x has dtype int64"
            ),
            value_error("channels", params, np.ones((1, 2, 5, 5)), match="channels are last"),
            value_error("no batch", params, np.ones((5, 5, 2)), match="expected 4 axes"),
            value_error(
                "bias", ConvParams(params.w, np.ones(3)), x, match=r"expected \(4,\), because"
            ),
            value_error("stride 0", params, x, stride=0, match="stride is 0, expected at least 1"),
            type_error("stride 1.5", params, x, stride=1.5, match="expected an int or a pair"),
            value_error("negative padding", params, x, padding=-1, match="0 or more pixels"),
            type_error("a word", params, x, padding="same", match='expected "SAME", "VALID"'),
            value_error(
                "kernel too large",
                params,
                np.ones((1, 2, 2, 2)),
                padding="VALID",
                match="a window of 3 does not fit into height 2",
            ),
        )

    def conv_output(sample: Sample) -> jax.ShapeDtypeStruct:
        return jax.eval_shape(
            lambda params, x: plain.conv2d(params, x, **sample.static), *sample.args
        )

    def pooled_bytes(sample: Sample, itemsize: int) -> int:
        n, oh, ow, cout = conv_output(sample).shape
        return n * (oh // 2) * (ow // 2) * cout

    return [
        Row(
            layers.affine,
            plain.affine,
            "contraction",
            affine_samples,
            affine_reduction,
            batch=(None, 0),
            refusals=affine_refusals(),
        ),
        Row(
            layers.affine_relu,
            plain.affine_relu,
            "contraction",
            affine_relu_samples,
            affine_reduction,
            lambda sample, itemsize: sample.args[1].shape[0] * sample.args[0].w.shape[1] * itemsize,
            batch=(None, 0),
            refusals=affine_refusals(),
        ),
        Row(
            layers.conv2d,
            plain.conv2d,
            "contraction",
            conv_samples,
            conv_reduction,
            batch=(None, 0),
            refusals=conv_refusals(),
        ),
        Row(
            layers.conv_relu,
            plain.conv_relu,
            "contraction",
            conv_relu_samples,
            conv_reduction,
            lambda sample, itemsize: size(conv_output(sample)) * itemsize,
            batch=(None, 0),
            refusals=conv_refusals(),
        ),
        Row(
            layers.conv_relu_pool,
            plain.conv_relu_pool,
            "contraction",
            conv_relu_pool_samples,
            conv_reduction,
            pooled_bytes,
            batch=(None, 0),
            refusals=(
                *conv_refusals(),
                value_error(
                    "no room to pool",
                    ConvParams(np.ones((1, 1, 1, 1)), np.ones(1)),
                    np.ones((1, 1, 1, 1)),
                    match="a window of 2 does not fit",
                ),
            ),
        ),
        Row(
            layers.flatten,
            plain.flatten,
            "elementwise",
            lambda rng: [Sample((rng.normal(size=s),)) for s in ((2, 3, 2), (3,), (2, 0))],
            batch=(0,),
            refusals=(
                no_integers(),
                value_error("a scalar", np.ones(()), match="expected a batch"),
            ),
        ),
    ]
