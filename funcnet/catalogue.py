"""One row a rule: what is known of it, said once, for tests, checks, benchmarks and docs.

`ROWS` maps the name of each rule to its `Row`. A rule of the package without a row fails the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from numpy.random import Generator

from funcnet import layers, losses, plain
from funcnet.layers import AffineParams, BatchStats, ConvParams, NormParams

Kind = Literal["elementwise", "reduction", "contraction", "selection"]


class Sample(NamedTuple):
    """Arguments of a rule: arrays in float64 (or integers, keys, None), then static options."""

    args: tuple[Any, ...]
    static: dict[str, Any] = {}  # noqa: RUF012  (never written to)


class Case(NamedTuple):
    """A convention: these arguments, and the value and cotangents that they must have exactly.

    `cotangents` holds one pytree an argument (None where nothing is said), for a cotangent of ones.
    """

    why: str
    sample: Sample
    value: Any = None
    cotangents: tuple[Any, ...] | None = None


class Refusal(NamedTuple):
    """Wrong input: these arguments, the exception, and a pattern of its message."""

    why: str
    sample: Sample
    error: type[Exception]
    match: str


@dataclass(frozen=True)
class Row:
    """What is known of one rule.

    Attributes:
      function: the public function, a `jax.custom_vjp`.
      plain: its twin in plain JAX.
      kind: elementwise, a reduction, a contraction (products) or a selection (of winners).
      samples: draws arguments, small and odd, away from kinks; float64.
      reduction: the number of terms of the longest sum that a sample takes, forward or backward.
      residual_bytes: bytes kept between forward and backward beside the arguments, for a sample in
        a dtype of `itemsize` bytes.
      smooth: whether differences around the samples tell the derivative to any order.
      batch: for each argument the axis of independent examples, or None where it has none; None for
        a rule that mixes its rows.
      empty: whether a batch of no rows has a value or is refused.
      single: whether a batch of one row has a value or is refused.
      statistics: outputs that carry no gradient, by position.
      conventions: values and gradients at kinks, ties and in corners.
      refusals: wrong input and what is said to it.
    """

    function: Any
    plain: Callable[..., Any]
    kind: Kind
    samples: Callable[[Generator], list[Sample]]
    reduction: Callable[[Sample], int] = lambda sample: 1
    residual_bytes: Callable[[Sample, int], int] = lambda sample, itemsize: 0
    smooth: bool = True
    batch: tuple[int | None, ...] | None = None
    empty: Literal["has a value", "is refused"] = "has a value"
    single: Literal["has a value", "is refused"] = "has a value"
    statistics: tuple[int, ...] = ()
    conventions: tuple[Case, ...] = ()
    refusals: tuple[Refusal, ...] = field(default=())

    @property
    def name(self) -> str:
        """The rule's name, the same in `layers` or `losses` and in `plain`."""
        return self.function.__name__


def _away_from_zero(rng: Generator, *shape: int) -> np.ndarray:
    return rng.choice([-1.0, 1.0], shape) * rng.uniform(0.05, 2.0, shape)


def _distinct(rng: Generator, *shape: int) -> np.ndarray:
    """Numbers that differ by at least 2 / size, so that no window has a tie or nearly one."""
    size = int(np.prod(shape))
    return (2.0 * rng.permutation(size) / max(size, 1) - 0.9).reshape(shape)


def _clear(draw: Callable[[], Sample], decisions: Callable[..., np.ndarray]) -> Sample:
    """Draws until no decision (a number that a rule compares with 0) is nearly taken otherwise."""
    while True:
        sample = draw()
        if np.abs(decisions(*sample.args, **sample.static)).min() > 0.02:
            return sample


def _affine(rng: Generator, d: int, m: int) -> AffineParams:
    return AffineParams(rng.normal(size=(d, m)) / np.sqrt(max(d, 1)), rng.normal(size=m))


def _conv(rng: Generator, kh: int, kw: int, cin: int, cout: int) -> ConvParams:
    w = rng.normal(size=(kh, kw, cin, cout)) / np.sqrt(kh * kw * cin)
    return ConvParams(w, rng.normal(size=cout))


