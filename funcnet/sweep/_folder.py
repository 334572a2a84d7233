"""A sweep's folder: what was asked in `config.json`, and two files for each member that is done.

`0003.npz` holds member 3's losses and states, `0003.json` all else. Each file is whole or not
there, and the JSON comes last: a member is done when it is there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from funcnet import checkpoint
from funcnet._files import replacing
from funcnet._machine import changed, device, settings, versions
from funcnet.kernels import native_status

T = TypeVar("T")
_ABOUT = ("versions", "device", "settings")  # said in the configuration, and not a part of it


def digest(*parts: Any) -> str:
    """A checksum of texts and arrays."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            found.update(part.encode())
            continue
        if jax.dtypes.issubdtype(getattr(part, "dtype", None), jax.dtypes.prng_key):
            part = jax.random.key_data(part)
        array = np.ascontiguousarray(part)
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


@contextmanager
def opened(path: str | os.PathLike[str], config: dict[str, Any]) -> Iterator[Folder]:
    """The folder of one sweep, new or begun, kept for this process.

    Raises ValueError where it is another's, LockedError where another process is at it.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"sweep.run: {path} is a file, expected a folder.") from None
    with checkpoint.locked(path):
        yield Folder(path, config)


class Folder:
    """A folder that `opened` gives."""

    def __init__(self, path: Path, config: dict[str, Any]):
        self.path = path
        config = json.loads(json.dumps(config))  # tuples become lists, as they will be read
        file = self.path / "config.json"
        if file.exists():
            self._compare(_read(file, "name another folder"), config)
        elif {path.name for path in self.path.iterdir()} - {"lock"}:
            raise ValueError(
                f"sweep.run: {self.path} is not empty and holds no sweep, for it has no "
                "config.json; name another folder."
            )
        else:
            about = dict(
                zip(_ABOUT, (versions(), device(), settings(native_status())), strict=True)
            )
            _write(file, config | about)

    def _compare(self, stored: dict[str, Any], config: dict[str, Any]) -> None:
        differing = [
            f"{name}: {_short(stored.get(name))} there, {_short(config.get(name))} here"
            for name in sorted({*stored, *config} - {*_ABOUT})
            if stored.get(name) != config.get(name)
        ]
        if differing:
            raise ValueError(
                f"sweep.run: {self.path} holds another sweep ({'; '.join(differing)}); name "
                "another folder, or ask for what is there. (`program` is what make returns, the "
                "step, and the versions of JAX and funcnet that traced it; `data` the images, "
                "labels and preprocessing.)"
            )
        then = stored.get("settings")  # an earlier version did not keep them
        others = (
            changed("settings", then, settings(native_status())) if isinstance(then, dict) else []
        )
        if others:
            text = f"{self.path}: {'; '.join(others)}: members' bits may differ"
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def load(self, index: int, template: Any, make: Callable[[dict[str, Any], Any], T]) -> T | None:
        """What `make` makes of a member's numbers and of its arrays in the structure of `template`.

        None where the member is not done.
        """
        file = self.path / f"{index:04}.json"
        if not file.exists():
            return None
        again = "delete it, and the member is run again"
        numbers = _read(file, again)
        arrays = checkpoint.load_params(file.with_suffix(".npz"), template).params
        try:
            return make(numbers, jax.tree.map(np.asarray, arrays))
        except (ValueError, TypeError, LookupError) as error:
            raise ValueError(f"sweep.run: {file} is damaged ({error!r}); {again}.") from None

    def save(self, index: int, numbers: dict[str, Any], arrays: Any) -> None:
        """Writes a member that is done."""
        file = self.path / f"{index:04}.json"
        checkpoint.save_params(file.with_suffix(".npz"), arrays)
        _write(file, numbers)


def _read(file: Path, mend: str) -> dict[str, Any]:
    """What a file of JSON holds; raises ValueError that names it and says how to mend it."""
    try:
        value = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"sweep.run: {file} is damaged ({error}); {mend}.") from None
    if not isinstance(value, dict):
        raise ValueError(f"sweep.run: {file} is damaged (a {type(value).__name__}); {mend}.")
    return value


def _write(file: Path, value: dict[str, Any]) -> None:
    with replacing(file) as opened:
        opened.write((json.dumps(_finite(value), indent=1, allow_nan=False) + "\n").encode())


def _finite(value: Any) -> Any:
    """The value with None for what JSON has no numbers for."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
