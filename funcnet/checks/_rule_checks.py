"""The checks of one rule at one precision: values, cotangents, structure, determinism, memory."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from funcnet._jaxprs import residual_bytes
from funcnet._reports import Check
from funcnet.checks import _comparison as cmp
from funcnet.checks import _diagnosis as diag
from funcnet.checks._problem import Analysis, Problem
from funcnet.checks._programs import NotApplicableError

TRUTHS = {
    "reverse": "autodiff of the plain function gives",
    "forward": "forward-mode autodiff of the plain function gives",
    "differences": "differences of the values give",
    "given": "expect= gives",
}
SLACK_BYTES = 64  # that a rule of unknown size may keep beyond autodiff
MOST_DOUBT = 1e-3  # of a gradient leaf: beyond it differences are no judge


def entry(name: str, index: Sequence[int]) -> str:
    """A leaf and an entry of it, as in `params.w[2, 3]`."""
    return f"{name}[{', '.join(map(str, index))}]" if len(index) else name


def number(value: Any, other: Any = None) -> str:
    """A number with as many digits as people read, or as tell it from the other."""
    digits = 7
    while other is not None and digits < 17 and f"{value:.{digits}g}" == f"{other:.{digits}g}":
        digits += 2
    return f"{value:.{digits}g}"


def first_wrong(
    names: Sequence[str],
    got: Sequence[Any],
    expected: Sequence[Any],
    units: Sequence[float | np.ndarray],
    c: float,
) -> tuple[float, tuple[int, cmp.Difference] | None, list[str]]:
    """The worst error of all leaves, the first wrong leaf, and the names of all wrong leaves."""
    worst, first, wrong = 0.0, None, []
    for i, (name, a, b, unit) in enumerate(zip(names, got, expected, units, strict=True)):
        found = cmp.difference(a, b, unit)
        worst = max(worst, found.error)
        if found.error > c:
            wrong.append(name)
            first = first or (i, found)
    return worst, first, wrong


def compared(
    name: str,
    names: Sequence[str],
    got: Sequence[Any],
    expected: Sequence[Any],
    units: Sequence[float | np.ndarray],
    c: float,
    *,
    good: str = "",
    what: str = "",
    skip_axes: int = 0,
) -> Check:
    """A check that two lists of arrays agree; `skip_axes` leading axes are no part of an entry."""
    worst, first, wrong = first_wrong(names, got, expected, units, c)
    if first is None:
        return Check(name, True, good, worst=worst, tolerance=c)
    leaf, found = first
    also = f"; wrong too: {', '.join(wrong[1:])}" if len(wrong) > 1 else ""
    return Check(
        name,
        False,
        f"{what}got {number(found.got, found.expected)}, "
        f"expected {number(found.expected, found.got)}{also}",
        where=entry(names[leaf], found.at[skip_axes:]),
        worst=worst,
        tolerance=c,
    )


def unless_it_leaves_a_set(p: Problem, found: Check) -> Check:
    """A check that failed says nothing where the inputs left the set that they were given on."""
    if found.passed is False and p.neighbours.note:
        raise NotApplicableError(f"{p.neighbours.note}, and is not here: {found.text}")
    return found


# Values and cotangents ---------------------------------------------------------------------


def value(p: Problem) -> Check:
    """The rule's value is the plain function's, and so are its shapes and dtypes."""
    other = p.abstract(p.plain, p.dtype)
    got, want = (str(jax.tree.structure(x)) for x in (p.out, other))
    if got != want:
        return Check("value", False, f"output structure {got}, expected {want} as plain's")
    for name, a, b in zip(
        [*p.out_names, *p.other_names], *map(_sorted_leaves, (p.out, other)), strict=True
    ):
        if a.shape != b.shape or a.dtype != b.dtype:
            message = f"has shape {a.shape} and dtype {a.dtype}, the plain function's {b.shape} "
            return Check("value", False, message + f"and {b.dtype}", where=name)
    checks = []
    for sample in ("given", "jittered"):
        a = p.analyse(sample)
        for name, got, want in zip(p.other_names, a.got.others, a.expected.others, strict=True):
            if not np.array_equal(got, want):
                return Check("value", False, "an integer output differs from plain's", where=name)
        checks.append(
            compared(
                "value",
                p.out_names,
                a.got.value,
                a.expected.value,
                p.units("value", a.value_scales),
                p.c("value"),
            )
        )
    return worst_of(checks)


def _sorted_leaves(tree: Any) -> list[Any]:
    leaves = jax.tree.leaves(tree)
    floating = [x for x in leaves if jax.dtypes.issubdtype(x.dtype, np.inexact)]
    return floating + [x for x in leaves if not jax.dtypes.issubdtype(x.dtype, np.inexact)]


def worst_of(checks: Sequence[Check]) -> Check:
    """The first check that failed, else the one with the largest error."""
    for check in checks:
        if check.passed is False:
            return check
    return max(checks, key=lambda check: check.worst or 0.0)


def forward(p: Problem) -> Check:
    """The value that the forward function of the rule returns is the function's own."""
    checks = [
        compared(
            "forward",
            p.out_names,
            a.got.forward,
            a.got.value,
            p.units("forward", a.value_scales),
            p.c("forward"),
            what="under jax.vjp ",
        )
        for a in map(p.analyse, ("given", "jittered"))
    ]
    return worst_of(checks)


