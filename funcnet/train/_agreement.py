"""What the processes of a run tell each other after each chunk, so that they do the same."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import jax

from funcnet import _processes
from funcnet._processes import PeerError
from funcnet.train._epoch import Pace
from funcnet.train._interrupts import Interrupts, Terminated

_CHARACTERS = 200  # of a text that is told
# What XLA and JAX say where a process cannot be reached any more.
_LOST = re.compile(r"gloo|connection (closed|reset)|coordination ?service|heartbeat", re.IGNORECASE)


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

    def __init__(self, several: bool, interrupts: Interrupts, pace: Pace, what: str = "fit"):
        self._several, self._interrupts, self._pace = several, interrupts, pace
        self._what = what
        self._error: Exception | None = None  # of a callback, until all have heard of it
        self._signal: type[KeyboardInterrupt] | None = None  # to any of them

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Around a callback: the others are about to measure, or to say what they have to say."""
        try:
            with self.pressing():
                yield
        except Exception as error:
            if not self._several:
                raise
            self._error = self._error or error

    @contextlib.contextmanager
    def pressing(self) -> Iterator[None]:
        """Makes a press of Ctrl-C of a callback's KeyboardInterrupt, for all to hear of."""
        try:
            yield
        except KeyboardInterrupt as press:
            if not self._several or len(self._interrupts.presses) > 1:
                raise
            self._interrupts.presses.append(type(press))

    def reached(self, stop: str | None) -> str | None:
        """Tells what this process has to tell, and returns why a callback of any wants the end.

        Raises:
            Exception: what a callback raised here.
            PeerError: one raised in another process.
        """
        if not self._several:
            return stop
        pressed = self._interrupts.presses[:1]
        said = {
            "error": self._error and _sentence(self._error),
            "signal": [issubclass(kind, Terminated) for kind in pressed],
            "length": self._pace.length,
            "stop": stop and stop[:_CHARACTERS],
        }
        heard = _processes.exchanged(said)
        if self._error is not None:
            raise self._error
        for number, other in enumerate(heard):
            if other["error"]:
                raise PeerError(f"{self._what}: process {number} has failed ({other['error']}).")
        if terminations := [is_term for other in heard for is_term in other["signal"]]:
            self._signal = Terminated if any(terminations) else KeyboardInterrupt
        self._pace.length = heard[0]["length"]
        return next((other["stop"] for other in heard if other["stop"]), None)

    def check(self) -> None:
        """Raises the signal that there was, as `Interrupts.check`."""
        if not self._several:
            self._interrupts.check()
        elif self._signal is not None:
            raise self._signal


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:_CHARACTERS]
