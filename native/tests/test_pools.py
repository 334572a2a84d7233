"""The native pools against NumPy, window by window, and what they refuse."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

native = pytest.importorskip("funcnet_native")

EPS = float(np.finfo(np.float32).eps)

# name: x's shape, outputs, window, stride, pixels before, dilation, pixels counted around
GEOMETRIES = {
    "tiles": ((3, 8, 6, 20), (4, 3), (2, 2), (2, 2), (0, 0), (1, 1), ((0, 0), (0, 0))),
    "overlapping": ((2, 9, 8, 37), (5, 4), (3, 3), (2, 2), (1, 1), (1, 1), ((1, 1), (1, 1))),
    "every-pixel": ((1, 5, 4, 3), (5, 4), (3, 3), (1, 1), (1, 1), (1, 1), ((1, 0), (0, 1))),
    "uneven": ((2, 7, 9, 5), (4, 3), (3, 2), (2, 3), (1, 0), (1, 1), ((1, 0), (0, 0))),
    "dilated": ((2, 7, 9, 18), (3, 4), (2, 3), (2, 1), (0, 1), (3, 2), ((0, 0), (0, 0))),
    "gaps": ((2, 9, 9, 4), (2, 3), (2, 1), (5, 4), (0, 0), (1, 1), ((0, 0), (0, 0))),
    "whole": ((2, 4, 5, 16), (1, 1), (4, 5), (1, 1), (0, 0), (1, 1), ((0, 0), (0, 0))),
    "beyond": ((1, 3, 3, 2), (2, 2), (4, 4), (2, 2), (1, 1), (1, 1), ((1, 0), (1, 0))),
    "channels": ((1, 6, 6, 200), (3, 3), (3, 3), (2, 2), (1, 1), (1, 1), ((0, 0), (0, 0))),
}


def options(name):
    _, outputs, window, stride, before, dilation, _ = GEOMETRIES[name]
    found = {"outputs": outputs, "window": window, "stride": stride, "before": before}
    return found | {"dilation": dilation}


def windows(name):
    """The place of each window in y, and its cells in the image in row-major order."""
    (_, h, w, _), outputs, window, stride, before, dilation, _ = GEOMETRIES[name]
    for i, j in itertools.product(*map(range, outputs)):
        cells = [
            (
                i * stride[0] - before[0] + p * dilation[0],
                j * stride[1] - before[1] + q * dilation[1],
            )
            for p, q in itertools.product(*map(range, window))
        ]
        yield (i, j), [(a, b) for a, b in cells if 0 <= a < h and 0 <= b < w], cells


def drawn(rng, name, ties):
    x = rng.standard_normal(GEOMETRIES[name][0]).astype(np.float32)
    if ties:
        x = np.round(x)
        for value in (np.nan, -np.inf, -0.0):
            x[rng.random(x.shape) < 0.1] = value
    return x


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("ties", [False, True], ids=["numbers", "ties"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_maxima_go_to_the_first_in_row_major_order(rng, name, ties):
    """NumPy's argmax has the same rule: the first maximum, and the first NaN before any number."""
    x = drawn(rng, name, ties)
    y = np.array(native.max_pool(x, **options(name)))
    dy = rng.standard_normal(y.shape).astype(np.float32)
    want, want_dx = np.empty_like(y), np.zeros_like(x)
    for (i, j), cells, _ in windows(name):
        values = np.stack([x[:, a, b] for a, b in cells])
        winner = values.argmax(0)
        want[:, i, j] = np.take_along_axis(values, winner[None], 0)[0]
        for tap, (a, b) in enumerate(cells):
            want_dx[:, a, b] += np.where(winner == tap, dy[:, i, j], 0)
    np.testing.assert_array_equal(y, want)
    dx = native.max_pool_gradient(x, dy, **options(name))
    np.testing.assert_array_equal(dx, want_dx)  # sums are taken in the order of the windows


