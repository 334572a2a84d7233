"""`funcnet info`: what is installed, what it runs on, and where the data lie."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jax
from rich.table import Table

from funcnet import _machine, data, kernels
from funcnet.cli import _compiled
from funcnet.cli._command import CommandError, console, option


@dataclasses.dataclass(frozen=True)
class Info:
    """Print versions, devices, and the data sets found and where they were looked for."""

    data_dir: Annotated[str | None, option("$FUNCNET_DATA_DIR, else ~/.cache/funcnet")] = None
    """Folder in which the data sets are looked for."""
    traceback: bool = False
    """Show where an error came from."""

    EPILOG: ClassVar[str] = ""

    def run(self) -> int:
        """Prints the tables."""
        out = console()
        if self.data_dir is not None and Path(self.data_dir).expanduser().is_file():
            raise CommandError(f"--data-dir: {self.data_dir} is a file, expected a folder.")
        for title, rows in (
            ("versions", versions_and_extras()),
            ("machine", machine()),
            ("data", _data(self.data_dir)),
        ):
            table = Table(title=title, title_justify="left", title_style="bold", box=None)
            table.show_header = False
            table.add_column(no_wrap=True)
            table.add_column(overflow="fold")
            for name, text in rows.items():
                table.add_row(name, text)
            out.print(table)
        return 0


def versions_and_extras() -> dict[str, str]:
    """The versions, and one row for each extra: what it has, and what is missing of it."""
    rows = _machine.versions()
    for extra, packages in _extras().items():
        there, missing = [], []
        for package in packages:
            try:
                there.append(f"{package} {metadata.version(package)}")
            except metadata.PackageNotFoundError:
                missing.append(package)
        parts = [", ".join(there)] if there else []
        if missing:
            parts.append(f'not installed: {", ".join(missing)} (pip install "funcnet[{extra}]")')
        rows[f"[{extra}]"] = "; ".join(parts)
    return rows


def _extras() -> dict[str, list[str]]:
    """The packages of each extra, from the installed package's own metadata."""
    try:
        requirements = metadata.requires("funcnet") or []
    except metadata.PackageNotFoundError:  # run from its sources
        return {}
    extras: dict[str, list[str]] = {name: [] for name in ("run", "test", "bench", "docs")}
    for requirement in requirements:
        found = re.match(r"""([\w.-]+).*extra == ['"](\w+)['"]""", requirement)
        if found and not found[1].startswith("funcnet"):
            extras.setdefault(found[2], []).append(found[1])
    # The others contain [run] once more.
    again = set(extras["run"])
    rest = {name: [p for p in extras[name] if p not in again] for name in extras if name != "run"}
    return {name: found for name, found in {"run": extras["run"], **rest}.items() if found}


def machine() -> dict[str, str]:
    """Devices, the CPU and what of it matters for speed, and JAX's settings."""
    found = _machine.device()
    vectors = _machine.cpu_vectors()
    kind = "" if vectors is None else f", {vectors or 'neither AVX2 nor more'}"
    settings = jax.config.values
    return {
        "devices": f"{found['count']} × {found['platform']} ({found['kind']})",
        "CPU": f"{found['cpu']}, {found['cpu_cores']} cores{kind}",
        "kernels": kernels.native_status(),
        "system": platform.platform(),
        "float64": "on" if settings["jax_enable_x64"] else "off (JAX_ENABLE_X64=1 turns it on)",
        "programs": _programs(settings),
    }


def _programs(settings: Mapping[str, Any]) -> str:
    """Where compiled programs are kept."""
    if not settings["jax_enable_compilation_cache"]:
        return "not kept (JAX_ENABLE_COMPILATION_CACHE)"
    if jaxs := settings["jax_compilation_cache_dir"]:
        return f"kept in {jaxs} (JAX_COMPILATION_CACHE_DIR)"
    if (ours := _compiled.folder()) is None:
        return f"not kept ({_compiled.VARIABLE})"
    mib, most = _compiled.size_bytes(ours) / 2**20, _compiled.MOST_BYTES // 2**20
    return (
        f"train and sweep keep theirs in {ours}: {mib:.1f} of at most {most} MiB "
        f"({_compiled.VARIABLE} names another folder, or is 0 for none)"
    )


def _data(data_dir: str | None) -> dict[str, str]:
    root = data_dir or os.environ.get("FUNCNET_DATA_DIR") or "~/.cache/funcnet"
    rows = {"folder": str(Path(root).expanduser())}
    for name in data.SETS:
        found = data.find(name, data_dir)
        if found.found:
            rows[name] = f"found in {found.paths[0].parent}" if found.paths else "needs no file"
        else:
            looked = ", ".join(str(folder) for folder in found.looked)
            rows[name] = f"not found{f' in {looked}' if looked else ''}; needs {found.needs}"
    return rows
