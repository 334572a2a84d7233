"""A run's history where other programs read it: tables and TensorBoard."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from funcnet._files import replacing


def csv_log(path: str | os.PathLike[str]) -> Callable[[dict[str, Any]], None]:
    """Makes an `on_epoch` for `fit` that writes each row of the history to a file of CSV.

    The first line has the columns' names; what is None is empty. Each row is in the file when the
    next epoch begins. A run that goes on by `resume` goes on in the file that is there, whose rows
    from its first new epoch on are taken away; a new one overwrites nothing.

    Args:
      path: the file.

    Returns:
      A function of a row, which raises FileExistsError where a new run would write into a file
      that has rows already, and ValueError where a run would go on in a file that is no history.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "history.csv")
    >>> log = csv_log(path)
    >>> log({"epoch": 0, "loss": 2.5, "val_loss": None})
    >>> path.read_text().splitlines()
    ['epoch,loss,val_loss', '0,2.5,']
    """
    path, begun = Path(path), False

    def on_epoch(row: dict[str, Any]) -> None:
        nonlocal begun
        if jax.process_index() > 0:  # the first writes for all
            return
        has_rows = path.exists() and path.stat().st_size > 0
        if has_rows and row["epoch"] == 0:
            raise FileExistsError(
                f"csv_log: {path} has rows of another run, and nothing is overwritten; name "
                "another file, or take that one away."
            )
        if has_rows and not begun:
            _cut(path, row["epoch"])
        begun = True
        with open(path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if not has_rows:
                writer.writeheader()
            writer.writerow(row)

    return on_epoch


def _cut(path: Path, epoch: int) -> None:
    """Takes the rows from an epoch on away, which a run wrote after its last checkpoint."""
    with open(path, newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    if "epoch" not in head:
        raise ValueError(f"csv_log: {path} has no column epoch, expected a table of a run's own.")
    column = head.index("epoch")
    kept = [row for row in rows if len(row) == len(head) and float(row[column]) < epoch]
    if len(kept) < len(rows):
        text = io.StringIO(newline="")
        csv.writer(text).writerows([head, *kept])
        with replacing(path) as file:
            file.write(text.getvalue().encode())


def tensorboard_log(folder: str | os.PathLike[str]) -> Callable[[dict[str, Any]], None]:
    """Makes an `on_epoch` for `fit` that writes each row of the history for TensorBoard.

    Every number of a row becomes a scalar of its column's name at the row's step, "train_loss" as
    "train/loss" and "val_loss" as "val/loss", so that the columns of a split stand together.
    `tensorboard --logdir FOLDER` shows it, as the run goes. A run that goes on by `resume` goes on
    in its folder: what was written there of later steps is shown no more.

    Args:
      folder: where to write; each run into a folder of its own.

    Returns:
      A function of a row.

    Raises:
      ImportError: tensorboard is not installed: `pip install "funcnet[tensorboard]"`.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise ImportError(
            'tensorboard_log: tensorboard is not installed: pip install "funcnet[tensorboard]".'
        ) from error

    writer: Any = None

    def on_epoch(row: dict[str, Any]) -> None:
        nonlocal writer
        if jax.process_index() > 0:
            return
        if writer is None:  # no folder before there is a row
            writer = EventFileWriter(os.fspath(folder))
            start = SessionLog(status=SessionLog.START)  # which hides what there is of later steps
            writer.add_event(Event(wall_time=time.time(), step=row["step"], session_log=start))
        numbers = {
            "/".join(name.split("_", 1)) if name.startswith(("train_", "val_")) else name: value
            for name, value in row.items()
            if value is not None and name not in ("epoch", "step")
        }
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
        event = Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values))
        writer.add_event(event)
        writer.flush()

    return on_epoch
