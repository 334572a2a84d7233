"""Nets as (init, apply) pairs: blocks, what composes them, and the networks of the courses.

`serial` names its children by kind and order (`affine1`, `batch_norm1`, `affine2`); parameters and
state are dicts under these names, in training, checkpoints and plots alike. `state` holds what a
net observes (running statistics) and travels beside `params` everywhere.

>>> from funcnet import nets
>>> net = nets.fully_connected_net([100, 50], classes=10, norm="batch")
>>> params, state = net.init(jax.random.key(0), (32, 32, 3))
>>> sorted(params), sorted(state)
(['affine1', 'affine2', 'affine3', 'batch_norm1', 'batch_norm2'], ['batch_norm1', 'batch_norm2'])
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import jax
from jax import Array

from funcnet import _validate
from funcnet._homes import at_home
from funcnet._validate import example_shape
from funcnet.nets import _blocks
from funcnet.nets._blocks import (
    ACTIVATIONS,
    Net,
    affine,
    avg_pool,
    batch_norm,
    conv,
    conv1d,
    conv_transpose,
    dropout,
    elu,
    flatten,
    gelu,
    global_avg_pool,
    group_norm,
    layer_norm,
    leaky_relu,
    max_pool,
    output_shape,
    relu,
    rms_norm,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from funcnet.nets._fusion import child, stages, within, without_empty
from funcnet.nets._summary import Row, Summary, summary

__all__ = [
    "Net",
    "Row",
    "Summary",
    "affine",
    "avg_pool",
    "batch_norm",
    "conv",
    "conv1d",
    "conv_transpose",
    "dropout",
    "elu",
    "flatten",
    "fully_connected_net",
    "gelu",
    "global_avg_pool",
    "group_norm",
    "layer_norm",
    "leaky_relu",
    "max_pool",
    "relu",
    "remat",
    "residual",
    "resnet",
    "rms_norm",
    "serial",
    "sigmoid",
    "silu",
    "small_net",
    "softmax_classifier",
    "softplus",
    "summary",
    "tanh",
    "three_layer_convnet",
    "two_layer_convnet",
    "two_layer_net",
]


def serial(*blocks: Net, fuse: bool = True) -> Net:
    r"""Blocks one after another, $f_k \circ \dots \circ f_1$.

    Children are named by kind and order among their kind; `params` and `state` are dicts under
    these names, without the blocks that have none. Shapes are found by `jax.eval_shape`. Block i
    gets the keys `fold_in(key, i)`, in init and in apply. Neighbours for which there is a fused
    rule (affine - batch_norm - relu, affine - relu, conv - relu, conv - relu - 2×2 max_pool) run as
    one, under the same names and with the same numbers.

    Args:
      *blocks: nets; none gives the identity.
      fuse: run neighbours as one where there is a fused rule.

    Returns:
      The net.

    Raises:
      TypeError: a block is not a `Net`.
      ValueError: when applied: `params` hold a name that no block has.

    >>> from funcnet import nets
    >>> net = nets.serial(nets.affine(4), nets.relu(), nets.affine(2))
    >>> params, state = net.init(jax.random.key(0), (3,))
    >>> list(params), params["affine2"].w.shape
    (['affine1', 'affine2'], (4, 2))
    """
    for index, block in enumerate(blocks):
        if not isinstance(block, Net):
            hint = " Call it: the functions of nets return blocks." if callable(block) else ""
            raise TypeError(f"nets.serial: block {index} is {block!r}, expected a nets.Net.{hint}")
    seen: Counter[str] = Counter()
    names: list[str] = []
    for block in blocks:
        seen[block.kind] += 1
        names.append(f"{block.kind}{seen[block.kind]}")
    cut = {train: stages(names, blocks, train=train, fuse=fuse) for train in (False, True)}

    def init(key: Array, input_shape: Any) -> tuple[Any, Any]:
        params: dict[str, Any] = {}
        state: dict[str, Any] = {}
        shape = example_shape("nets.serial", input_shape)
        for index, (name, block) in enumerate(zip(names, blocks, strict=True)):
            with within(f"{name} of nets.serial, whose input is an example of shape {shape}"):
                p, s = block.init(jax.random.fold_in(key, index), shape)
                shape = output_shape(block, p, s, shape)
            params[name], state[name] = p, s
        return without_empty(params), without_empty(state)

    def apply(params: Any, state: Any, x: Any, *, train: bool = False, key: Any = None) -> Any:
        for tree, what in ((params, "params"), (state, "state")):
            if unknown := set(tree) - set(names):
                raise ValueError(
                    f"nets.serial: {what} hold {sorted(unknown)}, but the blocks are {names}; "
                    "these are another net's."
                )
        updated: dict[str, Any] = {}
        for stage in cut[bool(train)]:
            x, new = stage.run(params, state, x, train=train, key=key)
            updated |= new
        return x, updated

    return Net(init, apply, "serial", tuple(blocks), (("stages", cut[True]),))


def residual(block: Net, shortcut: Net | None = None) -> Net:
    r"""A block with a way around it: $y = s(x) + f(x)$, with s the identity by default.

    Args:
      block: f.
      shortcut: s where f changes the shape, such as `conv(channels, size=1, stride=2)`.

    Returns:
      The net; params and state are dicts with "block" and "shortcut", where these have any.

    Raises:
      ValueError: at init: the two ways end in different shapes.

    Source: He et al. 2015, https://arxiv.org/abs/1512.03385.

    >>> from funcnet import nets
    >>> net = nets.residual(nets.serial(nets.affine(3), nets.relu()))
    >>> params, _ = net.init(jax.random.key(0), (3,))
    >>> list(params["block"])
    ['affine1']
    """
    ways = {"block": block} | ({} if shortcut is None else {"shortcut": shortcut})

    def init(key: Array, input_shape: Any) -> tuple[Any, Any]:
        params: dict[str, Any] = {}
        state: dict[str, Any] = {}
        shape = example_shape("nets.residual", input_shape)
        ends = {"input": shape}
        for index, (name, way) in enumerate(ways.items()):
            with within(f"the {name} of nets.residual"):
                p, s = way.init(jax.random.fold_in(key, index), shape)
                ends[name] = output_shape(way, p, s, shape)
            params[name], state[name] = p, s
        around = "input" if shortcut is None else "shortcut"
        if ends["block"] != ends[around]:
            raise ValueError(
                f"nets.residual: the block turns {shape} into {ends['block']}, which cannot be "
                f"added to the {around}'s {ends[around]}; let the block keep the shape, or pass a "
                "shortcut that ends in the same shape, such as conv(channels, size=1, stride=2)."
            )
        return without_empty(params), without_empty(state)

    def apply(params: Any, state: Any, x: Any, *, train: bool = False, key: Any = None) -> Any:
        ends: dict[str, Array] = {"input": x}
        updated: dict[str, Any] = {}
        for index, (name, way) in enumerate(ways.items()):
            own = None if key is None else jax.random.fold_in(key, index)
            p, s = child(params, name), child(state, name)
            with within(f"the {name} of nets.residual"):
                ends[name], updated[name] = way.apply(p, s, x, train=train, key=own)
        around = "input" if shortcut is None else "shortcut"
        return ends[around] + ends["block"], without_empty(updated)

    return Net(init, apply, "residual", tuple(ways.values()))


def remat(block: Net) -> Net:
    r"""A block that keeps its input only and computes the rest again in the backward pass.

    Args:
      block: the net whose residuals are not to be kept.

    Returns:
      The net, with the block's own params and state.

    Source: Chen et al. 2016, https://arxiv.org/abs/1604.06174; `jax.checkpoint`.

    >>> from funcnet import nets
    >>> params, _ = nets.remat(nets.affine(4)).init(jax.random.key(0), (3,))
    >>> params.w.shape
    (3, 4)
    """

    def apply(params: Any, state: Any, x: Any, *, train: bool = False, key: Any = None) -> Any:
        def run(params: Any, state: Any, x: Any) -> Any:
            return block.apply(params, state, x, train=train, key=key)

        return jax.checkpoint(run)(params, state, x)

    return Net(block.init, apply, "remat", (block,))


def softmax_classifier(classes: int, weight_scale: Any = "he") -> Net:
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


def two_layer_net(hidden: int, classes: int, weight_scale: Any = "he") -> Net:
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


def fully_connected_net(
    hidden: Sequence[int],
    classes: int,
    norm: Literal["batch", "layer"] | None = None,
    dropout: int | float = 0.0,
    activation: str = "relu",
    weight_scale: Any = "he",
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
    blocks: list[Net] = []
    for index, units in enumerate(hidden):
        blocks.append(
            affine(
                _validate.count("nets.fully_connected_net", f"hidden[{index}]", units), weight_scale
            )
        )
        if (normalise := norms[norm]) is not None:
            blocks.append(normalise())
        blocks.append(ACTIVATIONS[activation]())
        if dropout != 0:
            blocks.append(_blocks.dropout(dropout))
    return serial(*blocks, affine(classes, weight_scale))


def small_net(hidden: int, classes: int, weight_scale: Any = "he") -> Net:
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


def two_layer_convnet(
    classes: int, channels: int = 32, size: int = 5, weight_scale: Any = "he"
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
        conv(channels, size, scale=weight_scale), relu(), max_pool(2), affine(classes, weight_scale)
    )


def three_layer_convnet(
    classes: int,
    channels: Sequence[int] = (32, 64, 128),
    size: int = 3,
    weight_scale: Any = "he",
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
        blocks += [conv(filters, size, scale=weight_scale), relu(), max_pool(2)]
    return serial(*blocks, affine(classes, weight_scale))


def resnet(classes: int, widths: Sequence[int] = (16, 32, 64), depth: int = 1) -> Net:
    r"""A small residual network for images: a stem, stages of residual blocks, mean, affine.

    The stem is conv - batch_norm - relu; a residual block is conv - batch_norm - relu - conv -
    batch_norm around the input, then relu. Each stage but the first halves the image, with a 1×1
    convolution and batch norm as shortcut. `depth` 3 is the ResNet-20 of the paper.

    Args:
      classes: the number of classes.
      widths: the number of channels of each stage.
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
    if not widths:
        raise ValueError("nets.resnet: widths is empty, expected the channels of each stage.")
    blocks = [conv(widths[0]), batch_norm(), relu()]
    for stage, width in enumerate(widths):
        for index in range(depth):
            first = index == 0 and stage > 0
            stride = 2 if first else 1
            way = serial(
                conv(width, stride=stride), batch_norm(), relu(), conv(width), batch_norm()
            )
            around = serial(conv(width, size=1, stride=2), batch_norm()) if first else None
            blocks += [residual(way, around), relu()]
    return serial(*blocks, global_avg_pool(), affine(classes))


at_home(globals())
