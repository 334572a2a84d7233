"""Optimizers against torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import optimizers as opt
from tests.support.optimizer_table import quickly

TORCH = {
    "sgd": (opt.sgd(0.01), "SGD", {"lr": 0.01}),
    "momentum": (opt.momentum(0.01), "SGD", {"lr": 0.01, "momentum": 0.9}),
    "nesterov": (opt.nesterov(0.01), "SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    # torch: eps outside the root, alpha .99 by default; its velocity is raw, ours scaled
    "rmsprop": (
        opt.rmsprop(0.01, 0.99, eps_in_sqrt=False, centered=True, momentum=0.9),
        "RMSprop",
        {"lr": 0.01, "centered": True, "momentum": 0.9},
    ),
    # torch: eps outside the root, 1e-10, and a sum that starts at 0
    "adagrad": (opt.adagrad(0.01, 0.0, 1e-10, eps_in_sqrt=False), "Adagrad", {"lr": 0.01}),
    "adadelta": (
        opt.adadelta(1.0, weight_decay=0.1),
        "Adadelta",
        {"lr": 1.0, "weight_decay": 0.1},
    ),
    "adam": (opt.adam(0.01), "Adam", {"lr": 0.01}),
    # torch: a decay of .01 by default
    "adamw": (opt.adamw(0.01, weight_decay=0.01), "AdamW", {"lr": 0.01}),
    # torch lets b1 grow as b1 (1 - .5 * .96^(t momentum_decay)); so large a decay holds it at b1
    "nadam": (opt.nadam(0.01), "NAdam", {"lr": 0.01, "momentum_decay": 1e6}),
    "adamax": (opt.adamax(0.01), "Adamax", {"lr": 0.01}),
}


@pytest.mark.parametrize("name", TORCH)
def test_20_steps_equal_torch(name, rng):
    torch = pytest.importorskip("torch")
    optimizer, theirs, kwargs = TORCH[name]
    start, grads = rng.standard_normal((4, 5)), rng.standard_normal((20, 4, 5))
    torch.set_default_dtype(torch.float64)  # else NAdam keeps its product of b1 in float32
    try:
        p = torch.tensor(start, requires_grad=True)
        stepper = getattr(torch.optim, theirs)([p], **kwargs)
        for g in grads:
            p.grad = torch.tensor(g)
            stepper.step()
    finally:
        torch.set_default_dtype(torch.float32)

    @quickly
    def run(w, grads):
        def step(carry, g):
            params, state = carry
            updates, state = optimizer.update(g, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (w, optimizer.init(w)), grads)[0][0]

    got = run(start, grads)
    np.testing.assert_allclose(got, p.detach().numpy(), rtol=1e-12, atol=1e-13)


COUPLED = optax.add_decayed_weights(0.1)  # torch's weight_decay, but for AdamW
MAXIMIZE = optax.scale(-1.0)
TORCH |= {
    "amsgrad": (
        opt.amsgrad(0.01, bias_correction_nu=False, bias_correction_max=True),
        "Adam",
        {"lr": 0.01, "amsgrad": True},
    ),
    "coupled": (
        optax.chain(MAXIMIZE, COUPLED, opt.adam(0.01)),
        "Adam",
        {"lr": 0.01, "weight_decay": 0.1, "maximize": True},
    ),
    "coupled-sgd": (
        optax.chain(MAXIMIZE, COUPLED, opt.momentum(0.01)),
        "SGD",
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "maximize": True},
    ),
}


@pytest.mark.parametrize("amsgrad", [False, True])
def test_coupled_decay_maximize_and_amsgrad_are_torchs(amsgrad, rng):
    """torch.optim.Adam's formula with weight_decay, maximize and amsgrad, in NumPy."""
    w, m, v, largest = rng.standard_normal((2, 3)), 0.0, 0.0, 0.0
    make = (
        functools.partial(opt.amsgrad, bias_correction_nu=False, bias_correction_max=True)
        if amsgrad
        else opt.adam
    )
    optimizer = optax.chain(MAXIMIZE, COUPLED, make(0.01))
    ours = jnp.asarray(w)
    state = optimizer.init(ours)
    for t, scale in enumerate((3.0, 1.0, 0.1, 2.0), 1):  # falls, so that the maximum is another
        grads = scale * rng.standard_normal((2, 3))
        updates, state = quickly(optimizer.update)(grads, state, ours)
        ours = optax.apply_updates(ours, updates)
        g = -grads + 0.1 * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        largest = np.maximum(largest, v)
        root = np.sqrt((largest if amsgrad else v) / (1 - 0.999**t))
        w = w - 0.01 * (m / (1 - 0.9**t)) / (root + 1e-8)
        np.testing.assert_allclose(ours, w, rtol=1e-12)
