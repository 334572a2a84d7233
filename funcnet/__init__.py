"""Neural networks as pure functions in JAX, with backward rules that are written, proven, measured.

The rooms: `layers` and `losses` (the rules), `optimizers`, `nets`, `data` and `train` to build and
train with, `sweep` to train many at once, `checkpoint`, `plots` and `report` to keep what came of
it and to look at it, `export` to hand it on, `sklearn` for estimators of scikit-learn; `checks` to
prove rules and optimizers, these or your own, and `discovery` to find the rules of a file or a
package; `plain` and `catalogue`, every layer in plain JAX and everything that is known of it;
`kernels`, the products and convolutions that rules are made of; `bench`, what they take. A room is
loaded when it is first asked for.

`funcnet.save(folder, run.trained)` writes a trained net, `funcnet.load(folder)` reads it, ready for
use.
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
        export,
        kernels,
        layers,
        losses,
        nets,
        optimizers,
        plain,
        plots,
        report,
        sklearn,
        sweep,
        train,
    )
    from funcnet.checkpoint import load_trained as load
    from funcnet.checkpoint import save_trained as save

__version__ = VERSION
__all__ = [
    "__version__",
    "bench",
    "catalogue",
    "checkpoint",
    "checks",
    "data",
    "discovery",
    "export",
    "kernels",
    "layers",
    "load",
    "losses",
    "nets",
    "optimizers",
    "plain",
    "plots",
    "report",
    "save",
    "sklearn",
    "sweep",
    "train",
]


_FUNCTIONS = {"load": "load_trained", "save": "save_trained"}  # of `checkpoint`


def __getattr__(name: str) -> object:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module("funcnet.checkpoint"), _FUNCTIONS[name])
    if name in __all__:
        return importlib.import_module(f"funcnet.{name}")
    rooms = [room for room in __all__[1:] if room not in _FUNCTIONS]
    raise AttributeError(f"module 'funcnet' has no attribute {name!r}; its rooms are {rooms}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
