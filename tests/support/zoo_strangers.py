"""Rules as other people write them, and the verdict that each deserves.

Not broken and not like ours: loops that end when numbers say so, callbacks, Pallas, float32 inside,
inputs that must stay on a set, kinks, masks, modules, rules that are differentiated once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl

from funcnet.checks import Pullback
from tests.support.zoo_base import normal, rule

X, V = normal(4, 3), normal(5, seed=1)
POSITIVE = np.abs(V) + np.float32(1)
AT_ZERO = np.array([0.0, 0.0, 1.0, -1.0, 2.0])
KEYS = jax.random.key(0)


class Stranger(NamedTuple):
    deserves: str
    f: Callable
    args: tuple
    options: dict[str, Any]


STRANGERS: dict[str, Stranger] = {}


def met(name: str, deserves: str, f: Callable, *args: Any, **options: Any) -> None:
    STRANGERS[name] = Stranger(deserves, f, args, options)


def from_value(body: Callable, backward: Callable) -> Callable:
    """A rule whose residual is its value."""

    def forward(x: Any) -> Any:
        y = body(x)
        return y, y

    return rule(body, backward, forward)


# The decorated function called in the forward one ------------------------------------------

exp = jax.custom_vjp(lambda x: jnp.exp(x))


def _exp_forward(x: Any) -> Any:
    y = exp(x)
    return y, y


exp.defvjp(_exp_forward, lambda y, g: (y * g,))
met("calls_itself_forward", "right", exp, X)

# Symbolic zeros, integers, booleans, keys, functions ---------------------------------------


def _scaled_forward(x: Any, n: Any) -> Any:
    if n.perturbed:
        raise TypeError("an integer cannot be perturbed")
    return x.value * n.value, (n.value,)


def _scaled_backward(residuals: Any, g: Any) -> Any:
    if isinstance(g, jax.custom_derivatives.SymbolicZero):
        return jnp.zeros(g.aval.shape, g.aval.dtype), None
    return g * residuals[0], None


scaled = jax.custom_vjp(lambda x, n: x * n)
scaled.defvjp(_scaled_forward, _scaled_backward, symbolic_zeros=True)
met("symbolic_zeros_and_an_integer", "right", scaled, X, np.int32(3))
met(
    "a_python_int_among_outputs",
    "right",
    rule(lambda x: (x**2, 3), lambda r, g: (2 * r[0] * g[0],)),
    X,
)
met(
    "a_boolean_mask",
    "right",
    rule(lambda m, x: jnp.where(m, x, 0), lambda r, g: (None, jnp.where(r[0], g, 0))),
    X > 0,
    X,
)
met(
    "a_mask_that_multiplies",
    "right",
    rule(lambda m, x: x * m, lambda r, g: (None, jnp.where(r[0], g, 0))),
    X > 0,
    X,
)
met(
    "a_key",
    "right",
    rule(
        lambda k, x: x * jax.random.bernoulli(k, 0.5, x.shape),
        lambda r, g: (None, g * jax.random.bernoulli(r[0], 0.5, g.shape)),
    ),
    KEYS,
    X,
)
applied = jax.custom_vjp(lambda h, x: h(x), nondiff_argnums=(0,))
applied.defvjp(lambda h, x: (h(x), x), lambda h, x, g: (jax.vjp(h, x)[1](g)[0],))
met("a_function_as_argument", "right", applied, jnp.sin, X)
remat = jax.custom_vjp(lambda x: jnp.sin(x))
remat.defvjp(lambda x: (jnp.sin(x), jnp.cos(x)), lambda c, g: (c * g,), optimize_remat=True)
met("optimize_remat", "right", remat, X)


class Scale:
    factor = 2.0

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def call(self, x):
        return self.factor * x

    call.defvjp(lambda self, x: (self.factor * x, None), lambda self, _, g: (self.factor * g,))


met("a_method", "right", Scale.call, Scale(), X)

# Derivatives of the forward mode -----------------------------------------------------------

softplus = jax.custom_jvp(lambda x: jnp.log1p(jnp.exp(x)))
softplus.defjvps(lambda t, y, x: t * jax.nn.sigmoid(x))
met("custom_jvp", "right", softplus, X)
softplus_wrong = jax.custom_jvp(lambda x: jnp.log1p(jnp.exp(x)))
softplus_wrong.defjvps(lambda t, y, x: t * jax.nn.sigmoid(x) * 1.01)
met("custom_jvp_wrong", "wrong", softplus_wrong, X)

# No autodiff of the body -------------------------------------------------------------------


def square_root(a: Any) -> Any:
    return _root_to(1e-10, a)


def tight_root(a: Any) -> Any:
    return _root_to(1e-13, a)


def _root_to(tolerance: float, a: Any) -> Any:
    return lax.while_loop(
        lambda s: jnp.max(jnp.abs(s * s - a)) > tolerance, lambda s: (s + a / s) / 2, a
    )


def slow_root(a: Any) -> Any:
    return lax.while_loop(
        lambda s: jnp.max(jnp.abs(s * s - a)) > 1e-4, lambda s: s - 0.3 * (s * s - a), a / a
    )


def cube_root(a: Any) -> Any:
    def body(_: Any, ends: Any) -> Any:
        low, high = ends
        middle = (low + high) / 2
        big = middle**3 > a
        return jnp.where(big, low, middle), jnp.where(big, middle, high)

    low, high = lax.fori_loop(0, 60, body, (jnp.zeros_like(a), jnp.full_like(a, 10.0)))
    return (low + high) / 2


def on_host(f: Callable) -> Callable:
    def call(x: Any) -> Any:
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(
            lambda v: f(np.asarray(v)).astype(v.dtype), shape, x, vmap_method="sequential"
        )

    return call


def tanh_kernel(x: Any) -> Any:
    def kernel(x_ref: Any, y_ref: Any) -> None:
        y_ref[...] = jnp.tanh(x_ref[...])

    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(kernel, out_shape=shape, interpret=True)(x)


half, third = (lambda y, g: (g / (2 * y),)), (lambda y, g: (g / (3 * y**2),))
met("iteration", "right", from_value(square_root, half), POSITIVE)
met("iteration_wrong", "wrong", from_value(square_root, lambda y, g: (g / y,)), POSITIVE)
met("loose_iteration", "imprecise", from_value(slow_root, half), np.abs(V) / 5 + np.float32(1))
met("iteration_with_plain", "imprecise", from_value(slow_root, half), POSITIVE / 3, plain=jnp.sqrt)
met("float64_tolerance_in_float32", "right", from_value(tight_root, half), POSITIVE)
met("bisection", "right", from_value(cube_root, third), POSITIVE)
met("bisection_wrong", "wrong", from_value(cube_root, lambda y, g: (g / (2 * y**2),)), POSITIVE)
met("callback", "right", rule(on_host(np.sin), lambda r, g: (g * jnp.cos(r[0]),)), V)
met("callback_wrong", "wrong", rule(on_host(np.sin), lambda r, g: (-g * jnp.cos(r[0]),)), V)
met("pallas", "right", from_value(tanh_kernel, lambda y, g: (g * (1 - y * y),)), X)
met("differentiable_once", "right", rule(jnp.sin, lambda r, g: (on_host(np.cos)(r[0]) * g,)), V)


def stepped(f: Any, guess: Any) -> Any:
    return lax.while_loop(lambda x: jnp.max(jnp.abs(f(x))) > 1e-6, lambda x: x - 0.3 * f(x), guess)


def halved(f: Any, guess: Any) -> Any:
    """By bisection to a width of 1e-5: the values are stairs."""

    def body(ends: Any) -> Any:
        low, high = ends
        middle = (low + high) / 2
        return jnp.where(f(middle) > 0, low, middle), jnp.where(f(middle) > 0, middle, high)

    ends = lax.while_loop(lambda s: jnp.max(s[1] - s[0]) > 1e-5, body, (0 * guess, 1.4 * guess))
    return (ends[0] + ends[1]) / 2


def implicit_root(slope: float, solve: Callable = stepped) -> Callable:
    """The root of x² = a by `lax.custom_root`, to a tolerance; no rule but JAX's own."""

    def tangent(g: Any, y: Any) -> Any:
        return y / g(jnp.full_like(y, slope))

    return lambda a: lax.custom_root(lambda x: x * x - a, jnp.ones_like(a), solve, tangent)


