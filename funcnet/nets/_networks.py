"""The networks of the courses, and a small ResNet; and `NETWORKS`, where they are found by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from funcnet import _validate
from funcnet._deprecated import renamed
from funcnet.nets import _blocks
from funcnet.nets._blocks import (
    ACTIVATIONS,
    affine,
    conv,
    flatten,
    global_avg_pool,
    leaky_relu,
    max_pool,
    relu,
    rescale,
)
from funcnet.nets._compose import residual, serial
from funcnet.nets._config import configured
from funcnet.nets._net import Net, Scale
from funcnet.nets._norms import batch_norm, layer_norm


@configured
def softmax_classifier(classes: int, weight_scale: Scale = "he") -> Net:
    r"""The linear classifier: scores $x w + b$.

    Args:
      classes: the number of classes.
      weight_scale: the initial standard deviation, or "he"; course 004 uses 1e-4.

    Source: courses.md rows 4-12 and 4-14.

    >>> from funcnet import nets
    >>> params, _ = nets.softmax_classifier(10).init(jax.random.key(0), (32, 32, 3))
    >>> params["affine1"].w.shape
    (3072, 10)
    """
    return serial(affine(classes, weight_scale))


@configured
def two_layer_net(hidden: int, classes: int, weight_scale: Scale = "he") -> Net:
    r"""Affine - relu - affine.

    Args:
      hidden: the number of hidden units.
      classes: the number of classes.
      weight_scale: the initial standard deviation, or "he"; course 001 uses 1e-3.

    Source: courses.md rows 1-11 to 1-14 and 4-17.

    >>> from funcnet import nets
    >>> params, _ = nets.two_layer_net(50, 10).init(jax.random.key(0), (32, 32, 3))
    >>> params["affine2"].w.shape
    (50, 10)
    """
    return fully_connected_net([hidden], classes, weight_scale=weight_scale)


@configured
def fully_connected_net(
    hidden: Sequence[int],
    classes: int,
    norm: Literal["batch", "layer"] | None = None,
    dropout: int | float = 0.0,
    activation: str = "relu",
    weight_scale: Scale = "he",
) -> Net:
    r"""For each hidden layer affine - [norm] - activation - [dropout]; then affine.

    Args:
      hidden: the numbers of units of the hidden layers.
      classes: the number of classes.
      norm: "batch", "layer" or None.
      dropout: the probability of dropping, in [0, 1); 0 for none.
      activation: "relu", "leaky_relu", "elu", "sigmoid", "tanh", "gelu", "silu" or "softplus".
      weight_scale: the initial standard deviation of all weights, or "he".

    Raises:
      TypeError: `hidden` is not a sequence of ints.
      ValueError: an unknown `norm` or `activation`, a rate outside [0, 1).

    Source: courses.md rows 1-19, 0-19 and 3-15.

    >>> from funcnet import nets
    >>> net = nets.fully_connected_net([20, 30], 10, norm="batch", dropout=0.5)
    >>> [child.kind for child in net.children[:4]]
    ['affine', 'batch_norm', 'relu', 'dropout']
    """
    norms = {None: None, "batch": batch_norm, "layer": layer_norm}
    if norm not in norms:
        raise ValueError(
            f'nets.fully_connected_net: norm is {norm!r}, expected None, "batch" or "layer".'
        )
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"nets.fully_connected_net: activation is {activation!r}, expected one of "
            f"{', '.join(ACTIVATIONS)}."
        )
    if not isinstance(hidden, Sequence) or isinstance(hidden, str):
        raise TypeError(
            f"nets.fully_connected_net: hidden is {hidden!r}, expected a sequence of ints, such as "
            "[500, 500, 500]."
        )
    # Batch norm takes out what a bias adds. Where ReLU follows, one rule does all three and says
    # that its gradient is 0; elsewhere it would be rounding errors.
    bias = norm != "batch" or activation == "relu"
    blocks: list[Net] = []
    for index, units in enumerate(hidden):
        units = _validate.count("nets.fully_connected_net", f"hidden[{index}]", units)
        blocks.append(affine(units, weight_scale, bias=bias))
        if (normalise := norms[norm]) is not None:
            blocks.append(normalise())
        blocks.append(ACTIVATIONS[activation]())
        if dropout != 0:
            blocks.append(_blocks.dropout(dropout))
    return serial(*blocks, affine(classes, weight_scale))


@configured
def small_net(hidden: int, classes: int, weight_scale: Scale = "he") -> Net:
    r"""Flatten - affine - leaky_relu(.01) - affine: course 003's small network and its TinyNet.

    Args:
      hidden: the number of hidden units.
      classes: the number of classes.
      weight_scale: the initial standard deviation, or "he"; course 003 uses .02 and .002.

    Source: courses.md rows 3-11 to 3-16.

    >>> from funcnet import nets
    >>> params, _ = nets.small_net(512, 10).init(jax.random.key(0), (32, 32, 3))
    >>> params["affine1"].w.shape
    (3072, 512)
    """
    return serial(
        flatten(), affine(hidden, weight_scale), leaky_relu(0.01), affine(classes, weight_scale)
    )


@configured
def two_layer_convnet(
    classes: int, channels: int = 32, size: int = 5, weight_scale: Scale = "he"
) -> Net:
    r"""Conv - relu - 2×2 max_pool - affine.

    Args:
      classes: the number of classes.
      channels: the number of filters.
      size: their size in pixels.
      weight_scale: the initial standard deviation, or "he"; course 004 uses 1e-3.

    Source: courses.md row 4-44.

    >>> from funcnet import nets
    >>> params, _ = nets.two_layer_convnet(10).init(jax.random.key(0), (32, 32, 3))
    >>> params["conv1"].w.shape, params["affine1"].w.shape
    ((5, 5, 3, 32), (8192, 10))
    """
    return serial(
        conv(channels, size, weight_scale=weight_scale),
        relu(),
        max_pool(2),
        affine(classes, weight_scale),
    )


@configured
def three_layer_convnet(
    classes: int,
    channels: Sequence[int] = (32, 64, 128),
    size: int = 3,
    weight_scale: Scale = "he",
) -> Net:
    r"""Three times conv - relu - 2×2 max_pool (one for each of `channels`); then affine.

    Args:
      classes: the number of classes.
      channels: the numbers of filters.
      size: their size in pixels.
      weight_scale: the initial standard deviation, or "he".

    >>> from funcnet import nets
    >>> params, _ = nets.three_layer_convnet(10).init(jax.random.key(0), (32, 32, 3))
    >>> params["affine1"].w.shape
    (2048, 10)
    """
    blocks: list[Net] = []
    for filters in channels:
        blocks += [conv(filters, size, weight_scale=weight_scale), relu(), max_pool(2)]
    return serial(*blocks, affine(classes, weight_scale))


@renamed(widths="channels")
@configured
def resnet(classes: int, channels: Sequence[int] = (16, 32, 64), depth: int = 1) -> Net:
    r"""A small residual network for images: a stem, stages of residual blocks, mean, affine.

    The stem is conv - batch_norm - relu; a residual block is conv - batch_norm - relu - conv -
    batch_norm around the input, then relu. Each stage but the first halves the image, with a 1×1
    convolution and batch norm as shortcut. `depth` 3 is the ResNet-20 of the paper. Convolutions
    have no bias: the batch norm behind each takes out what it would add, and its gradient would be
    rounding errors.

    Args:
      classes: the number of classes.
      channels: the number of channels of each stage.
      depth: the number of residual blocks in each stage.

    Raises:
      TypeError: a number is not an int.
      ValueError: a number is below 1, or there is no stage.

    Source: He et al. 2015, section 4.2, https://arxiv.org/abs/1512.03385.

    >>> from funcnet import nets
    >>> params, state = nets.resnet(10).init(jax.random.key(0), (32, 32, 3))
    >>> params["affine1"].w.shape
    (64, 10)
    """
    depth = _validate.count("nets.resnet", "depth", depth)
    if not channels:
        raise ValueError("nets.resnet: channels is empty, expected the channels of each stage.")
    blocks = [conv(channels[0], bias=False), batch_norm(), relu()]
    for stage, count in enumerate(channels):
        for index in range(depth):
            first = index == 0 and stage > 0
            stride = 2 if first else 1
            way = serial(
                conv(count, stride=stride, bias=False),
                batch_norm(),
                relu(),
                conv(count, bias=False),
                batch_norm(),
            )
            shortcut = conv(count, size=1, stride=2, bias=False)
            around = serial(shortcut, batch_norm()) if first else None
            blocks += [residual(way, around), relu()]
    return serial(*blocks, global_avg_pool(), affine(classes))


def rescaled(net: Net, targets: Any) -> Net:
    r"""A net for regression that answers in the units of its targets: see `rescale`.

    Args:
      net: a net with one output for each target.
      targets: those of the training examples, (n,) or (n, k): their means and deviations are taken.

    Returns:
      The net, and its outputs times the deviation (1 for a constant target), the mean added.

    >>> from funcnet import nets
    >>> nets.rescaled(nets.affine(1), np.array([1.0, 3.0]))
    nets.serial(nets.affine(units=1), nets.rescale(scale=[1.0], shift=[2.0]))
    """
    targets = np.asarray(targets, np.float64).reshape(len(targets), -1)
    deviation = targets.std(0)
    scale = np.where(deviation > 0, deviation, 1.0).tolist()
    last = rescale(scale, targets.mean(0).tolist())
    return serial(*(net.children if net.kind == "serial" else (net,)), last)


NETWORKS: dict[str, Callable[..., Net]] = {
    "softmax": softmax_classifier,
    "two_layer": two_layer_net,
    "fully_connected": fully_connected_net,
    "small": small_net,
    "two_layer_convnet": two_layer_convnet,
    "three_layer_convnet": three_layer_convnet,
    "resnet": resnet,
}
"""The named networks: what makes each, given `classes=` and options of its own."""
