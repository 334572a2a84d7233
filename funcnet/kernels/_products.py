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
from jaxtyping import Float

from funcnet.kernels import _native
from funcnet.kernels._lowering import (
    at_its_precision,
    make_composite,
    make_kernel,
    promoted,
    wide,
    wide_dtype,
)

AXES = {"nn": (1, 0), "tn": (0, 0), "nt": (1, 1)}  # what is summed over, of a and of b
NAMES = {"nn": "n k, k m -> n m", "tn": "k n, k m -> n m", "nt": "n k, m k -> n m"}


def xla_product(a: Array, b: Array, *, form: str) -> Array:
    """A b, a^T b or a b^T."""
    axis_a, axis_b = AXES[form]
    numbers = (((axis_a,), (axis_b,)), ((), ()))
    return lax.dot_general(a, b, numbers, preferred_element_type=wide_dtype(a.dtype))


def cpu_product(a: Array, b: Array, *, form: str) -> Array:
    """The faster way on a CPU."""
    native = _native_for(a, b)
    if native is None:
        return xla_product(a, b, form=form)
    return native.matmul(wide(a), wide(b), transpose_a=form == "tn", transpose_b=form == "nt")


def _native_for(a: Array, b: Array) -> Any:
    """The native package, where it is in use and takes these matrices; else None."""
    return _native.package_for(a.dtype) if a.size and b.size else None


def _names(form: str, **_: Any) -> str:
    return NAMES[form]


product_k = make_kernel("funcnet_product", xla_product, cpu_product, _names)


def product(a: Array, b: Array, form: str) -> Array:
    """The product of two matrices of any floating dtypes, as wide as its sum."""
    return product_k(*promoted(a, b), form=form)


def matmul(a: Float[Array, "n k"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    r"""The product $a b$.

    Args:
      a: (n, k).
      b: (k, m).

    Returns:
      (n, m), in the dtype that the sum was taken in.

    Raises:
      TypeError: the shapes do not fit, as `jax.lax.dot_general` says it.

    >>> matmul(jnp.ones((1, 2)), jnp.ones((2, 1)))
    Array([[2.]], dtype=float64)
    """
    return product(a, b, "nn")


def matmul_tn(a: Float[Array, "k n"], b: Float[Array, "k m"]) -> Float[Array, "n m"]:
    r"""The product $a^\top b$.

    Args:
      a: (k, n).
      b: (k, m).

    Returns:
      (n, m), in the dtype that the sum was taken in.

    Raises:
      TypeError: the shapes do not fit, as `jax.lax.dot_general` says it.

    >>> matmul_tn(jnp.ones((2, 1)), jnp.ones((2, 1)))
    Array([[2.]], dtype=float64)
    """
    return product(a, b, "tn")


def matmul_nt(a: Float[Array, "n k"], b: Float[Array, "m k"]) -> Float[Array, "n m"]:
    r"""The product $a b^\top$.

    Args:
      a: (n, k).
      b: (m, k).

    Returns:
      (n, m), in the dtype that the sum was taken in.

    Raises:
      TypeError: the shapes do not fit, as `jax.lax.dot_general` says it.

    >>> matmul_nt(jnp.ones((1, 2)), jnp.ones((1, 2)))
    Array([[2.]], dtype=float64)
    """
    return product(a, b, "nt")


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
    product_k.primitive,
    at_its_precision(lambda ct, a, b, form: _OF_A[form](ct, b).astype(a.aval.dtype)),
    at_its_precision(lambda ct, a, b, form: _OF_B[form](ct, a).astype(b.aval.dtype)),
)


@at_its_precision
def _batched(operands: Any, axes: Any, *, form: str) -> tuple[Array, int]:
    return jax.vmap(functools.partial(xla_product, form=form), axes)(*operands), 0


batching.primitive_batchers[product_k.primitive] = _batched


def biased(a: Array, b: Array, bias: Array, *, relu: bool, total: Any = None) -> Array:
    """A b plus a bias, through a ReLU; in the dtype of the sum, which is the bias's.

    `total` adds up the products of parts of a and b.
    """
    y = product(a, b, "nn")
    y = (y if total is None else total(y)) + bias[None]
    return jnp.maximum(y, jnp.zeros((), y.dtype)) if relu else y


def _cpu_biased(a: Array, b: Array, bias: Array, *, relu: bool) -> Array:
    if native := _native_for(a, b):
        return native.matmul(wide(a), wide(b), bias=bias, relu=relu)
    return biased(a, b, bias, relu=relu)


product_bias_k = make_composite(
    "funcnet_product_bias", biased, _cpu_biased, lambda **_: "n k, k m, m -> n m"
)


def matmul_bias(
    a: Float[Array, "n k"], b: Float[Array, "k m"], bias: Float[Array, " m"], relu: bool = False
) -> Float[Array, "n m"]:
    r"""`matmul` plus a bias, through a ReLU if asked for, in one pass where a kernel can.

    Args:
      a: (n, k).
      b: (k, m).
      bias: (m,).
      relu: whether what is below 0 becomes 0; NaN stays NaN.

    Returns:
      (n, m), in the dtype that the sum was taken in.

    Raises:
      TypeError: the shapes do not fit, as `jax.lax.dot_general` says it.

    Source: courses.md rows 0-3 and 1-8.

    >>> matmul_bias(jnp.ones((1, 2)), jnp.ones((2, 1)), -jnp.ones(1))
    Array([[1.]], dtype=float64)
    """
    a, b = promoted(a, b)
    return product_bias_k(a, b, bias.astype(wide_dtype(a.dtype)), relu=relu)
