"""Two optimizers compared step by step, and one optimizer put through what training does to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from funcnet import _validate
from funcnet._reports import Check, sentence
from funcnet.checks import _comparison as cmp
from funcnet.checks._arguments import cast
from funcnet.checks._optimizer_profile import likely_cause
from funcnet.checks._problem import NotApplicableError
from funcnet.checks._rule_checks import entry, number

Optimizer = Any  # anything with init(params) and update(grads, state, params)
Gradients = Callable[[Any, Any], Any]
PRECISIONS = (np.float64, np.float32, jnp.bfloat16, np.float16)


@dataclass(frozen=True)
class EagerOptimizer:
    """An (init, update) pair that cannot be traced: its state is an object of another library."""

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]


def torch_optimizer(factory: Callable[[list[Any]], Any]) -> EagerOptimizer:
    """Wraps a torch optimizer as an (init, update) pair, for `check_optimizer` to compare with.

    The update is what the parameters moved by; so it carries the rounding of the parameters, which
    `check_optimizer` allows for. Zero gradients are passed as zeros, and not as None.

    Args:
        factory: A function of a list of torch tensors to a `torch.optim.Optimizer`.

    Returns:
        A pair whose `update` runs eagerly, in float64 where it is given float64.

    Raises:
        ImportError: When torch is not installed and the pair is used.

    >>> import optax, torch  # doctest: +SKIP
    >>> adam = torch_optimizer(lambda params: torch.optim.Adam(params, lr=0.1))  # doctest: +SKIP
    >>> check_optimizer(optax.adam(0.1), adam, params).raise_if_bad()  # doctest: +SKIP
    """

    def init(params: Any) -> Any:
        try:
            import torch
        except ImportError as error:
            raise ImportError(
                "torch_optimizer: torch is not installed; run `pip install torch`."
            ) from error
        tensors = [
            torch.tensor(np.asarray(x, np.float64), requires_grad=True)
            for x in jax.tree.leaves(params)
        ]
        return factory(tensors), tensors

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        import torch

        optimizer, tensors = state
        before = [np.array(x, np.float64) for x in jax.tree.leaves(params)]
        with torch.no_grad():
            for tensor, value, grad in zip(tensors, before, jax.tree.leaves(grads), strict=True):
                tensor.copy_(torch.from_numpy(value.copy()))
                tensor.grad = torch.from_numpy(np.array(grad, np.float64))
        optimizer.step()
        moved = [t.detach().numpy() - value for t, value in zip(tensors, before, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(params), moved), state

    return EagerOptimizer(init, update)


@dataclass(frozen=True)
class Trajectory:
    """Updates and parameters of every step, one stacked array a leaf, and the last state."""

    updates: list[np.ndarray]
    params: list[np.ndarray]
    state: Any


class Runner:
    """Runs one optimizer; one compilation for each number of steps and each precision."""

    def __init__(self, optimizer: Optimizer, gradients: Gradients | None = None):
        self.optimizer = optimizer
        self.gradients = gradients
        self._scan = jax.jit(self._run)

    def _one(self, carry: Any, point: Any) -> Any:
        (params, state), (step, grads) = carry, point
        if grads is None:
            assert self.gradients is not None
            grads = self.gradients(step, params)
        updates, state = self.optimizer.update(grads, state, params)
        params = jax.tree.map(lambda p, u: p + u.astype(p.dtype), params, updates)
        return (params, state), (updates, params)

    def _run(self, params: Any, points: Any) -> Any:
        return jax.lax.scan(self._one, (params, self.optimizer.init(params)), points)

    def compiled(self, params: Any, grads: Any, steps: int, dtype: Any = np.float64) -> Trajectory:
        """Runs in one scan; `grads` are stacked, or None to ask `gradients`."""
        params, grads = (
            jax.tree.map(lambda x: cast(jnp.asarray(x), dtype), t) for t in (params, grads)
        )
        (_, state), rows = jax.device_get(self._scan(params, (jnp.arange(steps), grads)))
        return Trajectory(jax.tree.leaves(rows[0]), jax.tree.leaves(rows[1]), state)

    def looped(self, params: Any, grads: Any, steps: int, dtype: Any = np.float64) -> Trajectory:
        """Runs step by step, without compilation."""
        params, grads = (
            jax.tree.map(lambda x: cast(jnp.asarray(x), dtype), t) for t in (params, grads)
        )
        params = jax.tree.map(jnp.asarray, params)
        carry, rows = (params, self.optimizer.init(params)), []
        for step in range(steps):
            point = step, jax.tree.map(lambda g, step=step: jnp.asarray(g[step]), grads)
            carry, row = self._one(carry, point)
            rows.append(jax.device_get(row))
        updates, moved = jax.tree.map(lambda *x: np.stack(x), *rows)
        return Trajectory(jax.tree.leaves(updates), jax.tree.leaves(moved), carry[1])

    def either(self, params: Any, grads: Any, steps: int) -> Trajectory:
        """In one scan where that works; where it does not, the checks of scans say so."""
        if not isinstance(self.optimizer, EagerOptimizer):
            with contextlib.suppress(Exception):
                return self.compiled(params, grads, steps)
        return self.looped(params, grads, steps)


class Lenient(Runner):
    """Runs an optimizer that is not judged: JAX's strict modes do not apply to it."""

    def either(self, params: Any, grads: Any, steps: int) -> Trajectory:
        """As `Runner.either`, with the promotions that JAX has by default."""
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return super().either(params, grads, steps)


