"""How small an error the cotangent check sees: errors injected, and the smallest one rejected."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from funcnet.checks import _comparison as cmp
from funcnet.checks._problem import Analysis, Problem


class Detection(NamedTuple):
    """The smallest errors that the cotangent check rejects on one rule's sample inputs.

    Attributes:
        whole_leaf: The relative error of a whole gradient leaf, the worst leaf counting.
        single_entry: The error of one entry, relative to the largest entry of its leaf.
        leaf: The leaf that is the hardest to judge.
    """

    whole_leaf: float
    single_entry: float
    leaf: str


def threshold(p: Problem) -> Detection:
    """Bisects the smallest injected error that the cotangent check rejects, leaf by leaf."""
    runs = [p.analyse(sample) for sample in p.judged]
    whole, single, names = [], [], []
    nothing = {*p.noise_only(), *p.zero_only()}
    for leaf, name in enumerate(p.diff_names):
        if name in nothing or not p.diff[leaf].size:
            continue
        names.append(name)
        whole.append(_smallest(p, runs, leaf, lambda got, want, d: got * (1 + d)))
        single.append(_smallest(p, runs, leaf, _one_entry))
    if not names:
        return Detection(np.inf, np.inf, "")
    return Detection(max(whole), max(single), names[int(np.argmax(whole))])


def _one_entry(got: np.ndarray, want: np.ndarray, relative: float) -> np.ndarray:
    changed = got.copy()
    at = np.unravel_index(int(np.argmin(np.abs(got))), got.shape)  # the least conspicuous
    changed[at] += relative * cmp.largest(want)
    return changed


def _smallest(p: Problem, runs: list[Analysis], leaf: int, inject: Callable) -> float:
    c = p.c("cotangent")

    def rejected(relative: float) -> bool:
        return any(
            cmp.difference(
                inject(cmp.widen(a.got.grads[leaf]), cmp.widen(a.expected.grads[leaf]), relative),
                a.expected.grads[leaf],
                a.grad_scales[leaf].unit,
            ).error
            > c
            for a in runs
        )

    low, high = -17.0, 0.0
    if not rejected(10**high):
        return np.inf
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if rejected(10**middle) else (middle, high)
    return float(10**high)
