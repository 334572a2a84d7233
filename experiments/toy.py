"""The toy net under three rules: do a hundred steps end where course 004 says, to six digits?

    python -m experiments.toy

Rows 4-17 to 4-24. 4 inputs, 10 hidden units, 3 classes, five examples, weights from linspace; 100
steps on all five, rate 0.1, L2 penalty 0.5e-3 of the squared weights, float64. The course prints
the loss before the last update. Beside the three rules stand the mistakes that are easily made:
each ends somewhere else, so that the printed digits say which form the course has run. Seconds.

| rule | the course | measured |
|---|---|---|
| SGD | .940686 | 0.940686 |
| momentum .9 | .494394 | 0.494394 |
| RMSProp, decay .99 | .439368 | 0.439368 |
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _images, _study
from funcnet import layers, nets, optimizers, plots, train

STEPS, RATE, REG = 100, 0.1, 1e-3
PRINTED = {"SGD": 0.940686, "momentum": 0.494394, "RMSProp": 0.439368}


@dataclasses.dataclass(frozen=True)
class Options(_study.Options):
    """The toy net has nothing to choose."""


def lin(low: float, high: float, *shape: int) -> jax.Array:
    """The course's numbers: evenly spaced, row by row."""
    return jnp.asarray(np.linspace(low, high, math.prod(shape)).reshape(shape))


def rules() -> dict[tuple[str, str], tuple[optax.GradientTransformation, float]]:
    """Optimizer and penalty by rule and mistake; without its half a penalty is twice as strong."""
    sgd = optimizers.sgd(RATE)
    momentum = optimizers.momentum(RATE, 0.9, velocity="scaled")
    rmsprop = optimizers.rmsprop(RATE, decay=0.99, eps=1e-8)
    return {
        ("SGD", ""): (sgd, REG),
        ("momentum", ""): (momentum, REG),
        ("RMSProp", ""): (rmsprop, REG),
        ("SGD", "penalty without its half"): (sgd, 2 * REG),
        ("momentum", "penalty without its half"): (momentum, 2 * REG),
        ("RMSProp", "penalty without its half"): (rmsprop, 2 * REG),
        ("momentum", "Nesterov's"): (optimizers.nesterov(RATE, 0.9, velocity="scaled"), REG),
        ("RMSProp", "eps outside of the root"): (
            optimizers.rmsprop(RATE, decay=0.99, eps=1e-8, eps_in_sqrt=False),
            REG,
        ),
    }


def losses(optimizer: optax.GradientTransformation, reg: float) -> tuple[list[float], float]:
    """The loss before each step, and after the last."""
    net = nets.two_layer_net(10, 3)
    batch = lin(-0.2, 0.5, 5, 4), jnp.array([0, 1, 2, 2, 1], jnp.int32)
    params = {
        "affine1": layers.AffineParams(lin(-0.2, 0.6, 4, 10), lin(-0.3, 0.7, 10)),
        "affine2": layers.AffineParams(lin(-0.4, 0.1, 10, 3), lin(-0.5, 0.9, 3)),
    }
    state = train.init_state(net, optimizer, jax.random.key(0), (4,), jnp.float64)
    state = state._replace(params=params)
    step = jax.jit(train.make_step(net, optimizer, reg=reg), donate_argnums=0)
    values = []
    for _ in range(STEPS + 1):
        state, metrics = step(state, batch)
        values.append(float(metrics["loss"]))
    return values[:-1], values[-1]


def measure(options: Options) -> Iterator[_study.Record]:
    """A record for each rule and each mistake."""
    for (rule, mistake), (optimizer, reg) in rules().items():
        if options.smoke and mistake:
            continue
        with _study.timed() as watch, jax.enable_x64(True):
            before, after = losses(optimizer, reg)
        result = {
            "losses": before,
            "last": before[-1],
            "after": after,
            "printed": PRINTED[rule],
            "as_printed": f"{before[-1]:.6f}" == f"{PRINTED[rule]:.6f}",
        }
        yield watch.record({"rule": rule, "mistake": mistake}, result)


@plots.style()
def draw(rows: _study.Rows, folder: Path) -> None:
    """The losses of the three rules, and where each mistake ends."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.0), layout="constrained")
    curves, ends = figure.subplots(1, 2, width_ratios=(1, 1.1))
    colours: dict[str, Any] = {}
    for row in rows:
        rule, mistake = row["config"]["rule"], row["config"]["mistake"]
        result = row["result"]
        last, printed = result["last"], result["printed"]
        if not mistake:
            (line,) = curves.plot(result["losses"], label=rule)
            colours[rule] = line.get_color()
            ends.axvline(printed, color=colours[rule], lw=1)
        label = f"{rule}, {mistake}" if mistake else f"{rule}, as the course"
        ends.plot(last, label, "x" if mistake else "o", color=colours[rule])
        ends.annotate(f"{last:.6f}", (last, label), (7, -4), textcoords="offset points", size=9)
        print(f"{rule:9} {mistake:25} {last:.6f} (printed {printed:.6f})")
    curves.set(xlabel="step", ylabel="loss before the step", yscale="log")
    curves.legend()
    ends.invert_yaxis()
    ends.set(xlim=(0.4, 1.12), xlabel="loss before step 100 (lines: as printed)")
    ends.tick_params(axis="y", labelsize=9)
    _images.save(figure, folder / "toy.png")


if __name__ == "__main__":
    _study.main("toy", __doc__, Options, measure, draw)