def cotangent(p: Problem) -> Check:
    """Every gradient entry against autodiff of the plain function in float64."""
    doubt = _doubt(p)
    if doubt > MOST_DOUBT:
        raise NotApplicableError(
            f"the body has no autodiff ({p.no_reverse}), and differences of its values are "
            f"uncertain by {doubt:.1e} of a gradient: give plain="
        )
    c = p.c("cotangent")
    worst = 0.0
    for sample in p.judged:
        a = p.analyse(sample)
        error, first, wrong = first_wrong(
            p.diff_names,
            a.got.grads,
            a.expected.grads,
            p.units("cotangent", a.grad_scales),
            c,
        )
        worst = max(worst, error)
        if first is not None:
            return _wrong_cotangent(p, a, first[0], first[1], wrong, c)
    kind = (
        f"the full Jacobian ({len(p.rows.onehot)} rows)"
        if p.rows.full
        else f"{len(p.rows.random)} random cotangents"
    )
    note = f"; {p.kinks.note}" if p.kinks.note else ""
    if p.way == "differences":
        note += f"; by differences, which are certain to {doubt:.1e} of a gradient"
    return Check("cotangent", True, kind + note, worst=worst, tolerance=c)


def _doubt(p: Problem) -> float:
    """How uncertain differences are at most, as a part of a gradient leaf."""
    runs = [p.analyse(sample).expected for sample in p.judged]
    parts = [
        cmp.largest(doubt) / (cmp.largest(grad) or 1.0)
        for run in runs
        for doubt, grad in zip(run.doubts, run.grads, strict=False)
    ]
    return max(parts, default=0.0)


def _wrong_cotangent(
    p: Problem, a: Analysis, leaf: int, found: cmp.Difference, wrong: list[str], c: float
) -> Check:
    row, index = found.at[0], found.at[1:]
    under = ""
    if row < len(p.rows.onehot):
        out, at = p.rows.onehot[row]
        under = f" for a cotangent of 1 at {entry(p.out_names[out], at)}"
    also = f"; wrong too: {', '.join(wrong[1:])}" if len(wrong) > 1 else ""
    likely = p.kinks.refused or diag.diagnose(evidence(p, a, leaf))
    if likely.endswith(diag.PASSED_THROUGH) and p.expect is None:
        likely += f"; if that is meant, say expect=lambda {', '.join(p.argument_names)}: ..."
    return Check(
        "cotangent",
        False,
        f"got {number(found.got, found.expected)}, {TRUTHS[p.way]} "
        f"{number(found.expected, found.got)}{under}{also}",
        where=entry(p.diff_names[leaf], index),
        worst=found.error,
        tolerance=c,
        likely=likely,
    )


