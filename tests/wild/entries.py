"""What an entry of the corpus is, and the small inputs that entries share."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:  # what a package sets when it is imported is set before JAX is there
    from funcnet.checks import Verdict

REQUIREMENTS = pathlib.Path(__file__).with_name("requirements.txt")
PINS = dict(text.split("==") for text in REQUIREMENTS.read_text().splitlines() if "==" in text)


class Wild(NamedTuple):
    """A rule of somebody else, with arguments, and what it deserves, whatever the checker says."""

    package: str
    version: str
    name: str
    make: Callable[[], tuple[Callable, tuple[Any, ...]]]
    deserves: Verdict
    why: str
    options: dict[str, Any]

    @property
    def entry(self) -> str:
        return f"{self.package}:{self.name}"


class Shelf(list[Wild]):
    """Entries in order; called, it puts the function that it decorates on itself."""

    def __call__(
        self, package: str, name: str, deserves: Verdict, why: str, **options: Any
    ) -> Callable:
        def add(make: Callable) -> Callable:
            self.append(Wild(package, PINS[package], name, make, deserves, why, options))
            return make

        return add


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def uniform(low: float, high: float, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(low, high, shape).astype(np.float32)


def positive_definite(n: int, seed: int = 0) -> np.ndarray:
    a = normal(n, n, seed=seed)
    return (a @ a.T / n + np.eye(n)).astype(np.float32)
