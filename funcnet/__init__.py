"""Neural networks as pure functions in JAX, with backward rules that are written, proven, measured.

The rooms: `layers` and `losses` (the rules), `optimizers`, `nets`, `data` and `train` to build and
train with, `sweep` to train many at once, `checkpoint` and `plots` to keep what came of it and to
look at it; `checks` to prove rules and optimizers, these or your own; `plain` and `catalogue`,
every layer in plain JAX and everything that is known of it; `kernels`, the products and
convolutions that rules are made of; `bench`, what they take.
"""

from funcnet import (
    bench,
    catalogue,
    checkpoint,
    checks,
    data,
    kernels,
    layers,
    losses,
    nets,
    optimizers,
    plain,
    sweep,
    train,
)
from funcnet._machine import VERSION

__version__ = VERSION
__all__ = [
    "__version__",
    "bench",
    "catalogue",
    "checkpoint",
    "checks",
    "data",
    "kernels",
    "layers",
    "losses",
    "nets",
    "optimizers",
    "plain",
    "sweep",
    "train",
]
