"""`check_optimizer` checked: pairs of optimizers that differ in one known way, and faulty ones."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import checks, optimizers
from tests.support import optimizer_table
from tests.support.lanes import by_default

PARAMS = {
    "w": np.random.default_rng(0).normal(size=(3, 4)),
    "b": np.random.default_rng(1).normal(size=4),
}
RATES = optax.exponential_decay(0.1, 1, 0.95)


@pytest.fixture
def _standard_promotion():
    """Optax mixes dtypes, which the strict mode of this suite refuses."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def adam_without(first: bool = False, second: bool = False) -> optax.GradientTransformation:
    """Adam without one of its bias corrections."""
    b1, b2, eps, rate = 0.9, 0.999, 1e-8, 1e-3

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return jnp.zeros([], jnp.int32), zeros, jax.tree.map(jnp.copy, zeros)

    def update(grads, state, params=None):
        step, mean, square = state
        step = step + 1
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, mean, grads)
        square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, square, grads)
        c1 = 1 if first else 1 - b1 ** step.astype(jnp.float64)
        c2 = 1 if second else 1 - b2 ** step.astype(jnp.float64)
        updates = jax.tree.map(
            lambda m, v: (-rate * (m / c1) / (jnp.sqrt(v / c2) + eps)).astype(m.dtype),
            mean,
            square,
        )
        return updates, (step, mean, square)

    return optax.GradientTransformation(init, update)


def by_hand(step, *moments: float) -> optax.GradientTransformation:
    """`step(t, g, p, *moments)`, of one leaf, gives the update and the new moments."""

    def init(params):
        return jnp.zeros([]), [
            jax.tree.map(functools.partial(jnp.full_like, fill_value=m), params) for m in moments
        ]

    def update(grads, state, params=None):
        t, kept = state[0] + 1, state[1]
        rows = jax.tree.map(lambda g, p, *m: step(t, g, p, *m), grads, params, *kept)
        new = [jax.tree.map(lambda g, row, i=i: row[i], grads, rows) for i in range(len(kept) + 1)]
        return new[0], (t, new[1:])

    return optax.GradientTransformation(init, update)


def keras_adam(t, g, p, m, v):
    """Eps stands beside the root of the second moment before its bias is corrected."""
    m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
    rate = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return -rate * m / (jnp.sqrt(v) + 1e-8), m, v


def keras_adamax(t, g, p, m, u):
    """Eps is added to the maximum at every step; optax and torch keep it in the maximum."""
    m, u = 0.9 * m + 0.1 * g, jnp.maximum(0.999 * u, jnp.abs(g))
    return -1e-3 / (1 - 0.9**t) * m / (u + 1e-8), m, u


def torch_nadam(t, g, p, m, v, product, psi=0.004):
    mu, later = (0.9 * (1 - 0.5 * 0.96 ** (s * psi)) for s in (t, t + 1))
    m, v, product = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g, product * mu
    ahead = later * m / (1 - product * later) + (1 - mu) * g / (1 - product)
    return -1e-3 * ahead / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8), m, v, product


def torch_dampening(t, g, p, velocity):
    velocity = jnp.where(t == 1, g, 0.9 * velocity + 0.1 * g)
    return -0.1 * velocity, velocity


def decay_without_rate(t, g, p):
    return (-0.1 * g - 0.01 * p,)


def in_float32(t, g, p):
    return (-float(np.float32(0.1)) * g,)


def scaled_velocity(rates, mu: float = 0.9) -> optax.GradientTransformation:
    def init(params):
        return jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params)

    def update(grads, state, params=None):
        step, velocity = state
        velocity = jax.tree.map(
            lambda v, g: (mu * v - rates(step) * g).astype(v.dtype), velocity, grads
        )
        return velocity, (optax.safe_increment(step), velocity)

    return optax.GradientTransformation(init, update)


