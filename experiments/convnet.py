"""What does course 004's convolutional part give: 50 images by heart, one epoch, fast layers?

    FUNCNET_DATA_DIR=... python -m experiments.convnet --part overfit
    FUNCNET_DATA_DIR=... python -m experiments.convnet --part epoch --seeds 3
    python -m experiments.convnet --part layers

Three questions about conv - relu - pool - affine. Does it learn 50 images by heart with the
course's settings (rows 4-46, 4-47: penalty .001, momentum .9, rate 1e-4 times .95 an epoch, batches
of 10, 10 epochs)? What does one epoch of 49,000 images give (row 4-48: the course reached .501; its
settings are cut, these are ours: rate 1e-3, momentum .9, penalty 1e-4, batches of 50)? And how much
faster are rules than loops over every output (rows 4-38, 4-39)?

By heart: training accuracy .967 ± .023 after ten epochs (3 seeds; the course: .940), the best
validation accuracy .176 to .205 (the course: .177); seconds a run. One epoch: validation
.556 ± .025, test .544 ± .017 (3), 5 to 11 seconds each. The layers, forward, on 100 images: the
convolution 5,411 times as fast as loops (2.14 s to 0.40 ms; the course's Cython 468 times), the
pool 1,939 times (the course's 4.4, against loops over windows of all images); they differ by 6e-6,
the rounding of float32.

Source: courses.md rows 4-38, 4-39, 4-44, 4-46, 4-47 and 4-48.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _images, _study
from funcnet import data, layers, nets, optimizers, plots, train


@dataclasses.dataclass(frozen=True)
class Options(_study.Options):
    """Which question."""

    part: Literal["overfit", "epoch", "layers", "all"] = "all"
    """What to measure."""
    seeds: int = 3
    """Runs of each training, with seeds 0, 1, ..."""


def overfit(dataset: data.Dataset, seed: int, epochs: int = 10) -> dict[str, Any]:
    """Fifty images, ten epochs, as the course trains them."""
    few = dataset._replace(train=data.Split(*(a[:50] for a in dataset.train)))
    run = train.fit(
        nets.two_layer_convnet(10, weight_scale=1e-3),
        few,
        optimizers.momentum(train.decay_per_epoch(1e-4, 0.95, 5), 0.9, velocity="scaled"),
        epochs=epochs,
        batch_size=10,
        seed=seed,
        reg=1e-3,
        preprocessing="mean_image",
    )
    return {
        "losses": run.losses,
        "train_accuracy": run.history["train_accuracy"],
        "val_accuracy": run.history["val_accuracy"],
    }


def epoch(dataset: data.Dataset, seed: int) -> dict[str, Any]:
    """One pass over the training images."""
    run = train.fit(
        nets.two_layer_convnet(10),
        dataset,
        optimizers.momentum(1e-3, 0.9),
        epochs=1,
        batch_size=50,
        seed=seed,
        reg=1e-4,
    )
    test = train.evaluate(nets.two_layer_convnet(10), run.final, dataset.test, run.preprocessing)
    return {
        "losses": run.losses,
        "train_accuracy": run.history[-1]["train_accuracy"],
        "val_accuracy": run.history[-1]["val_accuracy"],
        "test_accuracy": test["accuracy"],
        "images_per_second": run.history[-1]["images_per_second"],
    }


def naive_conv(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int, pad: int) -> np.ndarray:
    """The course's loops: every output is a sum of its own."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    kh, kw = w.shape[:2]
    oh, ow = ((x.shape[1 + i] - w.shape[i]) // stride + 1 for i in (0, 1))
    y = np.empty((len(x), oh, ow, w.shape[3]))
    for n in range(len(x)):
        for i in range(oh):
            for j in range(ow):
                window = x[n, i * stride : i * stride + kh, j * stride : j * stride + kw]
                for o in range(w.shape[3]):
                    y[n, i, j, o] = (window * w[..., o]).sum() + b[o]
    return y


def naive_pool(x: np.ndarray) -> np.ndarray:
    """The largest of every 2x2 tile, one after the other."""
    n, h, w, c = x.shape
    y = np.empty((n, h // 2, w // 2, c))
    for i in range(h // 2):
        for j in range(w // 2):
            for row in range(n):
                for channel in range(c):
                    tile = x[row, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, channel]
                    y[row, i, j, channel] = tile.max()
    return y


def fast_layers(images: int) -> dict[str, Any]:
    """Seconds of a forward pass by loops and by the rule, on the course's shapes; how they differ.

    The rule's time is the median of 50 calls. It runs in float32, the loops in float64.
    """
    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=s) for s in ((images, 31, 31, 3), (3, 3, 3, 25), (25,)))
    tiles = rng.normal(size=(images, 32, 32, 3))
    params = layers.ConvParams(*(jnp.asarray(a, jnp.float32) for a in (w, b)))
    cases: dict[str, tuple[Callable[[], Any], Callable[..., Any], tuple[Any, ...]]] = {
        "conv": (
            lambda: naive_conv(x, w, b, 2, 1),
            lambda p, x: layers.conv2d(p, x, 2, 1),
            (params, jnp.asarray(x, jnp.float32)),
        ),
        "pool": (lambda: naive_pool(tiles), layers.max_pool, (jnp.asarray(tiles, jnp.float32),)),
    }
    result = {}
    for name, (loops, rule, arguments) in cases.items():
        began = time.perf_counter()
        want = loops()
        naive_seconds = time.perf_counter() - began
        program = jax.jit(rule)
        got = jax.block_until_ready(program(*arguments))
        times = []
        for _ in range(50):
            began = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            times.append(time.perf_counter() - began)
        result[name] = {
            "naive_seconds": naive_seconds,
            "rule_seconds": float(np.median(times)),
            "largest_difference": float(np.abs(np.asarray(got) - want).max()),
        }
    return result


def measure(options: Options) -> Iterator[_study.Record]:
    """A record for each run."""
    wanted = ("overfit", "epoch", "layers") if options.part == "all" else (options.part,)
    if options.smoke:
        options = dataclasses.replace(options, seeds=1)
    if set(wanted) - {"layers"}:
        dataset = _study.load("cifar10", options.smoke)
    few = partial(overfit, epochs=1) if options.smoke else overfit
    for part, run in (("overfit", few), ("epoch", epoch)):
        for seed in range(options.seeds * (part in wanted)):
            with _study.timed() as watch:
                result = run(dataset, seed)
            yield watch.record({"part": part, "seed": seed}, result)
    if "layers" in wanted:
        with _study.timed() as watch:
            result = fast_layers(1 if options.smoke else 100)
        yield watch.record({"part": "layers"}, result)


@plots.style()
def draw(records: _study.Rows, folder: Path) -> None:
    """The overfitting runs: losses and accuracies (row 4-47); the rest is printed."""
    from matplotlib.figure import Figure

    parts: dict[str, list[dict[str, Any]]] = {}
    for row in records:
        parts.setdefault(row["config"]["part"], []).append(row["result"])
    for result in parts.get("layers", ()):
        for name, case in result.items():
            faster = case["naive_seconds"] / case["rule_seconds"]
            print(f"{name}: {faster:.0f} times faster than loops, {case}")
    for part in ("overfit", "epoch"):
        for key in ("train_accuracy", "val_accuracy", "test_accuracy"):
            values = [np.ravel(r[key])[-1] for r in parts.get(part, ()) if key in r]
            if values:
                print(f"{part}, {key}: {_study.mean_and_spread(values)}")
    if "overfit" not in parts:
        return
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for result in parts["overfit"]:
        left.plot(result["losses"], "o", color="#0072B2", alpha=0.4, markersize=4)
        right.plot(result["train_accuracy"], "o-", color="#0072B2", alpha=0.7)
        right.plot(result["val_accuracy"], "s--", color="#D55E00", alpha=0.7)
    left.set(xlabel="step", ylabel="loss")
    right.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02))
    right.legend(["50 training images", "validation"])
    _images.save(figure, folder / "convnet.png", dpi=90)


if __name__ == "__main__":
    _study.main("convnet", __doc__, Options, measure, draw)
