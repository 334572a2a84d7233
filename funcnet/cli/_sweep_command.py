"""`funcnet sweep`: trains a net with many hyper-parameters and seeds, and ranks what came of it."""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, ClassVar, NamedTuple, get_args, get_type_hints

import numpy as np
from rich import progress as bars
from rich.console import Console
from rich.table import Table

from funcnet import checkpoint, plots, sweep, train
from funcnet._files import replacing
from funcnet._machine import device, versions
from funcnet.cli import _stdout
from funcnet.cli import _train_options as settings
from funcnet.cli._command import (
    CommandError,
    choice,
    console,
    drawing,
    expected_errors,
    option,
    print_whole,
)
from funcnet.cli._jobs import Job, loaded, with_numbers
from funcnet.cli._train_options import (
    DataOptions,
    NetOptions,
    OptimizerOptions,
    Options,
    TrainingOptions,
    flag,
)
from funcnet.sweep import HOWS

_TABLE_ROWS = 30


def _traced(group: type) -> set[str]:
    """The numbers among the options of a group that may be traced, and so swept."""
    numbers = {name for name, kind in get_type_hints(group).items() if float in get_args(kind)}
    return numbers - {"lr_decay", "dropout", "label_smoothing"}  # which shape the program


def _several(group: type) -> type:
    """Lets each number that may be traced be several, with the help of `funcnet train`."""
    parent: Any = group.__base__
    hints = get_type_hints(parent, include_extras=True)
    for name in _traced(parent):
        kinds, *said = get_args(hints[name])
        one = functools.reduce(operator.or_, (k for k in get_args(kinds) if k is not type(None)))
        several: Any = GenericAlias(tuple, (one, ...))
        group.__annotations__[name] = Annotated[(several | None, *said)]
        setattr(group, name, None)
    return group


@dataclasses.dataclass(frozen=True)
@_several
class SweptNet(NetOptions):
    """The function, the same for all but for the scale of its weights: numbers, or he alone."""


@dataclasses.dataclass(frozen=True)
@_several
class SweptOptimizer(OptimizerOptions):
    """The rule of the update: where an option takes several numbers, they are swept."""


@dataclasses.dataclass(frozen=True)
@_several
class SweptTraining(TrainingOptions):
    """How each member is trained; several numbers are swept."""

    seed: Annotated[int | None, option("0")] = None
    """First of the members' seeds, 0 to 2^32 - 1."""


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """Which members there are, and how they are run."""

    seeds: int = 1
    """Seeds for each row of values."""
    random: Annotated[int | None, option("every combination")] = None
    """Rows of values drawn at random: from the ranges, and from what takes several numbers."""
    learning_rate_range: Annotated[tuple[float, float] | None, option("none")] = None
    """Lowest and highest learning rate of --random, as many in each decade."""
    reg_range: Annotated[tuple[float, float] | None, option("none")] = None
    """The same for the L2 penalty."""
    weight_scale_range: Annotated[tuple[float, float] | None, option("none")] = None
    """The same for the standard deviation of the initial weights."""
    weight_decay_range: Annotated[tuple[float, float] | None, option("none")] = None
    """The same for the decoupled weight decay."""
    random_seed: int = 0
    """Seed of the draws of --random."""
    how: Annotated[str, choice(("measure", *HOWS))] = "measure"
    """One program for all members, by jax.vmap, jax.lax.map or a loop; measure asks the machine."""
    members_at_once: Annotated[int | None, option("all")] = None
    """Members that vmap and map hold in memory, and finish, together."""


@dataclasses.dataclass(frozen=True)
class SweepOutput:
    """What is left behind."""

    out: Annotated[str | None, option("runs/sweep-DATA-NET-TIME")] = None
    """Folder for members, ranking and figure. Where it holds the same sweep, begun, the members
    that are missing are run."""
    quiet: bool = False
    """Print errors only."""
    traceback: bool = False
    """Show where an error came from; FUNCNET_TRACEBACK=1 does the same."""