DIFFERENT = {
    "rate": (optax.adam(5e-4), optax.adam(1e-3), "factor of 1/2 in every step"),
    "sign": (optax.sgd(-0.1), optax.sgd(0.1), "sign"),
    "eps_place": (optax.adam(1e-3, eps=0, eps_root=1e-8), optax.adam(1e-3), "place of eps"),
    "eps_place_rmsprop": (
        optax.rmsprop(1e-3, eps_in_sqrt=False),
        optax.rmsprop(1e-3),
        "place of eps: ours has it outside",
    ),
    "eps_size": (optax.adam(1e-3, eps=1e-7), optax.adam(1e-3), "size of eps.*1e-07.*1e-08"),
    "decay_coupled": (
        optax.chain(optax.add_decayed_weights(1e-2), optax.adam(1e-3)),
        optax.adamw(1e-3, weight_decay=1e-2),
        r"weight decay.*\(coupled.*theirs.*\(decoupled",
    ),
    "decay_coupled_sgd": (
        optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.1, 0.9)),
        optax.chain(optax.trace(0.9), optax.add_decayed_weights(1e-2), optax.scale(-0.1)),
        r"weight decay.*momentum \(coupled\).*decoupled",
    ),
    "decay_forgotten": (
        optax.adam(1e-3),
        optax.adamw(1e-3, weight_decay=1e-2),
        "weight decay: ours has none",
    ),
    "nesterov": (optax.sgd(0.1, 0.9, nesterov=True), optax.sgd(0.1, 0.9), "ours has Nesterov"),
    "momentum_forgotten": (optax.sgd(0.1), optax.sgd(0.1, 0.9), "ours has no momentum"),
    "momentum_size": (optax.sgd(0.1, 0.95), optax.sgd(0.1, 0.9), "of 0.95, theirs.*of 0.9"),
    "dampening": (
        optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.1)),
        optax.sgd(0.1, 0.9),
        "1 - momentum",
    ),
    "scaled_for_raw": (
        scaled_velocity(RATES),
        optax.sgd(RATES, 0.9),
        r"velocity of ours .*\(scaled\)",
    ),
    "scaled_for_raw_in_steps": (
        scaled_velocity(optax.piecewise_constant_schedule(0.1, {4: 0.1})),
        optax.sgd(optax.piecewise_constant_schedule(0.1, {4: 0.1}), 0.9),
        r"velocity of ours .*\(scaled\)",
    ),
    "no_first_correction": (adam_without(first=True), optax.adam(1e-3), "ours.*first moment.*0.9"),
    "no_second_correction": (
        adam_without(second=True),
        optax.adam(1e-3),
        "ours.*second moment.*0.999",
    ),
    "no_correction": (adam_without(True, True), optax.adam(1e-3), "ours has none"),
    "their_correction": (optax.adam(1e-3), adam_without(first=True), "theirs has no bias"),
    "nadam": (optax.nadam(1e-3), optax.adam(1e-3), "theirs has no Nesterov step.*0.9"),
    "late_schedule": (
        optax.sgd(optax.cosine_decay_schedule(0.1, 50)),
        optax.sgd(lambda t: optax.cosine_decay_schedule(0.1, 50)(t + 1)),
        "off by one: ours is one step behind",
    ),
    "other_schedule": (
        optax.sgd(optax.exponential_decay(0.1, 1, 0.9)),
        optax.sgd(RATES),
        "learning rate that changes differently",
    ),
    "accumulator": (
        optax.adagrad(0.1, initial_accumulator_value=0.0),
        optax.adagrad(0.1),
        "accumulator's first value",
    ),
    "accumulator_and_place": (
        optimizers.adagrad(0.1),
        optimizers.adagrad(0.1, 0.0, 1e-10, eps_in_sqrt=False),
        "accumulator's first value, or the place of eps: .* 0.1 beside a sum .* outside .* 1e-10",
    ),
    "eps_before_correction": (
        by_hand(keras_adam, 0.0, 0.0),
        optax.adam(1e-3),
        r"^what eps stands beside: .*1e-08 beside .* without bias .*decay 0.999\), theirs .* 1e-08",
    ),
    "eps_beside_the_maximum": (
        by_hand(keras_adamax, 0.0, 0.0),
        optax.adamax(1e-3),
        "^the place of eps: theirs has it in what is remembered, ours adds it anew",
    ),
    "eps_size_rmsprop": (
        optax.rmsprop(1e-3, eps=1e-7),
        optax.rmsprop(1e-3),
        r"^the size of eps: .*1e-07 beside a mean .*0.9\), theirs inside the root, 1e-08",
    ),
    "squares_decay": (
        optax.rmsprop(1e-3, 0.99, eps_in_sqrt=False),
        optax.rmsprop(1e-3),
        "^the accumulator of squares: ours .* 0.99, theirs .* 0.9; also the place of eps",
    ),
    "squares_summed": (
        optax.adagrad(1e-3),
        optax.rmsprop(1e-3),
        "^the accumulator of squares: ours is a sum, theirs a mean that forgets by 0.9",
    ),
    "moments_decay": (
        optax.adam(1e-3, b2=0.99),
        optax.adam(1e-3),
        "ours has moments that forget by 0.9 and 0.99, theirs moments .* by 0.9 and 0.999$",
    ),
    "amsgrad_of_the_uncorrected": (
        optimizers.amsgrad(1e-3, bias_correction_nu=False, bias_correction_max=True),
        optimizers.amsgrad(1e-3),
        "ours has .* corrected then .AMSGrad., theirs .* the largest corrected second moment",
    ),
    "nadam_growing": (
        by_hand(torch_nadam, 0.0, 0.0, 1.0),
        optax.nadam(1e-3),
        r"^the momentum form: ours .* grows to 0.9 as 1 - 0.96\^\(0.004 t\)/2, theirs Nesterov .*",
    ),
    "nadam_growing_faster": (
        by_hand(torch_nadam, 0.0, 0.0, 1.0),
        by_hand(functools.partial(torch_nadam, psi=1.0), 0.0, 0.0, 1.0),
        r"^the momentum form: ours .*\(0.004 t\)/2, theirs .* 0.96\^t/2$",
    ),
    "dampening_after_the_first": (
        by_hand(torch_dampening, 0.0),
        optax.sgd(0.1, 0.9),
        r"ours adds the first gradient whole and 0.1 of the later ones \(dampening\)",
    ),
    "decay_and_eps": (
        optax.adamw(1e-3, eps=1e-7),
        optax.adamw(1e-3, weight_decay=1e-2),
        "^weight decay: .* of 1e-07 .* of 1e-05 .*; also the size of eps: .* 1e-07 .* 1e-08",
    ),
    "decay_without_rate": (
        by_hand(decay_without_rate),
        optax.chain(optax.add_decayed_weights(0.01), optax.sgd(0.1)),
        "weight decay: .* of 0.01 .* of 0.001 .*: that of theirs is multiplied by the learning",
    ),
    "decay_of_one_leaf": (
        optax.adamw(1e-3, weight_decay=0.1, mask={"w": True, "b": False}),
        optax.adamw(1e-3, weight_decay=0.1),
        "^weight decay: ours has none, theirs decay of 0.0001 a step beside",
    ),
    "rate_of_one_leaf": (
        optax.partition({"w": optax.sgd(0.2), "b": optax.sgd(0.1)}, {"w": "w", "b": "b"}),
        optax.sgd(0.1),
        "^a factor of 2 in every step",
    ),
    "large_eps": (
        optax.adam(1e-3, eps=0.1),
        optax.adam(1e-3),
        "^the size of eps: ours has it outside the root, 0.1 at every step, theirs .* 1e-08 at",
    ),
    "two_eps": (
        optax.adam(1e-3, eps=1e-4, eps_root=1e-6),
        optax.adam(1e-3),
        "^what becomes of small gradients, as by eps: ",
    ),
    "rate_and_moments": (
        optax.adam(2e-3, b2=0.99),
        optax.adam(1e-3),
        "^the momentum form: .* 0.9 and 0.99, .* 0.9 and 0.999; also a factor of 2 in every step",
    ),
    "centered": (
        optax.rmsprop(1e-3, centered=True),
        optax.rmsprop(1e-3),
        r"^the accumulator of squares: ours .* 0.9, less .* \(centered\), theirs .* by 0.9$",
    ),
    "corrected_rmsprop": (
        optax.rmsprop(1e-3, bias_correction=True),
        optax.rmsprop(1e-3),
        r"^bias correction.*: theirs has no bias correction of the second moment \(decay 0.9\)",
    ),
    "first_square": (
        optax.rmsprop(1e-3, initial_scale=1.0),
        optax.rmsprop(1e-3),
        "^the size of eps at the first step .or the decay of the squares, or their first value.",
    ),
    "adadelta_eps": (
        optax.adadelta(1.0, eps=1e-7),
        optax.adadelta(1.0),
        r"^a constant factor of 0.316228 .* root of that of eps: one above and below \(Adadelta\)",
    ),
    "lion_decays": (optax.lion(1e-3, b2=0.999), optax.lion(1e-3), "the sign is taken of .Lion."),
    "clipped": (
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
        optax.sgd(0.1),
        "^clipping: of a gradient of 1e.06, ours takes 2.5e-07, and small ones whole$",
    ),
    "adamax_for_adam": (
        optax.adam(1e-3),
        optax.adamax(1e-3),
        "^the momentum form: .*, theirs moments .*, in an infinity norm",
    ),
    "moved_without_gradients": (
        optax.yogi(1e-3),
        optax.adam(1e-3),
        "^what gradients of 0 do: ours has a step that is not towards 0, theirs none",
    ),
    "no_eps": (
        optax.adam(1e-3, eps=0.0),
        optax.adam(1e-3),
        "^what gradients of 0 do: ours has a step that is not finite, theirs none",
    ),
    "in_float32": (by_hand(in_float32), optax.sgd(0.1), "rounding in float32, if nothing else"),
}


