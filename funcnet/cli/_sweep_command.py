"""`funcnet sweep`: trains a net with many hyper-parameters and seeds, and ranks what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jax.sharding import Mesh
from rich import progress as bars
from rich.console import Console
from rich.table import Table

from funcnet import checkpoint, plots, sweep, train
from funcnet._files import replacing
from funcnet._machine import device, versions
from funcnet._processes import exchanged, together
from funcnet.cli import _compiled, _stdout
from funcnet.cli import _train_options as settings
from funcnet.cli._command import CommandError, console, drawing, expected_errors, print_whole
from funcnet.cli._devices import DeviceOptions, endings, only_first, shared
from funcnet.cli._jobs import Job, resolved_with_data, warnings_said, with_numbers
from funcnet.cli._sweep_options import (
    Said,
    SearchOptions,
    SweepOutput,
    SweptNet,
    SweptOptimizer,
    SweptTraining,
)
from funcnet.cli._train_options import DataOptions

_TABLE_ROWS = 30
_SUMMARY, _RANKING, _FIGURE = "sweep.json", "sweep.jsonl", "sweep.png"


@dataclasses.dataclass(frozen=True)
class SweepCommand:
    """Train a net with many hyper-parameters and seeds, compiled once, and rank them.

    The options are those of `funcnet train`, and a member is that run; where an option takes
    several numbers or names, each combination is a member. They are ranked by their best validation
    accuracy; the test examples are asked once, about the best member. The best epoch of a member is
    that of its highest accuracy; on data of one's own `funcnet train` goes by val_loss, where it is
    not told --best val_accuracy.
    """

    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    search: SearchOptions = dataclasses.field(default_factory=SearchOptions)
    training: SweptTraining = dataclasses.field(default_factory=SweptTraining)
    output: SweepOutput = dataclasses.field(default_factory=SweepOutput)
    net: SweptNet = dataclasses.field(default_factory=SweptNet)
    optimizer: SweptOptimizer = dataclasses.field(default_factory=SweptOptimizer)
    device: DeviceOptions = dataclasses.field(default_factory=DeviceOptions)

    EPILOG: ClassVar[str] = """
Examples:

  funcnet sweep --learning-rate 1e-4 1e-3 1e-2 --seeds 3
  funcnet sweep --data cifar10 --random 25 --learning-rate-range 1e-4 1e-2 --reg-range 1e-5 1e-2
  funcnet sweep --optimizer sgd --learning-rate 0.01 0.1 1 --momentum 0.5 0.9 --out runs/momentum
  funcnet sweep --optimizer sgd adam muon --net two_layer fully_connected --seeds 2
  funcnet sweep --learning-rate 1e-4 1e-3 1e-2 1e-1 --devices all

