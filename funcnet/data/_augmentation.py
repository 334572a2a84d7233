"""Augmentation: `f(key, images) -> images`, pure.

Every image draws its own randomness from the key, the same key gives the same result, and shape and
dtype stay what they are, so that raw uint8 images may be augmented as well as preprocessed ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PRNGKeyArray, Shaped

from funcnet import _validate

Images = Shaped[Array | np.ndarray, "n h w c"]
"""Images, (n, h, w, c), of any dtype."""
Augmentation = Callable[[PRNGKeyArray, Any], Array]
"""`augment(key, images) -> images`: other images of the same classes, drawn by the key."""


def _images(function: str, images: Any) -> Array:
    images = jnp.asarray(images)
    _validate.rank(function, "images", images, (4,), "batch, height, width, channels")
    return images


def _fill(function: str, fill: int | float, dtype: Any) -> Array:
    """Returns `fill` as a scalar of the images' dtype, which must be able to hold it."""
    if jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        if int(fill) != fill or not limits.min <= fill <= limits.max:
            raise ValueError(
                f"{function}: fill is {fill}, expected an integer in [{limits.min}, {limits.max}], "
                f"because the images are {dtype}; augment after preprocessing, or fill with 0."
            )
    return jnp.asarray(fill, dtype)


def _pixels(function: str, name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(
            f"{function}: {name} is {value!r}, expected a number of pixels, at least 0."
        )


def random_crop(
    key: PRNGKeyArray,
    images: Images,
    padding: int = 4,
    mode: Literal["constant", "reflect"] = "constant",
    fill: int | float = 0,
) -> Shaped[Array, "n h w c"]:
    r"""Pads each image by `padding` pixels on every side and cuts out a window of its own size.

    With $P$ the padded image and offsets $(u, v)$ drawn per image, uniform on
    $\{0, \dots, 2 \cdot \text{padding}\}^2$:

    $$y_{ij} = P_{i + u,\, j + v}$$

    Args:
        key: a key of `jax.random`.
        images: (n, h, w, c), of any dtype.
        padding: pixels, static; 0 is the identity.
        mode: "constant" pads with `fill`, "reflect" mirrors the image without its border row.
        fill: the value of the padding, in the images' own units.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: `images` has not four axes; `padding` is no int, negative, or too large to
            reflect; `mode` is another; the dtype cannot hold `fill`.

    Source: He et al. 2016, section 4.2, https://arxiv.org/abs/1512.03385

    >>> images = jnp.arange(8, dtype=jnp.uint8).reshape(2, 2, 2, 1)
    >>> crops = random_crop(jax.random.key(0), images, padding=1)
    >>> crops.shape, crops.dtype
    ((2, 2, 2, 1), dtype('uint8'))
    """
    images = _images("random_crop", images)
    _pixels("random_crop", "padding", padding)
    n, h, w, _ = images.shape
    if mode == "reflect" and padding >= min(h, w):
        raise ValueError(
            f"random_crop: padding is {padding}, expected less than {min(h, w)} to reflect images "
            f'of {h} by {w} pixels; lower it, or pass mode="constant".'
        )
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    if mode == "reflect":
        padded = jnp.pad(images, sides, mode="reflect")
    elif mode == "constant":
        fill_value = _fill("random_crop", fill, images.dtype)
        padded = jnp.pad(images, sides, constant_values=fill_value)
    else:
        raise ValueError(f'random_crop: mode is {mode!r}, expected "constant" or "reflect".')
    offsets = jax.random.randint(key, (2, n), 0, 2 * padding + 1, dtype=jnp.int32)

    def cut(image: Array, top: Array, left: Array) -> Array:
        return jax.lax.dynamic_slice(image, (top, left, jnp.int32(0)), images.shape[1:])

    return jax.vmap(cut)(padded, *offsets)


def random_flip(key: PRNGKeyArray, images: Images) -> Shaped[Array, "n h w c"]:
    """Mirrors each image left to right with probability 1/2.

    The same key flips the same images, so that flipping twice is the identity.

    Args:
        key: a key of `jax.random`.
        images: (n, h, w, c), of any dtype.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: `images` has not four axes.

    Source: Krizhevsky et al. 2012, section 4.1,
    https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks

    >>> images = jnp.arange(8, dtype=jnp.uint8).reshape(2, 2, 2, 1)
    >>> key = jax.random.key(0)
    >>> bool((random_flip(key, random_flip(key, images)) == images).all())
    True
    """
    images = _images("random_flip", images)
    # In float32, so that the draws are the same with x64 and without.
    flipped = jax.random.bernoulli(key, jnp.float32(0.5), (len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def cutout(
    key: PRNGKeyArray, images: Images, size: int = 8, fill: int | float = 0
) -> Shaped[Array, "n h w c"]:
    r"""Covers one square of `size` pixels a side in each image.

    The square's centre $(a, b)$ is uniform over the image's pixels, so that the square may lie
    partly outside, as in the paper. Covered are the pixels

    $$a - \lfloor s/2 \rfloor \le i < a - \lfloor s/2 \rfloor + s, \quad
      b - \lfloor s/2 \rfloor \le j < b - \lfloor s/2 \rfloor + s$$

    Args:
        key: a key of `jax.random`.
        images: (n, h, w, c), of any dtype.
        size: the side $s$ of the square in pixels, static; 0 is the identity.
        fill: what covers it: 0 is the mean where the mean has been subtracted.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: `images` has not four axes, `size` is no int or negative, or the dtype cannot
            hold `fill`.

    Source: DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552

    >>> covered = cutout(jax.random.key(0), jnp.ones((1, 4, 4, 1)), size=1)
    >>> float(covered.sum())
    15.0
    """
    images = _images("cutout", images)
    _pixels("cutout", "size", size)
    n, h, w, _ = images.shape
    row_key, column_key = jax.random.split(key)

    def span(key: PRNGKeyArray, length: int) -> Array:
        centres = jax.random.randint(key, (n, 1), 0, length, dtype=jnp.int32)
        first = centres - size // 2
        pixels = jnp.arange(length, dtype=jnp.int32)[None]
        return (pixels >= first) & (pixels < first + size)

    covered = span(row_key, h)[:, :, None, None] & span(column_key, w)[:, None, :, None]
    return jnp.where(covered, _fill("cutout", fill, images.dtype), images)


def compose(*functions: Augmentation) -> Augmentation:
    """Returns the augmentation that applies `functions` from left to right, each with its own key.

    Args:
        functions: augmentations `f(key, images)`; options are bound by `functools.partial`.

    Returns:
        `augment(key, images)`; without functions it is the identity.

    >>> import functools
    >>> augment = compose(functools.partial(random_crop, padding=1), random_flip)
    >>> augment(jax.random.key(0), jnp.zeros((2, 4, 4, 3))).shape
    (2, 4, 4, 3)
    """

    def augment(key: PRNGKeyArray, images: Any) -> Array:
        images = _images("compose", images)
        for function, own_key in zip(functions, jax.random.split(key, len(functions)), strict=True):
            images = function(own_key, images)
        return images

    return augment
