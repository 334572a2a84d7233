"""The values that a sweep goes through: columns, and the members that they make with its seeds."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from funcnet import _validate
from funcnet.sweep._members import Members


def grid(**columns: ArrayLike | Sequence[Any]) -> dict[str, np.ndarray]:
    r"""Every combination of some values, as columns for `run`: $\prod_i k_i$ rows.

    Args:
      **columns: hyper-parameter -> its $k_i$ values; the last one changes fastest.

    Returns:
      Columns of one length, a row for each combination.

    >>> values = grid(learning_rate=[1e-3, 1e-2], reg=[0.0, 0.1, 1.0])
    >>> values["learning_rate"], values["reg"]
    (array([0.001, 0.001, 0.001, 0.01 , 0.01 , 0.01 ]), array([0. , 0.1, 1. , 0. , 0.1, 1. ]))
    """
    arrays = [np.atleast_1d(np.asarray(column)) for column in columns.values()]
    product = [column.ravel() for column in np.meshgrid(*arrays, indexing="ij")]
    return dict(zip(columns, product, strict=True))


def log_uniform(
    rng: np.random.Generator, low: int | float, high: int | float, size: int
) -> np.ndarray:
    r"""Draws $e^u$ with $u$ uniform in $[\ln \text{low}, \ln \text{high})$: as many in each decade.

    `rng.uniform(low, high, size)` draws evenly where there are no decades.

    Args:
      rng: a generator, such as `np.random.default_rng(0)`.
      low: the lowest value, above 0.
      high: the end of the interval.
      size: the number of values.

    Returns:
      The values, (size,).

    Raises:
      ValueError: not 0 < low <= high.

    Source: Bergstra and Bengio 2012, https://jmlr.org/papers/v13/bergstra12a.html; courses.md row
    0-19.

    >>> values = log_uniform(np.random.default_rng(0), 1e-4, 1e-1, 3)
    >>> [f"{value:.5f}" for value in values]
    ['0.00814', '0.00064', '0.00013']
    """
    if not 0 < low <= high:
        raise ValueError(f"log_uniform: low is {low} and high is {high}, expected 0 < low <= high.")
    return np.exp(rng.uniform(math.log(low), math.log(high), size))


def members_of(make: Callable[..., Any], values: dict[str, Any], seeds: Any) -> Members:
    """Each row of values with each seed, or TypeError or ValueError."""
    columns: dict[str, np.ndarray] = {}
    for name, value in values.items():
        column = np.asarray(value)
        if column.ndim != 1 or not column.size or column.dtype.kind not in "fiu":
            raise ValueError(
                f"sweep.run: values[{name!r}] is {value!r}, expected a list of numbers, one for "
                "each row; what is no number is written into make, in a sweep for each."
            )
        columns[name] = column.astype(np.float64 if column.dtype.kind == "f" else np.int64)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(
            f"sweep.run: columns have different lengths ({said}), expected a value for each row; "
            "sweep.grid makes rows of every combination."
        )
    try:
        inspect.signature(make).bind(**columns)
    except TypeError as error:
        raise TypeError(
            f"sweep.run: make does not take the columns {list(columns)} ({error}); expected a "
            "function with a parameter for each."
        ) from None
    if not isinstance(seeds, Sequence | np.ndarray) or not len(seeds):
        raise TypeError(f"sweep.run: seeds is {seeds!r}, expected a sequence such as (0, 1, 2).")
    given = [_validate.seed("sweep.run", f"seeds[{i}]", seed) for i, seed in enumerate(seeds)]
    if len(set(given)) < len(given):
        raise ValueError(f"sweep.run: seeds are {given}, expected each one once.")
    rows = max(lengths.values(), default=1)
    each = {name: np.repeat(column, len(given)) for name, column in columns.items()}
    return Members(each, np.tile(np.array(given), rows))
