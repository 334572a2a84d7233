"""Whether the kernels of the package `funcnet-native` are in use, and why."""

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from funcnet import _validate
from funcnet.kernels._lowering import wide_dtype

INTERFACE = 4  # of the package, as the code here calls it

_switched: list[bool] = []  # what `use_native` was last told
_filtering: list[int] = []  # and of Winograd's filtering


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
    if getattr(funcnet_native, "INTERFACE", 1) != INTERFACE:
        return Status(None, "funcnet-native is of another funcnet: pip install ./native again")
    return Status(
        funcnet_native, f"oneDNN {funcnet_native.VERSION} by funcnet-native, {funcnet_native.ISA}"
    )


def winograd() -> int:
    """How many outputs a side convolutions may take at once by Winograd's filtering; 0 is none.

    Raises:
      ValueError: FUNCNET_WINOGRAD says none of 0, 2 and 4.
    """
    if _filtering:
        return _filtering[-1]
    return int(_validate.said(*_validate.WINOGRAD))


def status() -> Status:
    """What is in use now; nothing of it is loaded before a program for a CPU is lowered."""
    if _switched and not _switched[-1]:
        return Status(None, "switched off by kernels.use_native(False)")
    if not _switched and not _validate.enabled("FUNCNET_NATIVE"):
        return Status(None, f"switched off by FUNCNET_NATIVE={os.environ['FUNCNET_NATIVE']}")
    package, reason = _loaded()
    if package is None:
        return Status(None, reason)
    side = winograd()
    filtering = f"Winograd's filtering {side}x{side}" if side else "no Winograd's filtering"
    return Status(package, f"{reason}, {filtering}")


def package_for(dtype: Any) -> Any:
    """The package, where it is in use and sums over `dtype` are of float32, its own; else None.

    Its callers widen what they give it. A CPU's own products of bfloat16 are no faster: on AVX-512
    with bfloat16 oneDNN's convolutions by them take 1.8 times as long as by float32.
    """
    return status().package if wide_dtype(dtype) == jnp.float32 else None


def use_native(on: bool, winograd: Literal[0, 2, 4] | None = None) -> str:
    r"""Switches the kernels of the package `funcnet-native` on or off, for programs yet to be made.

    They are on where the package is installed, unless the environment has FUNCNET_NATIVE=0
    (false, no, off). What JAX has compiled and kept is dropped; a compiled program that somebody
    holds stays as it is.

    Of a kernel of 3 by 3 at stride 1, m by m outputs may come at once by Winograd's minimal
    filtering: $A^\top [(G w G^\top) \odot (B^\top x B)] A$ for a tile x of m + 2 by m + 2 pixels.
    For m = 2 that is 16 products a pair of channels where the sum has 36, for m = 4 it is 36 for
    144, with 2 to 4 times the rounding. Where it is not the cheaper way (few channels, small
    images) it is not taken. An infinity becomes NaN in all outputs of its tile.

    Args:
      on: whether native kernels may be used.
      winograd: m, at most; 0 is no filtering. None leaves it as it is: the environment's
        FUNCNET_WINOGRAD, else 2.

    Returns:
      What is in use from now on, and why: as `native_status`.

    Raises:
      ValueError: winograd is none of 0, 2, 4 and None.

    Source: Winograd 1980, Arithmetic Complexity of Computations; Lavin and Gray 2016,
    https://arxiv.org/abs/1509.09308.

    >>> use_native(False)
    'XLA: switched off by kernels.use_native(False)'
    >>> _ = use_native(True)
    """
    if winograd is not None and winograd not in (0, 2, 4):
        raise ValueError(f"use_native: winograd is {winograd!r}, expected 0, 2, 4 or None.")
    _switched[:] = [bool(on)]
    if winograd is not None:
        _filtering[:] = [winograd]
    jax.clear_caches()
    return native_status()


def native_status() -> str:
    """Says which kernels convolutions and products of float32 run by on a CPU, and why.

    >>> native_status().split(":")[0] in ("native", "XLA")
    True
    """
    package, reason = status()
    return f"{'XLA' if package is None else 'native'}: {reason}"
