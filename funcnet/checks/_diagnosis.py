"""What kind of mistake a wrong gradient looks like: hypotheses tried on its numbers, in order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from funcnet.checks._comparison import largest

PASSED_THROUGH = "the cotangent itself, as of a straight-through estimator"
CLOSE = 1e-6  # a hypothesis explains a gradient when it leaves less than this part of it


@dataclass(frozen=True)
class Evidence:
    """What is known of one wrong leaf.

    Attributes:
        got: What the rule returned for the leaf, under one random cotangent.
        expected: What it should have been.
        others: Every gradient leaf that was expected under that cotangent, by name.
        got_others: Every leaf that the rule returned, by name.
        group: The names of the leaves of the same argument.
        sizes: Lengths worth naming: length -> whose it is.
        got_elsewhere: The rule's leaf under a different cotangent.
        expected_elsewhere: What it should have been there.
        expected_ones: What would be expected for a cotangent of ones.
        point: The argument leaf itself.
        cotangents: The random cotangent, one array an output.
        by_output: The expected leaf from each output's cotangent alone, by the output's name.
    """

    got: np.ndarray
    expected: np.ndarray
    name: str = ""
    others: dict[str, np.ndarray] | None = None
    got_others: dict[str, np.ndarray] | None = None
    group: tuple[str, ...] = ()
    sizes: dict[int, str] | None = None
    got_elsewhere: np.ndarray | None = None
    expected_elsewhere: np.ndarray | None = None
    expected_ones: np.ndarray | None = None
    point: np.ndarray | None = None
    cotangents: tuple[np.ndarray, ...] = ()
    by_output: dict[str, np.ndarray] | None = None


def explains(candidate: np.ndarray, got: np.ndarray) -> bool:
    """Whether a candidate is what came, up to small change."""
    if candidate.shape != got.shape:
        return False
    size = largest(got)
    return size > 0 and bool(np.max(np.abs(candidate - got), initial=0.0) <= CLOSE * size)


def fitted_factor(got: np.ndarray, expected: np.ndarray) -> float | None:
    """The constant c for which got = c·expected explains all of `got`, if there is one."""
    power = float(np.vdot(expected, expected).real)
    if power == 0 or not np.all(np.isfinite(got)):
        return None
    c = float(np.vdot(expected, got).real) / power
    return c if c != 0 and explains(c * expected, got) else None


def name_factor(c: float, sizes: dict[int, str] | None = None) -> str:
    """A constant factor in words: -1, 2, n or 1/n with whose length n is."""
    words = {-1.0: "a sign: the factor is -1", 2.0: "a factor of 2", 0.5: "a factor of 1/2"}
    for value, word in words.items():
        if math.isclose(c, value, rel_tol=1e-5):
            return word
    sizes = sizes or {}
    for sign, (n, whose) in itertools.product((1, -1), sizes.items()):
        minus = "-" if sign < 0 else ""
        if n > 1 and math.isclose(c, sign * n, rel_tol=1e-5):
            return f"a factor of {minus}{n}, {whose}: a missing mean (1/{n} is forgotten)"
        if n > 1 and math.isclose(c, sign / n, rel_tol=1e-5):
            return f"a factor of {minus}1/{n}, {whose}: a mean taken where a sum belongs"
        if n > 2 and math.isclose(c, sign * n / (n - 1), rel_tol=1e-5):
            return f"a factor of {minus}{n}/{n - 1}, {whose}: n and n-1 mixed up"
        if n > 2 and math.isclose(c, sign * (n - 1) / n, rel_tol=1e-5):
            return f"a factor of {minus}{n - 1}/{n}, {whose}: n and n-1 mixed up"
        if n > 1 and math.isclose(c, sign * math.sqrt(n), rel_tol=1e-5):
            return f"a factor of {minus}√{n}, {whose}"
        if n > 1 and math.isclose(c, sign / math.sqrt(n), rel_tol=1e-5):
            return f"a factor of {minus}1/√{n}, {whose}"
    return f"a constant factor of {c:.6g}"


def diagnose(evidence: Evidence) -> str:
    """The first hypothesis that explains the wrong leaf, as words that follow "looks like"."""
    if explains(evidence.expected, evidence.got):  # so little is off that anything would explain it
        return _few_entries(evidence) or _small_error(evidence)
    for hypothesis in (
        _not_finite,
        _passed_through,
        _one_side_zero,
        _conjugated,
        _constant_factor,
        _cotangent_ignored,
        _permuted,
        _same_in_all_leaves,
        _of_another_leaf,
        _dropped_output,
        _few_entries,
        _summed,
        _different_support,
        _missing_mean,
        _normaliser,
        _factor_by_axis,
        _small_error,
    ):
        words = hypothesis(evidence)
        if words:
            return words
    return ""


def _not_finite(e: Evidence) -> str:
    bad = ~np.isfinite(e.got) & np.isfinite(e.expected)
    if not bad.any():
        return ""
    kind = "NaN" if np.isnan(e.got[bad]).any() else "infinity"
    return (
        f"{kind} where the expected gradient is finite ({bad.sum()} of {bad.size} entries): a "
        "division by zero, 0·inf, or a `where` whose other branch is not finite"
    )


def _one_side_zero(e: Evidence) -> str:
    if not e.got.any():
        return (
            "one side zero: the rule returns zeros (a None, a stop_gradient or a dropped cotangent)"
        )
    if not e.expected.any():
        return "one side zero: a gradient where the expected one is exactly zero"
    return ""


def _conjugated(e: Evidence) -> str:
    if not np.iscomplexobj(e.expected) or not explains(np.conj(e.expected), e.got):
        return ""
    return (
        "a conjugate: forgotten, or taken where none belongs (JAX's gradient of z is not conj(z)'s)"
    )


def _passed_through(e: Evidence) -> str:
    for ct in e.cotangents:
        c = fitted_factor(e.got, ct) if ct.shape == e.got.shape else None
        if c is not None and not explains(ct, e.expected):
            times = "" if abs(c - 1) < 10 * CLOSE else f"{c:.4g} times "
            return times + PASSED_THROUGH
    return ""


def _constant_factor(e: Evidence) -> str:
    c = fitted_factor(e.got, e.expected)
    if c is None or abs(c - 1) < 10 * CLOSE:
        return ""
    # Of a single number any other one is a multiple, under one cotangent.
    got, expected = e.got_elsewhere, e.expected_elsewhere
    if got is not None and expected is not None and not explains(c * expected, got):
        return ""
    return name_factor(c, e.sizes)


def _cotangent_ignored(e: Evidence) -> str:
    if e.got_elsewhere is None or not explains(e.got_elsewhere, e.got):
        return ""
    if e.expected_ones is not None and explains(e.expected_ones, e.got):
        return "an ignored cotangent: the gradient of the sum of the outputs, whatever comes in"
    return "an ignored cotangent: the same gradient whatever comes in"


def _permuted(e: Evidence) -> str:
    ndim = e.expected.ndim
    if not 1 <= ndim <= 4:
        return ""
    for axes in itertools.permutations(range(ndim)):
        if axes == tuple(range(ndim)):
            continue
        turned = e.expected.transpose(axes)
        words = "a transpose" + (f" of axes {axes}" if ndim > 2 else "")
        c = fitted_factor(e.got, turned) if turned.shape == e.got.shape else None
        if c is not None:
            extra = "" if abs(c - 1) < 10 * CLOSE else f", and {name_factor(c, e.sizes)}"
            return words + extra
        if explains(turned.reshape(e.got.shape), e.got):
            return f"{words}: the numbers are right, read in the wrong order (a reshape for a .T)"
    for count in range(1, ndim + 1):
        for axes in itertools.combinations(range(ndim), count):
            if explains(np.flip(e.expected, axes), e.got):
                return f"a flip along axes {axes}: a kernel that is not turned round, or turned"
    for axis in range(ndim):
        for shift in (1, -1):
            if explains(np.roll(e.expected, shift, axis), e.got):
                return f"entries off by one along axis {axis}"
    return ""


def _of_another_leaf(e: Evidence) -> str:
    for name, other in (e.others or {}).items():
        if name != e.name and other.any() and explains(other, e.got):
            return f"the gradient of `{name}`: two gradients or two residuals are swapped"
    return ""


def _dropped_output(e: Evidence) -> str:
    if not e.by_output or len(e.by_output) < 2:
        return ""
    for name, part in e.by_output.items():
        if part.any() and explains(e.expected - part, e.got):
            return f"a dropped cotangent: that of output `{name}` is not used"
    return ""


def _few_entries(e: Evidence) -> str:
    size = largest(e.expected)
    wrong = np.abs(e.got - e.expected) > 1e-12 * size
    count = int(wrong.sum())
    if 0 < count <= max(1, wrong.size // 10) and wrong.size >= 4:
        indices = [[int(i) for i in index] for index in np.argwhere(wrong)[:3]]
        listed = ", ".join(map(str, indices)) + (", …" if count > 3 else "")
        return f"{count} wrong of {wrong.size} entries, the rest right: {listed}"
    return ""


def _summed(e: Evidence) -> str:
    if e.got.size < 2:
        return ""
    for axes in _axis_sets(e.got.ndim):
        for kind, reduced in (
            ("sum", e.expected.sum(axes, keepdims=True)),
            ("mean", e.expected.mean(axes, keepdims=True)),
        ):
            if explains(np.broadcast_to(reduced, e.got.shape), e.got):
                whole = len(axes) == e.got.ndim
                along = "all axes" if whole else f"axis {', '.join(map(str, axes))}"
                return (
                    f"a {kind} over the wrong axis: every entry along {along} holds the {kind} of "
                    "the entries expected there (a broadcast gradient)"
                )
        first = np.take(e.got, [0], axis=axes[0])
        constant = explains(np.broadcast_to(first, e.got.shape), e.got)
        varies = not explains(
            np.broadcast_to(np.take(e.expected, [0], axis=axes[0]), e.got.shape), e.expected
        )
        if constant and varies and len(axes) == 1:
            return (
                f"a broadcast gradient: all entries along axis {axes[0]} are equal, the expected "
                "ones are not (a sum over the wrong axis)"
            )
    return ""


def _axis_sets(ndim: int) -> Iterator[tuple[int, ...]]:
    for count in range(1, ndim + 1):
        yield from itertools.combinations(range(ndim), count)


def _same_in_all_leaves(e: Evidence) -> str:
    if not e.got_others or len(e.group) < 2:
        return ""
    if all(explains(e.got_others[name], e.got) for name in e.group if name != e.name):
        return (
            f"one array copied to every leaf ({', '.join(e.group)}): the backward function returns "
            "a prefix of the argument's tree"
        )
    return ""


def _different_support(e: Evidence) -> str:
    got, expected = e.got != 0, e.expected != 0
    extra, missing = got & ~expected, expected & ~got
    if extra.sum() * missing.sum() == 0 or (extra | missing).sum() < 2:
        return ""
    return (
        f"a mask drawn again with another key, or the mask of another array: {missing.sum()} "
        f"entries are zero that should not be, and {extra.sum()} the other way round"
    )


def _missing_mean(e: Evidence) -> str:
    gap = e.got - e.expected
    if e.got.ndim == 0 or e.got.size < 3:
        return ""
    axis = _constant_axis(gap)
    if axis is None:
        return ""
    return (
        f"a missing mean: the error is constant along axis {axis}, as where a mean over it is not "
        "subtracted, or without its 1/n"
    )


def _constant_axis(values: np.ndarray) -> int | None:
    """The first axis of two or more along which the values do not change, None without one."""
    for axis in range(values.ndim):
        mean = values.mean(axis, keepdims=True)
        if values.shape[axis] > 1 and explains(np.broadcast_to(mean, values.shape), values):
            return axis
    return None


def _normaliser(e: Evidence) -> str:
    """An error that is affine in the input along some axes: the sums of a normalisation."""
    if e.point is None or e.got.ndim < 2:
        return ""
    every = range(e.got.ndim)
    for axes in {*((a,) for a in every), tuple(every)[:-1], tuple(every)[1:]}:
        rest = [a for a in every if a not in axes]
        n = math.prod(e.got.shape[a] for a in axes)

        def columns(x: np.ndarray, axes: tuple = axes, rest: list = rest, n: int = n) -> np.ndarray:
            return x.transpose(*axes, *rest).reshape(n, -1)

        if n < 4 or not _fits(columns(e.got - e.expected), [columns(e.point)]):
            continue
        words = (
            f"wrong sums over axis {', '.join(map(str, axes))}, as in a normalisation's gradient"
        )
        for ct in e.cotangents:
            if ct.shape != e.got.shape:
                continue
            basis = [columns(e.point), columns(ct)]
            got, expected = columns(e.got), columns(e.expected)
            if n > 4 and _fits(got, basis) and _fits(expected, basis):
                ratio = _coefficients(got, basis)[:, :2] / _coefficients(expected, basis)[:, :2]
                for which in (ratio, ratio[:, 1]):
                    c = float(which.flat[0])
                    if np.allclose(which, c, rtol=1e-4) and abs(c - 1) > 1e-4:
                        return f"{words}: they are off by {name_factor(c, e.sizes)}"
        return words
    return ""


def _coefficients(columns: np.ndarray, basis: Sequence[np.ndarray]) -> np.ndarray:
    """Each column's least-squares coefficients of [1, *basis], one row a column."""
    found = [
        np.linalg.lstsq(
            np.stack([np.ones(len(columns)), *(b[:, j] for b in basis)], 1), columns[:, j]
        )[0]
        for j in range(columns.shape[1])
    ]
    return np.array(found)


