"""Sample arguments written as words: shapes with dtypes, numbers, containers, functions."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

_DTYPES = {
    **{"f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64"},
    **{f"{kind[0]}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{"c64": "complex64", "c128": "complex128", "bool": "bool"},
}
_DTYPES |= {name: name for name in _DTYPES.values()}
_CONSTANTS = {"inf": math.inf, "nan": math.nan, "pi": math.pi}
_MOST_ENTRIES = 10**7  # of a sample argument
_STRING = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
_END = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"  # a range's "0..5" is no "0." and ".5"
_FORMS = (
    "expected a shape such as 5x4, a shape of ints such as 5:int10, key, a number with a point "
    "such as 0.5, or a word such as f32[3,4], i32[8]:0..5, bool[3], None, 'SAME', "
    '{"w": f32[3,2]}, @jax.numpy:tanh or axis=0.'
)


class ArgumentError(ValueError):
    """A word that is no sample argument; the message says which, and what it could be."""


class Call(NamedTuple):
    """The arguments of one call: positional ones, and static keyword options."""

    args: tuple[Any, ...]
    static: dict[str, Any]


def draw(
    dtype: str, shape: tuple[int, ...], rng: np.random.Generator, bounds: Any = None
) -> np.ndarray:
    """A random array: normal numbers, ints of 0 and 1, or numbers from one bound to below another.

    Ints index something more often than not, and of everything there are two.
    """
    if math.prod(shape) > _MOST_ENTRIES:
        raise ArgumentError(f"expected at most {_MOST_ENTRIES} numbers.")
    kind = np.dtype(jax.numpy.dtype(dtype)).kind if dtype != "bfloat16" else "f"
    low, high = bounds if bounds is not None else (0, 2)
    if bounds is not None and not low < high:
        raise ArgumentError(f"expected a range from low to high, not {low}..{high}.")
    if kind == "b":
        return np.asarray(rng.integers(2, size=shape)).astype(bool)
    if kind in "iu":
        if not (int(low), int(high)) == (low, high) or not -(2**31) <= low < high <= 2**31:
            raise ArgumentError("expected a range of ints from -2^31 to 2^31.")
        return np.asarray(rng.integers(int(low), int(high), size=shape)).astype(dtype)
    if bounds is not None:
        drawn = rng.uniform(low, high, shape)
    else:
        drawn = rng.normal(size=shape)
        if kind == "c":
            drawn = drawn + 1j * rng.normal(size=shape)
    return np.asarray(drawn).astype(jax.numpy.dtype(dtype))


def words(
    given: tuple[str, ...] | list[str],
    rng: np.random.Generator,
    space: Mapping[str, Any] | None = None,
) -> Call:
    """The call that words make, one word an argument, as `--args` has them.

    Args:
        given: The words.
        rng: What arrays are drawn from.
        space: The names that `@name` may mean, those of the target's module.

    >>> call = words(["f32[2,3]", "{'b': i32[4]:0..5}", "0.5", "axis=0"], np.random.default_rng(0))
    >>> call.args[0].shape, call.args[1]["b"].dtype, call.args[2], call.static
    ((2, 3), dtype('int32'), 0.5, {'axis': 0})
    """
    args: list[Any] = []
    static: dict[str, Any] = {}
    for word in given:
        option = re.match(r"([^\W\d]\w*)=(?!=)", word)
        try:
            if option:
                static[option[1]] = _Parser(rng, space).parse(word[option.end() :])
            elif static:
                raise ArgumentError("expected NAME=VALUE: options come after arguments.")
            else:
                args.append(
                    _older(word, rng) if _OLDER.fullmatch(word) else _Parser(rng, space).parse(word)
                )
        except ArgumentError as error:
            raise ArgumentError(f"{word}: {error}") from None
    return Call(tuple(args), static)


def text(given: str, rng: np.random.Generator, space: Mapping[str, Any] | None = None) -> Call:
    """The call that a text makes, as in `f32[3,4], f32[4], axis=0`."""
    try:
        return _Parser(rng, space).parse_call(given)
    except ArgumentError as error:
        raise ArgumentError(f"{given}: {error}") from None


_OLDER = re.compile(r"(\d+(?:x\d+)*)(?::int(\d+))?")


def _older(word: str, rng: np.random.Generator) -> Any:
    """`5x4` and `5:int10`."""
    shaped = _OLDER.fullmatch(word)
    assert shaped is not None
    shape = tuple(int(size) for size in shaped[1].split("x"))
    if math.prod(shape) > _MOST_ENTRIES:
        raise ArgumentError(f"expected at most {_MOST_ENTRIES} numbers.")
    if shaped[2] is None:
        return rng.normal(size=shape)
    if not 1 <= int(shaped[2]) <= 2**31:
        raise ArgumentError("expected ints below 1 to 2^31.")
    return rng.integers(int(shaped[2]), size=shape, dtype=np.int32)


def _prepared(source: str) -> str:
    """What Python's grammar lacks, in its words: `f32[]`, `i32[8]:0..5` and `@pkg.mod:name`."""
    parts = _STRING.split(source)
    for i in range(0, len(parts), 2):
        part = (
            re.sub(r"\[\s*\]", "[()]", parts[i]) if re.search(r"\w\[\s*\]", parts[i]) else parts[i]
        )
        part = re.sub(
            rf"(\]|\b(?:{'|'.join(_DTYPES)}))\s*:\s*({_END})\s*\.\.\s*({_END})",
            r"\1._between((\2), (\3))",
            part,
        )
        parts[i] = re.sub(
            r"@\s*([^\W\d][\w.]*(?::[^\W\d][\w.]*)?)", lambda m: f"_named({m[1]!r})", part
        )
    return "".join(parts)


