"""The mean squared error and the L2 penalty, each with its rule directly under it."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from funcnet import _validate
from funcnet.kernels import as_cotangent, wide
from funcnet.losses._check import check_reduction
from funcnet.losses._rows import Reduction, reduced


@partial(jax.custom_vjp, nondiff_argnames=("reduction",))
def mean_squared_error(
    prediction: Float[Array, "*shape"],
    target: Float[Array, "*shape"],
    reduction: Reduction = "mean",
) -> Float[Array, "*_"]:
    r"""Mean squared error over all entries.

    Forward: $\frac{1}{N} \sum_i (p_i - t_i)^2$ over the N entries: the mean over rows of each row's
    mean. Backward: $dp_i = 2 (p_i - t_i)\,g_i$, $dt_i = -dp_i$ with an entry's share
    $g_i = d\text{loss} / N$ (for "sum" $d\text{loss}$, for "none" $d\text{loss}_i$). Keeps what it
    has been given.

    Args:
      prediction: any shape, a floating dtype.
      target: the same shape.
      reduction: "mean", "sum", or "none" for the square of each entry, which weights of rows or
        entries multiply.

    Returns:
      The loss in the common dtype, a scalar unless the reduction is "none".

    Raises:
      TypeError: an array is not of a floating dtype.
      ValueError: shapes differ, a mean is asked of no entries, or there is no such reduction.

    Source: courses.md row 4-4, whose terms are half of it.

    >>> mean_squared_error(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0]))
    Array(2., dtype=float64)
    """
    return _mean_squared_error(prediction, target, reduction)


def _mean_squared_error(prediction, target, reduction):
    prediction = _validate.floating("mean_squared_error", "prediction", prediction)
    target = _validate.floating("mean_squared_error", "target", target)
    _validate.shape(
        "mean_squared_error", "target", target, prediction.shape, "prediction has that shape"
    )
    check_reduction("mean_squared_error", "prediction", prediction, reduction)
    dtype = jnp.result_type(prediction, target)
    squares = jnp.square(wide(prediction) - wide(target))
    return reduced(squares, squares.size, reduction).astype(dtype)


def _mean_squared_error_fwd(prediction, target, reduction):
    return _mean_squared_error(prediction, target, reduction), (prediction, target)


def _mean_squared_error_bwd(reduction, residuals, dloss):
    prediction, target = (jnp.asarray(r) for r in residuals)  # the same shape
    share = wide(dloss) * (2.0 / prediction.size if reduction == "mean" else 2.0)
    d = (wide(prediction) - wide(target)) * share
    return as_cotangent((d, -d), (prediction, target))


mean_squared_error.defvjp(_mean_squared_error_fwd, _mean_squared_error_bwd)


@jax.custom_vjp
def l2_penalty(params: Any, reg: float | Float[Array, ""]) -> Float[Array, ""]:
    r"""Half the squared length of all weights, times `reg`; biases and norms are free.

    Forward: $\frac{\rho}{2} \sum_w \lVert w \rVert^2$ with $\rho$ = `reg` over the weights: the
    leaves of two axes or more. Biases, gains and shifts have one axis.
    Backward: $dw = \rho\,w\,d\text{loss}$, 0 for what is free, and
    $d\rho = \frac{1}{2} \sum_w \lVert w \rVert^2\,d\text{loss}$. Keeps what it has been given.

    Args:
      params: a pytree of arrays of floating dtypes.
      reg: the strength, a number or a scalar array; it may be traced.

    Returns:
      The penalty, a scalar in the widest of the weights' dtypes, float32 at least.

    Raises:
      TypeError: a leaf is not of a floating dtype.

    Source: courses.md rows 1-14 (the half, and free biases, are pinned to ten digits) and 2-5 (a
    course that forgot one matrix).

    >>> l2_penalty(AffineParams(jnp.full((2, 2), 3.0), jnp.ones(2)), 0.1).round(6)
    Array(1.8, dtype=float64)
    """
    return _l2_penalty(params, reg)


def _l2_penalty(params, reg):
    squares = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        leaf = _validate.floating("l2_penalty", f"params{jax.tree_util.keystr(path)}", leaf)
        if leaf.ndim >= 2:
            squares.append(jnp.square(wide(leaf)).sum())
    widest = jnp.dtype(max((s.dtype for s in squares), key=lambda d: d.itemsize, default="float32"))
    total = sum((s.astype(widest) for s in squares), start=jnp.zeros((), widest))
    return 0.5 * jnp.asarray(reg).astype(widest) * total


def _l2_penalty_fwd(params, reg):
    return _l2_penalty(params, reg), (params, reg)


def _l2_penalty_bwd(residuals, dloss):
    params, reg = residuals
    reg = jnp.asarray(reg)

    def cotangent(leaf):
        leaf = jnp.asarray(leaf)
        if leaf.ndim < 2:
            return jnp.zeros_like(leaf)
        scale = reg.astype(dloss.dtype) * dloss
        return (scale.astype(wide(leaf).dtype) * wide(leaf)).astype(leaf.dtype)

    dreg = _l2_penalty(params, jnp.ones((), dloss.dtype)) * dloss
    return jax.tree.map(cotangent, params), dreg.astype(reg.dtype)


l2_penalty.defvjp(_l2_penalty_fwd, _l2_penalty_bwd)
