"""How optimizers are used: dtypes, schedules, masks, states; and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import optimizers as opt
from tests.support.lanes import by_default
from tests.support.optimizer_table import (
    DTYPES,
    NUMBERS,
    PLAIN,
    SCHEDULE,
    TABLE,
    Point,
    assert_trees_close,
    described,
    eighths,
    not_kernels,
    ours,
    program,
    quickly,
    ragged,
    run_program,
    table,
)

INT32_MAX = np.iinfo(np.int32).max


@pytest.mark.integration
@table(PLAIN)
def test_zero_gradients_move_nothing(name):
    """Zero gradient, moments and parameters: an update of exactly 0 in four dtypes, never NaN."""
    params, state, updates = run_program(name, 0.01, 0.0, np.zeros((100, 2, 3)))
    for tree in (params, updates):
        for key, leaf in tree.items():
            assert np.all(np.asarray(leaf, np.float64) == 0), key
    assert all(np.all(np.isfinite(np.asarray(x, np.float64))) for x in jax.tree.leaves(state))


@pytest.mark.parametrize(
    ("make", "kwargs"),
    [
        (opt.rmsprop, {"eps": 0.0}),
        (opt.rmsprop, {"eps": 0.0, "eps_in_sqrt": False, "centered": True}),
        (opt.adagrad, {"eps": 0.0, "initial_accumulator_value": 0.0}),
        (opt.adadelta, {"eps": 0.0}),
        (opt.adam, {"eps": 0.0}),
        (opt.adamax, {"eps": 0.0}),
        (opt.muon, {"eps": 0.0}),
        (opt.muon, {"eps": 0.0, "preconditioning": "aol"}),
    ],
)
def test_zero_gradients_without_eps(make, kwargs):
    optimizer = make(0.01, **kwargs)
    zeros = {"f32": jnp.zeros((2, 3), jnp.float32), "f16": jnp.zeros((2, 3), jnp.float16)}
    updates, _ = quickly(lambda g: optimizer.update(g, optimizer.init(g)))(zeros)
    assert all(np.all(np.asarray(u, np.float64) == 0) for u in jax.tree.leaves(updates))


@table(PLAIN)
def test_low_precision(name, rng):
    """Finite in steps 1 to 100; the first step is the float64 one, rounded once.

    Within 2 eps of the dtype: half an eps for rounding the step, as much for the rounded start of
    adagrad's sum and for the smallest normal number that is added to float16's denominators. Muon
    is exempt: rounded momenta turn small singular vectors. In float32 its bar is 1e-3.
    """
    _, _, updates = run_program(name, 0.01, 0.5, eighths(rng))
    exact = np.asarray(updates["f64"])
    for key, dtype in DTYPES.items():
        got = np.asarray(updates[key], np.float64)
        assert updates[key].dtype == dtype
        assert np.all(np.isfinite(got)), key
        if name != "muon":
            relative = np.abs(got[0] / exact[0] - 1)
            assert relative.max() <= 2 * float(jnp.finfo(dtype).eps), (key, relative.max())
    single = np.asarray(updates["f32"], np.float64)
    assert np.abs(single - exact).max() <= 1e-3 * np.abs(exact).max()


@table(PLAIN)
def test_squares_that_underflow_in_float16(name):
    """A small gradient, then none: the mean remains, its square is 0; no step may be huge."""
    rows = np.zeros((100, 2, 3))
    rows[0] = 0.004
    _, _, updates = run_program(name, 0.01, 0.0, rows)
    for key, leaf in updates.items():
        assert np.abs(np.asarray(leaf, np.float64)).max() <= 50 * 0.01, key


def test_squares_that_underflow_in_a_state_coarser_than_the_gradient():
    optimizer = opt.adam(0.01)
    state = optimizer.init(jnp.zeros(3, jnp.float16))
    update = quickly(optimizer.update)
    for g in (0.004, 0.0):
        updates, state = update(np.full(3, g, np.float32), state)
    assert np.all(state.nu == 0)
    assert np.abs(updates).max() <= 50 * 0.01


@table(PLAIN)
def test_counter_saturates(name, rng):
    count = jnp.asarray(INT32_MAX - 2, jnp.int32)
    _, state, updates = run_program(name, 0.01, 0.5, eighths(rng), count=count)
    assert state.count == INT32_MAX
    assert state.count.dtype == jnp.int32
    assert all(np.all(np.isfinite(np.asarray(u, np.float64))) for u in jax.tree.leaves(updates))


def test_saturated_counter_leaves_the_schedule_at_its_end():
    optimizer = opt.sgd(optax.linear_schedule(1.0, 0.25, 10))
    state = opt.TraceState(jnp.asarray(INT32_MAX, jnp.int32))
    for _ in range(2):
        updates, state = optimizer.update(jnp.array(1.0), state)
        assert updates == -0.25


@table(PLAIN)
def test_another_rate_does_not_compile_again(name, rng):
    rows = eighths(rng)
    ends = [run_program(name, rate, 0.5, rows)[0]["f64"] for rate in (0.01, 0.02, 0.0)]
    assert len(program(name)[2]) == 1
    assert not np.array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[2], 0.5)


@table(by_default(PLAIN, {"momentum", "adam", "lamb"}))
def test_vmapped_rates_equal_solo_runs(name, rng):
    """Float64, 1e-12 after 100 steps; a member that diverges leaves the others' bytes alone."""
    rows = eighths(rng)
    params = {"f64": jnp.full((2, 3), 0.5)}
    solo = program(name)[1]

    @quickly
    def sweep(rates):
        state = ours(name).init(params)
        return jax.vmap(lambda r: solo(r, params, state, {"f64": jnp.asarray(rows)})[0])(rates)

    rates = [0.01, 0.03, 0.002]
    ends = sweep(jnp.asarray(rates))["f64"]
    with_nan = sweep(jnp.asarray([0.01, np.nan, 0.002]))["f64"]
    for rate, end in zip(rates, ends, strict=True):
        alone = run_program(name, rate, 0.5, rows)[0]["f64"]
        np.testing.assert_allclose(end, alone, rtol=1e-12, atol=1e-12)
    assert np.all(np.isnan(with_nan[1]))
    np.testing.assert_array_equal(with_nan[::2], ends[::2])


