"""`run`: a sweep from its arguments to its result."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

from funcnet import _validate, data
from funcnet.sweep._folder import Folder, digest, opened
from funcnet.sweep._members import (
    Member,
    Members,
    Progress,
    Report,
    Trainer,
    as_saved,
    from_saved,
    template,
)
from funcnet.sweep._programs import HOWS, How, Plan, Programs, Traced, Trial, trace
from funcnet.sweep._result import Result, of_members
from funcnet.sweep._values import members_of
from funcnet.train import engine
from funcnet.train.engine import EVALUATION_ROWS

Keep = Literal["best", "final"]
KEEP = get_args(Keep)
_WORTH_MEASURING_SECONDS = 10.0


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
    mesh: Mesh | None = None,
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

    Over the devices of several processes each of them calls `run` with the same arguments, and has
    the same result; process 0 writes, into a folder that all reach. A signal to one ends all of
    them after the same step.

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
      mesh: devices that share the members, each with as many as the others, whole; None for one
        device. With "loop" each has one at a time.

    Returns:
      The `Result`.

    Raises:
      TypeError: an argument is of the wrong kind; `make` does not take the columns, or needs to
        know one of them before there is a program.
      ValueError: columns of different lengths, values that are not numbers, a folder of another
        sweep, "map" or "vmap" with keys that are not `threefry2x32`, or what `train.fit` refuses.
        All before the first step.
      LockedError: another process has the folder.
      PeerError: another process has failed, does something else, or finds other members there.

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
    members = members_of(make, {} if values is None else dict(values), seeds)
    setting = engine.checked(
        dataset,
        sampling,
        augment,
        epochs,
        batch_size,
        train_accuracy_rows,
        evaluation_batch_size,
        max_nonfinite,
        ignore_index=_ignored_label(make, members.row(0)),
    ).in_memory()
    if setting.dataset.task != "classification":
        raise ValueError(
            f"sweep.run: the data set's task is {setting.dataset.task}, expected classification, "
            "whose accuracy a sweep compares; for other tasks call train.fit for each member."
        )
    if members_at_once is not None:
        _validate.count("sweep.run", "members_at_once", members_at_once)
    how = _checked_way(how)
    layout = None if mesh is None else engine.layout_of("sweep.run", mesh, "data")
    if not set(keep) <= set(KEEP):
        raise ValueError(f"sweep.run: keep is {keep!r}, expected of {KEEP}.")
    preprocessing = engine.fitted(preprocessing, setting.dataset)
    plan = Plan(make, setting, dtype)
    trainer = Trainer(plan, preprocessing, tuple(sorted(set(keep))), layout)
    traced = _traced(plan, members, trainer)

    finished: dict[int, Member] = {}

    def finish(index: int, member: Member) -> None:
        finished[index] = member
        if on_member is not None:
            on_member(index, member)

    with contextlib.ExitStack() as stack:
        saved = None
        if trainer.several:
            stack.enter_context(trainer.interrupts)
        config: dict[str, Any] = {}
        if folder is not None or trainer.several:
            config = _config(trainer, members, seeds, preprocessing, traced)
        if folder is not None:
            with trainer.together("the folder is opened"):
                saved = stack.enter_context(opened(folder, config)) if trainer.writes else None
            shapes = template(traced.training, epochs, trainer.keep)
            with trainer.together("members are read"):
                there = saved or Folder(Path(folder), config)
                for index in range(len(members.seeds)):
                    found = there.load(index, shapes, from_saved)
                    if found is not None:
                        finish(index, found)
        trainer.agree(digest(f"{config}{sorted(finished)}"))

        todo = [index for index in range(len(members.seeds)) if index not in finished]
        devices = 1 if layout is None else layout.parts
        at_once = -(-min(members_at_once or len(todo), len(todo)) // devices) * devices
        way, programs, step_seconds = _chosen(how, traced, trainer, members.of(todo), at_once)
        report = Report(plan, len(members.seeds), len(finished), on_progress)
        at_once = devices if way == "loop" else at_once
        for first in range(0, len(todo), max(at_once, 1)):
            group = todo[first : first + at_once]
            # The last group is filled up by its first member: one program for groups of any size.
            filled = members.of(group + group[:1] * (at_once - len(group)))
            done = trainer.train(programs, filled, len(group), report)
            with trainer.together("members are kept"):
                for index, member in zip(group, done, strict=True):
                    if saved is not None:
                        saved.save(index, *as_saved(member))
                    finish(index, member)
            report.finished += len(group)
    runs = [finished[index] for index in range(len(members.seeds))]
    seconds = time.perf_counter() - began
    return of_members(runs, members, preprocessing, way, step_seconds, seconds)


def _checked_way(how: Any) -> Any:
    """The way that is asked for, or "loop" where the others would draw other numbers."""
    ways = "measure", *HOWS
    if how not in ways:
        raise ValueError(f"sweep.run: how is {how!r}, expected one of {ways}.")
    impl = str(jax.random.key_impl(jax.random.key(0)))
    if impl == "threefry2x32":
        return how
    if how in ("map", "vmap"):
        raise ValueError(
            f"sweep.run: how is {how!r} and jax_default_prng_impl {impl!r}, whose keys draw "
            'other numbers under jax.vmap than each by itself; expected how="loop", or '
            '"threefry2x32".'
        )
    return "loop"


def _ignored_label(make: Callable[..., Trial], values: dict[str, float]) -> int | None:
    """The `ignore_index` of the trials' loss, if there is one and a trial can be made."""
    found: list[Any] = []
    with contextlib.suppress(Exception):  # which tracing a member says in the sweep's words
        jax.eval_shape(lambda values: found.append(make(**values)), values)
    return engine.ignored_label(found[0].loss) if found and isinstance(found[0], Trial) else None


