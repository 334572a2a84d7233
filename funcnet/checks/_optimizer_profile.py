"""What an optimizer is, found out from its steps: the properties in which two can differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from funcnet.checks._diagnosis import fitted_factor, name_factor
from funcnet.checks._optimizer_forms import (
    BETAS,
    EVERY_STEP,
    OWN,
    SIGN,
    SUM,
    UNKNOWN,
    Decay,
    Eps,
    decay_of,
    eps_of,
    is_geometric,
    momentum_of,
    squares_of,
)

STEPS = 24
LARGE = 1e6  # the gradient that shows what is no matter of eps
FAINT = 1e-7
Run = Callable[[Any, Any, int], Any]
"""run(params, stacked gradients, steps).updates are the stacked updates, one array a leaf."""


@dataclass(frozen=True)
class Profile:
    """The answers of one optimizer to a few short questions.

    Attributes:
        constant: One entry's updates while its gradient is `LARGE`.
        impulse: One entry's updates after a gradient of `LARGE` and then zeros.
        faint: The same after a gradient of `FAINT`.
        rate: By what the answer to a gradient grows from one step to the next, because the
            learning rate does.
        decay: What it does to parameters whose gradients are zero.
        eps: Where its eps is and how large, as far as steady gradients of many sizes show.
        squares: Its accumulator of squares, where a constant gradient shows one.
        momentum: Its memory of past gradients, as far as the impulse shows.
    """

    constant: np.ndarray
    impulse: np.ndarray
    faint: np.ndarray
    rate: float
    decay: Decay
    eps: Eps
    squares: str
    momentum: str


def profile(run: Run, params: Any, at: tuple[int, int]) -> Profile:
    """Asks an optimizer; the parameters are zero but for the question of decay.

    Args:
        run: What runs it.
        params: Sample parameters.
        at: The leaf that is looked at, and the entry in it; where one entry is enough.
    """
    leaf, one = at
    rng = np.random.default_rng(1)

    def filled(fill: Callable[[tuple[int, ...]], np.ndarray]) -> Any:
        return jax.tree.map(lambda x: fill((STEPS, *np.shape(x))), params)

    def flat(start: Any, gradients: Any) -> np.ndarray:
        return np.asarray(run(start, gradients, STEPS).updates[leaf]).reshape(STEPS, -1)

    def only(step: int) -> Any:
        def place(g: np.ndarray) -> np.ndarray:
            alone = np.zeros_like(g)
            alone[step] = g[step]
            return alone

        return jax.tree.map(place, large)

    zeros = jax.tree.map(lambda x: np.zeros(np.shape(x)), params)
    some = jax.tree.map(
        lambda x: rng.choice([-1, 1], np.shape(x)) * rng.uniform(0.5, 2.0, np.shape(x)), params
    )

    def magnitudes(shape: tuple[int, ...]) -> np.ndarray:
        size = 10 ** rng.permutation(np.linspace(-9, 1, math.prod(shape[1:])))
        drawn = rng.choice([-1, 1], size.shape) * size
        return np.broadcast_to(drawn.reshape(shape[1:]), shape)

    steady = filled(magnitudes)
    large = filled(lambda s: np.full(s, LARGE))
    decay = decay_of(
        flat(some, jax.tree.map(np.zeros_like, large)), jax.tree.leaves(some)[leaf].reshape(-1)
    )

    def undecayed(gradients: Any) -> np.ndarray:
        """From parameters of 0, without what a decoupled decay takes from them later."""
        updates = flat(zeros, gradients)
        if not decay.decoupled:
            return updates
        return updates + decay.rate * (np.cumsum(updates, 0) - updates)

    first, *_, last = undecayed(steady)
    impulse, constant = undecayed(only(0))[:, one], undecayed(large)[:, one]
    gradient = jax.tree.leaves(steady)[leaf][0].reshape(-1)
    weak = jax.tree.map(lambda g: FAINT / LARGE * g, only(0))
    with np.errstate(all="ignore"):
        return Profile(
            constant=constant,
            impulse=impulse,
            faint=undecayed(weak)[:, one],
            rate=float(undecayed(only(1))[1, one] / impulse[0]),
            decay=decay,
            eps=eps_of(gradient, first, last, STEPS),
            squares=squares_of(constant),
            momentum=momentum_of(impulse, constant),
        )


def likely_cause(
    ours: Run, theirs: Run, params: Any, at: tuple[int, int] = (0, 0), relative: float = np.inf
) -> tuple[str, dict[str, list[str]]]:
    """Tries the known ways in which two optimizers differ, and names the first that holds.

    What is seen of weight decay, of the accumulator and of eps by itself is named beside it.

    Args:
        ours: What runs ours.
        theirs: What runs the other.
        params: Sample parameters.
        at: The leaf and the entry of it where they differ.
        relative: How large their difference is, the worst step counting.

    Returns:
        The cause in words that follow "looks like", and what was measured: property ->
        [ours, theirs].
    """
    a, b = profile(ours, params, at), profile(theirs, params, at)
    measured = {
        name: [str(getattr(p, name)) or "none seen" for p in (a, b)]
        for name in ("decay", "eps", "squares", "momentum")
    }
    with np.errstate(all="ignore"):
        causes = {hypothesis: hypothesis(a, b) for hypothesis in HYPOTHESES}
    found = [hypothesis for hypothesis, words in causes.items() if words]
    if not found and relative < 1e-6:
        return "rounding in float32, if nothing else: rtol=1e-6 allows it", measured
    if not found:
        return "none of the differences known here (see the report's properties)", measured
    further = [causes[h] for h in found[1:] if h in INDEPENDENT]
    return "; also ".join([causes[found[0]], *further]), measured


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
    if a.eps.first and b.eps.first and np.isclose(c**2, a.eps.first / b.eps.first, rtol=1e-3):
        return f"{name} in every step, the root of that of eps: one above and below (Adadelta)"
    return f"{name} in every step: another learning rate"


def _decay_rate(a: Profile) -> float:
    return float(a.impulse[2] / a.impulse[1]) if a.impulse[1] else 0.0


def _decays(a: Profile, b: Profile) -> str:
    if a.decay.words == b.decay.words:
        return ""
    own = a.decay.words.startswith(OWN) or b.decay.words.startswith(OWN)
    kind = "what gradients of 0 do" if own else "weight decay"
    words = f"{kind}: ours has {a.decay}, theirs {b.decay}"
    if a.decay.decoupled and b.decay.decoupled:
        ours = a.decay.rate / b.decay.rate
        rates = abs(a.constant[0]) * np.array([1, 1 / LARGE])  # of a normalised step, of a linear
        for who, ratio in (("ours", ours), ("theirs", 1 / ours)):
            if np.any(np.isclose(ratio, rates, rtol=1e-4, atol=0)):
                return f"{words}: that of {who} is multiplied by the learning rate"
    return words


def _squares(a: Profile, b: Profile) -> str:
    if not (a.squares and b.squares) or a.squares == b.squares:
        return ""
    return f"the accumulator of squares: ours is {a.squares}, theirs {b.squares}"


PATTERNS: dict[str, Callable[[Any, Any], Any]] = {
    "no bias correction of the first moment": lambda t, beta: 1 - beta**t,
    "no bias correction of the second moment": lambda t, beta: 1 / np.sqrt(1 - beta**t),
    "no Nesterov step of the first moment": lambda t, beta: (
        1 / (beta * (1 - beta**t) / (1 - beta ** (t + 1)) + (1 - beta) / (1 - beta**t))
    ),
}
FINE_BETAS = np.unique(
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
            misfit = np.abs(pattern(t, FINE_BETAS[:, None]) / ratio - 1).max(1)
            best = int(np.argmin(misfit))
            if misfit[best] < 2e-3:
                decay = f"(decay {FINE_BETAS[best]:g})"
                return f"bias correction or momentum form: {who} has {words} {decay}"
    for who, ratio in (
        ("ours", _ratio(a.constant, b.constant)),
        ("theirs", _ratio(b.constant, a.constant)),
    ):
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


def _dampening(a: Profile, b: Profile) -> str:
    """A first gradient that is taken whole and later ones in part, as torch's `dampening` does."""
    if a.momentum != b.momentum or np.isclose(a.rate, b.rate, rtol=1e-6):
        return ""
    for who, p, rate in (("ours", a, b.rate), ("theirs", b, a.rate)):
        later = np.concatenate([[0.0], np.cumsum(p.impulse)[:-1]])
        if rate == 1 and np.allclose(p.constant, p.impulse + p.rate * later, rtol=1e-6):
            part = f"{p.rate:.4g} of the later ones"
            return f"the momentum form: {who} adds the first gradient whole and {part} (dampening)"
    return ""


