"""`OPTIMIZERS`, where optimizers are found by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import optax

from funcnet.optimizers._adam import adam, adamax, adamw, amsgrad, lamb, nadam
from funcnet.optimizers._adaptive import adadelta, adagrad, rmsprop
from funcnet.optimizers._momentum import lion, momentum, nesterov, sgd
from funcnet.optimizers._muon import muon


class Entry(NamedTuple):
    """An optimizer as `OPTIMIZERS` knows it.

    Attributes:
        make: the function, such as `adam`.
        learning_rate: what `funcnet train` takes where neither a flag nor the data set's recipe
            says another.
    """

    make: Callable[..., optax.GradientTransformation]
    learning_rate: float


OPTIMIZERS: dict[str, Entry] = {
    "sgd": Entry(sgd, 0.1),
    "momentum": Entry(momentum, 0.03),
    "nesterov": Entry(nesterov, 0.03),
    "rmsprop": Entry(rmsprop, 1e-3),
    "adagrad": Entry(adagrad, 0.03),
    "adadelta": Entry(adadelta, 1.0),
    "adam": Entry(adam, 1e-3),
    "nadam": Entry(nadam, 1e-3),
    "adamax": Entry(adamax, 2e-3),
    "adamw": Entry(adamw, 1e-3),
    "amsgrad": Entry(amsgrad, 1e-3),
    "lamb": Entry(lamb, 3e-3),
    "lion": Entry(lion, 3e-4),
    "muon": Entry(muon, 0.01),
}
"""The optimizers by name, a row each: what makes it, and a learning rate to begin with."""
