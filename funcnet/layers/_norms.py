"""Normalisations, each layer with its rule directly under it.

All standardise groups of numbers and then scale and shift them; they differ in what a group is.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.export import is_symbolic_dim
from jax.typing import ArrayLike
from jaxtyping import Float

from funcnet import _validate
from funcnet.kernels import (
    as_cotangent,
    cut_as,
    devices_along,
    normalise,
    normalise_gradient,
    once,
    per_channel,
    scale_and_shift,
    scaled,
    wide,
)
from funcnet.layers._params import BatchStats, NormParams

AxisName = str | tuple[str, ...] | None  # of a mesh, inside a shard_map


@partial(jax.custom_vjp, nondiff_argnames=("eps", "axis_name"))
def batch_norm(
    params: NormParams,
    x: Float[ArrayLike, "*batch c"],
    eps: float = 1e-5,
    axis_name: AxisName = None,
) -> tuple[Float[Array, "*batch c"], BatchStats]:
    r"""Batch normalisation with the statistics of this batch.

    Forward: $\hat x = (x - \mu)/\sqrt{v + \epsilon}$ and $y = \gamma \hat x + \beta$ with the mean
    $\mu$ and the biased variance $v$ of each channel over all axes but the last: rows and images
    alike.
    Backward, with N values a channel: $d\beta = \sum dy$, $d\gamma = \sum dy\,\hat x$,
    $dx = \frac{\gamma}{\sqrt{v + \epsilon}}\,(dy - d\beta/N - \hat x\,d\gamma/N)$. The statistics
    carry no gradient. Keeps x, which it has been given, and three numbers a channel.

    Args:
      params: `NormParams(gamma, beta)` of shapes (c,) and (c,), or None for either: no gain, no
        shift, and None for its cotangent.
      x: (..., c) with at least two values a channel.
      eps: a static number above 0, added to the variance.
      axis_name: inside a `shard_map`, the axis of the mesh, or axes, over which the batch is cut:
        the statistics are the whole batch's. None takes those of the rows at hand. Elsewhere x is
        the whole batch on any mesh, and needs none.

    Returns:
      y, of x's shape and of the common dtype of x, gamma and beta; and `BatchStats(mean, var)` of
      shape (c,) each, float32 at least.

    Raises:
      TypeError: an array is not of a floating dtype, or eps is not a Python number.
      ValueError: shapes do not fit, there are fewer than two values a channel, or eps is not
        above 0.

    Source: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167; courses.md rows 2-14, 2-16,
    2-24 and 2-25.

    >>> y, stats = batch_norm(NormParams(jnp.ones(1), jnp.zeros(1)), jnp.array([[1.0], [3.0]]))
    >>> y.ravel().round(4), stats.mean, stats.var
    (Array([-1.,  1.], dtype=float64), Array([2.], dtype=float64), Array([1.], dtype=float64))
    """
    y, stats, _ = _batch_norm(params, x, eps, axis_name)
    return y, stats


def _batch_norm(params, x, eps, axis_name):
    params, x, dtype = norm_arguments("batch_norm", params, x, eps)
    check_batch("batch_norm", x, axis_name)
    y, centre, var, inv_std = normalise(params, x, "batch", eps, axis_name=axis_name)
    return y.astype(dtype), statistics(params, centre, var), (centre, inv_std)


def _batch_norm_fwd(params, x, eps, axis_name):
    y, stats, (centre, inv_std) = _batch_norm(params, x, eps, axis_name)
    return (y, stats), (params, x, centre, inv_std)


def _batch_norm_bwd(eps, axis_name, residuals, cotangents):
    params, x, centre, inv_std = residuals  # (c,) and (c,), (..., c), 2 of (1, ..., c), (1, ..., c)
    dy, _ = cotangents
    dparams, dx = normalise_gradient(params, x, centre, inv_std, dy, "batch", axis_name=axis_name)
    return as_cotangent((parameter_cotangents(params, *dparams), dx), (params, x))


batch_norm.defvjp(_batch_norm_fwd, _batch_norm_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("eps",))
def batch_norm_inference(
    params: NormParams, stats: BatchStats, x: Float[ArrayLike, "*batch c"], eps: float = 1e-5
) -> Float[Array, "*batch c"]:
    r"""Batch normalisation with statistics gathered in training.

    Forward: $\hat x = (x - \mu)/\sqrt{v + \epsilon}$ and $y = \gamma \hat x + \beta$ with $\mu$ and
    $v$ from `stats`.
    Backward: $d\beta = \sum dy$, $d\gamma = \sum dy\,\hat x$,
    $dx = \gamma\,dy/\sqrt{v + \epsilon}$, $d\mu = -\sum dx$,
    $dv = -\frac{1}{2}\,\gamma\,d\gamma/(v + \epsilon)$. Keeps what it has been given.

    Args:
      params: `NormParams(gamma, beta)` of shapes (c,) and (c,), or None for either: no gain, no
        shift, and None for its cotangent.
      stats: `BatchStats(mean, var)` of shapes (c,) and (c,); var is 0 or more.
      x: (..., c), any number of rows.
      eps: a static number above 0, added to the variance.

    Returns:
      y, of x's shape and of the common dtype of x, gamma and beta.

    Raises:
      TypeError: an array is not of a floating dtype, or eps is not a Python number.
      ValueError: shapes do not fit, or eps is not above 0.

    Source: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167; courses.md row 2-15.

    >>> params, stats = norm_init(1, jnp.float64), BatchStats(jnp.ones(1), jnp.full(1, 4.0))
    >>> batch_norm_inference(params, stats, jnp.array([[1.0], [3.0]])).ravel().round(4)
    Array([0., 1.], dtype=float64)
    """
    return _batch_norm_inference(params, stats, x, eps)


def _batch_norm_inference(params, stats, x, eps):
    params, x, dtype = norm_arguments("batch_norm_inference", params, x, eps)
    for name, value in zip(("stats.mean", "stats.var"), stats, strict=True):
        value = _validate.floating("batch_norm_inference", name, value)
        _validate.shape(
            "batch_norm_inference", name, value, x.shape[-1:], f"x has {x.shape[-1]} channels"
        )
    x = wide(x)
    mean, inv_std = _inference_statistics(stats, x, eps)
    return scale_and_shift(params, (x - mean) * inv_std).astype(dtype)


def _inference_statistics(stats, x, eps):
    """Mean and inverse root of the variance, to broadcast against x."""
    mean, var = (per_channel(s, x) for s in stats)
    return mean, lax.rsqrt(var + jnp.asarray(eps, var.dtype))


def _batch_norm_inference_fwd(params, stats, x, eps):
    return _batch_norm_inference(params, stats, x, eps), (params, stats, x)


def _batch_norm_inference_bwd(eps, residuals, dy):
    params, stats, x = residuals  # (c,) and (c,), (c,) and (c,), (..., c)
    mean, inv_std = _inference_statistics(stats, wide(x), eps)
    centre = mean, jnp.zeros_like(mean)
    (dgamma, dbeta), dx = normalise_gradient(params, x, centre, inv_std, dy, "batch", fixed=True)
    inv_std = inv_std.reshape(-1)
    slope = scaled(params.gamma, inv_std)
    dstats = BatchStats(-slope * dbeta, -0.5 * slope * inv_std * dgamma)
    dparams = parameter_cotangents(params, dgamma, dbeta)
    return as_cotangent((dparams, dstats, dx), (params, stats, x))


batch_norm_inference.defvjp(_batch_norm_inference_fwd, _batch_norm_inference_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("eps",))
def layer_norm(
    params: NormParams, x: Float[ArrayLike, "*batch c"], eps: float = 1e-5
) -> Float[Array, "*batch c"]:
    r"""Layer normalisation over the last axis.

    Forward: $\hat x = (x - \mu)/\sqrt{v + \epsilon}$ and $y = \gamma \hat x + \beta$ with the mean
    $\mu$ and the biased variance $v$ of each row.
    Backward, with $g = \gamma\,dy$ and means over the row: $d\beta = \sum dy$,
    $d\gamma = \sum dy\,\hat x$,
    $dx = \frac{1}{\sqrt{v + \epsilon}}\,(g - \overline{g} - \hat x\,\overline{g \hat x})$.
    Keeps x, which it has been given, and three numbers a row.

    Args:
      params: `NormParams(gamma, beta)` of shapes (c,) and (c,), or None for either: no gain, no
        shift, and None for its cotangent.
      x: (..., c), any number of rows.
      eps: a static number above 0, added to the variance.

    Returns:
      y, of x's shape and of the common dtype of x, gamma and beta.

    Raises:
      TypeError: an array is not of a floating dtype, or eps is not a Python number.
      ValueError: shapes do not fit, or eps is not above 0.

    Source: Ba et al. 2016, https://arxiv.org/abs/1607.06450.

    >>> layer_norm(norm_init(2, jnp.float64), jnp.array([[1.0, 3.0]])).round(4)
    Array([[-1.,  1.]], dtype=float64)
    """
    y, _ = _layer_norm(params, x, eps)
    return y


def _layer_norm(params, x, eps):
    params, x, dtype = norm_arguments("layer_norm", params, x, eps)
    y, centre, _, inv_std = normalise(params, x, "layer", eps)
    return y.astype(dtype), (centre, inv_std)


def _layer_norm_fwd(params, x, eps):
    y, stats = _layer_norm(params, x, eps)
    centre, inv_std = jax.tree.map(once, stats)
    return y, (params, x, centre, inv_std)


def _layer_norm_bwd(eps, residuals, dy):
    params, x, centre, inv_std = residuals  # (c,) and (c,), (..., c), 2 of (..., 1), (..., 1)
    dparams, dx = normalise_gradient(params, x, centre, inv_std, dy, "layer")
    return as_cotangent((parameter_cotangents(params, *dparams), dx), (params, x))


layer_norm.defvjp(_layer_norm_fwd, _layer_norm_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("groups", "eps"))
def group_norm(
    params: NormParams, x: Float[ArrayLike, "n *space c"], groups: int, eps: float = 1e-5
) -> Float[Array, "n *space c"]:
    r"""Group normalisation: each example, within each group of neighbouring channels.

    Forward: $\hat x = (x - \mu)/\sqrt{v + \epsilon}$ and $y = \gamma \hat x + \beta$ with the mean
    $\mu$ and the biased variance $v$ over all axes but the first, within each group of c / groups
    channels. One group is layer normalisation of the whole example, c groups are instance
    normalisation.
    Backward: as in `layer_norm`, with means over the group. Keeps x, which it has been given, and
    three numbers a group.

    Args:
      params: `NormParams(gamma, beta)` of shapes (c,) and (c,), or None for either: no gain, no
        shift, and None for its cotangent.
      x: (n, ..., c), any number of examples.
      groups: a static int that divides c.
      eps: a static number above 0, added to the variance.

    Returns:
      y, of x's shape and of the common dtype of x, gamma and beta.

    Raises:
      TypeError: an array is not of a floating dtype, or an option is not of its type.
      ValueError: shapes do not fit, the groups do not divide the channels, or eps is not above 0.

    Source: Wu and He 2018, https://arxiv.org/abs/1803.08494.

    >>> x = jnp.array([[1.0, 3.0, 10.0, 30.0]])
    >>> group_norm(norm_init(4, jnp.float64), x, 2).round(4)
    Array([[-1.,  1., -1.,  1.]], dtype=float64)
    """
    y, _ = _group_norm(params, x, groups, eps)
    return y


def _group_norm(params, x, groups, eps):
    params, x, dtype = norm_arguments("group_norm", params, x, eps)
    _check_groups(x, groups)
    y, centre, _, inv_std = normalise(params, x, "group", eps, groups=groups)
    return y.astype(dtype), (centre, inv_std)


def _check_groups(x, groups):
    groups = _validate.count("group_norm", "groups", groups)
    if x.ndim < 2 or x.shape[-1] % groups:
        raise ValueError(
            f"group_norm: x has shape {x.shape} and groups is {groups}, expected (n, ..., c) with "
            "channels that the groups divide."
        )


def _group_norm_fwd(params, x, groups, eps):
    y, stats = _group_norm(params, x, groups, eps)
    centre, inv_std = jax.tree.map(once, stats)
    return y, (params, x, centre, inv_std)


def _group_norm_bwd(groups, eps, residuals, dy):
    params, x, centre, inv_std = residuals  # (c,) and (c,), (n, ..., c), 2 of (n, 1, groups, 1), it
    dparams, dx = normalise_gradient(params, x, centre, inv_std, dy, "group", groups=groups)
    return as_cotangent((parameter_cotangents(params, *dparams), dx), (params, x))


group_norm.defvjp(_group_norm_fwd, _group_norm_bwd)


@partial(jax.custom_vjp, nondiff_argnames=("eps",))
def rms_norm(
    gamma: Float[ArrayLike, " c"] | None, x: Float[ArrayLike, "*batch c"], eps: float = 1e-6
) -> Float[Array, "*batch c"]:
    r"""Root mean square normalisation over the last axis.

    Forward: $\hat x = x r$ with $r = 1/\sqrt{\overline{x^2} + \epsilon}$, and $y = \gamma \hat x$.
    Backward, with $g = \gamma\,dy$ and means over the row: $d\gamma = \sum dy\,\hat x$,
    $dx = r\,(g - \hat x\,\overline{g \hat x})$. Keeps x, which it has been given, and r.

    Args:
      gamma: gains (c,), or None for ones that are not there: neither kept nor learnt.
      x: (..., c), any number of rows.
      eps: a static number above 0, added to the mean square.

    Returns:
      y, of x's shape and of the common dtype of x and gamma.

    Raises:
      TypeError: an array is not of a floating dtype, or eps is not a Python number.
      ValueError: shapes do not fit, or eps is not above 0.

    Source: Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467.

    >>> rms_norm(jnp.ones(2), jnp.array([[3.0, -3.0]])).round(4)
    Array([[ 1., -1.]], dtype=float64)
    """
    y, _ = _rms_norm(gamma, x, eps)
    return y


def _rms_norm(gamma, x, eps):
    x = _validate.floating("rms_norm", "x", x)
    gamma = _per_channel("rms_norm", "gamma", gamma, x)
    _check_eps("rms_norm", eps)
    y, _, _, r = normalise((gamma, None), x, "rms", eps)
    return y.astype(jnp.result_type(x, *jax.tree.leaves(gamma))), r


def _rms_norm_fwd(gamma, x, eps):
    y, r = _rms_norm(gamma, x, eps)
    return y, (gamma, x, once(r))


def _rms_norm_bwd(eps, residuals, dy):
    gamma, x, r = residuals  # (c,), (..., c), (..., 1)
    (dgamma, _), dx = normalise_gradient((gamma, None), x, None, r, dy, "rms")
    return as_cotangent((None if gamma is None else dgamma, dx), (gamma, x))


rms_norm.defvjp(_rms_norm_fwd, _rms_norm_bwd)


def statistics(params, centre, var):
    """The statistics, an output of their own for each gamma and beta that `vmap` maps.

    They depend on neither, but an output that all examples share has one cotangent where each
    example has a backward pass: jax 0.12 refuses that, earlier ones count it once an example. The
    selection says "mapped" to `vmap` and is gone when XLA has compiled.
    """

    def own(value):
        for parameter in jax.tree.leaves(params):
            value = lax.select(np.True_, value, cut_as(parameter.astype(value.dtype), value))
        return value

    return BatchStats(own(sum(centre).reshape(-1)), own(var.reshape(-1)))


def parameter_cotangents(params, dgamma, dbeta):
    """The cotangents of the parameters that are there."""
    dgamma = None if params.gamma is None else dgamma
    return NormParams(dgamma, None if params.beta is None else dbeta)


def norm_arguments(function, params, x, eps):
    """Checked parameters and x, and the dtype of the result."""
    x = _validate.floating(function, "x", x)
    gamma = _per_channel(function, "params.gamma", params.gamma, x)
    beta = _per_channel(function, "params.beta", params.beta, x)
    _check_eps(function, eps)
    return NormParams(gamma, beta), x, jnp.result_type(x, *jax.tree.leaves((gamma, beta)))


def _per_channel(function, name, values, x):
    """Checked values, one for each channel of x, or None."""
    if values is not None:
        values = _validate.floating(function, name, values)
    if x.ndim < 1 or not x.shape[-1]:
        raise ValueError(f"{function}: x has shape {x.shape}, expected (..., c) with c channels.")
    if values is not None:
        _validate.shape(
            function, name, values, x.shape[-1:], f"x has shape {x.shape} with channels last"
        )
    return values


def _check_eps(function, eps):
    _validate.number(function, "eps", eps, low=0.0, include_low=False)


def values_a_channel(x, axis_name):
    """How many values a channel has, on all devices of an axis of a `shard_map`."""
    return x.size // x.shape[-1] * devices_along(axis_name)


def check_batch(function, x, axis_name):
    count = values_a_channel(x, axis_name)
    if not is_symbolic_dim(count) and count < 2:
        raise ValueError(
            f"{function}: x has shape {x.shape}, which is {count} value(s) for each of the "
            f"{x.shape[-1]} channels, expected at least 2: one value has no variance. Use a larger "
            "batch, or batch_norm_inference with running statistics."
        )
