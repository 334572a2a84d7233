"""Optimizers against optax, step by step: real, complex and abstract leaves, wrappers."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import optimizers as opt
from tests.support.lanes import by_default
from tests.support.optimizer_table import (
    OURS_ALONE,
    PLAIN,
    SCHEDULE,
    TABLE,
    assert_trees_close,
    expected_at,
    ours,
    quickly,
    ragged,
    table,
    trajectory,
    twin,
)


@table()
def test_signature_has_optax_names_and_defaults(name):
    make, theirs, _ = TABLE[name]
    mine = inspect.signature(make).parameters
    if name in ("momentum", "nesterov"):
        assert list(mine)[:3] == ["learning_rate", "momentum", "velocity"]
        assert (mine["momentum"].default, mine["velocity"].default) == (0.9, "raw")
        return
    expected = inspect.signature(theirs).parameters
    for key, parameter in expected.items():
        assert mine[key].kind == parameter.kind, key
        assert mine[key].default == parameter.default, key
    assert list(mine)[: len(expected)] == list(expected)
    assert set(mine) - set(expected) <= OURS_ALONE


# By default one of each state over many steps; one step of each is compared below.
LONG = {"sgd", "momentum", "rmsprop", "adam", "lion", "muon-stack"}


@pytest.mark.courses("0-21")
@table(by_default([*PLAIN, "muon-kernels", "muon-stack"], LONG))
def test_200_steps_equal_optax(name, rng):
    """Float64, relative 1e-12: at a constant rate, and on a schedule inside a chain."""
    params = ragged(rng.standard_normal)
    noise = ragged(lambda s: rng.standard_normal((200, *s)))
    few, few_noise = ({"w": tree["a"][1]["w"], "s": tree["a"][0]} for tree in (params, noise))

    @quickly
    def run():
        ends = []
        for make in (ours, twin):
            chained = optax.chain(optax.clip_by_global_norm(5.0), make(name, SCHEDULE))
            ends.append(trajectory(chained, params, noise) + trajectory(make(name), few, few_noise))
        return ends

    got, expected = run()
    assert_trees_close(got[::2], expected[::2], 1e-12)
    assert np.abs(got[0]["p"].x - params["p"].x).max() > 1e-4  # equality is not idleness


def random_state(rng, state, rows):
    """Fills a state with what a run could hold: counts in 0..999, variances not negative."""

    def draw(tree):
        return jax.tree.map(lambda p: rng.standard_normal((rows, *p.shape)).astype(p.dtype), tree)

    fields = {k: draw(v) for k, v in state._asdict().items()}
    fields["count"] = rng.integers(0, 1000, rows, dtype=np.int32)
    for field in {"nu", "nu_max", "sum_of_squares", "e_g", "e_x"} & set(fields):
        fields[field] = jax.tree.map(lambda z: z * z + 0.01, fields[field])
    if isinstance(state, opt.RMSPropState) and state.mu is not None:
        fields["nu"] = jax.tree.map(lambda n, m: n + 1 + m * m, fields["nu"], fields["mu"])
    return state._replace(**fields)


def as_twin(state, theirs):
    """Writes our flat state into optax's nested one."""
    fields = {k: v for k, v in state._asdict().items() if v is not None}
    if isinstance(state, opt.MuonState):  # all leaves are matrices here, none is Adam's
        inner = theirs.inner_states["muon"]
        moved = inner.inner_state[0]._replace(count=state.count, mu=state.mu)
        inner = inner._replace(inner_state=(moved, *inner.inner_state[1:]))
        return theirs._replace(inner_states=theirs.inner_states | {"muon": inner})
    present = {k for k in fields if optax.tree.get_all_with_path(theirs, k)}
    return optax.tree.set(theirs, **{k: fields[k] for k in present})


def as_ours(state, theirs):
    """Reads optax's nested state into a copy of our flat one."""
    if isinstance(state, opt.MuonState):
        inner = theirs.inner_states["muon"].inner_state[0]
        return state._replace(count=inner.count, mu=inner.mu)
    found = {k: optax.tree.get_all_with_path(theirs, k) for k in state._fields}
    return state._replace(**{k: v[0][1] for k, v in found.items() if v})


