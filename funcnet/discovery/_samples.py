"""Sample inputs of a rule: what its module says, or what its annotations say."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from funcnet import checks
from funcnet._reports import sentence
from funcnet.discovery import _arguments
from funcnet.discovery._annotations import UnannotatedError, annotated
from funcnet.discovery._find import Rule, names_of

_OPTIONS = {
    parameter.name
    for parameter in inspect.signature(checks.check_rule).parameters.values()
    if parameter.kind is parameter.KEYWORD_ONLY
}


class SampleError(ValueError):
    """Sample inputs that are none; the message says what they are."""


class NoSampleError(SampleError):
    """A rule without sample inputs; the message ends with the line that says some."""


class Sample(NamedTuple):
    """The inputs of one check.

    Attributes:
        function: What is called: the rule, or what it is called through.
        args: Its arguments.
        options: Further options of `checks.check_rule`.
        origin: Where it was found, as in `funcnet_samples['square']`.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]
    origin: str


def samples_of(rule: Rule, seed: int = 0, examples: int = 1) -> list[Sample]:
    """The sample inputs of a rule.

    They are, in this order, what `funcnet_samples` in its module has under its name; what its
    attribute `funcnet_sample` is; what the function `NAME_samples` returns; or drawn from
    annotations. Each may be

    - a tuple of arguments;
    - a text, as in `"f32[3,4], i32[3]:0..4, axis=0"`;
    - a dict with `args`, and any option of `checks.check_rule`, such as `plain` and `static`;
    - a list of these;
    - a function of a NumPy generator that returns one of these.

    Args:
        rule: What `find` found.
        seed: What is drawn is drawn from it.
        examples: How often functions and annotations are asked, each time with another generator.

    Raises:
        NoSampleError: When there are none.
        SampleError: When what is there is no sample.
    """
    for origin, function, given in _said(rule):
        drawn = callable(given)
        return [
            sample
            for i in range(examples if drawn else 1)
            for sample in _read(given, function, origin, rule, seed, i)
        ]
    try:
        return [
            Sample(rule.function, _annotated(rule, seed, i), {}, "its annotations")
            for i in range(examples)
        ]
    except UnannotatedError as error:
        raise NoSampleError(_advice(rule, str(error))) from None


def generator(seed: int, example: int = 0) -> np.random.Generator:
    """What an example is drawn from; the first is what the seed alone gives."""
    return np.random.default_rng(seed if example == 0 else [seed, example])


def has_own(rule: Rule) -> bool:
    """Whether somebody wrote sample inputs for a rule."""
    return next(_said(rule), None) is not None


def _said(rule: Rule) -> Iterator[tuple[str, Callable[..., Any], Any]]:
    """What is said of a rule: where, what is called with it, and the sample as it is there."""
    callables = {rule.name: rule.function, **dict(reversed(rule.aliases))}
    callables[rule.name] = rule.function
    table = rule.space.get("funcnet_samples")
    names = names_of(rule)
    if isinstance(table, Mapping):
        for name in names:
            if name in table:
                yield f"funcnet_samples[{name!r}]", callables.get(name, rule.function), table[name]
    for function in (*callables.values(), rule.rule, getattr(rule.rule, "fun", None)):
        given = getattr(function, "__dict__", {})
        for key in ("funcnet_sample", "funcnet_samples"):
            if isinstance(given, Mapping) and key in given:
                called = rule.function if function is None or function is rule.rule else function
                if called is getattr(rule.rule, "fun", None):
                    called = rule.function
                yield f"{rule.name}.{key}", called, given[key]
    for name in names:
        older = rule.space.get(f"{name}_samples")
        if callable(older):
            yield f"{name}_samples()", callables.get(name, rule.function), _Older(name, older)


class _Older:
    """`NAME_samples()`, which returns the arguments, or the pair of them and of static options."""

    def __init__(self, name: str, function: Callable[[], Any]):
        self.name, self.function = name, function

    def __call__(self) -> Any:
        given = self.function()
        if not isinstance(given, (tuple, list)):
            raise SampleError(
                f"{self.name}_samples() returned a {type(given).__name__}, expected a tuple"
            )
        if len(given) == 2 and isinstance(given[0], tuple) and isinstance(given[1], dict):
            return {"args": given[0], "static": given[1]}
        return tuple(given)


