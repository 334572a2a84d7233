"""The courses' questions, each answered by a measurement.

    python -m experiments.questions

Rows 1-7, 1-25 and 1-33; row 2-22, which asks why batch norm helps, is answered in the study
`batch_norm`. Ten seconds.

**1-7: which of sigmoid, ReLU and leaky ReLU have (nearly) zero gradients?** Sigmoid far from 0 on
either side: its slope is at most 1/4, 4.5e-5 at +-10, and below 1e-3 for 49% of inputs from
N(0, 10^2) and 94% from N(0, 100^2). In float32 it is exactly 0 from about 17 on, where the value
rounds to 1, but still 2.1e-9 at -20. ReLU for each x <= 0: 50% of all centred inputs, however
large. Leaky ReLU nowhere: .01 or 1.

**1-25: which depth is more sensitive to the scale of its weights?** Five layers. Each weight's
gradient is a product with the other matrices: it grows as scale^2 with three layers and as scale^4
with five, until the scores saturate the softmax (fitted powers 2.03 to 2.10, and 4.00; 50 images,
ten draws). Twice the scale makes the first layer's gradient 4.1 times as long, or 16.0 times. From
scale 1e-3 to 1 it spans 6.2 decades, or 12.2: the range that trains is as much narrower.

**1-33: why do AdaGrad's steps become small, and do Adam's?** AdaGrad's sum of squares only grows:
gradients of 10 make it 10,000 after 100 steps (the course's answer says 1000) and the step
10/sqrt(10000) = .1 of the first; it falls as 1/sqrt(t). Adam's is a mean: it tends to 100, the
square of the gradient (the course says 10, the gradient), which after 100 steps it is up to the
bias correction (9.52, corrected 100), and the steps stay as long. A mean of squares is bounded by
the largest *squared* gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _images, _study
from funcnet import data, layers, losses, nets, optimizers, plots

ACTIVATIONS: dict[str, Callable[..., Any]] = {
    "sigmoid": layers.sigmoid,
    "relu": layers.relu,
    "leaky_relu": layers.leaky_relu,
}
SCALES = tuple(float(s) for s in np.geomspace(1e-3, 1.0, 13))
DEPTHS = (3, 5)
STEPS, GRADIENT = 100, 10.0


@dataclasses.dataclass(frozen=True)
class Options(_study.Options):
    """How often the draws are repeated."""

    seeds: int = 10
    """Weights drawn at each depth and scale."""


def measure(options: Options) -> Iterator[_study.Record]:
    """Records of rows 1-7, 1-25 and 1-33."""
    for name, function in ACTIVATIONS.items():
        with _study.timed() as watch:
            result = derivatives(function)
        yield watch.record({"row": "1-7", "activation": name}, result)

    dataset = _study.load("cifar10", options.smoke)
    preprocessing = data.fit_preprocessing(dataset.train.images, "mean_image")
    x = data.preprocess(preprocessing, dataset.train.images[:50])
    labels = jnp.asarray(dataset.train.labels[:50])
    seeds, scales = (2, SCALES[::6]) if options.smoke else (options.seeds, SCALES)
    for depth in DEPTHS:
        with _study.timed() as watch:
            norms = gradient_norms(depth, np.array(scales), seeds, x, labels)
            result = {"norms": norms.round(9).tolist(), **sensitivity(norms, np.array(scales))}
        config = {"row": "1-25", "layers": depth, "scales": list(scales), "seeds": seeds}
        yield watch.record(config, result)

    for name, optimizer in {
        "adagrad": optimizers.adagrad(1.0, initial_accumulator_value=0.0, eps=0.0),
        "adam": optimizers.adam(1.0, eps=0.0),
    }.items():
        with _study.timed() as watch:
            result = constant_gradient(optimizer)
        config = {"row": "1-33", "optimizer": name, "gradient": GRADIENT, "steps": STEPS}
        yield watch.record(config, result)


def derivatives(function: Callable[..., Any]) -> dict[str, Any]:
    """The rule's derivative on a grid, and how many inputs get nothing back, in float32."""
    slope = jax.jit(jax.vmap(jax.grad(function)))
    grid = np.linspace(-12, 12, 241, dtype=np.float32)
    at = np.array([-100, -20, -10, -1, 0, 1, 10, 20, 100], np.float32)
    result: dict[str, Any] = {
        "grid": grid.round(2).tolist(),
        "slopes": [float(f"{v:.6g}") for v in slope(grid)],
        "at": at.tolist(),
        "slopes_there": [float(v) for v in slope(at)],
    }
    for spread in (1.0, 10.0, 100.0):
        x = spread * jax.random.normal(jax.random.key(0), (100000,), jnp.float32)
        slopes = np.asarray(slope(x))
        result[f"zero_share_{spread:g}"] = float((slopes == 0).mean())
        result[f"small_share_{spread:g}"] = float((slopes < 1e-3).mean())
    return result


