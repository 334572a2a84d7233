"""Adam and its kin: NAdam, AdamW, LAMB, AMSGrad, AdaMax."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from funcnet.optimizers._frame import (
    AdamState,
    AMSGradState,
    Leaf,
    Mask,
    Scalar,
    ScalarOrSchedule,
    abs_sq,
    hyperparameters,
    make_decaying,
    make_optimizer,
    moving_mean,
    over,
    squares,
    unbiasing,
    zeros,
)


def adam_direction(
    t: Array, tiny: float, b1: Scalar, b2: Scalar, eps: Scalar, eps_root: Scalar, nesterov: bool
) -> Leaf:
    """Returns `(g, mu, nu) -> (d, mu', nu')`, with Adam's direction d before rate and sign."""
    unbias1, unbias2, next1 = unbiasing(b1, t), unbiasing(b2, t), unbiasing(b1, t + 1)

    def direction(g: Array, mu: Array, nu: Array) -> tuple[Array, Array, Array]:
        mu = moving_mean(b1, mu, g)
        nu = moving_mean(b2, nu, abs_sq(g))
        mu_hat = moving_mean(b1, next1 * mu, unbias1 * g) if nesterov else unbias1 * mu
        return over(mu_hat, jnp.sqrt(unbias2 * nu + eps_root) + (eps + tiny)), mu, nu

    return direction


