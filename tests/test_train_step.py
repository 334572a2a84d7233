"""The pure train step, the state and its buffers, and many devices."""

import math
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import data, losses, nets, optimizers, train
from tests.small_runs import (
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
    x, y = jnp.asarray(rng.normal(size=(5, 4))), jnp.array([0, 1, 2, 2, 1])
    after, metrics = jax.jit(train.make_step(net, optimizer, reg=0.3))(state, (x, y))
    w, b = map(np.asarray, state.params)
    scores = np.asarray(x) @ w + b[None]
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    loss = -np.log(p[np.arange(5), y]).mean() + 0.15 * (w**2).sum()
    dz = (p - np.eye(3)[np.asarray(y)]) / 5
    dw, db = np.asarray(x).T @ dz + 0.3 * w, dz.sum(0)
    assert abs(metrics["loss"] - loss) < 20 * EPS * loss
    assert metrics["accuracy"] == np.float32((scores.argmax(1) == np.asarray(y)).mean())
    assert abs(metrics["grad_norm"] - math.sqrt((dw**2).sum() + (db**2).sum())) < 50 * EPS
    np.testing.assert_allclose(after.params.w, w - 0.5 * dw, atol=50 * EPS)
    np.testing.assert_allclose(after.params.b, b - 0.5 * db, atol=50 * EPS)
    assert after.step == 1
    assert_same(after.key, state.key)


def test_reg_and_learning_rate_may_be_traced(rng):
    """As a sweep needs it: one program for many strengths, each what it is alone."""
    net = nets.two_layer_net(6, 3)
    x, y = jnp.asarray(rng.normal(size=(5, 4))), jnp.array([0, 1, 2, 2, 1])

    def trained(reg, rate):
        optimizer = optimizers.momentum(rate)
        state = train.init_state(net, optimizer, KEY, (4,), jnp.float64)
        step = train.make_step(net, optimizer, reg=reg)
        for _ in range(3):
            state, metrics = step(state, (x, y))
        return state.params, metrics["loss"]

    regs, rates = jnp.array([0.0, 0.1, 1.0]), jnp.array([0.1, 0.05, 0.01])
    together = jax.jit(jax.vmap(trained))(regs, rates)
    for i in range(3):
        alone = jax.jit(trained)(regs[i], rates[i])
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone, 1e-12)


def test_label_smoothing_reaches_the_loss(rng):
    net, optimizer = nets.affine(3), optimizers.sgd(0.1)
    state = train.init_state(net, optimizer, KEY, (4,), jnp.float64)
    x, y = jnp.asarray(rng.normal(size=(5, 4))), jnp.array([0, 1, 2, 2, 1])
    _, metrics = jax.jit(train.make_step(net, optimizer, label_smoothing=0.2))(state, (x, y))
    expected = losses.softmax_cross_entropy(net.apply(state.params, (), x)[0], y, 0.2)
    assert abs(metrics["loss"] - expected) < 10 * EPS


def test_other_losses_and_float_targets(rng):
    net, optimizer = nets.affine(3), optimizers.sgd(0.1)
    state = train.init_state(net, optimizer, KEY, (4,), jnp.float64)
    x = jnp.asarray(rng.normal(size=(5, 4)))
    target = jnp.asarray(rng.normal(size=(5, 3)))
    step = jax.jit(train.make_step(net, optimizer, losses.mean_squared_error))
    _, metrics = step(state, (x, target))
    assert "accuracy" not in metrics
    expected = np.square(net.apply(state.params, (), x)[0] - target).mean()
    assert abs(metrics["loss"] - expected) < 20 * EPS * expected
    hinge = train.make_step(net, optimizer, losses.multiclass_hinge)
    assert "accuracy" in jax.eval_shape(hinge, state, (x, jnp.zeros(5, jnp.int32)))[1]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float64])
def test_every_dtype_trains_and_losses_are_float32_at_least(dtype):
    run = fit(dtype=dtype, epochs=3)
    assert {leaf.dtype for leaf in jax.tree.leaves(run.final.params)} == {jnp.dtype(dtype)}
    wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
    assert run.final.state["batch_norm1"].mean.dtype == run.losses.dtype == wide
    assert run.losses[-10:].mean() < 0.8 * run.losses[:10].mean()


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
    batch = jnp.ones((5, 4, 4, 1), jnp.float32), jnp.zeros(5, jnp.int32)
    traced = jax.jit(train.make_step(NET, optimizer)).trace(state, batch)
    branches = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.case")
        for platform in ("cpu", "cuda", "tpu")
    }
    # The choice of the platform is one with a constant index, which XLA folds away.
    assert branches["cpu"] == branches["cuda"] + 1 == branches["tpu"] + 1


# --- The state and its buffers


