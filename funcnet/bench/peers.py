"""The same layers as Flax and Equinox have them, and how arrays lie for channels-first peers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from funcnet.layers import AffineParams, ConvParams

NAMES = ("flax", "equinox", "torch", "sklearn")

# Rules of images and of sequences, whose channels a peer may have in front; the rest are of rows of
# features, which all lay out alike.
OF_IMAGES = frozenset(
    [
        "conv2d",
        "conv1d",
        "conv2d_transpose",
        "conv_relu",
        "conv_relu_pool",
        "max_pool",
        "avg_pool",
        "global_avg_pool",
        "batch_norm",
        "batch_norm_inference",
        "group_norm",
    ]
)
# Rules with a product or a convolution, which torch's autocast narrows.
UNDER_AUTOCAST = frozenset(
    [
        "affine",
        "affine_relu",
        "affine_batch_norm_relu",
        "conv2d",
        "conv1d",
        "conv2d_transpose",
        "conv_relu",
        "conv_relu_pool",
    ]
)


def choose(peers: Any, among: Any = NAMES) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The wanted peers `among` those that can take part, as far as installed, and the missing.

    Raises:
      ValueError: there is no such peer.

    >>> choose(())
    ((), ())
    """
    wanted = NAMES if peers is None else tuple(peers)
    for name in wanted:
        if name not in NAMES:
            raise ValueError(f"there is no peer {name!r}; expected some of {', '.join(NAMES)}.")
    there = {n: importlib.util.find_spec(n) is not None for n in wanted if n in among}
    return tuple(n for n in there if there[n]), tuple(n for n in there if not there[n])


class Layout:
    """How the leaves of a rule's arguments lie for a peer with channels first."""

    def __init__(self, name: str, args: Any):
        self.turns: dict[int, tuple[int, ...]] = {}  # by the number of an array's axes
        if name == "conv1d":
            self.turns = {3: (0, 2, 1)}
        elif name in OF_IMAGES and any(np.ndim(leaf) == 4 for leaf in jax.tree.leaves(args)):
            self.turns = {4: (0, 3, 1, 2)}
        self.images = 4 in self.turns
        self.orders: list[tuple[int, ...] | None] = []

        def visit(value: Any) -> None:
            if isinstance(value, AffineParams | ConvParams):
                orders = {2: (1, 0), 3: (2, 1, 0), 4: (3, 2, 0, 1)}
                bias = [] if value.b is None else [None]
                self.orders += [orders[np.ndim(value.w)], *bias]
            else:
                self.orders.append(self.turns.get(np.ndim(value)))

        jax.tree.map(visit, args, is_leaf=lambda v: isinstance(v, (AffineParams, ConvParams)))

    def there(self, leaves: list[Any]) -> list[Any]:
        """Our leaves in the peer's order of axes."""
        return [
            leaf if order is None else np.ascontiguousarray(np.transpose(leaf, order))
            for leaf, order in zip(leaves, self.orders, strict=True)
        ]

    def back(self, leaf: Any, index: int) -> Any:
        """The peer's gradient of leaf number `index` in our order."""
        order = self.orders[index]
        return leaf if order is None else np.transpose(leaf, np.argsort(order))

    def output_there(self, y: Any) -> Any:
        """Our output in the peer's order."""
        order = self.turns.get(np.ndim(y))
        return y if order is None else np.ascontiguousarray(np.transpose(y, order))

    def output_back(self, y: Any) -> Any:
        """The peer's output in our order."""
        order = self.turns.get(np.ndim(y))
        return y if order is None else np.transpose(y, np.argsort(order))


class Peer(NamedTuple):
    """A peer's way to compute a rule.

    `function` takes the rule's own arguments, or for `channels_first` the flat list of its leaves
    in the peer's layout. `comparable` is False where its random numbers are others.
    """

    function: Callable[..., Any]
    channels_first: bool = False
    comparable: bool = True


