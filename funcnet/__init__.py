"""Neural networks as pure functions in JAX, with backward rules that are written, proven, measured.

The rooms: `layers` and `losses` (the rules), `optimizers`, `nets`, `data` and `train` to build and
train with, `sweep` to train many at once, `checkpoint` and `plots` to keep what came of it and to
look at it; `checks` to prove rules and optimizers, these or your own, and `discovery` to find the
rules of a file or a package; `plain` and `catalogue`,
every layer in plain JAX and everything that is known of it; `kernels`, the products and
convolutions that rules are made of; `bench`, what they take. A room is loaded when it is first
asked for.
"""

import importlib
from typing import TYPE_CHECKING

from funcnet._machine import VERSION

if TYPE_CHECKING:
    from funcnet import (
        bench,
        catalogue,
        checkpoint,
        checks,
        data,
        discovery,
        kernels,
        layers,
        losses,
        nets,
        optimizers,
        plain,
        plots,
        sweep,
        train,
    )

__version__ = VERSION
__all__ = [
    "__version__",
    "bench",
    "catalogue",
    "checkpoint",
    "checks",
    "data",
    "discovery",
    "kernels",
    "layers",
    "losses",
    "nets",
    "optimizers",
    "plain",
    "plots",
    "sweep",
    "train",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        return importlib.import_module(f"funcnet.{name}")
    raise AttributeError(f"module 'funcnet' has no attribute {name!r}; its rooms are {__all__[1:]}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