@dataclasses.dataclass(frozen=True)
class SweepCommand:
    """Train a net with many hyper-parameters and seeds, compiled once, and rank them.

    The options are those of `funcnet train`, and a member is that run; where an option takes
    several numbers, each combination is a member. They are ranked by their best validation
    accuracy; the test images are asked once, about the best member.
    """

    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    net: SweptNet = dataclasses.field(default_factory=SweptNet)
    optimizer: SweptOptimizer = dataclasses.field(default_factory=SweptOptimizer)
    training: SweptTraining = dataclasses.field(default_factory=SweptTraining)
    search: SearchOptions = dataclasses.field(default_factory=SearchOptions)
    output: SweepOutput = dataclasses.field(default_factory=SweepOutput)

    EPILOG: ClassVar[str] = """
Examples:

  funcnet sweep --learning-rate 1e-4 1e-3 1e-2 --seeds 3
  funcnet sweep --data cifar10 --random 25 --learning-rate-range 1e-4 1e-2 --reg-range 1e-5 1e-2
  funcnet sweep --optimizer sgd --learning-rate 0.01 0.1 1 --momentum 0.5 0.9 --out runs/momentum

What is left unsaid is the data set's recipe: see funcnet train --help.
Ctrl-C ends a sweep with the members that are done; the same command with --out runs the rest.
A closed stdout, as of `funcnet sweep | head`, ends it as Ctrl-C does.
Exit codes: 0 done; 1 no member reached its end; 2 wrong options or data; 130 Ctrl-C; 141 closed
stdout.
"""

    def run(self) -> int:
        """Trains, prints and writes; returns the exit code."""
        out = console(self.output.quiet)
        with expected_errors():
            options, columns = self._options(), self._columns()
            job = Job(options, loaded(options.data, out.print))
            count = max(map(len, columns.values()), default=1)
            for index in range(count):
                # What `funcnet train` would refuse: traced, the numbers have no value.
                row = {name: column[index].item() for name, column in columns.items()}
                settings.resolved(with_numbers(options, row))
                job.member(**row)
        first = options.training.seed or 0
        seeds = range(first, first + self.search.seeds)
        folder = Path(
            self.output.out
            or f"runs/sweep-{options.data.name}-{options.net.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        )
        done = 0
        try:
            shown = _shown(out, count * len(seeds))
            with job.at_precision(), shown as (on_progress, on_member):

                def asked(now: sweep.Progress) -> None:
                    on_progress(now)
                    if _stdout.lost():
                        raise KeyboardInterrupt  # as Ctrl-C

                def counted(index: int, member: sweep.Member) -> None:
                    nonlocal done
                    done += 1
                    on_member(index, member)

                result = _swept(
                    job, columns, seeds, self.search, folder, on_progress=asked, on_member=counted
                )
        except KeyboardInterrupt:
            there = (
                f"{done} of {count * len(seeds)} members are in {folder}; the same command with "
                f"--out {shlex.quote(str(folder))} runs the rest."
            )
            if lost := _stdout.lost():
                _stdout.say(f"funcnet sweep: stdout is closed ({lost.strerror}): {there}")
                return _stdout.exit_code(lost)
            out.print(f"Interrupted: {there}", soft_wrap=True)
            return 130
        print_whole(out, _table(result, self.search.seeds > 1))
        if (result.stopped_at > 0).all():
            raise CommandError(
                "no member reached its end: all stopped at steps that were not finite. What they "
                f"have is in {folder}. Lower learning rates or other preprocessing may help.",
                code=1,
            )
        try:
            self._write(result, job, folder, out)
        except OSError as error:
            raise CommandError(f"{error}. The members are in {folder}.", code=1) from error
        return 0

    def _options(self) -> Options:
        """The options of one member, those that are swept with their first value."""

        def first(value: Any, name: str) -> Any:
            if name not in _SWEPT or not isinstance(value, tuple):
                return value
            if not value:
                raise CommandError(f"{flag(name)} has no value, expected one or more.")
            return value[0]

        parents: Any = (DataOptions, NetOptions, OptimizerOptions, TrainingOptions)
        groups: Any = (self.data, self.net, self.optimizer, self.training)
        plain = [
            parent(**{name: first(value, name) for name, value in vars(group).items()})
            for parent, group in zip(parents, groups, strict=True)
        ]
        ranges = {name: low for name, (low, _) in self._ranges().items()}
        for index, group in enumerate(plain):
            own = {name: low for name, low in ranges.items() if hasattr(group, name)}
            plain[index] = dataclasses.replace(group, **own)
        return settings.resolved(Options(*plain))

    def _ranges(self) -> dict[str, tuple[float, float]]:
        suffix = "_range"
        named = {k.removesuffix(suffix): v for k, v in vars(self.search).items() if suffix in k}
        return {name: value for name, value in named.items() if value is not None}

    def _columns(self) -> dict[str, np.ndarray]:
        """The values that are swept, a row for each combination or draw."""
        search, ranges = self.search, self._ranges()
        if search.seeds < 1:
            raise CommandError(f"--seeds is {search.seeds}, expected a number of at least 1.")
        if (self.training.seed or 0) + search.seeds > 2**32:
            raise CommandError(
                f"--seed is {self.training.seed} and --seeds {search.seeds}: the last member's "
                "seed would be above 2^32 - 1."
            )
        if not 0 <= search.random_seed < 2**32:
            raise CommandError(
                f"--random-seed is {search.random_seed}, expected a number from 0 to 2^32 - 1."
            )
        lists: dict[str, Any] = {}
        for group in (self.net, self.optimizer, self.training):
            for name in _SWEPT & vars(group).keys():
                value = getattr(group, name) or ()
                if len(value) > 1 and "he" in value:
                    raise CommandError(f"{flag(name)} is he beside numbers, expected it alone.")
                if value and name in ranges:
                    raise CommandError(f"{flag(name)} and {flag(name)}-range are both given.")
                if len(value) > 1:
                    lists[name] = value
        lists = {name: lists[name] for name in sorted(lists)}
        if search.random is None:
            if ranges:
                name = flag(next(iter(ranges)))
                raise CommandError(f"{name}-range is an option of --random alone.")
            return sweep.grid(**lists)
        if search.random < 1 or not (lists or ranges):
            raise CommandError(
                f"--random is {search.random}, expected at least 1 row, and a range to draw from, "
                "such as --learning-rate-range 1e-4 1e-2."
            )
        rng = np.random.default_rng(search.random_seed)
        drawn = {name: rng.choice(value, search.random) for name, value in lists.items()}
        for name, (low, high) in ranges.items():
            try:
                drawn[name] = sweep.log_uniform(rng, low, high, search.random)
            except (ValueError, OverflowError):
                raise CommandError(
                    f"{flag(name)}-range is {low} {high}, expected two numbers above 0, the lower "
                    "one first."
                ) from None
        return drawn

    def _write(self, result: sweep.Result, job: Job, folder: Path, out: Console) -> None:
        ranking = result.ranking()
        best = result.member(ranking[0]["member"])
        trial = job.member(**best.values)
        test = train.evaluate(
            trial.net, best.best, job.dataset.test, result.preprocessing, loss=trial.loss
        )
        said: Any = _Said(self.data, self.net, self.optimizer, self.training, self.search)
        words = ["sweep", *settings.command_line(said)[1:]]
        summary = {
            "command": shlex.join(["funcnet", *words]),
            "how": result.how,
            "step_seconds": result.step_seconds,
            "seconds": result.seconds,
            "best": ranking[0],
            "test_accuracy": test["accuracy"],
            "test_loss": test["loss"],
            "versions": versions(),
            "device": device(),
        }
        with replacing(folder / "sweep.json") as file:
            file.write((json.dumps(summary, indent=2) + "\n").encode())
        with replacing(folder / "sweep.jsonl") as file:
            file.write("".join(json.dumps(row) + "\n" for row in ranking).encode())
        measured = "".join(
            f", {way} {1e3 * seconds:.3g} ms" for way, seconds in result.step_seconds.items()
        )
        out.print(
            f"best: member {ranking[0]['member']}, test accuracy {100 * test['accuracy']:.2f} %\n"
            f"by {result.how}{measured and f' (a step{measured[1:]})'}, {result.seconds:.1f} s\n"
            f"folder: {folder}"
        )
        with drawing("funcnet sweep", folder / "sweep.png", self.output.traceback):
            title = f"{job.dataset.name}, {job.options.net.name}: {len(ranking)} members"
            plots.sweep(result, folder / "sweep.png", title)


class _Said(NamedTuple):
    """All options that a sweep's numbers depend on, as they were given."""

    data: DataOptions
    net: SweptNet
    optimizer: SweptOptimizer
    training: SweptTraining
    search: SearchOptions


_SWEPT = _traced(NetOptions) | _traced(OptimizerOptions) | _traced(TrainingOptions)


def _swept(
    job: Job,
    columns: dict[str, np.ndarray],
    seeds: range,
    search: SearchOptions,
    folder: Path,
    **callbacks: Any,
) -> sweep.Result:
    """Runs the sweep; what is refused before its first step is the user's to mend."""
    training: Any = job.options.training
    begun = False

    def on_progress(now: sweep.Progress) -> None:
        nonlocal begun
        begun = True
        callbacks["on_progress"](now)

    how: Any = search.how
    try:
        return sweep.run(
            job.member,
            job.dataset,
            columns,
            seeds,
            training.epochs,
            training.batch_size,
            how=how,
            folder=folder,
            keep=("best",),
            members_at_once=search.members_at_once,
            sampling=training.sampling,
            preprocessing=training.preprocessing,
            augment=job.augment(),
            on_progress=on_progress,
            on_member=callbacks["on_member"],
        )
    except checkpoint.LockedError as error:
        raise CommandError(f"--out: {error}") from None
    except OSError as error:
        what = error.strerror or error
        raise CommandError(
            f"--out: cannot write into {folder}: {what}.", 1 + (not begun)
        ) from error
    except (ValueError, TypeError) as error:
        if begun:
            raise
        raise CommandError(str(error)) from error


# --- What is printed


@contextmanager
def _shown(out: Console, members: int) -> Iterator[tuple[Any, Any]]:
    """Callbacks for a bar on a terminal; elsewhere for a line a member."""
    bar = bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TimeRemainingColumn(),
        console=out,
        transient=True,
        disable=not out.is_terminal or out.quiet,
    )
    task, done = bar.add_task("compiling", total=None), 0

    def on_progress(now: sweep.Progress) -> None:
        words = f"{now.finished}/{now.members} members  epoch {now.epoch}/{now.epochs}"
        bar.update(task, description=words, completed=now.step, total=now.steps)

    def on_member(index: int, member: sweep.Member) -> None:
        nonlocal done
        done += 1
        if not out.is_terminal:
            values = "".join(f"  {name} {value:.4g}" for name, value in member.values.items())
            end = f"  not finite at step {member.stopped_at}" if member.stopped_at else ""
            accuracy = f"val {100 * member.best_val_accuracy:.2f} %"
            line = f"{done}/{members}  member {index}{values}  seed {member.seed}  {accuracy}{end}"
            out.print(line, soft_wrap=True)

    with bar:
        yield on_progress, on_member


def _table(result: sweep.Result, over_seeds: bool) -> Table:
    rows = result.ranking(over_seeds)
    title = "members by their best validation accuracy" + ", mean over seeds" * over_seeds
    if len(rows) > _TABLE_ROWS:
        title += f": the first {_TABLE_ROWS} of {len(rows)}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows[:_TABLE_ROWS]:
        table.add_row(*(_cell(name, value) for name, value in row.items()))
    return table


def _cell(name: str, value: Any) -> str:
    if name.endswith("accuracy") or name == "spread":
        return f"{100 * value:.2f} %"
    if name in ("stopped_at", "stopped"):
        return str(value or "-")
    return f"{value:.4g}" if isinstance(value, float) else str(value)
