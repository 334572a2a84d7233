"""Preprocessing: statistics of the training images, and what becomes of images by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Shaped

from funcnet._moments import blocks, first, moments
from funcnet.data._streamed import Streamed, opened

Kind = Literal["none", "mean_image", "scaled", "scaled_mean_image", "standardised", "integers"]
"""What `fit_preprocessing` can be asked for by name."""

# The largest |mean| * scale, the mean in deviations, of images that the device preprocesses: the
# mean's rounding to float32 is then 2^-14 of a deviation. Of those that only the device can
# preprocess, and of those that float32 holds exactly, it may be 2^-8.
_OFFSET, _RAW_OFFSET = 2.0**10, 2.0**16


class Preprocessing(NamedTuple):
    """What `preprocess` subtracts from each image, and multiplies it with.

    Attributes:
        mean: float64, of one image's number of axes, and broadcastable to it; int32, and 0, where
            integers are to stay integers.
        scale: the same, and 1.
    """

    mean: Array | np.ndarray
    scale: Array | np.ndarray


def fit_preprocessing(
    images: Shaped[Array | np.ndarray, " n *example"] | Streamed,
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
    | integers | $x$, int32 | as tables are looked up by: token ids, whatever the net computes in |

    Of integers the sums are exact, of any size, and each statistic is their quotient rounded to
    float64; floats are summed in float64, as their distances from the middle of their range. A
    channel whose deviation is within float64's rounding of its values is constant. No copy of the
    images is made; what is `Streamed` is read in blocks, integers of one or two bytes once, others
    up to four times.

    Args:
        images: (n, ..., c), the training split's: never the validation or test rows. A source as
            `Split.images` has it, too.
        kind: one of the above.
        full_scale: the value that "scaled" makes 1: `Dataset.full_scale`.

    Returns:
        The mean and the scale, for `preprocess`.

    Raises:
        ValueError: there are no images, or they are no real numbers; a float among them is not
            finite, where a mean is measured; integers differ by less than float64 can tell; the
            full scale is not positive and finite, or the kind is another; for "integers", images
            are floats.

    >>> images = np.array([[[[0, 6]]], [[[2, 6]]]], np.uint8)
    >>> fit_preprocessing(images, "standardised")
    Preprocessing(mean=array([[[1., 6.]]]), scale=array([[[1., 1.]]]))
    """
    images = opened(images)
    images = images if isinstance(images, Streamed) else np.asarray(images)
    if images.ndim < 2 or not images.size:
        raise ValueError(
            f"fit_preprocessing: images has shape {images.shape}, expected (n, ..., channels) "
            "with at least one image."
        )
    images = _real("fit_preprocessing", images)
    if not 0 < full_scale < np.inf:
        raise ValueError(
            f"fit_preprocessing: full_scale is {full_scale}, expected a finite number above 0."
        )
    ones = (1,) * (images.ndim - 1)
    mean, scale = np.zeros(ones), np.ones(ones)
    if kind in ("mean_image", "scaled_mean_image"):
        mean, _ = moments(images, deviation=False)
    if kind in ("scaled", "scaled_mean_image"):
        scale = np.full(ones, 1 / full_scale)
    if kind == "standardised":
        mean, deviation = moments(images, tuple(range(images.ndim - 2)))
        scale = 1 / np.where(deviation > 0, deviation, 1)
    elif kind == "integers":
        _whole("fit_preprocessing", images.dtype)
        return Preprocessing(mean.astype(np.int32), scale.astype(np.int32))
    elif kind not in ("none", "mean_image", "scaled", "scaled_mean_image"):
        raise ValueError(
            f"fit_preprocessing: kind is {kind!r}, expected none, mean_image, scaled, "
            "scaled_mean_image, standardised or integers."
        )
    return Preprocessing(mean, scale)