def _norm(rng: Generator, c: int) -> NormParams:
    return NormParams(rng.uniform(0.5, 2.0, c) * rng.choice([-1, 1], c), rng.normal(size=c))


def _stats(rng: Generator, c: int) -> BatchStats:
    return BatchStats(rng.normal(size=c), rng.uniform(0.5, 2.0, c))


def _activation(**options: Any) -> Callable[[Generator], list[Sample]]:
    def samples(rng: Generator) -> list[Sample]:
        plain_case = Sample((_away_from_zero(rng, 3, 5),))
        others = [
            Sample((_away_from_zero(rng, 3, 5),), {name: value})
            for name, values in options.items()
            for value in values
        ]
        return [plain_case, Sample((_away_from_zero(rng, 2, 1, 3),)), *others]

    return samples


def _size(x: Any) -> int:
    return int(np.prod(np.shape(x)))


def _output_bytes(sample: Sample, itemsize: int) -> int:
    return _size(sample.args[0]) * itemsize


def _wide(itemsize: int) -> int:
    """Bytes of a number of the dtype that sums over `itemsize` bytes are taken in."""
    return max(itemsize, 4)


def _shape_case(why: str, *args: Any, match: str, **static: Any) -> Refusal:
    return Refusal(why, Sample(args, static), ValueError, match)


def _type_case(why: str, *args: Any, match: str, **static: Any) -> Refusal:
    return Refusal(why, Sample(args, static), TypeError, match)


_INTEGERS = np.arange(6).reshape(2, 3)


def _no_integers(make: Callable[[Any], tuple[Any, ...]] = lambda x: (x,)) -> Refusal:
    return _type_case(
        "integers", *make(_INTEGERS), match="has dtype int.*expected float64, float32"
    )


def _activation_row(function: Any, **changes: Any) -> Row:
    row: dict[str, Any] = {
        "samples": _activation(),
        "residual_bytes": _output_bytes,
        "batch": (0,),
        "refusals": (
            _no_integers(),
            _type_case("a list", [1.0, 2.0], match="is a list, expected an array"),
            _type_case("complex numbers", np.ones(2) * 1j, match="has dtype complex128"),
        ),
    }
    row |= changes
    return Row(function, getattr(plain, function.__name__), "elementwise", **row)


