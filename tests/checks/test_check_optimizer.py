"""`check_optimizer` checked: pairs of optimizers that differ in one known way, and faulty ones."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import checks

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
}


@pytest.mark.usefixtures("_standard_promotion")
@pytest.mark.parametrize("case", DIFFERENT, ids=str)
def test_first_divergence_and_its_cause(case: str):
    ours, theirs, cause = DIFFERENT[case]
    report = checks.check_optimizer(ours, theirs, PARAMS, steps=24, checks=["trajectory"])
    assert not report.ok
    assert report.first_divergence in (0, 1, 4, 5)
    assert re.search(cause, report.cause), (report.cause, report.properties)
    assert report["trajectory"].where.startswith("params['")
    assert checks.OptimizerReport.from_json(report.to_json()) == report


@pytest.mark.usefixtures("_standard_promotion")
def test_an_optimizer_agrees_with_itself_in_every_check():
    report = checks.check_optimizer(
        optax.sgd(0.1, 0.9), optax.sgd(0.1, 0.9), PARAMS, state_map=lambda state: state
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


def test_check_optimizer_names_unknown_checks():
    with pytest.raises(ValueError, match="no check is named"):
        checks.check_optimizer(optax.sgd(0.1), None, PARAMS, checks=["speed"])
