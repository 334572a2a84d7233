"""Rules put through `checks.check_rule`, and the verdict on each."""

from __future__ import annotations

import dataclasses
import functools
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from funcnet import checks
from funcnet._reports import sentence
from funcnet.discovery._find import Found, Rule, callers, codes_of
from funcnet.discovery._samples import NoSampleError, Sample, SampleError, has_own, samples_of

RIGHT, WRONG, IMPRECISE, BY_DESIGN, UNJUDGED = checks.VERDICTS


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What was found of a rule on one sample of its inputs.

    Attributes:
        name: What the rule is called in its module, with `/1` for its second sample.
        module: The module's name.
        verdict: One of `checks.VERDICTS`.
        file: Where its backward function is written.
        line: The line there, from 1; 0 where it is not known.
        reason: Why it cannot be judged, and what would mend it.
        origin: Where its sample inputs came from.
        report: What `checks.check_rule` found, None where it could not be called.
        seconds: How long that took.
        trace: The traceback of what it raised.
    """

    name: str
    module: str
    verdict: str
    file: str = ""
    line: int = 0
    reason: str = ""
    origin: str = ""
    report: checks.RuleReport | None = None
    seconds: float = 0.0
    trace: str = ""

    @property
    def label(self) -> str:
        """Its name with its module's."""
        return f"{self.module}:{self.name}" if self.module != self.name else self.name

    @property
    def text(self) -> str:
        """What was found, in a few lines: the reason, or the report's failures."""
        if self.report is None:
            return self.reason
        lines = [self.report.summary()]
        lines += [f"  {check.name}: {check.text}" for check in self.report.failed]
        if self.verdict not in (RIGHT, WRONG):
            lines += [f"  note {note}" for note in self.report.notes]
        return "\n".join(lines)

    @property
    def headline(self) -> str:
        """The first failure, or the reason, in one line."""
        if self.report is not None and self.report.failed:
            first = self.report.failed[0]
            return f"{first.name}: {first.text}"
        return self.reason or (self.report.summary() if self.report is not None else "")


def exit_code(judgements: Iterable[Judgement], fail_on: Sequence[str] = ()) -> int:
    """0 where all is right, 1 where something is wrong, 3 where something cannot be judged.

    Args:
        judgements: What was found.
        fail_on: Further verdicts that are as bad as wrong, such as "imprecise".

    >>> exit_code([Judgement("f", "m", "imprecise")]), exit_code([Judgement("f", "m", UNJUDGED)])
    (0, 3)
    >>> exit_code([Judgement("f", "m", "imprecise")], ["imprecise"])
    1
    """
    verdicts = {judgement.verdict for judgement in judgements}
    if verdicts & {WRONG, *fail_on}:
        return 1
    return 3 if UNJUDGED in verdicts else 0


