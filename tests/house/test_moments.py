"""Data that float32 cannot hold: their statistics, and what reaches the net, exactly computed."""

import fractions
import math
import tracemalloc

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from funcnet import data, nets, optimizers, sweep, train
from funcnet._moments import moments

EPS, EPS32 = np.finfo(np.float64).eps, np.finfo(np.float32).eps
SECONDS = 1_700_000_000
STEPS = np.arange(3)[:, None]


def exact(column):
    """The mean and the variance of a column as fractions."""
    values = [fractions.Fraction(value.item()) for value in column]
    mean = sum(values) / len(values)
    return mean, sum((value - mean) ** 2 for value in values) / len(values)


def standardised(column):
    """(x - mean) / deviation of a column, each rounded once from 200 bits."""
    mean, variance = exact(column)
    bits = 200 - (variance.numerator.bit_length() - variance.denominator.bit_length()) // 2
    deviation = (
        math.isqrt(int(variance * fractions.Fraction(4) ** bits)) / fractions.Fraction(2) ** bits
    )
    return [float((fractions.Fraction(value.item()) - mean) / deviation) for value in column]


# --- Statistics


@pytest.mark.parametrize(
    ("dtype", "offset", "size"),
    [
        *(
            (np.float64, *of)
            for of in [(0, 1), (1e8, 1), (1e-3, 1e-9), (5e300, 1e300), (0, 1e-290)]
        ),
        *((np.float32, *of) for of in [(0, 1), (1e3, 1), (1e8, 40), (0, 1e30), (0, 1e-40)]),
        *((np.float16, *of) for of in [(0, 1), (1e3, 2), (1e3, 0), (0, 1e-6)]),
        *((ml_dtypes.bfloat16, *of) for of in [(0, 1), (1e3, 8), (0, 1e30)]),
    ],
)
def test_statistics_of_floats(dtype, offset, size, rng):
    """Within the roundings of 200 additions, whatever the values' offset and size."""
    values = (offset + size * rng.standard_normal((200, 1))).astype(dtype)
    mean, variance = exact(values[:, 0])
    found_mean, found = moments(values)
    size = float(max(abs(value - mean) for value in map(fractions.Fraction, values[:, 0].tolist())))
    assert abs(found_mean.item() - mean) <= 200 * EPS * size + 2 * EPS * abs(mean)
    if variance == 0:
        assert found.item() == 0
    else:
        ratio = fractions.Fraction(found.item()) ** 2 / variance
        assert abs(float(ratio - 1)) <= 400 * EPS


def test_the_examples_by_which_it_was_found(rng):
    images = np.array([[SECONDS + 10]] + 3 * [[SECONDS]])
    assert data.fit_preprocessing(images).scale.item() == 1 / math.sqrt(18.75)
    images = rng.integers(-(2**31), 2**31, (60, 1)).astype(np.int32)
    mean, variance = exact(images[:, 0])
    found = data.fit_preprocessing(images)
    assert (found.mean.item(), found.scale.item()) == (float(mean), 1 / math.sqrt(variance))


@pytest.mark.parametrize(
    "values",
    [
        np.full((3, 1), 0.1),
        np.full((7, 1), 1e300),
        np.full((7, 1), np.finfo(np.float64).max),
        np.array([[0.1 + 0.2], [0.3], [0.3]]),  # what rounding cannot tell from a constant
        np.full((5, 1), 5e-324),
        np.array([[0.0], [5e-324], [0.0]]),  # a deviation without a reciprocal
        np.full((3, 1), 0.1, np.float32),
        np.full((3, 1), 2**63 + 1, np.uint64),
        np.full((3, 1), SECONDS),
        np.full((1, 1), 0.7),
        np.ones((4, 1), bool),
    ],
    ids=lambda values: f"{values.dtype}-{values[0, 0]}-{len(values)}",
)
def test_a_constant_is_only_centred(values):
    mean, scale = data.fit_preprocessing(values)
    assert scale.item() == 1
    assert abs(mean.item() - float(values[0, 0])) <= EPS * abs(float(values[0, 0]))
    centred = np.asarray(data.preprocess((mean, scale), values), float)
    assert abs(centred).max() <= EPS * abs(float(values[0, 0]))


