"""`funcnet evaluate`: the loss and the metrics of a run's net, on its own data or on others."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from funcnet import data
from funcnet._files import replacing
from funcnet.cli import _stdout
from funcnet.cli import _train_folder as files
from funcnet.cli._command import (
    CommandError,
    choice,
    console,
    option,
    writable,
    written,
)
from funcnet.cli._jobs import (
    at_precision,
    begun_with,
    expected_of_data,
    loaded,
    warnings_said,
)
from funcnet.cli._train_options import DataOptions, from_config, is_own
from funcnet.cli._train_report import facts
from funcnet.cli._trained_run import Run, config_of, opened, require_stdout
from funcnet.data import Dataset, Split
from funcnet.train import Trained
from funcnet.train.engine import called


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure a run's net: the loss and the metrics on the test images, or on other data."""

    folder: Run = None
    """The folder of a run."""
    data: Annotated[str | None, option("those that the run was trained on")] = None
    """Data of the same classes: the name of a data set, or a folder or file."""
    split: Annotated[str | None, choice(("train", "val", "test")), option("test")] = None
    """Which of the splits; of a folder or file all of it is taken where this is not given, but for
    that of funcnet pack. The run's own data have its splits wherever they lie now."""
    data_dir: Annotated[str | None, option("$FUNCNET_DATA_DIR, else ~/.cache/funcnet")] = None
    """Folder of the data sets."""
    json: Annotated[str | None, option("a table on stdout")] = None
    """File to write the numbers to, in full; - for stdout."""
    traceback: bool = False
    """Show where an error came from."""

    EPILOG: ClassVar[str] = """
Examples:

  funcnet evaluate
  funcnet evaluate runs/mnist-small --split val
  funcnet evaluate runs/pets --data photographs/ --json -

On the run's own test split these are the numbers of its result.json, to the bit.
"""

    def run(self) -> int:
        """Loads, measures, prints or writes."""
        if self.json in (None, "-"):
            require_stdout()
        else:
            writable("--json", self.json)
        folder, trained = opened(self.folder)
        config = config_of(folder)
        options = None if config is None else from_config(config["options"])
        with expected_of_data(), warnings_said("funcnet evaluate"), at_precision(options):
            dataset = self._dataset(folder, config, trained)
            split, name = self._split(dataset)
            classes = _matched(trained, dataset)
            labels = split.labels if classes is None else classes[split.labels]
            found = trained.evaluate(Split(split.images, labels))
        numbers = {"data": dataset.name, "split": name, "examples": len(split.labels), **found}
        text = json.dumps(files.finite(numbers), indent=2) + "\n"
        if self.json is None:
            rows = [(called(key, found), _shown(value)) for key, value in numbers.items()]
            console().print(facts(str(folder), rows))
        elif self.json == "-":
            print(text, end="")
        else:
            with written("--json", self.json), replacing(self.json) as file:
                file.write(text.encode())
        lost = _stdout.lost()
        return _stdout.exit_code(lost) if lost else 0

    def _dataset(self, folder: Path, config: dict[str, Any] | None, trained: Trained) -> Dataset:
        if self.data is None:
            return self._own(folder, config)
        if self.data in data.SETS:
            return loaded(DataOptions(self.data, data_dir=self.data_dir), _stdout.say)
        moved = None if self.split is None else _moved(config, self.data)
        return _read(self.data, trained) if moved is None else moved

    def _own(self, folder: Path, config: dict[str, Any] | None) -> Dataset:
        """The data set that the run was trained on, to the bit."""
        if config is None:
            raise CommandError(
                f"{folder} does not say which data its net was trained on: there is no "
                f"{files.CONFIG}. Name them by --data."
            )
        dataset = begun_with(config, _stdout.say, data_dir=self.data_dir)
        if dataset is None:
            raise CommandError(
                f"the data are not those that the run in {folder} was trained on (another SHA-256);"
                " name them by --data to measure it on them nevertheless."
            )
        return dataset

    def _split(self, dataset: Dataset) -> tuple[Split, str]:
        """The rows to measure, and what they are called."""
        splits = {name: getattr(dataset, name) for name in ("train", "val", "test")}
        name = self.split or "test"
        fixed = self.data is None or self.data in data.SETS or _is_packed(self.data)
        if self.split is None and not fixed:
            arrays = zip(*filter(_has_rows, splits.values()), strict=True)
            return Split(*map(np.concatenate, arrays)), "all"
        if not len(splits[name].labels):
            hint = ""
            if self.data is not None and self.data not in data.SETS:
                hint = ": it is not what the run was trained on; without --split all is measured"
            raise CommandError(f"--split: {dataset.name} has no examples in {name}{hint}.")
        return splits[name], name


def _is_packed(path: str) -> bool:
    return (Path(path) / data.PACKED).is_file()


def _has_rows(split: Split) -> bool:
    return len(split.labels) > 0


def _moved(config: dict[str, Any] | None, path: str) -> Dataset | None:
    """The run's own data, where they lie at another path now; None where these are others."""
    if config is None or not is_own(from_config(config["options"]).data):
        return None
    try:
        return begun_with(config, _stdout.say, name=path)
    except (CommandError, OSError, ValueError):  # they are read as others, or refused as such
        return None


def _read(path: str, trained: Trained) -> Dataset:
    """Other data, their examples read as those of the run were."""
    reading = trained.reading or {}
    whole: Any = {"val": 0, "test": 0}
    if _is_packed(path):
        return data.read(path)
    if Path(path).suffix.lower() == ".npz":
        return data.read(path, classes=trained.classes, task=trained.task, **whole)
    if reading.get("kind") == "images":
        return data.read(path, size=tuple(reading["size"]), mode=reading["mode"], **whole)
    if reading.get("kind") != "table":
        raise ValueError(f"{path}: the run was trained on arrays, expected a .npz file of them.")
    # The columns' categories are the run's, not those of the file.
    _, images = data.read_inputs(reading, path)
    features = [column["name"] for column in reading["columns"]]
    numbers = [column["name"] for column in reading["columns"] if column["kind"] == "number"]
    told = data.read(
        path,
        target=reading["target"],
        features=numbers[:1] or features,
        missing=reading["missing"],
        task=trained.task,
        **whole,
    )
    if len(images) != len(told.train.labels):
        raise ValueError(f"{path}: rows with missing values cannot be measured; leave them out.")
    return told._replace(train=Split(images, told.train.labels))


def _matched(trained: Trained, dataset: Dataset) -> np.ndarray | None:
    """The index of each class of other data among those of the net; None where they are alike."""
    if dataset.task != trained.task:
        raise ValueError(f"{dataset.name}: the task is {dataset.task}, expected {trained.task}.")
    if tuple(dataset.classes) == tuple(trained.classes):
        return None
    unknown = [name for name in dataset.classes if name not in trained.classes]
    if unknown or trained.task != "classification":
        raise ValueError(
            f"{dataset.name} has {_named(dataset.classes)}, expected those of the net, "
            f"{_named(trained.classes)}."
        )
    return np.array([trained.classes.index(name) for name in dataset.classes], np.int32)


def _named(classes: Sequence[Any]) -> str:
    shown = ", ".join(map(str, classes[:10]))
    return f"{len(classes)} classes ({shown}{', …' if len(classes) > 10 else ''})"


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
