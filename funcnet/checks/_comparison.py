"""Arrays compared in units of rounding error: the tolerances of `checks`, as formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

SENSITIVITY_STEP = 2.0**-26  # far above rounding, far below the curvature of anything smooth


def eps(dtype: Any) -> float:
    """The distance from 1 to the next number of a dtype, as a float."""
    return float(jnp.finfo(dtype).eps)


def tolerance(k: int, dtype: Any = np.float64) -> float:
    r"""How many eps a result may be off whose longest sum has `k` terms.

    $8 + 4\sqrt{k}$ in float64, where both sides round; $4 + 2\sqrt{k}$ in float32, where the
    float64 truth does not; $2 + 2\sqrt{k}\,\epsilon_{32}/\epsilon$ in bfloat16 and float16, whose
    sums are expected to accumulate in float32.
    """
    name = jnp.dtype(dtype).name
    if name in ("float64", "complex128"):
        return 8 + 4 * math.sqrt(k)
    if name in ("float32", "complex64"):
        return 4 + 2 * math.sqrt(k)
    return 2 + 2 * math.sqrt(k) * eps(np.float32) / eps(dtype)


class Difference(NamedTuple):
    """The worst entry of a leaf: its error in units, its index, what came, what was expected."""

    error: float
    at: tuple[int, ...]
    got: Any
    expected: Any


def widen(array: Any) -> np.ndarray:
    """An array as NumPy float64 or complex128, so that differences are exact enough."""
    array = np.asarray(array)
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    return array.astype(np.float64)


def difference(got: Any, expected: Any, unit: float | np.ndarray) -> Difference:
    """The worst entry of `got` against `expected`, its error in multiples of `unit`.

    Where the expected entry is NaN there is nothing to compare with, and the entry does not
    count; where `got` is NaN or infinite and the expected entry is finite, the error is infinite.
    """
    got, expected = widen(got), widen(expected)
    if got.size == 0:
        return Difference(0.0, (), 0.0, 0.0)
    with np.errstate(all="ignore"):
        error = np.abs(got - expected)
        error = np.where(got == expected, 0.0, error)
        error = np.where(np.isnan(error), np.inf, error)
        error = np.where(np.isnan(expected), 0.0, error)
        units = np.where(error == 0, 0.0, error / unit)
    flat = int(np.argmax(units))
    index = tuple(int(i) for i in np.unravel_index(flat, units.shape))
    return Difference(float(units[index]), index, got[index], expected[index])


def largest(array: Any) -> float:
    """The largest finite magnitude in an array, 0 where there is none."""
    magnitude = np.abs(widen(array))
    magnitude = magnitude[np.isfinite(magnitude)]
    return float(magnitude.max()) if magnitude.size else 0.0


def perturbed(leaf: Any, step: float, rng: np.random.Generator) -> np.ndarray:
    """A leaf with every entry multiplied by 1 + step or 1 - step, at random."""
    leaf = np.asarray(leaf)
    return np.asarray(leaf * (1 + step * rng.choice([-1.0, 1.0], size=leaf.shape)))


class Scale(NamedTuple):
    """How large one eps is in each leaf: an absolute unit, beside the largest entry."""

    unit: float
    largest: float


def scales(
    values: Sequence[float],
    sensitivity: Sequence[float],
    noise: Sequence[float],
    k: int,
    machine_eps: float,
) -> list[Scale]:
    r"""The unit of error of every leaf of a result, measured and not guessed.

    A backward-stable computation is off by eps times its value plus eps times how far the value
    moves per relative change of its inputs: the sensitivity $S$, measured with inputs perturbed by
    `SENSITIVITY_STEP`. Perturbed by a few eps the result moves by its rounding noise $N$, which
    counts where it is not small beside the value (a gradient that is zero in exact arithmetic).
    The unit is $\epsilon(\max|ref| + S) + \min(8N/c, \epsilon G)$, with $c$ the tolerance and $G$
    the largest scale of all leaves, so that noise never hides an error in what is not noise.
    """
    sizes = [value + s for value, s in zip(values, sensitivity, strict=True)]
    top = max(sizes, default=0.0)
    c = tolerance(k)
    return [
        Scale(machine_eps * size + min(8 * n / c, machine_eps * top), value)
        for size, n, value in zip(sizes, noise, values, strict=True)
    ]


def moves(runs: Sequence[Sequence[Any]], start: Sequence[Any]) -> list[float]:
    """How far each leaf of a result moved at most, over several runs."""
    with np.errstate(all="ignore"):
        return [
            max((largest(widen(run[i]) - widen(leaf)) for run in runs), default=0.0)
            for i, leaf in enumerate(start)
        ]
