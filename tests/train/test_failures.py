"""What goes wrong in a run: numbers, signals, and arguments that do not fit."""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import checks, data, layers, losses, nets, optimizers, sweep, train
from tests.support.lanes import by_default
from tests.support.small_runs import (
    DATA,
    KEY,
    NET,
    assert_same,
    conv_net,
    fit,
    poisoned,
    row_seen_at,
    stop_at,
)

# --- Numbers that are not finite


@pytest.mark.integration
@pytest.mark.parametrize("bad", by_default([0, 4, 9], {4}), ids=["first", "middle", "last"])
def test_a_loss_that_is_not_finite_ends_the_run_before_it_harms(bad):
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


@pytest.mark.integration
def test_the_step_keeps_what_it_had():
    optimizer = optimizers.adam(1e-2)
    state = train.init_state(NET, optimizer, KEY, (4, 4, 1))
    step = jax.jit(train.make_step(NET, optimizer, reg=0.1))
    x, y = np.ones((5, 4, 4, 1), np.float32), np.array([0, 1, 2, 0, 1])
    state, metrics = step(state, (x * np.arange(5, dtype=np.float32)[:, None, None, None], y))
    assert metrics["finite"]
    x[2] = np.inf
    after, metrics = step(state, (x, y))
    assert not metrics["finite"]
    assert_same(after[:3], state[:3])
    assert after.step == state.step + 1
    x[2], y[0] = 1, 7  # a label out of range is poison, not class 2
    after, metrics = step(state, (x, y))
    assert np.isnan(metrics["loss"])
    assert_same(after[:3], state[:3])


@pytest.mark.integration
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


@pytest.mark.integration
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


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:the loss is nan")
@pytest.mark.parametrize(
    ("net", "chunk_steps"),
    [
        pytest.param(NET, 1, marks=pytest.mark.slow),
        (NET, 3),
        pytest.param(NET, 10, marks=pytest.mark.slow),
        (conv_net(("NHWC", "HWIO", "NHWC")), 3),
    ],
    ids=["1", "3", "10", "3, loop on the host"],
)
def test_steps_that_are_not_finite_are_skipped_and_counted(net, chunk_steps):
    """Two in a row are skipped; a third would have ended it, and in the next chunk too."""
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


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:the loss is nan")
def test_a_streak_goes_on_over_epochs_and_stops():
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


@pytest.mark.integration
def test_a_run_that_cannot_be_diagnosed_comes_back_all_the_same(monkeypatch):
    def broken(*arguments, **options):
        raise MemoryError("no room")

    monkeypatch.setattr(train._session, "diagnose", broken)
    with pytest.warns(RuntimeWarning, match="at step 5 .*: train.diagnose failed: no room"):
        run = fit(dataset=poisoned_steps(4), preprocessing=None, max_nonfinite=1)
    assert run.final.step == 5


# --- Signals


@pytest.mark.parametrize("where", ["progress", "epoch"])
def test_an_interrupt_from_a_callback_returns_what_there_is(where):
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


def test_ctrl_c_ends_the_run_after_the_chunk_at_hand(ctrl_c):
    def press(progress):
        if progress.step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    run = fit(epochs=5, chunk_steps=3, on_progress=press)
    assert run.stopped == "interrupted"
    assert run.final.step == 6
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_acts_at_once(ctrl_c):
    def press_twice(progress):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        fit(epochs=5, chunk_steps=3, on_progress=press_twice)


@pytest.mark.parametrize("signum", by_default(train.ENDINGS, {signal.SIGTERM}))
def test_sigterm_where_it_is_asked_for(signum):
    """And SIGHUP."""

    def end(progress):
        os.kill(os.getpid(), signum)

    before = signal.signal(signum, train.terminate)
    try:
        run = fit(epochs=5, chunk_steps=3, on_progress=end)
        with pytest.raises(train.Terminated):
            os.kill(os.getpid(), signum)
    finally:
        signal.signal(signum, before)
    assert (run.stopped, run.final.step) == ("terminated", 3)


# --- Arguments


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


# --- Seeds

NO_INTS = (1.5, "0", None, True, np.True_, np.array([1, 2]), jnp.array(1.5), np.float64(3))
OUTSIDE = (-1, 2**32, np.int64(2**32), np.uint64(2**64 - 1), -(2**70))


def trial():
    return sweep.Trial(nets.affine(3), optimizers.sgd(0.1))


TAKE_SEEDS = {
    "fit": lambda seed: fit(seed=seed),
    "sweep": lambda seed: sweep.run(trial, DATA, seeds=(0, seed), epochs=1, batch_size=10),
    "synthetic": lambda seed: data.synthetic(seed=seed),
    "check_rule": lambda seed: checks.check_rule(layers.relu, np.ones(3), seed=seed),
    "check_optimizer": lambda seed: checks.check_optimizer(
        optimizers.sgd(0.1), None, {"w": np.ones(3)}, seed=seed
    ),
    "grad_check_sparse": lambda seed: checks.grad_check_sparse(np.sum, [1.0], [1.0], seed=seed),
}


@pytest.mark.parametrize("call", TAKE_SEEDS.values(), ids=TAKE_SEEDS)
def test_a_seed_that_jax_would_cut_to_another_is_refused_before_anything_is_compiled(call):
    """2^32 gave the run of seed 0, or with x64 one of its own: the same call, two results."""
    with jax.no_tracing(True):
        for seed in OUTSIDE:
            with pytest.raises(ValueError, match=rf"seed.* is {seed}, expected .*0 to 2\^32 - 1"):
                call(seed)
        for seed in NO_INTS:
            with pytest.raises(TypeError, match=r"seed.*expected an int of 0 to 2\^32 - 1"):
                call(seed)


@pytest.mark.integration
def test_every_int_is_a_seed():
    net = nets.affine(3)
    runs = [fit(net, seed=seed, epochs=1) for seed in (3, np.int64(3), np.uint8(3), jnp.array(3))]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.losses, runs[0].losses)
    last = fit(net, seed=2**32 - 1, epochs=1)
    np.testing.assert_array_equal(jax.random.key_data(last.final.key), [0, 2**32 - 1])
