"""The pure train step, the state and its buffers."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import data, losses, nets, optimizers, train
from tests.support.lanes import by_default
from tests.support.small_runs import (
    DATA,
    EPS,
    KEY,
    NET,
    Counted,
    assert_close,
    assert_same,
    batches,
    fit,
    pointers,
)

# --- The step


def test_step_by_hand(rng):
    """One step of plain gradient descent against the formula, penalty included."""
    net, optimizer = nets.affine(3), optimizers.sgd(0.5)
    state = train.init_state(net, optimizer, KEY, (4,), jnp.float64)
    x, y = rng.normal(size=(5, 4)), np.array([0, 1, 2, 2, 1])
    after, metrics = jax.jit(train.make_step(net, optimizer, reg=0.3))(state, (x, y))
    w, b = map(np.asarray, state.params)
    scores = x @ w + b[None]
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    loss = -np.log(p[np.arange(5), y]).mean() + 0.15 * (w**2).sum()
    dz = (p - np.eye(3)[y]) / 5
    dw, db = x.T @ dz + 0.3 * w, dz.sum(0)
    assert abs(metrics["loss"] - loss) < 20 * EPS * loss
    assert metrics["accuracy"] == np.float32((scores.argmax(1) == y).mean())
    assert abs(metrics["grad_norm"] - math.sqrt((dw**2).sum() + (db**2).sum())) < 50 * EPS
    np.testing.assert_allclose(after.params.w, w - 0.5 * dw, atol=50 * EPS)
    np.testing.assert_allclose(after.params.b, b - 0.5 * db, atol=50 * EPS)
    assert after.step == 1
    assert_same(after.key, state.key)


@pytest.mark.slow
def test_reg_and_learning_rate_may_be_traced(rng):
    """As a sweep needs it: one program for many strengths, each what it is alone."""
    net = nets.two_layer_net(6, 3)
    x, y = rng.normal(size=(5, 4)), np.array([0, 1, 2, 2, 1])

    def trained(reg, rate):
        optimizer = optimizers.momentum(rate)
        state = train.init_state(net, optimizer, KEY, (4,), jnp.float64)
        step = train.make_step(net, optimizer, reg=reg)
        for _ in range(3):
            state, metrics = step(state, (x, y))
        return state.params, metrics["loss"]

    regs, rates = np.array([0.0, 0.1, 1.0]), np.array([0.1, 0.05, 0.01])
    together = jax.device_get(jax.jit(jax.vmap(trained))(regs, rates))
    alone = jax.jit(trained)
    for i in range(3):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        assert_close(own, alone(regs[i], rates[i]), 1e-12)


def test_label_smoothing_reaches_the_loss(rng):
    net, optimizer = nets.affine(3), optimizers.sgd(0.1)
    state = train.init_state(net, optimizer, KEY, (4,), jnp.float64)
    x, y = rng.normal(size=(5, 4)), np.array([0, 1, 2, 2, 1])
    step = train.make_step(net, optimizer, label_smoothing=0.2)

    @jax.jit
    def both(state):
        scores = net.apply(state.params, (), x)[0]
        return step(state, (x, y))[1]["loss"], losses.softmax_cross_entropy(scores, y, 0.2)

    found, expected = both(state)
    assert abs(found - expected) < 10 * EPS


def test_other_losses_and_float_targets(rng):
    net, optimizer = nets.affine(3), optimizers.sgd(0.1)
    state = train.init_state(net, optimizer, KEY, (4,), jnp.float64)
    x, target = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
    step = jax.jit(train.make_step(net, optimizer, losses.mean_squared_error))
    _, metrics = step(state, (x, target))
    assert "accuracy" not in metrics
    w, b = map(np.asarray, state.params)
    expected = np.square(x @ w + b - target).mean()
    assert abs(metrics["loss"] - expected) < 20 * EPS * expected
    hinge = train.make_step(net, optimizer, losses.multiclass_hinge)
    assert "accuracy" in jax.eval_shape(hinge, state, (x, jnp.zeros(5, jnp.int32)))[1]


@pytest.mark.parametrize(
    "dtype", by_default([jnp.bfloat16, jnp.float16, jnp.float64], {jnp.bfloat16, jnp.float64})
)
def test_every_dtype_trains_and_losses_are_float32_at_least(dtype):
    run = fit(dtype=dtype, epochs=3)
    assert {leaf.dtype for leaf in jax.tree.leaves(run.final.params)} == {jnp.dtype(dtype)}
    wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
    assert run.final.state["batch_norm1"].mean.dtype == run.losses.dtype == wide
    assert run.losses[-10:].mean() < 0.8 * run.losses[:10].mean()


@pytest.mark.integration
def test_any_optax_optimizer_will_do():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optimizers.adam(1e-2))
    run = fit(optimizer=optimizer)
    assert run.losses[-5:].mean() < run.losses[:5].mean()
    # Its counts start with weak types, and its corrections mix dtypes.
    with jax.numpy_dtype_promotion("standard"):
        optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=1e-2)
        counted = Counted()
        run = fit(counted.net, optimizer=optimizer)
    assert run.losses[-5:].mean() < run.losses[:5].mean()
    assert counted.traces(train=True, rows=10) == 1


def test_the_step_lowers_for_every_platform_and_branches_on_a_cpu_only():
    optimizer = optimizers.adam(1e-2)
    state = train.init_state(NET, optimizer, KEY, (4, 4, 1))
    batch = np.ones((5, 4, 4, 1), np.float32), np.zeros(5, np.int32)
    traced = jax.jit(train.make_step(NET, optimizer)).trace(state, batch)
    branches = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.case")
        for platform in ("cpu", "cuda", "tpu")
    }
    # The choice of the platform is one with a constant index, which XLA folds away.
    assert branches["cpu"] == branches["cuda"] + 1 == branches["tpu"] + 1


# --- The state and its buffers


def test_no_two_leaves_share_a_buffer():
    def init(key, shape):
        tied = jnp.ones(shape)
        return {"a": tied, "b": tied}, {"c": tied}

    tied = nets.Net(init, lambda p, s, x, *, train=False, key=None: (x * p["a"] * p["b"], s))
    for net in (NET, tied):
        state = train.init_state(net, optimizers.adam(1e-3), KEY, (4, 4, 1))
        assert len(set(pointers(state))) == len(pointers(state))
        assert jax.random.key_data(KEY).unsafe_buffer_pointer() not in pointers(state)


def test_donation_is_used_and_changes_nothing():
    optimizer = optimizers.adam(1e-2)
    preprocessing = data.fit_preprocessing(DATA.train.images)
    step = train.make_step(NET, optimizer)
    kept, donated = jax.jit(step), jax.jit(step, donate_argnums=0)
    a = train.init_state(NET, optimizer, KEY, (4, 4, 1))
    b = train.init_state(NET, optimizer, KEY, (4, 4, 1))
    for batch in batches(DATA, preprocessing, KEY, 0, 10, jnp.float32):
        before = b
        (a, _), (b, _) = kept(a, batch), donated(b, batch)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
        assert_same(a, b)
    assert not KEY.is_deleted()
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(before.params["affine1"].w)


def test_fit_harms_neither_its_arguments_nor_its_results():
    images, labels = (np.array(a) for a in DATA.train)
    dataset = DATA._replace(train=data.Split(*map(jax.device_put, (images, labels))))
    start = train.init_state(NET, optimizers.sgd(0.1), KEY, (4, 4, 1))
    run = fit(dataset=dataset, state=start, epochs=3)
    for tree in (dataset.train, start, run.best, run.final):
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(tree))
    np.testing.assert_array_equal(dataset.train.images, images)
    assert len(set(pointers(run.best) + pointers(run.final))) == 2 * len(pointers(run.best))


def test_the_callers_arrays_may_change_during_the_run():
    images = DATA.train.images.copy()

    def scribble(row):
        images[:] = 0

    run = fit(dataset=DATA._replace(train=data.Split(images, DATA.train.labels)), on_epoch=scribble)
    assert not images.any()
    assert_same(run.final, fit().final)


@pytest.mark.integration
def test_compute_dtype_is_what_the_net_runs_in_and_nothing_else():
    net = nets.serial(
        nets.conv(4, 3), nets.relu(), nets.max_pool(), nets.flatten(), nets.affine(8),
        nets.batch_norm(), nets.relu(), nets.affine(3),
    )  # fmt: skip
    optimizer = optimizers.adam(1e-3)
    state = train.init_state(net, optimizer, jax.random.key(0), (8, 8, 3))
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(6, 8, 8, 3)).astype(np.float32), np.arange(6) % 3
    plain, low = (train.make_step(net, optimizer, compute_dtype=d) for d in (None, jnp.bfloat16))

    dtypes = set()

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name.startswith(("funcnet_conv", "funcnet_product")):
                dtypes.update(v.aval.dtype.name for v in equation.invars[:2])
            for value in jax.tree.leaves(tuple(equation.params.values()), is_leaf=hasattr_eqns):
                if hasattr_eqns(value):
                    walk(getattr(value, "jaxpr", value))

    def hasattr_eqns(value):
        return hasattr(value, "eqns")

    walk(jax.make_jaxpr(low)(state, batch).jaxpr)
    assert dtypes == {"bfloat16"}
    (want, wanted), (got, metrics) = jax.jit(plain)(state, batch), jax.jit(low)(state, batch)
    assert jax.tree.map(lambda leaf: leaf.dtype, got) == jax.tree.map(lambda leaf: leaf.dtype, want)
    assert metrics["loss"].dtype == jnp.float32
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    np.testing.assert_allclose(metrics["loss"], wanted["loss"], rtol=8 * eps)
    np.testing.assert_allclose(metrics["grad_norm"], wanted["grad_norm"], rtol=32 * eps)


# --- What an optimizer is given


def steps_with(optimizer, reg=0.0, steps=3, net=NET):
    """The losses of a few steps on one batch, under the promotion that optax needs."""
    x = np.linspace(-1, 1, 60, dtype=np.float32).reshape(6, 10)
    batch = x**2, np.array([0, 1, 2, 0, 1, 2], np.int32)
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.enable_x64(False),
    ):
        state = train.init_state(net, optimizer, KEY, (10,))
        step = jax.jit(train.make_step(net, optimizer, reg=reg))
        lost = []
        for _ in range(steps):
            state, metrics = step(state, batch)
            lost.append(float(metrics["loss"]))
        return lost, state


@pytest.mark.integration
def test_update_is_given_the_loss_the_gradient_and_the_objective():
    """The objective is what is differentiated: with the penalty, on this batch."""

    def update(grads, state, params, *, value, grad, value_fn, **_):
        again, its_grad = jax.value_and_grad(value_fn)(params)
        moved = value_fn(jax.tree.map(lambda p: p + 1, params))
        off = optax.tree.norm(jax.tree.map(jnp.subtract, grad, its_grad))
        seen = jnp.stack([value, again, moved, off, optax.tree.norm(grads)])
        return jax.tree.map(jnp.zeros_like, grads), seen

    def probe(params):
        return jnp.zeros(5)

    optimizer = optax.GradientTransformationExtraArgs(probe, update)
    lost, state = steps_with(optimizer, reg=0.3, steps=1)
    value, again, moved, off, size = np.asarray(state.opt_state)
    assert value == lost[0] == again
    assert moved > value + 1  # the penalty of larger weights
    assert off <= 1e-6 * size


LINE_SEARCH = optax.scale_by_backtracking_linesearch(5)
GIVEN = {
    "polyak_sgd": optax.polyak_sgd(1.0),
    "momo": optax.contrib.momo(0.1),
    "reduce_on_plateau": optax.chain(optimizers.adam(0.1), optax.contrib.reduce_on_plateau()),
    "a line search": optax.chain(optimizers.sgd(1.0), LINE_SEARCH),
    "sam, which takes none": optax.contrib.sam(
        optimizers.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    ),
}


@pytest.mark.integration
@pytest.mark.parametrize("name", by_default(GIVEN, {"momo", "a line search"}))
def test_optimizers_that_need_the_loss_learn(name):
    lost, _ = steps_with(GIVEN[name], steps=6)
    assert lost[-1] < lost[0]


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            optax.contrib.differentially_private_aggregate(1.0, 0.1, key=0),
            "its? .*update that failed.* grads .of the mean",
        ),
        (
            optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1), opaque_mode=True),
            "grad_fn(.|\\n)*params, and no more; an",
        ),
        (
            optax.GradientTransformation(lambda p: (), lambda g, s, p, *, labels: (g, s)),
            "labels(.|\n)*params, and no more; an",
        ),
    ],
)
def test_optimizers_that_need_more_are_refused(optimizer, message):
    with pytest.raises((TypeError, ValueError), match=message):
        steps_with(optimizer)


# What the functions of optax need, by the names of their arguments.
ARGUMENTS = {
    **{"learning_rate": 0.01, "step_size": -0.1, "max_learning_rate": 0.1, "weight_decay": 1e-4},
    **{"eta": 0.01, "gamma": 0.55, "decay": 0.9, "threshold": 1.0, "clipping": 0.1, "alpha": 0.5},
    **{"key": 0, "seed": 0, "max_delta": 1.0, "max_norm": 1.0, "noise_multiplier": 0.1},
    **{"l2_norm_clip": 1.0, "max_linesearch_steps": 5, "max_backtracking_steps": 5, "rank": 2},
    **{"max_consecutive_errors": 2, "k": 2, "sync_period": 2, "slow_step_size": 0.5},
    **dict.fromkeys(["inner", "optimizer", "base_optimizer", "tx", "opt"], optax.sgd(0.1)),
    **dict.fromkeys(["fast_optimizer", "adv_optimizer"], optax.sgd(0.1)),
    "step_size_fn": lambda step: -0.1,
    "f": lambda g, p=None: g,
    "should_transform_fn": lambda *_, **__: jnp.asarray(True),
    "mask": True,
    "freeze_mask": False,
    "measure_name": "norm",
    "measure": optax.tree.norm,
    "transforms": {"all": optax.sgd(0.1)},
    "param_labels": lambda params: jax.tree.map(lambda _: "all", params),
    "inner_factory": optax.sgd,
}
# Why some of them make no step of a run.
REFUSED = {
    "inject_hyperparams": "makes a function that makes an optimizer",
    "inject_stateful_hyperparams": "the same",
    "lookahead": "its parameters are pairs, fast and slow",
    "measure_with_ema": "needs a measure of its own kind",
    "scale_by_muon": "needs matrices alone, and muon sees to that",
    "differentially_private_aggregate": "needs the gradients of single examples",
    "dpsgd": "the same",
}


def optimizers_of_optax():
    for room in (optax, optax.contrib):
        for name, function in inspect.getmembers(room, inspect.isfunction):
            said = str(inspect.signature(function).return_annotation)
            if not name.startswith("_") and "Transformation" in said:
                yield name, function


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:optax")
def test_every_optimizer_of_optax_makes_three_steps():
    """A table of what works: all but what `REFUSED` says, and that raises before the first step."""
    failed = {}
    for name, function in optimizers_of_optax():
        parameters = inspect.signature(function).parameters.values()
        given = {
            p.name: ARGUMENTS[p.name]
            for p in parameters
            if p.name in ARGUMENTS and (p.default is p.empty or p.name == "key")
        }
        parts = {"chain": [optax.sgd(0.1)], "named_chain": [("one", optax.sgd(0.1))]}.get(name, [])
        try:
            lost, _ = steps_with(function(*parts, **given))
            assert np.all(np.isfinite(lost)), name
        except (TypeError, ValueError, AttributeError) as error:
            failed[name] = error
    surprises = set(failed) ^ set(REFUSED)
    assert not surprises, {name: repr(failed.get(name, "works")) for name in surprises}


def test_complex_parameters_go_downhill(rng):
    """The gradient by a complex number is conjugated: w' = w - rate dL/dRe w - i rate dL/dIm w."""
    w = jax.device_put(rng.normal(size=(4, 3)) + 1j * rng.normal(size=(4, 3)))
    x, y = rng.normal(size=(5, 4)), np.array([0, 1, 2, 2, 1])

    def score(params, x):
        return jnp.abs(x.astype(complex) @ params) ** 2

    def apply(params, state, x, *, train=False, key=None):
        return score(params, x), state

    net, optimizer = nets.Net(lambda key, shape: (w, ()), apply), optimizers.sgd(0.1)
    state = train.init_state(net, optimizer, KEY, (4,), jnp.float64)
    after, metrics = jax.jit(train.make_step(net, optimizer))(state, (x, y))

    def loss(re, im):
        return losses.softmax_cross_entropy(score(jax.lax.complex(re, im), x), y)

    w = np.asarray(w)
    re, im = map(np.asarray, jax.jit(jax.grad(loss, (0, 1)))(w.real, w.imag))
    np.testing.assert_allclose(after.params, w - 0.1 * (re + 1j * im), rtol=1e-12)
    size = math.sqrt((re**2).sum() + (im**2).sum())
    np.testing.assert_allclose(metrics["grad_norm"], size, rtol=1e-12)


