"""Training: the step, the compiled epoch, fit, evaluation, and what happens when things fail."""

import math
import os
import re
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import data, layers, losses, nets, optimizers, train
from funcnet.layers import AffineParams
from funcnet.train import _fit

KEY = jax.random.key(0)
EPS = float(np.finfo(np.float64).eps)

DATA = data.synthetic(shape=(4, 4, 1), classes=3, sizes=(103, 30, 20), noise=0.4)
NET = nets.fully_connected_net([8], 3, norm="batch")
DROPOUT_NET = nets.fully_connected_net([8], 3, norm="batch", dropout=0.2)


def fit(net=NET, dataset=DATA, optimizer=None, **options):
    settings = {"epochs": 2, "batch_size": 10, **options}
    return train.fit(net, dataset, optimizer or optimizers.sgd(0.1), **settings)


def assert_same(a, b):
    """Equal to the bit, leaf by leaf."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(*map(numbers, (x, y)))


def assert_close(a, b, rtol):
    """Each leaf within rtol of its largest entry."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = numbers(x), numbers(y)
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * max(np.abs(y).max(initial=0), 1e-300))


def numbers(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def copied(tree):
    return jax.tree.map(lambda leaf: leaf.copy(), tree)


def batches(dataset, preprocessing, key, epoch, batch_size, dtype, **options):
    """An epoch's batches as arrays, gathered by NumPy: what the compiled epoch must see."""
    images, labels = dataset.train
    order = train.batch_order(key, epoch, len(labels), batch_size, **options)
    for rows in np.asarray(order):
        x = data.preprocess(preprocessing, np.asarray(images)[rows], dtype)
        yield x, jnp.asarray(np.asarray(labels)[rows])


class Counted:
    """A net that counts how often Python runs its apply: once a trace."""

    def __init__(self, net=NET):
        self.shapes: list[tuple[bool, tuple[int, ...]]] = []

        def apply(params, state, x, *, train=False, key=None):
            self.shapes.append((train, x.shape))
            return net.apply(params, state, x, train=train, key=key)

        self.net = nets.Net(net.init, apply)

    def traces(self, train, rows):
        return sum(seen == (train, (rows, 4, 4, 1)) for seen in self.shapes)


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


def pointers(state):
    leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
    return [leaf.unsafe_buffer_pointer() for leaf in leaves]


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


# --- The compiled epoch


def test_row_33_one_trace_of_the_step_and_one_of_the_evaluation():
    counted = Counted()
    run = fit(counted.net, epochs=3, chunk_steps=4, batch_size=10)  # chunks of 4, 4 and 2
    assert len(run.losses) == 30
    assert counted.traces(train=True, rows=10) == 1
    assert counted.traces(train=False, rows=250) == 1
    assert sum(train for train, _ in counted.shapes) == 1


def test_row_46_the_epoch_equals_a_loop_of_steps():
    """200 steps in epochs of 10, in float64, with all that draws from keys."""
    optimizer, options = optimizers.adam(3e-3), {"reg": 0.01, "label_smoothing": 0.1}
    run = fit(DROPOUT_NET, optimizer=optimizer, epochs=20, dtype=jnp.float64, seed=3, **options)
    assert len(run.losses) == 200
    step = jax.jit(train.make_step(DROPOUT_NET, optimizer, **options))
    state = train.init_state(DROPOUT_NET, optimizer, jax.random.key(3), (4, 4, 1), jnp.float64)
    values = []
    for epoch in range(20):
        for batch in batches(DATA, run.preprocessing, state.key, epoch, 10, jnp.float64):
            state, metrics = step(state, batch)
            values.append(float(metrics["loss"]))
    np.testing.assert_allclose(run.losses, values, rtol=1e-12)
    assert_close(run.final, state, 1e-12)


def test_row_46_in_float32_too():
    optimizer = optimizers.momentum(0.05)
    run = fit(optimizer=optimizer, epochs=5)
    step = jax.jit(train.make_step(NET, optimizer))
    state = train.init_state(NET, optimizer, KEY, (4, 4, 1))
    for epoch in range(5):
        for batch in batches(DATA, run.preprocessing, state.key, epoch, 10, jnp.float32):
            state, _ = step(state, batch)
    assert_close(run.final.params, state.params, 1e-4)


def conv_net(dimension_numbers):
    """Somebody's convolution and linear layer, in JAX's own words."""

    def init(key, shape):
        kernel = 0.1 * jax.random.normal(key, (3, 3, 1, 2))
        return {"kernel": kernel, "w": 0.1 * jax.random.normal(key, (32, 3))}, ()

    def apply(params, state, x, *, train=False, key=None):
        y = jax.lax.conv_general_dilated(
            x, params["kernel"], (1, 1), "SAME", dimension_numbers=dimension_numbers
        )
        return jax.nn.relu(y).reshape(len(x), -1) @ params["w"], state

    return nets.Net(init, apply)


def test_convolutions_that_a_loop_would_spoil_are_called_one_by_one():
    net = conv_net(("NHWC", "HWIO", "NHWC"))
    params, _ = net.init(KEY, (4, 4, 1))
    x = jnp.ones((2, 4, 4, 1))

    def forward(params):
        return net.apply(params, (), x)[0].sum()

    assert not _fit.slow_in_loops(jax.make_jaxpr(forward)(params).jaxpr)
    assert _fit.slow_in_loops(jax.make_jaxpr(jax.grad(forward))(params).jaxpr)
    inside = jax.make_jaxpr(lambda p: jax.lax.map(lambda _: jax.grad(forward)(p), x))(params)
    assert _fit.slow_in_loops(inside.jaxpr)

    counted, optimizer = Counted(net), optimizers.momentum(0.1)
    run = fit(counted.net, optimizer=optimizer, chunk_steps=3, dtype=jnp.float64)
    assert counted.traces(train=True, rows=10) == 1
    step = jax.jit(train.make_step(net, optimizer))
    state = train.init_state(net, optimizer, KEY, (4, 4, 1), jnp.float64)
    for epoch in range(2):
        for batch in batches(DATA, run.preprocessing, state.key, epoch, 10, jnp.float64):
            state, _ = step(state, batch)
    assert_close(run.final, state, 1e-12)
    dataset, bad = poisoned(row_seen_at(4))
    with pytest.warns(RuntimeWarning, match="the loss is nan at step 5"):
        run = fit(net, dataset, preprocessing=None, chunk_steps=3, max_nonfinite=1)
    assert run.final.step == bad + 1 == 5
    assert np.isfinite(run.losses[:-1]).all()


def test_row_35_the_compiled_epoch_works_in_place():
    """Every buffer that goes in comes out again, and what went in is gone."""
    optimizer = optimizers.adam(1e-2)
    state = train.init_state(NET, optimizer, KEY, (4, 4, 1))
    split = data.Split(*map(jnp.asarray, DATA.train))
    batch_of = _fit.batch_maker(True, None, jnp.float32)
    advance = _fit.step_of_epoch(train.make_step(NET, optimizer), batch_of)
    order, carry = train.batch_order(KEY, 0, 103, 10), _fit.first_carry(state, 0, 10)
    program = _fit.compile_epoch(
        advance, 3, carry, order, split, data.fit_preprocessing(DATA.train.images)
    )
    before = pointers(carry.train_state)
    after = program(carry, 7, order)
    assert after.position == after.train_state.step == 7
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(carry))
    assert set(pointers(after.train_state)) == set(before)


