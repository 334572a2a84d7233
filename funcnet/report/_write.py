"""A run's folder read, measured on the data, and written as a page."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from funcnet import checkpoint, data, plots
from funcnet._files import read_object, replacing
from funcnet.nets import Net
from funcnet.report._measures import first_weights, measure, plain
from funcnet.report._page import Page, html
from funcnet.train import History, Trained
from funcnet.train.engine import SHARES, called

_NAME = "report.html"


class Written(NamedTuple):
    """What `write` returns.

    Attributes:
      path: the page.
      numbers: what `report.json` beside it holds.
      left_out: what the page does not tell, and why.
    """

    path: Path
    numbers: dict[str, Any]
    left_out: list[str]


def write(
    folder: str | os.PathLike[str],
    dataset: data.Dataset | None = None,
    path: str | os.PathLike[str] | None = None,
    *,
    net: Net | None = None,
    why: str = "no data set was given",
) -> Written:
    r"""Writes a page on a run, and its numbers as JSON beside it.

    Of the folder there are the result, the command, the curves and the first weights; of the data
    the confusions, the worst mistakes, and the sizes of activations and gradients: on the test
    split where the run measured that, else on the validation split. What the folder does not hold
    is left out, and the page says so.

    Args:
      folder: the folder of a run of `funcnet train`, ended or not, or of `checkpoint.save_trained`.
      dataset: the data that it was trained on; None to do without.
      path: the page; by default `report.html` in the folder. The numbers lie beside it, in a file
        of the same name that ends in `.json`.
      net: the net itself, where it is not made of the functions of `nets` alone.
      why: said of the data, where there are none.

    Returns:
      The path of the page, its numbers and what is left out.

    Raises:
      CheckpointError: the trained net is damaged.
      FileNotFoundError: there is no run in the folder.
      ImportError: matplotlib is not installed.
      OSError: the page cannot be written.
      ValueError: another file of the folder is damaged; the data are of another shape.
    """
    folder = Path(folder)
    path = folder / _NAME if path is None else Path(path)
    config = _object(folder / "config.json", _CONFIG)
    result = _object(folder / "result.json", _RESULT)
    history, losses = History(), None
    if (folder / "history.jsonl").is_file():
        history, losses = plots.load_run(folder)
    left_out: list[str] = []
    trained = _trained(folder, net, left_out)
    if not config and not history and not (folder / "model.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no run: there is no config.json and no model.json."
        )
    name, split = _split(dataset, result)
    numbers: dict[str, Any] = {"result": result, "split": None}
    if trained is not None:
        numbers["task"] = trained.task
        numbers["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(trained.params))
    if trained is not None and split is not None:
        numbers["split"] = name
        numbers |= measure(trained, split)
        if trained.loss is None:
            left_out.append("the sizes of gradients, for the loss is none of funcnet.losses.")
    elif trained is not None:
        left_out.append(f"answers, mistakes and the sizes of activations: {why}.")
    page = Page(
        title=_title(config, trained, dataset),
        lead=_lead(config, result, numbers, history),
        left_out=left_out,
        facts=_facts(result, numbers),
        config=config,
        history=history,
        losses=losses,
        best_epoch=result.get("best_epoch"),
        trained=trained,
        weights=None if trained is None else first_weights(trained),
        split=split,
        split_name=name,
        full_scale=255.0 if dataset is None else dataset.full_scale,
        measured=numbers if numbers["split"] else {},
    )
    written = html(page).encode()
    with replacing(path) as file:
        file.write(written)
    with replacing(path.with_suffix(".json")) as file:
        file.write((json.dumps(plain(numbers), allow_nan=False) + "\n").encode())
    return Written(path, numbers, left_out)


# --- The folder


# The types of what a file holds, by name, and of the rest.
_CONFIG = {"options": dict, "versions": dict, "device": dict, "resumed": list}, object
_RESULT = {"stopped": str | None}, float | int | None


def _object(path: Path, kinds: Any) -> dict[str, Any]:
    """What a file of the run says, and nothing where it is not there."""
    found = read_object(path) if path.is_file() else {}
    own, rest = kinds
    for name, value in found.items():
        if not isinstance(value, own.get(name, rest)):
            raise ValueError(f"{path} is damaged: {name} is a {type(value).__name__}.")
    return found


def _trained(folder: Path, net: Net | None, left_out: list[str]) -> Trained | None:
    try:
        return checkpoint.load_trained(folder, net)
    except checkpoint.CheckpointError:
        raise
    except FileNotFoundError:
        left_out.append("the net, for there is none in the folder: a run writes it when it ends.")
    except ValueError as error:
        left_out.append(f"the net: {error}")
    return None


def _split(dataset: data.Dataset | None, result: dict[str, Any]) -> tuple[str, Any]:
    """The split that is told of, and its name."""
    if dataset is None:
        return "", None
    tested = any(key.startswith("test_") and value is not None for key, value in result.items())
    if tested or dataset.val is None or not len(dataset.val.labels):
        return "test", dataset.test
    return "validation", dataset.val


# --- Words


def _title(config: dict[str, Any], trained: Trained | None, dataset: data.Dataset | None) -> str:
    options = config.get("options") or {}
    names = [(options.get(group) or {}).get("name") for group in ("data", "net")]
    if names[0]:
        names[0] = Path(names[0]).name  # of one's own data
    if not any(names):
        names = [dataset and dataset.name, trained and trained.net.kind]
    return ", ".join(str(name) for name in names if name) or "a run"


def _lead(
    config: dict[str, Any], result: dict[str, Any], numbers: dict[str, Any], history: Any
) -> str:
    """The result in a sentence, or two."""
    aside = []
    if result.get("best_epoch") is not None:
        aside.append(f"epoch {result['best_epoch']} of {result.get('epochs')}")
    if result.get("seconds"):
        aside.append(_clock(result["seconds"]))
    said = _best(result, numbers, history) + (f" ({', '.join(aside)})" if aside else "") + "."
    if result.get("stopped"):
        return f"{said} The run was stopped: {result['stopped']}."
    if config and not result:
        done = max((row.get("epoch", 0) for row in history), default=0)
        return f"{said} The run has not ended; its history has {done} epochs."
    return said


def _best(result: dict[str, Any], numbers: dict[str, Any], history: Any) -> str:
    name, of = numbers["split"], f"the {numbers.get('rows', 0):,} {numbers['split']} examples"
    if numbers.get("r2") is not None:
        return f"R² is {numbers['r2']:.4f} on {of}"
    if numbers.get("accuracy") is not None and numbers["task"] == "multilabel":
        said = f"{100 * numbers['accuracy']:.2f} % of the labels of {of} are right"
        whole = numbers.get("exact_match")
        return said + (
            "" if whole is None else f"; all labels of an example in {100 * whole:.2f} %"
        )
    several = numbers.get("task") == "multilabel" or any(
        key.endswith("_exact_match") for row in (result, *history) for key in row
    )
    told = [(numbers.get("accuracy"), of)] if name else []
    told += [
        (result.get("test_accuracy"), "the test examples"),
        (result.get("val_accuracy"), "the validation examples"),
    ]
    logged = [row["val_accuracy"] for row in history if row.get("val_accuracy") is not None]
    told.append((max(logged, default=None), "the validation examples, at best,"))
    for accuracy, examples in told:
        if accuracy is not None:
            right = "right" if several else "classified correctly"
            labels = "the labels of " * several
            return f"{100 * accuracy:.2f} % of {labels}{examples} are {right}"
    return "Nothing was measured"


_LABELS = {"val": "validation", "r2": "R²", "mae": "mean absolute error"}
_NAMES = {
    "seconds": "seconds",
    "images_per_second": "examples a second, in the steps",
    "steps": "steps",
    "nonfinite": "steps skipped",
}


def _facts(result: dict[str, Any], numbers: dict[str, Any]) -> list[tuple[str, str]]:
    """The small table."""
    rows = []
    told = {**_measured("test", result), **_measured("val", result)}
    if name := numbers["split"]:
        prefix = {"validation": "val"}.get(name, name)
        told |= {f"{prefix}_{key}": n for key, n in numbers.items() if isinstance(n, float)}
    metrics = {key.partition("_")[2] for key in told}
    for key, value in sorted(told.items(), key=lambda item: not item[0].startswith("test_")):
        split, _, metric = key.partition("_")
        words = _LABELS.get(metric, called(metric, metrics)).replace("_", " ")
        label = f"{_LABELS.get(split, split)} {words}"
        rows.append((label, _number(metric, value)))
    if result.get("best_epoch") is not None:
        rows.append(("best epoch", f"{result['best_epoch']} of {result.get('epochs')}"))
    if "parameters" in numbers:
        rows.append(("parameters", f"{numbers['parameters']:,}"))
    for key, label in _NAMES.items():
        if result.get(key):
            rows.append(
                (label, f"{result[key]:,.1f}" if key == "seconds" else f"{result[key]:,.0f}")
            )
    return rows


def _measured(split: str, result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in result.items()
        if key.startswith(f"{split}_") and value is not None
    }


def _number(metric: str, value: Any) -> str:
    if value is None:
        return "–"
    if metric in SHARES:
        return f"{100 * value:.2f} %"
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.5g}"


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} seconds"
    return f"{seconds / 60:.1f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
