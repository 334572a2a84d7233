"""Files that are either complete or not there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a file for writing that takes the place of `path` once it is complete and on the disk.

    Where the block or the disk fails, `path` is what it was before, and nothing else is left.
    The new file's permissions are those that the process gives to any file, by its umask.
    """
    path = Path(path)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(new, "xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(new, path)
        except BaseException:
            os.unlink(new)
            raise