def test_chunks_of_any_length_give_the_same_bits():
    whole = fit(DROPOUT_NET)
    for chunk_steps in (1, 3, 10):
        assert_same(fit(DROPOUT_NET, chunk_steps=chunk_steps).final, whole.final)


@pytest.mark.courses("3-17")
def test_an_epoch_takes_each_row_once_and_another_order_each_time():
    orders = [np.asarray(train.batch_order(KEY, epoch, 103, 10)) for epoch in range(4)]
    for order in orders:
        assert order.shape == (10, 10)
        assert len(np.unique(order)) == 100
        assert order.min() >= 0
        assert order.max() < 103
    left = [set(range(103)) - set(order.ravel().tolist()) for order in orders]
    assert len({tuple(sorted(rows)) for rows in left}) > 1
    assert len({order.tobytes() for order in orders}) == 4
    # An uneven chance for a row in first place would show: 4 standard deviations of 2000 draws.
    firsts = jax.vmap(lambda epoch: train.batch_order(KEY, epoch, 10, 10)[0, 0])(jnp.arange(2000))
    counts = np.bincount(np.asarray(firsts), minlength=10)
    assert np.abs(counts - 200).max() < 4 * math.sqrt(2000 * 0.09)


@pytest.mark.courses("1-16", "4-20")
def test_batches_with_replacement_repeat_rows_as_chance_has_it():
    order = np.asarray(train.batch_order(KEY, 0, 1000, 100, "replacement"))
    assert order.shape == (10, 100)
    distinct = len(np.unique(order))  # 1000 draws of 1000: 632.3 distinct, standard deviation 9.8
    assert abs(distinct - 632.3) < 5 * 9.8
    run = fit(sampling="replacement", epochs=5)
    assert run.losses[-10:].mean() < run.losses[:10].mean()


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    a, b, c = fit(seed=1), fit(seed=1), fit(seed=2)
    assert_same(a.final, b.final)
    assert_same(a.best, b.best)
    np.testing.assert_array_equal(a.losses, b.losses)
    untimed = [
        [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in h]
        for h in (a.history, b.history)
    ]
    assert untimed[0] == untimed[1]
    assert not np.array_equal(a.losses, c.losses)


def test_a_stopped_run_goes_on_as_if_it_had_not_been():
    options = {"epochs": 4, "augment": data.random_flip}
    whole = fit(DROPOUT_NET, **options)
    for at in (1, 20, 39):
        first = fit(DROPOUT_NET, chunk_steps=1, on_progress=stop_at(at), **options)
        assert first.stopped == "interrupted"
        assert first.final.step == at
        rest = fit(DROPOUT_NET, state=first.final, **options)
        assert_same(rest.final, whole.final)
        np.testing.assert_array_equal(np.concatenate([first.losses, rest.losses]), whole.losses)
        assert rest.history[-1]["val_accuracy"] == whole.history[-1]["val_accuracy"]


def stop_at(step):
    def stop(progress):
        if progress.step == step:
            raise KeyboardInterrupt

    return stop


def test_augmentation_sees_raw_images_and_another_key_each_step():
    seen = []

    def augment(key, images):
        assert images.dtype == jnp.uint8
        assert images.shape == (10, 4, 4, 1)
        jax.debug.callback(lambda data: seen.append(data.tobytes()), jax.random.key_data(key))
        return data.random_flip(key, images)

    run = fit(augment=augment)
    jax.effects_barrier()
    assert len(set(seen)) == len(seen) == 20
    steps = {
        jax.random.key_data(jax.random.fold_in(run.final.key, i)).tobytes() for i in range(100)
    }
    assert not steps & set(seen)
    assert not np.array_equal(run.losses, fit().losses)


