"""Dilation, groups, few channels: the native convolutions against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

native = pytest.importorskip("funcnet_native")

EPS = float(np.finfo(np.float32).eps)

# batch, (h, w), cin, cout, kernel, stride, pads, dilation, groups
SHAPES = {
    "dilation-2": (7, (16, 15), 16, 32, (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 1),
    "dilation-uneven": (3, (17, 16), 8, 24, (3, 5), (1, 2), ((3, 2), (1, 4)), (3, 1), 1),
    "dilation-valid": (3, (13, 13), 16, 16, (2, 3), (2, 1), ((0, 0), (0, 0)), (4, 5), 1),
    "dilation-cut": (3, (14, 14), 16, 16, (3, 3), (1, 1), ((-2, 1), (5, -1)), (2, 2), 1),
    "groups-4": (7, (16, 16), 64, 64, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4),
    "groups-2-wider": (3, (9, 9), 32, 64, (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 2),
    "depthwise": (5, (16, 16), 64, 64, (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 64),
    "depthwise-stride-2": (5, (15, 16), 32, 32, (5, 5), (2, 2), ((2, 2), (2, 1)), (1, 1), 32),
    "rgb-5": (7, (32, 32), 3, 32, (5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), 1),
    "rgb-strided": (5, (17, 30), 3, 20, (7, 5), (2, 3), ((3, 2), (0, 4)), (1, 1), 1),
    "rgb-cut": (3, (19, 18), 3, 7, (3, 3), (1, 1), ((-2, 4), (5, -3)), (1, 1), 1),
    "rgb-wide-image": (2, (5, 700), 4, 16, (3, 9), (1, 1), ((1, 1), (4, 4)), (1, 1), 1),
    "grey-dilated": (5, (28, 28), 1, 24, (3, 3), (1, 1), ((2, 2), (1, 1)), (2, 1), 1),
    "grey-one-image": (1, (28, 28), 1, 32, (5, 5), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "both": (3, (16, 16), 32, 32, (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 2),
}


def _arrays(name):
    n, size, cin, cout, kernel, stride, pads, dilation, groups = SHAPES[name]
    out = tuple(
        (s + sum(p) - (k - 1) * d - 1) // step + 1
        for s, p, k, d, step in zip(size, pads, kernel, dilation, stride, strict=True)
    )
    rng = np.random.default_rng(0)
    shapes = (n, *size, cin), (*kernel, cin // groups, cout), (n, *out, cout)
    x, w, dy = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return x, w, dy, {"stride": stride, "pads": pads, "dilation": dilation, "groups": groups}


def _wanted(x, w, dy, *, stride, pads, dilation, groups):
    """The three maps by JAX in float64, of the operands and of their absolute values."""

    def maps(x, w, dy):
        def conv(x, w):
            return lax.conv_general_dilated(
                x,
                w,
                stride,
                pads,
                rhs_dilation=dilation,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
            )

        y, transposed = jax.vjp(conv, x, w)
        dx, dw = transposed(dy)
        return tuple(map(np.asarray, (y, dw, dx)))

    with jax.enable_x64(True):
        wide = [jnp.asarray(a, jnp.float64) for a in (x, w, dy)]
        return maps(*wide), maps(*map(jnp.abs, wide))


@pytest.mark.parametrize("name", SHAPES)
def test_the_three_maps(name):
    x, w, dy, where = _arrays(name)
    got = (
        native.conv(x, w, **where),
        native.conv_kernel_gradient(x, dy, w.shape[:2], **where),
        native.conv_input_gradient(dy, w, x.shape[1:3], **where),
    )
    terms = (w[..., 0].size, dy[..., 0].size, w[:, :, 0].size)
    for y, want, size, count in zip(got, *_wanted(x, w, dy, **where), terms, strict=True):
        assert y.shape == want.shape
        assert np.all(np.abs(np.asarray(y, np.float64) - want) <= (count + 1) * EPS * size)


def test_what_is_fast_is_taken():
    """Depthwise and grouped convolutions are not oneDNN's reference code."""
    for name in ("dilation-2", "groups-4", "depthwise"):
        x, w, dy, where = _arrays(name)
        assert native.supports("conv", x.shape, w.shape, dy.shape, **where), name


@pytest.mark.parametrize("name", [name for name in SHAPES if name.startswith(("rgb", "grey"))])
def test_few_channels_are_patches(name):
    x, w, dy, where = _arrays(name)
    kinds = ["conv_input_gradient"] + ["conv_kernel_gradient"] * ("AVX2" in native.ISA)
    for kind in kinds:
        assert native.implementation(kind, x.shape, w.shape, dy.shape, **where) == "patches", kind


@pytest.mark.parametrize(("groups", "reason"), [(0, "0 groups"), (3, "3 groups do not divide")])
def test_groups_that_do_not_divide(groups, reason):
    x, w, _, where = _arrays("groups-4")
    out = jax.ShapeDtypeStruct((7, 16, 16, 64), jnp.float32)
    call = jax.ffi.ffi_call("funcnet_conv", out)
    options = native._attributes(**{**where, "groups": groups}, winograd=0)
    with pytest.raises(Exception, match=reason):
        np.asarray(call(x, w, relu=False, **options))