def test_row_35_no_two_leaves_share_a_buffer():
    def init(key, shape):
        tied = jnp.ones(shape)
        return {"a": tied, "b": tied}, {"c": tied}

    tied = nets.Net(init, lambda p, s, x, *, train=False, key=None: (x * p["a"] * p["b"], s))
    for net in (NET, tied):
        state = train.init_state(net, optimizers.adam(1e-3), KEY, (4, 4, 1))
        assert len(set(pointers(state))) == len(pointers(state))
        assert jax.random.key_data(KEY).unsafe_buffer_pointer() not in pointers(state)


def test_row_35_donation_is_used_and_changes_nothing():
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
    dataset = DATA._replace(train=data.Split(jnp.asarray(images), jnp.asarray(labels)))
    start = train.init_state(NET, optimizers.sgd(0.1), KEY, (4, 4, 1))
    run = fit(dataset=dataset, state=start, epochs=3)
    for tree in (dataset.train, start, run.best, run.final):
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(tree))
    np.testing.assert_array_equal(dataset.train.images, images)
    assert len(set(pointers(run.best) + pointers(run.final))) == 2 * len(pointers(run.best))


def test_row_36_the_callers_arrays_may_change_during_the_run():
    images = DATA.train.images.copy()

    def scribble(row):
        images[:] = 0

    run = fit(dataset=DATA._replace(train=data.Split(images, DATA.train.labels)), on_epoch=scribble)
    assert not images.any()
    assert_same(run.final, fit().final)


def test_compute_dtype_is_what_the_net_runs_in_and_nothing_else():
    net = nets.serial(
        nets.conv(4, 3), nets.relu(), nets.max_pool(), nets.flatten(), nets.affine(8),
        nets.batch_norm(), nets.relu(), nets.affine(3),
    )  # fmt: skip
    optimizer = optimizers.adam(1e-3)
    state = train.init_state(net, optimizer, jax.random.key(0), (8, 8, 3))
    rng = np.random.default_rng(0)
    batch = jnp.asarray(rng.normal(size=(6, 8, 8, 3)), jnp.float32), jnp.arange(6) % 3
    plain, low = (train.make_step(net, optimizer, compute_dtype=d) for d in (None, jnp.bfloat16))

    dtypes = set()

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name.startswith("funcnet_"):
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


def test_compute_dtype_is_a_floating_dtype():
    with pytest.raises(TypeError, match=r"compute_dtype is .*int8.*expected a floating dtype"):
        train.make_step(nets.affine(3), optimizers.sgd(0.1), compute_dtype=jnp.int8)


# --- Many devices


DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
from funcnet import losses, nets, optimizers, train

net = nets.fully_connected_net([12], 3, norm="batch", dropout=0.2)
optimizer = optimizers.adam(1e-2)
rng = np.random.default_rng(0)
# Each device's share has a mean of its own, so that statistics of a share would show.
x = rng.normal(size=(10, 16, 6)) + np.repeat(np.arange(8), 2)[None, :, None]
y = rng.integers(0, 3, (10, 16), dtype=np.int32)
step = jax.jit(train.make_step(net, optimizer, reg=0.1), donate_argnums=0)

def trained(count):
    mesh = Mesh(np.array(jax.devices()[:count]), ("batch",))
    state = train.init_state(net, optimizer, jax.random.key(0), (6,), jnp.float64)
    state = jax.device_put(state, NamedSharding(mesh, P()))
    values = []
    for batch in zip(x, y):
        before = jax.tree.map(lambda leaf: leaf.sharding, state.params)
        state, metrics = step(state, jax.device_put(batch, NamedSharding(mesh, P("batch"))))
        values.append(float(metrics["loss"]))
        after = jax.tree.map(lambda leaf: leaf.sharding, state.params)
        same = jax.tree.map(lambda a, b, leaf: a.is_equivalent_to(b, leaf.ndim), before, after,
                            state.params)
        assert all(jax.tree.leaves(same)), "the step changed where parameters lie"
    for leaf in jax.tree.leaves(state.params):
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(shard.data, leaf)
    return jax.tree.map(np.asarray, state[:3]), np.array(values)

(one, values_1), (eight, values_8) = trained(1), trained(8)
for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight)):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * max(1.0, np.abs(a).max()))
np.testing.assert_allclose(values_1, values_8, rtol=1e-12)

# The test can fail: with statistics of each share the loss is another.
state = train.init_state(net, optimizer, jax.random.key(0), (6,), jnp.float64)
def mean_loss(x, y):
    z, _ = net.apply(state.params, state.state, x, train=True, key=state.key)
    return losses.softmax_cross_entropy(z, y)
shares = jax.vmap(mean_loss)(jnp.asarray(x[0]).reshape(8, 2, 6), jnp.asarray(y[0]).reshape(8, 2))
assert abs(float(shares.mean() - mean_loss(jnp.asarray(x[0]), jnp.asarray(y[0])))) > 1e-3
print("8 devices:", len(jax.devices()))
"""


def test_rows_38_39_41_eight_devices_give_what_one_gives():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DEVICES)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "8 devices: 8" in done.stdout
