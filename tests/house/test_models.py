"""What the pages let one move, docs/scripts/models.js, computes what funcnet computes."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import checks, layers, nets, optimizers, train
from tests.support.processes import ROOT

NODE = shutil.which("node")
MODELS = ROOT / "docs" / "scripts" / "models.js"
if NODE is None:
    pytest.skip("node is not at hand to run docs/scripts/models.js", allow_module_level=True)
TOYS = {
    "sgd": optimizers.sgd(0.1),
    "momentum": optimizers.momentum(0.1, 0.9, velocity="scaled"),
    "nesterov": optimizers.nesterov(0.1, 0.9, velocity="scaled"),
    "rmsprop": optimizers.rmsprop(0.1, decay=0.99, eps=1e-8),
}
VALLEYS = {
    "sgd": optimizers.sgd(0.03),
    "momentum": optimizers.momentum(0.03, 0.9),
    "nesterov": optimizers.nesterov(0.03, 0.9),
    "rmsprop": optimizers.rmsprop(0.03, decay=0.9, eps=1e-8),
    "adam": optimizers.adam(0.03),
}
DEEP = [(2, 0.1, "relu", False), (5, 0.3, "tanh", False), (6, 0.01, "relu", True)]


@functools.cache
def said():
    """All numbers of the models that the tests ask for, by one process."""
    asked = {
        "toy": [f"models.toy('{rule}', 0.1)" for rule in TOYS],
        "valley": [f"models.valley('{rule}', 0.03)" for rule in VALLEYS],
        "deep": [
            f"models.deep({depth}, {scale}, {{activation: '{name}', norm: {str(norm).lower()}}})"
            for depth, scale, name, norm in DEEP
        ],
        "wrong": [f"models.wrongRule({error})" for error in ERRORS],
    }
    fields = ", ".join(f"{name}: [{', '.join(calls)}]" for name, calls in asked.items())
    program = f"const models = require({json.dumps(str(MODELS))});"
    program += f"console.log(JSON.stringify({{{fields}}}));"
    ran = subprocess.run([NODE, "-e", program], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout)


@pytest.mark.integration
def test_the_toy_net_is_course_004s():
    def lin(low, high, *shape):
        return jnp.linspace(low, high, int(np.prod(shape))).reshape(shape)

    net = nets.two_layer_net(10, 3)
    batch = lin(-0.2, 0.5, 5, 4), jnp.array([0, 1, 2, 2, 1])
    params = {
        "affine1": layers.AffineParams(lin(-0.2, 0.6, 4, 10), lin(-0.3, 0.7, 10)),
        "affine2": layers.AffineParams(lin(-0.4, 0.1, 10, 3), lin(-0.5, 0.9, 3)),
    }
    for (rule, optimizer), theirs in zip(TOYS.items(), said()["toy"], strict=True):
        state = train.init_state(net, optimizer, jax.random.key(0), (4,), jnp.float64)
        step = train.make_step(net, optimizer, reg=1e-3)
        start = state._replace(params=params)
        _, metrics = jax.lax.scan(lambda s, _, step=step: step(s, batch), start, None, 101)
        np.testing.assert_allclose(metrics["loss"], theirs, rtol=1e-11, err_msg=rule)


@pytest.mark.integration
def test_the_valley_is_walked_as_the_optimizers_walk():
    for (rule, optimizer), theirs in zip(VALLEYS.items(), said()["valley"], strict=True):

        def step(carry, _, optimizer=optimizer):
            w, state = carry
            update, state = optimizer.update(w * jnp.array([1.0, 20.0]), state, w)
            return (w + update, state), w + update

        start = jnp.array([1.5, 1.0])
        _, path = jax.lax.scan(step, (start, optimizer.init(start)), None, 60)
        np.testing.assert_allclose(path, theirs[1:], rtol=1e-10, atol=1e-14, err_msg=rule)


@pytest.mark.parametrize("index", range(len(DEEP)))
def test_a_deep_nets_gradients_are_the_rules(index):
    _, _, activation, norm = DEEP[index]
    theirs = said()["deep"][index]

    def objective(weights):
        h = jnp.array(theirs["x"])
        for w in weights:
            h = layers.affine(layers.AffineParams(w, None), h)
            if norm:
                h, _ = layers.batch_norm(layers.norm_init(20, dtype=h.dtype), h)
            h = getattr(layers, activation)(h)
        return (h * jnp.array(theirs["cotangent"])).sum()

    gradients = jax.grad(objective)([jnp.array(w) for w in theirs["weights"]])
    lengths = [float(jnp.linalg.norm(gradient)) for gradient in gradients]
    np.testing.assert_allclose(lengths, theirs["lengths"], rtol=1e-10)


ERRORS = [1e-2, 1e-7, 1e-12, 1e-15]


@pytest.mark.parametrize("index", range(len(ERRORS)))
def test_a_wrong_backward_pass_is_seen_where_the_page_says(index):
    error, theirs = ERRORS[index], said()["wrong"][index]
    x = jnp.array([-2.0, -0.5, 0.25, 1.0, 3.0])

    @jax.custom_vjp
    def leaky(x):
        return jnp.where(x >= 0, x, 0.01 * x)

    leaky.defvjp(
        lambda x: (leaky.fun(x), x),
        lambda x, dy: (jnp.where(x >= 0, 1.0, 0.01) * (1 + error) * dy,),
    )
    report = checks.check_rule(leaky, x, checks=["cotangent"])
    assert (report.verdict == "wrong") == theirs["checkerSees"]
    differences = checks.numerical_vjp(lambda x: leaky.fun(x), (x,), jnp.ones(5))[0]
    np.testing.assert_allclose(differences, theirs["differences"], rtol=1e-9)
