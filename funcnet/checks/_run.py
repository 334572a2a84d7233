"""One run of the checks of a rule: in order, within a time, looked at again, and a verdict."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from funcnet._reports import Check, sentence
from funcnet.checks import _comparison as cmp
from funcnet.checks import _nonfinite, _rule_checks, _rule_inputs, _rule_transforms, _structure
from funcnet.checks._names import exact
from funcnet.checks._numerical import numerical
from funcnet.checks._problem import Problem
from funcnet.checks._programs import NotApplicableError
from funcnet.checks._reports import (
    BY_DESIGN,
    IMPRECISE,
    RIGHT,
    UNJUDGED,
    WRONG,
    RuleReport,
    Verdict,
)
from funcnet.checks._second_look import (
    COMPARISONS,
    MOST_UNCERTAIN,
    look_again,
    off_by_differences,
    precision_of,
)
from funcnet.checks._sharding_checks import sharding_notes

_CORE: dict[str, Callable[[Problem], Check]] = {
    "structure": _structure.structure,
    "value": _rule_checks.value,
    "forward": _rule_checks.forward,
    "cotangent": _rule_checks.cotangent,
    "outputs": _rule_checks.outputs,
    "zero": _rule_checks.zero,
    "linear": _rule_checks.linear,
    "numerical": numerical,
    "determinism": _rule_checks.determinism,
    "jit": _rule_checks.jit,
}
_TRANSFORMS: dict[str, Callable[[_rule_transforms.Transforms], Check]] = {
    "vmap": _rule_transforms.vmap,
    "scan": _rule_transforms.scan,
    "cond": _rule_transforms.cond,
    "remat": _rule_transforms.remat,
}
_FURTHER: dict[str, Callable[[Problem], Check]] = {
    "second_order": _rule_transforms.second_order,
    "forward_over_reverse": _rule_transforms.forward_over_reverse,
    "float32": lambda p: _rule_inputs.precision(p, np.float32),
    "bfloat16": lambda p: _rule_inputs.precision(p, jax.numpy.bfloat16),
    "float16": lambda p: _rule_inputs.precision(p, np.float16),
    "empty": lambda p: _rule_inputs.batch(p, "empty", 0),
    "singleton": lambda p: _rule_inputs.batch(p, "singleton", 1),
    "nonfinite": _nonfinite.nonfinite,
    "residuals": _rule_checks.residuals,
    "weak_types": _structure.weak_types,
    "recompile": _rule_checks.recompile,
}
_FOLLOWS = (  # from a wrong cotangent, and say nothing new
    "second_order",
    "forward_over_reverse",
    "float32",
    "bfloat16",
    "float16",
    "empty",
    "singleton",
)
PRECISIONS = ("float32", "bfloat16", "float16")

RULE_CHECKS: tuple[str, ...] = (*_CORE, *_TRANSFORMS, *_FURTHER)
"""Every check that a rule is put through, in order; each is in every report."""


JUDGES = ("cotangent", "numerical")  # without one of them nothing is said of a gradient


class Run:
    """The checks of one rule, in a thread of their own where they have a time limit."""

    def __init__(
        self,
        make: Callable[[], Problem],
        chosen: Sequence[str],
        reasons: Mapping[str, str],
        precise: bool,
        progress: Callable[[str], None] | None,
        over: Mapping[str, Callable[[Problem], Check]],
    ):
        self.make, self.reasons, self.precise, self.over_devices = make, reasons, precise, over
        self.chosen = [*chosen, *over]
        self.progress = progress or (lambda _: None)
        self.started = time.perf_counter()
        self.problem: Problem | None = None
        self.found: list[Check] = []
        self.running = ""
        self.over = False
        self.settled: set[str] = set()  # what had its second look, where it asked for one
        self.second: dict[tuple[str, float | None], Check] = {}  # what passed then, by the unit
        self.raised: BaseException | None = None

    def report(self, seconds: float | None) -> RuleReport:
        """Runs the checks, for so many seconds at most, and says what was found."""
        if seconds is None:
            self._run()
        else:
            # A thread has no mesh of its own, and a function that is sharded needs the caller's.
            mesh = jax.sharding.get_mesh()
            worker = threading.Thread(target=self._run, args=(mesh,), daemon=True)
            worker.start()
            worker.join(seconds)
            self.over = worker.is_alive()
        if self.raised is not None:
            raise self.raised
        late = f"not run within {seconds} seconds"
        found = [*self.found]
        for name in self.chosen[len(found) :]:
            found.append(Check(name, None, late + (", where it began" * (name == self.running))))
        return self._judged(found)

    def _run(self, mesh: jax.sharding.Mesh | None = None) -> None:
        in_mesh = contextlib.nullcontext() if mesh is None or mesh.empty else jax.set_mesh(mesh)
        try:
            with exact(), in_mesh:
                self.problem = p = self.make()
                # The judges first: by the truth and in the unit that they take the others are run.
                last = max((i + 1 for i, n in enumerate(self.chosen) if n in JUDGES), default=0)
                for names in (self.chosen[:last], self.chosen):
                    self._run_checks(p, names, {check.name: check for check in self.found})
                    while self._look_again(p):
                        self._run_checks(p, names, self._passed(p))
                    if not self.over:
                        self.settled |= {*names}
        except BaseException as error:
            self.raised = error

    def _look_again(self, p: Problem) -> bool:
        """Whether there is another truth or a coarser unit, not asked for in vain before."""
        failed = {check.name for check in self.found if check.passed is False}
        if self.precise or self.over or (failed or {"numerical"}) & self.settled:
            return False
        return look_again(p, self.found, self._again(p))

    def _passed(self, p: Problem) -> dict[str, Check]:
        """What passed at a first look passes in a coarser unit, and takes no second one."""
        passed = {c.name: c for c in self.found if c.passed and c.name != "cotangent"}
        return passed | {name: c for (name, grain), c in self.second.items() if grain == p.grain}

    def _again(self, p: Problem) -> Callable[[str], Check]:
        transforms = functools.cache(lambda: _rule_transforms.Transforms(p))

        def again(name: str) -> Check:
            check = self._check(p, name, transforms, wrong=False)
            if check.passed:
                self.second[name, p.grain] = check
            return check

        return again

    def _run_checks(self, p: Problem, names: Sequence[str], kept: Mapping[str, Check]) -> None:
        self.found = []
        transforms = functools.cache(lambda: _rule_transforms.Transforms(p))
        wrong = False
        for name in names:
            if self.over:
                return
            if name not in kept:
                self.running = name
                self.progress(f"{p.name}: {name}")
            check = kept.get(name) or self._check(p, name, transforms, wrong)
            self.found.append(check)
            p.wrong = wrong = wrong or (name == "cotangent" and check.passed is False)

    def _check(self, p: Problem, name: str, transforms: Callable, wrong: bool) -> Check:
        if name in self.reasons:
            return Check(name, None, self.reasons[name])
        if p.raises:
            return Check(name, None, "not run: see structure")
        if wrong and (name in _FOLLOWS or name in self.over_devices):
            return Check(name, None, "not judged: the cotangent is wrong already")
        try:
            if name in _TRANSFORMS:
                return _TRANSFORMS[name](transforms())
            return {**_CORE, **_FURTHER, **self.over_devices}[name](p)
        except NotApplicableError as reason:
            return Check(name, None, str(reason))
        except Exception as error:
            return Check(name, False, f"raised {sentence(error)}")

    def _judged(self, found: Sequence[Check]) -> RuleReport:
        p = self.problem
        if p is None:
            return RuleReport("", tuple(found), verdict=UNJUDGED)
        self.over = True  # whatever still runs changes nothing any more
        mine, plain_bytes = p.residual_bytes or (None, None)
        with exact():
            found = _unless_uncertain(p, found)
            suspects = {c.name for c in found if c.passed is False} & {*COMPARISONS} - self.settled
            if suspects and (p.iterates or p.body.narrowest is not None):
                found = [_not_looked_at(c) if c.name in suspects else c for c in found]
        compared = set(COMPARISONS) - {"numerical"}  # whose error is that of the differences
        errors = [check.worst or 0.0 for check in found if check.name in compared]
        if p.grain is not None and p.itself:  # what differences are certain to is all that is known
            errors += [check.tolerance or 0.0 for check in found if check.name == "numerical"]
        precision = None if p.grain is None else p.off or p.grain * max(errors, default=0.0)
        return RuleReport(
            name=p.name,
            checks=tuple(found),
            seed=p.seed,
            seconds=time.perf_counter() - self.started,
            notes=(*_notes(p, precision), *sharding_notes(found)),
            residual_bytes=mine,
            plain_residual_bytes=plain_bytes,
            detects=p.detects(),
            verdict=_verdict(p, found),
            precision=precision,
        )


def _not_looked_at(check: Check) -> Check:
    """A failure that a second look, in the unit of the function itself, had no time to excuse."""
    return Check(check.name, None, f"its time was over before a second look: {check.text}")


def _unless_uncertain(p: Problem, found: Sequence[Check]) -> Sequence[Check]:
    """The checks; of an iteration that stops early a gradient a little off is not judged."""
    failed = {check.name for check in found if check.passed is False}
    if not failed or not failed <= {"cotangent", "numerical"} or not p.iterates:
        return found
    error = max(precision_of(p), off_by_differences(p, found))
    if error > MOST_UNCERTAIN:
        return found
    reason = (
        f"the function iterates to a tolerance, and its gradient is off by {error:.1e}, which may "
        "be that tolerance or a mistake: give a tighter one, or plain="
    )
    return [Check(c.name, None, reason) if c.passed is False else c for c in found]


def _verdict(p: Problem, found: Sequence[Check]) -> Verdict:
    if any(check.passed is False for check in found):
        return WRONG
    judges = {check.name: check.passed for check in found if check.name in JUDGES}
    if judges and not any(judges.values()):
        return UNJUDGED
    if p.itself and judges and not judges.get("numerical"):
        return UNJUDGED
    if p.expect is not None:
        return BY_DESIGN
    # As precise as the dtypes that it was given is right; of differences in a coarser unit less is
    # known.
    own = 0.0 if p.itself else max(cmp.eps(x.dtype) for x in p.original)
    return RIGHT if p.grain is None or p.grain <= own else IMPRECISE


def _notes(p: Problem, precision: float | None) -> list[str]:
    notes = [f"{n}: tolerance × {factor}, because {why}" for n, (factor, why) in p.looser.items()]
    if p.dtype != np.float64:
        notes.append(f"{p.name} refuses float64: compared in {p.dtype}")
    if not p.given_plain and not p.raises and not p.has_rule and p.expect is None:
        notes.append(
            f"{p.name} calls no jax.custom_vjp: autodiff was compared with itself, and only "
            "differences judge it; give plain="
        )
    if p.no_reverse:
        words = {"forward": "forward-mode autodiff", "differences": "differences of its values"}
        notes.append(f"the body has no reverse mode ({p.no_reverse}): {words[p.way]} judged it")
    elif p.__dict__.get("way") == "differences":
        notes.append(
            "autodiff of the body is not how its values move: differences of the values judged it"
        )
    if precision is not None:
        narrow = p.body.narrowest
        why = "iterates to a tolerance" if p.iterates else "is no more precise than its arguments"
        why = why if narrow is None else f"computes in {narrow}"
        notes.append(f"right to {precision:.1e} of a leaf's largest entry: the function {why}")
    if p.neighbours.note:
        notes.append(f"{p.neighbours.note}: so are the neighbours it is judged at")
    notes += [f"the gradient of {n} is zero but for rounding noise" for n in p.noise_only()]
    notes += [
        f"the gradient of {n} is exactly zero here, where little can be wrong: give other inputs"
        for n in p.zero_only()
    ]
    return notes
