"""What the sections share: budgets, ceilings, and who takes part."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet.bench import _torch
from funcnet.bench._timing import interleaved
from funcnet.bench.results import Ceilings

Progress = Callable[[int, int, str], Any]


class Budget(NamedTuple):
    """How long to time each call for, and how many rounds at the least."""

    seconds: float
    least: int

    @classmethod
    def of(cls, quick: bool, seconds: int | float | None) -> Budget:
        """The default budget of this backend, or `seconds` for each call.

        Raises:
          ValueError: `seconds` is not positive.
        """
        if seconds is not None and not seconds > 0:
            raise ValueError(f"seconds is {seconds}, expected a number above 0.")
        on_cpu = jax.default_backend() == "cpu"
        least = (3 if quick else 10) if on_cpu else (20 if quick else 100)
        return cls((0.1 if quick else 1.0) if seconds is None else seconds, least)


def selection(what: str, known: Iterable[str], only: Iterable[str] | None) -> tuple[str, ...]:
    """The names to measure, in the order of the table.

    Raises:
      ValueError: a name is not in the table.

    >>> selection("rules", ["relu", "tanh"], ["tanh"])
    ('tanh',)
    """
    known = tuple(known)
    if only is None:
        return known
    only = (only,) if isinstance(only, str) else tuple(only)
    for name in only:
        if name not in known:
            raise ValueError(f"{what}: there is no {name!r}; expected some of {', '.join(known)}.")
    return tuple(name for name in known if name in only)


def ceilings(seconds: int | float = 1.0) -> Ceilings:
    r"""Measures what this machine can do at best, in float32: the medians of a product and a copy.

    FLOP/s are those of a product of two 2048×2048 matrices, $2 \cdot 2048^3$ FLOPs; bytes/s those
    of $x \leftarrow -x$ over 256 MB, read and written once in place. What fits into a cache may be
    above the latter.

    Args:
      seconds: how long to time each.

    Returns:
      The `Ceilings`.

    Raises:
      ValueError: `seconds` is not positive.

    >>> ceilings(seconds=0.001).flops_per_second > 1e6
    True
    """
    if not seconds > 0:
        raise ValueError(f"ceilings: seconds is {seconds}, expected a number above 0.")
    matrix = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(lambda a: a @ a).lower(matrix).compile()
    held = [jnp.ones((2**26,), jnp.float32)]
    # In place, because new memory of this size is asked of the system at each call.
    negate = jax.jit(lambda x: -x, donate_argnums=0).lower(held[0]).compile()

    def copy() -> Any:
        held[0] = negate(held[0])
        return held[0]

    samples = interleaved(
        {"product": lambda: product(matrix), "copy": copy},
        seconds,
        wait=jax.block_until_ready,
    )
    medians = {name: float(np.median(values)) for name, values in samples.items()}
    return Ceilings(2 * 2048**3 / medians["product"], 2 * 4 * 2**26 / medians["copy"])


@contextlib.contextmanager
def torch_if(wanted: bool) -> Iterator[_torch.Torch | None]:
    """Torch's process where it is wanted."""
    if not wanted:
        yield None
        return
    with _torch.torch() as peer:
        yield peer


def silent(done: int, total: int, label: str) -> None:
    """Shows no progress."""
