"""The table of the optimizers and their twins in optax, and how tests run them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import optimizers as opt
from funcnet._machine import quick_compile_options

DTYPES = {"f64": jnp.float64, "f32": jnp.float32, "bf16": jnp.bfloat16, "f16": jnp.float16}
SHAPES = ((), (3,), (4, 5), (2, 3, 4, 5), (0,))


class Point(NamedTuple):
    x: Any
    y: Any


def ragged(make):
    """A nested dict, list and NamedTuple, with a leaf of every shape."""
    scalar, vector, matrix, kernel, empty = map(make, SHAPES)
    return {"a": [scalar, {"w": matrix, "b": vector}], "p": Point(kernel, empty)}


def not_kernels(tree):
    return jax.tree.map(lambda p: p.ndim != 4, tree)


def of_rank(numbers):
    return lambda tree: jax.tree.map(lambda p: numbers.get(p.ndim), tree)


NUMBERS = optax.contrib.MuonDimensionNumbers
matrices_and_kernels = of_rank({2: NUMBERS(), 4: NUMBERS((0, 1, 2), 3)})
matrices_and_stacks = of_rank({2: NUMBERS(), 4: NUMBERS(3, (1, 2))})
OURS_ALONE = {
    *("eps_in_sqrt", "conv_kernels", "ns_dtype", "velocity", "accumulator_dtype"),
    "bias_correction_max",
}

# The table that drives the tests: ours, its twin in optax, the arguments of both.
TABLE = {
    "sgd": (opt.sgd, optax.sgd, {}),
    "sgd-nesterov": (opt.sgd, optax.sgd, {"momentum": 0.8, "nesterov": True}),
    "momentum": (opt.momentum, functools.partial(optax.sgd, momentum=0.9), {}),
    "nesterov": (opt.nesterov, functools.partial(optax.sgd, momentum=0.9, nesterov=True), {}),
    "rmsprop": (opt.rmsprop, optax.rmsprop, {}),
    "rmsprop-outside": (opt.rmsprop, optax.rmsprop, {"eps_in_sqrt": False, "initial_scale": 0.5}),
    "rmsprop-momentum": (
        opt.rmsprop,
        optax.rmsprop,
        {"momentum": 0.7, "bias_correction": True},
    ),
    "rmsprop-centered": (
        opt.rmsprop,
        optax.rmsprop,
        {"centered": True, "eps_in_sqrt": False, "momentum": 0.7, "nesterov": True, "eps": 1e-3},
    ),
    "adagrad": (opt.adagrad, optax.adagrad, {}),
    "adadelta": (opt.adadelta, optax.adadelta, {}),
    "adadelta-decay": (
        opt.adadelta,
        optax.adadelta,
        {"weight_decay": 0.1, "weight_decay_mask": not_kernels, "rho": 0.95},
    ),
    "adam": (opt.adam, optax.adam, {}),
    "adam-nesterov": (opt.adam, optax.adam, {"nesterov": True, "eps_root": 1e-4, "b1": 0.8}),
    "nadam": (opt.nadam, optax.nadam, {}),
    "adamax": (opt.adamax, optax.adamax, {}),
    "adamw": (opt.adamw, optax.adamw, {}),
    "adamw-mask": (
        opt.adamw,
        optax.adamw,
        {"weight_decay": 0.1, "mask": not_kernels, "nesterov": True},
    ),
    "amsgrad": (opt.amsgrad, optax.amsgrad, {}),
    "amsgrad-paper": (
        opt.amsgrad,
        optax.amsgrad,
        {"bias_correction_mu": False, "bias_correction_nu": False, "eps_root": 1e-4},
    ),
    "lion": (opt.lion, optax.lion, {}),
    "lamb": (opt.lamb, optax.lamb, {"weight_decay": 0.01, "mask": not_kernels}),
    "muon": (opt.muon, optax.contrib.muon, {}),
    "muon-kernels": (
        opt.muon,
        optax.contrib.muon,
        {
            "muon_weight_dimension_numbers": matrices_and_kernels,
            "ns_coeffs": "dion",
            "weight_decay": 0.1,
            "weight_decay_mask": not_kernels,
            "adam_weight_decay": 0.2,
            "adam_learning_rate": 0.003,
        },
    ),
    "muon-stack": (
        opt.muon,
        optax.contrib.muon,
        {
            "muon_weight_dimension_numbers": matrices_and_stacks,
            "preconditioning": "aol",
            "consistent_rms": 0.2,
            "nesterov": False,
        },
    ),
    "muon-schatten": (
        opt.muon,
        optax.contrib.muon,
        {"preconditioning": "schatten", "adaptive": True},
    ),
    "muon-spectral": (opt.muon, optax.contrib.muon, {"preconditioning": "spectral"}),
}
PLAIN = [name for name in TABLE if "-" not in name]  # one row an optimizer, at its defaults
SCHEDULE = optax.cosine_decay_schedule(0.01, decay_steps=150, alpha=0.1)


def quickly(function):
    """Compiles fast, where neither speed nor the last bit is the question."""
    return jax.jit(function, compiler_options=quick_compile_options())


def table(names=TABLE):
    return pytest.mark.parametrize("name", list(names))


def ours(name, learning_rate=0.01, **more):
    make, _, kwargs = TABLE[name]
    return make(learning_rate, **kwargs, **more)


def twin(name, learning_rate=0.01):
    """Optax does not run under strict promotion: it is traced with the standard rules."""
    _, make, kwargs = TABLE[name]
    inner = make(learning_rate, **kwargs)

    def update(grads, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return inner.update(grads, state, params)

    return optax.GradientTransformation(inner.init, update)


def assert_trees_close(got, expected, tolerance):
    """Compares leaf by leaf, relative to the largest entry of each leaf."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for path, a in jax.tree_util.tree_leaves_with_path(got):
        b = np.asarray(expected_at(expected, path))
        assert a.shape == b.shape
        if a.size:
            error = np.max(np.abs(np.asarray(a) - b)) / max(np.max(np.abs(b)), 1e-300)
            assert error <= tolerance, (jax.tree_util.keystr(path), error)


def expected_at(tree, path):
    return dict(jax.tree_util.tree_leaves_with_path(tree))[path]


def trajectory(optimizer, params, noise):
    """Runs one step a row of `noise`; the gradient also pulls towards 0, so errors feed back."""

    def step(carry, row):
        params, state = carry
        grads = jax.tree.map(lambda p, z: 0.1 * p + z, params, row)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), noise)[0]


@functools.cache
def program(name):
    """Returns `run(rate, params, state, rows)`, one step a row: jitted, plain, and its traces."""
    traces = []

    def run(rate, params, state, rows):
        optimizer = ours(name, rate)

        def step(carry, grads):
            params, state = carry
            updates, state = optimizer.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), updates

        (params, state), updates = jax.lax.scan(step, (params, state), rows)
        return params, state, updates

    def counted(*args):
        traces.append(args)
        return run(*args)

    return quickly(counted), run, traces


def in_each_dtype(values):
    return {k: jnp.asarray(values, dtype) for k, dtype in DTYPES.items()}


def run_program(name, rate, start, rows, **fields):
    params = in_each_dtype(np.full((2, 3), start))
    state = ours(name).init(params)._replace(**fields)
    return program(name)[0](rate, params, state, in_each_dtype(rows))


def eighths(rng, steps=100):
    """Gradients that every dtype holds exactly, none of them 0."""
    signs = rng.choice([-1.0, 1.0], (steps, 2, 3))
    return signs * rng.integers(1, 16, (steps, 2, 3)) / 8


def described(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)
