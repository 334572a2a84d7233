"""The checkers checked: the zoo, the reports, the detection thresholds, the differences."""

from __future__ import annotations

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import checks
from funcnet.checks._diagnosis import name_factor
from tests.support.lanes import by_default
from tests.support.zoo import BROKEN, RIGHT, Animal
from tests.support.zoo_base import AFFINE, X, affine_rule, rule

QUICK = (
    "structure",
    "value",
    "forward",
    "cotangent",
    "outputs",
    "zero",
    "linear",
    "numerical",
    "residuals",
    "weak_types",
)
# The right rules that the default run puts through everything. The certificate does it with rules
# that have several outputs, and with such as refuse small batches.
WHOLE = {"affine_named_tuple", "relu_at_zero", "float32_only"}
# And those that it puts through some checks: by what is peculiar in arguments, outputs, residuals
# and in how a rule is written. The slow lane puts every right rule through everything.
SOME = {
    *("jitted", "integer_output", "raw_key", "none_argument", "zero_size", "complex_numbers"),
    *("static_option", "two_outputs", "nested", "symbolic_zeros", "custom_gradient", "wrapper"),
    *("none_for_a_float_without_gradient", "bfloat16_arguments", "forward_calls_itself"),
}
# Broken rules with a neighbour that the same check catches and that looks like no mistake either.
LIKE_OTHERS = {"batch_norm_forgotten_1_over_n", "forgotten_product_rule", "ties_counted_twice"}


def by_name(animal: Animal) -> str:
    return animal.name


def report_of(animal: Animal, **options) -> checks.RuleReport:
    options = {"name": animal.name, **animal.options, **options}
    return checks.check_rule(animal.f, *animal.args, **options)


# The zoo -----------------------------------------------------------------------------------


def test_zoo_is_large_enough():
    assert len(BROKEN) >= 30
    assert len(RIGHT) >= 30
    names = [animal.name for animal in BROKEN + RIGHT]
    assert len(set(names)) == len(names)
    assert {a.name for a in RIGHT} >= WHOLE | SOME


@pytest.mark.parametrize(
    "animal", by_default(BROKEN, {a.name for a in BROKEN} - LIKE_OTHERS, by_name), ids=by_name
)
def test_broken_rule_is_caught_by_the_check_meant_for_it(animal: Animal):
    check = report_of(animal, checks=[animal.caught_by])[animal.caught_by]
    assert check.passed is False
    assert not check.message.startswith("raised")
    assert re.search(animal.looks_like, check.likely), check.likely
    if animal.caught_by == "cotangent":
        assert re.fullmatch(r"\w+(\.\w+|\['\w+'\]|\[\d+\])*(\[[\d, ]+\])?", check.where)


@pytest.mark.parametrize("animal", by_default(RIGHT, WHOLE | SOME, by_name), ids=by_name)
def test_right_rule_passes(animal: Animal):
    report = report_of(animal, checks=None if animal.name in WHOLE else QUICK).raise_if_bad()
    if animal.name not in ("constant", "zero_size", "float32_only"):
        assert report.detects < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("animal", RIGHT, ids=by_name)
def test_right_rule_passes_every_check(animal: Animal):
    report = report_of(animal).raise_if_bad()
    assert tuple(check.name for check in report) == checks.RULE_CHECKS


@pytest.mark.slow
@pytest.mark.parametrize("animal", BROKEN, ids=by_name)
def test_broken_rule_is_wrong_as_a_whole(animal: Animal):
    report = report_of(animal)
    assert not report.ok
    with pytest.raises(checks.RuleError, match=re.escape(animal.name)):
        report.raise_if_bad()