FORMS = ("heavy ball", "Nesterov", "no momentum")


def _known_forms(a: Profile, b: Profile) -> str:
    if a.momentum == b.momentum or not all(p.momentum.startswith(FORMS) for p in (a, b)):
        return ""
    mu = [_decay_rate(p) for p in (a, b)]
    if a.rate != 1 and np.isclose(a.rate, b.rate, rtol=1e-6):  # rates may be float32
        for scaled, raw, who in ((0, 1, ("ours", "theirs")), (1, 0, ("theirs", "ours"))):
            if np.isclose(mu[raw], mu[scaled] * a.rate, rtol=1e-6):
                return SCALED_AND_RAW.format(*who)
    return f"the momentum form: ours has {a.momentum}, theirs {b.momentum}"


SCALED_AND_RAW = (
    "the momentum form: the velocity of {} holds the learning rate of the step that made it "
    "(scaled), that of {} is multiplied by the present one (raw); they differ once the rate changes"
)


def _memory(a: Profile, b: Profile) -> str:
    if a.momentum == b.momentum and not a.momentum.startswith(UNKNOWN):
        return ""
    x, y = (p.impulse / p.impulse[0] for p in (a, b))
    if not np.all(np.isfinite([x, y])) or np.allclose(x, y, rtol=1e-5, atol=1e-12):
        return ""
    geometric = [is_geometric(z) for z in (x, y)]
    known = [p.momentum.startswith(FORMS) for p in (a, b)]
    one = geometric[0] != geometric[1] and geometric == known
    if one and np.isclose(a.impulse[0], b.impulse[0], rtol=1e-5):
        scaled, raw = ("ours", "theirs") if geometric[0] else ("theirs", "ours")
        return SCALED_AND_RAW.format(scaled, raw)
    return f"the momentum form: ours has {a.momentum}, theirs {b.momentum}"


