"""Blocks that are fused: neither names nor numbers change."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import nets
from tests.support.net_parts import EPS, initialised, lin

FUSED = {
    "affine_batch_norm_relu": (
        [nets.affine(5), nets.batch_norm(0.8, 1e-3), nets.relu(), nets.affine(2)],
        (3, 2),
        ["affine1", "batch_norm1", "relu1"],
    ),
    "affine_relu": ([nets.affine(5), nets.relu()], (3, 2), ["affine1", "relu1"]),
    "conv_relu": (
        [nets.conv(3, size=(3, 2), stride=2, padding=1), nets.relu()],
        (6, 7, 2),
        ["conv1", "relu1"],
    ),
    "conv_relu of groups": (
        [nets.conv(4, padding=((1, 0), (0, 2)), dilation=2, groups=2, bias=False), nets.relu()],
        (6, 7, 2),
        ["conv1", "relu1"],
    ),
    "affine_batch_norm_relu without bias": (
        [nets.affine(5, bias=False), nets.batch_norm(), nets.relu()],
        (3,),
        ["affine1", "batch_norm1", "relu1"],
    ),
    "conv_relu_pool": (
        [nets.conv(3, size=3), nets.relu(), nets.max_pool(2), nets.affine(2)],
        (6, 8, 2),
        ["conv1", "relu1", "max_pool1"],
    ),
}


@pytest.mark.parametrize(("blocks", "shape", "first"), FUSED.values(), ids=FUSED)
def test_fusing_changes_neither_names_nor_numbers(blocks, shape, first, rng):
    fused, plain = nets.serial(*blocks), nets.serial(*blocks, fuse=False)
    assert fused.parts[0].names == tuple(first)
    assert all(len(part.names) == 1 for part in plain.parts)
    params, state = initialised(fused, shape)
    jax.tree.map(np.testing.assert_array_equal, (params, state), initialised(plain, shape))
    x = rng.normal(size=(4, *shape))

    @partial(jax.jit, static_argnums=0)
    def run(net, params, x):
        results = []
        for train in (True, False):
            y, vjp, after = jax.vjp(
                lambda p, x, train=train: net.apply(p, state, x, train=train),
                params, x, has_aux=True,
            )  # fmt: skip
            results.append((y, after, vjp(jnp.sin(lin(0, 50, *y.shape)))))
        return results

    for fused_result, plain_result in zip(
        *(run(net, params, x) for net in (fused, plain)), strict=True
    ):
        assert jax.tree.structure(fused_result) == jax.tree.structure(plain_result)
        for a, b in zip(*map(jax.tree.leaves, (fused_result, plain_result)), strict=True):
            # Sums of at most 4 * 6 * 8 terms of size 1, in another order.
            np.testing.assert_allclose(a, b, rtol=0, atol=200 * EPS * max(1, np.abs(b).max()))


def test_pools_that_overlap_are_not_taken_for_tiles():
    for pool in (nets.max_pool(3), nets.max_pool(2, stride=1), nets.max_pool(2, padding="SAME")):
        parts = nets.serial(nets.conv(2), nets.relu(), pool).parts
        assert [part.names for part in parts] == [("conv1", "relu1"), ("max_pool1",)]
