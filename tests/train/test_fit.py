"""The compiled epoch, `fit`, evaluation, records, and the rows of the courses."""

import math
import re
from itertools import pairwise, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import data, layers, nets, optimizers, train
from funcnet.layers import AffineParams
from funcnet.train import engine
from tests.support.lanes import by_default
from tests.support.small_runs import (
    DATA,
    DROPOUT_NET,
    EPS,
    KEY,
    NET,
    Counted,
    assert_close,
    assert_same,
    batches,
    conv_net,
    copied,
    fit,
    pointers,
    poisoned,
    row_seen_at,
    stop_at,
)

# --- The compiled epoch


def test_one_trace_of_the_step_and_one_of_the_evaluation():
    counted = Counted()
    run = fit(counted.net, epochs=3, chunk_steps=4, batch_size=10)  # chunks of 4, 4 and 2
    assert len(run.losses) == 30
    assert counted.traces(train=True, rows=10) == 1
    assert counted.traces(train=False, rows=250) == 1
    assert sum(train for train, _ in counted.shapes) == 1


def test_the_epoch_equals_a_loop_of_steps():
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


@pytest.mark.slow
def test_the_epoch_equals_a_loop_of_steps_in_float32_too():
    optimizer = optimizers.momentum(0.05)
    run = fit(optimizer=optimizer, epochs=5)
    step = jax.jit(train.make_step(NET, optimizer))
    state = train.init_state(NET, optimizer, KEY, (4, 4, 1))
    for epoch in range(5):
        for batch in batches(DATA, run.preprocessing, state.key, epoch, 10, jnp.float32):
            state, _ = step(state, batch)
    assert_close(run.final.params, state.params, 1e-4)


@pytest.mark.integration
def test_convolutions_that_a_loop_would_spoil_are_called_one_by_one():
    net = conv_net(("NHWC", "HWIO", "NHWC"))
    params, _ = net.init(KEY, (4, 4, 1))
    x = np.ones((2, 4, 4, 1))

    def forward(params):
        return net.apply(params, (), x)[0].sum()

    assert not engine.slow_in_loops(jax.make_jaxpr(forward)(params).jaxpr)
    assert engine.slow_in_loops(jax.make_jaxpr(jax.grad(forward))(params).jaxpr)
    inside = jax.make_jaxpr(lambda p: jax.lax.map(lambda _: jax.grad(forward)(p), x))(params)
    assert engine.slow_in_loops(inside.jaxpr)

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


def test_the_compiled_epoch_works_in_place():
    """Every buffer that goes in comes out again, and what went in is gone."""
    optimizer = optimizers.adam(1e-2)
    state = train.init_state(NET, optimizer, KEY, (4, 4, 1))
    split = jax.device_put(DATA.train)
    batch_of = engine.batch_maker(True, None, jnp.float32)
    advance = engine.step_of_epoch(train.make_step(NET, optimizer), batch_of)
    order, carry = train.batch_order(KEY, 0, 103, 10), engine.first_carry(state, 0, 10)
    program = engine.compile_epoch(
        advance, 3, carry, order, split, data.fit_preprocessing(DATA.train.images)
    )
    before = pointers(carry.train_state)
    after = program(carry, 7, order)
    assert after.position == after.train_state.step == 7
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(carry))
    assert set(pointers(after.train_state)) == set(before)


@pytest.mark.integration
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


@pytest.mark.integration
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


@pytest.mark.integration
@pytest.mark.parametrize("at", by_default([1, 20, 39], {20}))
def test_a_stopped_run_goes_on_as_if_it_had_not_been(at):
    options = {"epochs": 4, "augment": data.random_flip}
    whole = fit(DROPOUT_NET, **options)
    first = fit(DROPOUT_NET, chunk_steps=1, on_progress=stop_at(at), **options)
    assert first.stopped == "interrupted"
    assert first.final.step == at
    rest = fit(DROPOUT_NET, state=first.final, **options)
    assert_same(rest.final, whole.final)
    np.testing.assert_array_equal(np.concatenate([first.losses, rest.losses]), whole.losses)
    assert rest.history[-1]["val_accuracy"] == whole.history[-1]["val_accuracy"]