def _eps(a: Profile, b: Profile) -> str:
    x, y = a.eps, b.eps
    if "not seen" in (x.place, y.place) or not (x.found or y.found):
        return ""
    both = f"ours has it {x}, theirs {y}"
    if x.place != y.place:
        sums = a.squares == b.squares == "a sum"
        return ("the accumulator's first value, or " if sums else "") + f"the place of eps: {both}"
    kinds = [e.beside.split(" without")[0] for e in (x, y)]
    if "beside the first" in x.beside + y.beside:
        if np.isclose(x.first, y.first, rtol=1e-3) or a.squares != b.squares:
            return ""
        squares = " (or the decay of the squares, or their first value)"
        squares = "" if EVERY_STEP in kinds else squares
        sizes = f"ours has {x.first:.3g} {x.place}, theirs {y.first:.3g}"
        return f"the size of eps at the first step{squares}: {sizes}"
    if kinds[0] == kinds[1] == f"beside the gradient of step {STEPS - 1}":
        for who, ratio in (("ours", x.value / y.value), ("theirs", y.value / x.value)):
            for b in BETAS[np.isclose(ratio * np.sqrt(1 - BETAS**STEPS), 1, rtol=1e-3)]:
                return f"what eps stands beside: {who} before the bias correction (decay {b:g})"
    other = not np.isclose(x.value, y.value, rtol=1e-3)
    if kinds[0] != kinds[1]:
        return f"what eps stands beside{' and the size of eps' if other else ''}: {both}"
    if not other:
        return ""
    first = "the accumulator's first value, or " if kinds[0].startswith(SUM) else ""
    return f"{first}the size of eps: {both}"


