"""Augmentations: windows, flips and squares, drawn for each image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import data
from tests.support import data_sets

_no_network = data_sets.no_network


EPS32 = np.finfo(np.float32).eps


AUGMENTATIONS = {
    "crop": data.random_crop,
    "reflect": functools.partial(data.random_crop, padding=3, mode="reflect"),
    "flip": data.random_flip,
    "cutout": data.cutout,
    "all": data.compose(data.random_crop, data.random_flip, data.cutout),
}
KEY = jax.random.key(17)


def distinct_images(n=16, shape=(12, 10, 3), dtype=np.float32):
    """No two pixels alike, none of them 0; of uint8 nearly so."""
    values = 1 + np.arange(n * np.prod(shape))
    return values.reshape(n, *shape).astype(dtype)


@pytest.mark.integration
@pytest.mark.parametrize(
    "dtype",  # as images are stored, and as they are preprocessed
    [
        np.uint8,
        np.float32,
        *(pytest.param(d, marks=pytest.mark.slow) for d in (float, jnp.bfloat16)),
    ],
)
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_keep_shape_and_dtype_under_jit_and_by_key(name, dtype):
    augment, images = AUGMENTATIONS[name], jax.device_put(distinct_images(dtype=dtype))
    compiled = jax.jit(augment)
    result = augment(KEY, images)
    assert (result.shape, result.dtype) == (images.shape, images.dtype)
    result, images = map(np.asarray, (result, images))
    np.testing.assert_array_equal(result, augment(KEY, jax.device_put(images)))
    np.testing.assert_array_equal(result, compiled(KEY, images))
    np.testing.assert_array_equal(result, augment(KEY, images))
    assert (result != np.asarray(compiled(jax.random.key(18), images))).any()
    assert (result != images).any()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_image_draws_its_own(name):
    augment, images = jax.jit(AUGMENTATIONS[name]), distinct_images()
    alike = np.asarray(augment(KEY, np.tile(images[:1], (64, 1, 1, 1))))
    assert len(np.unique(alike.reshape(64, -1), axis=0)) >= 2
    for before, after in zip(images, np.asarray(augment(KEY, images)), strict=True):
        assert set(np.unique(after)) <= {0.0, *np.unique(before)}  # no pixel of a neighbour


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_crops_are_windows_of_the_padded_image_and_all_offsets_occur(mode):
    images = distinct_images(n=400, shape=(4, 5, 1))
    crop_all = jax.jit(functools.partial(data.random_crop, padding=2, mode=mode))
    offsets = set()
    for image, crop in zip(images, np.asarray(crop_all(KEY, images)), strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode=mode)
        matches = [
            (u, v)
            for u in range(5)
            for v in range(5)
            if np.array_equal(padded[u : u + 4, v : v + 5], crop)
        ]
        assert matches
        if len(matches) == 1:
            offsets.add(matches[0])
    assert len(offsets) == 25


def test_crop_fills_and_padding_0_is_the_identity():
    images = distinct_images()
    np.testing.assert_array_equal(data.random_crop(KEY, images, padding=0), images)
    np.testing.assert_array_equal(data.random_crop(KEY, images, 0, "reflect"), images)
    fill = jax.jit(functools.partial(data.random_crop, padding=6, fill=-7.5))
    filled = np.asarray(fill(KEY, images))
    assert (filled == -7.5).any()
    assert (filled != 0).all()


def test_flipping_twice_is_the_identity_and_half_are_flipped():
    images = distinct_images(n=1000, shape=(3, 4, 1))
    flip = jax.jit(data.random_flip)
    once = np.asarray(flip(KEY, images))
    np.testing.assert_array_equal(flip(KEY, once), images)
    flipped = (once == images[:, :, ::-1]).all((1, 2, 3))
    kept = (once == images).all((1, 2, 3))
    assert (flipped ^ kept).all()
    assert abs(flipped.sum() - 500) < 5 * np.sqrt(250)  # five standard deviations


@pytest.mark.parametrize("size", [0, 1, 3, 4, 30])
def test_cutout_covers_one_square_cut_at_the_border(size):
    images = distinct_images(n=500)
    cut = np.asarray(jax.jit(functools.partial(data.cutout, size=size))(KEY, images))
    covered = cut == 0
    assert (covered.all(-1) == covered.any(-1)).all()
    rows, columns = covered[..., 0].any(2), covered[..., 0].any(1)
    np.testing.assert_array_equal(covered[..., 0], rows[:, :, None] & columns[:, None, :])
    for mask, length in ((rows, 12), (columns, 10)):
        assert (np.abs(np.diff(mask.astype(int), axis=1)).sum(1) <= 2).all()  # one stretch
        counts = mask.sum(1)
        assert counts.max(initial=0) == min(size, length)
        assert counts.min() >= min(size // 2, length)
    inside = (rows[:, :1] | rows[:, -1:] | columns[:, :1] | columns[:, -1:]).ravel() == 0
    if 0 < size < 10:
        assert inside.any()
    assert (covered[inside].sum((1, 2, 3)) == 3 * size**2).all()
    np.testing.assert_array_equal(np.where(covered, images, cut), images)


def test_compose_gives_each_function_its_own_key():
    keys = []

    def spy(key, images):
        keys.append(jax.random.key_data(key).tolist())
        return images + 1

    result = data.compose(spy, spy, spy)(KEY, np.zeros((2, 3, 3, 1)))
    assert float(result.max()) == 3
    assert len({str(key) for key in [*keys, jax.random.key_data(KEY).tolist()]}) == 4
    images = distinct_images()
    np.testing.assert_array_equal(data.compose()(KEY, images), images)


@pytest.mark.integration
def test_raw_keys_and_empty_batches():
    images = distinct_images()

    @jax.jit
    def augmented(key, images):
        return {name: augment(key, images) for name, augment in AUGMENTATIONS.items()}

    for name, result in augmented(jax.random.PRNGKey(1), images).items():
        assert result.shape == images.shape, name
    for name, result in augmented(KEY, images[:0]).items():
        assert result.shape == (0, 12, 10, 3), name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: data.random_crop(KEY, x[0]), r"random_crop: images has shape \(12, 10, 3\)"),
        (lambda x: data.random_flip(KEY, x[..., 0]), "random_flip: images has shape"),
        (lambda x: data.cutout(KEY, x.ravel()), "cutout: images has shape"),
        (lambda x: data.random_crop(KEY, x, padding=-1), "padding is -1, expected a number of"),
        (lambda x: data.random_crop(KEY, x, padding=1.5), r"padding is 1\.5"),
        (lambda x: data.random_crop(KEY, x, padding=(1, 2)), r"padding is \(1, 2\)"),
        (lambda x: data.random_crop(KEY, x, 10, "reflect"), "expected less than 10 to reflect"),
        (lambda x: data.random_crop(KEY, x, mode="wrap"), "mode is 'wrap'"),
        (lambda x: data.random_crop(KEY, x.astype(np.uint8), fill=-1), "fill is -1"),
        (lambda x: data.random_crop(KEY, x.astype(np.uint8), fill=256), "fill is 256"),
        (lambda x: data.cutout(KEY, x.astype(np.uint8), fill=0.5), r"fill is 0\.5"),
        (lambda x: data.cutout(KEY, x, size=-1), "size is -1"),
        (lambda x: data.cutout(KEY, x, size=True), "size is True"),
    ],
)
def test_wrong_calls_of_augmentations(call, message):
    with pytest.raises(ValueError, match=message):
        call(distinct_images())
