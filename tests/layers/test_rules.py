"""Every rule of the catalogue against autodiff of its plain twin, and against differences."""

from __future__ import annotations

import functools
import importlib
import pkgutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import funcnet
from funcnet import layers, losses
from funcnet.catalogue import ROWS, Row, Sample
from tests.support.lanes import by_default
from tests.support.rules import SAMPLES, cotangents, is_float, problem, problem_of, worst

EPS = np.finfo(np.float64).eps
LAST = dict(SAMPLES)
# A rule of each way to differentiate: by the value, by a mask of places, by sums over a batch, by
# products and their fusion, by a convolution, by a window, by a key, by labels.
KINDS = {"gelu", "leaky_relu", "batch_norm", "group_norm", "affine_relu", "conv2d", "max_pool"}
KINDS |= {"dropout", "softmax_cross_entropy"}


def samples(chosen):
    """Samples as parameters, of which `chosen(name, index)` are tested by default."""
    return pytest.mark.parametrize(
        ("name", "index"),
        [pytest.param(*s, marks=[] if chosen(*s) else [pytest.mark.slow]) for s in SAMPLES],
    )


each_sample = samples(lambda name, index: True)
# The first two samples of each rule; the slow lane has them all.
each_of_two = samples(lambda name, index: index < 2)
# The second sample of some rules, or the only one; the others are the slow lane's, as is the
# certificate of most rules, which puts the first sample through the same.
each_further_sample = samples(lambda name, index: name in KINDS and index == min(1, LAST[name]))
each_rule = pytest.mark.parametrize("name", ROWS)
each_kind = pytest.mark.parametrize("name", by_default(ROWS, KINDS))
# Without jit every operation is a program of its own: by default for one rule of each kind. Of the
# others the certificate compares the eager calls with the compiled ones.
UNJITTED = {r.kind: name for name, r in reversed(ROWS.items()) if r.conventions}.values()


def pullback(f, floats, dys):
    """Values, and one cotangent of the inputs for each stacked cotangent of the outputs."""
    ys, pull = jax.vjp(f, floats)
    return ys, jax.vmap(lambda dy: pull(dy)[0])(dys)


@pytest.mark.courses("1-1")
@each_of_two
def test_value_and_cotangents(name, index, rng):
    p = problem(name, index)
    dys = cotangents(jax.eval_shape(p.plain, p.floats), rng, 4)
    got, want = jax.jit(lambda x: [pullback(f, x, dys) for f in (p.rule, p.plain)])(p.floats)
    assert worst(got, want, EPS) <= p.tolerance
    if index == 0 and name in UNJITTED:  # as one debugs; the slow lane does it with all
        with jax.disable_jit():
            assert worst(p.rule(p.floats), want[0], EPS) <= p.tolerance


@pytest.mark.slow
@each_rule
@pytest.mark.parametrize("without", [jax.disable_jit, chex.fake_jit])
def test_cotangents_without_jit(name, without, rng):
    p = problem(name, 0)
    dys = cotangents(jax.eval_shape(p.plain, p.floats), rng, 2)
    want = jax.jit(lambda x: pullback(p.plain, x, dys))(p.floats)
    with without():
        assert worst(pullback(p.rule, p.floats, dys), want, EPS) <= p.tolerance


@each_further_sample
def test_central_differences(name, index, rng):
    p = problem(name, index)
    if not p.row.smooth:
        pytest.skip(f"{name} has kinks everywhere")
    direction = [jax.device_put(rng.normal(size=x.shape)) for x in p.floats]
    dy = cotangents(jax.eval_shape(p.rule, p.floats), rng)
    if p.row.statistics:  # the statistics move, and carry no gradient
        dy[1:] = [jnp.zeros_like(d) for d in dy[1:]]

    @jax.jit
    def both(floats):
        _, pull = jax.vjp(p.rule, floats)
        slope = sum((jnp.vdot(a, b) for a, b in zip(pull(dy)[0], direction, strict=True)))

        def along(t):
            ys = p.rule([x + t * d for x, d in zip(floats, direction, strict=True)])
            return sum(jnp.vdot(a, b) for a, b in zip(ys, dy, strict=True))

        h = 2.0**-11
        points = jax.vmap(along)(h * jnp.array([-2.0, -1.0, 1.0, 2.0]))
        return slope, (points @ jnp.array([1.0, -8.0, 8.0, -1.0])) / (12 * h), abs(points).max()

    slope, difference, size = jax.device_get(both(p.floats))
    # Five points: rounding eps * |f| / h, and h**4 / 30 of a fifth derivative, which is some
    # millions where four rows are standardised.
    h = 2.0**-11
    tolerance = 8 * EPS * (size + 1) / h + 1e5 * h**4 * (size + 1)
    assert abs(slope - difference) <= tolerance * max(1.0, abs(difference))


