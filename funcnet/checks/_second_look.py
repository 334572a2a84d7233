"""A second look at a rule that seems wrong: another truth, or a coarser unit, where the body asks.

Both are measured on the function, not granted: the autodiff of a body that is no derivative of its
values (a bisection, an argmin over a grid) is no judge of a rule, and a body that computes in
float32 or iterates to a tolerance has no float64 gradient that a rule could equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from funcnet._reports import Check
from funcnet.checks import _comparison as cmp
from funcnet.checks._problem import Problem
from funcnet.checks._programs import Result
from funcnet.checks._rule_checks import cotangent, value

COMPARISONS = (
    *("value", "forward", "cotangent", "outputs", "linear", "numerical", "jit"),
    *("vmap", "scan", "cond", "remat", "second_order", "forward_over_reverse", "singleton"),
)
GRAINS = (1e-13, 1e-11, 1e-9, 1e-7, 1e-6, 5e-6, 2e-5, 5e-5)
MOST_ERROR = 1e-3  # of a gradient leaf, that an iteration to a tolerance excuses
MOST_UNCERTAIN = 0.05  # of it: an iteration that stops early may be so far off, or be wrong
CLEARLY = 1e3  # times what is uncertain: autodiff that is off by so much is no derivative


def look_again(p: Problem, found: Sequence[Check], again: Callable[[str], Check]) -> bool:
    """Whether the checks are to be run again, by another truth or in a coarser unit.

    Args:
      p: the problem, which is changed accordingly.
      found: what the checks found.
      again: runs a check by its name.
    """
    failed = {check.name for check in found if check.passed is False}
    if "cotangent" in failed and _autodiff_is_no_derivative(p):
        p.judge(way="differences")
        return True
    suspects = failed & set(COMPARISONS)
    if not failed:
        silent = any(c.name == "numerical" and c.passed is None for c in found)
        return silent and p.iterates and p.itself and _differences_say(p, again)
    # Differences that are as certain as they were say that it is wrong in any unit.
    off = off_by_differences(p, found)
    if not suspects or off > MOST_UNCERTAIN:
        return False
    return _coarser(p, off, lambda: all(again(n).passed is not False for n in suspects))


def _differences_say(p: Problem, again: Callable[[str], Check]) -> bool:
    """Takes the finest unit in which differences judge values that are noise in a finer one."""
    for grain in _grains(p):
        back = p.judge(grain=grain)
        if again("numerical").passed:
            return True
        back()
    return False


def _autodiff_is_no_derivative(p: Problem) -> bool:
    """Whether the values move as the rule says, and clearly not as autodiff of the body says."""
    if p.given_plain or p.expect is not None or p.body.stops or p.way == "differences":
        return False
    runs = [(p.analyse(s), p.samples[s]) for s in p.judged]
    back = p.judge(way="differences")
    try:
        pairs = [
            (a, p.run_plain(p.wide(diff), p.rest_in(p.truth), p.cotangents)) for a, diff in runs
        ]
    except Exception:  # as where the values cannot be computed in another precision
        return False
    finally:
        back()
    rule_agrees = all(_worst(a.got, truth) <= 1 for a, truth in pairs)
    autodiff_differs = any(_worst(a.expected, truth) > CLEARLY for a, truth in pairs)
    return rule_agrees and autodiff_differs


def _worst(result: Result, truth: Result) -> float:
    """The largest error of gradient leaves, in units of what is uncertain of the differences."""
    worst = 0.0
    for grad, want, doubt in zip(result.grads, truth.grads, truth.doubts, strict=True):
        unit = 2 * cmp.largest(doubt) + 1e-10 * cmp.largest(want)
        worst = max(worst, cmp.difference(grad, want, unit or 1.0).error)
    return worst


def _coarser(p: Problem, off: float, all_pass: Callable[[], bool]) -> bool:
    """Takes the finest unit in which all is right, if the body has no finer one.

    A function that differences alone judge may be as precise as its arguments are: off by no more
    than these round, as a slope of its own is beside values from a table of so many digits.
    """
    own = max(cmp.eps(x.dtype) for x in p.original)
    rounds = [own] if p.itself and p.eps < own and 0 < off <= own else []
    for grain in sorted(rounds + _grains(p)):
        back = p.judge(grain=grain)
        if value(p).passed and cotangent(p).passed and all_pass():
            p.off = off if grain in rounds else None
            return True
        back()
    return False


def _grains(p: Problem) -> list[float]:
    """The coarser units that the body has, finest first."""
    grains: list[float] = []
    if p.body.narrowest is not None and cmp.eps(p.body.narrowest) > p.eps:
        grains.append(cmp.eps(p.body.narrowest))
    if p.iterates:
        grains += [g for g in GRAINS if p.eps < g and p.c("cotangent") * g <= MOST_ERROR]
    return sorted(grains)


def off_by_differences(p: Problem, found: Sequence[Check]) -> float:
    """How far off a directional derivative is that differences say is wrong, as a part of it."""
    errors = [c.worst or 0.0 for c in found if c.name == "numerical" and c.passed is False]
    return max(errors, default=0.0) * p.eps


def precision_of(p: Problem) -> float:
    """The largest error of value or gradient, as a part of its leaf's largest entry."""
    parts = [0.0]
    for sample in p.judged:
        a = p.analyse(sample)
        for got, want in zip(
            [*a.got.value, *a.got.grads], [*a.expected.value, *a.expected.grads], strict=True
        ):
            size = cmp.largest(want)
            gap = np.abs(cmp.widen(got) - cmp.widen(want))
            parts.append(cmp.largest(gap) / size if size else 0.0)
    return max(parts)
