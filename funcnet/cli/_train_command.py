"""`funcnet train`: trains a net on a data set, and leaves all of it in a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import shlex
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from funcnet import checkpoint, data, plots, train
from funcnet import report as reports
from funcnet._files import replacing
from funcnet._machine import cpu_model, device
from funcnet._processes import exchanged, together
from funcnet.cli import _compiled, _stdout
from funcnet.cli import _train_folder as files
from funcnet.cli import _train_options as settings
from funcnet.cli._command import CommandError, console, drawing, expected_errors, print_whole
from funcnet.cli._devices import MeshOptions, endings, only_first, shared
from funcnet.cli._jobs import Job, loaded, resolved_with_data, warnings_said
from funcnet.cli._train_options import (
    DataOptions,
    NetOptions,
    OptimizerOptions,
    Options,
    OutputOptions,
    StoppingOptions,
    TrainingOptions,
)
from funcnet.cli._train_report import Report, facts, layers, measured, result_rows
from funcnet.optimizers import OPTIMIZERS
from funcnet.train import engine


def _recipes() -> str:
    lines = ["What is left unsaid:", ""]
    for name in data.SETS:
        net, optimizer, training = settings.recipe_of(name)
        hidden = " ".join(map(str, net.hidden or ()))
        lines.append(
            f"  {name:14}--net {net.name} --hidden {hidden} --norm {net.norm} --optimizer "
            f"{optimizer.name}"
        )
        lines.append(
            f"  {'':14}--learning-rate {optimizer.learning_rate} --lr-decay {optimizer.lr_decay} "
            f"--epochs {training.epochs} --batch-size {training.batch_size}"
        )
    lines += [*_own_recipe("your pictures", (32, 32, 3)), *_own_recipe("your tables", (8,))]
    own = (
        "By the number of training rows, from few to many. Pictures of a side below 16 pixels are "
        "as tables; the best epoch of your own data is that of the lowest val_loss."
    )
    lines += ["", *textwrap.wrap(own, 90)]
    rates = ", ".join(f"{name} {rule.learning_rate:g}" for name, rule in OPTIMIZERS.items())
    lines += ["", *textwrap.wrap(f"Learning rates of other optimizers: {rates}.", 90)]
    return "\n".join(lines)


def _own_recipe(name: str, shape: tuple[int, ...]) -> list[str]:
    """The recipe of data of one's own, of few rows and of many."""

    def of(rows: int) -> settings.Recipe:
        images = np.broadcast_to(np.uint8(0), (rows, *shape))
        split = data.Split(images, np.broadcast_to(np.int32(0), rows))
        return settings.recipe_for(data.Dataset(split, split, split, ("a", "b"), name))

    few, many = of(100), of(100_000)
    net, optimizer = few.net, few.optimizer
    hidden = f" --hidden {' '.join(map(str, net.hidden))} --norm {net.norm}" if net.hidden else ""
    return [
        f"  {name:14}--net {net.name}{hidden} --optimizer {optimizer.name}",
        f"  {'':14}--learning-rate {optimizer.learning_rate} --lr-decay {optimizer.lr_decay} "
        f"--epochs {few.training.epochs} to {many.training.epochs} "
        f"--batch-size {few.training.batch_size} to {many.training.batch_size}",
    ]


