"""Pools: their options in nets, and how to write the pools that have no name here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import layers, nets

OPTIONS = {
    "max_pool": {
        "window": (3, 2),
        "stride": 2,
        "padding": ((1, 0), (0, 1)),
        "ceil_mode": True,
        "dilation": (1, 2),
    },
    "avg_pool": {
        "window": (3, 2),
        "stride": 2,
        "padding": ((1, 0), (0, 1)),
        "ceil_mode": True,
        "count_include_pad": True,
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_blocks_pass_every_option_on(name, rng):
    """And leaving any of them out gives another result, so that none is lost on the way."""
    x = jnp.asarray(rng.normal(size=(1, 7, 8, 1)), jnp.float32)
    layer, block = getattr(layers, name), getattr(nets, name)
    options = OPTIONS[name]
    fewer = [{k: v for k, v in options.items() if k != left} for left in options]

    @jax.jit
    def of_all():
        return [
            (block(**chosen).apply((), (), x)[0], layer(x, **chosen))
            for chosen in (options, *fewer)
        ]

    (whole, same), *others = of_all()
    np.testing.assert_array_equal(whole, same)
    for other, same in others:
        np.testing.assert_array_equal(other, same)
        assert other.shape != whole.shape or (other != whole).any()


def test_only_the_usual_pool_is_fused():
    def stages(**options):
        net = nets.serial(nets.conv(2), nets.relu(), nets.max_pool(**options))
        return [part.names for part in net.parts]

    fused = [("conv1", "relu1", "max_pool1")]
    assert stages() == stages(padding=0) == stages(padding=((0, 0), (0, 0))) == fused
    for options in ({"ceil_mode": True}, {"dilation": (2, 1)}, {"padding": ((0, 1), (0, 0))}):
        assert stages(**options) != fused


def test_a_series_is_an_image_of_width_one(rng):
    x = jnp.asarray(rng.normal(size=(2, 7, 3)))  # n, places, channels
    y = layers.max_pool(x[:, :, None], (3, 1), (2, 1))[:, :, 0]
    np.testing.assert_array_equal(y, jnp.stack([x[:, i : i + 3].max(1) for i in (0, 2, 4)], 1))


def test_the_maximum_of_an_image_along_its_axes_goes_to_the_first(rng):
    """h + w slices instead of h w, and ties go where one window over all would send them."""
    x = jnp.asarray(rng.integers(0, 3, size=(2, 5, 4, 2)), float)

    def along_axes(x):
        return layers.max_pool(layers.max_pool(x, (1, x.shape[2])), (x.shape[1], 1))[:, 0, 0]

    def at_once(x):
        return layers.max_pool(x, x.shape[1:3])[:, 0, 0]

    got, want = jax.jit(
        lambda x: [jax.vjp(f, x)[1](jnp.ones((2, 2))) for f in (along_axes, at_once)]
    )(x)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(along_axes(x), x.max((1, 2)))


@pytest.mark.integration
def test_adaptive_pools_are_means_of_parts(rng):
    """torch's parts, which overlap where the sizes do not divide."""
    x, (oh, ow) = jnp.asarray(rng.normal(size=(2, 5, 6, 3))), (3, 2)
    edges = [
        [(i * size // out, -(-(i + 1) * size // out)) for i in range(out)]
        for size, out in zip(x.shape[1:3], (oh, ow), strict=True)
    ]
    assert edges[0] == [(0, 2), (1, 4), (3, 5)]

    @jax.jit
    def adaptive(x):
        rows = [
            jnp.stack([layers.global_avg_pool(x[:, p:q, r:s]) for r, s in edges[1]], 1)
            for p, q in edges[0]
        ]
        return jnp.stack(rows, 1)

    want = [[np.asarray(x)[:, p:q, r:s].mean((1, 2)) for r, s in edges[1]] for p, q in edges[0]]
    np.testing.assert_allclose(adaptive(x), np.moveaxis(np.array(want), 2, 0), atol=1e-15)
    even = layers.avg_pool(x, (5, 3))  # where the sizes divide
    np.testing.assert_allclose(even[:, 0, 1], x[:, :, 3:].mean((1, 2)), atol=1e-15)