@each_further_sample
def test_second_order(name, index, rng):
    p = problem(name, index)
    dy = cotangents(jax.eval_shape(p.rule, p.floats), rng)
    v = [jax.device_put(rng.normal(size=x.shape)) for x in p.floats]

    def slope(f):
        def inner(floats):
            _, pull = jax.vjp(f, floats)
            return sum(jnp.vdot(a, b) for a, b in zip(pull(dy)[0], v, strict=True))

        return inner

    def gradient(floats):
        _, pull = jax.vjp(p.rule, floats)
        return pull(dy)[0]

    @jax.jit
    def three(floats):
        forward_over_reverse = jax.jvp(gradient, (floats,), (v,))[1]
        return *(jax.grad(slope(f))(floats) for f in (p.plain, p.rule)), forward_over_reverse

    want, reverse_over_reverse, forward_over_reverse = three(p.floats)
    assert worst(reverse_over_reverse, want, EPS) <= 8 * p.tolerance
    # The Hessian is symmetric: forward over reverse contracts its other side.
    assert worst(forward_over_reverse, want, EPS) <= 8 * p.tolerance


@each_further_sample
def test_vmap_over_each_argument(name, index, rng):
    """Over all together, and of the first sample over each alone."""
    p = problem(name, index)
    dy = cotangents(jax.eval_shape(p.rule, p.floats), rng)

    def value_and_cotangents(*floats):
        ys, pull = jax.vjp(p.rule, list(floats))
        return ys, pull(dy)[0]

    floats = [np.asarray(x) for x in p.floats]  # NumPy compiles nothing to scale and to stack
    n = len(floats)
    cases = [(list(range(n)), axis) for axis in (0, -1)]
    if n > 1 and index == 0:
        cases += [([i], 0) for i in range(n)]
    factors = (1.0, 0.9)
    axes = [
        [(axis if x.ndim else 0) if i in subset else None for i, x in enumerate(floats)]
        for subset, axis in cases
    ]
    stacked = [
        [
            x if axis is None else np.stack([x * f for f in factors], axis)
            for x, axis in zip(floats, own, strict=True)
        ]
        for own in axes
    ]
    alone = [
        np.stack([x * f if i in subset else x for subset, _ in cases for f in factors])
        for i, x in enumerate(floats)
    ]

    @jax.jit
    def all_cases(stacked, alone):
        mapped = [
            jax.vmap(value_and_cotangents, own)(*args)
            for own, args in zip(axes, stacked, strict=True)
        ]
        return mapped, jax.lax.map(lambda floats: value_and_cotangents(*floats), alone)

    mapped, one_by_one = jax.device_get(all_cases(stacked, alone))
    for k, got in enumerate(mapped):
        want = jax.tree.map(lambda leaf, k=k: leaf[2 * k : 2 * k + 2], one_by_one)
        for member in range(2):
            pair = (jax.tree.map(lambda leaf, m=member: leaf[m], tree) for tree in (got, want))
            assert worst(*pair, EPS) <= p.tolerance, cases[k]


