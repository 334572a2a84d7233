"""`funcnet train`: trains a net on a data set, and leaves all of it in a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shlex
import signal
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from funcnet import checkpoint, data, plots, train
from funcnet._files import replacing
from funcnet._machine import cpu_model, device
from funcnet.cli import _stdout
from funcnet.cli import _train_folder as files
from funcnet.cli import _train_options as settings
from funcnet.cli._command import CommandError, console, drawing, expected_errors, print_whole
from funcnet.cli._jobs import Job, loaded
from funcnet.cli._train_options import (
    DataOptions,
    NetOptions,
    OptimizerOptions,
    Options,
    OutputOptions,
    TrainingOptions,
)
from funcnet.cli._train_report import Report, facts, layers, result_rows
from funcnet.optimizers import OPTIMIZERS


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
    rates = ", ".join(f"{name} {rule.learning_rate:g}" for name, rule in OPTIMIZERS.items())
    lines += ["", *textwrap.wrap(f"Learning rates of other optimizers: {rates}.", 90)]
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a net on a data set: without options on digits, in a few seconds."""

    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    net: NetOptions = dataclasses.field(default_factory=NetOptions)
    optimizer: OptimizerOptions = dataclasses.field(default_factory=OptimizerOptions)
    training: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)
    output: OutputOptions = dataclasses.field(default_factory=OutputOptions)

    EPILOG: ClassVar[str] = f"""
{_recipes()}

Examples:

  funcnet train
  funcnet train --net two_layer_convnet --epochs 10 --out runs/convnet
  funcnet train --data mnist --optimizer nesterov --dropout 0.2 --seed 1
  funcnet train --resume --epochs 40
  funcnet train --data cifar10 --net fully_connected --hidden 500 500 500 --norm batch \\
    --optimizer adam --lr-decay 0.9 --weight-scale 0.01 --preprocessing mean_image

Ctrl-C ends a run with what it has, and --resume goes on with it: on one thread to the same bits as
if it had never been stopped. SIGTERM and a terminal that closes (SIGHUP) only save. A second signal
ends it at once.
A closed stdout, as of `funcnet train | head`, ends a run as Ctrl-C does.
Exit codes: 0 done; 1 ended by a loss that is not finite, or by a full disk or memory; 2 wrong
options or data, or another process in the folder; 130 Ctrl-C; 141 closed stdout; 143 SIGTERM
or SIGHUP.
"""

    def run(self) -> int:
        """Trains, prints and writes; returns the exit code."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_endings())
            stack.enter_context(_warnings_said())
            return self._run(console(self.output.quiet), stack)

    def _run(self, out: Any, stack: contextlib.ExitStack) -> int:
        said = Options(self.data, self.net, self.optimizer, self.training)
        config: dict[str, Any] = {}
        with expected_errors():
            settings.saving(self.output.checkpoint_every, 1)
            if self.output.resume:
                folder, config = files.reopened(self.output.out, stack)
                options = settings.reconciled(said, settings.from_config(config["options"]), folder)
            else:
                options = settings.resolved(said)
            job = Job(options, loaded(options.data, out.print))
            stack.enter_context(job.at_precision())
            inputs = {"preprocessing": job.preprocessing(), "augment": job.augment()}
            now = files.configuration(options, job.dataset)
            if self.output.resume:
                config, changed = files.gone_on(config, now, folder)
                for line in changed:
                    _stdout.say(f"funcnet train: warning: {line}: bits may differ")
            else:
                folder, config = files.claimed(self.output.out, options, stack), now
            every = settings.saving(self.output.checkpoint_every, job.steps_per_epoch)
            checkpoints = _checkpoints(folder, options, every)
            begun = checkpoints.restore(job.template()) if self.output.resume else None
        began = time.perf_counter()
        try:
            if not self.output.resume:
                stack.enter_context(files.unless_begun(folder))
            files.write_json(folder / files.CONFIG, config)
            out.print(facts("run", _facts(job, folder, begun)))
            out.print()
            print_whole(out, layers(job.summary))
            out.print()
            with Report(out, options.training.epochs or 0) as report:
                save = checkpoints if every else None
                run = _fitted(job, inputs, folder, report, begun, save)
            if every and run.stopped in (None, *SIGNALS):
                checkpoints.save(run)
            if run.stopped != "terminated":
                rate = report.images_per_second
                result = _finished(run, job, folder, rate) | {
                    "seconds": time.perf_counter() - began + (begun.seconds if begun else 0.0),
                    "images_per_second": rate,
                    "nonfinite": len(run.nonfinite),
                    "stopped": run.stopped,
                }
                files.write_json(folder / "result.json", result)
                out.print(facts("result", result_rows(result, folder)))
                with drawing("funcnet train", folder / "curves.png", self.output.traceback):
                    _drawn(run, job, folder, result["test_accuracy"])
        except (OSError, checkpoint.CheckpointError) as error:
            raise CommandError(f"{error}. What it has is in {folder}.", code=1) from error
        if run.stopped in SIGNALS:
            again = f"funcnet train --resume --out {shlex.quote(str(folder))}"
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


# After Ctrl-C, test images are measured where that takes no longer.
_PATIENCE_SECONDS = 3.0
# What a signal makes of a run, and the exit code, as a shell has it.
SIGNALS = {"interrupted": 130, "terminated": 143}


@contextlib.contextmanager
def _endings() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP end the run in good order, where nobody else has a use for them."""
    main = threading.current_thread() is threading.main_thread()
    ours = [s for s in train.ENDINGS if main and signal.getsignal(s) is signal.SIG_DFL]
    for signum in ours:
        signal.signal(signum, train.terminate)
    try:
        yield
    finally:
        for signum in ours:
            signal.signal(signum, signal.SIG_DFL)


