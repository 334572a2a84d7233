"""What an optimizer's answers to a few questions say of its form: decay, eps, squares, momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Weight decay --------------------------------------------------------------------------------


OWN = "a step"


class Decay(NamedTuple):
    """What happens to parameters whose gradients are zero; its rate where that is one number."""

    words: str
    rate: float = 0.0
    decoupled: bool = False

    def __str__(self) -> str:
        return self.words


def decay_of(updates: np.ndarray, params: np.ndarray) -> Decay:
    """The weight decay, from updates for zero gradients."""
    if not np.any(updates):
        return Decay("none")
    if not np.all(np.isfinite(updates)):
        return Decay(f"{OWN} that is not finite")
    rate = -updates[0] / params
    if np.any(rate < 0):
        return Decay(f"{OWN} that is not towards 0")
    if not np.any(rate):
        return Decay(f"{OWN} that comes late")
    if np.any(rate == 0) and np.allclose(rate[rate > 0], rate.max(), rtol=1e-6, atol=0):
        return Decay(f"decay of {rate.max():.4g} a step of a part of the parameters")
    if not np.allclose(rate, rate[0], rtol=1e-6, atol=0):
        return Decay("decay that goes through the normalised step (coupled, as L2 in the loss)")
    second = -updates[1] / (params + updates[0])
    if not np.allclose(second, rate, rtol=1e-6, atol=0):
        return Decay(f"decay of {rate[0]:.4g} a step that goes through the momentum (coupled)")
    words = f"decay of {rate[0]:.4g} a step beside the gradient's step (decoupled)"
    return Decay(words, float(rate[0]), True)


# eps -------------------------------------------------------------------------------------------

OUTSIDE, INSIDE = "outside the root", "inside the root"


class Eps(NamedTuple):
    """Where eps is, how large, and what it stands beside.

    Attributes:
        place: `OUTSIDE`, `INSIDE`, or words for no eps or none that is seen.
        value: Its size; as far as `beside` is known, the size that the optimizer was given.
        beside: What the step divides by, as far as it is known.
        first: Its size beside the first gradient, or its square.
    """

    place: str
    value: float = 0.0
    beside: str = ""
    first: float = 0.0

    def __str__(self) -> str:
        return self.place + (f", {self.value:.3g} {self.beside}" if self.beside else "")

    @property
    def found(self) -> bool:
        """Whether there is an eps of a place and a size."""
        return self.place in (OUTSIDE, INSIDE)


EVERY_STEP, SUM, MEAN = "at every step", "beside a sum of squares", "beside a mean of squares"


def eps_of(gradient: np.ndarray, first: np.ndarray, last: np.ndarray, steps: int) -> Eps:
    r"""Eps, from the first and the last of updates that have the same gradient at every step.

    Beside a corrected mean of squares it stays what it is. Beside $1 - b^t$ times the square it
    shrinks from step to step, by a factor that says $b$; beside a sum of squares, by $t$.
    """
    early, late = _beside_gradient(gradient, first), _beside_gradient(gradient, last)
    if not early.found:
        if early.place.startswith("nowhere (") and late.found:
            return late._replace(beside=f"beside the gradient of step {steps - 1}")
        return early
    outside = early.place == OUTSIDE
    at_first = "beside the first gradient" + ("" if outside else "'s square")
    early = early._replace(beside=at_first, first=early.value)
    if late.place != early.place:
        return early
    shrunk = (early.value / late.value) ** (2 if outside else 1)
    if np.isclose(shrunk, 1, rtol=1e-4):
        return early._replace(beside=EVERY_STEP)
    if np.isclose(shrunk, steps, rtol=1e-4):
        return early._replace(beside=SUM + ("" if outside else ", its first value counted"))
    if not 1 < shrunk < steps:
        return early
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        below = (1 - middle**steps) / (1 - middle) < shrunk
        low, high = (middle, high) if below else (low, middle)
    value = early.value * (1 - low) ** (0.5 if outside else 1)
    words = f"{MEAN} without bias correction (decay {low:.4g})"
    return early._replace(value=value, beside=words)


def _beside_gradient(gradient: np.ndarray, update: np.ndarray) -> Eps:
    r"""Where eps is: $|g/u|$ is affine in $|g|$ where it is outside the root, its square inside."""
    with np.errstate(all="ignore"):
        size, inverse = np.abs(gradient), np.abs(gradient / update)
    if len(size) < 3 or not np.all(np.isfinite(inverse)):
        return Eps("not seen")
    if np.allclose(inverse, inverse[0], rtol=1e-6):
        return Eps("nowhere (the step is linear in the gradient)")
    for place, x, y in ((OUTSIDE, size, inverse), (INSIDE, size**2, inverse**2)):
        # Relative residuals: the small gradients are those that tell.
        basis = np.stack([x / y, 1 / y], 1)
        scale = np.linalg.norm(basis, axis=0)
        (slope, constant), *_ = np.linalg.lstsq(basis / scale, np.ones(len(x)), rcond=None)
        slope, constant = slope / scale[0], constant / scale[1]
        if np.max(np.abs(basis @ [slope, constant] - 1)) < 1e-6 and slope > 0:
            eps = constant / slope
            return Eps("nowhere") if eps < 1e-3 * float(x.min()) else Eps(place, eps)
    return Eps("not seen")


# The accumulator of squares ----------------------------------------------------------------------


def squares_of(constant: np.ndarray) -> str:
    """An uncorrected accumulator of squares, as a constant gradient shows it, or nothing."""
    with np.errstate(all="ignore"):
        square = constant**-2.0
        b = (np.sqrt(1 + 4 * square[1] / square[0]) - 1) / 2
        powers = b ** np.arange(1, len(square) + 1)
        if 0 < b < 0.9999 and np.allclose(
            powers * (1 - powers) / (b * (1 - b)), square / square[0], rtol=1e-6
        ):
            return f"a mean that forgets by {b:.4g}, less the square of the mean (centered)"
        grown = np.diff(square)
        ratio = grown[1:] / grown[:-1]
    if not np.all(grown > 1e-6 * constant[0] ** -2.0) or not np.allclose(ratio, ratio[0], 1e-4):
        return ""
    if np.isclose(ratio[0], 1, rtol=1e-4):
        return "a sum"
    return f"a mean that forgets by {ratio[0]:.4g}" if ratio[0] < 1 else ""


# Momentum ----------------------------------------------------------------------------------------

BETAS = np.array([0.5, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999])
SECOND_MOMENTS: dict[str, Callable] = {
    "": lambda b, t: np.sqrt(b**t * (1 - b) / (1 - b ** (t + 1))),
    ", the largest corrected second moment counting (AMSGrad)": lambda b, t: np.ones_like(b * t),
    ", the largest second moment counting, corrected then (AMSGrad)": lambda b, t: np.sqrt(
        (1 - b) / (1 - b ** (t + 1))
    ),
    ", in an infinity norm (Adamax)": lambda b, t: b**t,
}
SIGN = "steps of one size, by a sign"
UNKNOWN = "a memory that fades as"


def momentum_of(response: np.ndarray, constant: np.ndarray) -> str:
    """The memory of one gradient, as a form and its decay."""
    if response[0] == 0:
        return "an answer that comes late"
    x = response / response[0]
    if not np.any(np.abs(x[1:]) > 1e-12):
        return "no momentum"
    if np.allclose(x, 1, rtol=1e-6):
        return SIGN
    if not is_geometric(x):
        return (
            _growing(constant)
            or _moments(x)
            or f"{UNKNOWN} 1, " + ", ".join(f"{value:.4g}" for value in x[1:4]) + ", …"
        )
    mu = float(x[2] / x[1])
    if np.isclose(x[1], mu, rtol=1e-5):
        return f"heavy ball momentum of {mu:.4g}"
    if np.isclose(x[1], mu**2 / (1 + mu), rtol=1e-5):
        return f"Nesterov momentum of {mu:.4g}"
    return f"{UNKNOWN} 1, {x[1]:.4g}, and then by {mu:.4g} a step"


def is_geometric(response: np.ndarray) -> bool:
    """Whether a memory fades by one factor, from its second step on."""
    tail = response[1:]
    return bool(tail[0] != 0 and np.allclose(tail[1:] / tail[:-1], tail[1] / tail[0], rtol=1e-6))


def _moments(x: np.ndarray) -> str:
    """Two moments, both corrected, of the decays that are usual."""
    t = np.arange(len(x))
    first = BETAS[:, None, None] ** t * (1 - BETAS[:, None, None])
    first = first / (1 - BETAS[:, None, None] ** (t + 1))
    for words, second in SECOND_MOMENTS.items():
        misfit = np.abs(first / second(BETAS[:, None], t) / x - 1).max(-1)
        i, j = np.unravel_index(int(np.argmin(misfit)), misfit.shape)
        if misfit[i, j] < 1e-4:
            # Where the second moment stays at its largest, its decay is not seen.
            decay = "" if "corrected second" in words else f" and {BETAS[j]:g}"
            return f"moments that forget by {BETAS[i]:g}{decay}{words}"
    return ""


def _growing(constant: np.ndarray) -> str:
    r"""NAdam's momentum, $b(1 - 0.96^{\psi t}/2)$ at step t, as a constant gradient shows it."""
    t = np.arange(1, len(constant) + 2)
    for b in BETAS:
        for psi, words in (
            (np.inf, f"Nesterov momentum of {b:g}, corrected for its bias"),
            (0.004, f"NAdam's momentum, which grows to {b:g} as 1 - 0.96^(0.004 t)/2"),
            (1.0, f"NAdam's momentum, which grows to {b:g} as 1 - 0.96^t/2"),
        ):
            now = b * (1 - 0.5 * 0.96 ** (psi * t))
            product = np.cumprod(now)
            step = now[1:] * (1 - b ** t[:-1]) / (1 - product[1:])
            step = step + (1 - now[:-1]) / (1 - product[:-1])
            if np.allclose(step / step[0], constant / constant[0], rtol=1e-5):
                return words
    return ""
