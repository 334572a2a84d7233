"""Programs for other machines: every rule, whole steps, and what `jax.export` makes of them."""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from funcnet import kernels, nets, optimizers, train
from tests.support.lanes import by_default
from tests.support.rules import SAMPLES, problem

PLATFORMS = ("cuda", "rocm", "tpu")
NETS = {
    "batch_norm": (nets.fully_connected_net([6], 4, norm="batch", dropout=0.2), (5,)),
    "layer_norm": (nets.fully_connected_net([6], 4, norm="layer"), (5,)),
    "convnet": (nets.three_layer_convnet(4, (2, 3, 4)), (8, 8, 3)),
    "resnet": (nets.resnet(4, (2, 4)), (8, 8, 3)),
}


@pytest.mark.parametrize(
    ("name", "index"),
    [pytest.param(*s, marks=pytest.mark.slow if s[1] else ()) for s in SAMPLES],
)
def test_every_rule_lowers_for_accelerators(name, index):
    p = problem(name, index, jnp.float32)

    def both(x):
        y, pull = jax.vjp(p.rule, x)
        return y, pull([jnp.ones_like(v) for v in y])

    text = jax.jit(both).trace(p.floats).lower(lowering_platforms=PLATFORMS).as_text()
    assert "@funcnet" not in text, "a kernel for a CPU is in it"


def step_of(name: str, rows: object, dtype: object = jnp.float32) -> tuple:
    """A step, a state, and a batch of so many rows as shapes."""
    net, shape = NETS[name]
    optimizer = optimizers.adam(1e-3)
    state = train.init_state(net, optimizer, jax.random.key(0), shape, dtype)
    batch = jax.ShapeDtypeStruct((rows, *shape), dtype), jax.ShapeDtypeStruct((rows,), jnp.int32)
    return train.make_step(net, optimizer), state, batch


@pytest.mark.integration
@pytest.mark.parametrize(
    "case",
    by_default(
        product(NETS, ["float32", "bfloat16"]),
        {("batch_norm", "bfloat16"), ("convnet", "float32")},
    ),
    ids="-".join,
)
def test_whole_steps_lower_for_accelerators(case):
    name, compute_dtype = case
    net, _ = NETS[name]
    _, state, batch = step_of(name, 4)
    step = train.make_step(net, optimizers.adam(1e-3), compute_dtype=compute_dtype)
    text = jax.jit(step).trace(state, batch).lower(lowering_platforms=PLATFORMS).as_text()
    assert "@funcnet" not in text


@pytest.mark.integration
@pytest.mark.parametrize("name", by_default(NETS, {"batch_norm"}))
def test_steps_and_inference_are_exported_for_batches_of_any_size(name, rng):
    """For three platforms at once; what comes back gives what the function itself gives."""
    net, shape = NETS[name]
    (rows,) = export.symbolic_shape("rows")
    step, state, batch = step_of(name, rows)
    where = {"platforms": ("cpu", "cuda", "tpu")}
    exported = export.export(jax.jit(step), **where)(state, batch)
    x = jnp.asarray(rng.normal(size=(6, *shape)), jnp.float32)
    y = jnp.asarray(rng.integers(0, 4, 6), jnp.int32)
    got, want = exported.call(state, (x, y)), jax.jit(step)(state, (x, y))
    close(got[0][:3], want[0][:3])

    def infer(params, net_state, x):
        return net.apply(params, net_state, x, train=False)[0]

    exported = export.export(jax.jit(infer), **where)(state.params, state.state, batch[0])
    close(exported.call(state.params, state.state, x), infer(state.params, state.state, x))


def close(got, want):
    """To single precision, where the same sums may be taken in another order."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, atol=2**-12 * max(1.0, np.abs(b).max()))


CONV = {"stride": (1, 1), "pads": ((1, 1), (1, 1))}
PRODUCTS = {
    "matmul": (lambda a, b: kernels.matmul(a[0, 0], b[0, 0]), "dot_general"),
    "conv": (lambda a, b: kernels.conv(a, b, **CONV), "convolution"),
    "conv_kernel_gradient": (
        lambda a, b: kernels.conv_kernel_gradient(a, a, (3, 3), **CONV),
        "convolution",
    ),
}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_the_precision_is_that_of_where_a_product_is_written(name, platform):
    """And not of where it is lowered, which is after the block has ended; derivatives have it."""
    times, operation = PRODUCTS[name]
    a, b = jnp.ones((1, 4, 4, 4), jnp.float32), jnp.ones((3, 3, 4, 4), jnp.float32)

    def highest(a, b):
        with jax.default_matmul_precision("highest"):
            return times(a, b)

    def gradients(function):
        def both(a, b):
            y, pull = jax.vjp(function, a, b)
            return pull(y)

        return both

    for function in (highest, gradients(highest)):
        lowered = jax.jit(function).trace(a, b).lower(lowering_platforms=(platform,))
        lines = [
            line for line in lowered.as_text().splitlines() if f"stablehlo.{operation}" in line
        ]
        assert lines
        assert all("HIGHEST" in line for line in lines)
    lowered = jax.jit(gradients(times)).trace(a, b).lower(lowering_platforms=(platform,))
    assert "HIGHEST" not in lowered.as_text()
