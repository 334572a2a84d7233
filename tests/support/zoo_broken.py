"""Broken rules: mistakes that people make, each with the check meant to catch it."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap

from tests.support.zoo_base import (
    AFFINE,
    LABELS,
    SQUARE,
    Affine,
    Twins,
    X,
    affine_rule,
    broken,
    dropout_backward,
    dropout_body,
    mean0,
    normal,
    pairs_maximum,
    picked,
    picked_backward,
    rule,
    standardise_rule,
)

# Broken ------------------------------------------------------------------------------------

broken(
    "sign",
    affine_rule(dx=lambda g, w: -(g @ w.T)),
    AFFINE,
    X,
    by="cotangent",
    like="sign",
)
broken("factor_2", rule(lambda x: x**2, lambda r, g: (r[0] * g,)), X, by="cotangent", like="1/2")
broken(
    "missing_mean",
    rule(lambda x: jnp.mean(x**2), lambda r, g: (2 * r[0] * g,)),
    normal(7),
    by="cotangent",
    like=r"factor of 7.*missing mean",
)
broken(
    "mean_for_sum",
    affine_rule(db=lambda g: g.mean(0)),
    AFFINE,
    X,
    by="cotangent",
    like="1/5.*where a sum belongs",
)
broken(
    "sum_over_wrong_axis",
    affine_rule(db=lambda g: g.sum(1)),
    SQUARE,
    normal(4, 4, seed=1),
    by="cotangent",
)
broken(
    "broadcast_bias_gradient",
    affine_rule(db=lambda g: jnp.broadcast_to(g.sum(), (4,))),
    AFFINE,
    X,
    by="cotangent",
    like="broadcast",
)
broken(
    "transposed_weight_gradient",
    affine_rule(dw=lambda x, g: g.T @ x),
    SQUARE,
    normal(5, 4),
    by="cotangent",
    like="a transpose",
)
broken(
    "reshape_for_transpose",
    affine_rule(dw=lambda x, g: (g.T @ x).reshape(3, 4)),
    AFFINE,
    X,
    by="cotangent",
    like="read in the wrong order",
)
broken(
    "cotangent_ignored",
    rule(lambda x: jnp.sum(jnp.sin(x)), lambda r, g: (jnp.cos(r[0]),)),
    X,
    by="zero",
)
broken(
    "cotangent_ignored_is_named",
    rule(jnp.sin, lambda r, g: (jnp.cos(r[0]),)),
    X,
    by="cotangent",
    like="ignored cotangent",
)
broken(
    "wrong_dtype",
    affine_rule(db=lambda g: g.astype(jnp.float32).sum(0)),
    Affine(normal(3, 4, dtype=jnp.bfloat16), normal(4, dtype=jnp.bfloat16)),
    normal(5, 3, dtype=jnp.bfloat16),
    by="structure",
    like="dtype",
)
broken(
    "wrong_dtype_in_other_precisions",
    affine_rule(db=lambda g: g.astype(jnp.float32).sum(0)),
    AFFINE,
    X,
    by="bfloat16",
    like="dtype",
)
broken(
    "prefix_broadcast",
    rule(lambda t: t.left * jnp.sin(t.right), lambda r, g: (g * jnp.sin(r[0].right),)),
    Twins(normal(4), normal(4, seed=1)),
    by="structure",
    like="prefix",
)
broken(
    "prefix_broadcast_is_named",
    rule(
        lambda t: t.left * jnp.sin(t.right),
        lambda r, g: (Twins(*2 * (g * jnp.sin(r[0].right),)),),
    ),
    Twins(normal(4), normal(4, seed=1)),
    by="cotangent",
    like="prefix",
)
broken(
    "weight_gradient_of_wrong_shape",
    affine_rule(dw=lambda x, g: g.T @ x),
    AFFINE,
    X,
    by="structure",
    like="transpose",
)
broken(
    "plain_tuple_for_one_argument",
    rule(lambda x, y: x * y, lambda r, g: (g * r[1],)),
    X,
    X + 1,
    by="structure",
)
broken(
    "single_wrong_entry",
    affine_rule(dw=lambda x, g: (x.T @ g).at[1, 2].multiply(1 + 1e-6)),
    AFFINE,
    X,
    by="cotangent",
    like=r"1 wrong of 12 entries.*\[1, 2\]",
)
broken(
    "nan_where_plain_is_finite",
    rule(jnp.abs, lambda r, g: (g * r[0] / jnp.abs(r[0]),)),
    np.array([1.0, 0.0, -2.0, 3.0], np.float32),
    plain=lambda x: x * jnp.sign(x),
    by="cotangent",
    like="NaN",
)


broken(
    "mask_redrawn",
    rule(dropout_body, partial(dropout_backward, again=True)),
    jax.random.key(3),
    normal(6, 4),
    by="cotangent",
    like="mask",
)
broken(
    "stop_gradient_in_the_body",
    rule(
        lambda x: x * lax.stop_gradient(jax.nn.sigmoid(x)),
        lambda r, g: (g * jax.nn.sigmoid(r[0]),),
    ),
    X,
    by="numerical",
    like="stop_gradient",
)
_counter = itertools.count()


def _hidden_state(g: Any) -> Any:
    count = jax.pure_callback(
        lambda x: np.asarray(1 + 1e-3 * (next(_counter) % 7), x.dtype),
        jax.ShapeDtypeStruct((), g.dtype),
        g.reshape(-1)[0],
        vmap_method="sequential",
    )
    return g * count


broken(
    "non_deterministic",
    rule(jnp.sin, lambda r, g: (_hidden_state(g * jnp.cos(r[0])),)),
    X,
    by="determinism",
)


@custom_vmap
def _weight_gradient(x: Any, g: Any) -> Any:
    return x.T @ g


@_weight_gradient.def_vmap
def _weight_gradient_batched(size: int, batched: Any, x: Any, g: Any) -> Any:
    x, g = (a if b else jnp.stack([a] * size) for a, b in zip((x, g), batched, strict=True))
    total = jnp.einsum("bnd,bnm->dm", x, g)
    return jnp.stack([total] * size), True


broken(
    "double_batch_sum_under_vmap",
    rule(lambda w, x: x @ w, lambda r, g: (_weight_gradient(r[1], g), g @ r[0].T)),
    normal(3, 4),
    X,
    by="vmap",
)


broken(
    "batch_norm_forgotten_1_over_n",
    standardise_rule(
        lambda y, s, g: s * (g - g.sum(0, keepdims=True) - y * (g * y).sum(0, keepdims=True))
    ),
    normal(6, 3),
    by="cotangent",
)
broken(
    "batch_norm_missing_mean",
    standardise_rule(lambda y, s, g: s * (g - y * mean0(g * y))),
    normal(6, 3),
    by="cotangent",
    like="missing mean: the error is constant along axis 0",
)
broken(
    "unbiased_for_biased",
    rule(
        lambda x: ((x - x.mean()) ** 2).mean(),
        lambda r, g: (2 * (r[0] - r[0].mean()) / (r[0].size - 1) * g,),
    ),
    normal(9),
    by="cotangent",
    like="9/8",
)
broken(
    "swapped_residuals",
    rule(lambda x, y: x * y, lambda r, g: (g * r[0], g * r[1])),
    X,
    X + 1,
    by="cotangent",
    like="the gradient of `y`",
)


def rms_backward(residuals: Any, g: Any) -> Any:
    (x,) = residuals
    s = 1 / (jnp.sqrt((x**2).mean(1, keepdims=True)) + 1e-5)  # the body's eps is inside
    y = x * s
    return (s * (g - y * (g * y).mean(1, keepdims=True)),)


broken(
    "eps_in_the_wrong_place",
    rule(lambda x: x * lax.rsqrt((x**2).mean(1, keepdims=True) + 1e-5), rms_backward),
    normal(4, 6),
    by="cotangent",
    like="a small term",
)
broken(
    "wrong_at_second_order_only",
    rule(jnp.sin, lambda r, g: (g * jnp.cos(lax.stop_gradient(r[0])),)),
    X,
    by="second_order",
)
broken(
    "forward_value_differs",
    rule(
        jnp.exp,
        lambda r, g: (g * r,),
        forward=lambda x: (jnp.exp(x) * (1 + 1e-6), jnp.exp(x)),
    ),
    X,
    by="forward",
)
broken(
    "value_differs_from_plain",
    rule(
        lambda x: jax.nn.gelu(x, approximate=True),
        lambda r, g: (jax.vjp(partial(jax.nn.gelu, approximate=True), r[0])[1](g)[0],),
    ),
    X,
    plain=partial(jax.nn.gelu, approximate=False),
    by="value",
)
broken(
    "output_of_another_dtype",
    rule(
        lambda x: jnp.sin(x).astype(jnp.float32),
        lambda r, g: ((g.astype(r[0].dtype) * jnp.cos(r[0])),),
    ),
    X,
    plain=jnp.sin,
    by="value",
)
broken(
    "nan_leaks_across_rows",
    rule(
        lambda x: x * jnp.tanh(x),
        lambda r, g: (g * (jnp.tanh(r[0]) + r[0] * (1 - jnp.tanh(r[0]) ** 2)) + 0 * r[0].sum(),),
    ),
    X,
    by="nonfinite",
    like="leaks",
)
broken(
    "nan_vanishes",
    rule(lambda x: jnp.nan_to_num(jnp.sin(x)), lambda r, g: (g * jnp.cos(r[0]),)),
    X,
    plain=jnp.sin,
    by="nonfinite",
)


def _sum_in_own_precision(g: Any) -> Any:
    return lax.scan(lambda total, row: (total + row, None), jnp.zeros_like(g[0]), g)[0]


broken(
    "accumulates_in_bfloat16",
    affine_rule(db=_sum_in_own_precision),
    AFFINE,
    normal(400, 3),
    by="bfloat16",
)
broken(
    "overflows_in_float16",
    rule(
        jax.nn.softplus,
        lambda r, g: (g * jnp.exp(r[0]) / (1 + jnp.exp(r[0])),),
    ),
    np.array([-3.0, 0.5, 2.0, 14.0], np.float32),
    by="float16",
)


broken(
    "integer_cotangent_of_wrong_shape",
    rule(picked, partial(picked_backward, label_cotangent=lambda y: jnp.zeros((3,)))),
    X,
    LABELS,
    by="structure",
    like="integer",
)
broken(
    "float_cotangent_for_integers_beside_a_none",
    rule(
        lambda t, y: t.left.sum(1) + y.astype(t.left.dtype),
        lambda r, g: (Twins(jnp.broadcast_to(g[:, None], r[0].left.shape), None), jnp.zeros((3,))),
    ),
    Twins(X, None),
    LABELS,
    by="structure",
    like="integer",
)
broken(
    "dropped_output_cotangent",
    rule(lambda x: (jnp.sin(x), x**2), lambda r, g: (g[0] * jnp.cos(r[0]),)),
    X,
    by="outputs",
)
broken(
    "dropped_output_cotangent_is_named",
    rule(lambda x: (jnp.sin(x), x**2), lambda r, g: (g[0] * jnp.cos(r[0]),)),
    X,
    by="cotangent",
    like=r"dropped cotangent: that of output `output\[1\]`",
)
broken(
    "float32_inside",
    rule(
        jnp.tanh,
        lambda r, g: (g * (1 - jnp.tanh(r[0].astype(jnp.float32)) ** 2).astype(g.dtype),),
    ),
    X,
    by="cotangent",
    like="float32 rounding",
)
broken(
    "clipped_cotangent",
    rule(jnp.sin, lambda r, g: (jnp.clip(g, -1, 1) * jnp.cos(r[0]),)),
    X,
    by="linear",
)
broken(
    "keeps_too_much",
    rule(
        lambda x: x**2,
        lambda r, g: (g * r[1],),
        forward=lambda x: (x**2, (jnp.outer(x, x), 2 * x)),
    ),
    normal(16),
    by="residuals",
)
broken(
    "declares_too_little",
    rule(jnp.sin, lambda r, g: (g * r,), forward=lambda x: (jnp.sin(x), jnp.cos(x))),
    X,
    residual_bytes=0,
    by="residuals",
)
broken(
    "zero_for_a_batch_of_one",
    rule(
        lambda x: jnp.sin(x),
        lambda r, g: (g * jnp.cos(r[0]) if g.shape[0] > 1 else jnp.zeros_like(g),),
    ),
    X,
    by="singleton",
)
broken(
    "nan_for_an_empty_batch",
    rule(
        lambda s, x: s * x,
        lambda r, g: ((g * r[1]).mean() * g.size, g * r[0]),
    ),
    np.float32(1.5),
    X,
    by="empty",
)
broken(
    "other_result_when_compiled",
    rule(
        jnp.sin,
        lambda r, g: (g * jnp.cos(r[0]) * (1 if isinstance(g, jax.core.Tracer) else 1 + 1e-9),),
    ),
    X,
    by="jit",
)
broken(
    "kernel_not_turned_round",
    rule(
        lambda k, x: jnp.convolve(x, k, mode="valid"),
        lambda r, g: (
            jnp.convolve(r[1], g[::-1], mode="valid"),
            jnp.convolve(g, r[0][::-1], mode="full"),
        ),
    ),
    normal(3),
    normal(8),
    by="cotangent",
    like="a flip",
)
broken(
    "off_by_one",
    rule(lambda x: jnp.cumsum(x), lambda r, g: (jnp.roll(jnp.cumsum(g[::-1])[::-1], 1),)),
    normal(6),
    by="cotangent",
    like="off by one",
)
broken(
    "none_for_a_float",
    rule(lambda s, x: s * x, lambda r, g: (None, g * r[0])),
    np.float32(1.5),
    X,
    by="cotangent",
    like="one side zero",
)
broken(
    "forgotten_product_rule",
    rule(lambda x: x * jnp.sin(x), lambda r, g: (g * jnp.sin(r[0]),)),
    X,
    by="cotangent",
)


broken(
    "ties_counted_twice",
    rule(
        pairs_maximum,
        lambda r, g: (
            jnp.where(r[0].reshape(-1, 2) == pairs_maximum(r[0])[:, None], g[:, None], 0).reshape(
                r[0].shape
            ),
        ),
    ),
    np.array([1, 1, 2, 3, 4, 4], np.float32),
    by="cotangent",
)
broken(
    "weakly_typed_output",
    rule(
        lambda x: x * (np.float32(2) if x.weak_type else 2.0),
        lambda r, g: ((2 * g).astype(r[0].dtype),),
    ),
    normal(3, dtype=np.float64),
    by="weak_types",
)

_traces = itertools.count()
broken(
    "other_residual_when_recomputed",
    rule(
        jnp.sin,
        lambda r, g: (g * r,),
        forward=lambda x: (jnp.sin(x), jnp.cos(x) * (1 + 1e-6 * (next(_traces) % 5))),
    ),
    X,
    by="remat",
)


def _product_in_bfloat16(x: Any, g: Any) -> Any:
    small = jnp.bfloat16 if x.dtype == jnp.float32 else x.dtype
    return (x.astype(small).T @ g.astype(small)).astype(x.dtype)


broken("bfloat16_in_float32", affine_rule(dw=_product_in_bfloat16), AFFINE, X, by="float32")
broken(
    "conjugated",
    rule(lambda z: z**2, lambda r, g: (2 * jnp.conj(r[0]) * g,)),
    (normal(4) + 1j * normal(4, seed=2)).astype(np.complex64),
    by="cotangent",
)
