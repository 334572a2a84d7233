"""Every layer and loss again in the plainest JAX, without a rule.

These twins are the oracle that the rules are proven against, the baseline that they are measured
against, and what to differentiate in forward mode. Same names, same arguments, same results; wrong
input is the business of `layers` and `losses`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from funcnet.layers._params import BatchStats, NormParams

relu = jax.nn.relu
sigmoid = jax.nn.sigmoid
tanh = jnp.tanh
gelu = jax.nn.gelu
silu = jax.nn.silu
softplus = jax.nn.softplus


def affine(params, x):
    """`layers.affine`."""
    return x.reshape(x.shape[0], params.w.shape[0]) @ params.w + params.b[None]


def affine_relu(params, x):
    """`layers.affine_relu`."""
    return relu(affine(params, x))


def conv2d(params, x, stride=1, padding="SAME"):
    """`layers.conv2d`."""
    if isinstance(padding, int):
        padding = ((padding, padding),) * 2
    y = lax.conv_general_dilated(
        x, params.w, _pair(stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + params.b[None, None, None]


def conv_relu(params, x, stride=1, padding="SAME"):
    """`layers.conv_relu`."""
    return relu(conv2d(params, x, stride, padding))


def conv_relu_pool(params, x, stride=1, padding="SAME"):
    """`layers.conv_relu_pool`."""
    return max_pool(conv_relu(params, x, stride, padding))


def max_pool(x, window=2, stride=None, padding="VALID"):
    """`layers.max_pool`."""
    return lax.reduce_window(x, -jnp.inf, lax.max, *_windows(window, stride, padding))


def avg_pool(x, window=2, stride=None, padding="VALID"):
    """`layers.avg_pool`."""
    windows = _windows(window, stride, padding)
    counts = lax.reduce_window(jnp.ones_like(x), 0.0, lax.add, *windows)
    return lax.reduce_window(x, 0.0, lax.add, *windows) / counts


def global_avg_pool(x):
    """`layers.global_avg_pool`."""
    return x.mean(tuple(range(1, x.ndim - 1)))


def flatten(x):
    """`layers.flatten`."""
    return jax.vmap(jnp.ravel)(x)


def leaky_relu(x, negative_slope=0.01):
    """`layers.leaky_relu`."""
    return jnp.where(x >= 0, x, negative_slope * x)


def elu(x, alpha=1.0):
    """`layers.elu`."""
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0.0, x)))


def dropout(key, x, rate):
    """`layers.dropout`."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0.0)


def batch_norm(params, x, eps=1e-5):
    """`layers.batch_norm`."""
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axes), x.var(axes)
    y = batch_norm_inference(params, BatchStats(mean, var), x, eps)
    return y, lax.stop_gradient(BatchStats(mean, var))


def batch_norm_inference(params, stats, x, eps=1e-5):
    """`layers.batch_norm_inference`."""
    mean, var = (jnp.expand_dims(s, range(x.ndim - 1)) for s in stats)
    return _scale(params, (x - mean) / jnp.sqrt(var + eps))


def affine_batch_norm_relu(params, x, eps=1e-5):
    """`layers.affine_batch_norm_relu`."""
    y, stats = batch_norm(params[1], affine(params[0], x), eps)
    return relu(y), stats


def layer_norm(params, x, eps=1e-5):
    """`layers.layer_norm`."""
    return _scale(params, _standardised(x, -1, eps))


def group_norm(params, x, groups, eps=1e-5):
    """`layers.group_norm`."""
    channels = x.shape[-1]
    grouped = x.reshape(*x.shape[:-1], groups, channels // groups)
    axes = (*range(1, x.ndim - 1), x.ndim)
    return _scale(params, _standardised(grouped, axes, eps).reshape(x.shape))


def rms_norm(gamma, x, eps=1e-6):
    """`layers.rms_norm`."""
    return _scale(NormParams(gamma, None), x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + eps))


def softmax_cross_entropy(logits, labels, label_smoothing=0.0):
    """`losses.softmax_cross_entropy`."""
    classes = logits.shape[-1]
    target = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    target = (1 - label_smoothing) * target + label_smoothing / classes
    return -(target * jax.nn.log_softmax(logits)).sum(-1).mean()


def multiclass_hinge(scores, labels, margin=1.0):
    """`losses.multiclass_hinge`."""
    label = jax.nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
    of_label = (label * scores).sum(-1, keepdims=True)
    return ((1 - label) * relu(scores - of_label + margin)).sum(-1).mean()


def mean_squared_error(prediction, target):
    """`losses.mean_squared_error`."""
    return ((prediction - target) ** 2).mean()


def l2_penalty(params, reg):
    """`losses.l2_penalty`."""
    return 0.5 * reg * sum((w**2).sum() for w in jax.tree.leaves(params) if w.ndim > 1)


def _standardised(x, axes, eps):
    return (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + eps)


def _scale(params, x):
    axes = range(x.ndim - 1)
    if params.gamma is not None:
        x = jnp.expand_dims(params.gamma, axes) * x
    return x if params.beta is None else x + jnp.expand_dims(params.beta, axes)


def _windows(window, stride, padding):
    window = _pair(window)
    if isinstance(padding, int):
        padding = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return (1, *window, 1), (1, *(window if stride is None else _pair(stride)), 1), padding


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)
