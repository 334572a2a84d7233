"""The checks of one rule on other inputs: precisions, batch sizes, non-finite numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet._reports import Check, sentence
from funcnet.checks import _comparison as cmp
from funcnet.checks import _rules
from funcnet.checks._arguments import cast, is_floating
from funcnet.checks._problem import Problem
from funcnet.checks._programs import NotApplicableError, quick_jit
from funcnet.checks._rule_checks import compared, unless_it_leaves_a_set, worst_of

REFUSALS = (TypeError, ValueError, NotImplementedError)

# Precision ---------------------------------------------------------------------------------


def precision(p: Problem, dtype: Any) -> Check:
    """One lower precision against the float64 truth on the same rounded inputs."""
    name = jnp.dtype(dtype).name
    if any(x.dtype.kind == "c" for x in p.diff) and jnp.dtype(dtype).itemsize == 2:
        raise NotApplicableError("complex inputs have no 16-bit precision")
    if p.iterates:
        raise NotApplicableError(f"an iteration whose tolerance {name} may never reach")
    diff = [cast(x, dtype) for x in p.smooth.diff]
    rest = p.rest_in(dtype)
    try:
        shapes = p.in_either_session(lambda: p.abstract(p.f, dtype))
    except REFUSALS as error:
        raise NotApplicableError(f"refuses {name}: {sentence(error, 120)}") from None
    cts = [cast(ct, dtype).astype(ct.dtype) for ct in p.cotangents]
    try:
        got = p.in_either_session(lambda: p.run_rule(diff, rest, cts))
        if not p.wide_session and any(
            g.dtype != x.dtype for g, x in zip(got.grads, diff, strict=True)
        ):  # as with a NumPy scalar, which is a float64 under x64 alone
            with jax.enable_x64(False):
                got = p.run_rule(diff, rest, cts)
    except Exception as error:
        _unless_plain_runs(p, dtype, error)
        if not _rules.is_rule(p.f) and isinstance(error, REFUSALS):
            raise NotApplicableError(
                f"its gradient refuses {name}: {sentence(error, 120)}"
            ) from None
        raise
    wide, wide_rest = p.wide(diff), [cast(x, p.truth) for x in rest]
    want = p.run_plain(wide, wide_rest, cts)
    for leaf, out, grad in zip(p.diff_names, diff, got.grads, strict=True):
        if grad.dtype != out.dtype:
            message = f"the gradient is {grad.dtype} for an argument of {out.dtype}"
            return Check(name, False, message, where=leaf, likely="a gradient of the wrong dtype")
    out_dtypes = [x.dtype for x in jax.tree.leaves(shapes) if is_floating(x)]
    # What the inputs' own rounding does, entry by entry: a kink next to an input is no error.
    one = max(cmp.eps(dtype), p.eps)  # a body may be coarser than what comes out of it
    step = 2 * one
    runs = [
        p.run_plain(p.wide([cmp.perturbed(x, step, p.rng) for x in wide]), wide_rest, cts)
        for _ in range(8)
    ]
    base = {"value": p.smooth.value_scales, "grads": p.smooth.grad_scales}
    checks = []
    limit = float(jnp.finfo(dtype).max)
    for part, names, lead in (("value", p.out_names, 0), ("grads", p.diff_names, 1)):
        start = [cmp.widen(x) for x in getattr(want, part)]
        scale = []
        for i, x in enumerate(start):
            with np.errstate(all="ignore"):
                moved = np.max([np.abs(cmp.widen(getattr(r, part)[i]) - x) for r in runs], axis=0)
            moved = np.where(np.isfinite(moved), moved, 0.0)
            noise = base[part][i].unit / p.eps  # of a gradient that is zero but for rounding
            scale.append(one * np.maximum(noise, cmp.largest(x) + 0.5 * moved / one))
        if part == "value":  # an output in a wider dtype is exact to that dtype's own eps at best
            scale = [
                s if cmp.eps(d) <= one else s * cmp.eps(d) / one
                for s, d in zip(scale, out_dtypes, strict=True)
            ]
        start = [np.where(np.abs(x) > limit, np.nan, x) for x in start]  # overflows: not judged
        c = p.c(name, dtype)
        found = compared(name, names, getattr(got, part), start, scale, c, skip_axes=lead)
        if found.passed is False and not _rules.is_rule(p.f):
            # Of a function that calls rules among other things: as good as without them.
            low = getattr(p.run_plain(diff, rest, cts), part)
            c = max(c, 4 * (compared(name, names, low, start, scale, c).worst or 0.0))
            found = compared(name, names, getattr(got, part), start, scale, c, skip_axes=lead)
        checks.append(found)
    return worst_of(checks)


def _unless_plain_runs(p: Problem, dtype: Any, error: Exception) -> None:
    """What the plain function cannot do in a precision counts against no rule."""
    diff, rest = [cast(x, dtype) for x in p.smooth.diff], p.rest_in(dtype)
    try:
        jax.jit(lambda d, r: p.vjp(p.target, d, r)[1](p.cotangent(0)))(diff, rest)
    except Exception:
        reason = f"the plain function cannot either: {sentence(error, 120)}"
        raise NotApplicableError(reason) from None


# Batch sizes -------------------------------------------------------------------------------


def batch_arguments(p: Problem) -> tuple[list[int], int]:
    """The arguments that carry the batch, and its size."""
    given = p.options.get("batch_argnums")
    if p.options.get("batch_axis", 0) is None:
        raise NotApplicableError("declared batch_axis=None")
    lengths: dict[int, int] = {}
    ranks: dict[int, int] = {}
    for i in sorted(set(p.argument)):
        arrays = [
            x
            for j, x in enumerate(p.leaves)
            if p.argument[j] == i and j in (*p.where_diff, *p.where_rest)
        ]
        sizes = {np.shape(x)[0] if np.ndim(x) else None for x in arrays}
        if len(sizes) == 1 and None not in sizes and arrays:
            lengths[i] = np.shape(arrays[0])[0]
            ranks[i] = max(np.ndim(x) for x in arrays)
    if given is not None:
        return list(given), lengths[given[0]] if given else 0
    if not lengths:
        raise NotApplicableError("no argument has a leading batch axis")
    size = lengths[max(ranks, key=lambda i: (ranks[i], i))]
    return [i for i, n in lengths.items() if n == size], size


def batch(p: Problem, name: str, size: int) -> Check:
    """A batch of one or of none: right, or refused with a clear ValueError or TypeError."""
    chosen, full = batch_arguments(p)
    if full <= size:
        raise NotApplicableError(f"the batch has {full} rows as given")

    def cut(leaves: Sequence[Any], where: Sequence[int]) -> list[Any]:
        return [
            x[:size] if p.argument[i] in chosen else x for x, i in zip(leaves, where, strict=True)
        ]

    diff, rest = cut(p.smooth.diff, p.where_diff), cut(p.rest_in(p.dtype), p.where_rest)
    run = jax.jit(functools.partial(_once, functools.partial(p.vjp, p.f)))
    plain = jax.jit(functools.partial(_once, p.truth_vjp))
    try:
        shapes = plain.eval_shape(diff, rest)
    except Exception as error:
        shapes = error
    try:
        mine = run.eval_shape(diff, rest)
    except (ValueError, TypeError) as error:
        if isinstance(shapes, Exception) and not p.given_plain:
            raise NotApplicableError(f"refuses it: {sentence(error, 120)}") from None
        return Check(name, bool(str(error).strip()), f"refuses it: {sentence(error, 120)}")
    except Exception as error:
        if isinstance(shapes, Exception):
            raise NotApplicableError(f"refuses it: {sentence(error, 120)}") from None
        message = f"raised {sentence(error)}, expected a result, a ValueError or a TypeError"
        return Check(name, False, message)
    if isinstance(shapes, Exception):
        raise NotApplicableError(f"the plain function refuses it: {sentence(shapes, 120)}")
    if [x.shape for x in jax.tree.leaves(mine)] != [x.shape for x in jax.tree.leaves(shapes)]:
        got, want = ([x.shape for x in jax.tree.leaves(y)] for y in (mine, shapes))
        return Check(name, False, f"shapes {got}, expected {want} as the plain function")
    both = quick_jit(lambda d, r: (run(d, r), plain(d, r)))
    try:
        (out, grads), (want_out, want_grads) = jax.device_get(both(diff, rest))
    except Exception:
        _refused_by_compiler(plain, diff, rest)
        raise
    near = [cmp.perturbed(x, cmp.SENSITIVITY_STEP, p.rng).astype(x.dtype) for x in diff]
    moved_out, moved_grads = jax.device_get(both(near, rest))[1]
    start, moved = [*want_out, *want_grads], [*moved_out, *moved_grads]
    sensitivity = [m / cmp.SENSITIVITY_STEP for m in cmp.moves([moved], start)]
    base = p.units(name, [*p.smooth.value_scales, *p.smooth.grad_scales])
    scale = [
        max(u, p.eps * (cmp.largest(x) + s))
        for u, x, s in zip(base, start, sensitivity, strict=True)
    ]
    found = compared(
        name,
        [*p.out_names, *(f"gradient of {n}" for n in p.diff_names)],
        [*out, *grads],
        start,
        scale,
        p.c(name),
        good=f"{size} of {full} rows",
    )
    return unless_it_leaves_a_set(p, found)


def _refused_by_compiler(plain: Callable, diff: Any, rest: Any) -> None:
    try:
        plain(diff, rest)
    except Exception as error:
        reason = f"the plain function does not compile: {sentence(error, 120)}"
        raise NotApplicableError(reason) from None


def _once(vjp: Callable, diff: Any, rest: Any) -> Any:
    out, pull, _ = vjp(diff, rest)
    pattern = [
        1.0 + 0.5 * jnp.cos(jnp.arange(o.size, dtype=np.float64)).reshape(o.shape) for o in out
    ]
    return list(out), pull(pattern)
