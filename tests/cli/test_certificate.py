"""The catalogue through the whole proof, and the strangers' mistakes that the proof is for."""

from __future__ import annotations

import json
import re
import subprocess
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import checks, cli
from funcnet.catalogue import ROWS
from funcnet.cli._certificate import certify, with_meshes
from funcnet.cli._command import CommandError
from tests.support.lanes import by_default
from tools import power

# Checks that do not apply to a rule, and why; every other pair of rule and check is run.
ONE_OUTPUT = {"outputs"}
EXEMPT = {
    **dict.fromkeys(ROWS, ONE_OUTPUT),
    "batch_norm": set(),
    "affine_batch_norm_relu": set(),
    "dropout": {"outputs", "empty", "singleton"},
    "l2_penalty": {"outputs", "empty", "singleton"},
}
# Of arrays and a key, and of parameters with several outputs; the release certifies all.
CERTIFIED = {"dropout", "batch_norm"}
# One rule of each kind.
DETECTED = {"relu", "dropout", "conv2d", "max_pool", "batch_norm", "softmax_cross_entropy"}


@pytest.mark.parametrize("name", by_default(ROWS, CERTIFIED))
def test_every_rule_is_certified(name):
    report = certify(ROWS[name]).raise_if_bad()
    assert [check.name for check in report] == list(checks.RULE_CHECKS)
    idle = {check.name for check in report if check.passed is None}
    assert idle == EXEMPT[name], f"run or excused: {sorted(idle ^ EXEMPT[name])}"
    assert report.residual_bytes <= report.plain_residual_bytes
    assert report.detects <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_every_sample_is_certified(name):
    for index in range(len(ROWS[name].samples(np.random.default_rng(1)))):
        certify(ROWS[name], index, seed=1).raise_if_bad()


@pytest.mark.parametrize("name", by_default(ROWS, DETECTED))
def test_detection(name):
    """A relative error of 1e-12 in a whole leaf, or of 1e-9 in one entry, does not pass."""
    found = power.threshold(ROWS[name], 0)
    assert found.whole_leaf <= power.WHOLE_LEAF, found
    assert found.single_entry <= power.SINGLE_ENTRY, found


# --- the mistakes that strangers make -------------------------------------------------------------


def batch_norm_of(backward):
    """A stranger's batch norm, with this backward pass of (x_hat, gamma, 1/std) and dy."""

    def value(x, gamma):
        x_hat = (x - x.mean(0)[None]) / jnp.sqrt(x.var(0) + 1e-5)[None]
        return x_hat * gamma[None], x_hat

    @jax.custom_vjp
    def norm(x, gamma):
        return value(x, gamma)[0]

    def fwd(x, gamma):
        y, x_hat = value(x, gamma)
        return y, (x_hat, gamma, 1 / jnp.sqrt(x.var(0) + 1e-5))

    norm.defvjp(fwd, backward)
    return norm


def centred(g, mean):
    x_hat, gamma, inv_std, dy = g
    d = dy * gamma[None]
    slope = (d * x_hat).mean(0)[None]
    return inv_std[None] * (d - mean(d)[None] - x_hat * slope), (dy * x_hat).sum(0)


def dense(backward):
    @jax.custom_vjp
    def f(x, w, b):
        return x @ w + b[None]

    f.defvjp(lambda x, w, b: (x @ w + b[None], (x, w)), backward)
    return f


def dropped(key_of_backward):
    @jax.custom_vjp
    def f(key, x):
        return x * jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype)

    def fwd(key, x):
        return x * jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype), key

    def bwd(key, dy):
        mask = jax.random.bernoulli(key_of_backward(key), 0.5, dy.shape)
        return None, dy * mask.astype(dy.dtype)

    f.defvjp(fwd, bwd)
    return f


X, W, B = (np.random.default_rng(7).normal(size=s) for s in ((5, 4), (4, 4), (4,)))
STRANGERS = {
    "a forgotten 1/N in batch norm": (
        batch_norm_of(lambda r, dy: centred((*r, dy), lambda d: d.sum(0))),
        batch_norm_of(lambda r, dy: centred((*r, dy), lambda d: d.mean(0))),
        (X, B),
        r"x\[.*missing mean",
    ),
    "a transposed weight gradient": (
        dense(lambda r, dy: (dy @ r[1].T, dy.T @ r[0], dy.sum(0))),
        dense(lambda r, dy: (dy @ r[1].T, r[0].T @ dy, dy.sum(0))),
        (X, W, B),
        r"w\[.*transpose",
    ),
    "a gradient of the wrong dtype": (
        dense(lambda r, dy: (dy @ r[1].T, (r[0].T @ dy).astype(jnp.float32), dy.sum(0))),
        dense(lambda r, dy: (dy @ r[1].T, r[0].T @ dy, dy.sum(0))),
        (X, W, B),
        r"w.*float32",
    ),
    "a broadcast bias gradient": (
        dense(lambda r, dy: (dy @ r[1].T, r[0].T @ dy, jnp.full_like(dy[0], dy.sum()))),
        dense(lambda r, dy: (dy @ r[1].T, r[0].T @ dy, dy.sum(0))),
        (X, W, B),
        r"b\[",
    ),
    "a mask redrawn in the backward pass": (
        dropped(lambda key: jax.random.fold_in(key, 1)),
        dropped(lambda key: key),
        (jax.random.key(3), X),
        r"x\[.*mask",
    ),
}


