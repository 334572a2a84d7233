"""A trained net as the program that JAX compiles, of any machine and any batch."""

from __future__ import annotations

import importlib.util
import os

import jax
from jax import export

from funcnet._files import replacing
from funcnet.export._program import Examples, program, shape_of
from funcnet.train import Trained

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(
    trained: Trained, path: str | os.PathLike[str], *, dtype: Examples = "float32"
) -> None:
    r"""Writes what a trained net computes as a serialized `jax.export.Exported`.

    It takes raw examples (b, ...), b of any size, and gives logits or targets. The parameters are
    constants in it, and it runs on CPUs, CUDA and TPUs, without funcnet. It calls no kernel of
    funcnet's own: JAX promises to read it for six months of its versions.

    Args:
      trained: `run.trained`, or what `funcnet.load` returns.
      path: the file, `net.stablehlo` for example.
      dtype: of the examples that it takes.

    Raises:
      ImportError: flatbuffers is not installed.
      OSError: the file cannot be written.
      TypeError: it is no `Trained`.
      ValueError: float32 cannot hold the raw examples, see `data.preprocess`; the dtype is another.

    Source: https://docs.jax.dev/en/latest/export/export.html.

    >>> import tempfile, pathlib
    >>> from funcnet import data, nets, optimizers, train
    >>> dataset, net = data.synthetic(sizes=(60, 20, 20), classes=3), nets.affine(3)
    >>> run = train.fit(net, dataset, optimizers.adam(0.1), epochs=1, batch_size=20)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "net.stablehlo"
    ...     to_stablehlo(run.trained, path, dtype="uint8")
    ...     found = jax.export.deserialize(bytearray(path.read_bytes()))
    >>> found.call(dataset.test.images).shape, found.platforms
    ((20, 3), ('cpu', 'cuda', 'tpu'))
    """
    outputs = program("to_stablehlo", trained, dtype)
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError('to_stablehlo needs flatbuffers: pip install "funcnet[export]"')
    (rows,) = export.symbolic_shape("b")
    made = export.export(jax.jit(outputs), platforms=PLATFORMS)(shape_of(trained, dtype, rows))
    with replacing(path) as file:
        file.write(made.serialize())