def test_row_48_no_key_is_used_twice(monkeypatch):
    """Under JAX's own check; the rule of dropout draws its mask again from the key, so that a
    plain dropout stands in its place: what is asked here is which keys the step hands out."""

    def dropout(key, x, rate):
        return x * jax.random.bernoulli(key, 1 - rate, x.shape).astype(x.dtype)

    monkeypatch.setattr(layers, "dropout", dropout)
    optimizer = optimizers.adam(1e-2)
    net = nets.fully_connected_net([8, 8], 3, dropout=0.5)
    x, y = jnp.ones((5, 4), jnp.float32), jnp.zeros(5, jnp.int32)
    with jax.debug_key_reuse(True):
        state = train.init_state(net, optimizer, jax.random.key(1), (4,))
        step = jax.jit(train.make_step(net, optimizer))
        found = []
        for _ in range(5):
            state, metrics = step(state, (x, y))
            found.append(float(metrics["loss"]))
    assert len(set(found)) == 5


# --- Evaluation


@pytest.mark.parametrize("rows", [1, 9, 10, 11, 19, 20])
def test_row_47_each_example_is_counted_once(rows, rng):
    """For n mod b in {0, 1, b - 1} and for less than a batch."""
    split = data.Split(rng.normal(size=(rows, 5)), rng.integers(0, 3, rows))
    params = AffineParams(*(jnp.asarray(rng.normal(size=size)) for size in ((5, 3), 3)))
    result = train.evaluate(LINEAR, (params, ()), split, batch_size=10)
    scores = split.images @ np.asarray(params.w) + np.asarray(params.b)
    values = np.log(np.exp(scores).sum(1)) - scores[np.arange(rows), split.labels]
    assert abs(result["loss"] - values.mean()) < 8 * EPS * np.abs(scores).max()
    assert result["accuracy"] == (scores.argmax(1) == split.labels).sum() / rows
    # Rows whose losses are powers of two: the sum tells which were counted, and how often.
    powers = data.Split(2.0 ** np.arange(rows)[:, None], np.zeros(rows, np.int32))
    counted = train.evaluate(IDENTITY, ((), ()), powers, loss=first_score, batch_size=10)
    assert counted["loss"] * rows == 2.0**rows - 1


LINEAR = nets.affine(3)
IDENTITY = nets.Net(lambda key, shape: ((), ()), lambda p, s, x, *, train=False, key=None: (x, s))


def first_score(output, labels):
    return output[:, 0].mean()


@pytest.mark.courses("3-20")
@pytest.mark.parametrize("train_accuracy_rows", [None, 1000, 7])
def test_best_evaluates_to_the_best_accuracy_logged_exactly(train_accuracy_rows):
    """Rows 0-20, 1-35 and 2-13: in two courses out of three the delivered net gave another."""
    run = fit(epochs=6, train_accuracy_rows=train_accuracy_rows, optimizer=optimizers.adam(0.05))
    accuracies = run.history["val_accuracy"]
    assert run.best_epoch == accuracies.index(max(accuracies))
    result = train.evaluate(NET, run.best, DATA.val, run.preprocessing)
    assert result["accuracy"] == max(accuracies)
    assert result["loss"] == run.history[run.best_epoch]["val_loss"]
    assert run.best.step == run.history[run.best_epoch]["step"]
    final = train.evaluate(NET, run.final, DATA.val, run.preprocessing)
    assert final["accuracy"] == accuracies[-1]
    if train_accuracy_rows is None:
        on_train = train.evaluate(NET, run.final, DATA.train, run.preprocessing)
        assert on_train["accuracy"] == run.history[-1]["train_accuracy"]
    # The bug of the courses: the best parameters with the running statistics of another epoch.
    other = train.evaluate(
        NET,
        (run.best.params, jax.tree.map(jnp.ones_like, run.best.state)),
        DATA.val,
        run.preprocessing,
    )
    assert other["loss"] != result["loss"]


def test_the_first_of_equal_bests_wins():
    run = fit(nets.two_layer_net(4, 3), epochs=4, optimizer=optimizers.sgd(0.0))
    assert len(set(run.history["val_accuracy"])) == 1
    assert run.best_epoch == run.best.step == 0


def test_statistics_come_from_the_training_split_alone():
    bright = data.Split(np.full_like(DATA.val.images, 255), DATA.val.labels)
    run = fit(dataset=DATA._replace(val=bright), epochs=1)
    expected = data.fit_preprocessing(DATA.train.images, "standardised")
    np.testing.assert_array_equal(run.preprocessing.mean, expected.mean)
    own = fit(preprocessing=data.Preprocessing(expected.mean + 1, expected.scale), epochs=1)
    np.testing.assert_array_equal(own.preprocessing.mean, expected.mean + 1)


# --- Records


def test_history_and_progress():
    rows, reports = [], []
    run = fit(epochs=3, chunk_steps=3, on_epoch=rows.append, on_progress=reports.append)
    assert rows == list(run.history)
    assert run.history["epoch"] == [0, 1, 2, 3]
    assert run.history["step"] == [0, 10, 20, 30]
    assert run.history[0]["loss"] == run.losses[0]
    for epoch in (1, 2, 3):
        own = run.losses[10 * epoch - 10 : 10 * epoch].astype(np.float64)
        np.testing.assert_allclose(run.history[epoch]["loss"], own.mean(), rtol=1e-12)
        assert run.history[epoch]["images_per_second"] > 0
    assert run.history["seconds"] == sorted(run.history["seconds"])
    assert [report.step for report in reports] == [3, 6, 9, 10, 13, 16, 19, 20, 23, 26, 29, 30]
    assert [report.epoch for report in reports] == 4 * [1] + 4 * [2] + 4 * [3]
    assert {report.steps for report in reports} == {30}
    assert reports[-1].seconds_left == 0 < reports[0].seconds_left
    np.testing.assert_allclose(reports[0].loss, run.losses[:3].mean(), rtol=1e-6)
    assert 0 <= reports[0].accuracy <= 1
    assert isinstance(run.history[1:], list)


