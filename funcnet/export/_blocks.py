"""What each block of `nets` is in ONNX's operations."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from funcnet import layers, nets
from funcnet.export._graph import Graph, Tensor
from funcnet.nets import Net


def translated(
    graph: Graph, net: Net, params: Any, state: Any, x: Tensor, name: str = ""
) -> Tensor:
    """Adds what a net computes of `x` in inference, block by block.

    Raises ValueError where a block is somebody's own, whose operations only JAX knows.
    """

    def inside(own: str, block: Net) -> Tensor:
        where = f"{name}.{own}".lstrip(".")
        p, s = (dict(tree).get(own, ()) for tree in (params, state))
        return translated(graph, block, p, s, x, where)

    if net.kind == "remat" and net.children:
        return translated(graph, net.children[0], params, state, x, name)
    if net.kind in ("serial", "residual") and net.parts is not None:
        blocks = [pair for part in net.parts for pair in zip(part.names, part.blocks, strict=True)]
        if net.kind == "serial":
            for own, block in blocks:
                x = inside(own, block)
            return x
        ends = [inside(own, block) for own, block in blocks]
        to, around = ends[0], ends[1] if len(ends) > 1 else x
        around = graph.first(around) if to.channels_first else graph.last(around)
        return to._replace(name=graph.node(name, "Add", around.name, to.name))
    if net.made is None or net.kind not in BLOCKS:
        raise ValueError(
            f"to_onnx: {name or 'the net'} is {net!r}, which has no translation to ONNX: the blocks"
            f" of funcnet.nets have one ({', '.join(BLOCKS)}). to_stablehlo takes any net."
        )
    of_one = jax.ShapeDtypeStruct((1, *x.shape), jnp.float32)
    y = jax.eval_shape(lambda x: net.apply(params, state, x, train=False)[0], of_one)
    where = name or net.kind
    return BLOCKS[net.kind](Block(graph, where, nets.to_config(net), params, state, y.shape[1:]), x)


class Block(NamedTuple):
    """A block that is translated: its arguments, its numbers, and the shape that it gives."""

    graph: Graph
    name: str
    config: dict[str, Any]
    params: Any
    state: Any
    shape: tuple[int, ...]

    def add(self, operation: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operation."""
        return self.graph.node(self.name, operation, *inputs, **attributes)

    def constant(self, name: str, array: Any) -> str:
        """Adds numbers under the block's name."""
        return self.graph.constant(f"{self.name}.{name}", array)

    def number(self, value: float) -> str:
        """Adds one number."""
        return self.constant(f"{value:.9g}", np.float32(value))

    def along_channels(self, name: str, array: Any, x: Tensor) -> str:
        """Adds a number for each channel of `x`."""
        axes = len(x.shape) - 1 if x.channels_first else 0
        return self.constant(name, np.reshape(array, (-1, *(1,) * axes)))

    def gives(self, name: str, channels_first: bool = False) -> Tensor:
        """What the block gives, by its name in the graph."""
        return Tensor(name, self.shape, channels_first)


# --- One operation


def _same(block: Block, x: Tensor) -> Tensor:
    return x


def _by(operation: str, *options: str) -> Callable[[Block, Tensor], Tensor]:
    """An operation on each number, whose attributes are arguments of the block."""

    def add(block: Block, x: Tensor) -> Tensor:
        known = {"negative_slope": "alpha"}
        found = {known.get(name, name): float(block.config[name]) for name in options}
        return x._replace(name=block.add(operation, x.name, **found))

    return add


def _silu(block: Block, x: Tensor) -> Tensor:
    return x._replace(name=block.add("Mul", x.name, block.add("Sigmoid", x.name)))


def _gelu(block: Block, x: Tensor) -> Tensor:
    r"""$x\,\Phi(x)$, or with $\Phi(x) \approx \sigma(2 \sqrt{2/\pi} (x + 0.044715 x^3))$."""
    if block.config["approximate"]:
        square = block.add("Mul", x.name, x.name)
        scaled = block.add("Mul", square, block.number(2 * math.sqrt(2 / math.pi) * 0.044715))
        factor = block.add("Add", scaled, block.number(2 * math.sqrt(2 / math.pi)))
        weight = block.add("Sigmoid", block.add("Mul", x.name, factor))
    else:
        erf = block.add("Erf", block.add("Mul", x.name, block.number(math.sqrt(0.5))))
        sum_ = block.add("Add", erf, block.number(1.0))
        weight = block.add("Mul", sum_, block.number(0.5))
    return x._replace(name=block.add("Mul", x.name, weight))


# --- Products and convolutions


def _flatten(block: Block, x: Tensor) -> Tensor:
    x = block.graph.last(x)
    return block.gives(block.add("Flatten", x.name, axis=1) if len(x.shape) != 1 else x.name)


