"""What must hold of a train step, so that its first call can speak for all that follow.

`of_trace` judges a step by its trace alone, before anything is compiled, and `of_program` the
compiled program; `require` makes exceptions and warnings of what they find. `checks.check_step`
puts them together and calls the step.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.extend.source_info_util import summarize

from funcnet._jaxprs import equations
from funcnet._reports import Check
from funcnet._validate import leaf_names

LEAVES = ("structure", "shapes", "dtypes")  # without which there is no second step


class StepError(TypeError):
    """A step breaks its contract: the message names the leaf, what came in and what came out."""

    __module__ = "funcnet.checks"  # where people find it, whoever raises it


# --- By the trace


def of_trace(jaxpr: Any, given: Any, returned: Any) -> list[Check]:
    """Judges a step by its trace: structure, shapes, dtypes, weak types, and calls of the host.

    Args:
        jaxpr: The step's, closed; the leaves of the state come first in its inputs and outputs.
        given: The state that it was traced with.
        returned: The state that it returns, of arrays or their shapes.
    """
    before = dict(zip(names(given), jaxpr.in_avals, strict=False))
    after = dict(zip(names(returned), jaxpr.out_avals, strict=False))
    weak = [
        (n, f"a weak {b.dtype} comes out, as of a Python number")
        for n, b in after.items()
        if _is_weak(b)
    ]
    return [
        *_kept(given, returned, before, after),
        verdict("weak_types", [*_weak(given), *weak], "there is none"),
        _host(jaxpr, given),
    ]


def of_leaves(given: Any, returned: Any) -> list[Check]:
    """Judges structure, shapes and dtypes alone, of trees of arrays, tracers or shapes."""
    before, after = (
        dict(zip(names(tree), jax.tree.leaves(jax.eval_shape(lambda t: t, tree)), strict=True))
        for tree in (given, returned)
    )
    return _kept(given, returned, before, after)


def _kept(given: Any, returned: Any, before: Mapping, after: Mapping) -> list[Check]:
    both = [(n, a, after[n]) for n, a in before.items() if n in after]
    shapes = [(n, f"{a.shape} in, {b.shape} out") for n, a, b in both if a.shape != b.shape]
    dtypes = [(n, f"{a.dtype} in, {b.dtype} out") for n, a, b in both if a.dtype != b.dtype]
    return [
        _structure(given, returned, before, after),
        verdict("shapes", shapes, f"{len(both)} leaves keep theirs"),
        verdict("dtypes", dtypes, f"{len(both)} leaves keep theirs"),
    ]


def names(tree: Any) -> list[str]:
    """The names of a tree's leaves, as in `opt_state[0].mu.affine1.w`."""
    return [name or "state" for name in leaf_names(tree)]


def verdict(name: str, wrong: list[tuple[str, str]], fine: str) -> Check:
    """The check of this name: failed at the first of `wrong`, (where, what), or `fine`."""
    if not wrong:
        return Check(name, True, fine)
    (where, message), *rest = wrong
    more = [other for other, _ in rest]
    if more:
        several = f" and {len(more) - 3} more" if len(more) > 3 else ""
        message += f"; the same kind of fault in {', '.join(more[:3])}{several}"
    return Check(name, False, message, where=where)


def _is_weak(aval: Any) -> bool:
    return bool(getattr(aval, "weak_type", False))


def _weak(state: Any) -> list[tuple[str, str]]:
    """The leaves that are Python numbers or have their weak type, and what is wrong with each."""
    wrong = []
    for name, leaf in zip(names(state), jax.tree.leaves(state), strict=True):
        if isinstance(leaf, (bool, int, float, complex)):
            wrong.append((name, f"a Python {type(leaf).__name__} comes in; expected an array"))
        elif _is_weak(leaf):
            wrong.append((name, f"a weak {leaf.dtype} comes in, as of a Python number"))
    return wrong


def _structure(given: Any, returned: Any, before: Mapping, after: Mapping) -> Check:
    lost = [(n, "comes in and does not come out") for n in before if n not in after]
    new = [(n, "comes out and did not come in") for n in after if n not in before]
    if lost or new:
        return verdict("structure", [*lost, *new], "")
    one: Any = jax.tree.structure(given)
    two: Any = jax.tree.structure(returned)
    if one != two:
        leaf, come, go = _first_difference(one, two)
        where = [*names(given), ""][leaf]
        message = f"the container is a {come} in, a {go} out"
        return Check("structure", False, message, where=where)
    return Check("structure", True, f"{len(before)} leaves in the same containers")


