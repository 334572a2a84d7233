"""The rules of a module: wherever a `jax.custom_vjp` or `jax.custom_jvp` object is kept in it."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import jax

from funcnet.discovery._targets import Broken, Target, TargetError

_RULES = (jax.custom_vjp, jax.custom_jvp)
_MAKERS = (jax.custom_vjp, jax.custom_jvp, jax.custom_gradient)
_MOST_ITEMS, _MOST_STEPS = 1000, 12  # of a container, and from a name to a rule
_OF_JAX = os.path.dirname(jax.__file__) + os.sep


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """One thing to check.

    Attributes:
        name: What it is called in its module, as in `square`, `Layer.apply` or `TABLE['relu']`.
        module: That module's name.
        function: What is called with the sample arguments.
        rule: The `jax.custom_vjp` or `jax.custom_jvp` object; None where the function makes its
            rules, or calls them.
        file: Where the backward function is written.
        line: The line there, from 1.
        aliases: Its other names, with what is called by them.
        space: The names of the module that it is found in.
        problem: Why there is nothing to check.
    """

    name: str
    module: str
    function: Callable[..., Any]
    rule: Any
    file: str
    line: int
    aliases: tuple[tuple[str, Callable[..., Any]], ...] = ()
    space: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)
    problem: str = ""

    @property
    def label(self) -> str:
        """Its name with its module's."""
        return f"{self.module}:{self.name}"

    @property
    def codes(self) -> set[CodeType]:
        """What identifies a rule that is made at each call: its functions' code."""
        if self.rule is not None:
            return codes_of(self.rule)
        return set(_nested(getattr(_unwrapped(self.function), "__code__", None)))


@dataclasses.dataclass(frozen=True)
class Found:
    """The rules of a target.

    Attributes:
        rules: In the order of modules and of lines.
        broken: Modules that do not import and that may hold rules.
        notes: What was left out, and why.
    """

    rules: tuple[Rule, ...] = ()
    broken: tuple[Broken, ...] = ()
    notes: tuple[str, ...] = ()


class _Place(NamedTuple):
    """Where a rule was come by: in a module, under a name, as what is called by that name."""

    module: ModuleType
    name: str
    holder: Any
    inside: bool  # of a function, whose arguments are other ones


def find(target: Target) -> Found:
    """Finds the rules that a target defines, and leaves out those that it imports.

    Looked through are the attributes of modules, classes and their instances, containers, whatever
    `jax.jit`, `functools.partial` and `functools.wraps` wrap, and what functions close over.
    Functions that make a rule when they are called are found by what they say.

    Args:
        target: What `load` gave.

    Raises:
        TargetError: When the target's function is not in its module.
    """
    if target.name is not None:
        rules = [_named(target.modules[0], target.name)] if target.modules else []
        return Found(tuple(rules), target.broken, target.notes)
    places: dict[int, tuple[Any, list[_Place]]] = {}
    for module in target.modules:
        for place, rule in _walk(module):
            places.setdefault(id(rule), (rule, []))[1].append(place)
    files = {_file(module): module for module in target.modules}
    names = {module.__name__: module for module in target.modules}
    rules = []
    for rule, found in places.values():
        home = _home(rule, files, names)
        if home is None and not any(_made_in(rule, place.module) for place in found):
            continue
        rules.append(_rule(rule, found, home))
    known = set().union(*(rule.codes for rule in rules))
    for module in target.modules:
        rules += [found for found in _hidden(module) if not (found.codes & known)]
        rules += _named_by_samples(module, rules)
    order = {module.__name__: i for i, module in enumerate(target.modules)}
    rules.sort(key=lambda rule: (order[rule.module], rule.line))
    reasons = [_left_out(rule) for rule in rules]
    notes = [f"{r.label} is left out: {why}" for r, why in zip(rules, reasons, strict=True) if why]
    kept = tuple(rule for rule, why in zip(rules, reasons, strict=True) if not why)
    return Found(kept, target.broken, (*target.notes, *notes))


# A walk through a module --------------------------------------------------------------------------


