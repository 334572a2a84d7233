"""The checks of one rule under transformations, precisions, batch sizes and non-finite inputs."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet._reports import Check, sentence
from funcnet.checks import _comparison as cmp
from funcnet.checks._arguments import cast
from funcnet.checks._diagnosis import explains
from funcnet.checks._problem import Problem
from funcnet.checks._programs import NotApplicableError, quick_jit
from funcnet.checks._rule_checks import compared, unless_it_leaves_a_set, worst_of

Bank = list[Any]  # one leaf of the arguments at two samples, stacked


class Transforms:
    """The rule under vmap, scan, cond and remat, all in one program, and a loop to compare with.

    Every leaf of the arguments has two values: that of the smooth sample and a neighbour's. A
    variant is the set of arguments that are mapped; the loop evaluates the rule at both ends of
    every variant, unbatched.
    """

    def __init__(self, p: Problem, fun: Callable | None = None):
        self.p = p
        self.fun = p.f if fun is None else fun
        base = p.smooth.diff
        neighbour = [cast(x, p.dtype) for x in p.samples["jittered"]]
        self.diff = [np.stack(pair) for pair in zip(base, neighbour, strict=True)]
        self.rest = [_two(x) for x in p.rest_in(p.dtype)]
        self.cts = [ct[p.rows.random[:2]] for ct in p.cotangents]
        self.diff_arg = [p.argument[i] for i in p.where_diff]
        self.rest_arg = [p.argument[i] for i in p.where_rest]
        self.arguments = sorted({*self.diff_arg, *self.rest_arg})
        alone = [frozenset([i]) for i in self.arguments]
        everything = frozenset(self.arguments)
        self.variants = alone + ([everything] if len(self.arguments) > 1 else [])
        self.heard = [self._touched(variant) for variant in self.variants]

    def label(self, variant: frozenset[int]) -> str:
        """The mapped arguments by name."""
        return ", ".join(self.p.argument_names[i] for i in sorted(variant))

    def _touched(self, variant: frozenset[int]) -> list[bool]:
        """Of each output whether it depends on the mapped arguments."""
        inputs = [*self.diff_arg, *self.rest_arg]
        return [any(inputs[i] in variant for i in touched) for touched in self.p.body.touches]

    def shared(self) -> str:
        """The outputs that some mapped argument does not touch, as a sentence."""
        for variant, heard in zip(self.variants, self.heard, strict=True):
            names = [n for n, h in zip(self.p.out_names, heard, strict=True) if not h]
            if names:
                return (
                    f"; {', '.join(names)} does not depend on {self.label(variant)}: jax 0.10 "
                    "counts the cotangent of such a shared output once per example, jax 0.12 "
                    "refuses it, so it is zero here"
                )
        return ""

    def programs(self) -> dict[str, Callable]:
        """Each transformed computation, by a name; all take (diff, rest, cotangents) banks."""
        found: dict[str, Callable] = {"loop": self._loop}
        for i, variant in enumerate(self.variants):
            found[f"vmap:{i}:0"] = functools.partial(self._vjp_of_vmap, variant)
            found[f"vmap:{i}:-1"] = functools.partial(self._vmap_of_vjp, variant)
        found |= {"scan": self._scan, "cond": self._cond, "remat": self._remat}
        return found

    @functools.cached_property
    def results(self) -> dict[str, Any]:
        """The result of each program, or the exception that it raised."""
        programs, banks = self.programs(), (self.diff, self.rest, self.cts)

        def compiled(names: Iterable[str]) -> dict[str, Any]:
            def run(*banks: Any) -> Any:
                return {name: programs[name](*banks) for name in names}

            return jax.device_get(quick_jit(run)(*banks))

        try:
            return compiled(programs)
        except Exception:  # find out which of them it was
            results: dict[str, Any] = {}
            for name in programs:
                try:
                    results |= compiled([name])
                except Exception as error:
                    results[name] = error
            return results

    def result(self, name: str) -> Any:
        """One program's result; raises what it raised."""
        found = self.results[name]
        if not isinstance(found, Exception):
            return found
        without = Transforms(self.p, self.p.plain).programs()[name]
        try:
            jax.make_jaxpr(without)(self.diff, self.rest, self.cts)
        except Exception:
            reason = f"the plain function cannot either: {sentence(found, 120)}"
            raise NotApplicableError(reason) from None
        raise found

    # The programs --------------------------------------------------------------------------

    def _full(self, diff: Bank, rest: Bank, variant: frozenset[int]) -> tuple[Bank, Bank]:
        """Both samples of the mapped arguments, the first twice of the others."""

        def pick(bank: Any, argument: int) -> Any:
            return bank if argument in variant else bank[np.array([0, 0])]

        return (
            [pick(x, i) for x, i in zip(diff, self.diff_arg, strict=True)],
            [pick(x, i) for x, i in zip(rest, self.rest_arg, strict=True)],
        )

    def _loop(self, diff: Bank, rest: Bank, cts: Bank) -> Any:
        ends = [self._full(diff, rest, v) for v in self.variants]
        stacked = jax.tree.map(lambda *x: jnp.concatenate(x), *ends)
        all_cts = [
            jnp.concatenate([_if(heard[out], ct) for heard in self.heard])
            for out, ct in enumerate(cts)
        ]

        def one(point: Any) -> Any:
            (d, r), ct = point
            out, pull, _ = self.p.vjp(self.fun, d, r)
            return out, pull(ct)

        return jax.lax.map(one, (stacked, all_cts))

    def _mapped(self, variant: frozenset[int], diff: Bank, rest: Bank, axis: int) -> Any:
        def pick(bank: Any, argument: int) -> tuple[Any, int | None]:
            if argument not in variant:
                return bank[0], None
            return (jnp.moveaxis(bank, 0, axis) if axis else bank), axis

        d = [pick(x, i) for x, i in zip(diff, self.diff_arg, strict=True)]
        r = [pick(x, i) for x, i in zip(rest, self.rest_arg, strict=True)]
        return [x for x, _ in d], [a for _, a in d], [x for x, _ in r], [a for _, a in r]

    def _vjp_of_vmap(self, variant: frozenset[int], diff: Bank, rest: Bank, cts: Bank) -> Any:
        p = self.p
        d, d_axes, r, r_axes = self._mapped(variant, diff, rest, 0)
        heard = self.heard[self.variants.index(variant)]
        cts = list(map(_if, heard, cts))
        batched = jax.vmap(lambda d, r: p.call(self.fun, d, r)[0], in_axes=(d_axes, r_axes))
        out, pullback = jax.vjp(lambda *d: batched(list(d), r), *d)
        return out, list(pullback([ct.astype(o.dtype) for ct, o in zip(cts, out, strict=True)]))

    def _vmap_of_vjp(self, variant: frozenset[int], diff: Bank, rest: Bank, cts: Bank) -> Any:
        d, d_axes, r, r_axes = self._mapped(variant, diff, rest, -1)
        heard = self.heard[self.variants.index(variant)]
        cts = list(map(_if, heard, cts))

        def one(d: Any, r: Any, ct: Any) -> Any:
            out, pull, _ = self.p.vjp(self.fun, d, r)
            return out, pull(ct)

        return jax.vmap(one, in_axes=(d_axes, r_axes, 0))(d, r, cts)

    def _scan(self, diff: Bank, rest: Bank, cts: Bank) -> Any:
        def scanned(*diff: Any) -> Any:
            def body(carry: Any, point: Any) -> Any:
                return carry, self.p.call(self.fun, *point)[0]

            return jax.lax.scan(body, None, (list(diff), rest))[1]

        out, pullback = jax.vjp(scanned, *diff)
        return out, list(pullback([ct.astype(o.dtype) for ct, o in zip(cts, out, strict=True)]))

    def _first(self, diff: Bank, rest: Bank, cts: Bank) -> Any:
        return [x[0] for x in diff], [x[0] for x in rest], [x[0] for x in cts]

    def _cond(self, diff: Bank, rest: Bank, cts: Bank) -> Any:
        d, r, ct = self._first(diff, rest, cts)
        taken = ct[0].size >= 0 if not ct else jnp.sum(jnp.abs(ct[0])) >= 0  # not known when traced

        def branching(take: Any) -> Any:
            def run(*d: Any) -> Any:
                return jax.lax.cond(
                    take,
                    lambda d: self.p.call(self.fun, d, r)[0],
                    lambda d: jax.tree.map(
                        jnp.zeros_like, self.p.call(self.fun, jax.lax.stop_gradient(d), r)[0]
                    ),
                    list(d),
                )

            out, pullback = jax.vjp(run, *d)
            return out, list(pullback([c.astype(o.dtype) for c, o in zip(ct, out, strict=True)]))

        return branching(taken), branching(~taken)

    def _remat(self, diff: Bank, rest: Bank, cts: Bank) -> Any:
        d, r, ct = self._first(diff, rest, cts)
        found = []
        for policy in (None, jax.checkpoint_policies.dots_saveable):
            run = jax.checkpoint(lambda *d: self.p.call(self.fun, d, r)[0], policy=policy)
            out, pullback = jax.vjp(run, *d)
            grads = pullback([c.astype(o.dtype) for c, o in zip(ct, out, strict=True)])
            found.append((out, list(grads)))
        return found

    # The comparisons -----------------------------------------------------------------------

    def compare(
        self, name: str, out: Any, grads: Any, want_out: Any, want_grads: Any, what: str, lead: int
    ) -> Check:
        """Outputs and gradients of a transformed rule against the loop's."""
        p, a = self.p, self.p.smooth
        scale = [max(cmp.largest(x), 1e-300) * p.eps for x in (*want_out, *want_grads)]
        base = p.units(name, [*a.value_scales, *a.grad_scales])
        return compared(
            name,
            [*p.out_names, *(f"gradient of {n}" for n in p.diff_names)],
            [*out, *grads],
            [*want_out, *want_grads],
            [max(pair) for pair in zip(scale, base, strict=True)],
            p.c(name),
            what=what,
            skip_axes=lead,
        )


