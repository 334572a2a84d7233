"""Rows of affine maps and convolutions."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from funcnet import layers, plain
from funcnet.catalogue import _bench as bench
from funcnet.catalogue._row import (
    Refusal,
    Row,
    Sample,
    affine_params,
    conv_params,
    no_integers,
    normal,
    size,
    type_error,
    value_error,
)
from funcnet.layers import AffineParams, ConvParams

# The twin's answer to NaN, where each channel has a kernel of its own.
DENSE = {
    "nonfinite": "XLA's CPU takes its float64 as a dense kernel with zeros: 0 times NaN is NaN"
}


def affine_samples(rng: Generator) -> list[Sample]:
    return [
        Sample((affine_params(rng, 4, 5), rng.normal(size=(3, 4)))),
        Sample((affine_params(rng, 6, 2), rng.normal(size=(2, 3, 2)))),
        Sample((affine_params(rng, 1, 1), rng.normal(size=(5, 1)))),
        Sample((affine_params(rng, 3, 2)._replace(b=None), rng.normal(size=(4, 3)))),
    ]


def affine_reduction(sample: Sample) -> int:
    params, x = sample.args
    return max(*params.w.shape, x.shape[0])


def affine_refusals() -> tuple[Refusal, ...]:
    params = AffineParams(np.ones((3, 2)), np.ones(2))
    return (
        no_integers(lambda x: (params, x)),
        value_error("features", params, np.ones((2, 4)), match="4 features a row.* 3"),
        value_error("no batch", params, np.ones(3), match=r"x\[None\]"),
        value_error(
            "bias",
            AffineParams(np.ones((3, 2)), np.ones(3)),
            np.ones((2, 3)),
            match=r"params.b has shape \(3,\), expected \(2,\)",
        ),
        value_error(
            "weights of three axes",
            AffineParams(np.ones((3, 2, 1)), np.ones(2)),
            np.ones((2, 3)),
            match="expected 2 axes",
        ),
    )


def conv_samples(rng: Generator) -> list[Sample]:
    return [
        Sample((conv_params(rng, 3, 3, 2, 3), normal(rng, 2, 5, 4, 2))),
        Sample(
            (conv_params(rng, 3, 3, 2, 2), normal(rng, 2, 6, 5, 2)), {"stride": 2, "padding": 1}
        ),
        Sample((conv_params(rng, 2, 3, 1, 2), normal(rng, 1, 5, 5, 1)), {"padding": "VALID"}),
        Sample((conv_params(rng, 4, 2, 2, 1), normal(rng, 2, 6, 7, 2)), {"stride": (3, 2)}),
        Sample(
            (conv_params(rng, 1, 1, 3, 2), normal(rng, 2, 4, 4, 3)), {"stride": 3, "padding": 2}
        ),
        Sample((conv_params(rng, 5, 5, 1, 1), normal(rng, 1, 4, 4, 1)), {"padding": 4}),
        Sample(
            (conv_params(rng, 2, 3, 2, 4)._replace(b=None), normal(rng, 2, 7, 8, 4)),
            {"groups": 2, "dilation": (2, 1), "stride": (1, 2), "padding": ((0, 2), (1, 0))},
        ),
    ]


def conv2d_samples(rng: Generator) -> list[Sample]:
    """Those, and more of dilation, groups and depthwise kernels of one and two outputs."""
    return [
        *conv_samples(rng),
        Sample((conv_params(rng, 3, 2, 2, 1), normal(rng, 1, 7, 6, 2)), {"dilation": (2, 3)}),
        Sample(
            (conv_params(rng, 2, 2, 1, 2), normal(rng, 2, 4, 5, 2)),
            {"groups": 2, "padding": (1, 2)},
            DENSE,
        ),
        Sample(
            (conv_params(rng, 3, 2, 1, 6), normal(rng, 2, 6, 7, 3)),
            {"groups": 3, "stride": (2, 3), "dilation": (1, 2)},
            DENSE,
        ),
        Sample((conv_params(rng, 1, 2, 2, 3), normal(rng, 2, 3, 4, 6)), {"groups": 3}),
    ]


def sequence_params(rng: Generator, k: int, cin: int, cout: int) -> ConvParams:
    w, b = conv_params(rng, k, 1, cin, cout)
    return ConvParams(w[:, 0], b)


def sequence_samples(rng: Generator) -> list[Sample]:
    return [
        Sample((sequence_params(rng, 3, 2, 3), normal(rng, 2, 6, 2))),
        Sample(
            (sequence_params(rng, 2, 2, 1)._replace(b=None), normal(rng, 3, 7, 2)),
            {"padding": (4, 0), "dilation": 4},
        ),
        Sample(
            (sequence_params(rng, 4, 1, 4), normal(rng, 2, 9, 2)),
            {"groups": 2, "stride": 2, "padding": 1},
            DENSE,
        ),
        Sample((sequence_params(rng, 2, 2, 4), normal(rng, 2, 5, 4)), {"groups": 2}),
        Sample((sequence_params(rng, 3, 1, 1), normal(rng, 1, 3, 1)), {"padding": "VALID"}),
    ]


def transpose_params(rng: Generator, kh: int, kw: int, cin: int, cout: int) -> ConvParams:
    """With cout those of each group."""
    w = conv_params(rng, kh, kw, cout, cin).w
    return ConvParams(w, rng.normal(size=cout))


def transpose_samples(rng: Generator) -> list[Sample]:
    grouped = transpose_params(rng, 2, 2, 4, 3)._replace(b=rng.normal(size=6))
    return [
        Sample((transpose_params(rng, 3, 3, 2, 3), normal(rng, 2, 4, 3, 2)), {"stride": 2}),
        Sample(
            (transpose_params(rng, 2, 3, 2, 1)._replace(b=None), normal(rng, 2, 3, 4, 2)),
            {"stride": (1, 3), "padding": "VALID", "dilation": (2, 1)},
        ),
        Sample(
            (transpose_params(rng, 3, 2, 1, 2), normal(rng, 1, 3, 4, 1)),
            {"stride": (3, 2), "padding": ((1, -1), (1, 0))},
        ),
        Sample((grouped, normal(rng, 2, 3, 2, 4)), {"stride": 2, "groups": 2, "padding": (0, 1)}),
        Sample(
            (transpose_params(rng, 3, 3, 2, 1)._replace(b=None), normal(rng, 2, 3, 3, 2)),
            {"stride": (2, 1), "groups": 2},
            DENSE,
        ),
        Sample((transpose_params(rng, 1, 2, 2, 2), normal(rng, 2, 1, 3, 2)), {"stride": 3}),
    ]


def conv_reduction(sample: Sample) -> int:
    params, x = sample.args
    return max(size(params.w[..., 0]), size(params.w[..., 0, :]), size(x[..., 0]))


def transpose_reduction(sample: Sample) -> int:
    params, x = sample.args
    return max(conv_reduction(sample), size(params.w[0, 0]) * size(x[..., 0]))


def sequence_refusals() -> tuple[Refusal, ...]:
    params, x = ConvParams(np.ones((3, 2, 4)), np.ones(4)), np.ones((1, 5, 2))
    return (
        type_error("integers", params, np.ones((1, 5, 2), int), match="x has dtype int64"),
        value_error("channels", params, np.ones((1, 2, 5)), match="channels are last"),
        value_error("images", params, np.ones((1, 5, 5, 2)), match="expected 3 axes"),
        value_error("bias", ConvParams(params.w, np.ones(3)), x, match=r"expected \(4,\), because"),
        value_error("groups", params, np.ones((1, 5, 6)), groups=3, match="groups is 3"),
        type_error("a stride of two", params, x, stride=(1, 2), match="stride is .* an int"),
        value_error("negative padding", params, x, padding=-1, match="0 or more pixels"),
        type_error("padding of 2-D", params, x, padding=((1, 1), (1, 1)), match="padding is"),
        value_error(
            "kernel too large",
            params,
            x,
            dilation=3,
            padding=0,
            match="7 pixels by dilation 3, does not fit into length 5",
        ),
    )


def transpose_refusals() -> tuple[Refusal, ...]:
    params, x = ConvParams(np.ones((3, 3, 4, 2)), np.ones(4)), np.ones((1, 5, 5, 2))
    return (
        type_error("integers", params, np.ones((1, 5, 5, 2), int), match="x has dtype int64"),
        value_error("channels", params, np.ones((1, 2, 5, 5)), match="channels are last"),
        value_error("no batch", params, np.ones((5, 5, 2)), match="expected 4 axes"),
        value_error("bias", ConvParams(params.w, np.ones(3)), x, match=r"expected \(4,\), because"),
        value_error("groups", params, x, groups=3, match="divisor of the 2 input channels"),
        value_error("padding crops all", params, x, padding=4, match="gives -1 pixels"),
        value_error("nothing to enlarge", params, x[:, :0], match="height 0"),
        value_error("negative padding", params, x, padding=-1, match="0 or more pixels"),
        type_error("a word", params, x, padding="full", match='expected "SAME", "VALID"'),
    )


def conv_refusals() -> tuple[Refusal, ...]:
    params = ConvParams(np.ones((3, 3, 2, 4)), np.ones(4))
    x = np.ones((1, 5, 5, 2))
    return (
        type_error("integer images", params, np.ones((1, 5, 5, 2), int), match="x has dtype int64"),
        value_error(
            "channels",
            params,
            np.ones((1, 2, 5, 5)),
            match=r"\(kh, kw, cin // groups, cout\) .* channels are last: \(n, c, h, w\) need",
        ),
        value_error("no batch", params, np.ones((5, 5, 2)), match=r"expected 4 axes.*\(n, h, w,"),
        value_error("bias", ConvParams(params.w, np.ones(3)), x, match=r"expected \(4,\), because"),
        value_error("stride 0", params, x, stride=0, match="stride is 0, expected at least 1"),
        type_error("stride 1.5", params, x, stride=1.5, match="expected an int or a pair"),
        value_error("negative padding", params, x, padding=-1, match="0 or more pixels"),
        type_error("a word", params, x, padding="same", match='expected "SAME", "VALID"'),
        type_error("three pads", params, x, padding=(1, 1, 1), match="padding is"),
        value_error("a negative pad", params, x, padding=((0, 0), (0, -1)), match="0 or more"),
        value_error("dilation 0", params, x, dilation=0, match="dilation is 0"),
        value_error("groups 0", params, x, groups=0, match="groups is 0"),
        value_error(
            "channels of groups",
            params,
            x,
            groups=2,
            match="expected 4.*groups is 2",
        ),
        value_error(
            "outputs of groups",
            params,
            np.ones((1, 5, 5, 6)),
            groups=3,
            match="groups is 3, expected a divisor of the 4 output channels",
        ),
        value_error(
            "dilated kernel too large",
            params,
            x,
            dilation=(3, 1),
            padding="VALID",
            match="a window of 3, 7 pixels by dilation 3, does not fit into height 5",
        ),
        value_error(
            "kernel too large",
            params,
            np.ones((1, 2, 2, 2)),
            padding="VALID",
            match="a window of 3 does not fit into height 2",
        ),
    )


BENCH = (  # kernel, channels in, channels out, image
    (5, 3, 32, 32),
    (3, 64, 64, 32),
    (3, 32, 64, 16),
    (3, 256, 256, 16),
    (3, 64, 128, 8),
)

ROWS = (
    Row(
        function=layers.affine,
        plain=plain.affine,
        kind="contraction",
        samples=affine_samples,
        reduction=affine_reduction,
        batch=(None, 0),
        refusals=affine_refusals(),
        bench=bench.affines(bench.affine),
    ),
    Row(
        function=layers.conv2d,
        plain=plain.conv2d,
        kind="contraction",
        samples=conv2d_samples,
        reduction=conv_reduction,
        batch=(None, 0),
        refusals=conv_refusals(),
        bench=(
            *bench.convs(*BENCH),
            *bench.convs((3, 64, 64, 16), dilation=2),
            *bench.convs((3, 64, 64, 16), groups=4),
            *bench.convs((3, 64, 64, 32), groups=64),
        ),
    ),
    Row(
        function=layers.conv1d,
        plain=plain.conv1d,
        kind="contraction",
        samples=sequence_samples,
        reduction=conv_reduction,
        batch=(None, 0),
        refusals=sequence_refusals(),
        bench=(bench.sequences(3, 64, 64, 256),),
    ),
    Row(
        function=layers.conv2d_transpose,
        plain=plain.conv2d_transpose,
        kind="contraction",
        samples=transpose_samples,
        reduction=transpose_reduction,
        batch=(None, 0),
        refusals=transpose_refusals(),
        bench=(bench.transposed(4, 64, 32, 16, 2),),
    ),
    Row(
        function=layers.flatten,
        plain=plain.flatten,
        kind="elementwise",
        samples=lambda rng: [Sample((rng.normal(size=s),)) for s in ((2, 3, 2), (3,), (2, 0))],
        batch=(0,),
        refusals=(
            no_integers(),
            value_error("a scalar", np.ones(()), match="expected a batch"),
        ),
        bench=(bench.array(*bench.IMAGES),),
    ),
)