@table()
def test_state_keeps_its_shape(name):
    """Structure, shapes, dtypes and weak types: of init, of eval_shape(init), after an update."""
    params = ragged(lambda s: jnp.full(s, 0.5, jnp.bfloat16 if len(s) == 4 else jnp.float32))
    params["weak"] = jnp.asarray(1.0)
    assert params["weak"].weak_type
    for optimizer in (ours(name), ours(name, SCHEDULE)):
        before = jax.eval_shape(optimizer.init, params)
        updates, after = jax.eval_shape(optimizer.update, params, before, params)
        assert jax.tree.structure(before) == jax.tree.structure(after)
        assert described(before) == described(after)
        assert not any(x.weak_type for x in jax.tree.leaves((after, updates)))
        assert [u.dtype for u in jax.tree.leaves(updates)] == [
            p.dtype for p in jax.tree.leaves(params)
        ]
        assert type(before)._fields[0] == "count"
        assert not any(isinstance(field, tuple) and field == () for field in before)
    assert described(jax.eval_shape(ours(name).init, params)) == described(before)


@table(PLAIN)
def test_initial_buffers_are_not_shared(name):
    params = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)}
    state = ours(name).init(params)
    leaves = jax.tree.leaves((params, state))
    assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)


@table(PLAIN)
def test_inject_hyperparams(name):
    """Every number becomes a traced leaf of the state."""
    make, _, _ = TABLE[name]
    params = {"w": jnp.full((2, 3), 0.5, float), "b": jnp.ones(3)}
    static = ("ns_steps",) if name == "muon" else ()
    optimizer = optax.inject_hyperparams(make, static_args=static)(learning_rate=0.01)
    state = optimizer.init(params)
    assert state.hyperparams["learning_rate"] == 0.01
    updates, after = jax.eval_shape(optimizer.update, params, state, params)
    assert described(state) == described(after)
    assert described(params) == described(updates)
    if name in ("nesterov", "rmsprop", "adamw", "muon"):
        plain = ours(name)
        got = quickly(optimizer.update)(params, state, params)[0]
        expected = quickly(plain.update)(params, plain.init(params), params)[0]
        assert_trees_close(got, expected, 1e-12)


