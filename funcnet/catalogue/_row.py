"""What a row of the catalogue holds, and what rows are drawn with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from numpy.random import Generator

from funcnet.catalogue._bench import BenchCase
from funcnet.layers import AffineParams, BatchStats, ConvParams, NormParams

Kind = Literal["elementwise", "reduction", "contraction", "selection"]


class Sample(NamedTuple):
    """Arguments of a rule: arrays in float64 (or integers, keys, None), then static options.

    `skip` names checks in which the twin is no judge of this sample, each with the reason.
    """

    args: tuple[Any, ...]
    static: dict[str, Any] = {}  # noqa: RUF012  (never written to)
    skip: dict[str, str] = {}  # noqa: RUF012


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
      bench: the shapes that the rule is measured with, the first alone when it has to be quick.
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
    refusals: tuple[Refusal, ...] = ()
    bench: tuple[BenchCase, ...] = ()

    @property
    def name(self) -> str:
        """The rule's name, the same in `layers` or `losses` and in `plain`."""
        return self.function.__name__

    def enlarged(self, sample: Sample, rows: int, rng: Generator) -> tuple[Sample, tuple[int, ...]]:
        """A sample with so many rows, and the arguments that have them.

        Rows are repeated, and their floats multiplied by 0.5 to 1.5: they keep their side of a
        kink. Where `batch` is None, every array that is an argument of its own has rows.
        """
        args = list(sample.args)
        axes = self.batch or [0 if isinstance(a, np.ndarray) and a.ndim else None for a in args]
        cut = tuple(i for i, axis in enumerate(axes) if axis is not None)
        for i in cut:
            a = np.concatenate([args[i]] * -(-rows // len(args[i])))[:rows]
            if a.dtype.kind == "f":
                a = a * rng.uniform(0.5, 1.5, (rows,) + (1,) * (a.ndim - 1))
            args[i] = a
        return sample._replace(args=tuple(args)), cut


def normal(rng: Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape)


def away_from_zero(rng: Generator, *shape: int) -> np.ndarray:
    return rng.choice([-1.0, 1.0], shape) * rng.uniform(0.05, 2.0, shape)


def distinct(rng: Generator, *shape: int) -> np.ndarray:
    """Numbers that differ by at least 2 / size, so that no window has a tie or nearly one."""
    size = int(np.prod(shape))
    return (2.0 * rng.permutation(size) / max(size, 1) - 0.9).reshape(shape)


def clear(draw: Callable[[], Sample], decisions: Callable[..., jax.Array]) -> Sample:
    """Draws until no decision (a number that a rule compares with 0) is nearly taken otherwise."""
    sample = draw()
    decide = _compiled(decisions, tuple(sample.static))
    while np.abs(decide(*sample.args, **sample.static)).min() <= 0.02:
        sample = draw()
    return sample


@functools.cache
def _compiled(decisions: Callable[..., jax.Array], options: tuple[str, ...]) -> Any:
    """Once for all draws: the tests draw the same samples many times."""
    return jax.jit(decisions, static_argnames=options)


def affine_params(rng: Generator, d: int, m: int) -> AffineParams:
    return AffineParams(rng.normal(size=(d, m)) / np.sqrt(max(d, 1)), rng.normal(size=m))


def conv_params(rng: Generator, kh: int, kw: int, cin: int, cout: int) -> ConvParams:
    w = rng.normal(size=(kh, kw, cin, cout)) / np.sqrt(kh * kw * cin)
    return ConvParams(w, rng.normal(size=cout))


def norm_params(rng: Generator, c: int) -> NormParams:
    return NormParams(rng.uniform(0.5, 2.0, c) * rng.choice([-1, 1], c), rng.normal(size=c))


def batch_stats(rng: Generator, c: int) -> BatchStats:
    return BatchStats(rng.normal(size=c), rng.uniform(0.5, 2.0, c))


def size(x: Any) -> int:
    return int(np.prod(np.shape(x)))


def wide_bytes(itemsize: int) -> int:
    """Bytes of a number of the dtype that sums over `itemsize` bytes are taken in."""
    return max(itemsize, 4)


def value_error(why: str, *args: Any, match: str, **static: Any) -> Refusal:
    return Refusal(why, Sample(args, static), ValueError, match)


def type_error(why: str, *args: Any, match: str, **static: Any) -> Refusal:
    return Refusal(why, Sample(args, static), TypeError, match)


INTEGERS = np.arange(6).reshape(2, 3)


def no_integers(make: Callable[[Any], tuple[Any, ...]] = lambda x: (x,)) -> Refusal:
    return type_error("integers", *make(INTEGERS), match="has dtype int.*expected float64, float32")