# Causes that a neighbour in the table has too, of another optimizer or at another step.
LIKE_OTHERS = {
    *("eps_place_rmsprop", "eps_size_rmsprop", "decay_coupled_sgd", "nadam_growing_faster"),
    *("no_first_correction", "no_second_correction", "squares_summed", "accumulator_and_place"),
    *("scaled_for_raw_in_steps", "decay_of_one_leaf", "decay_and_eps", "late_schedule"),
    *("dampening_after_the_first", "eps_before_correction", "momentum_size", "moments_decay"),
}


@pytest.mark.integration
@pytest.mark.usefixtures("_standard_promotion")
@pytest.mark.parametrize("case", by_default(DIFFERENT, {*DIFFERENT} - LIKE_OTHERS), ids=str)
def test_first_divergence_and_its_cause(case: str):
    ours, theirs, cause = DIFFERENT[case]
    report = checks.check_optimizer(ours, theirs, PARAMS, steps=24, checks=["trajectory"])
    assert not report.ok
    assert report.first_divergence in (0, 1, 4, 5)
    assert re.search(cause, report.cause), (report.cause, report.properties)
    assert report["trajectory"].where.startswith("params['")
    assert checks.OptimizerReport.from_json(report.to_json()) == report


@pytest.mark.integration
@pytest.mark.usefixtures("_standard_promotion")
def test_an_optimizer_agrees_with_itself_in_every_check():
    report = checks.check_optimizer(
        optax.sgd(0.1, 0.9), optax.sgd(0.1, 0.9), PARAMS, state_map=lambda state: state, robust=True
    ).raise_if_bad()
    assert tuple(check.name for check in report) == checks.OPTIMIZER_CHECKS
    assert report.first_divergence is None


