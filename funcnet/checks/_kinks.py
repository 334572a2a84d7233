"""Samples that sit on a kink or a tie, where a rule may choose another slope than autodiff."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from funcnet.checks import _comparison as cmp

if TYPE_CHECKING:
    from funcnet.checks._problem import Problem
else:
    Problem = Any  # which imports us

Entry = tuple[int, tuple[int, ...]]
"""A leaf's number and an index into it."""

MOST_ENTRIES = 4096
STEP = 1e-6
CLOSE = 1e-3  # of the larger slope: what curvature and rounding do to slopes over STEP


class Kinks(NamedTuple):
    """The entries that sit on a kink or a tie, and the words for a report."""

    entries: list[Entry]
    note: str


NONE = Kinks([], "")


def find_kinks(p: Problem) -> Kinks:
    """Tells a convention at a kink from a mistake, where rule and autodiff disagree.

    Every entry of the leaves concerned is moved up and down by itself. An entry where the rule
    differs from autodiff is excused when the two one-sided slopes differ and the rule's lies
    between them. Moved all together, the entries on kinks must give what the rule's gradient says
    if they give one slope: equal entries stay equal, so a tie is then no kink, and a gradient
    given to every winner of a tie is found out.
    """
    wrong = _disagreements(p)
    leaves = sorted({leaf for leaf, _ in wrong})
    entries = [(leaf, index) for leaf in leaves for index in np.ndindex(*p.diff[leaf].shape)]
    real = all(p.diff[leaf].dtype.kind == "f" for leaf in leaves)
    if not wrong or not real or len(entries) > MOST_ENTRIES or p.dtype != np.float64:
        return NONE
    got = [cmp.widen(g[p.rows.random[0]]) for g in p.analyse("given").got.grads]
    steps = [STEP * (cmp.largest(x) or 1.0) for x in p.diff]

    up, down = _slopes(p, steps, [[entry] for entry in entries])
    slopes = np.stack([up, down]) / [steps[leaf] for leaf, _ in entries]
    tolerance = CLOSE * np.abs(slopes).max(0)
    kinked = np.abs(slopes[0] - slopes[1]) > tolerance
    mine = np.array([got[leaf][index] for leaf, index in entries])
    between = (slopes.min(0) - tolerance <= mine) & (mine <= slopes.max(0) + tolerance)
    excused = {entry for entry, good in zip(entries, kinked & between, strict=True) if good}
    if not excused.issuperset(wrong):
        return NONE

    together = [entry for entry, kink in zip(entries, kinked, strict=True) if kink]
    (up,), (down,) = _slopes(p, steps, [together])
    said = sum(float(got[leaf][index]) * steps[leaf] for leaf, index in together)
    size = CLOSE * max(abs(up), abs(down))
    if abs(up - down) <= size and abs(said - up) > size:
        return NONE
    leaf, index = wrong[0]
    where = p.diff_names[leaf] + (str(list(index)) if index else "")
    return Kinks(
        together,
        f"{len(wrong)} entries sit on a kink or a tie (the first: {where}), where every slope "
        "between the one-sided ones is accepted",
    )


def _disagreements(p: Problem) -> list[Entry]:
    a, c = p.analyse("given"), p.c("cotangent")
    wrong: list[Entry] = []
    for leaf, scale in enumerate(a.grad_scales):
        got, want = cmp.widen(a.got.grads[leaf]), cmp.widen(a.expected.grads[leaf])
        with np.errstate(all="ignore"):
            bad = ~(np.abs(got - want) <= c * scale.unit) & np.isfinite(want)
        wrong += [(leaf, tuple(map(int, index))) for index in np.argwhere(bad.any(0))]
    return wrong


def _slopes(
    p: Problem, steps: list[float], groups: list[list[Entry]]
) -> tuple[np.ndarray, np.ndarray]:
    """How much the outputs move, weighted by a cotangent, when a group's entries move."""
    count = len(groups)
    stacked = [np.repeat(x[None], 2 * count + 1, 0) for x in p.diff]
    for i, group in enumerate(groups):
        for leaf, index in group:
            stacked[leaf][(i, *index)] += steps[leaf]
            stacked[leaf][(count + i, *index)] -= steps[leaf]
    outputs = [cmp.widen(o) for o in p.values(stacked, p.rest)]
    phi = np.zeros(2 * count + 1)
    for out, ct in zip(outputs, p.cotangent(p.rows.random[0]), strict=True):
        phi += (out * ct).real.reshape(len(out), -1).sum(1)
    return phi[:count] - phi[-1], phi[-1] - phi[count:-1]


def moved_off(p: Problem, kinks: Kinks) -> list[np.ndarray]:
    """The inputs with the entries on kinks moved by 5 to 15 % of their leaf's largest."""
    moved = [x.copy() for x in p.diff]
    for leaf, index in kinks.entries:
        size = cmp.largest(p.diff[leaf]) or 1.0
        moved[leaf][index] += size * p.rng.choice([-1, 1]) * p.rng.uniform(0.05, 0.15)
    return moved