OPTAX: dict[str, Callable[..., Any]] = {
    "softmax_cross_entropy": lambda s, y: optax.softmax_cross_entropy_with_integer_labels(
        s, y
    ).mean(),
    "binary_cross_entropy": lambda z, y: optax.sigmoid_binary_cross_entropy(z, y).mean(),
    "mean_squared_error": lambda p, t: optax.squared_error(p, t).mean(),
}


def flax(name: str, static: dict[str, Any]) -> Peer | None:
    """The rule by Flax (linen), the losses by optax; None where neither has it."""
    import flax.linen as nn

    def dense(p: Any, x: Any) -> Any:
        return nn.Dense(p.w.shape[1]).apply({"params": {"kernel": p.w, "bias": p.b}}, x)

    def conv(p: Any, x: Any) -> Any:
        named = {
            "stride": "strides",
            "dilation": "kernel_dilation",
            "groups": "feature_group_count",
        }
        options = {named[option]: value for option, value in static.items()}
        module = nn.Conv(p.w.shape[-1], p.w.shape[:-2], **options)
        return module.apply({"params": {"kernel": p.w, "bias": p.b}}, x)

    def conv_transpose(p: Any, x: Any) -> Any:
        stride = (static.get("stride", 1),) * 2
        module = nn.ConvTranspose(p.w.shape[2], p.w.shape[:2], stride, transpose_kernel=True)
        return module.apply({"params": {"kernel": p.w, "bias": p.b}}, x)

    def normed(module: Any) -> Callable[..., Any]:
        return lambda p, x: module.apply({"params": {"scale": p.gamma, "bias": p.beta}}, x)

    def batch_norm(p: Any, x: Any) -> Any:
        module = nn.BatchNorm(use_running_average=False, momentum=0.9, epsilon=1e-5)
        zero = jax.numpy.zeros_like(p.gamma)
        variables = {
            "params": {"scale": p.gamma, "bias": p.beta},
            "batch_stats": {"mean": zero, "var": zero},
        }
        return module.apply(variables, x, mutable=["batch_stats"])[0]

    def batch_norm_inference(p: Any, s: Any, x: Any) -> Any:
        variables = {
            "params": {"scale": p.gamma, "bias": p.beta},
            "batch_stats": {"mean": s.mean, "var": s.var},
        }
        return nn.BatchNorm(use_running_average=True, epsilon=1e-5).apply(variables, x)

    def pool(function: Any, **options: Any) -> Callable[..., Any]:
        window, stride, padding = _windows(static)
        return lambda x: function(x, window, stride, ((padding, padding),) * 2, **options)

    def dropout(key: Any, x: Any) -> Any:
        return nn.Dropout(static["rate"], deterministic=False).apply({}, x, rngs={"dropout": key})

    functions: dict[str, Callable[..., Any]] = {
        "relu": nn.relu,
        "leaky_relu": nn.leaky_relu,
        "elu": nn.elu,
        "sigmoid": nn.sigmoid,
        "tanh": nn.tanh,
        "softplus": nn.softplus,
        "silu": nn.silu,
        "gelu": lambda x: nn.gelu(x, **static),
        "dropout": dropout,
        "affine": dense,
        "affine_relu": lambda p, x: nn.relu(dense(p, x)),
        "affine_batch_norm_relu": lambda p, x: nn.relu(batch_norm(p[1], dense(p[0], x))),
        "conv2d": conv,
        "conv1d": conv,
        "conv2d_transpose": conv_transpose,
        "conv_relu": lambda p, x: nn.relu(conv(p, x)),
        "conv_relu_pool": lambda p, x: nn.max_pool(nn.relu(conv(p, x)), (2, 2), (2, 2)),
        "max_pool": pool(nn.max_pool),
        "avg_pool": pool(nn.avg_pool, count_include_pad=False),
        "batch_norm": batch_norm,
        "batch_norm_inference": batch_norm_inference,
        "layer_norm": normed(nn.LayerNorm(epsilon=1e-5)),
        "group_norm": normed(nn.GroupNorm(static.get("groups"), epsilon=1e-5)),
        "rms_norm": lambda g, x: nn.RMSNorm(epsilon=1e-6).apply({"params": {"scale": g}}, x),
        **OPTAX,
    }
    if name not in functions:
        return None
    return Peer(functions[name], comparable=name != "dropout")


