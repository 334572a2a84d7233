"""Optimizers against optax, torch, the courses' numbers, and the ways they are used."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import optimizers as opt
from tests.support.optimizer_table import (
    DTYPES,
    NUMBERS,
    OURS_ALONE,
    PLAIN,
    SCHEDULE,
    TABLE,
    Point,
    assert_trees_close,
    described,
    eighths,
    expected_at,
    not_kernels,
    ours,
    program,
    quickly,
    ragged,
    run_program,
    table,
    trajectory,
    twin,
)

# 1. Optax.


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


@pytest.mark.courses("0-21")
@table([*PLAIN, "muon-kernels", "muon-stack"])
def test_200_steps_equal_optax(name, rng):
    """Float64, relative 1e-12: at a constant rate, and on a schedule inside a chain."""
    params = ragged(lambda s: jnp.asarray(rng.standard_normal(s)))
    noise = ragged(lambda s: jnp.asarray(rng.standard_normal((200, *s))))
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


# 2. The courses.

W = np.linspace(-0.4, 0.6, 20).reshape(4, 5)
DW = np.linspace(-0.6, 0.4, 20).reshape(4, 5)
V = np.linspace(0.6, 0.9, 20).reshape(4, 5)

MOM_W = """.1406 .20738947 .27417895 .34096842 .40775789 .47454737 .54133684 .60812632 .67491579
.74170526 .80849474 .87528421 .94207368 1.00886316 1.07565263 1.14244211 1.20923158 1.27602105
1.34281053 1.4096"""
MOM_V = """.5406 .55475789 .56891579 .58307368 .59723158 .61138947 .62554737 .63970526 .65386316
.66802105 .68217895 .69633684 .71049474 .72465263 .73881053 .75296842 .76712632 .78128421 .79544211
.8096"""
NES_W = """.08714 .15246105 .21778211 .28310316 .34842421 .41374526 .47906632 .54438737 .60970842
.67502947 .74035053 .80567158 .87099263 .93631368 1.00163474 1.06695579 1.13227684 1.19759789
1.26291895 1.32824"""
RMS_W = """-.39223849 -.34037513 -.28849239 -.23659121 -.18467247 -.132737 -.08078555 -.02881884
.02316247 .07515774 .12716641 .17918792 .23122175 .28326742 .33532447 .38739248 .43947102 .49155973
.54365823 .59576619"""
RMS_CACHE = """.5976 .6126277 .6277108 .64284931 .65804321 .67329252 .68859723 .70395734 .71937285
.73484377 .75037008 .7659518 .78158892 .79728144 .81302936 .82883269 .84469141 .86060554 .87657507
.8926"""
ADAM_W = """-.40094747 -.34836187 -.29577703 -.24319299 -.19060977 -.1380274 -.08544591 -.03286534
.01971428 .0722929 .1248705 .17744702 .23002243 .28259667 .33516969 .38774145 .44031188 .49288093
.54544852 .59801459"""
ADAM_NU = """.69966 .68908382 .67851319 .66794809 .65738853 .64683452 .63628604 .6257431 .61520571
.60467385 .59414753 .58362676 .57311152 .56260183 .55209767 .54159906 .53110598 .52061845 .51013645
.49966"""
ADAM_MU = """.48 .49947368 .51894737 .53842105 .55789474 .57736842 .59684211 .61631579 .63578947
.65526316 .67473684 .69421053 .71368421 .73315789 .75263158 .77210526 .79157895 .81105263 .83052632
.85"""


def rel_error(x, literal):
    """The courses' measure, to the four digits that they print."""
    y = np.array(literal.split(), np.float64).reshape(4, 5)
    x = np.asarray(x)
    return f"{np.max(np.abs(x - y) / np.maximum(1e-8, np.abs(x) + np.abs(y))):.3e}"


def course_step(optimizer, **moments):
    state = optimizer.init(jnp.asarray(W))._replace(
        **{k: jnp.asarray(v, jnp.int32 if k == "count" else None) for k, v in moments.items()}
    )
    updates, state = optimizer.update(jnp.asarray(DW), state, jnp.asarray(W))
    return W + updates, state


@pytest.mark.courses("0-10", "3-18")
def test_course_sgd():
    w, dw = jnp.asarray(W), jnp.asarray(DW)
    optimizer = opt.sgd(1e-2)
    updates, _ = optimizer.update(dw, optimizer.init(w))
    np.testing.assert_array_equal(optax.apply_updates(w, updates), W - 1e-2 * DW)
    np.testing.assert_array_equal(w, W)  # the course's function writes into w


@pytest.mark.courses("0-11", "1-26", "2-6", "3-22")
def test_course_momentum():
    next_w, state = course_step(opt.momentum(1e-3, 0.9, "scaled"), trace=V)
    assert rel_error(next_w, MOM_W) == "8.882e-09"
    assert rel_error(state.trace, MOM_V) == "4.269e-09"


