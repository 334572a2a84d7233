"""How long does an epoch of convolutional and other nets take, here and in Flax and torch?

    FUNCNET_DATA_DIR=... python -m experiments.epoch

The nets are the scorecard's, among them a small modern one: five convolutions with batch norm and
ReLU, 32 to 256 channels, about 100 million operations an image forward. Batches of 100 are gathered
from CIFAR-10's uint8 images and standardised. Each side has a process of its own, is warmed up, and
then goes once through the 49,000 training images: funcnet by `train.fit` with native kernels and
with XLA's, Flax (linen, optax) by a jitted and donated step, torch (channels last, fused optimizer)
eagerly. "4x4" takes four by four outputs of a convolution at once (Winograd's filtering). Beside
the seconds stands the memory that comes to be resident beyond libraries and images. funcnet's step
also measures accuracy and the gradient's norm and refuses updates that are not finite.

Seconds an epoch, one epoch each, on two AVX-512 cores with nothing else running (the convolutional
nets with the mean image taken off instead, which takes as long):

    net                  native    pure    Flax   torch
    modern_convnet        61.17       -  264.10   62.61
    course_004_convnet     3.04    9.55   41.96   10.03
    three_conv            10.56   29.04   67.03   14.98
    fc100x5                0.65    0.72    0.83    0.91
    fc500x3                2.74    2.57    3.10    2.46
    course_000             2.73    3.18    3.15    2.86

fc500x3 was run five more times in turns: native kernels took .90 of the time of XLA's (medians;
single pairs .77 to 1.14). What `fit` gains over calling a step in a loop is scratch memory: XLA
asks for it anew at every call, and the system clears its pages; within a chunk of steps it is kept.

Source: courses.md row 4-50 (the same experiments in a large library).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _images, _study
from funcnet import data, kernels, plots, train
from funcnet.bench import _cases, _steps

NETS = ("modern_convnet", "course_004_convnet", "three_conv", "fc100x5", "fc500x3", "course_000")
BATCH = 100
KIND: Any = "standardised"
WARM_UP = 5  # steps before the clock starts
NEEDS = {
    "native": "funcnet_native",
    "4x4": "funcnet_native",
    "pure": "funcnet",
    "flax": "flax",
    "torch": "torch",
}
SETTINGS = {"4x4": {"FUNCNET_WINOGRAD": "4"}, "pure": {"FUNCNET_NATIVE": "0"}}


@dataclasses.dataclass(frozen=True)
class Options(_study.Options):
    """Who is measured, and over how many images."""

    sides: tuple[str, ...] = tuple(NEEDS)
    """Some of native, 4x4, pure, flax, torch; one that is not installed is left out."""
    nets: tuple[str, ...] = NETS
    """Nets of the scorecard."""
    rows: int = 49000
    """Training images in an epoch, the first of CIFAR-10's."""