Each combination of names (of --net, --norm, --activation, --optimizer, --loss) is compiled once and
has a folder of its own in --out, which more names may be added to. An option that a net, optimizer
or loss does not have is left out there, and refused where none of those named has it. Without
--learning-rate each optimizer has its own.
What is left unsaid is the data set's recipe: see funcnet train --help.
Over devices each has as many members as the others. Of several processes the first writes, into a
folder that all reach, and a signal to one ends all.
Ctrl-C, SIGTERM or a terminal that closes (SIGHUP) ends a sweep with the members that are done; the
same command with --out runs the rest.
A closed stdout, as of `funcnet sweep | head`, ends it as Ctrl-C does.
Exit codes: 0 done; 1 no member reached its end; 2 wrong options or data; 130 Ctrl-C; 141 closed
stdout; 143 SIGTERM or SIGHUP.
"""

    def run(self) -> int:
        """Trains, prints and writes; returns the exit code."""
        return shared("funcnet sweep", self.device, self.output.traceback, self._process)

    def _process(self) -> int:
        """What each process does; the first alone prints and writes."""
        with endings(), _compiled.kept("funcnet sweep"):
            return self._run(console(self.output.quiet or not only_first()))

    def _run(self, out: Console) -> int:
        with expected_errors(), warnings_said("funcnet sweep"), together("the sweep begins"):
            sweeps = self._sweeps(out)
            mesh = self.device.over()
        job = sweeps[0].job
        first = job.options.training.seed or 0
        seeds = range(first, first + self.search.seeds)
        nets = "-".join(dict.fromkeys(str(one.job.options.net.name) for one in sweeps))
        folder = Path(
            self.output.out
            or f"runs/sweep-{job.dataset.name}-{nets}-{time.strftime('%Y%m%d-%H%M%S')}"
        )
        folder = Path(exchanged(str(folder))[0])
        if used := self.device.said(mesh):
            out.print(f"devices: {used}", soft_wrap=True)
        total = sum(one.rows for one in sweeps) * len(seeds)
        done, results = 0, []
        try:
            with contextlib.ExitStack() as stack:
                if sweeps[0].label and only_first():
                    stack.enter_context(_shared(folder, [one.label for one in sweeps]))
                shown = stack.enter_context(_shown(out, total))

                def counted(*about: Any) -> None:
                    nonlocal done
                    done += 1
                    shown[1](*about)

                before = 0
                for one in sweeps:
                    say = _among(shown[0], before, total)
                    results.append(_swept(one, seeds, self.search, folder, mesh, say, counted))
                    before += one.rows * len(seeds)
        except KeyboardInterrupt as press:
            there = (
                f"{done} of {total} members are in {folder}; the same command with "
                f"--out {shlex.quote(str(folder))} runs the rest."
            )
            if lost := _stdout.lost():
                _stdout.say(f"funcnet sweep: stdout is closed ({lost.strerror}): {there}")
                return _stdout.exit_code(lost)
            terminated = isinstance(press, train.Terminated)
            out.print(f"{'Terminated' if terminated else 'Interrupted'}: {there}", soft_wrap=True)
            return 143 if terminated else 130
        swept = list(zip(sweeps, results, strict=True))
        print_whole(out, _table(swept, self.search.seeds > 1))
        if all((result.stopped_at > 0).all() for result in results):
            raise CommandError(
                "no member reached its end: all stopped at steps that were not finite. What they "
                f"have is in {folder}. Lower learning rates or other preprocessing may help.",
                code=1,
            )
        if not only_first():
            return 0
        try:
            self._write(swept, folder, out)
        except OSError as error:
            raise CommandError(f"{error}. The members are in {folder}.", code=1) from error
        return 0

    def _sweeps(self, out: Console) -> list[_Sweep]:
        """The sweeps that there are to run, or CommandError where `funcnet train` would refuse."""
        each = self._said.each()
        for _, said in each:
            said.columns()
        options, dataset = resolved_with_data(each[0][1].options(), out.print)
        own = dataset if settings.is_own(options.data) else None
        sweeps = []
        for names, said in each:
            resolved = settings.resolved(said.options()._replace(data=options.data), own)
            job, columns = Job(resolved, dataset), said.columns()
            shown: dict[str, Any] = dict(names)
            if "optimizer" in names and "learning_rate" not in columns:
                shown["learning_rate"] = resolved.optimizer.learning_rate
            label = "-".join(name for name in names.values() if name is not None)
            sweeps.append(one := _Sweep(label, shown, job, columns))
            for index in range(one.rows):
                # What `funcnet train` would refuse: traced, the numbers have no value.
                row = {name: column[index].item() for name, column in columns.items()}
                settings.resolved(with_numbers(resolved, row), own)
                job.member(**row)
        return sweeps

    @property
    def _said(self) -> Said:
        return Said(self.data, self.net, self.optimizer, self.training, self.search)

    def _write(self, swept: _Swept, folder: Path, out: Console) -> None:
        ranking = _ranking(swept)
        (one, result), row = ranking[0]
        best = result.member(row["member"])
        trial = one.job.member(**best.values)
        test = train.evaluate(
            trial.net, best.best, one.job.dataset.test, result.preprocessing, loss=trial.loss
        )
        said: Any = self._said
        words = ["sweep", *settings.command_line(said)[1:]]
        hows: Any = {one.label: result.how for one, result in swept}
        steps: Any = {one.label: result.step_seconds for one, result in swept}
        summary = {
            "command": shlex.join(["funcnet", *words]),
            "how": hows if one.label else result.how,
            "step_seconds": steps if one.label else result.step_seconds,
            "seconds": sum(result.seconds for _, result in swept),
            "best": row,
            "test_accuracy": test["accuracy"],
            "test_loss": test["loss"],
            "versions": versions(),
            "device": device(),
        }
        with replacing(folder / _SUMMARY) as file:
            file.write((json.dumps(summary, indent=2) + "\n").encode())
        with replacing(folder / _RANKING) as file:
            file.write("".join(json.dumps(row) + "\n" for _, row in ranking).encode())
        of = one.label and f" of {one.label}"
        out.print(
            f"best: member {row['member']}{of}, test accuracy {100 * test['accuracy']:.2f} %",
            soft_wrap=True,
        )
        for other, found in swept:
            measured = "".join(
                f", {way} {1e3 * seconds:.3g} ms" for way, seconds in found.step_seconds.items()
            )
            of, step = other.label and f"{other.label} ", measured and f" (a step{measured[1:]})"
            out.print(f"{of}by {found.how}{step}, {found.seconds:.1f} s", soft_wrap=True)
        out.print(f"folder: {folder}", soft_wrap=True)
        with drawing("funcnet sweep", folder / _FIGURE, self.output.traceback):
            job, count = one.job, f"{len(ranking)} members"
            if one.label:
                results = {other.label: found for other, found in swept}
                plots.sweeps(results, folder / _FIGURE, f"{job.dataset.name}: {count}")
            else:
                title = f"{job.dataset.name}, {job.options.net.name}: {count}"
                plots.sweep(result, folder / _FIGURE, title)


class _Sweep(NamedTuple):
    """One combination of names: a sweep of its own.

    `label` is its folder, empty where there is one sweep alone; `shown` are its names as columns of
    the table, and its learning rate where each optimizer has its own.
    """

    label: str
    shown: dict[str, Any]
    job: Job
    columns: dict[str, np.ndarray]

    @property
    def rows(self) -> int:
        """How many rows of values it has, each of them run with each seed."""
        return max(map(len, self.columns.values()), default=1)


_Swept = list[tuple[_Sweep, sweep.Result]]


@contextlib.contextmanager
def _shared(folder: Path, labels: list[str]) -> Iterator[None]:
    """The folder of several sweeps, kept for this process; there may be some of them."""
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            known = {*labels, "lock", _SUMMARY, _RANKING, _FIGURE}
            if others := sorted({path.name for path in folder.iterdir()} - known):
                raise CommandError(
                    f"--out: {folder} holds {others[0]}, which is none of these sweeps "
                    f"({', '.join(labels)}): name another folder, or ask for what is there too."
                )
            stack.enter_context(checkpoint.locked(folder))
        except checkpoint.LockedError as error:
            raise CommandError(f"--out: {error}") from None
        except OSError as error:
            what = error.strerror or error
            raise CommandError(f"--out: cannot write into {folder}: {what}.") from error
        yield


def _swept(
    one: _Sweep,
    seeds: range,
    search: SearchOptions,
    folder: Path,
    mesh: Mesh | None,
    on_progress: Callable[[sweep.Progress], Any],
    on_member: Callable[..., Any],
) -> sweep.Result:
    """Runs a sweep; what is refused before its first step is the user's to mend."""
    training: Any = one.job.options.training
    begun = False

    def progressed(now: sweep.Progress) -> None:
        nonlocal begun
        begun = True
        on_progress(now)
        if _stdout.lost():
            raise KeyboardInterrupt  # as Ctrl-C

    how: Any = search.how
    try:
        with one.job.at_precision():
            return sweep.run(
                one.job.member,
                one.job.dataset,
                one.columns,
                seeds,
                training.epochs,
                training.batch_size,
                how=how,
                folder=folder / one.label,
                keep=("best",),
                members_at_once=search.members_at_once,
                sampling=training.sampling,
                preprocessing=training.preprocessing,
                augment=one.job.augment(),
                on_progress=progressed,
                on_member=lambda index, member: on_member(index, member, one.label),
                mesh=mesh,
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


def _ranking(swept: _Swept, over_seeds: bool = False) -> list[tuple[Any, dict[str, Any]]]:
    """The members of all sweeps as rows of a table, each with its sweep, the best one first."""
    values = dict.fromkeys(name for _, result in swept for name in result.values)
    rows = []
    for found in swept:
        one, result = found
        for row in result.ranking(over_seeds):
            first = {"member": row.pop("member")} if "member" in row else {}
            own = {name: row.pop(name, one.shown.get(name)) for name in values}
            rows.append((found, first | one.shown | own | row))
    best = [row["best_val_accuracy"] for _, row in rows]
    order = sorted(range(len(rows)), key=lambda i: math.inf if math.isnan(best[i]) else -best[i])
    return [rows[index] for index in order]


# --- What is printed


def _among(
    on_progress: Callable[[sweep.Progress], Any], before: int, members: int
) -> Callable[[sweep.Progress], Any]:
    """Says where all members stand, of whom `before` are of earlier sweeps than this one."""

    def progressed(now: sweep.Progress) -> None:
        each = now.steps // now.members
        step, steps = now.step + before * each, members * each
        on_progress(
            now._replace(finished=now.finished + before, members=members, step=step, steps=steps)
        )

    return progressed


@contextlib.contextmanager
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

    def on_member(index: int, member: sweep.Member, label: str = "") -> None:
        nonlocal done
        done += 1
        if not out.is_terminal:
            values = "".join(f"  {name} {value:.4g}" for name, value in member.values.items())
            end = f"  not finite at step {member.stopped_at}" if member.stopped_at else ""
            accuracy = f"val {100 * member.best_val_accuracy:.2f} %"
            of = label and f"{label}  "
            line = (
                f"{done}/{members}  {of}member {index}{values}  seed {member.seed}  {accuracy}{end}"
            )
            out.print(line, soft_wrap=True)

    with bar:
        yield on_progress, on_member


def _table(swept: _Swept, over_seeds: bool) -> Table:
    rows = [row for _, row in _ranking(swept, over_seeds)]
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
    if value is None:  # what the net or optimizer does not have
        return "-"
    if name.endswith("accuracy") or name == "spread":
        return f"{100 * value:.2f} %"
    if name in ("stopped_at", "stopped"):
        return str(value or "-")
    return f"{value:.4g}" if isinstance(value, float) else str(value)