def _first_difference(a: Any, b: Any, leaf: int = 0) -> tuple[int, str, str]:
    """The number of the first leaf below the first node that differs, and what the nodes are."""
    if a.node_data() == b.node_data():
        for x, y in zip(a.children(), b.children(), strict=False):
            if x != y:
                return _first_difference(x, y, leaf)
            leaf += x.num_leaves
    return leaf, _kind(a), _kind(b)


def _kind(node: Any) -> str:
    data = node.node_data()
    if data is None:
        return "leaf"
    kind, static = data
    return kind.__name__ if kind in (tuple, list, dict, type(None)) else f"{kind.__name__} {static}"


_CALLBACKS = ("callback", "debug_print", "infeed", "outfeed")


def _host(jaxpr: Any, given: Any) -> Check:
    wrong = [
        (name, "a NumPy array, which each call would bring from the host; expected a jax.Array")
        for name, leaf in zip(names(given), jax.tree.leaves(given), strict=True)
        if isinstance(leaf, (np.ndarray, np.generic))
    ]
    for equation in equations(jaxpr):
        kind = equation.primitive.name
        if any(word in kind for word in _CALLBACKS):
            wrong.append((summarize(equation.source_info), f"{kind} asks the host at every step"))
        elif kind == "device_put" and any(map(_on_host, equation.params["devices"])):
            wrong.append((summarize(equation.source_info), "device_put into the host's memory"))
    once = list(dict.fromkeys(wrong))  # of the branches for several platforms
    return verdict("host", once, "the program does not ask the host")


def _on_host(place: Any) -> bool:
    return "host" in str(getattr(place, "memory_kind", place)).lower()


# --- By the compiled program


def of_program(program: Any, given: Any, returned: Any) -> list[Check]:
    """Judges the compiled step: whether each donated buffer is reused, and where leaves lie.

    Args:
        program: What `.compile()` gave, of a function jitted with `keep_unused=True` whose inputs
            and outputs begin with the leaves of the state.
        given: The state that it was compiled for.
        returned: The state that it returns, of arrays or their shapes.
    """
    kept = list(zip(names(given), jax.tree.leaves(given), strict=True))
    reused = _reused(program.as_text())
    copied = [
        (name, "its buffer is not reused: the step keeps the old and the new leaf")
        for number, (name, leaf) in enumerate(kept)
        if number not in reused and np.size(leaf) != 0
    ]
    count = len(kept)
    places = [
        jax.tree.leaves(of)[:count] for of in (program.input_shardings, program.output_shardings)
    ]
    moved = [
        (name, f"{_place(a)} in, {_place(b)} out")
        for (name, leaf), a, b in zip(kept, *places, strict=True)
        if not a.is_equivalent_to(b, np.ndim(leaf)) or a.memory_kind != b.memory_kind
    ]
    return [
        verdict("donation", copied, f"{count} buffers are reused"),
        verdict("sharding", moved, f"{count} leaves stay where they are"),
    ]


def _reused(text: str) -> set[int]:
    """The numbers of the parameters whose buffers an XLA program gives to its results."""
    header = text.partition("\n")[0]
    stated = re.search(r"input_output_alias=\{(.*?)\}, \w+=", header)
    return {int(n) for n in re.findall(r"\}: \((\d+), \{\}", stated[1])} if stated else set()


def _place(sharding: Any) -> str:
    spec = getattr(sharding, "spec", None)
    words = f"{spec}" if spec is not None else f"{len(sharding.device_set)} device(s)"
    return words if sharding.memory_kind in (None, "device") else f"{words} {sharding.memory_kind}"


# --- For who has the trace and the program already


def require(function: str, checks: Iterable[Check]) -> None:
    """Raises StepError where leaves do not stay what they are, and warns of what only costs.

    >>> require("fit", [Check("dtypes", False, "float32 in, float64 out", where="opt_state.nu.w")])
    Traceback (most recent call last):
    ...
    funcnet.checks.StepError: fit: opt_state.nu.w: float32 in, float64 out
    """
    failed = [check for check in checks if check.passed is False]
    wrong = [check.text for check in failed if check.name in LEAVES]
    if wrong:
        raise StepError(f"{function}: {'; '.join(wrong)}")
    for check in failed:
        text = f"{function}: the train step breaks its contract ({check.name}): {check.text}"
        warnings.warn(text, RuntimeWarning, stacklevel=4)
