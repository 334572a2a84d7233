"""Ending a run that no longer gets better."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from funcnet import _validate
from funcnet.train._tasks import Best, column_of

EARLY_STOPPING = "early stopping"
"""What `Run.stopped` is where `early_stopping` ended the run."""


def early_stopping(
    patience: int, best: Best = "val_loss", min_delta: int | float = 0.0
) -> Callable[[dict[str, Any]], str | None]:
    r"""Makes an `on_epoch` for `fit` that ends a run which no longer gets better.

    It ends with the first row after `patience` others that were not better than the best by more
    than `min_delta`; the row before training counts as one to be better than, and NaN never is. The
    run's best state is that of its best epoch, whatever came after. Each run begins anew with its
    row 0, and a run that goes on after this has ended it is given `patience` rows again; where one
    was interrupted, let it see the rows that are there: `for row in run.history: stop(row)`.

    Args:
      patience: how many epochs in a row may be no better.
      best: the column to go by, as `fit` takes it.
      min_delta: how much better is better.

    Returns:
      A function of a row of the history, which returns `EARLY_STOPPING` where the run is to end.

    Raises:
      TypeError: `patience` is not an int.
      ValueError: `patience` is below 1, `best` no column, or `min_delta` negative; of the function,
        the rows have no such number.

    Source: Prechelt 1998, "Early Stopping - But When?".

    >>> stop = early_stopping(2)
    >>> [stop({"epoch": i, "val_loss": loss}) for i, loss in enumerate([2.0, 1.0, 1.5, 1.0])]
    [None, None, None, 'early stopping']
    """
    patience = _validate.count("early_stopping", "patience", patience)
    column = column_of("early_stopping", best)
    min_delta = _validate.number("early_stopping", "min_delta", min_delta, low=0)
    standing, rows_since = math.nan, 0

    def on_epoch(row: dict[str, Any]) -> str | None:
        nonlocal standing, rows_since
        value = row.get(column.name)
        if value is None:
            raise ValueError(
                f"early_stopping: a row of the history has no {column.name}, expected a validation "
                f"split and one of {', '.join(name for name in row if name.startswith('val_'))}."
            )
        if row["epoch"] == 0:
            standing, rows_since = math.nan, 0
        if column.prefers(value, standing, min_delta):
            standing, rows_since = value, 0
        elif row["epoch"] > 0:
            rows_since += 1
        if rows_since < patience:
            return None
        rows_since = 0
        return EARLY_STOPPING

    return on_epoch
