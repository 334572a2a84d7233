"""Dropout on CIFAR-10: what several rates do to training and validation, and to a test that drops.

    python -m experiments.dropout

Rows 2-26, 2-27, 3-7 and 3-15. The first 2000 images, raw pixels less the mean image; one hidden
layer of 500, Adam 5e-4, batches of 100, 25 epochs, three seeds. 18 runs took 130 s on two AVX-512
cores that others used, too.

| rate | training | validation | best validation | validation, dropping in the test |
|---|---|---|---|---|
| 0 | .932 +- .012 | .344 +- .015 | .377 +- .009 | .344 +- .015 |
| .1 | .914 +- .024 | .345 +- .016 | .373 +- .005 | .337 +- .011 |
| .25 | .908 +- .018 | .348 +- .011 | .379 +- .004 | .331 +- .008 |
| .5 | .880 +- .012 | .363 +- .011 | .386 +- .007 | .322 +- .013 |
| .75 | .711 +- .009 | .358 +- .002 | .386 +- .006 | .275 +- .009 |
| .9 | .501 +- .006 | .337 +- .022 | .379 +- .003 | .217 +- .013 |

After the last epoch. Dropping keeps the net from learning its 2000 images by heart; validation
gains .02 at rates of .5 and .75, about one spread. Course 002's layer drops in the test, too
(2-26): that costs .04 at .5, and .12 at .9.

**The layer (3-7)**, a hundred draws of 100 x 100 numbers around 5: the mean changes by -.007 +-
.069 when a quarter is kept, -.001 +- .046 for a half, .000 +- .026 for three quarters; zeros .750
+- .004, .500 +- .005, .250 +- .004. The course's one draw changes by .166, .029, -.006 with .742,
.495 and .251 zeros: its first is 2.4 spreads off, which happens in one draw of sixty.

Figure: `dropout` (training falls with the rate, validation hardly differs; on the right both after
the last epoch with one standard deviation, and the test that drops).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _images, _study
from funcnet import data, layers, nets, optimizers, plots, sweep

ROWS, HIDDEN, BATCH, EPOCHS, LEARNING_RATE = 2000, (500,), 100, 25, 5e-4
RATES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
KEPT = (1.0, 0.25, 0.5, 0.75)  # course 003's keep_prob; its 0 means that nothing is dropped
PRINTED = {1.0: (5.01244, 0.0), 0.25: (5.17849, 0.7418), 0.5: (5.04096, 0.4947)}
PRINTED |= {0.75: (5.00675, 0.2514)}  # mean of the output, fraction of zeros


@dataclasses.dataclass(frozen=True)
class Options(_study.Options):
    """Which runs to make."""

    rates: tuple[float, ...] = RATES
    """Probabilities of dropping to train with."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A run for each."""


def measure(options: Options) -> Iterator[_study.Record]:
    """The layer by itself; then the runs of each rate."""
    dataset = _study.load("cifar10", options.smoke)
    mean_image = data.fit_preprocessing(dataset.train.images, "mean_image")
    dataset = dataset._replace(train=data.Split(*(a[:ROWS] for a in dataset.train)))
    for keep in KEPT[-1:] if options.smoke else KEPT:
        yield layer_record(keep)
    for rate in (0.5,) if options.smoke else options.rates:
        seeds, epochs = ((0,), 1) if options.smoke else (options.seeds, EPOCHS)
        yield from runs(dataset, mean_image, rate, seeds, epochs)


def layer_record(keep: float) -> _study.Record:
    """Course 003's test of the layer, a hundred times: means, and fractions of zeros."""
    with _study.timed() as watch:

        def once(keys: Any) -> Any:
            x = jax.random.normal(keys[0], (100, 100)) + 5
            y = layers.dropout(keys[1], x, 1 - keep)
            return y.mean() - x.mean(), (y == 0).mean()

        keys = jax.random.split(jax.random.key(0), (100, 2))
        means, zeros = jax.device_get(jax.jit(jax.vmap(once))(keys))
    result = {"mean_change": np.mean(means), "mean_change_sd": np.std(means, ddof=1)}
    result |= {"zeros": np.mean(zeros), "zeros_sd": np.std(zeros, ddof=1)}
    return watch.record({"part": "layer", "keep": keep}, result)