def test_inject_hyperparams_into_bfloat16():
    """In bfloat16 b2 = 0.999 is 1: the hyperparameters need a dtype of their own."""
    w = jnp.full((2, 3), 0.5, jnp.bfloat16)
    make = optax.inject_hyperparams(opt.adam, hyperparam_dtype=jnp.float32)
    optimizer = make(learning_rate=0.125)
    updates, _ = quickly(optimizer.update)(w, optimizer.init(w), w)
    np.testing.assert_array_equal(updates.astype(float), -0.125)


def test_masked_and_partitioned():
    params = {"w": jnp.full((2, 3), 0.5), "b": jnp.ones(3), "steps": jnp.arange(3)}
    for optimizer in (
        optax.masked(opt.adamw(0.1), {"w": True, "b": True, "steps": False}),
        optax.partition(
            {"matrix": opt.muon(0.1), "vector": opt.sgd(0.1), "none": optax.set_to_zero()},
            {"w": "matrix", "b": "vector", "steps": "none"},
        ),
    ):
        updates, _ = quickly(optimizer.update)(params, optimizer.init(params), params)
        assert np.all(updates["w"] < 0)
        assert np.all(updates["b"] < 0)


@pytest.mark.parametrize("mask", [{"a": True, "p": Point(False, True)}, not_kernels])
def test_decay_mask_may_be_a_prefix_or_a_function(mask):
    params = ragged(lambda s: jnp.full(s, 2.0))
    zeros = jax.tree.map(jnp.zeros_like, params)
    optimizer = opt.adamw(0.1, weight_decay=0.5, mask=mask)
    updates, _ = quickly(optimizer.update)(zeros, optimizer.init(params), params)
    expected = ragged(lambda s: np.full(s, 0.0 if len(s) == 4 else -0.1))
    jax.tree.map(np.testing.assert_array_equal, updates, expected)


@pytest.mark.parametrize("make", [opt.adamw, opt.lion, opt.lamb, opt.adadelta])
def test_weight_decay_may_be_a_schedule(make):
    optimizer = make(0.1, weight_decay=lambda t: jnp.where(t < 1, 0.0, 0.5))
    w = jnp.ones((2, 2))
    update = quickly(optimizer.update)
    free, state = update(0 * w, optimizer.init(w), w)
    decayed, _ = update(0 * w, state, w)
    assert np.all(free == 0)
    assert np.all(decayed < 0)


def test_first_step_takes_the_schedule_at_0():
    optimizer = opt.momentum(optax.piecewise_constant_schedule(1.0, {1: 0.5}))
    updates, state = optimizer.update(jnp.array(1.0), optimizer.init(jnp.array(0.0)))
    assert (updates, state.count) == (-1.0, 1)
    updates, _ = optimizer.update(jnp.array(1.0), state)
    assert updates == -0.5 * 1.9


def test_lamb_trusts_fully_where_a_norm_is_0():
    p, g = np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[1.0, -1.0], [0.0, 0.0]])
    optimizer = opt.lamb(0.1)
    update = quickly(optimizer.update)
    for row, expected in ((0, [-0.1, 0.1]), (1, [0.0, 0.0])):
        updates, _ = update(g[row], optimizer.init(p[row]), p[row])
        np.testing.assert_allclose(updates, expected, rtol=1e-5)


@table(PLAIN)
def test_trees_without_leaves(name):
    optimizer = ours(name)
    updates, state = optimizer.update({"none": []}, optimizer.init({"none": []}), {"none": []})
    assert updates == {"none": []}
    assert state.count == 1


