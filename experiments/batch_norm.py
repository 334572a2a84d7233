r"""What batch norm and layer norm change: the accuracy over twenty weight scales, and why.

    python -m experiments.batch_norm

Rows 2-19 to 2-22. Batches of 50 of the first 1000 CIFAR-10 images, raw pixels less the mean image,
Adam 1e-3, 10 epochs (200 steps): six hidden layers of 50 with weights from s N(0, 1), s over
logspace(-4, 0, 20), three seeds each; and five layers of 100 at s = .02 (2-19), five seeds. 195
runs took 260 s on two AVX-512 cores that others used, too, compiling included.

**Accuracy over the scale (2-20, 2-21).** Best validation accuracy, mean of three seeds, is above
.25 for 3 of 20 scales without a norm (.034 to .089), for 14 with batch norm (up to .14), for 9 with
layer norm (.0078 to .38). The peaks are alike: .322 +- .006, .326 +- .005, .332 +- .008.

**Why (2-22).** A layer without a norm multiplies what it is given by about 5 s, and so does the way
back; six layers raise that to the sixth power. Before training the last hidden layer's output goes
from 1e-17 at s = 1e-4 to 1e7 at s = 1, the weights' gradients from 1e-19 to 1e6. At s up to 4e-4
every gradient is below 1e-14, where Adam's own eps is 1e-8: loss and accuracy stay those of a guess
(2.30, .119); up to .02 it learns little (.14 to .24). At s = .23 and above, the loss begins at 3e3
to 8e7; 200 steps of 1e-3 do not mend weights of that size, and validation stays at .15. Between the
two is a window of a factor of three. With a norm each layer begins anew from numbers of size .7:
from s = 2e-3 to 1 outputs are .63 to .73 in every layer, and no layer's gradient changes by more
than a factor of about five. So the first steps are as useful at every scale.

**And its limits**, which the courses do not speak of. Below s = 1e-3 the variance that a layer is
given falls under the norm's eps of 1e-5, and outputs shrink after all (3e-5 in layer six at 1e-4);
gradients of 1e-6 are still enough for Adam with batch norm (.25), with layer norm less so (.19).
Towards s = 1 both fall to .16 and .21 though sizes are right: a step of 1e-3 turns a large weight
by little, as gradients do not say how large it is.

**Deep net with and without (2-19).**

| | training | validation | best validation | the course |
|---|---|---|---|---|
| no norm | .605 +- .060 | .317 +- .013 | .318 +- .014 | .660 / .354 |
| batch norm | .801 +- .026 | .324 +- .012 | .335 +- .009 | .795 / .327, best .338 |
| layer norm | .676 +- .030 | .331 +- .012 | .336 +- .007 | |

Batch norm trains faster, as in the course; that it ends worse in validation, as there, does not
hold for five seeds.

Figures: `batch_norm_scales` (accuracies and losses over the scale; without a norm the losses leave
for 1e7), `batch_norm_sizes` (outputs and gradients over the scale: six straight lines through 25
decades against flat ones; a gradient of exactly 0 leaves the panel), `batch_norm_deep` (by epoch).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _images, _study
from funcnet import data, losses, nets, optimizers, plots, sweep

Norm = Literal["none", "batch", "layer"]
NORMS: tuple[Norm, ...] = ("none", "batch", "layer")
COLOURS = {"none": "#000000", "batch": "#0072B2", "layer": "#D55E00"}
WORDS = {"none": "no norm", "batch": "batch norm", "layer": "layer norm"}
ROWS, BATCH, EPOCHS, RATE = 1000, 50, 10, 1e-3
HIDDEN, SCALES = (50,) * 6, np.logspace(-4, 0, 20)
DEEP, DEEP_SCALE = (100,) * 5, 2e-2
PRINTED = {"batch": (2.294970, 0.795, 0.327, 0.338), "none": (2.302627, 0.660, 0.354, None)}
ADAM_EPS = 1e-8


@dataclasses.dataclass(frozen=True)
class Options(_study.Options):
    """Which part to run."""

    part: str = "all"
    """"scales" (accuracy over weight scales), "sizes" (activations and gradients before training),
    "deep" (five layers of 100, with and without), or "all"."""
    norms: tuple[Norm, ...] = NORMS
    """Norms to train with."""


def net_of(hidden: tuple[int, ...], norm: Norm, weight_scale: Any) -> nets.Net:
    """The courses' net: affine - norm - ReLU for each hidden layer; then affine."""
    return nets.fully_connected_net(
        hidden, 10, norm=None if norm == "none" else norm, weight_scale=weight_scale
    )


