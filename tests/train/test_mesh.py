"""`fit` over the devices of a mesh: what one device makes of it, wherever the state lies."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import losses, nets, optimizers, train
from tests.support.processes import device_flags, run_python
from tests.support.spread_runs import spread

TOLERANCE = 1e-12


def compare(found, case, one, wanted=None):
    own = {name.removeprefix(f"{case} "): a for name, a in found.items() if f"{case} " in name}
    want = {n.removeprefix(f"{one} "): a for n, a in (wanted or found).items() if f"{one} " in n}
    assert own.keys() == want.keys()
    assert {"losses", "val_accuracy", "['final'][0]['affine1'].w"} < own.keys()
    for name, array in own.items():
        scale = max(np.abs(want[name]).max(initial=0), 1e-9)
        assert np.abs(array - want[name]).max(initial=0) <= TOLERANCE * scale, (case, name)


@pytest.fixture(scope="module")
def over_devices(tmp_path_factory):
    out = tmp_path_factory.mktemp("spread") / "devices.npz"
    cases = ("one/1", "data/8", "fsdp/8", "rules/4", "one/layer", "accumulate/2")
    return spread(out, cases)


@pytest.mark.integration
@pytest.mark.parametrize("case", ["data/8", "fsdp/8", "rules/4"])
def test_fit_over_devices_is_fit_on_one(over_devices, case):
    compare(over_devices, case, "one/1")


@pytest.mark.integration
def test_accumulated_parts_make_the_large_batch(over_devices):
    """With layer norm and no dropout, which know nothing of other rows."""
    compare(over_devices, "accumulate/2", "one/layer")


@pytest.mark.integration
def test_fit_over_two_processes_is_fit_on_one(over_devices, tmp_path):
    """The processes' two devices each; parameters in parts over all four."""
    found = spread(tmp_path / "two.npz", ["data/4", "fsdp/4"], devices=2, processes=2)
    for case in ("data/4", "fsdp/4"):
        compare(found, case, "one/1", over_devices)


@pytest.mark.slow
def test_fit_over_fewer_devices_and_more_processes(over_devices, tmp_path):
    cases = ["data/1", "data/2", "data/4", "fsdp/2", "fsdp/4", "rules/8", "rules/2"]
    found = spread(tmp_path / "few.npz", cases)
    for case in cases:
        compare(found, case, "one/1", over_devices)
    found = spread(tmp_path / "four.npz", ["data/4", "fsdp/4", "rules/4"], 1, processes=4)
    for case in ("data/4", "fsdp/4", "rules/4"):
        compare(found, case, "one/1", over_devices)


@pytest.mark.integration
def test_over_eight_devices_in_one_process():
    """Bits of batches, where leaves lie, data that are in parts already, evaluation, refusals."""
    run_python(
        """
import jax, jax.numpy as jnp, numpy as np, pytest
from jax.sharding import NamedSharding, PartitionSpec as P
from funcnet import data, layers, nets, optimizers, train
from funcnet.train._batches import batch_maker
from funcnet.train._mesh import layout_of
from tests.support.spread_runs import DATA, RULES, crop, mesh_of

mesh = jax.make_mesh((8,), ("data",))
layout = layout_of("fit", mesh, "data")
preprocessing = data.fit_preprocessing(DATA.train.images)
net, optimizer = nets.two_layer_net(16, 3), optimizers.adam(0.1)
state = train.init_state(net, optimizer, jax.random.key(0), (6, 6, 1))
before = jax.device_get(state.params)

# Rows, crops and masks.
def batch(state, split, layout):
    order = train.batch_order(state.key, 1, 400, 40)
    x, y = batch_maker("order", crop, jnp.float32, layout)(state, order, 3, split, preprocessing)
    return order, x, y, layers.dropout(state.key, jnp.ones((40, 16)), 0.5)

one = jax.jit(batch, static_argnums=2)(state, tuple(DATA.train), None)
split = layout.put(tuple(DATA.train))
over = jax.jit(batch, static_argnums=2)(layout.place(state), split, layout)
assert over[1].sharding.is_equivalent_to(NamedSharding(mesh, P("data")), 4)
for a, b in zip(one, over, strict=True):
    assert np.array_equal(a, b)

# A copy shares nothing, and the optimizer's state follows its parameter.
for shard, spec in (("data", P()), ("fsdp", P(None, ("data",)))):
    placed = train.place(state, mesh, shard)
    assert placed.params["affine1"].w.sharding.spec == spec
    assert placed.opt_state.mu["affine1"].w.sharding.spec == spec, shard
    assert placed.step.sharding.spec == P()
    jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s[:3]), donate_argnums=0)(placed)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, jax.device_get(state.params)))
two = train.place(state, mesh_of(8, 2), RULES)
assert two.opt_state.nu["affine1"].w.sharding.spec == P(None, "model")
assert two.params["affine1"].b.sharding.spec == P()
again = train.place(two, mesh, "fsdp")
assert jax.tree.all(jax.tree.map(np.array_equal, before, jax.device_get(again.params)))

# Adafactor's factors are no parameter's shape.
import optax
factored = train.init_state(net, optax.adafactor(0.1), jax.random.key(0), (6, 6, 1))
train.place(factored, mesh, "fsdp"), train.place(factored, mesh_of(8, 2), RULES)

# Images that lie in parts stay so, and choose the mesh.
images = jax.device_put(DATA.train.images, NamedSharding(mesh, P("data")))
own = data.Dataset(data.Split(images, DATA.train.labels), DATA.val, None, 3)
held = []
run = train.fit(net, own, optimizer, 1, 40, on_chunk=held.append)
assert len(run.final.params["affine1"].w.sharding.device_set) == 8
plain = train.fit(net, DATA, optimizer, 1, 40)
assert np.abs(plain.losses - run.losses).max() < 1e-5

# Evaluation: 100 rows, 30 at a time, which eight do not divide.
few = train.evaluate(net, plain, DATA.val, batch_size=30)
for trained in (plain, run):
    on_mesh = train.evaluate(net, trained, DATA.val, batch_size=30, mesh=mesh)
    assert on_mesh["accuracy"] == few["accuracy"]
    assert abs(on_mesh["loss"] - few["loss"]) < 1e-5

# Resumed on other devices.
kept = []
first = train.fit(net, DATA, optimizer, 2, 40, chunk_steps=7, mesh=mesh, shard="fsdp",
    on_epoch=lambda row: "enough" if row["epoch"] == 1 else None)
rest = train.fit(net, DATA, optimizer, 2, 40, resume=first, mesh=mesh_of(4))
assert np.abs(rest.losses - train.fit(net, DATA, optimizer, 2, 40).losses).max() < 1e-5

# Refusals.
def fit(**options):
    train.fit(net, DATA, optimizer, 1, **{"batch_size": 40, "mesh": mesh} | options)

for options, error, words in (
    ({"batch_size": 100}, ValueError, "batch_size is 100, .*8 parts of the mesh do not divide; "
        "expected a multiple of 8, the next is 104"),
    ({"accumulate": 3}, ValueError, "8 parts of the mesh and accumulate=3 .*the next is 48"),
    ({"mesh": None, "accumulate": 3}, ValueError, "which accumulate=3 do not .*the next is 42"),
    ({"accumulate": 0}, ValueError, "accumulate is 0"),
    ({"sampling": "full", "accumulate": 7}, ValueError, "a batch of all rows is 400.*first 392"),
    ({"mesh": 8}, TypeError, "mesh is a int, expected a jax.sharding.Mesh"),
    ({"shard": "rows"}, ValueError, "shard is 'rows', expected one of data, fsdp, or pairs"),
    ({"shard": [("(", P())]}, TypeError, "expected data, fsdp, or pairs"),
    ({"shard": [("w", "data")]}, TypeError, "expected a jax.sharding.PartitionSpec"),
    ({"shard": [("w", P("model"))]}, ValueError, "but the mesh's axes are data"),
    ({"shard": [("afine", P("data"))]}, ValueError, "'afine' is found; names are params.affine1"),
    ({"shard": [("affine2.w", P(None, "data"))]}, ValueError, "cuts 3 of params.affine2.w"),
    ({"shard": [("affine1.b", P(None, "data"))]}, ValueError, "has more axes than params.affine1"),
):
    with pytest.raises(error, match=words):
        fit(**options)
""",
        XLA_FLAGS=device_flags(8),
    )