def test_booleans_and_the_small_dtypes_of_ml():
    mean, scale = data.fit_preprocessing(np.array([[True], [False]]))
    assert (mean.item(), scale.item()) == (0.5, 2.0)
    for dtype in (ml_dtypes.int4, ml_dtypes.float8_e4m3fn, np.longdouble, ">f4", ">i8"):
        mean, scale = data.fit_preprocessing(np.array([[1], [3]]).astype(dtype))
        assert (mean.item(), scale.item()) == (2.0, 1.0)


@pytest.mark.parametrize("kind", ["standardised", "mean_image"])
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_integers_that_float64_cannot_tell_apart_are_refused(dtype, kind):
    with pytest.raises(ValueError, match=r"around 1152921504606846\d\d\d that differ by .*float64"):
        data.fit_preprocessing((STEPS + 2**60).astype(dtype), kind)
    data.fit_preprocessing((STEPS * 2**30 + 2**60).astype(dtype), kind)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32])
@pytest.mark.parametrize("kind", ["standardised", "mean_image"])
def test_statistics_take_little_memory(kind, dtype):
    """Images by stride, as if a file were mapped: 8 million values, 64 MiB as float64."""
    images = np.broadcast_to(np.arange(2048).astype(dtype) * 3, (4096, 2048))
    tracemalloc.start()
    data.fit_preprocessing(images, kind)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 40 << 20


# --- What reaches the device, in float32 as everybody has it


@pytest.fixture
def _float32():
    with jax.enable_x64(False):
        yield


WIDE = {
    "int64 seconds": SECONDS + 7 * STEPS,
    "int64 nanoseconds": SECONDS * 10**9 + 10**8 * STEPS,
    "int32 seconds": (SECONDS + STEPS).astype(np.int32),
    "uint64": np.uint64(2**63) + (2**41 * STEPS).astype(np.uint64),
    "int64 of both signs": np.array([[-(2**62)], [2**61], [2**62]]),
    "uint32 up to the last": np.array([[2**32 - 1], [2**32 - 3], [2**32 - 2]], np.uint32),
    "float64": 1e8 + STEPS,
    "float64 past float32": np.array([[1e300], [-1e300], [3e300]]),
    "float64 below float32": np.array([[1e-300], [2e-300], [4e-300]]),
    "float32": np.float32([[1e8], [1e8 + 8], [1e8 + 24]]),
    "a constant and others": np.array([[0.1], [0.2], [0.4]]),
}


@pytest.mark.usefixtures("_float32")
@pytest.mark.parametrize("name", WIDE)
def test_what_float32_cannot_hold_is_standardised_in_float64(name):
    images = WIDE[name]
    prepared = data.fit_preprocessing(images)
    # The mean is rounded to float64, and so is each value: both in deviations.
    lost = EPS * float(np.abs(prepared.mean).max() * prepared.scale.max())
    for form in (images, images.tolist()):
        ours = data.preprocess(prepared, form)
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(
            ours[:, 0], standardised(images[:, 0]), rtol=2 * EPS32, atol=2 * EPS32 + lost
        )


@pytest.mark.usefixtures("_float32")
def test_arrays_of_jax_are_centred_on_the_host_too():
    images = jnp.asarray(SECONDS + STEPS, jnp.int32)
    prepared = data.fit_preprocessing(images)
    expected = standardised(np.asarray(images)[:, 0])
    np.testing.assert_allclose(data.preprocess(prepared, images)[:, 0], expected, atol=2 * EPS32)
    # In a compiled program it is too late.
    with pytest.raises(ValueError, match=r"the images' mean is 2.08e\+09 deviations .*jax\.jit"):
        jax.jit(lambda x: data.preprocess(prepared, x))(images)


@pytest.mark.usefixtures("_float32")
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", [1e8, 1e8, 1e8]),
        ("scaled", [2e7, 2e7, 2e7]),
        ("mean_image", [-1, 0, 1]),
        ("scaled_mean_image", [-0.2, 0, 0.2]),
    ],
)
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float64])
def test_other_kinds(dtype, kind, expected):
    images = (10**8 + STEPS).astype(dtype)
    ours = data.preprocess(data.fit_preprocessing(images, kind, 5), images)
    np.testing.assert_allclose(ours[:, 0], expected, rtol=EPS32)


