"""What the processes of one program, started by `jax.distributed`, know and tell of each other.

With one process all of it is nothing, and starts no backend.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_BYTES = 2048  # of what a process says
_CHARACTERS = 500  # of an error in it


class PeerError(RuntimeError):
    """Another process of the run has failed or does something else; the message says which."""


def count() -> int:
    """How many processes there are."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """The number of this one, from 0."""
    return jax.process_index() if jax.distributed.is_initialized() else 0


def exchanged(said: Any) -> list[Any]:
    """What each process says, JSON of a few words, in the order of their numbers.

    All of them have to ask together; it is a barrier, too.

    >>> exchanged({"step": 3})
    [{'step': 3}]
    """
    if count() == 1:
        return [json.loads(json.dumps(said))]
    text = np.frombuffer(json.dumps(said).encode(), np.uint8)
    if len(text) > _BYTES:
        raise ValueError(f"exchanged: {len(text)} bytes are said, expected at most {_BYTES}.")
    heard = multihost_utils.process_allgather(np.pad(text, (0, _BYTES - len(text))))
    return [json.loads(bytes(row).rstrip(b"\0")) for row in np.reshape(heard, (-1, _BYTES))]


@contextlib.contextmanager
def together(what: str) -> Iterator[None]:
    """Ends when the block has ended in all processes, with an error in all where one had one.

    Raises:
        Exception: what the block raised here.
        PeerError: it raised in another process, or another process is not at this place.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as own:
        error = own
    if count() == 1:
        if error is not None:
            raise error
        return
    said = None if error is None else " ".join(f"{type(error).__name__}: {error}".split())
    heard = exchanged([what, said and said[:_CHARACTERS]])
    if error is not None:
        raise error
    for number, theirs in enumerate(heard):
        if not isinstance(theirs, list) or theirs[0] != what:
            raise PeerError(f"{what}: process {number} is elsewhere ({str(theirs)[:_CHARACTERS]}).")
        if theirs[1] is not None:
            raise PeerError(f"{what}: process {number} has failed ({theirs[1]}).")