def redrawn(args: tuple, seed: int) -> tuple:
    """Other arguments of the same kind: every float multiplied by 0.5 to 1.5."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if isinstance(leaf, float):
            return leaf * rng.uniform(0.5, 1.5)
        if not isinstance(leaf, (np.ndarray, np.generic)) or leaf.dtype.kind not in "fcV":
            return leaf
        factor = rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.real.dtype)
        return np.asarray(leaf * factor).astype(leaf.dtype)

    return jax.tree.map(draw, args)


@pytest.mark.slow
@pytest.mark.parametrize("animal", RIGHT, ids=by_name)
def test_no_false_alarm_in_a_thousand_seeds(animal: Animal):
    for seed in range(1, 2 + 1000 // len(RIGHT)):
        options = {**animal.options, "seed": seed}
        args = redrawn(animal.args, seed)
        checks.check_rule(animal.f, *args, name=f"{animal.name}/{seed}", **options).raise_if_bad()


# How small an error is seen ----------------------------------------------------------------

SENSITIVE = [a for a in RIGHT if a.name not in ("constant", "zero_size", "float32_only")]
DETECTION_OPTIONS = ("plain", "static", "argnums")


def threshold_of(animal: Animal) -> checks.Detection:
    options = {k: v for k, v in animal.options.items() if k in DETECTION_OPTIONS}
    return checks.detection_threshold(animal.f, *animal.args, **options)


@pytest.mark.parametrize("animal", [a for a in SENSITIVE if a.name in WHOLE], ids=by_name)
def test_detection_threshold(animal: Animal):
    found = threshold_of(animal)
    assert found.whole_leaf < 1e-12
    assert found.single_entry < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("animal", SENSITIVE, ids=by_name)
def test_detection_threshold_of_every_right_rule(animal: Animal):
    found = threshold_of(animal)
    assert found.whole_leaf < 1e-12
    assert found.single_entry < 1e-9


@pytest.mark.parametrize(
    "change",
    [
        {"dw": lambda x, g: (x.T @ g) * (1 + 1e-12)},
        {"db": lambda g: g.sum(0) * (1 - 1e-12)},
        {"dx": lambda g, w: (g @ w.T) * (1 + 1e-12)},
        {"dw": lambda x, g: (x.T @ g).at[2, 3].add(1e-9 * g.max() * x.max())},
        {"db": lambda g: g.sum(0).at[0].add(1e-9 * g.max())},
    ],
    ids=["dw", "db", "dx", "dw[2, 3]", "db[0]"],
)
def test_an_error_at_the_bar_is_rejected_in_a_real_rule(change: dict):
    report = checks.check_rule(affine_rule(**change), AFFINE, X, checks=["cotangent"])
    assert not report.ok


# Behaviour of check_rule -------------------------------------------------------------------


def test_every_check_is_in_the_report_whatever_is_wrong():
    def refuses(x):
        raise ValueError(f"refuses: x has shape {x.shape}, expected one axis.")

    f = rule(lambda x: x**2, lambda r, g: (2 * r[0] * g, 3))
    report = checks.check_rule(f, X)
    assert tuple(check.name for check in report) == checks.RULE_CHECKS
    assert [check.name for check in report.failed] == ["structure"]
    assert "expected a tuple of 1" in report["structure"].message
    with pytest.raises(ValueError, match="expected one axis"):
        checks.check_rule(refuses, X)


def test_works_without_x64_and_without_strict_modes():
    f = affine_rule()
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        report = checks.check_rule(f, AFFINE, X, checks=QUICK).raise_if_bad()
        assert report.detects < 1e-12
        assert jnp.ones(2).dtype == jnp.float32
        grad = checks.numerical_vjp(jnp.sin, (np.float32(0.5),), 1.0, argnums=0)
    assert abs(grad - np.cos(0.5)) < 1e-10


def test_names_what_cannot_be_checked():
    f = affine_rule()
    with pytest.raises(ValueError, match=r"no check is named.*'cotangents'"):
        checks.check_rule(f, AFFINE, X, checks=["cotangents"])
    with pytest.raises(ValueError, match="no check is named"):
        checks.check_rule(f, AFFINE, X, skip={"speed": "no"})
    with pytest.raises(ValueError, match="no array of floats"):
        checks.check_rule(lambda n: n + 1, np.arange(3))
    with pytest.raises(ValueError, match="gives no array of floats"):
        checks.check_rule(lambda x: x > 0, X)


def test_a_skipped_or_loosened_check_carries_its_reason():
    broken = affine_rule(db=lambda g: g.sum(0) * (1 + 1e-13))
    options = {"checks": ["cotangent", "linear"]}
    assert not checks.check_rule(broken, AFFINE, X, **options).ok
    report = checks.check_rule(
        broken,
        AFFINE,
        X,
        **options,
        looser={"cotangent": (100, "a table with twelve digits")},
        skip={"linear": "of no interest"},
    )
    assert report.ok
    assert report["linear"].passed is None
    assert report["linear"].message == "of no interest"
    assert "twelve digits" in str(report)


def test_says_when_there_is_no_rule_to_check():
    quick = ["structure", "cotangent"]
    assert "calls no jax.custom_vjp" in checks.check_rule(jnp.sin, X, checks=quick).notes[0]
    assert not checks.check_rule(jnp.sin, X, checks=quick, plain=jnp.sin).notes
    assert not checks.check_rule(jax.jit(affine_rule()), AFFINE, X, checks=quick).notes


def test_says_when_nothing_could_be_wrong():
    f = rule(lambda x: jnp.maximum(x, 0), lambda r, g: (jnp.where(r[0] > 0, 17 * g, 0),))
    report = checks.check_rule(f, -np.abs(X) - 1, checks=["cotangent"])
    assert report.ok
    assert "the gradient of x is exactly zero here" in report.notes[0]
    assert checks.detection_threshold(f, -np.abs(X) - 1).whole_leaf == np.inf


def test_argnums_leave_other_arguments_alone():
    f = rule(lambda w, x: w * x, lambda r, g: (g * r[1], jnp.zeros_like(g)))
    options = {"checks": ["structure", "cotangent"]}
    assert not checks.check_rule(f, X, X + 1, **options).ok
    assert checks.check_rule(f, X, X + 1, argnums=[0], **options).ok


@pytest.mark.integration
def test_the_seed_decides_everything():
    broken = affine_rule(db=lambda g: 2 * g.sum(0))
    one, two, other = (
        checks.check_rule(broken, AFFINE, X, checks=["cotangent"], seed=seed) for seed in (1, 1, 2)
    )
    assert one["cotangent"] == two["cotangent"]
    assert one["cotangent"] != other["cotangent"]


@pytest.mark.integration
def test_wrong_ties_are_no_kink():
    """The sum of a tie's slopes is the cotangent: giving it to each winner is a mistake."""
    tied = np.array([1.0, 1.0, 0.0, 2.0], np.float32)

    def body(x):
        return x.reshape(2, 2).max(1)

    def doubled(r, g):
        won = r[0].reshape(2, 2) == body(r[0])[:, None]
        return (jnp.where(won, g[:, None], 0).reshape(4),)

    def split(r, g):
        won = (r[0].reshape(2, 2) == body(r[0])[:, None]).astype(g.dtype)
        return ((won / won.sum(1, keepdims=True) * g[:, None]).reshape(4),)

    plain = body
    assert not checks.check_rule(rule(body, doubled), tied, plain=plain, checks="cotangent").ok
    assert checks.check_rule(rule(body, split), tied, plain=plain, checks="cotangent").ok
    report = checks.check_rule(
        rule(lambda x: jnp.maximum(x, 0.0), lambda r, g: (jnp.where(r[0] >= 0, g, 0),)),
        np.array([-1.0, 0.0, 2.0], np.float32),
        checks="cotangent",
        kinks="ignore",
    ).raise_if_bad()
    assert "1 entries sit on a kink" in report["cotangent"].message


