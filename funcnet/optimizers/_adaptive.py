"""Rates divided by the root of past squares: RMSProp, AdaGrad, AdaDelta."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from funcnet.optimizers._frame import (
    AdaDeltaState,
    AdaGradState,
    Mask,
    RMSPropState,
    ScalarOrSchedule,
    abs_sq,
    hyperparameter,
    hyperparameters,
    make_decaying,
    make_optimizer,
    moving_mean,
    over,
    push,
    squares,
    unbiasing,
    zeros,
)


def rmsprop(
    learning_rate: ScalarOrSchedule,
    decay: ArrayLike = 0.9,
    eps: ArrayLike = 1e-8,
    initial_scale: ArrayLike = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Divides the gradient by the root of a moving mean of its squares.

    $\nu' = \rho \nu + (1 - \rho) g^2$, $u = -\eta g / r$ with $r = \sqrt{\nu' + \epsilon}$, or
    $r = \sqrt{\nu'} + \epsilon$ where `eps_in_sqrt` is False. The results differ: from
    $\nu = 0$ and a gradient of 1e-8, by a factor of thousands.

    `centered` keeps $\mu' = \rho \mu + (1 - \rho) g$ too and takes $\max(\nu' - \mu'^2, 0)$ for
    $\nu'$ (rounding can make the variance negative; optax returns NaN there). `momentum` $m$ makes
    $d = -\eta g / r$ a push: $v' = m v + d$, $u = v'$, or $u = d + m v'$ with `nesterov`: the
    scaled velocity of `momentum`, as in optax; torch keeps the raw one.

    Args:
        learning_rate: $\eta$, a number, a scalar array or a schedule.
        decay: $\rho$ in [0, 1); torch's alpha, there 0.99 by default.
        eps: $\epsilon$.
        initial_scale: $\nu$ at the start.
        eps_in_sqrt: True (optax; courses.md rows 2-9, 4-24) or False (torch; rows 0-15, 1-29).
        centered: divide by the standard deviation.
        momentum: None or $m$ in [0, 1).
        nesterov: look ahead along the velocity.
        bias_correction: divide the moments by $1 - \rho^t$.

    Returns:
        The optimizer; its state is an `RMSPropState`.

    Raises:
        ValueError, TypeError: see the module.

    Source: courses.md rows 0-15, 1-29, 2-9, 4-24; [Hinton's lecture
    6e](https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf); centered:
    [Graves 2013](https://arxiv.org/abs/1308.0850).

    >>> g = jnp.array(1e-6)
    >>> for inside in (True, False):
    ...     optimizer = rmsprop(1.0, decay=0.0, eps=1e-6, eps_in_sqrt=inside)
    ...     print(f"{optimizer.update(g, optimizer.init(g))[0]:.3f}")
    -0.001
    -0.500
    """

    def rule(t, tiny, learning_rate, decay, eps, momentum=0.0):
        unbias = unbiasing(decay, t) if bias_correction else 1.0

        def leaf(g, nu, mu, trace):
            nu = moving_mean(decay, nu, abs_sq(g))
            square = unbias * nu
            if centered:
                mu = moving_mean(decay, mu, g)
                square = jnp.maximum(square - abs_sq(unbias * mu), 0)
            root = jnp.sqrt(square + eps) if eps_in_sqrt else jnp.sqrt(square) + eps
            u = -learning_rate * over(g, root + tiny)
            if trace is not None:
                u, trace = push(u, trace, momentum, nesterov)
            return u, nu, mu, trace

        return leaf

    scalars = hyperparameters("rmsprop", learning_rate=learning_rate, decay=decay, eps=eps)
    moments = {"nu": squares(hyperparameter("rmsprop", "initial_scale", initial_scale))}
    if centered:
        moments["mu"] = zeros()
    if momentum is not None:
        scalars |= hyperparameters("rmsprop", momentum=momentum)
        moments["trace"] = zeros()
    return make_optimizer("rmsprop", RMSPropState, rule, scalars, moments)


