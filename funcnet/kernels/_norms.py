"""Normalisation and its gradient: primitives of several results, native on a CPU where that pays.

What is standardised together is a matter of axes: a channel over all rows ("batch"), the channels
of a row ("layer", and "rms" without the mean), a group of an example's channels ("group"). The
definitions, in JAX's own operations, are what is differentiated and batched, and what runs wherever
no native kernel does.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float

from funcnet.kernels import _native
from funcnet.kernels._lowering import make_composite, once, wide, wide_dtype
from funcnet.kernels._types import average, devices_along, reshape, total

Kind = Literal["batch", "layer", "rms", "group"]
AxisName = str | tuple[str, ...] | None
Params = tuple[Array | None, Array | None]
SHORT_RUN = 8  # numbers standardised together side by side: fewer XLA joins faster
FEW_NUMBERS = 2**15  # with given statistics: the gradient of fewer XLA joins with the rest


def normalise(
    params: Params,
    x: Float[Array, "*batch c"],
    kind: Kind,
    eps: float,
    *,
    groups: int = 1,
    relu: bool = False,
    axis_name: AxisName = None,
) -> tuple[Float[Array, "*batch c"], Any, Array, Array]:
    r"""Numbers standardised by their mean and variance, scaled and shifted.

    $y = \gamma \hat x + \beta$ with $\hat x = (x - \mu)/\sqrt{v + \epsilon}$, through a ReLU if
    asked for.

    Args:
      params: gamma and beta, (c,) each, or None for ones and zeros that are not there.
      x: (..., c).
      kind: what has a mean $\mu$ and a biased variance v of its own: each channel ("batch"), each
        row ("layer"; of "rms" $\mu$ is 0), each group of channels of an example ("group").
      eps: added to the variance.
      groups: of channels, where these are of a kind.
      relu: whether what is below 0 becomes 0; NaN stays NaN.
      axis_name: axes of a `shard_map` that a batch is cut over.

    Returns:
      y, as wide as sums over x; and with axes of size 1 where it was averaged: the mean in two
      parts, the variance, $1/\sqrt{v + \epsilon}$.

    >>> y, _, var, _ = normalise((None, None), jnp.array([[1.0, 3.0]]), "layer", 1e-5)
    >>> y.round(4), var
    (Array([[-1.,  1.]], dtype=float64), Array([[1.]], dtype=float64))
    """
    there, how = _call(params, x, kind, groups, relu)
    if axis_name is None:
        y, *found = normalise_k(x, *there, eps=eps, **how)
    else:
        y, *found = _normalise(x, *there, eps=eps, **how, axis_name=axis_name)
    mean, left, var, inv_std = found
    return y, (mean, left), var, inv_std


def normalise_gradient(
    params: Params,
    x: Float[Array, "*batch c"],
    centre: tuple[Array, Array] | None,
    inv_std: Array,
    dy: Float[Array, "*batch c"],
    kind: Kind,
    *,
    groups: int = 1,
    fixed: bool = False,
    relu: bool = False,
    axis_name: AxisName = None,
) -> tuple[tuple[Float[Array, " c"], Float[Array, " c"]], Float[Array, "*batch c"]]:
    r"""The gradients of $\langle dy, y \rangle$ by gamma, beta and x, of `normalise`'s y.

    With $g = \gamma\,dy$, where a ReLU has let it through, and means over what was standardised
    together: $d\beta = \sum dy$, $d\gamma = \sum dy\,\hat x$,
    $dx = \frac{1}{\sqrt{v + \epsilon}}\,(g - \overline{g} - \hat x\,\overline{g \hat x})$.

    Args:
      params: gamma and beta, as `normalise` was given them; so are x and the options.
      x: (..., c).
      centre: the mean in two parts, as `normalise` has returned it; of "rms" it may be None.
      inv_std: what it has returned last.
      dy: the cotangent, (..., c).
      kind: "batch", "layer", "rms" or "group".
      groups: of channels.
      fixed: whether the statistics were given, and do not depend on x: both means of g are 0.
      relu: whether there is one.
      axis_name: axes of a `shard_map` that a batch is cut over.

    Returns:
      (dgamma, dbeta), of each device of `axis_name` its own share, and dx; as wide as their sums.

    >>> x = jnp.array([[1.0, 3.0]])
    >>> _, centre, _, inv_std = normalise((None, None), x, "layer", 1e-5)
    >>> (dgamma, dbeta), dx = normalise_gradient((None, None), x, centre, inv_std, x, "layer")
    >>> dbeta
    Array([1., 3.], dtype=float64)
    """
    there, how = _call(params, x, kind, groups, relu)
    mean, left = centre or (inv_std, inv_std)  # which are not read
    operands, how = (wide(dy), x, mean, left, inv_std, *there), {**how, "fixed": fixed}
    if axis_name is None:
        dx, dgamma, dbeta = gradient_k(*operands, **how)
    else:
        dx, dgamma, dbeta = _gradient(*operands, **how, axis_name=axis_name)
    return (dgamma.reshape(-1), dbeta.reshape(-1)), dx


def _call(params: Params, x: Array, kind: Kind, groups: int, relu: bool) -> Any:
    """The parameters that are there, as wide as sums over x, and the options of a primitive."""
    there = [p.astype(wide_dtype(x.dtype)) for p in params if p is not None]
    which = tuple(p is not None for p in params)
    return there, {"kind": kind, "groups": groups, "relu": relu, "which": which}


def _parameters(operands: Any, which: tuple[bool, bool]) -> tuple[Any, Any]:
    rest = iter(operands)
    gamma, beta = (next(rest) if there else None for there in which)
    return gamma, beta


# The definitions ---------------------------------------------------------------------------


def _normalise(
    x: Array,
    *parameters: Array,
    kind: Kind,
    groups: int,
    eps: float,
    relu: bool,
    which: tuple[bool, bool],
    axis_name: AxisName = None,
) -> tuple[Array, ...]:
    gamma, beta = _parameters(parameters, which)
    grouped, axes = _grouped(x, kind, groups), _axes(x, kind)
    if kind == "rms":
        var = jnp.square(grouped).mean(axes, keepdims=True)
        mean = left = jnp.zeros_like(var)
    else:
        mean, left, var = _moments(grouped, axes, axis_name)
    inv_std = lax.rsqrt(var + jnp.asarray(eps, var.dtype))
    x_hat = _centred(grouped, mean, left, kind) * inv_std
    y = scale_and_shift((gamma, beta), reshape(x_hat, x.shape))
    y = jnp.maximum(y, jnp.zeros((), y.dtype)) if relu else y
    return y, mean, left, var, inv_std


def _gradient(
    dy: Array,
    x: Array,
    mean: Array,
    left: Array,
    inv_std: Array,
    *parameters: Array,
    kind: Kind,
    groups: int,
    fixed: bool,
    relu: bool,
    which: tuple[bool, bool],
    axis_name: AxisName = None,
) -> tuple[Array, Array, Array]:
    gamma, beta = _parameters(parameters, which)
    grouped = _centred(_grouped(x, kind, groups), mean, left, kind) * inv_std
    x_hat = reshape(grouped, x.shape)
    if relu:
        dy = jnp.where(scale_and_shift((gamma, beta), x_hat) > 0, dy, jnp.zeros_like(dy))
    rows = tuple(range(x.ndim - 1))
    dbeta = dy.sum(rows, keepdims=True)
    dgamma = (dy * x_hat).sum(rows, keepdims=True)
    if fixed:
        return dy * scaled(gamma, inv_std), dgamma, dbeta
    if kind == "batch":  # a channel's gamma comes out of its means
        count = x.size // x.shape[-1] * devices_along(axis_name)
        mean, slope = total((dbeta / count, dgamma / count), axis_name)
        return scaled(gamma, inv_std) * (dy - mean - x_hat * slope), dgamma, dbeta
    axes, g = _axes(x, kind), _grouped(scaled(gamma, dy), kind, groups)
    slope = once((g * grouped).mean(axes, keepdims=True))
    if kind != "rms":
        g = g - once(g.mean(axes, keepdims=True))
    return reshape(inv_std * (g - grouped * slope), x.shape), dgamma, dbeta


def _axes(x: Array, kind: Kind) -> tuple[int, ...]:
    """Of what `_grouped` gives, those that are averaged over."""
    return {"batch": tuple(range(x.ndim - 1)), "layer": (-1,), "rms": (-1,), "group": (1, 3)}[kind]


def _grouped(x: Array, kind: Kind, groups: int) -> Array:
    x = wide(x)
    if kind != "group":
        return x
    n, *space, c = x.shape
    return reshape(x, (n, math.prod(space), groups, c // groups))


def _moments(x: Array, axes: Any, axis_name: AxisName) -> tuple[Array, Array, Array]:
    """The mean over `axes`, in two parts, and the variance.

    The mean is taken twice: the second time of what the first has left, which is what its rounding
    has cost. So numbers far from zero keep their spread, and equal numbers become exact zeros, but
    for what XLA rounds otherwise where it joins a mean with what reads it. The two parts stay
    apart, because their sum would round again. With it goes the mean square, in one
    pass over the numbers and one sum over devices; less the square of what was left, which is a
    rounding error's, it is the variance.
    """

    def means(*arrays: Array) -> Any:
        found = tuple(a.mean(axes, keepdims=True) for a in arrays)
        return average(found, axis_name)

    (mean,) = means(x)
    left, square = means(x - mean, jnp.square(x - mean))
    return mean, left, jnp.maximum(square - jnp.square(left), jnp.zeros((), square.dtype))


def _centred(x: Array, mean: Array, left: Array, kind: Kind) -> Array:
    return x if kind == "rms" else x - mean - left


def scale_and_shift(params: Params, x_hat: Array) -> Array:
    r"""Returns $\gamma \hat x + \beta$, of what is there of the two.

    Args:
      params: gamma and beta, (c,) each, or None.
      x_hat: (..., c).

    >>> scale_and_shift((jnp.array([2.0]), None), jnp.ones((1, 1)))
    Array([[2.]], dtype=float64)
    """
    gamma, beta = params
    y = scaled(gamma, x_hat)
    return y if beta is None else y + per_channel(beta, x_hat)


def scaled(gamma: Any, x: Array) -> Array:
    r"""Returns $\gamma x$; x, of None.

    Args:
      gamma: (c,), or None.
      x: (..., c).

    >>> scaled(None, jnp.ones((1, 1)))
    Array([[1.]], dtype=float64)
    """
    return x if gamma is None else per_channel(gamma, x) * x


def per_channel(values: ArrayLike, x: Array) -> Array:
    """Values per channel in x's dtype, with the axes that let them broadcast against x.

    Args:
      values: (c,).
      x: (..., c).

    >>> per_channel(jnp.ones(3), jnp.ones((5, 2, 3))).shape
    (1, 1, 3)
    """
    return jnp.asarray(values, x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


# On a CPU ----------------------------------------------------------------------------------


def _cpu_normalise(x: Array, *parameters: Array, eps: float, **how: Any) -> Any:
    native = _native_for(x, *parameters, **how)
    if native is None:
        return _normalise(x, *parameters, eps=eps, **how)
    view = _view(x, how["kind"], how["groups"])
    pair = _filled(view, parameters, how["which"])
    options = {"centred": how["kind"] != "rms", "relu": how["relu"]}
    y, *found = native.norm(x.reshape(view), *pair, eps=eps, **options)
    kept = _kept(x, how["kind"], how["groups"])
    return y.reshape(x.shape), *(a.reshape(kept) for a in found)


def _cpu_gradient(
    dy: Array, x: Array, mean: Array, left: Array, inv_std: Array, *parameters: Array, **how: Any
) -> Any:
    native = _native_for(x, dy, *parameters, **how)
    if native is None:
        return _gradient(dy, x, mean, left, inv_std, *parameters, **how)
    view = _view(x, how["kind"], how["groups"])
    statistics = (a.reshape(view[0], view[2]) for a in (mean, left, inv_std))
    pair = _filled(view, parameters, how["which"])
    options = {"centred": how["kind"] != "rms", "fixed": how["fixed"], "relu": how["relu"]}
    found = native.norm_gradient(dy.reshape(view), x.reshape(view), *statistics, *pair, **options)
    row = (1,) * (x.ndim - 1) + x.shape[-1:]
    return tuple(a.reshape(b) for a, b in zip(found, (x.shape, row, row), strict=True))


def _native_for(x: Array, *others: Array, **how: Any) -> Any:
    """The native package, where it is in use, takes these arrays and is the faster; else None."""
    if not x.size or any(a.dtype != jnp.float32 for a in (x, *others)):
        return None
    _, rows, _, channels = _view(x, how["kind"], how["groups"])
    short = how["kind"] != "batch" and rows == 1 and channels < SHORT_RUN
    few = how.get("fixed", False) and x.size < FEW_NUMBERS
    return None if short or few else _native.package_for(x.dtype)


def _view(x: Array, kind: Kind, groups: int) -> tuple[int, int, int, int]:
    """The shape (examples, rows, groups, channels) that native kernels know."""
    c = x.shape[-1]
    if kind == "batch":
        return 1, x.size // c, c, 1
    if kind != "group":
        return x.size // c, 1, 1, c
    return x.shape[0], x.size // (x.shape[0] * c), groups, c // groups


def _kept(x: Array, kind: Kind, groups: int) -> tuple[int, ...]:
    """The shape of statistics."""
    if kind == "group":
        return x.shape[0], 1, groups, 1
    return (1,) * (x.ndim - 1) + x.shape[-1:] if kind == "batch" else (*x.shape[:-1], 1)


def _filled(view: Any, parameters: Any, which: tuple[bool, bool]) -> tuple[Array, Array]:
    """Gamma and beta as (groups, channels), ones and zeros where they are not there."""
    gamma, beta = _parameters(parameters, which)
    return (
        jnp.ones(view[2:], jnp.float32) if gamma is None else gamma.reshape(view[2:]),
        jnp.zeros(view[2:], jnp.float32) if beta is None else beta.reshape(view[2:]),
    )


def _names(**_: Any) -> str:
    return "..."


normalise_k = make_composite("funcnet_normalise", _normalise, _cpu_normalise, _names, several=True)
gradient_k = make_composite(
    "funcnet_normalise_gradient", _gradient, _cpu_gradient, _names, several=True
)
