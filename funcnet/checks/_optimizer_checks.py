"""Two optimizers compared step by step, and the list of all checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from funcnet._reports import Check, sentence
from funcnet.checks import _comparison as cmp
from funcnet.checks._foreign_optimizers import EagerOptimizer
from funcnet.checks._optimizer_profile import STEPS as EXTREME_STEPS
from funcnet.checks._optimizer_profile import likely_cause
from funcnet.checks._optimizer_robustness import ROBUSTNESS
from funcnet.checks._optimizer_runs import Comparison, Trajectory
from funcnet.checks._programs import NotApplicableError
from funcnet.checks._rule_checks import entry, number


def compare(c: Comparison) -> Check:
    """Updates and parameters, step by step; the first divergence, and its cause."""
    gradients = c.random_gradients(c.steps) if c.gradients is None else None
    ours, theirs = _both(c, gradients, c.steps)
    check = _first_difference(c, "trajectory", ours, theirs)
    if check.passed:
        c.states = (ours.state, theirs.state)
    return check


def extremes(c: Comparison) -> Check:
    """The same for gradients that rise from 1e-20 to 1e9, after zeros and with zeros among them."""
    if c.first_divergence is not None:
        raise NotApplicableError("not judged: the trajectories differ already")

    def draw(leaf: Any) -> np.ndarray:
        # Of one size at a time: what is compared is compared with the largest entry.
        shape = (EXTREME_STEPS, *np.shape(leaf))
        size = 10.0 ** np.linspace(-20, 9, EXTREME_STEPS).reshape(-1, *(1,) * (len(shape) - 1))
        drawn = c.rng.choice([-1.0, 0.0, 1.0], shape, p=[0.4, 0.2, 0.4]) * size
        drawn[:2] = 0
        return drawn * c.rng.uniform(0.5, 1.0, shape)

    ours, theirs = _both(c, jax.tree.map(draw, c.params), EXTREME_STEPS)
    return _first_difference(c, "extremes", ours, theirs)


def _both(c: Comparison, gradients: Any, steps: int) -> tuple[Trajectory, Trajectory]:
    if c.theirs is None:
        raise NotApplicableError("there is no other optimizer to compare with")
    if not any(np.size(leaf) for leaf in jax.tree.leaves(c.params)):
        raise NotApplicableError("the parameters have no entries")
    ours = c.ours.either(c.params, gradients, steps)
    try:
        return ours, c.theirs.either(c.params, gradients, steps)
    except ImportError:
        raise
    except Exception as error:
        error.add_note("That was the other optimizer.")
        raise


def _first_difference(c: Comparison, name: str, ours: Trajectory, theirs: Trajectory) -> Check:
    assert c.theirs is not None
    rounded = any(isinstance(x.optimizer, EagerOptimizer) for x in (c.ours, c.theirs))
    updates = [*ours.updates, *theirs.updates]
    eps, coarsest = cmp.eps(np.float64), max((cmp.eps(u.dtype) for u in updates), default=0.0)
    # An update of float32 for parameters of float64: that is the precision both have.
    rtol = c.rtol if coarsest <= eps else max(c.rtol, 64 * coarsest)
    worst, steps = 0.0, len(updates[0]) if updates else 0
    for step in range(steps):
        for leaf, where in enumerate(c.names):
            for kind, got, want in (
                ("update", ours.updates[leaf][step], theirs.updates[leaf][step]),
                ("parameter", ours.params[leaf][step], theirs.params[leaf][step]),
            ):
                size = cmp.largest(want)
                floor = 4 * eps * cmp.largest(theirs.params[leaf][step]) if rounded else 0.0
                found = cmp.difference(got, want, rtol * size + floor)
                worst = max(worst, found.error)
                if found.error <= 1:
                    continue
                c.first_divergence = step
                relative = abs(found.got - found.expected) / size if size else np.inf
                at = leaf, int(np.ravel_multi_index(found.at, np.shape(got)) if found.at else 0)
                try:
                    c.cause, c.properties = likely_cause(
                        c.ours.either, c.theirs.either, c.params, at, _worst_of_all(ours, theirs)
                    )
                except Exception as error:  # not every optimizer takes every question
                    c.cause = f"nothing known: the search for it raised {sentence(error)}"
                return Check(
                    name,
                    False,
                    f"step {step}: {kind} {number(found.got)}, theirs {number(found.expected)} "
                    f"(a relative difference of {relative:.1e})",
                    where=entry(where, found.at),
                    worst=found.error * rtol / eps,
                    tolerance=rtol / eps,
                    likely=c.cause,
                )
    words = f"{steps} steps" + (", in float32 as one of them computes" if rtol != c.rtol else "")
    return Check(name, True, words, worst=worst * rtol / eps, tolerance=rtol / eps)


def _worst_of_all(ours: Trajectory, theirs: Trajectory) -> float:
    """The largest difference of updates, relative to the largest entry of its step and leaf."""
    return max(
        cmp.difference(got, want, cmp.largest(want) or 1.0).error
        for x, y in zip(ours.updates, theirs.updates, strict=True)
        for got, want in zip(x, y, strict=True)
    )


def state(c: Comparison) -> Check:
    """The last states agree, once `state_map` has brought ours into the form of theirs."""
    if c.state_map is None or c.theirs is None:
        raise NotApplicableError("no state_map was given")
    if c.states is None:
        compare(c)
    if c.states is None:
        raise NotApplicableError("not judged: the trajectories differ already")
    ours, theirs = c.states
    mapped = c.state_map(ours)
    got, want = (str(jax.tree.structure(x)) for x in (mapped, theirs))
    if got != want:
        return Check("state", False, f"structure {got}, expected {want}")
    for (path, got), want in zip(
        tree_flatten_with_path(mapped)[0], jax.tree.leaves(theirs), strict=True
    ):
        found = cmp.difference(got, want, max(c.rtol * cmp.largest(want), 1e-300))
        if found.error > 1:
            message = f"got {number(found.got)}, theirs {number(found.expected)}"
            return Check("state", False, message, where=entry("state" + keystr(path), found.at))
    return Check("state", True, f"equal after {c.steps} steps")


EQUALITY: dict[str, Callable[[Comparison], Check]] = {
    "trajectory": compare,
    "extremes": extremes,
    "state": state,
}
"""What makes two optimizers equal."""
CHECKS = {**EQUALITY, **ROBUSTNESS}


def run_checks(
    c: Comparison, names: Sequence[str], reasons: dict[str, str]
) -> tuple[list[Check], list[str]]:
    """Runs the named checks in order; what one raises is its failure.

    Returns:
        The checks, and the names of those of robustness that the other optimizer fails too.
    """
    found, shared = [], []
    for name in names:
        check = Check(name, None, reasons[name]) if name in reasons else _outcome(c, name)
        if check.passed is False and name in ROBUSTNESS and c.theirs is not None:
            # The other one is not judged by JAX's strict modes, here as in `Lenient`.
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                other = _outcome(c.of_theirs(), name)
            if other.passed is False:
                shared.append(name)
                check = replace(check, message=f"{check.message} (and so does theirs)")
        found.append(check)
    return found, shared


def _outcome(c: Comparison, name: str) -> Check:
    c.draw_anew(name)
    try:
        return CHECKS[name](c)
    except NotApplicableError as reason:
        return Check(name, None, str(reason))
    except ImportError:  # an extra that is missing is not the optimizer's fault
        raise
    except Exception as error:
        notes = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
        return Check(name, False, f"raised {sentence(error)}{notes}")