def test_without_rules_leaves_no_rule_anywhere():
    @jax.custom_vjp
    def twice(x):
        return 2 * x

    twice.defvjp(lambda x: (2 * x, None), lambda _, g: (100 * g,))

    def program(x):
        def body(carry, row):
            y = jax.checkpoint(lambda r: jax.lax.cond(carry > 0, twice, lambda z: z, r))(row)
            return carry, jax.jit(twice)(y)

        _, rows = jax.lax.scan(body, jnp.ones(()), x)
        _, last = jax.lax.while_loop(
            lambda s: s[0] < 2, lambda s: (s[0] + 1, twice(s[1])), (0, jax.lax.stop_gradient(rows))
        )
        return (rows + last).sum()

    plain = checks.without_rules(program)
    x = np.ones((2, 3))
    np.testing.assert_allclose(jax.grad(plain)(x), np.full((2, 3), 4.0))
    np.testing.assert_allclose(jax.grad(program)(x), np.full((2, 3), 1e4))
    np.testing.assert_allclose(plain(x), program(x))
    np.testing.assert_allclose(jax.jacfwd(jax.jit(plain))(x), np.full((2, 3), 4.0))
    auto, row = (jax.sharding.AxisType.Auto,), jax.sharding.PartitionSpec("row")
    with jax.set_mesh(jax.make_mesh((1,), ("row",), auto)):
        shards = jax.shard_map(
            lambda x: jax.lax.scan(lambda c, _: (twice(c), None), twice(x), None, 2)[0],
            in_specs=row,
            out_specs=row,
        )
        plain = checks.without_rules(shards)
        np.testing.assert_allclose(jax.grad(lambda x: plain(x).sum())(x), np.full((2, 3), 8.0))


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (-1.0, "sign"),
        (2.0, "factor of 2"),
        (7.0, "missing mean"),
        (1 / 7, "a sum belongs"),
        (7 / 6, "n and n-1"),
        (-7.0, "factor of -7"),
        (7**0.5, "√7"),
        (1.234567, "1.23457"),
    ],
)
def test_a_factor_is_named(factor: float, words: str):
    assert words in name_factor(factor, {7: "the length of axis 0 of x"})