def test_without_a_validation_split_best_is_the_final_state():
    empty = data.Split(DATA.val.images[:0], DATA.val.labels[:0])
    for val in (None, empty):
        run = fit(dataset=DATA._replace(val=val))
        assert run.history["val_accuracy"] == [None, None, None]
        assert_same(run.best, run.final)
        assert run.best_epoch == 2


def test_no_epochs_only_evaluate():
    rows = []
    run = fit(epochs=0, on_epoch=rows.append)
    assert (len(run.history), len(run.losses), run.history[0]["loss"]) == (1, 0, None)
    assert rows == list(run.history)
    assert run.final.step == 0


# --- What goes wrong


def poisoned(row):
    """Float images of which one holds NaN, and the step of each epoch that sees it."""
    images = DATA.train.images.astype(np.float32) / 255
    images[row, 0, 0, 0] = np.nan
    order = np.asarray(train.batch_order(jax.random.key(0), 0, 103, 10))
    step = int(np.argwhere(order == row)[0, 0])
    return DATA._replace(train=data.Split(images, DATA.train.labels), val=None), step


def row_seen_at(step):
    return int(np.asarray(train.batch_order(jax.random.key(0), 0, 103, 10))[step, 0])


@pytest.mark.parametrize("bad", [0, 4, 9], ids=["first", "middle", "last"])
def test_row_49_a_loss_that_is_not_finite_ends_the_run_before_it_harms(bad):
    dataset, step = poisoned(row_seen_at(bad))
    assert step == bad
    said = rf"the loss is nan at step {bad + 1} \(epoch 1\): it starts in the input \(1 of 160 not"
    with pytest.warns(RuntimeWarning, match=said):
        run = fit(dataset=dataset, preprocessing=None, chunk_steps=3, max_nonfinite=1)
    assert run.nonfinite == (bad + 1,)
    assert run.streak == 1
    assert f"step {bad + 1} " in run.stopped
    assert len(run.losses) == bad + 1
    assert np.isfinite(run.losses[:-1]).all()
    assert np.isnan(run.losses[-1])
    assert run.final.step == bad + 1
    if bad:
        images = np.nan_to_num(dataset.train.images)
        healthy = DATA._replace(train=data.Split(images, DATA.train.labels), val=None)
        before = fit(
            dataset=healthy, preprocessing=None, chunk_steps=1, on_progress=stop_at(bad)
        ).final
        assert_same(run.final[:3], before[:3])
    for leaf in jax.tree.leaves(run.final[:3]) + jax.tree.leaves(run.best[:3]):
        assert np.isfinite(leaf).all()


def test_row_49_the_step_keeps_what_it_had():
    optimizer = optimizers.adam(1e-2)
    state = train.init_state(NET, optimizer, KEY, (4, 4, 1))
    step = jax.jit(train.make_step(NET, optimizer, reg=0.1))
    x, y = jnp.ones((5, 4, 4, 1), jnp.float32), jnp.array([0, 1, 2, 0, 1])
    state, metrics = step(state, (x * jnp.arange(5.0, dtype=jnp.float32)[:, None, None, None], y))
    assert metrics["finite"]
    after, metrics = step(state, (x.at[2].set(jnp.inf), y))
    assert not metrics["finite"]
    assert_same(after[:3], state[:3])
    assert after.step == state.step + 1
    after, metrics = step(state, (x, y.at[0].set(7)))  # a label out of range is poison, not class 2
    assert np.isnan(metrics["loss"])
    assert_same(after[:3], state[:3])


def test_a_gradient_that_is_not_finite_ends_the_run_too():
    @jax.custom_vjp
    def broken(x):
        return x

    # Its rule divides by zero wherever the batch's first pixel is the poison's.
    broken.defvjp(lambda x: (x, x[0, 0]), lambda mark, dy: (dy / (mark - 7.0),))
    spread = nets.Net(
        lambda key, shape: (jnp.ones(shape, jnp.float32), ()),
        lambda p, s, x, *, train=False, key=None: (broken(x.reshape(len(x), -1) * p[None]), s),
    )
    net = nets.serial(nets.flatten(), spread, nets.affine(3))
    images = DATA.train.images.astype(np.float32).reshape(103, 16) / 255
    images[row_seen_at(3), 0] = 7.0
    dataset = DATA._replace(train=data.Split(images, DATA.train.labels), val=None)
    said = r"the gradient is not finite at step 4 .*: it starts in the gradient of net1 \(16 of 16"
    with pytest.warns(RuntimeWarning, match=said):
        run = fit(net, dataset, optimizers.sgd(1e-30), preprocessing=None, max_nonfinite=1)
    assert run.final.step == 4
    assert np.isfinite(run.losses).all()
    for leaf in jax.tree.leaves(run.final.params):
        assert np.isfinite(leaf).all()


def test_a_diverging_run_stops_and_says_so():
    with pytest.warns(RuntimeWarning, match=r"and at the 2 after it: .*lower learning rate"):
        run = fit(nets.two_layer_net(8, 3), optimizer=optimizers.sgd(1e30), epochs=3)
    assert run.stopped
    assert run.streak == 3
    assert run.nonfinite == tuple(range(len(run.losses) - 2, len(run.losses) + 1))
    assert np.isfinite(run.losses[:-3]).all()


def poisoned_steps(*steps):
    """Float images, of which those that these steps of the first epoch see hold a NaN."""
    images = DATA.train.images.astype(np.float32) / 255
    images[[row_seen_at(step) for step in steps], 0, 0, 0] = np.nan
    return DATA._replace(train=data.Split(images, DATA.train.labels), val=None)


