"""Right rules that are unusual in a way that could confuse a checker."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.support.zoo_base import (
    AFFINE,
    IMAGES,
    LABELS,
    Affine,
    Normalised,
    X,
    affine_body,
    affine_rule,
    dropout_backward,
    dropout_body,
    mean0,
    normal,
    pairs_maximum,
    picked,
    right,
    rule,
    standardise,
    standardise_rule,
)

# Right but unusual -------------------------------------------------------------------------

right("affine_named_tuple", affine_rule(), AFFINE, X, rows_independent=True, residual_bytes=0)
right(
    "dict_of_params",
    rule(
        lambda p, x: x @ p["w"] + p["b"][None],
        lambda r, g: ({"w": r[1].T @ g, "b": g.sum(0)}, g @ r[0]["w"].T),
    ),
    {"w": AFFINE.w, "b": AFFINE.b},
    X,
)
right(
    "list_of_params",
    rule(
        lambda p, x: p[0] * x + p[1],
        lambda r, g: ([(g * r[1]).sum(), g.sum()], g * r[0][0]),
    ),
    [np.float32(1.5), np.float32(-0.5)],
    X,
)
right(
    "none_leaf",
    rule(lambda p, x: x @ p.w, lambda r, g: (Affine(r[1].T @ g, None), g @ r[0].w.T)),
    Affine(AFFINE.w, None),
    X,
)
right(
    "none_argument",
    rule(lambda x, bias: x**2, lambda r, g: (2 * g * r[0], None)),
    X,
    None,
)
right(
    "two_outputs",
    rule(
        lambda x: (jnp.sin(x), x**2),
        lambda r, g: (g[0] * jnp.cos(r[0]) + 2 * g[1] * r[0],),
    ),
    X,
)


def batch_norm_body(x: Any) -> Normalised:
    mean = mean0(x)
    var = mean0((x - mean) ** 2)
    return Normalised((x - mean) * lax.rsqrt(var + 1e-5), mean[0], var[0])


def batch_norm_plain(x: Any) -> Normalised:
    y, mean, var = batch_norm_body(x)
    return Normalised(y, lax.stop_gradient(mean), lax.stop_gradient(var))


def batch_norm_backward(residuals: Any, g: Any) -> Any:
    y, s = residuals
    return (s * (g.y - mean0(g.y) - y * mean0(g.y * y)),)


right(
    "statistics_without_gradient",
    rule(
        batch_norm_body,
        batch_norm_backward,
        forward=lambda x: (
            out := batch_norm_body(x),
            (out.y, lax.rsqrt(out.var + 1e-5)[None]),
        ),
    ),
    normal(6, 3),
    plain=batch_norm_plain,
)
right(
    "unused_output",
    rule(
        lambda x: {"y": jnp.sin(x), "norm": jnp.zeros(())}, lambda r, g: (g["y"] * jnp.cos(r[0]),)
    ),
    X,
    plain=lambda x: {"y": jnp.sin(x), "norm": jnp.zeros(())},
)
right(
    "integer_output",
    rule(
        lambda x: (x.max(1), x.argmax(1)),
        lambda r, g: (jax.nn.one_hot(r[0].argmax(1), 3, dtype=g[0].dtype) * g[0][:, None],),
    ),
    X,
)
right(
    "typed_key",
    rule(dropout_body, partial(dropout_backward, again=False)),
    jax.random.key(3),
    normal(6, 4),
)
right(
    "raw_key",
    rule(dropout_body, partial(dropout_backward, again=False)),
    jax.random.PRNGKey(3),
    normal(6, 4),
)


def power_body(x: Any, exponent: int = 2, *, scale: float = 1.0) -> Any:
    return scale * x**exponent


@partial(jax.custom_vjp, nondiff_argnames=("exponent",))
def power(x: Any, exponent: int = 2) -> Any:
    return power_body(x, exponent)


power.defvjp(
    lambda x, exponent: (power_body(x, exponent), x),
    lambda exponent, x, g: (g * exponent * x ** (exponent - 1),),
)
right("static_option", power, X, static={"exponent": 3})
right("static_positional", power, X, 3)
right("static_default", power, X)
right("wrapper", lambda x, mode: power(x, 3 if mode == "cube" else 2), X, "cube")
right("jitted", jax.jit(power, static_argnums=1), X, 3)
right("jitted_inside", lambda x: jax.jit(lambda x: power(x, 3) + power(x))(x).sum(), X)
right(
    "inside_scan",
    lambda x: lax.scan(lambda h, row: (power(h + row, 2) * 0.1, h.sum()), x[0], x),
    X,
)
right(
    "inside_cond_and_remat",
    lambda x: lax.cond(x.sum() > 100, power, jax.checkpoint(lambda x: power(x, 3)), x),
    X,
)
right(
    "constant",
    rule(lambda x: jnp.ones_like(x), lambda r, g: (jnp.zeros_like(g),)),
    X,
)
TABLE = normal(3, 3, seed=9, dtype=np.float64)
right(
    "array_of_the_module",
    rule(
        lambda x: x @ TABLE.astype(x.dtype),
        lambda r, g: (g @ TABLE.astype(g.dtype).T,),
    ),
    X,
)
right("zero_size", affine_rule(), AFFINE, np.zeros((0, 3), np.float32))


def xent_body(logits: Any, labels: Any) -> Any:
    shifted = logits - logits.max(1, keepdims=True)
    return (jnp.log(jnp.exp(shifted).sum(1)) - picked(shifted, labels)).mean()


def xent_backward(residuals: Any, g: Any) -> Any:
    logits, labels = residuals
    hot = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return (jax.nn.softmax(logits, 1) - hot) * (g / logits.shape[0]), None


right("other_algebra", rule(xent_body, xent_backward), X, LABELS)
right(
    "other_algebra_and_plain",
    rule(xent_body, xent_backward),
    X,
    LABELS,
    plain=lambda x, y: -picked(jax.nn.log_softmax(x, 1), y).mean(),
)
right(
    "recomputes",
    rule(
        jax.nn.silu,
        lambda r, g: (g * (jax.nn.sigmoid(r[0]) * (1 + r[0] * (1 - jax.nn.sigmoid(r[0])))),),
    ),
    X,
    residual_bytes=0,
)
right(
    "keeps_its_output",
    rule(jnp.tanh, lambda y, g: (g * (1 - y**2),), forward=lambda x: (jnp.tanh(x), jnp.tanh(x))),
    X,
    residual_bytes=lambda x: x.nbytes,
)


def calls_itself_forward(x: Any) -> Any:
    return calls_itself(x), x


calls_itself = jax.custom_vjp(lambda x: jnp.sin(x) * 2)
calls_itself.defvjp(calls_itself_forward, lambda x, g: (2 * g * jnp.cos(x),))
right("forward_calls_itself", calls_itself, X)
right(
    "nested",
    rule(
        lambda x: power(jnp.sin(x), 3), lambda r, g: (g * 3 * jnp.sin(r[0]) ** 2 * jnp.cos(r[0]),)
    ),
    X,
)
right(
    "relu_at_zero",
    rule(lambda x: jnp.maximum(x, 0), lambda r, g: (jnp.where(r[0] > 0, g, 0),)),
    np.array([1.0, 0.0, -2.0, 0.0], np.float32),
)
right(
    "first_of_ties_wins",
    rule(
        pairs_maximum,
        lambda r, g: (
            (jax.nn.one_hot(r[0].reshape(-1, 2).argmax(1), 2, dtype=g.dtype) * g[:, None]).reshape(
                r[0].shape
            ),
        ),
    ),
    np.array([1, 1, 2, 3, 4, 4], np.float32),
    batch_axis=None,
)
right("python_number", rule(lambda x: x**3, lambda r, g: (3 * g * r[0] ** 2,)), 1.5)
right(
    "scalars",
    rule(lambda s, x: s * x, lambda r, g: ((g * r[1]).sum(), g * r[0])),
    np.float32(1.5),
    X,
)
right(
    "boolean_mask",
    rule(lambda m, x: jnp.where(m, x, 0), lambda r, g: (None, jnp.where(r[0], g, 0))),
    X > 0,
    X + 1,
)
right(
    "complex_numbers",
    rule(lambda z: z**2, lambda r, g: (2 * r[0] * g,)),
    (normal(4) + 1j * normal(4, seed=2)).astype(np.complex64),
)
right(
    "complex_inside",
    rule(
        lambda x: jnp.fft.fft(x).real ** 2 + jnp.fft.fft(x).imag ** 2,
        lambda r, g: (2 * g.size * jnp.fft.ifft(lax.complex(g, 0 * g) * jnp.fft.fft(r[0])).real,),
    ),
    normal(6),
    batch_axis=None,
    dtypes=("float32",),
)
right(
    "none_for_a_float_without_gradient",
    rule(lambda t, x: jnp.where(t > 0, x, -x), lambda r, g: (None, jnp.where(r[0] > 0, g, -g))),
    X,
    X + 1,
)
right(
    "straight_through",
    rule(lambda x: jnp.round(x), lambda r, g: (g,)),
    X,
    plain=lambda x: x + lax.stop_gradient(jnp.round(x) - x),
    dtypes=("float32",),
)


def affine_standardise(params: Affine, x: Any) -> Any:
    return standardise(affine_body(params, x))


def affine_standardise_backward(residuals: Any, g: Any) -> Any:
    params, x = residuals
    _, pull = jax.vjp(standardise, x @ params.w)
    (g,) = pull(g)
    return Affine(x.T @ g, jnp.zeros_like(params.b)), g @ params.w.T


right(
    "gradient_below_the_noise",
    rule(affine_standardise, affine_standardise_backward),
    AFFINE,
    normal(7, 3),
)
right(
    "shift_invariant",
    rule(
        lambda x: (x - x.mean()).sum() + (x**2).sum(),
        lambda r, g: (2 * g * r[0],),
    ),
    X,
)
right(
    "too_large_for_the_jacobian", affine_rule(), Affine(normal(40, 30), normal(30)), normal(9, 40)
)
right(
    "badly_scaled",
    rule(lambda a, b: a @ b, lambda r, g: (g @ r[1].T, r[0].T @ g)),
    normal(3, 4) * 1e12,
    normal(4, 2) * 1e-9,
    dtypes=("float32", "bfloat16"),
)

_symbolic = jax.custom_vjp(lambda x, y: x * y)
_symbolic.defvjp(
    lambda x, y: (x.value * y.value, (x.value, y.value)),
    lambda r, g: (g * r[1], g * r[0]),
    symbolic_zeros=True,
)
right("symbolic_zeros", _symbolic, X, X + 1)


def conv(x: Any, k: Any) -> Any:
    return lax.conv_general_dilated(
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


right(
    "convolution",
    rule(conv, lambda r, g: jax.vjp(conv, *r)[1](g)),
    IMAGES,
    normal(3, 3, 3, 2),
)
right(
    "sort",
    rule(
        lambda x: jnp.sort(x),
        lambda r, g: (jnp.zeros_like(r[0]).at[jnp.argsort(r[0])].set(g),),
    ),
    normal(7),
)
right(
    "gather_with_repeats",
    rule(
        lambda x, i: x[i],
        lambda r, g: (jnp.zeros_like(r[0]).at[r[1]].add(g), None),
    ),
    normal(6),
    np.array([0, 3, 3, 5, 0], np.int32),
    batch_axis=None,
)


def float32_only(x: Any) -> Any:
    if x.dtype != jnp.float32:
        raise TypeError(f"float32_only: x has dtype {x.dtype}, expected float32.")
    return power(x, 3)


right("float32_only", float32_only, X)


def refuses_empty(x: Any) -> Any:
    if x.shape[0] < 2:
        raise ValueError(f"refuses_empty: the batch has {x.shape[0]} rows, expected two or more.")
    return standardise_right(x)


standardise_right = standardise_rule(lambda y, s, g: s * (g - mean0(g) - y * mean0(g * y)))
right("refuses_small_batches", refuses_empty, normal(6, 3), plain=standardise)


def log_det(a: Any) -> Any:
    return jnp.linalg.slogdet(a @ a.T + jnp.eye(a.shape[0], dtype=a.dtype))[1]


right(
    "linear_algebra",
    rule(
        log_det,
        lambda r, g: (
            2 * g * jnp.linalg.solve(r[0] @ r[0].T + jnp.eye(3, dtype=r[0].dtype), r[0]),
        ),
    ),
    normal(3, 4),
    batch_axis=None,
    dtypes=("float32",),
)


def newton_root(x: Any) -> Any:
    return lax.fori_loop(0, 40, lambda _, s: 0.5 * (s + x / s), x + 1)


right(
    "body_without_autodiff",
    rule(newton_root, lambda y, g: (g / (2 * y),), forward=lambda x: 2 * (newton_root(x),)),
    np.abs(normal(5)) + 0.5,
    plain=jnp.sqrt,
    skip={"nonfinite": "the iteration divides infinity by infinity"},
)
right("custom_gradient", jax.custom_gradient(lambda x: (x**2, lambda g: (2 * g * x,))), X)
right("same_array_twice", rule(lambda x, y: x * y, lambda r, g: (g * r[1], g * r[0])), X, X)
right("keyword_options", partial(power_body, exponent=3), X, static={"scale": 2.0})
right(
    "float64_arguments",
    standardise_right,
    normal(6, 3, dtype=np.float64),
)
right(
    "bfloat16_arguments",
    affine_rule(),
    Affine(normal(3, 4, dtype=jnp.bfloat16), normal(4, dtype=jnp.bfloat16)),
    normal(5, 3, dtype=jnp.bfloat16),
)
right(
    "stacked_tree",
    rule(
        lambda t: {"s": t["a"] + 2 * t["b"][0], "p": t["b"][1] ** 2},
        lambda r, g: ({"a": g["s"], "b": (2 * g["s"], 2 * g["p"] * r[0]["b"][1])},),
    ),
    {"a": X, "b": (X + 1, normal(4))},
)


def _on_the_host(x: Any) -> Any:
    kind = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return jax.pure_callback(lambda x: np.sin(np.where(np.isinf(x), np.nan, x)), kind, x)


right(
    "cannot_be_mapped",
    rule(_on_the_host, lambda r, g: (g * jnp.cos(r[0]),)),
    X,
    plain=lambda x: jnp.sin(x) + 0 * _on_the_host(lax.stop_gradient(x)),
    second_order=False,
    dtypes=("float32",),
)