# --- The parameters that are evaluated


@pytest.mark.integration
@pytest.mark.parametrize(
    "how", by_default(["schedule_free", "evaluation_params"], {"evaluation_params"})
)
def test_what_is_evaluated_is_delivered(how):
    """The number logged is that of `best.params`; `final` goes on to the same bits."""
    if how == "schedule_free":
        free = optax.contrib.schedule_free(optax.sgd(0.5), 0.5)
        optimizer, options = optax.chain(optax.clip_by_global_norm(9.0), free), {}

        def averaged(state):
            return optax.contrib.schedule_free_eval_params(state.opt_state[1], state.params)
    else:
        optimizer = optax.chain(optax.sgd(0.5), mean_of_params())
        options = {"evaluation_params": lambda opt_state, params: opt_state[1]}

        def averaged(state):
            return state.opt_state[1]

    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(False):
        run = fit(optimizer=optimizer, epochs=3, **options)
        half = fit(optimizer=optimizer, epochs=1, **options)
        again = fit(optimizer=optimizer, epochs=3, resume=half, **options)
        delivered = jax.jit(averaged)(run.final)
    assert_same(again.final, run.final)
    assert_same(again.best, run.best)
    assert again.history["val_loss"] == run.history["val_loss"]
    found = train.evaluate(NET, run.best, DATA.val, run.preprocessing)
    row = next(row for row in run.history if row["epoch"] == run.best_epoch)
    assert (found["accuracy"], found["loss"]) == (row["val_accuracy"], row["val_loss"])
    last = train.evaluate(NET, (delivered, run.final.state), DATA.val, run.preprocessing)
    other = train.evaluate(NET, run.final, DATA.val, run.preprocessing)
    # Averaged by a program of its own, whose last digit may be another.
    eps = float(np.finfo(np.float32).eps)
    assert last["loss"] == pytest.approx(run.history[-1]["val_loss"], rel=4 * eps, abs=0)
    assert last["loss"] != pytest.approx(other["loss"], rel=100 * eps, abs=0)


