"""Which rows an epoch's batches take, and how a batch is made on the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.typing import ArrayLike

from funcnet import data
from funcnet.kernels import wide_dtype
from funcnet.train._step import AUGMENT, ORDER, TrainState

Sampling = Literal["permutation", "replacement", "full"]
SAMPLINGS = ("permutation", "replacement", "full")


def steps_per_epoch(n: int, batch_size: int) -> int:
    r"""The number of whole batches in n rows: $\lfloor n / \text{batch size} \rfloor$.

    The n mod batch_size rows that are left sit out that epoch; with a new permutation an epoch,
    they are others each time.

    Args:
      n: the number of rows.
      batch_size: the number of rows in a batch.

    Raises:
      ValueError: `batch_size` is below 1 or above n.

    Source: courses.md 1.6.

    >>> steps_per_epoch(49000, 100)
    490
    """
    if not 1 <= batch_size <= n:
        raise ValueError(
            f"steps_per_epoch: batch_size is {batch_size}, expected 1 to {n}, the number of rows."
        )
    return n // batch_size


def decay_per_epoch(
    learning_rate: ArrayLike, decay: ArrayLike, steps_per_epoch: int
) -> optax.Schedule:
    r"""The courses' `lr_decay`: $\eta_t = \eta_0\, d^{\lfloor t / s \rfloor}$.

    Args:
      learning_rate: the rate $\eta_0$ of the first epoch.
      decay: the factor d at the end of each epoch.
      steps_per_epoch: the number of steps s in an epoch.

    Returns:
      A schedule, step -> rate, for any optimizer.

    Raises:
      ValueError: `steps_per_epoch` is below 1.

    Source: courses.md row 4-26; `optax.exponential_decay` with a staircase.

    >>> schedule = decay_per_epoch(1e-5, 0.95, steps_per_epoch=490)
    >>> [f"{schedule(step):.6e}" for step in (0, 489, 490, 980)]
    ['1.000000e-05', '1.000000e-05', '9.500000e-06', '9.025000e-06']
    """
    if steps_per_epoch < 1:
        raise ValueError(f"decay_per_epoch: steps_per_epoch is {steps_per_epoch}, expected 1 on.")
    return optax.exponential_decay(learning_rate, steps_per_epoch, decay, staircase=True)


@partial(jax.jit, static_argnames=("n", "batch_size", "sampling"))
def batch_order(
    key: Array, epoch: Any, n: int, batch_size: int, sampling: Sampling = "permutation"
) -> Array:
    r"""The rows of an epoch's batches, as `fit` draws them; nothing is random but by these.

    "permutation" takes each row at most once, and n mod batch_size rows not at all; "replacement"
    draws each row of each batch from all n, as the courses' Solver does; "full" is one batch of all
    rows in order.

    Args:
      key: the run's key, `TrainState.key`.
      epoch: the number of the epoch, from 0; it may be traced.
      n: the number of rows.
      batch_size: the number of rows in a batch.
      sampling: one of the above.

    Returns:
      Row numbers, (steps, batch_size) int32.

    Raises:
      ValueError: `batch_size` is below 1 or above n, or there is no such `sampling`.

    Source: courses.md 1.6.

    >>> order = batch_order(jax.random.key(0), 0, n=7, batch_size=3)
    >>> order.shape, len(set(order.ravel().tolist()))
    ((2, 3), 6)
    """
    if sampling not in SAMPLINGS:
        raise ValueError(f"batch_order: sampling is {sampling!r}, expected one of {SAMPLINGS}")
    if sampling == "full":
        return jnp.arange(n, dtype=jnp.int32)[None]
    shape = steps_per_epoch(n, batch_size), batch_size
    key = jax.random.fold_in(jax.random.fold_in(key, ORDER), epoch)
    if sampling == "replacement":
        return jax.random.randint(key, shape, 0, n, jnp.int32)
    rows = jax.random.permutation(key, jnp.arange(n, dtype=jnp.int32))
    return rows[: shape[0] * shape[1]].reshape(shape)


class Window(NamedTuple):
    """The batches of some steps of an epoch, from step number `first` on.

    Images and labels are (steps, batch_size, ...).
    """

    first: Any
    images: Any
    labels: Any


Rows = Literal["order", "whole", "windows"]


def batch_maker(
    source: Rows,
    augment: Callable[[Array, Array], Array] | None,
    dtype: Any,
) -> Callable[..., tuple[Array, Array]]:
    """Makes `batch_of(train_state, order, position, split, preprocessing) -> (x, y)`.

    By "order" each step takes the rows that its epoch's order says, by "whole" the whole split as
    it lies. By "windows", `order` is a `Window`, which has the rows themselves, and nobody looks at
    the split.
    """

    def batch_of(
        train_state: TrainState,
        order: Any,
        position: Any,
        split: Any,
        preprocessing: data.Preprocessing,
    ) -> tuple[Array, Array]:
        if source == "windows":
            batch = partial(lax.dynamic_index_in_dim, index=position - order.first, keepdims=False)
            images, labels = batch(order.images), batch(order.labels)
        else:
            images, labels = split
        if source == "order":
            rows = lax.dynamic_index_in_dim(order, position, keepdims=False)
            images, labels = (a.at[rows].get(mode="promise_in_bounds") for a in split)
        if augment is not None:
            key = jax.random.fold_in(train_state.key, AUGMENT)
            images = augment(jax.random.fold_in(key, train_state.step), images)
        if jnp.issubdtype(labels.dtype, jnp.floating):
            labels = labels.astype(wide_dtype(dtype))
        return data.preprocess(preprocessing, images, dtype), labels

    return batch_of
