"""The folder of a run: who has it, what it was begun with, and how it is opened again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from funcnet import checkpoint, data
from funcnet._files import read_object, replacing
from funcnet._machine import changed, device, settings, versions
from funcnet._moments import blocks
from funcnet.cli import _train_options
from funcnet.cli._command import CommandError
from funcnet.cli._train_options import Options
from funcnet.kernels import native_status

CONFIG, HISTORY, RESULT = "config.json", "history.jsonl", "result.json"


def claimed(out: str | None, options: Options, data_name: str, stack: contextlib.ExitStack) -> Path:
    """Makes the folder of a new run, takes its lock for as long as `stack` is open.

    Two runs never share a folder: raises CommandError where there is something in it, or somebody.
    """
    if out is not None:
        return _claim(Path(out), stack)
    stem = f"runs/{data_name}-{options.net.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", *(f"-{i}" for i in range(2, 100))):
        if not Path(stem + suffix).exists():
            with contextlib.suppress(_TakenError):
                return _claim(Path(stem + suffix), stack)
    raise CommandError(f"{stem} to {stem}-99 are there already; name a folder by --out.")


class _TakenError(CommandError):
    """There is something in the folder."""


def _claim(folder: Path, stack: contextlib.ExitStack) -> Path:
    hint = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as own:
            own.callback(_remove_if_empty, folder)
            own.enter_context(checkpoint.locked(folder))
            there = {path.name for path in folder.iterdir()} - {"lock"}
            if there:
                hint = ", or go on with the run in it by --resume" * (CONFIG in there)
                raise _TakenError(
                    f"--out: {folder} is not empty, and nothing is overwritten; name another{hint}."
                )
            stack.push(own.pop_all())
    except checkpoint.LockedError as error:
        raise _TakenError(f"--out: {error}") from None
    except FileExistsError:
        raise CommandError(f"--out: {folder} is a file, expected a folder.") from None
    except OSError as error:
        reason = error.strerror or error
        raise CommandError(f"--out: cannot write into {folder}: {reason}.") from error
    return folder


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def unless_begun(folder: Path) -> Iterator[None]:
    """Takes away what a new run has written, where it fails before the first row of its history."""
    try:
        yield
    except BaseException:
        history = folder / HISTORY
        if not history.exists() or not history.stat().st_size:
            for path in (history, folder / CONFIG):
                path.unlink(missing_ok=True)
        raise


def reopened(out: str | None, stack: contextlib.ExitStack) -> tuple[Path, dict[str, Any]]:
    """The folder of a run to go on with, locked while `stack` is open, and its configuration."""
    folder = Path(out) if out is not None else latest("--resume: ", "; name its folder by --out")
    _require_run(folder, "--resume: ")
    stack.enter_context(checkpoint.locked(folder))
    return folder, configured(folder, "--resume: ")


def configured(folder: Path, what: str = "") -> dict[str, Any]:
    """The configuration of the run in a folder, or CommandError, which begins with `what`."""
    _require_run(folder, what)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        _train_options.from_config(config["options"])
    except (ValueError, TypeError, KeyError) as error:
        raise CommandError(
            f"{what}{folder / CONFIG} is damaged, or of another version of funcnet: {error!r}."
        ) from None
    return config


def require_no_sweep(folder: Path, what: str = "") -> None:
    """Raises CommandError where a folder is that of a sweep."""
    if is_sweep(folder):
        raise CommandError(
            f"{what}{folder} is the folder of a sweep, expected that of a run of funcnet train; a "
            "member is trained as one by funcnet train with its options."
        )


def is_sweep(folder: Path) -> bool:
    """Whether a folder is that of `funcnet sweep`, or of one of its combinations."""
    if (folder / "sweep.json").is_file():
        return True
    with contextlib.suppress(OSError, ValueError):
        return {"values", "seeds"} <= read_object(folder / CONFIG).keys()
    return False


def _require_run(folder: Path, what: str) -> None:
    require_no_sweep(folder, what)
    if not (folder / CONFIG).is_file():
        raise CommandError(f"{what}{folder} holds no run: there is no {CONFIG}.")


def latest(what: str = "", hint: str = "") -> Path:
    """The folder of the run that was begun last, or CommandError, which begins with `what`."""
    found = (path.parent for path in Path("runs").glob(f"*/{CONFIG}"))
    runs = [folder for folder in found if not is_sweep(folder)]
    if not runs:
        raise CommandError(f"{what}there is no run in runs{hint}.")
    return max(runs, key=lambda folder: (folder / CONFIG).stat().st_mtime_ns)


def configuration(options: Options, dataset: data.Dataset) -> dict[str, Any]:
    """What config.json holds: all that a run's numbers depend on."""
    return {
        "command": shlex.join(["funcnet", *_train_options.command_line(options)]),
        "options": {name: dataclasses.asdict(group) for name, group in options._asdict().items()},
        "seed": options.training.seed,
        "data_sha256": digest(dataset),
        "versions": versions(),
        "device": device(),
        "settings": settings(native_status()),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def digest(dataset: data.Dataset) -> str:
    """A SHA-256 of what a run learns from and is measured on."""
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.val, dataset.test):
        for array in map(data.opened, split):
            if isinstance(array, data.Streamed):
                digest.update(f"{array.shape} {array.dtype} ".encode())
                if array.sha256 is not None:  # of the file, which need not be read for it
                    digest.update(array.sha256.encode())
                for block in blocks(array) if array.sha256 is None else ():
                    digest.update(np.ascontiguousarray(array[block]).data)
                continue
            array = np.ascontiguousarray(array)
            digest.update(f"{array.shape} {array.dtype} ".encode())
            digest.update(array.data)
    return digest.hexdigest()


