"""Gradient descent, plain and with a velocity; and Lion."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from funcnet.optimizers._frame import (
    LionState,
    Mask,
    ScalarOrSchedule,
    TraceState,
    hyperparameters,
    make_decaying,
    make_optimizer,
    moving_mean,
    push,
    zeros,
)


def sgd(
    learning_rate: ScalarOrSchedule,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    accumulator_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps against the gradient, $u = -\eta g$; with `momentum` it is `momentum`.

    Args:
        learning_rate: $\eta$, a number, a scalar array or a schedule.
        momentum: None, or $\mu$ of the raw velocity $v' = \mu v + g$, $u = -\eta v'$.
        nesterov: with momentum, $u = -\eta (g + \mu v')$.
        accumulator_dtype: dtype of $v$, the parameters' by default.

    Returns:
        The optimizer; its state is a `TraceState`.

    Raises:
        ValueError, TypeError: see the module.

    Source: courses.md rows 0-10 and 3-18 (the course's function changes `w` in place, this one
    does not).

    >>> optimizer = sgd(0.1)
    >>> w = jnp.array([1.0, 2.0])
    >>> updates, state = optimizer.update(w, optimizer.init(w))
    >>> optax.apply_updates(w, updates).tolist()
    [0.9, 1.8]
    """
    return _velocity("sgd", learning_rate, momentum, nesterov, "raw", accumulator_dtype)


def momentum(
    learning_rate: ScalarOrSchedule,
    momentum: ArrayLike = 0.9,
    velocity: str = "raw",
    *,
    accumulator_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps along a velocity that remembers past gradients (Polyak's heavy ball).

    raw (optax, torch): $v' = \mu v + g$, $u = -\eta v'$.
    scaled (the courses): $v' = \mu v - \eta g$, $u = v'$.

    At a constant rate the two give the same steps; after the rate changes they do not: the scaled
    velocity keeps the rates that its gradients came with, the raw one takes the new rate at once.

    Args:
        learning_rate: $\eta$, a number, a scalar array or a schedule.
        momentum: $\mu$ in [0, 1).
        velocity: "raw" or "scaled".
        accumulator_dtype: dtype of $v$, the parameters' by default.

    Returns:
        The optimizer; its state is a `TraceState` with $v$ as `trace`.

    Raises:
        ValueError, TypeError: see the module; ValueError for an unknown velocity.

    Source: courses.md rows 0-11, 1-26, 2-6, 3-22; [Sutskever et al.
    2013](https://proceedings.mlr.press/v28/sutskever13.html) (scaled).

    >>> optimizer = momentum(0.1, velocity="scaled")
    >>> state = TraceState(jnp.int32(0), trace=jnp.array(1.0))
    >>> update, state = optimizer.update(jnp.array(2.0), state)
    >>> print(f"{update:.1f} {state.trace:.1f}")
    0.7 0.7
    """
    return _velocity("momentum", learning_rate, momentum, False, velocity, accumulator_dtype)


def nesterov(
    learning_rate: ScalarOrSchedule,
    momentum: ArrayLike = 0.9,
    velocity: str = "raw",
    *,
    accumulator_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps along the velocity as it will be after the next push (Nesterov's look-ahead).

    raw (optax, torch): $v' = \mu v + g$, $u = -\eta (g + \mu v')$.
    scaled (the courses): $v' = \mu v - \eta g$, $u = -\mu v + (1 + \mu) v' = \mu v' - \eta g$.

    Args:
        learning_rate: $\eta$, a number, a scalar array or a schedule.
        momentum: $\mu$ in [0, 1).
        velocity: "raw" or "scaled"; see `momentum` for where they differ.
        accumulator_dtype: dtype of $v$, the parameters' by default.

    Returns:
        The optimizer; its state is a `TraceState` with $v$ as `trace`.

    Raises:
        ValueError, TypeError: see the module; ValueError for an unknown velocity.

    Source: courses.md rows 0-12, 2-7; [Bengio et al. 2012](https://arxiv.org/abs/1212.0901).

    >>> optimizer = nesterov(0.1, velocity="scaled")
    >>> state = TraceState(jnp.int32(0), trace=jnp.array(1.0))
    >>> update, state = optimizer.update(jnp.array(2.0), state)
    >>> print(f"{update:.2f} {state.trace:.1f}")
    0.43 0.7
    """
    return _velocity("nesterov", learning_rate, momentum, True, velocity, accumulator_dtype)


def _velocity(
    function: str,
    learning_rate: ScalarOrSchedule,
    momentum: ArrayLike | None,
    nesterov: bool,
    velocity: str,
    accumulator_dtype: DTypeLike | None,
) -> optax.GradientTransformationExtraArgs:
    if velocity not in ("raw", "scaled"):
        raise ValueError(
            f"{function}: velocity is {velocity!r}, expected 'raw' (optax, torch: the rate "
            "multiplies the velocity) or 'scaled' (the courses: the rate multiplies the gradient)."
        )
    if momentum is None:

        def plain(t, tiny, learning_rate):
            return lambda g, trace: (-learning_rate * g, None)

        scalars = hyperparameters(function, learning_rate=learning_rate)
        return make_optimizer(function, TraceState, plain, scalars, {})

    def rule(t, tiny, learning_rate, momentum):
        def leaf(g, trace):
            if velocity == "scaled":
                return push(-learning_rate * g, trace, momentum, nesterov)
            u, v = push(g, trace, momentum, nesterov)
            return -learning_rate * u, v

        return leaf

    scalars = hyperparameters(function, learning_rate=learning_rate, momentum=momentum)
    return make_optimizer(function, TraceState, rule, scalars, {"trace": zeros(accumulator_dtype)})


def lion(
    learning_rate: ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.99,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 1e-3,
    mask: Mask = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps by the sign of a mean of gradients, the same length for every parameter.

    $u = -\eta (\mathrm{sign}(b_1 \mu + (1 - b_1) g) + \lambda p)$, $\mu' = b_2 \mu + (1 - b_2) g$.
    The sign of 0 is 0.

    Args:
        learning_rate: $\eta$, a number, a scalar array or a schedule; 3 to 10 times smaller than
            Adam's.
        b1: $b_1$ in [0, 1).
        b2: $b_2$ in [0, 1).
        mu_dtype: dtype of $\mu$, the parameters' by default.
        weight_decay: $\lambda$, a number, a scalar array or a schedule.
        mask: which leaves are decayed, as in `adamw`.

    Returns:
        The optimizer; its state is a `LionState`. `update` needs `params` unless
        `weight_decay` is 0.

    Raises:
        ValueError, TypeError: see the module.

    Source: [Chen et al. 2023](https://arxiv.org/abs/2302.06675).

    >>> optimizer = lion(0.1, weight_decay=0.0)
    >>> w = jnp.array([3.0, -4.0, 0.0])
    >>> optimizer.update(w, optimizer.init(w))[0].tolist()
    [-0.1, 0.1, -0.0]
    """

    def rule(t, tiny, learning_rate, b1, b2, weight_decay):
        def leaf(g, mu, *, p, decays):
            d = jnp.sign(moving_mean(b1, mu, g))
            d = d + weight_decay * p if decays else d
            return -learning_rate * d, moving_mean(b2, mu, g)

        return leaf

    scalars = hyperparameters(
        "lion", learning_rate=learning_rate, b1=b1, b2=b2, weight_decay=weight_decay
    )
    return make_decaying("lion", LionState, rule, scalars, {"mu": zeros(mu_dtype)}, mask)