def _affine(block: Block, x: Tensor) -> Tensor:
    x = _flatten(block, x)
    return block.gives(block.add("Gemm", x.name, *_weights(block, block.params.w)))


def _conv(block: Block, x: Tensor) -> Tensor:
    places = block.params.w.ndim - 2
    w = np.transpose(block.params.w, (places + 1, places, *range(places)))
    return _windowed(
        block, x, "Conv", w.shape[2:], _weights(block, w), group=block.config["groups"]
    )


def _conv_transpose(block: Block, x: Tensor) -> Tensor:
    """ONNX's pads crop, and what is less than none of them it calls output padding."""
    size = block.params.w.shape[:2]
    strides, dilations = (_each(block.config[name], 2) for name in ("stride", "dilation"))
    lows, highs = [], []
    for i, reach in enumerate(_reaches(size, dilations)):
        padding = block.config["padding"]
        if isinstance(padding, str):
            low = max(reach - strides[i], 0) // 2 if padding == "SAME" else 0
        else:
            low = _pairs(padding, 2)[i][0]
        lows.append(low)
        highs.append((x.shape[i] - 1) * strides[i] + reach - low - block.shape[i])
        if -highs[i] >= strides[i]:
            raise ValueError(
                f"to_onnx: {block.name} adds {-highs[i]} pixels that its kernel does not reach, "
                f"expected fewer than its stride {strides[i]}, as ONNX's ConvTranspose has them."
            )
    y = block.add(
        "ConvTranspose",
        block.graph.first(x).name,
        *_weights(block, np.transpose(block.params.w, (3, 2, 0, 1))),
        kernel_shape=size,
        strides=strides,
        dilations=dilations,
        pads=[*lows, *(max(high, 0) for high in highs)],
        output_padding=[max(-high, 0) for high in highs],
        group=block.config["groups"],
    )
    return block.gives(y, channels_first=True)


def _weights(block: Block, w: Any) -> list[str]:
    """The constants of w and, where there is one, of b."""
    b = block.params.b
    return [block.constant("w", w), *([] if b is None else [block.constant("b", b)])]


# --- Windows


def _max_pool(block: Block, x: Tensor) -> Tensor:
    return _windowed(block, x, "MaxPool", _each(block.config["window"], 2))


def _avg_pool(block: Block, x: Tensor) -> Tensor:
    """ONNX counts the padding of `ceil_mode` too, and so is asked to count none."""
    window = _each(block.config["window"], 2)
    y = _windowed(block, x, "AveragePool", window)
    if not block.config["count_include_pad"]:
        return y
    names = ("window", "stride", "padding", "ceil_mode")
    options = {name: block.config[name] for name in names}
    ones = jnp.ones((1, *x.shape[:2], 1), jnp.float32)
    share = np.asarray(layers.avg_pool(ones, **options, count_include_pad=True))
    if (share == 1).all():
        return y
    constant = block.constant("share", share.transpose(0, 3, 1, 2))
    return y._replace(name=block.add("Mul", y.name, constant))


def _windowed(
    block: Block,
    x: Tensor,
    operation: str,
    window: Sequence[int],
    constants: Sequence[str] = (),
    **attributes: Any,
) -> Tensor:
    """A convolution or a pool, with as much padding behind as its output has room for."""
    places = len(window)
    strides = _each(block.config["stride"] or window, places)
    dilations = _each(block.config.get("dilation", 1), places)
    reaches = _reaches(window, dilations)
    padding, sizes = block.config["padding"], x.shape[:places]
    if isinstance(padding, str):
        lows = [low for low, _ in lax.padtype_to_pads(sizes, reaches, strides, padding)]
    else:
        lows = [low for low, _ in _pairs(padding, places)]
    rows = zip(block.shape, strides, reaches, sizes, lows, strict=False)
    highs = [max((n - 1) * s + reach - size - low, 0) for n, s, reach, size, low in rows]
    if operation != "AveragePool":  # which has dilations from opset 19 on
        attributes["dilations"] = dilations
    name = block.graph.first(x).name
    # Of pools onnxruntime takes less padding than cells.
    if operation == "MaxPool" and any(map(operator.ge, [*lows, *highs], [*window, *window])):
        pads = block.constant("pads", np.array([0, 0, *lows, 0, 0, *highs], np.int64))
        name = block.add("Pad", name, pads, block.number(-math.inf))
        lows = highs = [0] * places
    y = block.add(
        operation,
        name,
        *constants,
        kernel_shape=list(window),
        strides=strides,
        pads=[*lows, *highs],
        **attributes,
    )
    return block.gives(y, channels_first=True)


def _each(value: Any, places: int) -> list[int]:
    """A size along each axis."""
    return [value] * places if isinstance(value, int) else list(value)