@pytest.mark.usefixtures("_float32")
def test_integers_do_not_wrap_and_stay_integers_where_they_can():
    none = data.Preprocessing(np.zeros(1), np.ones(1))
    images = np.array([[2**40 + 5], [-(2**40)], [3]])
    np.testing.assert_array_equal(data.preprocess(none, images), images.astype(np.float32))
    small = data.on_device(data.Split(images % 1000, np.arange(3)), none)[0].images
    assert small.dtype == jnp.int32
    for dtype in (np.uint8, np.int16, np.int32, np.float32):
        kept = data.on_device(data.Split(np.ones((2, 1), dtype), np.arange(2)), none)[0].images
        assert kept.dtype == dtype


@pytest.mark.usefixtures("_float32")
def test_bytes_stay_bytes_on_the_device():
    """A channel of transparency that is 255 all but once has a mean of a thousand deviations."""
    images = np.full((2000, 8, 8, 4), 255, np.uint8)
    images[0, 0, 0] = 0
    prepared = data.fit_preprocessing(images)
    assert (prepared.mean * prepared.scale).max() > 300
    held, left = data.on_device(data.Split(images[:9], np.zeros(9, int)), prepared)
    assert held.images.dtype == jnp.uint8
    assert left is prepared


@pytest.mark.usefixtures("_float32")
@pytest.mark.parametrize("kind", ["none", "mean_image"])
def test_what_no_float32_can_be_is_refused_by_name(kind):
    images = np.array([[1.0, 2.0], [1.0, -1e300]])
    prepared = data.fit_preprocessing(images, kind)
    with pytest.raises(ValueError, match=r"images\[\d, 1\] is .*3\.4e\+38, the largest of float32"):
        data.preprocess(prepared, images)
    images[1] = np.nan  # no number at all: it is for the loss to say so
    assert np.isnan(data.preprocess(data.Preprocessing(np.zeros(1), np.ones(1)), images)[1]).all()


def seconds(n):
    """Rows whose class is whether they are early or late: nothing that float32 can see at 1.7e9."""
    rng = np.random.default_rng(n)
    labels = rng.integers(0, 2, n)
    second = 2 * rng.integers(0, 5, n) + 20 * labels
    return data.Split(SECONDS + np.stack([second, second // 2], 1), labels)


@pytest.mark.slow
@pytest.mark.usefixtures("_float32")
def test_fit_evaluate_and_sweep_see_what_preprocess_gives():
    raw = data.Dataset(*(seconds(n) for n in (60, 40, 20)), ("0", "1"))
    prepared = data.fit_preprocessing(raw.train.images)

    def done(split):
        return data.Split(np.asarray(data.preprocess(prepared, split.images)), split.labels)

    ready = data.Dataset(*map(done, raw[:3]), raw.classes)
    net, options = nets.affine(2), {"epochs": 3, "batch_size": 10}
    run, same = (
        train.fit(net, dataset, optimizers.sgd(0.5), preprocessing=kind, **options)
        for dataset, kind in ((raw, "standardised"), (ready, "none"))
    )
    np.testing.assert_array_equal(run.losses, same.losses)
    assert run.history["val_accuracy"] == same.history["val_accuracy"]
    assert max(run.history["val_accuracy"]) == 1  # float32 of the raw values has one value alone
    np.testing.assert_array_equal(run.preprocessing.mean, prepared.mean)
    measured = train.evaluate(net, run.best, raw.val, run.preprocessing)
    assert measured["accuracy"] == run.history[run.best_epoch]["val_accuracy"]
    members = sweep.run(
        lambda rate: sweep.Trial(net, optimizers.sgd(rate)), raw, {"rate": [0.5]}, **options
    )
    np.testing.assert_array_equal(members.val_accuracy[0], run.history["val_accuracy"])
    with pytest.raises(ValueError, match="to augment them"):
        train.fit(net, raw, optimizers.sgd(0.5), augment=lambda key, x: x, **options)
