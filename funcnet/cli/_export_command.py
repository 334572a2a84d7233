"""`funcnet export`: a run's net as a file for other programs."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated, Any, ClassVar

from funcnet import export
from funcnet.cli._command import choice, console, expected_errors, option, writable
from funcnet.cli._trained_run import Run, opened

FORMATS = ("onnx", "stablehlo", "safetensors")
_LOADED = {
    "onnx": "onnxruntime.InferenceSession({path!r}).run(None, {{'examples': examples}})[0]",
    "stablehlo": "jax.export.deserialize(bytearray(pathlib.Path({path!r}).read_bytes()))"
    ".call(examples)",
    "safetensors": "safetensors.numpy.load_file({path!r})",
}


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a run's net as ONNX, StableHLO or safetensors, for other programs."""

    folder: Run = None
    """The folder of a run."""
    to: Annotated[str, choice(FORMATS)] = "onnx"
    """What to write: the function, with its preprocessing, or with safetensors the numbers."""
    out: Annotated[str | None, option("RUN/model.onnx and so on")] = None
    """The file."""
    examples: Annotated[str, choice(("float32", "uint8"))] = "float32"
    """Dtype of the examples that the function takes, raw, as in the data set."""
    traceback: bool = False
    """Show where an error came from."""

    EPILOG: ClassVar[str] = """
Examples:

  funcnet export
  funcnet export runs/mnist-small --to onnx --examples uint8 --out mnist.onnx
  funcnet export runs/mnist-small --to stablehlo

ONNX and StableHLO take a batch of any size. What each format is for: docs/api/export.md.
"""

    def run(self) -> int:
        """Loads, writes, says what was written."""
        folder, trained = opened(self.folder)
        path = self.out or str(folder / f"model.{self.to}")
        writable("--out", path, [".safetensors"] if self.to == "safetensors" else ())
        write: Any = getattr(export, f"to_{self.to}")
        options = {} if self.to == "safetensors" else {"dtype": self.examples}
        with expected_errors():
            write(trained, path, **options)
        size = os.path.getsize(path)
        out = console()
        out.print(f"{path}: {self.to}, {size:,} bytes", soft_wrap=True)
        out.print(_LOADED[self.to].format(path=path), soft_wrap=True)
        return 0
