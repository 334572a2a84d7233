"""Thirteen rules on the courses' net of five hidden layers: at their rates, and each tuned alike.

    python -m experiments.optimizers --part course
    python -m experiments.optimizers --part tuned --rules sgd momentum nesterov    # and so on

Rows 0-13 to 0-18, 1-27 to 1-32, 2-8, 2-11 and 3-23. The first 4,000 CIFAR-10 images, five layers of
100, weights from .05 N(0, 1), batches of 100, 5 epochs (200 steps). Five seeds at the courses'
rates; and for each rule the best of 12 rates over three decades, by the mean of three other seeds'
validation accuracies, then five seeds of it: the same budget for all. Minutes in all.

At the courses' rates, best validation and last training accuracy (the course's run of 1-27, 1-31):
SGD .339 +- .013, .427 (.323, .437); momentum .381 +- .010, .524 (.384, .515); Nesterov .371 +-
.010, .568; RMSProp 2e-4 .389 +- .006, .608, and 1e-4 .364 +- .012, .540 (.375, .532); Adam .377 +-
.016, .571 (.382, .573). So momentum does better than SGD, and Nesterov no better than momentum.

Tuned: nadam .388 +- .013, adam .386 +- .012, adamw .382 +- .013, adamax .381 +- .012, lion .379 +-
.011, rmsprop .378 +- .005, lamb .372 +- .011, adadelta .367 +- .006, momentum .366 +- .004, muon
.364 +- .009, sgd .359 +- .021, nesterov .359 +- .014, adagrad .358 +- .010. The spread of seeds is
as wide as the differences within the adaptive rules. Muon learns the training images by far the
fastest (.836 at the end, the others .48 to .65), which on 4,000 images is overfitting.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import _images, _study
from funcnet import data, nets, optimizers, plots, sweep

ROWS, HIDDEN, SCALE, EPOCHS, BATCH = 4000, (100,) * 5, 5e-2, 5, 100
COUNT, DECADES, SEARCH_SEEDS = 12, 3.0, (10, 11, 12)


class Rule(NamedTuple):
    """A rule, the middle of its range of rates, and how it is drawn."""

    make: Callable[[Any], Any]
    middle: float
    colour: str
    line: str = "-"


RULES = {
    "sgd": Rule(optimizers.sgd, 3e-3, "#000000"),
    "momentum": Rule(optimizers.momentum, 3e-3, "#E69F00"),
    "nesterov": Rule(optimizers.nesterov, 3e-3, "#D55E00"),
    "rmsprop": Rule(partial(optimizers.rmsprop, decay=0.99), 3e-4, "#009E73"),
    "adagrad": Rule(optimizers.adagrad, 3e-3, "#000000", "--"),
    "adadelta": Rule(optimizers.adadelta, 3e-1, "#009E73", "--"),
    "adam": Rule(optimizers.adam, 3e-4, "#0072B2"),
    "nadam": Rule(optimizers.nadam, 3e-4, "#0072B2", "--"),
    "adamax": Rule(optimizers.adamax, 1e-3, "#56B4E9", "--"),
    "adamw": Rule(optimizers.adamw, 3e-4, "#56B4E9"),
    "lion": Rule(optimizers.lion, 3e-5, "#E69F00", "--"),
    "lamb": Rule(optimizers.lamb, 3e-3, "#D55E00", "--"),
    "muon": Rule(optimizers.muon, 1e-2, "#CC79A7"),
}
COURSE_RATES = (
    ("sgd", 1e-2),
    ("momentum", 1e-2),
    ("nesterov", 1e-2),
    ("rmsprop", 2e-4),
    ("rmsprop", 1e-4),
    ("adam", 1e-3),
)
PRINTED = {  # first loss, accuracy on training and validation rows at the end
    ("sgd", 1e-2): (2.559978, 0.437, 0.323),
    ("momentum", 1e-2): (3.153777, 0.515, 0.384),
    ("rmsprop", 1e-4): (2.589166, 0.532, 0.375),
    ("adam", 1e-3): (3.476928, 0.573, 0.382),
}


@dataclasses.dataclass(frozen=True)
class Options(_study.Options):
    """Which runs to make."""

    part: str = "all"
    """"course" (the courses' rates), "tuned" (a search for each rule, then its best), or "all"."""
    rules: tuple[str, ...] = tuple(RULES)
    """Rules to train with."""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Seeds of the runs that are reported; the search has its own."""


def rates(rule: str) -> np.ndarray:
    """Twelve rates over three decades, evenly spaced in their logarithm."""
    half = 10 ** (DECADES / 2)
    return np.geomspace(RULES[rule].middle / half, RULES[rule].middle * half, COUNT)


def measure(options: Options) -> Iterator[_study.Record]:
    """The courses' rates; then for each rule a search, and its best rate again."""
    dataset = _study.load("cifar10", options.smoke)
    mean_image = data.fit_preprocessing(dataset.train.images, "mean_image")
    dataset = dataset._replace(train=data.Split(*(a[:ROWS] for a in dataset.train)))
    seeds, rules, epochs = options.seeds, options.rules, EPOCHS
    if options.smoke:
        seeds, rules, epochs = (1,), rules[:1], 1
    if options.part in ("course", "all") and not options.smoke:
        for rule, rate in (pair for pair in COURSE_RATES if pair[0] in rules):
            yield from runs("course", dataset, mean_image, rule, [rate], seeds, epochs)
    if options.part in ("tuned", "all"):
        others = SEARCH_SEEDS[:1] if options.smoke else SEARCH_SEEDS
        for rule in rules:
            tried = rates(rule)[-2:] if options.smoke else rates(rule)
            yield from runs("search", dataset, mean_image, rule, tried, others, epochs)
            rows = _study.read(options.folder / "records" / "optimizers.jsonl")
            yield from runs("tuned", dataset, mean_image, rule, [chosen(rows, rule)], seeds, epochs)


def runs(
    part: str,
    dataset: data.Dataset,
    mean_image: data.Preprocessing,
    rule: str,
    tried: Any,
    seeds: tuple[int, ...],
    epochs: int,
) -> Iterator[_study.Record]:
    """A run for each rate and seed, all by one program."""

    def make(learning_rate: Any) -> sweep.Trial:
        net = nets.fully_connected_net(HIDDEN, 10, weight_scale=SCALE)
        return sweep.Trial(net, RULES[rule].make(learning_rate))

    with _study.timed() as watch:
        result = sweep.run(
            make,
            dataset,
            {"learning_rate": tried},
            seeds,
            epochs,
            BATCH,
            how="loop",
            keep=(),
            sampling="replacement",
            preprocessing=mean_image,
        )
    count = len(result.seeds)
    for index in range(count):
        member = result.member(index)
        best = float(np.nan_to_num(result.best_val_accuracy[index]))
        found: dict[str, Any] = {
            "best_val": best,
            "train": member.train_accuracy,
            "val": member.val_accuracy,
            "stopped_at": member.stopped_at,
        }
        if part != "search":
            found["losses"] = [float(f"{loss:.5g}") for loss in member.losses]
        config = {"part": part, "rule": rule, "rate": member.values["learning_rate"]}
        config |= {"seed": member.seed, "epochs": epochs}
        yield _study.Record(config, found, watch.seconds / count, watch.compile_seconds / count)


def draw(rows: _study.Rows, folder: Path) -> None:
    """The tables; three panels at the courses' rates and at the tuned ones; the search."""
    for part in ("course", "tuned"):
        some = _study.matching(rows, part=part)
        if part == "tuned":
            some = [
                row for row in some if row["config"]["rate"] == chosen(rows, row["config"]["rule"])
            ]
        groups: dict[tuple[str, float], _study.Rows] = {}
        for row in some:
            groups.setdefault((row["config"]["rule"], row["config"]["rate"]), []).append(row)
        ranked = sorted(groups.items(), key=lambda item: -mean(item[1], "best_val"))
        for (rule, rate), group in ranked:
            values = {
                "first loss": [row["result"]["losses"][0] for row in group],
                "last 40 losses": [np.mean(row["result"]["losses"][-40:]) for row in group],
                "train": [row["result"]["train"][-1] for row in group],
                "val": [row["result"]["val"][-1] for row in group],
                "best val": [row["result"]["best_val"] for row in group],
            }
            said = "  ".join(f"{k} {_study.mean_and_spread(v)}" for k, v in values.items())
            print(f"{part} {rule:9} {rate:.2e}  {said}  {PRINTED.get((rule, rate), '')}")
        if groups:
            draw_panels(part, dict(ranked), folder)
    if _study.matching(rows, part="tuned"):
        draw_search(rows, folder)


def searched(rows: _study.Rows, rule: str) -> dict[float, float]:
    """Each rate that was tried, and its best validation accuracy: the mean of the seeds."""
    found: dict[float, list[float]] = {}
    for row in _study.matching(rows, part="search", rule=rule):
        found.setdefault(row["config"]["rate"], []).append(row["result"]["best_val"])
    return {rate: float(np.mean(found[rate])) for rate in sorted(found)}


def chosen(rows: _study.Rows, rule: str) -> float:
    """The rate of a rule that the search has chosen."""
    found = searched(rows, rule)
    return max(found, key=lambda rate: found[rate])


def mean(group: _study.Rows, key: str) -> float:
    """The mean over a group's runs."""
    return float(np.mean([row["result"][key] for row in group]))


@plots.style()
def draw_panels(part: str, groups: dict[tuple[str, float], _study.Rows], folder: Path) -> None:
    """Loss by step, and both accuracies by epoch: means over the seeds, and their spread."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 5.4), layout="constrained")
    loss, *accuracies = figure.subplots(1, 3)
    twice = {rule for rule, _ in groups if sum(rule == other for other, _ in groups) > 1}
    for (rule, rate), group in groups.items():
        colour, line = RULES[rule].colour, RULES[rule].line
        if rule in twice and rate == min(r for name, r in groups if name == rule):
            line = ":"
        losses = np.array([row["result"]["losses"] for row in group]).mean(0)
        window = min(10, len(losses))
        smooth = np.convolve(losses, np.full(window, 1 / window), "valid")
        steps = np.arange(len(smooth)) + (window + 1) / 2
        loss.plot(steps, smooth, line, color=colour, lw=1.6, label=f"{rule} {rate:.2g}")
        for axes, key in zip(accuracies, ("train", "val"), strict=True):
            values = 100 * np.array([row["result"][key] for row in group])
            epochs = np.arange(values.shape[1])
            axes.plot(epochs, values.mean(0), line, color=colour, lw=1.6, marker="o", ms=3)
            if part == "course" and len(group) > 1:
                low, high = values.mean(0) + np.outer((-1, 1), values.std(0, ddof=1))
                axes.fill_between(epochs, low, high, color=colour, alpha=0.12, lw=0)
    seeds = max(map(len, groups.values()))
    loss.set(xlabel="step", ylabel="loss of a batch, mean of 10 steps and of the seeds")
    ends = [row["result"]["losses"] for group in groups.values() for row in group]
    loss.set_ylim(top=1.05 * max(np.mean(losses[:10]) for losses in ends))
    for axes, name in zip(accuracies, ("training", "validation"), strict=True):
        axes.set(xlabel="epoch", ylabel=f"{name} accuracy (%), mean of {seeds} seeds")
    which = "the courses' rates" if part == "course" else "each rule's best of 12 rates"
    if part == "course":
        which += " (bands: one standard deviation)"
    figure.suptitle(f"five hidden layers of 100, 4000 CIFAR-10 images: {which}", fontsize=13)
    figure.legend(loc="outside lower center", ncols=7)
    _images.save(figure, folder / f"optimizers_{part}.png", dpi=85, colours=96)


@plots.style()
def draw_search(rows: _study.Rows, folder: Path) -> None:
    """Accuracy by rate, and what each rule's best rate reached with other seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    names = [name for name in RULES if _study.matching(rows, part="tuned", rule=name)]
    found = {}
    for name in names:
        tried, rule, best = searched(rows, name), RULES[name], chosen(rows, name)
        accuracies = [100 * value for value in tried.values()]
        left.plot(list(tried), accuracies, rule.line, color=rule.colour, lw=1.4, label=name)
        left.plot(best, max(accuracies), "o", color=rule.colour, ms=5)
        group = _study.matching(rows, part="tuned", rule=name, rate=best)
        found[name] = [100 * row["result"]["best_val"] for row in group]
    left.set(xscale="log", xlabel="learning rate", ylabel="best validation accuracy (%)")
    left.set_title("the search: 12 rates a rule, mean of 3 seeds", fontsize=12)
    for name in sorted(names, key=lambda name: np.mean(found[name])):
        values, colour = found[name], RULES[name].colour
        right.plot(values, [name] * len(values), "o", color=colour, alpha=0.4, ms=5)
        right.plot(np.mean(values), name, "|", color=colour, ms=18, mew=2.5)
    right.set(xlabel="best validation accuracy (%)")
    right.set_title("the best rate with other seeds, and their mean", fontsize=12)
    figure.legend(loc="outside lower center", ncols=7)
    _images.save(figure, folder / "optimizers_search.png", dpi=90, colours=96)


if __name__ == "__main__":
    _study.main("optimizers", __doc__, Options, measure, draw)
