"""Muon: what it orthogonalises, and how."""

import jax.numpy as jnp
import numpy as np
import optax

from funcnet import optimizers as opt
from tests.support.optimizer_table import quickly


def test_muon_orthogonalises(rng):
    """Singular values near 1, and nearly the polar factor that they stand for."""
    g = jnp.asarray(rng.standard_normal((20, 30)))
    optimizer = opt.muon(1.0)
    updates, _ = quickly(optimizer.update)(g, optimizer.init(g))
    got = -np.asarray(updates) / np.sqrt(30 / 20)
    sizes = np.linalg.svd(got, compute_uv=False)
    assert 0.67 < sizes.min() <= sizes.max() < 1.21
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    assert 0.8 < np.sum(got * (u @ vt)) / 20 < 1.1


def test_muon_conv_kernels(rng):
    """Off: a kernel is Adam's, as in optax. On: it is the matrix (kh kw cin, cout)."""
    w = jnp.asarray(rng.standard_normal((3, 3, 4, 8)))
    off, on, adam = opt.muon(0.1), opt.muon(0.1, conv_kernels=True), opt.nadam(0.1)

    def step(optimizer, w):
        return quickly(lambda w: optimizer.update(w, optimizer.init(w))[0])(w)

    np.testing.assert_array_equal(step(off, w), step(adam, w))
    np.testing.assert_array_equal(step(on, w), step(off, w.reshape(36, 8)).reshape(w.shape))
    assert on.init(w).nu == optax.MaskedNode()


def test_muon_steps_in_bfloat16(rng):
    """Near the exact steps: Newton-Schulz multiplies bfloat16's 2^-9 by up to 3.4445^5."""
    w = jnp.asarray(rng.standard_normal((8, 16)), jnp.float32)
    fast, exact = opt.muon(0.1, ns_dtype=jnp.bfloat16), opt.muon(0.1)
    got, expected = (quickly(o.update)(w, o.init(w))[0] for o in (fast, exact))
    assert got.dtype == jnp.float32
    assert 0 < np.linalg.norm(got - expected) < 0.2 * np.linalg.norm(expected)
