"""Files that are either complete or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a file for writing that takes the place of `path` once it is complete and on the disk.

    Where the block or the disk fails, `path` is what it was before, and nothing else is left.
    """
    path = Path(path)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as new:
        try:
            yield new
            new.flush()
            os.fsync(new.fileno())
            os.chmod(new.name, 0o644)  # a temporary file is its owner's alone
            os.replace(new.name, path)
        except BaseException:
            os.unlink(new.name)
            raise