@pytest.mark.parametrize("kind", ["plain", "ignored", "weighted"])
def test_parts_of_a_batch_have_its_gradient(kind):
    """Of labels of which not all count, a whole part of them not, and of classes that weigh."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 5)), rng.integers(0, 3, 12).astype(np.int32)
    loss = losses.softmax_cross_entropy
    if kind == "ignored":
        y[::4], y[1] = -1, -1
        loss = partial(loss, ignore_index=-1)
    if kind == "weighted":
        loss = partial(loss, class_weights=jnp.array([1.0, 3.0, 0.5]))
    net, optimizer = nets.serial(nets.affine(8), nets.tanh(), nets.affine(3)), optimizers.sgd(1.0)
    state = train.init_state(net, optimizer, jax.random.key(0), (5,), jnp.float64)

    @partial(jax.jit, static_argnums=0)
    def after(parts):
        step = train.make_step(net, optimizer, loss, reg=0.1, accumulate=parts)
        state_after, metrics = step(state, (x, y))
        return state_after.params, metrics

    want, got = after(1), after(4)
    assert sorted(got[1]) == sorted(want[1])
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=TOLERANCE)


@pytest.mark.integration
def test_a_line_search_asks_for_the_whole_batch_in_parts():
    x, y = np.linspace(-1, 1, 24).reshape(8, 3), np.arange(8, dtype=np.int32) % 2
    net, optimizer = nets.affine(2), optax.lbfgs()
    state = train.init_state(net, optimizer, jax.random.key(0), (3,), jnp.float64)
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        one, two = (
            jax.jit(train.make_step(net, optimizer, accumulate=parts))(state, (x, y))[0].params.w
            for parts in (1, 2)
        )
    np.testing.assert_allclose(one, two, rtol=0, atol=TOLERANCE)
    with pytest.raises(ValueError, match="8 rows, which accumulate=3 does not divide"):
        train.make_step(net, optimizer, accumulate=3)(state, (x, y))


def test_batch_norm_of_parts_is_each_parts_own():
    """The difference that `make_step` states: each part moves the running statistics."""
    x, y = np.arange(8.0)[:, None], np.zeros(8, np.int32)
    net, optimizer = nets.serial(nets.batch_norm(0.5), nets.affine(2)), optimizers.sgd(0.1)
    state = train.init_state(net, optimizer, jax.random.key(0), (1,), jnp.float64)
    step = jax.jit(train.make_step(net, optimizer, accumulate=2))
    mean = step(state, (x, y))[0].state["batch_norm1"].mean
    # Rows 0, 2, 4, 6 and then 1, 3, 5, 7: means 3 and 4, each with half a weight.
    np.testing.assert_allclose(mean, [0.5 * (0.5 * 3) + 0.5 * 4])
