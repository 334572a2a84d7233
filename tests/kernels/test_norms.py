"""Native normalisation within JAX: where it is used, and the numbers that XLA gives."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from funcnet import kernels, layers
from funcnet.kernels import _native
from funcnet.layers import AffineParams, BatchStats, NormParams

needs_native = pytest.mark.skipif(
    not kernels.native_status().startswith("native"), reason=kernels.native_status()
)
EPS = float(np.finfo(np.float32).eps)
C = 8
LARGE = (64, 8, 8, C)  # enough for whatever is native only of many numbers


@pytest.fixture(autouse=True)
def switch_back():
    yield
    if _native._switched:
        _native._switched.clear()
        jax.clear_caches()


def _stats(dtype):
    return BatchStats(jnp.linspace(-1, 1, C, dtype=dtype), jnp.linspace(0.5, 2, C, dtype=dtype))


NORMS = {
    "batch": lambda p, x: layers.batch_norm(p, x)[0],
    "inference": lambda p, x: layers.batch_norm_inference(p, _stats(x.dtype), x),
    "layer": layers.layer_norm,
    "group": lambda p, x: layers.group_norm(p, x, 2),
    "rms": lambda p, x: layers.rms_norm(p.gamma, x),
    "fused": lambda p, x: layers.affine_batch_norm_relu(
        (AffineParams(jnp.eye(x[0].size, C, dtype=x.dtype), None), p), x
    )[0],
}


def _drawn(rng, shape=(6, 3, 2, C), offset=0.0):
    x = jnp.asarray(offset + rng.normal(size=shape), jnp.float32)
    gamma, beta = rng.uniform(0.5, 2, C), rng.normal(size=C)
    return NormParams(jnp.asarray(gamma, jnp.float32), jnp.asarray(beta, jnp.float32)), x


def _both(norm, params, x):
    y, pull = jax.vjp(norm, params, x)
    dy = jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
    return y, pull(kernels.cut_as(dy, y))


def _calls(f, *args, **options):
    text = jax.jit(f).trace(*args).lower(**options).as_text()
    return {n for n in ("funcnet_norm", "funcnet_norm_gradient") if f"@{n}(" in text}


def _assert_alike(transform, norm, params, x):
    """Native within four times XLA's error, or a few roundings, of float64."""
    results = []
    for on in (True, False):
        kernels.use_native(on)
        results.append(jax.jit(transform(norm))(params, x))
    exact = transform(norm)(*jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, x)))
    for got, xla, want in zip(*map(jax.tree.leaves, (*results, exact)), strict=True):
        assert got.dtype == xla.dtype
        scale = max(np.abs(want).max(), 1e-3)
        error, xlas = (np.abs(np.float64(y) - want).max() / scale for y in (got, xla))
        assert error <= max(4 * xlas, 64 * EPS), (error, xlas)


@needs_native
@pytest.mark.parametrize("name", NORMS)
def test_float32_on_one_cpu_device_is_native_and_nothing_else_is(name, rng):
    params, x = _drawn(rng, LARGE)
    both = functools.partial(_both, NORMS[name])
    wanted = {"funcnet_norm", "funcnet_norm_gradient"}
    if name == "inference":  # whose forward pass XLA joins with its neighbours
        wanted = {"funcnet_norm_gradient"}
    assert _calls(both, params, x) == wanted
    assert not _calls(both, params, x, lowering_platforms=("cuda",))
    for dtype in (jnp.float64, jnp.bfloat16):
        assert not _calls(both, *jax.tree.map(lambda a, d=dtype: a.astype(d), (params, x)))


@needs_native
def test_what_xla_joins_faster_is_xlas(rng):
    """Rows of few channels, and given statistics of few numbers."""
    params, x = _drawn(rng)
    few = NormParams(*(p[:4] for p in params))
    for norm, p, images in (
        ("layer", few, x[..., :4]),
        ("rms", few, x[..., :4]),
        ("group", params, x[:, 0, 0]),
        ("inference", params, x),
    ):
        assert not _calls(functools.partial(_both, NORMS[norm]), p, images)


@needs_native
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("offset", [0, 1000])
def test_values_and_gradients_are_xlas_and_closer(name, offset, rng):
    params, x = _drawn(rng, LARGE, offset)
    _assert_alike(lambda norm: functools.partial(_both, norm), NORMS[name], params, x)


@needs_native
@pytest.mark.parametrize("name", ["batch", "layer", "group", "fused"])
@pytest.mark.parametrize("which", [(0, None), (None, 0), (None, None)], ids=str)
def test_without_gain_or_shift(name, which, rng):
    params, x = _drawn(rng)
    params = NormParams(*(p if w == 0 else None for p, w in zip(params, which, strict=True)))
    _assert_alike(lambda norm: functools.partial(_both, norm), NORMS[name], params, x)


def _loss(norm):
    return lambda p, x: jnp.sin(norm(p, x)).sum()


def _squared_gradient(norm):
    def loss(p, x):
        return sum(jnp.vdot(g, g) for g in jax.tree.leaves(jax.grad(_loss(norm), (0, 1))(p, x)))

    return loss


@needs_native
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(
    "transform",
    [
        lambda f: jax.grad(_squared_gradient(f), (0, 1)),
        lambda f: jax.grad(jax.checkpoint(_loss(f)), (0, 1)),
        lambda f: jax.vmap(jax.grad(_loss(f), (0, 1)), (None, 0)),
        lambda f: (
            lambda p, x: jax.vmap(jax.grad(_loss(f), (0, 1)), (0, None))(
                jax.tree.map(lambda a: jnp.stack([a, 2 * a]), p), x[0]
            )
        ),
        lambda f: (
            lambda p, x: jax.lax.scan(lambda c, row: (c, jax.grad(_loss(f), (0, 1))(p, row)), 0, x)[
                1
            ]
        ),
    ],
    ids=["second", "remat", "images", "parameters", "scan"],
)
def test_every_transformation_gives_what_xla_gives(transform, name, rng):
    params, x = _drawn(rng, (3, 4, 2, C))
    _assert_alike(transform, NORMS[name], params, x)


@needs_native
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_numbers_spread_as_xla_spreads_them(name, value, rng):
    params, x = _drawn(rng, LARGE)
    x = x.at[1, 2, 0, 3].set(value)
    found = []
    for on in (True, False):
        kernels.use_native(on)
        found.append(jax.jit(functools.partial(_both, NORMS[name]))(params, x))
    for got, want in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))


@needs_native
def test_no_numbers_are_xlas():
    x = jnp.zeros((0, C), jnp.float32)
    params = NormParams(jnp.ones(C, jnp.float32), jnp.ones(C, jnp.float32))
    for norm in (layers.layer_norm, lambda p, x: layers.group_norm(p, x, 2)):
        y, (dparams, dx) = jax.jit(functools.partial(_both, norm))(params, x)
        assert y.shape == dx.shape == x.shape
        np.testing.assert_array_equal(dparams.gamma, np.zeros(C))


@needs_native
@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Explicit, jax.sharding.AxisType.Auto])
def test_on_a_mesh(kind, rng):
    """Of one device: of explicit axes the definition, of automatic ones the kernel."""
    mesh = jax.make_mesh((1,), ("d",), (kind,))
    params, x = _drawn(rng)
    with jax.set_mesh(mesh):
        placed = jax.device_put(x, NamedSharding(mesh, P("d")))
        for norm in (NORMS["batch"], NORMS["group"]):
            got = jax.jit(functools.partial(_both, norm))(params, placed)
            for a, b in zip(*map(jax.tree.leaves, (got, _both(norm, params, x))), strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=64 * EPS * np.abs(b).max())