def gradient_norms(depth: int, scales: np.ndarray, seeds: int, x: Any, labels: Any) -> np.ndarray:
    """The length of each weight matrix's gradient, (scales, seeds, depth).

    100 units in each hidden layer, 50 images, as in rows 1-22 and 1-23.
    """
    net = nets.fully_connected_net([100] * (depth - 1), 10, weight_scale=1.0)
    names = [f"affine{i}" for i in range(1, depth + 1)]

    def loss(params: Any) -> Any:
        return losses.softmax_cross_entropy(net.apply(params, {}, x)[0], labels)

    @jax.jit
    def lengths(key: Any, scale: Any) -> Any:
        params, _ = net.init(key, x.shape[1:])
        params = jax.tree.map(lambda w: scale * w, params)  # biases are 0
        grads = jax.grad(loss)(params)
        return jnp.stack([jnp.linalg.norm(grads[name].w) for name in names])

    keys = jax.random.split(jax.random.key(0), seeds)
    found = [[lengths(key, jnp.float32(scale)) for key in keys] for scale in scales]
    return np.array(found, np.float64)


def sensitivity(norms: np.ndarray, scales: np.ndarray) -> dict[str, Any]:
    """How a gradient grows with the scale: the slope of log(norm) over the smaller half of scales.

    While the scores are small each weight gradient is a product with the depth - 1 other matrices.
    """
    logs = np.log(np.maximum(norms, 1e-300)).mean(1)  # (scales, depth)
    half = max(len(scales) // 2, 2)
    slopes = np.polyfit(np.log(scales[:half]), logs[:half], 1)[0]
    return {
        "powers": slopes.tolist(),
        "span_over_scales": (logs.max(0) - logs.min(0)).tolist(),
        "first_layer_factor_per_doubling": float(2 ** slopes[0]),
    }


def constant_gradient(optimizer: optax.GradientTransformation) -> dict[str, Any]:
    """The second moment and the step after each of a hundred gradients of 10."""
    w = jnp.zeros((), jnp.float32)
    state = optimizer.init(w)
    update = jax.jit(optimizer.update)
    moments, steps = [], []
    for _ in range(STEPS):
        step, state = update(jnp.full_like(w, GRADIENT), state)
        moment = state.sum_of_squares if hasattr(state, "sum_of_squares") else state.nu
        moments.append(float(moment))
        steps.append(float(-step))
    result = {"moments": moments, "steps": steps, "last": moments[-1]}
    if hasattr(state, "nu"):
        result["corrected"] = moments[-1] / (1 - 0.999**STEPS)  # what Adam divides by
    return result


@plots.style()
def draw(rows: _study.Rows, folder: Path) -> None:
    """The measurements of each answer, in numbers and in three figures."""
    for number, figure in (("1-7", slopes_figure), ("1-25", depth_figure), ("1-33", steps_figure)):
        some = _study.matching(rows, row=number)
        for row in some:
            print(number, _study._line({**row["config"], **row["result"]}))
        _images.save(figure(some), folder / f"questions_{number.replace('-', '_')}.png")


def _figure(width: float, panels: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.8), layout="constrained")
    return figure, figure.subplots(1, panels, sharey=panels > 1)


def slopes_figure(rows: _study.Rows) -> Any:
    """The three derivatives."""
    figure, axes = _figure(7.0, 1)
    for row in rows:
        name = row["config"]["activation"].replace("_", " ")
        axes.plot(row["result"]["grid"], row["result"]["slopes"], label=name)
    axes.set(xlabel="x", ylabel="derivative", title="what comes back through an activation")
    axes.set_yscale("symlog", linthresh=1e-6)
    axes.set_ylim(-2e-7, 3)
    axes.legend()
    return figure


def depth_figure(rows: _study.Rows) -> Any:
    """The lengths of the gradients against the scale of the weights, layer by layer."""
    figure, panels = _figure(10.0, len(rows))
    for axes, row in zip(panels, rows, strict=True):
        config, norms = row["config"], np.array(row["result"]["norms"])
        for layer in range(norms.shape[2]):
            middle = np.exp(np.log(np.maximum(norms[:, :, layer], 1e-9)).mean(1))
            axes.plot(config["scales"], middle, "o-", ms=3, label=f"layer {layer + 1}")
        axes.set(xscale="log", yscale="log", xlabel="weight scale")
        axes.set_title(f"{config['layers']} layers")
        axes.legend(fontsize=9)
    panels[0].set_ylabel("length of the gradient")
    return figure


def steps_figure(rows: _study.Rows) -> Any:
    """The step that a constant gradient makes."""
    figure, axes = _figure(7.0, 1)
    for row in rows:
        steps = np.arange(1, STEPS + 1)
        result, name = row["result"], row["config"]["optimizer"]
        label = f"{name}: second moment {result['last']:.6g}"
        label += f" ({result['corrected']:.6g} corrected)" if "corrected" in result else ""
        axes.plot(steps, result["steps"], label=f"{label} after {STEPS} steps")
    axes.plot(steps, 1 / np.sqrt(steps), ":", color="black", label="1 / sqrt(t)")
    axes.set(xlabel="step", ylabel="length of the step (rate 1)", ylim=(0, 1.15))
    axes.set_title("every gradient is 10", fontsize=12)
    axes.legend(fontsize=9, loc="upper right", bbox_to_anchor=(1, 0.85))
    return figure


if __name__ == "__main__":
    _study.main("questions", __doc__, Options, measure, draw)
