"""What a run is to do well at: its task's loss, its metrics, and which epoch is the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from jax import Array

from funcnet import data, losses
from funcnet.train import metrics as measures
from funcnet.train.metrics import Metric

_LOSSES: dict[data.Task, Callable[..., Array]] = {
    "classification": losses.softmax_cross_entropy,
    "regression": losses.mean_squared_error,
    "multilabel": losses.binary_cross_entropy,
}
_METRICS: dict[data.Task, dict[str, Metric]] = {
    "classification": {"accuracy": measures.accuracy},
    "regression": {"r2": measures.r2},
    "multilabel": {"accuracy": measures.accuracy, "exact_match": measures.exact_match},
}
Best = str | tuple[str, Literal["min", "max"]]


class Column(NamedTuple):
    """A column of the history by which epochs are compared, and whether its lowest is the best."""

    name: str
    lower: bool

    def prefers(self, new: float, old: float, by: float = 0.0) -> bool:
        """Whether `new` is better by more than `by`: NaN never is, and all is better than NaN."""
        if math.isnan(new) or math.isnan(old):
            return math.isnan(old) and not math.isnan(new)
        return new < old - by if self.lower else new > old + by


class Goal(NamedTuple):
    """What a run is to do well at."""

    task: data.Task
    loss: Callable[..., Array]
    metrics: dict[str, Metric]
    best: Column


def goal(
    function: str,
    task: Any,
    loss: Callable[..., Array] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    best: Best | None = None,
) -> Goal:
    """What is given, and the task's own for what is None; TypeError or ValueError where wrong."""
    if task not in get_args(data.Task):
        expected = ", ".join(get_args(data.Task))
        raise ValueError(f"{function}: the task is {task!r}, expected one of {expected}.")
    metrics = dict(_METRICS[task] if metrics is None else metrics)
    for name, metric in metrics.items():
        if not isinstance(name, str) or name == "loss" or not callable(metric):
            raise TypeError(
                f"{function}: metrics has {name!r}: {metric!r}, expected a name other than loss "
                "and a function metric(output, labels)."
            )
    names = [f"val_{name}" for name in (*metrics, "loss")]
    column = column_of(function, names[0] if best is None else best)
    if column.name not in names:
        raise ValueError(
            f"{function}: best is {column.name!r}, expected one of {', '.join(names)}."
        )
    return Goal(task, _LOSSES[task] if loss is None else loss, metrics, column)


def column_of(function: str, best: Any) -> Column:
    """The column that is meant, or ValueError."""
    name, way = best if isinstance(best, tuple) and len(best) == 2 else (best, None)
    if not isinstance(name, str) or not name.startswith("val_") or way not in (None, "min", "max"):
        raise ValueError(
            f'{function}: best is {best!r}, expected a column of the history such as "val_loss", '
            'or ("val_mine", "min") with min or max where the name does not tell which is better.'
        )
    return Column(name, measures.lower_is_better(name) if way is None else way == "min")


def task_of(dataset: Any) -> Any:
    """The task of a data set, classification where it says none."""
    return getattr(dataset, "task", "classification")
