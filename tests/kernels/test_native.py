"""Native kernels within JAX: the same numbers, every transformation, and a way to do without."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import kernels, layers, nets, optimizers, train
from funcnet.kernels import _native
from tests.support import conv_cases

needs_native = pytest.mark.skipif(
    not kernels.native_status().startswith("native"), reason=kernels.native_status()
)
PADS = ((1, 1), (1, 1))


@pytest.fixture(autouse=True)
def switch_back():
    yield
    if _native._switched:
        _native._switched.clear()
        jax.clear_caches()


def custom_calls(f, *args):
    text = jax.jit(f).lower(*args).as_text()
    return {name for name in ("funcnet_conv", "funcnet_matmul") if f"@{name}" in text}


def drawn(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def sandwich(params, x):
    return (layers.affine(params[1], layers.conv_relu_pool(params[0], x)) ** 2).sum()


def squared_length(tree):
    return sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree))


@pytest.fixture
def problem(rng):
    conv = layers.ConvParams(drawn(rng, 3, 3, 2, 4), drawn(rng, 4))
    affine = layers.AffineParams(drawn(rng, 4 * 4 * 4, 3), drawn(rng, 3))
    return (conv, affine), drawn(rng, 5, 8, 8, 2)


@pytest.mark.integration
def test_it_can_be_switched_off(monkeypatch):
    assert kernels.use_native(False) == "XLA: switched off by kernels.use_native(False)"
    a = jnp.ones((3, 3), jnp.float32)
    assert not custom_calls(kernels.matmul, a, a)
    _native._switched.clear()
    for word in ("0", "false", "OFF"):
        monkeypatch.setenv("FUNCNET_NATIVE", word)
        assert kernels.native_status() == f"XLA: switched off by FUNCNET_NATIVE={word}"
    monkeypatch.setenv("FUNCNET_NATIVE", "maybe")
    with pytest.raises(ValueError, match="FUNCNET_NATIVE is 'maybe', expected one of 1, true"):
        kernels.native_status()


def test_how_many_outputs_winograd_takes_at_once(monkeypatch):
    pytest.importorskip("funcnet_native")
    monkeypatch.setattr(_native, "_filtering", [])
    assert "Winograd's filtering 2x2" in kernels.use_native(True)
    monkeypatch.setenv("FUNCNET_WINOGRAD", "4")
    assert "Winograd's filtering 4x4" in kernels.native_status()
    x, w = jnp.ones((8, 16, 16, 64), jnp.float32), jnp.ones((3, 3, 64, 64), jnp.float32)
    conv = jax.jit(functools.partial(kernels.conv, stride=(1, 1), pads=((1, 1), (1, 1))))

    def asked():
        return re.findall("winograd = (.)", conv.lower(x, w).as_text())

    assert asked() == ["4"]
    for m in (0, 2):
        kernels.use_native(True, winograd=m)
        assert asked() == [str(m)]
    assert "no Winograd's filtering" in kernels.use_native(True, winograd=0)
    with pytest.raises(ValueError, match="winograd is 3, expected 0, 2, 4 or None"):
        kernels.use_native(True, winograd=3)
    _native._filtering.clear()
    monkeypatch.setenv("FUNCNET_WINOGRAD", "6")
    with pytest.raises(ValueError, match="FUNCNET_WINOGRAD is '6', expected one of 0, 2, 4"):
        kernels.native_status()


def test_a_package_of_another_funcnet_is_left_alone(monkeypatch):
    """Its functions take other arguments: calling them would end in a TypeError amid a lowering."""
    native = pytest.importorskip("funcnet_native")
    monkeypatch.setattr(native, "INTERFACE", 1)
    _native._loaded.cache_clear()
    try:
        said = kernels.use_native(True)
        assert said == "XLA: funcnet-native is of another funcnet: pip install ./native again"
        a = jnp.ones((3, 3), jnp.float32)
        assert not custom_calls(kernels.matmul, a, a)
    finally:
        monkeypatch.undo()
        _native._loaded.cache_clear()
    assert kernels.use_native(True).startswith("native")


@pytest.mark.integration
def test_without_the_package_it_says_so_and_goes_on(tmp_path):
    """As where it is not installed, and as where it is broken."""
    program = """
import sys
import numpy as np
from funcnet import kernels
from funcnet.kernels import _native

def goes_on(size):
    a = np.ones((size, size), np.float32)
    assert (np.asarray(kernels.matmul(a, a)) == size).all()
    print(kernels.native_status())

