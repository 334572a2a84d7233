"""The best fully-connected net on CIFAR-10: the courses' random search, and one that goes further.

    python -m experiments.best_net --part trials --trials 0 1 2    # and so on, to 24
    python -m experiments.best_net --part chosen
    python -m experiments.best_net --part two --nets augmented
    python -m experiments.best_net --part best --nets wide

Rows 1-17, 1-34, 1-35, 2-12, 2-13 and 4-28. 49,000 images to train on, 1,000 to choose on; the test
images were looked at once a run. Two AVX-512 cores that other work used, too; alone a trial takes
70 seconds.

**The courses' trials** (1-34): their 25 triples to the bit, [100, 400, 400, 400, 100], batch norm,
Adam, 20 epochs of batches of 50. The best validation accuracies are .582 (trial 24), .574 (6), .572
(19) and .570 (trial 4, the course's best with .581). Trial 24 with three other seeds: validation
.576 +- .002, test .545 +- .011; the net that the course delivered got .551 and .507.

**Two layers** (1-17; the course: .539): trained as there, with 100 units: validation .528, test
.517 (one seed). 512 units, flips and crops, dropout .1, AdamW: validation .571 +- .006, test .545
+- .003 (three seeds).

**The best one**: three layers of 1,024 with batch norm, dropout .1, flips and small crops, label
smoothing, AdamW, 25 epochs of batches of 500: validation .665 +- .004, test .632 +- .005 (three
seeds: .6317, .6366, .6264).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from experiments import _images, _study
from funcnet import checkpoint, data, nets, optimizers, plots, sweep, train

HIDDEN, BATCH, TRIAL_SEED = (100, 400, 400, 400, 100), 50, 123
WORDS = {"two": "two layers", "best": "four layers"}


class Recipe(NamedTuple):
    """A net and how it is trained; `crop` pixels of padding for random crops beside flips."""

    hidden: tuple[int, ...]
    epochs: int
    batch: int
    rate: float
    rule: str = "adamw"
    norm: Literal["batch"] | None = None
    dropout: float = 0.0
    weight_decay: float = 0.0
    smoothing: float = 0.0
    crop: int | None = None
    weight_scale: Any = "he"


NETS = {
    "two": {
        "course": Recipe((100,), 20, 400, 1e-3, "sgd", weight_scale=1e-3),
        "augmented": Recipe((512,), 15, 250, 1e-3, dropout=0.1, crop=2),
    },
    "best": {
        "wide": Recipe(
            (1024,) * 3,
            epochs=25,
            batch=500,
            rate=3e-3,
            norm="batch",
            dropout=0.1,
            weight_decay=0.05,
            smoothing=0.1,
            crop=2,
        ),
    },
}


@dataclasses.dataclass(frozen=True)
class Options(_study.Options):
    """Which part to run."""

    part: str = "all"
    """"trials" (the courses' search), "chosen" (its best trial again, with the test rows), "two"
    (two-layer nets), "best" (the best net), or "all"."""
    trials: tuple[int, ...] = tuple(range(25))
    """Which of the 25 trials."""
    nets: tuple[str, ...] = ()
    """Names of nets for the parts "two" and "best"; none for all of them."""
    stop_after: float | None = None
    """Seconds after which a run stops; the same command takes it up again."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs that are reported."""


def triples() -> dict[str, np.ndarray]:
    """The courses' 25 rates, penalties and weight scales, to the bit."""
    random = np.random.RandomState(123)
    return {
        "learning_rate": 10 ** random.uniform(-2, -4, 25),
        "reg": 10 ** random.uniform(0, -4, 25),
        "weight_scale": random.uniform(1e-2, 5e-2, 25),
    }


def measure(options: Options) -> Iterator[_study.Record]:
    """The parts that are asked for."""
    dataset = _study.load("cifar10", options.smoke)
    part, smoke = options.part, options.smoke
    epochs = 1 if smoke else 20
    if part in ("trials", "all"):
        trials = options.trials[:1] if smoke else options.trials
        hidden = HIDDEN[:1] if smoke else HIDDEN
        yield from trial_records(dataset, trials, (TRIAL_SEED,), epochs, hidden)
    if part in ("chosen", "all") and not smoke:
        rows = _study.read(options.folder / "records" / "best_net.jsonl")
        best = max(_study.matching(rows, part="trial"), key=lambda row: row["result"]["best_val"])
        trials = (best["config"]["trial"],)
        yield from trial_records(dataset, trials, options.seeds, epochs, part="chosen")
    for name in ("two", "best"):
        if part in (name, "all"):
            chosen = options.nets or tuple(NETS[name])
            for net in chosen[:1] if smoke else chosen:
                recipe = NETS[name][net]
                if smoke:
                    recipe = recipe._replace(epochs=1, hidden=(20,), batch=100)
                for seed in options.seeds[:1] if smoke else options.seeds:
                    found = trained(name, net, recipe, dataset, seed, options)
                    if found is None:
                        print(f"best_net: {net}, seed {seed}: stopped; run again to go on")
                        return
                    yield found


def trained(
    part: str, name: str, recipe: Recipe, dataset: data.Dataset, seed: int, options: Options
) -> _study.Record | None:
    """One run of a recipe; None where it had to stop, its checkpoint in the temporary folder."""
    steps = train.steps_per_epoch(len(dataset.train.labels), recipe.batch)
    net = nets.fully_connected_net(
        recipe.hidden, 10, recipe.norm, recipe.dropout, weight_scale=recipe.weight_scale
    )
    config = {"part": part, "net": name, "seed": seed, **recipe._asdict()}
    fit: dict[str, Any] = {"preprocessing": "standardised", "label_smoothing": recipe.smoothing}
    if recipe.rule == "sgd":
        schedule = train.decay_per_epoch(recipe.rate, 0.95, steps)
        optimizer = optimizers.sgd(schedule)
        fit |= {"preprocessing": "mean_image", "sampling": "replacement"}
    else:
        total = recipe.epochs * steps
        schedule = optax.warmup_cosine_decay_schedule(0.0, recipe.rate, total // 10, total)
        optimizer = optimizers.adamw(schedule, weight_decay=recipe.weight_decay)
    if recipe.crop is not None:
        crop = partial(data.random_crop, padding=recipe.crop)
        fit["augment"] = data.compose(data.random_flip, crop)

    digest = hashlib.sha256(json.dumps(config).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"funcnet_best_net_{digest}"
    kept = checkpoint.Checkpoints(folder, keep=1, config=config)
    template = train.init_state(net, optimizer, jax.random.key(seed), dataset.input_shape)
    began = time.perf_counter()

    def stop_in_time(run: train.Run) -> None:
        if options.stop_after is not None and time.perf_counter() - began > options.stop_after:
            kept.save(run)
            raise KeyboardInterrupt

    with _study.timed() as watch:
        run = train.fit(
            net,
            dataset,
            optimizer,
            recipe.epochs,
            recipe.batch,
            seed,
            resume=kept.restore(template),
            on_chunk=stop_in_time,
            **fit,
        )
    if run.stopped is not None:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    result = {
        "val": run.history["val_accuracy"],
        "train": run.history["train_accuracy"],
        "first_loss": float(run.losses[0]),
        "last_loss": float(np.mean(run.losses[-steps:])),
        "best_val": max(run.history["val_accuracy"]),
        "best_epoch": run.best_epoch,
        "test": train.evaluate(net, run, dataset.test)["accuracy"],
    }
    # A run that went on after a stop has seconds of more than one process; they count no compiling.
    seconds = run.seconds + watch.compile_seconds
    return watch.record(config, result)._replace(seconds=seconds)


def trial_records(
    dataset: data.Dataset,
    trials: tuple[int, ...],
    seeds: tuple[int, ...],
    epochs: int,
    hidden: tuple[int, ...] = HIDDEN,
    part: str = "trial",
) -> Iterator[_study.Record]:
    """Some of the 25 trials, as one program; those of the part "chosen" see the test rows."""
    steps = train.steps_per_epoch(len(dataset.train.labels), BATCH)

    def make(learning_rate: Any, reg: Any, weight_scale: Any) -> sweep.Trial:
        net = nets.fully_connected_net(hidden, 10, norm="batch", weight_scale=weight_scale)
        schedule = train.decay_per_epoch(learning_rate, 0.95, steps)
        return sweep.Trial(net, optimizers.adam(schedule), reg)

    values = {name: column[list(trials)] for name, column in triples().items()}
    with _study.timed() as watch:
        result = sweep.run(
            make,
            dataset,
            values,
            seeds,
            epochs,
            BATCH,
            how="loop",
            keep=("best",) if part == "chosen" else (),
            preprocessing="mean_image",
        )
    count = len(result.seeds)
    for index in range(count):
        member = result.member(index)
        found = {
            "val": member.val_accuracy,
            "train": member.train_accuracy,
            "best_val": result.best_val_accuracy[index],
            "best_epoch": result.best_epoch[index],
            "last_loss": float(np.mean(member.losses[-steps:])),
        }
        if part == "chosen":
            net = make(**member.values).net
            on_test = train.evaluate(net, member.best, dataset.test, result.preprocessing)
            found["test"] = on_test["accuracy"]
        config = {"part": part, "trial": trials[index // len(seeds)], **member.values}
        config |= {"epochs": epochs} | ({"seed": member.seed} if part == "chosen" else {})
        yield _study.Record(config, found, watch.seconds / count, watch.compile_seconds / count)


def draw(rows: _study.Rows, folder: Path) -> None:
    """The trials by their best accuracy, the other nets' means, and the figures of both."""
    trials = _study.matching(rows, part="trial")
    for row in sorted(trials, key=lambda row: -row["result"]["best_val"]):
        config, found = row["config"], row["result"]
        print(f"trial {config['trial']:2}  rate {config['learning_rate']:.3e}  reg "
              f"{config['reg']:.3e}  scale {config['weight_scale']:.4f}  best val "
              f"{found['best_val']:.3f} (epoch {found['best_epoch']})")  # fmt: skip
    groups: dict[str, _study.Rows] = {}
    for row in rows:
        config = row["config"]
        if config["part"] == "chosen":
            groups.setdefault(f"trial {config['trial']}", []).append(row)
        elif config["part"] in NETS:
            name = f"{WORDS[config['part']]}, {config['net']}"
            groups.setdefault(name, []).append(row)
    for name, group in groups.items():
        said = {
            "best val": [row["result"]["best_val"] for row in group],
            "test": [row["result"]["test"] for row in group],
            "last train": [row["result"]["train"][-1] for row in group],
            "seconds": [row["seconds"] for row in group],
        }
        print(f"{name}: " + ", ".join(f"{k} {_study.mean_and_spread(v)}" for k, v in said.items()))
    if trials:
        draw_trials(trials, folder)
    if groups:
        draw_nets(groups, folder)


@plots.style()
def draw_trials(rows: _study.Rows, folder: Path) -> None:
    """Each trial's validation accuracy by epoch, and its best over each of the three values."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14.0, 4.2), layout="constrained")
    epochs, *panels = figure.subplots(1, 4, sharey=True)
    best = max(rows, key=lambda row: row["result"]["best_val"])
    for row in [*(row for row in rows if row is not best), best]:
        config, found, is_best = row["config"], row["result"], row is best
        colour = "#D55E00" if is_best else "0.6"
        label = f"trial {config['trial']}: {found['best_val']:.3f}" if is_best else None
        epochs.plot(100 * np.array(found["val"]), color=colour, lw=1.8 if is_best else 1)
        for axes, name in zip(panels, triples(), strict=True):
            at = config[name], 100 * found["best_val"]
            axes.plot(*at, "o", color=colour if is_best else "#0072B2", ms=6, label=label)
    epochs.set(xlabel="epoch", ylabel="validation accuracy (%)")
    words = ("learning rate", "penalty", "weight scale")
    for axes, name in zip(panels, words, strict=True):
        axes.axhline(58.1, color="0.4", ls=":", lw=1.2)
        axes.set(xlabel=name, xscale="linear" if name == "weight scale" else "log")
    panels[0].legend(fontsize=10, loc="lower left")
    title = (
        f"{len(rows)} trials, [100, 400, 400, 400, 100]; dotted: the best that the course printed"
    )
    figure.suptitle(title, fontsize=13)
    _images.save(figure, folder / "best_net_trials.png", dpi=80, colours=64)


@plots.style()
def draw_nets(groups: dict[str, _study.Rows], folder: Path) -> None:
    """Validation accuracy by epoch of the nets that are reported, and their tests."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 4.8), layout="constrained")
    axes = figure.subplots()
    colours = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7")
    for number, (name, group) in enumerate(groups.items()):
        colour = colours[number % len(colours)]
        for row in group:
            axes.plot(100 * np.array(row["result"]["val"]), color=colour, lw=1.2, alpha=0.8)
        test = 100 * np.mean([row["result"]["test"] for row in group])
        axes.plot([], color=colour, label=f"{name} ({len(group)} seeds; test {test:.1f})")
    axes.set(xlabel="epoch", ylabel="validation accuracy (%)")
    axes.legend(loc="lower right", fontsize=10)
    axes.set_title("fully-connected nets on CIFAR-10, each seed", fontsize=12)
    _images.save(figure, folder / "best_net_nets.png", dpi=90, colours=64)


if __name__ == "__main__":
    _study.main("best_net", __doc__, Options, measure, draw)
