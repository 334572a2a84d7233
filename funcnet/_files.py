"""Files that are either complete or not there, and places that are no files."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

# What a shell calls the descriptors of a process. Opened anew, a file behind one would be written
# from its start, over what is there.
_DESCRIPTORS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/(\d{1,9})")
_ANOTHERS = re.compile(r"/proc/[^/]+/(?:task/\d+/)?fd/\d+")  # of another process
_LINKS = 40  # as many as Linux follows


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a file for writing that takes the place of `path` once it is complete and on the disk.

    Where the block or the disk fails, `path` is what it was before, and nothing else is left.
    The new file's permissions are those that the process gives to any file, by its umask.

    Only a plain file is ever replaced. A pipe, a terminal, /dev/null or /dev/stdout is written
    into; a link stays, and the file that it leads to is replaced; a folder, a disk or a socket is
    refused, by OSError.
    """
    streaming = stream(path)
    if streaming is not None:
        with streaming as file:
            yield file
            file.flush()
        return
    path = _followed(path)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(new, "xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(new, path)
        except BaseException:
            with suppress(FileNotFoundError):  # a signal just after the file took its place
                os.unlink(new)
            raise


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a file of JSON that holds an object, or raises ValueError with the file's name."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it holds a {type(found).__name__}, no object.")
    return found


def stream(path: str | os.PathLike[str]) -> IO[bytes] | None:
    """What is no plain file, opened to be written into; None for a file, or where nothing is.

    Raises:
      OSError: for what can be neither replaced nor written into.
    """
    number = descriptor(path)
    if number is not None:
        return os.fdopen(os.dup(number), "wb")
    kind = _kind(path)
    if any(map(_ANOTHERS.fullmatch, _chain(path))):
        return open(path, "ab")
    if kind is None or stat.S_ISREG(kind):
        return None
    if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
        return open(path, "wb")
    what = "a folder" if stat.S_ISDIR(kind) else "neither a file nor a pipe"
    raise OSError(f"it is {what}, and is not written to")


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is written into and not replaced: a pipe, a terminal, a descriptor."""
    kind = _kind(path)
    return descriptor(path) is not None or (
        kind is not None and (stat.S_ISFIFO(kind) or stat.S_ISCHR(kind))
    )


def descriptor(path: str | os.PathLike[str]) -> int | None:
    """Which of the process's own descriptors `path` names, as /dev/stdout and /dev/fd/3 do.

    >>> descriptor("/dev/stdout"), descriptor("/dev/fd/7"), descriptor("stdout")
    (1, 7, None)
    """
    for link in _chain(path):
        if (match := _DESCRIPTOR.fullmatch(link)) is not None:
            return int(match[1])
        if link in _DESCRIPTORS:
            return _DESCRIPTORS[link]
    return None


def _kind(path: str | os.PathLike[str]) -> int | None:
    try:
        return os.stat(path).st_mode
    except OSError:  # which opening it will say
        return None


def _chain(path: str | os.PathLike[str]) -> Iterator[str]:
    """The path, and what it leads to, link by link."""
    current = os.path.abspath(path)
    for _ in range(_LINKS):
        yield current
        try:
            current = os.path.normpath(os.path.join(os.path.dirname(current), os.readlink(current)))
        except OSError:
            return


def _followed(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
