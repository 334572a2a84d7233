"""Summaries of nets: what they count, and how they print."""

import jax
import jax.numpy as jnp
import pytest

from funcnet import nets
from tests.support.net_parts import KEY


def test_summary_counts_and_prints(capsys):
    net = nets.fully_connected_net([500, 500, 500], 10, norm="batch")
    table = nets.summary(net, (32, 32, 3))
    printed = capsys.readouterr().out
    assert printed == f"{table}\n"
    assert "affine1 + batch_norm1 + relu1" in printed
    assert "1,537,500" in printed
    weights = 3072 * 500 + 2 * 500 * 500 + 500 * 10
    assert table.flops == 2 * weights
    assert table.parameters == weights + 3 * 1500 + 10
    assert len({len(line) for line in printed.splitlines()} - {0}) <= 3


def test_summary_counts_convolutions(capsys):
    table = nets.summary(nets.three_layer_convnet(10), (32, 32, 3))
    products = 32 * 32 * 27 * 32 + 16 * 16 * 288 * 64 + 8 * 8 * 576 * 128 + 2048 * 10
    assert table.flops == 2 * products
    assert [row.output_shape for row in table.rows] == [
        (16, 16, 32), (8, 8, 64), (4, 4, 128), (10,)
    ]  # fmt: skip


@pytest.mark.integration
@pytest.mark.parametrize(
    "net",
    [
        nets.fully_connected_net([20, 30], 10, norm="batch"),
        nets.three_layer_convnet(10, (2, 3, 4)),
        nets.resnet(10, (2, 4)),
    ],
    ids=["fully_connected", "convnet", "resnet"],
)
def test_summary_counts_what_the_whole_nets_backward_pass_keeps(net):
    def kept(batch):
        total = 0

        def run(key):
            nonlocal total
            params, state = net.init(key, (16, 16, 3))
            x = jnp.zeros((batch, 16, 16, 3), jnp.float32)
            given = {id(leaf) for leaf in jax.tree.leaves((params, state, x))}
            _, vjp = jax.vjp(lambda p, x: net.apply(p, state, x, train=True)[0], params, x)
            new = {id(leaf): leaf for leaf in jax.tree.leaves(vjp) if id(leaf) not in given}
            total = sum(leaf.size * leaf.dtype.itemsize for leaf in new.values())

        jax.eval_shape(run, KEY)
        return total

    assert nets.summary(net, (16, 16, 3)).residual_bytes == (kept(6) - kept(3)) // 3