def _pairs(padding: Any, places: int) -> list[tuple[int, int]]:
    """Padding in pixels, before and behind, along each axis."""
    if places == 1 and not isinstance(padding, int):
        return [tuple(padding)]  # (before, after)
    sides = [padding] * places if isinstance(padding, int) else padding
    return [(side, side) if isinstance(side, int) else tuple(side) for side in sides]


def _reaches(window: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """The pixels from the first of a window's cells to its last."""
    return [(size - 1) * step + 1 for size, step in zip(window, dilations, strict=True)]


def _global_avg_pool(block: Block, x: Tensor) -> Tensor:
    first = 2 if x.channels_first else 1
    axes = list(range(first, first + len(x.shape) - 1))
    return block.gives(block.add("ReduceMean", x.name, axes=axes, keepdims=0))


def _rescale(block: Block, x: Tensor) -> Tensor:
    scale, shift = (
        block.along_channels(name, np.float32(block.config[name]), x) for name in ("scale", "shift")
    )
    return x._replace(name=block.add("Add", block.add("Mul", x.name, scale), shift))


# --- Norms


def _learnt(block: Block, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Gamma and beta, 1 and 0 where they are not learnt."""
    gamma, beta = block.params or (None, None)
    return (
        np.ones(channels) if gamma is None else np.asarray(gamma),
        np.zeros(channels) if beta is None else np.asarray(beta),
    )


def _batch_norm(block: Block, x: Tensor) -> Tensor:
    x = block.graph.first(x)
    arrays = dict(zip(("gamma", "beta"), _learnt(block, x.shape[-1]), strict=True))
    arrays |= {"mean": block.state.mean, "var": block.state.var}
    constants = [block.constant(name, array) for name, array in arrays.items()]
    eps = float(block.config["eps"])
    return x._replace(name=block.add("BatchNormalization", x.name, *constants, epsilon=eps))


def _layer_norm(block: Block, x: Tensor) -> Tensor:
    x = block.graph.last(x)
    gamma, beta = _learnt(block, x.shape[-1])
    constants = block.constant("gamma", gamma), block.constant("beta", beta)
    eps = float(block.config["eps"])
    y = block.add("LayerNormalization", _centred(block, x.name), *constants, axis=-1, epsilon=eps)
    return x._replace(name=y)


def _centred(block: Block, rows: str) -> str:
    """Rows less their mean: runtimes lose the variance of rows that lie far from 0."""
    return block.add("Sub", rows, block.add("ReduceMean", rows, axes=[-1], keepdims=1))


def _group_norm(block: Block, x: Tensor) -> Tensor:
    """Each group as one channel, with its numbers in a row."""
    x = block.graph.first(x)
    channels, groups = x.shape[-1], block.config["groups"]
    rows = block.constant("rows", np.array([0, groups, -1], np.int64))
    ones, zeros = np.ones(groups, np.float32), np.zeros(groups, np.float32)
    y = block.add(
        "InstanceNormalization",
        _centred(block, block.add("Reshape", x.name, rows)),
        block.constant("ones", ones),
        block.constant("zeros", zeros),
        epsilon=float(block.config["eps"]),
    )
    back = block.constant("shape", np.array([0, channels, *x.shape[:-1]], np.int64))
    y = block.add("Reshape", y, back)
    gamma, beta = _learnt(block, channels)
    y = block.add("Mul", y, block.along_channels("gamma", gamma, x))
    return x._replace(name=block.add("Add", y, block.along_channels("beta", beta, x)))


def _rms_norm(block: Block, x: Tensor) -> Tensor:
    x = block.graph.last(x)
    square = block.add("ReduceMean", block.add("Mul", x.name, x.name), axes=[-1], keepdims=1)
    eps = block.constant("eps", np.float32(block.config["eps"]))
    y = block.add("Div", x.name, block.add("Sqrt", block.add("Add", square, eps)))
    if len(jax.tree.leaves(block.params)):
        y = block.add("Mul", y, block.constant("gamma", block.params))
    return x._replace(name=y)


BLOCKS: dict[str, Callable[[Block, Tensor], Tensor]] = {
    "affine": _affine,
    "conv": _conv,
    "conv1d": _conv,
    "conv_transpose": _conv_transpose,
    "relu": _by("Relu"),
    "leaky_relu": _by("LeakyRelu", "negative_slope"),
    "elu": _by("Elu", "alpha"),
    "sigmoid": _by("Sigmoid"),
    "tanh": _by("Tanh"),
    "gelu": _gelu,
    "silu": _silu,
    "softplus": _by("Softplus"),
    "dropout": _same,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "global_avg_pool": _global_avg_pool,
    "flatten": _flatten,
    "rescale": _rescale,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "rms_norm": _rms_norm,
}