@each_kind
@pytest.mark.parametrize(
    "dtype",  # the certificate has all three too
    [jnp.bfloat16, *(pytest.param(d, marks=pytest.mark.slow) for d in (jnp.float32, jnp.float16))],
)
def test_low_precision(name, dtype, rng):
    p = problem(name, 0, dtype)
    truth = problem(name, 0)
    dys = cotangents(jax.eval_shape(p.rule, p.floats), rng, 2)

    @jax.jit
    def both(floats):
        exact, exact_dys = ([x.astype(jnp.float64) for x in leaves] for leaves in (floats, dys))
        return pullback(p.rule, floats, dys), pullback(truth.plain, exact, exact_dys)

    got, want = both(p.floats)
    for output in got[0][: 1 if p.row.statistics else None]:
        wide_penalty = name == "l2_penalty" and dtype != jnp.float64
        assert output.dtype == (jnp.float32 if wide_penalty else dtype)
    assert all(d.dtype == dtype for d in got[1])
    # One rounding of the result, one of what was kept, and what the float32 sums have cost.
    eps = float(jnp.finfo(dtype).eps)
    tolerance = (2.0 if dtype != jnp.float32 else p.tolerance) * eps + p.tolerance * 2.0**-23
    assert worst(got, want, 1.0) <= tolerance


ONES = np.ones((1, 4096), jnp.bfloat16)
SUMS = {
    "a product": lambda: layers.affine(
        layers.AffineParams(ONES.T, jnp.zeros_like(ONES[0, :1])), ONES
    ),
    "a weight's gradient": lambda: jax.grad(
        lambda w: layers.affine(layers.AffineParams(w, jnp.zeros_like(w[0])), ONES.T).sum()
    )(ONES[:, :1]),
    "a bias's gradient": lambda: jax.vjp(
        lambda b: layers.affine(layers.AffineParams(ONES[:, :1], b), ONES.T), ONES[0, :1]
    )[1](ONES.T)[0],
    "a convolution": lambda: layers.conv2d(
        layers.ConvParams(ONES.reshape(4, 4, 256, 1), jnp.zeros_like(ONES[0, :1])),
        ONES.reshape(1, 4, 4, 256), 1, "VALID",
    ),
    "a kernel's gradient": lambda: jax.vjp(
        lambda w: layers.conv2d(
            layers.ConvParams(w, jnp.zeros_like(w[0, 0, 0])), ONES.reshape(1, 64, 64, 1), 1, "VALID"
        ),
        ONES[:, :1].reshape(1, 1, 1, 1),
    )[1](ONES.reshape(1, 64, 64, 1))[0],
    "a mean": lambda: 4096 * layers.global_avg_pool(ONES.reshape(1, 64, 64, 1)),
    "a batch's mean": lambda: 4096 * layers.batch_norm(
        layers.NormParams(ONES[0, :1], ONES[0, :1]), ONES.T
    )[1].mean,
    "a norm's gradient": lambda: jax.vjp(
        lambda beta: layers.batch_norm(layers.NormParams(ONES[0, :1], beta), ONES.T)[0],
        ONES[0, :1],
    )[1](ONES.T)[0],
    "a penalty": lambda: losses.l2_penalty({"w": ONES}, 2.0),
}  # fmt: skip


@pytest.mark.parametrize("name", SUMS)
def test_sums_of_bfloat16_are_taken_in_float32(name):
    """A sum of 4096 ones, which stops at 256 where it is taken in bfloat16."""
    total = SUMS[name]()
    assert total.dtype in (jnp.bfloat16, jnp.float32)
    assert total.size == 1
    assert float(total.ravel()[0]) == 4096


@each_kind
def test_in_a_scan_of_bfloat16_it_differentiates_and_lowers(name):
    """The carry keeps its dtype there, as each cotangent must its argument's."""
    p = problem(name, 0, jnp.bfloat16)

    def last(floats):
        def body(carry, _):
            ys = p.rule(carry)
            size = sum((y.astype(jnp.float32).sum() for y in ys), jnp.float32(0))
            return [x + size.astype(x.dtype) for x in carry], None

        carry, _ = jax.lax.scan(body, floats, None, length=3)
        return sum(x.astype(jnp.float32).sum() for x in carry)

    lowered = jax.jit(jax.grad(last)).lower(p.floats)
    assert all(d.dtype == jnp.bfloat16 for d in jax.tree.leaves(lowered.out_info))


