"""Convolutions: the maps by products of patches, and the primitives that they lower."""

from __future__ import annotations

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from funcnet import kernels
from funcnet.kernels import _conv_cpu, _conv_xla, _native
from tests.support.conv_cases import DILATED, GEOMETRIES, GROUPED, IDS, assert_close, drawn, maps_of
from tests.support.lanes import by_default


@pytest.fixture(
    params=by_default([2**12, 2**15, 2**24], {2**15}, lane=pytest.mark.integration),
    ids=["singly", "chunks", "at_once"],
)
def cache_bytes(request, monkeypatch):
    """So little that each image is a chunk, or a few of them with a rest; or all at once."""
    monkeypatch.setattr(_conv_cpu, "CACHE_BYTES", request.param)


@pytest.mark.usefixtures("cache_bytes")
@pytest.mark.parametrize(
    ("geometry", "dtype"),
    [(g, jnp.float64) for g in GEOMETRIES]
    + [
        pytest.param(g, dtype, marks=[pytest.mark.slow] if i else [])
        for i, g in enumerate(GEOMETRIES[:3])
        for dtype in (jnp.float32, jnp.bfloat16)
    ]
    + [(g, jnp.float64) for g in DILATED],
    ids=[
        *IDS,
        *(f"{name}-{dtype}" for name in IDS[:3] for dtype in ("float32", "bfloat16")),
        *(f"dilated{g[5]}" for g in DILATED),
    ],
)
def test_products_of_patches_are_the_convolution(geometry, dtype, rng):
    x, w, dy, where = drawn(geometry, rng, dtype)
    where.pop("groups", None)

    @jax.jit
    def pairs(x, w, dy):
        found = [[f(x, w, **where) for f in (_conv_cpu.chunked_conv, _conv_xla.xla_conv)]]
        for seen in (dy, dy[:, :-1, :-1]):  # a last row and column of zeros may be left out
            ways = (_conv_cpu.chunked_kernel_gradient, _conv_xla.xla_kernel_gradient)
            found.append([f(x, seen, size=w.shape[:2], **where) for f in ways])
        return found

    terms = w[..., 0].size, dy[..., 0].size, dy[..., 0].size
    for pair, count in zip(pairs(x, w, dy), terms, strict=True):
        assert_close(*pair, count)


@pytest.mark.usefixtures("cache_bytes")
@pytest.mark.parametrize("dtype", by_default([jnp.float64, jnp.bfloat16], {jnp.float64}))
@pytest.mark.parametrize("geometry", GROUPED, ids=["two", "depthwise", "twofold", "many_taps"])
def test_groups_are_xlas_groups(geometry, dtype, rng):
    x, w, dy, where = drawn(geometry, rng, dtype)

    @jax.jit
    def pairs(x, w, dy):
        maps = maps_of(x, w, dy, where)
        return [(ours(*operands), xla(*operands)) for ours, xla, operands in maps]

    for got, want in pairs(x, w, dy[:, :-1]):
        assert_close(got, want, dy.size)


@pytest.mark.integration
@pytest.mark.parametrize(
    "geometry",
    [
        DILATED[1],
        *(pytest.param(g, marks=pytest.mark.slow) for g in GROUPED[:2]),
        GROUPED[2],  # dilated, with a stride and in groups
    ],
    ids=["dilated", "two", "depthwise", "twofold"],
)
def test_dilation_and_groups_differentiate_and_batch(geometry, rng):
    x, w, dy, where = drawn(geometry, rng)
    maps = maps_of(x, w, dy[:, :-1], where)

    @jax.jit
    def of_two(several):
        return [jax.vmap(f)(*operands) for (f, *_), operands in zip(maps, several, strict=True)]

    several = [[np.stack([a, 2 * a]) for a in operands] for *_, operands in maps]
    for (f, _, operands), got in zip(maps, of_two(several), strict=True):
        check_grads(f, operands, order=2, modes=["fwd", "rev"])
        one = np.asarray(f(*operands))
        assert_close(got, np.stack([one, 4 * one]), dy.size)