def _activations() -> list[Row]:
    def no_number(name: str) -> Refusal:
        match = f"{name} is 'a', expected a Python number"
        return _type_case("a word for a number", np.ones(2), match=match, **{name: "a"})

    zero = Sample((np.zeros(1),))
    return [
        _activation_row(
            layers.relu,
            conventions=(
                Case("relu'(0) = 0", zero, np.zeros(1), (np.zeros(1),)),
                Case("minus zero", Sample((-np.zeros(1),)), np.zeros(1), (np.zeros(1),)),
                Case("inf", Sample((np.array([np.inf, -np.inf]),)), np.array([np.inf, 0.0])),
            ),
        ),
        _activation_row(
            layers.leaky_relu,
            samples=_activation(negative_slope=[0.3, 0.0, -0.5, 1.0]),
            residual_bytes=lambda sample, itemsize: (
                _output_bytes(sample, itemsize)
                if sample.static.get("negative_slope", 0.01) > 0
                else 0
            ),
            conventions=(
                Case("leaky_relu'(0) = 1", zero, np.zeros(1), (np.ones(1),)),
                Case(
                    "slope 0 is relu but at 0",
                    Sample((np.array([-1.0, 0.0]),), {"negative_slope": 0.0}),
                    np.zeros(2),
                    (np.array([0.0, 1.0]),),
                ),
            ),
            refusals=(_no_integers(), no_number("negative_slope")),
        ),
        _activation_row(
            layers.elu,
            samples=_activation(alpha=[0.5, 0.0, 2.0]),
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
                _no_integers(),
                no_number("alpha"),
                _shape_case("negative alpha", np.ones(2), alpha=-1.0, match="alpha is -1.0"),
            ),
        ),
        _activation_row(
            layers.sigmoid,
            conventions=(
                Case(
                    "saturation",
                    Sample((np.array([0.0, 800.0, -800.0, np.inf, -np.inf]),)),
                    np.array([0.5, 1.0, 0.0, 1.0, 0.0]),
                    (np.array([0.25, 0.0, 0.0, 0.0, 0.0]),),
                ),
            ),
        ),
        _activation_row(
            layers.tanh,
            conventions=(
                Case(
                    "saturation",
                    Sample((np.array([0.0, 800.0, -np.inf]),)),
                    np.array([0.0, 1.0, -1.0]),
                    (np.array([1.0, 0.0, 0.0]),),
                ),
            ),
        ),
        _activation_row(
            layers.softplus,
            conventions=(
                Case(
                    "far from zero",
                    Sample((np.array([1000.0, -1000.0, np.inf, -np.inf]),)),
                    np.array([1000.0, 0.0, np.inf, 0.0]),
                    (np.array([1.0, 0.0, 1.0, 0.0]),),
                ),
            ),
        ),
        _activation_row(
            layers.silu,
            residual_bytes=lambda sample, itemsize: 0,
            conventions=(
                Case(
                    "far from zero",
                    Sample((np.array([0.0, 1000.0, -1000.0]),)),
                    np.array([0.0, 1000.0, 0.0]),
                    (np.array([0.5, 1.0, 0.0]),),
                ),
            ),
        ),
        _activation_row(
            layers.gelu,
            samples=_activation(approximate=[False]),
            residual_bytes=lambda sample, itemsize: 0,
            conventions=tuple(
                Case(
                    "far from zero, where powers overflow",
                    Sample((np.array([0.0, 1e200, -1e200]),), {"approximate": approximate}),
                    np.array([0.0, 1e200, 0.0]),
                    (np.array([0.5, 1.0, 0.0]),),
                )
                for approximate in (True, False)
            ),
        ),
        Row(
            layers.dropout,
            plain.dropout,
            "elementwise",
            samples=lambda rng: (
                [
                    Sample((jax.random.key(int(rng.integers(1000))), _away_from_zero(rng, 4, 5)), s)
                    for s in ({"rate": 0.5}, {"rate": 0.2}, {"rate": 0.0})
                ]
                + [Sample((None, _away_from_zero(rng, 2, 3)), {"rate": 0.5})]
            ),
            residual_bytes=lambda sample, itemsize: 0,
            conventions=(
                Case(
                    "no key: the identity",
                    Sample((None, np.arange(3.0)), {"rate": 0.9}),
                    np.arange(3.0),
                    (None, np.ones(3)),
                ),
            ),
            refusals=(
                _no_integers(lambda x: (None, x, 0.5)),
                _shape_case("drops all", None, np.ones(2), 1.0, match="probability of dropping"),
                _shape_case("negative", None, np.ones(2), -0.1, match="rate is -0.1"),
                _type_case("no key", np.ones(2), np.ones(2), 0.5, match="key is .* expected a key"),
                _type_case("no number", None, np.ones(2), "half", match="expected a Python number"),
            ),
        ),
    ]