def gone_on(
    config: dict[str, Any], now: dict[str, Any], folder: Path
) -> tuple[dict[str, Any], list[str]]:
    """The configuration of a run that goes on, and what is not as it was; raises for other data."""
    if config.get("data_sha256") != now["data_sha256"]:
        raise CommandError(
            f"--resume: the data are not those that the run in {folder} was begun with (another "
            "SHA-256)."
        )
    last = (config.get("resumed") or [config])[-1]
    # Its checkpoint knows the settings that it was saved under, and says itself what differs.
    differences = [
        line for what in ("versions", "device") for line in changed(what, last[what], now[what])
    ]
    resumed = {key: now[key] for key in ("versions", "device", "settings", "started")}
    kept = {key: now[key] for key in ("command", "options")}
    return config | kept | {"resumed": [*config.get("resumed", []), resumed]}, differences


def saving(text: str, steps_per_epoch: int) -> dict[str, Any] | None:
    """What --checkpoint-every means for `Checkpoints`; None for never."""
    if text == "never":
        return None
    found = re.fullmatch(r"([1-9]\d*) ?(s|steps?|epochs?)", text)
    if not found:
        raise CommandError(
            f"--checkpoint-every is {text}, expected a number with its unit, as 60s, 500steps or "
            "2epochs, or never."
        )
    number, unit = int(found[1]), found[2]
    if unit == "s":
        return {"every_seconds": float(number)}
    steps = number * (steps_per_epoch if unit.startswith("epoch") else 1)
    return {"every_seconds": None, "every_steps": steps}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a file of JSON, whole or not at all."""
    with replacing(path) as file:
        file.write((json.dumps(finite(value), indent=2, allow_nan=False) + "\n").encode())


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with None for what JSON has no numbers for."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def write_history(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes the rows of a history, in the place of what is there."""
    with replacing(path) as file:
        file.writelines(line(row) for row in rows)


def line(row: dict[str, Any]) -> bytes:
    """A row of the history as a line of its file."""
    return (json.dumps(finite(row), allow_nan=False) + "\n").encode()
