"""Sample arguments drawn from annotations: `Float[Array, "batch dim"]`, as jaxtyping has them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import operator
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from funcnet.discovery._arguments import draw

_SIZES = (2, 3, 4, 5, 6, 7)
_PREFERRED = ("float32", "int32", "uint32", "bool", "complex64")
_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


class UnannotatedError(ValueError):
    """A parameter whose annotation says no shape; the message says which."""


def annotated(function: Callable[..., Any], rng: np.random.Generator) -> tuple[Any, ...]:
    """Sample arguments for a function whose parameters are annotated with shapes and dtypes.

    The same name is the same size in all of them, and other names are other sizes, drawn anew at
    each call; a parameter with a default keeps it. jaxtyping's annotations are known by what they
    have, so it need not be installed.

    Args:
        function: The function; of a rule, the one that it decorates.
        rng: What sizes and arrays are drawn from.

    Raises:
        UnannotatedError: When a parameter has no annotation that says enough.

    >>> from jaxtyping import Array, Float
    >>> def f(x: Float[Array, "n d"], w: Float[Array, "d"], eps: float = 1e-5): ...
    >>> x, w = annotated(f, np.random.default_rng(0))
    >>> x.shape[1:] == w.shape, x.shape[0] != x.shape[1]
    (True, True)
    """
    try:
        parameters = inspect.signature(function, eval_str=True).parameters
    except Exception as error:  # an annotation may be any code
        raise UnannotatedError(f"its annotations say {type(error).__name__}: {error}") from None
    sizes = Sizes(rng)
    args: list[Any] = []
    for parameter in parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is not parameter.empty:
            if parameter.kind is not parameter.KEYWORD_ONLY:
                break  # and so have those that follow
            continue
        if parameter.annotation is parameter.empty:
            raise UnannotatedError(f"{parameter.name} has no annotation")
        if parameter.kind is parameter.KEYWORD_ONLY:
            raise UnannotatedError(f"{parameter.name} is a keyword without a default")
        args.append(_value(parameter.annotation, parameter.name, sizes))
    if not any(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(args)):
        raise UnannotatedError("no parameter is annotated as an array")
    return tuple(args)


class Sizes:
    """The sizes of one call's axes, by their names."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self._free = list(rng.permutation(_SIZES))
        self._named: dict[str, int] = {}

    def of(self, name: str) -> int:
        """The size of an axis: one that no other has, while there are such."""
        if name not in self._named:
            self._named[name] = self.anonymous()
        return self._named[name]

    def anonymous(self) -> int:
        """A size that no other axis has yet."""
        return int(self._free.pop() if self._free else self.rng.integers(2, 9))

    def shape(self, dims: str, where: str) -> tuple[int, ...]:
        """The shape that jaxtyping's text means."""
        pending: list[tuple[int, str]] = []
        shape: list[Any] = []
        for dim in dims.split():
            plain = dim.rpartition("=")[2] if dim.count("=") == 1 else dim
            plain = plain.lstrip("#*?")
            if plain == "...":
                shape.append(self.of("..."))
            elif plain in ("", "_"):
                shape.append(self.anonymous())
            elif plain.isdigit():
                shape.append(int(plain))
            elif plain.startswith("_") and plain.isidentifier():
                shape.append(self.anonymous())
            elif plain.isidentifier():
                shape.append(self.of(plain))
            else:
                pending.append((len(shape), plain))
                shape.append(None)
        for index, expression in pending:  # of names that may stand after it
            shape[index] = self._computed(expression, where)
        return tuple(shape)

    def _computed(self, expression: str, where: str) -> int:
        def value(node: Any) -> int:
            if isinstance(node, ast.Constant) and isinstance(node.value, int):
                return node.value
            if isinstance(node, ast.Name):
                return self.of(node.id)
            if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
                return _OPERATORS[type(node.op)](value(node.left), value(node.right))
            raise UnannotatedError(f"{where} has an axis of {expression}")

        try:
            size = value(ast.parse(expression, mode="eval").body)
        except (SyntaxError, ZeroDivisionError, RecursionError):
            size = -1
        if not 0 <= size <= 1000:
            raise UnannotatedError(f"{where} has an axis of {expression}")
        return size


def _value(annotation: Any, where: str, sizes: Sizes) -> Any:
    if isinstance(getattr(annotation, "dim_str", None), str):
        return _array(annotation, where, sizes)
    if annotation is None or annotation is type(None):
        return None
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _value(typing.get_args(annotation)[0], where, sizes)
    if origin in (typing.Union, types.UnionType):
        return _first(typing.get_args(annotation), where, sizes)
    if origin in (tuple, list):
        items = list(typing.get_args(annotation))
        items = [items[0], items[0]] if len(items) == 2 and items[1] is Ellipsis else items
        return origin(_value(item, f"{where}[{i}]", sizes) for i, item in enumerate(items))
    if isinstance(getattr(annotation, "leaftype", None), type):  # PyTree[...]
        leaf = annotation.leaftype
        return {name: _value(leaf, f"{where}.{name}", sizes) for name in ("a", "b")}
    if annotation is float:
        return float(sizes.rng.uniform(0.5, 1.5))
    if isinstance(annotation, type):
        fields = _fields(annotation)
        if fields:
            try:
                hints = typing.get_type_hints(annotation)
            except Exception as error:
                raise UnannotatedError(f"{where} is annotated {error}") from None
            return annotation(**{f: _value(hints.get(f), f"{where}.{f}", sizes) for f in fields})
    raise UnannotatedError(f"the annotation of {where} says no shape")


def _first(choices: Iterable[Any], where: str, sizes: Sizes) -> Any:
    """The first choice that can be drawn; None only where there is no other."""
    choices = [choice for choice in choices if choice is not type(None)]
    for choice in choices:
        try:
            return _value(choice, where, sizes)
        except UnannotatedError:
            continue
    raise UnannotatedError(f"the annotation of {where} says no shape")


def _fields(annotation: type) -> list[str]:
    """The fields of a NamedTuple or a dataclass that have no defaults."""
    if dataclasses.is_dataclass(annotation):
        return [
            field.name
            for field in dataclasses.fields(annotation)
            if field.init
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
    names = getattr(annotation, "_fields", ())
    defaults = getattr(annotation, "_field_defaults", {})
    return [name for name in names if name not in defaults]


def _array(annotation: Any, where: str, sizes: Sizes) -> Any:
    dtypes = annotation.dtypes
    shape = sizes.shape(annotation.dim_str, where)
    names = [str(d) for d in dtypes] if isinstance(dtypes, (tuple, list)) else ["float32"]
    if any("key" in name for name in names):
        return jax.random.key(0) if shape == () else jax.random.split(jax.random.key(0), shape)
    dtype = next((name for name in _PREFERRED if name in names), None)
    dtype = dtype or next((name for name in reversed(names) if _known(name)), None)
    if dtype is None:
        raise UnannotatedError(f"{where} is of {', '.join(names)}")
    return draw(dtype, shape, sizes.rng)


def _known(dtype: str) -> bool:
    try:
        return jax.numpy.dtype(dtype).kind in "biufcV"
    except TypeError:
        return False