def _if(heard: bool, cotangent: Any) -> Any:
    return cotangent if heard else jnp.zeros_like(cotangent)


def _two(leaf: Any) -> Any:
    """Two samples of an array that is not differentiated: integers rolled, keys folded."""
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        other = leaf if leaf.ndim else jax.random.fold_in(leaf, 1)
        return jnp.stack([leaf, other])
    leaf = np.asarray(leaf)
    return np.stack([leaf, np.roll(leaf, 1, axis=0) if leaf.ndim else leaf])


def vmap(t: Transforms) -> Check:
    """Vmap over each argument and over all, axes 0 and -1, outputs and VJP against the loop."""
    outs, grads = t.result("loop")
    checks = []
    for i, variant in enumerate(t.variants):
        out = [x[2 * i : 2 * i + 2] for x in outs]
        each = [x[2 * i : 2 * i + 2] for x in grads]
        summed = [
            x if argument in variant else x.sum(0)
            for x, argument in zip(each, t.diff_arg, strict=True)
        ]
        for axis, want in ((0, summed), (-1, each)):
            what = f"vmap over {t.label(variant)} (in_axes={axis}): "
            try:
                got_out, got = t.result(f"vmap:{i}:{axis}")
            except NotApplicableError:
                raise
            except Exception as error:
                if axis == 0 and not all(t.heard[i]):
                    continue  # jax refuses it, see `shared`
                return Check("vmap", False, what + f"raised {sentence(error)}")
            if any(np.shape(x) != np.shape(y) for x, y in zip(got, want, strict=True)):
                shapes = [np.shape(x) for x in got], [np.shape(x) for x in want]
                return Check("vmap", False, what + f"gradient shapes {shapes[0]}, not {shapes[1]}")
            check = t.compare("vmap", got_out, got, out, want, what, 0)
            if check.passed is False:
                return dataclasses.replace(check, likely=_summed_over_batch(got, each))
            checks.append(check)
    best = worst_of(checks)
    message = f"{len(t.variants)} sets of arguments, in_axes 0 and -1{t.shared()}"
    return Check("vmap", True, message, worst=best.worst, tolerance=best.tolerance)


