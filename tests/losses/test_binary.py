"""What binary cross-entropy promises beyond its row of the catalogue."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet.losses import binary_cross_entropy

EPS = float(np.finfo(np.float64).eps)


def torchs(z, q, w=1.0):
    """The formula of torch.nn.functional.binary_cross_entropy_with_logits, entry by entry."""
    cost = np.log1p(np.exp(-np.abs(z))) + np.maximum(-z, 0)
    return (1 - q) * z + (1 + (w - 1) * q) * cost


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    z, q = 3 * rng.normal(size=(2, 5, 4)), rng.uniform(size=(2, 5, 4))
    return z, q, rng.integers(2, size=z.shape), rng.uniform(0.5, 5, 4)


def test_values_are_optaxs_and_torchs(drawn):
    z, q, labels, w = drawn

    @jax.jit
    def ours(z, q, labels, w):
        return [
            (
                binary_cross_entropy(z, t, 0.0, weight, "none"),
                binary_cross_entropy(z, t, 0.0, weight, "sum"),
                binary_cross_entropy(z, t, 0.0, weight),
            )
            for t in (q, labels)
            for weight in (None, w, 3.0)
        ]

    found = iter(ours(z, q, labels, w))
    for t in (q, labels):
        for weight in (1.0, w, 3.0):
            want = torchs(z, t, weight)
            for got, reduced in zip(next(found), (want, want.sum(), want.mean()), strict=True):
                np.testing.assert_allclose(got, reduced, rtol=64 * EPS, atol=64 * EPS)
        plain = jax.jit(optax.sigmoid_binary_cross_entropy)(z, t.astype(float))
        np.testing.assert_allclose(torchs(z, t), plain, rtol=64 * EPS, atol=64 * EPS)


def test_smoothing_draws_labels_to_a_half(drawn):
    z, _, labels, _ = drawn
    both = jax.jit(jax.value_and_grad(binary_cross_entropy), static_argnums=2)
    smoothed, wanted = both(z, labels, 0.2), both(z, np.where(labels, 0.9, 0.1))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=16 * EPS, atol=EPS), smoothed, wanted
    )


@pytest.mark.integration
def test_labels_may_be_booleans_or_integers_of_any_dtype(drawn):
    z, _, labels, w = drawn
    both = jax.jit(jax.value_and_grad(binary_cross_entropy, (0, 3)), static_argnums=2)
    want = both(z, labels.astype(np.float64), 0.0, w)
    for dtype in ("bool", "int8", "uint8", "int32", "uint64"):
        jax.tree.map(np.testing.assert_array_equal, both(z, labels.astype(dtype), 0.0, w), want)
    slope = jax.grad(binary_cross_entropy, 1, allow_int=True)(z, labels)
    assert slope.dtype == jax.dtypes.float0


def test_tails_are_exact():
    """A confident entry costs e^-|z|, and so does its gradient: neither is lost beside 1."""
    z, labels = np.array([50.0, -50.0, 30.0], np.float32), np.array([1, 0, 1])

    @jax.jit
    def both(z):
        loss, pull = jax.vjp(lambda z: binary_cross_entropy(z, labels, reduction="none"), z)
        return loss, *pull(jnp.ones_like(z))

    loss, slope = both(z)
    small = np.exp(-np.abs(z.astype(np.float64)))
    np.testing.assert_allclose(loss, small, rtol=2e-6)
    np.testing.assert_allclose(slope, small * [-1, 1, -1], rtol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sums_are_taken_in_float32(dtype):
    """2^18 entries that cost log 2 each, whose sum float16 could not hold, nor bfloat16 count."""
    eps = float(jnp.finfo(dtype).eps)
    z, labels = jnp.zeros((2**12, 64), dtype), jnp.zeros((2**12, 64), bool)
    both = jax.jit(jax.value_and_grad(binary_cross_entropy, (0, 3)), static_argnums=2)
    loss, (dz, dw) = both(z, ~labels, 0.0, jnp.ones(64, dtype))
    assert (loss.dtype, dz.dtype, dw.dtype) == (dtype,) * 3
    assert abs(float(loss) - np.log(2)) <= eps
    np.testing.assert_allclose(np.asarray(dz, np.float64), -(2.0**-19), rtol=eps)
    np.testing.assert_allclose(np.asarray(dw, np.float64), np.log(2) / 64, rtol=eps)


def test_weights_and_probabilities_have_dtypes_of_their_own(drawn):
    z, q, _, w = (jnp.asarray(a) for a in drawn)
    both = jax.value_and_grad(binary_cross_entropy, (0, 1, 3))
    value, slopes = jax.eval_shape(
        lambda z, q, w: both(z, q, 0.0, w), z.astype(jnp.bfloat16), q, w.astype(jnp.float32)
    )
    assert (value.dtype, *(d.dtype for d in slopes)) == (
        *(jnp.bfloat16, jnp.bfloat16),
        *(jnp.float64, jnp.float32),
    )


def test_a_scalar_weighs_all_positives_alike(drawn):
    z, q, _, _ = drawn
    both = jax.jit(jax.value_and_grad(binary_cross_entropy, (0, 1, 3)), static_argnums=2)
    found, want = both(z, q, 0.0, 3.0), both(z, q, 0.0, np.full(4, 3.0))
    *found, total = jax.tree.leaves(found)
    *want, by_label = jax.tree.leaves(want)
    for got, wanted in zip(found, want, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert total.shape == ()
    np.testing.assert_allclose(total, by_label.sum(), rtol=16 * EPS)


def test_no_entries_have_a_sum():
    none, loss = jnp.zeros((0, 3)), jax.jit(binary_cross_entropy, static_argnames="reduction")
    assert loss(none, none, reduction="sum") == 0
    assert loss(none, none, reduction="none").shape == (0, 3)


def test_curvature_is_a_quarter_where_logits_are_0():
    """Where |z|, by which it is computed, has a corner."""
    curved = jax.jit(jax.grad(jax.grad(binary_cross_entropy)))
    for label in (0, 1):
        assert curved(0.0, label) == 0.25
    across = jax.jit(jax.grad(jax.grad(binary_cross_entropy, 1), 0), static_argnums=2)
    np.testing.assert_allclose(across(0.0, 0.5, 0.0, 3.0), -2.0, rtol=4 * EPS)
