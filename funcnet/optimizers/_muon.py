"""Muon: orthogonalised momentum for matrices, Adam for the rest."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from funcnet.optimizers import _orthogonal
from funcnet.optimizers._adam import adam_direction
from funcnet.optimizers._frame import (
    Mask,
    MuonState,
    ScalarOrSchedule,
    decays,
    float_leaves,
    hyperparameters,
    is_zero,
    make_optimizer,
    moving_mean,
    squares,
    unbiasing,
    zeros,
)


def muon(
    learning_rate: ScalarOrSchedule,
    ns_coeffs: Any = _orthogonal.STANDARD,
    ns_steps: int = 5,
    beta: ArrayLike = 0.95,
    eps: ArrayLike = 1e-8,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Mask = None,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: ArrayLike = 0.9,
    adam_b2: ArrayLike = 0.999,
    adam_eps_root: ArrayLike = 0.0,
    adam_weight_decay: ArrayLike = 0.0,
    adam_learning_rate: ScalarOrSchedule | None = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: ArrayLike | None = None,
    conv_kernels: bool = False,
    ns_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Orthogonalises the momentum of matrices; every other leaf goes to `adamw`.

    $\mu' = \beta \mu + (1 - \beta) g$,
    $\hat\mu = \beta \mu' / (1 - \beta^{t+1}) + (1 - \beta) g / (1 - \beta^t)$, or
    $\mu' / (1 - \beta^t)$ without `nesterov`; $u = -\eta (s\,\mathrm{NS}(\hat\mu) + \lambda p)$
    with the Newton-Schulz iteration NS, which brings all singular values near 1 (0.7 to 1.2), and
    $s = \sqrt{\max(1, \mathrm{columns} / \mathrm{rows})}$.

    By default a matrix is a leaf of two axes, as in optax: a convolution's kernel (kh, kw, cin,
    cout) goes to Adam. `conv_kernels` reads it as a matrix (kh·kw·cin, cout) and orthogonalises it
    too, as the speed-run networks for CIFAR-10 do. torch.optim.Muon corrects no bias, runs NS in
    bfloat16, decays by 0.1, and leaves other leaves to an optimizer of their own.

    Args:
        learning_rate: $\eta$, a number, a scalar array or a schedule.
        ns_coeffs: three numbers for all steps, a row of three for each, "standard" or "dion".
        ns_steps: how many Newton-Schulz steps, where `ns_coeffs` is three numbers.
        beta: $\beta$ in [0, 1).
        eps: added to the norm that NS divides by, and Adam's $\epsilon$.
        weight_decay: $\lambda$ of the matrices, a number, a scalar array or a schedule.
        weight_decay_mask: which matrices are decayed, as in `adamw`.
        mu_dtype: dtype of $\mu$, the parameters' by default.
        nesterov: look ahead, for Adam's leaves too.
        adaptive: multiply $\mathrm{NS}(\hat\mu)$ by its inner product with $\hat\mu$.
        preconditioning: how NS scales first: "frobenius", "spectral", "aol" or "schatten".
        adam_b1: $b_1$ of the other leaves.
        adam_b2: $b_2$ of the other leaves.
        adam_eps_root: $\epsilon_{root}$ of the other leaves.
        adam_weight_decay: decoupled decay of the other leaves.
        adam_learning_rate: $\eta$ of the other leaves; None is `learning_rate`.
        muon_weight_dimension_numbers: `optax.contrib.MuonDimensionNumbers` for each leaf (None
            sends it to Adam), in the parameters' structure or a prefix of it, or a function that
            makes them; axes that they do not name are stacks of matrices.
        consistent_rms: None, or $c$ for $s = c \sqrt{\max(\mathrm{rows}, \mathrm{columns})}$.
        conv_kernels: orthogonalise leaves of four axes as (kh·kw·cin, cout).
        ns_dtype: dtype of the Newton-Schulz steps: bfloat16 is faster on GPU and TPU; None is the
            parameters', at least float32.

    Returns:
        The optimizer; its state is a `MuonState`.

    Raises:
        ValueError, TypeError: see the module; for coefficients, steps or axes that do not fit.

    Source: [Jordan et al. 2024](https://kellerjordan.github.io/posts/muon/); [Liu et al.
    2025](https://arxiv.org/abs/2502.16982) (consistent_rms).

    >>> optimizer = muon(0.1)
    >>> params = {"w": jnp.diag(jnp.array([3.0, 4.0])), "b": jnp.ones(2)}
    >>> state = optimizer.init(params)
    >>> state.nu["w"]
    MaskedNode()
    >>> updates, state = optimizer.update(params, state, params)
    >>> [round(float(u), 2) for u in updates["w"].diagonal()]
    [-0.07, -0.11]
    """
    steps = _orthogonal.newton_schulz_steps(ns_coeffs, ns_steps)
    if preconditioning not in _orthogonal.PRECONDITIONINGS:
        raise ValueError(
            f"muon: preconditioning is {preconditioning!r}, expected one of "
            f"{', '.join(_orthogonal.PRECONDITIONINGS)}."
        )

    def rule(
        t,
        tiny,
        learning_rate,
        beta,
        eps,
        weight_decay,
        adam_learning_rate,
        adam_b1,
        adam_b2,
        adam_eps_root,
        adam_weight_decay,
        consistent_rms=None,
    ):
        adam = adam_direction(t, tiny, adam_b1, adam_b2, eps, adam_eps_root, nesterov)
        unbias, unbias_next = unbiasing(beta, t), unbiasing(beta, t + 1)

        def leaf(g, mu, nu, *, p, decays, axes):
            if axes is None:
                d, mu, nu = adam(g, mu, nu)
                d = d + adam_weight_decay * p if adam_decays else d
                return -adam_learning_rate * d, mu, nu
            mu = moving_mean(beta, mu, g)
            mu_hat = moving_mean(beta, unbias_next * mu, unbias * g) if nesterov else unbias * mu
            d = _orthogonal.orthogonalise_leaf(
                mu_hat, axes, steps, preconditioning, eps + tiny, ns_dtype
            )
            d = jnp.sum((mu_hat.conj() * d).real) * d if adaptive else d
            d = _orthogonal.shape_scale(g.shape, axes, consistent_rms) * d
            d = d + weight_decay * p if decays else d
            return -learning_rate * d, mu, nu

        return leaf

    scalars = hyperparameters(
        "muon",
        learning_rate=learning_rate,
        beta=beta,
        eps=eps,
        weight_decay=weight_decay,
        adam_learning_rate=learning_rate if adam_learning_rate is None else adam_learning_rate,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        adam_eps_root=adam_eps_root,
        adam_weight_decay=adam_weight_decay,
        **({} if consistent_rms is None else {"consistent_rms": consistent_rms}),
    )
    adam_decays = not is_zero(scalars["adam_weight_decay"])
    needs_params = adam_decays or not is_zero(scalars["weight_decay"])

    def axes_of(tree: Any) -> list[_orthogonal.MatrixAxes | None]:
        return _orthogonal.matrix_axes(tree, muon_weight_dimension_numbers, conv_kernels)

    def static(tree: Any) -> list[dict[str, Any]]:
        flags = decays("muon", scalars["weight_decay"], weight_decay_mask, tree)
        both = zip(flags, axes_of(tree), strict=True)
        return [{"decays": flag, "axes": axes} for flag, axes in both]

    moments = {"mu": zeros(mu_dtype)}
    frame = make_optimizer(
        "muon", MuonState, rule, scalars, moments, needs_params=needs_params, static=static
    )

    def init(params: Any) -> MuonState:
        state = frame.init(params)
        leaves, structure = float_leaves("muon", "a parameter", params)
        nu = [
            squares()(p) if axes is None else optax.MaskedNode()
            for p, axes in zip(leaves, axes_of(params), strict=True)
        ]
        return state._replace(nu=structure.unflatten(nu))

    return optax.GradientTransformationExtraArgs(init, frame.update)