# What every run needs comes first in the help, what some nets and optimizers have last. (A comment
# above a field would be its group's help.)
@dataclasses.dataclass(frozen=True)
class Train:
    """Train a net on a data set: without options on digits, in a few seconds.

    Begin with --data, --epochs, --out, --net, --optimizer and --learning-rate; --resume goes on.
    """

    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    training: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)
    stopping: StoppingOptions = dataclasses.field(default_factory=StoppingOptions)
    output: OutputOptions = dataclasses.field(default_factory=OutputOptions)
    net: NetOptions = dataclasses.field(default_factory=NetOptions)
    optimizer: OptimizerOptions = dataclasses.field(default_factory=OptimizerOptions)
    device: MeshOptions = dataclasses.field(default_factory=MeshOptions)

    EPILOG: ClassVar[str] = f"""
{_recipes()}

Examples:

  funcnet train
  funcnet train --net two_layer_convnet --epochs 10 --out runs/convnet
  funcnet train --data mnist --optimizer nesterov --dropout 0.2 --seed 1
  funcnet train --resume --epochs 40
  funcnet train --epochs 200 --best val_loss --patience 10
  funcnet train --devices all --batch-size 64 --shard fsdp
  funcnet train --data cifar10 --net fully_connected --hidden 500 500 500 --norm batch \\
    --optimizer adam --lr-decay 0.9 --weight-scale 0.01 --preprocessing mean_image

Of several labels the accuracy is the share of the labels that are right, the exact match that of
the examples of which all labels are.

Ctrl-C ends a run with what it has, and --resume goes on with it: on one thread to the same bits as
if it had never been stopped. SIGTERM and a terminal that closes (SIGHUP) only save, the net of the
best epoch too, which funcnet predict takes. A second signal ends it at once.
A closed stdout, as of `funcnet train | head`, ends a run as Ctrl-C does.
Exit codes: 0 done, by --patience too; 1 ended by a loss that is not finite, or by a full disk or
memory; 2 wrong options or data, or another process in the folder; 130 Ctrl-C; 141 closed stdout;
143 SIGTERM or SIGHUP.
"""

    def run(self) -> int:
        """Trains, prints and writes; returns the exit code."""
        return shared("funcnet train", self.device, self.output.traceback, self._process)

    def _process(self) -> int:
        """What each process does; the first alone prints and writes."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(endings())
            stack.enter_context(warnings_said("funcnet train"))
            stack.enter_context(_compiled.kept("funcnet train"))
            return self._run(console(self.output.quiet or not only_first()), stack)

    def _run(self, out: Any, stack: contextlib.ExitStack) -> int:
        said = Options(self.data, self.net, self.optimizer, self.training, self.stopping)
        config: dict[str, Any] = {}
        with expected_errors(), together("the run begins"):
            files.saving(self.output.checkpoint_every, 1)
            if self.output.resume:
                folder, config = files.reopened(self.output.out, stack)
                options = settings.reconciled(said, settings.from_config(config["options"]), folder)
                dataset = loaded(options.data, out.print)
            else:
                options, dataset = resolved_with_data(said, out.print)
            job = Job(options, dataset)
            stack.enter_context(job.at_precision())
            inputs = {"preprocessing": job.preprocessing(), "augment": job.augment()}
            now = files.configuration(options, job.dataset)
            if self.output.resume:
                config, changed = files.gone_on(config, now, folder)
                for line in changed:
                    _stdout.say(f"funcnet train: warning: {line}: bits may differ")
            else:
                folder, config = files.claimed(self.output.out, options, dataset.name, stack), now
            mesh = self.device.over()
            engine.check_mesh(mesh, job.batch_size, job.trial.accumulate)
        folder = Path(exchanged(str(folder))[0])
        with expected_errors():
            every = files.saving(self.output.checkpoint_every, job.steps_per_epoch)
            checkpoints = _checkpoints(folder, options, every)
            begun = checkpoints.restore(job.template()) if self.output.resume else None
            logs = _logs(self.output.log, folder, begun)
        began = time.perf_counter()
        try:
            if only_first():
                if not self.output.resume:
                    stack.enter_context(files.unless_begun(folder))
                files.write_json(folder / files.CONFIG, config)
            out.print(facts("run", _facts(job, folder, begun, self.device, mesh)))
            out.print()
            print_whole(out, layers(job.summary))
            out.print()
            what = engine.things(dataset.input_shape)
            with Report(out, options.training.epochs or 0, what) as report:
                save = checkpoints if every else None
                on = {"mesh": mesh, "shard": self.device.shard}
                run = _fitted(job, inputs | on, folder, report, begun, save, logs)
            steps = job.steps_per_epoch * (options.training.epochs or 0)
            if run.stopped == train.EARLY_STOPPING and int(run.final.step) >= steps:
                run = run._replace(stopped=None)  # there was nothing left to stop
            if every and run.stopped in (None, train.EARLY_STOPPING, *SIGNALS):
                checkpoints.save(run)
            if not only_first():
                return _ended(run, job, folder, out)
            if run.stopped == "terminated":
                checkpoint.save_trained(folder, run.trained)
            else:
                rate = report.images_per_second
                result = _finished(run, job, folder, rate) | {
                    "seconds": time.perf_counter() - began + (begun.seconds if begun else 0.0),
                    "images_per_second": rate,
                    "nonfinite": len(run.nonfinite),
                    "stopped": run.stopped,
                }
                files.write_json(folder / files.RESULT, result)
                out.print(facts("result", result_rows(result, folder, what)))
                with drawing("funcnet train", folder / "curves.png", self.output.traceback):
                    _drawn(run, job, folder, result)
                if self.output.report:
                    page = folder / "report.html"
                    with drawing("funcnet train", page, self.output.traceback):
                        reports.write(folder, job.dataset, page)
        except (OSError, checkpoint.CheckpointError) as error:
            raise CommandError(f"{error}. What it has is in {folder}.", code=1) from error
        return _ended(run, job, folder, out)


# After Ctrl-C, test images are measured where that takes no longer.
_PATIENCE_SECONDS = 3.0
# What a signal makes of a run, and the exit code, as a shell has it.
SIGNALS = {"interrupted": 130, "terminated": 143}


def _ended(run: train.Run, job: Job, folder: Path, out: Any) -> int:
    """Says why a run ended before its last epoch, and how it goes on; returns the exit code."""
    again = f"funcnet train --resume --out {shlex.quote(str(folder))}"
    if run.stopped == train.EARLY_STOPPING:
        without = f"{job.options.stopping.patience} epochs without a better {job.goal.best.name}"
        after = f"Early stopping after step {int(run.final.step)}"
        out.print(f"{after}: {without}. It goes on by: {again}", soft_wrap=True)
        return 0
    if run.stopped in SIGNALS:
        after = f"{run.stopped.capitalize()} after step {int(run.final.step)}"
        hint = f"this is what it has. It goes on by: {again}"
        if lost := _stdout.lost():
            _stdout.say(f"funcnet train: stdout is closed ({lost.strerror}). {after}: {hint}")
            if run.stopped != "terminated":  # by the terminal that took stdout with it
                return _stdout.exit_code(lost)
        out.print(f"{after}: {hint}", soft_wrap=True)
        return SIGNALS[run.stopped]
    if run.stopped:
        what = run.stopped.partition(";")[0]
        hint = "A lower --learning-rate or other --preprocessing may help."
        raise CommandError(f"{what}. What it has is in {folder}. {hint}", code=1)
    return 0


def _checkpoints(
    folder: Path, options: Options, every: dict[str, Any] | None
) -> checkpoint.Checkpoints:
    training = dataclasses.replace(options.training, epochs=None)
    place = dataclasses.replace(options.data, data_dir=None, allow_unverified=False)
    if settings.is_own(place):  # they may be moved; what they are, their SHA-256 says
        place = dataclasses.replace(place, name=None)
    numbers = options._replace(training=training, data=place)
    config = {"command": " ".join(settings.command_line(numbers))}
    return checkpoint.Checkpoints(folder / "checkpoints", config=config, **(every or {}))


_TOLD = {"classification": "classes", "regression": "targets", "multilabel": "labels"}


def _facts(
    job: Job, folder: Path, begun: train.Run | None, devices: MeshOptions, mesh: Any
) -> Iterator[tuple[str, str]]:
    """The table before the run."""
    options, dataset = job.options, job.dataset
    shape = "×".join(map(str, dataset.input_shape))
    what = engine.things(dataset.input_shape)
    training: Any = options.training
    optimizer = options.optimizer
    splits = {"training": dataset.train, "validation": dataset.val, "test": dataset.test}
    yield "data", f"{dataset.name}, {dataset.num_classes} {_TOLD[dataset.task]}, {what} of {shape}"
    yield what, ", ".join(f"{len(split.labels):,} {name}" for name, split in splits.items())
    if dataset.reading is not None and dataset.reading["kind"] == "table":
        yield "columns", _listed([column["name"] for column in dataset.reading["columns"]])
    yield "input", f"{training.preprocessing}, augmentation {training.augment}"
    yield "net", f"{options.net.name}: {job.summary.parameters:,} parameters{_said(options.net)}"
    yield "optimizer", f"{optimizer.name}{_said(optimizer)}"
    loss = training.loss if dataset.task == "classification" else job.loss.__name__
    yield "loss", f"{loss}, reg {training.reg:g}, smoothing {training.label_smoothing:g}"
    yield (
        "training",
        (
            f"{training.epochs} epochs of {job.steps_per_epoch} steps, batches of "
            f"{job.batch_size} by {training.sampling}, seed {training.seed}"
        ),
    )
    if options.stopping.patience is not None:
        yield "patience", f"{options.stopping.patience} epochs, by {job.goal.best.name}"
    found = device()
    on_cpu = f"{cpu_model()}, {found['cpu_cores']} cores"
    on = on_cpu if found["platform"] == "cpu" else f"{found['count']} × {found['kind']}"
    yield "device", f"{found['platform']}: {on}"
    if used := devices.said(mesh):
        yield "mesh", used
    yield "folder", str(folder)
    if begun is not None:
        yield "goes on", f"after step {int(begun.final.step)}"


def _listed(names: list[str]) -> str:
    """As many of the names as a line has room for, and how many there are."""
    ends = itertools.accumulate(len(name) + 2 for name in names)
    shown = max(1, sum(end <= _LINE for end in ends))
    more = ", ..." if shown < len(names) else ""
    return f"{', '.join(names[:shown])[:_LINE]}{more} ({len(names)})"


_LINE = 50


def _said(group: Any) -> str:
    """The options of a group that have a value, in words."""
    parts = []
    for field in dataclasses.fields(group)[1:]:
        value = getattr(group, field.name)
        if value is not None and value != ():
            value = " ".join(map(str, value)) if isinstance(value, tuple) else value
            value = f"{value:g}" if isinstance(value, float) else value
            parts.append(f"{field.name.replace('_', ' ')} {value}")
    return "".join(f", {part}" for part in parts)


# --- The run


def _fitted(
    job: Job,
    inputs: dict[str, Any],
    folder: Path,
    report: Report,
    begun: train.Run | None,
    on_chunk: checkpoint.Checkpoints | None,
    logs: list[Callable[[dict[str, Any]], Any]],
) -> train.Run:
    """Runs `fit`, each row of its history on the disk as it comes."""
    training: Any = job.options.training
    net, optimizer, reg, loss, label_smoothing, compute_dtype, accumulate = job.trial
    rows = 0
    last_step = 0 if begun is None else int(begun.final.step)

    def on_progress(now: train.Progress) -> None:
        nonlocal last_step
        report.step(now, (now.step - last_step) * job.batch_size)
        last_step = now.step
        if _stdout.lost():
            raise KeyboardInterrupt  # as Ctrl-C: it ends with what it has

    patience = job.options.stopping.patience
    stop: Any = None
    if patience is not None:
        stop = train.early_stopping(patience, job.goal.best.name)

    def on_epoch(row: dict[str, Any]) -> str | None:
        nonlocal rows
        rows += 1
        file.write(files.line(row))
        file.flush()
        if only_first():
            os.fsync(file.fileno())
        report.epoch(row)
        return None if stop is None else stop(row)

    known = _known(begun)
    history: Any = folder / files.HISTORY if only_first() else os.devnull
    if only_first():
        files.write_history(history, known)
    for row in known if stop is not None else ():
        stop(row)
    try:
        with open(history, "ab") as file:
            return train.fit(
                net,
                job.dataset,
                optimizer,
                training.epochs,
                job.batch_size,
                training.seed,
                loss=loss,
                best=job.options.stopping.best,
                reg=reg,
                label_smoothing=label_smoothing,
                compute_dtype=compute_dtype,
                accumulate=accumulate,
                sampling=training.sampling,
                resume=begun,
                on_progress=on_progress,
                on_epoch=[on_epoch, *logs],
                on_chunk=on_chunk,
                **inputs,
            )
    except checkpoint.CheckpointError:
        raise
    except data.SourceError as error:
        if error.run is not None and on_chunk is not None:
            on_chunk.save(error.run)
        raise
    except (ValueError, TypeError) as error:
        if rows or begun is not None:
            raise
        raise CommandError(str(error)) from error


def _known(begun: train.Run | None) -> list[dict[str, Any]]:
    """The rows there are; that of the state before training waits for the first step's loss."""
    return [] if begun is None else [row for row in begun.history if row["loss"] is not None]


