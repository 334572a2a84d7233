r"""Parameters in files: a net's parameters and state as one `.npz` that NumPy reads anywhere.

A leaf's name is its path in the tree: `affine1.w`, or `state.batch_norm1.mean` in the state, and
`preprocessing.mean`, `preprocessing.scale` where the file says what the net's input was made by.
Nothing is pickled, and nothing is unpickled.

>>> import tempfile, pathlib
>>> from funcnet import checkpoint, nets
>>> net = nets.fully_connected_net([5], classes=3, norm="batch")
>>> params, state = net.init(jax.random.key(0), (4,))
>>> with tempfile.TemporaryDirectory() as folder:
...     path = pathlib.Path(folder) / "best.npz"
...     checkpoint.save_params(path, params, state)
...     loaded = checkpoint.load_params(path, *net.init(jax.random.key(1), (4,)))
>>> bool((loaded.params["affine1"].w == params["affine1"].w).all())
True
>>> sorted(loaded.state["batch_norm1"]._fields)
['mean', 'var']
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.lib import format as npy

from funcnet._files import replacing
from funcnet.augment import Preprocessing

__all__ = ["CheckpointError", "Loaded", "load_params", "save_params"]

_STATE, _PREPROCESSING = "state.", "preprocessing."


class CheckpointError(ValueError):
    """A file of parameters is damaged or another net's: the message names the file and the leaf."""


class Loaded(NamedTuple):
    """What `load_params` returns; `preprocessing` is None where the file has none."""

    params: Any
    state: Any
    preprocessing: Preprocessing | None


def save_params(
    path: str | os.PathLike[str],
    params: Any,
    state: Any = (),
    preprocessing: Preprocessing | None = None,
) -> None:
    r"""Writes a net's parameters and state to an `.npz` file, whole or not at all.

    A file that is there already stays until the new one is complete. bfloat16 is written as its
    two bytes, which `np.load` returns as `V2`.

    Args:
      path: the file.
      params: a pytree of arrays.
      state: the net's state; `()` for none.
      preprocessing: the run's, from `data.fit_preprocessing`.

    Raises:
      OSError: the file cannot be written.
      TypeError: a leaf is not an array of numbers.
      ValueError: two leaves have the same name, as one of `params` below "state" might.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_params(folder + "/net.npz", AffineParams(jnp.eye(2), jnp.zeros(2)))
    ...     with np.load(folder + "/net.npz") as arrays:
    ...         print(dict(arrays))
    {'w': array([[1., 0.], [0., 1.]]), 'b': array([0., 0.])}
    """
    arrays: dict[str, np.ndarray] = {}
    for name, leaf in _named(params, state, preprocessing):
        array = np.asarray(leaf)
        if array.dtype.hasobject or array.dtype.kind in "USMm":
            raise TypeError(f"save_params: {name} has dtype {array.dtype}, expected numbers.")
        if name in arrays:
            raise ValueError(f"save_params: two leaves are named {name}, expected one of a name.")
        arrays[name] = array
    # What np.savez does; that has no place for leaves whose name is one of its own arguments.
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, version=(1, 0), allow_pickle=False)


def load_params(path: str | os.PathLike[str], params: Any, state: Any = ()) -> Loaded:
    r"""Reads what `save_params` wrote, into trees of the same structure.

    Every leaf's name, shape and dtype is compared with the template's before it is read, and
    nothing is read that the template has not. The file's own checksums are verified.

    Args:
      path: the file.
      params: a template: the structure to fill, with arrays or `jax.ShapeDtypeStruct` as leaves,
        such as `jax.eval_shape(lambda: net.init(jax.random.key(0), input_shape))[0]`.
      state: the same for the net's state.

    Returns:
      Parameters and state as arrays on the default device, and the preprocessing.

    Raises:
      CheckpointError: the file is damaged or cut short, leaves are missing, there are others, or a
        shape or dtype differs: the message names them.
      FileNotFoundError: there is no such file.

    >>> load_params("/nowhere/best.npz", jnp.zeros(2))
    Traceback (most recent call last):
    ...
    FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/best.npz'
    """
    path = Path(path)
    expected = dict(_named(params, state, None))
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            stated = {name for name in members if name.startswith(_PREPROCESSING)}
            _compare_names(path, set(members) - stated, set(expected))
            arrays = {
                name: _array(path, archive, info, expected.get(name))
                for name, info in members.items()
            }
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no complete .npz file: {error}.") from None
    leaves = [jnp.asarray(arrays[name]) for name in expected]
    params, state = jax.tree.unflatten(jax.tree.structure((params, state)), leaves)
    preprocessing = None
    if stated:
        _compare_names(path, stated, {_PREPROCESSING + field for field in Preprocessing._fields})
        preprocessing = Preprocessing(
            *(arrays[_PREPROCESSING + field] for field in Preprocessing._fields)
        )
    return Loaded(params, state, preprocessing)


def _named(params: Any, state: Any, preprocessing: Any) -> list[tuple[str, Any]]:
    """Returns the leaves, in the order of (params, state), each with its name."""
    named = []
    for prefix, tree in (("", params), (_STATE, state), (_PREPROCESSING, preprocessing)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = jax.tree_util.keystr(path, simple=True, separator=".") or "value"
            named.append((prefix + name, leaf))
    return named


def _compare_names(path: Path, found: set[str], expected: set[str]) -> None:
    missing, others = sorted(expected - found), sorted(found - expected)
    if missing or others:
        said = [f"it has no {_listed(missing)}"] * bool(missing)
        said += [f"it has {_listed(others)}, which was not expected"] * bool(others)
        raise CheckpointError(
            f"{path} holds another net's parameters: {'; '.join(said)}. Build the net with the "
            "options that it was trained with."
        )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _array(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, expected: Any
) -> np.ndarray:
    """Reads one member; its header is compared before there is an array to hold it."""
    name = info.filename.removesuffix(".npy")
    # Stored members are no larger than the file itself: there is no bomb among them.
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"{path}: {name} is compressed, expected a file of save_params.")
    content = io.BytesIO(archive.read(info))
    try:
        if npy.read_magic(content) != (1, 0):
            raise ValueError("its format is not 1.0")
        shape, fortran_order, dtype = npy.read_array_header_1_0(content)
    except ValueError as error:
        raise CheckpointError(f"{path}: {name} is no array: {error}.") from None
    if expected is not None:
        wanted = jnp.dtype(expected.dtype)
        if wanted == jnp.bfloat16 and dtype == np.dtype("V2"):
            dtype = wanted
        if (shape, dtype) != (tuple(expected.shape), wanted):
            raise CheckpointError(
                f"{path}: {name} has shape {shape} and dtype {dtype}, expected "
                f"{tuple(expected.shape)} and {wanted}. Build the net with the options that it "
                "was trained with."
            )
    elif dtype.kind not in "fiu" or min(shape, default=0) < 0:
        raise CheckpointError(f"{path}: {name} is {dtype} of shape {shape}, expected numbers.")
    size_bytes = math.prod(shape) * dtype.itemsize
    rest = content.getbuffer()[content.tell() :]
    if len(rest) != size_bytes:
        raise CheckpointError(f"{path}: {name} has {len(rest)} bytes, expected {size_bytes}.")
    order: Any = "F" if fortran_order else "C"
    return np.frombuffer(rest, dtype).reshape(shape, order=order).copy()
