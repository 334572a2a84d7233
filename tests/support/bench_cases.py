"""Benchmarks so small that they take no time."""

import jax
import numpy as np
import pytest

from funcnet import bench, catalogue
from funcnet.catalogue._bench import convs

LIMITS = bench.Ceilings(1e11, 1e10)
BLINK = {"seconds": 1e-4, "limits": LIMITS}
WITH_OPTIONS = [
    case
    for options in ({"stride": 2}, {"dilation": 2}, {"groups": 4}, {"groups": 8})
    for case in convs((3, 8, 8, 7), **options)
]


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Peers promote dtypes and broadcast as they like."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module", autouse=True)
def one_core():
    """Torch's threads wait in circles, which takes long where other tests run beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("funcnet._machine.cores", lambda: 1)
        yield


def small(name):
    """The first case of a rule with each large axis cut, so that it takes no time."""
    case = catalogue.ROWS[name].bench[0]

    def cut(leaf):
        if not isinstance(leaf, np.ndarray):
            return leaf
        return leaf[tuple(slice(20 if n > 32 else 8 if n == 32 else None) for n in leaf.shape)]

    return case._replace(draw=lambda rng: jax.tree.map(cut, case.draw(rng)))


def measured(names, **options):
    cases = {name: [small(name)] for name in names}
    return bench.rules(names, cases=cases, **{**BLINK, "peers": (), **options})