# Reports -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wrong() -> checks.RuleReport:
    broken = affine_rule(db=lambda g: g.mean(0))
    return checks.check_rule(broken, AFFINE, X, name="my_affine", checks=QUICK)


def test_report_reads_well_in_a_terminal(wrong: checks.RuleReport):
    text = str(wrong)
    first, second = text.splitlines()[:2]
    assert first.startswith("check_rule my_affine: WRONG · 2 of 10 checks FAIL")
    assert second.startswith("  FAIL cotangent")
    assert "params.b[" in second
    assert "1/5, the length of axis 0 of x" in second
    assert "rejects a relative error of" in text
    assert max(map(len, text.splitlines())) < 400


def test_report_reads_well_in_rich_and_a_notebook(wrong: checks.RuleReport):
    console = pytest.importorskip("rich.console").Console(width=100, record=True, file=sys.stderr)
    console.print(wrong)
    assert "params.b[" in console.export_text()
    page = wrong._repr_html_()
    assert page.count("<tr>") == len(wrong.checks)
    assert "WRONG" in page
    assert "<script" not in checks.RuleReport("<script>", ())._repr_html_()


def test_report_converts_to_json_and_back(wrong: checks.RuleReport):
    assert checks.RuleReport.from_json(wrong.to_json()) == wrong
    assert json.loads(wrong.to_json())["ok"] is False
    infinite = checks.RuleReport("r", (checks.Check("value", False, worst=float("inf")),))
    assert checks.RuleReport.from_json(infinite.to_json()) == infinite
    assert "Infinity" not in infinite.to_json()
    with pytest.raises(ValueError, match="another checker"):
        checks.OptimizerReport.from_json(wrong.to_json())


def test_raise_if_bad(wrong: checks.RuleReport):
    with pytest.raises(AssertionError, match=r"my_affine(?s:.)*params\.b\[\d\]: got") as raised:
        wrong.raise_if_bad()
    assert isinstance(raised.value, checks.RuleError)
    good = checks.check_rule(affine_rule(), AFFINE, X, checks=["value"])
    assert good.raise_if_bad() is good
    assert "value" in good
    assert "speed" not in good
    with pytest.raises(KeyError, match="no check named"):
        good["speed"]


def test_assert_rule_is_one_line():
    assert checks.assert_rule(affine_rule(), AFFINE, X, checks=QUICK).ok
    with pytest.raises(checks.RuleError, match="transpose"):
        checks.assert_rule(
            affine_rule(dw=lambda x, g: g.T @ x), AFFINE, X, checks=["structure", "cotangent"]
        )


# Differences -------------------------------------------------------------------------------


@pytest.mark.courses("0-1")
def test_rel_error():
    x, y = np.array([1.0, -2.0, 0.0]), np.array([1.0, 2.0, 1e-9])
    expected = np.max(np.abs(x - y) / np.maximum(1e-8, np.abs(x) + np.abs(y)))
    assert checks.rel_error(x, y) == expected == 1.0
    assert checks.rel_error([], []) == 0.0
    with pytest.raises(ValueError, match="equal shapes"):
        checks.rel_error(np.ones(2), np.ones(3))


