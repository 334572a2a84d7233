"""Nets that answer in the units of their targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import nets


@pytest.mark.parametrize("shape", [(3,), (4, 4, 3)])
def test_each_channel_is_scaled_and_shifted(shape, rng):
    x = jnp.asarray(rng.normal(size=(2, *shape)))
    scale, shift = [2.0, -1.0, 0.5], [0.0, 10.0, 3.0]
    y, _ = nets.rescale(scale, shift).apply((), (), x)
    np.testing.assert_array_equal(y, np.asarray(x) * scale + shift)


def test_low_precision_stays():
    x = jnp.ones((1, 1), jnp.bfloat16)
    assert nets.rescale([2.0], [1.0]).apply((), (), x)[0].dtype == jnp.bfloat16


def test_a_rescaled_net_keeps_its_parameters_names_and_answers_around_the_targets(rng):
    targets = 100 + 7 * rng.normal(size=(500, 2))
    plain = nets.fully_connected_net([5], 2)
    net = nets.rescaled(plain, targets)
    params, state = net.init(jax.random.key(0), (3,))
    assert list(params) == list(plain.init(jax.random.key(0), (3,))[0])
    x = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    inner = np.asarray(plain.apply(params, state, x)[0])
    expected = inner * targets.std(0) + targets.mean(0)
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(net.apply(params, state, x)[0], expected, rtol=8 * eps)


def test_a_constant_target_is_shifted_alone():
    (config,) = nets.to_config(nets.rescaled(nets.affine(1), np.full(5, 3.0)))["blocks"][1:]
    assert (config["scale"], config["shift"]) == ([1.0], [3.0])


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(1,\)"):
        nets.rescale([1.0, 2.0], [0.0])
