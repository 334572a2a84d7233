"""`check_rule` and its sisters: which checks a rule is put through, in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from funcnet.checks._arguments import in_session
from funcnet.checks._detection import Detection, threshold
from funcnet.checks._expected import Pullback
from funcnet.checks._names import chosen_names, exact
from funcnet.checks._problem import Problem
from funcnet.checks._reports import RuleReport
from funcnet.checks._run import PRECISIONS, RULE_CHECKS, Run
from funcnet.checks._sharding_checks import sharding_checks, sharding_counts


def check_rule(
    f: Callable,
    *args: Any,
    plain: Callable | None = None,
    expect: Callable | Pullback | None = None,
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
    kinks: str | float | Sequence[float] = "plain",
    second_order: bool = True,
    residual_bytes: int | Callable[..., int] | None = None,
    looser: Mapping[str, tuple[float, str]] | None = None,
    skip: Mapping[str, str] | None = None,
    precise: bool = False,
    mesh: Mesh | None = None,
    seconds: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> RuleReport:
    r"""Checks a function's backward rule, entry by entry and in units of rounding error.

    The truth is autodiff of `plain` in float64 (the caller need not turn on x64). Without `plain`
    it is the function itself with every `jax.custom_vjp` taken away, also inside `jit`, `scan`,
    `while`, `cond`, `checkpoint` and `shard_map`; differences of the function's own values are then
    the independent judge. All of the Jacobian is compared while it has at most 4096 entries, beyond
    that sixteen random cotangents, at the arguments as given and at a neighbour (every entry
    multiplied by 0.75 to 1.25, so that signs and zeros stay).

    An error is accepted up to $c\,u$: $c = 8 + 4\sqrt{k}$ for sums of $k$ terms, and the unit $u$
    of a leaf is eps times its largest entry plus its measured sensitivity to relative changes of
    the inputs. So ill-conditioned samples raise no false alarm, and `report.detects` says what the
    check could see on these. Gradients that are zero but for rounding noise (both below the noise
    floor) pass, and a note says so. At a kink or a tie (relu at 0, equal maxima) a rule
    may follow another convention than autodiff (`kinks`), and the further checks move off it. In
    float32 $c$ is
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
        expect: What the rule gives instead, where it is no derivative by design: a function called
            as `f` whose gradient it is (`lambda x: x` for a straight-through estimator), or
            `Pullback(backward)` for what is linear in no cotangent.
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
        kinks: Which slope a rule may give at a kink: "plain", autodiff's own, the smaller of the
            one-sided ones (0 between them) or their middle; "ignore", any between them; or the
            weights of the right-hand one that are accepted (0 to 1).
        second_order: False when the rule is meant to be differentiated once only.
        residual_bytes: How many bytes the rule keeps between its passes beside its arguments, or a
            function of the arguments to that number; held equal. At most autodiff's in any case.
        looser: Check -> (factor, reason): tolerances widened, and why; both are in the report.
        skip: Check -> reason: checks that are not run.
        precise: True when a rule that is right to a lower precision than that of its dtypes (its
            function computes in float32, or iterates to a tolerance) is wrong.
        mesh: A mesh over whose devices, in one row, the batch is cut too, in the three ways that
            `check_sharding` has; their number n divides the batch. The report then ends with the
            checks `sharding/n/auto`, `sharding/n/explicit` and `sharding/n/shard_map`, whatever
            `checks` says; `looser` and `skip` may name them.
        seconds: How long the checks may take: what is not done by then does not apply. They run in
            a thread of their own, which has JAX's configuration and the caller's mesh, but none of
            the other contexts that the caller is in.
        progress: Called with a line before each check.

    Returns:
        A report with a `verdict`, and one `Check` for each name in `RULE_CHECKS`: passed, failed,
        or not applicable with the reason; and those over the devices of `mesh`.

    Raises:
        TypeError: When `mesh` is no mesh of devices.
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
    chosen = chosen_names("check_rule", RULE_CHECKS, checks)
    wanted = {jax.numpy.dtype(d).name for d in dtypes}
    reasons = {d: "not among dtypes" for d in PRECISIONS if d not in wanted} | dict(skip or {})
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(f"check_rule: mesh is {mesh!r}, expected a jax.sharding.Mesh.")
    over = {} if mesh is None else sharding_checks([*mesh.devices.flat])
    chosen_names("check_rule", [*RULE_CHECKS, *over], [*(skip or ()), *(looser or ())])
    if isinstance(kinks, str) and kinks not in ("plain", "ignore"):
        raise ValueError(f'check_rule: kinks is {kinks!r}, expected "plain", "ignore" or weights.')
    args, wide_session = in_session(args), jax.dtypes.canonicalize_dtype("float64").itemsize == 8

    def make() -> Problem:
        return Problem(
            f,
            args,
            plain=plain,
            expect=expect,
            static=static,
            argnums=argnums,
            name=name,
            seed=seed,
            reduction=reduction,
            looser=looser,
            kinks=kinks,
            wide_session=wide_session,
            dtypes=wanted,
            batch_axis=batch_axis,
            batch_argnums=batch_argnums,
            rows_independent=rows_independent,
            smooth=smooth,
            second_order=second_order,
            residual_bytes=residual_bytes,
        )

    return Run(make, chosen, reasons, precise, progress, over).report(seconds)


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
    reduction: int | None = None,
    batch_argnums: Sequence[int] | None = None,
) -> RuleReport:
    """Checks a rule with its batch cut over 2, 4 and 8 devices against plain on one.

    In each of the ways in which JAX spreads a program over devices:

    | kind | what it is | the truth |
    |---|---|---|
    | auto | a mesh of `AxisType.Auto`, where XLA decides what lies where | plain on one device |
    | explicit | a mesh of `AxisType.Explicit`, where types say it | plain on one device |
    | shard_map | `check_vma=True`, the gradient inside and around it | plain on each device |

    On each device means on its rows: gradients of what every device has are then summed.
    A rule without a batch is run with all of its arguments on every device. What the plain function
    itself cannot do on such a mesh does not apply. Where a backward pass returns a cotangent that
    varies over more devices than its argument does, or is laid out otherwise,
    `kernels.as_cotangent` mends it.

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
        reduction: As in `check_rule`.
        batch_argnums: The arguments with a batch, where the guess of `check_rule` is wrong.

    Returns:
        A report with one check `sharding/n/kind` for each kind and each number n of devices that
        divides the batch. It says which collectives the compiled program holds, and a note names
        each that gathers what is cut.

    Raises:
        RuntimeError: When the process has fewer devices.
        ValueError: When the batch cannot be divided.
    """
    if jax.device_count() < devices:
        raise RuntimeError(
            f"check_sharding: this process has {jax.device_count()} device(s), expected {devices}; "
            f'run jax.config.update("jax_num_cpu_devices", {devices}) before JAX is first used.'
        )
    with exact():
        p = Problem(
            f,
            args,
            plain=plain,
            static=static,
            name=name,
            seed=seed,
            reduction=reduction,
            batch_argnums=batch_argnums,
        )
    over: dict[str, Any] = {}
    for count in sharding_counts(p, devices):
        over |= sharding_checks(jax.devices()[:count])
    return Run(lambda: p, (), {}, True, None, over).report(None)


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
    with exact():
        p = Problem(
            f,
            args,
            plain=plain,
            static=static,
            argnums=argnums,
            seed=seed,
            reduction=reduction,
        )
        return threshold(p)