def runs(
    dataset: data.Dataset,
    mean_image: data.Preprocessing,
    rate: float,
    seeds: tuple[int, ...],
    epochs: int,
) -> Iterator[_study.Record]:
    """The runs of a rate, which is a part of the program; and what dropping in the test costs."""
    net = nets.fully_connected_net(HIDDEN, 10, dropout=rate, weight_scale=1e-2)

    def make() -> sweep.Trial:
        return sweep.Trial(net, optimizers.adam(LEARNING_RATE))

    with _study.timed() as watch:
        result = sweep.run(
            make,
            dataset,
            None,
            seeds,
            epochs,
            BATCH,
            how="loop",
            keep=("final",),
            preprocessing=mean_image,
            train_accuracy_rows=None,
        )
        x = data.preprocess(mean_image, dataset.val.images)
        y = jnp.asarray(dataset.val.labels)

        @jax.jit
        def dropping(params: Any, state: Any, key: Any) -> Any:
            output, _ = net.apply(params, state, x, train=True, key=key)
            return (output.argmax(-1) == y).mean()

        dropped = []
        for index in range(len(seeds)):
            final = result.member(index).final
            keys = jax.random.split(jax.random.key(1), 5)
            dropped.append(np.mean([dropping(final.params, final.state, key) for key in keys]))
    for index, seed in enumerate(seeds):
        member = result.member(index)
        found = {
            "train": member.train_accuracy,
            "val": member.val_accuracy,
            "best_val": result.best_val_accuracy[index],
            "last_val_dropping": dropped[index],
        }
        config = {"part": "train", "rate": rate, "seed": seed, "epochs": epochs}
        count = len(seeds)
        yield _study.Record(config, found, watch.seconds / count, watch.compile_seconds / count)


def draw(rows: _study.Rows, folder: Path) -> None:
    """The tables, and a figure of both accuracies by epoch and by rate."""
    for row in _study.matching(rows, part="layer"):
        keep, found = row["config"]["keep"], row["result"]
        print(f"keep {keep}: mean {found['mean_change']:+.4f} ± {found['mean_change_sd']:.4f}, "
              f"zeros {found['zeros']:.4f} ± {found['zeros_sd']:.4f}; printed "
              f"{PRINTED[keep][0] - PRINTED[1.0][0]:+.4f}, {PRINTED[keep][1]}")  # fmt: skip
    groups: dict[float, _study.Rows] = {}
    for row in sorted(_study.matching(rows, part="train"), key=lambda row: row["config"]["rate"]):
        groups.setdefault(row["config"]["rate"], []).append(row)
    for rate, group in groups.items():
        said = {
            "train": [row["result"]["train"][-1] for row in group],
            "val": [row["result"]["val"][-1] for row in group],
            "best val": [row["result"]["best_val"] for row in group],
            "val, dropping in the test": [row["result"]["last_val_dropping"] for row in group],
        }
        words = "  ".join(f"{k} {_study.mean_and_spread(v)}" for k, v in said.items())
        print(f"rate {rate}: {words}")
    draw_runs(groups, folder)


@plots.style()
def draw_runs(groups: dict[float, _study.Rows], folder: Path) -> None:
    """Validation and training by epoch; at the end by rate, with a test that drops beside it."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    if not groups:
        return
    figure = Figure(figsize=(13.0, 4.6), layout="constrained")
    train, val, by_rate = figure.subplots(1, 3)
    for number, (rate, group) in enumerate(groups.items()):
        colour = colormaps["viridis"](number / len(groups))
        for axes, key in ((train, "train"), (val, "val")):
            mean = 100 * np.mean([row["result"][key] for row in group], 0)
            axes.plot(mean, color=colour, label=f"rate {rate:g}")
    train.set(xlabel="epoch", ylabel="training accuracy (%)")
    val.set(xlabel="epoch", ylabel="validation accuracy (%)")
    train.legend(fontsize=9)
    kinds = (
        ("training", "#000000", lambda result: result["train"][-1]),
        ("validation", "#0072B2", lambda result: result["val"][-1]),
        ("validation, dropping in the test", "#D55E00", lambda result: result["last_val_dropping"]),
    )
    for name, colour, of in kinds:
        values = {r: 100 * np.array([of(row["result"]) for row in g]) for r, g in groups.items()}
        mean, spread = ([f(v) for v in values.values()] for f in (np.mean, np.std))
        by_rate.errorbar(
            list(values), mean, spread, fmt="o-", color=colour, ms=4, capsize=3, label=name
        )
    by_rate.set(xlabel="rate of dropping", ylabel="accuracy after the last epoch (%)")
    by_rate.legend(fontsize=9)
    figure.suptitle("one hidden layer of 500, 2000 CIFAR-10 images: mean of the seeds", fontsize=13)
    _images.save(figure, folder / "dropout.png", dpi=85, colours=96)


if __name__ == "__main__":
    _study.main("dropout", __doc__, Options, measure, draw)