def test_adadelta_without_a_rate_descends():
    """In optax 0.2.8 the missing rate takes the minus sign with it."""
    g = jnp.array(2.0)
    mine, theirs = opt.adadelta(), optax.adadelta(None)
    step = mine.update(g, mine.init(g))[0]
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(step, -theirs.update(g, theirs.init(g), g)[0], rtol=1e-15)
    assert step < 0


def test_centered_rmsprop_survives_a_variance_rounded_below_0():
    """Equal gradients, so that mean square and squared mean differ by rounding alone."""
    g = jnp.full((64,), 1e3, jnp.float32) * jnp.linspace(1, 2, 64, dtype=jnp.float32)
    optimizer = opt.rmsprop(1.0, 0.5, eps=1e-3, eps_in_sqrt=False, centered=True)

    def step(state, _):
        updates, state = optimizer.update(g, state)
        return state, (updates, jnp.min(state.nu - state.mu**2))

    run = quickly(lambda state: jax.lax.scan(step, state, length=60)[1])
    updates, variance = run(optimizer.init(g))
    assert variance.min() < 0
    assert np.all(np.isfinite(updates))


@pytest.mark.parametrize("make", [opt.adam, opt.lion, opt.muon])
def test_mu_dtype(make):
    w = jnp.asarray(np.linspace(-1, 2, 6).reshape(2, 3), jnp.float32)
    optimizer, plain = make(0.1, mu_dtype="bfloat16"), make(0.1)
    updates, state = quickly(optimizer.update)(w, optimizer.init(w), w)
    assert state.mu.dtype == jnp.bfloat16
    assert updates.dtype == jnp.float32
    # The first step does not see the rounded mean: only what is kept is rounded.
    expected = quickly(plain.update)(w, plain.init(w), w)[0]
    np.testing.assert_allclose(updates, expected, rtol=1e-6)


def test_accumulator_dtype_and_gradients_of_another_dtype():
    w = jnp.ones((2, 3), jnp.bfloat16)
    optimizer = opt.momentum(0.1, accumulator_dtype=jnp.float32)
    updates, state = optimizer.update(w.astype(jnp.float32), optimizer.init(w), w)
    assert state.trace.dtype == jnp.float32
    assert updates.dtype == jnp.bfloat16


def test_params_of_another_structure_are_ignored_where_not_needed():
    w = jnp.ones(3)
    optimizer = opt.adam(0.1)
    updates, _ = optimizer.update([w], optimizer.init([w]), {"whole": [w, "model"]})
    assert jax.tree.structure(updates) == jax.tree.structure([w])


# Errors.

