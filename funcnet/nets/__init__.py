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

from funcnet._homes import at_home
from funcnet.nets._blocks import (
    ACTIVATIONS,
    affine,
    avg_pool,
    conv,
    conv1d,
    conv_transpose,
    dropout,
    elu,
    flatten,
    gelu,
    global_avg_pool,
    leaky_relu,
    max_pool,
    relu,
    rescale,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from funcnet.nets._compose import remat, residual, serial, walk
from funcnet.nets._config import from_config, to_config
from funcnet.nets._net import Net, Part
from funcnet.nets._networks import (
    NETWORKS,
    fully_connected_net,
    rescaled,
    resnet,
    small_net,
    softmax_classifier,
    three_layer_convnet,
    two_layer_convnet,
    two_layer_net,
)
from funcnet.nets._norms import batch_norm, group_norm, layer_norm, rms_norm
from funcnet.nets._summary import Row, Summary, summary

__all__ = [
    "ACTIVATIONS",
    "NETWORKS",
    "Net",
    "Part",
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
    "from_config",
    "fully_connected_net",
    "gelu",
    "global_avg_pool",
    "group_norm",
    "layer_norm",
    "leaky_relu",
    "max_pool",
    "relu",
    "remat",
    "rescale",
    "rescaled",
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
    "to_config",
    "two_layer_convnet",
    "two_layer_net",
    "walk",
]

at_home(globals())
