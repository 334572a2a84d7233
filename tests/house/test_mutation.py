"""The power of the proof: planted mistakes are noticed, and more of them than others notice."""

from __future__ import annotations

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import layers
from funcnet.catalogue import ROWS
from funcnet.kernels import _pools
from tests.support import checkers
from tests.support.zoo import BROKEN, Animal
from tools import mutation, power
from tools.mutation import Mutant

SEED, SAMPLE = 21, 8


@pytest.fixture(scope="module")
def mutants() -> list[tuple[Mutant, list[str]]]:
    return power.all_mutants()


def survivors(fates: list[power.Fate]) -> list[tuple]:
    known = power.equivalent()
    return [f.mutant.key for f in fates if not f.noticed and f.mutant.key not in known]


def drawn(entry: tuple[Mutant, list[str]]) -> float:
    """A mutant's number, which no other mutant changes: one more does not make a new sample."""
    return random.Random(f"{SEED} {entry[0].key}").random()


def test_a_sample_of_mutants_is_noticed(mutants):
    """Eight of all but those known to be equivalent, the same eight each time."""
    known = power.equivalent()
    others = [entry for entry in mutants if entry[0].key not in known]
    assert not survivors(power.survey(sorted(others, key=drawn)[:SAMPLE]))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(power.PARTS))
def test_all_mutants_are_noticed(part, mutants):
    assert not survivors(power.survey(power.part_of(mutants, part)))


def test_there_are_enough_mutants_of_every_rule(mutants):
    assert len(mutants) >= 1000
    reached = {name for _, names in mutants for name in names}
    assert reached >= set(ROWS)
    assert len({mutant.key for mutant, _ in mutants}) == len(mutants)


def test_every_equivalent_mutant_exists_and_says_why(mutants):
    keys = {mutant.key for mutant, _ in mutants}
    for key, reason in power.equivalent().items():
        assert key in keys, "no such mutant any more"
        assert len(reason) > 20


def test_a_mutant_is_planted_and_taken_out_again():
    x = jnp.array([-1.0, 2.0])
    before = jax.vjp(layers.relu, x)[1](x)[0]
    (mutant,) = (
        m
        for m in mutation.mutants_of(layers.relu.bwd)
        if m.change == "y > 0 -> y < 0" and m.operator == "compare"
    )
    with mutation.planted(mutant):
        np.testing.assert_array_equal(jax.vjp(layers.relu, x)[1](x)[0], [0.0, 0.0])
    np.testing.assert_array_equal(jax.vjp(layers.relu, x)[1](x)[0], before)


def test_a_mutant_of_what_a_primitive_is_made_of_is_seen_and_leaves_nothing():
    """A call outside of jit is a program that is kept, of the right code or of the wrong."""
    x = jnp.arange(25.0).reshape(1, 5, 5, 1)
    before = layers.max_pool(x, 3, 2)
    found = mutation.mutants_of(_pools._max)
    mutant = next(m for m in found if m.change == "(2, columns) -> (columns, 2)")
    with mutation.planted(mutant):
        power.forget(mutant)
        with pytest.raises(AttributeError):
            layers.max_pool(x, 3, 2)
    power.forget(mutant)
    np.testing.assert_array_equal(layers.max_pool(x, 3, 2), before)


def example(x, dy):
    """Something of everything; `hidden` is in no mutant."""
    if x.ndim < 1:
        raise ValueError(f"x has {x.ndim} axes, expected {1 + 0}.")
    scale = -2.0 * x.sum(0, keepdims=True)
    return jnp.where(x > 0, dy.T, scale), None


example.__module__ = "funcnet.example"


def test_kinds_of_mistakes():
    found = [(m.operator, m.change) for m in mutation.mutants_of(example)]
    assert set(found) >= {
        ("axis", "-2.0 -> 2.0"),
        ("factor", "-2.0 * x.sum(0, keepdims=True) -> -2.0"),
        ("sum_mean", "x.sum(0, keepdims=True) -> x.mean(0, keepdims=True)"),
        ("axis", "True -> False"),
        ("axis", "0 -> 1"),
        ("transpose", "dy.T -> dy"),
        ("compare", "x > 0 -> x >= 0"),
        ("where", "jnp.where(x > 0, dy.T, scale) -> jnp.where(x > 0, scale, dy.T)"),
    }
    assert not any("hidden" in change or "axes" in change for _, change in found)


# Other checkers ----------------------------------------------------------------------------


# By default one: that the check meant for it catches each is the checks' own tests' affair.
@pytest.mark.integration
@pytest.mark.parametrize(
    "animal",
    [
        pytest.param(a, id=a.name, marks=[] if a.name == "sign" else [pytest.mark.slow])
        for a in BROKEN
    ],
)
def test_a_broken_rule_is_caught(animal: Animal):
    assert checkers.verdict("funcnet check_rule", animal) == checkers.CAUGHT


@pytest.mark.parametrize("checker", [c for c in checkers.CHECKERS if not c.startswith("funcnet")])
def test_other_checkers_are_given_the_rules_as_they_are(checker):
    """Each catches a wrong sign and lets the right rule pass."""
    if checker not in checkers.installed():
        pytest.skip(f"{checkers.NEEDS[checker]} is not installed")
    from tests.support.zoo import RIGHT

    broken = next(a for a in BROKEN if a.name == "sign")
    right = next(a for a in RIGHT if a.name == "affine_named_tuple")
    assert checkers.verdict(checker, broken) == checkers.CAUGHT
    assert checkers.verdict(checker, right) == checkers.PASSED
