"""The rows of docs/coming_from.md: funcnet with these arguments is torch with those."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import layers, losses, optimizers
from funcnet.layers import ConvParams, NormParams

torch = pytest.importorskip("torch", reason="torch is not installed: the extra bench has it")
functional = torch.nn.functional
pytestmark = pytest.mark.slow
TOLERANCE = 1e4 * np.finfo(np.float64).eps


def images(rng):
    x = rng.normal(size=(2, 7, 6, 4))
    return jnp.asarray(x), torch.tensor(x.transpose(0, 3, 1, 2))


def assert_equal(ours, theirs):
    theirs = np.asarray(theirs)
    if theirs.ndim == 4:
        theirs = theirs.transpose(0, 2, 3, 1)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE)


def test_convolutions(rng):
    x, t = images(rng)
    w = rng.normal(size=(6, 2, 3, 3))
    kernel = ConvParams(jnp.asarray(w.transpose(2, 3, 1, 0)), None)
    theirs = functional.conv2d(t, torch.tensor(w), None, 2, (1, 2), 2, 2)
    assert_equal(layers.conv2d(kernel, x, 2, (1, 2), dilation=2, groups=2), theirs)


@pytest.mark.parametrize(("p", "q", "stride"), [(0, 0, 1), (1, 1, 2), (2, 1, 3), (1, 0, 2)])
def test_transposed_convolutions(p, q, stride, rng):
    x, t = images(rng)
    w = rng.normal(size=(4, 5, 3, 3))
    kernel = ConvParams(jnp.asarray(w.transpose(2, 3, 1, 0)), None)
    theirs = functional.conv_transpose2d(t, torch.tensor(w), None, stride, p, q)
    assert_equal(layers.conv2d_transpose(kernel, x, stride, ((p, p - q), (p, p - q))), theirs)


def test_pools_and_norms(rng):
    x, t = images(rng)
    for ours, theirs in (
        (
            layers.max_pool(x, 3, 2, 1, ceil_mode=True, dilation=2),
            functional.max_pool2d(t, 3, 2, 1, 2, ceil_mode=True),
        ),
        (
            layers.avg_pool(x, 3, 2, 1, ceil_mode=True, count_include_pad=True),
            functional.avg_pool2d(t, 3, 2, 1, ceil_mode=True),
        ),
        (
            layers.avg_pool(x, (2, 3)) * (6 / 5),
            functional.avg_pool2d(t, (2, 3), None, 0, False, True, 5),
        ),
        (layers.avg_pool(x, (7, 2)), functional.adaptive_avg_pool2d(t, (1, 3))),
        (layers.group_norm(NormParams(None, None), x, 4), functional.instance_norm(t)),
    ):
        assert_equal(ours, theirs)
    ours = layers.max_pool(x[:, 0][:, None], (1, 2)).squeeze(1)
    assert_equal(ours, functional.max_pool1d(t[:, :, 0], 2).numpy().transpose(0, 2, 1))


def test_losses(rng):
    z, labels = rng.normal(size=(5, 4)), np.array([0, 3, 1, 2, 3])
    weights, targets = rng.uniform(0.5, 2, 4), rng.dirichlet(np.ones(4), 5)
    ours, theirs = (
        [jnp.asarray(a) for a in (z, labels, weights)],
        [torch.tensor(a) for a in (z, labels, weights)],
    )
    assert_equal(
        losses.softmax_cross_entropy(*ours[:2], 0.1, ours[2], ignore_index=1),
        functional.cross_entropy(*theirs[:2], theirs[2], ignore_index=1, label_smoothing=0.1),
    )
    assert_equal(
        losses.softmax_cross_entropy(ours[0], jnp.asarray(targets), 0.1, ours[2]),
        functional.cross_entropy(theirs[0], torch.tensor(targets), theirs[2], label_smoothing=0.1),
    )
    assert_equal(
        losses.multiclass_hinge(*ours[:2], 0.7, 2, ours[2]) / 4,
        functional.multi_margin_loss(*theirs[:2], 2, 0.7, theirs[2]),
    )
    several, positives = rng.integers(2, size=(5, 4)), torch.tensor(weights[::-1].copy())
    entries = losses.binary_cross_entropy(
        ours[0], jnp.asarray(several), 0.0, jnp.asarray(weights[::-1]), "none"
    )
    assert_equal(
        (ours[2] * entries).mean(),
        functional.binary_cross_entropy_with_logits(
            theirs[0], torch.tensor(several, dtype=torch.float64), theirs[2], pos_weight=positives
        ),
    )
    assert_equal(layers.softplus(2.5 * ours[0]) / 2.5, functional.softplus(theirs[0], 2.5, 100))


TORCH = {
    "momentum": (optimizers.momentum(0.01, 0.9), "SGD", {"momentum": 0.9}),
    "nesterov": (optimizers.nesterov(0.01, 0.9), "SGD", {"momentum": 0.9, "nesterov": True}),
    "coupled decay": (
        optax.chain(optax.add_decayed_weights(0.1), optimizers.adam(0.01)),
        "Adam",
        {"weight_decay": 0.1},
    ),
    "decoupled decay": (optimizers.adamw(0.01, weight_decay=0.1), "AdamW", {"weight_decay": 0.1}),
    "amsgrad": (
        optimizers.amsgrad(0.01, bias_correction_nu=False, bias_correction_max=True),
        "Adam",
        {"amsgrad": True},
    ),
    "maximize": (optax.chain(optax.scale(-1.0), optimizers.adam(0.01)), "Adam", {"maximize": True}),
    "rmsprop": (
        optimizers.rmsprop(0.01, 0.99, 1e-8, eps_in_sqrt=False, centered=True),
        "RMSprop",
        {"alpha": 0.99, "eps": 1e-8, "centered": True},
    ),
    "adagrad": (
        optimizers.adagrad(0.01, 0.0, 1e-10, eps_in_sqrt=False),
        "Adagrad",
        {"eps": 1e-10},
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_optimizers(name, rng):
    ours, kind, options = TORCH[name]
    params = jnp.asarray(rng.normal(size=3))
    tensor = torch.tensor(np.array(params))
    theirs = getattr(torch.optim, kind)([tensor], 0.01, **options)
    state = ours.init(params)
    for grads in rng.normal(size=(50, 3)) * np.linspace(5, 1, 50)[:, None]:
        updates, state = ours.update(jnp.asarray(grads), state, params)
        params = optax.apply_updates(params, updates)
        tensor.grad = torch.tensor(grads)
        theirs.step()
    assert_equal(params, tensor)
