"""Every layer and loss again in the plainest JAX, without a rule.

These twins are the oracle that the rules are proven against, the baseline that they are measured
against, and what to differentiate in forward mode. Same names, same arguments, same results; wrong
input is the business of `layers` and `losses`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from funcnet.layers import BatchStats, NormParams

__all__ = [
    "affine",
    "affine_batch_norm_relu",
    "affine_relu",
    "avg_pool",
    "batch_norm",
    "batch_norm_inference",
    "binary_cross_entropy",
    "conv1d",
    "conv2d",
    "conv2d_transpose",
    "conv_relu",
    "conv_relu_pool",
    "dropout",
    "elu",
    "flatten",
    "gelu",
    "global_avg_pool",
    "group_norm",
    "l2_penalty",
    "layer_norm",
    "leaky_relu",
    "max_pool",
    "mean_squared_error",
    "multiclass_hinge",
    "relu",
    "rms_norm",
    "sigmoid",
    "silu",
    "softmax_cross_entropy",
    "softplus",
    "tanh",
]


relu = jax.nn.relu
sigmoid = jax.nn.sigmoid
tanh = jnp.tanh
gelu = jax.nn.gelu
silu = jax.nn.silu
softplus = jax.nn.softplus


def affine(params, x):
    """`layers.affine`."""
    return _biased(x.reshape(x.shape[0], params.w.shape[0]) @ params.w, params.b)


def affine_relu(params, x):
    """`layers.affine_relu`."""
    return relu(affine(params, x))


def conv1d(params, x, stride=1, padding="SAME", dilation=1, groups=1):
    """`layers.conv1d`."""
    if not isinstance(padding, str):
        padding = (_pair(padding),)
    y = lax.conv_general_dilated(
        x,
        params.w,
        (stride,),
        padding,
        rhs_dilation=(dilation,),
        dimension_numbers=("NHC", "HIO", "NHC"),
        feature_group_count=groups,
    )
    return _biased(y, params.b)


def conv2d(params, x, stride=1, padding="SAME", dilation=1, groups=1):
    """`layers.conv2d`."""
    if not isinstance(padding, str):
        padding = tuple(_pair(side) for side in _pair(padding))
    y = lax.conv_general_dilated(
        x,
        params.w,
        _pair(stride),
        padding,
        rhs_dilation=_pair(dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return _biased(y, params.b)


def conv2d_transpose(params, x, stride=1, padding="SAME", dilation=1, groups=1):
    """`layers.conv2d_transpose`."""
    kh, kw, out, cin = params.w.shape  # of a group, of all
    stride, dilation = _pair(stride), _pair(dilation)
    reach = [(k - 1) * d + 1 for k, d in zip((kh, kw), dilation, strict=True)]
    if isinstance(padding, str):  # h * stride rows, and with "VALID" what reaches beyond them
        over = [max(r - s, 0) for r, s in zip(reach, stride, strict=True)]
        low = [o // 2 if padding == "SAME" else 0 for o in over]
        more = [0 if padding == "SAME" else o for o in over]
        crop = [(p, r - s - p - m) for p, r, s, m in zip(low, reach, stride, more, strict=True)]
    else:
        crop = [_pair(side) for side in _pair(padding)]
    w = params.w[::-1, ::-1].reshape(kh, kw, out, groups, cin // groups).transpose(0, 1, 4, 3, 2)
    y = lax.conv_general_dilated(
        x,
        w.reshape(kh, kw, cin // groups, groups * out),
        (1, 1),
        [(k - 1 - low, k - 1 - high) for k, (low, high) in zip(reach, crop, strict=True)],
        lhs_dilation=stride,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return _biased(y, params.b)


def conv_relu(params, x, stride=1, padding="SAME", dilation=1, groups=1):
    """`layers.conv_relu`."""
    return relu(conv2d(params, x, stride, padding, dilation, groups))


def conv_relu_pool(params, x, stride=1, padding="SAME", dilation=1, groups=1):
    """`layers.conv_relu_pool`."""
    return max_pool(conv_relu(params, x, stride, padding, dilation, groups))


def _biased(y, b):
    return y if b is None else y + jnp.expand_dims(b, range(y.ndim - 1))


def max_pool(x, window=2, stride=None, padding="VALID", ceil_mode=False, dilation=1):
    """`layers.max_pool`."""
    dims, strides, _, pads = _windows(x, window, stride, padding, ceil_mode, dilation)
    if dilation in (1, (1, 1)):
        return lax.reduce_window(x, -jnp.inf, lax.max, dims, strides, pads)
    x = jnp.pad(x, pads, constant_values=-jnp.inf)  # jax knows no second derivative of the dilated
    rows, columns = (
        jnp.add.outer(jnp.arange(0, size - (k - 1) * d, s), jnp.arange(0, k * d, d))
        for k, d, s, size in zip(
            dims[1:3], _pair(dilation), strides[1:3], x.shape[1:3], strict=True
        )
    )
    return x[:, rows][:, :, :, columns].max((2, 4))


def avg_pool(x, window=2, stride=None, padding="VALID", ceil_mode=False, count_include_pad=False):
    """`layers.avg_pool`."""
    dims, strides, asked, pads = _windows(x, window, stride, padding, ceil_mode, 1)
    # What counts are ones: the image's cells, or with the padding that was asked for around them.
    counted = jnp.pad(jnp.ones_like(x), asked, constant_values=float(count_include_pad))
    beyond = [(p - a, q - b, 0) for (p, q), (a, b) in zip(pads, asked, strict=True)]
    counted = lax.pad(counted, jnp.zeros((), x.dtype), beyond)
    count = lax.reduce_window(counted, 0.0, lax.add, dims, strides, "VALID")
    return lax.reduce_window(x, 0.0, lax.add, dims, strides, pads) / count


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
    return jnp.where(jax.random.bernoulli(key, jnp.float32(1 - rate), x.shape), x / (1 - rate), 0.0)


def batch_norm(params, x, eps=1e-5, axis_name=None):
    """`layers.batch_norm`."""
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axes), x.var(axes)
    if axis_name is not None:
        of_all = lax.pmean(mean, axis_name)
        mean, var = of_all, lax.pmean(var + jnp.square(mean - of_all), axis_name)
    y = batch_norm_inference(params, BatchStats(mean, var), x, eps)
    return y, lax.stop_gradient(BatchStats(mean, var))


def batch_norm_inference(params, stats, x, eps=1e-5):
    """`layers.batch_norm_inference`."""
    mean, var = (jnp.expand_dims(s, range(x.ndim - 1)) for s in stats)
    return _scale(params, (x - mean) / jnp.sqrt(var + eps))


def affine_batch_norm_relu(params, x, eps=1e-5, axis_name=None):
    """`layers.affine_batch_norm_relu`."""
    y, stats = batch_norm(params[1], affine(params[0], x), eps, axis_name)
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


def softmax_cross_entropy(
    logits, labels, label_smoothing=0.0, class_weights=None, ignore_index=None, reduction="mean"
):
    """`losses.softmax_cross_entropy`."""
    target, total = labels, logits.size // logits.shape[-1]
    if jnp.issubdtype(labels.dtype, jnp.integer):
        target = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        if ignore_index is not None or class_weights is not None:
            weights = _of_label(class_weights, target)
            if ignore_index is not None:
                weights = jnp.where(labels == ignore_index, 0.0, weights)
            total = weights.sum()
    target = (1 - label_smoothing) * target + label_smoothing / logits.shape[-1]
    if class_weights is not None:
        target = jnp.expand_dims(class_weights, range(logits.ndim - 1)) * target
    losses = -(target * jax.nn.log_softmax(logits)).sum(-1)
    if ignore_index is not None:
        losses = jnp.where(labels == ignore_index, 0.0, losses)
    return _reduced(losses, total, reduction)


def multiclass_hinge(scores, labels, margin=1.0, power=1, class_weights=None, reduction="mean"):
    """`losses.multiclass_hinge`."""
    label = jax.nn.one_hot(labels, scores.shape[-1], dtype=scores.dtype)
    of_label = (label * scores).sum(-1, keepdims=True)
    losses = ((1 - label) * relu(scores - of_label + margin) ** power).sum(-1)
    return _reduced(_of_label(class_weights, label) * losses, losses.size, reduction)


def binary_cross_entropy(logits, labels, label_smoothing=0.0, pos_weight=None, reduction="mean"):
    """`losses.binary_cross_entropy`."""
    target = (1 - label_smoothing) * labels.astype(logits.dtype) + label_smoothing / 2
    positives = target
    if pos_weight is not None:
        axes = range(logits.ndim - jnp.ndim(pos_weight))
        positives = jnp.expand_dims(pos_weight, axes) * target
    losses = _times(positives, softplus(-logits)) + _times(1 - target, softplus(logits))
    return _reduced(losses, losses.size, reduction)


def mean_squared_error(prediction, target, reduction="mean"):
    """`losses.mean_squared_error`."""
    return _reduced((prediction - target) ** 2, prediction.size, reduction)


def l2_penalty(params, reg):
    """`losses.l2_penalty`."""
    return 0.5 * reg * sum((w**2).sum() for w in jax.tree.leaves(params) if w.ndim > 1)


def _of_label(class_weights, label):
    if class_weights is None:
        return jnp.ones_like(label[..., 0])
    return (jnp.expand_dims(class_weights, range(label.ndim - 1)) * label).sum(-1)


def _times(factor, x):
    """The product, 0 where the factor is 0 and x infinite."""
    return factor * jnp.where((factor == 0) & jnp.isinf(x), 0, x)


def _reduced(losses, total, reduction):
    return losses if reduction == "none" else losses.sum() / (total if reduction == "mean" else 1)


def _standardised(x, axes, eps):
    return (x - x.mean(axes, keepdims=True)) / jnp.sqrt(x.var(axes, keepdims=True) + eps)


def _scale(params, x):
    axes = range(x.ndim - 1)
    if params.gamma is not None:
        x = jnp.expand_dims(params.gamma, axes) * x
    return x if params.beta is None else x + jnp.expand_dims(params.beta, axes)


def _windows(x, window, stride, padding, ceil_mode, dilation):
    """Sizes and steps of windows along the four axes; pads as asked for, and in all."""
    window, dilation = _pair(window), _pair(dilation)
    stride = window if stride is None else _pair(stride)
    spans = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], spans, stride, padding)
    elif isinstance(padding, int):
        padding = ((padding, padding),) * 2
    pads = list(padding)
    if ceil_mode:
        for i, (size, k, s, (low, high)) in enumerate(
            zip(x.shape[1:3], spans, stride, padding, strict=True)
        ):
            starts = range(0, min(size + low + high - k + s, size + low), s)
            pads[i] = (low, max(starts[-1] + k - size - low, 0))
    around = [[(0, 0), *two, (0, 0)] for two in (padding, pads)]
    return (1, *window, 1), (1, *stride, 1), *around


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)
