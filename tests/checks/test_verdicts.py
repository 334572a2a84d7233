"""What the checker says of rules that other people write: the verdict that each deserves."""

from __future__ import annotations

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import checks
from funcnet._jaxprs import equations
from tests.support.lanes import by_default
from tests.support.threads import ended
from tests.support.zoo_base import AFFINE, X, affine_rule, rule
from tests.support.zoo_strangers import STRANGERS, V

BY_DEFAULT = {
    *("callback", "float32_core", "iteration_wrong", "relu_1_at_0", "straight_through_expected"),
}


@pytest.mark.integration
@pytest.mark.parametrize("name", by_default(STRANGERS, BY_DEFAULT))
def test_each_rule_gets_the_verdict_that_it_deserves(name: str):
    deserves, f, args, options = STRANGERS[name]
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        report = checks.check_rule(f, *args, name=name, **options)
    assert report.verdict == deserves, str(report)
    assert report.ok == (deserves != "wrong")
    assert not [c for c in report.failed if c.message.startswith("raised")]


def test_the_loop_of_a_root_is_seen():
    """Wherever JAX keeps its program: what is not seen to iterate may be run without an end."""
    _, f, args, _ = STRANGERS["implicit"]
    program = jax.make_jaxpr(f)(*args)
    assert "while" in {equation.primitive.name for equation in equations(program)}


def test_a_float32_core_is_imprecise_in_a_float64_rule():
    """And right where it is given float32, which it is as precise as."""
    _, f, args, _ = STRANGERS["float32_core"]
    wide = [np.float64(x) for x in args]
    options = {"checks": ["value", "cotangent", "linear"]}
    report = checks.check_rule(f, *wide, **options)
    assert report.verdict == "imprecise"
    assert 1e-9 < report.precision < 1e-6
    assert "computes in float32" in " ".join(report.notes)
    assert checks.check_rule(f, *args, **options).verdict == "right"
    assert checks.check_rule(f, *wide, precise=True, **options).verdict == "wrong"


@pytest.mark.parametrize(("off", "verdict"), [(2e-8, "imprecise"), (1e-5, "wrong")])
def test_a_slope_beside_values_of_so_many_digits_is_as_precise_as_its_arguments(off, verdict):
    """The exact function's slope, of a function that differences alone judge."""

    @jax.custom_jvp
    def f(x):
        return (1 + off) * jnp.sin(x)

    f.defjvps(lambda dx, y, x: dx * jnp.cos(x))
    f = jax.vmap(f)  # else it is a rule itself
    report = checks.check_rule(f, np.float32([0.3, 1.1]), checks=["cotangent", "numerical"])
    assert report.verdict == verdict, str(report)
    if verdict == "imprecise":
        assert off / 4 < report.precision < 4 * off
        assert "no more precise than its arguments" in " ".join(report.notes)
        wide = checks.check_rule(f, np.array([0.3, 1.1]), checks=["cotangent", "numerical"])
        assert wide.verdict == "wrong"


def test_a_rule_that_gives_another_gradient_than_expected_is_wrong():
    _, f, args, options = STRANGERS["half_expected"]
    report = checks.check_rule(f, *args, checks=["cotangent"], **options)
    assert report.verdict == "wrong"
    assert "expect=" not in report["cotangent"].likely


def test_straight_through_says_how_to_say_so():
    _, f, args, _ = STRANGERS["straight_through"]
    found = checks.check_rule(f, *args, checks=["cotangent"])["cotangent"]
    assert "say expect=lambda x: " in found.likely


def test_small_errors_are_told_apart_and_no_transpose():
    _, f, args, _ = STRANGERS["an_error_of_1e-9_in_a_column"]
    found = checks.check_rule(f, *args, checks=["cotangent"])["cotangent"]
    got, expected = found.message.removeprefix("got ").split(
        ", autodiff of the plain function gives "
    )
    assert got != expected.split(" ")[0]
    assert "transpose" not in found.likely


def test_looser_loosens_an_exact_zero():
    args = X, np.zeros(3, np.float32)
    hidden = rule(lambda x, w: x * w[None] * 0, lambda r, g: (0 * g + 1e-17, 0 * r[1]))
    assert not checks.check_rule(hidden, *args, checks=["cotangent"]).ok
    looser = {"cotangent": (1e3, "a residue of the scheme")}
    assert checks.check_rule(hidden, *args, checks=["cotangent"], looser=looser).ok


def test_a_time_limit_ends_with_what_there_is():
    turns = []

    def slow(x):
        turns.append(time.sleep(0.3))
        return x**2

    f = rule(slow, lambda r, g: (2 * r[0] * g,))
    report = checks.check_rule(f, X, seconds=1.0)
    assert report.verdict == "cannot be judged"
    assert report.seconds < 6
    assert any("not run within 1.0 seconds" in check.message for check in report)
    assert tuple(check.name for check in report) == checks.RULE_CHECKS
    ended()


