"""Compiled programs that `funcnet train` and `sweep` keep, so that the next run reads them."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from funcnet import _validate
from funcnet.cli import _stdout

VARIABLE = "FUNCNET_COMPILATION_CACHE"
MOST_BYTES = 2**28
"""How large the folder may be when a command begins; a run adds less than a hundredth."""

# What JAX says of a program that it could not read or write, and then compiles, or does not keep.
_FAULT = re.compile(r"Error (reading|writing) persistent compilation cache entry for '(.+?)': (.*)")
_LEAST_SECONDS = "jax_persistent_cache_min_compile_time_secs"


def folder() -> Path | None:
    """Where programs are kept by default: None for nowhere, or where JAX's own settings say.

    Raises:
      ValueError: FUNCNET_COMPILATION_CACHE is no word for yes or no, and no folder's full path.
    """
    text = os.path.expanduser(os.environ.get(VARIABLE, "").strip())
    if not os.path.isabs(text):
        if not _enabled():
            return None
        text = os.path.expanduser("~/.cache/funcnet/compiled")  # as it is without a home
    jaxs = jax.config.values
    ours = jaxs["jax_enable_compilation_cache"] and not jaxs["jax_compilation_cache_dir"]
    return Path(text) if ours and os.path.isabs(text) else None


def _enabled() -> bool:
    try:
        return _validate.enabled(VARIABLE)
    except ValueError as error:
        said = str(error).replace("expected", "expected a folder's full path, or")
        raise ValueError(said) from None


def size_bytes(path: Path) -> int:
    """The bytes of the files in a folder, 0 where there is none."""
    return sum(size for _, size, _ in _files(path))


@contextlib.contextmanager
def kept(prog: str) -> Iterator[None]:
    """Keeps what the block compiles in `folder()`, and reads from there what it has.

    XLA's programs are found by all that they depend on: what is computed, jaxlib, the processor's
    instructions, XLA's flags and options. No fault of the disk ends anything: what cannot be read
    is compiled again and replaced, and that nothing can be written is said in a line on stderr.
    """
    place = folder()
    if place is None:
        yield
        return
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)  # who writes there runs code here
        _bound(place)
    except OSError as error:
        _say(prog, place, str(error.strerror or error))
        yield
        return
    # jax_compilation_cache_max_size is left alone: it needs the package filelock, and in jax 0.10 a
    # process that is killed between the two files of a program ends all later writing.
    least_seconds = jax.config.values[_LEAST_SECONDS]
    jax.config.update(_LEAST_SECONDS, 0.0)
    compilation_cache.set_cache_dir(os.fspath(place))
    try:
        with _faults_mended(prog, place):
            yield
    finally:
        compilation_cache.set_cache_dir(None)
        compilation_cache.reset_cache()
        jax.config.update(_LEAST_SECONDS, least_seconds)


@contextlib.contextmanager
def _faults_mended(prog: str, place: Path) -> Iterator[None]:
    """Removes the files of programs that JAX warns of: it never replaces one that is half there."""
    with warnings.catch_warnings():
        others, said = warnings.showwarning, False

        def show(message: Any, category: Any, *where: Any, **more: Any) -> None:
            nonlocal said
            fault = _FAULT.match(str(message))
            if fault is None:
                others(message, category, *where, **more)
                return
            with contextlib.suppress(OSError):
                for path in place.glob(f"{glob.escape(fault[2])}-*"):
                    path.unlink(missing_ok=True)
            if fault[1] == "writing" and not said:
                said = True
                _say(prog, place, fault[3].partition(": '")[0])  # without the file

        warnings.filterwarnings("always", _FAULT.pattern.partition("'")[0], UserWarning)
        warnings.showwarning = show
        yield


def _say(prog: str, place: Path, why: str) -> None:
    _stdout.say(
        f"{prog}: warning: compiled programs are not kept in {place}: {why}. {VARIABLE} names "
        "another folder, or is 0 for none."
    )


def _bound(place: Path) -> None:
    """Removes what was used longest ago, until there are no more than `MOST_BYTES`."""
    files = sorted(_files(place))
    excess = sum(size for _, size, _ in files) - MOST_BYTES
    for _, size, path in files:
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size


def _files(place: Path) -> Iterator[tuple[int, int, Path]]:
    """When a file was last used, as far as its file system knows, its bytes, and itself."""
    for path in place.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            if path.is_file():
                stat = path.stat()
                yield max(stat.st_atime_ns, stat.st_mtime_ns), stat.st_size, path