class Judge:
    """Checks the rules of a target one by one.

    A rule without sample inputs of its own is checked on those that it gets when another function
    of the target, which has some, calls it.

    Args:
        found: What `find` found.
        seed: What samples and cotangents are drawn from.
        examples: How many sizes and arrays are drawn where a sample is drawn.
        options: Further options of `checks.check_rule`, for all of them.

    >>> from funcnet import discovery
    >>> found = discovery.find(discovery.load("funcnet.losses:l2_penalty"))
    >>> [judgement.verdict for judgement in Judge(found).judge(found.rules[0])]
    ['cannot be judged']
    """

    def __init__(
        self, found: Found, seed: int = 0, examples: int = 1, options: dict[str, Any] | None = None
    ):
        self.found, self.seed, self.examples = found, seed, examples
        self.options = options or {}

    def all(self) -> Iterator[Judgement]:
        """Every rule's judgements, and one for each module that does not import."""
        yield from self.broken()
        for rule in self.found.rules:
            yield from self.judge(rule)

    def broken(self) -> Iterator[Judgement]:
        """A judgement for each module that does not import, and that may hold rules."""
        for broken in self.found.broken:
            yield Judgement(
                broken.module, broken.module, UNJUDGED, broken.file, 1,
                f"{broken.module} does not import: {broken.reason}", trace=broken.trace,
            )  # fmt: skip

    def judge(self, rule: Rule, given: Sequence[Sample] | None = None) -> list[Judgement]:
        """A rule's judgements, one for each of its samples.

        Args:
            rule: One of the target's.
            given: Samples to take, instead of its own.
        """
        if rule.problem:
            return [self._unjudged(rule, rule.problem)]
        try:
            samples = list(given) if given is not None else self._samples(rule)
        except SampleError as error:
            return [self._unjudged(rule, str(error), trace=_trace(error.__cause__))]
        if not samples:
            return [self._unjudged(rule, "its list of sample inputs is empty")]
        return [self._checked(rule, sample, i) for i, sample in enumerate(samples)]

    def _unjudged(self, rule: Rule, reason: str, **known: Any) -> Judgement:
        known = {"name": rule.name, **known}
        return Judgement(
            module=rule.module, verdict=UNJUDGED, file=rule.file, line=rule.line, reason=reason,
            **known,
        )  # fmt: skip

    def _samples(self, rule: Rule) -> list[Sample]:
        try:
            return samples_of(rule, self.seed, self.examples)
        except NoSampleError:
            called = self._from_calls(rule)
            if called is None:
                raise
            return [called]

    def _from_calls(self, rule: Rule) -> Sample | None:
        """The arguments that a rule is given when a function with samples runs."""
        codes = rule.codes
        for caller, call in [*self._calls, *self._calls_of(callers(rule))]:
            if call.rule is rule.rule or (rule.rule is None and codes_of(call.rule) & codes):
                options = {"static": call.static} if call.static else {}
                return Sample(call.rule, call.args, options, f"a call in {caller.name}")
        return None

    @functools.cached_property
    def _calls(self) -> list[tuple[Rule, Call]]:
        return list(self._calls_of(filter(has_own, self.found.rules)))

    def _calls_of(self, callers: Iterable[Rule]) -> Iterator[tuple[Rule, Call]]:
        for caller in callers:
            try:
                for sample in samples_of(caller, self.seed):
                    static = sample.options.get("static", {})
                    for call in recorded(sample.function, *sample.args, **static):
                        yield caller, call
            except Exception:  # which is said where the caller itself is judged
                continue

    def _checked(self, rule: Rule, sample: Sample, index: int) -> Judgement:
        name = rule.name if index == 0 else f"{rule.name}/{index}"
        options = {"name": name, "seed": self.seed, **self.options, **sample.options}
        began = time.perf_counter()
        try:
            report = checks.check_rule(sample.function, *sample.args, **options)
        except (Exception, SystemExit) as error:
            reason = f"{name}: {sentence(error)}"
            return self._unjudged(
                rule, reason, name=name, origin=sample.origin, trace=_trace(error)
            )
        return Judgement(
            name, rule.module, report.verdict, rule.file, rule.line, report.reason, sample.origin,
            report, time.perf_counter() - began,
        )  # fmt: skip


def _trace(error: BaseException | None) -> str:
    return "" if error is None else "".join(traceback.format_exception(error))


# Calls of rules -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Call:
    """A rule, and what it was called with."""

    rule: Any
    args: tuple[Any, ...]
    static: dict[str, Any]


def recorded(function: Callable[..., Any], *args: Any, **static: Any) -> list[Call]:
    """The first call of each rule that a function reaches on these arguments.

    Under `vmap` and `grad` there are no arrays to see: others of the same shapes and dtypes stand
    for them.
    """
    found: dict[int, Call] = {}
    rng = np.random.default_rng(0)

    def seen(rule: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if id(rule) not in found:
            args, kwargs = jax.tree.map(lambda leaf: _concrete(leaf, rng), (args, kwargs))
            found[id(rule)] = Call(rule, args, kwargs)

    with _watched(seen), jax.disable_jit():
        function(*args, **static)
    return list(found.values())


@contextmanager
def _watched(seen: Callable[[Any, tuple[Any, ...], dict[str, Any]], None]) -> Iterator[None]:
    """Tells of each call of a rule."""
    calls = {kind: kind.__call__ for kind in (jax.custom_vjp, jax.custom_jvp)}

    def telling(call: Callable[..., Any]) -> Callable[..., Any]:
        def told(self: Any, *args: Any, **kwargs: Any) -> Any:
            seen(self, args, kwargs)
            return call(self, *args, **kwargs)

        return told

    for kind, call in calls.items():
        kind.__call__ = telling(call)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for kind, call in calls.items():
            kind.__call__ = call  # type: ignore[method-assign]


def _concrete(leaf: Any, rng: np.random.Generator) -> Any:
    if not isinstance(leaf, jax.core.Tracer):
        return leaf
    dtype = leaf.dtype
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), leaf.shape) if leaf.shape else jax.random.key(0)
    if jax.dtypes.issubdtype(dtype, np.inexact):
        return rng.normal(size=leaf.shape).astype(dtype)
    return np.asarray(rng.integers(2, size=leaf.shape)).astype(dtype)
