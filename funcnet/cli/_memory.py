"""Nets that are too large: refused before they are built, or said in one line where they are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from funcnet.cli._command import CommandError

_GIB = 2.0**30


def require_room(parameters: int) -> None:
    """Raises CommandError where a net's training cannot fit, whatever the optimizer and the batch.

    Parameters, their gradients and the best ones so far are in memory together, in float32.
    """
    there, needed = memory_bytes(), 3 * 4 * parameters
    if there is not None and needed > there:
        raise CommandError(
            f"the net has {parameters:,} parameters, and training it takes {needed / _GIB:,.0f} GiB"
            f" at least, but there are {there / _GIB:,.0f} GiB of memory; expected a smaller net."
        )


def memory_bytes() -> int | None:
    """The memory of the device that JAX computes on, on a CPU the machine's; None if unknown."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not everywhere
        return None


@contextmanager
def out_of_memory() -> Iterator[None]:
    """Turns what XLA and Python say of memory that is not there into `CommandError`, of code 1."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # XLA's own is a RuntimeError
        said = re.search(r"(?i)(out of memory|resource_exhausted)[^\n]*", str(error))
        if not said and not isinstance(error, MemoryError):
            raise
        what = (said[0] if said else f"out of memory: {error}").rstrip(" .:")
        raise CommandError(
            f"{what[:1].lower()}{what[1:]}. A smaller net or smaller batches may help.", code=1
        ) from error
