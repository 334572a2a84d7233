"""The Gaussian error linear unit and its slope: native on a CPU, where many numbers make it pay."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from funcnet.kernels import _native
from funcnet.kernels._lowering import make_composite, wide

MANY_NUMBERS = 2**15  # fewer XLA joins with what comes before and after

_SQRT_2_OVER_PI = 0.7978845608028654
_SQRT_HALF = 0.7071067811865476
_INV_SQRT_2_PI = 0.3989422804014327
_CUBIC = 0.044715


def gelu(x: Float[Array, "*shape"], approximate: bool) -> Float[Array, "*shape"]:
    r"""$y = x\,w(x)$ with the normal distribution's $w = \Phi$.

    Args:
      x: any shape.
      approximate: whether w is the sigmoid of $2\sqrt{2/\pi}\,(x + 0.044715\,x^3)$ instead.

    Returns:
      y, of x's shape, as wide as sums over x.

    >>> gelu(jnp.array([-1.0, 2.0]), approximate=False)
    Array([-0.15865525,  1.95449974], dtype=float64)
    """
    return gelu_k(wide(x), approximate=approximate)


def gelu_gradient(
    x: Float[Array, "*shape"], dy: Float[Array, "*shape"], approximate: bool
) -> Float[Array, "*shape"]:
    r"""The gradient of $\langle dy, y \rangle$ by x, of `gelu`'s y: $(w(x) + x\,w'(x))\,dy$.

    Args:
      x: any shape.
      dy: the cotangent, of x's shape.
      approximate: as in `gelu`.

    Returns:
      dx, of x's shape, as wide as sums over x.

    >>> gelu_gradient(jnp.array([0.0]), jnp.array([3.0]), approximate=False)
    Array([1.5], dtype=float64)
    """
    return gelu_gradient_k(wide(x), wide(dy), approximate=approximate)


# The definitions ---------------------------------------------------------------------------


def sigmoids(t: Array) -> tuple[Array, Array]:
    """s(t) and s(-t), both right to eps of themselves, from one exponential.

    Forward passes take `lax.logistic` instead: sharing the exponential with the backward pass, XLA
    would write it to memory, which takes longer than computing it twice.

    Args:
      t: any shape.

    >>> sigmoids(jnp.zeros(()))
    (Array(0.5, dtype=float64), Array(0.5, dtype=float64))
    """
    e = jnp.exp(-jnp.abs(t))
    large = 1 / (1 + e)
    small = e * large
    right = t >= 0
    return jnp.where(right, large, small), jnp.where(right, small, large)


def _two_u(x: Array) -> Array:
    return 2 * _SQRT_2_OVER_PI * (x + _CUBIC * x * x * x)


def _gelu(x: Array, *, approximate: bool) -> Array:
    return x * (lax.logistic(_two_u(x)) if approximate else 0.5 * lax.erfc(-x * _SQRT_HALF))


def _gradient(x: Array, dy: Array, *, approximate: bool) -> Array:
    near = jnp.clip(x, -40.0, 40.0)  # beyond, the slope is 0 or 1, and powers of x would overflow
    if approximate:
        s, s_minus = sigmoids(_two_u(x))
        two_du = 2 * _SQRT_2_OVER_PI * (1 + 3 * _CUBIC * near * near)
        slope = s * (1 + near * two_du * s_minus)
    else:
        density = _INV_SQRT_2_PI * jnp.exp(-0.5 * near * near)
        slope = 0.5 * lax.erfc(-x * _SQRT_HALF) + near * density
    return dy * slope


# Which way ---------------------------------------------------------------------------------


def _cpu_gelu(x: Array, *, approximate: bool) -> Array:
    native = _native_for(x)
    return native.gelu(x, approximate) if native else _gelu(x, approximate=approximate)


def _cpu_gradient(x: Array, dy: Array, *, approximate: bool) -> Array:
    if native := _native_for(x):
        return native.gelu_gradient(x, dy, approximate)
    return _gradient(x, dy, approximate=approximate)


def _native_for(x: Array) -> Any:
    """The native package, where it is in use, takes these numbers and is the faster; else None."""
    return _native.package_for(x.dtype) if x.size >= MANY_NUMBERS else None


gelu_k = make_composite("funcnet_gelu", _gelu, _cpu_gelu, lambda **_: "... -> ...")
gelu_gradient_k = make_composite(
    "funcnet_gelu_gradient", _gradient, _cpu_gradient, lambda **_: "..., ... -> ..."
)