@pytest.mark.courses("0-12", "2-7")
def test_course_nesterov():
    next_w, state = course_step(opt.nesterov(1e-3, 0.9, "scaled"), trace=V)
    assert rel_error(next_w, NES_W) == "1.088e-08"
    assert rel_error(state.trace, MOM_V) == "4.269e-09"


@pytest.mark.courses("0-15", "1-29", "2-9")
@pytest.mark.parametrize(
    ("eps_in_sqrt", "printed"),
    [
        pytest.param(False, "9.525e-08", id="rows-0-15-and-1-29-outside"),
        pytest.param(True, "9.503e-08", id="row-2-9-inside"),
    ],
)
def test_course_rmsprop(eps_in_sqrt, printed):
    next_w, state = course_step(opt.rmsprop(1e-2, 0.99, eps_in_sqrt=eps_in_sqrt), nu=V)
    assert rel_error(next_w, RMS_W) == printed
    assert rel_error(state.nu, RMS_CACHE) == "2.648e-09"


@pytest.mark.courses("4-24")
@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999])
def test_course_rmsprop_formula(decay):
    next_w, state = course_step(opt.rmsprop(1e-2, decay), nu=V)
    cache = decay * V + (1 - decay) * DW**2
    np.testing.assert_allclose(state.nu, cache, rtol=1e-15)
    np.testing.assert_allclose(next_w, W - 1e-2 * DW / np.sqrt(cache + 1e-8), rtol=1e-14)


@pytest.mark.courses("0-16", "1-30", "2-10")
def test_course_adam():
    """The courses' t = 5 is incremented before use: it is our count."""
    next_w, state = course_step(
        opt.adam(1e-2), mu=V, nu=np.linspace(0.7, 0.5, 20).reshape(4, 5), count=5
    )
    assert rel_error(next_w, ADAM_W) == "1.140e-07"
    assert rel_error(state.nu, ADAM_NU) == "4.208e-09"
    assert rel_error(state.mu, ADAM_MU) == "4.215e-09"
    assert state.count == 6


@pytest.mark.courses("1-33")
def test_course_adagrad():
    optimizer = opt.adagrad(1e-2, 0.0, 1e-8, eps_in_sqrt=False)
    next_w, state = course_step(optimizer, sum_of_squares=V)
    np.testing.assert_allclose(state.sum_of_squares, V + DW**2, rtol=1e-15)
    np.testing.assert_allclose(next_w, W - 1e-2 * DW / (np.sqrt(V + DW**2) + 1e-8), rtol=1e-14)


@pytest.mark.courses("1-33")
def test_adagrad_sums_after_100_gradients_of_10():
    """AdaGrad's cache is 10 000 (the course says 1000); Adam's second moment rests at 100."""
    ten = jnp.array(10.0)
    adagrad, adam = opt.adagrad(1e-2, 0.0), opt.adam(1e-2)

    def step(states, _):
        return tuple(
            o.update(ten, s)[1] for o, s in zip((adagrad, adam), states, strict=True)
        ), None

    start = adagrad.init(ten), adam.init(ten)._replace(nu=jnp.array(100.0))
    (sums, moments), _ = jax.lax.scan(step, start, length=100)
    assert sums.sum_of_squares == 10_000
    np.testing.assert_allclose(moments.nu, 100, rtol=1e-13)


@pytest.mark.parametrize("nesterov", [False, True])
def test_velocities_differ_once_the_rate_changes(nesterov, rng):
    """Both against NumPy: the courses' form scales the gradient, optax's the velocity."""
    rates, grads = [0.1, 0.1, 0.02, 0.02], rng.standard_normal((4, 3))
    make = opt.nesterov if nesterov else opt.momentum
    ends = {}
    for velocity in ("scaled", "raw"):
        w, v = np.zeros(3), np.zeros(3)
        optimizer = make(lambda t: jnp.asarray(rates)[t], 0.9, velocity)
        ours, state = jnp.zeros(3), optimizer.init(jnp.zeros(3))
        same = []
        for rate, g in zip(rates, grads, strict=True):
            before = v
            if velocity == "scaled":
                v = 0.9 * v - rate * g
                w = w - 0.9 * before + 1.9 * v if nesterov else w + v
            else:
                v = 0.9 * v + g
                w = w - rate * (g + 0.9 * v if nesterov else v)
            updates, state = optimizer.update(jnp.asarray(g), state)
            ours = optax.apply_updates(ours, updates)
            np.testing.assert_allclose(ours, w, rtol=1e-13, atol=1e-15)
            same.append(w)
        ends[velocity] = same
    np.testing.assert_allclose(ends["scaled"][1], ends["raw"][1], rtol=1e-13)
    assert np.abs(ends["scaled"][3] - ends["raw"][3]).max() > 0.01


