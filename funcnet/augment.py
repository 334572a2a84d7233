"""The former name of what `funcnet.data` offers: preprocessing and augmentation."""

import warnings

from funcnet.data import (
    Augmentation,
    Images,
    Kind,
    Preprocessing,
    compose,
    cutout,
    fit_preprocessing,
    for_device,
    preprocess,
    random_crop,
    random_flip,
)

__all__ = [
    "Augmentation",
    "Images",
    "Kind",
    "Preprocessing",
    "compose",
    "cutout",
    "fit_preprocessing",
    "for_device",
    "preprocess",
    "random_crop",
    "random_flip",
]

# Once, as a module is loaded once; the import that asked for it is pointed at.
warnings.warn(
    "funcnet.augment is deprecated: import its names from funcnet.data.",
    DeprecationWarning,
    stacklevel=2,
)
