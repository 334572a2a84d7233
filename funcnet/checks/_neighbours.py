"""Neighbours of the inputs: other numbers of the same kind, on the same set if they are on one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

STEP = 1e-6  # of a direction, whose curvature is then below rounding
UNIT = 1e-5  # how near 1 a norm or a sum is that was made to be 1, in float32 too


class Neighbours:
    """Draws inputs near given ones: every entry multiplied by 0.75 to 1.25, or by less.

    Signs and zeros stay. So does what hardly comes about by chance, and what a function may need: a
    symmetric matrix, entries that are all 0 or 1, vectors of length 1, and rows whose sum is 1.

    Attributes:
      note: which inputs are kept on which set, as words for a report.
    """

    def __init__(self, diff: Sequence[np.ndarray], names: Sequence[str], rng: Any):
        self._rng = rng
        self._onto: list[Callable[[np.ndarray], np.ndarray]] = []
        found = []
        for leaf, name in zip(diff, names, strict=True):
            words, onto = _set_of(leaf)
            self._onto.append(onto)
            found += [f"{name} is {words}"] if words else []
        self.note = "; ".join(found)

    def onto(self, diff: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Inputs brought back to their sets: a length of 1 in float32 is not 1 in float64."""
        return [np.asarray(onto(x)) for x, onto in zip(diff, self._onto, strict=True)]

    def tangent(
        self, diff: Sequence[np.ndarray], directions: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Directions along the sets: what remains of a step that is brought back."""
        if not self.note:
            return list(directions)
        ahead, behind = (
            self.onto([x + t * d for x, d in zip(diff, directions, strict=True)])
            for t in (STEP, -STEP)
        )
        return [(a - b) / (2 * STEP) for a, b in zip(ahead, behind, strict=True)]

    def near(self, diff: Sequence[np.ndarray], step: float) -> list[np.ndarray]:
        """Every entry multiplied by 1 ± up to `step`, and brought back to its set."""
        return [
            np.asarray(onto(np.asarray(x * (1 + step * self._rng.uniform(-1, 1, x.shape)))))
            for x, onto in zip(diff, self._onto, strict=True)
        ]


def _free(x: np.ndarray) -> np.ndarray:
    return x


def _set_of(leaf: np.ndarray) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """The set that a leaf is on, in words, and how to come back to it; none of equal entries."""
    if leaf.dtype.kind != "f" or leaf.size < 2 or not np.isfinite(leaf).all():
        return "", _free
    if np.isin(leaf, (0.0, 1.0)).all():
        return ("made of 0 and 1", lambda x: leaf.copy()) if np.ptp(leaf) else ("", _free)
    if leaf.ndim >= 2 and leaf.shape[-1] == leaf.shape[-2] and leaf.shape[-1] > 1:
        off = leaf * (1 - np.eye(leaf.shape[-1]))
        if np.array_equal(leaf, leaf.swapaxes(-1, -2)) and off.any() and np.ptp(leaf):
            return "symmetric", lambda x: (x + x.swapaxes(-1, -2)) / 2
    if leaf.shape[-1] < 2 or np.ptp(np.abs(leaf)) == 0:
        return "", _free
    if (leaf >= 0).all() and np.allclose(leaf.sum(-1), 1, atol=UNIT, rtol=0):
        return "made of rows with sum 1", lambda x: x / x.sum(-1, keepdims=True)
    if np.allclose((leaf * leaf).sum(-1), 1, atol=UNIT, rtol=0):
        return (
            "made of vectors of length 1",
            lambda x: x / np.sqrt((x * x).sum(-1, keepdims=True)),
        )
    return "", _free