@pytest.mark.parametrize("compiled", ["quickly", pytest.param("optimized", marks=pytest.mark.slow)])
@table()
def test_one_step_from_200_random_states_equals_optax(name, compiled, rng):
    """Float64 and float32, elementwise within (4 + c) eps of the size of the terms added.

    That size is the step from the absolute values of gradient, moments and parameters: no term
    cancels there. c is optax's own error in float64: its 1 - b^t loses up to half an eps, which
    is 1 / (2 (1 - b2^t)) eps of the difference. (In float32 optax takes the difference in float64,
    as x64 is on.) The trust ratio and Newton-Schulz sum over a leaf and are bounded by its largest
    entry. Five Newton-Schulz steps multiply an error by up to 3.4445^5 = 485, but only along a
    singular value near 0: the bar is 64 eps, the largest error seen 24.
    """
    rows = 200

    def draw():
        values = rng.standard_normal((2, rows, 4, 5))
        return {"f32": values[0].astype(np.float32), "f64": values[1]}

    params, grads = draw(), draw()
    mine, theirs = ours(name), twin(name)
    state = random_state(rng, mine.init(jax.tree.map(lambda p: p[0], params)), rows)

    @(quickly if compiled == "quickly" else jax.jit)
    @jax.vmap
    def both(grads, state, params):
        got = mine.update(grads, state, params)
        expected, their_new = theirs.update(grads, as_twin(state, theirs.init(params)), params)
        return got, (expected, as_ours(got[1], their_new))

    got, expected = both(grads, state, params)
    absolute = jax.tree.map(np.abs, [grads, state, params])
    if isinstance(state, opt.RMSPropState):  # a scaled velocity runs against the gradient
        absolute[1] = absolute[1]._replace(trace=jax.tree.map(np.negative, absolute[1].trace))
    size = both(*absolute)[0]
    np.testing.assert_array_equal(got[1].count, np.asarray(state.count) + 1)
    t = np.asarray(state.count).reshape(rows, 1, 1) + 1
    for path, a in jax.tree_util.tree_leaves_with_path((got[0], got[1][1:])):
        b, terms = (
            np.asarray(expected_at((tree[0], tree[1][1:]), path), np.float64)
            for tree in (expected, size)
        )
        terms = np.abs(terms)
        factor = 4 + (0.5 / -np.expm1(t * np.log(0.999)) if a.dtype == np.float64 else 0.0)
        if name == "lamb":
            terms = terms.max((1, 2), keepdims=True)
        if name.startswith("muon"):
            factor = factor + 60
            terms = np.maximum(terms, np.abs(b)).max((1, 2), keepdims=True)
        error = np.abs(np.asarray(a, np.float64) - b) / (np.finfo(a.dtype).eps * terms)
        assert np.all(error <= factor), (jax.tree_util.keystr(path), error.max())


# Complex and abstract leaves, arguments that others need.


def complex_normal(rng, shape):
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


# optax squares g where |g|^2 is meant: adadelta's roots, Schatten's x x^T, the dual norm.
UNCONJUGATED = {"adadelta", "adadelta-decay", "muon-schatten"}


# Complex leaves: one moment, two, the largest, sums of squares, a trust ratio, matrices.
COMPLEX = {"momentum", "adam", "adamax", "adagrad", "lamb", "muon"}


@pytest.mark.integration
@table(by_default([name for name in (*PLAIN, "muon-stack") if name not in UNCONJUGATED], COMPLEX))
def test_200_complex_steps_equal_optax(name, rng):
    """Complex128, relative 1e-12, in the tree that the real steps run in."""
    params = ragged(lambda s: complex_normal(rng, s))
    noise = ragged(lambda s: complex_normal(rng, (200, *s)))

    @quickly
    def run():
        return [trajectory(make(name), params, noise) for make in (ours, twin)]

    (got, state), (expected, _) = run()
    assert_trees_close(got, expected, 1e-12)
    assert np.abs((got["p"].x - params["p"].x).imag).max() > 1e-4
    squares = {"nu", "nu_max", "sum_of_squares", "e_g", "e_x"} & set(state._fields)
    for leaf in jax.tree.leaves([getattr(state, field) for field in squares]):
        assert leaf.dtype == np.float64  # half of what optax keeps


@table(by_default(TABLE, COMPLEX))
def test_a_phase_of_the_gradients_is_one_of_the_updates(name, rng):
    """And complex numbers that are real move as real ones do."""
    params, grads = ({"w": rng.standard_normal((4, 5)), "b": rng.standard_normal(3)} for _ in "pg")
    complex_grads = {"w": complex_normal(rng, (4, 5)), "b": complex_normal(rng, 3)}
    optimizer = ours(name)

    @quickly
    def ends(params, grads):
        rows = jax.tree.map(lambda g: jnp.stack([g, -0.5 * g, 2 * g]), grads)
        return trajectory(optimizer, params, rows)[0]

    def turned(tree, phase):
        return jax.tree.map(lambda x: x * np.exp(1j * phase), tree)

    real = ends(params, grads)
    assert_trees_close(ends(turned(params, 0.0), turned(grads, 0.0)), real, 1e-12)
    once = ends(turned(params, 0.0), complex_grads)
    assert_trees_close(
        ends(turned(params, 1.0), turned(complex_grads, 1.0)), turned(once, 1.0), 1e-11
    )


