"""The native normalisation against float64 NumPy, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

native = pytest.importorskip("funcnet_native")

EPS = float(np.finfo(np.float32).eps)

# (examples, rows, groups, channels)
SHAPES = {
    "batch-rows": (1, 100, 500, 1),
    "batch-images": (1, 9000, 32, 1),
    "batch-two": (1, 2, 3, 1),
    "batch-wide": (1, 5, 5000, 1),
    "layer-rows": (100, 1, 1, 500),
    "layer-images": (9000, 1, 1, 32),
    "layer-long": (2, 1, 1, 100_003),
    "layer-none": (0, 1, 1, 4),
    "group-rows": (100, 1, 4, 125),
    "group-images": (30, 1024, 4, 8),
    "group-one": (5, 300, 1, 40),
    "instance": (3, 70, 5, 1),
}
BETWEEN = (1, 3)  # the axes of a group


def _drawn(rng, shape, offset=0.0):
    x, dy = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    gamma = rng.uniform(0.5, 2, shape[2:]).astype(np.float32)
    beta = rng.standard_normal(shape[2:]).astype(np.float32)
    return x + np.float32(offset), dy, gamma, beta


def _exact(x, dy, gamma, beta, eps, relu):
    x, dy = x.astype(np.float64), dy.astype(np.float64)
    mean, var = (f(x, axis=BETWEEN, keepdims=True) for f in (np.mean, np.var))
    inv_std = 1 / np.sqrt(var + eps)
    x_hat = (x - mean) * inv_std
    y = x_hat * gamma + beta
    if relu:
        y, dy = np.maximum(y, 0), dy * (y > 0)
    g = dy * gamma
    slope = (g * x_hat).mean(BETWEEN, keepdims=True)
    dx = inv_std * (g - g.mean(BETWEEN, keepdims=True) - x_hat * slope)
    return (y, mean[:, 0, :, 0], var[:, 0, :, 0]), (dx, (dy * x_hat).sum((0, 1)), dy.sum((0, 1)))


def _both(x, dy, gamma, beta, relu=False):
    y, mean, left, var, inv_std = native.norm(x, gamma, beta, eps=0.1, relu=relu)
    kept = mean, left, inv_std
    return (y, mean, left, var), native.norm_gradient(dy, x, *kept, gamma, beta, relu=relu)


@pytest.mark.parametrize("offset", [0, 1000, -1e5])
@pytest.mark.parametrize("name", SHAPES)
def test_norm(rng, name, offset):
    """Far from zero too: no error grows with the mean."""
    arrays = _drawn(rng, SHAPES[name], offset)
    (y, mean, left, var), (dx, dgamma, dbeta) = jax.jit(_both)(*arrays)
    (want_y, want_mean, want_var), (want_dx, want_dgamma, want_dbeta) = _exact(*arrays, 0.1, False)
    size, terms = max(1, np.sqrt(want_var.max(initial=0))), arrays[0].size / arrays[2].size
    # x_hat is at most about 6, gamma 2; each number rounds off a few times on its way.
    np.testing.assert_allclose(
        np.float64(mean) + np.float64(left), want_mean, rtol=0, atol=8 * EPS * size
    )
    np.testing.assert_allclose(var, want_var, rtol=8 * EPS, atol=EPS)
    np.testing.assert_allclose(y, want_y, rtol=0, atol=64 * EPS)
    np.testing.assert_allclose(dx, want_dx, rtol=0, atol=64 * EPS)
    bound = 16 * EPS * np.sqrt(terms + 16)
    np.testing.assert_allclose(dgamma, want_dgamma, rtol=0, atol=bound)
    np.testing.assert_allclose(dbeta, want_dbeta, rtol=0, atol=bound)


@pytest.mark.parametrize("name", SHAPES)
def test_norm_with_relu(rng, name):
    x, dy, gamma, beta = _drawn(rng, SHAPES[name])
    before, _ = _exact(x, dy, gamma, beta, 0.1, False)
    dy[np.abs(before[0]) < 64 * EPS] = 0  # at the kink either gradient would do
    (y, *_), found = jax.jit(lambda *a: _both(*a, relu=True))(x, dy, gamma, beta)
    (want_y, *_), wanted = _exact(x, dy, gamma, beta, 0.1, True)
    np.testing.assert_allclose(y, want_y, rtol=0, atol=64 * EPS)
    bounds = 64 * EPS, *(16 * EPS * np.sqrt(x.size / gamma.size + 16),) * 2
    for got, want, bound in zip(found, wanted, bounds, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=bound)


@pytest.mark.parametrize("name", SHAPES)
def test_without_the_mean(rng, name):
    """Root mean square normalisation, and its gradient."""
    x, dy, gamma, beta = _drawn(rng, SHAPES[name])
    y, mean, left, var, inv_std = native.norm(x, gamma, beta, eps=0.1, centred=False)
    kept = mean, left, inv_std
    dx, dgamma, _ = native.norm_gradient(dy, x, *kept, gamma, beta, centred=False)
    wide = x.astype(np.float64)
    square = np.square(wide).mean(BETWEEN, keepdims=True)
    x_hat = wide / np.sqrt(square + 0.1)
    slope = (gamma * dy * x_hat).mean(BETWEEN, keepdims=True)
    np.testing.assert_array_equal(mean, np.zeros(mean.shape))
    np.testing.assert_allclose(var, square[:, 0, :, 0], rtol=8 * EPS)
    np.testing.assert_allclose(y, gamma * x_hat + beta, rtol=0, atol=64 * EPS)
    want = (gamma * dy - x_hat * slope) / np.sqrt(square + 0.1)
    np.testing.assert_allclose(dx, want, rtol=0, atol=64 * EPS)
    bound = 16 * EPS * np.sqrt(x.size / gamma.size + 16)
    np.testing.assert_allclose(dgamma, (dy * x_hat).sum((0, 1)), rtol=0, atol=bound)


@pytest.mark.parametrize("name", SHAPES)
def test_gradient_of_given_statistics(rng, name):
    x, dy, gamma, beta = _drawn(rng, SHAPES[name])
    mean = rng.standard_normal((x.shape[0], x.shape[2])).astype(np.float32)
    inv_std = rng.uniform(0.5, 2, mean.shape).astype(np.float32)
    dx, dgamma, dbeta = native.norm_gradient(
        dy, x, mean, 0 * mean, inv_std, gamma, beta, fixed=True
    )
    each = inv_std.astype(np.float64)[:, None, :, None]
    x_hat = (x.astype(np.float64) - mean[:, None, :, None]) * each
    np.testing.assert_allclose(dx, gamma * dy * each, rtol=4 * EPS)
    bound = 64 * EPS * np.sqrt(x.size / gamma.size + 16)
    np.testing.assert_allclose(dgamma, (dy * x_hat).sum((0, 1)), rtol=0, atol=bound)
    np.testing.assert_allclose(dbeta, dy.sum((0, 1), np.float64), rtol=0, atol=bound)


def test_two_rows_by_hand():
    x = np.array([1, 10, 3, 30], np.float32).reshape(1, 2, 2, 1)
    ones = np.ones((2, 1), np.float32)
    y, mean, left, var, inv_std = native.norm(x, 2 * ones, ones, eps=0.0)
    np.testing.assert_array_equal(np.ravel(y), [-1, -1, 3, 3])
    np.testing.assert_array_equal(mean, [[2, 20]])
    np.testing.assert_array_equal(left, [[0, 0]])
    np.testing.assert_array_equal(var, [[1, 100]])
    np.testing.assert_array_equal(inv_std, np.float32([[1, 0.1]]))
    dy = np.array([1, 0, 0, 0], np.float32).reshape(x.shape)
    dx, dgamma, dbeta = native.norm_gradient(dy, x, mean, left, inv_std, 2 * ones, ones)
    np.testing.assert_array_equal(np.ravel(dx), np.zeros(4))  # of two numbers x_hat is 1 and -1
    np.testing.assert_array_equal(np.ravel(dgamma), [-1, 0])
    np.testing.assert_array_equal(np.ravel(dbeta), [1, 0])


@pytest.mark.parametrize("name", ["batch-images", "batch-rows", "layer-long", "group-images"])
@pytest.mark.parametrize("value", [0.1, -3e4])
def test_equal_numbers_become_beta(name, value):
    shape = SHAPES[name]
    beta = np.linspace(-1, 1, shape[2] * shape[3], dtype=np.float32).reshape(shape[2:])
    y, _, _, var, _ = native.norm(np.full(shape, value, np.float32), beta, beta, eps=1e-5)
    np.testing.assert_allclose(y, np.broadcast_to(beta, shape), rtol=EPS)
    assert np.all((np.asarray(var) >= 0) & (np.asarray(var) <= (EPS * value) ** 2))


@pytest.mark.parametrize("name", ["batch-images", "layer-images", "layer-rows", "group-images"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, -1])
def test_a_bad_number_is_bad_for_its_group_and_no_other(rng, name, value, place):
    x, dy, gamma, beta = _drawn(rng, SHAPES[name])
    x[place, place, place, place] = value
    for relu in (False, True):
        (y, mean, left, var), (dx, dgamma, _) = jax.jit(lambda *a, r=relu: _both(*a, r))(
            x, dy, gamma, beta
        )
        group = np.zeros((x.shape[0], x.shape[2]), bool)
        group[place, place] = True
        for statistics in (mean + left, var):
            np.testing.assert_array_equal(np.isnan(statistics), group)
        numbers = np.broadcast_to(group[:, None, :, None], x.shape)
        np.testing.assert_array_equal(np.isnan(y), numbers)
        np.testing.assert_array_equal(np.isnan(dx), numbers)
        np.testing.assert_array_equal(np.isnan(dgamma), numbers.any((0, 1)))


def test_squares_beyond_float32_leave_beta():
    """As where XLA squares them: the variance is infinite."""
    x = np.float32([1e30, -1e30, 1e30, -1e30])
    for shape in ((1, 4, 1, 1), (1, 1, 1, 4), (1, 2, 1, 2)):
        one = np.ones(shape[2:], np.float32)
        y, mean, _, var, _ = native.norm(x.reshape(shape), one, one, eps=1e-5)
        assert (np.asarray(y) == 1).all()
        assert (np.asarray(mean) == 0).all()
        assert np.isinf(var).all()


def test_the_same_bits_over_20_runs(rng):
    step = jax.jit(lambda *a: [_both(*(x.reshape(s) for x, s in zip(a, v, strict=True)))
                               for v in views])  # fmt: skip
    x, dy, gamma, beta = _drawn(rng, (1, 102_400, 32, 1))
    views = [
        (shape, shape, shape[2:], shape[2:])
        for shape in ((1, 102_400, 32, 1), (102_400, 1, 1, 32), (100, 1024, 4, 8))
    ]
    first = jax.tree.map(np.asarray, step(x, dy, gamma, beta))
    for _ in range(19):
        jax.tree.map(np.testing.assert_array_equal, step(x, dy, gamma, beta), first)


X, PARAMETERS, KEPT = (3, 5, 2, 4), (2, 4), (3, 2)
FORWARD = [X, PARAMETERS, PARAMETERS], [X, KEPT, KEPT, KEPT, KEPT]
GRADIENT = [X, X, KEPT, KEPT, KEPT, PARAMETERS, PARAMETERS], [X, PARAMETERS, PARAMETERS]
REFUSED = {
    "rows-0": ("no zero size", *FORWARD, 0, (3, 0, 2, 4)),
    "channels-0": ("no zero size", *GRADIENT, 1, (3, 5, 2, 0)),
    "gamma": ("with parameters", *FORWARD, 1, (4, 2)),
    "beta-rank": ("rank", *FORWARD, 2, (8,)),
    "cotangent": ("beside", *GRADIENT, 0, (3, 4, 2, 4)),
    "statistics": ("with statistics", *GRADIENT, 3, (2, 3)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name):
    reason, operands, results, place, shape = REFUSED[name]
    operands = [shape if i == place else o for i, o in enumerate(operands)]
    forward = len(results) == 5
    call = jax.ffi.ffi_call(
        "funcnet_norm" if forward else "funcnet_norm_gradient",
        [jax.ShapeDtypeStruct(s, jnp.float32) for s in results],
    )
    options = {"eps": np.float64(1e-5)} if forward else {"fixed": False}
    with pytest.raises(Exception, match=reason):
        jax.block_until_ready(
            call(*(jnp.ones(s, jnp.float32) for s in operands), centred=True, relu=False, **options)
        )
