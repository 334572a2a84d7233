"""Means and standard deviations of any numbers, exact or nearly so, in blocks of little memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

_BLOCK_ROWS, _BLOCK_ENTRIES = 1024, 1 << 20
_EPS, _TINY = np.finfo(np.float64).eps, np.finfo(np.float64).tiny
_UNSEEN = 2.0**-10  # an error of the mean that nobody sees, in deviations


def blocks(rows: Any) -> Iterator[slice]:
    """The rows in blocks, of about a million entries at most."""
    step = max(1, min(_BLOCK_ROWS, _BLOCK_ENTRIES // max(1, math.prod(rows.shape[1:]))))
    return (slice(start, start + step) for start in range(0, len(rows), step))


def first(where: np.ndarray, block: slice = slice(0, None)) -> tuple[int, ...]:
    """The index, among all rows, of the first True in a block of them."""
    row, *rest = (int(i) for i in np.unravel_index(int(where.argmax()), where.shape))
    return block.start + row, *rest


def moments(
    rows: Any, axes: tuple[int, ...] = (), *, deviation: bool = True
) -> tuple[np.ndarray, Any]:
    r"""The mean and the (biased) standard deviation over the rows and some axes of an example.

    Of integers both come from exact sums. Of floats they are sums in float64 of deviations, first
    from the middle of the range and then from the mean, in units of the range, so that nothing
    cancels, overflows or vanishes; a deviation within float64's rounding of the values is a
    constant's, 0.

    Args:
      rows: (n, ...) of an integer or floating dtype, n at least 1 and at most 2^31: an array, or
        what has its shape and dtype and gives its blocks.
      axes: the axes of an example over which is averaged, too; they stay, of size 1.
      deviation: whether it is wanted; otherwise it is None.

    Returns:
      Mean and deviation, float64.

    Raises:
      ValueError: a float is not finite; or integers differ by less than float64 resolves.

    >>> moments(np.array([[2**31 + 1], [2**31 - 1]]))
    (array([2.14748365e+09]), array([1.]))
    """
    of = _of_integers if jnp.issubdtype(rows.dtype, jnp.integer) else _of_floats
    return of(rows, axes, deviation)


def _count(rows: Any, axes: tuple[int, ...]) -> int:
    return math.prod([len(rows), *(rows.shape[1 + axis] for axis in axes)])


def _of_integers(
    rows: Any, axes: tuple[int, ...], deviation: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Squares of 16 bits and sums of 2^31 of them fit into int64; what is wider comes in limbs."""
    count = _count(rows, axes)
    low, spread, limbs = np.zeros((1,) * (rows.ndim - 1), object), None, 1
    if rows.dtype.itemsize > 2:
        least, most = rows[:1].min(0), rows[:1].max(0)
        for block in blocks(rows):
            part = rows[block]
            least, most = np.minimum(least, part.min(0)), np.maximum(most, part.max(0))
        low = least.min(axes, keepdims=True).astype(object)
        spread = most.max(axes, keepdims=True).astype(object) - low
        limbs = max(1, -(-int(spread.max()).bit_length() // 16))
    offset = (low % (1 << 64)).astype(np.uint64)
    sums = np.zeros((limbs, *rows.shape[1:]), np.int64)
    products = np.zeros((limbs, limbs, *rows.shape[1:]), np.int64)
    for block in blocks(rows):
        parts = [rows[block]]
        if spread is not None:
            above = parts[0].astype(np.uint64) - offset  # modulo 2^64, and so exact
            parts = [
                (above >> np.uint64(16 * k) & np.uint64(0xFFFF)).astype(np.int64)
                for k in range(limbs)
            ]
        for j, part in enumerate(parts):
            sums[j] += part.sum(0, dtype=np.int64)
            for k, other in enumerate(parts[: j + 1] if deviation else ()):
                products[j, k] += np.einsum("n...,n...->...", part, other, dtype=np.int64)
    # From here on Python's integers, of any size.
    weights = np.array([1 << 16 * k for k in range(limbs)], object)
    total = np.tensordot(weights, sums.astype(object), 1).sum(axes, keepdims=True)
    mean = ((low * count + total) / count).astype(np.float64)
    if not deviation:
        _check_resolution(mean, spread)
        return mean, None
    pairs = np.multiply.outer(weights, weights) * (2 - np.eye(limbs, dtype=int))  # j, k and k, j
    squares = np.tensordot(pairs, products.astype(object), 2).sum(axes, keepdims=True)
    found = np.sqrt(((count * squares - total * total) / count**2).astype(np.float64))
    _check_resolution(mean, found)
    return mean, found


def _check_resolution(mean: np.ndarray, spread: Any) -> None:
    """Raises ValueError where integers that differ have a mean that float64 cannot hold."""
    if spread is None:
        return
    spread = spread.astype(np.float64)
    lost = (spread > 0) & (np.abs(mean) * _EPS / 2 > _UNSEEN * spread)
    if lost.any():
        raise ValueError(
            f"fit_preprocessing: images has integers around {mean[lost][0]:.0f} that differ by "
            f"{spread[lost][0]:.3g}, which float64 cannot resolve; subtract a constant from them."
        )


def _of_floats(
    rows: Any, axes: tuple[int, ...], deviation: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    count = _count(rows, axes)
    low: Any = np.inf
    high: Any = -np.inf
    for block in blocks(rows):
        part = rows[block]
        values = part.astype(np.float64)
        odd = ~np.isfinite(values)
        if odd.any():
            row, *column = first(odd, block)
            value = part[row - block.start][*column]
            raise ValueError(
                f"fit_preprocessing: images[{row}] has {value} at {column}, which is "
                "not finite; drop or mend it before training."
            )
        low = np.minimum(low, values.min(0).min(axes, keepdims=True))
        high = np.maximum(high, values.max(0).max(axes, keepdims=True))
    half, centre = high / 2 - low / 2, high / 2 + low / 2
    # A power of 2, by which dividing is exact.
    unit = np.where(half > 0, np.ldexp(1.0, np.frexp(half)[1] - 1), 1)

    def scaled(block: slice) -> np.ndarray:
        return rows[block].astype(np.float64) / unit - centre / unit

    def total(values: Iterator[np.ndarray]) -> Any:
        sums: Any = sum(block.sum(0) for block in values)
        return sums.sum(axes, keepdims=True)

    shift = total(scaled(block) for block in blocks(rows)) / count
    mean = centre + unit * shift
    if not deviation:
        return mean, None
    squares = total(np.square(scaled(block) - shift) for block in blocks(rows))
    found = unit * np.sqrt(squares / count)
    least = np.maximum(_EPS * np.maximum(np.abs(low), np.abs(high)), _TINY)
    return mean, np.where(found > least, found, 0)
