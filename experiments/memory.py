"""How much memory does a train step need, and what do the rules save of it?

    python -m experiments.memory

Compiles train steps of two nets at several batch sizes and depths (a minute; no step is run) and
prints what XLA sets aside for each beside parameters and batch: with funcnet's rules, with autodiff
of the same functions, with every block recomputed in the backward pass (`nets.remat`), and computed
in bfloat16.

Source: courses.md row 2-8 (the deep nets that are trained here).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments import _study
from funcnet import checks, nets, optimizers, train

HEADER = ("net", "batch", "rules", "autodiff", "ratio", "remat", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Options(_study.Options):
    """The sizes of what is compiled."""

    depths: tuple[int, ...] = (2, 8)
    """Numbers of blocks."""
    batches: tuple[int, ...] = (100, 400)
    """Rows in a batch."""


def convolutions(
    depth: int, wrap: Callable[[nets.Net], nets.Net] = lambda block: block
) -> nets.Net:
    """`depth` times conv - relu, then conv - relu - pool once, then affine."""
    blocks = [wrap(nets.serial(nets.conv(32, 3), nets.relu())) for _ in range(depth)]
    pool = wrap(nets.serial(nets.conv(32, 3), nets.relu(), nets.max_pool()))
    return nets.serial(*blocks, pool, nets.flatten(), nets.affine(10))


def dense(depth: int, wrap: Callable[[nets.Net], nets.Net] = lambda block: block) -> nets.Net:
    """`depth` times affine - batch norm - relu, then affine."""
    block = (nets.affine(500), nets.batch_norm(), nets.relu())
    return nets.serial(*(wrap(nets.serial(*block)) for _ in range(depth)), nets.affine(10))


def without_rules(net: nets.Net) -> nets.Net:
    """The same net for autodiff, which differentiates what the rules' functions are made of."""

    def apply(params: Any, state: Any, x: Any, *, train: bool = False, key: Any = None) -> Any:
        run = checks.without_rules(
            lambda params, state, x: net.apply(params, state, x, train=train, key=key)
        )
        return run(params, state, x)

    return net._replace(apply=apply)


def step_bytes(net: nets.Net, batch: int, plain: bool = False, compute_dtype: Any = None) -> int:
    """Bytes that XLA sets aside for a compiled step beside what goes in and out."""
    optimizer = optimizers.momentum(1e-2)
    state = jax.eval_shape(lambda: train.init_state(net, optimizer, jax.random.key(0), (32, 32, 3)))
    step = train.make_step(
        without_rules(net) if plain else net, optimizer, compute_dtype=compute_dtype
    )
    images = jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    compiled = jax.jit(step, donate_argnums=0).lower(state, (images, labels)).compile()
    analysis: Any = compiled.memory_analysis()
    return int(analysis.temp_size_in_bytes)


def measure(options: Options) -> Iterator[_study.Record]:
    """A record for each net, depth and batch."""
    depths, batches = ((1,), (10,)) if options.smoke else (options.depths, options.batches)
    for name, make in NETS.items():
        for depth, batch in itertools.product(depths, batches):
            with _study.timed() as watch:
                result = {
                    "rules": step_bytes(make(depth), batch),
                    "autodiff": step_bytes(make(depth), batch, plain=True),
                    "remat": step_bytes(make(depth, nets.remat), batch),
                    "bfloat16": step_bytes(make(depth), batch, compute_dtype=jnp.bfloat16),
                }
            yield watch.record({"net": name, "depth": depth, "batch": batch}, result)


def draw(rows: _study.Rows, folder: Path) -> None:
    """Prints the table as Markdown; there is no figure."""
    del folder
    table = []
    for row in rows:
        config, sizes = row["config"], row["result"]
        words = {name: f"{size / 1e6:.1f} MB" for name, size in sizes.items()}
        words["net"], words["batch"] = f"{config['net']}, {config['depth']} deep", config["batch"]
        words["ratio"] = f"{sizes['rules'] / sizes['autodiff']:.2f}"
        table.append(tuple(str(words[name]) for name in HEADER))
    for line in (HEADER, ("---",) * len(HEADER), *table):
        print("| " + " | ".join(line) + " |")


NETS = {"conv - relu": convolutions, "affine - batch norm - relu": dense}

if __name__ == "__main__":
    _study.main("memory", __doc__, Options, measure, draw)