def test_numerical_gradients_do_not_mutate():
    x = np.linspace(-0.5, 0.5, 6).reshape(2, 3)
    before = x.copy()

    def f(z):
        return np.sum(np.sin(z) * z)

    grad = checks.eval_numerical_gradient(f, x)
    np.testing.assert_array_equal(x, before)
    assert checks.rel_error(grad, np.cos(x) * x + np.sin(x)) < 1e-8
    sparse = checks.grad_check_sparse(f, x, np.cos(x) * x + np.sin(x), num_checks=12)
    assert sparse.indices.shape == (12, 2)
    assert sparse.relative_error.max() < 1e-8
    wrong = checks.grad_check_sparse(f, x, np.sin(x), num_checks=12)
    assert wrong.relative_error.max() > 1e-2
    with pytest.raises(ValueError, match="expected that of x"):
        checks.grad_check_sparse(f, x, np.ones(3))
    with pytest.raises(ValueError, match="at least one entry"):
        checks.grad_check_sparse(f, np.ones(0), np.ones(0))


def test_a_function_that_ignores_its_argument_is_named():
    """The courses' lambdas read the array from outside and rely on its mutation."""
    x = np.ones(3)
    with pytest.warns(UserWarning, match="does it read its argument"):
        assert not checks.eval_numerical_gradient(lambda _: x.sum(), x).any()
    with pytest.warns(UserWarning, match="does it read its argument"):
        checks.grad_check_sparse(lambda _: x.sum(), x, np.ones(3))


@pytest.mark.parametrize(("method", "tolerance"), [("five_point", 1e-10), ("complex_step", 1e-15)])
def test_numerical_vjp_of_trees(method: str, tolerance: float, rng: np.random.Generator):
    def f(params, n, x):
        return {"y": jnp.sin(x @ params["w"]) * n, "n": n + 1}

    args = ({"w": rng.normal(size=(3, 2)), "k": None}, np.int32(2), rng.normal(size=(4, 3)))
    args = (args[0], jnp.asarray(2.0), args[2])
    ct = {"y": rng.normal(size=(4, 2)), "n": np.zeros(())}
    found = checks.numerical_vjp(f, args, ct, method=method)
    want = jax.vjp(f, *args)[1](jax.tree.map(jnp.asarray, ct))
    assert jax.tree.structure(found) == jax.tree.structure(want)
    for got, expected in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        scale = np.abs(expected).max()
        assert np.abs(got - expected).max() <= 16 * tolerance * max(scale, 1)
    alone = checks.numerical_vjp(f, args, ct, method=method, argnums=2)
    np.testing.assert_array_equal(alone, found[2])


def test_numerical_vjp_leaves_integers_alone_and_refuses_nonsense():
    x, labels = np.array([[1.0, 2.0]]), np.array([1])
    found = checks.numerical_vjp(lambda x, y: x[jnp.arange(1), y] ** 2, (x, labels), np.ones(1))
    np.testing.assert_allclose(found[0], [[0, 4]], rtol=1e-9, atol=1e-9)
    assert found[1] is None
    with pytest.raises(ValueError, match="five_point"):
        checks.numerical_vjp(jnp.sin, (x,), x, method="forward")
    with pytest.raises(TypeError, match="real inputs"):
        checks.numerical_vjp(jnp.sin, (x + 1j,), x, method="complex_step")


def test_a_number_that_is_wrong_is_no_multiple_of_the_right_one():
    """Of one number any other is a multiple: a factor has to hold under two cotangents."""

    def of(slope):
        @jax.custom_vjp
        def soft_clip(x, limit):
            return limit * jnp.tanh(x / limit)

        def backward(kept, dy):
            x, limit = kept
            t = jnp.tanh(x / limit)
            return (1 - t * t) * dy, (slope(x, limit, t) * dy).sum()

        soft_clip.defvjp(lambda x, limit: (soft_clip(x, limit), (x, limit)), backward)
        points = jnp.linspace(-2.0, 2.0, 5), jnp.array(1.5)
        return checks.check_rule(soft_clip, *points, checks=["cotangent"])

    left_out = of(lambda x, limit, t: t)
    assert not left_out.ok
    assert "factor" not in str(left_out)
    doubled = of(lambda x, limit, t: 2 * (t - x / limit * (1 - t * t)))
    assert "a factor of 2" in str(doubled)