def _linear() -> list[Row]:
    def affine_samples(rng: Generator) -> list[Sample]:
        return [
            Sample((_affine(rng, 4, 5), rng.normal(size=(3, 4)))),
            Sample((_affine(rng, 6, 2), rng.normal(size=(2, 3, 2)))),
            Sample((_affine(rng, 1, 1), rng.normal(size=(5, 1)))),
        ]

    def affine_relu_samples(rng: Generator) -> list[Sample]:
        count = len(affine_samples(rng))
        return [_clear(lambda i=i: affine_samples(rng)[i], plain.affine) for i in range(count)]

    def affine_reduction(sample: Sample) -> int:
        params, x = sample.args
        return max(*params.w.shape, x.shape[0])

    def affine_refusals(prefix: Callable[[Any], Any] = lambda p: p) -> tuple[Refusal, ...]:
        params = AffineParams(np.ones((3, 2)), np.ones(2))
        return (
            _no_integers(lambda x: (prefix(params), x)),
            _shape_case("features", prefix(params), np.ones((2, 4)), match="4 features a row.* 3"),
            _shape_case("no batch", prefix(params), np.ones(3), match=r"x\[None\]"),
            _shape_case(
                "bias",
                prefix(AffineParams(np.ones((3, 2)), np.ones(3))),
                np.ones((2, 3)),
                match=r"params.b has shape \(3,\), expected \(2,\)",
            ),
            _shape_case(
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
            Sample((_conv(rng, 3, 3, 2, 3), images(2, 5, 4, 2))),
            Sample((_conv(rng, 3, 3, 2, 2), images(2, 6, 5, 2)), {"stride": 2, "padding": 1}),
            Sample((_conv(rng, 2, 3, 1, 2), images(1, 5, 5, 1)), {"padding": "VALID"}),
            Sample((_conv(rng, 4, 2, 2, 1), images(2, 6, 7, 2)), {"stride": (3, 2)}),
            Sample((_conv(rng, 1, 1, 3, 2), images(2, 4, 4, 3)), {"stride": 3, "padding": 2}),
            Sample((_conv(rng, 5, 5, 1, 1), images(1, 4, 4, 1)), {"padding": 4}),
        ]

    def conv_relu_samples(rng: Generator) -> list[Sample]:
        count = len(conv_samples(rng))
        return [_clear(lambda i=i: conv_samples(rng)[i], plain.conv2d) for i in range(count)]

    def conv_relu_pool_samples(rng: Generator) -> list[Sample]:
        def gaps(params: ConvParams, x: np.ndarray, **static: Any) -> np.ndarray:
            z = np.asarray(plain.conv2d(params, x, **static))
            n, h, w, c = z.shape[0], z.shape[1] // 2, z.shape[2] // 2, z.shape[3]
            cells = z[:, : 2 * h, : 2 * w].reshape(n, h, 2, w, 2, c).transpose(0, 1, 3, 5, 2, 4)
            second, first = np.sort(cells.reshape(-1, 4))[:, -2:].T
            return np.concatenate([first, np.where(first > 0, first - second, 1.0)])

        fitting = [i for i, s in enumerate(conv_samples(rng)) if min(conv_output(s).shape[1:3]) > 1]
        return [_clear(lambda i=i: conv_samples(rng)[i], gaps) for i in fitting]

    def conv_reduction(sample: Sample) -> int:
        params, x = sample.args
        return max(_size(params.w[..., 0]), _size(params.w[..., 0, :]), _size(x[..., 0]))

    def conv_refusals() -> tuple[Refusal, ...]:
        params = ConvParams(np.ones((3, 3, 2, 4)), np.ones(4))
        x = np.ones((1, 5, 5, 2))
        return (
            _type_case(
                "integer images", params, np.ones((1, 5, 5, 2), int), match="x has dtype int64"
            ),
            _shape_case("channels", params, np.ones((1, 2, 5, 5)), match="channels are last"),
            _shape_case("no batch", params, np.ones((5, 5, 2)), match="expected 4 axes"),
            _shape_case(
                "bias", ConvParams(params.w, np.ones(3)), x, match=r"expected \(4,\), because"
            ),
            _shape_case("stride 0", params, x, stride=0, match="stride is 0, expected at least 1"),
            _type_case("stride 1.5", params, x, stride=1.5, match="expected an int or a pair"),
            _shape_case("negative padding", params, x, padding=-1, match="0 or more pixels"),
            _type_case("a word", params, x, padding="same", match='expected "SAME", "VALID"'),
            _shape_case(
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
            lambda sample, itemsize: _size(conv_output(sample)) * itemsize,
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
                _shape_case(
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
                _no_integers(),
                _shape_case("a scalar", np.ones(()), match="expected a batch"),
            ),
        ),
    ]


def _pools() -> list[Row]:
    def samples(draw: Callable[..., np.ndarray]) -> Callable[[Generator], list[Sample]]:
        def samples(rng: Generator) -> list[Sample]:
            return [
                Sample((draw(rng, 2, 4, 4, 2),)),
                Sample((draw(rng, 1, 5, 7, 3),), {"window": 3, "stride": 2}),
                Sample((draw(rng, 2, 5, 4, 1),), {"window": (3, 2), "stride": 1, "padding": 1}),
                Sample((draw(rng, 2, 5, 5, 2),), {"window": 2, "padding": "SAME"}),
                Sample((draw(rng, 1, 6, 5, 1),), {"window": 2, "stride": (3, 1)}),
                Sample((draw(rng, 1, 4, 3, 1),), {"window": 5, "stride": 2, "padding": 4}),
            ]

        return samples

    x = np.ones((1, 4, 4, 1))
    refusals = (
        _type_case("integers", np.ones((1, 4, 4, 1), int), match="x has dtype int64"),
        _shape_case("no batch", np.ones((4, 4, 1)), match="expected 4 axes: images"),
        _shape_case("window too large", x, window=5, match="a window of 5 does not fit"),
        _shape_case("window 0", x, window=0, match="window is 0"),
        _shape_case("stride 0", x, stride=0, match="stride is 0"),
        _type_case("window 2.5", x, window=2.5, match="expected an int or a pair"),
        _type_case("three numbers", x, window=(2, 2, 2), match="expected an int or a pair"),
        _shape_case("a window of padding", x, padding=2, match="expected less than the window"),
    )

    def square(rows: Any) -> np.ndarray:
        return np.asarray(rows, float)[None, :, :, None]

    ties = (
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
            "NaN wins",
            Sample((square([[9, np.nan], [np.nan, 1]]),)),
            square([[np.nan]]),
            (square([[0, 1], [0, 0]]),),
        ),
    )
    return [
        Row(
            layers.max_pool,
            plain.max_pool,
            "selection",
            samples(_distinct),
            lambda sample: int(np.prod(np.ravel(sample.static.get("window", 2)))) ** 2,
            batch=(0,),
            conventions=ties,
            refusals=refusals,
        ),
        Row(
            layers.avg_pool,
            plain.avg_pool,
            "reduction",
            samples(lambda rng, *shape: rng.normal(size=shape)),
            lambda sample: 25,
            batch=(0,),
            conventions=(
                Case(
                    "padding is not averaged",
                    Sample((square([[3]]),), {"window": 3, "stride": 1, "padding": 1}),
                    square([[3]]),
                    (square([[1]]),),
                ),
            ),
            refusals=refusals,
        ),
        Row(
            layers.global_avg_pool,
            plain.global_avg_pool,
            "reduction",
            lambda rng: [Sample((rng.normal(size=s),)) for s in ((2, 3, 5, 2), (3, 4, 1))],
            lambda sample: _size(sample.args[0][:1, ..., :1]),
            batch=(0,),
            refusals=(
                _no_integers(),
                _shape_case("rows", np.ones((2, 3)), match="expected .n, ..., c. with at least"),
                _shape_case("no place", np.ones((2, 0, 3)), match="at least one place"),
            ),
        ),
    ]


