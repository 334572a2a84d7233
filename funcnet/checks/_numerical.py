"""Derivatives by differences and by the complex step, as pure functions of their arguments."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from funcnet import _validate
from funcnet._reports import Check
from funcnet.checks import _comparison as cmp
from funcnet.checks._arguments import cast, is_floating
from funcnet.checks._body import FIVE_POINT_STEP, five_points
from funcnet.checks._problem import Problem
from funcnet.checks._rule_checks import MOST_DOUBT, number
from funcnet.checks._rules import is_array

DIRECTIONS = 4


def rel_error(x: ArrayLike | Sequence[Any], y: ArrayLike | Sequence[Any]) -> float:
    r"""Returns the largest relative error of two arrays, as the courses define it.

    $\max_i \frac{|x_i - y_i|}{\max(10^{-8}, |x_i| + |y_i|)}$: at most 1, and 1 for opposite signs.

    Args:
        x: An array.
        y: An array of the same shape.

    Returns:
        The error, 0 for empty arrays.

    Raises:
        ValueError: When the shapes differ.

    Source: courses.md row 0-1 (CS231n's `rel_error`).

    >>> rel_error([1.0, 2.0], [1.0, 2.002])
    0.0004997...
    """
    x, y = cmp.widen(x), cmp.widen(y)
    if x.shape != y.shape:
        raise ValueError(
            f"rel_error: x has shape {x.shape} and y {y.shape}, expected equal shapes."
        )
    if x.size == 0:
        return 0.0
    return float(np.max(np.abs(x - y) / np.maximum(1e-8, np.abs(x) + np.abs(y))))


def eval_numerical_gradient(
    f: Callable[[Any], ArrayLike], x: ArrayLike, h: float = 1e-5
) -> np.ndarray:
    r"""Returns the gradient of a scalar function by central differences, entry by entry.

    $\frac{f(x + h e_i) - f(x - h e_i)}{2h}$, in float64. `f` is called with changed copies, and
    `x` is never written to: a function that ignores its argument and reads `x` from outside (as
    the courses' lambdas do) has no gradient here, and a warning says so.

    Args:
        f: A function of one array to one number; NumPy or JAX inside, it need not be traceable.
        x: The point, of any shape.
        h: The step.

    Returns:
        The gradient as a float64 array of the shape of `x`.

    Source: CS231n's `eval_numerical_gradient`, courses.md section 1.0, without its mutation.

    >>> eval_numerical_gradient(lambda x: (x**2).sum(), [1.0, -3.0]).round(6)
    array([ 2., -6.])
    """
    x = np.asarray(x, np.float64)
    grad = np.zeros_like(x)
    values: set[float] = set()
    with jax.enable_x64(True):
        for index in np.ndindex(*x.shape):
            up, down = (_value_at(f, x, index, step) for step in (h, -h))
            values |= {up, down}
            grad[index] = (up - down) / (2 * h)
    _warn_if_constant("eval_numerical_gradient", values, x.size)
    return grad


def _value_at(f: Callable, x: np.ndarray, index: tuple[int, ...], step: float) -> float:
    moved = x.copy()
    moved[index] += step
    return float(np.asarray(f(moved)).reshape(()))


def _warn_if_constant(function: str, values: set[float], entries: int) -> None:
    if entries and len(values) == 1:
        warnings.warn(
            f"{function}: f gave the same value at every point; does it read its argument? "
            "(a lambda that ignores it and reads x from outside has a gradient of zero here)",
            stacklevel=3,
        )


class SparseGradCheck(NamedTuple):
    """What `grad_check_sparse` found: one entry a coordinate that was tried."""

    indices: np.ndarray
    numerical: np.ndarray
    analytic: np.ndarray
    relative_error: np.ndarray


def grad_check_sparse(
    f: Callable[[Any], ArrayLike],
    x: ArrayLike,
    analytic_grad: ArrayLike,
    num_checks: int = 10,
    h: float = 1e-5,
    seed: int = 0,
) -> SparseGradCheck:
    r"""Compares an analytic gradient with central differences at random coordinates.

    The relative error of a coordinate is $\frac{|n - a|}{\max(10^{-8}, |n| + |a|)}$. `f` is called
    with changed copies; `x` is never written to.

    Args:
        f: A function of one array to one number.
        x: The point, of any shape.
        analytic_grad: The gradient to check, of the shape of `x`.
        num_checks: How many coordinates to draw.
        h: The step.
        seed: What the coordinates are drawn from.

    Returns:
        Indices (num_checks, ndim), numerical and analytic values, and their relative errors.

    Raises:
        ValueError: When the gradient has not the shape of `x`, or `x` has no entry.

    Source: CS231n's `grad_check_sparse`, courses.md section 1.0.

    >>> check = grad_check_sparse(lambda x: (x**3).sum(), [1.0, 2.0], [3.0, 12.0], num_checks=4)
    >>> bool(check.relative_error.max() < 1e-9)
    True
    """
    x, analytic = np.asarray(x, np.float64), cmp.widen(analytic_grad)
    if x.shape != analytic.shape:
        raise ValueError(
            f"grad_check_sparse: analytic_grad has shape {analytic.shape}, expected that of x, "
            f"{x.shape}."
        )
    if x.size == 0:
        raise ValueError(f"grad_check_sparse: x has shape {x.shape}, expected at least one entry.")
    rng = np.random.default_rng(_validate.seed("grad_check_sparse", "seed", seed))
    flat = rng.integers(x.size, size=num_checks)
    indices = [tuple(int(i) for i in np.unravel_index(j, x.shape)) for j in flat]
    numerical, values = np.zeros(num_checks), set()
    with jax.enable_x64(True):
        for i, index in enumerate(indices):
            up, down = (_value_at(f, x, index, step) for step in (h, -h))
            values |= {up, down}
            numerical[i] = (up - down) / (2 * h)
    _warn_if_constant("grad_check_sparse", values, num_checks)
    picked = np.array([analytic[index] for index in indices])
    error = np.abs(numerical - picked) / np.maximum(1e-8, np.abs(numerical) + np.abs(picked))
    return SparseGradCheck(np.array(indices).reshape(num_checks, x.ndim), numerical, picked, error)


def numerical_vjp(
    f: Callable,
    args: Sequence[Any],
    cotangent: Any,
    *,
    method: Literal["five_point", "complex_step"] = "five_point",
    argnums: int | Sequence[int] | None = None,
    step: int | float | None = None,
) -> Any:
    r"""Returns $v^\top J$ of a function that has no plain twin, by differences in float64.

    `five_point` is $\frac{8(\phi_1 - \phi_{-1}) - (\phi_2 - \phi_{-2})}{12h}$ with
    $\phi_j = \langle v, f(x + jh e_i) \rangle$ and $h = 7\cdot10^{-4}\max|x|$: about ten digits of
    a smooth function. `complex_step` is $\mathrm{Im}\,\langle v, f(x + ih e_i)\rangle / h$ with
    $h = 10^{-30}$: all digits, of a function that is analytic and whose operations take complex
    numbers (no `abs`, `max`, comparison or custom rule).

    Args:
        f: A traceable function of `args`.
        args: Its arguments, pytrees of arrays; integers and keys are left as they are.
        cotangent: $v$, of the structure and shapes of the output (zeros for integer leaves).
        method: Which differences.
        argnums: The argument or arguments to differentiate with respect to; all by default.
        step: $h$, relative to the largest entry of a leaf (five_point) or absolute.

    Returns:
        Gradients in float64, of the structure of `args[argnums]` for an integer, else a tuple of
        such; leaves that are not floating are None.

    Raises:
        ValueError: For an unknown method.
        TypeError: When complex_step is asked of complex inputs.

    Source: Abramowitz and Stegun, 25.3.6; Squire and Trapp, Using Complex Variables to Estimate
    Derivatives of Real Functions, SIAM Review 40 (1998), https://doi.org/10.1137/S003614459631241X.

    >>> from jax.numpy import sin
    >>> (grad,) = numerical_vjp(sin, (np.array([0.0, 1.0]),), np.array([1.0, 2.0]))
    >>> bool(np.abs(grad - np.cos([0.0, 1.0]) * [1, 2]).max() < 1e-10)
    True
    """
    if method not in ("five_point", "complex_step"):
        raise ValueError(
            f'numerical_vjp: method is {method!r}, expected "five_point" or "complex_step".'
        )
    chosen = range(len(args)) if argnums is None else np.atleast_1d(argnums).tolist()
    # The complex step mixes real and complex numbers, which JAX's strict mode refuses.
    mixed = jax.numpy_dtype_promotion("standard") if method == "complex_step" else nullcontext()
    with jax.enable_x64(True), mixed:
        found = {i: _numerical_argument(f, args, i, cotangent, method, step) for i in chosen}
    if isinstance(argnums, int):
        return found[argnums]
    return tuple(found[i] for i in chosen)


def _numerical_argument(
    f: Callable,
    args: Sequence[Any],
    argnum: int,
    cotangent: Any,
    method: str,
    step: int | float | None,
) -> Any:
    args = jax.tree.map(lambda x: cast(x, np.float64) if is_array(x) else x, tuple(args))
    leaves, tree = jax.tree.flatten(args[argnum])
    weights = [np.asarray(w) for w in jax.tree.leaves(cotangent)]

    def phi(leaf: int, value: Any) -> Any:
        changed = [value if i == leaf else x for i, x in enumerate(leaves)]
        out = f(*args[:argnum], jax.tree.unflatten(tree, changed), *args[argnum + 1 :])
        terms = [
            jnp.sum(jnp.asarray(y) * jnp.asarray(w, jnp.asarray(y).dtype))
            for y, w in zip(jax.tree.leaves(out), weights, strict=True)
            if is_floating(jnp.asarray(y))
        ]
        return sum(terms[1:], terms[0])

    grads: list[Any] = []
    for i, leaf in enumerate(leaves):
        if not is_array(leaf) and isinstance(leaf, float):
            leaf = np.asarray(leaf)
        if not is_array(leaf) or not is_floating(leaf):
            grads.append(None)
            continue
        x = np.asarray(leaf)
        if method == "complex_step":
            grads.append(_complex_step(lambda v, i=i: phi(i, v), x, step or 1e-30))
        else:
            h = (step or FIVE_POINT_STEP) * (cmp.largest(x) or 1.0)
            grads.append(_five_point(lambda v, i=i: phi(i, v), x, h))
    return jax.tree.unflatten(tree, grads)


def _at_each(phi: Callable, x: np.ndarray, offsets: Sequence[complex]) -> np.ndarray:
    """Phi at x + offset·e_i for every offset and entry, in one compiled loop."""
    dtype = np.complex128 if np.iscomplexobj(np.asarray(offsets)) else x.dtype

    def one(point: Any) -> Any:
        index, offset = point
        flat = jnp.asarray(x.astype(dtype)).reshape(-1)
        return phi(flat.at[index].add(offset).reshape(x.shape))

    index, offset = np.meshgrid(np.arange(x.size), np.asarray(offsets, dtype), indexing="ij")
    values = jax.jit(lambda i, o: jax.lax.map(one, (i, o)))(index.ravel(), offset.ravel())
    return np.asarray(values).reshape(x.size, len(offsets))


def _five_point(phi: Callable, x: np.ndarray, h: float) -> np.ndarray:
    if x.size == 0:
        return np.zeros(x.shape)
    values = _at_each(phi, x, [-2 * h, -h, h, 2 * h])
    slope = (8 * (values[:, 2] - values[:, 1]) - (values[:, 3] - values[:, 0])) / (12 * h)
    return slope.reshape(x.shape)


def _complex_step(phi: Callable, x: np.ndarray, h: float) -> np.ndarray:
    if np.iscomplexobj(x):
        raise TypeError(
            'numerical_vjp: method="complex_step" needs real inputs; use method="five_point".'
        )
    if x.size == 0:
        return np.zeros(x.shape)
    return (_at_each(phi, x, [1j * h])[:, 0].imag / h).reshape(x.shape)


# The check of a rule -----------------------------------------------------------------------


def numerical(p: Problem) -> Check:
    """The rule against five-point differences of its own values along random directions."""
    if p.dtype != np.float64:
        return Check("numerical", None, "differences need float64, which the function refuses")
    if p.options.get("smooth") is False:
        return Check("numerical", None, "declared smooth=False")
    if p.expect is not None:
        return Check("numerical", None, "no derivative by design: expect= says what it should be")
    if p.way == "differences":
        return Check("numerical", None, "the cotangent check compares with differences already")
    a, x = p.smooth, p.smooth.diff
    directions = [
        p.neighbours.tangent(x, _direction(p, x, dense=i % 2 == 0)) for i in range(DIRECTIONS)
    ]
    h, least, most = FIVE_POINT_STEP, 1e-9, 1e-4
    if p.grain is not None:  # values that are right to a lower precision: a longer step says less
        h *= float(p.grain / cmp.eps(p.dtype)) ** 0.2
        least, most = max(least, p.c("numerical") * p.grain), MOST_DOUBT
    offsets = np.array([0, 1, -1, 2, -2, 4, -4]) * h
    stacked = [
        np.concatenate([leaf + offsets.reshape(-1, *[1] * leaf.ndim) * d[i] for d in directions])
        for i, leaf in enumerate(x)
    ]
    values = [cmp.widen(v) for v in p.values(stacked, p.rest)]
    alone = p.rows.alone or {0: p.rows.random[0]}
    worst, allowed_eps, judged = 0.0, 1.0, 0
    failures: list[tuple[float, Check]] = []
    for out, row in alone.items():
        ct = p.cotangents[out][row]
        mine = [cmp.widen(g[row]) for g in a.got.grads]
        plain = [cmp.widen(g[row]) for g in a.expected.grads]
        meant = p.given_plain or p.body.stops
        if meant and not any(g.any() for g in plain) and not any(g.any() for g in mine):
            continue  # the plain function says that this output carries no gradient
        for k, d in enumerate(directions):
            v = (values[out][7 * k : 7 * k + 7] * ct).real.reshape(7, -1)
            phi = v.sum(1)
            fine, coarse = five_points(phi[1:], h)
            # Of z = x + iy JAX's gradient is ∂/∂x - i ∂/∂y: its real part counts along a direction.
            got = sum(float(np.sum(g * t).real) for g, t in zip(mine, d, strict=True))
            truth = sum(float(np.sum(g * t).real) for g, t in zip(plain, d, strict=True))
            size = sum(float(np.sum(np.abs(g * t))) for g, t in zip(plain, d, strict=True))
            size = max(size, abs(fine))
            rounding = 64 * cmp.eps(p.dtype) * float(np.abs(v[0]).sum()) / h
            # Twice the jump of the slope at a kink, and of a smooth function next to nothing.
            jump = abs(2 * (phi[1] + phi[2]) - (phi[3] + phi[4]) / 2 - 3 * phi[0]) / h
            uncertain = 2 * abs(fine - coarse) + rounding
            if p.grain is not None or jump > most * size:  # or the noise of values
                uncertain += jump
            if not np.isfinite(fine + coarse) or uncertain > most * size or size == 0:
                continue  # a kink or a pole within the step: differences say nothing here
            judged += 1
            allowed = least * size + uncertain
            error = abs(got - fine)
            if error / allowed > worst / allowed_eps:
                worst, allowed_eps = error / (p.eps * size), allowed / (p.eps * size)
            if error > allowed:
                found = _disagrees(p, p.out_names[out], got, fine, truth, allowed, size)
                failures.append((error / size, found))
    if failures:
        return max(failures, key=lambda failure: failure[0])[1]
    if not judged:
        return Check("numerical", None, "no direction along which the function is smooth")
    return Check(
        "numerical",
        True,
        f"{judged} directional derivatives by five-point differences",
        worst=worst,
        tolerance=allowed_eps,
    )


def _disagrees(
    p: Problem, name: str, got: float, fine: float, truth: float, allowed: float, size: float
) -> Check:
    with_plain = abs(got - truth) <= 1e-9 * size
    if with_plain and p.given_plain:
        return Check(
            "numerical",
            None,
            f"the plain function's own autodiff ({truth:.7g}) differs from differences "
            f"({fine:.7g}) as the rule does: a stop_gradient or straight-through that is meant",
        )
    likely = ""
    if with_plain and p.body.jvp_rules:
        likely = (
            "a custom_jvp in the function that is no derivative of its values; if that is meant "
            "(a surrogate), say expect=, or smooth=False"
        )
    elif with_plain:
        likely = (
            "a stop_gradient or a rounding in the function's body: the rule agrees with autodiff "
            "of the body, and both differ from what the values do"
        )
    return Check(
        "numerical",
        False,
        f"along a random direction got {number(got, fine)}, differences give {number(fine, got)}",
        where=name,
        worst=abs(got - fine) / (p.eps * size),
        tolerance=allowed / (p.eps * size),
        likely=likely,
    )


def _direction(p: Problem, x: Sequence[np.ndarray], *, dense: bool) -> list[np.ndarray]:
    """Signs times each entry's own size; on a few entries of a leaf only, where not dense."""
    found = []
    for leaf in x:
        size = np.where(dense, np.abs(leaf), cmp.largest(leaf)) + 0.05 * (cmp.largest(leaf) or 1.0)
        d = p.rng.choice([-1.0, 1.0], leaf.shape) * p.rng.uniform(0.5, 1.0, leaf.shape) * size
        if leaf.dtype.kind == "c":
            d = d * np.exp(1j * p.rng.uniform(0.0, 2 * np.pi, leaf.shape))
        if not dense and leaf.size > 8:
            keep = np.zeros(leaf.size, bool)
            keep[p.rng.choice(leaf.size, 8, replace=False)] = True
            d = np.where(keep.reshape(leaf.shape), d, 0.0)
        if not dense and leaf.any():  # where kinks are, as that of relu
            d = np.where(leaf == 0, 0.0, d)
        found.append(np.asarray(d))
    return found
