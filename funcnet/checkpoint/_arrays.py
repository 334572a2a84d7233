"""Arrays by name, in files that nothing executes: `.npz` and `.safetensors`."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.lib import format as npy

from funcnet._validate import is_key, saved_name

Arrays = dict[str, np.ndarray]

# The numbers that JAX computes with, by their dtypes' names: NumPy's, and those of ml_dtypes, which
# NumPy's format has no names for.
_NUMPYS = frozenset(
    f"{kind}{bits}"
    for kind, sizes in {
        **{"int": (8, 16, 32, 64), "uint": (8, 16, 32, 64)},
        **{"float": (16, 32, 64), "complex": (64, 128)},
    }.items()
    for bits in sizes
) | {"bool"}
_EXTENDED = {
    name: np.dtype(getattr(jnp, name))
    for name in (
        *("bfloat16", "float4_e2m1fn", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
        *("int2", "int4", "uint2", "uint4"),
    )
}
# Those of a byte that safetensors has too, by the names that it has for them. Its package writes
# them from NumPy's arrays, and looks for them in NumPy when it reads, where they are not.
_SAFETENSORS = {
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}


class CheckpointError(ValueError):
    """A file is damaged, or holds another net's or another run's numbers: the message says what."""


def named(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a tree in order, each by its path, as in `affine1.w`."""
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = prefix + (saved_name(path) or "value")
        if name in leaves:
            raise ValueError(f"two leaves are named {name}, expected one of a name.")
        leaves[name] = leaf
    return leaves


