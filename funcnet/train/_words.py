"""A row of the history in words."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

SHARES = ("accuracy", "exact_match")
"""Metrics that are shares of right answers, told in percent."""


def things(input_shape: tuple[int, ...]) -> str:
    """What examples of a shape are called.

    >>> things((8, 8, 1)), things((13,))
    ('images', 'examples')
    """
    return "images" if len(input_shape) == 3 else "examples"


def epoch_line(row: dict[str, Any], epochs: int, things: str = "images") -> str:
    """A row of the history as a line of print, an accuracy in percent.

    >>> row = {"epoch": 3, "step": 60, "loss": 0.25, "train_accuracy": 0.9, "val_accuracy": 0.875}
    >>> epoch_line(row | {"seconds": 1.5, "images_per_second": None}, epochs=10)
    'epoch  3/10  step 60  loss 0.2500  train 90.00 %  val 87.50 %  1.5 s'
    """
    metric = next((name[6:] for name in row if name.startswith("train_")), "loss")
    called = "" if metric == "accuracy" else f"{metric} "
    splits = [split for split in ("train", "val") if f"{split}_{metric}" in row]
    rate = row["images_per_second"]
    parts = [
        f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}",
        f"step {row['step']}",
        f"loss {number(row['loss'])}",
        *(f"{split} {called}{measured(metric, row[f'{split}_{metric}'])}" for split in splits),
        *([f"{rate:,.0f} {things}/s"] if rate else []),
        f"{row['seconds']:.1f} s",
        *([f"{row['nonfinite']} steps skipped"] if row.get("nonfinite") else []),
    ]
    return "  ".join(parts)


def called(name: str, metrics: Collection[str]) -> str:
    """A metric among others in words: of several labels an accuracy is that of the labels.

    >>> called("accuracy", ["accuracy", "exact_match"]), called("accuracy", ["accuracy"])
    ('accuracy of labels', 'accuracy')
    """
    if "exact_match" not in metrics:
        return name
    words = {"accuracy": "accuracy of labels", "exact_match": "exact match of all labels"}
    return words.get(name, name)


def measured(metric: str, value: float | None) -> str:
    """A metric's value in words, a share of right answers in percent."""
    if metric not in SHARES or value is None:
        return number(value)
    return f"{100 * value:.2f} %"


def number(value: float | None) -> str:
    """A number in words."""
    return "-" if value is None else f"{value:.4f}"
