"""`check_optimizer`: two optimizers step by step, and one through what training does to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from funcnet.checks._names import chosen_names, exact
from funcnet.checks._optimizer_checks import CHECKS, Comparison, run_checks
from funcnet.checks._reports import OptimizerReport

OPTIMIZER_CHECKS: tuple[str, ...] = tuple(CHECKS)
"""Every check that an optimizer is put through, in order."""


def check_optimizer(
    ours: Any,
    theirs: Any | None,
    params: Any,
    *,
    steps: int = 200,
    gradients: Callable[[Any, Any], Any] | None = None,
    rtol: int | float = 1e-12,
    state_map: Callable[[Any], Any] | None = None,
    name: str = "optimizer",
    checks: Iterable[str] | None = None,
    seed: int = 0,
    skip: Mapping[str, str] | None = None,
) -> OptimizerReport:
    """Compares two optimizers step by step, and puts the first through what training does to it.

    Both run in float64 on the same gradients. The first step whose update or parameters differ by
    more than `rtol` of the leaf's largest entry is named, and its likely cause found by asking
    both: their answers to one gradient, to a constant one, to gradients of many magnitudes and to
    none tell a constant factor, a weight decay coupled or decoupled, a bias correction, the form
    of the momentum, and the place and size of eps.

    Args:
        ours: An (init, update) pair as of optax.
        theirs: Another, or what `torch_optimizer` gives, or None for the other checks alone.
        params: Sample parameters, a pytree of arrays.
        steps: How many steps to compare.
        gradients: A traceable function of step and params to gradients. The default draws signs
            and magnitudes from 1e-6 to 10, the same for both optimizers.
        rtol: The relative difference that is accepted. With a torch optimizer the rounding of the
            parameters is accepted too, since its updates are their differences.
        state_map: Brings our last state into the structure of theirs, to be compared.
        name: What the report calls it.
        checks: Which of `OPTIMIZER_CHECKS` to run; all by default.
        seed: What the gradients are drawn from.
        skip: Check -> reason: checks that are not run.

    Returns:
        A report; `first_divergence`, `cause` and `properties` say where and why they differ.

    Raises:
        ValueError: When a check has no such name.

    >>> import optax
    >>> report = check_optimizer(
    ...     optax.sgd(0.1), optax.sgd(0.2), {"w": np.ones(3)}, steps=2, checks=["trajectory"]
    ... )
    >>> report.first_divergence, report.cause
    (0, 'a factor of 1/2 in every step: another learning rate')
    """
    started = time.perf_counter()
    chosen = chosen_names("check_optimizer", OPTIMIZER_CHECKS, checks)
    chosen_names("check_optimizer", OPTIMIZER_CHECKS, skip or ())
    c = Comparison(
        ours,
        theirs,
        params,
        steps=steps,
        gradients=gradients,
        rtol=rtol,
        state_map=state_map,
        seed=seed,
    )
    with exact():
        found = run_checks(c, chosen, dict(skip or {}))
    return OptimizerReport(
        name=name,
        checks=tuple(found),
        seed=seed,
        seconds=time.perf_counter() - started,
        first_divergence=c.first_divergence,
        cause=c.cause,
        properties=c.properties,
    )