@pytest.mark.parametrize("name", GEOMETRIES)
def test_means_and_their_gradient(rng, name):
    x, counted = drawn(rng, name, False), GEOMETRIES[name][-1]
    h, w = x.shape[1:3]
    y = np.asarray(native.avg_pool(x, **options(name), counted=counted))
    dy = rng.standard_normal(y.shape).astype(np.float32)
    want, want_dx = np.zeros(y.shape), np.zeros(x.shape)
    for (i, j), cells, all_cells in windows(name):
        (top, bottom), (left, right) = counted
        count = sum(-top <= a < h + bottom and -left <= b < w + right for a, b in all_cells)
        for a, b in cells:
            want[:, i, j] += np.float64(x[:, a, b]) / count
            want_dx[:, a, b] += np.float64(dy[:, i, j]) / count
    # Sums of at most 20 cells, or shares, each below 5; and a division.
    np.testing.assert_allclose(y, want, rtol=0, atol=22 * 5 * EPS)
    dx = native.avg_pool_gradient(dy, size=(h, w), **options(name), counted=counted)
    np.testing.assert_allclose(dx, want_dx, rtol=0, atol=22 * 5 * EPS)


def test_the_same_bits_however_many_images_there_are(rng):
    """So whatever the shares are: one image is cut by channels, many are not."""
    x = rng.standard_normal((40, 33, 31, 48)).astype(np.float32)
    where = {"outputs": (17, 16), "window": (3, 3), "stride": (2, 2), "before": (1, 1)}
    dy = rng.standard_normal((40, 17, 16, 48)).astype(np.float32)
    dx = np.asarray(jax.jit(lambda x, dy: native.max_pool_gradient(x, dy, **where))(x, dy))
    mean = np.asarray(native.avg_pool_gradient(dy, size=(33, 31), **where))
    for n in (0, 17, 39):
        one = slice(n, n + 1)
        np.testing.assert_array_equal(native.max_pool_gradient(x[one], dy[one], **where), dx[one])
        got = native.avg_pool_gradient(dy[one], size=(33, 31), **where)
        np.testing.assert_array_equal(got, mean[one])


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (2, 4, 4, 0)])
def test_of_nothing(shape):
    where = {"outputs": (2, 2), "window": (3, 3), "stride": (2, 2), "before": (1, 1)}
    y = native.max_pool(jnp.ones(shape, jnp.float32), **where)
    assert y.shape == (shape[0], 2, 2, shape[3])
    assert native.avg_pool_gradient(y, size=(4, 4), **where).shape == shape


X, Y = (1, 4, 4, 2), (1, 2, 2, 2)
REFUSED = {
    "output-batch": ("do not give", (2, 2, 2, 2), [2, 2, 1, 0, 0, 0]),
    "output-channels": ("do not give", (1, 2, 2, 3), [2, 2, 1, 0, 0, 0]),
    "five-numbers": ("six numbers", Y, [2, 2, 1, 0, 0]),
    "window-0": ("must be 1", Y, [0, 2, 1, 0, 0, 0]),
    "stride-0": ("must be 1", Y, [2, 0, 1, 0, 0, 0]),
    "pad-negative": ("0 or more", Y, [2, 2, 1, -1, 0, 0]),
    "enormous": ("must be 1", Y, [2, 2**40, 1, 0, 0, 0]),
    "behind": ("no cell in 4", (1, 4, 2, 2), [2, 2, 1, 0, 0, 0]),
    "padding-alone": ("no cell in 4", Y, [2, 2, 1, 2, 0, 0]),
    "a-hole-of-padding": ("no cell in 4", Y, [2, 1, 6, 1, 0, 0]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name):
    reason, out, numbers = REFUSED[name]
    windows = {"rows": np.array(numbers), "columns": np.array([2, 2, 1, 0, 0, 0])}
    x, y = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (X, out))
    for target, given, wanted in (
        ("funcnet_max_pool", x, y),
        ("funcnet_avg_pool_gradient", y, x),
    ):
        ones = jnp.ones(given.shape, jnp.float32)
        with pytest.raises(Exception, match=reason):
            jax.block_until_ready(jax.ffi.ffi_call(target, wanted)(ones, **windows))
