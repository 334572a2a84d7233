"""Arrays in pieces: each process writes those of its own devices, and any number reads them.

A piece is named by its leaf and by where it lies in it, `affine1.w@0:50,0:10`, an interval for each
axis; a leaf in one piece by its name alone. What several devices hold is written once.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding

from funcnet import _processes
from funcnet._validate import is_key
from funcnet.checkpoint._arrays import Npz, held, placed, restored

Bounds = tuple[tuple[int, int], ...]
_PIECE = re.compile(r"(.*)@(\d{1,15}:\d{1,15}(?:,\d{1,15}:\d{1,15})*)", re.DOTALL)


def pieces(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What of the arrays this process writes, by the pieces' names.

    What each process has by itself the first one writes. Raises ValueError where a piece has the
    name of another leaf.
    """
    found: dict[str, Any] = {}
    for name, leaf in arrays.items():
        spread = isinstance(leaf, Array) and not leaf.is_fully_addressable
        if _processes.index() and not spread:
            continue
        if not isinstance(leaf, Array):
            found[name] = leaf
            continue
        for shard in leaf.addressable_shards:
            if shard.replica_id == 0:
                bounds = _bounds(shard.index, leaf.shape)
                piece = name if _covers(bounds, leaf.shape) else name + _suffix(bounds)
                if piece in found or (piece != name and piece in arrays):
                    raise ValueError(f"a piece of {name} and another leaf are both named {piece}.")
                found[piece] = shard.data
    return found


class Pieces:
    """The leaves of several files, each put together of its pieces when it is asked for.

    `others` are arrays that are no leaves, and in one piece. Raises ValueError where a leaf is not
    whole, or one of the files holds what is none's.
    """

    def __init__(self, paths: Iterable[Path], leaves: Mapping[str, Any], others: Iterable[str]):
        self._of: dict[str, list[tuple[Bounds | None, Npz, str]]] = {
            name: [] for name in (*leaves, *others)
        }
        with contextlib.ExitStack() as stack:
            for path in paths:
                file = stack.enter_context(Npz(path))
                for member in file:
                    name, bounds = _parsed(member, self._of)
                    if name not in self._of:
                        raise ValueError(f"{path}: {member} is a piece of no leaf")
                    self._of[name].append((bounds, file, member))
            for name, found in self._of.items():
                shape = _data_shape(leaves[name]) if name in leaves else ()
                _require_tiles(name, [bounds for bounds, *_ in found], shape)
            self._stack = stack.pop_all()

    def __enter__(self) -> Pieces:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: Any, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> np.ndarray:
        """An array that is no leaf."""
        ((_, file, member),) = self._of[name]
        return file[member]

    def whole(self, name: str, like: Any) -> np.ndarray:
        """A leaf in one array; `like` says its shape and what its bytes are."""
        shape = _data_shape(like)
        return self._block(name, like, shape, tuple((0, size) for size in shape), {})

    def placed(self, where: str, name: str, like: Any) -> Any:
        """A leaf as the template's is and where it is; keys are their numbers: see `wrapped`.

        Each process reads what its devices hold.
        """
        sharding = getattr(like, "sharding", None)
        if not isinstance(sharding, NamedSharding) or sharding.num_devices == 1:
            made = placed(where, name, self.whole(name, like), like)
            return made if sharding is None or is_key(like) else jax.device_put(made, sharding)
        shape = _data_shape(like)
        read: dict[str, Any] = {}
        if not is_key(like):
            held(where, name, like.dtype)

        def block(index: Any) -> np.ndarray:
            return self._block(name, like, shape, _bounds(index, shape), read)

        return jax.make_array_from_callback(shape, sharding, block)

    def _block(
        self, name: str, like: Any, shape: tuple[int, ...], wanted: Bounds, read: dict[str, Any]
    ) -> np.ndarray:
        """What lies within some bounds of a leaf; `read` keeps pieces from block to block."""
        result: np.ndarray | None = None
        for bounds, file, member in self._of[name]:
            at = bounds or tuple((0, size) for size in shape)
            common = tuple(
                (max(a, c), min(b, d)) for (a, b), (c, d) in zip(at, wanted, strict=True)
            )
            if any(a >= b for a, b in common) and all(a < b for a, b in wanted):
                continue
            if member not in read:
                read[member] = restored(file[member], like)
            piece = read[member]
            if piece.shape != tuple(b - a for a, b in at):
                raise ValueError(f"{member} has shape {piece.shape}, expected that of its place")
            if common == at == wanted:
                return piece
            if result is None:
                result = np.empty([b - a for a, b in wanted], piece.dtype)
            result[_within(common, wanted)] = piece[_within(common, at)]
        assert result is not None  # the pieces tile the leaf
        return result


def wrapped(data: Array, impl: str, like: Any) -> Array:
    """Keys of their numbers, where those of the template are."""
    keys = jax.random.wrap_key_data(data, impl=impl)
    sharding = getattr(like, "sharding", None)
    several = isinstance(sharding, NamedSharding) and sharding.num_devices > 1
    return keys if sharding is None or several else jax.device_put(keys, sharding)


def _data_shape(like: Any) -> tuple[int, ...]:
    """The shape of a leaf's numbers: those of keys have an axis more."""
    if not is_key(like):
        return tuple(np.shape(like))
    return jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(like.shape, like.dtype)).shape


def _bounds(index: Any, shape: tuple[int, ...]) -> Bounds:
    return tuple(
        (part.start or 0, size if part.stop is None else part.stop)
        for part, size in zip(index, shape, strict=True)
    )


def _covers(bounds: Bounds, shape: tuple[int, ...]) -> bool:
    return all(part == (0, size) for part, size in zip(bounds, shape, strict=True))


def _suffix(bounds: Bounds) -> str:
    return "@" + ",".join(f"{start}:{stop}" for start, stop in bounds)


def _parsed(member: str, leaves: Mapping[str, Any]) -> tuple[str, Bounds | None]:
    """The leaf that a piece is of, and where it lies in it; None for all of it."""
    found = None if member in leaves else _PIECE.fullmatch(member)
    if found is None:
        return member, None
    parts = (part.split(":") for part in found[2].split(","))
    return found[1], tuple((int(start), int(stop)) for start, stop in parts)


def _require_tiles(name: str, bounds: list[Bounds | None], shape: tuple[int, ...]) -> None:
    """Raises ValueError unless pieces are all of a leaf, each place once."""
    if bounds == [None]:
        return
    there = [part for part in bounds if part is not None]
    fit = len(there) == len(bounds) > 0 and all(
        len(part) == len(shape)
        and all(0 <= a < b <= n for (a, b), n in zip(part, shape, strict=True))
        for part in there
    )
    apart = fit and all(
        any(b <= c or d <= a for (a, b), (c, d) in zip(one, other, strict=True))
        for one, other in itertools.combinations(there, 2)
    )
    size = sum(math.prod(b - a for a, b in part) for part in there)
    if not apart or size != math.prod(shape):
        raise ValueError(f"{name} is not whole: its {len(bounds)} pieces are not all of {shape}")


def _within(common: Bounds, of: Bounds) -> tuple[slice, ...]:
    return tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(common, of, strict=True))


def file_of(process: int) -> str:
    """The file of a process: `arrays.npz` is the first one's."""
    return f"arrays.{process}.npz" if process else "arrays.npz"