class Comparison:
    """Everything that the checks of one pair of optimizers share."""

    def __init__(
        self,
        ours: Optimizer,
        theirs: Optimizer | None,
        params: Any,
        *,
        steps: int,
        gradients: Gradients | None,
        rtol: float,
        state_map: Callable[[Any], Any] | None,
        seed: int,
    ):
        self.optimizer = ours
        self.ours = Runner(ours, gradients)
        self.theirs = None if theirs is None else Lenient(theirs, gradients)
        self.params = params
        self.steps = steps
        self.gradients = gradients
        self.rtol = rtol
        self.state_map = state_map
        self.rng = np.random.default_rng(_validate.seed("check_optimizer", "seed", seed))
        self.cause = ""
        self.first_divergence: int | None = None
        self.properties: dict[str, list[str]] = {}
        self.states: tuple[Any, Any] | None = None

    @property
    def names(self) -> list[str]:
        """The names of the leaves of the parameters."""
        return ["params" + keystr(path) for path, _ in tree_flatten_with_path(self.params)[0]]

    def random_gradients(self, steps: int, low: float = -6.0, high: float = 1.0) -> Any:
        """Stacked gradients of all signs, their magnitudes 10^low to 10^high."""

        def draw(leaf: Any) -> np.ndarray:
            shape = (steps, *np.shape(leaf))
            return self.rng.choice([-1.0, 1.0], shape) * 10 ** self.rng.uniform(low, high, shape)

        return jax.tree.map(draw, self.params)


# The comparison ----------------------------------------------------------------------------


def compare(c: Comparison) -> Check:
    """Updates and parameters, step by step; the first divergence, and its cause."""
    if c.theirs is None:
        raise NotApplicableError("there is no other optimizer to compare with")
    gradients = c.random_gradients(c.steps) if c.gradients is None else None
    ours = c.ours.either(c.params, gradients, c.steps)
    theirs = c.theirs.either(c.params, gradients, c.steps)
    rounded = any(isinstance(x.optimizer, EagerOptimizer) for x in (c.ours, c.theirs))
    eps = cmp.eps(np.float64)
    worst = 0.0
    for step in range(c.steps):
        for leaf, name in enumerate(c.names):
            for kind, got, want in (
                ("update", ours.updates[leaf][step], theirs.updates[leaf][step]),
                ("parameter", ours.params[leaf][step], theirs.params[leaf][step]),
            ):
                size = cmp.largest(want)
                floor = 4 * eps * cmp.largest(theirs.params[leaf][step]) if rounded else 0.0
                unit = c.rtol * size + floor
                found = cmp.difference(got, want, unit)
                worst = max(worst, found.error)
                if found.error <= 1:
                    continue
                c.first_divergence = step
                relative = abs(found.got - found.expected) / size if size else np.inf
                c.cause, c.properties = likely_cause(c.ours.either, c.theirs.either, c.params)
                return Check(
                    "trajectory",
                    False,
                    f"step {step}: {kind} {number(found.got)}, theirs {number(found.expected)} "
                    f"(a relative difference of {relative:.1e})",
                    where=entry(name, found.at),
                    worst=found.error * c.rtol / eps,
                    tolerance=c.rtol / eps,
                    likely=c.cause,
                )
    c.states = (ours.state, theirs.state)
    return Check(
        "trajectory",
        True,
        f"{c.steps} steps",
        worst=worst * c.rtol / eps,
        tolerance=c.rtol / eps,
    )


def state(c: Comparison) -> Check:
    """The last states agree, once `state_map` has brought ours into the form of theirs."""
    if c.state_map is None or c.theirs is None:
        raise NotApplicableError("no state_map was given")
    if c.states is None:
        compare(c)
    if c.states is None:
        raise NotApplicableError("not judged: the trajectories differ already")
    ours, theirs = c.states
    mapped = c.state_map(ours)
    got, want = (str(jax.tree.structure(x)) for x in (mapped, theirs))
    if got != want:
        return Check("state", False, f"structure {got}, expected {want}")
    for (path, got), want in zip(
        tree_flatten_with_path(mapped)[0], jax.tree.leaves(theirs), strict=True
    ):
        found = cmp.difference(got, want, max(c.rtol * cmp.largest(want), 1e-300))
        if found.error > 1:
            message = f"got {number(found.got)}, theirs {number(found.expected)}"
            return Check("state", False, message, where=entry("state" + keystr(path), found.at))
    return Check("state", True, f"equal after {c.steps} steps")


