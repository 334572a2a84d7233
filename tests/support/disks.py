"""A disk that is full, for tests of what is written."""

import contextlib
import resource


@contextlib.contextmanager
def disk_of(size_bytes):
    """No file can become larger: write(2) fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