class _Parser:
    """Reads an expression's syntax tree; nothing of it is evaluated but what stands here."""

    def __init__(self, rng: np.random.Generator, space: Mapping[str, Any] | None):
        self.rng, self.space = rng, space

    def parse(self, source: str) -> Any:
        return self.value(self._tree(_prepared(source)).body)

    def parse_call(self, source: str) -> Call:
        node = self._tree(f"_call({_prepared(source)})").body
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            raise ArgumentError(_FORMS)
        return Call(
            tuple(self.value(argument) for argument in node.args),
            {str(keyword.arg): self.value(keyword.value) for keyword in node.keywords},
        )

    def _tree(self, source: str) -> ast.Expression:
        try:
            return ast.parse(source, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ArgumentError(_FORMS) from None

    def value(self, node: ast.expr) -> Any:
        """What a node says."""
        read = self.READERS.get(type(node))
        if read is None:
            raise ArgumentError(_FORMS)
        return read(self, node)

    def _constant(self, node: Any) -> Any:
        if node.value is Ellipsis or isinstance(node.value, bytes):
            raise ArgumentError(_FORMS)
        return node.value

    def _name(self, node: Any) -> Any:
        if node.id in _DTYPES:
            return draw(_DTYPES[node.id], (), self.rng)
        if node.id == "key":
            return jax.random.key(0)
        if node.id in _CONSTANTS:
            return _CONSTANTS[node.id]
        raise ArgumentError(f"{node.id} is no dtype; a string has quotes. {_capital(_FORMS)}")

    def _array(self, node: Any, bounds: Any = None) -> Any:
        if isinstance(node, ast.Name) and node.id in _DTYPES:
            return draw(_DTYPES[node.id], (), self.rng, bounds)
        if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
            raise ArgumentError(_FORMS)
        sizes = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        shape = tuple(self.value(size) for size in sizes)
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ArgumentError("expected sizes, ints of at least 0, between the brackets.")
        if node.value.id == "key" and bounds is None:
            return jax.random.split(jax.random.key(0), shape)
        if node.value.id not in _DTYPES:
            raise ArgumentError(
                f"{node.value.id} is no dtype; expected {', '.join(_SHORT)} or key."
            )
        return draw(_DTYPES[node.value.id], shape, self.rng, bounds)

    def _negative(self, node: Any) -> Any:
        value = self.value(node.operand)
        if isinstance(value, bool) or not isinstance(value, (int, float, complex)):
            raise ArgumentError(_FORMS)
        if isinstance(node.op, (ast.USub, ast.UAdd)):
            return -value if isinstance(node.op, ast.USub) else value
        raise ArgumentError(_FORMS)

    def _dict(self, node: Any) -> dict[Any, Any]:
        if any(key is None for key in node.keys):
            raise ArgumentError(_FORMS)
        pairs = zip(node.keys, node.values, strict=True)
        try:
            return {self.value(key): self.value(item) for key, item in pairs}
        except TypeError:
            raise ArgumentError("expected keys that are strings or numbers.") from None

    def _call(self, node: Any) -> Any:
        function, args = node.func, node.args
        if isinstance(function, ast.Attribute) and function.attr == "_between" and len(args) == 2:
            low, high = (self.value(end) for end in args)
            return self._array(function.value, (low, high))
        if isinstance(function, ast.Name) and function.id == "_named" and len(args) == 1:
            return self._function(str(self._constant(args[0])))
        if isinstance(function, ast.Name) and function.id in ("int", "float") and len(args) == 1:
            value = self.value(args[0])
            if isinstance(value, (int, float)):
                return int(value) if function.id == "int" else float(value)
        if isinstance(function, ast.Call):  # @pkg.mod:Params(f32[3,2], b=f32[2])
            made = self.value(function)
            if not (hasattr(made, "_fields") or dataclasses.is_dataclass(made)):
                raise ArgumentError("expected a NamedTuple or a dataclass to be made.")
            filled = [self.value(argument) for argument in args]
            named = {str(k.arg): self.value(k.value) for k in node.keywords}
            try:
                return made(*filled, **named)
            except Exception as error:
                raise ArgumentError(f"it raised {type(error).__name__}: {error}.") from None
        raise ArgumentError(_FORMS)

    def _function(self, name: str) -> Any:
        module, colon, path = name.partition(":")
        try:
            if colon:
                return operator.attrgetter(path)(importlib.import_module(module))
            head, _, rest = name.partition(".")
            value = (self.space or {})[head]
            return operator.attrgetter(rest)(value) if rest else value
        except (ImportError, AttributeError, KeyError):
            raise ArgumentError(
                f"there is no {name}; expected @name of the target's module, or @module:name."
            ) from None

    READERS: Mapping[type, Callable[..., Any]] = {
        ast.Constant: _constant,
        ast.Name: _name,
        ast.Subscript: _array,
        ast.UnaryOp: _negative,
        ast.Tuple: lambda self, node: tuple(self.value(item) for item in node.elts),
        ast.List: lambda self, node: [self.value(item) for item in node.elts],
        ast.Dict: _dict,
        ast.Call: _call,
    }


_SHORT = [name for name, full in _DTYPES.items() if name != full] + ["bool"]


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
