"""The arguments of a rule as people have them: what is differentiated, and arrays in functions.

A function may hold arrays itself: a module that is called, a bound method, a closure. They are
moved into one more argument, so that they follow the precision that the function is judged in.
"""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from funcnet.checks import _rules


def is_floating(leaf: Any) -> bool:
    """Whether gradients flow to a leaf: real or complex numbers."""
    return bool(jax.dtypes.issubdtype(leaf.dtype, np.inexact))


def cast(leaf: Any, dtype: Any) -> Any:
    """A leaf of the arguments in another precision; integers and keys as they are."""
    if not is_floating(leaf):
        return leaf
    if np.asarray(leaf).dtype.kind == "c":
        dtype = np.complex128 if jax.numpy.dtype(dtype).itemsize == 8 else np.complex64
    return np.asarray(leaf).astype(jax.numpy.dtype(dtype))


def in_session(args: Sequence[Any]) -> tuple[Any, ...]:
    """NumPy arrays in the dtypes that they have in the caller's session: float32 without x64."""

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, (np.ndarray, np.generic)) or leaf.dtype.kind not in "fciu":
            return leaf
        return np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))

    return jax.tree.map(convert, tuple(args))


class Arguments:
    """Positional arguments, flat: names, which are differentiated, and how to put them together."""

    def __init__(
        self, f: Callable, args: Sequence[Any], argnums: Any = None, extra: str | None = None
    ):
        args = _with_arrays_for_numbers(f, tuple(args))
        self.args = args
        self.own = len(args) - (extra is not None)  # of the caller
        self.argument_names = _rules.argument_names(_rules.undecorated(f), self.own)
        self.argument_names += [extra] if extra is not None else []
        self.leaves: list[Any] = []
        self.names: list[str] = []
        self.argument: list[int] = []
        self._trees: list[Any] = []
        for i, argument in enumerate(args):
            found, tree = tree_flatten_with_path(argument)
            self._trees.append(tree)
            for path, leaf in found:
                self.leaves.append(leaf)
                self.names.append(self.argument_names[i] + keystr(path))
                self.argument.append(i)
        arrays = [i for i, leaf in enumerate(self.leaves) if _rules.is_array(leaf)]
        self.where_diff = [
            i
            for i in arrays
            if is_floating(self.leaves[i]) and (argnums is None or self.argument[i] in argnums)
        ]
        self.where_rest = [i for i in arrays if i not in self.where_diff]
        self.diff_names = [self.names[i] for i in self.where_diff]
        self.original = [np.asarray(self.leaves[i]) for i in self.where_diff]
        self.original_rest = [self.leaves[i] for i in self.where_rest]

    def arguments(self, diff: Sequence[Any], rest: Sequence[Any]) -> tuple[Any, ...]:
        """The positional arguments, with their arrays replaced."""
        leaves = list(self.leaves)
        for i, leaf in zip(self.where_diff, diff, strict=True):
            leaves[i] = leaf
        for i, leaf in zip(self.where_rest, rest, strict=True):
            leaves[i] = leaf
        remaining = iter(leaves)
        return tuple(
            jax.tree.unflatten(tree, itertools.islice(remaining, tree.num_leaves))
            for tree in self._trees
        )


def _with_arrays_for_numbers(f: Callable, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """A Python number stands for a scalar array, of a rule itself and where no array is given."""
    nondiff = getattr(f, "nondiff_argnums", ())
    numbers = not any(_rules.is_array(x) and is_floating(x) for x in jax.tree.leaves(args))
    if not (_rules.is_rule(f) or numbers):
        return args

    def convert(x: Any) -> Any:
        return np.asarray(x, np.result_type(type(x))) if isinstance(x, (float, complex)) else x

    return tuple(a if i in nondiff else jax.tree.map(convert, a) for i, a in enumerate(args))


# Data inside functions ---------------------------------------------------------------------


def opened(f: Callable) -> tuple[Callable, Any]:
    """A function of (data, *args) and the float arrays that `f` holds, or `f` and None.

    `f` holds what is in its leaves where it is a pytree that is called (an Equinox or NNX module, a
    `jax.tree_util.Partial`), in those of the object whose method it is, and in its closure.
    """
    for hold in (_as_pytree, _as_method, _as_closure):
        found = hold(f)
        if found is not None:
            call, data = found
            return functools.wraps(_rules.undecorated(f), updated=())(call), data
    return f, None


def _holds_floats(tree: Any) -> bool:
    try:
        leaves = jax.tree.leaves(tree)
    except Exception:  # no pytree of anything, as keys that cannot be sorted
        return False
    return any(_rules.is_array(x) and is_floating(x) for x in leaves)


def _as_pytree(f: Any) -> tuple[Callable, Any] | None:
    if isinstance(f, types.FunctionType) or _rules.is_rule(f) or not _holds_floats(f):
        return None
    return (lambda data, *args, **static: data(*args, **static)), f


def _as_method(f: Any) -> tuple[Callable, Any] | None:
    owner = getattr(f, "__self__", None)
    if owner is None or not hasattr(f, "__func__") or not _holds_floats(owner):
        return None
    return (lambda data, *args, **static: f.__func__(data, *args, **static)), owner


def _as_closure(f: Any) -> tuple[Callable, Any] | None:
    if not isinstance(f, types.FunctionType) or not f.__closure__ or hasattr(f, "__wrapped__"):
        return None
    held = {}
    for name, cell in zip(f.__code__.co_freevars, f.__closure__, strict=True):
        try:
            contents = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        if _holds_floats(contents):
            held[name] = contents
    if not held:
        return None

    def call(data: Any, *args: Any, **static: Any) -> Any:
        cells = tuple(
            types.CellType(data[name]) if name in data else cell
            for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True)
        )
        filled = types.FunctionType(f.__code__, f.__globals__, f.__name__, f.__defaults__, cells)
        filled.__kwdefaults__ = f.__kwdefaults__
        return filled(*args, **static)

    return call, held