def preprocess(
    preprocessing: Preprocessing,
    images: Shaped[Array | np.ndarray, " n *example"],
    dtype: Any = jnp.float32,
) -> Shaped[Array, " n *example"]:
    r"""Returns $(x - \text{mean}) \cdot \text{scale}$ as floats: pure, and jittable.

    By the preprocessing "integers" it returns the integers themselves, int32.

    The arithmetic is done in float32, or in float64 for that dtype, and rounded once at the end.
    Images that float32 could not tell apart, as it cannot 1e8 and 1e8 + 1, are centred and scaled
    in float64 on the host before: see `for_device`.

    Args:
        preprocessing: from `fit_preprocessing`.
        images: (n, ...), raw, of any dtype.
        dtype: the result's.

    Returns:
        The images as `dtype`, in the same shape; by "integers" as int32.

    Raises:
        ValueError: the images are not of the shape that the preprocessing was fitted on; or they
            are traced, and float32 could not tell them apart; or what comes of a finite number
            is past the largest of float32; by "integers", the images are floats, or integers that
            int32 does not hold.

    >>> images = np.array([[[[0]]], [[[255]]]], np.uint8)
    >>> preprocess(fit_preprocessing(images, "scaled"), images).ravel()
    Array([0., 1.], dtype=float32)
    """
    compute = jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32
    images, preprocessing = for_device(preprocessing, images)
    images = jnp.asarray(images)
    if keeps_integers(preprocessing):
        return images.astype(jnp.int32)
    mean, scale = (jnp.asarray(statistic, compute)[None] for statistic in preprocessing)
    return ((images.astype(compute) - mean) * scale).astype(dtype)


def keeps_integers(preprocessing: Preprocessing) -> bool:
    """Whether integers stay integers: the preprocessing is "integers".

    >>> keeps_integers(fit_preprocessing(np.array([[7, 300]]), "integers"))
    True
    """
    _, scale = preprocessing
    return bool(jnp.issubdtype(scale.dtype, jnp.integer))


def for_device(
    preprocessing: Preprocessing, images: Any, *, raw: bool = False
) -> tuple[Any, Preprocessing]:
    """Returns images as the device is to hold them, and what `preprocess` is left to do to them.

    Images stay as they are, or become what JAX has of their dtype, where float32 is enough for
    them. Where it is not, because their mean is a thousand deviations and more or the scale is no
    number of float32, they are preprocessed here, in float64 and rounded once, and nothing is
    left to do. Only the dtype and the preprocessing decide, so that all splits are treated alike;
    what has one byte stays.

    Args:
        preprocessing: from `fit_preprocessing`.
        images: (n, ...), of any dtype; of what is `Streamed` each row is made so when it is read.
        raw: whether they must stay, for an augmentation; what is traced must.

    Returns:
        Images, of NumPy or JAX, and the preprocessing that remains.

    Raises:
        ValueError: as `preprocess`.

    >>> images = np.array([[1e8], [1e8 + 1], [1e8 + 2]])
    >>> held, left = for_device(fit_preprocessing(images), images)
    >>> held.ravel().round(2), left
    (array([-1.22,  0.  ,  1.22]), Preprocessing(mean=array([0.]), scale=array([1.])))
    """
    if isinstance(images, Streamed):
        images = _real("preprocess", images)
    elif not isinstance(images, jax.Array):
        images = _real("preprocess", np.asarray(images))
    for statistic in preprocessing:
        sizes = zip(statistic.shape, images.shape[1:], strict=False)
        if statistic.ndim != images.ndim - 1 or any(have not in (1, n) for have, n in sizes):
            raise ValueError(
                f"preprocess: images has shape {images.shape}, expected (n, ...) with examples to "
                f"which {statistic.shape} broadcasts, the shape of the fitted statistics."
            )
    if keeps_integers(preprocessing):
        return _as_int32(images), preprocessing
    if any(isinstance(statistic, jax.core.Tracer) for statistic in preprocessing):
        return images, preprocessing
    mean, scale = (np.asarray(statistic, np.float64) for statistic in preprocessing)
    size = np.abs(scale)
    with np.errstate(over="ignore"):
        offset = float((np.abs(mean) * size).max())
    float32 = np.finfo(np.float32)
    fits = bool(((float32.tiny <= size) & (size <= float32.max)).all())
    raw = raw or isinstance(images, jax.core.Tracer)
    limit = _RAW_OFFSET if raw or images.dtype.itemsize == 2 else _OFFSET
    if images.dtype.itemsize == 1 or (fits and offset <= limit):
        return _held(images), preprocessing
    if raw:
        raise ValueError(
            f"preprocess: the images' mean is {offset:.3g} deviations and their scale up to "
            f"{size.max():.3g}: float32 cannot tell them apart, to augment them or within jax.jit. "
            "Preprocess them before, as NumPy arrays."
        )
    ones = (1,) * (images.ndim - 1)
    if not isinstance(images, Streamed):
        images = np.asarray(images)
    centred = _rounded(images, lambda block: (block - mean) * scale)
    return centred, Preprocessing(np.zeros(ones), np.ones(ones))


