"""A folder that one process at a time may write to."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path


class LockedError(OSError):
    """Another process has the folder."""


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    r"""Keeps a folder for this process, by a file `lock` in it with the process's number and host.

    The file is locked by the operating system (`flock`), which lets go of it when the process ends,
    however it ends: a lock file that a killed process has left is taken over, and one whose process
    lives is respected, whatever its number is by now. On a file system whose locks are local to a
    host, two hosts do not see each other.

    Args:
      folder: the folder; it is made, if need be.

    Raises:
      LockedError: another process has it; the message says which.
      OSError: the folder cannot be written to.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, locked(folder):
    ...     with locked(folder):
    ...         pass
    Traceback (most recent call last):
    ...
    funcnet.checkpoint.LockedError: /... is in use by process ... on ...
    """
    import fcntl  # POSIX alone has it

    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / "lock"
    while True:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  (it is held, not read)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            raise LockedError(f"{folder} is in use by {owner}.") from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
        file.close()  # its owner has just ended, and taken the name away
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
