"""Ctrl-C, SIGTERM and SIGHUP: the first ends a run in good order, the second at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that `terminate` is for: SIGTERM, and SIGHUP, of a terminal that closes."""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, where `terminate` is its handler."""


def terminate(signum: int, frame: Any) -> None:
    """A handler for SIGTERM and SIGHUP: raises `Terminated`; `fit` treats it as it treats Ctrl-C.

    Args:
      signum: the signal's number.
      frame: where the program was.

    Raises:
      Terminated: always.

    >>> import signal
    >>> before = signal.signal(signal.SIGTERM, terminate)
    >>> signal.getsignal(signal.SIGTERM) is terminate
    True
    >>> _ = signal.signal(signal.SIGTERM, before)
    """
    raise Terminated


class Interrupts:
    """Within it, the first Ctrl-C is kept for the end of the chunk; the second acts at once.

    The same holds of SIGTERM and SIGHUP where their handler is `terminate`. Where a signal is
    somebody else's already, or this is not the main thread, all stays as it is. Who is `patient`
    keeps it so within `at_once`, too: other processes wait for what this one does.
    """

    def __init__(self, patient: bool = False) -> None:
        self._patient = patient
        self.presses: list[type[KeyboardInterrupt]] = []
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            ours = (signal.default_int_handler, terminate)
            for signum in (signal.SIGINT, *ENDINGS):
                if signal.getsignal(signum) in ours:
                    self._before[signum] = signal.signal(signum, self._pressed)
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _pressed(self, signum: int, frame: Any) -> None:
        theirs = self._before[signum] is terminate
        self.presses.append(Terminated if theirs else KeyboardInterrupt)
        if self._at_once or len(self.presses) > 1:
            raise self.presses[-1]

    def check(self) -> None:
        """Raises what was pressed."""
        if self.presses:
            raise self.presses[0]

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A stretch that may end anywhere, at the first signal."""
        if self._patient:
            yield
            return
        try:
            self._at_once = True
            self.check()
            yield
            self.check()  # raised amid a destructor, it was said to be ignored
        finally:
            self._at_once = False
