"""What is done to images before a net sees them: preprocessing and augmentation, both pure.

The public names are reachable as `funcnet.data.NAME`, too. An augmentation is `f(key, images) ->
images`: every image draws its own randomness from the key, the same key gives the same result, and
shape and dtype stay what they are, so that raw uint8 images may be augmented as well as
preprocessed ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PRNGKeyArray, Shaped

from funcnet import _validate

Images = Shaped[Array | np.ndarray, "n h w c"]
Augmentation = Callable[[PRNGKeyArray, Any], Array]


Kind = Literal["none", "mean_image", "scaled", "scaled_mean_image", "standardised"]
_FLOAT_ROWS = 1024


# --- Preprocessing


class Preprocessing(NamedTuple):
    """What `preprocess` subtracts from each image, and multiplies it with.

    Attributes:
        mean: float64, of one image's number of axes, and broadcastable to it.
        scale: the same.
    """

    mean: Array | np.ndarray
    scale: Array | np.ndarray


def fit_preprocessing(
    images: Shaped[Array | np.ndarray, " n *example"],
    kind: Kind = "standardised",
    full_scale: int | float = 255.0,
) -> Preprocessing:
    r"""Measures what `preprocess` needs, from the images of the training split alone.

    With $m$ the mean image, $\mu_c$ and $\sigma_c$ a channel's mean and (biased) standard
    deviation, and $s$ the full scale, an image $x$ becomes

    | kind | | |
    |---|---|---|
    | none | $x$ | as it is |
    | mean_image | $x - m$ | courses.md rows 0-2, 1-2, 2-1, 4-25 |
    | scaled | $x / s$ | 0 to 1 |
    | scaled_mean_image | $(x - m) / s$ | courses.md row 3-1 |
    | standardised | $(x_c - \mu_c) / \sigma_c$ | a constant channel is only centred |

    Of integers the sums are exact, and each statistic is their quotient rounded to float64; of
    floats they are summed in float64. No copy of the images is made.

    Args:
        images: (n, ..., c), the training split's: never the validation or test rows.
        kind: one of the above.
        full_scale: the value that "scaled" makes 1: `Dataset.full_scale`.

    Returns:
        The mean and the scale, for `preprocess`.

    Raises:
        ValueError: there are no images, a float among them is not finite, the full scale is not
            positive, or the kind is another.

    >>> images = np.array([[[[0, 6]]], [[[2, 6]]]], np.uint8)
    >>> fit_preprocessing(images, "standardised")
    Preprocessing(mean=array([[[1., 6.]]]), scale=array([[[1., 1.]]]))
    """
    images = np.asarray(images)
    if images.ndim < 2 or not images.size:
        raise ValueError(
            f"fit_preprocessing: images has shape {images.shape}, expected (n, ..., channels) "
            "with at least one image."
        )
    if not full_scale > 0:
        raise ValueError(f"fit_preprocessing: full_scale is {full_scale}, expected more than 0.")
    ones = (1,) * (images.ndim - 1)
    mean, scale = np.zeros(ones), np.ones(ones)
    if kind in ("mean_image", "scaled_mean_image"):
        mean = _mean_image(images)
    if kind in ("scaled", "scaled_mean_image"):
        scale = np.full(ones, 1 / full_scale)
    if kind == "standardised":
        mean, deviation = _channel_moments(images)
        scale = 1 / np.where(deviation > 0, deviation, 1)
    elif kind not in ("none", "mean_image", "scaled", "scaled_mean_image"):
        raise ValueError(
            f"fit_preprocessing: kind is {kind!r}, expected none, mean_image, scaled, "
            "scaled_mean_image or standardised."
        )
    return Preprocessing(mean, scale)


def _mean_image(images: np.ndarray) -> np.ndarray:
    if np.issubdtype(images.dtype, np.integer):
        return images.sum(0, dtype=np.int64) / len(images)
    mean = images.sum(0, dtype=np.float64) / len(images)
    if not np.isfinite(mean).all():
        finite = np.isfinite(images).reshape(len(images), -1).all(1)
        raise ValueError(
            f"fit_preprocessing: images[{finite.argmin()}] holds a value that is not finite; drop "
            "or mend it before training."
        )
    return mean


def _channel_moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and standard deviation of each channel, broadcastable to one image."""
    leading = tuple(range(images.ndim - 2))
    shape = (1,) * (images.ndim - 2) + images.shape[-1:]
    count = images.size // images.shape[-1]
    if np.issubdtype(images.dtype, np.integer):
        sums = images.sum(0, dtype=np.int64).sum(leading)
        squares = np.einsum("n...,n...->...", images, images, dtype=np.int64).sum(leading)
        # Python's integers, because count * squares passes 2^63.
        pairs = zip(sums.tolist(), squares.tolist(), strict=True)
        variance = np.array([(count * square - total**2) / count**2 for total, square in pairs])
        return (sums / count).reshape(shape), np.sqrt(variance).reshape(shape)
    mean = _mean_image(images).mean(leading).reshape(shape)
    total = np.zeros(images.shape[-1])
    for start in range(0, len(images), _FLOAT_ROWS):
        total += np.square(images[start : start + _FLOAT_ROWS] - mean).sum(
            (0, *(a + 1 for a in leading))
        )
    return mean, np.sqrt(total / count).reshape(shape)


def preprocess(
    preprocessing: Preprocessing,
    images: Shaped[Array | np.ndarray, " n *example"],
    dtype: Any = jnp.float32,
) -> Float[Array, " n *example"]:
    r"""Returns $(x - \text{mean}) \cdot \text{scale}$ as floats: pure, and jittable.

    The arithmetic is done in float32, or in float64 for that dtype, and rounded once at the end.

    Args:
        preprocessing: from `fit_preprocessing`.
        images: (n, ...), raw, of any dtype.
        dtype: the result's.

    Returns:
        The images as `dtype`, in the same shape.

    Raises:
        ValueError: the images are not of the shape that the preprocessing was fitted on.

    >>> images = np.array([[[[0]]], [[[255]]]], np.uint8)
    >>> preprocess(fit_preprocessing(images, "scaled"), images).ravel()
    Array([0., 1.], dtype=float32)
    """
    images = jnp.asarray(images)
    for statistic in preprocessing:
        sizes = zip(statistic.shape, images.shape[1:], strict=False)
        if statistic.ndim != images.ndim - 1 or any(have not in (1, n) for have, n in sizes):
            raise ValueError(
                f"preprocess: images has shape {images.shape}, expected (n, ...) with examples to "
                f"which {statistic.shape} broadcasts, the shape of the fitted statistics."
            )
    compute = jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32
    mean, scale = (jnp.asarray(statistic, compute)[None] for statistic in preprocessing)
    return ((images.astype(compute) - mean) * scale).astype(dtype)


# --- Augmentation


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
    flipped = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
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