def evidence(p: Problem, a: Analysis, leaf: int) -> diag.Evidence:
    """What is known of one wrong gradient leaf, under a random cotangent that shows the error."""
    first, second = p.rows.random[:2]
    got = [cmp.widen(g) for g in a.got.grads]
    expected = [cmp.widen(g) for g in a.expected.grads]
    names = p.diff_names
    argument = [p.argument[i] for i in p.where_diff]
    ones = None
    if p.rows.full:
        ones = expected[leaf][: len(p.rows.onehot)].sum(0)
    shapes = [(p.names[i], np.shape(p.leaves[i])) for i in p.where_diff + p.where_rest] + [
        (n, s.shape) for n, s in zip(p.out_names, p.out_shapes, strict=True)
    ]
    shapes.sort(key=lambda item: -len(item[1]))
    return diag.Evidence(
        got=got[leaf][first],
        expected=expected[leaf][first],
        name=names[leaf],
        others={n: e[first] for n, e in zip(names, expected, strict=True)},
        got_others={n: g[first] for n, g in zip(names, got, strict=True)},
        group=tuple(n for n, i in zip(names, argument, strict=True) if i == argument[leaf]),
        sizes=diag.lengths(shapes),
        got_elsewhere=got[leaf][second],
        expected_elsewhere=expected[leaf][second],
        expected_ones=ones,
        point=cmp.widen(a.diff[leaf]),
        cotangents=tuple(p.cotangent(first)),
        by_output=_parts(p, expected[leaf], first) if p.rows.alone and p.rows.full else None,
    )


def _parts(p: Problem, rows: np.ndarray, row: int) -> dict[str, np.ndarray]:
    """What each output's part of one cotangent gives, by linearity of the truth."""
    parts = {name: np.zeros(rows.shape[1:], rows.dtype) for name in p.out_names}
    for j, (out, at) in enumerate(p.rows.onehot):
        weight = p.cotangents[out][(row, *at)].real
        parts[p.out_names[out]] = parts[p.out_names[out]] + weight * rows[j]
    return parts


def outputs(p: Problem) -> Check:
    """Each output's cotangent alone, the others zero."""
    if len(p.out_names) < 2:
        raise NotApplicableError("the function has one floating output")
    c, a = p.c("outputs"), p.smooth
    worst = 0.0
    for out, row in p.rows.alone.items():
        check = compared(
            "outputs",
            p.diff_names,
            [g[row] for g in a.got.grads],
            [g[row] for g in a.expected.grads],
            p.units("outputs", a.grad_scales),
            c,
            what=f"with a cotangent for {p.out_names[out]} alone ",
        )
        if check.passed is False:
            return check
        worst = max(worst, check.worst or 0.0)
    return Check("outputs", True, f"{len(p.rows.alone)} outputs", worst=worst, tolerance=c)


def _unless_given(p: Problem) -> None:
    if p.way == "given":
        raise NotApplicableError("expect= gives the gradients, which need not be linear")


def zero(p: Problem) -> Check:
    """A cotangent of zero gives gradients of exactly zero."""
    _unless_given(p)
    for sample in ("given", "jittered"):
        a = p.analyse(sample)
        for name, grad, want in zip(p.diff_names, a.got.grads, a.expected.grads, strict=True):
            row = cmp.widen(grad[p.rows.zero])
            bad = (row != 0) & np.isfinite(cmp.widen(want[p.rows.zero]))
            if bad.any():
                index = tuple(np.argwhere(bad)[0])
                why = "the cotangent is not a factor"
                if np.isnan(row[index]):
                    why = "0 times what is not finite"
                return Check(
                    "zero",
                    False,
                    f"a zero cotangent gives {number(row[index])}: {why}",
                    where=entry(name, index),
                )
    return Check("zero", True, "zero in, exactly zero out")


def linear(p: Problem) -> Check:
    """The backward pass is linear: a combination of cotangents gives that of the gradients.

    So do their negatives, and cotangents that are 16,384 times as large and as small.
    """
    _unless_given(p)
    a = p.smooth
    first, second = p.rows.random[:2]
    u, v = p.rows.weights
    floor = [p.eps * cmp.largest(g) for g in a.got.grads]
    units = [max(pair) for pair in zip(p.units("linear", a.grad_scales), floor, strict=True)]
    of_rows = functools.partial(compared, "linear", p.diff_names)
    checks = [
        of_rows(
            [g[p.rows.combined] for g in a.got.grads],
            [u * cmp.widen(g[first]) + v * cmp.widen(g[second]) for g in a.got.grads],
            units,
            p.c("linear"),
            what=f"vjp({u}·g1 {v:+}·g2) against {u}·vjp(g1) {v:+}·vjp(g2): ",
        )
    ]
    # Powers of two round nothing. An iteration may stop at once where its numbers are small.
    for factor in () if p.iterates else (-1.0, 2.0**14, 2.0**-14)[: 3 if p.eps < 1e-5 else 1]:
        scaled = [factor * ct for ct in p.cotangents]
        grads = p.run_rule(a.diff, p.rest_in(p.dtype), scaled).grads
        checks.append(
            of_rows(
                [cmp.widen(g) / factor for g in grads],
                a.got.grads,
                units,
                p.c("linear"),
                what=f"vjp({factor:g}·g) / {factor:g} against vjp(g): ",
                skip_axes=1,
            )
        )
    return worst_of(checks)


