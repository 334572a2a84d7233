r"""Sweeps: many runs with different hyper-parameters and seeds, compiled once.

`run` trains a member for each row of values and each seed. Hyper-parameters are traced, so that
one program serves all members, and each member is what `train.fit` makes of the same values and
seed. The program goes through the members in one of three ways, which a short measurement on the
machine decides between: "loop" (one after another, a call each), "map" (`lax.map`, one after
another in one program) or "vmap" (all at once).

On two cores with AVX-512, a step of one of eight six-layer nets of 100 units (batches of 100 images
of 32×32×3, Adam, float32) took 1.25 ms by "loop", 1.70 by "map" and 1.82 by "vmap"; of 50 images of
8×8 it took 0.20, 0.21 and 0.25 ms. No accelerator has been measured yet.

>>> from funcnet import data, nets, optimizers, sweep
>>> dataset = data.synthetic(sizes=(200, 50, 50), classes=3)
>>> def make(learning_rate, weight_scale):
...     net = nets.two_layer_net(20, classes=3, weight_scale=weight_scale)
...     return sweep.Trial(net, optimizers.adam(learning_rate), reg=1e-3)
>>> values = sweep.grid(learning_rate=[1e-9, 1e-2], weight_scale=[0.1])
>>> result = sweep.run(make, dataset, values, seeds=(0, 1), epochs=2, batch_size=20, how="loop")
>>> result.val_accuracy.shape  # members, and epochs with the state before training
(4, 3)
>>> [row["learning_rate"] for row in result.ranking()]
[0.01, 0.01, 1e-09, 1e-09]
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from funcnet import _validate, data, train
from funcnet._homes import at_home
from funcnet.sweep._folder import digest, opened
from funcnet.sweep._members import (
    Member,
    Members,
    Progress,
    Report,
    Trainer,
    as_saved,
    from_saved,
    keyless,
    template,
)
from funcnet.sweep._programs import HOWS, How, Plan, Programs, Traced, Trial, trace
from funcnet.train import engine
from funcnet.train.engine import EVALUATION_ROWS

__all__ = ["HOWS", "Member", "Progress", "Result", "Trial", "grid", "log_uniform", "run"]

Keep = Literal["best", "final"]
_WORTH_MEASURING_SECONDS = 10.0


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


def grid(**columns: ArrayLike | Sequence[Any]) -> dict[str, np.ndarray]:
    r"""Every combination of some values, as columns for `run`: $\prod_i k_i$ rows.

    Args:
      **columns: hyper-parameter -> its $k_i$ values; the last one changes fastest.

    Returns:
      Columns of one length, a row for each combination.

    >>> values = grid(learning_rate=[1e-3, 1e-2], reg=[0.0, 0.1, 1.0])
    >>> values["learning_rate"], values["reg"]
    (array([0.001, 0.001, 0.001, 0.01 , 0.01 , 0.01 ]), array([0. , 0.1, 1. , 0. , 0.1, 1. ]))
    """
    arrays = [np.atleast_1d(np.asarray(column)) for column in columns.values()]
    product = [column.ravel() for column in np.meshgrid(*arrays, indexing="ij")]
    return dict(zip(columns, product, strict=True))


def log_uniform(
    rng: np.random.Generator, low: int | float, high: int | float, size: int
) -> np.ndarray:
    r"""Draws $e^u$ with $u$ uniform in $[\ln \text{low}, \ln \text{high})$: as many in each decade.

    `rng.uniform(low, high, size)` draws evenly where there are no decades.

    Args:
      rng: a generator, such as `np.random.default_rng(0)`.
      low: the lowest value, above 0.
      high: the end of the interval.
      size: the number of values.

    Returns:
      The values, (size,).

    Raises:
      ValueError: not 0 < low <= high.

    Source: Bergstra and Bengio 2012, https://jmlr.org/papers/v13/bergstra12a.html; courses.md row
    0-19.

    >>> values = log_uniform(np.random.default_rng(0), 1e-4, 1e-1, 3)
    >>> [f"{value:.5f}" for value in values]
    ['0.00814', '0.00064', '0.00013']
    """
    if not 0 < low <= high:
        raise ValueError(f"log_uniform: low is {low} and high is {high}, expected 0 < low <= high.")
    return np.exp(rng.uniform(math.log(low), math.log(high), size))


def run(
    make: Callable[..., Trial],
    dataset: data.Dataset,
    values: Mapping[str, ArrayLike | Sequence[Any]] | None = None,
    seeds: Sequence[int] = (0,),
    epochs: int = 10,
    batch_size: int = 100,
    *,
    how: Literal["measure"] | How = "measure",
    folder: str | os.PathLike[str] | None = None,
    keep: Sequence[Keep] = ("best", "final"),
    members_at_once: int | None = None,
    sampling: engine.Sampling = "permutation",
    preprocessing: str | data.Preprocessing | None = "standardised",
    augment: Callable[[Array, Array], Array] | None = None,
    train_accuracy_rows: int | None = 1000,
    dtype: Any = jnp.float32,
    max_nonfinite: int = 3,
    evaluation_batch_size: int = EVALUATION_ROWS,
    on_progress: Callable[[Progress], Any] | None = None,
    on_member: Callable[[int, Member], Any] | None = None,
) -> Result:
    r"""Trains a member for each row of values and each seed, all by one program.

    A member is the run of `train.fit` with its values and its seed: the same initial parameters,
    batches and keys, the same accuracies, the same best epoch. In float64 it is equal to
    $10^{-12}$. In float32 on a CPU, "map" and "loop" gave the same parameters to the bit; "vmap",
    whose products are summed in another order, gave 2e-6 of the largest after 100 steps (a net of
    three layers with batch norm, momentum).
    A member whose steps are not finite stops as `fit` does, and the others never notice.

    `make` is called under trace, with a scalar array for each column: whatever it computes with
    these, `jnp` computes for every member. What has to be known before there is a program (sizes of
    layers, a rate of dropout, label smoothing) cannot be a column; it is written into `make`, in a
    sweep for each.

    With a folder, members are saved as they finish, and a run with the same arguments takes up
    those that are there.

    Args:
      make: `make(**row) -> Trial(net, optimizer, ...)`, by the names of the columns.
      dataset: as `train.fit` takes it.
      values: columns of numbers, of one length: a row is a member. `grid` makes all combinations.
        None for no hyper-parameter: the members differ by their seeds.
      seeds: each row is run with each of them; ints of 0 to 2^32 - 1.
      epochs: the number of passes.
      batch_size: rows in a step of one member; with sampling "full" it has no meaning.
      how: "vmap", "map", "loop", or "measure" to take the fastest of a second's measurement. That
        compiles all three; so "loop" is taken at once where it needs less than ten seconds for all,
        and for convolutions that a CPU runs badly inside a program's loop. With keys that are not
        `threefry2x32` it is "loop" alone: under `jax.vmap` they draw other numbers.
      folder: where members are saved, a new or empty folder, or this sweep's own; None for nowhere.
      keep: which states to keep, in the folder and the result; () for large sweeps.
      members_at_once: how many members "vmap" and "map" hold in memory and finish together; None
        for all.
      sampling: "permutation", "replacement" or "full": see `train.batch_order`.
      preprocessing: a kind, fitted on the training split, or a `data.Preprocessing`.
      augment: `augment(key, images)`, on images as they are stored, before preprocessing.
      train_accuracy_rows: rows for the training accuracy; None for all of them.
      dtype: the dtype of parameters and activations.
      max_nonfinite: so many steps in a row that are not finite end a member.
      evaluation_batch_size: rows at a time in evaluation.
      on_progress: called with a `Progress`, four times a second or after each step.
      on_member: called with the index and the `Member` as it finishes, or is found in the folder.

    Returns:
      The `Result`.

    Raises:
      TypeError: an argument is of the wrong kind; `make` does not take the columns, or needs to
        know one of them before there is a program.
      ValueError: columns of different lengths, values that are not numbers, a folder of another
        sweep, "map" or "vmap" with keys that are not `threefry2x32`, or what `train.fit` refuses.
        All before the first step.
      LockedError: another process has the folder.

    Source: courses.md rows 0-19, 1-17 and 2-20.

    >>> from funcnet import data, nets, optimizers, sweep
    >>> dataset = data.synthetic(sizes=(200, 50, 50), classes=3)
    >>> def make(learning_rate):
    ...     return sweep.Trial(nets.two_layer_net(20, 3), optimizers.sgd(learning_rate))
    >>> result = sweep.run(make, dataset, {"learning_rate": [0.1, 1e30]}, batch_size=10, how="map")
    >>> result.stopped_at
    array([0, 2])
    """
    began = time.perf_counter()
    members = _members(make, {} if values is None else dict(values), seeds)
    dataset = engine.check_arguments(
        dataset,
        sampling,
        epochs=epochs,
        batch_size=batch_size,
        train_accuracy_rows=train_accuracy_rows,
        max_nonfinite=max_nonfinite,
        evaluation_batch_size=evaluation_batch_size,
    )
    if members_at_once is not None:
        _validate.count("sweep.run", "members_at_once", members_at_once)
    for name, value, allowed in (
        ("how", [how], ("measure", *HOWS)),
        ("keep", keep, ("best", "final")),
    ):
        if not set(value) <= set(allowed):
            raise ValueError(f"sweep.run: {name} is {value!r}, expected of {allowed}.")
    impl = str(jax.random.key_impl(jax.random.key(0)))
    if impl != "threefry2x32":
        if how in ("map", "vmap"):
            raise ValueError(
                f"sweep.run: how is {how!r} and jax_default_prng_impl {impl!r}, whose keys draw "
                'other numbers under jax.vmap than each by itself; expected how="loop", or '
                '"threefry2x32".'
            )
        how = "loop"
    preprocessing = engine.fitted(preprocessing, dataset)

    n, full = len(dataset.train.labels), sampling == "full"
    plan = Plan(
        make,
        tuple(dataset.train.images.shape[1:]),
        dtype,
        augment,
        n,
        n if full else batch_size,
        1 if full else train.steps_per_epoch(n, batch_size),
        sampling,
        max_nonfinite,
    )
    kept = tuple(sorted(set(keep)))
    trainer = Trainer(
        plan, dataset, preprocessing, epochs, kept, train_accuracy_rows, evaluation_batch_size
    )
    traced = _traced(plan, members, trainer, engine.class_count(dataset))

    finished: dict[int, Member] = {}

    def finish(index: int, member: Member) -> None:
        finished[index] = member
        if on_member is not None:
            on_member(index, member)

    with contextlib.ExitStack() as stack:
        saved = None
        if folder is not None:
            config = {
                "values": {
                    k: column[:: len(seeds)].tolist() for k, column in members.columns.items()
                },
                "seeds": [int(seed) for seed in seeds],
                "epochs": epochs,
                "batch_size": plan.batch_size,
                "sampling": sampling,
                "max_nonfinite": max_nonfinite,
                "dtype": jnp.dtype(dtype).name,
                "train_accuracy_rows": train_accuracy_rows,
                "evaluation_batch_size": evaluation_batch_size,
                "keep": kept,
                "data": digest(*_arrays(dataset), *preprocessing),
                "program": digest(*traced.program),
            }
            saved = stack.enter_context(opened(folder, config))
            for index in range(len(members.seeds)):
                found = saved.load(index, template(traced.training, epochs, kept), from_saved)
                if found is not None:
                    finish(index, found)

        todo = [index for index in range(len(members.seeds)) if index not in finished]
        at_once = min(members_at_once or len(todo), len(todo))
        way, programs, step_seconds = _chosen(how, traced, trainer, members.of(todo), at_once)
        report = Report(plan, epochs, len(members.seeds), len(finished), on_progress)
        at_once = 1 if way == "loop" else at_once
        for first in range(0, len(todo), max(at_once, 1)):
            group = todo[first : first + at_once]
            # The last group is filled up by its first member: one program for groups of any size.
            filled = members.of(group + group[:1] * (at_once - len(group)))
            done = trainer.train(programs, filled, len(group), report)
            for index, member in zip(group, done, strict=True):
                if saved is not None:
                    saved.save(index, *as_saved(member))
                finish(index, member)
            report.finished += len(group)
    runs = [finished[index] for index in range(len(members.seeds))]
    return _result(runs, members, preprocessing, way, step_seconds, time.perf_counter() - began)


def _members(make: Callable[..., Trial], values: dict[str, Any], seeds: Any) -> Members:
    """Each row of values with each seed, or TypeError or ValueError."""
    columns: dict[str, np.ndarray] = {}
    for name, value in values.items():
        column = np.asarray(value)
        if column.ndim != 1 or not column.size or column.dtype.kind not in "fiu":
            raise ValueError(
                f"sweep.run: values[{name!r}] is {value!r}, expected a list of numbers, one for "
                "each row; what is no number is written into make, in a sweep for each."
            )
        columns[name] = column.astype(np.float64 if column.dtype.kind == "f" else np.int64)
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(
            f"sweep.run: columns have different lengths ({said}), expected a value for each row; "
            "sweep.grid makes rows of every combination."
        )
    try:
        inspect.signature(make).bind(**columns)
    except TypeError as error:
        raise TypeError(
            f"sweep.run: make does not take the columns {list(columns)} ({error}); expected a "
            "function with a parameter for each."
        ) from None
    if not isinstance(seeds, Sequence | np.ndarray) or not len(seeds):
        raise TypeError(f"sweep.run: seeds is {seeds!r}, expected a sequence such as (0, 1, 2).")
    given = [_validate.seed("sweep.run", f"seeds[{i}]", seed) for i, seed in enumerate(seeds)]
    if len(set(given)) < len(given):
        raise ValueError(f"sweep.run: seeds are {given}, expected each one once.")
    rows = max(lengths.values(), default=1)
    each = {name: np.repeat(column, len(given)) for name, column in columns.items()}
    return Members(each, np.tile(np.array(given), rows))


def _traced(plan: Plan, members: Members, trainer: Trainer, classes: int) -> Traced:
    """Traces a member, or says why it cannot be."""
    values = members.row(0)
    inputs = trainer.split, trainer.preprocessing
    try:
        traced = trace(plan, values, *inputs)
    except TypeError as error:
        for name, number in values.items():
            rest = {other: value for other, value in values.items() if other != name}
            known = plan._replace(make=partial(plan.make, **{name: number}))
            try:
                trace(known, rest, *inputs)
            except TypeError:
                continue
            raise TypeError(
                f"sweep.run: {name} has to be known before there is a program, as sizes and what "
                "is static have to, and cannot be a column of values; write it into make, in a "
                f"sweep for each {name}."
            ) from error
        raise
    if traced.output_shape != (2, classes):
        raise ValueError(
            f"sweep.run: the net turns 2 examples of shape {plan.input_shape} into "
            f"{traced.output_shape}, but the data have {classes} classes; expected (2, {classes}). "
            f"End the net with nets.affine({classes})."
        )
    return traced


def _chosen(
    how: Any, traced: Traced, trainer: Trainer, members: Members, at_once: int
) -> tuple[How, Programs, dict[str, float]]:
    """The way through these members, its programs, and the seconds a step of each way measured."""
    plan, measured = trainer.plan, how == "measure"
    first: How = "loop" if measured else how
    tried = {first: Programs(plan, first, looped=first != "loop" or not traced.loops_badly)}
    steps = trainer.epochs * plan.steps * len(members.seeds)
    if not measured or traced.loops_badly or not steps or len(members.seeds) == 1:
        return first, tried[first], {}
    seconds: dict[str, float] = {}
    for way in HOWS:
        tried.setdefault(way, Programs(plan, way))
        some = members.of(list(range(1 if way == "loop" else at_once)))
        seconds[way] = trainer.step_seconds(tried[way], some)
        if seconds["loop"] * steps < _WORTH_MEASURING_SECONDS:
            break
    fastest = min(HOWS, key=lambda way: seconds.get(way, math.inf))
    return fastest, tried[fastest], seconds


def _arrays(dataset: data.Dataset) -> Iterator[Any]:
    for split in (dataset.train, dataset.val):
        if engine.has_rows(split):
            yield from split


def _result(runs: list[Member], members: Members, *rest: Any) -> Result:
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


at_home(globals())
