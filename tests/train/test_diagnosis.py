"""`train.diagnose`: what it measures, and where it points."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import nets, optimizers, train
from tests.support.lanes import by_default
from tests.support.small_runs import EPS, KEY


def diagnosed(net, x, y=None, optimizer=None, change=lambda params: params, **options):
    optimizer = optimizer or optimizers.sgd(0.1)
    state = train.init_state(net, optimizer, KEY, x.shape[1:], x.dtype)
    state = state._replace(params=change(state.params))
    y = np.arange(len(x), dtype=np.int32) % 3 if y is None else y
    return train.diagnose(net, state, (x, y), **options)


@pytest.mark.integration
def test_diagnose_measures_what_is_there(rng):
    """Against NumPy, at every layer of an affine - relu - affine net."""
    net = nets.serial(nets.affine(4), nets.relu(), nets.affine(3))
    x, y = rng.normal(size=(5, 2)), np.array([0, 1, 2, 2, 1])
    state = train.init_state(net, optimizers.sgd(0.1), KEY, (2,), jnp.float64)
    found = train.diagnose(net, state, (x, y), reg=0.5)
    assert [row.name for row in found.rows] == ["input", "affine1", "relu1", "affine2"]
    assert (found.where, found.what) == (None, "")
    p1, p2 = (jax.tree.map(np.asarray, state.params[f"affine{i}"]) for i in (1, 2))
    h = x @ p1.w + p1.b[None]
    z = np.maximum(h, 0) @ p2.w + p2.b[None]
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    dz = (p - np.eye(3)[y]) / 5
    da = dz @ p2.w.T
    grads = (np.maximum(h, 0).T @ dz + 0.5 * p2.w, dz.sum(0))
    expected = {
        "input": (x, None, None),
        "affine1": (h, da * (h > 0), None),
        "relu1": (np.maximum(h, 0), da, None),
        "affine2": (z, dz, np.concatenate([grads[0].ravel(), grads[1]])),
    }
    for row in found.rows:
        measured = row.output, row.output_grad, row.params_grad
        for sizes, array in zip(measured, expected[row.name], strict=True):
            if array is not None:
                assert (sizes.nonfinite, sizes.size) == (0, array.size)
                assert abs(sizes.max_abs - np.abs(array).max()) < 50 * EPS * sizes.max_abs
                rms = np.sqrt(np.square(array).mean())
                assert abs(sizes.rms - rms) < 50 * EPS * rms
    step = jax.jit(train.make_step(net, optimizers.sgd(0.1), reg=0.5))
    metrics = step(state, (x, y))[1]
    assert abs(found.loss - metrics["loss"]) < 20 * EPS
    assert abs(found.grad_norm - metrics["grad_norm"]) < 50 * EPS * found.grad_norm


@pytest.mark.integration
def test_diagnose_takes_the_steps_own_masks(rng):
    """With dropout, in nested nets: the loss is that of the step, to the bit or nearly."""
    inner = nets.serial(nets.affine(6), nets.dropout(0.5), nets.relu())
    net = nets.serial(
        nets.affine(6), nets.residual(inner), nets.remat(inner), nets.dropout(0.3), nets.affine(3)
    )
    optimizer = optimizers.sgd(0.1)
    x, y = rng.normal(size=(5, 4)), np.array([0, 1, 2, 2, 1])
    state = train.init_state(net, optimizer, KEY, (4,), jnp.float64)
    found = train.diagnose(net, state, (x, y))
    _, metrics = jax.jit(train.make_step(net, optimizer))(state, (x, y))
    assert abs(found.loss - metrics["loss"]) < 20 * EPS
    assert abs(found.grad_norm - metrics["grad_norm"]) < 50 * EPS * found.grad_norm
    names = [row.name for row in found.rows]
    assert names[:3] == ["input", "affine1", "residual1.block.affine1"]
    assert {"remat1.affine1", "remat1.dropout1", "dropout1", "affine2"} <= set(names)
    assert sum(row.params.size for row in found.rows if row.params) == sum(
        leaf.size for leaf in jax.tree.leaves(state.params)
    )


def broken_block(forward=lambda x: x, backward=lambda x, dy: dy):
    """A block with a rule of its own."""

    @jax.custom_vjp
    def rule(x):
        return forward(x)

    rule.defvjp(lambda x: (forward(x), x), lambda x, dy: (backward(x, dy),))
    return nets.Net(
        lambda key, shape: ((), ()), lambda p, s, x, *, train=False, key=None: (rule(x), s), "mine"
    )


ONES = np.ones((4, 5))


def with_entry(array, index, value):
    array = np.array(array)
    array[index] = value
    return array


def with_leaf(layer, field, value):
    """Sets the first entry of a parameter."""

    def change(params):
        leaf = getattr(params[layer], field)
        leaf = with_entry(leaf, (0,) * leaf.ndim, value)
        return params | {layer: params[layer]._replace(**{field: leaf})}

    return change


def all_of(value):
    return lambda params: jax.tree.map(lambda leaf: np.full(leaf.shape, value, leaf.dtype), params)


DEEP = nets.fully_connected_net([6], 3, norm="batch")
STARTS = {
    "input": (
        lambda: diagnosed(DEEP, with_entry(ONES, (1, 2), np.nan)),
        "input", "the input (1 of 20 not finite)",
    ),
    "parameter": (
        lambda: diagnosed(DEEP, ONES, change=with_leaf("affine2", "w", jnp.inf)),
        "affine2", "affine2.w, a parameter (1 of 18 not finite)",
    ),
    "norm's parameter": (
        lambda: diagnosed(DEEP, ONES, change=with_leaf("batch_norm1", "beta", jnp.nan)),
        "batch_norm1", "batch_norm1.beta, a parameter (1 of 6 not finite)",
    ),
    "output": (
        lambda: diagnosed(
            nets.serial(nets.affine(4), broken_block(lambda x: x / 0.0), nets.affine(3)), ONES
        ),
        "mine1", "the output of mine1 (16 of 16 not finite)",
    ),
    "output that overflows": (
        lambda: diagnosed(
            nets.serial(nets.affine(4), nets.relu(), nets.affine(3)), ONES.astype(np.float32),
            change=all_of(1e20),
        ),
        "affine2", "the output of affine2 (12 of 12 not finite)",
    ),
    "only in low precision": (
        lambda: diagnosed(
            nets.serial(nets.affine(4), nets.relu(), nets.affine(3)), 300 * ONES,
            change=all_of(100.0), compute_dtype=jnp.float16,
        ),
        "affine1", "the output of affine1 (16 of 16 not finite)",
    ),
    "loss": (
        lambda: diagnosed(DEEP, ONES, y=np.array([0, 1, 2, 3], np.int32)),
        "loss", "the loss (1 of 1 not finite)",
    ),
    "gradient of the loss": (
        lambda: diagnosed(DEEP, ONES, loss=lambda z, y: jnp.sqrt((z * 0.0).sum())),
        "loss", "the gradient of affine2's output, which the loss gives back (12 of 12 not finite)",
    ),
    "backward rule": (
        lambda: diagnosed(
            nets.serial(
                nets.affine(4), broken_block(backward=lambda x, dy: dy / 0.0), nets.affine(3)
            ),
            ONES,
        ),
        "mine1", "the gradient of affine1's output, which mine1 gives back (16 of 16 not finite)",
    ),
    "norm of the gradient": (
        lambda: diagnosed(
            nets.affine(3), ONES.astype(np.float32), loss=lambda z, y: 1e30 * z.sum()
        ),
        "affine", None,
    ),
}  # fmt: skip


# A parameter of a norm is one as any; an output overflows in float32 as it does in float16.
SAME = {"norm's parameter", "output that overflows"}


@pytest.mark.integration
@pytest.mark.parametrize("name", by_default(STARTS, {*STARTS} - SAME))
def test_diagnose_points_at_where_it_starts(name):
    make, where, what = STARTS[name]
    found = make()
    assert found.where == where
    if what is None:
        assert re.fullmatch(
            r"the gradient of \w+: up to 4.00e\+30, whose square overflows", found.what
        )
    else:
        assert found.what == what
    assert f"starts in {found.what}" in str(found)


@pytest.mark.integration
def test_diagnose_prints_a_table():
    lines = str(diagnosed(DEEP, with_entry(ONES, (1, 2), np.inf))).splitlines()
    assert lines[0].split("  ")[0] == "layer"
    assert re.match(r"input .* 1 of 20 .*<- the input \(1 of 20 not finite\)", lines[1])
    assert [line.split()[0] for line in lines[2:4]] == ["affine1", "batch_norm1"]
    assert lines[-1].startswith("loss nan, norm of the gradient nan: starts in the input")
    assert str(diagnosed(DEEP, ONES)).endswith("all numbers are finite")
    with pytest.raises(TypeError, match="diagnose: net is"):
        train.diagnose(None, None, None)
    with pytest.raises(TypeError, match="diagnose: compute_dtype"):
        diagnosed(DEEP, ONES, compute_dtype=jnp.int32)