@pytest.mark.filterwarnings("ignore:the loss is nan")
@pytest.mark.parametrize("chunk_steps", [1, 3, 10])
@pytest.mark.parametrize("net", [NET, None], ids=["loop on the device", "loop on the host"])
def test_row_49_steps_that_are_not_finite_are_skipped_and_counted(chunk_steps, net):
    """Two in a row are skipped; a third would have ended it, and in the next chunk too."""
    net = net or conv_net(("NHWC", "HWIO", "NHWC"))
    options = {"preprocessing": None, "chunk_steps": chunk_steps, "epochs": 1}
    with pytest.warns(RuntimeWarning, match=r"the loss is nan at step 4 .*nothing was changed"):
        run = fit(net, poisoned_steps(3, 4, 8), **options)
    assert (run.stopped, run.nonfinite, run.streak) == (None, (4, 5, 9), 0)
    assert run.final.step == 10
    assert run.history["nonfinite"] == [0, 3]
    assert np.isnan(run.losses[[3, 4, 8]]).all()
    finite = run.losses[np.isfinite(run.losses)].astype(np.float64)
    assert len(finite) == 7
    assert run.history[1]["loss"] == pytest.approx(finite.mean(), rel=1e-12)
    with pytest.warns(RuntimeWarning, match=r"step 3 \(epoch 1\) and at the 2 after it: it starts"):
        run = fit(net, poisoned_steps(2, 3, 4), **options)
    assert (run.nonfinite, run.streak, int(run.final.step)) == ((3, 4, 5), 3, 5)
    assert len(run.history) == 1


@pytest.mark.filterwarnings("ignore:the loss is nan")
def test_row_49_a_streak_goes_on_over_epochs_and_stops():
    dataset = poisoned_steps(9)
    images = dataset.train.images
    second = np.asarray(train.batch_order(jax.random.key(0), 1, 103, 10))
    images[second[:2].ravel()[[0, 10]]] = np.nan
    options = {"dataset": dataset, "preprocessing": None, "chunk_steps": 1}
    with pytest.warns(RuntimeWarning, match=r"at step 10 \(epoch 1\) and at the 2 after it"):
        run = fit(**options)
    assert run.nonfinite[-3:] == (10, 11, 12)
    # Stopped within the streak and resumed, it ends at the same step.
    with pytest.warns(RuntimeWarning, match="skipped"):
        first = fit(**options, on_progress=stop_at(11))
    assert first.streak == 2
    with pytest.warns(RuntimeWarning, match=r"at step 10 \(epoch 1\) and at the 2 after it"):
        rest = fit(**options, resume=first)
    assert rest.nonfinite == run.nonfinite
    assert_same(rest.final, run.final)
    with pytest.warns(RuntimeWarning, match="skipped"):  # what has ended so gets another chance
        again = fit(**options, resume=run, max_nonfinite=4)
    assert again.final.step > run.final.step


def test_a_run_that_cannot_be_diagnosed_comes_back_all_the_same(monkeypatch):
    def broken(*arguments, **options):
        raise MemoryError("no room")

    monkeypatch.setattr(train, "diagnose", broken)
    with pytest.warns(RuntimeWarning, match="at step 5 .*: train.diagnose failed: no room"):
        run = fit(dataset=poisoned_steps(4), preprocessing=None, max_nonfinite=1)
    assert run.final.step == 5


# --- diagnose


def diagnosed(net, x, y=None, optimizer=None, change=lambda params: params, **options):
    optimizer = optimizer or optimizers.sgd(0.1)
    state = train.init_state(net, optimizer, KEY, x.shape[1:], x.dtype)
    state = state._replace(params=change(state.params))
    y = jnp.arange(len(x), dtype=jnp.int32) % 3 if y is None else y
    return train.diagnose(net, state, (x, y), **options)


def test_diagnose_measures_what_is_there(rng):
    """Against NumPy, at every layer of an affine - relu - affine net."""
    net = nets.serial(nets.affine(4), nets.relu(), nets.affine(3))
    x, y = jnp.asarray(rng.normal(size=(5, 2))), jnp.array([0, 1, 2, 2, 1])
    state = train.init_state(net, optimizers.sgd(0.1), KEY, (2,), jnp.float64)
    found = train.diagnose(net, state, (x, y), reg=0.5)
    assert [row.name for row in found.rows] == ["input", "affine1", "relu1", "affine2"]
    assert (found.where, found.what) == (None, "")
    p1, p2 = (jax.tree.map(np.asarray, state.params[f"affine{i}"]) for i in (1, 2))
    h = np.asarray(x) @ p1.w + p1.b[None]
    z = np.maximum(h, 0) @ p2.w + p2.b[None]
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    dz = (p - np.eye(3)[np.asarray(y)]) / 5
    da = dz @ p2.w.T
    grads = (np.maximum(h, 0).T @ dz + 0.5 * p2.w, dz.sum(0))
    expected = {
        "input": (x, None, None),
        "affine1": (h, da * (h > 0), None),
        "relu1": (np.maximum(h, 0), da, None),
        "affine2": (z, dz, np.concatenate([grads[0].ravel(), grads[1]])),
    }
    for row in found.rows:
        measured = row.output, row.output_grad, row.params_grad
        for sizes, array in zip(measured, expected[row.name], strict=True):
            if array is not None:
                array = np.asarray(array)
                assert (sizes.nonfinite, sizes.size) == (0, array.size)
                assert abs(sizes.max_abs - np.abs(array).max()) < 50 * EPS * sizes.max_abs
                rms = np.sqrt(np.square(array).mean())
                assert abs(sizes.rms - rms) < 50 * EPS * rms
    step = jax.jit(train.make_step(net, optimizers.sgd(0.1), reg=0.5))
    metrics = step(state, (x, y))[1]
    assert abs(found.loss - metrics["loss"]) < 20 * EPS
    assert abs(found.grad_norm - metrics["grad_norm"]) < 50 * EPS * found.grad_norm