# Their right rule is that of the transposed one.
SAME_RIGHT = {"a gradient of the wrong dtype", "a broadcast bias gradient"}


@pytest.mark.integration
@pytest.mark.parametrize(
    "mistake",
    by_default(STRANGERS, {"a transposed weight gradient", "a mask redrawn in the backward pass"}),
)
def test_strangers_mistakes_are_caught_and_named(mistake):
    """The first by all checks; for the others those that name it must do."""
    wrong, right, args, message = STRANGERS[mistake]
    named_by = None if mistake == next(iter(STRANGERS)) else ("structure", "cotangent")
    with pytest.raises(checks.RuleError) as caught:
        checks.assert_rule(wrong, *args, checks=named_by)
    assert re.search(message, str(caught.value)), str(caught.value)
    if mistake not in SAME_RIGHT:
        checks.assert_rule(right, *args)


# --- the command ----------------------------------------------------------------------------------

STRANGERS_FILE = textwrap.dedent("""
    import jax
    import numpy as np

    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, dy: (x * dy,))

    @jax.custom_vjp
    def cube(x):
        return x**3

    cube.defvjp(lambda x: (x**3, x), lambda x, dy: (3 * x**2 * dy,))

    def cube_samples():
        return (np.array([1.0, -2.0]),)
""")


@pytest.mark.integration
def test_a_rule_is_certified_in_float64_whatever_the_session_is():
    with jax.enable_x64(False):
        certify(ROWS["sigmoid"]).raise_if_bad()


@pytest.mark.integration
def test_check_certifies_a_rule_of_the_catalogue(capsys, tmp_path):
    """Over the devices of meshes too, in a process that has them."""
    files = {word: tmp_path / word for word in ("json", "markdown")}
    options = [f"--{word}={path}" for word, path in files.items()]
    assert cli.main(["check", "relu", *options]) == 0
    out = capsys.readouterr().out
    assert "all right" in out
    assert "matmul precision default" in out
    report = checks.RuleReport.from_dict(json.loads(files["json"].read_text())[0])
    assert report.ok
    names = [f"sharding/{n}/{way}" for n in (2, 4, 8) for way in ("auto", "explicit", "shard_map")]
    assert [check.name for check in report] == [*checks.RULE_CHECKS, *names]
    assert all(report[name].passed for name in names)
    page = files["markdown"].read_text()
    assert "`jax_default_matmul_precision` = default" in page
    header, _, row = (line.split(" | ") for line in page.splitlines()[-3:])
    assert row[header.index("meshes")] == "9/9"


def test_what_fails_over_devices_makes_a_rule_wrong(monkeypatch):
    """And of other reports than those of first samples nothing is asked."""
    right = checks.RuleReport("relu", (checks.Check("cotangent", True),))
    second = checks.RuleReport("relu/1", ())
    note = "sharding/2/auto: the compiled program has 1 all-gather (8 bytes)"
    over = checks.Check("sharding/2/shard_map", False, "got 1, expected 2")
    spread = checks.RuleReport("relu", (over,), notes=("another", note), verdict="wrong")
    asked = []

    def run(command, **options):
        asked.extend(command[3:])
        return subprocess.CompletedProcess(command, 0, json.dumps([spread.to_dict()]), "")

    monkeypatch.setattr(subprocess, "run", run)
    joined, same = with_meshes([right, second], seed=3)
    assert asked == ["3", "relu"]
    assert (joined.verdict, joined.failed, joined.notes) == ("wrong", (over,), (note,))
    assert [check.name for check in joined] == ["cotangent", "sharding/2/shard_map"]
    assert same is second
    monkeypatch.setattr(
        subprocess, "run", lambda c, **_: subprocess.CompletedProcess(c, 1, "", "one\ntwo")
    )
    with pytest.raises(CommandError, match="the process of 8 devices failed: two"):
        with_meshes([right], seed=0)


@pytest.mark.integration
def test_check_certifies_a_strangers_rule(capsys, tmp_path):
    file = tmp_path / "strange.py"
    file.write_text(STRANGERS_FILE)
    assert cli.main(["check", f"{file}:cube"]) == 0
    assert cli.main(["check", f"{file}:square", "--args", "4"]) == 1
    assert "factor of 1/2" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.py:f"], "is no file"),
        (["no_rule"], "nor a rule of the catalogue"),
        (["{file}:missing"], "functions with a custom_vjp in it: square, cube"),
        (["{file}:square", "--args", "4y"], "expected a shape such as 5x4"),
    ],
)
def test_check_says_what_is_wrong_with_its_words(words, message, capsys, tmp_path):
    file = tmp_path / "strange.py"
    file.write_text(STRANGERS_FILE)
    assert cli.main(["check", *(word.format(file=file) for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
