"""Rules over the devices of a mesh, in the three ways that JAX has: strangers', right and wrong."""

from __future__ import annotations

import functools
import json

import pytest

from funcnet import checks
from funcnet._machine import quick_compile_flags
from tests.support.processes import run_python
from tests.support.zoo_base import AFFINE, X, affine_rule

KINDS = ("auto", "explicit", "shard_map")
NAMES = [f"sharding/{n}/{kind}" for n in (2, 4, 8) for kind in KINDS]

STRANGERS = """
import json
import jax
jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp, numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec
from funcnet import checks, kernels
from tests.support.zoo_base import AFFINE, Affine, affine_body, affine_rule, rule

x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)

def mended(dw=kernels.matmul_tn):
    def backward(residuals, g):
        params, x = residuals
        cotangents = Affine(dw(x, g), g.sum(0)), kernels.matmul_nt(g, params.w)
        return kernels.as_cotangent(cotangents, residuals)
    return rule(affine_body, backward)

@custom_partitioning
def per_shard(x, g):  # right on one device; over several the sum over shards is forgotten
    return x.T @ g

def partition(mesh, args, result):
    whole = NamedSharding(mesh, PartitionSpec())
    return mesh, lambda x, g: x.T @ g, whole, tuple(a.sharding for a in args)

per_shard.def_partition(partition, sharding_rule="n d, n m -> d m")

def similarities(x):  # of all rows with all: a mesh gathers, and explicit axes do not say which
    return x @ x.T

alike = rule(similarities, lambda r, g: ((g + g.T) @ r[0],))
share = rule(lambda s, x: x * s, lambda r, g: (2 * (g * r[1]).sum(), g * r[0]))  # twice too much
share_mended = rule(
    lambda s, x: x * s,
    lambda r, g: kernels.as_cotangent((2 * (g * r[1]).sum(), g * r[0]), r),
)
alone = rule(lambda s: s["a"].sum() ** 2, lambda r, g: (
    {"a": jnp.broadcast_to(2 * r[0]["a"].sum() * g, r[0]["a"].shape), "b": 0 * r[0]["b"]},))
odd = {"a": np.ones(3), "b": np.ones((2, 2))}
found = {
    "stranger": checks.check_sharding(affine_rule(), AFFINE, x),
    "mended": checks.check_sharding(mended(), AFFINE, x),
    "per_shard": checks.check_sharding(mended(per_shard), AFFINE, x),
    "similarities": checks.check_sharding(alike, x, devices=2),
    "wrong": checks.check_sharding(share_mended, np.array(1.5), x, devices=2),
    "alone": checks.check_sharding(alone, odd, devices=4),
}
mesh = jax.make_mesh((4, 2), ("a", "b"))
one = dict(checks=["cotangent"], mesh=mesh)
found["of check_rule"] = checks.check_rule(
    mended(), AFFINE, x, **one, skip={"sharding/8/auto": "a reason"})
found["wrong already"] = checks.check_rule(share, np.array(1.5), x, **one)
found["does not divide"] = checks.check_rule(mended(), AFFINE, x[:7], **one, seconds=100)
checks.check_rule(mended(per_shard), AFFINE, x, checks=["cotangent"]).raise_if_bad()
try:
    checks.check_sharding(affine_rule(), AFFINE, x[:7])
except ValueError as error:
    found["refused"] = str(error)
print(json.dumps({k: v if isinstance(v, str) else v.to_dict() for k, v in found.items()}))
"""


@functools.cache
def reports():
    found = json.loads(run_python(STRANGERS, XLA_FLAGS=quick_compile_flags()))
    return {
        k: v if isinstance(v, str) else checks.RuleReport.from_dict(v) for k, v in found.items()
    }


def failed(name):
    return [check.name for check in reports()[name].failed]


@pytest.mark.integration
def test_a_right_rule_is_right_on_every_kind_of_mesh():
    report = reports()["mended"].raise_if_bad()
    assert [check.name for check in report] == NAMES
    assert all(check.passed and check.worst <= check.tolerance for check in report)
    assert "1 all-reduce (128 bytes)" in report["sharding/8/explicit"].message
    assert not any("sharding/" in note for note in report.notes)


@pytest.mark.integration
def test_a_cotangent_that_varies_too_much_is_named_with_what_mends_it():
    """In shard_map; explicit axes ask how products lie; of axes that XLA cuts it is right."""
    report = reports()["stranger"]
    assert failed("stranger") == [name for name in NAMES if not name.endswith("auto")]
    said = report["sharding/4/shard_map"].message
    assert "returns a cotangent of type float64[3,4]{V:batch} for an argument of type" in said
    assert "return kernels.as_cotangent(value, primal)" in said
    explicit = report["sharding/4/explicit"].message
    assert "ShardingTypeError" in explicit
    assert "kernels.as_cotangent(value, primal)" in explicit


@pytest.mark.integration
def test_wrong_numbers_are_found_on_every_kind():
    report = reports()["wrong"]
    assert failed("wrong") == NAMES[:3]
    assert "over 2 devices" in report["sharding/2/auto"].message
    assert report["sharding/2/shard_map"].where == "gradient of s"
    assert "gradient of s, taken around" in report["sharding/2/shard_map"].message


@pytest.mark.integration
def test_a_sum_that_is_forgotten_over_the_parts_is_found():
    assert {f"sharding/{n}/auto" for n in (2, 4, 8)} <= {*failed("per_shard")}
    assert "params.w" in reports()["per_shard"]["sharding/2/auto"].where


@pytest.mark.integration
def test_what_plain_cannot_do_on_a_mesh_does_not_count():
    report = reports()["similarities"]
    assert report.ok
    explicit = report["sharding/2/explicit"]
    assert explicit.passed is None
    assert "the plain function cannot be spread so: " in explicit.message
    assert report["sharding/2/shard_map"].passed
    notes = [note for note in report.notes if "sharding/" in note]
    assert len(notes) == 1
    assert notes[0].startswith("sharding/2/auto: the compiled program has ")
    assert "all-gather" in notes[0]


@pytest.mark.integration
def test_a_rule_without_a_batch_runs_whole_on_every_device():
    report = reports()["alone"].raise_if_bad()
    assert [check.name for check in report if check.passed] == NAMES[:6]


@pytest.mark.integration
def test_check_rule_takes_a_mesh():
    report = reports()["of check_rule"].raise_if_bad()
    assert [check.name for check in report] == ["cotangent", *NAMES[-3:]]
    assert [check.passed for check in report] == [True, None, True, True]
    assert report["sharding/8/auto"].message == "a reason"
    wrong = reports()["wrong already"]
    assert [check.passed for check in wrong] == [False, None, None, None]
    undivided = reports()["does not divide"]
    assert undivided.ok
    assert "7 rows, no multiple of 8" in undivided["sharding/8/explicit"].message


def test_what_is_asked_for_wrongly_is_said():
    assert "multiple of 2" in reports()["refused"]
    with pytest.raises(RuntimeError, match="jax_num_cpu_devices"):
        checks.check_sharding(affine_rule(), AFFINE, X, devices=64)
    with pytest.raises(TypeError, match=r"mesh is 8, expected a jax\.sharding\.Mesh"):
        checks.check_rule(affine_rule(), AFFINE, X, mesh=8)
