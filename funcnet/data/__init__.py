"""Data sets as arrays in memory, and what is done to them before they reach a net.

```python
dataset = data.load("cifar10")                                     # uint8 NHWC, int32 labels
prepared = data.fit_preprocessing(dataset.train.images, "scaled")  # from the training split only
augment = data.compose(data.random_crop, data.random_flip)         # augment(key, images)
x = data.preprocess(prepared, augment(key, images))                # in the step, on the device
```

Where a file is missing it is downloaded, and a file's checksum is verified before anything parses
it. Nothing is unpickled: the readers build plain containers and uint8 arrays, and nothing else.
"""

from funcnet._homes import at_home
from funcnet.data._augmentation import (
    Augmentation,
    Images,
    compose,
    cutout,
    random_crop,
    random_flip,
)
from funcnet.data._dataset import Dataset, LabelError, Split, check_labels, on_device
from funcnet.data._formats import DataFormatError
from funcnet.data._load import NAMES, DataNotFoundError, Location, find, load
from funcnet.data._preprocessing import (
    Kind,
    Preprocessing,
    fit_preprocessing,
    for_device,
    preprocess,
)
from funcnet.data._sources import SETS, Source
from funcnet.data._synthetic import synthetic

__all__ = [
    "NAMES",
    "SETS",
    "Augmentation",
    "DataFormatError",
    "DataNotFoundError",
    "Dataset",
    "Images",
    "Kind",
    "LabelError",
    "Location",
    "Preprocessing",
    "Source",
    "Split",
    "check_labels",
    "compose",
    "cutout",
    "find",
    "fit_preprocessing",
    "for_device",
    "load",
    "on_device",
    "preprocess",
    "random_crop",
    "random_flip",
    "synthetic",
]

at_home(globals())
