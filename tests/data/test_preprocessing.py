"""Preprocessing: exact statistics, and what is done with them."""

import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import data
from tests.support import data_sets

_no_network = data_sets.no_network
KINDS = ["none", "mean_image", "scaled", "scaled_mean_image", "standardised"]
EPS32 = np.finfo(np.float32).eps


def exact(images, kind, full_scale):
    """(mean, scale) in rational arithmetic, the standard deviation's square instead of it."""
    flat = [[fractions.Fraction(int(v)) for v in row] for row in images.reshape(len(images), -1)]
    channels = images.shape[-1]
    if kind == "standardised":
        values = [[v for row in flat for v in row[c::channels]] for c in range(channels)]
        mean = [sum(v) / len(v) for v in values]
        return mean, [
            sum((x - m) ** 2 for x in v) / len(v) for v, m in zip(values, mean, strict=True)
        ]
    return [sum(column) / len(flat) for column in zip(*flat, strict=True)], 1 / full_scale


INTEGERS = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_statistics_are_the_exact_ones_rounded(dtype, rng):
    """Of all integers there are: those of 32 and 64 bits have squares and sums past int64."""
    limits = np.iinfo(dtype)
    images = rng.integers(limits.min, limits.max, (7, 3, 2, 3), dtype, endpoint=True)
    mean, variance = exact(images, "standardised", 255.0)
    prepared = data.fit_preprocessing(images, "standardised")
    np.testing.assert_array_equal(prepared.mean, np.array(mean, float).reshape(1, 1, 3))
    expected = 1 / np.sqrt(np.array(variance, float)).reshape(1, 1, 3)
    np.testing.assert_array_equal(prepared.scale, expected)
    mean, _ = exact(images, "mean_image", 255.0)
    for kind, scale in (("mean_image", 1.0), ("scaled_mean_image", 1 / 255)):
        prepared = data.fit_preprocessing(images, kind)
        np.testing.assert_array_equal(prepared.mean, np.array(mean, float).reshape(3, 2, 3))
        np.testing.assert_array_equal(prepared.scale, np.full((1, 1, 1), scale))


def test_statistics_do_not_drift_with_the_number_of_images():
    """70,000 images of one value, by stride and not in memory: sums past float32 and int32."""
    images = np.broadcast_to(np.array([[[255, 1]]], np.uint8), (70_000, 8, 8, 2))
    prepared = data.fit_preprocessing(images, "standardised")
    np.testing.assert_array_equal(prepared.mean, [[[255, 1]]])
    np.testing.assert_array_equal(prepared.scale, [[[1, 1]]])  # a constant channel is safe


def test_float_images_are_standardised_without_cancellation():
    images = 1e6 + np.arange(3.0).repeat(2000)[:, None].repeat(2, 1)
    mean, scale = data.fit_preprocessing(images.astype(np.float32), "standardised")
    np.testing.assert_allclose(mean, [1e6 + 1] * 2, rtol=4 * np.finfo(float).eps)
    # The rounding of the mean, eps * 1e6, moves deviations of about 1.
    np.testing.assert_allclose(scale, [1 / np.sqrt(2 / 3)] * 2, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("full_scale", [255.0, 16.0])
def test_preprocess_does_what_the_table_says(kind, full_scale, rng):
    train, other = rng.integers(0, 17, (2, 20, 4, 4, 3), dtype=np.uint8)
    prepared = data.fit_preprocessing(train, kind, full_scale)
    t, x = train.astype(float), other.astype(float)
    expected = {
        "none": x,
        "mean_image": x - t.mean(0),
        "scaled": x / full_scale,
        "scaled_mean_image": (x - t.mean(0)) / full_scale,
        "standardised": (x - t.mean((0, 1, 2))) / t.std((0, 1, 2)),
    }[kind]
    # Subtraction of numbers up to 17 and one product.
    bound = {
        jnp.float64: 2.0**-52,
        jnp.float32: EPS32,
        jnp.bfloat16: 2.0**-8,
        jnp.float16: 2.0**-11,
    }
    for dtype, eps in bound.items():
        ours = data.preprocess(prepared, other, dtype)
        assert ours.dtype == dtype
        error = np.abs(np.asarray(ours, float) - expected)
        assert (error <= eps * np.abs(expected) + 40 * max(2.0**-52, min(eps, EPS32))).all()
    eager = data.preprocess(prepared, other)
    assert eager.dtype == jnp.float32
    jitted = jax.jit(data.preprocess)(prepared, jnp.asarray(other))
    np.testing.assert_allclose(jitted, eager, rtol=2 * EPS32, atol=40 * EPS32)


def test_only_what_was_given_is_measured(rng):
    """A validation or test row that leaks would move the statistics: they are not even passed."""
    dataset = data.synthetic(sizes=(50, 50, 50))
    before = data.fit_preprocessing(dataset.train.images, "standardised")
    dataset.val.images[:] = 255
    dataset.test.images[:] = 0
    after = data.fit_preprocessing(dataset.train.images, "standardised")
    np.testing.assert_array_equal(before.mean, after.mean)
    np.testing.assert_array_equal(before.scale, after.scale)
    standardised = np.asarray(data.preprocess(before, dataset.train.images, jnp.float64))
    np.testing.assert_allclose(standardised.mean(), 0, atol=1e-12)
    np.testing.assert_allclose(standardised.std(), 1, rtol=1e-12)
    assert abs(np.asarray(data.preprocess(before, dataset.val.images)).mean()) > 1


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((0, 4, 4, 3), np.uint8), {}, "at least one image"),
        (np.zeros(3, np.uint8), {}, r"shape \(3,\)"),
        (np.array([[1.0], [np.nan], [2.0]]), {"kind": "mean_image"}, r"images\[1\] .*not finite"),
        (np.array([[1.0], [2.0], [np.inf]]), {"kind": "standardised"}, r"images\[2\]"),
        (np.float16([[1, 2], [-np.inf, 0]]), {}, r"images\[1\] has -inf at \[0\], which is not"),
        (np.ones((2, 3), complex), {}, "dtype complex128, expected real numbers"),
        (np.array([["a"], ["b"]]), {}, "dtype <U1, expected real numbers"),
        (np.array([[2], [None]]), {"kind": "none"}, "dtype object, expected real numbers"),
        (np.ones((2, 3)), {"full_scale": float("inf")}, "full_scale is inf"),
        (np.ones((2, 3)), {"kind": "whitened"}, "kind is 'whitened', expected none, mean_image"),
        (np.ones((2, 3)), {"full_scale": 0}, "full_scale is 0"),
        (np.ones((2, 3)), {"full_scale": float("nan")}, "full_scale is nan"),
    ],
)
def test_what_cannot_be_fitted(images, options, message):
    with pytest.raises(ValueError, match=message):
        data.fit_preprocessing(images, **options)


def test_images_of_another_shape_are_refused(rng):
    prepared = data.fit_preprocessing(
        rng.integers(0, 9, (3, 4, 4, 3), dtype=np.uint8), "mean_image"
    )
    with pytest.raises(ValueError, match=r"shape \(2, 5, 5, 3\)"):
        data.preprocess(prepared, jnp.zeros((2, 5, 5, 3)))
