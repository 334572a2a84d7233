"""`funcnet report`: a page on a run, made of its folder and its data."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar

from funcnet import report
from funcnet.cli import _train_folder as files
from funcnet.cli import _train_options as settings
from funcnet.cli._command import CommandError, console, expected_errors, need, option, writable
from funcnet.cli._jobs import at_precision, begun_with
from funcnet.cli._trained_run import Run, config_of
from funcnet.data import Dataset


@dataclasses.dataclass(frozen=True)
class ReportCommand:
    """Write a page on a run: result, curves, confusions, mistakes, first weights and gradients.

    It is one file of HTML, which needs no network. report.json beside it holds its numbers.
    """

    folder: Run = None
    """Folder of a run of funcnet train, ended or not."""
    out: Annotated[str | None, option("report.html in the run's folder")] = None
    """File for the page."""
    data_dir: Annotated[str | None, option("the run's")] = None
    """Folder of the data sets."""
    traceback: bool = False
    """Show where an error came from."""

    EPILOG: ClassVar[str] = """
Examples:

  funcnet report
  funcnet report runs/convnet --out convnet.html

Without the data, the page is made of the folder alone, and says what is left out.
"""

    def run(self) -> int:
        """Writes the page, and prints where it is and what is left out of it."""
        need("matplotlib")
        writable("--out", self.out, (".html", ".htm"))
        folder = (
            files.latest(hint="; name its folder") if self.folder is None else Path(self.folder)
        )
        files.require_no_sweep(folder)
        out = console()
        with expected_errors(), contextlib.ExitStack() as stack:
            dataset, why = self._data(folder, out, stack)
            written = report.write(folder, dataset, self.out, why=why)
        out.print(str(written.path), soft_wrap=True)
        for line in written.left_out:
            out.print(f"left out: {line}", soft_wrap=True)
        return 0

    def _data(
        self, folder: Path, out: Any, stack: contextlib.ExitStack
    ) -> tuple[Dataset | None, str]:
        """The run's data, or why there are none; at the run's precision while `stack` is open."""
        config = config_of(folder)
        if config is None:
            return None, f"{folder} does not say which data the net was trained on"
        try:
            dataset = begun_with(config, out.print, data_dir=self.data_dir)
        except (OSError, ValueError, CommandError) as error:
            return None, f"the data could not be read, {error}".rstrip(".")
        if dataset is None:
            return None, "the data are not those that the run was begun with (another SHA-256)"
        stack.enter_context(at_precision(settings.from_config(config["options"])))
        return dataset, ""