def adagrad(
    learning_rate: ScalarOrSchedule,
    initial_accumulator_value: ArrayLike = 0.1,
    eps: ArrayLike = 1e-7,
    *,
    eps_in_sqrt: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Divides the gradient by the root of the sum of all its squares.

    $s' = s + g^2$, $u = -\eta g / \sqrt{s' + \epsilon}$, or $-\eta g / (\sqrt{s'} + \epsilon)$
    where `eps_in_sqrt` is False. Gradients of 10 for 100 steps make $s = 10\,000$ (course 001's
    answer says 1000).

    Args:
        learning_rate: $\eta$, a number, a scalar array or a schedule.
        initial_accumulator_value: $s$ at the start; the courses and torch start at 0.
        eps: $\epsilon$; torch has 1e-10.
        eps_in_sqrt: True (optax) or False (torch; courses.md row 1-33).

    Returns:
        The optimizer; its state is an `AdaGradState`.

    Raises:
        ValueError, TypeError: see the module.

    Source: courses.md row 1-33; [Duchi et al. 2011](https://jmlr.org/papers/v12/duchi11a.html).

    >>> optimizer = adagrad(1.0, initial_accumulator_value=0.0, eps=0.0)
    >>> w = jnp.array([3.0, 0.0])
    >>> optimizer.update(w, optimizer.init(w))[0].tolist()
    [-1.0, -0.0]
    """

    def rule(t, tiny, learning_rate, eps):
        def leaf(g, s):
            s = s + abs_sq(g)
            root = jnp.sqrt(s + eps) if eps_in_sqrt else jnp.sqrt(s) + eps
            return -learning_rate * over(g, root + tiny), s

        return leaf

    start = hyperparameter("adagrad", "initial_accumulator_value", initial_accumulator_value)
    scalars = hyperparameters("adagrad", learning_rate=learning_rate, eps=eps)
    moments = {"sum_of_squares": squares(start)}
    return make_optimizer("adagrad", AdaGradState, rule, scalars, moments)


def adadelta(
    learning_rate: ScalarOrSchedule | None = None,
    rho: ArrayLike = 0.9,
    eps: ArrayLike = 1e-6,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales the gradient by the ratio of two moving roots: of past steps and of gradients.

    $e_g' = \rho e_g + (1 - \rho) g^2$, $d = g \sqrt{e_x + \epsilon} / \sqrt{e_g' + \epsilon}$,
    $e_x' = \rho e_x + (1 - \rho) d^2$, $u = -\eta d$. Weight decay $\lambda$ is coupled, as in
    optax and torch: $g + \lambda p$ takes the place of $g$.

    Args:
        learning_rate: $\eta$, a number, a scalar array, a schedule, or None for Zeiler's 1. (In
            optax None leaves out the minus sign as well, so that the loss is climbed.)
        rho: $\rho$ in [0, 1).
        eps: $\epsilon$.
        weight_decay: $\lambda$, a number, a scalar array or a schedule.
        weight_decay_mask: which leaves are decayed: bools in the parameters' structure or a prefix
            of it, or a function that makes them; None is all.

    Returns:
        The optimizer; its state is an `AdaDeltaState`.

    Raises:
        ValueError, TypeError: see the module.

    Source: [Zeiler 2012](https://arxiv.org/abs/1212.5701).

    >>> optimizer = adadelta(1.0, rho=0.0)
    >>> g = jnp.array(2.0)
    >>> print(f"{optimizer.update(g, optimizer.init(g))[0]:.6f}")
    -0.001000
    """

    def rule(t, tiny, learning_rate, rho, eps, weight_decay):
        def leaf(g, e_g, e_x, *, p, decays):
            g = g + weight_decay * p if decays else g
            e_g = moving_mean(rho, e_g, abs_sq(g))
            d = jnp.sqrt(e_x + eps) / (jnp.sqrt(e_g + eps) + tiny) * g
            return -learning_rate * d, e_g, moving_mean(rho, e_x, abs_sq(d))

        return leaf

    learning_rate = 1.0 if learning_rate is None else learning_rate
    scalars = hyperparameters(
        "adadelta", learning_rate=learning_rate, rho=rho, eps=eps, weight_decay=weight_decay
    )
    moments = {"e_g": squares(), "e_x": squares()}
    return make_decaying("adadelta", AdaDeltaState, rule, scalars, moments, weight_decay_mask)