def _logs(
    kinds: tuple[str, ...], folder: Path, begun: train.Run | None
) -> list[Callable[[dict[str, Any]], Any]]:
    """What else writes the history; a table begins with the rows that there are."""
    logs: list[Callable[[dict[str, Any]], Any]] = []
    if not only_first():
        return logs
    if "tensorboard" in kinds:
        logs.append(train.tensorboard_log(folder / "tensorboard"))
    if "csv" in kinds:
        table = folder / "history.csv"
        table.unlink(missing_ok=True)
        logs.append(train.csv_log(table))
        for row in _known(begun):
            logs[-1](row)
    return logs


def _finished(
    run: train.Run, job: Job, folder: Path, images_per_second: float | None
) -> dict[str, Any]:
    """Writes the best parameters and the losses, and measures the best.

    Who presses Ctrl-C does not want to wait for the test images.
    """
    checkpoint.save_trained(folder, run.trained)
    with replacing(folder / "losses.npy") as file:
        np.save(file, run.losses, allow_pickle=False)
    test: dict[str, Any] = dict.fromkeys((*job.goal.metrics, "loss"))
    test_seconds = len(job.dataset.test.labels) / (images_per_second or math.inf)
    if run.stopped != "interrupted" or test_seconds < _PATIENCE_SECONDS:
        test = train.evaluate(job.trial.net, run.trained, job.dataset.test, loss=job.trial.loss)
    best = run.best_row
    return {
        "best_epoch": run.best_epoch,
        "epochs": job.options.training.epochs,
        "steps": int(run.final.step),
        **{f"val_{name}": best.get(f"val_{name}") for name in test},
        **{f"test_{name}": value for name, value in test.items()},
    }


def _drawn(run: train.Run, job: Job, folder: Path, result: dict[str, Any]) -> None:
    """Draws the curves of the run."""
    title, metric = f"{job.dataset.name}, {job.options.net.name}", next(iter(job.goal.metrics))
    if result[f"test_{metric}"] is not None:
        title += f": {measured(metric, result[f'test_{metric}'])} test {metric}"
    plots.curves(run.history, run.losses, folder / "curves.png", title, best_epoch=run.best_epoch)
