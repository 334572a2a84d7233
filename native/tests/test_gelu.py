"""The Gaussian error linear unit and its slope against float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

native = pytest.importorskip("funcnet_native")

EPS = float(np.finfo(np.float32).eps)
TINY = float(np.finfo(np.float32).tiny)


def _wanted(x, approximate):
    """w(x), x w'(x), and how much of an error in x these pass on, in float64."""
    x = x.astype(np.float64)
    if approximate:
        z = 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        dz = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
        w = np.exp(-np.logaddexp(0, -z))
        return w, x * dz * w * np.exp(-np.logaddexp(0, z)), np.abs(z)
    erfc = np.vectorize(math.erfc, otypes=[float])
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return erfc(-x / math.sqrt(2)) / 2, x * density, np.zeros_like(x)


@pytest.mark.parametrize("approximate", [True, False])
@pytest.mark.parametrize("size", [0, 1, 7, 100_003])
def test_value_and_gradient(size, approximate):
    rng = np.random.default_rng(size)
    x = (3 * rng.standard_normal(size)).astype(np.float32)
    dy = rng.standard_normal(size).astype(np.float32)
    y = np.asarray(native.gelu(jnp.asarray(x), approximate))
    dx = np.asarray(native.gelu_gradient(jnp.asarray(x), jnp.asarray(dy), approximate))
    w, slope, z = _wanted(x, approximate)
    # The exponent z is off by a few eps of itself, and so is its exponential by as much as that.
    # What is smaller than the smallest normal number may be 0, before it is multiplied too.
    allowed, nothing = (8 + 4 * z) * EPS, 1e3 * TINY
    assert np.all(np.abs(y - x * w) <= allowed * np.abs(x * w) + nothing)
    size = np.abs(dy) * (w + np.abs(slope))
    assert np.all(np.abs(dx - dy * (w + slope)) <= allowed * size + nothing)


@pytest.mark.parametrize("approximate", [True, False])
def test_where_numbers_end(approximate):
    x = jnp.array([jnp.inf, 1e30, 50.0, 0.0, -0.0, -50.0, -1e30, jnp.nan], jnp.float32)
    one = jnp.ones_like(x)
    y, dx = native.gelu(x, approximate), native.gelu_gradient(x, one, approximate)
    assert np.array_equal(y, [np.inf, np.float32(1e30), 50, 0, 0, 0, 0, np.nan], equal_nan=True)
    assert np.array_equal(dx, [1, 1, 1, 0.5, 0.5, 0, 0, np.nan], equal_nan=True)


def test_sizes_that_differ():
    call = jax.ffi.ffi_call("funcnet_gelu_gradient", jax.ShapeDtypeStruct((3,), jnp.float32))
    with pytest.raises(Exception, match="3 numbers and 2 do not give 3"):
        np.asarray(call(np.ones(3, np.float32), np.ones(2, np.float32), approximate=True))
