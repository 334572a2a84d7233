"""Neighbouring blocks that run as one: the same names, the same numbers, fewer residuals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from funcnet import layers
from funcnet.nets._blocks import NO_NORM_PARAMS, Net, running_statistics

Configs = list[dict[str, Any]]


class Fusion(NamedTuple):
    """A fused rule for blocks of these kinds, where it applies.

    `apply(configs, params, state, x)` returns the output and the new states, block by block.
    """

    kinds: tuple[str, ...]
    apply: Callable[[Configs, list[Any], list[Any], Array], tuple[Array, list[Any]]]
    admits: Callable[[Configs], bool] = lambda configs: True
    train_only: bool = False


def _affine_batch_norm_relu(configs, params, state, x):
    norm = params[1] or NO_NORM_PARAMS
    y, batch = layers.affine_batch_norm_relu((params[0], norm), x, configs[1]["eps"])
    return y, [(), running_statistics(state[1], batch, configs[1]["momentum"]), ()]


def _conv_relu_pool(configs, params, state, x):
    return layers.conv_relu_pool(params[0], x, **configs[0]), state


def _conv_relu(configs, params, state, x):
    return layers.conv_relu(params[0], x, **configs[0]), state


def _affine_relu(configs, params, state, x):
    del configs
    return layers.affine_relu(params[0], x), state


def _pools_tiles(configs):
    pool = configs[2]
    usual = {"window": (2, 2), "stride": (2, 2), "ceil_mode": False, "dilation": (1, 1)}
    return pool.items() >= usual.items() and pool["padding"] in ("VALID", 0, ((0, 0), (0, 0)))


# The first that fits wins, so the longer ones stand first.
FUSIONS = (
    Fusion(("affine", "batch_norm", "relu"), _affine_batch_norm_relu, train_only=True),
    Fusion(("conv", "relu", "max_pool"), _conv_relu_pool, _pools_tiles),
    Fusion(("conv", "relu"), _conv_relu),
    Fusion(("affine", "relu"), _affine_relu),
)


class Stage(NamedTuple):
    """One block of a `serial`, or neighbours that a fused rule runs as one."""

    position: int
    names: tuple[str, ...]
    blocks: tuple[Net, ...]
    fusion: Fusion | None

    def run(
        self, params: Any, state: Any, x: Any, *, train: bool, key: Any
    ) -> tuple[Array, dict[str, Any]]:
        """Applies the blocks to x; `params` and `state` are those of the whole `serial`."""
        p = [child(params, name) for name in self.names]
        s = [child(state, name) for name in self.names]
        title = " + ".join(self.names)
        with within(f"{title} of nets.serial, applied to an array of shape {jnp.shape(x)}"):
            if self.fusion is not None:
                configs = [dict(block.config) for block in self.blocks]
                x, s = self.fusion.apply(configs, p, s, x)
            else:
                own = None if key is None else jax.random.fold_in(key, self.position)
                x, s[0] = self.blocks[0].apply(p[0], s[0], x, train=train, key=own)
        return x, without_empty(dict(zip(self.names, s, strict=True)))


def stages(
    names: Sequence[str], blocks: Sequence[Net], *, train: bool, fuse: bool
) -> tuple[Stage, ...]:
    """Cuts the blocks of a `serial` into stages, each as long as a fused rule allows."""
    cut: list[Stage] = []
    start = 0
    while start < len(blocks):
        fusion = next((f for f in FUSIONS if fuse and _fits(f, blocks[start:], train)), None)
        stop = start + (1 if fusion is None else len(fusion.kinds))
        cut.append(Stage(start, tuple(names[start:stop]), tuple(blocks[start:stop]), fusion))
        start = stop
    return tuple(cut)


def _fits(fusion: Fusion, blocks: Sequence[Net], train: bool) -> bool:
    run = blocks[: len(fusion.kinds)]
    return (
        tuple(block.kind for block in run) == fusion.kinds
        and (train or not fusion.train_only)
        and fusion.admits([dict(block.config) for block in run])
    )


def child(tree: Any, name: str) -> Any:
    """The part of params or state that belongs to `name`: () where it has none."""
    return dict(tree).get(name, ())


def without_empty(tree: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what holds no array: blocks without parameters or without state."""
    return {name: value for name, value in tree.items() if jax.tree.leaves(value)}


@contextmanager
def within(where: str) -> Iterator[None]:
    """Notes on an error where in the net it came from."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in {where}")
        raise