def _summed_over_batch(got: Sequence[Any], each: Sequence[Any]) -> str:
    for x, y in zip(map(cmp.widen, got), map(cmp.widen, each), strict=True):
        total = y.sum(0)
        for axis_sum, words in (
            (np.stack([total] * 2), "every example has the gradient of the whole batch"),
            (2 * total, "the batch is summed twice"),
        ):
            if axis_sum.shape == x.shape and explains(axis_sum, x):
                return f"a sum over the mapped axis inside the rule: {words}"
    return ""


def scan(t: Transforms) -> Check:
    """The gradient of a scan whose body calls the rule, against the loop."""
    outs, grads = t.result("loop")
    out, got = t.result("scan")
    return t.compare(
        "scan", out, got, [x[-2:] for x in outs], [x[-2:] for x in grads], "in a scan's body ", 1
    )


def cond(t: Transforms) -> Check:
    """The gradient of a cond whose branch calls the rule: taken, and not taken."""
    outs, grads = t.result("loop")
    (out, got), (_, idle) = t.result("cond")
    for name, x in zip(t.p.diff_names, idle, strict=True):
        if np.any(cmp.widen(x) != 0):
            return Check("cond", False, "a branch not taken has a gradient", where=name)
    want = [x[-2] for x in outs], [x[-2] for x in grads]
    return t.compare("cond", out, got, *want, "in a cond ", 0)


def remat(t: Transforms) -> Check:
    """Gradients under `jax.checkpoint`, with two policies."""
    outs, grads = t.result("loop")
    want = [x[-2] for x in outs], [x[-2] for x in grads]
    return worst_of(
        [t.compare("remat", out, got, *want, "under remat ", 0) for out, got in t.result("remat")]
    )