def mean_of_params(decay=0.5):
    """An optimizer's last link, whose state is a moving mean of the parameters."""

    def update(updates, state, params):
        new = optax.apply_updates(params, updates)
        return updates, jax.tree.map(lambda m, p: decay * m + (1 - decay) * p, state, new)

    return optax.GradientTransformation(lambda params: params, update)


def test_parameters_to_evaluate_that_are_others_are_refused():
    def first(opt_state, params):
        return jax.tree.leaves(params)[0]

    with pytest.raises(TypeError, match=r"evaluation_params"):
        fit(epochs=1, evaluation_params=first)
    partly = optax.masked(
        optax.contrib.schedule_free_sgd(0.1), lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
    )
    with (
        pytest.raises(ValueError, match=r"only some of the parameters.*evaluation_params=function"),
        jax.numpy_dtype_promotion("standard"),
    ):
        fit(optimizer=partly, epochs=1)


def test_compute_dtype_is_a_floating_dtype():
    with pytest.raises(TypeError, match=r"compute_dtype is .*int8.*expected a floating dtype"):
        train.make_step(nets.affine(3), optimizers.sgd(0.1), compute_dtype=jnp.int8)


@pytest.mark.parametrize("wrong", ["data", jax.sharding.PartitionSpec(), 3])
def test_compute_sharding_is_a_sharding(wrong):
    with pytest.raises(TypeError, match=r"compute_sharding is .*expected a jax.sharding.Sharding"):
        train.make_step(nets.affine(3), optimizers.sgd(0.1), compute_sharding=wrong)