def _walk(module: ModuleType) -> Iterator[tuple[_Place, Any]]:
    seen: set[tuple[int, bool]] = set()

    def visit(value: Any, name: str, holder: Any, inside: bool, steps: int) -> Iterator[Any]:
        key = (id(value), inside)
        if steps > _MOST_STEPS or (not isinstance(value, _RULES) and key in seen):
            return
        seen.add(key)
        kept.append(value)
        if isinstance(value, _RULES):
            yield _Place(module, name, holder, inside), value
            if key[0] in inner:
                return
            inner.add(key[0])
            yield from visit(value.fun, name, holder, True, steps + 1)
            return
        try:
            children = list(_children(value, name, holder, module))
        except Exception:  # whatever a stranger's object does when it is looked at
            return
        for child, child_name, child_holder, deeper in children:
            yield from visit(child, child_name, child_holder, inside or deeper, steps + 1)

    kept: list[Any] = []  # so that no id is given twice
    inner: set[int] = set()
    for name, value in list(vars(module).items()):
        if not name.startswith("__"):
            yield from visit(value, name, value, False, 0)


def _children(
    value: Any, name: str, holder: Any, module: ModuleType
) -> Iterator[tuple[Any, str, Any, bool]]:
    """What a value holds: each with its name, what is called by that name, and if it is inside."""
    if isinstance(value, (ModuleType, str, bytes, int, float, complex, jax.Array, type(None))):
        return
    if isinstance(value, type):
        if value.__module__ == module.__name__:
            for key, item in list(vars(value).items()):
                if not key.startswith("__") or key == "__call__":
                    yield item, f"{name}.{key}", _attribute(value, key, item), False
    elif isinstance(value, (staticmethod, classmethod, types.MethodType)):
        yield value.__func__, name, holder, False
    elif isinstance(value, property):
        yield value.fget, name, holder, True
    elif isinstance(value, functools.partial):
        yield value.func, name, holder, False
        for item in (*value.args, *value.keywords.values()):
            yield item, name, holder, True
    elif isinstance(value, FunctionType):
        if hasattr(value, "__wrapped__"):
            yield value.__wrapped__, name, holder, False
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents, name, holder, True
            except ValueError:  # not filled yet
                continue
    elif isinstance(value, Mapping):
        for key, item in list(value.items())[:_MOST_ITEMS]:
            yield item, f"{name}[{key!r}]", item, False
    elif isinstance(value, (list, tuple, set, frozenset)):
        fields = getattr(value, "_fields", ())
        items = list(value)[:_MOST_ITEMS]
        if isinstance(value, (set, frozenset)):  # whose order is another one in each process
            items.sort(key=lambda item: getattr(item, "__qualname__", ""))
        for i, item in enumerate(items):
            yield item, f"{name}.{fields[i]}" if fields else f"{name}[{i}]", item, False
    elif type(value).__module__ == module.__name__ or isinstance(value, types.SimpleNamespace):
        for key, item in list(getattr(value, "__dict__", {}).items()):
            yield item, f"{name}.{key}", item, False
    elif callable(value):
        wrapped = inspect.getattr_static(value, "__wrapped__", None)
        if wrapped is None and type(value).__module__.startswith("jax"):
            wrapped = getattr(value, "__wrapped__", None)
        if wrapped is not None:
            yield wrapped, name, holder, False
        elif _is_object(value):
            for item in value.__dict__.values():
                if isinstance(item, _RULES):
                    yield item, name, holder, False


def _attribute(value: Any, key: str, default: Any) -> Any:
    """An attribute, unless asking for it raises: that is no business of ours."""
    try:
        return getattr(value, key, default)
    except Exception:
        return default


def _unwrapped(function: Any) -> Any:
    """The function under what `functools.wraps` made of it."""
    try:
        return inspect.unwrap(function)
    except Exception:
        return function


# Whose a rule is ------------------------------------------------------------------------------


def _functions(rule: Any) -> Iterator[Callable[..., Any]]:
    """The functions of a rule: backward, forward, and the one that it decorates."""
    for name in ("bwd", "jvp", "fwd", "fun"):
        function = getattr(rule, name, None)
        if function is not None:
            yield from _written(function)


def _written(function: Any) -> Iterator[Callable[..., Any]]:
    """The function that somebody wrote, under what wraps it; libraries' wrappers hold theirs."""
    for _ in range(_MOST_STEPS):
        inner = getattr(function, "func", None) or getattr(function, "__wrapped__", None)
        if inner is None:
            break
        function = inner
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        call = vars(type(function)).get("__call__")
        if isinstance(getattr(call, "__code__", None), CodeType):
            yield call
        return
    held = list(_held(function)) if _is_wrapper(code.co_filename) else []
    yield from held or [function]


