"""Normalisations without gain or shift, their statistics under vmap, and their blocks."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import layers, nets, plain
from funcnet.layers import AffineParams, BatchStats, NormParams
from tests.support.processes import run_python
from tests.support.rules import worst

EPS = float(np.finfo(np.float64).eps)
C = 4


def affine_of(m):
    return AffineParams(jnp.linspace(-1.0, 2.0, C * m).reshape(C, m), jnp.linspace(0.0, 1.0, m))


NORMS = {
    "batch_norm": lambda p, x: layers.batch_norm(p, x)[0],
    "batch_norm_inference": lambda p, x: layers.batch_norm_inference(
        p, BatchStats(jnp.linspace(-1.0, 1.0, C), jnp.linspace(0.5, 2.0, C)), x
    ),
    "layer_norm": layers.layer_norm,
    "group_norm": lambda p, x: layers.group_norm(p, x, 2),
    "rms_norm": lambda p, x: layers.rms_norm(p.gamma, x),
    "affine_batch_norm_relu": lambda p, x: layers.affine_batch_norm_relu((affine_of(C), p), x)[0],
}


@pytest.mark.parametrize("name", NORMS)
def test_none_is_a_gain_of_one_and_a_shift_of_zero_that_are_not_learnt(name, rng):
    """Bit for bit, and the cotangents have the parameters' structure and dtypes."""
    x, dy = (jnp.asarray(rng.normal(size=(5, C))) for _ in range(2))
    gamma, beta = jnp.asarray(rng.uniform(0.5, 2, C)), jnp.asarray(rng.normal(size=C))
    pairs = list(itertools.product((gamma, None), (beta, None)))

    @jax.jit
    def of_all():
        found = []
        for g, b in pairs:
            written_out = NormParams(
                jnp.ones(C) if g is None else g, jnp.zeros(C) if b is None else b
            )
            for params in (NormParams(g, b), written_out):
                y, pull = jax.vjp(NORMS[name], params, x)
                found.append((y, *pull(dy)))
        return found

    found = of_all()
    for (g, b), got, want in zip(pairs, found[::2], found[1::2], strict=True):
        assert jax.tree.structure(got[1]) == jax.tree.structure(NormParams(g, b))
        np.testing.assert_array_equal(got[0], want[0])
        np.testing.assert_array_equal(got[2], want[2])
        for d, expected, value in zip(got[1], want[1], (g, b), strict=True):
            if value is not None:
                np.testing.assert_array_equal(d, expected)


def test_none_leaves_the_dtype_to_what_there_is():
    low = jnp.ones((2, C), jnp.bfloat16)
    for gamma, dtype in ((None, jnp.bfloat16), (jnp.ones(C, jnp.float32), jnp.float32)):
        params = NormParams(gamma, None)
        for norm in (layers.layer_norm, lambda p, x: layers.rms_norm(p.gamma, x)):

            def both(params, x, norm=norm):
                y, pull = jax.vjp(norm, params, x)
                return y, pull(y)

            with jax.numpy_dtype_promotion("standard"):
                y, cotangents = jax.eval_shape(both, params, low)
            assert y.dtype == dtype
            assert jax.tree.map(jnp.dtype, cotangents) == jax.eval_shape(lambda *a: a, params, low)


def test_none_does_not_hide_a_wrong_x():
    with pytest.raises(ValueError, match="with c channels"):
        layers.rms_norm(None, jnp.ones(()))
    with pytest.raises(TypeError, match="beta has dtype int"):
        layers.layer_norm(NormParams(None, jnp.zeros(C, int)), jnp.ones((2, C)))
    assert layers.norm_init(3, gain=False, bias=False) == NormParams(None, None)


