"""A convolution whose output is pooled before it is written, against its parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

native = pytest.importorskip("funcnet_native")

EPS = float(np.finfo(np.float32).eps)
ONES, SAME = (1, 1), ((1, 1), (1, 1))

# batch, (h, w), cin, cout, kernel, stride, pads, dilation, groups
SHAPES = {
    "first-layer": (7, (32, 32), 3, 32, (5, 5), ONES, ((2, 2), (2, 2)), ONES, 1),
    "filtered": (9, (16, 16), 32, 64, (3, 3), ONES, SAME, ONES, 1),
    "filtered-odd": (5, (15, 13), 32, 32, (3, 3), ONES, SAME, ONES, 1),
    "filtered-valid": (3, (14, 15), 48, 32, (3, 3), ONES, ((0, 0), (0, 0)), ONES, 1),
    "strided": (5, (17, 30), 16, 20, (3, 5), (2, 3), ((1, 1), (0, 4)), ONES, 1),
    "dilated": (3, (16, 15), 16, 32, (3, 3), ONES, ((2, 2), (2, 2)), (2, 2), 1),
    "grouped": (5, (16, 16), 64, 64, (3, 3), ONES, SAME, ONES, 4),
    "seven-channels": (2, (9, 8), 5, 7, (3, 3), ONES, SAME, ONES, 1),
    "one-window": (1, (3, 3), 3, 4, (2, 2), ONES, ((0, 0), (0, 0)), ONES, 1),
    "no-images": (0, (8, 8), 3, 16, (3, 3), ONES, SAME, ONES, 1),
}


def _case(name):
    n, size, cin, cout, kernel, stride, pads, dilation, groups = SHAPES[name]
    rng = np.random.default_rng(0)
    shapes = (n, *size, cin), (*kernel, cin // groups, cout), (cout,)
    arrays = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return *arrays, {"stride": stride, "pads": pads, "dilation": dilation, "groups": groups}


def _cells(z):
    """The four cells of each window, in row-major order."""
    n, h, w, c = z.shape
    tiles = z[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    return tiles.transpose(2, 4, 0, 1, 3, 5).reshape(4, n, h // 2, w // 2, c)


def _spread(dy, winner, size):
    """What each cell of an output of this height and width has of its window's cotangent."""
    n, h, w, c = dy.shape
    cell = np.arange(4).reshape(1, 1, 2, 1, 2, 1)
    dz = np.where(winner[:, :, None, :, None] == cell, dy[:, :, None, :, None], 0)
    rest = [(0, size[0] - 2 * h), (0, size[1] - 2 * w)]
    return np.pad(dz.reshape(n, 2 * h, 2 * w, c), [(0, 0), *rest, (0, 0)])


@pytest.mark.parametrize("winograd", [0, 2, 4])
@pytest.mark.parametrize("name", SHAPES)
def test_maxima_and_winners_are_those_of_the_whole_output(name, winograd):
    """To the bit: what is pooled is the very output that would have been written."""
    x, w, bias, where = _case(name)
    for b in (bias, None):
        z = np.asarray(native.conv(x, w, bias=b, **where, winograd=winograd))
        y, winner = map(np.asarray, native.conv_pool(x, w, bias=b, **where, winograd=winograd))
        cells = _cells(z)
        assert y.shape == winner.shape == cells.shape[1:]
        np.testing.assert_array_equal(y, np.maximum(cells.max(0), 0))
        np.testing.assert_array_equal(winner, np.where(y > 0, cells.argmax(0), 4))


@pytest.mark.parametrize("name", SHAPES)
def test_the_kernels_gradient_is_that_of_the_cotangent_laid_out(name):
    x, w, bias, where = _case(name)
    z = native.conv(x, w, **where)
    y, winner = native.conv_pool(x, w, bias=bias, **where)
    dy = np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)
    dz = _spread(dy, np.asarray(winner), z.shape[1:3])
    got = native.conv_pool_kernel_gradient(x, dy, winner, w.shape[:2], **where)
    want, size = (
        native.conv_kernel_gradient(a, b, w.shape[:2], **where, winograd=0)
        for a, b in ((x, dz), (abs(x), abs(dz)))
    )
    terms = dy[..., 0].size
    assert np.all(np.abs(np.asarray(got) - want) <= 2 * (terms + 1) * EPS * np.asarray(size))


def test_the_first_of_equals_wins_and_what_is_not_above_zero_does_not():
    w = np.ones((1, 1, 1, 1), np.float32)
    images = [[[1, 1], [1, 1]], [[0, 0], [0, 0]], [[-1, -2], [-3, -1]], [[-1, 0], [2, 2]]]
    x = jnp.asarray(images, jnp.float32)[..., None]
    y, winner = native.conv_pool(x, w, stride=ONES, pads=((0, 0), (0, 0)))
    assert y.ravel().tolist() == [1, 0, 0, 2]
    assert winner.ravel().tolist() == [0, 4, 4, 2]


@pytest.mark.parametrize("channels", [1, 16, 24])
def test_not_a_number_wins_and_carries_nothing(channels):
    x = np.ones((1, 2, 2, 1), np.float32)
    x[0, 0, 1, 0] = np.nan
    w = np.ones((1, 1, 1, channels), np.float32)
    y, winner = native.conv_pool(x, w, stride=ONES, pads=((0, 0), (0, 0)))
    assert np.isnan(y).all()
    assert (np.asarray(winner) == 4).all()


@pytest.mark.parametrize("name", ["first-layer", "filtered"])
def test_the_same_bits_each_time(name):
    x, w, bias, where = _case(name)
    first = native.conv_pool(x, w, bias=bias, **where)
    for _ in range(3):
        again = native.conv_pool(x, w, bias=bias, **where)
        assert all(map(np.array_equal, first, again))


def test_winners_of_another_shape_are_refused():
    x, w, _, where = _case("first-layer")
    y, winner = native.conv_pool(x, w, **where)
    with pytest.raises(jax.errors.JaxRuntimeError, match="have windows"):
        np.asarray(native.conv_pool_kernel_gradient(x, y, winner[:, :-1], w.shape[:2], **where))
