"""The epoch as one compiled program, and the chunks in which the host runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from funcnet._jaxprs import equations, traced
from funcnet._validate import float_dtype
from funcnet.kernels import wide_dtype
from funcnet.train import contract

# XLA asks for a program's scratch memory anew at every call, and the system hands it over page by
# page: a convolutional net of 150 ms a step spends a fifth of it there when each step is a call.
SECONDS_A_CHUNK = 2.0
_config: Any = jax.config  # whose options mypy does not know


class Carry(NamedTuple):
    """What one compiled chunk of an epoch hands to the next; all of it is donated.

    `position` is the number of this epoch's steps already done, `streak` how many of the last steps
    were not finite; `losses`, `accuracies` (NaN where labels are no classes) and `finite` have a
    place for each step of an epoch.
    """

    train_state: Any
    position: Array
    streak: Array
    losses: Array
    accuracies: Array
    finite: Array


def is_searching() -> bool:
    """Whether JAX raises where a number is not finite."""
    return bool(_config.jax_debug_nans or _config.jax_debug_infs)


@contextmanager
def unsearched() -> Iterator[None]:
    """Turns off `jax_debug_nans` and `jax_debug_infs`, for what looks for such numbers itself.

    JAX donates nothing where it searches, and a compiled program says not even what it found.
    """
    with jax.debug_nans(False), jax.debug_infs(False):
        yield


def step_of_epoch(
    step: Callable[..., Any], batch_of: Callable[..., tuple[Array, Array]]
) -> Callable[..., Carry]:
    """Makes `advance(carry, order, *inputs) -> carry`: one step on its own batch."""

    def advance(carry: Carry, order: Array, *inputs: Any) -> Carry:
        batch = batch_of(carry.train_state, order, carry.position, *inputs)
        train_state, metrics = step(carry.train_state, batch)
        return Carry(
            train_state,
            carry.position + 1,
            jnp.where(metrics["finite"], 0, carry.streak + 1),
            carry.losses.at[carry.position].set(metrics["loss"].astype(carry.losses.dtype)),
            carry.accuracies.at[carry.position].set(metrics.get("accuracy", jnp.nan)),
            carry.finite.at[carry.position].set(metrics["finite"]),
        )

    return advance


@unsearched()
def compile_epoch(
    advance: Callable[..., Carry], max_nonfinite: int, carry: Carry, order: Array, *inputs: Any
) -> Callable[[Carry, int, Array], Carry]:
    """Traces `advance` once, and compiles `program(carry, stop, order)` out of it.

    The program runs steps until `stop` of the epoch are done, or until `max_nonfinite` in a row
    were not finite. `stop` is traced, so that chunks of every length are one program. Where XLA
    would run the step many times slower inside a loop, the host does the loop; under `disable_jit`
    too, operation by operation.
    """

    def on_host(step: Callable[..., Carry]) -> Callable[[Carry, int, Array], Carry]:
        def host_loop(carry: Carry, stop: int, order: Array) -> Carry:
            for _ in range(int(carry.position), stop):
                if int(carry.streak) >= max_nonfinite:
                    break
                carry = step(carry, order, *inputs)
            return carry

        return host_loop

    if _config.jax_disable_jit:
        return on_host(advance)
    jaxpr, shapes, once = traced(advance, carry, order, *inputs)
    states = carry.train_state, shapes.train_state
    contract.require("fit", contract.of_trace(jaxpr, *states))
    if jax.default_backend() == "cpu" and slow_in_loops(jaxpr.jaxpr):
        jitted = jax.jit(once, donate_argnums=0, keep_unused=True)
        step = jitted.lower(carry, order, *inputs).compile()
        contract.require("fit", contract.of_program(step, *states))
        return on_host(step)

    def loop(carry: Carry, stop: Array, *arguments: Any) -> Carry:
        return lax.while_loop(
            lambda carry: (carry.position < stop) & (carry.streak < max_nonfinite),
            lambda carry: once(carry, *arguments),
            carry,
        )

    jitted = jax.jit(loop, donate_argnums=0, keep_unused=True)
    program = jitted.lower(carry, np.int32(0), order, *inputs).compile()
    contract.require("fit", contract.of_program(program, *states))
    return lambda carry, stop, order: program(carry, np.int32(stop), order, *inputs)


def slow_in_loops(jaxpr: Any) -> bool:
    """Whether a program holds convolutions that XLA's CPU backend spoils inside a loop.

    Only in the outermost computation does it bring them into the layout of its fast kernels (NHWC
    and HWIO; https://github.com/jax-ml/jax/issues/12868). The kernel gradient that autodiff makes
    of a 3×3 convolution, 32 to 64 channels of 16×16 pixels, took 27 ms outside and 3100 ms inside.
    """
    for equation in equations(jaxpr):
        if equation.primitive.name == "conv_general_dilated":
            ndim = equation.outvars[0].aval.ndim
            space = tuple(range(1, ndim - 1))
            fast = ((0, ndim - 1, *space), (ndim - 1, ndim - 2, *range(ndim - 2)))
            numbers = equation.params["dimension_numbers"]
            if tuple(numbers) != (*fast, fast[0]):
                return True
    return False


class Pace:
    """How many steps a chunk takes: as many as are given, or about two seconds' worth."""

    def __init__(self, chunk_steps: int | None = None):
        self._measured, self._length = chunk_steps is None, chunk_steps or 1

    def stop(self, position: int, steps: int) -> int:
        """Where a chunk ends that begins at `position`."""
        return min(position + self._length, steps)

    def took(self, done: int, seconds: float) -> None:
        """Learns that so many steps took so long; no chunk grows more than tenfold."""
        if self._measured:
            wanted = int(SECONDS_A_CHUNK * done / max(seconds, 1e-9))
            self._length = min(max(wanted, 1), 10 * self._length)


def first_carry(train_state: Any, position: int, steps: int, streak: int = 0) -> Carry:
    """The carry before step number `position` of an epoch."""
    dtype = wide_dtype(float_dtype(train_state.params))
    # Out of NumPy's arrays, which compiles nothing.
    counts = np.int32(position), np.int32(streak)
    columns = (np.zeros(steps, kind) for kind in (dtype, np.float32, bool))
    return Carry(train_state, *jax.device_put((*counts, *columns)))