def _is_wrapper(file: str) -> bool:
    """Whether a file is of a library that makes rules out of other people's functions."""
    return file.startswith(_OF_JAX) or f"{os.sep}equinox{os.sep}" in file


def _held(function: Any) -> Iterator[Callable[..., Any]]:
    """The functions that a library's wrapper closes over, or an object of its own that does."""
    for cell in getattr(function, "__closure__", None) or ():
        held = cell.cell_contents
        own = [getattr(held, name, None) for name in ("fn_bwd", "fn_fwd", "fn")]
        for item in held if isinstance(held, (list, tuple)) else [*own, held]:
            if callable(item) and not isinstance(item, _RULES) and not _is_object(item):
                yield from _written(item)


def _is_object(value: Any) -> bool:
    """Whether a wrapper is an instance of a class, as equinox's are, and keeps its rule."""
    attributes = getattr(value, "__dict__", None)
    return isinstance(attributes, dict) and any(
        isinstance(item, _RULES) for item in attributes.values()
    )


def codes_of(rule: Any) -> set[CodeType]:
    """The code of a rule's functions, which is the same for each rule that a function makes."""
    return {function.__code__ for function in _functions(rule)}


def place_of(rule: Any) -> tuple[str, int]:
    """File and line of a rule's backward function, else of the function that it decorates."""
    for function in _functions(rule):
        return function.__code__.co_filename, function.__code__.co_firstlineno
    return "", 0


def _file(module: ModuleType) -> str:
    return os.path.realpath(getattr(module, "__file__", None) or "")


def _home(
    rule: Any, files: Mapping[str, ModuleType], names: Mapping[str, ModuleType]
) -> ModuleType | None:
    """The module of the target that a rule's function is written in, or its backward one."""
    for function in (*_written(rule.fun), *_functions(rule)):
        home = names.get(getattr(function, "__module__", "") or "")
        home = home or files.get(os.path.realpath(function.__code__.co_filename))
        if home is not None:
            return home
    return None


def _made_in(rule: Any, module: ModuleType) -> bool:
    """Whether a module made a rule by calling a neighbour's function, and did not import it."""
    root = os.path.dirname(_file(module)) + os.sep
    for function in _written(rule.fun):
        near = os.path.realpath(function.__code__.co_filename).startswith(root)
        if not near or "<locals>" not in function.__qualname__:
            return False
        owner = sys.modules.get(function.__module__)
        return not any(value is rule for value in vars(owner).values()) if owner else True
    return False


def _rule(rule: Any, places: list[_Place], home: ModuleType | None) -> Rule:
    def distance(place: _Place) -> tuple[bool, bool, bool]:
        return place.inside, place.module is not home, place.holder is not rule

    places = sorted(places, key=distance)  # stable: the first of the nearest
    best = places[0]
    file, line = place_of(rule)
    name, function = best.name, best.holder
    if best.inside:  # no name leads to it, so it has the one that it was written under
        name = f"{best.name}.<locals>.{getattr(rule.fun, '__name__', 'rule')}"
        function = rule
    elif getattr(function, "__wrapped__", None) is rule and not isinstance(function, FunctionType):
        function = rule  # under jit alone
    aliases = [(place.name, place.holder) for place in places if place.name != name]
    return Rule(
        name, best.module.__name__, function, rule, file, line,
        tuple(dict(aliases).items()), vars(best.module),
    )  # fmt: skip


# Functions that make rules, or call them --------------------------------------------------------


def _nested(code: CodeType | None) -> Iterator[CodeType]:
    """The code of the functions written inside one."""
    for item in code.co_consts if code is not None else ():
        if isinstance(item, CodeType):
            yield item
            yield from _nested(item)


def _makes_rules(function: FunctionType) -> bool:
    inside = list(_nested(function.__code__))
    names = {name for code in (function.__code__, *inside) for name in code.co_names}
    made = any(any(function.__globals__.get(name) is maker for maker in _MAKERS) for name in names)
    return bool(inside) and (
        made or not names.isdisjoint({"custom_vjp", "custom_jvp", "custom_gradient"})
    )


