r"""Checkers to point at your own backward rules and optimizers.

`check_rule` compares a function that has a `jax.custom_vjp` with autodiff of the same function
without it, entry by entry and in units of rounding error, and under every transformation;
`assert_rule` is the same as one line of a test. `check_optimizer` compares two optimizers step by
step and names the first divergence with its likely cause. `numerical_vjp`, `grad_check_sparse` and
`eval_numerical_gradient` are differences, for functions without a plain twin.

>>> import jax, jax.numpy as jnp
>>> @jax.custom_vjp
... def mean_square(x):
...     return jnp.mean(x**2)
>>> def forward(x):
...     return jnp.mean(x**2), x
>>> def backward(x, cotangent):
...     return (2 * x * cotangent,)  # the 1/N of the mean is forgotten
>>> mean_square.defvjp(forward, backward)
>>> report = check_rule(mean_square, jnp.array([1.0, -2.0, 0.5, 3.0]), checks=["cotangent"])
>>> report.failed[0].where, report.failed[0].likely
('x[3]', 'a factor of 4, the length of axis 0 of x: a missing mean (1/4 is forgotten)')
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from funcnet._homes import at_home
from funcnet._reports import Check, RuleError, sentence
from funcnet.checks import _rule_checks, _rule_inputs, _rule_transforms, _rules
from funcnet.checks._detection import Detection, threshold
from funcnet.checks._numerical import (
    SparseGradCheck,
    eval_numerical_gradient,
    grad_check_sparse,
    numerical,
    numerical_vjp,
    rel_error,
)
from funcnet.checks._optimizer_checks import CHECKS as _OPTIMIZER_CHECKS
from funcnet.checks._optimizer_checks import Comparison, EagerOptimizer, run_checks, torch_optimizer
from funcnet.checks._problem import NotApplicableError, Problem
from funcnet.checks._reports import OptimizerReport, ResumeReport, RuleReport, StepReport
from funcnet.checks._resume import check_resume
from funcnet.checks._sharding_checks import sharding_checks
from funcnet.checks._step import STEP_CHECKS, check_step
from funcnet.train.contract import StepError

__all__ = [
    "OPTIMIZER_CHECKS",
    "RULE_CHECKS",
    "STEP_CHECKS",
    "Check",
    "Detection",
    "EagerOptimizer",
    "OptimizerReport",
    "ResumeReport",
    "RuleError",
    "RuleReport",
    "SparseGradCheck",
    "StepError",
    "StepReport",
    "assert_rule",
    "check_optimizer",
    "check_resume",
    "check_rule",
    "check_sharding",
    "check_step",
    "detection_threshold",
    "eval_numerical_gradient",
    "grad_check_sparse",
    "numerical_vjp",
    "rel_error",
    "torch_optimizer",
    "without_rules",
]

without_rules = _rules.without_rules

_CORE: dict[str, Callable[[Problem], Check]] = {
    "structure": _rule_checks.structure,
    "value": _rule_checks.value,
    "forward": _rule_checks.forward,
    "cotangent": _rule_checks.cotangent,
    "outputs": _rule_checks.outputs,
    "zero": _rule_checks.zero,
    "linear": _rule_checks.linear,
    "numerical": numerical,
    "determinism": _rule_checks.determinism,
    "jit": _rule_checks.jit,
}
_TRANSFORMS: dict[str, Callable[[_rule_transforms.Transforms], Check]] = {
    "vmap": _rule_transforms.vmap,
    "scan": _rule_transforms.scan,
    "cond": _rule_transforms.cond,
    "remat": _rule_transforms.remat,
}
_FURTHER: dict[str, Callable[[Problem], Check]] = {
    "second_order": _rule_transforms.second_order,
    "forward_over_reverse": _rule_transforms.forward_over_reverse,
    "float32": lambda p: _rule_inputs.precision(p, np.float32),
    "bfloat16": lambda p: _rule_inputs.precision(p, jax.numpy.bfloat16),
    "float16": lambda p: _rule_inputs.precision(p, np.float16),
    "empty": lambda p: _rule_inputs.batch(p, "empty", 0),
    "singleton": lambda p: _rule_inputs.batch(p, "singleton", 1),
    "nonfinite": _rule_inputs.nonfinite,
    "residuals": _rule_checks.residuals,
    "weak_types": _rule_checks.weak_types,
    "recompile": _rule_checks.recompile,
}
_FOLLOWS = (  # from a wrong cotangent, and say nothing new
    "second_order",
    "forward_over_reverse",
    "float32",
    "bfloat16",
    "float16",
    "empty",
    "singleton",
)
PRECISIONS = ("float32", "bfloat16", "float16")

RULE_CHECKS: tuple[str, ...] = (*_CORE, *_TRANSFORMS, *_FURTHER)
"""Every check that a rule is put through, in order; each is in every report."""

OPTIMIZER_CHECKS: tuple[str, ...] = tuple(_OPTIMIZER_CHECKS)
"""Every check that an optimizer is put through, in order."""


@contextlib.contextmanager
def _exact() -> Iterator[None]:
    """Float64 at hand, and products of float32 in float32 (a GPU's default is coarser)."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


def check_rule(
    f: Callable,
    *args: Any,
    plain: Callable | None = None,
    static: Mapping[str, Any] | None = None,
    argnums: Sequence[int] | None = None,
    name: str | None = None,
    checks: Iterable[str] | None = None,
    dtypes: Sequence[Any] = PRECISIONS,
    seed: int = 0,
    reduction: int | None = None,
    batch_axis: int | None = 0,
    batch_argnums: Sequence[int] | None = None,
    rows_independent: bool | None = None,
    smooth: bool = True,
    second_order: bool = True,
    residual_bytes: int | Callable[..., int] | None = None,
    looser: Mapping[str, tuple[float, str]] | None = None,
    skip: Mapping[str, str] | None = None,
) -> RuleReport:
    r"""Checks a function's backward rule, entry by entry and in units of rounding error.

    The truth is autodiff of `plain` in float64 (the caller need not turn on x64). Without `plain`
    it is the function itself with every `jax.custom_vjp` taken away, also inside `jit`, `scan`,
    `while`, `cond` and `checkpoint`; differences of the function's own values are then the
    independent judge. All of the Jacobian is compared while it has at most 4096 entries, beyond
    that sixteen random cotangents, at the arguments as given and at a neighbour (every entry
    multiplied by 0.75 to 1.25, so that signs and zeros stay).

    An error is accepted up to $c\,u$: $c = 8 + 4\sqrt{k}$ for sums of $k$ terms, and the unit $u$
    of a leaf is eps times its largest entry plus its measured sensitivity to relative changes of
    the inputs. So ill-conditioned samples raise no false alarm, and `report.detects` says what the
    check could see on these. Gradients that are zero but for rounding noise (both below the noise
    floor) pass, and a note says so. At a kink or a tie (relu at 0, equal maxima) every slope
    between the one-sided ones is accepted, and the further checks move off it. In float32 $c$ is
    $4 + 2\sqrt{k}$; in bfloat16 and float16 it is 2 plus what sums in float32 are worth. Second
    order is given eight times $c$: two chains of sums. Products of float32 run at JAX's highest
    precision, so that a GPU's default is not taken for a mistake of the rule.

    Args:
        f: The function: a `jax.custom_vjp` object, or anything traceable that calls one.
        *args: Sample arguments: pytrees of arrays, keys, None. Python numbers, strings and
            functions among them are static, but that floats count as scalar arrays where `f` is a
            `custom_vjp` object itself or no argument is an array of floats.
        plain: The same function without a rule, called as `f` is. An output that it passes
            through `stop_gradient` is one that carries no gradient.
        static: Keyword options for `f` and `plain`.
        argnums: The arguments to differentiate with respect to; all with floats by default.
        name: What the report calls the function.
        checks: Which of `RULE_CHECKS` to run; all by default.
        dtypes: The lower precisions to try, of "float32", "bfloat16" and "float16".
        seed: What cotangents, neighbours and directions are drawn from, 0 to 2^32 - 1.
        reduction: The length $k$ of the longest sum; by default the largest leaf's size.
        batch_axis: 0, or None where no argument has a batch. The arguments with a batch are those
            whose arrays all have the leading length of the one with the most axes.
        batch_argnums: The arguments with a batch, where that guess is wrong.
        rows_independent: True when a row of the result depends on the same row of the batch alone:
            a NaN must then stay in its row, whatever `plain` does.
        smooth: False when differences say nothing (steps, straight-through estimators).
        second_order: False when the rule is meant to be differentiated once only.
        residual_bytes: How many bytes the rule keeps between its passes beside its arguments, or a
            function of the arguments to that number; held equal. At most autodiff's in any case.
        looser: Check -> (factor, reason): tolerances widened, and why; both are in the report.
        skip: Check -> reason: checks that are not run.

    Returns:
        A report with one `Check` for each name in `RULE_CHECKS`: passed, failed, or not applicable
        with the reason.

    Raises:
        ValueError: When a check has no such name, or nothing can be differentiated.

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def scale(s, x):
    ...     return s * x
    >>> def backward(residuals, cotangent):
    ...     s, x = residuals
    ...     return cotangent.sum(), s * cotangent  # should be (cotangent * x).sum()
    >>> scale.defvjp(lambda s, x: (s * x, (s, x)), backward)
    >>> report = check_rule(scale, jnp.array(2.0), jnp.arange(3.0), checks=["cotangent", "linear"])
    >>> [check.mark for check in report], report.failed[0].where
    (['FAIL', 'ok'], 's')
    """
    started = time.perf_counter()
    chosen = _names("check_rule", RULE_CHECKS, checks)
    wanted = {jax.numpy.dtype(d).name for d in dtypes}
    reasons = {d: "not among dtypes" for d in PRECISIONS if d not in wanted} | dict(skip or {})
    _names("check_rule", RULE_CHECKS, [*(skip or ()), *(looser or ())])
    with _exact():
        p = Problem(
            f,
            args,
            plain=plain,
            static=static or {},
            argnums=argnums,
            name=name,
            seed=seed,
            reduction=reduction,
            looser=looser or {},
            dtypes=wanted,
            batch_axis=batch_axis,
            batch_argnums=batch_argnums,
            rows_independent=rows_independent,
            smooth=smooth,
            second_order=second_order,
            residual_bytes=residual_bytes,
        )
        found = _run_rule_checks(p, chosen, reasons)
        notes = _notes(p)
    mine, plain_bytes = p.residual_bytes or (None, None)
    return RuleReport(
        name=p.name,
        checks=tuple(found),
        seed=seed,
        seconds=time.perf_counter() - started,
        notes=tuple(notes),
        residual_bytes=mine,
        plain_residual_bytes=plain_bytes,
        detects=p.detects(),
    )


def _names(function: str, known: Sequence[str], given: Iterable[str] | None) -> list[str]:
    if given is None:
        return list(known)
    chosen = [given] if isinstance(given, str) else list(given)
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise ValueError(f"{function}: no check is named {unknown}; expected of {list(known)}.")
    return [name for name in known if name in chosen]


def _notes(p: Problem) -> list[str]:
    notes = [f"{n}: tolerance × {factor}, because {why}" for n, (factor, why) in p.looser.items()]
    if p.dtype != np.float64:
        notes.append(f"{p.name} refuses float64: compared in {p.dtype}")
    if not p.given_plain and not p.raises and not p.has_rule:
        notes.append(
            f"{p.name} calls no jax.custom_vjp: autodiff was compared with itself, and only "
            "differences judge it; give plain="
        )
    notes += [f"the gradient of {n} is zero but for rounding noise" for n in p.noise_only()]
    notes += [
        f"the gradient of {n} is exactly zero here, where little can be wrong: give other inputs"
        for n in p.zero_only()
    ]
    return notes


def _run_rule_checks(p: Problem, names: Sequence[str], reasons: Mapping[str, str]) -> list[Check]:
    transforms = functools.cache(lambda: _rule_transforms.Transforms(p))
    found: list[Check] = []
    wrong = False
    for name in names:
        if name in reasons:
            found.append(Check(name, None, reasons[name]))
            continue
        if p.raises:
            found.append(Check(name, None, "not run: see structure"))
            continue
        if name in _FOLLOWS and wrong:
            found.append(Check(name, None, "not judged: the cotangent is wrong already"))
            continue
        try:
            if name in _TRANSFORMS:
                check = _TRANSFORMS[name](transforms())
            else:
                check = (_CORE | _FURTHER)[name](p)
        except NotApplicableError as reason:
            check = Check(name, None, str(reason))
        except Exception as error:
            check = Check(name, False, f"raised {sentence(error)}")
        found.append(check)
        wrong = wrong or (name == "cotangent" and check.passed is False)
    return found


def assert_rule(f: Callable, *args: Any, **options: Any) -> RuleReport:
    """Checks a rule as `check_rule` does, and raises `RuleError` when it is wrong.

    One line of a test: `assert_rule(my_layer, params, x)`.

    Args:
        f: The function with a rule.
        *args: Sample arguments.
        **options: Those of `check_rule`.

    Returns:
        The report.

    Raises:
        RuleError: Saying which leaf and entry is wrong, and what kind of mistake it looks like.

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def square(x):
    ...     return x**2
    >>> square.defvjp(lambda x: (x**2, x), lambda x, cotangent: (2 * x * cotangent,))
    >>> assert_rule(square, jnp.array([1.0, -2.0]), checks=["value", "cotangent"]).ok
    True
    """
    return check_rule(f, *args, **options).raise_if_bad()


def check_sharding(
    f: Callable,
    *args: Any,
    devices: int = 8,
    plain: Callable | None = None,
    static: Mapping[str, Any] | None = None,
    name: str | None = None,
    seed: int = 0,
    batch_argnums: Sequence[int] | None = None,
) -> RuleReport:
    """Checks a rule with its batch sharded over 2, 4 and 8 devices against plain on one.

    To run it on a CPU, start the process with as many virtual devices:
    `jax.config.update("jax_num_cpu_devices", 8)` before anything else of JAX.

    Args:
        f: The function with a rule.
        *args: Sample arguments; their batch must be a multiple of the number of devices.
        devices: How many devices to go up to.
        plain: As in `check_rule`.
        static: Keyword options.
        name: What the report calls the function.
        seed: What the cotangents are drawn from.
        batch_argnums: The arguments with a batch, where the guess of `check_rule` is wrong.

    Returns:
        A report with one check `sharding/n` for each number of devices, and a note where the
        compiled program gathers the batch.

    Raises:
        RuntimeError: When the process has fewer devices.
        ValueError: When the batch cannot be divided.
    """
    if jax.device_count() < devices:
        raise RuntimeError(
            f"check_sharding: this process has {jax.device_count()} device(s), expected {devices}; "
            f'run jax.config.update("jax_num_cpu_devices", {devices}) before JAX is first used.'
        )
    started = time.perf_counter()
    with _exact():
        p = Problem(
            f,
            args,
            plain=plain,
            static=static or {},
            argnums=None,
            name=name,
            seed=seed,
            reduction=None,
            looser={},
            batch_argnums=batch_argnums,
        )
        found, notes = sharding_checks(p, devices)
    seconds = time.perf_counter() - started
    return RuleReport(p.name, tuple(found), seed=seed, seconds=seconds, notes=tuple(notes))


def detection_threshold(
    f: Callable,
    *args: Any,
    plain: Callable | None = None,
    static: Mapping[str, Any] | None = None,
    argnums: Sequence[int] | None = None,
    seed: int = 0,
    reduction: int | None = None,
) -> Detection:
    """Measures the smallest errors of a gradient that `check_rule` rejects on these arguments.

    Errors are injected into the gradients that the rule gave, and the comparison of the cotangent
    check is run on them: a whole leaf is multiplied by 1 + error, and one entry (the smallest) is
    changed by the error times the leaf's largest.

    Args:
        f: The function with a rule.
        *args: Sample arguments.
        plain: As in `check_rule`.
        static: As in `check_rule`.
        argnums: As in `check_rule`.
        seed: As in `check_rule`.
        reduction: As in `check_rule`.

    Returns:
        The two thresholds, each of the worst leaf, and that leaf's name; infinite where no
        gradient is nonzero on these arguments.

    >>> import jax, jax.numpy as jnp
    >>> square = jax.custom_vjp(lambda x: x**2)
    >>> square.defvjp(lambda x: (x**2, x), lambda x, cotangent: (2 * x * cotangent,))
    >>> detection_threshold(square, jnp.array([1.0, -2.0])).whole_leaf < 1e-13
    True
    """
    with _exact():
        p = Problem(
            f,
            args,
            plain=plain,
            static=static or {},
            argnums=argnums,
            name=None,
            seed=seed,
            reduction=reduction,
            looser={},
        )
        return threshold(p)


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
    chosen = _names("check_optimizer", OPTIMIZER_CHECKS, checks)
    _names("check_optimizer", OPTIMIZER_CHECKS, skip or ())
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
    with _exact():
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


at_home(globals())
