"""What a sweep returns."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import data, train
from funcnet.sweep._members import Member, Members, keyless


class Result(NamedTuple):
    """What `run` returns: arrays whose first axis is the members'.

    Members come row by row of `values`, and in each row seed by seed; so `losses.reshape(rows,
    seeds, -1)` has an axis for each.

    Attributes:
        values: each hyper-parameter's value, (members,).
        seeds: (members,).
        losses: every step's loss, penalty included, (members, steps); NaN once a member stopped.
        train_accuracy: (members, epochs + 1), before training and after each epoch.
        val_accuracy: the same on the validation split; NaN without one, and once a member stopped.
        best_val_accuracy: the highest of each member, (members,).
        best_epoch: the first epoch that reached it, (members,).
        stopped_at: where a member stopped, the first step (from 1) that was not finite; else 0.
        best: the `TrainState` of the best epoch, leaves (members, ...) as NumPy arrays; None where
            it was not kept.
        final: the same of the end, or from before the step that was not finite.
        preprocessing: what the images were preprocessed by, for `train.evaluate`.
        how: "vmap", "map" or "loop".
        step_seconds: the seconds for a step of one member that each way took when measured.
        seconds: what all of it took, compiling and measuring included.
    """

    values: dict[str, np.ndarray]
    seeds: np.ndarray
    losses: np.ndarray
    train_accuracy: np.ndarray
    val_accuracy: np.ndarray
    best_val_accuracy: np.ndarray
    best_epoch: np.ndarray
    stopped_at: np.ndarray
    best: train.TrainState | None
    final: train.TrainState | None
    preprocessing: data.Preprocessing
    how: str
    step_seconds: dict[str, float]
    seconds: float

    def member(self, index: int) -> Member:
        """One member, its states without the leading axis."""

        def of(states: train.TrainState | None) -> train.TrainState | None:
            return None if states is None else jax.tree.map(lambda leaf: leaf[index], states)

        return Member(
            {name: column[index].item() for name, column in self.values.items()},
            int(self.seeds[index]),
            self.losses[index],
            self.train_accuracy[index],
            self.val_accuracy[index],
            int(self.stopped_at[index]),
            of(self.best),
            of(self.final),
        )

    def ranking(self, over_seeds: bool = False) -> list[dict[str, Any]]:
        """The members as rows of a table, the best validation accuracy first.

        A row holds "member" (its index), the values, "seed", "best_val_accuracy", "best_epoch",
        "train_accuracy" at that epoch and "stopped_at". With `over_seeds` a row is a row of values:
        "best_val_accuracy" is the mean over its seeds, "spread" their standard deviation (ddof 1;
        0.0 for one), "seeds" how many there are and "stopped" how many did not reach the end.
        Equals stay in the members' order; members without a number come last.
        """
        rows: list[dict[str, Any]] = []
        if over_seeds:
            count = len(set(self.seeds.tolist()))
            for first in range(0, len(self.seeds), count):
                group = slice(first, first + count)
                found = self.best_val_accuracy[group]
                rows.append(
                    self.member(first).values
                    | {
                        "best_val_accuracy": float(found.mean()),
                        "spread": float(found.std(ddof=1)) if count > 1 else 0.0,
                        "seeds": count,
                        "stopped": int((self.stopped_at[group] > 0).sum()),
                    }
                )
        else:
            for index, epoch in enumerate(self.best_epoch.tolist()):
                rows.append(
                    {
                        "member": index,
                        **self.member(index).values,
                        "seed": int(self.seeds[index]),
                        "best_val_accuracy": float(self.best_val_accuracy[index]),
                        "best_epoch": epoch,
                        "train_accuracy": float(self.train_accuracy[index, epoch]),
                        "stopped_at": int(self.stopped_at[index]),
                    }
                )
        last = -math.inf
        return sorted(
            rows, key=lambda row: -(last if math.isnan(x := row["best_val_accuracy"]) else x)
        )

    def table(self, over_seeds: bool = False) -> str:
        """`ranking` as lines of text."""
        rows = self.ranking(over_seeds)
        cells = [list(rows[0]), *([_cell(v) for v in row.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
            for line in cells
        )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def of_members(runs: list[Member], members: Members, *rest: Any) -> Result:
    """The result of these runs; `rest` are its last fields."""

    def stacked(states: list[Any]) -> Any:
        if states[0] is None:
            return None
        keys = jnp.stack([state.key for state in states])
        leaves = [keyless(state) for state in states]
        return jax.tree.map(lambda *leaf: np.stack(leaf), *leaves)._replace(key=keys)

    return Result(
        members.columns,
        members.seeds,
        np.stack([run.losses for run in runs]),
        np.stack([run.train_accuracy for run in runs]),
        np.stack([run.val_accuracy for run in runs]),
        np.array([run.best_val_accuracy for run in runs]),
        np.array([run.best_epoch for run in runs]),
        np.array([run.stopped_at for run in runs]),
        stacked([run.best for run in runs]),
        stacked([run.final for run in runs]),
        *rest,
    )