def test_diagnose_takes_the_steps_own_masks(rng):
    """With dropout, in nested nets: the loss is that of the step, to the bit or nearly."""
    inner = nets.serial(nets.affine(6), nets.dropout(0.5), nets.relu())
    net = nets.serial(
        nets.affine(6), nets.residual(inner), nets.remat(inner), nets.dropout(0.3), nets.affine(3)
    )
    optimizer = optimizers.sgd(0.1)
    x, y = jnp.asarray(rng.normal(size=(5, 4))), jnp.array([0, 1, 2, 2, 1])
    state = train.init_state(net, optimizer, KEY, (4,), jnp.float64)
    found = train.diagnose(net, state, (x, y))
    _, metrics = jax.jit(train.make_step(net, optimizer))(state, (x, y))
    assert abs(found.loss - metrics["loss"]) < 20 * EPS
    assert abs(found.grad_norm - metrics["grad_norm"]) < 50 * EPS * found.grad_norm
    names = [row.name for row in found.rows]
    assert names[:3] == ["input", "affine1", "residual1.block.affine1"]
    assert {"remat1.affine1", "remat1.dropout1", "dropout1", "affine2"} <= set(names)
    assert sum(row.params.size for row in found.rows if row.params) == sum(
        leaf.size for leaf in jax.tree.leaves(state.params)
    )


def broken_block(forward=lambda x: x, backward=lambda x, dy: dy):
    """A block with a rule of its own."""

    @jax.custom_vjp
    def rule(x):
        return forward(x)

    rule.defvjp(lambda x: (forward(x), x), lambda x, dy: (backward(x, dy),))
    return nets.Net(
        lambda key, shape: ((), ()), lambda p, s, x, *, train=False, key=None: (rule(x), s), "mine"
    )


ONES = jnp.ones((4, 5))


def with_leaf(layer, field, value):
    """Sets the first entry of a parameter."""

    def change(params):
        leaf = getattr(params[layer], field)
        leaf = leaf.at[(0,) * leaf.ndim].set(value)
        return params | {layer: params[layer]._replace(**{field: leaf})}

    return change


DEEP = nets.fully_connected_net([6, 6], 3, norm="batch")
STARTS = {
    "input": (
        lambda: diagnosed(DEEP, ONES.at[1, 2].set(jnp.nan)),
        "input", "the input (1 of 20 not finite)",
    ),
    "parameter": (
        lambda: diagnosed(DEEP, ONES, change=with_leaf("affine2", "w", jnp.inf)),
        "affine2", "affine2.w, a parameter (1 of 36 not finite)",
    ),
    "norm's parameter": (
        lambda: diagnosed(DEEP, ONES, change=with_leaf("batch_norm2", "beta", jnp.nan)),
        "batch_norm2", "batch_norm2.beta, a parameter (1 of 6 not finite)",
    ),
    "output": (
        lambda: diagnosed(
            nets.serial(nets.affine(4), broken_block(lambda x: x / 0.0), nets.affine(3)), ONES
        ),
        "mine1", "the output of mine1 (16 of 16 not finite)",
    ),
    "output that overflows": (
        lambda: diagnosed(
            nets.serial(nets.affine(4), nets.relu(), nets.affine(3)), ONES.astype(jnp.float32),
            change=lambda p: jax.tree.map(lambda leaf: 1e20 * jnp.ones_like(leaf), p),
        ),
        "affine2", "the output of affine2 (12 of 12 not finite)",
    ),
    "only in low precision": (
        lambda: diagnosed(
            nets.serial(nets.affine(4), nets.relu(), nets.affine(3)), 300 * ONES,
            change=lambda p: jax.tree.map(lambda leaf: 100 * jnp.ones_like(leaf), p),
            compute_dtype=jnp.float16,
        ),
        "affine1", "the output of affine1 (16 of 16 not finite)",
    ),
    "loss": (
        lambda: diagnosed(DEEP, ONES, y=jnp.array([0, 1, 2, 3], jnp.int32)),
        "loss", "the loss (1 of 1 not finite)",
    ),
    "gradient of the loss": (
        lambda: diagnosed(DEEP, ONES, loss=lambda z, y: jnp.sqrt((z * 0.0).sum())),
        "loss", "the gradient of affine3's output, which the loss gives back (12 of 12 not finite)",
    ),
    "backward rule": (
        lambda: diagnosed(
            nets.serial(
                nets.affine(4), broken_block(backward=lambda x, dy: dy / 0.0), nets.affine(3)
            ),
            ONES,
        ),
        "mine1", "the gradient of affine1's output, which mine1 gives back (16 of 16 not finite)",
    ),
    "norm of the gradient": (
        lambda: diagnosed(
            nets.affine(3), ONES.astype(jnp.float32), loss=lambda z, y: 1e30 * z.sum()
        ),
        "affine", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "where", "what"), STARTS.values(), ids=STARTS)
def test_diagnose_points_at_where_it_starts(make, where, what):
    found = make()
    assert found.where == where
    if what is None:
        assert re.fullmatch(
            r"the gradient of \w+: up to 4.00e\+30, whose square overflows", found.what
        )
    else:
        assert found.what == what
    assert f"starts in {found.what}" in str(found)


