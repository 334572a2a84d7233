"""What a run's numbers depend on: processor, devices, the packages' versions, and settings."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

VERSION = "0.1.0"  # funcnet's own, as in pyproject.toml
CORE = ("jax", "jaxlib", "optax", "jaxtyping", "numpy")

# Options for programs that are compiled once and run once or twice: XLA then takes a fifth of the
# time on a CPU. XLA ends the process at a flag that it does not know, so each stands here with the
# first jaxlib that no longer has it, or that was not tried yet.
_QUICK_COMPILE = {
    "xla_backend_optimization_level": (0, (0, 13)),
    "xla_cpu_parallel_codegen_split_count": (1, (0, 13)),
    "xla_cpu_use_fusion_emitters": (False, (0, 12)),
}


def quick_compile_options() -> dict[str, int | bool]:
    """The options of `jax.jit(..., compiler_options=)` with which this jaxlib compiles quickly."""
    release = tuple(int(part) for part in metadata.version("jaxlib").split(".")[:2])
    return {name: value for name, (value, gone) in _QUICK_COMPILE.items() if release < gone}


def quick_compile_flags() -> str:
    """`quick_compile_options` for XLA_FLAGS, which XLA reads once, when its backend starts."""
    options = quick_compile_options()
    return " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())


def cpu_model() -> str:
    """The CPU's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_vectors() -> str | None:
    """The widest of "AVX-512" and "AVX2" that the CPU has, "" for neither, None if unknown."""
    flags = _cpuinfo("flags").split()
    kinds = {"avx512f": "AVX-512", "avx2": "AVX2"}
    return next((kinds[flag] for flag in kinds if flag in flags), "") if flags else None


def cpu_has_bfloat16() -> bool:
    """Whether the CPU says that it has instructions for products in bfloat16."""
    flags = {*_cpuinfo("flags").split(), *_cpuinfo("Features").split()}
    return not flags.isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))


def cores() -> int:
    """The number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def device() -> dict[str, str | int]:
    """The devices that JAX computes on."""
    import jax  # for `import funcnet` alone, as every pytest run does it, half a second too slow

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
    found = {"funcnet": VERSION, "python": platform.python_version()}
    for package in packages or CORE:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


# JAX's settings that make other numbers of the same program.
_SETTINGS = (
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_default_matmul_precision",
)


def settings(native_status: str) -> dict[str, bool | str | None]:
    """What else decides about a program's numbers: JAX's settings, the kernels, XLA's flags.

    Args:
      native_status: what `kernels.native_status` says.
    """
    import jax

    found = {name: getattr(jax.config, name) for name in _SETTINGS}
    found["kernels"] = "XLA" if native_status.startswith("XLA") else native_status
    return found | {"XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}


def changed(what: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, as in `settings: jax_enable_x64 True, was False`."""
    return [
        f"{what}: {name} {found}, was {then.get(name)}"
        for name, found in now.items()
        if found != then.get(name)
    ]


def _cpuinfo(key: str) -> str:
    """A field of /proc/cpuinfo, empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(rf"^{key}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""