def measure(options: Options) -> Iterator[_study.Record]:
    """The parts that are asked for, norm by norm."""
    dataset = _study.load("cifar10", options.smoke)
    mean_image = data.fit_preprocessing(dataset.train.images, "mean_image")
    dataset = dataset._replace(train=data.Split(*(a[:ROWS] for a in dataset.train)))
    norms, hidden, scales, seeds, epochs = options.norms, HIDDEN, SCALES, (0, 1, 2), EPOCHS
    if options.smoke:
        norms, hidden, scales, seeds, epochs = norms[:1], HIDDEN[:1], SCALES[-2:], (0,), 1
    for norm in norms:
        if options.part in ("sizes", "all"):
            yield from sizes(dataset, mean_image, hidden, norm, scales)
        if options.part in ("scales", "all"):
            yield from trained("scales", dataset, mean_image, hidden, norm, scales, seeds, epochs)
        if options.part in ("deep", "all") and not options.smoke:
            yield from trained(
                "deep", dataset, mean_image, DEEP, norm, [DEEP_SCALE], range(5), epochs
            )


def trained(
    part: str,
    dataset: data.Dataset,
    mean_image: data.Preprocessing,
    hidden: tuple[int, ...],
    norm: Norm,
    scales: Any,
    seeds: Any,
    epochs: int,
) -> Iterator[_study.Record]:
    """A run for each weight scale and seed, all by one program."""

    def make(weight_scale: Any) -> sweep.Trial:
        return sweep.Trial(net_of(hidden, norm, weight_scale), optimizers.adam(RATE))

    with _study.timed() as watch:
        result = sweep.run(
            make,
            dataset,
            {"weight_scale": scales},
            tuple(seeds),
            epochs,
            BATCH,
            how="loop",
            keep=(),
            sampling="replacement",
            preprocessing=mean_image,
            train_accuracy_rows=None,
        )
    count = len(result.seeds)
    for index in range(count):
        member = result.member(index)
        found = {
            "best_val": result.best_val_accuracy[index],
            "best_train": np.max(member.train_accuracy),
            "first_loss": member.losses[0],
            "last_loss": np.mean(member.losses[-100:]),
            "stopped_at": member.stopped_at,
        }
        if part == "deep":
            found |= {"train": member.train_accuracy, "val": member.val_accuracy}
        config = {"part": part, "norm": norm, "scale": member.values["weight_scale"]}
        config |= {"seed": member.seed, "epochs": epochs}
        yield _study.Record(config, found, watch.seconds / count, watch.compile_seconds / count)


def sizes(
    dataset: data.Dataset,
    mean_image: data.Preprocessing,
    hidden: tuple[int, ...],
    norm: Norm,
    scales: Any,
) -> Iterator[_study.Record]:
    """Before training: each layer's output after its ReLU, and the gradient of its weights."""
    x = data.preprocess(mean_image, dataset.train.images[:BATCH])
    labels = jnp.asarray(dataset.train.labels[:BATCH], jnp.int32)
    key = jax.random.key(0)

    @jax.jit
    def measured(scale: Any) -> Any:
        net = net_of(hidden, norm, scale)
        params, state = net.init(key, dataset.input_shape)

        def loss(params: Any) -> Any:
            return losses.softmax_cross_entropy(net.apply(params, state, x, train=True)[0], labels)

        value, grads = jax.value_and_grad(loss)(params)
        outputs, layer, y = [], 0, x
        for block in net.children:
            layer += block.kind == "affine"
            name = f"{block.kind}{layer}"
            y, _ = block.apply(params.get(name, ()), state.get(name, ()), y, train=True)
            if block.kind == "relu":
                outputs.append(y)
        weights = [grads[f"affine{i + 1}"].w for i in range(len(hidden) + 1)]
        rms = [[jnp.sqrt(jnp.mean(a**2)) for a in arrays] for arrays in (outputs, weights)]
        return value, *rms

    for scale in scales:
        with _study.timed() as watch:
            value, outputs, weights = jax.device_get(measured(scale))
        result = {"loss": float(value), "outputs": outputs, "weight_grads": weights}
        yield watch.record({"part": "sizes", "norm": norm, "scale": float(scale)}, result)


def draw(rows: _study.Rows, folder: Path) -> None:
    """Tables; accuracies and losses over the scale; sizes over the scale; the deep net's epochs."""
    for norm in NORMS:
        scales = columns(_study.matching(rows, part="scales", norm=norm), "best_val")
        if scales:
            means = {scale: np.mean(values) for scale, values in scales.items()}
            best = max(means, key=lambda scale: means[scale])
            good = [scale for scale, value in means.items() if value > 0.25]
            span = f"{min(good):.1e} to {max(good):.1e}" if good else "nowhere"
            print(f"{norm}: best {_study.mean_and_spread(scales[best])} at {best:.2e}; "
                  f"above .25 from {span} ({len(good)} of {len(means)} scales)")  # fmt: skip
    for norm in NORMS:
        deep = _study.matching(rows, part="deep", norm=norm)
        for key in ("first_loss", "best_val") if deep else ():
            print(f"deep {norm}: {key} {_study.mean_and_spread([r['result'][key] for r in deep])}")
        for key in ("train", "val") if deep else ():
            last = [row["result"][key][-1] for row in deep]
            print(f"deep {norm}: {key} {_study.mean_and_spread(last)} {PRINTED.get(norm, '')}")
    draw_scales(_study.matching(rows, part="scales"), folder)
    draw_sizes(_study.matching(rows, part="sizes"), folder)
    draw_deep(_study.matching(rows, part="deep"), folder)


