"""The stdout of a command: it takes any text, and a lost reader ends no work at a random place."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any

# What we print beside ASCII, for a stdout that has no such characters.
_IN_ASCII = str.maketrans(
    {
        **{"×": "x", "²": "^2", "√": "sqrt ", "±": "+-", "·": "*", "…": "...", "→": "->"},
        **{"─": "-", "━": "-", "│": "|", "╭": "+", "╮": "+", "╰": "+", "╯": "+", "•": "*"},
    }
)


class Stdout(io.TextIOBase):
    """A stream that never raises: what its encoding lacks is written in ASCII.

    From the first write that fails on, text is dropped, and `lost` says why.
    """

    def __init__(self, stream: Any):
        self.stream = stream
        self.lost: OSError | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream, by which rich and tyro choose their characters."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Writes the text, as near to it as the encoding comes."""
        if self.lost is None:
            with self._losing():
                self.stream.write(self._encodable(text))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        if self.lost is None:
            with self._losing():
                self.stream.flush()

    def close(self) -> None:
        """Leaves the stream open: it is somebody else's."""

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """The stream's descriptor."""
        return self.stream.fileno()

    def _encodable(self, text: str) -> str:
        errors = getattr(self.stream, "errors", None) or "strict"
        for candidate in (text, text.translate(_IN_ASCII)):
            with contextlib.suppress(UnicodeEncodeError):
                candidate.encode(self.encoding, errors)
                return candidate
        return candidate.encode(self.encoding, "backslashreplace").decode(self.encoding)

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = error
            with contextlib.suppress(OSError):  # Python flushes once more when it ends
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.stream.fileno())
                os.close(null)


@contextlib.contextmanager
def robust() -> Iterator[Stdout]:
    """Puts a `Stdout` in the place of `sys.stdout`, which may be None: closed by a shell."""
    closed = sys.stdout is None
    stdout = Stdout(open(os.devnull, "w") if closed else sys.stdout)  # noqa: SIM115
    try:
        with contextlib.redirect_stdout(stdout):
            yield stdout
            stdout.flush()
    finally:
        if closed:
            stdout.stream.close()


@contextlib.contextmanager
def reserved() -> Iterator[None]:
    """Sends to stderr whatever the block prints: stdout is for what a program reads afterwards.

    That is also what the block's C libraries and its child processes print, where stdout is the
    process's own.
    """
    stderr = sys.stderr if sys.stderr is not None else open(os.devnull, "w")  # noqa: SIM115
    stream, saved = sys.stdout, None
    with contextlib.suppress(OSError, AttributeError, ValueError):
        stream.flush()
        if stream.fileno() == 1:
            saved = os.dup(1)
            os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(stderr):
            yield
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)
        if stderr is not sys.stderr:
            stderr.close()


def apart(silent: bool) -> None:
    """From now on stdout is Python's alone, or nobody's; what C libraries print goes to stderr."""
    stdout: Any = sys.stdout
    stdout.flush()
    stream = stdout.stream
    own = os.open(os.devnull, os.O_WRONLY) if silent else os.dup(stream.fileno())
    stdout.stream = os.fdopen(own, "w", encoding=stream.encoding, errors=stream.errors)
    os.dup2(2, 1)


def lost() -> OSError | None:
    """Why nothing can be printed any more, None while it can."""
    return getattr(sys.stdout, "lost", None)


def exit_code(error: OSError) -> int:
    """The exit code of what a lost stdout ended: that of SIGPIPE where its reader is gone."""
    return 141 if error.errno == errno.EPIPE else 1


def say(text: str) -> None:
    """Prints a line on stderr, where there is one."""
    with contextlib.suppress(OSError):
        if sys.stderr is not None:
            print(text, file=sys.stderr, flush=True)