def _eps_in_memory(a: Profile, b: Profile) -> str:
    """Whether eps is remembered with the square or the maximum, or added to it anew each step."""
    if not (a.eps.found and b.eps.found) or _eps(a, b):
        return ""
    x, y = (p.faint / p.faint[0] for p in (a, b))
    if np.allclose(x, y, rtol=1e-5) or not np.allclose(a.impulse, b.impulse, rtol=1e-4):
        return ""
    kept = [
        np.allclose(shape, p.impulse / p.impulse[0], rtol=1e-4) for shape, p in ((x, a), (y, b))
    ]
    if kept[0] == kept[1]:
        return ""
    who, other = ("ours", "theirs") if kept[0] else ("theirs", "ours")
    return (
        f"the place of eps: {who} has it in what is remembered, {other} adds it anew at every "
        "step; they differ once gradients shrink"
    )


def _schedule(a: Profile, b: Profile) -> str:
    ratio = _ratio(a.constant, b.constant)
    if np.all(np.isfinite(ratio)) and not np.allclose(ratio, ratio[0], rtol=1e-6):
        return (
            f"a learning rate that changes differently: the steps' ratio goes from {ratio[0]:.6g} "
            f"to {ratio[-1]:.6g} in {STEPS} steps"
        )
    return ""


def _rate(a: Profile, b: Profile) -> str:
    c = fitted_factor(a.constant, b.constant)
    if c is None or abs(c - 1) < 1e-5 or c < 0 or _factor(a, b):
        return ""
    return f"{name_factor(c)} in every step of a constant gradient: another learning rate"


def _clipped(a: Profile, b: Profile) -> str:
    """One of them is linear; the other too for small gradients."""
    faint, large = a.faint[0] / b.faint[0], a.impulse[0] / b.impulse[0]
    linear = [np.isclose(p.faint[0] / FAINT, p.impulse[0] / LARGE, rtol=1e-6) for p in (a, b)]
    if not np.isclose(faint, 1, rtol=1e-6) or np.isclose(large, 1, rtol=1e-6) or not any(linear):
        return ""
    who, part = ("ours", large) if linear[1] else ("theirs", 1 / large)
    return f"clipping: of a gradient of {LARGE:.0e}, {who} takes {part:.3g}, and small ones whole"


def _small(a: Profile, b: Profile) -> str:
    if not np.allclose(a.impulse, b.impulse, rtol=1e-4, atol=0):
        return ""
    if np.isclose(a.faint[0], b.faint[0], rtol=1e-6, atol=0):
        return ""
    return (
        f"what becomes of small gradients, as by eps: a step of {abs(a.faint[0]):.4g} for a "
        f"gradient of {FAINT:.0e}, theirs {abs(b.faint[0]):.4g}, and the same for {LARGE:.0e}"
    )


def _sign(a: Profile, b: Profile) -> str:
    if a.momentum == b.momentum == SIGN and np.allclose(a.constant, b.constant, rtol=1e-6):
        return "the decays of the momentum that the sign is taken of (Lion): the signs differ"
    return ""


HYPOTHESES = (
    _clipped,
    _factor,
    _decays,
    _dampening,
    _known_forms,
    _squares,
    _bias,
    _shifted,
    _memory,
    _eps,
    _eps_in_memory,
    _small,
    _sign,
    _rate,
    _schedule,
)
INDEPENDENT = (_decays, _squares, _eps, _rate)
"""Hypotheses that hold whatever else differs."""