sys.modules["funcnet_native"] = None
goes_on(2)
del sys.modules["funcnet_native"]
sys.path.insert(0, sys.argv[1])
_native._loaded.cache_clear()
goes_on(3)
"""
    broken = tmp_path / "funcnet_native.py"
    broken.write_text("raise ImportError('funcnet_native: libdnnl.so.3 cannot be loaded')")
    environment = {**os.environ, "FUNCNET_NATIVE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.stdout.splitlines() == [
        "XLA: funcnet-native is not installed: pip install ./native",
        "XLA: funcnet_native: libdnnl.so.3 cannot be loaded",
    ], done.stderr


@needs_native
def test_float32_and_narrower_on_one_cpu_device_are_native_and_nothing_else_is(rng):
    def conv(x, w):
        return kernels.conv(x, w, (1, 1), PADS)

    x, w, a = drawn(rng, 2, 8, 8, 3), drawn(rng, 3, 3, 3, 4), drawn(rng, 4, 4)
    assert custom_calls(conv, x, w) == {"funcnet_conv"}
    assert custom_calls(kernels.matmul, a, a) == {"funcnet_matmul"}
    assert custom_calls(kernels.matmul_bias, a, a, a[0]) == {"funcnet_matmul"}
    for dtype in (jnp.float64, jnp.bfloat16, jnp.float16):
        native = dtype != jnp.float64
        assert bool(custom_calls(conv, x.astype(dtype), w.astype(dtype))) == native
        assert bool(custom_calls(kernels.matmul, a.astype(dtype), a.astype(dtype))) == native
    for f, args in ((conv, (x, w)), (kernels.matmul, (a, a))):
        text = jax.jit(f).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
        assert "custom_call" not in text


@needs_native
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_numbers_have_wide_sums(dtype, rng):
    """The maps of numbers as they were rounded, with no error but that of float32's sums."""
    x, w, dy = (
        drawn(rng, *shape).astype(dtype) for shape in ((2, 8, 8, 5), (3, 3, 5, 4), (2, 8, 8, 4))
    )
    maps = (
        (lambda x, w: kernels.conv_bias(x, w, w[0, 0, 0], (1, 1), PADS), x, w),
        (lambda x, dy: kernels.conv_kernel_gradient(x, dy, (3, 3), (1, 1), PADS), x, dy),
        (lambda x, w: kernels.conv_input_gradient(x, w, (8, 8), (1, 1), PADS), dy, w),
        (lambda x, w: kernels.matmul_bias(x, w, w[0]), x[0, 0], w[0, 0]),
    )
    for f, *args in maps:
        assert custom_calls(f, *args)
        got = jax.jit(f)(*args)
        want = f(*(a.astype(jnp.float64) for a in args))
        assert got.dtype == jnp.float32
        scale, terms = np.abs(want).max(), 2 * 8 * 8
        assert np.abs(np.float64(got) - want).max() <= terms * np.finfo(np.float32).eps * scale


@needs_native
@pytest.mark.parametrize(("dilation", "groups"), [((2, 1), 1), ((1, 1), 2), ((1, 1), 6)])
def test_dilation_and_groups_are_native_where_onednn_is_fast(dilation, groups, rng):
    x, dy = drawn(rng, 2, 9, 8, 12), drawn(rng, 2, 9, 8, 12)
    w = drawn(rng, 3, 3, 12 // groups, 12)
    if groups == 6:  # depthwise
        x, w = x[..., :6], w[:, :, :1]
    where = {"stride": (1, 1), "pads": (dilation[:1] * 2, (1, 1)), "dilation": dilation}
    for ours, xla, operands in conv_cases.maps_of(x, w, dy, where | {"groups": groups}):
        if dilation == (2, 1):
            assert custom_calls(ours, *operands)
        got, want = jax.jit(ours)(*operands), xla(*(a.astype(jnp.float64) for a in operands))
        assert got.dtype == jnp.float32
        error = np.abs(np.float64(got) - want).max()
        assert error <= 2 * 9 * 8 * np.finfo(np.float32).eps * np.abs(want).max()
    b = jnp.ones(12, jnp.float32)
    biased = jax.jit(lambda x, w: kernels.conv_bias(x, w, b, relu=True, **where, groups=groups))
    want = np.maximum(np.asarray(kernels.conv(x, w, **where, groups=groups)) + 1, 0)
    np.testing.assert_allclose(biased(x, w), want, rtol=1e-5, atol=1e-4)


@needs_native
@pytest.mark.parametrize(
    "transform",
    [
        lambda f: f,
        jax.grad,
        lambda f: jax.grad(lambda p, x: squared_length(jax.grad(f)(p, x))),
        lambda f: jax.grad(jax.checkpoint(f)),
        lambda f: jax.vmap(jax.grad(f), (None, 0)),
        lambda f: jax.vmap(jax.grad(f), (0, None)),
        lambda f: jax.vmap(jax.grad(f)),
        lambda f: lambda p, x: jax.lax.scan(lambda c, row: (c, jax.grad(f)(p, row)), 0, x)[1],
    ],
    ids=["value", "grad", "second", "remat", "images", "kernels", "both", "scan"],
)  # fmt: skip
def test_every_transformation_gives_what_xla_gives(transform, problem, request):
    params, x = problem
    name = request.node.callspec.id
    if name in ("images", "both", "scan"):
        x = jnp.stack([x, 2 * x, x - 1])
    if name in ("kernels", "both"):
        params = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf, leaf + 0.5]), params)
    results = []
    for on in (True, False):
        kernels.use_native(on)
        results.append(jax.jit(transform(sandwich))(params, x))
    kernels.use_native(False)
    exact = transform(sandwich)(*jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, x)))
    for got, xla, want in zip(*map(jax.tree.leaves, (*results, exact)), strict=True):
        scale = np.abs(want).max()
        eps = np.finfo(np.float32).eps
        error, xlas = (np.abs(np.float64(y) - want).max() / scale for y in (got, xla))
        assert error <= max(4 * xlas, 32 * eps), (error, xlas)