ONE = np.ones((2, 3))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: opt.momentum(0.1, velocity="course"),
            ValueError,
            "velocity is 'course'.*'scaled'",
        ),
        (lambda: opt.nesterov(0.1, velocity=None), ValueError, "nesterov: velocity is None"),
        (lambda: opt.momentum(0.1, 1.0), ValueError, r"momentum is 1.0, expected .* \[0.0, 1.0\)"),
        (lambda: opt.sgd(0.1, momentum=-0.1), ValueError, "sgd: momentum is -0.1"),
        (lambda: opt.adam(0.1, b1=1.0), ValueError, "adam: b1 is 1.0"),
        (lambda: opt.adamw(0.1, b2=-0.5), ValueError, "adamw: b2 is -0.5"),
        (lambda: opt.rmsprop(0.1, decay=1.5), ValueError, "rmsprop: decay is 1.5"),
        (lambda: opt.rmsprop(0.1, initial_scale=-1), ValueError, "initial_scale is -1"),
        (lambda: opt.adadelta(rho=1), ValueError, "rho is 1"),
        (lambda: opt.muon(0.1, beta=1.0), ValueError, "beta is 1.0"),
        (lambda: opt.adam(0.1, eps=-1e-8), ValueError, "eps is -1e-08"),
        (lambda: opt.adam(float("nan")), ValueError, "learning_rate is nan"),
        (
            lambda: opt.lion(-0.1),
            ValueError,
            r"lion: learning_rate is -0.1, expected .* \[0.0, inf\)",
        ),
        (lambda: opt.adamw(0.1, weight_decay=-1), ValueError, "weight_decay is -1"),
        (
            lambda: opt.sgd("fast"),
            TypeError,
            "learning_rate is 'fast', expected a number.*schedule",
        ),
        (lambda: opt.sgd(None), TypeError, "learning_rate is None"),
        (lambda: opt.adam(0.1, b1=lambda t: 0.9), TypeError, "b1 is <function.*scalar array\\."),
        (lambda: opt.adam(jnp.ones(3)), ValueError, r"shape \(3,\), expected a scalar.*jax.vmap"),
        (lambda: opt.muon(0.1, preconditioning="none"), ValueError, "expected one of frobenius"),
        (lambda: opt.muon(0.1, ns_coeffs="quintic"), ValueError, "ns_coeffs is 'quintic'"),
        (lambda: opt.muon(0.1, ns_coeffs=(1.0, 2.0)), ValueError, r"ns_coeffs has shape \(2,\)"),
        (lambda: opt.muon(0.1, ns_steps=0), ValueError, "ns_steps is 0"),
        (lambda: opt.muon(0.1, ns_steps=2.5), TypeError, "ns_steps is 2.5.*static_args"),
    ],
)
def test_wrong_hyperparameters(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("make", [opt.adamw, opt.lion, opt.lamb])
def test_parameters_are_needed(make):
    optimizer = make(0.1)
    with pytest.raises(ValueError, match=r"params=None.*update\(grads, state, params\)"):
        optimizer.update(ONE, optimizer.init(ONE))


@pytest.mark.parametrize("make", [opt.adadelta, opt.muon])
def test_parameters_are_needed_for_decay(make):
    free, decayed = make(0.1), make(0.1, weight_decay=0.1)
    jax.eval_shape(free.update, ONE, free.init(ONE))
    with pytest.raises(ValueError, match=r"params=None"):
        decayed.update(ONE, decayed.init(ONE))


@pytest.mark.parametrize(
    ("grads", "error", "message"),
    [
        ({"w": ONE}, ValueError, r"the state's mu.*alone: \[\].*the state's mu alone: \[.*'b'"),
        ({"w": ONE, "b": ONE, "c": ONE}, ValueError, r"gradients alone: \[.*'c'"),
        ({"w": ONE, "b": None}, ValueError, "different structure"),
        ([ONE, ONE], ValueError, "different structure.*structure that init"),
        ({"w": ONE.T, "b": ONE}, ValueError, r"gradient at \['w'\] has shape \(3, 2\)"),
        ({"w": ONE, "b": np.ones((2, 3), int)}, TypeError, r"\['b'\] \(int64\).*optax.masked"),
        ({"w": ONE, "b": "b"}, TypeError, r"\['b'\] \(str\)"),
    ],
)
def test_gradients_that_do_not_fit(grads, error, message):
    optimizer = opt.adam(0.1)
    state = optimizer.init({"w": ONE, "b": ONE})
    with pytest.raises(error, match=message):
        optimizer.update(grads, state)


def test_parameters_that_do_not_fit():
    optimizer = opt.adamw(0.1)
    with pytest.raises(ValueError, match=r"gradients and params are trees of different structure"):
        optimizer.update({"w": ONE}, optimizer.init({"w": ONE}), {"w": ONE, "b": ONE})
    with pytest.raises(TypeError, match=r"adamw: a parameter has dtype int64.*\['w'\]"):
        optimizer.init({"w": jnp.arange(3)})


def test_masks_and_axes_that_do_not_fit():
    params = {"w": ONE}
    for optimizer, message in (
        (opt.adamw(0.1, mask={"v": True}), "mask of weight decay is not a prefix"),
        (opt.muon(0.1, muon_weight_dimension_numbers={"w": NUMBERS(0, 0)}), "names an axis.*twice"),
        (opt.muon(0.1, muon_weight_dimension_numbers={"w": NUMBERS(0, 2)}), "axis that a leaf"),
        (
            opt.muon(0.1, muon_weight_dimension_numbers={"w": NUMBERS()}, conv_kernels=True),
            "both conv_kernels",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.update(params, optimizer.init(params), params)