BETWEEN = np.linspace(0.5, 1.5, 4)
met("implicit", "imprecise", implicit_root(1.0), BETWEEN)
met("implicit_at_bisection", "imprecise", implicit_root(1.0, halved), BETWEEN)
met("implicit_at_bisection_wrong", "cannot be judged", implicit_root(0.5, halved), BETWEEN)
met("implicit_wrong", "wrong", implicit_root(0.5), BETWEEN)
met("implicit_a_tenth_off", "wrong", implicit_root(0.9), BETWEEN)

# Precision ---------------------------------------------------------------------------------


def narrow(x: Any) -> Any:
    return x.astype(jnp.float32)


def sine32(x: Any) -> Any:
    return jnp.sin(narrow(x) * 1.7).astype(x.dtype)


def slope32(factor: float) -> Callable:
    return lambda r, g: ((factor * narrow(g) * jnp.cos(narrow(r[0]) * 1.7)).astype(r[0].dtype),)


def product32_backward(r: Any, g: Any) -> Any:
    x, w = map(narrow, r)
    return (narrow(g) @ w.T).astype(r[0].dtype), (x.T @ narrow(g)).astype(r[1].dtype)


product32 = rule(lambda x, w: (narrow(x) @ narrow(w)).astype(x.dtype), product32_backward)
met("float32_core", "right", rule(sine32, slope32(1.7)), X)
met("float32_product", "right", product32, X, X.T.copy())
met("float32_core_wrong", "wrong", rule(sine32, slope32(1.0)), X)
met("float32_backward_only", "wrong", rule(lambda x: jnp.sin(1.7 * x), slope32(1.7)), X)

