"""A trained net's numbers under their names, and the net as JSON beside them, in one file."""

from __future__ import annotations

import json
import os

from funcnet import checkpoint
from funcnet.train import Trained


def to_safetensors(trained: Trained, path: str | os.PathLike[str]) -> None:
    r"""Writes the arrays of a trained net, and in the header's metadata what they belong to.

    The arrays are those of `checkpoint.save_params`: `affine1.w`, `state.batch_norm1.mean`,
    `preprocessing.mean` and `preprocessing.scale`. The metadata's "funcnet.model" is
    `checkpoint.describe` as JSON.

    Args:
      trained: `run.trained`, or what `funcnet.load` returns.
      path: the file, in `.safetensors`.

    Raises:
      ImportError: safetensors is not installed.
      OSError: the file cannot be written.
      TypeError: it is no `Trained`, or the format does not hold a leaf's dtype.
      ValueError: the path ends otherwise.

    Source: https://huggingface.co/docs/safetensors.

    >>> import tempfile, safetensors
    >>> from funcnet import data, nets, optimizers, train
    >>> dataset, net = data.synthetic(sizes=(60, 20, 20), classes=3), nets.affine(3)
    >>> run = train.fit(net, dataset, optimizers.adam(0.1), epochs=1, batch_size=20)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_safetensors(run.trained, folder + "/net.safetensors")
    ...     with safetensors.safe_open(folder + "/net.safetensors", "numpy") as file:
    ...         print(sorted(file.keys()), json.loads(file.metadata()["funcnet.model"])["task"])
    ['b', 'preprocessing.mean', 'preprocessing.scale', 'w'] classification
    """
    if not isinstance(trained, Trained):
        raise TypeError(
            f"to_safetensors: trained is a {type(trained).__name__}, expected run.trained."
        )
    if os.path.splitext(path)[1] != ".safetensors":
        raise ValueError(f"to_safetensors: path is {path}, expected one in .safetensors.")
    try:
        import safetensors  # noqa: F401
    except ImportError as error:
        raise ImportError('to_safetensors needs safetensors: pip install "funcnet[run]"') from error
    model = json.dumps(checkpoint.describe(trained), allow_nan=False)
    arrays = trained.params, trained.state, trained.preprocessing
    checkpoint.save_params(path, *arrays, metadata={"funcnet.model": model})
