"""Runs of optimizers: compiled where they can be, step by step where not, in any precision."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from funcnet import _validate
from funcnet._reports import sentence
from funcnet.checks._arguments import cast
from funcnet.checks._foreign_optimizers import EagerOptimizer
from funcnet.checks._programs import NotApplicableError, quick_jit

Optimizer = Any  # anything with init(params) and update(grads, state, params)
Gradients = Callable[[Any, Any], Any]


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
        self._scan = quick_jit(self._run)

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

    def run(self, params: Any, grads: Any, steps: int, dtype: Any = np.float64) -> Trajectory:
        """In one scan, or step by step where the optimizer is another library's.

        Raises:
            NotApplicableError: Where that library does not know a precision below float32.
        """
        if not isinstance(self.optimizer, EagerOptimizer):
            return self.compiled(params, grads, steps, dtype)
        try:
            return self.looped(params, grads, steps, dtype)
        except Exception as error:
            if jnp.dtype(dtype).itemsize > 2:
                raise
            raise NotApplicableError(f"cannot be judged: {sentence(error)}") from error

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
        self.seed = _validate.seed("check_optimizer", "seed", seed)
        self.rng = np.random.default_rng(self.seed)
        self.cause = ""
        self.first_divergence: int | None = None
        self.properties: dict[str, list[str]] = {}
        self.states: tuple[Any, Any] | None = None

    def of_theirs(self) -> Comparison:
        """What judges the other optimizer by itself."""
        assert self.theirs is not None
        alone = copy.copy(self)
        alone.ours, alone.optimizer, alone.theirs = self.theirs, self.theirs.optimizer, None
        return alone

    def draw_anew(self, check: str) -> None:
        """What a check draws depends on the seed and its name, not on the checks before it."""
        self.rng = np.random.default_rng([self.seed, *check.encode()])

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
