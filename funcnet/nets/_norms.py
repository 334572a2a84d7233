"""Blocks that normalise; each computes and refuses as its layer of `layers` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from funcnet import _validate, layers
from funcnet.layers import BatchStats, NormParams
from funcnet.nets._blocks import channels_of
from funcnet.nets._config import configured
from funcnet.nets._net import Net


def running_statistics(running: BatchStats, batch: BatchStats, momentum: int | float) -> BatchStats:
    r"""Returns $m\,\text{running} + (1 - m)\,\text{batch}$ in the dtype of `running`."""
    return jax.tree.map(
        lambda old, new: momentum * old + (1.0 - momentum) * new.astype(old.dtype), running, batch
    )


@configured
def batch_norm(
    momentum: int | float = 0.9,
    eps: int | float = 1e-5,
    *,
    gain: bool = True,
    bias: bool = True,
    axis_name: str | tuple[str, ...] | None = None,
) -> Net:
    r"""Batch normalisation over all axes but the last, with running statistics in `state`.

    In training, by the batch's own mean and biased variance, and
    $\text{running} \leftarrow m\,\text{running} + (1-m)\,\text{batch}$ with m = `momentum` (torch's
    momentum is 1 − m, and its running variance unbiased); with `train=False` by the running
    statistics, which start at mean 0 and variance 1.

    Args:
      momentum: the weight of the old running statistics, in [0, 1]. With 0 the state is the last
        batch's own statistics, whose mean over batches is torch's `momentum=None`.
      eps: added to the variance.
      gain: whether it learns gamma.
      bias: whether it learns beta.
      axis_name: for a step inside a `shard_map`, the axes of the mesh that the batch is cut over.

    Returns:
      The block; params `NormParams(gamma, beta)`, state `BatchStats(mean, var)`, (c,) each. None
      stands for a gamma or beta that is not learnt, `()` for both.

    Raises:
      ValueError: `momentum` is outside [0, 1]; when applied in training: a channel has one value
        only.

    Source: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167; courses.md row 2-24.

    >>> from funcnet import nets
    >>> params, state = nets.batch_norm().init(jax.random.key(0), (2,))
    >>> state
    BatchStats(mean=Array([0., 0.], dtype=float32), var=Array([1., 1.], dtype=float32))
    """
    momentum = _validate.number(
        "nets.batch_norm", "momentum", momentum, low=0.0, high=1.0, include_high=True
    )

    def init(key: Array, input_shape: Any) -> tuple[Any, Any]:
        del key
        channels = channels_of("nets.batch_norm", input_shape)
        mean, var = jnp.zeros((channels,), jnp.float32), jnp.ones((channels,), jnp.float32)
        return _norm_init(channels, gain, bias), BatchStats(mean, var)

    def apply(
        params: Any, state: Any, x: Array, *, train: bool = False, key: Array | None = None
    ) -> tuple[Array, Any]:
        del key
        params = params or NO_NORM_PARAMS
        if not train:
            return layers.batch_norm_inference(params, state, x, eps), state
        y, batch = layers.batch_norm(params, x, eps, axis_name)
        return y, running_statistics(state, batch, momentum)

    config = ("momentum", momentum), ("eps", eps), ("axis_name", axis_name)
    return Net(init, apply, "batch_norm", config=config)


#: What a rule is given where a block has learnt neither gamma nor beta, and so has `()`.
NO_NORM_PARAMS = NormParams(None, None)


def _norm_init(channels: int, gain: bool, bias: bool) -> Any:
    return layers.norm_init(channels, gain=gain, bias=bias) if gain or bias else ()


def _norm(kind: str, function: Callable[[Any, Array], Array], gain: bool, bias: bool) -> Net:
    def init(key: Array, input_shape: Any) -> tuple[Any, Any]:
        del key
        params = _norm_init(channels_of(f"nets.{kind}", input_shape), gain, bias)
        return (params.gamma if kind == "rms_norm" and gain else params), ()

    def apply(
        params: Any, state: Any, x: Array, *, train: bool = False, key: Array | None = None
    ) -> tuple[Array, Any]:
        del train, key
        return function(params, x), state

    return Net(init, apply, kind)


@configured
def layer_norm(eps: int | float = 1e-5, *, gain: bool = True, bias: bool = True) -> Net:
    r"""Layer normalisation over the last axis: see `layers.layer_norm`.

    Args:
      eps: added to the variance.
      gain: whether it learns gamma.
      bias: whether it learns beta.

    Returns:
      The block; params `NormParams(gamma, beta)`, (c,) each, or as in `batch_norm` without them.

    >>> from funcnet import nets
    >>> params, _ = nets.layer_norm().init(jax.random.key(0), (3,))
    >>> params.gamma.shape
    (3,)
    """

    def apply(params: Any, x: Array) -> Array:
        return layers.layer_norm(params or NO_NORM_PARAMS, x, eps)

    return _norm("layer_norm", apply, gain, bias)


@configured
def group_norm(
    groups: int, eps: int | float = 1e-5, *, gain: bool = True, bias: bool = True
) -> Net:
    r"""Group normalisation, within each group of channels of each example: `layers.group_norm`.

    Args:
      groups: the number of groups, a divisor of the number of channels.
      eps: added to the variance.
      gain: whether it learns gamma.
      bias: whether it learns beta.

    Returns:
      The block; params `NormParams(gamma, beta)`, (c,) each, or as in `batch_norm` without them.

    Raises:
      TypeError: `groups` is not an int.
      ValueError: `groups` is below 1; at init: it does not divide the number of channels.

    >>> from funcnet import nets
    >>> params, _ = nets.group_norm(2).init(jax.random.key(0), (8, 8, 4))
    >>> params.gamma.shape
    (4,)
    """
    groups = _validate.count("nets.group_norm", "groups", groups)

    def apply(params: Any, x: Array) -> Array:
        return layers.group_norm(params or NO_NORM_PARAMS, x, groups, eps)

    return _norm("group_norm", apply, gain, bias)


@configured
def rms_norm(eps: int | float = 1e-6, *, gain: bool = True) -> Net:
    r"""Normalisation by the root mean square over the last axis: see `layers.rms_norm`.

    Args:
      eps: added to the mean square.
      gain: whether it learns gamma.

    Returns:
      The block; params `gamma` (c,), `()` without.

    >>> from funcnet import nets
    >>> params, _ = nets.rms_norm().init(jax.random.key(0), (3,))
    >>> params.shape
    (3,)
    """

    def apply(gamma: Any, x: Array) -> Array:
        return layers.rms_norm(gamma if gain else None, x, eps)

    return _norm("rms_norm", apply, gain, False)