# 3. torch.

TORCH = {
    "sgd": (opt.sgd(0.01), "SGD", {"lr": 0.01}),
    "momentum": (opt.momentum(0.01), "SGD", {"lr": 0.01, "momentum": 0.9}),
    "nesterov": (opt.nesterov(0.01), "SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    # torch: eps outside the root, alpha .99 by default; its velocity is raw, ours scaled
    "rmsprop": (
        opt.rmsprop(0.01, 0.99, eps_in_sqrt=False, centered=True, momentum=0.9),
        "RMSprop",
        {"lr": 0.01, "centered": True, "momentum": 0.9},
    ),
    # torch: eps outside the root, 1e-10, and a sum that starts at 0
    "adagrad": (opt.adagrad(0.01, 0.0, 1e-10, eps_in_sqrt=False), "Adagrad", {"lr": 0.01}),
    "adadelta": (
        opt.adadelta(1.0, weight_decay=0.1),
        "Adadelta",
        {"lr": 1.0, "weight_decay": 0.1},
    ),
    "adam": (opt.adam(0.01), "Adam", {"lr": 0.01}),
    # torch: a decay of .01 by default
    "adamw": (opt.adamw(0.01, weight_decay=0.01), "AdamW", {"lr": 0.01}),
    # torch lets b1 grow as b1 (1 - .5 * .96^(t momentum_decay)); so large a decay holds it at b1
    "nadam": (opt.nadam(0.01), "NAdam", {"lr": 0.01, "momentum_decay": 1e6}),
    "adamax": (opt.adamax(0.01), "Adamax", {"lr": 0.01}),
}


@pytest.mark.parametrize("name", TORCH)
def test_20_steps_equal_torch(name, rng):
    torch = pytest.importorskip("torch")
    optimizer, theirs, kwargs = TORCH[name]
    start, grads = rng.standard_normal((4, 5)), rng.standard_normal((20, 4, 5))
    torch.set_default_dtype(torch.float64)  # else NAdam keeps its product of b1 in float32
    try:
        p = torch.tensor(start, requires_grad=True)
        stepper = getattr(torch.optim, theirs)([p], **kwargs)
        for g in grads:
            p.grad = torch.tensor(g)
            stepper.step()
    finally:
        torch.set_default_dtype(torch.float32)

    @quickly
    def run(w, grads):
        def step(carry, g):
            params, state = carry
            updates, state = optimizer.update(g, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (w, optimizer.init(w)), grads)[0][0]

    got = run(start, grads)
    np.testing.assert_allclose(got, p.detach().numpy(), rtol=1e-12, atol=1e-13)


COUPLED = optax.add_decayed_weights(0.1)  # torch's weight_decay, but for AdamW
MAXIMIZE = optax.scale(-1.0)
TORCH |= {
    "amsgrad": (
        opt.amsgrad(0.01, bias_correction_nu=False, bias_correction_max=True),
        "Adam",
        {"lr": 0.01, "amsgrad": True},
    ),
    "coupled": (
        optax.chain(MAXIMIZE, COUPLED, opt.adam(0.01)),
        "Adam",
        {"lr": 0.01, "weight_decay": 0.1, "maximize": True},
    ),
    "coupled-sgd": (
        optax.chain(MAXIMIZE, COUPLED, opt.momentum(0.01)),
        "SGD",
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "maximize": True},
    ),
}


@pytest.mark.parametrize("amsgrad", [False, True])
def test_coupled_decay_maximize_and_amsgrad_are_torchs(amsgrad, rng):
    """torch.optim.Adam's formula with weight_decay, maximize and amsgrad, in NumPy."""
    w, m, v, largest = rng.standard_normal((2, 3)), 0.0, 0.0, 0.0
    make = (
        functools.partial(opt.amsgrad, bias_correction_nu=False, bias_correction_max=True)
        if amsgrad
        else opt.adam
    )
    optimizer = optax.chain(MAXIMIZE, COUPLED, make(0.01))
    ours = jnp.asarray(w)
    state = optimizer.init(ours)
    for t, scale in enumerate((3.0, 1.0, 0.1, 2.0), 1):  # falls, so that the maximum is another
        grads = scale * rng.standard_normal((2, 3))
        updates, state = quickly(optimizer.update)(grads, state, ours)
        ours = optax.apply_updates(ours, updates)
        g = -grads + 0.1 * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        largest = np.maximum(largest, v)
        root = np.sqrt((largest if amsgrad else v) / (1 - 0.999**t))
        w = w - 0.01 * (m / (1 - 0.9**t)) / (root + 1e-8)
        np.testing.assert_allclose(ours, w, rtol=1e-12)