@contextlib.contextmanager
def _warnings_said() -> Iterator[None]:
    """Says on stderr, in a line each, what was skipped or passed over."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Any, category: Any, *place: Any, **more: Any) -> None:
            if category is RuntimeWarning:
                _stdout.say(f"funcnet train: warning: {message}")
            else:
                others(message, category, *place, **more)

        warnings.simplefilter("always", RuntimeWarning)
        # Why a run ended is said in the end.
        warnings.filterwarnings("ignore", ".*training ended there", RuntimeWarning)
        warnings.showwarning = show
        yield


def _checkpoints(
    folder: Path, options: Options, every: dict[str, Any] | None
) -> checkpoint.Checkpoints:
    training = dataclasses.replace(options.training, epochs=None)
    place = dataclasses.replace(options.data, data_dir=None, allow_unverified=False)
    numbers = options._replace(training=training, data=place)
    config = {"command": " ".join(settings.command_line(numbers))}
    return checkpoint.Checkpoints(folder / "checkpoints", config=config, **(every or {}))


def _facts(job: Job, folder: Path, begun: train.Run | None) -> Iterator[tuple[str, str]]:
    """The table before the run."""
    options, dataset = job.options, job.dataset
    shape = "×".join(map(str, dataset.input_shape))
    training: Any = options.training
    optimizer = options.optimizer
    splits = {"training": dataset.train, "validation": dataset.val, "test": dataset.test}
    yield "data", f"{dataset.name}, {dataset.num_classes} classes, images of {shape}"
    yield "images", ", ".join(f"{len(split.labels):,} {name}" for name, split in splits.items())
    yield "input", f"{training.preprocessing}, augmentation {training.augment}"
    yield "net", f"{options.net.name}: {job.summary.parameters:,} parameters{_said(options.net)}"
    yield "optimizer", f"{optimizer.name}{_said(optimizer)}"
    yield "loss", f"{training.loss}, reg {training.reg:g}, smoothing {training.label_smoothing:g}"
    yield (
        "training",
        (
            f"{training.epochs} epochs of {job.steps_per_epoch} steps, batches of "
            f"{job.batch_size} by {training.sampling}, seed {training.seed}"
        ),
    )
    found = device()
    on_cpu = f"{cpu_model()}, {found['cpu_cores']} cores"
    on = on_cpu if found["platform"] == "cpu" else f"{found['count']} × {found['kind']}"
    yield "device", f"{found['platform']}: {on}"
    yield "folder", str(folder)
    if begun is not None:
        yield "goes on", f"after step {int(begun.final.step)}"


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
    on_chunk: Callable[[train.Run], Any] | None,
) -> train.Run:
    """Runs `fit`, each row of its history on the disk as it comes."""
    training: Any = job.options.training
    net, optimizer, reg, loss, label_smoothing, compute_dtype = job.trial
    rows = 0
    last_step = 0 if begun is None else int(begun.final.step)

    def on_progress(now: train.Progress) -> None:
        nonlocal last_step
        report.step(now, (now.step - last_step) * job.batch_size)
        last_step = now.step
        if _stdout.lost():
            raise KeyboardInterrupt  # as Ctrl-C: it ends with what it has

    def on_epoch(row: dict[str, Any]) -> None:
        nonlocal rows
        rows += 1
        file.write(files.line(row))
        file.flush()
        os.fsync(file.fileno())
        report.epoch(row)

    # A row of the state before training waits for the first step's loss.
    known = [] if begun is None else [row for row in begun.history if row["loss"] is not None]
    files.write_history(folder / files.HISTORY, known)
    try:
        with open(folder / files.HISTORY, "ab") as file:
            return train.fit(
                net,
                job.dataset,
                optimizer,
                training.epochs,
                job.batch_size,
                training.seed,
                loss=loss,
                reg=reg,
                label_smoothing=label_smoothing,
                compute_dtype=compute_dtype,
                sampling=training.sampling,
                resume=begun,
                on_progress=on_progress,
                on_epoch=on_epoch,
                on_chunk=on_chunk,
                **inputs,
            )
    except checkpoint.CheckpointError:
        raise
    except (ValueError, TypeError) as error:
        if rows or begun is not None:
            raise
        raise CommandError(str(error)) from error


def _finished(
    run: train.Run, job: Job, folder: Path, images_per_second: float | None
) -> dict[str, Any]:
    """Writes the best parameters and the losses, and measures the best.

    Who presses Ctrl-C does not want to wait for the test images.
    """
    checkpoint.save_params(folder / "best.npz", *run.best[:2], run.preprocessing)
    with replacing(folder / "losses.npy") as file:
        np.save(file, run.losses, allow_pickle=False)
    test: dict[str, Any] = {"accuracy": None, "loss": None}
    test_seconds = len(job.dataset.test.labels) / (images_per_second or math.inf)
    if run.stopped != "interrupted" or test_seconds < _PATIENCE_SECONDS:
        test = train.evaluate(job.trial.net, run, job.dataset.test, loss=job.trial.loss)
    best = next(row for row in run.history if row["epoch"] == run.best_epoch)
    return {
        "best_epoch": run.best_epoch,
        "epochs": job.options.training.epochs,
        "steps": int(run.final.step),
        "val_accuracy": best["val_accuracy"],
        "val_loss": best["val_loss"],
        "test_accuracy": test["accuracy"],
        "test_loss": test["loss"],
    }


def _drawn(run: train.Run, job: Job, folder: Path, accuracy: float | None) -> None:
    """Draws the curves of the run."""
    title = f"{job.dataset.name}, {job.options.net.name}"
    if accuracy is not None:
        title += f": {100 * accuracy:.2f} % test accuracy"
    plots.curves(run.history, run.losses, folder / "curves.png", title=title)
