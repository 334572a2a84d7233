"""What an optimizer is, found out from its steps: the properties in which two can differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from funcnet.checks._diagnosis import fitted_factor, name_factor

STEPS = 24
Run = Callable[[Any, Any, int], Any]
"""run(params, stacked gradients, steps).updates are the stacked updates, one array a leaf."""


@dataclass(frozen=True)
class Profile:
    """The answers of one optimizer to a few short questions.

    Attributes:
        first: The first update for gradients of magnitudes 1e-9 to 10, flat.
        constant: One entry's updates while its gradient is 1.
        impulse: One entry's updates after a gradient of 1 and then zeros.
        rate: By what the answer to a gradient grows from one step to the next, because the
            learning rate does.
        decay: What it does to parameters whose gradients are zero.
        eps: Where its eps is and how large, as far as the first update shows.
        momentum: Its memory of past gradients, as far as the impulse shows.
    """

    first: np.ndarray
    constant: np.ndarray
    impulse: np.ndarray
    rate: float
    decay: str
    eps: str
    momentum: str


def profile(run: Run, params: Any) -> Profile:
    """Asks an optimizer; the parameters are zero but for the question of decay."""
    rng = np.random.default_rng(1)

    def filled(fill: Callable[[tuple[int, ...]], np.ndarray]) -> Any:
        return jax.tree.map(lambda x: fill((STEPS, *np.shape(x))), params)

    def flat(start: Any, gradients: Any) -> np.ndarray:
        updates = run(start, gradients, STEPS).updates
        return np.concatenate([np.asarray(u).reshape(STEPS, -1) for u in updates], 1)

    def only(step: int) -> Any:
        def place(g: np.ndarray) -> np.ndarray:
            alone = np.zeros_like(g)
            alone[step] = g[step]
            return alone

        return jax.tree.map(place, ones)

    zeros = jax.tree.map(lambda x: np.zeros(np.shape(x)), params)
    some = jax.tree.map(lambda x: rng.uniform(0.5, 2.0, np.shape(x)), params)
    spread = filled(lambda s: rng.choice([-1.0, 1.0], s) * 10 ** rng.uniform(-9, 1, s))
    ones = filled(np.ones)
    gradient = np.concatenate([g[0].reshape(-1) for g in jax.tree.leaves(spread)])
    first, response = flat(zeros, spread)[0], flat(zeros, only(0))[:, 0]
    with np.errstate(all="ignore"):
        rate = float(flat(zeros, only(1))[1, 0] / response[0])
    return Profile(
        first=first,
        constant=flat(zeros, ones)[:, 0],
        impulse=response,
        rate=rate,
        decay=_decay(
            flat(some, jax.tree.map(np.zeros_like, ones)),
            np.concatenate([x.reshape(-1) for x in jax.tree.leaves(some)]),
        ),
        eps=_eps(gradient, first),
        momentum=_momentum(response),
    )


def likely_cause(ours: Run, theirs: Run, params: Any) -> tuple[str, dict[str, list[str]]]:
    """Tries the known ways in which two optimizers differ, and names the first that holds.

    Returns:
        The cause in words that follow "looks like", and what was measured: property ->
        [ours, theirs].
    """
    a, b = profile(ours, params), profile(theirs, params)
    measured = {
        "decay": [a.decay, b.decay],
        "eps": [a.eps, b.eps],
        "momentum": [a.momentum, b.momentum],
    }
    with np.errstate(all="ignore"):
        for hypothesis in (
            _factor,
            _decays,
            _known_forms,
            _bias,
            _shifted,
            _memory,
            _eps_place,
            _schedule,
        ):
            words = hypothesis(a, b)
            if words:
                return words, measured
    return "none of the differences known here (see the report's properties)", measured


# Hypotheses --------------------------------------------------------------------------------


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where((a == 0) & (b == 0), 1.0, a / b)


def _factor(a: Profile, b: Profile) -> str:
    c = fitted_factor(a.constant, b.constant)
    if c is None or abs(c - 1) < 1e-5:
        return ""
    same_memory = np.allclose(a.impulse, c * b.impulse, rtol=1e-5, atol=0)
    if not same_memory:
        return ""
    name = name_factor(c)
    if c < 0:
        return f"{name} in every step: ascent for descent" if c == -1 else f"{name} in every step"
    if "heavy ball" in a.momentum and abs(c - _decay_rate(a)) < 1e-5:
        return f"{name}, which is the momentum: the velocity is used one step too late"
    if "heavy ball" in a.momentum and abs(c - (1 - _decay_rate(a))) < 1e-5:
        return f"{name}, which is 1 - momentum: an average of gradients where theirs has a sum"
    return f"{name} in every step: another learning rate"


def _decay_rate(a: Profile) -> float:
    return float(a.impulse[2] / a.impulse[1]) if a.impulse[1] else 0.0


def _decays(a: Profile, b: Profile) -> str:
    if a.decay == b.decay:
        return ""
    return f"weight decay: ours has {a.decay}, theirs {b.decay}"


PATTERNS: dict[str, Callable[[Any, Any], Any]] = {
    "no bias correction of the first moment": lambda t, beta: 1 - beta**t,
    "no bias correction of the second moment": lambda t, beta: 1 / np.sqrt(1 - beta**t),
    "no Nesterov step of the first moment": lambda t, beta: (
        1 / (beta * (1 - beta**t) / (1 - beta ** (t + 1)) + (1 - beta) / (1 - beta**t))
    ),
}
BETAS = np.unique(
    np.concatenate([np.arange(0.5, 0.999, 1e-3), 1 - np.arange(1e-4, 0.05, 1e-4)]).round(6)
)


def _bias(a: Profile, b: Profile) -> str:
    """The ratio of two optimizers under a constant gradient against what a missing term makes."""
    t = np.arange(1, STEPS + 1)
    for who, ratio in (
        ("ours", _ratio(a.constant, b.constant)),
        ("theirs", _ratio(b.constant, a.constant)),
    ):
        if not np.all(np.isfinite(ratio)) or np.allclose(ratio, 1, rtol=1e-5):
            return ""
        for words, pattern in PATTERNS.items():
            misfit = np.abs(pattern(t, BETAS[:, None]) / ratio - 1).max(1)
            best = int(np.argmin(misfit))
            if misfit[best] < 2e-3:
                decay = f"(decay {BETAS[best]:g})"
                return f"bias correction or momentum form: {who} has {words} {decay}"
        for beta1 in (0.5, 0.8, 0.9, 0.95, 0.99):
            for beta2 in (0.9, 0.95, 0.98, 0.99, 0.999, 0.9999):
                if np.allclose((1 - beta1**t) / np.sqrt(1 - beta2**t), ratio, rtol=1e-4):
                    return f"bias correction: {who} has none (decays {beta1:g} and {beta2:g})"
    return ""


def _shifted(a: Profile, b: Profile) -> str:
    for who, x, y in (("ours", a, b), ("theirs", b, a)):
        late = np.allclose(x.constant[1:], y.constant[:-1], rtol=1e-6, atol=0)
        if late and not np.allclose(x.constant, y.constant, rtol=1e-6, atol=0):
            return f"a step counter or schedule off by one: {who} is one step behind"
    return ""


FORMS = ("heavy ball", "Nesterov", "no momentum")


def _known_forms(a: Profile, b: Profile) -> str:
    if a.momentum == b.momentum or not all(p.momentum.startswith(FORMS) for p in (a, b)):
        return ""
    mu = [_decay_rate(p) for p in (a, b)]
    if a.rate != 1 and np.isclose(a.rate, b.rate, rtol=1e-9):
        for scaled, raw, who in ((0, 1, ("ours", "theirs")), (1, 0, ("theirs", "ours"))):
            if np.isclose(mu[raw], mu[scaled] * a.rate, rtol=1e-6):
                return SCALED_AND_RAW.format(*who)
    return f"the momentum form: ours has {a.momentum}, theirs {b.momentum}"


SCALED_AND_RAW = (
    "the momentum form: the velocity of {} holds the learning rate of the step that made it "
    "(scaled), that of {} is multiplied by the present one (raw); they differ once the rate changes"
)


def _memory(a: Profile, b: Profile) -> str:
    x, y = (p.impulse / p.impulse[0] for p in (a, b))
    if not np.all(np.isfinite([x, y])) or np.allclose(x, y, rtol=1e-5, atol=1e-12):
        return ""
    geometric = [_is_geometric(z) for z in (x, y)]
    if geometric[0] != geometric[1] and np.allclose(a.impulse[:1], b.impulse[:1], rtol=1e-5):
        scaled, raw = ("ours", "theirs") if geometric[0] else ("theirs", "ours")
        return SCALED_AND_RAW.format(scaled, raw)
    return f"the momentum form: ours has {a.momentum}, theirs {b.momentum}"


def _is_geometric(response: np.ndarray) -> bool:
    tail = response[1:]
    return bool(tail[0] != 0 and np.allclose(tail[1:] / tail[:-1], tail[1] / tail[0], rtol=1e-6))


def _eps_place(a: Profile, b: Profile) -> str:
    if a.eps == b.eps or "not seen" in (a.eps, b.eps):
        return ""
    kind = "place" if a.eps.split(",")[0] != b.eps.split(",")[0] else "size"
    also = " or of the accumulator's first value" if kind == "size" else ""
    return f"the {kind} of eps{also}: ours has it {a.eps}, theirs {b.eps}"


def _schedule(a: Profile, b: Profile) -> str:
    ratio = _ratio(a.constant, b.constant)
    if np.all(np.isfinite(ratio)) and not np.allclose(ratio, ratio[0], rtol=1e-6):
        return (
            f"a learning rate that changes differently: the steps' ratio goes from {ratio[0]:.6g} "
            f"to {ratio[-1]:.6g} in {STEPS} steps"
        )
    return ""


# Properties --------------------------------------------------------------------------------


def _decay(updates: np.ndarray, params: np.ndarray) -> str:
    """What happens to parameters whose gradients are zero."""
    if not np.any(updates):
        return "none"
    rate = -updates[0] / params
    if not np.allclose(rate, rate[0], rtol=1e-6, atol=0):
        return "decay that goes through the normalised step (coupled, as L2 in the loss)"
    second = -updates[1] / (params + updates[0])
    if not np.allclose(second, rate, rtol=1e-6, atol=0):
        return f"decay of {rate[0]:.4g} a step that goes through the momentum (coupled)"
    return f"decay of {rate[0]:.4g} a step beside the gradient's step (decoupled)"


def _eps(gradient: np.ndarray, update: np.ndarray) -> str:
    r"""Where eps is: $|g/u|$ is affine in $|g|$ where it is outside the root, its square inside."""
    with np.errstate(all="ignore"):
        size, inverse = np.abs(gradient), np.abs(gradient / update)
    if not np.all(np.isfinite(inverse)):
        return "not seen"
    if np.allclose(inverse, inverse[0], rtol=1e-6):
        return "nowhere (the step is linear in the gradient)"
    for words, x, y in (
        ("outside the root", size, inverse),
        ("inside the root", size**2, inverse**2),
    ):
        # Relative residuals: the small gradients are those that tell.
        basis = np.stack([x / y, 1 / y], 1)
        scale = np.linalg.norm(basis, axis=0)
        (slope, constant), *_ = np.linalg.lstsq(basis / scale, np.ones(len(x)), rcond=None)
        slope, constant = slope / scale[0], constant / scale[1]
        if np.max(np.abs(basis @ [slope, constant] - 1)) < 1e-6 and slope > 0:
            eps = constant / slope
            if eps < 1e-3 * float(x.min()):
                return "nowhere"
            return f"{words}, {eps:.3g} beside the gradient" + (
                "'s square" if words[:2] == "in" else ""
            )
    return "not seen"


def _momentum(response: np.ndarray) -> str:
    """The memory of one gradient, as a form and its decay."""
    if response[0] == 0:
        return "an answer that comes late"
    x = response / response[0]
    if not np.any(np.abs(x[1:]) > 1e-12):
        return "no momentum"
    if not _is_geometric(x):
        return f"a memory that fades as 1, {x[1]:.4g}, {x[2]:.4g}, {x[3]:.4g}, …"
    mu = float(x[2] / x[1])
    if np.isclose(x[1], mu, rtol=1e-5):
        return f"heavy ball momentum of {mu:.4g}"
    if np.isclose(x[1], mu**2 / (1 + mu), rtol=1e-5):
        return f"Nesterov momentum of {mu:.4g}"
    return f"a memory that fades as 1, {x[1]:.4g}, and then by {mu:.4g} a step"
