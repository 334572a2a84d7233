"""A net's parameters and state in one file, for anybody to read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet._files import replacing
from funcnet.checkpoint._arrays import (
    CheckpointError,
    compare,
    named,
    placed,
    read_npz,
    read_safetensors,
    restored,
    spec,
    stored,
    to_safetensors,
    write_npz,
)
from funcnet.data import Preprocessing

_STATE, _PREPROCESSING = "state.", "preprocessing."


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
    metadata: Mapping[str, str] | None = None,
) -> None:
    r"""Writes a net's parameters and state to a file, whole or not at all.

    A file that is there already stays until the new one is complete. What is accepted is read again
    to the bit. In an `.npz` file, bfloat16, float8 and int4 are written as their bytes, which
    `np.load` returns as `V2` and `V1`; `load_params` knows them. `.safetensors` has bfloat16 and
    most kinds of float8. Big-endian numbers are turned round.

    Args:
      path: the file; `.npz` and `.safetensors` say what it becomes.
      params: a pytree of arrays and of Python's numbers.
      state: the net's state; `()` for none.
      preprocessing: the run's, from `data.fit_preprocessing`.
      metadata: words for the header of a `.safetensors`.

    Raises:
      OSError: the file cannot be written.
      TypeError: a leaf is not an array of numbers that JAX computes with, or `.safetensors` does
        not hold its dtype (int4, complex128, the rarer kinds of float8).
      ValueError: two leaves have the same name, as one of `params` below "state" might, a name
        cannot stand in a file, or the path ends otherwise.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_params(folder + "/net.npz", AffineParams(jnp.eye(2), jnp.zeros(2)))
    ...     with np.load(folder + "/net.npz") as arrays:
    ...         print(dict(arrays))
    {'w': array([[1., 0.], [0., 1.]]), 'b': array([0., 0.])}
    """
    suffix = _suffix("save_params", path)
    if metadata and suffix != ".safetensors":
        raise ValueError(f"save_params: path is {path}, expected .safetensors to hold metadata.")
    arrays: dict[str, np.ndarray] = {}
    trees = {"": params, _STATE: state, _PREPROCESSING: preprocessing}
    try:
        for prefix, tree in trees.items():
            for name, leaf in named(tree, prefix).items():
                if name in arrays:
                    raise ValueError(f"two leaves are named {name}, expected one.")
                arrays[name] = stored(name, leaf)
        content = to_safetensors(arrays, metadata or {}) if suffix == ".safetensors" else b""
    except (TypeError, ValueError) as error:
        raise type(error)(f"save_params: {error}") from None
    with replacing(path) as file:
        if suffix == ".npz":
            write_npz(file, arrays)
        else:
            file.write(content)


def load_params(path: str | os.PathLike[str], params: Any, state: Any = ()) -> Loaded:
    r"""Reads what `save_params` wrote, or anybody's file of these names, into trees of arrays.

    Every leaf's name, shape and dtype is compared with the template's before anything is made of
    it. The file's checksums are verified: those of `.npz`, and in `.safetensors` ours, if it is
    there.

    Args:
      path: the file, `.npz` or `.safetensors`.
      params: a template: the structure to fill, with arrays or `jax.ShapeDtypeStruct` as leaves,
        such as `jax.eval_shape(lambda: net.init(jax.random.key(0), input_shape))[0]`.
      state: the same for the net's state.

    Returns:
      Parameters and state as arrays on the default device, and the preprocessing.

    Raises:
      CheckpointError: the file is damaged or cut short, leaves are missing, there are others, a
        shape or dtype differs, or numbers of 64 bits would be cut without `jax_enable_x64`: the
        message names them.
      FileNotFoundError: there is no such file.
      ValueError: the path ends otherwise.

    >>> load_params("/nowhere/best.npz", jnp.zeros(2))
    Traceback (most recent call last):
    ...
    FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/best.npz'
    """
    suffix, path = _suffix("load_params", path), Path(path)
    found = read_npz(path) if suffix == ".npz" else read_safetensors(path)
    template = named(params) | named(state, _STATE)
    stated = [name for name in found if name.startswith(_PREPROCESSING) and name not in template]
    fields = {name.removeprefix(_PREPROCESSING): found.pop(name) for name in stated}
    if stated and set(fields) != set(Preprocessing._fields):
        raise CheckpointError(
            f"{path} holds {', '.join(stated)}, expected "
            f"{' and '.join(_PREPROCESSING + name for name in Preprocessing._fields)}."
        )
    arrays = {name: restored(array, template.get(name)) for name, array in found.items()}
    compare(
        str(path),
        {name: spec(array) for name, array in arrays.items()},
        {name: spec(leaf) for name, leaf in template.items()},
    )
    leaves = [placed(str(path), name, arrays[name], leaf) for name, leaf in template.items()]
    params, state = jax.tree.unflatten(jax.tree.structure((params, state)), leaves)
    return Loaded(params, state, Preprocessing(**fields) if stated else None)


def _suffix(function: str, path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix
    if suffix not in (".npz", ".safetensors"):
        raise ValueError(f"{function}: path is {path}, expected one in .npz or .safetensors.")
    return suffix
