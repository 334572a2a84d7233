"""What tests of nets share: parameters in float64, and a net applied."""

import math

import jax
import numpy as np

KEY = jax.random.key(0)
EPS = float(np.finfo(np.float64).eps)


def in_float64(tree):
    return jax.device_put(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree))


def initialised(net, shape, key=KEY):
    return in_float64(net.init(key, shape))


def applied(net, params, state, x, **options):
    """`net.apply`, compiled: quicker than one small program for each operation."""
    return jax.jit(lambda p, s, x: net.apply(p, s, x, **options))(params, state, x)


def lin(low, high, *shape):
    return np.linspace(low, high, math.prod(shape)).reshape(shape)
