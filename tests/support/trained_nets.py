"""Trained nets that nobody trained: with numbers of all kinds, at once."""

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import data
from funcnet.train import Trained


def made(net, shape, dtype=jnp.float32, **fields):
    """A net with parameters and statistics that are not those it starts with."""
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf) + rng.uniform(0.1, 0.5, leaf.shape), dtype),
        net.init(jax.random.key(0), shape),
    )
    prepared = data.fit_preprocessing(rng.integers(0, 256, (50, *shape), np.uint8))
    return Trained(net, *drawn, prepared, ("a", "b", "c"), shape, **fields)
