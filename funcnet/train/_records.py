"""What a run writes down: progress, history, the run itself, and what was not finite."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from funcnet import _notebook, data
from funcnet.train._step import TrainState


class Progress(NamedTuple):
    """Where a run stands; loss and accuracy are means over the steps since the last report.

    The accuracy is NaN where labels are no classes. `epoch` and `step` count from 1 and are those
    just done; steps that were not finite are left out of the mean loss; `seconds_left` is for
    training alone, without the evaluations between epochs.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float
    seconds_left: float


class History(list):
    """Rows (dicts), one an epoch; `history["val_accuracy"]` gives a column.

    >>> history = History([{"epoch": 0, "loss": 2.3}, {"epoch": 1, "loss": 1.7}])
    >>> history["loss"], history[-1]["epoch"]
    ([2.3, 1.7], 1)
    """

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return [row[index] for row in self]
        return super().__getitem__(index)


class Run(NamedTuple):
    """A run, ended or not: what `fit` returns, and what `fit` can go on from.

    `best` is the whole `TrainState` of the best epoch, as `fit` is told to compare them (the first,
    where several are equal; without a validation split the final one), `final` the last one. `best`
    is what was evaluated, `final` what to go on from: their parameters differ where
    `evaluation_params` or schedule_free tells them apart. `losses` holds every step's loss, penalty
    included. `stopped` is None, "interrupted" (Ctrl-C), "terminated" (SIGTERM,
    SIGHUP), what `on_epoch` returned ("early stopping"), or says which step was not finite and
    where that began. `nonfinite` holds the numbers
    (from 1) of the steps whose loss or gradient was not finite, and which changed nothing.
    `seconds` is the time since training began, compiling and pauses not counted. `task` is that of
    the data set. `trained` is the net with the best state, ready for use; None in a run that has
    not ended.
    """

    history: History
    best: TrainState
    final: TrainState
    losses: np.ndarray
    preprocessing: data.Preprocessing
    stopped: str | None
    best_epoch: int
    nonfinite: tuple[int, ...] = ()
    seconds: float = 0.0
    task: data.Task = "classification"
    trained: Any = None

    def __repr__(self) -> str:
        said = [
            f"{name} {value:.4g}"
            for name, value in self.best_row.items()
            if name.startswith("val_") and value is not None
        ]
        best = f"best epoch {self.best_epoch}" + (f" with {', '.join(said)}" if said else "")
        ended = f", stopped: {self.stopped[:200]}" if self.stopped else ""
        return f"Run({int(self.final.step)} steps in {self.seconds:.1f} s, {best}{ended})"

    def _repr_html_(self) -> str:
        facts: dict[str, Any] = {
            "steps": f"{int(self.final.step):,} in {self.seconds:.1f} s",
            "best epoch": self.best_epoch,
        }
        for name, value in self.best_row.items():
            if name.startswith(("train_", "val_")) and value is not None:
                facts[name.replace("_", " ")] = f"{value:.4g}"
        if self.nonfinite:
            facts["steps skipped"] = len(self.nonfinite)
        if self.stopped:
            facts["stopped"] = self.stopped
        if self.trained is not None:
            facts["trained"] = self.trained
        return _notebook.table("Run", facts.items())

    @property
    def best_row(self) -> dict[str, Any]:
        """The history's row of the best epoch."""
        return next(row for row in self.history if row["epoch"] == self.best_epoch)

    @property
    def streak(self) -> int:
        """How many steps up to the last were not finite, without one between that was."""
        step, length = int(self.final.step), 0
        while length < len(self.nonfinite) and self.nonfinite[-1 - length] == step - length:
            length += 1
        return length


class Chunk(NamedTuple):
    """What the host learns after a chunk: the state, and what its own steps gave.

    `position` steps of epoch number `epoch` (from 0) are done.
    """

    train_state: Any
    epoch: int
    position: int
    streak: int
    losses: np.ndarray
    accuracy: float
    finite: np.ndarray
    seconds: float


class Meter:
    """Losses, times and rates of a run, as its chunks come in."""

    def __init__(self, rows_per_step: int, steps: int, epochs: int, step: int, run: Run | None):
        self.rows_per_step, self.steps, self.epochs = rows_per_step, steps, epochs
        self.losses: list[np.ndarray] = [] if run is None else [run.losses]
        self.nonfinite: list[int] = [] if run is None else list(run.nonfinite)
        self.first = step - (0 if run is None else len(run.losses))  # the step of losses[0]
        self.seconds = 0.0
        self._done, self._left = 0, max(steps * epochs - step, 0)
        self._epoch = 0, 0.0  # steps and seconds since its last row, of this process

    def add(self, chunk: Chunk) -> Progress:
        """Counts a chunk in, and says where the run stands."""
        last = chunk.epoch * self.steps + chunk.position
        first = last - len(chunk.losses) + 1
        self.losses.append(chunk.losses)
        self.nonfinite += (first + np.flatnonzero(~chunk.finite)).tolist()
        self.seconds += chunk.seconds
        self._done += len(chunk.losses)
        self._left -= len(chunk.losses)
        self._epoch = self._epoch[0] + len(chunk.losses), self._epoch[1] + chunk.seconds
        return Progress(
            epoch=chunk.epoch + 1,
            epochs=self.epochs,
            step=last,
            steps=self.epochs * self.steps,
            loss=_mean(chunk.losses),
            accuracy=chunk.accuracy,
            images_per_second=len(chunk.losses) * self.rows_per_step / chunk.seconds,
            seconds_left=self._left * self.seconds / self._done,
        )

    def all_losses(self) -> np.ndarray:
        """The loss of every step of the run."""
        return np.concatenate(self.losses) if self.losses else np.zeros(0, np.float32)

    def end_epoch(self, step: int) -> dict[str, Any]:
        """The mean loss of the epoch that ends with `step`, its odd steps, and the rate."""
        (count, seconds), self._epoch = self._epoch, (0, 0.0)
        return {
            "loss": _mean(self.all_losses()[-self.steps :]),
            "nonfinite": sum(number > step - self.steps for number in self.nonfinite),
            "images_per_second": count * self.rows_per_step / seconds if count else None,
        }

    def what_was_odd(self, step: int) -> str:
        """What was not finite at a step, which is counted from 0, and when that was."""
        value = self.all_losses()[step - self.first]
        what = "the gradient is not finite" if np.isfinite(value) else f"the loss is {value}"
        return f"{what} at step {step + 1} (epoch {step // self.steps + 1})"


def _mean(losses: np.ndarray) -> float:
    """The mean of what is finite, NaN where nothing is."""
    finite = losses[np.isfinite(losses)]
    return float(finite.mean(dtype=np.float64)) if len(finite) else float("nan")
