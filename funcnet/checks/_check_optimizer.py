"""`check_optimizer`: two optimizers step by step, and one through what training does to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from funcnet.checks._foreign_optimizers import as_optimizer, label
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
    name: str | None = None,
    checks: Iterable[str] | None = None,
    seed: int = 0,
    skip: Mapping[str, str] | None = None,
    robust: bool = False,
) -> OptimizerReport:
    """Compares two optimizers step by step, and puts the first through what training does to it.

    Any two of funcnet, optax, torch and Keras, and two verdicts. `equal`: both run in float64 on
    the same gradients, of usual sizes and then of extreme ones. The first step whose update or
    parameters differ by more than `rtol` of the leaf's largest entry is named, and its likely
    cause found by asking both: their answers to one gradient, to a constant one, to gradients of
    many magnitudes and to none tell a constant factor, a weight decay coupled or decoupled, a bias
    correction, the form of the momentum, the accumulator of squares, and the place and size of
    eps. `robust`: what ours does with float32, bfloat16 and float16, with gradients that are zero,
    not finite, tiny or huge, with empty trees, at the end of its counter, in a scan.

    Where two are compared, equality decides whether the report is `ok`, and with `robust=True`
    both do. A check of robustness that theirs fails too is marked so.

    Args:
        ours: An (init, update) pair as of optax and funcnet, or whatever else `as_optimizer` takes.
        theirs: Another, or None for the checks of robustness alone.
        params: Sample parameters, a pytree of arrays.
        steps: How many steps to compare.
        gradients: A traceable function of step and params to gradients. The default draws signs
            and magnitudes from 1e-6 to 10, the same for both optimizers.
        rtol: The relative difference that is accepted. With a torch optimizer the rounding of the
            parameters is accepted too, since its updates are their differences.
        state_map: Brings our last state into the structure of theirs, to be compared.
        name: What the report calls it, by default both names, as far as they are known.
        checks: Which of `OPTIMIZER_CHECKS` to run; all by default.
        seed: What the gradients are drawn from.
        skip: Check -> reason: checks that are not run.
        robust: Whether a failure of robustness makes the report bad too; without another
            optimizer it always does.

    Returns:
        A report; `first_divergence`, `cause` and `properties` say where and why they differ.

    Raises:
        ValueError: When a check has no such name.
        TypeError: When one of them is no optimizer of these libraries.
        ImportError: When it is torch's or Keras's, which is not installed.

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
        as_optimizer(ours),
        None if theirs is None else as_optimizer(theirs),
        params,
        steps=steps,
        gradients=gradients,
        rtol=rtol,
        state_map=state_map,
        seed=seed,
    )
    with exact():
        found, shared = run_checks(c, chosen, dict(skip or {}))
    return OptimizerReport(
        name=_names(ours, theirs) if name is None else name,
        checks=tuple(found),
        seed=seed,
        seconds=time.perf_counter() - started,
        first_divergence=c.first_divergence,
        cause=c.cause,
        properties=c.properties,
        shared=shared,
        must_be_robust=robust,
    )


def _names(ours: Any, theirs: Any) -> str:
    names = [label(x) or "optimizer" for x in (ours, theirs) if x is not None]
    return " vs ".join(names) if any(name != "optimizer" for name in names) else "optimizer"