def _config(
    trainer: Trainer,
    members: Members,
    seeds: Sequence[int],
    preprocessing: data.Preprocessing,
    traced: Traced,
) -> dict[str, Any]:
    """What a folder's members are of: all that decides what they are."""
    setting = trainer.plan.setting
    splits = (split for split in (setting.dataset.train, setting.val) if split is not None)
    rows = {name: column[:: len(seeds)].tolist() for name, column in members.columns.items()}
    return {
        "values": rows,
        "seeds": [int(seed) for seed in seeds],
        "epochs": setting.epochs,
        "batch_size": setting.batch_size,
        "sampling": setting.sampling,
        "max_nonfinite": setting.max_nonfinite,
        "dtype": jnp.dtype(trainer.plan.dtype).name,
        "train_accuracy_rows": setting.train_accuracy_rows,
        "evaluation_batch_size": setting.evaluation_batch_size,
        "keep": trainer.keep,
        "data": digest(*(array for split in splits for array in split), *preprocessing),
        "program": digest(*traced.program),
    }


def _traced(plan: Plan, members: Members, trainer: Trainer) -> Traced:
    """Traces a member, or says why it cannot be."""
    # Shapes alone: on a mesh its devices are no part of what each of them does.
    values, inputs = members.row(0), jax.tree.map(_shape, trainer.inputs)
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
    engine.require_output("sweep.run", traced.output_shape, plan.setting)
    return traced


def _shape(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _chosen(
    how: Any, traced: Traced, trainer: Trainer, members: Members, at_once: int
) -> tuple[How, Programs, dict[str, float]]:
    """The way through these members, its programs, and the seconds a step of each way measured."""
    plan, measured = trainer.plan, how == "measure"
    first: How = "loop" if measured else how
    looped = first != "loop" or not traced.loops_badly
    tried = {first: Programs(plan, first, traced.step, looped, trainer.mesh)}
    steps = plan.setting.epochs * plan.setting.steps * len(members.seeds)
    if not measured or traced.loops_badly or not steps or len(members.seeds) == 1:
        return first, tried[first], {}
    seconds: dict[str, float] = {}
    for way in HOWS:
        tried.setdefault(way, Programs(plan, way, traced.step, mesh=trainer.mesh))
        few = 1 if trainer.mesh is None else trainer.mesh.size
        some = members.of(
            [i % len(members.seeds) for i in range(few if way == "loop" else at_once)]
        )
        seconds[way] = trainer.step_seconds(tried[way], some)
        if seconds["loop"] * steps < _WORTH_MEASURING_SECONDS:
            break
    fastest = min(HOWS, key=lambda way: seconds.get(way, math.inf))
    return fastest, tried[fastest], seconds
