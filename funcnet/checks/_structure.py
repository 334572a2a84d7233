"""The checks of one rule without a number: structures, shapes, dtypes, and weak types."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet._reports import Check, sentence
from funcnet.checks import _rules
from funcnet.checks._arguments import cast
from funcnet.checks._problem import Problem
from funcnet.checks._programs import NotApplicableError


def structure(p: Problem) -> Check:
    """Structure, shape and dtype of each cotangent, of the raw backward functions too."""
    problems: list[str] = []
    rules: list[_rules.RawRule] = []
    unseen = ""
    half = "bfloat16" in p.options.get("dtypes", ())
    for dtype in (None, np.float64, *([jnp.bfloat16] if half else [])):
        diff, rest = p.original, p.original_rest
        if dtype is not None:
            diff, rest = p.inputs_in(dtype)
        problems, seen = _problems_of(p, diff, rest, raises=dtype is None)
        if problems and not p.wide_session:  # where its constants are float32 too
            with jax.enable_x64(False):
                problems, seen = _problems_of(p, diff, rest, raises=dtype is None)
        if isinstance(seen, str):
            unseen = seen
        else:
            rules = seen
        if dtype is jnp.bfloat16 and p.original[0].dtype != dtype:
            problems = [f"in bfloat16 {problem}" for problem in problems]
        if problems:
            p.raises = p.raises or any(x.startswith("jax.vjp raised") for x in problems)
            return Check(
                "structure", False, "; ".join(problems), likely=_structure_likely(problems)
            )
    if rules:
        return Check("structure", True, f"raw cotangents of {len(rules)} rule(s) are as expected")
    return Check("structure", True, unseen or "no jax.custom_vjp is called; jax.vjp's are right")


def _problems_of(
    p: Problem, diff: Sequence[Any], rest: Sequence[Any], *, raises: bool
) -> tuple[list[str], list[_rules.RawRule] | str]:
    """What is wrong on these arrays, in sentences, and the rules or why they were not seen."""
    seen, raised = _structure_of(p, diff, rest)
    problems: list[str] = []
    if raised is not None and not raises:  # refused in this precision
        return [], seen
    for rule in seen if isinstance(seen, list) else ():
        # What raises when it is called by itself, and not as JAX calls it, is no mistake.
        own = [x for x in rule.problems if raised or not x.startswith(_rules.RAISED)]
        problems += [f"{rule.name}: {problem}" for problem in own]
    # In another precision a function answers for its rules alone, and not for what is beside them.
    if raises or _rules.is_rule(p.f) or diff[0].dtype == np.float64:
        problems += [x for x in raised or _dtypes_of(p, diff, rest) if x not in problems]
    return problems, seen


def _structure_of(
    p: Problem, diff: Sequence[Any], rest: Sequence[Any]
) -> tuple[list[_rules.RawRule] | str, list[str] | None]:
    """The raw rules as they are called on these arrays, and what `jax.vjp` says of them."""
    n = len(diff)

    def run(*arrays: Any) -> Any:
        return p.f(*p.arguments(arrays[:n], arrays[n:]), **p.static)

    found: list[_rules.RawRule] | str
    try:
        found = _rules.raw_rules(run, *diff, *rest)
    except Exception as error:
        found = f"the raw rule could not be called by itself ({sentence(error)})"
    try:
        p.gradient_shapes(diff, rest)
    except (NotImplementedError, RuntimeError) as error:
        if diff is p.original:
            p.raises = True
            raise NotApplicableError(
                f"it refuses to be differentiated: {sentence(error)}"
            ) from None
        return found, [f"jax.vjp raised {sentence(error)}"]
    except Exception as error:
        return found, [f"jax.vjp raised {sentence(error)}"]
    return found, None


def _dtypes_of(p: Problem, diff: Sequence[Any], rest: Sequence[Any]) -> list[str]:
    return [
        f"the gradient of {name} has dtype {grad.dtype}, the argument {given.dtype}"
        for name, given, grad in zip(p.diff_names, diff, p.gradient_shapes(diff, rest), strict=True)
        if grad.dtype != given.dtype
    ]


def _structure_likely(problems: Sequence[str]) -> str:
    text = " ".join(problems)
    for key, words in (
        ("copies to every leaf", "a prefix of the argument's tree, broadcast to its leaves"),
        ("transpose", "a missing transpose"),
        ("dtype", "a gradient of the wrong dtype"),
        ("integer argument", "a wrong cotangent for an integer argument"),
    ):
        if key in text:
            return words
    return ""


def weak_types(p: Problem) -> Check:
    """Python numbers and weakly typed arrays do not change the dtype of what comes out."""
    names = [*p.out_names, *(f"the gradient of {n}" for n in p.diff_names)]

    def dtypes(arrays: Sequence[Any], others: Sequence[Any], vjp: Callable) -> list[Any]:
        def run(given: Any, rest: Any, cts: Any) -> Any:
            filled = [x if isinstance(x, float) else y for x, y in zip(arrays, given, strict=True)]
            outputs, pull, _ = vjp(filled, rest)
            return outputs, pull(cts)

        given = [np.zeros(()) if isinstance(x, float) else x for x in arrays]
        shapes = jax.eval_shape(run, given, others, p.cotangent(0))
        return [x.dtype for x in jax.tree.leaves(shapes)]

    mine = functools.partial(p.vjp, p.f)
    tried = 0
    wide = [cast(x, p.dtype) for x in p.original]
    wide_rest, cases = p.rest_in(p.dtype), []
    for i, leaf in enumerate(p.original):
        if wide[i].dtype == np.float64:  # JAX's own default: weak values mixed have this dtype too
            like = jax.ShapeDtypeStruct(leaf.shape, np.float64, weak_type=True)
            given = [like if j == i else x for j, x in enumerate(wide)]
            cases.append((i, "weakly typed", wide, given, wide_rest))
        others = [x.dtype for j, x in enumerate(p.original) if j != i]
        if leaf.ndim == 0 and leaf.dtype.kind == "f" and leaf.dtype in others:
            given = [float(leaf) if j == i else x for j, x in enumerate(p.original)]
            cases.append((i, "a Python number", p.original, given, p.original_rest))
    for i, kind, strong, weak, others in cases:
        try:
            before, after = (dtypes(arrays, others, mine) for arrays in (strong, weak))
        except Exception:
            if _takes(p, weak, others):
                raise
            continue
        tried += 1
        if before == after:
            continue
        with contextlib.suppress(Exception):  # nor what else a function does beside its rules
            if not _rules.is_rule(p.f) and dtypes(weak, others, p.truth_vjp) == after:
                continue
        for j, (a, b) in enumerate(zip(before, after, strict=True)):
            # The gradient of a Python number has the dtype that JAX gives Python numbers.
            if a != b and j != len(p.out_names) + i:
                message = f"{names[j]} changes from {a} to {b} when this is {kind}"
                return Check("weak_types", False, message, where=p.diff_names[i])
    if not tried:
        raise NotApplicableError("no argument that could be weakly typed")
    return Check("weak_types", True, f"{tried} weak inputs leave every dtype as it was")


def _takes(p: Problem, arrays: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether the plain function can be called with these."""
    try:
        jax.make_jaxpr(lambda rest: p.call(p.plain, arrays, rest))(others)
    except Exception:
        return False
    return True
