"""Sweeps of a small net on a small data set, and what their members are compared by."""

import jax
import numpy as np

from funcnet import data, nets, optimizers, sweep

DATA = data.synthetic(shape=(4, 4, 1), classes=3, sizes=(103, 30, 20), noise=0.4)


def softmax(learning_rate):
    """At a rate of 1e200 the penalty is infinite after a step; the logits alone would not be."""
    return sweep.Trial(nets.softmax_classifier(3), optimizers.sgd(learning_rate), reg=1e-3)


def run(make=softmax, values=None, seeds=(0,), how="loop", **options):
    values = {"learning_rate": [0.1, 0.01]} if values is None else values
    return sweep.run(
        make, DATA, values, seeds, **{"epochs": 1, "batch_size": 10, **options}, how=how
    )


def keyless(state):
    return state._replace(key=jax.random.key_data(state.key))


def assert_close(a, b, rtol):
    """Each leaf within rtol of its largest entry; 0 asks for the same bits."""
    a, b = keyless(a), keyless(b)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        scale = np.abs(np.asarray(y)).max(initial=0) if rtol else 0.0
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * scale)