def equinox(name: str, static: dict[str, Any]) -> Peer | None:
    """The rule by Equinox, example by example under vmap; None where it has none."""
    import equinox as eqx

    key = jax.random.key(0)

    def filled(module: Any, w: Any, b: Any = None) -> Any:
        if b is None:
            return eqx.tree_at(lambda m: m.weight, module, w)
        return eqx.tree_at(lambda m: (m.weight, m.bias), module, (w, b))

    def linear(w: Any, b: Any, x: Any) -> Any:
        return jax.vmap(filled(eqx.nn.Linear(w.shape[1], w.shape[0], key=key), w, b))(x)

    def conv(w: Any, b: Any, x: Any) -> Any:
        axes, groups = w.ndim - 2, static.get("groups", 1)
        module = eqx.nn.Conv(
            axes, w.shape[1] * groups, w.shape[0], w.shape[2], padding="SAME", key=key, **static
        )
        return jax.vmap(filled(module, w, b.reshape(-1, *axes * [1])))(x)

    def batch_norm(gamma: Any, beta: Any, x: Any) -> Any:
        make = eqx.nn.make_with_state(eqx.nn.BatchNorm)
        module, state = make(gamma.shape[0], axis_name="batch", mode="batch")
        apply = jax.vmap(
            filled(module, gamma, beta), axis_name="batch", in_axes=(0, None), out_axes=(0, None)
        )
        return apply(x, state)[0]

    def each(module: Any, x: Any) -> Any:
        for _ in range(x.ndim - 1):
            module = jax.vmap(module)
        return module(x)

    def group_norm(gamma: Any, beta: Any, x: Any) -> Any:
        module = eqx.nn.GroupNorm(static["groups"], gamma.shape[0])
        return jax.vmap(filled(module, gamma, beta))(x)

    def pool(kind: Any) -> Callable[..., Any]:
        window, stride, padding = _windows(static)
        return lambda x: jax.vmap(kind(window, stride, padding))(x)

    relu = jax.nn.relu
    functions: dict[str, Callable[..., Any]] = {
        "dropout": lambda key, x: eqx.nn.Dropout(static["rate"])(x, key=key),
        "affine": linear,
        "affine_relu": lambda w, b, x: relu(linear(w, b, x)),
        "affine_batch_norm_relu": lambda w, b, gamma, beta, x: relu(
            batch_norm(gamma, beta, linear(w, b, x))
        ),
        "conv2d": conv,
        "conv1d": conv,
        "conv_relu": lambda w, b, x: relu(conv(w, b, x)),
        "conv_relu_pool": lambda w, b, x: jax.vmap(eqx.nn.MaxPool2d(2, 2))(relu(conv(w, b, x))),
        "max_pool": pool(eqx.nn.MaxPool2d),
        "avg_pool": pool(eqx.nn.AvgPool2d),
        "batch_norm": batch_norm,
        "layer_norm": lambda gamma, beta, x: each(
            filled(eqx.nn.LayerNorm(x.shape[-1]), gamma, beta), x
        ),
        "group_norm": group_norm,
        "rms_norm": lambda gamma, x: each(
            filled(eqx.nn.RMSNorm(x.shape[-1], eps=1e-6, use_bias=False), gamma), x
        ),
    }
    if name not in functions or (name == "avg_pool" and static.get("padding")):
        return None  # its average counts the padding
    return Peer(functions[name], channels_first=True, comparable=name != "dropout")


def _windows(static: dict[str, Any]) -> tuple[tuple[int, int], tuple[int, int], int]:
    window = static.get("window", 2)
    stride = static.get("stride") or window
    return (window, window), (stride, stride), static.get("padding", 0)


JAX_PEERS = {"flax": flax, "equinox": equinox}
