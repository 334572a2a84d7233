"""One entry of each row: taken out, or put in another's place."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.interpreters import batching
from jaxtyping import Float, Int32

from funcnet.kernels._lowering import make_composite
from funcnet.kernels._types import is_at, of_cut_rows


def compared(rows: Array, index: Array, values: Array) -> Array:
    """By a comparison for every number of the row, which any device but a CPU does in passing."""
    return jnp.where(is_at(rows, index), values[..., None], rows)


def scattered(rows: Array, index: Array, values: Array) -> Array:
    """By writing one number a row."""

    def with_entry(row: Array, index: Array, value: Array) -> Array:
        return row.at[index].set(value, mode="drop")

    return jnp.vectorize(with_entry, signature="(c),(),()->(c)")(rows, index, values)


def _batch(operands: Any, axes: Any, **_: Any) -> tuple[Array, int]:
    size = next(x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None)
    front = (batching.bdim_at_front(x, a, size) for x, a in zip(operands, axes, strict=True))
    return entries_k(*front), 0


# A primitive, not a scatter: that of a vmap is more than checkify's index checks can read.
entries_k = make_composite("with_entries", compared, scattered, lambda **_: "... -> ...")
batching.primitive_batchers[entries_k.primitive] = _batch


def with_entries(
    rows: Float[Array, "*batch c"], index: Int32[Array, "*batch"], values: Float[Array, "*batch"]
) -> Float[Array, "*batch c"]:
    r"""The rows with one entry of each put in the place of what was there.

    Args:
      rows: (..., c).
      index: (...), the place in each row, 0 to c - 1.
      values: (...), what is put there.

    Returns:
      (..., c).

    >>> with_entries(jnp.zeros((2, 2)), jnp.array([1, 0], jnp.int32), jnp.array([3.0, 4.0]))
    Array([[0., 3.],
           [4., 0.]], dtype=float64)
    """
    return entries_k(rows, index, values)


def entries_of(
    rows: Float[Array, "*batch c"], index: Int32[Array, "*batch"]
) -> Float[Array, "*batch"]:
    r"""One entry of each row.

    Args:
      rows: (..., c).
      index: (...), the place in each row, 0 to c - 1.

    Returns:
      (...).

    >>> entries_of(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([1, 0], jnp.int32))
    Array([2., 3.], dtype=float64)
    """
    found = of_cut_rows(rows, index)
    if found is not None:
        return found
    return jnp.take_along_axis(rows, index[..., None], -1, mode="promise_in_bounds").squeeze(-1)