def test_diagnose_prints_a_table():
    lines = str(diagnosed(DEEP, ONES.at[1, 2].set(jnp.inf))).splitlines()
    assert lines[0].split("  ")[0] == "layer"
    assert re.match(r"input .* 1 of 20 .*<- the input \(1 of 20 not finite\)", lines[1])
    assert [line.split()[0] for line in lines[2:4]] == ["affine1", "batch_norm1"]
    assert lines[-1].startswith("loss nan, norm of the gradient nan: starts in the input")
    assert str(diagnosed(DEEP, ONES)).endswith("all numbers are finite")
    with pytest.raises(TypeError, match="diagnose: net is"):
        train.diagnose(None, None, None)
    with pytest.raises(TypeError, match="diagnose: compute_dtype"):
        diagnosed(DEEP, ONES, compute_dtype=jnp.int32)


@pytest.mark.parametrize("where", ["progress", "epoch"])
def test_row_59_an_interrupt_from_a_callback_returns_what_there_is(where):
    def raise_interrupt(*_):
        raise KeyboardInterrupt

    option = {"progress": {"on_progress": stop_at(13)}, "epoch": {"on_epoch": raise_interrupt}}
    run = fit(epochs=5, chunk_steps=1, **option[where])
    assert run.stopped == "interrupted"
    assert run.final.step == (13 if where == "progress" else 1)
    assert len(run.losses) == run.final.step
    assert train.evaluate(NET, run.best, DATA.val, run.preprocessing)["accuracy"] == max(
        run.history["val_accuracy"]
    )


