"""How much memory does a train step need, and what do the rules save of it?

    python -m experiments.memory

Compiles train steps of two nets at several batch sizes and depths (a minute; nothing is run) and
prints what XLA sets aside for each beside parameters and batch: with funcnet's rules, with autodiff
of the same functions, with every block recomputed in the backward pass (`nets.remat`), and computed
in bfloat16.

Source: courses.md row 2-8 (the deep nets that are trained here).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import checks, nets, optimizers, train

HEADER = ("net", "batch", "rules", "autodiff", "ratio", "remat", "bfloat16")


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
    return int(compiled.memory_analysis().temp_size_in_bytes)


def rows(depths: Sequence[int], batches: Sequence[int]) -> list[tuple[str, ...]]:
    """The table, a row for each net and batch."""
    table = []
    for name, make in (("conv - relu", convolutions), ("affine - batch norm - relu", dense)):
        for depth in depths:
            for batch in batches:
                ours = step_bytes(make(depth), batch)
                plain = step_bytes(make(depth), batch, plain=True)
                remat = step_bytes(make(depth, nets.remat), batch)
                low = step_bytes(make(depth), batch, compute_dtype=jnp.bfloat16)
                sizes = [f"{size / 1e6:.1f} MB" for size in (ours, plain, remat, low)]
                sizes.insert(2, f"{ours / plain:.2f}")
                table.append((f"{name}, {depth} deep", str(batch), *sizes))
    return table


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 8])
    parser.add_argument("--batches", type=int, nargs="+", default=[100, 400])
    options = parser.parse_args()
    for row in (HEADER, ("---",) * len(HEADER), *rows(options.depths, options.batches)):
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