def adam(
    learning_rate: ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Divides a moving mean of gradients by the root of a moving mean of their squares.

    $\mu' = b_1 \mu + (1 - b_1) g$, $\nu' = b_2 \nu + (1 - b_2) g^2$,
    $\hat\mu = \mu' / (1 - b_1^t)$, $\hat\nu = \nu' / (1 - b_2^t)$,
    $u = -\eta \hat\mu / (\sqrt{\hat\nu + \epsilon_{root}} + \epsilon)$.

    With `nesterov`, $\hat\mu = b_1 \mu' / (1 - b_1^{t+1}) + (1 - b_1) g / (1 - b_1^t)$. The eps
    outside the root is torch's and the courses' too; the courses' t = 5 that is "incremented
    before use" is our `count` = 5 before the step.

    Args:
        learning_rate: $\eta$, a number, a scalar array or a schedule.
        b1: $b_1$ in [0, 1).
        b2: $b_2$ in [0, 1).
        eps: $\epsilon$, outside the root.
        eps_root: $\epsilon_{root}$, inside the root.
        mu_dtype: dtype of $\mu$, the parameters' by default.
        nesterov: look ahead, as `nadam` does.

    Returns:
        The optimizer; its state is an `AdamState`.

    Raises:
        ValueError, TypeError: see the module.

    Source: courses.md rows 0-16, 1-30, 2-10; [Kingma and Ba 2015](https://arxiv.org/abs/1412.6980).

    >>> optimizer = adam(0.1)
    >>> w = jnp.array([1.0, -5.0, 0.0])
    >>> updates, state = optimizer.update(w, optimizer.init(w))
    >>> [round(float(u), 6) for u in updates]
    [-0.1, 0.1, -0.0]
    """
    return _adam("adam", learning_rate, b1, b2, eps, eps_root, mu_dtype, 0.0, None, nesterov)


def nadam(
    learning_rate: ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps as `adam` with Nesterov's look-ahead in the first moment.

    $\hat\mu = b_1 \mu' / (1 - b_1^{t+1}) + (1 - b_1) g / (1 - b_1^t)$, the rest as in `adam`.
    torch lets $b_1$ grow with the step in $\hat\mu$ (`momentum_decay`); optax and this do not.

    Args:
        learning_rate: $\eta$, a number, a scalar array or a schedule.
        b1: $b_1$ in [0, 1).
        b2: $b_2$ in [0, 1).
        eps: $\epsilon$, outside the root.
        eps_root: $\epsilon_{root}$, inside the root.
        mu_dtype: dtype of $\mu$, the parameters' by default.
        nesterov: False makes it `adam`.

    Returns:
        The optimizer; its state is an `AdamState`.

    Raises:
        ValueError, TypeError: see the module.

    Source: [Dozat 2016](https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ).

    >>> optimizer = nadam(0.1)
    >>> g = jnp.array(1.0)
    >>> print(f"{optimizer.update(g, optimizer.init(g))[0]:.4f}")  # -0.1 (0.9 * 0.1 / 0.19 + 1)
    -0.1474
    """
    return _adam("nadam", learning_rate, b1, b2, eps, eps_root, mu_dtype, 0.0, None, nesterov)


def adamw(
    learning_rate: ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Mask = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps as `adam` and shrinks the parameters apart from the gradient's scaling.

    $u = -\eta (\hat\mu / (\sqrt{\hat\nu + \epsilon_{root}} + \epsilon) + \lambda p)$. The decay is
    decoupled: it goes into no moment, unlike the courses' penalty in the loss. It is multiplied by
    the whole rate, as in torch (whose default is 0.01); the paper multiplies it by the schedule
    alone.

    Args:
        learning_rate: $\eta$, a number, a scalar array or a schedule.
        b1: $b_1$ in [0, 1).
        b2: $b_2$ in [0, 1).
        eps: $\epsilon$, outside the root.
        eps_root: $\epsilon_{root}$, inside the root.
        mu_dtype: dtype of $\mu$, the parameters' by default.
        weight_decay: $\lambda$, a number, a scalar array or a schedule.
        mask: which leaves are decayed: bools in the parameters' structure or a prefix of it, or a
            function that makes them; None is all.
        nesterov: look ahead, as `nadam` does.

    Returns:
        The optimizer; its state is an `AdamState`. `update` needs `params`.

    Raises:
        ValueError, TypeError: see the module.

    Source: [Loshchilov and Hutter 2019](https://arxiv.org/abs/1711.05101).

    >>> optimizer = adamw(0.1, weight_decay=0.5, mask={"w": True, "b": False})
    >>> params = {"w": jnp.array(2.0), "b": jnp.array(2.0)}
    >>> grads = {"w": jnp.array(0.0), "b": jnp.array(0.0)}
    >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
    >>> print(f"{updates['w']:.1f} {updates['b']:.1f}")
    -0.1 -0.0
    """
    return _adam(
        "adamw", learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov
    )


def _adam(
    function: str,
    learning_rate: ScalarOrSchedule,
    b1: ArrayLike,
    b2: ArrayLike,
    eps: ArrayLike,
    eps_root: ArrayLike,
    mu_dtype: DTypeLike | None,
    weight_decay: ScalarOrSchedule,
    mask: Mask,
    nesterov: bool,
    trust: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Adam, with decoupled decay and LAMB's trust ratio where they are asked for."""

    def rule(t, tiny, learning_rate, weight_decay, **rest):
        direction = adam_direction(t, tiny, nesterov=nesterov, **rest)

        def leaf(g, mu, nu, *, p, decays):
            d, mu, nu = direction(g, mu, nu)
            d = d + weight_decay * p if decays else d
            d = _trust_ratio(p, d) * d if trust else d
            return -learning_rate * d, mu, nu

        return leaf

    scalars = hyperparameters(
        function,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
    )
    moments = {"mu": zeros(mu_dtype), "nu": squares()}
    return make_decaying(function, AdamState, rule, scalars, moments, mask, needs_params=trust)


def _trust_ratio(p: Array, d: Array) -> Array:
    """Returns |p| / |d|, or 1 where either is 0."""
    p_norm, d_norm = jnp.sqrt(jnp.sum(abs_sq(p))), jnp.sqrt(jnp.sum(abs_sq(d)))
    both = (p_norm > 0) & (d_norm > 0)
    return jnp.where(both, p_norm / jnp.where(both, d_norm, 1), 1)


def lamb(
    learning_rate: ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-6,
    eps_root: ArrayLike = 0.0,
    weight_decay: ScalarOrSchedule = 0.0,
    mask: Mask = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Gives every leaf a step as long as its parameters, in the direction of `adamw`.

    $d = \hat\mu / (\sqrt{\hat\nu + \epsilon_{root}} + \epsilon) + \lambda p$,
    $u = -\eta \frac{\|p\|}{\|d\|} d$ with the norms of the whole leaf; the ratio is 1 where either
    norm is 0.

    Args:
        learning_rate: $\eta$, a number, a scalar array or a schedule.
        b1: $b_1$ in [0, 1).
        b2: $b_2$ in [0, 1).
        eps: $\epsilon$, outside the root.
        eps_root: $\epsilon_{root}$, inside the root.
        weight_decay: $\lambda$, a number, a scalar array or a schedule.
        mask: which leaves are decayed, as in `adamw`.

    Returns:
        The optimizer; its state is an `AdamState`. `update` needs `params`.

    Raises:
        ValueError, TypeError: see the module.

    Source: [You et al. 2020](https://arxiv.org/abs/1904.00962).

    >>> optimizer = lamb(0.1)
    >>> w = jnp.array([3.0, 4.0])
    >>> updates, state = optimizer.update(w, optimizer.init(w), w)
    >>> print(f"{jnp.linalg.norm(updates):.4f}")  # 0.1 of the norm of w
    0.5000
    """
    return _adam(
        "lamb", learning_rate, b1, b2, eps, eps_root, None, weight_decay, mask, False, trust=True
    )


def amsgrad(
    learning_rate: ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    mu_dtype: DTypeLike | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    bias_correction_max: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps as `adam` by the largest second moment so far, so that no rate grows again.

    $\mu' = b_1 \mu + (1 - b_1) g$, $\nu' = b_2 \nu + (1 - b_2) g^2$,
    $\nu_{max}' = \max(\nu_{max}, \nu' / (1 - b_2^t))$,
    $u = -\eta \frac{\mu'}{1 - b_1^t} / (\sqrt{\nu_{max}' + \epsilon_{root}} + \epsilon)$.

    The paper corrects no bias. torch corrects $\nu_{max}$ instead of $\nu$:
    `amsgrad(learning_rate, bias_correction_nu=False, bias_correction_max=True)`.

    Args:
        learning_rate: $\eta$, a number, a scalar array or a schedule.
        b1: $b_1$ in [0, 1).
        b2: $b_2$ in [0, 1).
        eps: $\epsilon$, outside the root.
        eps_root: $\epsilon_{root}$, inside the root.
        mu_dtype: dtype of $\mu$, the parameters' by default.
        bias_correction_mu: divide $\mu'$ by $1 - b_1^t$.
        bias_correction_nu: divide $\nu'$ by $1 - b_2^t$ before the maximum.
        bias_correction_max: divide $\nu_{max}'$ by $1 - b_2^t$ where it is used.

    Returns:
        The optimizer; its state is an `AMSGradState`.

    Raises:
        ValueError, TypeError: see the module.

    Source: [Reddi et al. 2018](https://openreview.net/forum?id=ryQu7f-RZ).

    >>> optimizer = amsgrad(0.1, b1=0.0, b2=0.0)
    >>> state = optimizer.init(jnp.array(0.0))
    >>> for g in (2.0, 1.0):  # the second step remembers the first gradient's size
    ...     update, state = optimizer.update(jnp.array(g), state)
    >>> print(f"{update:.2f}")
    -0.05
    """

    def rule(t, tiny, learning_rate, b1, b2, eps, eps_root):
        unbias1 = unbiasing(b1, t) if bias_correction_mu else 1.0
        unbias2 = unbiasing(b2, t)
        before = unbias2 if bias_correction_nu else 1.0
        after = unbias2 if bias_correction_max else 1.0

        def leaf(g, mu, nu, nu_max):
            mu = moving_mean(b1, mu, g)
            nu = moving_mean(b2, nu, abs_sq(g))
            nu_max = jnp.maximum(nu_max, before * nu)
            d = over(unbias1 * mu, jnp.sqrt(after * nu_max + eps_root) + (eps + tiny))
            return -learning_rate * d, mu, nu, nu_max

        return leaf

    scalars = hyperparameters(
        "amsgrad", learning_rate=learning_rate, b1=b1, b2=b2, eps=eps, eps_root=eps_root
    )
    moments = {"mu": zeros(mu_dtype), "nu": squares(), "nu_max": squares()}
    return make_optimizer("amsgrad", AMSGradState, rule, scalars, moments)


def adamax(
    learning_rate: ScalarOrSchedule,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps as `adam` with a decaying maximum for the root of the mean square.

    $\mu' = b_1 \mu + (1 - b_1) g$, $\nu' = \max(|g| + \epsilon, b_2 \nu)$,
    $u = -\eta \frac{\mu'}{1 - b_1^t} / \nu'$. The eps is inside the maximum, as in optax and torch.

    Args:
        learning_rate: $\eta$, a number, a scalar array or a schedule.
        b1: $b_1$ in [0, 1).
        b2: $b_2$ in [0, 1).
        eps: $\epsilon$.

    Returns:
        The optimizer; its state is an `AdamState`.

    Raises:
        ValueError, TypeError: see the module.

    Source: [Kingma and Ba 2015](https://arxiv.org/abs/1412.6980), section 7.1.

    >>> optimizer = adamax(0.1)
    >>> w = jnp.array([1.0, -5.0])
    >>> [round(float(u), 6) for u in optimizer.update(w, optimizer.init(w))[0]]
    [-0.1, 0.1]
    """

    def rule(t, tiny, learning_rate, b1, b2, eps):
        unbias = unbiasing(b1, t)

        def leaf(g, mu, nu):
            mu = moving_mean(b1, mu, g)
            nu = jnp.maximum(jnp.abs(g) + eps, b2 * nu)
            return -learning_rate * over(unbias * mu, nu + tiny), mu, nu

        return leaf

    scalars = hyperparameters("adamax", learning_rate=learning_rate, b1=b1, b2=b2, eps=eps)
    return make_optimizer("adamax", AdamState, rule, scalars, {"mu": zeros(), "nu": squares()})
