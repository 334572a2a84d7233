"""The three products of matrices that rules are made of: primitives, closed under differentiation.

As in `_conv`, how a product is computed is decided when it is lowered: by XLA, or on a CPU by a
native kernel where that is the faster one.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.interpreters import ad, batching

from funcnet.kernels import _native
from funcnet.kernels._lowering import make_primitive, wide_dtype

AXES = {"nn": (1, 0), "tn": (0, 0), "nt": (1, 1)}  # what is summed over, of a and of b


def xla_product(a: Array, b: Array, *, form: str) -> Array:
    """A b, a^T b or a b^T."""
    axis_a, axis_b = AXES[form]
    numbers = (((axis_a,), (axis_b,)), ((), ()))
    return lax.dot_general(a, b, numbers, preferred_element_type=wide_dtype(a.dtype))


def cpu_product(a: Array, b: Array, *, form: str) -> Array:
    """The faster way on a CPU."""
    native = _native.status().package
    if native is None or a.dtype != jnp.float32 or not (a.size and b.size):
        return xla_product(a, b, form=form)
    return native.matmul(a, b, transpose_a=form == "tn", transpose_b=form == "nt")


product_p = make_primitive("funcnet_product", xla_product, cpu_product)


def product(a: Array, b: Array, form: str) -> Array:
    """The product of two matrices of any floating dtypes, as wide as its sum."""
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return product_p.bind(a.astype(dtype), b.astype(dtype), form=form)


# The cotangents of a and of b: each form differentiates into the other two.
_OF_A = {
    "nn": lambda ct, b: product(ct, b, "nt"),
    "tn": lambda ct, b: product(b, ct, "nt"),
    "nt": lambda ct, b: product(ct, b, "nn"),
}
_OF_B = {
    "nn": lambda ct, a: product(a, ct, "tn"),
    "tn": lambda ct, a: product(a, ct, "nn"),
    "nt": lambda ct, a: product(ct, a, "tn"),
}
ad.defbilinear(
    product_p,
    lambda ct, a, b, form: _OF_A[form](ct, b).astype(a.aval.dtype),
    lambda ct, a, b, form: _OF_B[form](ct, a).astype(b.aval.dtype),
)


def _batched(operands: Any, axes: Any, *, form: str) -> tuple[Array, int]:
    return jax.vmap(functools.partial(xla_product, form=form), axes)(*operands), 0


batching.primitive_batchers[product_p] = _batched
