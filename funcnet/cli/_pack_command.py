"""`funcnet pack`: a data set as plain arrays, for data beyond memory."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from funcnet import data
from funcnet.cli import _stdout
from funcnet.cli._command import CommandError, console, expected_errors
from funcnet.cli._jobs import expected_of_data, loaded, warnings_said
from funcnet.cli._train_options import DataOptions


@dataclasses.dataclass(frozen=True)
class Pack(DataOptions):
    """Write a data set as plain arrays in a folder, which training reads without holding them."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")] = (
        dataclasses.field()
    )
    """Data set, or the path of your own, as funcnet train --data has them."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")] = dataclasses.field(
        kw_only=True
    )
    """The folder to make."""
    traceback: bool = False
    """Show where an error came from."""

    EPILOG: ClassVar[str] = """
Examples:

  funcnet pack cifar10 packed/cifar10
  funcnet pack photographs/ packed/photographs --size 64
  funcnet train --data packed/photographs

The folder has a .npy for the images and one for the labels of each split, and dataset.json. Files
above a quarter of a GiB are read row by row, two batches ahead of the step; smaller ones are held.
"""

    def run(self) -> int:
        """Reads, writes, says what was written."""
        place = Path(self.out)
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise CommandError(f"{place} is there already, expected a folder to be made.")
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(DataOptions)
        }
        with expected_of_data(), warnings_said("funcnet pack"):
            try:
                dataset = loaded(DataOptions(**fields), _stdout.say)
            except CommandError as error:
                raise CommandError(str(error).removeprefix("--data: "), error.code) from error
        try:
            with expected_errors():
                data.pack(dataset, place)
        except CommandError as error:
            written = isinstance(error.__cause__, OSError)
            raise CommandError(
                f"{error}. Nothing is left of it.", code=1 if written else 2
            ) from error
        size = sum(os.path.getsize(file) for file in place.iterdir())
        splits: dict[str, Any] = {name: getattr(dataset, name) for name in ("train", "val", "test")}
        rows = ", ".join(f"{len(split.labels):,} {name}" for name, split in splits.items())
        console().print(f"{place}: {rows}, {size:,} bytes", soft_wrap=True)
        return 0
