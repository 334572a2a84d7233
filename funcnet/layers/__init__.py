"""Layers as pure functions, each with a backward rule written by hand.

A layer is `layer(params, x, *static)`, or `layer(x, *static)` where it has no parameters. Batch
first, channels last: images are (n, h, w, c), kernels (kh, kw, cin, cout). Every rule stands
directly under its function, in the private module of its family:

| family | layers |
|---|---|
| `_params` | `AffineParams`, `ConvParams`, `NormParams`, `BatchStats`, their `*_init` |
| `_linear` | `affine`, `conv1d`, `conv2d`, `conv2d_transpose`, `flatten` |
| `_pools` | `max_pool`, `avg_pool`, `global_avg_pool` |
| `_activations` | `relu` and its kin, `sigmoid`, `tanh`, `gelu`, `silu`, `softplus`, `dropout` |
| `_norms` | `batch_norm`, `layer_norm`, `group_norm`, `rms_norm` |
| `_fused` | `affine_relu`, `affine_batch_norm_relu`, `conv_relu`, `conv_relu_pool` |

Any of them works under `jit`, `grad`, `vmap`, `scan`, `cond` and `checkpoint`, and to the second
order (`jax.hessian`, `grad` of `grad`); plain forward mode (`jax.jvp`) does not, as with every
`custom_vjp`: differentiate the twin of the same name in `funcnet.plain` instead.
"""

from funcnet._homes import at_home
from funcnet.layers._activations import (
    dropout,
    elu,
    gelu,
    leaky_relu,
    relu,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from funcnet.layers._fused import affine_batch_norm_relu, affine_relu, conv_relu, conv_relu_pool
from funcnet.layers._linear import affine, conv1d, conv2d, conv2d_transpose, flatten
from funcnet.layers._norms import (
    batch_norm,
    batch_norm_inference,
    group_norm,
    layer_norm,
    rms_norm,
)
from funcnet.layers._params import (
    AffineParams,
    BatchStats,
    ConvParams,
    NormParams,
    affine_init,
    conv1d_init,
    conv2d_transpose_init,
    conv_init,
    norm_init,
)
from funcnet.layers._pools import avg_pool, global_avg_pool, max_pool

__all__ = [
    "AffineParams",
    "BatchStats",
    "ConvParams",
    "NormParams",
    "affine",
    "affine_batch_norm_relu",
    "affine_init",
    "affine_relu",
    "avg_pool",
    "batch_norm",
    "batch_norm_inference",
    "conv1d",
    "conv1d_init",
    "conv2d",
    "conv2d_transpose",
    "conv2d_transpose_init",
    "conv_init",
    "conv_relu",
    "conv_relu_pool",
    "dropout",
    "elu",
    "flatten",
    "gelu",
    "global_avg_pool",
    "group_norm",
    "layer_norm",
    "leaky_relu",
    "max_pool",
    "norm_init",
    "relu",
    "rms_norm",
    "sigmoid",
    "silu",
    "softplus",
    "tanh",
]

at_home(globals())