def test_an_epoch_asks_the_device_twice_and_gathers_nothing_again(monkeypatch):
    """Once for its steps, once for its row; the rows that are evaluated are gathered once a run."""
    calls = {"device_get": 0, "for_device": 0}

    def counted(module, name):
        whole = getattr(module, name)

        def call(*arguments, **options):
            calls[name] += 1
            return whole(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    counted(jax, "device_get")
    counted(data, "for_device")
    seen = []
    fit(epochs=4, batch_size=10, chunk_steps=10, on_epoch=lambda row: seen.append(dict(calls)))
    each = [after["device_get"] - before["device_get"] for before, after in pairwise(seen[1:])]
    assert each == [2, 2, 2]
    assert len({now["for_device"] for now in seen}) == 1


@pytest.mark.integration
def test_augmentation_sees_raw_images_and_another_key_each_step():
    seen = []

    def augment(key, images):
        assert images.dtype == jnp.uint8
        assert images.shape == (10, 4, 4, 1)
        jax.debug.callback(lambda data: seen.append(data.tobytes()), jax.random.key_data(key))
        return data.random_flip(key, images)

    with pytest.warns(RuntimeWarning, match=r"contract \(host\): .*debug_callback asks the host"):
        run = fit(augment=augment)
    jax.effects_barrier()
    assert len(set(seen)) == len(seen) == 20
    fold_in = jax.jit(lambda step: jax.random.key_data(jax.random.fold_in(run.final.key, step)))
    assert not {fold_in(step).tobytes() for step in range(100)} & set(seen)
    assert not np.array_equal(run.losses, fit().losses)


@pytest.mark.integration
def test_no_key_is_used_twice(monkeypatch):
    """Under JAX's own check; the rule of dropout draws its mask again from the key, so that a
    plain dropout stands in its place: what is asked here is which keys the step hands out."""

    def dropout(key, x, rate):
        return x * jax.random.bernoulli(key, 1 - rate, x.shape).astype(x.dtype)

    monkeypatch.setattr(layers, "dropout", dropout)
    optimizer = optimizers.adam(1e-2)
    net = nets.fully_connected_net([8, 8], 3, dropout=0.5)
    x, y = np.ones((5, 4), np.float32), np.zeros(5, np.int32)
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
def test_each_example_is_counted_once(rows, rng):
    """For n mod b in {0, 1, b - 1} and for less than a batch."""
    split = data.Split(rng.normal(size=(rows, 5)), rng.integers(0, 3, rows))
    params = AffineParams(*(rng.normal(size=size) for size in ((5, 3), 3)))
    result = train.evaluate(LINEAR, (params, ()), split, batch_size=10)
    scores = split.images @ params.w + params.b
    values = np.log(np.exp(scores).sum(1)) - scores[np.arange(rows), split.labels]
    assert abs(result["loss"] - values.mean()) < 8 * EPS * np.abs(scores).max()
    assert result["accuracy"] == (scores.argmax(1) == split.labels).sum() / rows
    # Rows whose losses are powers of two: the sum tells which were counted, and how often. It is
    # rounded, as the mean of all rows at once is taken in float32.
    powers = data.Split(2.0 ** np.arange(rows)[:, None], np.zeros(rows, np.int32))
    counted = train.evaluate(IDENTITY, ((), ()), powers, loss=first_score, batch_size=10)
    assert round(counted["loss"] * rows) == 2**rows - 1


LINEAR = nets.affine(3)
IDENTITY = nets.Net(lambda key, shape: ((), ()), lambda p, s, x, *, train=False, key=None: (x, s))


def first_score(output, labels):
    return output[:, 0].mean()


@pytest.mark.integration
@pytest.mark.courses("3-20")
@pytest.mark.parametrize("train_accuracy_rows", by_default([None, 1000, 7], {None}))
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
        (run.best.params, jax.tree.map(np.ones_like, run.best.state)),
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


@pytest.mark.integration
def test_progress_prints_a_line_an_epoch(capsys):
    run = fit(progress=True, epochs=2)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 0/2  step 0  loss ")
    row = run.history[-1]
    assert last.startswith(f"epoch 2/2  step {row['step']}  loss {row['loss']:.4f}  train ")
    assert f"  val {100 * row['val_accuracy']:.2f} %  " in last
    fit(progress=True, epochs=3, resume=run)
    (only,) = capsys.readouterr().out.splitlines()
    assert only.startswith("epoch 3/3")
    fit(epochs=1)
    assert capsys.readouterr().out == ""
    fit(progress=True, epochs=0, metrics={})
    assert re.search(r"^epoch 0/0  step 0  loss -  val loss \d\.\d{4}  ", capsys.readouterr().out)


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


# --- The courses' rows


def lin(low, high, *shape):
    return np.linspace(low, high, math.prod(shape)).reshape(shape)


TOY = {
    "affine1": AffineParams(lin(-0.2, 0.6, 4, 10), lin(-0.3, 0.7, 10)),
    "affine2": AffineParams(lin(-0.4, 0.1, 10, 3), lin(-0.5, 0.9, 3)),
}
TOY_DATA = data.Dataset(
    data.Split(lin(-0.2, 0.5, 5, 4), np.array([0, 1, 2, 2, 1])), None, None, "012"
)
TOY_RUNS = {
    "4-21 sgd": (optimizers.sgd(0.1), 0.940686),
    "4-22 momentum": (optimizers.momentum(0.1, 0.9, velocity="scaled"), 0.494394),
    "4-23 rmsprop": (
        optimizers.rmsprop(0.1, decay=0.99, eps=1e-8, eps_in_sqrt=True),
        0.439368,
    ),
}


@pytest.mark.integration
@pytest.mark.courses("4-21", "4-22", "4-23")
@pytest.mark.parametrize(
    "case",
    by_default(
        product(["fit", "step"], TOY_RUNS),
        {("fit", "4-21 sgd"), *(("step", name) for name in TOY_RUNS)},
    ),
    ids="-".join,
)
def test_toy_runs(case):
    """100 full-batch steps; the printed value is the loss before the last update."""
    way, name = case
    optimizer, printed = TOY_RUNS[name]
    net = nets.two_layer_net(10, 3)
    start = train.init_state(net, optimizer, KEY, (4,), jnp.float64)
    start = start._replace(params=jax.device_put(copied(TOY)))
    if way == "fit":
        run = train.fit(
            net, TOY_DATA, optimizer, epochs=100, state=start, sampling="full", reg=1e-3,
            preprocessing=None, evaluation_batch_size=5,
        )  # fmt: skip
        assert len(run.losses) == 100
        last = run.losses[-1]
    else:
        step = jax.jit(train.make_step(net, optimizer, reg=1e-3), donate_argnums=0)
        for _ in range(100):
            start, metrics = step(start, tuple(TOY_DATA.train))
        last = float(metrics["loss"])
    assert f"{last:.6f}" == f"{printed:.6f}"


@pytest.mark.integration
@pytest.mark.courses("4-26")
def test_decay_of_the_learning_rate():
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


@pytest.mark.courses("1-17", "4-26")
def test_iterations_of_an_epoch():
    assert 20 * train.steps_per_epoch(49000, 400) == 2440
    assert 10 * train.steps_per_epoch(49000, 100) == 4900
    assert 30 * train.steps_per_epoch(70000, 100) == 21000


@pytest.mark.integration
@pytest.mark.courses("1-22")
def test_overfit_fifty_rows():
    """Three layers on 50 images of 0 to 255 minus the mean image reach 100% in 20 epochs."""
    dataset = data.synthetic(shape=(8, 8, 3), classes=10, sizes=(50, 50, 0), noise=1.0)
    net = nets.fully_connected_net([100, 100], 10, weight_scale=0.06)
    run = fit(
        net, dataset, optimizers.sgd(7e-4), epochs=20, batch_size=25, preprocessing="mean_image"
    )
    assert run.history[0]["loss"] > 10  # as the course's 77: inputs are not scaled
    assert run.history[-1]["train_accuracy"] == 1.0


@pytest.mark.integration
@pytest.mark.parametrize("compute_dtype", by_default([None, jnp.bfloat16], {None}))
def test_train_loop_learns_the_digits_quickly(compute_dtype):
    dataset = data.load("digits")
    run = fit(
        nets.fully_connected_net([64], 10, norm="batch"), dataset, optimizers.adam(3e-3),
        epochs=5, batch_size=64, compute_dtype=compute_dtype,
    )  # fmt: skip
    result = train.evaluate(
        nets.fully_connected_net([64], 10, norm="batch"), run.best, dataset.test, run.preprocessing
    )
    assert result["accuracy"] > 0.94
