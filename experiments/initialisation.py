"""Which weight scales and rates overfit fifty images, with three layers and with five?

    python -m experiments.initialisation --depths three
    python -m experiments.initialisation --depths five

Rows 1-22 to 1-25. The first fifty CIFAR-10 images, raw pixels less the mean image of all 49,000;
layers of 100, SGD, batches of 25 drawn with replacement, 20 epochs: 40 steps. The courses' pairs of
scale and rate with ten seeds each, then 12 x 12 pairs with three seeds, scales from .003 to 1 and
rates from 1e-6 to .1: 884 runs, 100 s a depth on two AVX-512 cores that others used, too.

**The courses' pairs** reach 100% of the fifty with ten of ten seeds.

| layers | scale, rate | first loss | 100% first at epoch | validation | the course |
|---|---|---|---|---|---|
| three | .06, 7e-4 | 54 +- 10 | 9.5 +- 2.2 | .136 +- .009 | 77.2, 12, .166 |
| five | .17, 4e-4 | 1863 +- 590 | 12.1 +- 2.4 | .131 +- .015 | 1660, 16, .142 |

**The map.** Of 144 pairs 21 do it with every seed for three layers, 19 for five. So five layers are
not harder to overfit, but the band of good pairs is steeper: a weight scale that is 10 times as
large wants a rate some 15 times as small with three layers, some 800 times with five. At most of
its rates three layers do it over three to five neighbouring scales (a factor of 3 to 8), five over
one or two (at most 1.7): that is how five are more sensitive to initialisation (1-25).

Figure: `initialisation`, both maps; the band of 100% falls from upper left to lower right, narrower
across for five layers, and both courses' pairs lie in it, that of five layers at its upper edge.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _images, _study
from funcnet import data, nets, optimizers, plots, sweep

ROWS, BATCH, EPOCHS, SEEDS = 50, 25, 20, (0, 1, 2)
HIDDEN = {"three": (100,) * 2, "five": (100,) * 4}
COURSE = {"three": (0.06, 7e-4), "five": (0.17, 4e-4)}  # weight scale and rate
PRINTED = {"three": (77.236010, 12, 0.166), "five": (1660.237200, 16, 0.142)}
SCALES, RATES = np.geomspace(3e-3, 1, 12), np.geomspace(1e-6, 1e-1, 12)


@dataclasses.dataclass(frozen=True)
class Options(_study.Options):
    """Which part to run."""

    part: str = "all"
    """"course" (the courses' two pairs), "map" (the plane of scales and rates), or "all"."""
    depths: tuple[str, ...] = tuple(HIDDEN)
    """"three", "five"."""


def measure(options: Options) -> Iterator[_study.Record]:
    """The courses' pair and the map, for each depth."""
    dataset = _study.load("cifar10", options.smoke)
    mean_image = data.fit_preprocessing(dataset.train.images, "mean_image")
    dataset = dataset._replace(train=data.Split(*(a[:ROWS] for a in dataset.train)))
    for depth in options.depths[:1] if options.smoke else options.depths:
        scale, rate = COURSE[depth]
        if options.part in ("course", "all"):
            pairs = {"weight_scale": [scale], "learning_rate": [rate]}
            seeds = (0,) if options.smoke else tuple(range(10))
            yield from runs("course", dataset, mean_image, depth, pairs, seeds)
        if options.part in ("map", "all") and not options.smoke:
            pairs = sweep.grid(weight_scale=SCALES, learning_rate=RATES)
            only = dataset._replace(val=None)
            yield from runs("map", only, mean_image, depth, pairs, SEEDS)


def runs(
    part: str,
    dataset: data.Dataset,
    mean_image: Any,
    depth: str,
    pairs: Any,
    seeds: tuple[int, ...],
) -> Iterator[_study.Record]:
    """A record for each pair of scale and rate: SGD on raw pixels less the mean image."""

    def make(weight_scale: Any, learning_rate: Any) -> sweep.Trial:
        net = nets.fully_connected_net(HIDDEN[depth], 10, weight_scale=weight_scale)
        return sweep.Trial(net, optimizers.sgd(learning_rate))

    with _study.timed() as watch:
        result = sweep.run(
            make,
            dataset,
            pairs,
            seeds,
            EPOCHS,
            BATCH,
            how="loop",
            keep=(),
            sampling="replacement",
            preprocessing=mean_image,
            evaluation_batch_size=ROWS,
            max_nonfinite=1,
        )
    count = len(result.seeds) // len(seeds)
    accuracy = np.nan_to_num(result.train_accuracy).reshape(count, len(seeds), -1)
    for index in range(count):
        at = slice(index * len(seeds), (index + 1) * len(seeds))
        perfect = accuracy[index] == 1
        found = {
            "best_train": accuracy[index].max(1),
            "last_train": accuracy[index, :, -1],
            "first_perfect": [int(p.argmax()) if p.any() else None for p in perfect],
            "val": result.val_accuracy[at, -1],
            "first_loss": result.losses[at, 0],
            "stopped_at": result.stopped_at[at],
        }
        values = {name: float(column[index * len(seeds)]) for name, column in result.values.items()}
        config = {"part": part, "depth": depth, **values, "seeds": len(seeds), "epochs": EPOCHS}
        yield _study.Record(config, found, watch.seconds / count, watch.compile_seconds / count)


def draw(rows: _study.Rows, folder: Path) -> None:
    """What the courses' pairs reach, how many pairs of the map do, and the map."""
    for row in _study.matching(rows, part="course"):
        depth, found = row["config"]["depth"], row["result"]
        when = [epoch for epoch in found["first_perfect"] if epoch is not None]
        print(f"{depth} layers, the course's pair: {len(when)} of {len(found['val'])} seeds reach "
              f"100%, first at epoch {_study.mean_and_spread(when) if when else '-'}; first loss "
              f"{_study.mean_and_spread(found['first_loss'])}, val "
              f"{_study.mean_and_spread(found['val'])}; printed {PRINTED[depth]}")  # fmt: skip
    for depth in HIDDEN:
        some = _study.matching(rows, part="map", depth=depth)
        if some:
            good = [row for row in some if min(row["result"]["best_train"]) == 1]
            each = {key: sorted({row["config"][key] for row in good}) for key in
                    ("weight_scale", "learning_rate")}  # fmt: skip
            spans = ", ".join(f"{k} {v[0]:.2g} to {v[-1]:.2g}" for k, v in each.items() if v)
            print(f"{depth} layers: {len(good)} of {len(some)} pairs with every seed: {spans}")
    draw_map(_study.matching(rows, part="map"), folder)


def edges(values: list[float]) -> np.ndarray:
    """The ends of cells around values that are evenly spaced in their logarithm."""
    step = math.log(values[1] / values[0])
    return np.exp(np.log(values[0]) + step * (np.arange(len(values) + 1) - 0.5))


@plots.style()
def draw_map(rows: _study.Rows, folder: Path) -> None:
    """The highest training accuracy of each pair, the mean of its seeds, for both depths."""
    from matplotlib.figure import Figure

    if not rows:
        return
    figure = Figure(figsize=(12.5, 5.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, depth in zip(panels, HIDDEN, strict=True):
        some = _study.matching(rows, depth=depth)
        if not some:
            continue
        scales = sorted({row["config"]["weight_scale"] for row in some})
        rates = sorted({row["config"]["learning_rate"] for row in some})
        values, always = np.full((2, len(rates), len(scales)), np.nan)
        for row in some:
            at = (
                rates.index(row["config"]["learning_rate"]),
                scales.index(row["config"]["weight_scale"]),
            )
            values[at] = 100 * np.mean(row["result"]["best_train"])
            always[at] = min(row["result"]["best_train"]) == 1
        cells = edges(scales), edges(rates)
        drawn = axes.pcolormesh(*cells, values, cmap="viridis", vmin=10, vmax=100)
        for i, j in np.argwhere(always == 1):
            axes.plot(scales[j], rates[i], ".", color="#D55E00", ms=6)
        axes.plot(*COURSE[depth], "x", color="white", ms=12, mew=2.5)
        axes.set(xscale="log", yscale="log", xlabel="weight scale")
        axes.set_title(f"{depth} layers", fontsize=12)
        axes.grid(visible=False)
    panels[0].set_ylabel("learning rate")
    figure.colorbar(drawn, ax=panels, label="highest training accuracy (%), mean of 3 seeds")
    title = "fifty images, 20 epochs of SGD; dots: 100% with every seed; cross: the course's pair"
    figure.suptitle(title, fontsize=12)
    _images.save(figure, folder / "initialisation.png", dpi=85, colours=160)


if __name__ == "__main__":
    _study.main("initialisation", __doc__, Options, measure, draw)