# Inputs that stay on a set -----------------------------------------------------------------


def log_determinant(a: Any) -> Any:
    return jnp.linalg.slogdet(a)[1]


def entropy(z: Any, t: Any) -> Any:
    return -jnp.sum(t * jax.nn.log_softmax(z))


def _entropy_backward(r: Any, g: Any) -> Any:
    z, t = r
    return g * (jax.nn.softmax(z) - t), -g * jax.nn.log_softmax(z)


def unit(u: Any) -> Any:
    return u / jnp.sqrt(jnp.sum(u * u))


A = X[:3]
symmetric_only = rule(log_determinant, lambda r, g: (g * jnp.linalg.inv(r[0]),))
met("symmetric", "right", symmetric_only, A @ A.T + np.eye(3, dtype=np.float32))
met("symmetric_only", "wrong", symmetric_only, A + 3 * np.eye(3, dtype=np.float32))
met(
    "one_hot",
    "right",
    rule(entropy, _entropy_backward),
    X,
    np.eye(3, dtype=np.float32)[[0, 2, 1, 0]],
)
met(
    "unit_vector",
    "right",
    rule(unit, lambda r, g: (g - r[0] * jnp.vdot(r[0], g),)),
    V / np.linalg.norm(V),
)


def _unit_backward(r: Any, g: Any) -> Any:
    length = jnp.sqrt(jnp.sum(r[0] * r[0]))
    y = r[0] / length
    return ((g - y * jnp.sum(y * g)) / length,)


met("a_vector_is_no_batch", "right", rule(unit, _unit_backward), V)

# Kinks and NaN -----------------------------------------------------------------------------


def relu(x: Any) -> Any:
    return jnp.maximum(x, 0.0)


met("relu_of_jax", "right", jax.nn.relu, AT_ZERO)
met("relu_without_a_rule", "right", relu, AT_ZERO)
met("relu_0_at_0", "right", rule(relu, lambda r, g: (jnp.where(r[0] > 0, g, 0),)), AT_ZERO)
ones_at_zero = rule(relu, lambda r, g: (jnp.where(r[0] >= 0, g, 0),))
met("relu_1_at_0", "wrong", ones_at_zero, AT_ZERO)
met("relu_1_at_0_ignored", "right", ones_at_zero, AT_ZERO, kinks="ignore")
met("relu_1_at_0_asked_for", "right", ones_at_zero, AT_ZERO, kinks=1.0)


def disc(x: Any) -> Any:
    """Half a circle; of NaN 0, as of what is outside, though autodiff gives NaN there."""
    height = jnp.maximum(1 - x * x, 0.0)
    return jnp.where(x * x <= 1, jnp.sqrt(height), 0.0)


def _disc_backward(r: Any, g: Any) -> Any:
    inside = r[0] * r[0] < 1
    return (jnp.where(inside, -g * r[0] / jnp.sqrt(jnp.where(inside, 1 - r[0] ** 2, 1)), 0.0),)


def log_of_positive(x: Any) -> Any:
    """The logarithm, and an error when the program runs with other numbers."""

    def refuse(v: Any) -> Any:
        if (np.asarray(v) <= 0).any():
            raise ValueError("not positive")
        return np.zeros((), v.dtype)

    shape = jax.ShapeDtypeStruct((), x.dtype)
    held = lax.stop_gradient(x)
    return jnp.log(x) + jax.pure_callback(refuse, shape, held, vmap_method="sequential")


met("nan_is_outside", "right", rule(disc, _disc_backward), V / 4)
met("negatives_raise", "right", rule(log_of_positive, lambda r, g: (g / r[0],)), POSITIVE)
met("nan_to_num", "wrong", rule(jnp.sin, lambda r, g: (jnp.nan_to_num(g * jnp.cos(r[0])),)), X)

# Outputs that are inputs, or carry no gradient ---------------------------------------------


def centred(x: Any) -> Any:
    mean = x.mean(0)
    return x - mean[None], lax.stop_gradient(mean)