# Repeated and eager calls ------------------------------------------------------------------


def _eager(p: Problem) -> tuple[list[Any], list[Any]]:
    diff, rest = jax.device_put((p.smooth.diff, p.rest_in(p.dtype)))
    plain_value, _ = p.call(p.f, diff, rest)
    _, pull, _ = p.vjp(p.f, diff, rest)
    return jax.device_get(plain_value), jax.device_get(pull(p.cotangent(p.rows.random[0])))


def determinism(p: Problem) -> Check:
    """Two calls give the same bytes, compiled and eager."""
    a = p.smooth
    again = p.run_rule(a.diff, p.rest_in(p.dtype), p.cotangents)
    pairs = [("compiled", [*a.got.value, *a.got.grads], [*again.value, *again.grads])]
    eager = [_eager(p), _eager(p)]
    pairs.append(("eager", [*eager[0][0], *eager[0][1]], [*eager[1][0], *eager[1][1]]))
    names = [*p.out_names, *(f"the gradient of {n}" for n in p.diff_names)]
    for kind, one, two in pairs:
        for name, x, y in zip(names, one, two, strict=True):
            if np.asarray(x).tobytes() != np.asarray(y).tobytes():
                return Check(
                    "determinism",
                    False,
                    f"two {kind} calls with the same inputs differ",
                    where=name,
                    likely="a hidden state or a draw that does not come from the arguments",
                )
    return Check("determinism", True, "byte-equal, compiled and eager")


def jit(p: Problem) -> Check:
    """Eager and compiled calls agree."""
    a = p.smooth
    values, grads = _eager(p)
    return compared(
        "jit",
        [*p.out_names, *(f"gradient of {n}" for n in p.diff_names)],
        [*values, *grads],
        [*a.got.value, *(g[p.rows.random[0]] for g in a.got.grads)],
        p.units("jit", [*a.value_scales, *a.grad_scales]),
        p.c("jit"),
        what="eager against compiled: ",
    )


def recompile(p: Problem) -> Check:
    """Calls with equal shapes and other values are traced once."""
    p.analyse("given")
    p.analyse("jittered")
    traces = p.traces[p.dtype]
    if traces > 1:
        return Check("recompile", False, f"{traces} traces for calls of equal shapes, expected 1")
    return Check("recompile", True, "one trace for every call of equal shapes")


# Memory ------------------------------------------------------------------------------------


def residuals(p: Problem) -> Check:
    """The rule keeps at most what autodiff of the plain function keeps, and what it declares."""
    declared = p.options.get("residual_bytes")
    if p.way != "reverse":
        raise NotApplicableError("the plain function has no backward pass to keep anything for")
    if declared is None and not p.has_backward:
        raise NotApplicableError("no jax.custom_vjp is called")

    def kept(fun: Any) -> tuple[int, int]:
        call = functools.partial(p.call, fun)
        try:  # an index is an int64 under x64 alone
            with jax.enable_x64(p.wide_session):
                return residual_bytes(call, p.original, p.original_rest)
        except Exception:
            return residual_bytes(call, p.original, p.original_rest)

    (mine, shared), (plain, plain_shared) = kept(p.f), kept(p.target)
    p.residual_bytes = (mine, plain)
    if declared is not None:
        expected = declared(*p.args, **p.static) if callable(declared) else declared
        if mine != expected:
            return Check(
                "residuals", False, f"keeps {mine} bytes, {expected} declared (autodiff: {plain})"
            )

    def words(kept: int, of_output: int) -> str:
        return f"{kept} bytes" + (f" ({of_output} of them its output)" if of_output else "")

    message = f"keeps {words(mine, shared)}, autodiff of plain {words(plain, plain_shared)}"
    slack = 0.0
    if not p.given_plain:  # a mask, the sums of a norm: what a rule may keep to be faster
        leaves = [*p.original, *p.original_rest, *p.out_shapes]
        slack = SLACK_BYTES + sum(x.size * x.dtype.itemsize for x in leaves) / 4
    fewer = mine <= plain + slack or mine - shared <= plain - plain_shared + slack
    if not fewer and p.target is not p.plain:
        raise NotApplicableError(message)
    return Check("residuals", fewer, message)
