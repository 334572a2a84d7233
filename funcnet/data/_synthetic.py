"""The data set that needs no file, because it is made."""

from __future__ import annotations

import numpy as np

from funcnet import _validate
from funcnet.data._dataset import Dataset, Split


def synthetic(
    shape: tuple[int, ...] = (8, 8, 1),
    classes: int = 10,
    sizes: tuple[int, int, int] = (1000, 200, 200),
    seed: int = 0,
    noise: int | float = 0.25,
) -> Dataset:
    r"""Returns a made data set that a net can learn: one template a class, plus noise.

    With templates $t_k \sim N(0, 0.2^2)$ and noise $\epsilon \sim N(0, \text{noise}^2)$, entry by
    entry, the image of a uniformly drawn label $k$ is

    $$x = \operatorname{clip}(\operatorname{round}(255\,(0.5 + t_k + \epsilon)), 0, 255)$$

    Args:
        shape: one example's shape.
        classes: the number of classes.
        sizes: the numbers of training, validation and test rows.
        seed: of NumPy's `default_rng`, 0 to 2^32 - 1; equal arguments give equal data sets.
        noise: the noise's standard deviation in units of the full scale.

    Returns:
        A data set of uint8 images named "synthetic".

    Raises:
        TypeError: the seed is no int.
        ValueError: a size is negative, there is no class, or the seed is out of range.

    >>> synthetic(shape=(4, 4, 3), classes=2, sizes=(6, 2, 2)).train.images.shape
    (6, 4, 4, 3)
    """
    if classes < 1 or min(sizes, default=-1) < 0 or len(sizes) != 3:
        raise ValueError(
            f"synthetic: classes is {classes} and sizes is {sizes}, expected at least one class "
            "and three numbers of rows, (train, val, test)."
        )
    rng = np.random.default_rng(_validate.seed("synthetic", "seed", seed))
    templates = rng.normal(0.5, 0.2, (classes, *shape)).astype(np.float32)

    def split(size: int) -> Split:
        labels = rng.integers(0, classes, size, dtype=np.int32)
        images = rng.standard_normal((size, *shape), dtype=np.float32)
        images *= np.float32(noise)
        images += templates[labels]
        images *= np.float32(255)
        return Split(images.round().clip(0, 255).astype(np.uint8), labels)

    train, val, test = (split(size) for size in sizes)
    return Dataset(train, val, test, tuple(str(k) for k in range(classes)), name="synthetic")
