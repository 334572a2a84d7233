"""Data sets as arrays in memory, and what is done to them before they reach a net.

```python
dataset = data.load("cifar10")                                     # uint8 NHWC, int32 labels
prepared = data.fit_preprocessing(dataset.train.images, "scaled")  # from the training split only
augment = data.compose(data.random_crop, data.random_flip)         # augment(key, images)
x = data.preprocess(prepared, augment(key, images))                # in the step, on the device
```

Images may be a source beyond memory, as a memory-mapped file is: `Streamed`. `pack` makes one of
any data set.

Data of one's own come by `data.read(path)`: a folder of pictures, a table, or arrays in a file.

Where an official file is missing it is downloaded, and its checksum is verified before anything
parses it. Nothing is unpickled: the readers build plain containers and arrays, and nothing else.
"""

from funcnet._homes import at_home
from funcnet.data._arrays import from_arrays, from_npz
from funcnet.data._augmentation import (
    Augmentation,
    Images,
    compose,
    cutout,
    random_crop,
    random_flip,
)
from funcnet.data._dataset import Dataset, LabelError, Split, Task, check_labels, on_device
from funcnet.data._folder import from_folder
from funcnet.data._formats import DataFormatError
from funcnet.data._load import NAMES, DataNotFoundError, Location, find, load
from funcnet.data._own import read, read_inputs
from funcnet.data._packed import PACKED, from_packed, pack
from funcnet.data._parquet import from_parquet
from funcnet.data._preprocessing import (
    Kind,
    Preprocessing,
    fit_preprocessing,
    for_device,
    keeps_integers,
    preprocess,
)
from funcnet.data._sources import SETS, Source
from funcnet.data._streamed import RESIDENT_BYTES, SourceError, Streamed, opened
from funcnet.data._synthetic import synthetic
from funcnet.data._tables import Missing, from_table

__all__ = [
    "NAMES",
    "PACKED",
    "RESIDENT_BYTES",
    "SETS",
    "Augmentation",
    "DataFormatError",
    "DataNotFoundError",
    "Dataset",
    "Images",
    "Kind",
    "LabelError",
    "Location",
    "Missing",
    "Preprocessing",
    "Source",
    "SourceError",
    "Split",
    "Streamed",
    "Task",
    "check_labels",
    "compose",
    "cutout",
    "find",
    "fit_preprocessing",
    "for_device",
    "from_arrays",
    "from_folder",
    "from_npz",
    "from_packed",
    "from_parquet",
    "from_table",
    "keeps_integers",
    "load",
    "on_device",
    "opened",
    "pack",
    "preprocess",
    "random_crop",
    "random_flip",
    "read",
    "read_inputs",
    "synthetic",
]

at_home(globals())