def spec(leaf: Any) -> str:
    """The shape and dtype of a leaf, as in `(3, 2) float32`, whatever the order of its bytes."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return f"{tuple(np.shape(leaf))} {dtype.name}"


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


def stored(name: str, leaf: Any) -> np.ndarray:
    """A leaf as it is written, or an error where it would not be read again as it is."""
    text = name.encode(errors="ignore")
    if "\0" in name or name == "__metadata__" or text.decode() != name or len(text) > 2**15:
        raise ValueError(f"{name[:50]!r} is no name for a leaf in a file; rename it.")
    if is_key(leaf):
        raise TypeError(f"{name} is a PRNG key, expected numbers, as those of jax.random.key_data.")
    if isinstance(leaf, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, expected numbers: {name}.filled(...) has them.")
    array = np.asarray(leaf)
    if array.dtype.name not in _NUMPYS | _EXTENDED.keys():
        raise TypeError(f"{name} has dtype {array.dtype}, expected numbers that JAX computes with.")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def restored(array: np.ndarray, like: Any) -> np.ndarray:
    """The array as the template has it, where the file says no more of its numbers than bytes."""
    dtype = _EXTENDED.get(str(getattr(like, "dtype", "")))
    if dtype is None or array.dtype.type is not np.void or array.dtype.itemsize != dtype.itemsize:
        return array
    return array.view(dtype)


def placed(where: str, name: str, array: np.ndarray, like: Any) -> Any:
    """The array as the template's leaf is: JAX's, or a Python number where that is one.

    Raises CheckpointError where JAX would cut its numbers.
    """
    if isinstance(like, bool | int | float | complex) and not isinstance(like, np.generic):
        return array.item()
    held(where, name, array.dtype)
    return jnp.array(array, copy=True)


def held(where: str, name: str, dtype: Any) -> None:
    """Raises CheckpointError where JAX would cut numbers of a dtype."""
    if (made := jax.dtypes.canonicalize_dtype(dtype)) != dtype:
        raise CheckpointError(
            f"{where} does not fit: {name} is {dtype}, which JAX makes {made} here; expected "
            "jax_enable_x64 as it was when it was saved."
        )


def write_npz(
    file: IO[bytes], arrays: Mapping[str, Any], half: Callable[[], Any] = lambda: None
) -> None:
    """Writes arrays one by one, the same bytes for the same arrays; calls `half` half-way.

    As `np.savez`, which has no place for leaves whose name is one of its own arguments. What
    NumPy's format has no name for is bytes to NumPy, and named in the comment of its member.
    """
    with zipfile.ZipFile(file, "w") as archive:
        try:
            for index, (name, leaf) in enumerate(arrays.items()):
                array, info = stored(name, leaf), zipfile.ZipInfo(f"{name}.npy")
                if array.dtype.name in _EXTENDED:
                    info.comment = array.dtype.name.encode()
                    array = array.view(f"V{array.dtype.itemsize}")
                with archive.open(info, "w", force_zip64=True) as member:
                    npy.write_array(member, array, version=(1, 0), allow_pickle=False)
                    if index == len(arrays) // 2:
                        file.flush()
                        half()
        except BaseException:
            archive.fp = None  # closing would refuse what a signal left open, and hide the signal
            raise


class Npz:
    """The arrays of an `.npz` file, each read when it is asked for; nothing is executed.

    Raises CheckpointError where the file is damaged, or is none of these.
    """

    def __init__(self, path: Path):
        self.path = path
        with self._expected(), contextlib.ExitStack() as stack:
            file = stack.enter_context(open(path, "rb"))
            self._archive = stack.enter_context(zipfile.ZipFile(file))
            file.seek(-22, os.SEEK_END)
            end = file.read()
            if not (end.startswith(b"PK\5\6") and end.endswith(b"\0\0")):
                raise zipfile.BadZipFile("bytes follow its end")
            infos = self._archive.infolist()
            # Stored members are no larger than the file itself: there is no bomb among them.
            if sum(info.file_size for info in infos) > path.stat().st_size:
                raise zipfile.BadZipFile("its members claim more bytes than it has")
            self._members = {info.filename.removesuffix(".npy"): info for info in infos}
            if len(self._members) < len(infos):
                raise CheckpointError(f"{path} holds two arrays of a name.")
            self._close = stack.pop_all().close

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __getitem__(self, name: str) -> np.ndarray:
        with self._expected():
            return _array(f"{self.path}: {name}", self._archive, self._members[name])

    def __enter__(self) -> Npz:
        return self

    def __exit__(self, *_: Any) -> None:
        self._close()

    @contextlib.contextmanager
    def _expected(self) -> Iterator[None]:
        """Turns what a damaged file raises into CheckpointError."""
        kinds = zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, UnicodeError
        try:
            yield
        except kinds as error:
            raise CheckpointError(f"{self.path} is no complete .npz file: {error}.") from None


def read_npz(path: Path) -> Arrays:
    """Reads every array of an `.npz` file, and executes nothing.

    Args:
      path: the file.

    Returns:
      The arrays by name.

    Raises:
      CheckpointError: the file is damaged, or is none of these.
    """
    with Npz(path) as arrays:
        return {name: arrays[name] for name in arrays}


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
        named = _EXTENDED.get(info.comment.decode("ascii", "replace"))
        if dtype.kind == "V" and named and named.itemsize == dtype.itemsize:
            dtype = named
        array = np.frombuffer(rest, dtype).reshape(shape, order=order)
        return array.copy() if dtype.isnative else array.astype(dtype.newbyteorder("="))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{where} is no array: {error}.") from None


def to_safetensors(arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file; its metadata hold a SHA-256, because the format has no checksum."""
    from safetensors.numpy import save

    solid = {name: np.array(stored(name, leaf), order="C") for name, leaf in arrays.items()}
    known = _NUMPYS - {"complex128"} | {"bfloat16", *_SAFETENSORS.values()}
    for name, array in solid.items():
        if array.dtype.name not in known:
            raise TypeError(
                f"{name} has dtype {array.dtype}, which .safetensors does not hold; .npz does."
            )
    return save(solid, {**metadata, "funcnet.sha256": _digest(solid)})


def read_safetensors(path: Path) -> Arrays:
    """Reads every array of a file, or raises CheckpointError; a checksum need not be there."""
    from safetensors import SafetensorError, deserialize, safe_open

    with open(path, "rb"):  # whose OSError names the file
        pass
    try:
        with safe_open(path, "numpy") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            arrays = {
                n: file.get_tensor(n) for n, kind in kinds.items() if kind not in _SAFETENSORS
            }
            digest = (file.metadata() or {}).get("funcnet.sha256")
        if len(arrays) < len(kinds):
            content = dict(deserialize(path.read_bytes()))
            for name in kinds.keys() - arrays.keys():
                array = np.frombuffer(content[name]["data"], _EXTENDED[_SAFETENSORS[kinds[name]]])
                arrays[name] = array.reshape(content[name]["shape"])
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