def test_a_time_limit_takes_no_mesh_away():
    """A function that is sharded by `jax.shard_map` takes the mesh that the caller has set."""
    rows = jax.sharding.PartitionSpec("rows")
    square = rule(lambda x: x**2, lambda r, g: (2 * r[0] * g,))
    f = jax.shard_map(square, in_specs=rows, out_specs=rows)
    auto = (jax.sharding.AxisType.Auto,)
    with jax.set_mesh(jax.make_mesh((1,), ("rows",), auto)):
        report = checks.check_rule(f, X, checks=["value", "cotangent"], seconds=60.0)
    assert report.verdict == "right", str(report)


def test_progress_names_each_check():
    lines: list[str] = []
    checks.check_rule(
        affine_rule(), AFFINE, X, checks=["structure", "cotangent"], progress=lines.append
    )
    assert [line.rpartition(": ")[2] for line in lines] == ["structure", "cotangent"]


def test_the_judges_have_their_second_look_before_the_dear_checks():
    """So that a time limit leaves a verdict: the others run once, in the unit that was found."""
    lines: list[str] = []
    _, f, args, _ = STRANGERS["loose_iteration"]
    report = checks.check_rule(
        f, *args, checks=["cotangent", "linear", "jit"], progress=lines.append
    )
    names = [line.rpartition(": ")[2] for line in lines]
    assert names.count("jit") == 1
    assert names[-1] == "jit"
    assert report.verdict == "imprecise"


def test_nothing_to_judge_by_is_said_once():
    """A body without autodiff whose values jump: differences are no judge."""

    def stairs(x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        noise = lambda v: np.sin(1e6 * np.asarray(v)).astype(v.dtype)  # noqa: E731
        return jax.pure_callback(noise, shape, x, vmap_method="sequential")

    report = checks.check_rule(
        rule(stairs, lambda r, g: (g * 1e6 * jnp.cos(1e6 * r[0]),)), V, checks=["cotangent"]
    )
    assert report.verdict == "cannot be judged"
    assert "give plain=" in report["cotangent"].message


@pytest.mark.parametrize(
    "backward",
    [
        lambda r, g: (jnp.clip(g, -5, 5) * jnp.cos(r[0]),),
        lambda r, g: (jnp.abs(g) * jnp.cos(r[0]),),
        lambda r, g: (jnp.where(jnp.abs(g) < 0.4, 0, g) * jnp.cos(r[0]),),
    ],
    ids=["clipped", "absolute", "sparsified"],
)
def test_a_backward_pass_that_is_not_linear_far_away_is_found(backward):
    report = checks.check_rule(rule(jnp.sin, backward), X, checks=["linear"])
    assert report.verdict == "wrong"


def test_wrappers_of_a_rule_are_not_the_rule():
    _, f, (x, *_), _ = STRANGERS["a_vector_is_no_batch"]
    report = checks.check_rule(jax.vmap(f), np.stack([x, x + 1]), checks=["value", "cotangent"])
    assert report.verdict == "right"


@pytest.mark.parametrize(
    "wrap",
    [
        jax.jit,
        functools.partial,
        lambda f: jax.jit(functools.partial(f)),
        lambda f: jax.tree_util.Partial(scaled(f), np.float32(1.5)),
    ],
    ids=["jit", "partial", "both", "Partial"],
)
def test_a_custom_jvp_is_held_to_its_function_under_jit_and_partial_too(wrap):
    verdicts = [
        checks.check_rule(wrap(STRANGERS[name].f), X, checks=["cotangent"]).verdict
        for name in ("custom_jvp", "custom_jvp_wrong")
    ]
    assert verdicts == ["right", "wrong"]


def scaled(f):
    """A `custom_jvp` of two arguments, the first of which is a factor."""
    product = jax.custom_jvp(lambda w, x: w * f.fun(x))

    @product.defjvp
    def _(primals, tangents):
        (w, x), (dw, dx) = primals, tangents
        y, dy = jax.jvp(f, (x,), (dx,))
        return product(w, x), dw * y + w * dy

    return product


def test_kinks_is_one_of_the_conventions():
    with pytest.raises(ValueError, match="kinks is 'all', expected"):
        checks.check_rule(affine_rule(), AFFINE, X, kinks="all")


def test_a_plain_function_with_arrays_of_its_own_is_widened_with_the_rest():
    w = jnp.asarray(np.float32(X[:, :1] * 0 + 1.5))
    f = rule(lambda x: x * 1.5, lambda r, g: (1.5 * g,))
    report = checks.check_rule(f, X, plain=lambda x: x * w, checks=["value", "cotangent"])
    assert report.verdict == "right"


def test_an_imprecise_rule_says_how_far_it_is_right():
    _, f, args, _ = STRANGERS["loose_iteration"]
    report = checks.check_rule(f, *args, checks=["cotangent"])
    assert report.verdict == "imprecise"
    assert 1e-6 < report.precision < 1e-3
    assert "iterates to a tolerance" in " ".join(report.notes)
