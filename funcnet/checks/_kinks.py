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
    refused: str = ""


NONE = Kinks([], "")


def find_kinks(p: Problem) -> Kinks:
    """Tells a convention at a kink from a mistake, where rule and autodiff disagree.

    Every entry of the leaves concerned is moved up and down by itself. An entry where the rule
    differs from autodiff is excused when the two one-sided slopes differ and the rule's lies
    between them and follows a convention (`kinks=`): by default autodiff's own slope, the smaller
    of the one-sided ones (0 where it lies between them), or their middle. Moved all together, the
    entries on kinks must give what the rule's gradient says if they give one slope: equal entries
    stay equal, so a tie is then no kink; any share of it is right, and a gradient given to every
    winner is found out.
    """
    wrong = _disagreements(p)
    leaves = sorted({leaf for leaf, _ in wrong})
    entries = [(leaf, index) for leaf in leaves for index in np.ndindex(*p.diff[leaf].shape)]
    real = all(p.diff[leaf].dtype.kind == "f" for leaf in leaves)
    usable = real and len(entries) <= MOST_ENTRIES and p.dtype == np.float64
    if not wrong or not usable or p.way not in ("reverse", "forward"):
        return NONE
    rows = [*range(len(p.rows.onehot)), p.rows.random[0]]
    steps = [STEP * (cmp.largest(x) or 1.0) for x in p.diff]
    of_entry = np.array([steps[leaf] for leaf, _ in entries])

    up, down = (s / of_entry for s in _slopes(p, steps, [[entry] for entry in entries], rows))
    tolerance = CLOSE * np.maximum(np.abs(up), np.abs(down))
    kinked = np.abs(up - down) > tolerance
    a = p.analyse("given")
    mine, plain = (
        np.array([[cmp.widen(g[leaf][row])[index] for leaf, index in entries] for row in rows])
        for g in (a.got.grads, a.expected.grads)
    )
    between = kinked & (np.minimum(up, down) - tolerance <= mine)
    between &= mine <= np.maximum(up, down) + tolerance
    together = [entry for i, entry in enumerate(entries) if kinked[:, i].any()]
    tied, consistent = _moved_together(p, steps, together, rows[-1])
    accepted = between & _follows(p.options.get("kinks", "plain"), mine, plain, up, down, tolerance)
    if tied:
        accepted = between if consistent else np.zeros_like(between)
    bad = np.array([[row in wrong.get(entry, ()) for entry in entries] for row in rows])
    leaf, index = next(iter(wrong))
    name = p.diff_names[leaf] + (str(list(index)) if index else "")
    if (bad & ~accepted).any():
        if (bad & ~between).any() or tied:
            return NONE
        row, i = (int(j) for j in np.argwhere(bad & ~accepted)[0])
        return NONE._replace(
            refused=f"a slope of {mine[row, i]:.3g} at a kink, where the one-sided slopes are "
            f"{down[row, i]:.3g} and {up[row, i]:.3g} and autodiff takes {plain[row, i]:.3g}; if "
            'that convention is meant, say kinks="ignore"'
        )
    return Kinks(
        together,
        f"{len(wrong)} entries sit on a kink or a tie (the first: {name}), where the rule follows "
        "another convention than autodiff",
    )


def _follows(
    kinks: Any, mine: Any, plain: Any, up: Any, down: Any, tolerance: Any
) -> np.ndarray | bool:
    """Whether slopes at kinks follow the convention that is asked for."""
    if isinstance(kinks, str):
        if kinks == "ignore":
            return True
        smaller = np.where(np.abs(up) < np.abs(down), up, down)
        smaller = np.where(up * down <= 0, 0.0, smaller)
        slopes = [plain, smaller, (up + down) / 2]
    else:
        slopes = [down + weight * (up - down) for weight in np.atleast_1d(kinks)]
    return np.any([np.abs(mine - slope) <= tolerance for slope in slopes], axis=0)


def _moved_together(
    p: Problem, steps: list[float], entries: list[Entry], row: int
) -> tuple[bool, bool]:
    """Whether entries that move together meet no kink, and the rule then says what happens."""
    up, down = (float(s[0, 0]) for s in _slopes(p, steps, [entries], [row]))
    got = [cmp.widen(g[row]) for g in p.analyse("given").got.grads]
    said = sum(float(got[leaf][index]) * steps[leaf] for leaf, index in entries)
    size = CLOSE * max(abs(up), abs(down))
    return abs(up - down) <= size, abs(said - up) <= size


def _disagreements(p: Problem) -> dict[Entry, set[int]]:
    """The entries where the rule differs from autodiff, and under which cotangents."""
    a, c = p.analyse("given"), p.c("cotangent")
    wrong: dict[Entry, set[int]] = {}
    for leaf, scale in enumerate(a.grad_scales):
        got, want = cmp.widen(a.got.grads[leaf]), cmp.widen(a.expected.grads[leaf])
        with np.errstate(all="ignore"):
            bad = ~(np.abs(got - want) <= c * scale.unit) & np.isfinite(want)
        for row, *index in np.argwhere(bad):
            wrong.setdefault((leaf, tuple(map(int, index))), set()).add(int(row))
    return dict(sorted(wrong.items()))


def _slopes(
    p: Problem, steps: list[float], groups: list[list[Entry]], rows: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """How much the outputs move under each cotangent when a group's entries go up, and down."""
    count = len(groups)
    stacked = [np.repeat(x[None], 2 * count + 1, 0) for x in p.diff]
    for i, group in enumerate(groups):
        for leaf, index in group:
            stacked[leaf][(i, *index)] += steps[leaf]
            stacked[leaf][(count + i, *index)] -= steps[leaf]
    outputs = [cmp.widen(o) for o in p.values(stacked, p.rest)]
    phi = np.zeros((len(rows), 2 * count + 1))
    for out, ct in zip(outputs, p.cotangents, strict=True):
        flat = out.reshape(len(out), -1)
        phi += (ct[rows].reshape(len(rows), -1) @ flat.T).real
    return phi[:, :count] - phi[:, -1:], phi[:, -1:] - phi[:, count:-1]


def moved_off(p: Problem, kinks: Kinks) -> list[np.ndarray]:
    """The inputs with the entries on kinks moved by 5 to 15 % of their leaf's largest."""
    moved = [x.copy() for x in p.diff]
    for leaf, index in kinks.entries:
        size = cmp.largest(p.diff[leaf]) or 1.0
        moved[leaf][index] += size * p.rng.choice([-1, 1]) * p.rng.uniform(0.05, 0.15)
    return moved