STATISTICS = {
    "batch_norm": (layers.batch_norm, plain.batch_norm),
    "affine_batch_norm_relu": tuple(
        lambda p, x, f=f: f((affine_of(C), p), x)
        for f in (layers.affine_batch_norm_relu, plain.affine_batch_norm_relu)
    ),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_under_vmap_over_the_parameters_alone(name, rng):
    """A loss of the outputs of a vmap, statistics among them: the shared x has its own gradient.

    The statistics do not depend on gamma and beta, and stay an output of each example: what all
    share would have one cotangent where there is a backward pass for each.
    """
    rule, twin = STATISTICS[name]
    x = jnp.asarray(rng.normal(size=(5, C)))
    weights = [jnp.asarray(rng.normal(size=(3, *shape))) for shape in ((5, C), (C,), (C,))]

    def loss(f, axes, params, x):
        outputs = jax.tree.leaves(jax.vmap(lambda p: f(p, x), in_axes=(axes,))(params))
        assert [y.shape for y in outputs] == [w.shape for w in weights]
        return sum(jnp.vdot(y, w) for y, w in zip(outputs, weights, strict=True))

    cases = [NormParams(*axes) for axes in ((0, None), (None, 0), (0, 0))]
    params = [
        NormParams(*(jnp.asarray(rng.normal(size=(3, C) if axis == 0 else C)) for axis in axes))
        for axes in cases
    ]

    @jax.jit
    def gradients(params, x):
        return [
            [
                jax.grad(lambda p, x, f=f, axes=axes: loss(f, axes, p, x), (0, 1))(p, x)
                for axes, p in zip(cases, params, strict=True)
            ]
            for f in (rule, twin)
        ]

    got, want = gradients(params, x)
    assert worst(got, want, EPS) <= 8 + 4 * np.sqrt(3 * x.size)


def test_statistics_do_not_take_over_what_is_in_the_parameters():
    bad = NormParams(jnp.full(2, jnp.nan), jnp.full(2, jnp.inf))
    stats = jax.jit(layers.batch_norm)(bad, jnp.array([[1.0, 2.0], [3.0, 2.0]]))[1]
    np.testing.assert_array_equal(stats.mean, [2.0, 2.0])
    np.testing.assert_array_equal(stats.var, [1.0, 0.0])


BLOCKS = {
    "batch_norm": (nets.batch_norm, {}),
    "layer_norm": (nets.layer_norm, {}),
    "group_norm": (nets.group_norm, {"groups": 2}),
    "rms_norm": (nets.rms_norm, {}),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_without_gain_or_bias(name, rng):
    """Alone and in a serial, fused and not: the values of the block that starts with 1 and 0."""
    block, options = BLOCKS[name]
    x = jnp.asarray(rng.normal(size=(5, C)), jnp.float32)
    named = ("gain",) if name == "rms_norm" else ("gain", "bias")
    choices = [
        dict(zip(named, c, strict=True)) for c in itertools.product((1, 0), repeat=len(named))
    ]
    blocks = [block(**options, **choice) for choice in choices]
    nets_of = [
        [nets.serial(nets.affine(C), b, nets.relu(), fuse=fuse) for b in blocks]
        for fuse in (True, False)
    ]
    starts = [net.init(jax.random.key(0), (C,)) for net in nets_of[0]]

    @jax.jit
    def of_all(starts):
        return [
            [net.apply(*start, x, train=True) for net, start in zip(alike, starts, strict=True)]
            for alike in nets_of
        ]

    for found in of_all(starts):
        for other in found[1:]:
            jax.tree.map(np.testing.assert_array_equal, other, found[0])
    for choice, b in zip(choices, blocks, strict=True):
        params, _ = b.init(jax.random.key(0), (C,))
        leaves = jax.tree.leaves(params)
        assert len(leaves) == sum(choice.values())
        assert leaves or params == ()
        b.apply(params, starts[0][1].get(f"{name}1", ()), x)


def test_a_cumulative_average_of_statistics(rng):
    """torch's `momentum=None`: with momentum 0 the state is the batch's, and they are averaged."""
    net = nets.serial(nets.affine(3), nets.batch_norm(momentum=0.0))
    params, state = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64), net.init(jax.random.key(0), (2,))
    )
    batches = [jnp.asarray(rng.normal(size=(6, 2))) for _ in range(3)]
    states = jax.jit(lambda: [net.apply(params, state, x, train=True)[1] for x in batches])()
    average = jax.tree.map(lambda *s: sum(s) / len(s), *states)["batch_norm1"]
    z = np.stack([np.asarray(layers.affine(params["affine1"], x)) for x in batches])
    np.testing.assert_allclose(average.mean, z.mean((0, 1)), atol=16 * EPS)
    np.testing.assert_allclose(average.var, z.var(1).mean(0), atol=16 * EPS)


def test_group_norm_of_one_channel_a_group_is_instance_norm(rng):
    x = jnp.asarray(rng.normal(size=(2, 3, 3, C)))
    y = layers.group_norm(NormParams(None, None), x, groups=C)
    want = (x - x.mean((1, 2), keepdims=True)) / jnp.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, want, atol=64 * EPS)


def test_the_variance_is_right_far_from_zero(rng):
    """Of float32 around 10^5, whose mean rounds."""
    no_gain = NormParams(None, None)
    x = (1e5 + rng.normal(size=(64, 50))).astype(np.float32)
    _, stats = layers.batch_norm(no_gain, jnp.asarray(x))
    want = x.astype(np.float64).var(0)
    eps = float(np.finfo(np.float32).eps)
    assert np.abs(np.asarray(stats.var, np.float64) - want).max() <= 64 * eps * want.max()


@pytest.mark.integration
def test_the_variance_of_equal_numbers_is_zero_as_users_compile_it():
    out = run_python(
        """
import jax, jax.numpy as jnp, numpy as np
from funcnet import layers
eps = float(np.finfo(np.float32).eps)
values = np.random.default_rng(0).uniform(1, 1e4, 400)
for rows in (7, 49):
    equal = np.broadcast_to(values, (rows, 400)).astype(np.float32)
    _, stats = jax.jit(layers.batch_norm)(layers.NormParams(None, None), jnp.asarray(equal))
    assert 0 <= np.asarray(stats.var).min()
    assert np.asarray(stats.var).max() <= 64 * eps * np.square(eps * equal).max()
print("done")
"""
    )
    assert out.split() == ["done"]
