"""One optimizer put through what training does to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from funcnet._reports import Check, sentence
from funcnet.checks import _comparison as cmp
from funcnet.checks._arguments import cast
from funcnet.checks._foreign_optimizers import EagerOptimizer
from funcnet.checks._optimizer_runs import Comparison
from funcnet.checks._programs import NotApplicableError
from funcnet.checks._rule_checks import entry, number

STEPS = 10  # of every short run: one compilation for each precision
PRECISIONS = (np.float64, np.float32, jnp.bfloat16, np.float16)


def zero_gradients(c: Comparison) -> Check:
    """Zero gradients give finite updates in every precision, and zeros where theirs does."""
    zeros = jax.tree.map(lambda g: 0 * g, c.random_gradients(STEPS))
    still = False
    if c.theirs is not None:
        still = not any(np.any(u) for u in c.theirs.either(c.params, zeros, STEPS).updates)
    judged = []
    for dtype in PRECISIONS:
        try:
            run = c.ours.run(c.params, zeros, STEPS, dtype)
        except NotApplicableError:
            continue
        judged.append(jnp.dtype(dtype).name)
        for name, update in zip(c.names, run.updates, strict=True):
            if not np.isfinite(cmp.widen(update)).all():
                likely = "0/0: an eps that is zero in this precision"
                message = f"a zero gradient gives {_first_bad(update)} in {jnp.dtype(dtype).name}"
                return Check("zero_gradients", False, message, where=name, likely=likely)
            if still and np.any(cmp.widen(update) != 0):
                message = f"a zero gradient moves the parameters in {jnp.dtype(dtype).name}"
                return Check("zero_gradients", False, message + ", theirs not", where=name)
    words = "no update" if still else "finite updates"
    return Check("zero_gradients", True, f"{words} in {', '.join(judged)}")


def _first_bad(array: Any) -> Any:
    wide = cmp.widen(array)
    return wide[~np.isfinite(wide)].flat[0]


def precision(c: Comparison, dtype: Any) -> Check:
    """Ten steps in a lower precision: finite, of the parameters' dtype, the first near float64's.

    Finite for gradients of 1e-3 to 3; near for those of 0.1 to 3, whose squares and whatever eps
    an optimizer needs in float16 are no matter there. An update that is a difference of parameters
    carries their rounding: the parameters are 0 for it.
    """
    name = jnp.dtype(dtype).name
    run = c.ours.run(c.params, c.random_gradients(STEPS, -3.0, 0.5), STEPS, dtype)
    for where, update, moved in zip(c.names, run.updates, run.params, strict=True):
        if update.dtype != jnp.dtype(dtype):
            return Check(name, False, f"the update is {update.dtype}, the parameter {name}", where)
        for array in (update, moved):
            if not np.isfinite(cmp.widen(array)).all():
                message = f"{_first_bad(array)} within ten steps with gradients of 1e-3 to 3"
                return Check(name, False, message, where, likely="an eps or a square that is zero")
    # The same rounded inputs: what is judged is the optimizer's rounding, and not the inputs'.
    start = c.params
    if isinstance(c.optimizer, EagerOptimizer):
        start = jax.tree.map(lambda x: np.zeros_like(np.asarray(x)), start)
    given = start, c.random_gradients(STEPS, -1.0, 0.5)
    params, gradients = (jax.tree.map(lambda x: cmp.widen(cast(x, dtype)), t) for t in given)
    run = c.ours.run(*given, STEPS, dtype)
    truth = c.ours.either(params, gradients, STEPS)
    # Room for the products of an orthogonalisation in float32, for a few roundings in 16 bits.
    worst, tolerance = 0.0, 64.0 if dtype == np.float32 else 16.0
    for where, update, want in zip(c.names, run.updates, truth.updates, strict=True):
        found = cmp.difference(update[0], want[0], cmp.eps(dtype) * (cmp.largest(want[0]) or 1.0))
        worst = max(worst, found.error)
        if found.error > tolerance:
            message = f"first update {number(found.got)}, in float64 {number(found.expected)}"
            return Check(name, False, message, entry(where, found.at), found.error, tolerance)
    return Check(name, True, "ten steps finite", worst=worst, tolerance=tolerance)


def counter(c: Comparison) -> Check:
    """Step counters near their maximum saturate, and the updates stay finite."""
    _traceable(c)
    start = c.optimizer.init(_wide(c.params))
    leaves, tree = jax.tree.flatten(start)
    where = [i for i, x in enumerate(leaves) if _is_counter(x)]
    if not where:
        raise NotApplicableError("the state holds no integer")
    for i in where:
        top = np.iinfo(leaves[i].dtype).max
        leaves[i] = jnp.full_like(leaves[i], top - 2)
    gradients = c.random_gradients(5)
    params, state = _wide(c.params), jax.tree.unflatten(tree, leaves)
    names = ["state" + keystr(path) for path, _ in tree_flatten_with_path(start)[0]]
    for step in range(5):
        before = jax.tree.leaves(state)
        grads = jax.tree.map(lambda g, step=step: jnp.asarray(g[step]), gradients)
        updates, state = c.optimizer.update(grads, state, params)
        after = jax.tree.leaves(state)
        for i in where:
            if np.any(np.asarray(after[i]) < np.asarray(before[i])):
                message = f"{before[i]} is followed by {after[i]}: an overflow"
                likely = "a counter without saturation (optax.safe_increment)"
                return Check("counter", False, message, names[i], likely=likely)
        if not all(np.isfinite(cmp.widen(u)).all() for u in jax.tree.leaves(updates)):
            return Check("counter", False, f"an update is not finite at step {after[where[0]]}")
    return Check("counter", True, f"{len(where)} counter(s) saturate at their maximum")


def _is_counter(leaf: Any) -> bool:
    return bool(jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.integer))


def structure(c: Comparison) -> Check:
    """The state keeps structure, shapes, dtypes and weak types; updates have those of params."""
    _traceable(c)
    params = _wide(c.params)
    abstract = jax.eval_shape(c.optimizer.init, params)
    concrete = c.optimizer.init(params)
    problem = _type_difference("eval_shape(init)", abstract, concrete)
    if not problem:
        updates, after = jax.eval_shape(c.optimizer.update, params, concrete, params)
        problem = _type_difference("the state after an update", concrete, after)
        problem = problem or _type_difference("the updates", params, updates, weak=False)
    return Check("structure", not problem, problem or "state and updates keep their types")


def _type_difference(what: str, before: Any, after: Any, weak: bool = True) -> str:
    got, want = (str(jax.tree.structure(x)) for x in (after, before))
    if got != want:
        return f"{what}: structure {got}, expected {want}"
    for (path, x), y in zip(tree_flatten_with_path(before)[0], jax.tree.leaves(after), strict=True):
        a, b = (jax.typeof(z) if not hasattr(z, "weak_type") else z for z in (x, y))
        if (a.shape, a.dtype) != (b.shape, b.dtype) or (weak and a.weak_type != b.weak_type):
            kind = " (weak types differ)" if (a.shape, a.dtype) == (b.shape, b.dtype) else ""
            return f"{what}{keystr(path)}: {b.dtype}{b.shape}, expected {a.dtype}{a.shape}{kind}"
    return ""


def scan(c: Comparison) -> Check:
    """The optimizer is a scan carry, and the scan gives what a Python loop gives."""
    _traceable(c)
    gradients = c.random_gradients(STEPS)
    compiled = c.ours.compiled(c.params, gradients, STEPS)
    looped = c.ours.looped(c.params, gradients, STEPS)
    worst, tolerance = 0.0, 64.0
    for name, got, want in zip(c.names, compiled.updates, looped.updates, strict=True):
        unit = cmp.eps(np.float64) * max(cmp.largest(want), 1e-300)
        found = cmp.difference(got, want, unit)
        worst = max(worst, found.error)
        if found.error > tolerance:
            message = f"compiled {number(found.got)}, in a loop {number(found.expected)}"
            where = entry(name, found.at[1:])
            return Check("scan", False, message, where, found.error, tolerance)
    return Check("scan", True, f"{STEPS} steps", worst=worst, tolerance=tolerance)


def buffers(c: Comparison) -> Check:
    """The first state and the parameters share no buffer, so that both can be donated."""
    _traceable(c)
    params = jax.tree.map(jnp.array, _wide(c.params))
    named = tree_flatten_with_path({"params": params, "state": c.optimizer.init(params)})[0]
    seen: dict[int, str] = {}
    for path, leaf in named:
        if not isinstance(leaf, jax.Array) or leaf.size == 0:
            continue
        pointer, name = leaf.unsafe_buffer_pointer(), keystr(path)
        if pointer in seen:
            message = f"shares its buffer with {seen[pointer]}: donating both raises"
            return Check("buffers", False, message, where=name, likely="a missing copy in init")
        seen[pointer] = name
    return Check("buffers", True, f"{len(seen)} buffers of their own")


def nonfinite_gradients(c: Comparison) -> Check:
    """A NaN or an infinity in the gradient of one leaf leaves the other leaves finite."""
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(c.params)]
    hit = next((i for i, size in enumerate(sizes) if size), None)
    if hit is None or sum(size > 0 for size in sizes) < 2:
        raise NotApplicableError("there is one leaf")
    for bad in (np.nan, np.inf):
        gradients = c.random_gradients(STEPS, -3.0, 0.5)
        jax.tree.leaves(gradients)[hit].reshape(STEPS, -1)[1, 0] = bad
        run = c.ours.run(c.params, gradients, STEPS)
        for leaf, name in enumerate(c.names):
            if leaf != hit and not np.isfinite(cmp.widen(run.updates[leaf])).all():
                message = f"{bad} in the gradient of {c.names[hit]} makes it not finite"
                return Check("nonfinite_gradients", False, message, where=name)
    return Check("nonfinite_gradients", True, "they stay in their leaf")


def extreme_sizes(c: Comparison) -> Check:
    """Gradients whose squares are 0 or infinite in float32 give finite updates."""
    for words, low, high in (("tiny", -35.0, -25.0), ("huge", 20.0, 30.0)):
        # After usual ones, so that there are moments for them to meet.
        half = STEPS // 2
        drawn = c.random_gradients(half, -3.0, 0.5), c.random_gradients(STEPS - half, low, high)
        gradients = jax.tree.map(lambda *g: np.concatenate(g), *drawn)
        run = c.ours.run(c.params, gradients, STEPS, np.float32)
        for name, update in zip(c.names, run.updates, strict=True):
            if not np.isfinite(cmp.widen(update)).all():
                message = f"{words} gradients, of 1e{low:.0f} to 1e{high:.0f} in float32, give"
                return Check("extreme_sizes", False, f"{message} {_first_bad(update)}", where=name)
    return Check("extreme_sizes", True, "finite updates for 1e-35 to 1e-25 and 1e20 to 1e30")


def empty_trees(c: Comparison) -> Check:
    """Leaves without entries, and a tree without leaves, go through."""

    def emptied(leaf: Any) -> np.ndarray:
        return np.zeros((0, *np.shape(leaf)[1:]))

    for words, params in (("leaves of size 0", jax.tree.map(emptied, c.params)), ("{}", {})):
        gradients = jax.tree.map(lambda x: np.zeros((2, *x.shape)), params)
        try:
            c.ours.run(params, gradients, 2)
        except Exception as error:
            return Check("empty_trees", False, f"{words}: raised {sentence(error)}")
    return Check("empty_trees", True, "leaves of size 0, and no leaf")


def _traceable(c: Comparison) -> None:
    if isinstance(c.optimizer, EagerOptimizer):
        raise NotApplicableError("the optimizer is not traceable")


def _wide(params: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(cast(jnp.asarray(x), np.float64)), params)


ROBUSTNESS: dict[str, Callable[[Comparison], Check]] = {
    "structure": structure,
    "scan": scan,
    "zero_gradients": zero_gradients,
    "nonfinite_gradients": nonfinite_gradients,
    "extreme_sizes": extreme_sizes,
    "empty_trees": empty_trees,
    "float32": lambda c: precision(c, np.float32),
    "bfloat16": lambda c: precision(c, jnp.bfloat16),
    "float16": lambda c: precision(c, np.float16),
    "counter": counter,
    "buffers": buffers,
}
"""What one optimizer does by itself, whatever it is compared with."""
