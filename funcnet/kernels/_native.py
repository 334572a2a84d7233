"""Whether the kernels of the package `funcnet-native` are in use, and why."""

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcnet import _validate
from funcnet.kernels._lowering import wide_dtype

_switched: list[bool] = []  # what `use_native` was last told


class Status(NamedTuple):
    """The package that is in use, if one is, and the reason in words."""

    package: ModuleType | None
    reason: str


@functools.cache
def _loaded() -> Status:
    try:
        import funcnet_native
    except ImportError as error:
        if error.name == "funcnet_native":
            return Status(None, "funcnet-native is not installed: pip install ./native")
        return Status(None, " ".join(str(error).split()))
    return Status(
        funcnet_native, f"oneDNN {funcnet_native.VERSION} by funcnet-native, {funcnet_native.ISA}"
    )


def status() -> Status:
    """What is in use now; nothing of it is loaded before a program for a CPU is lowered."""
    if _switched and not _switched[-1]:
        return Status(None, "switched off by kernels.use_native(False)")
    if not _switched and not _validate.enabled("FUNCNET_NATIVE"):
        return Status(None, f"switched off by FUNCNET_NATIVE={os.environ['FUNCNET_NATIVE']}")
    return _loaded()


def package_for(dtype: Any) -> Any:
    """The package, where it is in use and sums over `dtype` are of float32, its own; else None.

    Its callers widen what they give it. A CPU's own products of bfloat16 are no faster: on AVX-512
    with bfloat16 oneDNN's convolutions by them take 1.8 times as long as by float32.
    """
    return status().package if wide_dtype(dtype) == jnp.float32 else None


def use_native(on: bool) -> str:
    """Switches the kernels of the package `funcnet-native` on or off, for programs yet to be made.

    They are on where the package is installed, unless the environment has FUNCNET_NATIVE=0
    (false, no, off). What JAX has compiled and kept is dropped; a compiled program that somebody
    holds stays as it is.

    Args:
      on: whether native kernels may be used.

    Returns:
      What is in use from now on, and why: as `native_status`.

    >>> use_native(False)
    'XLA: switched off by kernels.use_native(False)'
    >>> _ = use_native(True)
    """
    _switched[:] = [bool(on)]
    jax.clear_caches()
    return native_status()


def native_status() -> str:
    """Says which kernels convolutions and products of float32 run by on a CPU, and why.

    >>> native_status().split(":")[0] in ("native", "XLA")
    True
    """
    package, reason = status()
    return f"{'XLA' if package is None else 'native'}: {reason}"