@pytest.fixture
def ctrl_c():
    """Python's own handler: a shell that runs a job in the background ignores SIGINT for it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_row_59_ctrl_c_ends_the_run_after_the_chunk_at_hand(ctrl_c):
    def press(progress):
        if progress.step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    run = fit(epochs=5, chunk_steps=3, on_progress=press)
    assert run.stopped == "interrupted"
    assert run.final.step == 6
    assert signal.getsignal(signal.SIGINT) is before


def test_row_59_a_second_ctrl_c_acts_at_once(ctrl_c):
    def press_twice(progress):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        fit(epochs=5, chunk_steps=3, on_progress=press_twice)


def test_row_59_sigterm_where_it_is_asked_for():
    def end(progress):
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, train.terminate)
    try:
        run = fit(epochs=5, chunk_steps=3, on_progress=end)
        with pytest.raises(train.Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (run.stopped, run.final.step) == ("terminated", 3)


def a_split(n, labels=None, shape=(4, 4, 1)):
    return data.Split(
        np.zeros((n, *shape), np.uint8), np.zeros(n, int) if labels is None else labels
    )


def with_train(n, labels=None, **options):
    return DATA._replace(train=a_split(n, labels, **options))


ERRORS = {
    "empty": (lambda: fit(dataset=with_train(0)), ValueError, "dataset.train is empty"),
    "batch larger than data": (
        lambda: fit(dataset=with_train(9)), ValueError, "batch_size is 10, but .* has 9 rows"
    ),
    "label too large": (
        lambda: fit(dataset=with_train(20, np.array([0] * 19 + [3]))),
        data.LabelError, r"train.labels\[19\] is 3, expected a class, 0 to 2",
    ),
    "label negative": (
        lambda: fit(dataset=with_train(20, np.array([-1] + [0] * 19))),
        data.LabelError, r"train.labels\[0\] is -1",
    ),
    "labels of floats": (
        lambda: fit(dataset=with_train(20, np.zeros(20))), data.LabelError, "integer"
    ),
    "labels one-hot": (
        lambda: fit(dataset=with_train(20, np.zeros((20, 3), int))), data.LabelError, "argmax"
    ),
    "label in val": (
        lambda: fit(dataset=DATA._replace(val=a_split(2, np.array([0, 9])))),
        data.LabelError, r"val.labels\[1\] is 9",
    ),
    "fewer labels": (
        lambda: fit(dataset=with_train(20, np.zeros(19, int))), ValueError, "20 images but 19"
    ),
    "val of another shape": (
        lambda: fit(dataset=DATA._replace(val=a_split(5, shape=(4, 4, 3)))),
        ValueError, r"\(4, 4, 1\) in dataset.train but \(4, 4, 3\)",
    ),
    "width": (
        lambda: fit(nets.two_layer_net(4, 10)), ValueError, r"data have 3 classes.*nets.affine\(3\)"
    ),
    "output of images": (lambda: fit(nets.conv(3)), ValueError, r"into \(2, 4, 4, 3\)"),
    "batch of one": (
        lambda: fit(batch_size=1), ValueError, "expected at least 2: one value has no variance"
    ),
    "negative epochs": (lambda: fit(epochs=-1), ValueError, "epochs is -1"),
    "epochs a float": (lambda: fit(epochs=1.5), TypeError, "epochs is 1.5, expected an int"),
    "batch of zero": (lambda: fit(batch_size=0), ValueError, "batch_size is 0"),
    "sampling": (lambda: fit(sampling="random"), ValueError, "'random', expected one of permut"),
    "preprocessing": (lambda: fit(preprocessing="center"), ValueError, "center"),
    "rows": (lambda: fit(train_accuracy_rows=0), ValueError, "train_accuracy_rows is 0"),
    "chunks": (lambda: fit(chunk_steps=0), ValueError, "chunk_steps is 0"),
    "net": (lambda: fit(layers.relu), TypeError, "net is .*expected a nets.Net"),
    "optimizer": (
        lambda: train.fit(NET, DATA, optimizers.adam), TypeError, "expected an optax.Gradient"
    ),
    "smoothing": (
        lambda: fit(loss=losses.multiclass_hinge, label_smoothing=0.1),
        ValueError, "multiclass_hinge does not take it",
    ),
    "key": (
        lambda: train.init_state(NET, optimizers.sgd(0.1), 0, (4,)), TypeError, "jax.random.key"
    ),
    "input shape": (
        lambda: train.init_state(NET, optimizers.sgd(0.1), KEY, 4), TypeError, "without the batch"
    ),
    "steps": (lambda: train.steps_per_epoch(5, 6), ValueError, "expected 1 to 5"),
    "decay": (lambda: train.decay_per_epoch(0.1, 0.9, 0), ValueError, "steps_per_epoch is 0"),
    "order": (
        lambda: train.batch_order(KEY, 0, 5, 2, "shuffle"), ValueError, "sampling is 'shuffle'"
    ),
    "evaluate nothing": (
        lambda: train.evaluate(NET, train.init_state(NET, optimizers.sgd(0.1), KEY, (4, 4, 1)),
                               a_split(0)),
        ValueError, "split is empty",
    ),
    "evaluate a wrong label": (
        lambda: train.evaluate(NET, train.init_state(NET, optimizers.sgd(0.1), KEY, (4, 4, 1)),
                               a_split(2, np.array([0, 3]))),
        data.LabelError, r"split.labels\[1\] is 3",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "match"), ERRORS.values(), ids=ERRORS)
def test_errors_say_what_to_do(call, error, match):
    with pytest.raises(error, match=match):
        call()


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


# --- The courses' rows


def lin(low, high, *shape):
    return jnp.asarray(np.linspace(low, high, math.prod(shape)).reshape(shape))


TOY = {
    "affine1": AffineParams(lin(-0.2, 0.6, 4, 10), lin(-0.3, 0.7, 10)),
    "affine2": AffineParams(lin(-0.4, 0.1, 10, 3), lin(-0.5, 0.9, 3)),
}
TOY_DATA = data.Dataset(
    data.Split(np.asarray(lin(-0.2, 0.5, 5, 4)), np.array([0, 1, 2, 2, 1])), None, None, "012"
)
TOY_RUNS = {
    "4-21 sgd": (optimizers.sgd(0.1), 0.940686),
    "4-22 momentum": (optimizers.momentum(0.1, 0.9, velocity="scaled"), 0.494394),
    "4-23 rmsprop": (
        optimizers.rmsprop(0.1, decay=0.99, eps=1e-8, eps_in_sqrt=True),
        0.439368,
    ),
}


@pytest.mark.parametrize(("optimizer", "printed"), TOY_RUNS.values(), ids=TOY_RUNS)
@pytest.mark.parametrize("way", ["fit", "step"])
def test_rows_4_21_to_4_23_toy_runs(optimizer, printed, way):
    """100 full-batch steps; the printed value is the loss before the last update."""
    net = nets.two_layer_net(10, 3)
    start = train.init_state(net, optimizer, KEY, (4,), jnp.float64)
    start = start._replace(params=copied(TOY))
    if way == "fit":
        run = train.fit(
            net, TOY_DATA, optimizer, epochs=100, state=start, sampling="full", reg=1e-3,
            preprocessing=None, evaluation_batch_size=5,
        )  # fmt: skip
        assert len(run.losses) == 100
        last = run.losses[-1]
    else:
        step = jax.jit(train.make_step(net, optimizer, reg=1e-3), donate_argnums=0)
        batch = jnp.asarray(TOY_DATA.train.images), jnp.asarray(TOY_DATA.train.labels)
        for _ in range(100):
            start, metrics = step(start, batch)
        last = float(metrics["loss"])
    assert f"{last:.6f}" == f"{printed:.6f}"


def test_row_4_26_decay_of_the_learning_rate():
    printed = ["1e-05", "9.5e-06", "9.025e-06", "8.57375e-06", "8.145063e-06", "7.737809e-06"]
    schedule = train.decay_per_epoch(1e-5, 0.95, steps_per_epoch=490)
    for epoch, rate in enumerate(printed):
        for step in (490 * epoch, 490 * epoch + 489):
            assert f"{float(schedule(step)):.7g}" == rate
    run_rates = []
    for rate in (0.5, train.decay_per_epoch(0.5, 0.1, 10)):
        run = fit(nets.two_layer_net(4, 3), optimizer=optimizers.sgd(rate), epochs=2)
        run_rates.append(run.losses)
    np.testing.assert_array_equal(run_rates[0][:11], run_rates[1][:11])  # the first 10 updates
    assert run_rates[0][11] != run_rates[1][11]


def test_rows_1_17_and_4_26_iterations_of_an_epoch():
    assert 20 * train.steps_per_epoch(49000, 400) == 2440
    assert 10 * train.steps_per_epoch(49000, 100) == 4900
    assert 30 * train.steps_per_epoch(70000, 100) == 21000


def test_row_1_22_overfit_fifty_rows():
    """Three layers on 50 images of 0 to 255 minus the mean image reach 100% in 20 epochs."""
    dataset = data.synthetic(shape=(8, 8, 3), classes=10, sizes=(50, 50, 0), noise=1.0)
    net = nets.fully_connected_net([100, 100], 10, weight_scale=0.06)
    run = fit(
        net, dataset, optimizers.sgd(7e-4), epochs=20, batch_size=25, preprocessing="mean_image"
    )
    assert run.history[0]["loss"] > 10  # as the course's 77: inputs are not scaled
    assert run.history[-1]["train_accuracy"] == 1.0


@pytest.mark.parametrize("compute_dtype", [None, jnp.bfloat16])
def test_train_loop_learns_the_digits_quickly(compute_dtype):
    pytest.importorskip("sklearn")
    dataset = data.load("digits")
    run = fit(
        nets.fully_connected_net([64], 10, norm="batch"), dataset, optimizers.adam(3e-3),
        epochs=12, batch_size=64, compute_dtype=compute_dtype,
    )  # fmt: skip
    result = train.evaluate(
        nets.fully_connected_net([64], 10, norm="batch"), run.best, dataset.test, run.preprocessing
    )
    assert result["accuracy"] > 0.94


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