def of_funcnet(spec: _cases.Step, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The second epoch of a run; the first compiles."""
    few = data.Split(images[:BATCH], labels[:BATCH])
    dataset = data.Dataset(data.Split(images, labels), few, few, tuple(map(str, range(10))))
    fitted = train.fit(
        _steps.build(spec),
        dataset,
        _steps._optimizer(spec),
        2,
        BATCH,
        preprocessing=data.fit_preprocessing(images, KIND),
    )
    _, first, second = fitted.history
    return {"images_per_second": second["images_per_second"], "loss": first["loss"]}


def of_flax(spec: _cases.Step, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """A loop over a jitted step that gathers its rows."""
    step, state = _steps._flax(spec, _steps._on_host(_steps._ours(spec)[1]))
    x, y = jnp.asarray(images), jnp.asarray(labels)
    preprocessing = data.fit_preprocessing(images, KIND)

    @partial(jax.jit, donate_argnums=0)
    def gathered(state: Any, rows: Any) -> Any:
        return step(state, (data.preprocess(preprocessing, x[rows]), y[rows]))

    def go(batches: np.ndarray) -> list[float]:
        nonlocal state
        losses = []
        for rows in batches:
            state, metrics = gathered(state, rows)
            losses.append(metrics["loss"])
        jax.block_until_ready(state)
        return [float(loss) for loss in losses]

    return _timed(go, len(y))


def of_torch(spec: _cases.Step, images: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The scorecard's torch: channels last, the optimizer's fused kernel."""
    import torch

    from funcnet.bench import _torch_worker

    torch.set_num_threads(os.cpu_count() or 1)
    params = _steps._for_torch(spec, _steps._on_host(_steps._ours(spec)[1]).params)
    mean, scale = (np.float32(a) for a in data.fit_preprocessing(images, KIND))
    if images.ndim == 4:
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        mean, scale = (a.transpose(2, 0, 1) for a in (mean, scale))
    mean, scale = torch.from_numpy(mean), torch.from_numpy(scale)
    x = torch.from_numpy(images)
    y = torch.from_numpy(np.array(labels)).long()
    layout = "channels_last" if x.ndim == 4 else "contiguous"
    arrays = {f"p{i}": p for i, p in enumerate(params)}
    arrays |= {"x0": x[:BATCH].float().numpy(), "y0": y[:BATCH].numpy()}
    request = {
        "batches": 1,
        "layers": spec.layers,
        "optimizer": spec.optimizer,
        "learning_rate": spec.learning_rate,
    }
    made = _torch_worker.Step(request, arrays, layout, "cpu")

    def go(batches: np.ndarray) -> list[float]:
        losses = []
        for rows in batches:
            chosen = torch.from_numpy(rows)
            batch = (x[chosen].float() - mean) * scale
            if batch.ndim == 4:
                batch = batch.contiguous(memory_format=torch.channels_last)
            losses.append(made.on(batch, y[chosen]))
        return [float(loss) for loss in losses]

    return _timed(go, len(labels))


def _timed(go: Callable[[np.ndarray], list[float]], rows: int) -> dict[str, Any]:
    """Times `go` over an epoch's batches, after some; it returns their losses."""
    order = np.random.default_rng(0).permutation(rows)
    batches = order[: rows // BATCH * BATCH].reshape(-1, BATCH)
    go(batches[:WARM_UP])
    began = time.perf_counter()
    losses = go(batches)
    seconds = time.perf_counter() - began
    return {"images_per_second": batches.size / seconds, "loss": float(np.mean(losses))}


def alone(net: str, side: str, rows: int, smoke: bool) -> None:
    """Measures one side in this process and prints what it took, as JSON.

    Memory is what comes to be resident beyond libraries and images.
    """
    dataset = _study.load("cifar10", smoke)
    images, labels = (np.asarray(a[:rows]) for a in dataset.train)
    run = {"flax": of_flax, "torch": of_torch}.get(side, of_funcnet)
    spec = _cases.STEPS[net]
    images = images.reshape(-1, *spec.input_shape)
    del dataset
    importlib.import_module(NEEDS[side])
    kernels.keep_memory()  # as `funcnet train` does
    before = _megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    result = run(spec, images, labels) | {"kernels": kernels.native_status()}
    print(json.dumps(result | {"peak_mb": _megabytes("VmHWM") - before}))


def _megabytes(name: str) -> float:
    """A line of Linux's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 / 1e6 for x in lines if x.startswith(f"{name}:"))


def measure(options: Options) -> Iterator[_study.Record]:
    """A record a side."""
    rows = 2 * BATCH if options.smoke else options.rows
    nets, sides = (("fc100x5",), ("pure",)) if options.smoke else (options.nets, options.sides)
    for net, side in itertools.product(nets, sides):
        if importlib.util.find_spec(NEEDS[side]) is None:
            print(f"{side} is left out: {NEEDS[side]} is not installed")
            continue
        asked = f"{net!r}, {side!r}, {rows}, {options.smoke}"
        with _study.timed() as watch:
            done = subprocess.run(
                [sys.executable, "-c", f"from experiments import epoch; epoch.alone({asked})"],
                stdout=subprocess.PIPE,
                env={**os.environ, "FUNCNET_NATIVE": "1", **SETTINGS.get(side, {})},
                check=True,
            )
            result = json.loads(done.stdout.splitlines()[-1])
        yield watch.record({"net": net, "side": side, "rows": rows, "batch": BATCH}, result)


@plots.style()
def draw(records: _study.Rows, folder: Path) -> None:
    """Seconds an epoch, a group of bars a net; the table is printed."""
    from matplotlib.figure import Figure

    seconds: dict[str, dict[str, float]] = {}
    for row in records:
        net, side, rows = (row["config"][name] for name in ("net", "side", "rows"))
        seconds.setdefault(net, {})[side] = rows / row["result"]["images_per_second"]
        if "peak_mb" in row["result"]:  # older records have none
            print(f"{net}, {side}: {row['result']['peak_mb']:.0f} MB")
    for net, times in seconds.items():
        ours = times.get("native", times.get("pure", float("nan")))
        beside = ", ".join(f"{side} {t:.2f} s ({ours / t:.2f})" for side, t in times.items())
        print(f"{net}: {beside}")
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for i, side in enumerate(NEEDS):
        there = [(n, times[side]) for n, times in enumerate(seconds.values()) if side in times]
        if there:
            axes.bar(
                [n + 0.16 * (i - 2) for n, _ in there], [t for _, t in there], 0.16, label=side
            )
    axes.set_xticks(range(len(seconds)), [net.replace("_", "\n") for net in seconds])
    axes.set(ylabel="seconds an epoch", yscale="log")
    axes.legend()
    _images.save(figure, folder / "epoch.png", dpi=90)


if __name__ == "__main__":
    _study.main("epoch", __doc__, Options, measure, draw)