def _real(function: str, images: Any) -> Any:
    """Images of real numbers, in a dtype in which NumPy can add them up."""
    kinds = jnp.bool_, jnp.integer, jnp.floating
    if not any(jnp.issubdtype(images.dtype, kind) for kind in kinds):
        raise ValueError(
            f"{function}: images has dtype {images.dtype}, expected real numbers; convert them "
            "with images.astype(np.float32)."
        )
    if jnp.issubdtype(images.dtype, jnp.integer) and images.dtype.kind not in "iu":
        return images.astype(np.int8)  # int4 and the like
    if images.dtype.itemsize > 8:
        return images.astype(np.float64)
    return images if images.dtype.isnative else images.astype(images.dtype.newbyteorder("="))


def _whole(function: str, dtype: Any) -> None:
    """Raises ValueError where what is to stay an integer is none."""
    if jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"{function}: images has dtype {dtype}, expected integers for the preprocessing "
            '"integers"; convert them with images.astype(np.int32).'
        )


def _as_int32(images: Any) -> Any:
    """Integers that int32 holds, of one or two bytes as they are."""
    _whole("preprocess", images.dtype)
    if isinstance(images, jax.core.Tracer) or np.can_cast(images.dtype, np.int32):
        return images
    limits = np.iinfo(np.int32)
    if images.size and not (limits.min <= images.min() and images.max() <= limits.max):
        raise ValueError(
            f"preprocess: images is from {images.min()} to {images.max()}, expected integers that "
            "int32 holds."
        )
    return images.astype(np.int32)


def _held(images: Any) -> Any:
    """Images in what JAX has of their dtype, the values rounded where they must be, not wrapped."""
    if isinstance(images, jax.Array) or images.dtype.itemsize < 8:
        return images
    target = jax.dtypes.canonicalize_dtype(images.dtype)
    if np.issubdtype(images.dtype, np.floating):
        return images if target == images.dtype else _rounded(images, lambda block: block)
    limits = np.iinfo(target)
    if not len(images) or (limits.min <= images.min() and images.max() <= limits.max):
        return images.astype(target, copy=False)
    return images.astype(np.float32)


def _rounded(images: Any, function: Callable[[np.ndarray], np.ndarray]) -> Any:
    """What a function makes of images in float64, as JAX's widest floats.

    Of what is streamed all rows are looked at before, so that no number is lost in the middle.
    """
    dtype = jax.dtypes.canonicalize_dtype(np.float64)

    def made(part: np.ndarray, start: int = 0) -> np.ndarray:
        values = part.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            found = function(values).astype(dtype)
        lost = np.isfinite(values) & ~np.isfinite(found)
        if lost.any():
            row, *rest = first(lost)
            raise ValueError(
                f"preprocess: images[{', '.join(map(str, (start + row, *rest)))}] is "
                f"{part[row, *rest]}, of which preprocessing makes a number past "
                f"{np.finfo(dtype).max:.3g}, the largest of {dtype}; scale the images down, or "
                "standardise them."
            )
        return found

    result = None if isinstance(images, Streamed) else np.empty(images.shape, dtype)
    for block in blocks(images) if images.size else ():
        found = made(images[block], block.start)
        if result is not None:
            result[block] = found
    return images.map(made, dtype) if result is None else result