def _norms() -> list[Row]:
    def rows_and_images(rng: Generator) -> list[Sample]:
        return [
            Sample((_norm(rng, 3), 2.0 * rng.normal(size=(5, 3)) + 1.0)),
            Sample((_norm(rng, 2), rng.normal(size=(2, 3, 2, 2))), {"eps": 1e-3}),
        ]

    def channels(c: int) -> NormParams:
        return NormParams(np.ones(c), np.ones(c))

    def refusals(*options: Any, stats: bool = False) -> tuple[Refusal, ...]:
        def args(x: Any, c: int = 3) -> tuple[Any, ...]:
            middle = (BatchStats(np.ones(3), np.ones(3)),) if stats else ()
            return (channels(c), *middle, x, *options)

        return (
            _no_integers(args),
            _shape_case("channels", *args(np.ones((4, 3)), 2), match="params.gamma has shape"),
            _shape_case(
                "eps 0", *args(np.ones((4, 3))), eps=0.0, match=r"eps is 0.0, expected .* \(0.0"
            ),
            _type_case("eps a word", *args(np.ones((4, 3))), eps="x", match="a Python number"),
        )

    def batch_refusals(args: Callable[[Any], tuple[Any, ...]]) -> tuple[Refusal, ...]:
        return (
            _shape_case("one row", *args(np.ones((1, 3))), match="of the 3 channels, expected at"),
            _shape_case("no rows", *args(np.ones((0, 3))), match="0 value"),
        )

    def per_row(numbers: int) -> Callable[[Sample, int], int]:
        return lambda sample, itemsize: numbers * _size(sample.args[1][..., 0]) * _wide(itemsize)

    def layer_reduction(sample: Sample) -> int:
        return max(sample.args[1].shape[-1], _size(sample.args[1][..., 0]))

    constant = Sample((channels(2), np.full((4, 2), 0.1)))
    flat = Case(
        "equal numbers become beta exactly",
        constant,
        np.ones((4, 2)),
    )
    return [
        Row(
            layers.batch_norm,
            plain.batch_norm,
            "reduction",
            rows_and_images,
            lambda sample: _size(sample.args[1][..., 0]),
            lambda sample, itemsize: 3 * sample.args[1].shape[-1] * _wide(itemsize),
            empty="is refused",
            single="is refused",
            statistics=(1,),
            conventions=(
                flat._replace(value=(np.ones((4, 2)), BatchStats(np.full(2, 0.1), np.zeros(2)))),
            ),
            refusals=(*refusals(), *batch_refusals(lambda x: (channels(3), x))),
        ),
        Row(
            layers.batch_norm_inference,
            plain.batch_norm_inference,
            "reduction",
            lambda rng: [
                Sample((_norm(rng, 3), _stats(rng, 3), rng.normal(size=(5, 3)))),
                Sample((_norm(rng, 2), _stats(rng, 2), rng.normal(size=(2, 3, 2, 2)))),
            ],
            lambda sample: _size(sample.args[2][..., 0]),
            batch=(None, None, 0),
            refusals=(
                *refusals(stats=True),
                _shape_case(
                    "statistics",
                    channels(3),
                    BatchStats(np.ones(2), np.ones(2)),
                    np.ones((4, 3)),
                    match="stats.mean has shape",
                ),
            ),
        ),
        Row(
            layers.layer_norm,
            plain.layer_norm,
            "reduction",
            rows_and_images,
            layer_reduction,
            per_row(3),
            batch=(None, 0),
            conventions=(flat,),
            refusals=refusals(),
        ),
        Row(
            layers.group_norm,
            plain.group_norm,
            "reduction",
            lambda rng: [
                Sample((_norm(rng, 4), rng.normal(size=(2, 3, 2, 4))), {"groups": 2}),
                Sample((_norm(rng, 6), rng.normal(size=(3, 6))), {"groups": 3}),
                Sample((_norm(rng, 3), rng.normal(size=(2, 4, 3))), {"groups": 1}),
            ],
            lambda sample: _size(sample.args[1]),
            lambda sample, itemsize: (
                3 * sample.args[1].shape[0] * sample.static["groups"] * _wide(itemsize)
            ),
            batch=(None, 0),
            conventions=(flat._replace(sample=constant._replace(static={"groups": 1})),),
            refusals=(
                *refusals(3),
                _shape_case("groups", channels(3), np.ones((2, 3)), 2, match="groups is 2"),
                _shape_case("no groups", channels(3), np.ones((2, 3)), 0, match="groups is 0"),
                _type_case("half", channels(3), np.ones((2, 3)), 1.5, match="groups is 1.5"),
            ),
        ),
        Row(
            layers.rms_norm,
            plain.rms_norm,
            "reduction",
            lambda rng: [
                Sample((rng.uniform(0.5, 2, 3), rng.normal(size=(5, 3)))),
                Sample((rng.uniform(0.5, 2, 4), rng.normal(size=(2, 2, 4))), {"eps": 1e-3}),
            ],
            layer_reduction,
            per_row(1),
            batch=(None, 0),
            conventions=(Case("zeros", Sample((np.ones(2), np.zeros((1, 2)))), np.zeros((1, 2))),),
            refusals=(
                _no_integers(lambda x: (np.ones(3), x)),
                _shape_case("gains", np.ones(2), np.ones((4, 3)), match="gamma has shape"),
                _shape_case("eps -1", np.ones(3), np.ones((4, 3)), eps=-1.0, match="eps is -1.0"),
            ),
        ),
        Row(
            layers.affine_batch_norm_relu,
            plain.affine_batch_norm_relu,
            "contraction",
            lambda rng: [
                _clear(
                    lambda d=d, m=m, shape=shape: Sample(
                        ((_affine(rng, d, m), _norm(rng, m)), rng.normal(size=shape))
                    ),
                    lambda params, x: plain.batch_norm(params[1], plain.affine(params[0], x))[0],
                )
                for d, m, shape in ((4, 3, (5, 4)), (6, 2, (4, 2, 3)))
            ],
            lambda sample: max(*sample.args[0][0].w.shape, sample.args[1].shape[0]),
            lambda sample, itemsize: (
                sample.args[0][0].w.shape[1]
                * (sample.args[1].shape[0] * itemsize + 3 * _wide(itemsize))
            ),
            empty="is refused",
            single="is refused",
            statistics=(1,),
            refusals=(
                _shape_case(
                    "features",
                    (AffineParams(np.ones((3, 2)), np.ones(2)), channels(2)),
                    np.ones((2, 4)),
                    match="4 features a row",
                ),
                _shape_case(
                    "channels",
                    (AffineParams(np.ones((3, 2)), np.ones(2)), channels(3)),
                    np.ones((2, 3)),
                    match="params.gamma has shape",
                ),
                *batch_refusals(
                    lambda x: ((AffineParams(np.ones((3, 3)), np.ones(3)), channels(3)), x)
                ),
            ),
        ),
    ]


