"""A batch in parts, one after the other, whose gradients add up to the batch's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from funcnet.kernels import wide

PART = np.uint32(2**31 + 3)  # see INIT, ORDER and AUGMENT of a step

Objective = Callable[[Any, Any, tuple[Any, Any]], tuple[Array, tuple[Array, Any]]]


def split(x: Array, count: int) -> Array:
    """(n, ...) as (count, n / count, ...): each part every so-manieth row.

    So each device of a batch that is cut has its rows of each part already.
    """
    if x.shape[0] % count:
        raise ValueError(
            f"make_step: a batch has {x.shape[0]} rows, which accumulate={count} does not divide."
        )
    return jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)


def joined(parts: Array) -> Array:
    """What `split` has split."""
    return jnp.moveaxis(parts, 0, 1).reshape(-1, *parts.shape[2:])


def shares(loss: Callable[..., Array], labels: Array) -> Array:
    """The share of each part in the mean over the batch, of labels (count, rows, ...).

    Where the loss leaves rows out or weighs them, by an `ignore_index` or `class_weights` that
    `functools.partial` has given it, by the weights of a part's rows, else the same for each.
    """
    options = loss.keywords if isinstance(loss, partial) else {}
    ignored, weights = options.get("ignore_index"), options.get("class_weights")
    dtype = jax.dtypes.canonicalize_dtype(np.float64)
    rows = jnp.ones(labels.shape, dtype)
    if weights is not None and jnp.issubdtype(labels.dtype, jnp.integer):
        rows = jnp.asarray(weights, dtype).at[labels].get(mode="clip")
    if ignored is not None:
        rows = jnp.where(labels == ignored, 0, rows)
    sums = rows.sum(tuple(range(1, rows.ndim)))
    total = sums.sum()
    return jnp.where(total == 0, 1 / len(sums), sums / jnp.where(total == 0, 1, total))


def differentiated(
    objective: Objective, loss: Callable[..., Array], count: int
) -> Callable[..., tuple[tuple[Array, tuple[Array, Any]], Any]]:
    """`jax.value_and_grad(objective, has_aux=True)` of a batch, in so many parts."""
    whole = jax.value_and_grad(objective, has_aux=True)
    if count == 1:
        return whole

    def differentiate(params: Any, rest: Any, batch: tuple[Any, Any]) -> Any:
        def add(sums: Any, part: Any) -> Any:
            share, number, own = part
            old, state = sums
            (value, (output, state)), grads = whole(params, _of_part(rest, state, number), own)
            return (jax.tree.map(partial(_plus, share), old, (value, grads)), state), output

        first = (jnp.zeros((), value_dtype(objective, params, rest, batch)), params)
        zero = jax.tree.map(lambda x: jnp.zeros_like(wide(x)), first)
        # Unrolled where XLA would spoil convolutions in a loop: see `slow_in_loops`.
        unroll = jax.default_backend() == "cpu"
        parts = _parts(loss, batch, count)
        ((value, grads), state), outputs = lax.scan(add, (zero, rest.state), parts, unroll=unroll)
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params)
        return (value, (joined(outputs), state)), grads

    return differentiate


def in_parts(objective: Objective, loss: Callable[..., Array], count: int) -> Objective:
    """The objective of a batch, in so many parts; differentiated, each is computed once more."""
    if count == 1:
        return objective
    again = jax.checkpoint(objective)

    def whole(params: Any, rest: Any, batch: tuple[Any, Any]) -> Any:
        def add(sums: Any, part: Any) -> Any:
            share, number, own = part
            value, (output, state) = again(params, _of_part(rest, sums[1], number), own)
            return (_plus(share, sums[0], value), state), output

        zero = jnp.zeros((), value_dtype(objective, params, rest, batch))
        parts = _parts(loss, batch, count)
        (value, state), outputs = lax.scan(add, (zero, rest.state), parts)
        return value, (joined(outputs), state)

    return whole


def value_dtype(objective: Objective, *arguments: Any) -> Any:
    """The dtype of an objective's value."""
    return jax.eval_shape(objective, *arguments)[0].dtype


def _parts(loss: Callable[..., Array], batch: tuple[Any, Any], count: int) -> Any:
    x, y = (split(jnp.asarray(a), count) for a in batch)
    return shares(loss, y), jnp.arange(count, dtype=jnp.uint32), (x, y)


def _of_part(rest: Any, state: Any, number: Array) -> Any:
    """The state of a run as a part sees it, with a key of its own."""
    key = jax.random.fold_in(jax.random.fold_in(rest.key, PART), number)
    return rest._replace(state=state, key=key)


def _plus(share: Array, total: Array, value: Array) -> Array:
    """A part's share added; of a part without a row that counts, whose loss may be NaN, nothing."""
    some = (share.astype(total.dtype) * value.astype(total.dtype)).astype(total.dtype)
    return total + jnp.where(share == 0, jnp.zeros_like(some), some)
