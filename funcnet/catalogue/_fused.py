"""Rows of the fused layers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.random import Generator

from funcnet import layers, plain
from funcnet.catalogue import _bench as bench
from funcnet.catalogue._linear import (
    BENCH,
    affine_reduction,
    affine_refusals,
    affine_samples,
    conv_reduction,
    conv_refusals,
    conv_samples,
)
from funcnet.catalogue._norms import batch_refusals, channels
from funcnet.catalogue._row import (
    Case,
    Row,
    Sample,
    affine_params,
    clear,
    norm_params,
    size,
    value_error,
    wide_bytes,
)
from funcnet.layers import AffineParams, ConvParams, NormParams


def affine_relu_samples(rng: Generator) -> list[Sample]:
    count = len(affine_samples(rng))
    return [clear(lambda i=i: affine_samples(rng)[i], plain.affine) for i in range(count)]


def conv_relu_samples(rng: Generator) -> list[Sample]:
    count = len(conv_samples(rng))
    return [clear(lambda i=i: conv_samples(rng)[i], plain.conv2d) for i in range(count)]


def gaps(params: ConvParams, x: jax.Array, **static: Any) -> jax.Array:
    z = plain.conv2d(params, x, **static)
    n, h, w, c = z.shape[0], z.shape[1] // 2, z.shape[2] // 2, z.shape[3]
    cells = z[:, : 2 * h, : 2 * w].reshape(n, h, 2, w, 2, c).transpose(0, 1, 3, 5, 2, 4)
    second, first = jnp.sort(cells.reshape(-1, 4))[:, -2:].T
    return jnp.concatenate([first, jnp.where(first > 0, first - second, 1.0)])


def conv_relu_pool_samples(rng: Generator) -> list[Sample]:
    fitting = [i for i, s in enumerate(conv_samples(rng)) if min(conv_output(s).shape[1:3]) > 1]
    return [clear(lambda i=i: conv_samples(rng)[i], gaps) for i in fitting]


def conv_output(sample: Sample) -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda params, x: plain.conv2d(params, x, **sample.static), *sample.args)


def pooled_bytes(sample: Sample, itemsize: int) -> int:
    n, oh, ow, cout = conv_output(sample).shape
    return n * (oh // 2) * (ow // 2) * cout


def normalised(params: tuple[AffineParams, NormParams], x: jax.Array) -> jax.Array:
    return plain.batch_norm(params[1], plain.affine(params[0], x))[0]


IDENTITY = AffineParams(np.eye(2), np.zeros(2))

ROWS = (
    Row(
        function=layers.affine_relu,
        plain=plain.affine_relu,
        kind="contraction",
        samples=affine_relu_samples,
        reduction=affine_reduction,
        residual_bytes=lambda sample, itemsize: (
            sample.args[1].shape[0] * sample.args[0].w.shape[1] * itemsize
        ),
        batch=(None, 0),
        refusals=affine_refusals(),
        bench=bench.affines(bench.affine),
    ),
    Row(
        function=layers.affine_batch_norm_relu,
        plain=plain.affine_batch_norm_relu,
        kind="contraction",
        samples=lambda rng: [
            clear(
                lambda d=d, m=m, shape=shape, norm=norm: Sample(
                    ((affine_params(rng, d, m), norm(rng, m)), rng.normal(size=shape))
                ),
                normalised,
            )
            for d, m, shape, norm in (
                (4, 3, (5, 4), norm_params),
                (6, 2, (4, 2, 3), norm_params),
                (3, 2, (4, 3), lambda rng, m: norm_params(rng, m)._replace(gamma=None)),
            )
        ],
        reduction=lambda sample: max(*sample.args[0][0].w.shape, sample.args[1].shape[0]),
        residual_bytes=lambda sample, itemsize: (
            sample.args[0][0].w.shape[1]
            * (sample.args[1].shape[0] * itemsize + 3 * wide_bytes(itemsize))
        ),
        empty="is refused",
        single="is refused",
        statistics=(1,),
        conventions=(
            Case(
                "relu'(0) = 0: nothing passes where gamma and beta are 0",
                Sample(((IDENTITY, NormParams(np.zeros(2), np.zeros(2))), np.eye(2))),
                cotangents=(
                    (
                        AffineParams(np.zeros((2, 2)), np.zeros(2)),
                        NormParams(np.zeros(2), np.zeros(2)),
                    ),
                    np.zeros((2, 2)),
                ),
            ),
        ),
        refusals=(
            value_error(
                "features",
                (AffineParams(np.ones((3, 2)), np.ones(2)), channels(2)),
                np.ones((2, 4)),
                match="4 features a row",
            ),
            value_error(
                "channels",
                (AffineParams(np.ones((3, 2)), np.ones(2)), channels(3)),
                np.ones((2, 3)),
                match="params.gamma has shape",
            ),
            *batch_refusals(
                lambda x: ((AffineParams(np.ones((3, 3)), np.ones(3)), channels(3)), x)
            ),
        ),
        bench=bench.affines(lambda rng, d, m: (bench.affine(rng, d, m), bench.norm(rng, m))),
    ),
    Row(
        function=layers.conv_relu,
        plain=plain.conv_relu,
        kind="contraction",
        samples=conv_relu_samples,
        reduction=conv_reduction,
        residual_bytes=lambda sample, itemsize: size(conv_output(sample)) * itemsize,
        batch=(None, 0),
        refusals=conv_refusals(),
        bench=bench.convs(BENCH[0], BENCH[2]),
    ),
    Row(
        function=layers.conv_relu_pool,
        plain=plain.conv_relu_pool,
        kind="contraction",
        samples=conv_relu_pool_samples,
        reduction=conv_reduction,
        residual_bytes=pooled_bytes,
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
        bench=bench.convs(BENCH[0], BENCH[2]),
    ),
)
