"""Winograd's filtering against convolutions in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

native = pytest.importorskip("funcnet_native")

EPS = float(np.finfo(np.float32).eps)
# Root mean square of the error, beside that of the result, in eps: about what the sum itself has
# for 2 by 2 outputs, several times that for 4 by 4, whose transforms have factors up to 8.
ERROR = {2: 12 * EPS, 4: 48 * EPS}

# batch, (h, w), cin, cout, pads
SHAPES = {
    "even": (4, (16, 16), 64, 64, ((1, 1), (1, 1))),
    "wide": (2, (8, 8), 256, 128, ((1, 1), (1, 1))),
    "31-by-15": (3, (31, 15), 64, 48, ((1, 1), (1, 1))),
    "7-by-9": (9, (7, 9), 96, 160, ((1, 1), (1, 1))),
    "valid": (5, (14, 13), 64, 96, ((0, 0), (0, 0))),
    "full": (5, (13, 14), 96, 64, ((2, 2), (2, 2))),
    "beyond": (3, (12, 12), 64, 64, ((4, 3), (3, 5))),
    "cut": (3, (19, 18), 64, 64, ((-2, -1), (1, -3))),
    "uneven": (3, (12, 15), 64, 80, ((0, 2), (2, 0))),
    "one-image": (1, (32, 32), 64, 64, ((1, 1), (1, 1))),
    "many": (101, (8, 8), 64, 64, ((1, 1), (1, 1))),
}


def _maps(x, w, dy, pads):
    """The three maps of float64 operands, by JAX."""
    with jax.enable_x64(True):
        x, w, dy = (jnp.asarray(a, jnp.float64) for a in (x, w, dy))
        y, transposed = jax.vjp(
            lambda x, w: lax.conv_general_dilated(
                x, w, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
            ),
            x,
            w,
        )
        dx, dw = transposed(dy)
        return np.asarray(y), np.asarray(dw), np.asarray(dx)


def _drawn(name, seed=0):
    n, size, cin, cout, pads = SHAPES[name]
    out = tuple(s + sum(p) - 2 for s, p in zip(size, pads, strict=True))
    rng = np.random.default_rng(seed)
    shapes = (n, *size, cin), (3, 3, cin, cout), (n, *out, cout)
    return *(rng.standard_normal(shape).astype(np.float32) for shape in shapes), pads


def _native_maps(x, w, dy, pads, m):
    where = {"stride": (1, 1), "pads": pads, "winograd": m}
    y = jax.jit(lambda x, w: native.conv(x, w, **where))(x, w)
    dw = jax.jit(lambda x, dy: native.conv_kernel_gradient(x, dy, (3, 3), **where))(x, dy)
    dx = jax.jit(lambda dy, w: native.conv_input_gradient(dy, w, x.shape[1:3], **where))(dy, w)
    return y, dw, dx


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("name", SHAPES)
def test_the_three_maps(name, m):
    x, w, dy, pads = _drawn(name)
    for kind in ("conv", "conv_kernel_gradient", "conv_input_gradient"):
        taken = native.implementation(kind, x.shape, w.shape, dy.shape, (1, 1), pads, winograd=m)
        assert taken in ("winograd 2x2", f"winograd {m}x{m}")
    for got, want in zip(_native_maps(x, w, dy, pads, m), _maps(x, w, dy, pads), strict=True):
        assert got.shape == want.shape
        size = np.sqrt(np.mean(want**2))
        off = np.abs(np.asarray(got, np.float64) - want)
        assert np.sqrt(np.mean(off**2)) <= ERROR[m] * size
        assert off.max() <= 16 * ERROR[m] * size  # and none is a number of another place


@pytest.mark.parametrize("cin", [24, 40])
def test_eights_of_channels_may_come_in(cin):
    """But sixteens go out: the images' gradient of these is the sum."""
    rng = np.random.default_rng(0)
    shapes = (3, 31, 30, cin), (3, 3, cin, 64), (3, 31, 30, 64)
    x, w, dy = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    pads = ((1, 1), (1, 1))
    kinds = ("conv", "conv_kernel_gradient", "conv_input_gradient")
    taken = [
        native.implementation(kind, x.shape, w.shape, dy.shape, (1, 1), pads, winograd=4)
        for kind in kinds
    ]
    assert taken[:2] == ["winograd 4x4"] * 2
    assert "winograd" not in taken[2]
    for got, want in zip(_native_maps(x, w, dy, pads, 4), _maps(x, w, dy, pads), strict=True):
        off = np.asarray(got, np.float64) - want
        assert np.sqrt(np.mean(off**2)) <= ERROR[4] * np.sqrt(np.mean(want**2))


@pytest.mark.parametrize("m", [0, 2, 4])
def test_bias_and_relu_come_with_it(m):
    x, w, _, pads = _drawn("31-by-15")
    bias = np.random.default_rng(1).standard_normal(w.shape[3]).astype(np.float32)
    plain = native.conv(x, w, stride=(1, 1), pads=pads, winograd=m)
    both = native.conv(x, w, stride=(1, 1), pads=pads, winograd=m, bias=bias, relu=True)
    assert np.array_equal(both, np.maximum(np.asarray(plain) + bias, 0))


@pytest.mark.parametrize("m", [2, 4])
def test_the_same_bits_each_time(m):
    drawn = _drawn("many")
    first = _native_maps(*drawn, m)
    for _ in range(3):
        again = _native_maps(*drawn, m)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so_and_in_its_tiles(bad, m):
    x, w, _, pads = _drawn("even")
    x[1, 6, 9, 3] = bad
    y = np.asarray(native.conv(x, w, stride=(1, 1), pads=pads, winograd=m))
    odd = np.zeros(y.shape[:3], bool)
    odd[1, 5:8, 8:11] = True  # whose sums have the pixel in them
    tiles = np.zeros(y.shape[:3], bool)
    tiles[1, 5 // m * m : 7 // m * m + m, 8 // m * m : 10 // m * m + m] = True
    assert not np.isfinite(y[odd]).any()
    assert np.isfinite(y[~tiles]).all()


def test_it_is_left_where_it_is_no_cheaper():
    def taken(n, size, cin, cout, kernel=3, stride=1, m=4):
        pads, out = ((1, 1), (1, 1)), (size - kernel + 2) // stride + 1
        shapes = (n, size, size, cin), (kernel, kernel, cin, cout), (n, out, out, cout)
        return native.implementation("conv", *shapes, (stride, stride), pads, winograd=m)

    assert taken(100, 32, 64, 64) == "winograd 4x4"
    assert taken(100, 32, 64, 64, m=2) == "winograd 2x2"
    assert not taken(100, 32, 64, 64, m=0).startswith("winograd")
    assert not taken(100, 32, 64, 64, kernel=5).startswith("winograd")
    assert not taken(100, 32, 64, 64, stride=2).startswith("winograd")
    assert not taken(100, 32, 64, 60).startswith("winograd")
    assert not taken(100, 32, 16, 16, m=2).startswith("winograd")
    assert not taken(100, 3, 64, 64).startswith("winograd")
    assert not taken(1, 4, 256, 256, m=2).startswith("winograd")


def test_what_it_may_be_is_checked():
    x, w, _, pads = _drawn("even")
    with pytest.raises(Exception, match="winograd must be 0, 2 or 4, got 3"):
        np.asarray(native.conv(x, w, stride=(1, 1), pads=pads, winograd=3))
