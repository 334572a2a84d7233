"""What the processes of a run tell each other after each chunk, so that they do the same."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from funcnet.train._epoch import Pace
from funcnet.train._interrupts import Interrupts, Terminated

_BYTES = 2048  # of what a process says
_CHARACTERS = 100  # of a text in it
# What XLA and JAX say where a process cannot be reached any more.
_LOST = re.compile(r"gloo|connection (closed|reset)|coordination ?service|heartbeat", re.IGNORECASE)


class PeerError(RuntimeError):
    """Another process of the run has failed or cannot be reached; the message says which."""

    __module__ = "funcnet.train"


def exchanged(said: Any) -> list[Any]:
    """What each process says, JSON of a few words, in the order of their numbers."""
    text = np.frombuffer(json.dumps(said).encode(), np.uint8)
    if len(text) > _BYTES:
        raise ValueError(f"exchanged: {len(text)} bytes are said, expected at most {_BYTES}.")
    heard = multihost_utils.process_allgather(np.pad(text, (0, _BYTES - len(text))))
    return [json.loads(bytes(row).rstrip(b"\0")) for row in np.reshape(heard, (-1, _BYTES))]


def from_first(value: Any) -> Any:
    """Process 0's value in all of them: what clocks and folders decide, one process has to."""
    return value if jax.process_count() == 1 else exchanged(value)[0]


@contextlib.contextmanager
def together(what: str) -> Iterator[None]:
    """Ends with the same exception everywhere: its own where it failed, PeerError elsewhere."""
    if jax.process_count() == 1:
        yield
        return
    error: BaseException | None = None
    try:
        yield
    except Exception as own:
        error = own
    heard = exchanged(_sentence(error))
    if error is not None:
        raise error
    _require_all_well(what, heard)


@contextlib.contextmanager
def reachable(what: str) -> Iterator[None]:
    """Makes PeerError of what XLA and JAX raise where another process is gone."""
    try:
        yield
    except PeerError:
        raise
    except Exception as error:
        if jax.process_count() == 1 or not _LOST.search(str(error)):
            raise
        raise PeerError(
            f"{what}: process {jax.process_index()}: another process has ended or cannot be "
            f"reached ({' '.join(str(error).split())[:_CHARACTERS]})."
        ) from error


class Agreement:
    """What a run's processes agree on after each chunk; where there is one, it decides alone.

    The others hear of a signal, so that all stop at the same step; of an exception of a callback,
    so that none waits for the one that it ends; of a callback's wish to stop; and how long process
    0 wants the next chunk to be, since no two clocks agree.
    """

    def __init__(self, several: bool, interrupts: Interrupts, pace: Pace):
        self.several, self.interrupts, self.pace = several, interrupts, pace
        self.stop: str | None = None  # why a callback wants the run to end

    @contextlib.contextmanager
    def after_chunk(self) -> Iterator[None]:
        """Around what a process does by itself after a chunk; raises what all are to know."""
        if not self.several:
            yield
            return
        error: BaseException | None = None
        try:
            yield
        except (Exception, KeyboardInterrupt) as own:
            error = own
        pressed = isinstance(error, KeyboardInterrupt)
        kinds = [*self.interrupts.presses, *([type(error)] if pressed else [])]
        heard = exchanged(
            {
                "error": None if pressed else _sentence(error),
                "signal": [issubclass(kind, Terminated) for kind in kinds[:1]],
                "length": self.pace.length,
                "stop": self.stop and self.stop[:_CHARACTERS],
            }
        )
        if error is not None and not pressed:
            raise error
        _require_all_well("fit", [said["error"] for said in heard])
        if signals := [is_term for said in heard for is_term in said["signal"]]:
            raise Terminated if any(signals) else KeyboardInterrupt
        self.pace.length = heard[0]["length"]
        self.stop = next((said["stop"] for said in heard if said["stop"]), None)


def _sentence(error: BaseException | None) -> str | None:
    if error is None:
        return None
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_CHARACTERS]


def _require_all_well(what: str, heard: list[str | None]) -> None:
    for number, error in enumerate(heard):
        if error is not None:
            raise PeerError(f"{what}: process {number} has failed ({error}).")