@pytest.mark.usefixtures("_standard_promotion")
def test_gradients_may_depend_on_the_parameters():
    def gradients(step, params):
        return jax.tree.map(lambda p: jnp.cos(p) + 0.01 * step, params)

    same = optax.adamw(1e-2)
    options = {"gradients": gradients, "checks": ["trajectory"], "steps": 50}
    assert checks.check_optimizer(same, optax.adamw(1e-2), PARAMS, **options).ok
    late = optax.chain(optax.adamw(1e-2), optax.scale_by_schedule(lambda t: 1.0 - 1e-9 * (t > 30)))
    report = checks.check_optimizer(late, same, PARAMS, **options)
    assert report.first_divergence == 31


@pytest.mark.usefixtures("_standard_promotion")
def test_float16_underflow_of_eps_is_found():
    """Optax's Adam has 0/0 for a zero gradient in float16, where its eps of 1e-8 is zero."""
    report = checks.check_optimizer(
        optax.adam(1e-3), None, PARAMS, checks=["zero_gradients", "bfloat16", "trajectory"]
    )
    assert [check.name for check in report.failed] == ["zero_gradients"]
    assert "nan in float16" in report["zero_gradients"].message
    assert report["trajectory"].passed is None


@pytest.mark.integration
@pytest.mark.usefixtures("_standard_promotion")
def test_what_is_asked_decides():
    """Two that are equal are no worse for what both do to float16, unless that is asked for."""
    pair = optax.adam(1e-3), optax.adam(1e-3)
    options = {"steps": 3, "checks": ["trajectory", "zero_gradients"]}
    report = checks.check_optimizer(*pair, PARAMS, **options)
    assert (report.equal, report.robust, report.ok) == (True, False, True)
    assert report.shared == ["zero_gradients"]
    assert "equal · not robust: zero_gradients (theirs too)" in report.summary()
    assert checks.OptimizerReport.from_json(report.to_json()) == report
    strict = checks.check_optimizer(*pair, PARAMS, robust=True, **options)
    with pytest.raises(checks.RuleError, match=r"zero_gradients: .*\(and so does theirs\)"):
        strict.raise_if_bad()
    ours = checks.check_optimizer(pair[0], optimizers.adam(1e-3), PARAMS, **options)
    assert (ours.ok, ours.shared) == (True, [])
    other = checks.check_optimizer(optimizers.adam(1e-3), optax.adam(2e-3), PARAMS, **options)
    assert (other.equal, other.robust, other.ok) == (False, True, False)
    assert "DIFFERENT from step 0 · robust" in other.summary()