@pytest.mark.parametrize("without", [jax.disable_jit, chex.fake_jit])
def test_without_jit_each_map_is_one_operation(without, rng):
    x, w, dy, where = drawn(GEOMETRIES[0], rng)
    x, w, dy, a, b = jax.device_put((x, w, dy, x[0, 0], w[0, 0]))
    with without():
        for f, xla, operands in maps_of(x, w, dy, where):
            assert_close(f(*operands), xla(*operands), dy.size)
        assert_close(kernels.matmul_bias(a, b, b[0]), a @ b + b[:1], 3)
        assert_close(kernels.once(a), a, 1)


# Images and kernels past the cache: (n, size), channels, kernel, groups. Scratch is what the map
# lays out beside its operands and its result.
LARGE = [
    ((1, 512), (1, 1), 31, 1),
    ((1, 512), (1, 8), 7, 1),
    ((1, 512), (3, 16), 7, 1),
    ((1, 256), (32, 32), 3, 1),
    ((1, 256), (32, 32), 3, 32),
]


@pytest.mark.parametrize(("images", "channels", "k", "groups"), LARGE)
def test_scratch_is_no_multiple_of_the_images(images, channels, k, groups, monkeypatch):
    """A padded copy of either side, and a few times the cache; the patches are 2 to 960 images."""
    monkeypatch.setattr(_native, "_switched", [False])
    (n, size), (cin, cout) = images, channels
    x, w, dy = (
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in ((n, size, size, cin), (k, k, cin // groups, cout), (n, size, size, cout))
    )
    where = {"stride": (1, 1), "pads": ((k // 2, k // 2),) * 2, "groups": groups}
    sides = 4 * (x.size + dy.size)
    for f, _, operands in maps_of(x, w, dy, where):
        compiled = jax.jit(f).lower(*operands).compile()
        scratch = compiled.memory_analysis().temp_size_in_bytes
        assert scratch <= 1.25 * sides + 4 * _conv_cpu.CACHE_BYTES, (scratch, sides)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("geometry", "order"),
    [
        pytest.param(g, order, id=f"{name}-order{order}", marks=[] if quick else [pytest.mark.slow])
        for i, (name, g) in enumerate(zip(IDS, GEOMETRIES, strict=True))
        for order, quick in ((2, i in (1, 4)), (3, i == 2))
        if order == 2 or i < 3
    ],
)
def test_maps_differentiate_into_each_other(geometry, order, rng):
    x, w, dy, where = drawn(geometry, rng)
    kernel, image = w.shape[:2], x.shape[1:3]
    few = dy[:, :-1]
    for f, args in (
        (lambda x, w: kernels.conv(x, w, **where), (x, w)),
        (lambda x, dy: kernels.conv_kernel_gradient(x, dy, size=kernel, **where), (x, few)),
        (lambda dy, w: kernels.conv_input_gradient(dy, w, size=image, **where), (few, w)),
    ):
        check_grads(f, args, order=order, modes=["fwd", "rev"])


def far_from_the_kink(y):
    """A bias for each channel that brings the widest gap among its middle values around zero."""
    values = np.sort(np.asarray(y).reshape(-1, y.shape[-1]), 0)
    middle = values[len(values) // 4 : len(values) - len(values) // 4]
    below = np.diff(middle, axis=0).argmax(0)
    channels = np.arange(y.shape[-1])
    return -(middle[below, channels] + middle[below + 1, channels]) / 2


@pytest.mark.integration
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    "geometry",
    [*(pytest.param(g, marks=pytest.mark.slow) for g in GEOMETRIES[:2]), GEOMETRIES[2]],
    ids=IDS[:3],
)
def test_with_bias_and_relu_it_differentiates_as_its_parts(geometry, relu, rng):
    x, w, _, where = drawn(geometry, rng)
    b = far_from_the_kink(_conv_xla.xla_conv(x, w, **where))

    def parts(x, w, b):
        y = _conv_xla.xla_conv(x, w, **where) + b[None, None, None]
        return jnp.where(y > 0, y, 0) if relu else y

    def whole(x, w, b):
        return kernels.conv_bias(x, w, b, *where.values(), relu=relu)

    check_grads(whole, (x, w, b), order=2, modes=["fwd", "rev"])
    low = kernels.conv_bias(*(a.astype(jnp.bfloat16) for a in (x, w, b)), *where.values())
    assert low.dtype == jnp.float32
    several = np.stack([w, -w]), np.stack([b, 2 * b])

    @jax.jit
    def pairs(several):
        one_by_one = [parts(x, *(a[i] for a in several)) for i in range(2)]
        mapped = jax.vmap(whole, (None, 0, 0))(x, *several)
        return [(whole(x, w, b), one_by_one[0]), (mapped, jnp.stack(one_by_one))]

    for pair in pairs(several):
        assert_close(*pair, w[..., 0].size)


@pytest.mark.integration
@pytest.mark.parametrize("relu", [False, True])
def test_a_product_with_bias_and_relu_differentiates_as_its_parts(relu, rng):
    a, b = (rng.normal(size=shape) for shape in ((5, 4), (4, 3)))
    bias = far_from_the_kink(a @ b)

    def parts(a, b, bias):
        y = a @ b + bias[None]
        return np.where(y > 0, y, 0) if relu else y

    whole = functools.partial(kernels.matmul_bias, relu=relu)
    assert_close(whole(a, b, bias), parts(a, b, bias), 4)
    check_grads(whole, (a, b, bias), order=2, modes=["fwd", "rev"])
    got = jax.jit(jax.vmap(whole, (None, 0, None)))(a, np.stack([b, -b]), bias)
    assert_close(got, np.stack([parts(a, b, bias), parts(a, -b, bias)]), 4)
    low = kernels.matmul_bias(*(x.astype(jnp.bfloat16) for x in (a, b, bias)))
    assert low.dtype == jnp.float32


@pytest.mark.parametrize("geometry", GEOMETRIES[:3], ids=IDS[:3])
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (1, 2)])
def test_maps_of_a_batch_are_the_maps_one_by_one(geometry, axes, rng):
    x, w, dy, where = drawn(geometry, rng)
    maps = maps_of(x, w, dy, where)
    several = [
        [
            a if axis is None else np.stack([a, 2 * a, a - 1], axis)
            for a, axis in zip(operands, axes, strict=True)
        ]
        for *_, operands in maps
    ]

    @jax.jit
    def mapped(several):
        return [jax.vmap(f, axes)(*args) for (f, *_), args in zip(maps, several, strict=True)]

    for (f, *_), args, got in zip(maps, several, mapped(several), strict=True):
        one_by_one = [
            f(
                *(
                    a if axis is None else np.take(a, i, axis)
                    for a, axis in zip(args, axes, strict=True)
                )
            )
            for i in range(3)
        ]
        assert_close(got, np.stack(one_by_one), dy.size)


def test_no_images_have_no_output_and_a_gradient_of_zeros():
    x, w, dy = jnp.zeros((0, 9, 9, 3)), jnp.ones((3, 3, 3, 2)), jnp.zeros((0, 7, 7, 2))
    where = {"stride": (1, 1), "pads": ((0, 0), (0, 0))}
    assert kernels.conv(x, w, **where).shape == dy.shape
    np.testing.assert_array_equal(
        kernels.conv_kernel_gradient(x, dy, (3, 3), **where), np.zeros(w.shape)
    )
    assert kernels.conv_input_gradient(dy, w, (9, 9), **where).shape == x.shape


def test_the_way_is_chosen_by_shape(monkeypatch):
    monkeypatch.setattr(_native, "_switched", [False])

    def products(f, *shapes):
        """Whether a map is lowered to products instead of a convolution."""
        args = (jnp.zeros(shape, jnp.float32) for shape in shapes)
        text = jax.jit(f).lower(*args).as_text()
        assert ("dot_general" in text) != ("stablehlo.convolution" in text)
        return "dot_general" in text

    where = {"stride": (1, 1), "pads": ((1, 1), (1, 1))}
    for cin, pixels in itertools.product((3, 16), (8, 16)):
        x, w, dy = (10, pixels, pixels, cin), (3, 3, cin, 32), (10, pixels, pixels, 32)
        assert products(lambda x, w: kernels.conv(x, w, **where), x, w) == (cin == 3)
        gradient = products(
            lambda x, d: kernels.conv_kernel_gradient(x, d, size=(3, 3), **where), x, dy
        )
        assert gradient == (pixels == 16)


def test_elsewhere_it_is_one_convolution():
    x, w = jnp.zeros((10, 16, 16, 3), jnp.float32), jnp.zeros((3, 3, 3, 32), jnp.float32)
    f = jax.jit(lambda x, w: kernels.conv(x, w, stride=(1, 1), pads=((1, 1), (1, 1))))
    for platform in ("cuda", "tpu"):
        text = f.trace(x, w).lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.convolution" in text
        assert "while" not in text
