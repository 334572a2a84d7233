"""Calls of the Gaussian error linear unit."""

from __future__ import annotations

import jax
from jax import Array


def gelu(x: Array, approximate: bool) -> Array:
    r"""$y = x\,w(x)$ with the normal distribution's $w = \Phi$.

    Args:
      x: any shape.
      approximate: whether w is the sigmoid of $2\sqrt{2/\pi}\,(x + 0.044715\,x^3)$ instead.

    Returns:
      y, of x's shape.
    """
    call = jax.ffi.ffi_call("funcnet_gelu", jax.ShapeDtypeStruct((x.size,), x.dtype))
    return call(x.reshape(-1), approximate=bool(approximate)).reshape(x.shape)


def gelu_gradient(x: Array, dy: Array, approximate: bool) -> Array:
    r"""The gradient of $\langle dy, y \rangle$ by x: $dx = (w(x) + x\,w'(x))\,dy$.

    Args:
      x: any shape.
      dy: the cotangent, of x's shape.
      approximate: as in `gelu`.

    Returns:
      dx, of x's shape.
    """
    call = jax.ffi.ffi_call("funcnet_gelu_gradient", jax.ShapeDtypeStruct((x.size,), x.dtype))
    dx = call(x.reshape(-1), dy.reshape(-1), approximate=bool(approximate))
    return dx.reshape(x.shape)