def _read(
    given: Any, function: Callable[..., Any], origin: str, rule: Rule, seed: int, example: int
) -> list[Sample]:
    rng = generator(seed, example)
    try:
        return list(_samples(given, function, origin, rule, rng))
    except SampleError:
        raise
    except _arguments.ArgumentError as error:
        raise SampleError(f"{origin}: {error}") from None
    except (Exception, SystemExit) as error:
        raise SampleError(f"the sample arguments of {rule.name}: {sentence(error)}") from error


def _samples(
    given: Any, function: Callable[..., Any], origin: str, rule: Rule, rng: np.random.Generator
) -> Iterator[Sample]:
    if callable(given):
        given = given(rng) if _takes_one(given) else given()
    if isinstance(given, tuple):
        yield Sample(function, given, {}, origin)
    elif isinstance(given, str):
        call = _arguments.text(given, rng, rule.space)
        yield Sample(function, call.args, {"static": call.static} if call.static else {}, origin)
    elif isinstance(given, Mapping):
        yield _of_dict(given, function, origin, rule, rng)
    elif isinstance(given, (list, Iterator)):
        for i, item in enumerate(given):
            yield from _samples(item, function, f"{origin}[{i}]", rule, rng)
    elif hasattr(given, "dtype"):
        yield Sample(function, (given,), {}, origin)
    else:
        raise SampleError(
            f"{origin} is a {type(given).__name__}, expected a tuple of arguments, a text such as "
            "'f32[3,4]', a dict with args, a list of these, or a function of a NumPy generator"
        )


def _of_dict(
    given: Mapping[str, Any],
    function: Callable[..., Any],
    origin: str,
    rule: Rule,
    rng: np.random.Generator,
) -> Sample:
    options = dict(given)
    if "args" not in options:
        raise SampleError(f"{origin} is a dict without args; it has {', '.join(options) or 'none'}")
    inner = list(_samples(options.pop("args"), function, origin, rule, rng))
    for name in options:
        if name not in _OPTIONS:
            near = difflib.get_close_matches(str(name), _OPTIONS, 1)
            raise SampleError(
                f"{origin}: check_rule has no option {name!r}"
                + (f"; perhaps {near[0]}?" if near else f"; expected args, {', '.join(_OPTIONS)}")
            )
    if isinstance(options.get("plain"), str):
        plain = rule.space.get(options["plain"])
        if not callable(plain):
            raise SampleError(f"{origin}: {rule.module} has no function {options['plain']}")
        options["plain"] = plain
    static = {**inner[0].options.get("static", {}), **options.pop("static", {})}
    return Sample(function, inner[0].args, {**options, "static": static}, origin)


def _takes_one(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL) for p in parameters
    )


def _annotated(rule: Rule, seed: int, example: int) -> tuple[Any, ...]:
    return annotated(_signed(rule), generator(seed, example))


def _signed(rule: Rule) -> Callable[..., Any]:
    """What has the signature of what is called."""
    return getattr(rule.function, "fun", rule.function)


def _advice(rule: Rule, why: str) -> str:
    """What is said of a rule without samples, and the line that would mend it."""
    try:
        parameters = inspect.signature(_signed(rule)).parameters.values()
        names = [p.name for p in parameters if p.default is p.empty]
    except (TypeError, ValueError):
        names = []
    shapes = ", ".join("f32[3,4]" for _ in names) or "f32[3,4]"
    of = f"  # {', '.join(names)}" if names else ""
    key = rule.name if '"' not in rule.name else "NAME"
    line = f'funcnet_samples = {{"{key}": "{shapes}"}}'
    if isinstance(rule.space.get("funcnet_samples"), Mapping):
        line = f'funcnet_samples["{key}"] = "{shapes}"'
    return f"no sample inputs: {why}; say some in {rule.module}: {line}{of}"
