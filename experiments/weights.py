"""Course 004's two-layer net on CIFAR-10, as given and as tuned; what first layers look like.

    python -m experiments.weights --runs default tuned
    python -m experiments.weights --runs convnet --seeds 0

Rows 4-26 to 4-28 and 4-49. Weights from 1e-5 N(0, 1): the first cost of 2.302593 is log 10 and half
the squares of such weights. Batches of 100 drawn with replacement, velocity mu v - lr g, 5 epochs.
Default: 50 units, rate 1e-5, penalty 1, momentum .9, decay .95; tuned: 100 units, rate 1e-4,
penalty .2, momentum .95, decay .5. A run takes 3 to 6 s, one epoch of the convnet 15 s (two AVX-512
cores).

| run | validation after each epoch (five seeds) | best | test |
|---|---|---|---|
| default | .098 .170 .244 .291 .335 .367 | .367 +- .003 | .359 +- .004 |
| printed | .113 .153 .243 .297 .340 .370 | .370 | cut |
| tuned | .097 .407 .475 .489 .508 .513 | .515 +- .009 | .506 +- .004 |
| printed | .067 .412 .469 .514 .513 .515 | .515 | cut |

The costs of the default run's last batches, 2.302593 2.277 2.042 1.902 1.844 1.751 with a spread of
.005 to .085 between seeds, are the course's 2.302593 2.287704 2.081489 1.972086 1.863844 1.774964
up to it, and the rates are its 1e-5 9.5e-6 9.025e-6 8.57375e-6 8.145063e-6 7.737809e-6.

Figures: the default run's units are smooth blobs of colour, many of them alike; the tuned run's
carry finer shapes under noise. After one epoch (validation .427: 32 filters of 7x7, rate 1e-4,
momentum .9, batches of 50; the course's own parameters are cut from the document) the convnet has
filters for light and dark bars in several directions and for pairs of colours; others are noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import _images, _study
from funcnet import nets, optimizers, plots, train


class Run(NamedTuple):
    """What a run trains, and what the course printed of it, epoch for epoch."""

    net: nets.Net
    batch: int
    rate: float
    momentum: float
    decay: float
    reg: float
    epochs: int
    layer: str
    printed: tuple[float, ...] = ()


RUNS = {
    "default": Run(
        net=nets.two_layer_net(50, 10, weight_scale=1e-5),
        batch=100,
        rate=1e-5,
        momentum=0.9,
        decay=0.95,
        reg=1.0,
        epochs=5,
        layer="affine1",
        printed=(0.113, 0.153, 0.243, 0.297, 0.340, 0.370),
    ),
    "tuned": Run(
        net=nets.two_layer_net(100, 10, weight_scale=1e-5),
        batch=100,
        rate=1e-4,
        momentum=0.95,
        decay=0.5,
        reg=0.2,
        epochs=5,
        layer="affine1",
        printed=(0.067, 0.412, 0.469, 0.514, 0.513, 0.515),
    ),
    "convnet": Run(
        net=nets.two_layer_convnet(10, channels=32, size=7, weight_scale=1e-3),
        batch=50,
        rate=1e-4,
        momentum=0.9,
        decay=0.95,
        reg=1e-3,
        epochs=1,
        layer="conv1",
    ),
}
PRINTED_COSTS = (2.302593, 2.287704, 2.081489, 1.972086, 1.863844, 1.774964)
PRINTED_RATES = (1e-5, 9.5e-6, 9.025e-6, 8.57375e-6, 8.145063e-6, 7.737809e-6)


@dataclasses.dataclass(frozen=True)
class Options(_study.Options):
    """Which runs to make."""

    runs: tuple[str, ...] = tuple(RUNS)
    """Names of runs: default, tuned, convnet."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """A run for each; only that of seed 0 keeps its weights."""


def measure(options: Options) -> Iterator[_study.Record]:
    """A record for each run and seed."""
    dataset = _study.load("cifar10", options.smoke)
    for name in options.runs[:1] if options.smoke else options.runs:
        for seed in (0,) if options.smoke else options.seeds:
            yield record(name, RUNS[name], seed, dataset, options.smoke)


def record(name: str, run: Run, seed: int, dataset: Any, smoke: bool) -> _study.Record:
    """One run: batches with replacement and the scaled velocity, as course 004's trainer has it."""
    steps = train.steps_per_epoch(len(dataset.train.labels), run.batch)
    schedule = train.decay_per_epoch(run.rate, run.decay, steps)
    epochs = 1 if smoke else run.epochs
    with _study.timed() as watch:
        done = train.fit(
            run.net,
            dataset,
            optimizers.momentum(schedule, run.momentum, velocity="scaled"),
            epochs=epochs,
            batch_size=run.batch,
            seed=seed,
            reg=run.reg,
            sampling="replacement",
            preprocessing="mean_image",
        )
    at = [0, *(steps * epoch - 1 for epoch in range(1, epochs + 1))]
    result = {
        "val": done.history["val_accuracy"],
        "train": done.history["train_accuracy"],
        "costs": [float(done.losses[step]) for step in at],  # of one batch, as the course prints
        "losses": done.history["loss"],  # the mean of each epoch
        "rates": [float(schedule(steps * epoch)) for epoch in range(epochs + 1)],
        "best_val": max(done.history["val_accuracy"]),
        "test": train.evaluate(run.net, done.best, dataset.test, done.preprocessing)["accuracy"],
    }
    if seed == 0:
        w = np.asarray(done.best.params[run.layer].w)
        result["units"] = w.shape[-1]
        shape = dataset.input_shape if w.ndim == 2 else None
        result["weights"] = _images.pack_weights(w, shape)
    config = {"run": name, "seed": seed, "epochs": epochs, **_numbers(run)}
    return watch.record(config, result)