@pytest.mark.integration
@pytest.mark.usefixtures("_standard_promotion")
def test_a_difference_at_extreme_sizes_alone_is_one():
    """An eps far below the usual gradients' sizes: they agree on those, and not on tiny ones."""
    pair = optax.adam(1e-3, eps=1e-20), optax.adam(1e-3, eps=1e-18)
    usual = checks.check_optimizer(*pair, PARAMS, checks=["trajectory"])
    assert usual.equal
    report = checks.check_optimizer(*pair, PARAMS)
    assert report["trajectory"].passed
    assert report.equal is False
    assert not report.ok


def test_what_has_no_entries_is_not_equal():
    report = checks.check_optimizer(optimizers.sgd(0.1), optimizers.sgd(0.2), {}, robust=True)
    assert report.equal is None
    assert report["trajectory"].message == "the parameters have no entries"


@pytest.mark.integration
def test_the_other_optimizer_that_raises_is_named():
    def refusing(params):
        raise RuntimeError("only matrices")

    report = checks.check_optimizer(
        optimizers.sgd(0.1), stateful(refusing, optax.sgd(0.1).update), PARAMS, steps=3
    )
    assert report.equal is False
    assert "only matrices That was the other optimizer." in report["trajectory"].message


@pytest.mark.integration
def test_not_finite_extreme_and_empty_gradients_are_judged():
    def spilling(grads, state, params=None):
        norm = sum(jnp.sum(g * g) for g in jax.tree.leaves(grads))
        return jax.tree.map(lambda g: -g / jnp.sqrt(norm), grads), state

    report = checks.check_optimizer(stateful(lambda params: (), spilling), None, PARAMS)
    assert {"nonfinite_gradients", "zero_gradients"} <= set(report.not_robust)
    assert "gradient of params['b'] makes it" in report["nonfinite_gradients"].message
    assert report["nonfinite_gradients"].where == "params['w']"

    def divided(t, g, p, v):
        v = 0.9 * v + 0.1 * g * g
        return -g * g / v, v

    report = checks.check_optimizer(
        by_hand(divided, 1.0), None, PARAMS, checks=["extreme_sizes", "float32"]
    )
    assert report.not_robust == ("extreme_sizes",)
    assert "huge gradients, of 1e20 to 1e30" in report["extreme_sizes"].message

    def averaging(grads, state, params=None):
        return jax.tree.map(lambda g: -g / (1 // g.size), grads), state

    report = checks.check_optimizer(
        stateful(lambda params: (), averaging), None, PARAMS, checks=["empty_trees"]
    )
    assert "leaves of size 0: raised ZeroDivisionError" in report["empty_trees"].message


def stateful(init, update) -> optax.GradientTransformation:
    return optax.GradientTransformation(init, update)


def test_structure_counter_and_buffers_are_judged():
    def overflowing(grads, state, params=None):
        return jax.tree.map(jnp.negative, grads), state + 1

    counting = stateful(lambda params: jnp.zeros([], jnp.int32), overflowing)
    report = checks.check_optimizer(counting, None, PARAMS, checks=["counter", "structure"])
    assert [check.name for check in report.failed] == ["counter"]
    assert "overflow" in report["counter"].message

    weak = stateful(
        lambda params: jnp.zeros([]),
        lambda grads, state, params=None: (grads, state.astype(jnp.float32)),
    )
    report = checks.check_optimizer(weak, None, PARAMS, checks=["structure", "scan"])
    assert [check.name for check in report.failed] == ["structure", "scan"]
    assert "float32" in report["structure"].message

    aliased = stateful(lambda params: params, lambda grads, state, params=None: (grads, state))
    report = checks.check_optimizer(aliased, None, PARAMS, checks=["buffers"])
    assert "shares its buffer" in report["buffers"].message


def test_lower_precisions_are_judged():
    def widened(grads, state, params=None):
        return jax.tree.map(lambda g: g.astype(jnp.float32), grads), state

    wide = stateful(lambda params: (), widened)
    report = checks.check_optimizer(wide, None, PARAMS, checks=["bfloat16"])
    assert "the update is float32" in report["bfloat16"].message

    def rough(grads, state, params=None):
        def rounded(g):
            return jax.lax.reduce_precision(g, 8, 7) if g.dtype == jnp.float32 else g

        return jax.tree.map(rounded, grads), state

    imprecise = stateful(lambda params: (), rough)
    report = checks.check_optimizer(imprecise, None, PARAMS, checks=["float32"])
    assert "in float64" in report["float32"].message


@pytest.mark.usefixtures("_standard_promotion")
@pytest.mark.parametrize("case", ["sgd", "nesterov", "adam", "adamw", "adagrad", "rmsprop"])
def test_torch_optimizers_are_compared_with(case: str):
    torch = pytest.importorskip("torch")
    ours, factory = {
        "sgd": (optax.sgd(0.1, 0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
        "nesterov": (
            optax.sgd(0.1, 0.9, nesterov=True),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        ),
        "adam": (optax.adam(1e-2), lambda p: torch.optim.Adam(p, lr=1e-2)),
        "adamw": (
            optax.adamw(1e-2, weight_decay=0.1),
            lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
        ),
        "adagrad": (
            optax.adagrad(0.1, initial_accumulator_value=0.0, eps=1e-10),
            lambda p: torch.optim.Adagrad(p, lr=0.1),
        ),
        "rmsprop": (
            optax.rmsprop(1e-2, 0.99, eps_in_sqrt=True),
            lambda p: torch.optim.RMSprop(p, lr=1e-2),
        ),
    }[case]
    theirs = checks.torch_optimizer(factory)
    report = checks.check_optimizer(ours, theirs, PARAMS, steps=40, checks=["trajectory"])
    known = {"adagrad": "place of eps: ours has it inside", "rmsprop": "place of eps"}
    if case in known:
        assert re.search(known[case], report.cause), report
    else:
        report.raise_if_bad()


@pytest.mark.integration
@pytest.mark.parametrize("name", by_default(optimizer_table.TABLE, {"sgd", "adam", "rmsprop"}))
def test_funcnets_own_are_equal_to_their_twins_and_robust(name):
    """Both verdicts, in the strict mode of this suite; what is known to fail is named."""
    pair = optimizer_table.ours(name), optimizer_table.twin(name)
    report = checks.check_optimizer(*pair, PARAMS, steps=40, robust=True)
    # Their products of gradients above 1e19 are infinite in float32, as optax's are.
    known = ("extreme_sizes",) if name in ("muon-stack", "muon-schatten") else ()
    assert (report.equal, report.not_robust) == (True, known), report
    assert report.ok is not bool(known)
    assert [check.name for check in report if check.passed is None] == ["state"]


def test_check_optimizer_names_unknown_checks():
    with pytest.raises(ValueError, match="no check is named"):
        checks.check_optimizer(optax.sgd(0.1), None, PARAMS, checks=["speed"])