def test_complex_zero_gradients_move_nothing():
    """The divisor is `tiny` alone, whose square is 0 in float32."""
    w = jnp.zeros((2, 3), jnp.complex64)
    for make in (opt.adam, opt.amsgrad, opt.adamax, opt.adagrad, opt.rmsprop, opt.muon):
        optimizer = make(0.1, eps=0.0)
        updates, state = quickly(optimizer.update)(w, optimizer.init(w), w)
        assert updates.dtype == jnp.complex64
        np.testing.assert_array_equal(updates, w)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(
    ("options", "keep", "message"),
    [
        (
            {"mu_dtype": jnp.float32},
            lambda w: w,
            "the mu at .*'w'.* is complex but kept as float32",
        ),
        ({}, np.real, "the update at .*'w'.* is complex but kept as float32"),
        ({"ns_dtype": jnp.bfloat16}, lambda w: w, "muon: ns_dtype is .*bfloat16.*expected None"),
    ],
)
def test_complex_numbers_are_not_kept_as_real_ones(options, keep, message):
    grads = {"w": np.ones((2, 3), np.complex64)}
    params = jax.tree.map(keep, grads)
    optimizer = opt.muon(0.1, **options) if "ns_dtype" in options else opt.adam(0.1, **options)
    state = jax.eval_shape(optimizer.init, grads if not options else params)
    with pytest.raises(TypeError, match=message):
        jax.eval_shape(optimizer.update, grads, state, params)


LABELS = {"w": "a", "b": "b", "none": None, "empty": {}}
FIRST = {"w": True, "b": False, "none": None, "empty": {}}
WRAPPERS = {
    "chain": lambda make: optax.chain(optax.clip_by_global_norm(5.0), make(0.1)),
    "plateau": lambda make: optax.chain(make(0.1), optax.contrib.reduce_on_plateau(patience=1)),
    "masked": lambda make: optax.masked(make(0.1), FIRST),
    "multi_transform": lambda make: optax.multi_transform(
        {"a": make(0.1), "b": make(SCHEDULE)}, LABELS
    ),
    "inject_hyperparams": lambda make: optax.inject_hyperparams(
        make, {"ns_steps"} & set(inspect.signature(make).parameters)
    )(learning_rate=0.1),
    "MultiSteps": lambda make: optax.MultiSteps(make(0.1), 2).gradient_transformation(),
    "apply_if_finite": lambda make: optax.apply_if_finite(make(0.1), 2),
}


@pytest.mark.integration
@table(
    name if name in ("adam", "muon") else pytest.param(name, marks=pytest.mark.slow)
    for name in PLAIN
)
@pytest.mark.filterwarnings("ignore:Casting from complex")  # in optax.MultiSteps
def test_wrappers_with_extra_arguments_and_abstract_leaves(name, rng):
    """As optax's own in each wrapper: `value=` passed on, `init` of shapes, None, an empty tree.

    The leaves are complex, but for adadelta; some of the wrappers take the first leaf's dtype.
    """
    make, theirs, _ = TABLE[name]
    params = {"w": complex_normal(rng, (4, 5)), "b": complex_normal(rng, 3)}
    params = jax.tree.map(jnp.real, params) if name in UNCONJUGATED else params
    params |= {"none": None, "empty": {}}
    grads = jax.tree.map(lambda p: 0.1 * p + 1, params)
    shapes = jax.eval_shape(lambda: params)
    assert isinstance(make(0.1), optax.GradientTransformationExtraArgs)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: (a == b).all(), make(0.1).init(shapes), make(0.1).init(params))
    )

    @quickly
    def ends(values):
        def end(wrapper, make):
            optimizer = WRAPPERS[wrapper](make)
            concrete = wrapper in ("plateau", "inject_hyperparams")  # which take no shapes

            def step(carry, value):
                updates, state = optimizer.update(grads, carry[1], carry[0], value=value)
                return (optax.apply_updates(carry[0], updates), state), None

            start = params, optimizer.init(params if concrete else shapes)
            return jax.lax.scan(step, start, values)[0][0]

        with jax.numpy_dtype_promotion("standard"):  # optax's wrappers need it
            return [[end(wrapper, m) for wrapper in WRAPPERS] for m in (make, theirs)]

    got, expected = ends(jnp.array([1.0, 2.0, 2.0]))
    for wrapper, one, two in zip(WRAPPERS, got, expected, strict=True):
        assert jax.tree.structure(one) == jax.tree.structure(params), wrapper
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), one, two)
