"""Activations and dropout: elementwise layers, each with its rule directly under it.

A rule keeps its output where the derivative can be read off it, because the next layer keeps the
same array as its input anyway.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from funcnet import _validate, kernels
from funcnet.kernels import sigmoids, wide


@jax.custom_vjp
def relu(x: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    r"""Rectified linear unit.

    Forward: $y = \max(x, 0)$. Backward: $dx = [y > 0]\,dy$, so that relu'(0) = 0.
    Keeps y, which the next layer keeps as its input.

    Args:
      x: any shape, a floating dtype.

    Returns:
      y, of x's shape and dtype. NaN stays NaN.

    Raises:
      TypeError: x is not of a floating dtype.

    Source: Nair and Hinton 2010, https://www.cs.toronto.edu/~fritz/absps/reluICML.pdf; courses.md
    rows 0-5 and 1-6.

    >>> relu(jnp.array([-1.0, 0.0, 2.0]))
    Array([0., 0., 2.], dtype=float64)
    """
    return _relu(x)


def _relu(x):
    x = _validate.floating("relu", "x", x)
    return jnp.maximum(x, jnp.zeros((), x.dtype))


def _relu_fwd(x):
    y = _relu(x)
    return y, y


def _relu_bwd(y, dy):
    return (jnp.where(y > 0, dy, jnp.zeros_like(dy)),)


relu.defvjp(_relu_fwd, _relu_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("negative_slope",))
def leaky_relu(
    x: Float[ArrayLike, "*shape"], negative_slope: float = 0.01
) -> Float[Array, "*shape"]:
    r"""Leaky rectified linear unit.

    Forward: $y = x$ where $x \ge 0$, else $a x$ with $a$ = `negative_slope`.
    Backward: $dx = dy$ where $x \ge 0$, else $a\,dy$, so that the slope at 0 is 1.
    Keeps one byte an entry, whether $x \ge 0$: the sign of y does not tell it where a is not
    above 0.

    Args:
      x: any shape, a floating dtype.
      negative_slope: a static number, the slope left of 0.

    Returns:
      y, of x's shape and dtype.

    Raises:
      TypeError: x is not of a floating dtype, or the slope is not a Python number.

    Source: Maas et al. 2013, https://ai.stanford.edu/~amaas/papers/relu_hybrid_icml2013_final.pdf;
    courses.md rows 3-5 and 3-6.

    >>> leaky_relu(jnp.array([-1.0, 0.0, 2.0]))
    Array([-0.01,  0.  ,  2.  ], dtype=float64)
    """
    return _leaky_relu(x, negative_slope)


def _leaky_relu(x, negative_slope):
    x = _validate.floating("leaky_relu", "x", x)
    slope = _validate.number("leaky_relu", "negative_slope", negative_slope, low=-float("inf"))
    return jnp.where(x >= 0, x, x * jnp.asarray(slope, x.dtype))


def _leaky_relu_fwd(x, negative_slope):
    return _leaky_relu(x, negative_slope), jnp.asarray(x) >= 0


def _leaky_relu_bwd(negative_slope, positive, dy):
    return (jnp.where(positive, dy, dy * jnp.asarray(negative_slope, dy.dtype)),)


leaky_relu.defvjp(_leaky_relu_fwd, _leaky_relu_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("alpha",))
def elu(x: Float[ArrayLike, "*shape"], alpha: float = 1.0) -> Float[Array, "*shape"]:
    r"""Exponential linear unit.

    Forward: $y = x$ where $x > 0$, else $\alpha (e^x - 1)$.
    Backward: $dx = dy$ where $y > 0$, else $(y + \alpha)\,dy$; the slope at 0 is $\alpha$.
    Keeps y. Where y has come down to $-\alpha$, the slope is right to eps of $\alpha$, not of
    itself.

    Args:
      x: any shape, a floating dtype.
      alpha: a static number, 0 or more: minus the limit on the left.

    Returns:
      y, of x's shape and dtype.

    Raises:
      TypeError: x is not of a floating dtype, or alpha is not a Python number.
      ValueError: alpha is negative.

    Source: Clevert et al. 2015, https://arxiv.org/abs/1511.07289.

    >>> elu(jnp.array([-1.0, 0.0, 2.0]))
    Array([-0.63212056,  0.        ,  2.        ], dtype=float64)
    """
    return _elu(x, alpha)


def _elu(x, alpha):
    x = _validate.floating("elu", "x", x)
    alpha = _validate.number("elu", "alpha", alpha, low=0.0)
    xw = wide(x)
    # The minimum keeps the branch that is not taken finite, for derivatives of any order.
    left = jnp.asarray(alpha, xw.dtype) * jnp.expm1(jnp.minimum(xw, jnp.zeros((), xw.dtype)))
    return jnp.where(x > 0, xw, left).astype(x.dtype)


def _elu_fwd(x, alpha):
    y = _elu(x, alpha)
    return y, y


def _elu_bwd(alpha, y, dy):
    slope = jnp.where(y > 0, jnp.ones_like(y), y + jnp.asarray(alpha, y.dtype))
    return (dy * slope,)


elu.defvjp(_elu_fwd, _elu_bwd)


@jax.custom_vjp
def sigmoid(x: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    r"""Logistic sigmoid.

    Forward: $y = 1/(1 + e^{-x})$. Backward: $dx = y (1 - y)\,dy$.
    Keeps y. Where y has come up to 1, the slope is right to eps, not to eps of itself.

    Args:
      x: any shape, a floating dtype.

    Returns:
      y, of x's shape and dtype.

    Raises:
      TypeError: x is not of a floating dtype.

    Source: courses.md rows 1-7 and 4-5.

    >>> sigmoid(jnp.array([-1000.0, 0.0, 1000.0]))
    Array([0. , 0.5, 1. ], dtype=float64)
    """
    return _sigmoid(x)


def _sigmoid(x):
    x = _validate.floating("sigmoid", "x", x)
    return lax.logistic(wide(x)).astype(x.dtype)


def _sigmoid_fwd(x):
    y = _sigmoid(x)
    return y, y


def _sigmoid_bwd(y, dy):
    return ((wide(dy) * wide(y) * (1 - wide(y))).astype(dy.dtype),)


sigmoid.defvjp(_sigmoid_fwd, _sigmoid_bwd)


@jax.custom_vjp
def tanh(x: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    r"""Hyperbolic tangent.

    Forward: $y = \tanh x$. Backward: $dx = (1 - y)(1 + y)\,dy$.
    Keeps y. Where |y| has come up to 1, the slope is right to eps, not to eps of itself.

    Args:
      x: any shape, a floating dtype.

    Returns:
      y, of x's shape and dtype.

    Raises:
      TypeError: x is not of a floating dtype.

    Source: LeCun et al. 1998, http://yann.lecun.com/exdb/publis/pdf/lecun-98b.pdf.

    >>> tanh(jnp.array([-1000.0, 0.0, 1000.0]))
    Array([-1.,  0.,  1.], dtype=float64)
    """
    return _tanh(x)


def _tanh(x):
    x = _validate.floating("tanh", "x", x)
    return jnp.tanh(wide(x)).astype(x.dtype)


def _tanh_fwd(x):
    y = _tanh(x)
    return y, y


def _tanh_bwd(y, dy):
    return ((wide(dy) * (1 - wide(y)) * (1 + wide(y))).astype(dy.dtype),)


tanh.defvjp(_tanh_fwd, _tanh_bwd)


@jax.custom_vjp
def softplus(x: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    r"""Softplus, the smooth rectifier.

    Forward: $y = \log(1 + e^x) = \max(x, 0) + \log(1 + e^{-|x|})$.
    Backward: $dx = s(x)\,dy$ with the sigmoid $s$. Keeps x, from which the slope is right to eps of
    itself.

    Args:
      x: any shape, a floating dtype.

    Returns:
      y, of x's shape and dtype.

    Raises:
      TypeError: x is not of a floating dtype.

    Source: Dugas et al. 2001, https://papers.nips.cc/paper/1920.

    >>> softplus(jnp.array([-1000.0, 0.0, 1000.0]))
    Array([0.00000000e+00, 6.93147181e-01, 1.00000000e+03], dtype=float64)
    """
    return _softplus(x)


def _softplus(x):
    x = _validate.floating("softplus", "x", x)
    xw = wide(x)
    y = jnp.maximum(xw, jnp.zeros((), xw.dtype)) + jnp.log1p(jnp.exp(-jnp.abs(xw)))
    return y.astype(x.dtype)


def _softplus_fwd(x):
    return _softplus(x), jnp.asarray(x)


def _softplus_bwd(x, dy):
    slope, _ = sigmoids(wide(x))
    return ((wide(dy) * slope).astype(x.dtype),)


softplus.defvjp(_softplus_fwd, _softplus_bwd)


@jax.custom_vjp
def silu(x: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    r"""Sigmoid-weighted linear unit, also called swish.

    Forward: $y = x\,s(x)$ with the sigmoid $s$.
    Backward: $dx = s(x)\,(1 + x\,s(-x))\,dy$. Keeps x: y does not tell it.

    Args:
      x: any shape, a floating dtype.

    Returns:
      y, of x's shape and dtype.

    Raises:
      TypeError: x is not of a floating dtype.

    Source: Elfwing et al. 2017, https://arxiv.org/abs/1702.03118.

    >>> silu(jnp.array([-1.0, 0.0, 2.0]))
    Array([-0.26894142,  0.        ,  1.76159416], dtype=float64)
    """
    return _silu(x)


def _silu(x):
    x = _validate.floating("silu", "x", x)
    xw = wide(x)
    return (xw * lax.logistic(xw)).astype(x.dtype)


def _silu_fwd(x):
    return _silu(x), jnp.asarray(x)


def _silu_bwd(x, dy):
    xw = wide(x)
    s, s_minus = sigmoids(xw)
    slope = s * (1 + xw * s_minus)
    return ((wide(dy) * slope).astype(x.dtype),)


silu.defvjp(_silu_fwd, _silu_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("approximate",))
def gelu(x: Float[ArrayLike, "*shape"], approximate: bool = True) -> Float[Array, "*shape"]:
    r"""Gaussian error linear unit.

    Forward: $y = x\,\Phi(x)$ with the normal distribution's $\Phi$; approximately
    $y = x\,s(2u)$ with the sigmoid $s$ and $u = \sqrt{2/\pi}\,(x + 0.044715\,x^3)$, the same as
    $\frac{x}{2}(1 + \tanh u)$ without its cancellation on the left.

    Backward: $dx = (\Phi(x) + x\,\phi(x))\,dy$ with the density $\phi$; approximately
    $dx = s(2u)\,(1 + 2 x\,u'(x)\,s(-2u))\,dy$. Keeps x.

    Args:
      x: any shape, a floating dtype.
      approximate: a static bool, as in `jax.nn.gelu`.

    Returns:
      y, of x's shape and dtype.

    Raises:
      TypeError: x is not of a floating dtype.

    Source: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415.

    >>> gelu(jnp.array([-1.0, 0.0, 2.0]), approximate=False)
    Array([-0.15865525,  0.        ,  1.95449974], dtype=float64)
    """
    return _gelu(x, approximate)


def _gelu(x, approximate):
    x = _validate.floating("gelu", "x", x)
    return kernels.gelu(x, approximate).astype(x.dtype)


def _gelu_fwd(x, approximate):
    return _gelu(x, approximate), jnp.asarray(x)


def _gelu_bwd(approximate, x, dy):
    return (kernels.gelu_gradient(x, dy, approximate).astype(x.dtype),)


gelu.defvjp(_gelu_fwd, _gelu_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("rate",))
def dropout(
    key: Array | None, x: Float[ArrayLike, "*shape"], rate: float
) -> Float[Array, "*shape"]:
    r"""Inverted dropout.

    Forward: $y = x\,m/(1 - r)$ with $r$ = `rate` and a mask $m$ of ones, each 0 with probability
    $r$. Backward: $dx = dy\,m/(1 - r)$. Keeps the key alone: the mask is redrawn from it.
    Rate 0 or key None is the identity, which is dropout at test time.

    Args:
      key: a key from `jax.random.key` (or a raw `PRNGKey`), or None. Inside a `shard_map` the rows
        of each device want a key of their own: `fold_in(key, jax.lax.axis_index(axis_name))`.
      x: any shape, a floating dtype.
      rate: a static number in [0, 1), the probability of dropping. The courses' keep probability
        is 1 - rate.

    Returns:
      y, of x's shape and dtype. A dropped NaN stays NaN.

    Raises:
      TypeError: key is not a key, x is not of a floating dtype, or rate is not a Python number.
      ValueError: rate is outside [0, 1).

    Source: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html; courses.md rows
    2-26, 3-7 and 3-8 (which disagree on conventions: row 2-26 drops at test time, a bug).

    >>> dropout(jax.random.key(0), jnp.ones(4), 0.5).shape
    (4,)
    >>> dropout(None, jnp.ones(2), 0.5)
    Array([1., 1.], dtype=float64)
    """
    return _dropout(key, x, rate)


def _dropout(key, x, rate):
    x = _validate.floating("dropout", "x", x)
    rate = _validate.number(
        "dropout",
        "rate",
        rate,
        low=0.0,
        high=1.0,
        hint="It is the probability of dropping: for a keep probability p pass 1 - p.",
    )
    if key is None or rate == 0.0:
        return x
    return (wide(x) * _dropout_mask(key, x.shape, rate, wide(x).dtype)).astype(x.dtype)


def _dropout_mask(key, shape, rate, dtype):
    key_dtype: Any = getattr(key, "dtype", None)
    typed = jnp.issubdtype(key_dtype, jax.dtypes.prng_key)
    if not typed and not (key_dtype == jnp.uint32 and key.ndim == 1):
        raise TypeError(
            f"dropout: key is {type(key).__name__} of dtype {key_dtype}, "
            "expected a key from jax.random.key(seed), or None for the identity; the order is "
            "dropout(key, x, rate)."
        )
    # In float32, so that the draws are the same with x64 and without.
    keep = jax.random.bernoulli(key, jnp.float32(1.0 - rate), shape)
    return keep.astype(dtype) * jnp.asarray(1.0 / (1.0 - rate), dtype)


def _dropout_fwd(key, x, rate):
    # The mask is drawn twice from one key, and that is meant.
    kept = None if key is None or rate == 0.0 else jax.random.clone(key)
    return _dropout(key, x, rate), kept


def _dropout_bwd(rate, key, dy):
    return None, _dropout(key, dy, rate)


dropout.defvjp(_dropout_fwd, _dropout_bwd)
