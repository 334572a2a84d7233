"""A sweep's folder: what was asked in `config.json`, and two files for each member that is done.

`0003.npz` holds member 3's losses and states, `0003.json` all else. Each file is whole or not
there, and the JSON comes last: a member is done when it is there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from funcnet import checkpoint
from funcnet._files import replacing
from funcnet._machine import device, versions

_ABOUT = ("versions", "device")  # said in the configuration, and not a part of it


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


class Folder:
    """The folder of one sweep, new or begun; raises ValueError where it is another's."""

    def __init__(self, path: str | os.PathLike[str], config: dict[str, Any]):
        self.path = Path(path)
        config = json.loads(json.dumps(config))  # tuples become lists, as they will be read
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise ValueError(f"sweep.run: {self.path} is a file, expected a folder.") from None
        file = self.path / "config.json"
        if file.exists():
            self._compare(json.loads(file.read_text(encoding="utf-8")), config)
        elif any(self.path.iterdir()):
            raise ValueError(
                f"sweep.run: {self.path} is not empty and holds no sweep, for it has no "
                "config.json; name another folder."
            )
        else:
            about = dict(zip(_ABOUT, (versions(), device()), strict=True))
            _write(file, config | about)

    def _compare(self, stored: Any, config: dict[str, Any]) -> None:
        stored = stored if isinstance(stored, dict) else {}
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

    def load(self, index: int, template: Any) -> tuple[dict[str, Any], Any] | None:
        """A member's numbers and its arrays, in the structure of `template`; None if not done."""
        file = self.path / f"{index:04}.json"
        if not file.exists():
            return None
        numbers = json.loads(file.read_text(encoding="utf-8"))
        arrays = checkpoint.load_params(file.with_suffix(".npz"), template).params
        return numbers, jax.tree.map(np.asarray, arrays)

    def save(self, index: int, numbers: dict[str, Any], arrays: Any) -> None:
        """Writes a member that is done."""
        file = self.path / f"{index:04}.json"
        checkpoint.save_params(file.with_suffix(".npz"), arrays)
        _write(file, numbers)


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