met(
    "an_output_is_an_input",
    "right",
    rule(
        lambda x, w: (x * w[None], w), lambda r, g: (g[0] * r[1][None], (g[0] * r[0]).sum(0) + g[1])
    ),
    X,
    X[0],
)
met("stopped_statistics", "right", rule(centred, lambda r, g: (g[0] - g[0].mean(0)[None],)), X)


def _solve_backward(r: Any, g: Any) -> Any:
    a, y = r
    u = jnp.linalg.solve(a.T, g)
    return -jnp.outer(u, y), u


def _solve_forward(a: Any, b: Any) -> Any:
    y = jnp.linalg.solve(a, b)
    return y, (a, y)


solve = rule(jnp.linalg.solve, _solve_backward, _solve_forward)

# A constant of float32 makes its cotangent wider than what `jax.vjp` takes in bfloat16.
sine_by_vjp = rule(jnp.sin, lambda r, g: jax.vjp(jnp.sin, r[0])[1](g * jnp.ones((1,))))
met("a_backward_that_refuses_bfloat16", "right", lambda x: 2 * sine_by_vjp(x), X)
met("a_solve_without_bfloat16", "right", solve, A + 2 * np.eye(3, dtype=np.float32), V[:3])

# Complex numbers ---------------------------------------------------------------------------

Z = (X + 1j * X[::-1]).astype(np.complex64)
product = functools.partial(rule, lambda a, b: jnp.sum(a * b))
met("holomorphic", "right", rule(jnp.exp, lambda r, g: (g * jnp.exp(r[0]),)), Z)
met(
    "a_conjugate_forgotten",
    "wrong",
    product(lambda r, g: (jnp.conj(g * r[1]), g * r[0])),
    Z,
    Z[::-1].copy(),
)

# Arrays inside functions -------------------------------------------------------------------

layer = rule(
    lambda x, w: jnp.tanh(x @ w),
    lambda r, g: (lambda d: (d @ r[1].T, r[0].T @ d))(g * (1 - jnp.tanh(r[0] @ r[1]) ** 2)),
)


def closing_over(w: Any) -> Callable:
    return lambda x: layer(x, w)


met("a_closure", "right", closing_over(jnp.asarray(X.T)), X)
met("a_partial", "right", jax.tree_util.Partial(lambda w, x: layer(x, w), jnp.asarray(X.T)), X)

# No derivative by design -------------------------------------------------------------------

rounded = rule(lambda x: jnp.round(x), lambda r, g: (g,))
clipped = rule(lambda x: x * 1.0, lambda r, g: (jnp.clip(g, -1, 1),))
met("straight_through", "wrong", rounded, 3 * X)
met("straight_through_expected", "by design", rounded, 3 * X, expect=lambda x: x)
met("half_expected", "wrong", rounded, 3 * X, expect=lambda x: x / 2)
met("clipped_cotangents", "by design", clipped, X, expect=Pullback(lambda g, x: jnp.clip(g, -1, 1)))

# Mistakes that look small ------------------------------------------------------------------

off = rule(jnp.sin, lambda r, g: (g * jnp.cos(r[0]) * (1 + 1e-9),))
met("an_error_of_1e-9_in_a_column", "wrong", off, X[:, :1])

# As others wrote them and the checker misjudged them ---------------------------------------


def wide_product(x: Any, w: Any) -> Any:
    return jnp.matmul(x, w, preferred_element_type=jnp.float32)


def _wide_product_backward(r: Any, g: Any) -> Any:
    x, w = r
    dx, dw = jnp.matmul(g, narrow(w).T), jnp.matmul(narrow(x).T, g)
    return dx.astype(x.dtype), dw.astype(w.dtype)


def causal(q: Any, k: Any, v: Any) -> Any:
    scores = jnp.where(jnp.tril(jnp.ones((len(q), len(k)), bool)), q @ k.T, -jnp.inf)
    return jax.nn.softmax(scores) @ v


def _causal_backward(r: Any, g: Any) -> Any:
    q, k, v = r
    p = jax.nn.softmax(jnp.where(jnp.tril(jnp.ones((len(q), len(k)), bool)), q @ k.T, -jnp.inf))
    dp = g @ v.T
    ds = p * (dp - jnp.sum(dp * p, axis=-1, keepdims=True))
    return ds @ k, ds.T @ q, p.T @ g


def _sorted_forward(x: Any) -> Any:
    order = jnp.argsort(x)
    return x[order], order


met("preferred_float32", "right", rule(wide_product, _wide_product_backward), X, X.T.copy())
met("tokens_are_no_batch", "right", rule(causal, _causal_backward), X, X + 1, 2 * X)
inverse = rule(lambda x: jnp.sort(x), lambda order, g: (g[jnp.argsort(order)],), _sorted_forward)
met("an_order_is_kept", "right", inverse, V)
met("a_vmapped_rule", "right", jax.vmap(rule(unit, _unit_backward)), X)
