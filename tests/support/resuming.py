"""What the tests of resuming share: a run of twelve steps with all that draws, and comparisons."""

import jax

from funcnet import data, nets, optimizers, train
from funcnet.checks import _resume
from tests.support.small_runs import numbers

DATA = data.synthetic(shape=(4, 4, 1), classes=3, sizes=(43, 30, 20), noise=0.4)
NET = nets.fully_connected_net([8], 3, norm="batch", dropout=0.2)
OPTIMIZER = optimizers.adam(train.decay_per_epoch(0.02, 0.5, 4))


def fit(**options):
    settings = {"epochs": 3, "batch_size": 10, "augment": data.random_flip, **options}
    return train.fit(NET, DATA, OPTIMIZER, **settings)


def template():
    return jax.eval_shape(lambda: train.init_state(NET, OPTIMIZER, jax.random.key(0), (4, 4, 1)))


def stop_at(step):
    def stop(run):
        if int(run.final.step) == step:
            raise KeyboardInterrupt

    return stop


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = numbers(x), numbers(y)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


def untimed(rows):
    return [{k: v for k, v in row.items() if k not in _resume._TIMES} for row in rows]


def assert_same_run(a, b):
    assert_same(a[1:4], b[1:4])
    assert_same(tuple(a.preprocessing), tuple(b.preprocessing))
    assert untimed(a.history) == untimed(b.history)
    assert (a.best_epoch, a.nonfinite, a.stopped) == (b.best_epoch, b.nonfinite, b.stopped)
