"""What the tests of rules share: the catalogue's samples as functions of their floats alone."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.catalogue import ROWS, Row, Sample


@functools.cache
def samples_of(name: str, seed: int) -> list[Sample]:
    """A row's samples, drawn once: some are moved off a kink by a convolution of their own."""
    return ROWS[name].samples(np.random.default_rng(seed))


SAMPLES = [(name, i) for name in ROWS for i in range(len(samples_of(name, 1)))]


def is_float(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


class Problem(NamedTuple):
    """A sample in one dtype, its rule and its twin as functions of the float leaves alone."""

    row: Row
    sample: Sample
    floats: list[jax.Array]
    rule: Any
    plain: Any
    tolerance: float  # in units of eps of the dtype sums are taken in, of the largest entry


def problem(name: str, index: int, dtype: Any = jnp.float64, seed: int = 1) -> Problem:
    return problem_of(ROWS[name], samples_of(name, seed)[index], dtype)


def problem_of(row: Row, sample: Sample, dtype: Any = jnp.float64) -> Problem:
    leaves, tree = jax.tree.flatten(sample.args)
    where = [i for i, leaf in enumerate(leaves) if is_float(leaf)]
    # NumPy converts without a program, and device_put puts without one.
    floats = [jax.device_put(np.asarray(leaves[i]).astype(dtype)) for i in where]

    def of_floats(function: Any) -> Any:
        def f(floats: list[jax.Array]) -> list[jax.Array]:
            filled = list(leaves)
            for i, value in zip(where, floats, strict=True):
                filled[i] = value
            outputs = function(*jax.tree.unflatten(tree, filled), **sample.static)
            return jax.tree.leaves(outputs)

        return f

    k = max(1, row.reduction(sample))
    return Problem(
        row,
        sample,
        floats,
        of_floats(row.function),
        of_floats(row.plain),
        8.0 if row.kind in ("elementwise", "selection") else 8.0 + 4.0 * np.sqrt(k),
    )


def cotangents(
    outputs: list[Any], rng: np.random.Generator, count: int | None = None
) -> list[jax.Array]:
    """Random signs times random sizes; with a `count` so many, stacked in front of each output."""
    lead = () if count is None else (count,)
    shapes = [(*lead, *y.shape) for y in outputs]
    drawn = [rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 2, shape) for shape in shapes]
    return [jax.device_put(d.astype(y.dtype)) for d, y in zip(drawn, outputs, strict=True)]


def worst(got: Any, want: Any, eps: float) -> float:
    """The largest difference, leaf by leaf, in units of eps of the leaf's largest entry."""
    ratio = 0.0
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        if a.size:
            difference = np.nanmax(np.abs(a - b), initial=0.0)
            scale = np.nanmax(np.abs(b), initial=0.0)
            ratio = max(ratio, difference / (eps * max(scale, 1.0)))
    return ratio