@each_kind
@pytest.mark.parametrize("rows", [0, 1])
def test_batches_of_none_and_one(name, rows, rng):
    row = ROWS[name]
    expected = row.empty if rows == 0 else row.single
    sample = row.samples(rng)[0]
    axes = row.batch or tuple(0 if getattr(a, "ndim", 0) else None for a in sample.args)
    args = tuple(a[:rows] if axis == 0 else a for a, axis in zip(sample.args, axes, strict=True))
    cut = Sample(args, sample.static)
    if expected == "is refused":
        with pytest.raises(ValueError, match="expected at least"):
            row.function(*args, **sample.static)
        return
    p = problem_of(row, cut)

    @jax.jit
    def value_and_cotangents(floats):
        ys, pull = jax.vjp(p.rule, floats)
        return ys, pull([jnp.ones_like(y) for y in ys])[0]

    ys, dx = jax.device_get(value_and_cotangents(p.floats))
    assert [y.shape for y in ys] == [y.shape for y in jax.eval_shape(p.plain, p.floats)]
    assert all(np.isfinite(d).all() for d in dx)
    if rows == 0 and 0 in axes:
        assert not any(map(np.any, dx))


def on_device(args):
    return jax.tree.map(lambda a: jax.device_put(a) if isinstance(a, np.ndarray) else a, args)


CONVENTIONS = [
    pytest.param(
        *(name, case, jit),
        id=f"{jit}-{name}: {case.why}",
        marks=[] if jit or name in UNJITTED else [pytest.mark.slow],
    )
    for name, row in ROWS.items()
    for index, case in enumerate(row.conventions)
    for jit in ((False, True) if index == 0 else (True,))
]


@pytest.mark.parametrize(("name", "case", "jit"), CONVENTIONS)
def test_conventions(name, case, jit):
    args = on_device(case.sample.args)
    leaves, tree = jax.tree.flatten(args)
    floats = [leaf for leaf in leaves if is_float(leaf)]

    def f(floats):
        it = iter(floats)
        filled = [next(it) if is_float(leaf) else leaf for leaf in leaves]
        return ROWS[name].function(*jax.tree.unflatten(tree, filled), **case.sample.static)

    def value_and_cotangents(floats):
        y, pull = jax.vjp(f, floats)
        return y, pull(jax.tree.map(jnp.ones_like, y))[0]

    y, dx = (jax.jit(value_and_cotangents) if jit else value_and_cotangents)(floats)
    if case.value is not None:
        for got, want in zip(jax.tree.leaves(y), jax.tree.leaves(case.value), strict=True):
            np.testing.assert_allclose(got, want, rtol=2 * EPS, atol=0)
    if case.cotangents is not None:
        wanted = [
            want
            for arg, cotangent in zip(args, case.cotangents, strict=True)
            if cotangent is not None
            for want in jax.tree.leaves(cotangent)
        ]
        for got, want in zip(dx, wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=2 * EPS, atol=EPS)


REFUSALS = [(name, refusal) for name, row in ROWS.items() for refusal in row.refusals]


@pytest.mark.parametrize(("name", "refusal"), REFUSALS, ids=[f"{n}: {r.why}" for n, r in REFUSALS])
def test_refusals(name, refusal):
    args = on_device(refusal.sample.args)
    with pytest.raises(refusal.error, match=refusal.match) as caught:
        ROWS[name].function(*args, **refusal.sample.static)
    assert str(caught.value).startswith(name)
    leaves, tree = jax.tree.flatten(args)
    if all(hasattr(leaf, "dtype") for leaf in leaves):
        # The same is said where a gradient is asked for, in the rule's own forward pass.
        where = [i for i, leaf in enumerate(leaves) if is_float(leaf)]

        def f(floats):
            filled = list(leaves)
            for i, value in zip(where, floats, strict=True):
                filled[i] = value
            return ROWS[name].function(*jax.tree.unflatten(tree, filled), **refusal.sample.static)

        if where:
            with pytest.raises(refusal.error, match=refusal.match):
                jax.vjp(f, [leaves[i] for i in where])


@each_sample
def test_residual_bytes(name, index):
    p = problem(name, index)

    def kept(floats):  # traced, which compiles nothing, and keeps the same
        _, pull = jax.vjp(p.rule, floats)
        own = {id(x) for x in floats}
        arrays = {id(leaf): leaf for leaf in jax.tree.leaves(pull) if id(leaf) not in own}
        found.append(sum(map(size, arrays.values())))

    def size(leaf):
        key = jnp.issubdtype(getattr(leaf, "dtype", bool), jax.dtypes.prng_key)
        counted = key or is_float(leaf) or getattr(leaf, "dtype", None) in ("uint8", "bool")
        leaf = jax.random.key_data(leaf) if key else leaf
        return leaf.size * leaf.dtype.itemsize if counted else 0

    found = []
    jax.eval_shape(kept, p.floats)
    assert found == [p.row.residual_bytes(p.sample, 8)]