def _fits(columns: np.ndarray, basis: Sequence[np.ndarray]) -> bool:
    with np.errstate(all="ignore"):
        c = _coefficients(columns, basis)
        fitted = c[:, 0] + sum(b * c[:, i + 1] for i, b in enumerate(basis))
    return explains(fitted, columns)


def _factor_by_axis(e: Evidence) -> str:
    if e.got.size < 4 or not np.all(e.expected != 0):
        return ""
    with np.errstate(all="ignore"):
        ratio = e.got / e.expected - 1
    if not np.all(np.isfinite(ratio)):
        return ""
    axis = _constant_axis(ratio)
    if axis is None:
        return ""
    return (
        f"a factor that is constant along axis {axis} and differs across the others: a wrong or "
        "missing weight, scale or normaliser"
    )


def _small_error(e: Evidence) -> str:
    size = largest(e.expected)
    error = largest(e.got - e.expected) / size if size else math.inf
    if error < 1e-11:
        return "rounding that has grown: cancellation, or a less stable formula"
    if 1e-9 < error < 3e-6:
        return (
            f"float32 rounding (a relative error of {error:.1e}): a cast inside the rule, or a "
            "constant with too few digits"
        )
    if error < 2e-2:
        return (
            f"a small term (a relative error of {error:.1e}): an eps in the wrong place, a cast to "
            "16 bits, or an approximation"
        )
    return ""


def lengths(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> dict[int, str]:
    """Lengths worth naming in a diagnosis: of axes, of whole leaves, of leaves without an axis."""
    found: dict[int, str] = {}
    for name, shape in shapes:
        for axis, n in enumerate(shape):
            found.setdefault(n, f"the length of axis {axis} of {name}")
    for name, shape in shapes:
        size = math.prod(shape)
        found.setdefault(size, f"the size of {name}")
        for axis, n in enumerate(shape):
            if n:
                found.setdefault(size // n, f"the size of {name} without axis {axis}")
    return found
