"""Course 000's forty-minute run (row 0-19): how well does it train, and how long does it take?

    python -m experiments.course_000

[500] x 3 units, batch norm, Adam 1e-3, rate x 0.9 an epoch, weight scale 0.01, batches of 100,
10 epochs of 49,000 CIFAR-10 images: 4,900 steps. Beside it a straightforward NumPy version of the
same step in float64, which is what the course ran; the two are timed in turns, step for step.

Three seeds: best validation accuracy .583 +- .002, each above the course's .555; test accuracy of
that state .563 +- .009 on all 10,000 rows (.5526, .5669, .5695; the course has .563 on 1000 rows).
An earlier version, which drew other batches, gave .5897 +- .0034 and .5670, .5606, .5661. Each run
is one trace of the step; 50 s where nothing else runs.

On two cores (AVX-512), medians of 60 steps of each side in turns, three times over: funcnet 12.7 to
12.9 ms, NumPy 38.2 to 38.8 ms: 0.33 of its time. Within `train.fit`, without NumPy's threads beside
it, a step takes 9.9 ms: 10,100 images a second, an epoch 5 seconds with its evaluation.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _images, _study
from funcnet import data, nets, optimizers, plots, train
from funcnet.bench._numpy import NumpyNet

HIDDEN, CLASSES, BATCH, RATE = (500, 500, 500), 10, 100, 1e-3
NET = nets.fully_connected_net(HIDDEN, CLASSES, norm="batch", weight_scale=0.01)
PRINTED = (0.159, 0.447, 0.446, 0.496, 0.505, 0.507, 0.519, 0.512, 0.526, 0.542, 0.555)


@dataclasses.dataclass(frozen=True)
class Options(_study.Options):
    """How long to train, and how long to compare."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """A run for each; none to compare the steps only."""
    epochs: int = 10
    """Passes through the training rows."""
    rounds: int = 100
    """Steps of each side to time; 0 to train only."""


def measure(options: Options) -> Iterator[_study.Record]:
    """Trains over the seeds, then compares the steps."""
    dataset = _study.load("cifar10", options.smoke)
    seeds, epochs, rounds = options.seeds, options.epochs, options.rounds
    if options.smoke:
        seeds, epochs, rounds = (0,), 1, 1
    for seed in seeds:
        yield trained(dataset, seed, epochs)
    if rounds:
        images, labels = dataset.train
        with _study.timed() as watch:
            ours, theirs = compare_steps(images[:10000].astype(np.float64), labels, rounds)
        result = {"funcnet_ms": ours, "numpy_ms": theirs, "ratio": ours / theirs}
        yield watch.record({"part": "steps", "rounds": rounds}, result)


def trained(dataset: data.Dataset, seed: int, epochs: int) -> _study.Record:
    """One run as the course has it, in permutations instead of draws with replacement."""
    steps = train.steps_per_epoch(len(dataset.train.labels), BATCH)
    with _study.timed() as watch:
        run = train.fit(
            NET,
            dataset,
            optimizers.adam(train.decay_per_epoch(RATE, 0.9, steps)),
            epochs=epochs,
            batch_size=BATCH,
            seed=seed,
            preprocessing="mean_image",
        )
    test = train.evaluate(NET, run, dataset.test)["accuracy"]
    result = {
        "first_loss": float(run.losses[0]),
        "train": run.history["train_accuracy"],
        "val": run.history["val_accuracy"],
        "best_val": max(run.history["val_accuracy"]),
        "test": test,
        "images_per_second": run.history[-1]["images_per_second"],
    }
    return watch.record({"part": "train", "seed": seed, "epochs": epochs}, result)


def compare_steps(images: np.ndarray, labels: np.ndarray, rounds: int) -> tuple[float, float]:
    """Median milliseconds of a step of funcnet and of NumPy, taken in turns."""
    x = images.reshape(len(images), -1) - images.reshape(len(images), -1).mean(0)
    optimizer = optimizers.adam(RATE)
    state = train.init_state(NET, optimizer, jax.random.key(0), (x.shape[1],))
    reference = NumpyNet(as_the_course_names(state.params), RATE)
    step = jax.jit(train.make_step(NET, optimizer), donate_argnums=0)
    state, _ = jax.block_until_ready(step(state, batch_of(x, labels, 0)))
    ours, theirs = [], []
    for i in range(rounds):
        rows = slice(first := (i * BATCH) % (len(x) - BATCH), first + BATCH)
        batch = batch_of(x, labels, first)
        began = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        reference.step(x[rows], labels[rows])
        theirs.append(time.perf_counter() - began)
    return 1e3 * float(np.median(ours)), 1e3 * float(np.median(theirs))


def batch_of(x: np.ndarray, labels: np.ndarray, first: int) -> tuple[Any, Any]:
    """A batch on the device."""
    rows = slice(first, first + BATCH)
    return jnp.asarray(x[rows], jnp.float32), jnp.asarray(labels[rows])


def as_the_course_names(params: dict[str, Any]) -> dict[str, np.ndarray]:
    """The same parameters under the names W1, b1, gamma1, beta1, W2, ..."""
    named = {}
    for i in range(1, len(HIDDEN) + 2):
        named[f"W{i}"], named[f"b{i}"] = params[f"affine{i}"]
        if i <= len(HIDDEN):
            named[f"gamma{i}"], named[f"beta{i}"] = params[f"batch_norm{i}"]
    return {name: np.asarray(p) for name, p in named.items()}


@plots.style()
def draw(rows: _study.Rows, folder: Path) -> None:
    """The accuracies of the longest runs beside what the course printed, and the steps' times."""
    from matplotlib.figure import Figure

    for row in _study.matching(rows, part="steps"):
        print("a step: funcnet {funcnet_ms:.2f} ms, NumPy float64 {numpy_ms:.2f} ms: {ratio:.3f}"
              .format(**row["result"]))  # fmt: skip
    runs = _study.matching(rows, part="train")
    if not runs:
        return
    runs = _study.matching(runs, epochs=max(row["config"]["epochs"] for row in runs))
    for key in ("best_val", "test"):
        print(f"{key}: {_study.mean_and_spread([row['result'][key] for row in runs])}")
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for row in runs:
        axes.plot(100 * np.array(row["result"]["val"]), color="#0072B2", alpha=0.7)
    axes.plot([], color="#0072B2", label=f"funcnet, {len(runs)} seeds")
    axes.plot(100 * np.array(PRINTED), "o", color="#D55E00", label="the course printed")
    axes.set(xlabel="epoch", ylabel="validation accuracy (%)")
    axes.set_title("course 000's net of 3 x 500 units on CIFAR-10", fontsize=12)
    axes.legend()
    _images.save(figure, folder / "course_000.png")


if __name__ == "__main__":
    _study.main("course_000", __doc__, Options, measure, draw)
