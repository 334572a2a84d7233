"""`funcnet train`: trains a net on a data set, and leaves all of it in a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import math
import os
import shlex
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import checkpoint, data, nets, plots, train
from funcnet._files import replacing
from funcnet._machine import cpu_model, device, versions
from funcnet.cli import _train_options as settings
from funcnet.cli._command import CommandError, console, expected_errors, need
from funcnet.cli._train_options import (
    DataOptions,
    NetOptions,
    OptimizerOptions,
    Options,
    OutputOptions,
    TrainingOptions,
)
from funcnet.cli._train_report import Report, facts, layers, result_rows


def _recipes() -> str:
    lines = ["What is left unsaid:", ""]
    for name, (net, optimizer, training) in settings.RECIPES.items():
        hidden = " ".join(map(str, net.hidden or ()))
        lines.append(
            f"  {name:14}--net {net.name} --hidden {hidden} --norm {net.norm} --optimizer "
            f"{optimizer.name}"
        )
        lines.append(
            f"  {'':14}--learning-rate {optimizer.learning_rate} --lr-decay {optimizer.lr_decay} "
            f"--epochs {training.epochs} --batch-size {training.batch_size}"
        )
    rates = ", ".join(f"{name} {rate:g}" for name, rate in settings.RATES.items())
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
  funcnet train --data cifar10 --net fully_connected --hidden 500 500 500 --norm batch \\
    --optimizer adam --lr-decay 0.9 --weight-scale 0.01 --preprocessing mean_image

Ctrl-C ends a run with what it has.
Exit codes: 0 done; 1 ended by a loss that is not finite; 2 wrong options or data; 130 Ctrl-C.
"""

    def run(self) -> int:
        """Trains, prints and writes; returns the exit code."""
        need("matplotlib")
        out = console(self.output.quiet)
        with expected_errors():
            options = settings.resolved(Options(self.data, self.net, self.optimizer, self.training))
            with _downloads_said(out.print):
                dataset = _loaded(options.data)
            job = _Job.of(options, dataset)
            folder = _claimed(self.output.out, options)
        try:
            with _unless_empty(folder):
                out.print(facts("run", _facts(options, dataset, job, folder)))
                out.print()
                out.print(layers(job.summary))
                out.print()
                with Report(out, job.epochs) as report:
                    run, seconds = _fitted(job, options, dataset, folder, report)
            result = _finished(run, job, options, dataset, folder) | {
                "seconds": seconds,
                "images_per_second": report.images_per_second,
                "stopped": run.stopped,
            }
            _write_json(folder / "result.json", result)
        except OSError as error:
            raise CommandError(f"{error}. What it has is in {folder}.", code=1) from error
        out.print(facts("result", result_rows(result, folder)))
        if run.stopped == "interrupted":
            out.print(f"Interrupted after step {int(run.final.step)}: this is what it has.")
            return 130
        if run.stopped:
            what = run.stopped.partition(";")[0]
            hint = "A lower --learning-rate or other --preprocessing may help."
            raise CommandError(f"{what}. What it has is in {folder}. {hint}", code=1)
        return 0


def _loaded(options: DataOptions) -> data.Dataset:
    made = options.name in ("digits", "synthetic")
    more = {} if made else {"verify": not options.allow_unverified}
    try:
        return data.load(options.name, options.data_dir, **more)
    except data.DataFormatError as error:
        message = str(error).replace("verify=False", "--allow-unverified")
        raise data.DataFormatError(message) from error


@dataclasses.dataclass(frozen=True)
class _Job:
    """What the options stand for, ready to be trained."""

    net: nets.Net
    summary: nets.Summary
    optimizer: Any
    loss: Callable[..., Any]
    preprocessing: data.Preprocessing
    augment: Callable[..., Any] | None
    epochs: int
    batch_size: int
    steps_per_epoch: int

    @classmethod
    def of(cls, options: Options, dataset: data.Dataset) -> _Job:
        """Builds all of it, and raises where it does not fit the data."""
        training, images = options.training, dataset.train.images
        assert training.epochs is not None
        assert training.batch_size is not None
        full = training.sampling == "full"
        batch_size = len(images) if full else training.batch_size
        if batch_size > len(images):
            raise CommandError(
                f"--batch-size is {batch_size}, expected at most {len(images)}, the number of "
                f"training images of {options.data.name}."
            )
        steps = train.steps_per_epoch(len(images), batch_size)
        net = settings.build_net(options.net, dataset.num_classes)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its table, and we another
            summary = nets.summary(net, dataset.input_shape)

        def first_step(key: Any) -> Any:
            x = jnp.zeros((batch_size, *dataset.input_shape), jnp.float32)
            return net.apply(*net.init(key, dataset.input_shape), x, train=True, key=key)

        jax.eval_shape(first_step, jax.random.key(0))  # a batch of one may be too small for it
        kind: Any = training.preprocessing
        return cls(
            net,
            summary,
            settings.build_optimizer(options.optimizer, steps),
            settings.LOSSES[training.loss],
            data.fit_preprocessing(images, kind, dataset.full_scale),
            settings.build_augmentation(training.augment, images),
            training.epochs,
            batch_size,
            steps,
        )