def _numbers(run: Run) -> dict[str, float]:
    names = ("batch", "rate", "momentum", "decay", "reg")
    return {name: getattr(run, name) for name in names}


def draw(rows: _study.Rows, folder: Path) -> None:
    """A table and the curves of all seeds; the images of each run's first layer."""
    for name in RUNS:
        some = _study.matching(rows, run=name)
        if not some:
            continue
        for key in ("best_val", "test"):
            values = [row["result"][key] for row in some]
            print(f"{name}: {key} {_study.mean_and_spread(values)}")
        vals, costs = (np.array([row["result"][key] for row in some]) for key in ("val", "costs"))
        print("  validation by epoch", vals.mean(0).round(3), "printed", RUNS[name].printed)
        print("  cost of the last batch", costs.mean(0).round(6), "±", costs.std(0).round(6))
        print("  rates", " ".join(f"{rate:.7g}" for rate in some[0]["result"]["rates"]))
        for row in some:
            if "weights" in row["result"]:
                result = row["result"]
                images = _images.unpack_weights(result["weights"], result["units"])
                words = f"{result['units']} {'filters' if name == 'convnet' else 'units'}"
                title = f"first layer, {name} run: {words}, validation {result['best_val']:.3f}"
                columns = 8 if name == "convnet" else 10
                figure = plots.weight_grid(images, padding=2, title=title, columns=columns)
                _images.save(figure, folder / f"weights_{name}.png", dpi=75, colours=160)
    draw_curves(rows, folder)


@plots.style()
def draw_curves(rows: _study.Rows, folder: Path) -> None:
    """Validation accuracy of the two affine runs beside what the course printed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, colour in (("default", "#0072B2"), ("tuned", "#009E73")):
        some = _study.matching(rows, run=name)
        for row in some:
            axes.plot(100 * np.array(row["result"]["val"]), color=colour, lw=1, alpha=0.6)
        axes.plot([], color=colour, label=f"{name} run, {len(some)} seeds")
        axes.plot(100 * np.array(RUNS[name].printed), "o", color=colour, label="the course printed")
    axes.set(xlabel="epoch", ylabel="validation accuracy (%)")
    axes.set_title("course 004's two-layer net on CIFAR-10", fontsize=12)
    axes.legend()
    _images.save(figure, folder / "weights_curves.png")


if __name__ == "__main__":
    _study.main("weights", __doc__, Options, measure, draw)
