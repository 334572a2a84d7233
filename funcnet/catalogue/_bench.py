"""What rules are measured with: realistic shapes, batch 100, float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from funcnet.layers import AffineParams, BatchStats, ConvParams, NormParams

BATCH = 100
IMAGES = (BATCH, 32, 32, 32)
ROWS = (BATCH, 500)


class BenchCase(NamedTuple):
    """Arguments of a rule to measure it with.

    Attributes:
      label: the shapes in words.
      draw: makes the positional arguments, arrays of float32 or integers; the string "key" stands
        for a random key.
      static: the static options.

    >>> case = BenchCase("3 rows of 4", lambda rng: (rng.normal(size=(3, 4)).astype(np.float32),))
    >>> case.arguments()[0].shape
    (3, 4)
    """

    label: str
    draw: Callable[[Generator], tuple[Any, ...]]
    static: dict[str, Any] = {}  # noqa: RUF012  (never written to)

    def arguments(self) -> tuple[Any, ...]:
        """The arguments, the same at each call."""
        return self.draw(np.random.default_rng(0))


# What is drawn -----------------------------------------------------------------------------


def normal(rng: Generator, *shape: int) -> Any:  # jax's layers are annotated for jax's arrays
    return rng.standard_normal(shape, np.float32)


def positive(rng: Generator, c: int) -> Any:
    return rng.uniform(0.5, 2.0, c).astype(np.float32)


def affine(rng: Generator, d: int, m: int) -> AffineParams:
    return AffineParams(normal(rng, d, m) / np.float32(np.sqrt(d)), normal(rng, m))


def conv(rng: Generator, k: int, cin: int, cout: int) -> ConvParams:
    w = normal(rng, k, k, cin, cout) / np.float32(np.sqrt(k * k * cin))
    return ConvParams(w, normal(rng, cout))


def norm(rng: Generator, c: int) -> NormParams:
    return NormParams(positive(rng, c), normal(rng, c))


def stats(rng: Generator, c: int) -> BatchStats:
    return BatchStats(normal(rng, c), positive(rng, c))


def labels(rng: Generator, n: int, classes: int) -> np.ndarray:
    return rng.integers(classes, size=n, dtype=np.int32)


def binary(rng: Generator, n: int, k: int) -> np.ndarray:
    return rng.integers(2, size=(n, k), dtype=np.int32)


# The cases of a family ---------------------------------------------------------------------


def words(*shape: int) -> str:
    return "×".join(map(str, shape))


def array(*shape: int) -> BenchCase:
    """One array of a shape."""
    return BenchCase(words(*shape), lambda rng: (normal(rng, *shape),))


def affines(params: Callable[[Generator, int, int], Any]) -> tuple[BenchCase, ...]:
    def draw(d: int, m: int, rng: Generator) -> tuple[Any, ...]:
        return params(rng, d, m), normal(rng, BATCH, d)

    return tuple(
        BenchCase(f"{d}→{m}", partial(draw, d, m)) for d, m in ((500, 500), (3072, 500), (100, 100))
    )


def convs(*shapes: tuple[int, int, int, int], **static: int) -> tuple[BenchCase, ...]:
    """Of (kernel, channels in, channels out, image); the options are in the label too."""
    options = "".join(f", {name} {value}" for name, value in static.items())

    def draw(k: int, cin: int, cout: int, size: int, rng: Generator) -> tuple[Any, ...]:
        params = conv(rng, k, cin // static.get("groups", 1), cout)
        return params, normal(rng, BATCH, size, size, cin)

    return tuple(
        BenchCase(
            f"{k}×{k}, {cin}→{cout}, {words(size, size)}{options}",
            partial(draw, k, cin, cout, size),
            static,
        )
        for k, cin, cout, size in shapes
    )


def sequences(k: int, cin: int, cout: int, length: int) -> BenchCase:
    def draw(rng: Generator) -> tuple[Any, ...]:
        w, b = conv(rng, k, cin, cout)
        return ConvParams(w[0], b), normal(rng, BATCH, length, cin)

    return BenchCase(f"{k}, {cin}→{cout}, {length}", draw)


def transposed(k: int, cin: int, cout: int, size: int, stride: int) -> BenchCase:
    def draw(rng: Generator) -> tuple[Any, ...]:
        w, _ = conv(rng, k, cout, cin)
        return ConvParams(w, normal(rng, cout)), normal(rng, BATCH, size, size, cin)

    label = f"{k}×{k} by {stride}, {cin}→{cout}, {size}×{size}"
    return BenchCase(label, draw, {"stride": stride})


def norms(
    make: Callable[[Generator, tuple[int, ...]], Any], **static: Any
) -> tuple[BenchCase, ...]:
    def draw(shape: tuple[int, ...], rng: Generator) -> tuple[Any, ...]:
        return make(rng, shape)

    return tuple(BenchCase(words(*shape), partial(draw, shape), static) for shape in (ROWS, IMAGES))


def losses(make: Callable[[Generator, int, int], tuple[Any, ...]]) -> tuple[BenchCase, ...]:
    def draw(n: int, c: int, rng: Generator) -> tuple[Any, ...]:
        return make(rng, n, c)

    return tuple(
        BenchCase(words(n, c), partial(draw, n, c)) for n, c in ((BATCH, 10), (1000, 1000))
    )