# Second order ------------------------------------------------------------------------------


def second_order(p: Problem) -> Check:
    """The gradient of the gradient, reverse over reverse, against that of the plain function."""
    ct = p.cotangent(p.rows.random[0])
    directions = [
        np.asarray(p.rng.choice([-1.0, 1.0], x.shape) * p.rng.uniform(0.5, 2, x.shape))
        for x in p.diff
    ]

    def twice(fun: Callable, diff: Any, rest: Any, ct: Any, v: Any) -> Any:
        def first(diff: Any, ct: Any) -> Any:
            return p.vjp(fun, diff, rest)[1](ct)

        grads, pullback = jax.vjp(first, diff, ct)
        return pullback([x.astype(g.dtype) for x, g in zip(v, grads, strict=True)])

    @quick_jit
    def both(diff: Any, rest: Any, ct: Any, v: Any) -> Any:
        return [jax.tree.leaves(twice(fun, diff, rest, ct, v)) for fun in (p.f, p.target)]

    diff, rest = p.smooth.diff, p.rest_in(p.dtype)

    def shaken(step: float) -> Any:
        def shake(leaves: Any) -> Any:
            return [cmp.perturbed(x, step, p.rng).astype(x.dtype) for x in leaves]

        return jax.device_get(both(shake(diff), rest, shake(ct), shake(directions)))

    got, want = _twice(p, both, diff, rest, ct, directions)
    step = max(cmp.SENSITIVITY_STEP, 2.0**10 * p.eps)
    sensitivity = cmp.moves([shaken(step)[1] for _ in range(2)], want)
    noisy = [shaken(4 * p.eps) for _ in range(2)]
    noise = [
        max(pair)
        for pair in zip(
            cmp.moves([n[0] for n in noisy], got),
            cmp.moves([n[1] for n in noisy], want),
            strict=True,
        )
    ]
    sizes = [cmp.largest(x) for x in want]
    scales = cmp.scales(sizes, [s / step for s in sensitivity], noise, p.k, p.eps)
    names = [f"d²/d{n}" for n in p.diff_names] + [f"d²/d({n})" for n in p.out_names]
    c = 8 * p.c("second_order")  # two chains of products and sums, not one
    found = compared("second_order", names, got, want, p.units("second_order", scales), c)
    unless_it_leaves_a_set(p, found)
    if found.passed is False:
        likely = (
            "a residual that does not depend on the inputs (a stop_gradient, a constant), or a "
            "backward function that is not differentiable as written"
        )
        return dataclasses.replace(found, likely=likely)
    return found


def _twice(p: Problem, both: Callable, *arguments: Any) -> Any:
    """Second derivatives of rule and plain function; says why where there are none."""
    if p.options.get("second_order") is False:
        raise NotApplicableError("declared second_order=False")
    if p.way != "reverse":
        raise NotApplicableError("the plain function has no second derivative to compare with")
    try:
        return jax.device_get(both(*arguments))
    except Exception as error:  # a rule that says that it is differentiated once is no wrong rule
        reason = f"differentiated once only: a second time raises {sentence(error, 120)}"
        raise NotApplicableError(reason) from None


def forward_over_reverse(p: Problem) -> Check:
    """`jax.hessian` and `jvp` of a gradient work and are right, or raise."""
    ct, diff, rest = p.cotangent(p.rows.random[0]), p.smooth.diff, p.rest_in(p.dtype)
    tangents = [np.asarray(p.rng.choice([-1.0, 1.0], x.shape)).astype(x.dtype) for x in diff]

    def push(fun: Callable, diff: Any, rest: Any, tangents: Any) -> Any:
        def grads(diff: Any) -> Any:
            return p.vjp(fun, diff, rest)[1](ct)

        return jax.jvp(grads, (diff,), (tangents,))[1]

    @quick_jit
    def both(diff: Any, rest: Any, tangents: Any) -> Any:
        return push(p.f, diff, rest, tangents), push(p.target, diff, rest, tangents)

    got, want = _twice(p, both, diff, rest, tangents)
    near = [cmp.perturbed(x, cmp.SENSITIVITY_STEP, p.rng).astype(x.dtype) for x in diff]
    moved = jax.device_get(both(near, rest, tangents))[1]
    sensitivity = [m / cmp.SENSITIVITY_STEP for m in cmp.moves([moved], want)]
    top = max([cmp.largest(x) for x in want] + [s.largest for s in p.smooth.grad_scales])
    scale = [p.eps * (top + s) for s in sensitivity]
    c = 8 * p.c("forward_over_reverse")
    found = compared("forward_over_reverse", p.diff_names, got, want, scale, c)
    unless_it_leaves_a_set(p, found)
    return found
