"""Arrays by name, in files that nothing executes: `.npz` and `.safetensors`."""

from __future__ import annotations

import hashlib
import math
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.lib import format as npy

Arrays = dict[str, np.ndarray]


class CheckpointError(ValueError):
    """A file is damaged, or holds another net's or another run's numbers: the message says what."""


def named(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a tree in order, each by its path, as in `affine1.w`."""
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = prefix + (jax.tree_util.keystr(path, simple=True, separator=".") or "value")
        if name in leaves:
            raise ValueError(f"two leaves are named {name}, expected one of a name.")
        leaves[name] = leaf
    return leaves


def spec(leaf: Any) -> str:
    """The shape and dtype of a leaf, as in `(3, 2) float32`."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return f"{tuple(np.shape(leaf))} {dtype}"


def compare(where: str, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raises CheckpointError that lists the leaves whose specs in the two are not the same."""
    nothing = "nothing"
    different = [
        f"{name}: {found.get(name, nothing)} in the file, {expected.get(name, nothing)} expected"
        for name in dict.fromkeys([*expected, *found])
        if found.get(name) != expected.get(name)
    ]
    if different:
        more = f"; and {len(different) - 8} more" if len(different) > 8 else ""
        raise CheckpointError(
            f"{where} does not fit: {'; '.join(different[:8])}{more}. Build the net and the "
            "optimizer with the options that it was saved with."
        )


def restored(array: np.ndarray, like: Any) -> np.ndarray:
    """The array as the template has it: NumPy reads back bfloat16 as bytes without a meaning."""
    dtype = np.dtype(getattr(like, "dtype", array.dtype))
    nameless = array.dtype.kind == dtype.kind == "V" and array.dtype.itemsize == dtype.itemsize
    return array.view(dtype) if nameless else array


def write_npz(
    file: IO[bytes], arrays: Mapping[str, Any], half: Callable[[], Any] = lambda: None
) -> None:
    """Writes arrays one by one, the same bytes for the same arrays; calls `half` half-way.

    As `np.savez`, which has no place for leaves whose name is one of its own arguments.
    """
    with zipfile.ZipFile(file, "w") as archive:
        for index, (name, leaf) in enumerate(arrays.items()):
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                npy.write_array(member, np.asarray(leaf), version=(1, 0), allow_pickle=False)
                if index == len(arrays) // 2:
                    file.flush()
                    half()


def read_npz(path: Path) -> Arrays:
    """Reads every array of a file, or raises CheckpointError."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            file.seek(-22, os.SEEK_END)
            end = file.read()
            if not (end.startswith(b"PK\5\6") and end.endswith(b"\0\0")):
                raise zipfile.BadZipFile("bytes follow its end")
            members = [(info.filename.removesuffix(".npy"), info) for info in archive.infolist()]
            # Stored members are no larger than the file itself: there is no bomb among them.
            if sum(info.file_size for _, info in members) > path.stat().st_size:
                raise zipfile.BadZipFile("its members claim more bytes than it has")
            arrays = {name: _array(f"{path}: {name}", archive, info) for name, info in members}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, UnicodeError) as error:
        raise CheckpointError(f"{path} is no complete .npz file: {error}.") from None
    if len(arrays) < len(members):
        raise CheckpointError(f"{path} holds two arrays of a name.")
    return arrays


# What NumPy writes. Its own reader takes all that Python's parser takes, and fails in as many ways.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([<>|=]?[biufcV][1-9]\d?)', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,15}, ?)*(?:\d{1,15})?)\), \} *\n",
    re.DOTALL,
)


def _array(where: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"{where} is compressed, expected a file of save_params.")
    content = archive.read(info)
    header = _HEADER.match(content)
    if not header or int.from_bytes(content[8:10], "little") != header.end() - 10:
        raise CheckpointError(
            f"{where} is no array of numbers in NumPy's format 1.0: {content[10:50]!r}."
        )
    shape = tuple(map(int, re.findall(rb"\d+", header[3])))
    rest = memoryview(content)[header.end() :]
    order: Any = "F" if header[2] == b"True" else "C"
    try:
        dtype = np.dtype(header[1].decode())
        if len(rest) != (size_bytes := math.prod(shape) * dtype.itemsize):
            raise ValueError(f"it has {len(rest)} bytes, expected {size_bytes}")
        return np.frombuffer(rest, dtype).reshape(shape, order=order).copy()
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where} is no array: {error}.") from None


def to_safetensors(arrays: Mapping[str, Any]) -> bytes:
    """The bytes of a file; its metadata hold a SHA-256, because the format has no checksum."""
    from safetensors.numpy import save

    solid = {name: np.array(leaf, order="C") for name, leaf in arrays.items()}
    return save(solid, {"funcnet.sha256": _digest(solid)})


def read_safetensors(path: Path) -> Arrays:
    """Reads every array of a file, or raises CheckpointError; a checksum need not be there."""
    from safetensors import SafetensorError, safe_open

    with open(path, "rb"):  # whose OSError names the file
        pass
    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digest = (file.metadata() or {}).get("funcnet.sha256")
    # AttributeError and ValueError: NumPy has not all of the format's dtypes and shapes.
    except (SafetensorError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path} is no complete .safetensors file: {error}.") from None
    if digest not in (None, _digest(arrays)):
        raise CheckpointError(f"{path} is damaged: its numbers are not those of its SHA-256.")
    return arrays


def _digest(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {spec(arrays[name])} ".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key, whose dtype says which implementation it is of."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