def columns(rows: _study.Rows, key: str) -> dict[float, list[float]]:
    """The results of each scale's seeds, by scale."""
    found: dict[float, list[float]] = {}
    for row in sorted(rows, key=lambda row: row["config"]["scale"]):
        found.setdefault(row["config"]["scale"], []).append(row["result"][key])
    return found


@plots.style()
def draw_scales(rows: _study.Rows, folder: Path) -> None:
    """Best accuracies and the last losses over the weight scale."""
    from matplotlib.figure import Figure

    if not rows:
        return
    figure = Figure(figsize=(13.0, 4.4), layout="constrained")
    panels = dict(zip(("best_val", "best_train", "last_loss"), figure.subplots(1, 3), strict=True))
    for key, axes in panels.items():
        factor = 1 if key == "last_loss" else 100
        for norm in NORMS:
            found = columns(_study.matching(rows, norm=norm), key)
            if not found:
                continue
            values = factor * np.array(list(found.values()), np.float64)
            mean = values.mean(1)
            axes.plot(list(found), mean, "o-", color=COLOURS[norm], ms=4, label=WORDS[norm])
            axes.fill_between(
                list(found), values.min(1), values.max(1), color=COLOURS[norm], alpha=0.15, lw=0
            )
        axes.set(xscale="log", xlabel="weight scale")
    panels["best_val"].set(ylabel="best validation accuracy (%)")
    panels["best_train"].set(ylabel="best training accuracy (%)")
    panels["last_loss"].set(ylabel="mean of the last 100 losses", yscale="log")
    panels["best_val"].legend()
    title = "six hidden layers of 50, 1000 CIFAR-10 images, Adam: mean and range of the seeds"
    figure.suptitle(title, fontsize=13)
    _images.save(figure, folder / "batch_norm_scales.png", dpi=85, colours=64)


@plots.style()
def draw_sizes(rows: _study.Rows, folder: Path) -> None:
    """Sizes of activations and of the weights' gradients before training, layer by layer."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    if not rows:
        return
    figure = Figure(figsize=(13.0, 7.6), layout="constrained")
    grid = figure.subplots(2, 3, sharex=True, sharey="row")
    for column, norm in zip(grid.T, NORMS, strict=True):
        for axes, key in zip(column, ("outputs", "weight_grads"), strict=True):
            found = columns(_study.matching(rows, norm=norm), key)
            if not found:
                continue
            values = np.maximum(np.array(list(found.values()))[:, 0], 1e-45)  # a 0 leaves the panel
            for layer in range(values.shape[1]):
                colour = colormaps["viridis"](layer / (len(HIDDEN) + 0.5))
                label = "the last" if layer == len(HIDDEN) else f"layer {layer + 1}"
                axes.plot(list(found), values[:, layer], color=colour, label=label)
            axes.set(xscale="log", yscale="log", ylim=(1e-20, 1e8))
        column[0].set_title(WORDS[norm])
        column[1].axhline(ADAM_EPS, color="#D55E00", ls=":", lw=1.5, label="Adam's eps")
        column[1].set(xlabel="weight scale")
    grid[0, 0].set(ylabel="rms of a layer's output after ReLU")
    grid[1, 0].set(ylabel="rms of the gradient of its weights")
    grid[0, 0].legend(fontsize=9, loc="lower right")
    grid[1, 0].legend(fontsize=9, loc="lower right", ncols=2)
    _images.save(figure, folder / "batch_norm_sizes.png", dpi=80, colours=96)


@plots.style()
def draw_deep(rows: _study.Rows, folder: Path) -> None:
    """Accuracies of the deep net by epoch, with and without."""
    from matplotlib.figure import Figure

    if not rows:
        return
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, key, name in zip(panels, ("train", "val"), ("training", "validation"), strict=True):
        for norm in NORMS:
            values = [row["result"][key] for row in _study.matching(rows, norm=norm)]
            for value in values:
                axes.plot(100 * np.array(value), color=COLOURS[norm], lw=0.8, alpha=0.4)
            if values:
                mean = 100 * np.mean(values, 0)
                axes.plot(mean, "o-", color=COLOURS[norm], ms=4, label=WORDS[norm])
        axes.set(xlabel="epoch", ylabel=f"{name} accuracy (%)")
    panels[0].legend()
    figure.suptitle("five hidden layers of 100, 1000 images: mean of 5 seeds", fontsize=13)
    _images.save(figure, folder / "batch_norm_deep.png", dpi=85, colours=64)


if __name__ == "__main__":
    _study.main("batch_norm", __doc__, Options, measure, draw)