# 4. How they are used.

INT32_MAX = np.iinfo(np.int32).max


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
    for g in (0.004, 0.0):
        updates, state = optimizer.update(jnp.full(3, g, jnp.float32), state)
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


@table(PLAIN)
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
    free, state = optimizer.update(0 * w, optimizer.init(w), w)
    decayed, _ = optimizer.update(0 * w, state, w)
    assert np.all(free == 0)
    assert np.all(decayed < 0)


def test_first_step_takes_the_schedule_at_0():
    optimizer = opt.momentum(optax.piecewise_constant_schedule(1.0, {1: 0.5}))
    updates, state = optimizer.update(jnp.array(1.0), optimizer.init(jnp.array(0.0)))
    assert (updates, state.count) == (-1.0, 1)
    updates, _ = optimizer.update(jnp.array(1.0), state)
    assert updates == -0.5 * 1.9


def test_lamb_trusts_fully_where_a_norm_is_0():
    p, g = jnp.array([[0.0, 0.0], [3.0, 4.0]]), jnp.array([[1.0, -1.0], [0.0, 0.0]])
    optimizer = opt.lamb(0.1)
    for row, expected in ((0, [-0.1, 0.1]), (1, [0.0, 0.0])):
        updates, _ = optimizer.update(g[row], optimizer.init(p[row]), p[row])
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


# 5. Muon.


def test_muon_orthogonalises(rng):
    """Singular values near 1, and nearly the polar factor that they stand for."""
    g = jnp.asarray(rng.standard_normal((20, 30)))
    optimizer = opt.muon(1.0)
    updates, _ = quickly(optimizer.update)(g, optimizer.init(g))
    got = -np.asarray(updates) / np.sqrt(30 / 20)
    sizes = np.linalg.svd(got, compute_uv=False)
    assert 0.67 < sizes.min() <= sizes.max() < 1.21
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    assert 0.8 < np.sum(got * (u @ vt)) / 20 < 1.1


def test_muon_conv_kernels(rng):
    """Off: a kernel is Adam's, as in optax. On: it is the matrix (kh kw cin, cout)."""
    w = jnp.asarray(rng.standard_normal((3, 3, 4, 8)))
    off, on, adam = opt.muon(0.1), opt.muon(0.1, conv_kernels=True), opt.nadam(0.1)

    def step(optimizer, w):
        return quickly(lambda w: optimizer.update(w, optimizer.init(w))[0])(w)

    np.testing.assert_array_equal(step(off, w), step(adam, w))
    np.testing.assert_array_equal(step(on, w), step(off, w.reshape(36, 8)).reshape(w.shape))
    assert on.init(w).nu == optax.MaskedNode()


def test_muon_steps_in_bfloat16(rng):
    """Near the exact steps: Newton-Schulz multiplies bfloat16's 2^-9 by up to 3.4445^5."""
    w = jnp.asarray(rng.standard_normal((8, 16)), jnp.float32)
    fast, exact = opt.muon(0.1, ns_dtype=jnp.bfloat16), opt.muon(0.1)
    got, expected = (quickly(o.update)(w, o.init(w))[0] for o in (fast, exact))
    assert got.dtype == jnp.float32
    assert 0 < np.linalg.norm(got - expected) < 0.2 * np.linalg.norm(expected)


# 6. Complex and abstract leaves, arguments that others need.


def complex_normal(rng, shape):
    return jnp.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape))


# optax squares g where |g|^2 is meant: adadelta's roots, Schatten's x x^T, the dual norm.
UNCONJUGATED = {"adadelta", "adadelta-decay", "muon-schatten"}


@table([name for name in (*PLAIN, "muon-stack") if name not in UNCONJUGATED])
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


@table()
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
        ({}, jnp.real, "the update at .*'w'.* is complex but kept as float32"),
        ({"ns_dtype": jnp.bfloat16}, lambda w: w, "muon: ns_dtype is .*bfloat16.*expected None"),
    ],
)
def test_complex_numbers_are_not_kept_as_real_ones(options, keep, message):
    grads = {"w": jnp.ones((2, 3), jnp.complex64)}
    params = jax.tree.map(keep, grads)
    optimizer = opt.muon(0.1, **options) if "ns_dtype" in options else opt.adam(0.1, **options)
    state = optimizer.init(grads if not options else params)
    with pytest.raises(TypeError, match=message):
        optimizer.update(grads, state, params)


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


# 7. Errors.

ONE = jnp.ones((2, 3))


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
    free.update(ONE, free.init(ONE))
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
        ({"w": ONE, "b": jnp.ones((2, 3), int)}, TypeError, r"\['b'\] \(int64\).*optax.masked"),
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
