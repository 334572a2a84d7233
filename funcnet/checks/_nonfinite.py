"""The check of one rule on NaN and infinities, in its inputs and in its cotangents."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from funcnet._reports import Check, sentence
from funcnet.checks import _comparison as cmp
from funcnet.checks._problem import Problem
from funcnet.checks._programs import NotApplicableError, Result
from funcnet.checks._rule_checks import entry
from funcnet.checks._rule_inputs import batch_arguments

OTHERS = (-1.0, 3.0, 0.25)  # times an entry, and so much more: what it could be instead
MOVES = 1e-9  # of a leaf: an entry that moves by less does not depend on what was changed
COUNTS = 1e-6  # of a Jacobian's largest entry: below this it may be rounding


class Poisoned:
    """One entry of the inputs that is not finite, and what rule and plain function make of it."""

    def __init__(self, p: Problem, leaf: int, index: tuple[int, ...], bad: float, row: int | None):
        self.p, self.leaf, self.index, self.row = p, leaf, index, row
        self.where = entry(p.diff_names[leaf], index)
        self.words = f"with {bad} at {self.where} "
        self.bad = bad
        diff = self.replaced(bad)
        self.got = p.run_rule(diff, p.rest_in(p.dtype), p.cotangents)
        self.want = self.of_plain(diff)

    def replaced(self, value: float) -> list[np.ndarray]:
        """The inputs with another number in the entry's place."""
        diff = [x.copy() for x in self.p.smooth.diff]
        diff[self.leaf][self.index] = value
        return diff

    def of_plain(self, diff: Sequence[np.ndarray]) -> Result:
        """What the plain function makes of inputs."""
        return self.p.run_plain(self.p.wide(diff), self.p.rest_in(self.p.truth), self.p.cotangents)

    @functools.cached_property
    def moved(self) -> Result:
        """Where values and gradients of the plain function move with the entry, as masks."""
        base = self.p.smooth.diff[self.leaf][self.index]
        runs = []
        for f in OTHERS:
            with contextlib.suppress(Exception):  # a number that the function refuses
                runs.append(self.of_plain(self.replaced(base * f + f)))
        if not runs:
            raise NotApplicableError(f"it refuses other numbers at {self.where}")
        start = self.of_plain(self.p.smooth.diff)

        def masks(part: str) -> list[Any]:
            found = []
            for i, leaf in enumerate(getattr(start, part)):
                size = cmp.largest(leaf)
                gaps = [np.abs(cmp.widen(getattr(r, part)[i]) - cmp.widen(leaf)) for r in runs]
                found.append(~(np.max(gaps, axis=0) <= MOVES * size))
            return found

        return Result(masks("value"), [], [], masks("grads"))


def nonfinite(p: Problem) -> Check:
    """A NaN never vanishes where plain keeps it, nor leaves its row where plain's does not."""
    if p.iterates:
        raise NotApplicableError("a loop ends when numbers say so: on a NaN it might never end")
    try:
        chosen, size = batch_arguments(p)
    except NotApplicableError:
        chosen, size = [], -1
    tried = 0
    for leaf, x in enumerate(p.smooth.diff):
        if x.size == 0:
            continue
        index = tuple(int(p.rng.integers(n)) for n in x.shape)
        row = index[0] if p.argument[p.where_diff[leaf]] in chosen else None
        for bad in (np.nan, np.inf, -np.inf):
            try:
                poisoned = Poisoned(p, leaf, index, bad, row)
            except Exception as error:
                reason = f"with {bad} among its inputs it raises {sentence(error, 120)}"
                raise NotApplicableError(reason) from None
            failure = _values(poisoned, size)
            if failure is None and np.isnan(bad) and p.way != "differences":
                failure = _gradients(poisoned, size, chosen)
            if failure is None and np.isnan(bad) and p.options.get("rows_independent"):
                failure = _leaked(poisoned, size, chosen)
            if failure is not None:
                return failure
            tried += 1
    failure = None if p.wrong else _hidden_cotangents(p)
    if failure is not None:
        return failure
    return Check("nonfinite", True, f"{tried} poisoned inputs behave as the plain function's")


def _values(x: Poisoned, size: int) -> Check | None:
    """A value that is not finite by the plain function is so by the rule, and stays in its row.

    Unless the plain function says that the value does not depend on the entry (a mask), or that
    the other row does (a vector that is no batch).
    """
    p, bad = x.p, x.bad
    for i, name in enumerate(p.out_names):
        got, want = cmp.widen(x.got.value[i]), cmp.widen(x.want.value[i])
        hidden = ~np.isfinite(want) & np.isfinite(got)
        flipped = np.isinf(got) & np.isinf(want) & (got != want) & ~np.isnan(got) & ~np.isnan(want)
        spread = np.zeros(got.shape, bool)
        if x.row is not None and got.ndim and got.shape[0] == size:
            spread = ~np.isfinite(got) & np.isfinite(want)
            spread[x.row] = False
        if hidden.any():
            hidden &= x.moved.value[i]
        if spread.any():
            spread &= ~x.moved.value[i]
        for mask, words in (
            (hidden, f"the {bad} vanishes"),
            (flipped, "an infinity changes its sign"),
            (spread, f"the {bad} spreads to another row"),
        ):
            if mask.any():
                at = tuple(int(j) for j in np.argwhere(mask)[0])
                message = f"{x.words}{words}: got {got[at]}, the plain function gives {want[at]}"
                return Check("nonfinite", False, message, where=entry(name, at))
    return None


