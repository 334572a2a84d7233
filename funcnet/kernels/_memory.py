"""What the C library does with memory that a program has given back."""

from __future__ import annotations

import ctypes
import os

# Of glibc's malloc.h, and what each is set to.
_SETTINGS = {
    "M_MMAP_MAX": (-4, 0),  # large blocks come from the heap too, not each from the system
    "M_TRIM_THRESHOLD": (-1, -1),  # the heap's free end is never given back
    "M_TOP_PAD": (-2, 2**26),  # it grows by 64 MB more than is asked for
    "M_ARENA_MAX": (-8, 1),  # one heap, not one a thread: others cannot hold what is large
}


def keep_memory() -> str:
    r"""Lets this process keep the memory that it frees, for the next call of a program.

    XLA asks the C library for a program's scratch memory and results at every call. glibc has
    blocks beyond its threshold, 32 MB at most, mapped by the system and unmapped when they are
    freed; so each call of a jitted step meets new pages, 4 KB each, which the system clears one by
    one as they are touched. Here `mallopt` is told to take all blocks from one heap that does not
    shrink: after some calls a step touches no new page.

    It holds for the whole process and cannot be taken back. Memory that was freed stays with the
    process, the most that it ever had, and somewhat more where blocks of many sizes leave holes.
    Call it before the first array: blocks mapped before are unmapped as ever, and threads
    that have a heap of their own keep it. `funcnet train`, `sweep` and `bench` do; importing
    funcnet does not. Steps within one program, as `train.fit` runs them, have the less to gain.

    Whoever has set glibc's malloc by the environment, GLIBC_TUNABLES with a `glibc.malloc` or a
    variable such as MALLOC_TRIM_THRESHOLD_, is obeyed: then nothing is done.
    GLIBC_TUNABLES=glibc.malloc.arena_test=8 says what glibc does by itself, and so keeps a command
    of funcnet from calling this. Nothing is done either where the C library is not glibc: musl,
    macOS, Windows; a malloc that LD_PRELOAD puts in glibc's place is not told.

    Returns:
      What has been done, or why nothing has: "kept: ..." or "not kept: ...".

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html.

    >>> keep_memory()  # doctest: +SKIP
    'kept: glibc 2.36 maps nothing, trims nothing, has one heap'
    """
    if said := _said_by_environment():
        return f"not kept: {said} says how glibc's malloc works"
    try:
        library = ctypes.CDLL(None)
        version = library.gnu_get_libc_version
        mallopt = library.mallopt
    except (OSError, TypeError, AttributeError):  # TypeError: Windows
        return "not kept: the C library is not glibc"
    version.restype = ctypes.c_char_p
    refused = [name for name, setting in _SETTINGS.items() if not mallopt(*setting)]
    if refused:
        return f"not kept: glibc's mallopt refused {', '.join(refused)}"
    return f"kept: glibc {version().decode()} maps nothing, trims nothing, has one heap"


def _said_by_environment() -> str | None:
    """The variable, if there is one, that sets glibc's malloc."""
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        return "GLIBC_TUNABLES"
    old = ("ARENA_MAX", "ARENA_TEST", "MMAP_MAX_", "MMAP_THRESHOLD_", "TOP_PAD_", "TRIM_THRESHOLD_")
    return next((name for name in map("MALLOC_{}".format, old) if name in os.environ), None)
