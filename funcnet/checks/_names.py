"""What all checkers share: which checks are asked for, and the precision that they run in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Float64 at hand, and products of float32 in float32 (a GPU's default is coarser)."""
    with (
        jax.enable_x64(True),
        jax.default_matmul_precision("highest"),
        np.errstate(all="ignore"),  # of what is cast, poisoned and divided on purpose
    ):
        yield


def chosen_names(function: str, known: Sequence[str], given: Iterable[str] | None) -> list[str]:
    """The checks that are asked for, in their own order; ValueError where one has no such name."""
    if given is None:
        return list(known)
    chosen = [given] if isinstance(given, str) else list(given)
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise ValueError(f"{function}: no check is named {unknown}; expected of {list(known)}.")
    return [name for name in known if name in chosen]
