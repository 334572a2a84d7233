"""Blocks of nets: one layer each, with its parameters and its state, as (init, apply) pairs.

What a block computes and refuses is said by the layer of the same name in `funcnet.layers`
(of `conv` and `conv_transpose`, `conv2d` and `conv2d_transpose`); a block's own docstring says the
rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from funcnet import _validate, layers
from funcnet._deprecated import renamed
from funcnet._validate import example_shape
from funcnet.nets._config import configured
from funcnet.nets._net import Net, Padding, Scale, Size


def channels_of(function: str, input_shape: Any) -> int:
    shape = example_shape(function, input_shape)
    if not shape:
        raise ValueError(f"{function}: input_shape is (), expected at least the channels' axis.")
    return shape[-1]


def _plain(kind: str, function: Callable[[Array], Array], **config: Any) -> Net:
    """A block without parameters and state."""

    def init(key: Array, input_shape: Any) -> tuple[Any, Any]:
        del key
        example_shape(f"nets.{kind}", input_shape)
        return (), ()

    def apply(
        params: Any, state: Any, x: Array, *, train: bool = False, key: Array | None = None
    ) -> tuple[Array, Any]:
        del params, train, key
        return function(x), state

    return Net(init, apply, kind, config=tuple(config.items()))


@renamed(scale="weight_scale")
@configured
def affine(units: int, weight_scale: Scale = "he", bias: bool = True) -> Net:
    r"""An affine layer: $y = x w + b$, x flattened to rows.

    Args:
      units: the number of outputs m; x (n, ...) becomes y (n, m).
      weight_scale: the initial standard deviation of w, or `"he"` for $\sqrt{2/d}$.
      bias: whether there is a b; before a normalisation it does nothing.

    Returns:
      The block; params `AffineParams(w, b)`: (d, m), (m,) or None.

    Raises:
      TypeError: `units` is not an int.
      ValueError: `units` is below 1.

    Source: `layers.affine`; courses.md row 1-3.

    >>> from funcnet import nets
    >>> params, state = nets.affine(10).init(jax.random.key(0), (28, 28, 1))
    >>> params.w.shape, state
    ((784, 10), ())
    """
    units = _validate.count("nets.affine", "units", units)

    def init(key: Array, input_shape: Any) -> tuple[Any, Any]:
        d = math.prod(example_shape("nets.affine", input_shape))
        return layers.affine_init(key, d, units, weight_scale, bias=bias), ()

    def apply(
        params: Any, state: Any, x: Array, *, train: bool = False, key: Array | None = None
    ) -> tuple[Array, Any]:
        del train, key
        return layers.affine(params, x), state

    return Net(init, apply, "affine")


@renamed(scale="weight_scale")
@configured
def conv(
    channels: int,
    size: Size = 3,
    stride: Size = 1,
    padding: Padding = "SAME",
    weight_scale: Scale = "he",
    dilation: Size = 1,
    groups: int = 1,
    bias: bool = True,
) -> Net:
    r"""A convolution (cross-correlation) of images (n, h, w, cin) to `channels` channels.

    Args:
      channels: the number of output channels.
      size: the kernel's size in pixels, one int or (height, width).
      stride: the step of the kernel in pixels.
      padding: "SAME", "VALID" or in pixels, as in `layers.conv2d`.
      weight_scale: the initial standard deviation, or `"he"` for
        $\sqrt{2/(k_h k_w c_{in}/\text{groups})}$.
      dilation: the step between the kernel's taps in pixels.
      groups: a divisor of both numbers of channels; cin itself makes it depthwise.
      bias: whether there is a b; before a normalisation it does nothing.

    Returns:
      The block; params `ConvParams(w, b)`: (kh, kw, cin // groups, cout), (cout,) or None.

    Raises:
      TypeError: a size is not an int.
      ValueError: a size is below 1; at init: the example is not an image (h, w, channels).

    Source: `layers.conv2d`; courses.md row 4-33.

    >>> from funcnet import nets
    >>> params, _ = nets.conv(8, size=5).init(jax.random.key(0), (32, 32, 3))
    >>> params.w.shape
    (5, 5, 3, 8)
    """
    size = _validate.pair("nets.conv", "size", size)
    config = {
        "stride": _validate.pair("nets.conv", "stride", stride),
        "padding": padding,
        "dilation": _validate.pair("nets.conv", "dilation", dilation),
        "groups": _validate.count("nets.conv", "groups", groups),
    }
    made = layers.conv_init, size, channels, weight_scale, bias
    return _convolution("conv", "(height, width, channels)", layers.conv2d, config, *made)


@renamed(scale="weight_scale")
@configured
def conv1d(
    channels: int,
    size: int = 3,
    stride: int = 1,
    padding: Padding = "SAME",
    weight_scale: Scale = "he",
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
) -> Net:
    r"""A convolution (cross-correlation) of sequences (n, l, cin) to `channels` channels.

    Args:
      channels: the number of output channels.
      size: the kernel's length.
      stride: the step of the kernel.
      padding: "SAME", "VALID", a number of steps or (before, after), as in `layers.conv1d`.
      weight_scale: the initial standard deviation, or `"he"` for
        $\sqrt{2/(k c_{in}/\text{groups})}$.
      dilation: the step between the kernel's taps.
      groups: a divisor of both numbers of channels; cin itself makes it depthwise.
      bias: whether there is a b; before a normalisation it does nothing.

    Returns:
      The block; params `ConvParams(w, b)`: (k, cin // groups, cout), (cout,) or None.

    Raises:
      TypeError: a size is not an int.
      ValueError: a size is below 1; at init: the example is not a sequence (l, channels).

    >>> from funcnet import nets
    >>> params, _ = nets.conv1d(8).init(jax.random.key(0), (100, 3))
    >>> params.w.shape
    (3, 3, 8)
    """
    size, stride, dilation, groups = (
        _validate.count("nets.conv1d", name, value)
        for name, value in {
            "size": size, "stride": stride, "dilation": dilation, "groups": groups
        }.items()
    )  # fmt: skip
    config = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    made = layers.conv1d_init, size, channels, weight_scale, bias
    return _convolution("conv1d", "(length, channels)", layers.conv1d, config, *made)


@renamed(scale="weight_scale")
@configured
def conv_transpose(
    channels: int,
    size: Size = 3,
    stride: Size = 1,
    padding: Padding = "SAME",
    weight_scale: Scale = "he",
    dilation: Size = 1,
    groups: int = 1,
    bias: bool = True,
) -> Net:
    r"""A transposed convolution of images (n, h, w, cin), which enlarges them by `stride`.

    Args:
      channels: the number of output channels.
      size: the kernel's size in pixels, one int or (height, width).
      stride: so many pixels of output for a pixel of input.
      padding: "SAME" (h * stride rows), "VALID" or in pixels, as in `layers.conv2d_transpose`.
      weight_scale: the initial standard deviation, or `"he"` for
        $\sqrt{2/(k_h k_w c_{in}/\text{groups})}$.
      dilation: the step between the kernel's taps in pixels.
      groups: a divisor of both numbers of channels.
      bias: whether there is a b; before a normalisation it does nothing.

    Returns:
      The block; params `ConvParams(w, b)`: (kh, kw, cout // groups, cin), (cout,) or None.

    Raises:
      TypeError: a size is not an int.
      ValueError: a size is below 1; at init: the example is not an image (h, w, channels).

    >>> from funcnet import nets
    >>> net = nets.conv_transpose(4, stride=2)
    >>> params, _ = net.init(jax.random.key(0), (8, 8, 3))
    >>> net.apply(params, (), jnp.ones((1, 8, 8, 3), jnp.float32))[0].shape
    (1, 16, 16, 4)
    """
    name = "nets.conv_transpose"
    size = _validate.pair(name, "size", size)
    config = {
        "stride": _validate.pair(name, "stride", stride),
        "padding": padding,
        "dilation": _validate.pair(name, "dilation", dilation),
        "groups": _validate.count(name, "groups", groups),
    }
    made = layers.conv2d_transpose_init, size, channels, weight_scale, bias
    example = "(height, width, channels)"
    return _convolution("conv_transpose", example, layers.conv2d_transpose, config, *made)


def _convolution(
    kind: str,
    example: str,
    layer: Callable[..., Array],
    config: dict[str, Any],
    draw: Callable[..., Any],
    size: Any,
    channels: int,
    weight_scale: Scale,
    bias: bool,
) -> Net:
    """A block of a convolution whose examples have the axes that `example` names."""
    channels = _validate.count(f"nets.{kind}", "channels", channels)

    def init(key: Array, input_shape: Any) -> tuple[Any, Any]:
        shape = example_shape(f"nets.{kind}", input_shape)
        if len(shape) != example.count(",") + 1:
            raise ValueError(
                f"nets.{kind}: one example has shape {shape}, expected {example}; "
                "a convolution comes before flatten, and grey images need a channel axis."
            )
        groups = config["groups"]
        params = draw(key, size, shape[-1], channels, weight_scale, groups=groups, bias=bias)
        return params, ()

    def apply(
        params: Any, state: Any, x: Array, *, train: bool = False, key: Array | None = None
    ) -> tuple[Array, Any]:
        del train, key
        return layer(params, x, **config), state

    return Net(init, apply, kind, config=tuple(config.items()))


@configured
def relu() -> Net:
    r"""Rectified linear unit, $\max(x, 0)$: see `layers.relu`.

    >>> from funcnet import nets
    >>> nets.relu().apply((), (), jnp.array([-1.0, 2.0]))[0]
    Array([0., 2.], dtype=float64)
    """
    return _plain("relu", layers.relu)


@configured
def leaky_relu(negative_slope: int | float = 0.01) -> Net:
    r"""Leaky rectified linear unit, $a x$ left of 0: see `layers.leaky_relu`.

    Args:
      negative_slope: the slope a left of 0.

    >>> from funcnet import nets
    >>> nets.leaky_relu().apply((), (), jnp.array([-1.0, 2.0]))[0]
    Array([-0.01,  2.  ], dtype=float64)
    """
    return _plain("leaky_relu", lambda x: layers.leaky_relu(x, negative_slope))


@configured
def elu(alpha: int | float = 1.0) -> Net:
    r"""Exponential linear unit, $\alpha(e^x - 1)$ left of 0: see `layers.elu`.

    Args:
      alpha: the limit at minus infinity, negated.

    >>> from funcnet import nets
    >>> nets.elu().apply((), (), jnp.array([0.0, 2.0]))[0]
    Array([0., 2.], dtype=float64)
    """
    return _plain("elu", lambda x: layers.elu(x, alpha))


@configured
def sigmoid() -> Net:
    r"""Logistic sigmoid, $1/(1 + e^{-x})$: see `layers.sigmoid`.

    >>> from funcnet import nets
    >>> nets.sigmoid().apply((), (), jnp.array([0.0]))[0]
    Array([0.5], dtype=float64)
    """
    return _plain("sigmoid", layers.sigmoid)


@configured
def tanh() -> Net:
    r"""Hyperbolic tangent: see `layers.tanh`.

    >>> from funcnet import nets
    >>> nets.tanh().apply((), (), jnp.array([0.0]))[0]
    Array([0.], dtype=float64)
    """
    return _plain("tanh", layers.tanh)


@configured
def gelu(approximate: bool = True) -> Net:
    r"""Gaussian error linear unit, $x\,\Phi(x)$: see `layers.gelu`.

    Args:
      approximate: the tanh formula, as in `jax.nn.gelu`.

    >>> from funcnet import nets
    >>> nets.gelu().apply((), (), jnp.array([0.0]))[0]
    Array([0.], dtype=float64)
    """
    return _plain("gelu", lambda x: layers.gelu(x, approximate))


@configured
def silu() -> Net:
    r"""Sigmoid linear unit, $x\,\sigma(x)$: see `layers.silu`.

    >>> from funcnet import nets
    >>> nets.silu().apply((), (), jnp.array([0.0]))[0]
    Array([0.], dtype=float64)
    """
    return _plain("silu", layers.silu)


@configured
def softplus() -> Net:
    r"""Softplus, $\log(1 + e^x)$: see `layers.softplus`.

    >>> from funcnet import nets
    >>> nets.softplus().apply((), (), jnp.array([0.0]))[0].round(4)
    Array([0.6931], dtype=float64)
    """
    return _plain("softplus", layers.softplus)


ACTIVATIONS: dict[str, Callable[[], Net]] = {
    "relu": relu,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "gelu": gelu,
    "silu": silu,
    "softplus": softplus,
}
"""The activations that named networks know by name."""


@configured
def dropout(rate: int | float) -> Net:
    r"""Dropout: in training each value is zeroed with probability `rate`, the rest scaled up.

    Inside `serial` each block gets a key of its own, `fold_in(key, position)`, so that the masks of
    two layers differ; with `train=False` it is the identity.

    Args:
      rate: the probability of *dropping*, in [0, 1); 0 is the identity. (Courses 001 to 003 speak
        of the probability of keeping: courses.md 2.4.)

    Raises:
      TypeError: `rate` is not a number.
      ValueError: `rate` is outside [0, 1); when applied in training: there is no key.

    Source: `layers.dropout`; courses.md row 3-7.

    >>> from funcnet import nets
    >>> x = jnp.ones((2, 3))
    >>> y, _ = nets.dropout(0.5).apply((), (), x, train=True, key=jax.random.key(0))
    >>> sorted(set(y.ravel().tolist()) | {0.0, 2.0})
    [0.0, 2.0]
    """
    rate = _validate.number(
        "nets.dropout", "rate", rate, low=0.0, high=1.0, hint="It is the probability of dropping."
    )

    def init(key: Array, input_shape: Any) -> tuple[Any, Any]:
        del key
        example_shape("nets.dropout", input_shape)
        return (), ()

    def apply(
        params: Any, state: Any, x: Array, *, train: bool = False, key: Array | None = None
    ) -> tuple[Array, Any]:
        del params
        if not train or rate == 0.0:
            return x, state
        if key is None:
            raise ValueError(
                f"nets.dropout: rate {rate} with train=True and no key; pass "
                "net.apply(..., train=True, key=jax.random.key(0)), another key at every step."
            )
        return layers.dropout(key, x, rate), state

    return Net(init, apply, "dropout", config=(("rate", rate),))


@configured
def max_pool(
    window: Size = 2,
    stride: Size | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
    dilation: Size = 1,
) -> Net:
    r"""The maximum of each window: see `layers.max_pool`.

    Args:
      window: the window's size in cells, one int or (height, width).
      stride: the step of the window in pixels; None for the window's size.
      padding: "SAME", "VALID", a number of pixels or ((top, bottom), (left, right)).
      ceil_mode: whether rows left over make a window.
      dilation: the step from cell to cell within a window in pixels.

    Raises:
      TypeError: a size is not an int.
      ValueError: a size is below 1; at init: the window does not fit.

    >>> from funcnet import nets
    >>> nets.max_pool().apply((), (), jnp.arange(4.0).reshape(1, 2, 2, 1))[0].ravel()
    Array([3.], dtype=float64)
    """
    window, stride = _window("nets.max_pool", window, stride)
    dilation = _validate.pair("nets.max_pool", "dilation", dilation)
    return _plain(
        "max_pool",
        lambda x: layers.max_pool(x, window, stride, padding, ceil_mode, dilation),
        window=window,
        stride=stride,
        padding=padding,
        ceil_mode=ceil_mode,
        dilation=dilation,
    )


@configured
def avg_pool(
    window: Size = 2,
    stride: Size | None = None,
    padding: Padding = "VALID",
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Net:
    r"""The mean of each window: see `layers.avg_pool`.

    Args:
      window: the window's size in pixels, one int or (height, width).
      stride: the step of the window in pixels; None for the window's size.
      padding: "SAME", "VALID", a number of pixels or ((top, bottom), (left, right)).
      ceil_mode: whether rows left over make a window.
      count_include_pad: whether padding is averaged too, as zeros.

    Raises:
      TypeError: a size is not an int.
      ValueError: a size is below 1; at init: the window does not fit.

    >>> from funcnet import nets
    >>> nets.avg_pool().apply((), (), jnp.arange(4.0).reshape(1, 2, 2, 1))[0].ravel()
    Array([1.5], dtype=float64)
    """
    window, stride = _window("nets.avg_pool", window, stride)
    return _plain(
        "avg_pool",
        lambda x: layers.avg_pool(x, window, stride, padding, ceil_mode, count_include_pad),
    )


def _window(
    function: str, window: Size, stride: Size | None
) -> tuple[tuple[int, int], tuple[int, int]]:
    window = _validate.pair(function, "window", window)
    return window, window if stride is None else _validate.pair(function, "stride", stride)


@configured
def global_avg_pool() -> Net:
    r"""The mean over all pixels, (n, h, w, c) to (n, c): see `layers.global_avg_pool`.

    >>> from funcnet import nets
    >>> nets.global_avg_pool().apply((), (), jnp.ones((2, 4, 4, 3)))[0].shape
    (2, 3)
    """
    return _plain("global_avg_pool", layers.global_avg_pool)


@configured
def flatten() -> Net:
    r"""Each example as one row, (n, ...) to (n, d): see `layers.flatten`.

    >>> from funcnet import nets
    >>> nets.flatten().apply((), (), jnp.ones((2, 4, 4, 3)))[0].shape
    (2, 48)
    """
    return _plain("flatten", layers.flatten)


@configured
def rescale(scale: Sequence[float], shift: Sequence[float]) -> Net:
    r"""Each channel times a number, and one added, neither of them learnt: $y_c = s_c x_c + t_c$.

    Behind a regression's last layer, with the targets' deviations and means, it lets the net learn
    numbers of size 1 and answer in the targets' own units: see `rescaled`.

    Args:
      scale: the factors s, one for each channel.
      shift: what is added, t.

    Raises:
      ValueError: they are not two lists of numbers of the same length.

    >>> from funcnet import nets
    >>> nets.rescale([2.0, 1.0], [0.0, 5.0]).apply((), (), jnp.ones((1, 2)))[0]
    Array([[2., 6.]], dtype=float64)
    """
    factors, added = np.asarray(scale, np.float64), np.asarray(shift, np.float64)
    if factors.ndim != 1 or factors.shape != added.shape:
        raise ValueError(
            f"nets.rescale: scale and shift have shapes {factors.shape} and {added.shape}, "
            "expected a number each for every channel."
        )

    def function(x: Array) -> Array:
        row = (1,) * (x.ndim - 1) + (-1,)
        s, t = (jnp.asarray(a.reshape(row), x.dtype) for a in (factors, added))
        return x * s + t

    return _plain("rescale", function)
