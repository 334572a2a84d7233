"""Training under JAX's own switches for debugging: true alarms with a word, and no false ones."""

import jax
import numpy as np
import optax
import pytest

from funcnet import data, nets, optimizers, sweep, train
from tests.support.lanes import by_default
from tests.support.small_runs import DATA, NET, assert_same, fit

SEARCHES = {"nans": jax.debug_nans, "infs": jax.debug_infs}
BY_DEFAULT = by_default(SEARCHES, {"nans"})
DIVERGING = nets.two_layer_net(8, 3)


@pytest.fixture(scope="module")
def usual():
    return fit(epochs=1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BY_DEFAULT)
def test_a_healthy_run_raises_no_alarm(name, usual):
    """JAX donates nothing under `jax_debug_nans`, and the step's contract blamed the step."""
    with SEARCHES[name](True):
        run = fit(epochs=1)
    assert_same(run.final, usual.final)


@pytest.mark.integration
@pytest.mark.parametrize("name", BY_DEFAULT)
def test_a_step_that_is_not_finite_raises_with_the_place(name):
    """A compiled program raised an internal error without a word, on buffers that were donated."""
    said = r"fit: the loss is nan at step 2 \(epoch 1\): it starts in the output of affine2 \(30 of"
    with SEARCHES[name](True), pytest.raises(FloatingPointError, match=said):
        fit(DIVERGING, optimizer=optimizers.sgd(1e30))
    with pytest.warns(RuntimeWarning, match="and at the 2 after it"):  # as ever, without
        assert fit(DIVERGING, optimizer=optimizers.sgd(1e30)).streak == 3


@pytest.mark.parametrize("name", BY_DEFAULT)
def test_diagnose_looks_for_itself(name):
    state = train.init_state(NET, optimizers.sgd(0.1), jax.random.key(0), (4, 4, 1))
    x = np.ones((5, 4, 4, 1), np.float32)
    x[0, 0] = np.inf
    with SEARCHES[name](True):
        found = train.diagnose(NET, state, (x, np.zeros(5, np.int32)))
    assert found.where == "input"


@pytest.mark.slow
def test_diagnose_leaks_no_tracer():
    state = train.init_state(DIVERGING, optimizers.sgd(0.1), jax.random.key(0), (4, 4, 1))
    batch = np.ones((5, 4, 4, 1), np.float32), np.zeros(5, np.int32)
    with jax.checking_leaks():
        found = train.diagnose(DIVERGING, state, batch)
    assert [row.name for row in found.rows] == ["input", "affine1", "relu1", "affine2"]


def linear():
    """A net of JAX alone, which runs operation by operation, too."""
    w = np.linspace(-0.1, 0.1, 48, dtype=np.float32).reshape(16, 3)  # to draw takes seconds
    return nets.Net(
        lambda key, shape: (jax.device_put(w), ()),
        lambda p, s, x, *, train=False, key=None: (x.reshape(len(x), -1) @ p, s),
    )


def cross_entropy(scores, labels):
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


@pytest.mark.slow
def test_fit_without_jit_is_a_loop_in_python():
    seen = []
    net = linear()

    def apply(params, state, x, *, train=False, key=None):
        if train:
            seen.append(x.shape)
        return net.apply(params, state, x, train=train, key=key)

    # Drawing an order takes seconds, number by number; each shape has operations of its own.
    options = {
        "dataset": DATA._replace(val=DATA.train), "evaluation_batch_size": 103,
        "loss": cross_entropy, "epochs": 3, "sampling": "full",
    }  # fmt: skip
    expected = fit(net, **options)
    with jax.disable_jit():
        run = fit(net._replace(apply=apply), **options)
    assert seen == 3 * [(103, 4, 4, 1)]
    np.testing.assert_allclose(run.losses, expected.losses, rtol=1e-5)
    rows = zip(run.history, expected.history, strict=True)
    assert all(a["val_accuracy"] == b["val_accuracy"] for a, b in rows)


@pytest.mark.slow
def test_fit_uses_no_key_twice():
    with jax.debug_key_reuse(True):
        fit(augment=data.random_flip, epochs=1)


@pytest.mark.slow
def test_training_leaks_no_tracer():
    """JAX walks over all objects that there are, at every trace."""

    def make(learning_rate):
        return sweep.Trial(linear(), optimizers.sgd(learning_rate))

    with jax.checking_leaks():
        run = fit(epochs=1)
        train.evaluate(NET, run, DATA.test)
        sweep.run(make, DATA, {"learning_rate": [0.1]}, epochs=1, batch_size=10, how="loop")