@needs_native
def test_sharded_batches_stay_sharded():
    """Each device runs the kernels on its part, whoever cut the batch: XLA, or a shard_map."""
    program = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from funcnet import layers
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
x = jnp.asarray(np.random.default_rng(0).normal(size=(16, 8, 8, 3)), jnp.float32)
p = layers.conv_init(jax.random.key(0), 3, 3, 4)
f = jax.grad(lambda p, x: (layers.conv2d(p, x) ** 2).sum())
want = jax.jit(f)(p, x)
assert "funcnet_conv" in jax.jit(f).lower(p, x).as_text()
placed = jax.device_put(x, NamedSharding(mesh, P("data")))
program = jax.jit(f).lower(p, placed).compile()
assert "all-gather" not in program.as_text()
assert "funcnet_conv_kernel_gradient" in program.as_text()
np.testing.assert_allclose(program(p, placed).w, want.w, rtol=1e-4, atol=1e-3)
specs = {"mesh": mesh, "in_specs": (P(), P("data")), "out_specs": P()}
for per_device in (
    jax.shard_map(f, **specs),  # JAX adds up what p, the same on all devices, has for a gradient
    jax.shard_map(lambda p, x: jax.lax.psum(f(p, x), "data"), **specs, check_vma=False),
):
    assert "funcnet_conv" in jax.jit(per_device).lower(p, placed).as_text()
    np.testing.assert_allclose(jax.jit(per_device)(p, placed).w, want.w, rtol=1e-4, atol=1e-3)
"""
    flags = "--xla_force_host_platform_device_count=8"
    environment = {**os.environ, "FUNCNET_NATIVE": "1", "XLA_FLAGS": flags}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr


@needs_native
def test_a_net_trains_alike_and_the_same_twice(rng):
    net, optimizer = nets.two_layer_convnet(3, channels=4, size=3), optimizers.adam(1e-2)
    batch = drawn(rng, 12, 8, 8, 3), jnp.arange(12) % 3
    losses = []
    for on in (True, True, False):
        kernels.use_native(on)
        state = train.init_state(net, optimizer, jax.random.key(0), (8, 8, 3))
        step = jax.jit(train.make_step(net, optimizer))
        losses.append([])
        for _ in range(5):
            state, metrics = step(state, batch)
            losses[-1].append(float(metrics["loss"]))
    assert losses[0] == losses[1]
    np.testing.assert_allclose(losses[0], losses[2], rtol=1e-4)


@needs_native
@pytest.mark.parametrize("name", ["max_pool", "avg_pool"])
def test_pools_of_overlapping_windows_are_native_and_tiles_are_not(name, rng):
    """And give what XLA gives, second derivatives too; few channels and float64 are XLA's."""
    layer, x = getattr(layers, name), drawn(rng, 3, 9, 8, 20)

    def both(x, *options):
        y, pull = jax.vjp(lambda x: layer(x, *options), x)
        return y, pull(jnp.cos(y))[0]

    def is_native(x, *options):
        text = jax.jit(lambda x: both(x, *options)).lower(x).as_text()
        return all(f"@funcnet_{word}" in text for word in (name, f"{name}_gradient"))

    assert is_native(x, 3, 2, 1)
    assert not is_native(x)
    assert not is_native(x[..., :3], 3, 2, 1)
    assert not is_native(x.astype(jnp.float64), 3, 2, 1)

    def second(x):
        return jax.grad(lambda x: jnp.sin(both(x, 3, 2, 1)[1]).sum())(x)

    def mapped(x):
        return jax.vmap(lambda x: both(x, 3, 2, 1))(jnp.stack([x, -x]))

    results = []
    for on in (True, False):
        kernels.use_native(on)
        results.append(jax.jit(lambda x: (both(x, 3, 2, 1), second(x), mapped(x)))(x))
    scale = 8 * np.finfo(np.float32).eps * max(np.abs(leaf).max() for leaf in jax.tree.leaves(x))
    for got, want in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=9 * scale)