def _hidden(module: ModuleType) -> Iterator[Rule]:
    for name, function in _own_functions(module):
        plain = _unwrapped(function)
        if isinstance(plain, FunctionType) and _makes_rules(plain):
            yield _of_function(module, name, function)


def _own_functions(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name, value in list(vars(module).items()):
        if _attribute(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, type):
            for key in list(vars(value)):
                method = _attribute(value, key, None)
                if isinstance(method, (FunctionType, types.MethodType)):
                    yield f"{name}.{key}", getattr(method, "__func__", method)
        elif callable(value) and not isinstance(value, _RULES):
            yield name, value


def callers(rule: Rule) -> Iterator[Rule]:
    """The functions of a rule's module that say its name."""
    module = sys.modules.get(rule.module)
    for name, function in _own_functions(module) if module is not None else ():
        code = getattr(_unwrapped(function), "__code__", None)
        says = {word for inner in (code, *_nested(code)) if inner for word in inner.co_names}
        if rule.name.rpartition(".")[2] in says and name != rule.name:
            yield _of_function(module, name, function)  # type: ignore[arg-type]


def _of_function(module: ModuleType, name: str, function: Any) -> Rule:
    file, line = _file(module), 1
    for written in _written(function):
        file, line = written.__code__.co_filename, written.__code__.co_firstlineno
    return Rule(name, module.__name__, function, None, file, line, (), vars(module))


def _named_by_samples(module: ModuleType, rules: Iterable[Rule]) -> Iterator[Rule]:
    """The other functions that the module has sample inputs for."""
    known = {n for r in rules if r.module == module.__name__ for n in names_of(r)}
    samples = vars(module).get("funcnet_samples")
    for name in samples if isinstance(samples, Mapping) else ():
        if name not in known:
            try:
                yield _named(module, str(name))
            except TargetError as error:
                problem = f"funcnet_samples has inputs for it, but {error}"
                yield Rule(
                    name=str(name),
                    module=module.__name__,
                    function=module.__class__,
                    rule=None,
                    file=_file(module),
                    line=1,
                    space=vars(module),
                    problem=problem,
                )


def _left_out(rule: Rule) -> str:
    """Why a module wants a rule not to be checked, empty where it does not."""
    samples = rule.space.get("funcnet_samples")
    if not isinstance(samples, Mapping):
        return ""
    for name in names_of(rule):
        said = samples.get(name)
        if isinstance(said, Mapping) and "leave_out" in said:
            return str(said["leave_out"])
    return ""


def names_of(rule: Rule) -> list[str]:
    """The names that sample inputs of a rule may have, the nearest first."""
    names = [rule.name, *(name for name, _ in rule.aliases)]
    fun = getattr(rule.rule, "fun", None)
    names += [getattr(fun, "__qualname__", rule.name), getattr(fun, "__name__", rule.name)]
    return list(dict.fromkeys(names))


def _named(module: ModuleType, name: str) -> Rule:
    """The function that a target or a sample names."""
    value: Any = module
    parent = name
    for part in _parts(name):
        try:
            if part.startswith("["):
                value = value[ast.literal_eval(part[1:-1])]
            else:
                value = getattr(value, part)
        except (AttributeError, LookupError, TypeError, ValueError, SyntaxError):
            value = None
            break
    if not callable(value):
        known = [
            key
            for key, held in vars(module).items()
            if isinstance(held, _RULES) and getattr(held, "__module__", "") == module.__name__
        ]
        path = getattr(module, "__file__", None) or module.__name__
        raise TargetError(
            f"{os.path.relpath(path) if os.path.exists(path) else path} has no function {parent}; "
            f"functions with a custom_vjp in it: {', '.join(known) or 'none'}."
        )
    rule = value
    for _ in range(_MOST_STEPS):
        if isinstance(rule, _RULES) or rule is None:
            break
        rule = getattr(rule, "func", None) or getattr(rule, "__wrapped__", None)
    if not isinstance(rule, _RULES):
        return _of_function(module, name, value)
    file, line = place_of(rule)
    return Rule(name, module.__name__, value, rule, file, line, (), vars(module))


def _parts(name: str) -> list[str]:
    """The attributes and keys of a name, as in `Layer.apply` and `TABLE['relu']`."""
    return re.findall(r"\[[^\]]*\]|[^.\[\]]+", name)