def _rows_of(p: Problem, leaf: int, array: np.ndarray, size: int, chosen: Sequence[int]) -> bool:
    return p.argument[p.where_diff[leaf]] in chosen and array.ndim > 0 and array.shape[0] == size


def _gradients(x: Poisoned, size: int, chosen: Sequence[int]) -> Check | None:
    p = x.p
    which = p.rows.random[0]
    mine = [np.isnan(cmp.widen(g[which])) for g in x.got.grads]
    plain = [np.isnan(cmp.widen(g[which])) for g in x.want.grads]
    if x.row is None or _rows_depend(x, size):
        return None
    for leaf, (nan, of_plain) in enumerate(zip(mine, plain, strict=True)):
        if not _rows_of(p, leaf, nan, size, chosen):
            continue
        extra = nan.reshape(size, -1).any(1) & ~of_plain.reshape(size, -1).any(1)
        extra[x.row] = False
        if extra.any():
            message = x.words + "a NaN reaches a row whose gradient is finite by autodiff"
            where = entry(p.diff_names[leaf], (int(np.argmax(extra)),))
            return Check("nonfinite", False, message, where, likely="a NaN that leaks across rows")
    return None


def _rows_depend(x: Poisoned, size: int) -> bool:
    """Whether another row of the plain function's values or gradients moves with the entry.

    Its first axis is then no batch, but time or tokens.
    """
    for moved in [*x.moved.value, *(m[x.p.rows.random[0]] for m in x.moved.grads)]:
        if moved.ndim and moved.shape[0] == size:
            others = moved.reshape(size, -1).any(1)
            others[x.row] = False
            if others.any():
                return True
    return False


def _leaked(x: Poisoned, size: int, chosen: Sequence[int]) -> Check | None:
    p = x.p
    if x.row is None:
        return None
    which = p.rows.random[0]
    arrays = [(n, cmp.widen(v)) for n, v in zip(p.out_names, x.got.value, strict=True)]
    arrays += [
        (f"gradient of {n}", cmp.widen(g[which]))
        for leaf, (n, g) in enumerate(zip(p.diff_names, x.got.grads, strict=True))
        if _rows_of(p, leaf, g[which], size, chosen)
    ]
    for name, array in arrays:
        if array.ndim == 0 or array.shape[0] != size:
            continue
        spread = np.isnan(array).reshape(size, -1).any(1)
        spread[x.row] = False
        if spread.any():
            message = x.words + f"a NaN reaches row {int(np.argmax(spread))}"
            return Check("nonfinite", False, message, name, likely="a NaN that leaks across rows")
    return None


def _hidden_cotangents(p: Problem) -> Check | None:
    """A NaN in a cotangent reaches the gradients of what the output depends on.

    However a rule writes its products: what is not zero times NaN is NaN. A mask that drops the
    cotangent has a derivative of zero there.
    """
    count = len(p.cotangents[0])
    for out, name in enumerate(p.out_names):
        cts = [np.zeros_like(ct) for ct in p.cotangents]
        if not cts[out][0].size:
            continue
        points = p.rng.integers(cts[out][0].size, size=count - 1)
        cts[out].reshape(count, -1)[np.arange(count - 1), points] = 1.0
        slopes = [
            cmp.widen(g) for g in p.run_plain(p.wide(p.smooth.diff), p.rest_in(p.truth), cts).grads
        ]
        rows = [r for r in range(count - 1) if any(np.any(s[r]) for s in slopes)]
        if not rows:
            continue
        cts[out].reshape(count, -1)[rows[0], points[rows[0]]] = np.nan
        got = p.run_rule(p.smooth.diff, p.rest_in(p.dtype), cts).grads
        for leaf, slope in enumerate(slopes):
            noise = 2 * p.c("nonfinite") * p.smooth.grad_scales[leaf].unit
            heard = np.abs(slope[rows[0]]) > max(COUNTS * cmp.largest(slope), noise)
            if heard.any() and not np.isnan(cmp.widen(got[leaf][rows[0]]))[heard].any():
                at = np.unravel_index(points[rows[0]], cts[out].shape[1:])
                message = (
                    f"with NaN in the cotangent of {entry(name, tuple(map(int, at)))} the gradient "
                    "is finite where it depends on it"
                )
                likely = "a nan_to_num, or a comparison that hides NaN, in the backward function"
                return Check("nonfinite", False, message, p.diff_names[leaf], likely=likely)
    return None