def _facts(
    options: Options, dataset: data.Dataset, job: _Job, folder: Path
) -> Iterator[tuple[str, str]]:
    """The table before the run."""
    shape = "×".join(map(str, dataset.input_shape))
    training, optimizer = options.training, options.optimizer
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
            f"{job.epochs} epochs of {job.steps_per_epoch} steps, batches of {job.batch_size} by "
            f"{training.sampling}, seed {training.seed}"
        ),
    )
    found = device()
    on_cpu = f"{cpu_model()}, {found['cpu_cores']} cores"
    on = on_cpu if found["platform"] == "cpu" else f"{found['count']} × {found['kind']}"
    yield "device", f"{found['platform']}: {on}"
    yield "folder", str(folder)


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


# --- The run and its folder


def _claimed(out: str | None, options: Options) -> Path:
    """Makes the folder of the run and its config.json, or raises CommandError.

    Whoever makes config.json has the folder: two runs never share one.
    """
    if out is not None:
        return _claim(Path(out), options)
    stem = f"runs/{options.data.name}-{options.net.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", *(f"-{i}" for i in range(2, 100))):
        if not Path(stem + suffix).exists():
            with contextlib.suppress(_TakenError):
                return _claim(Path(stem + suffix), options)
    raise CommandError(f"{stem} to {stem}-99 are there already; name a folder by --out.")


class _TakenError(CommandError):
    """There is something in the folder."""


def _claim(folder: Path, options: Options) -> Path:
    taken = _TakenError(f"--out: {folder} is not empty, and nothing is overwritten; name another.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise taken
        with open(folder / "config.json", "x", encoding="utf-8") as file:
            file.write(_json(_config(options)))
    except FileExistsError:
        if folder.is_dir():
            raise taken from None
        raise CommandError(f"--out: {folder} is a file, expected a folder.") from None
    except OSError as error:
        reason = error.strerror or error
        raise CommandError(f"--out: cannot write into {folder}: {reason}.") from error
    return folder


@contextlib.contextmanager
def _unless_empty(folder: Path) -> Iterator[None]:
    """Takes the folder away again where the block fails before the first row of the history."""
    try:
        yield
    except BaseException:
        history = folder / "history.jsonl"
        if not history.exists() or not history.stat().st_size:
            for path in (history, folder / "config.json"):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _config(options: Options) -> dict[str, Any]:
    return {
        "command": shlex.join(["funcnet", *settings.command_line(options)]),
        "options": {name: dataclasses.asdict(group) for name, group in options._asdict().items()},
        "seed": options.training.seed,
        "versions": versions(),
        "device": device(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _fitted(
    job: _Job, options: Options, dataset: data.Dataset, folder: Path, report: Report
) -> tuple[train.Run, float]:
    """Runs `fit`, each row of its history on the disk as it comes; returns the seconds, too."""
    training = options.training
    rows, last_step = 0, 0

    def on_progress(now: train.Progress) -> None:
        nonlocal last_step
        report.step(now, (now.step - last_step) * job.batch_size)
        last_step = now.step

    def on_epoch(row: dict[str, Any]) -> None:
        nonlocal rows
        rows += 1
        file.write(json.dumps(_finite(row), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
        report.epoch(row)

    began = time.perf_counter()
    try:
        with (
            open(folder / "history.jsonl", "x", encoding="utf-8") as file,
            warnings.catch_warnings(),
        ):
            # That the loss is not finite is said in the end, as what ended the run.
            warnings.filterwarnings("ignore", "the (loss|gradient) is", RuntimeWarning)
            sampling: Any = training.sampling
            run = train.fit(
                job.net,
                dataset,
                job.optimizer,
                job.epochs,
                job.batch_size,
                training.seed,
                loss=job.loss,
                reg=training.reg,
                label_smoothing=training.label_smoothing,
                compute_dtype=None
                if training.compute_dtype == "float32"
                else training.compute_dtype,
                sampling=sampling,
                preprocessing=job.preprocessing,
                augment=job.augment,
                on_progress=on_progress,
                on_epoch=on_epoch,
            )
    except (ValueError, TypeError) as error:
        if rows:
            raise
        raise CommandError(str(error)) from error
    return run, time.perf_counter() - began


def _finished(
    run: train.Run, job: _Job, options: Options, dataset: data.Dataset, folder: Path
) -> dict[str, Any]:
    """Writes the best parameters, the losses and the curves, and measures the best."""
    checkpoint.save_params(folder / "best.npz", *run.best[:2], run.preprocessing)
    with replacing(folder / "losses.npy") as file:
        np.save(file, run.losses, allow_pickle=False)
    test = train.evaluate(job.net, run.best, dataset.test, run.preprocessing, loss=job.loss)
    best = next(row for row in run.history if row["epoch"] == run.best_epoch)
    plots.curves(
        run.history,
        run.losses,
        folder / "curves.png",
        title=f"{dataset.name}, {options.net.name}: {100 * test['accuracy']:.2f} % test accuracy",
    )
    return {
        "best_epoch": run.best_epoch,
        "epochs": job.epochs,
        "steps": int(run.final.step),
        "val_accuracy": best["val_accuracy"],
        "val_loss": best["val_loss"],
        "test_accuracy": test["accuracy"],
        "test_loss": test["loss"],
    }


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with None for what JSON has no numbers for."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write(_json(value).encode())


def _json(value: dict[str, Any]) -> str:
    return json.dumps(_finite(value), indent=2, allow_nan=False) + "\n"


@contextlib.contextmanager
def _downloads_said(say: Callable[[str], Any]) -> Iterator[None]:
    """Says on the console what `data.load` logs: that it downloads."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    logger, handler = logging.getLogger("funcnet.data"), Handler(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