# Where padding, a redrawn mask, a statistic's way out and an ignored label could give an alarm;
# `slow` has them all.
ALARMING = {("max_pool", 2), ("avg_pool", 7), ("dropout", 0), ("batch_norm", 0)}
ALARMING |= {("softmax_cross_entropy", 6)}
each_alarm = samples(lambda *sample: sample in ALARMING)


@pytest.mark.integration
@each_alarm
def test_finite_samples_give_no_alarm(name, index):
    """Under `jax_debug_infs` and `jax_debug_nans`, which look at every operation without jit."""
    p = problem(name, index)
    with jax.debug_infs(True), jax.debug_nans(True):
        ys, pull = jax.vjp(p.rule, p.floats)
        pull([jnp.ones_like(y) for y in ys])


@each_alarm
def test_checkify_finds_nothing(name, index):
    p = problem(name, index)
    if not p.floats:
        pytest.skip(f"{name} has no floats to differentiate here")

    def loss(floats):
        return sum(y.astype(jnp.float64).sum() for y in p.rule(floats))

    errors = checkify.index_checks | checkify.nan_checks | checkify.float_checks
    error, _ = jax.jit(checkify.checkify(jax.grad(loss), errors=errors))(p.floats)
    assert error.get() is None


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_transposed_convolutions_are_as_jax_has_them(padding, stride, rng):
    x = rng.normal(size=(2, 4, 3, 3))
    kernels = {(k, d): rng.normal(size=(k, k, 2, 3)) for k, d in ((1, 1), (2, 1), (3, 2), (4, 1))}

    def transposed(w, x, pads, dilation):
        return layers.conv2d_transpose(layers.ConvParams(w, None), x, stride, pads, dilation)

    @jax.jit
    def pairs(x, kernels):
        return {
            (k, d): (
                transposed(w, x, padding, d),
                jax.lax.conv_transpose(
                    x, w, (stride,) * 2, padding, (d, d), ("NHWC", "HWIO", "NHWC"), True
                ),
            )
            for (k, d), w in kernels.items()
        }

    for (k, dilation), (got, want) in pairs(x, kernels).items():
        assert worst([got], [want], EPS) <= 8 * k * k, (k, dilation)
        if padding == "VALID":  # torch's sizes: (h - 1) s - 2 p + d (k - 1) + output_padding + 1
            more = stride - 1
            pads = ((1, 1 - more),) * 2
            of_pads = functools.partial(transposed, pads=pads, dilation=dilation)
            size = jax.eval_shape(of_pads, kernels[k, dilation], x).shape[1]
            assert size == 3 * stride - 2 + dilation * (k - 1) + more + 1


def custom_rules():
    found = {}
    for module in pkgutil.walk_packages(funcnet.__path__, "funcnet."):
        if module.name.endswith(("_torch_worker", ".augment")):  # for torch; a former name, warns
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, jax.custom_vjp):
                found[id(value)] = value
    return list(found.values())


def test_every_rule_has_a_row():
    rules = custom_rules()
    assert {id(r) for r in rules} == {id(row.function) for row in ROWS.values()}
    assert len(rules) == len(ROWS)


@each_rule
def test_rules_close_over_nothing(name):
    rule = ROWS[name].function
    for part in (rule.fun, rule.fwd, rule.bwd):
        assert part.__closure__ is None
    assert rule.fun.__name__ not in rule.fwd.__code__.co_names, "fwd calls its decorated function"


def test_rows_are_whole():
    for row in ROWS.values():
        assert isinstance(row, Row)
        assert row.refusals, f"{row.name} refuses nothing"
        assert "Forward" in row.function.__doc__
        assert "Backward" in row.function.__doc__
        for part in ("Args:", "Returns:", "Raises:", "Source:", ">>>"):
            assert part in row.function.__doc__, f"{row.name}'s docstring has no {part}"