# One optimizer by itself ---------------------------------------------------------------------


def zero_gradients(c: Comparison) -> Check:
    """Zero gradients give finite updates in every precision, and zeros where theirs does."""
    _traceable(c)
    zeros = jax.tree.map(lambda g: 0 * g, c.random_gradients(3))
    still = False
    if c.theirs is not None:
        still = not any(np.any(u) for u in c.theirs.either(c.params, zeros, 3).updates)
    for dtype in PRECISIONS:
        run = c.ours.compiled(c.params, zeros, 3, dtype)
        for name, update in zip(c.names, run.updates, strict=True):
            if not np.isfinite(cmp.widen(update)).all():
                likely = "0/0: an eps that is zero in this precision"
                message = f"a zero gradient gives {_first_bad(update)} in {jnp.dtype(dtype).name}"
                return Check("zero_gradients", False, message, where=name, likely=likely)
            if still and np.any(cmp.widen(update) != 0):
                message = f"a zero gradient moves the parameters in {jnp.dtype(dtype).name}"
                return Check("zero_gradients", False, message + ", theirs not", where=name)
    words = "no update" if still else "finite updates"
    return Check("zero_gradients", True, f"{words} in {len(PRECISIONS)} precisions")


def _first_bad(array: Any) -> Any:
    wide = cmp.widen(array)
    return wide[~np.isfinite(wide)].flat[0]


def precision(c: Comparison, dtype: Any) -> Check:
    """Ten steps in a lower precision: finite, of the parameters' dtype, the first near float64's.

    Finite for gradients of 1e-3 to 3; near for those of 0.1 to 3, whose squares and whatever eps
    an optimizer needs in float16 are no matter there.
    """
    _traceable(c)
    name = jnp.dtype(dtype).name
    run = c.ours.compiled(c.params, c.random_gradients(10, -3.0, 0.5), 10, dtype)
    for where, update, moved in zip(c.names, run.updates, run.params, strict=True):
        if update.dtype != jnp.dtype(dtype):
            return Check(name, False, f"the update is {update.dtype}, the parameter {name}", where)
        for array in (update, moved):
            if not np.isfinite(cmp.widen(array)).all():
                message = f"{_first_bad(array)} within ten steps with gradients of 1e-3 to 3"
                return Check(name, False, message, where, likely="an eps or a square that is zero")
    # The same rounded inputs: what is judged is the optimizer's rounding, and not the inputs'.
    given = c.params, c.random_gradients(10, -1.0, 0.5)
    params, gradients = (jax.tree.map(lambda x: cmp.widen(cast(x, dtype)), t) for t in given)
    run, truth = c.ours.compiled(*given, 10, dtype), c.ours.either(params, gradients, 10)
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
    gradients = c.random_gradients(3)
    compiled = c.ours.compiled(c.params, gradients, 3)
    looped = c.ours.looped(c.params, gradients, 3)
    worst, tolerance = 0.0, 64.0
    for name, got, want in zip(c.names, compiled.updates, looped.updates, strict=True):
        unit = cmp.eps(np.float64) * max(cmp.largest(want), 1e-300)
        found = cmp.difference(got, want, unit)
        worst = max(worst, found.error)
        if found.error > tolerance:
            message = f"compiled {number(found.got)}, in a loop {number(found.expected)}"
            where = entry(name, found.at[1:])
            return Check("scan", False, message, where, found.error, tolerance)
    return Check("scan", True, "three steps", worst=worst, tolerance=tolerance)


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


def _traceable(c: Comparison) -> None:
    if isinstance(c.optimizer, EagerOptimizer):
        raise NotApplicableError("the optimizer is not traceable")


def _wide(params: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(cast(jnp.asarray(x), np.float64)), params)


CHECKS: dict[str, Callable[[Comparison], Check]] = {
    "trajectory": compare,
    "state": state,
    "structure": structure,
    "scan": scan,
    "zero_gradients": zero_gradients,
    "float32": lambda c: precision(c, np.float32),
    "bfloat16": lambda c: precision(c, jnp.bfloat16),
    "float16": lambda c: precision(c, np.float16),
    "counter": counter,
    "buffers": buffers,
}


def run_checks(c: Comparison, names: Sequence[str], reasons: dict[str, str]) -> list[Check]:
    """Runs the named checks in order; what one raises is its failure."""
    found = []
    for name in names:
        if name in reasons:
            found.append(Check(name, None, reasons[name]))
            continue
        try:
            check = CHECKS[name](c)
        except NotApplicableError as reason:
            check = Check(name, None, str(reason))
        except Exception as error:
            check = Check(name, False, f"raised {sentence(error)}")
        found.append(check)
    return found