def _losses() -> list[Row]:
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
            _type_case("integer scores", _INTEGERS, labels, match=f"{name} has dtype int"),
            _type_case("float labels", scores, np.zeros(2), match="labels has dtype float64"),
            _type_case("one-hot rows", scores, np.ones((2, 3)), match="argmax"),
            _type_case("bools", scores, np.ones(2, bool), match="labels has dtype bool"),
            _shape_case("too few labels", scores, labels[:1], match="one label for each row"),
            _shape_case("no rows", scores[:0], labels[:0], match="at least one row"),
            _shape_case("no classes", scores[:, :0], labels, match="expected .*classes"),
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
            lambda sample: _size(sample.args[0]),
            lambda sample, itemsize: _size(sample.args[1]) * _wide(itemsize),
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
                _shape_case(
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
            lambda sample: _size(sample.args[0]),
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
                _shape_case(
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
            lambda sample: _size(sample.args[0]),
            empty="is refused",
            refusals=(
                _shape_case("shapes", np.ones((2, 1)), np.ones(2), match=r"expected \(2, 1\)"),
                _shape_case("nothing", np.ones((0, 2)), np.ones((0, 2)), match="at least one"),
                _type_case("integers", np.ones(2), np.ones(2, int), match="target has dtype int"),
            ),
        ),
        Row(
            losses.l2_penalty,
            plain.l2_penalty,
            "reduction",
            lambda rng: [
                Sample(({"a": _affine(rng, 3, 4), "c": _conv(rng, 2, 2, 1, 3)}, np.array(0.3))),
                Sample(((_affine(rng, 2, 2), _norm(rng, 2)), np.array(2.0))),
            ],
            lambda sample: sum(_size(w) for w in jax.tree.leaves(sample.args[0])),
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
            ),
            refusals=(
                _type_case(
                    "integers", {"w": np.ones((2, 2), int)}, 0.1, match=r"params\['w'\] has dtype"
                ),
            ),
        ),
    ]


ROWS: dict[str, Row] = {
    row.name: row for row in (*_activations(), *_linear(), *_pools(), *_norms(), *_losses())
}
