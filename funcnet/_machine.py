"""What a run's numbers depend on: the processor, the devices, and the packages' versions."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

import jax

CORE = ("jax", "jaxlib", "optax", "jaxtyping", "numpy")


def cpu_model() -> str:
    """The CPU's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_vectors() -> str | None:
    """The widest of "AVX-512" and "AVX2" that the CPU has, "" for neither, None if unknown."""
    flags = _cpuinfo("flags").split()
    kinds = {"avx512f": "AVX-512", "avx2": "AVX2"}
    return next((kinds[flag] for flag in kinds if flag in flags), "") if flags else None


def cores() -> int:
    """The number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def device() -> dict[str, str | int]:
    """The devices that JAX computes on."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
        "cpu": cpu_model(),
        "cpu_cores": cores(),
    }


def versions(*packages: str) -> dict[str, str]:
    """The versions of funcnet, Python, and those of `packages` (or the core's) that are there."""
    import funcnet

    found = {"funcnet": funcnet.__version__, "python": platform.python_version()}
    for package in packages or CORE:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpuinfo(key: str) -> str:
    """A field of /proc/cpuinfo, empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(rf"^{key}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""
